//! The CA seam: ACME ([RFC 8555](https://www.rfc-editor.org/rfc/rfc8555)) with renewal information
//! ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)), profiles, external account binding and alternate chains.
//!
//! [`AcmeClient`] is a CA, [`Session`] an account there. What they return has every fact that a reconciler needs: URLs
//! to go on with after a crash, expiry dates, what the server asks to wait, and an [`AcmeError`] that says what to do
//! next.
//!
//! # Who does what
//!
//! instant-acme signs and sends newOrder, the reading of orders, and finalize. It runs over `adapter`, our own HTTP
//! client behind its trait, which keeps what the library drops: `Location` of an order whose body does not parse or does
//! not echo `replaces`, `Retry-After` of 429 and 503, and what a proxy's HTML says. So the library's result is only ever
//! half of the answer; the other half is read from the response that the adapter observed.
//!
//! `jws` signs what the library cannot do, or not by URL alone:
//!
//! | request | why not by the library |
//! |---|---|
//! | newAccount | it takes contacts and an external account binding only with a key that it makes itself, and our key is sealed in state before the account exists |
//! | `onlyReturnExisting` | it takes a missing account for an error like any other |
//! | authorizations | it drops `expires`, and wants the order for each |
//! | answers to challenges | it has no way to answer a challenge by its URL, as after a crash |
//! | certificates | it has no alternate chains |
//! | renewal information | it needs an account, and an answer without `Retry-After` hides what the server says |
//!
//! Its polling is not used at all: `poll_ready` never ends for an order that is valid already. Both ways share
//! `transport`: nonces from every answer, the limit of requests in flight, what is repeated, and the rule that no
//! request leaves the CA's origin.

mod account_key;
mod adapter;
mod certificate_key;
mod chain;
mod chains;
mod client;
mod directory;
mod eab;
mod error;
mod jws;
mod nonce;
mod order;
mod origin;
mod problem;
mod session;
mod silence;
mod transport;
mod wait;

pub use account_key::AccountKey;
pub use certificate_key::CertificateKey;
pub use chain::{ChainError, CheckedChain, check_chain};
pub use chains::Chain;
pub use client::{AcmeClient, AcmeSettings, RenewalInfo};
pub use directory::Directory;
pub use eab::EabCredential;
pub use error::AcmeError;
pub use order::{Authorization, AuthorizationStatus, Dns01, Order, OrderStatus};
pub use problem::{Problem, Subproblem};
pub use session::Session;
