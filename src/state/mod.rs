//! What certplan remembers between runs: small objects on a store, each written by compare-and-swap.
//!
//! - [`Store`] is the contract of a place for objects; [`LocalStore`] keeps them in a folder.
//! - [`State`] knows the objects: certificates, accounts, hand-offs, what providers remember. What it reads is
//!   judged like input, and what is damaged, foreign or too new halts: it is never taken for new.
//! - [`Leases`] keep two runs from doing the same work. They save work; the compare-and-swap gives the safety.
//! - [`Sealer`] and [`Identities`] are the only way that a private key gets into an object or out of it.

mod clock;
mod envelope;
mod error;
mod holder;
mod identity;
mod key;
mod lease;
mod lease_object;
mod local;
mod object;
mod records;
mod seal;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;
mod validate;

pub use clock::{BootClock, Clock};
pub use error::StateError;
pub use holder::Holder;
pub use identity::{Identities, IdentityFile, generate_identity};
pub use key::{KeyError, ObjectKey};
pub use lease::{Lease, LeaseError, Leases};
pub use lease_object::{HeldLease, LeaseKey};
pub use local::{LocalStore, Warning};
pub use object::{Stored, Writer};
pub use records::{ProviderMemory, Revise, State};
pub use seal::{Place, SealError, Sealer};
pub use snapshot::{Reading, Snapshot, Usage};
pub use store::{Expected, MAX_OBJECT, Store, StoreError, Version, Versioned};
