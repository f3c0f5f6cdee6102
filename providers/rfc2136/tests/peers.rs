//! The provider against BIND, Knot and PowerDNS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::BuildContext;
use certplan_provider::Context;
use certplan_provider::DnsProvider;
use certplan_provider::Fqdn;
use certplan_provider::ProviderErrorKind;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use certplan_provider::Unresolved;
use certplan_provider::Zone;
use certplan_provider::conformance::dns;
use certplan_provider::conformance::dns::Harness;
use certplan_rfc2136::FACTORY;
use certplan_test_support::Bind;
use certplan_test_support::Knot;
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use certplan_test_support::add_txt;
use certplan_test_support::txt;
use serde_json::json;

#[derive(Debug)]
struct OneSecret(String);

impl SecretResolver for OneSecret {
    fn resolve(&self, _reference: &SecretRef) -> Result<Secret, Unresolved> {
        Ok(Secret::new(self.0.clone()))
    }
}

fn provider(server: &str, key: &TsigKey) -> Arc<dyn DnsProvider> {
    let block = json!({
        "server": server,
        "tsig": { "name": key.name, "algorithm": key.algorithm, "secret": { "env": "TSIG_SECRET" } },
    });
    (FACTORY.check)(&block).unwrap();
    let secrets = Arc::new(OneSecret(key.secret.clone()));
    (FACTORY.build)(&block, &BuildContext::new(secrets, ".".into(), "test".to_owned())).unwrap()
}

fn at(port: u16, key: &TsigKey) -> Arc<dyn DnsProvider> {
    provider(&format!("127.0.0.1:{port}"), key)
}

fn zones() -> Vec<ZoneFile> {
    vec![ZoneFile::new("example.test"), ZoneFile::new("a.b.example.test")]
}

fn fqdn(name: &str) -> Fqdn {
    Fqdn::new(name).unwrap()
}

fn zone() -> Zone {
    Zone { id: "example.test".to_owned(), name: fqdn("example.test") }
}

fn context() -> Context {
    Context::new(Default::default(), Default::default()).within(Duration::from_secs(30))
}

fn addition(name: &str, value: &str) -> TxtChange {
    let additions = vec![TxtRecord { name: fqdn(name), value: value.to_owned() }];
    TxtChange { additions, ttl: Duration::from_secs(60), ..TxtChange::default() }
}

struct Peer {
    port: u16,
    key: TsigKey,
}

#[async_trait]
impl Harness for Peer {
    fn provider(&self) -> Arc<dyn DnsProvider> {
        at(self.port, &self.key)
    }

    fn outer(&self) -> Fqdn {
        fqdn("example.test")
    }

    fn inner(&self) -> Fqdn {
        fqdn("a.b.example.test")
    }

    fn without_access(&self) -> Arc<dyn DnsProvider> {
        at(
            self.port,
            &TsigKey {
                secret: "d3Jvbmcgc2VjcmV0LCBhbmQgbG9uZyBlbm91Z2ggZm9yIGFsbA==".to_owned(),
                ..self.key.clone()
            },
        )
    }

    async fn look(&self, name: &Fqdn) -> Vec<String> {
        txt(self.port, name.as_str())
    }

    async fn plant(&self, name: &str, value: &str) {
        add_txt(self.port, &self.key, "example.test", name, value);
    }
}

async fn conforms_with(algorithm: &str, start: impl Fn(&TsigKey) -> Option<(u16, Box<dyn Send>)>) {
    let key = TsigKey::new(algorithm);
    let Some((port, _server)) = start(&key) else { return };
    dns::all(&Peer { port, key }).await;
}

fn bind(key: &TsigKey) -> Option<(u16, Box<dyn Send>)> {
    Bind::start(&zones(), key).map(|server| (server.port(), Box::new(server) as _))
}

fn knot(key: &TsigKey) -> Option<(u16, Box<dyn Send>)> {
    Knot::start(&zones(), key).map(|server| (server.port(), Box::new(server) as _))
}

fn powerdns(key: &TsigKey) -> Option<(u16, Box<dyn Send>)> {
    PowerDns::start(&zones(), key).map(|server| (server.port(), Box::new(server) as _))
}

#[tokio::test]
async fn conforms_on_bind_with_sha256() {
    conforms_with("hmac-sha256", bind).await;
}

#[tokio::test]
async fn conforms_on_bind_with_sha384() {
    conforms_with("hmac-sha384", bind).await;
}

#[tokio::test]
async fn conforms_on_bind_with_sha512() {
    conforms_with("hmac-sha512", bind).await;
}

#[tokio::test]
async fn conforms_on_knot_with_sha256() {
    conforms_with("hmac-sha256", knot).await;
}

#[tokio::test]
async fn conforms_on_knot_with_sha384() {
    conforms_with("hmac-sha384", knot).await;
}

#[tokio::test]
async fn conforms_on_knot_with_sha512() {
    conforms_with("hmac-sha512", knot).await;
}

#[tokio::test]
async fn conforms_on_powerdns_with_sha256() {
    conforms_with("hmac-sha256", powerdns).await;
}
