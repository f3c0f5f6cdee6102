//! DNS-01: where a challenge's value goes, how it gets there with few calls, and when the CA can see it.
//!
//! - [`locate()`] follows `_acme-challenge` CNAMEs and chooses the provider and the zone.
//! - [`ZoneWriters`] gather the values of many certificates into few changes, one writer per zone.
//! - [`Poller`] waits until every authoritative server of the zone answers with the values.
//! - [`ours`] decides what clean-up may remove.
//!
//! All questions go through [`Client`], which asks one server at a time and knows no cache: the host's resolver is
//! asked where a zone's servers are, never whether a value is there.

mod authority;
mod client;
mod locate;
mod lookup;
mod ownership;
mod poller;
mod providers;
mod resolv_conf;
mod sparing;
mod watch;
mod writer;
mod writers;

#[cfg(test)]
mod testing;

pub use authority::{Authorities, NameServer, ServersError, Surveyor, ZoneServers};
pub use client::{Answer, Client, Exchange, Query, QueryError, Transport};
pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::RecordType;
pub use locate::{Candidate, LocateError, Located, Note, locate};
pub use lookup::{Alias, Lookup, LookupError, Path, Resolver};
pub use ownership::{Claim, NotOurs, is_challenge_value, ours};
pub use poller::{Lacking, Poller, PollerOptions, PropagationError, Seen, Warning};
pub use providers::{ConfiguredDns, Providers};
pub use resolv_conf::name_servers;
pub use sparing::Sparing;
pub use watch::{Repeat, Unwatched, WriteWatch};
pub use writer::{Action, Pacing, WriteError};
pub use writers::{Expectation, NoGuard, ZoneGuard, ZoneWriters};
