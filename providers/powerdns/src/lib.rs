//! DNS zones on a PowerDNS Authoritative Server, through its
//! [HTTP API](https://doc.powerdns.com/authoritative/http-api/).
//!
//! The API writes whole RRsets: a change reads the zone, computes the RRsets that it touches, writes all of them in one
//! transaction and reads again, until everything is as it should be. What others have there survives as it is written:
//! other values in their own notation, disabled records, comments and the time to live. Servers from 4.9.12 and 5.0.2 on
//! add and remove single records themselves (`EXTEND`, `PRUNE`), which leaves others no moment to get lost in; as they
//! drop disabled records of the RRset on that way (they do not see them), such an RRset is written whole.
//!
//! The zone is read whole, for a read that is restricted to a name leaves its disabled records out.
//!
//! The server knows one API key for everything. Whoever wants to give certplan the TXT records of one zone only uses
//! `rfc2136`.

mod api;
mod config;
mod content;
mod edit;
mod provider;
mod zones;

use std::sync::Arc;

use certplan_provider::Complaint;
use certplan_provider::DnsFactory;
use certplan_provider::schema_of;

pub use config::PowerDnsConfig;
pub use provider::PowerDns;

/// The kind `powerdns`.
pub const FACTORY: DnsFactory = DnsFactory {
    kind: "powerdns",
    schema: schema_of::<PowerDnsConfig>,
    check: |block| Complaint::read::<PowerDnsConfig>(block)?.check().map(|_| ()),
    build: |block, context| {
        let config = Complaint::read::<PowerDnsConfig>(block)?;
        Ok(Arc::new(PowerDns::new(&config, context)?))
    },
};
