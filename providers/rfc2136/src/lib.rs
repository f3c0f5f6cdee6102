//! DNS zones on any server that takes dynamic updates: BIND, Knot, PowerDNS, Windows, ...
//!
//! Updates ([RFC 2136](https://www.rfc-editor.org/rfc/rfc2136)) and questions go over TCP, signed with TSIG
//! ([RFC 8945](https://www.rfc-editor.org/rfc/rfc8945)), and no answer that is not signed in turn is believed to be a
//! success. Each value is added and deleted by itself (sections 2.5.1 and 2.5.4), so that two writers cannot lose each
//! other's, and many go into one message, which the server applies as a whole or not at all.
//!
//! A server gives all records of one name and type the same time to live (RFC 2181, section 5.2): BIND and Knot take
//! over the one of the latest addition.

mod config;
mod connection;
mod message;
mod provider;
mod tsig;

use std::sync::Arc;

use certplan_provider::Complaint;
use certplan_provider::DnsFactory;
use certplan_provider::schema_of;

pub use config::{Algorithm, Rfc2136Config, TsigConfig};
pub use provider::Rfc2136;

/// The kind `rfc2136`.
pub const FACTORY: DnsFactory = DnsFactory {
    kind: "rfc2136",
    schema: schema_of::<Rfc2136Config>,
    check: |block| Complaint::read::<Rfc2136Config>(block)?.check().map(|_| ()),
    build: |block, context| {
        let config = Complaint::read::<Rfc2136Config>(block)?;
        Ok(Arc::new(Rfc2136::new(&config, context.secrets.clone())?))
    },
};
