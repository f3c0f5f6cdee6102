//! The provider against PowerDNS, and against a fake of the releases that Debian does not have yet.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
use certplan_http::ClientSettings;
use certplan_http::HttpClient;
use certplan_http::Request;
use certplan_http::Response;
use certplan_http::RetryClass;
use certplan_powerdns::FACTORY;
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
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use certplan_test_support::add_txt;
use certplan_test_support::free_port;
use http::HeaderName;
use http::Method;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;
use url::Url;

use crate::fake::Fake;

struct OneSecret(String);

impl fmt::Debug for OneSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneSecret")
    }
}

impl SecretResolver for OneSecret {
    fn resolve(&self, _reference: &SecretRef) -> Result<Secret, Unresolved> {
        Ok(Secret::new(self.0.clone()))
    }
}

fn provider(url: &str, key: &str) -> Arc<dyn DnsProvider> {
    let block = json!({ "url": url, "api_key": { "env": "PDNS_API_KEY" } });
    (FACTORY.check)(&block).unwrap();
    let secrets = Arc::new(OneSecret(key.to_owned()));
    (FACTORY.build)(&block, &BuildContext::new(secrets, ".".into(), "test".to_owned())).unwrap()
}

fn zones() -> Vec<ZoneFile> {
    vec![ZoneFile::new("example.test").with("alias 60 IN CNAME elsewhere"), ZoneFile::new("a.b.example.test")]
}

fn fqdn(name: &str) -> Fqdn {
    Fqdn::new(name).unwrap()
}

fn zone() -> Zone {
    Zone { id: "example.test.".to_owned(), name: fqdn("example.test") }
}

fn context() -> Context {
    Context::new(Default::default(), Default::default()).within(Duration::from_secs(30))
}

fn records<'a>(records: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<TxtRecord> {
    records.into_iter().map(|(name, value)| TxtRecord { name: fqdn(name), value: value.to_owned() }).collect()
}

fn addition(name: &str, value: &str) -> TxtChange {
    let additions = records([(name, value)]);
    TxtChange { additions, ttl: Duration::from_secs(60), ..TxtChange::default() }
}

fn removal(name: &str, value: &str) -> TxtChange {
    TxtChange { removals: records([(name, value)]), ..TxtChange::default() }
}

struct Peer {
    server: PowerDns,
    key: TsigKey,
}

impl Peer {
    fn start() -> Option<Self> {
        let key = TsigKey::new("hmac-sha256");
        PowerDns::start(&zones(), &key).map(|server| Self { server, key })
    }

    /// Talks to the API as somebody else would.
    async fn api(&self, method: Method, path: &str, body: &Value) -> Response {
        let url = format!("{}/api/v1/servers/localhost{path}", self.server.api_url());
        let key = Secret::new(self.server.api_key().to_owned());
        let request = Request::new(method, Url::parse(&url).unwrap());
        let request = request.secret_header(HeaderName::from_static("x-api-key"), &key).unwrap();
        let request = if body.is_null() { request } else { request.json(body).unwrap() };
        let client = HttpClient::new(&ClientSettings::default()).unwrap();
        client.send(&context(), &request, RetryClass::Never).await.unwrap().check("asking").unwrap()
    }

    /// The TXT RRset at a name as the API gives it.
    async fn rrset(&self, name: &str) -> Value {
        let zone: Value = self.api(Method::GET, "/zones/example.test.", &Value::Null).await.json().unwrap();
        let sets = zone["rrsets"].as_array().unwrap();
        sets.iter().find(|set| set["name"] == name && set["type"] == "TXT").cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Harness for Peer {
    fn provider(&self) -> Arc<dyn DnsProvider> {
        provider(&self.server.api_url(), self.server.api_key())
    }

    fn outer(&self) -> Fqdn {
        fqdn("example.test")
    }

    fn inner(&self) -> Fqdn {
        fqdn("a.b.example.test")
    }

    fn without_access(&self) -> Arc<dyn DnsProvider> {
        provider(&self.server.api_url(), "another-key")
    }

    async fn look(&self, name: &Fqdn) -> Vec<String> {
        self.server.txt(name.as_str())
    }

    async fn plant(&self, name: &str, value: &str) {
        add_txt(self.server.port(), &self.key, "example.test", name, value);
    }
}

#[tokio::test]
async fn conforms_on_powerdns() {
    let Some(peer) = Peer::start() else { return };
    dns::all(&peer).await;
}

#[tokio::test]
async fn what_others_have_in_an_rrset_survives() {
    let Some(peer) = Peer::start() else { return };
    let foreign = json!({
        "name": "x.example.test.", "type": "TXT", "ttl": 3600, "changetype": "REPLACE",
        "records": [
            { "content": r#""two " "strings with \"quotes\" and \195\188""#, "disabled": false },
            { "content": r#""kept for later""#, "disabled": true },
        ],
        "comments": [{ "content": "do not touch", "account": "ops" }],
    });
    peer.api(Method::PATCH, "/zones/example.test.", &json!({ "rrsets": [foreign] })).await;
    let before = peer.rrset("x.example.test.").await;
    let provider = peer.provider();
    provider.change(&context(), &zone(), &addition("x.example.test", "ours")).await.unwrap();
    let during = peer.rrset("x.example.test.").await;
    assert_eq!(during["ttl"], 3600, "an RRset has one time to live, and theirs stays");
    assert_eq!(during["comments"], before["comments"]);
    assert_eq!(during["records"].as_array().unwrap().len(), 3);
    provider.change(&context(), &zone(), &removal("x.example.test", "ours")).await.unwrap();
    assert_eq!(peer.rrset("x.example.test.").await, before);
    // A value that is kept for later is not the value that a removal means.
    provider.change(&context(), &zone(), &removal("x.example.test", "kept for later")).await.unwrap();
    assert_eq!(peer.rrset("x.example.test.").await, before);
}

#[tokio::test]
async fn comments_outlive_our_only_value() {
    let Some(peer) = Peer::start() else { return };
    let provider = peer.provider();
    provider.change(&context(), &zone(), &addition("x.example.test", "ours")).await.unwrap();
    let comment = json!({
        "name": "x.example.test.", "type": "TXT", "changetype": "REPLACE",
        "comments": [{ "content": "why is this here?", "account": "ops" }],
    });
    peer.api(Method::PATCH, "/zones/example.test.", &json!({ "rrsets": [comment] })).await;
    provider.change(&context(), &zone(), &removal("x.example.test", "ours")).await.unwrap();
    let left = peer.rrset("x.example.test.").await;
    assert_eq!(left["records"], json!([]));
    assert_eq!(left["comments"][0]["content"], "why is this here?");
}

#[tokio::test]
async fn five_hundred_names_cost_one_write_to_add_and_one_to_remove() {
    let Some(peer) = Peer::start() else { return };
    let provider = peer.provider();
    let values: Vec<TxtRecord> = (0..500)
        .map(|index| TxtRecord {
            name: fqdn(&format!("_acme-challenge.host-{index}.example.test")),
            value: "LFZjQ0aGzmwhTmkwtTpHPuw7XEsxNbUTJrnQWDkvPVs".to_owned(),
        })
        .collect();
    let ttl = Duration::from_secs(60);
    let change = TxtChange { additions: values.clone(), ttl, ..TxtChange::default() };
    provider.change(&context(), &zone(), &change).await.unwrap();
    assert_eq!(peer.server.patches(), 1);
    provider.change(&context(), &zone(), &change).await.unwrap();
    assert_eq!(peer.server.patches(), 1, "what is there is not written again");
    let change = TxtChange { removals: values, ttl, ..TxtChange::default() };
    provider.change(&context(), &zone(), &change).await.unwrap();
    assert_eq!(peer.server.patches(), 2);
}

#[tokio::test]
async fn a_name_that_is_an_alias_is_refused_and_nothing_is_written() {
    let Some(peer) = Peer::start() else { return };
    let change = TxtChange {
        additions: records([("alias.example.test", "ours"), ("beside.example.test", "ours")]),
        ..TxtChange::default()
    };
    let error = peer.provider().change(&context(), &zone(), &change).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Invalid);
    assert!(error.to_string().contains("`alias.example.test` is an alias"), "{error}");
    assert!(peer.server.txt("beside.example.test").is_empty());
    assert_eq!(peer.server.patches(), 0);
}

#[tokio::test]
async fn copies_of_another_primary_are_not_offered() {
    let Some(peer) = Peer::start() else { return };
    let copy = json!({ "name": "copy.example.test.", "kind": "Slave", "masters": ["127.0.0.1"] });
    peer.api(Method::POST, "/zones", &copy).await;
    let zones = peer.provider().zones_for(&context(), &fqdn("x.copy.example.test")).await.unwrap();
    assert_eq!(zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>(), ["example.test"]);
    assert_eq!(zones[0].id, "example.test.");
}

#[tokio::test]
async fn the_zones_above_a_name_are_asked_for_at_once_and_the_closest_comes_first() {
    let fake = Fake::start("5.0.2").await;
    fake.with(|state| {
        state.zones = vec!["shop.example.test.".to_owned(), "elsewhere.test.".to_owned()];
        state.gate = 4;
    });
    let provider = provider(fake.url(), "key");
    let context = context().within(Duration::from_secs(20));
    let zones = provider.zones_for(&context, &fqdn("www.shop.example.test")).await.unwrap();
    let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(names, ["shop.example.test", "example.test"]);
    let mut asked = fake.with(|state| std::mem::take(&mut state.questions));
    asked.sort();
    assert_eq!(asked, ["example.test.", "shop.example.test.", "test.", "www.shop.example.test."]);
    fake.with(|state| state.gate = 0);
    let zones = provider.zones_for(&context, &fqdn("shop.example.test")).await.unwrap();
    assert_eq!(zones[0].name, fqdn("shop.example.test"));
    assert_eq!(fake.with(|state| state.questions.len()), 0, "what was answered is remembered");
}

#[tokio::test]
async fn five_hundred_names_cost_few_questions_for_zones() {
    let fake = Fake::start("5.0.2").await;
    fake.with(|state| state.zones = vec!["host-77.example.test.".to_owned()]);
    let provider = provider(fake.url(), "key");
    let mut tasks = JoinSet::new();
    for index in 0..500 {
        let provider = Arc::clone(&provider);
        tasks.spawn(async move {
            let name = fqdn(&format!("_acme-challenge.host-{index}.example.test"));
            (index, provider.zones_for(&context(), &name).await.unwrap())
        });
    }
    for (index, zones) in tasks.join_all().await {
        let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
        match index {
            77 => assert_eq!(names, ["host-77.example.test", "example.test"]),
            _ => assert_eq!(names, ["example.test"], "host-{index}"),
        }
    }
    let asked = fake.with(|state| state.questions.len());
    assert!(asked <= 40, "{asked} questions");
}

#[tokio::test]
async fn a_server_that_is_down_is_transient_and_one_that_is_no_api_is_explained() {
    let down = provider(&format!("http://127.0.0.1:{}", free_port()), "key");
    let error = down.zones_for(&context(), &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
    let Some(peer) = Peer::start() else { return };
    let wrong = provider(&format!("{}/elsewhere", peer.server.api_url()), peer.server.api_key());
    let error = wrong.zones_for(&context(), &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("api=yes"), "{error}");
}

#[tokio::test]
async fn the_api_key_is_in_no_error() {
    let Some(peer) = Peer::start() else { return };
    let refused = provider(&peer.server.api_url(), "t0ps3cret");
    let error = refused.txt(&context(), &zone(), &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Auth);
    assert!(!format!("{error} {error:?} {refused:?}").contains("t0ps3cret"));
}

#[tokio::test]
async fn newer_servers_add_and_remove_single_records() {
    let fake = Fake::start("5.0.2").await;
    let set =
        json!({ "ttl": 3600, "records": [{ "content": "foreign", "disabled": false }], "comments": [] });
    fake.with(|state| state.sets.insert("x.example.test.".to_owned(), set.clone()));
    let provider = provider(fake.url(), "key");
    let change = TxtChange {
        additions: records([("x.example.test", "one"), ("x.example.test", "two"), ("y.example.test", "one")]),
        ttl: Duration::from_secs(60),
        ..TxtChange::default()
    };
    provider.change(&context(), &zone(), &change).await.unwrap();
    assert_eq!(fake.change_types(), [["EXTEND"; 3]]);
    let read = provider.txt(&context(), &zone(), &fqdn("x.example.test")).await.unwrap();
    assert_eq!(read, ["foreign", "one", "two"]);
    let change = TxtChange { removals: change.additions, ..TxtChange::default() };
    provider.change(&context(), &zone(), &change).await.unwrap();
    assert_eq!(fake.change_types()[1..], [["PRUNE"; 3]]);
    assert_eq!(fake.with(|state| state.sets.clone()), [("x.example.test.".to_owned(), set)].into());
}

#[tokio::test]
async fn newer_servers_do_not_drop_what_is_disabled_because_of_us() {
    let fake = Fake::start("4.9.12").await;
    let disabled = json!({ "content": "\"later\"", "disabled": true });
    let set = json!({ "ttl": 60, "records": [disabled], "comments": [] });
    fake.with(|state| state.sets.insert("x.example.test.".to_owned(), set.clone()));
    let provider = provider(fake.url(), "key");
    provider.change(&context(), &zone(), &addition("x.example.test", "ours")).await.unwrap();
    provider.change(&context(), &zone(), &removal("x.example.test", "ours")).await.unwrap();
    assert_eq!(fake.change_types(), [["REPLACE"], ["REPLACE"]]);
    assert_eq!(fake.with(|state| state.sets["x.example.test."].clone()), set);
}

#[tokio::test]
async fn a_server_that_refuses_single_records_gets_whole_ones() {
    let fake = Fake::start("5.0.2").await;
    fake.with(|state| state.refuses_single_records = true);
    let provider = provider(fake.url(), "key");
    provider.change(&context(), &zone(), &addition("x.example.test", "ours")).await.unwrap();
    provider.change(&context(), &zone(), &addition("y.example.test", "ours")).await.unwrap();
    assert_eq!(fake.change_types(), [["EXTEND"], ["REPLACE"], ["REPLACE"]]);
}

#[tokio::test]
async fn a_change_that_somebody_undoes_is_made_again_and_then_a_conflict() {
    let fake = Fake::start("4.7.3").await;
    let provider = provider(fake.url(), "key");
    fake.with(|state| state.undo = 2);
    provider.change(&context(), &zone(), &addition("x.example.test", "ours")).await.unwrap();
    assert_eq!(fake.change_types().len(), 3);
    fake.with(|state| state.undo = 100);
    let error = provider.change(&context(), &zone(), &addition("y.example.test", "ours")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Conflict, "{error}");
    assert_eq!(fake.change_types().len(), 7);
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_no_more_than_the_deadline() {
    // Connections wait in the queue of a listener that nobody empties.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let provider = provider(&format!("http://{}", listener.local_addr().unwrap()), "key");
    let context = context().within(Duration::from_millis(200));
    let began = Instant::now();
    let change = addition("x.example.test", "ours");
    let error = provider.change(&context, &zone(), &change).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}
