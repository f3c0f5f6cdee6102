//! DNS servers and a DNS provider for the tests of this module.

mod provider;
mod script;
mod server;

use std::sync::Arc;
use std::time::Duration;

use certplan_provider::Context;
use certplan_provider::TxtRecord;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub(super) use self::provider::MemoryDns;
pub(super) use self::script::FakeNet;
pub(super) use self::server::DnsServer;
use super::client::Client;
use super::providers::ConfiguredDns;
use super::providers::Providers;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Propagation;

pub(super) fn name(text: &str) -> Fqdn {
    Fqdn::new(text).unwrap()
}

pub(super) fn word(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn txt(owner: &str, value: &str) -> TxtRecord {
    TxtRecord { name: name(owner), value: value.to_owned() }
}

pub(super) fn context() -> Context {
    Context::new(Timestamp::UNIX_EPOCH, CancellationToken::new())
}

/// One provider with the name `dns`.
pub(super) fn one_provider(provider: &Arc<MemoryDns>, zones: Vec<Fqdn>) -> Providers {
    [(word("dns"), configured(provider, zones, Propagation::Authoritative))].into()
}

pub(super) fn configured(
    provider: &Arc<MemoryDns>,
    zones: Vec<Fqdn>,
    propagation: Propagation,
) -> ConfiguredDns {
    ConfiguredDns::new(Arc::clone(provider) as _, zones, propagation).allow_private_servers(true)
}

/// A client that does not wait long for servers on loopback.
pub(super) fn quick_client() -> Arc<Client> {
    Arc::new(Client { timeout: Duration::from_millis(300), attempts: 2 })
}
