//! The contract between certplan and what it drives: DNS providers and deploy targets.
//!
//! A provider is one crate that implements [`DnsProvider`] or [`DeployTarget`] and exports a [`DnsFactory`] or
//! [`TargetFactory`]. The traits are small, object-safe and asynchronous; their documentation is the contract:
//! what is idempotent, what "absent" means, what is atomic. With the feature `conformance`, a module of that name
//! exports the tests that every provider runs.

mod bundle;
#[cfg(feature = "conformance")]
pub mod conformance;
mod context;
mod dns;
mod error;
mod factory;
mod fingerprint;
mod fqdn;
mod host;
mod key_type;
mod patience;
mod secret;
mod target;

pub use bundle::{Bundle, PrivateKey};
pub use context::Context;
pub use dns::{ChangeRef, ChangeStatus, DnsLimits, DnsProvider, TxtChange, TxtRecord, Zone};
pub use error::{ProviderError, ProviderErrorKind, message_of};
pub use factory::{BuildContext, Complaint, DnsFactory, TargetFactory, schema_of};
pub use fingerprint::Fingerprint;
pub use fqdn::{Fqdn, FqdnError};
pub use host::{forbidden_host, is_link_local};
pub use key_type::KeyType;
pub use patience::{Once, Patience};
pub use secret::{Secret, SecretRef, SecretResolver, Unresolved};
pub use target::{Capabilities, DeployTarget, Deployed, KeyOrigin, ReadBack, Receipt, Slot, Update};
