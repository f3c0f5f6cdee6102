//! The provider against BIND, Knot and PowerDNS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::fmt;
use std::net::TcpStream;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

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
use certplan_test_support::free_port;
use certplan_test_support::txt;
use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::rdata::tsig::make_tsig_record;
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake::Act;
use crate::fake::response;
use crate::fake::signed;

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
    vec![
        ZoneFile::new("example.test")
            .with("alias 60 IN CNAME elsewhere")
            .with("cut 60 IN NS ns.elsewhere.test."),
        ZoneFile::new("a.b.example.test"),
        ZoneFile::new("frozen.test").read_only(),
    ]
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

/// The servers, with what each calls itself.
fn servers(key: &TsigKey) -> Vec<(&'static str, u16, Box<dyn Send>)> {
    let started = [("BIND", bind(key)), ("Knot", knot(key)), ("PowerDNS", powerdns(key))];
    started
        .into_iter()
        .filter_map(|(name, server)| server.map(|(port, server)| (name, port, server)))
        .collect()
}

#[tokio::test]
async fn a_wrong_key_is_told_from_a_wrong_secret() {
    let key = TsigKey::new("hmac-sha256");
    let other_secret = "d3Jvbmcgc2VjcmV0LCBhbmQgbG9uZyBlbm91Z2ggZm9yIGFsbA==";
    for (server, port, _running) in servers(&key) {
        for (wrong, sign) in [
            (TsigKey { name: "other-key".to_owned(), ..key.clone() }, "BADKEY"),
            (TsigKey { algorithm: "hmac-sha512".to_owned(), ..key.clone() }, "BADKEY"),
            (TsigKey { secret: other_secret.to_owned(), ..key.clone() }, "BADSIG"),
        ] {
            let provider = at(port, &wrong);
            for error in [
                provider.change(&context(), &zone(), &addition("x.example.test", "x")).await.unwrap_err(),
                provider.txt(&context(), &zone(), &fqdn("x.example.test")).await.unwrap_err(),
                provider.zones_for(&context(), &fqdn("x.example.test")).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), ProviderErrorKind::Auth, "{server}: {error}");
                // PowerDNS says no more than that it does not accept the signature.
                if server != "PowerDNS" {
                    assert!(error.to_string().contains(sign), "{server}: {error}");
                }
                assert!(!format!("{error} {error:?} {provider:?}").contains(&wrong.secret), "{server}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_without_permission_is_an_authentication_error() {
    let key = TsigKey::new("hmac-sha256");
    let frozen = Zone { id: "frozen.test".to_owned(), name: fqdn("frozen.test") };
    for (server, port, _running) in servers(&key) {
        let change = addition("x.frozen.test", "x");
        let error = at(port, &key).change(&context(), &frozen, &change).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Auth, "{server}: {error}");
        // Knot says of a key that no rule of the zone names that it does not know it.
        let words = if server == "Knot" { "does not allow it here" } else { "does not let the TSIG key" };
        assert!(error.to_string().contains(words), "{server}: {error}");
    }
}

#[tokio::test]
async fn names_below_a_delegation_have_no_zone_here_and_aliases_have() {
    let key = TsigKey::new("hmac-sha256");
    for (server, port, _running) in servers(&key) {
        let provider = at(port, &key);
        let below = provider.zones_for(&context(), &fqdn("x.cut.example.test")).await.unwrap();
        assert_eq!(below, [], "{server}: it belongs to another server");
        let alias = provider.zones_for(&context(), &fqdn("alias.example.test")).await.unwrap();
        assert_eq!(alias, [zone()], "{server}");
        let values = provider.txt(&context(), &zone(), &fqdn("alias.example.test")).await.unwrap();
        assert!(values.is_empty(), "{server}: what an alias leads to is not at its name");
    }
}

#[tokio::test]
async fn five_hundred_names_cost_one_update_to_add_and_one_to_remove() {
    let key = TsigKey::new("hmac-sha256");
    let values: Vec<TxtRecord> = (0..500)
        .map(|index| TxtRecord {
            name: fqdn(&format!("_acme-challenge.host-{index:03}.example.test")),
            value: "LFZjQ0aGzmwhTmkwtTpHPuw7XEsxNbUTJrnQWDkvPVs".to_owned(),
        })
        .collect();
    let ttl = Duration::from_secs(60);
    let add = TxtChange { additions: values.clone(), ttl, ..TxtChange::default() };
    let remove = TxtChange { removals: values, ttl, ..TxtChange::default() };
    let last = fqdn("_acme-challenge.host-499.example.test");
    if let Some(bind) = Bind::start(&zones(), &key) {
        let provider = at(bind.port(), &key);
        provider.change(&context(), &zone(), &add).await.unwrap();
        assert_eq!(bind.updates(), 1);
        assert_eq!(bind.txt(last.as_str()).len(), 1);
        provider.change(&context(), &zone(), &remove).await.unwrap();
        assert_eq!(bind.updates(), 2);
        assert!(bind.txt(last.as_str()).is_empty());
    }
    if let Some(knot) = Knot::start(&zones(), &key) {
        let provider = at(knot.port(), &key);
        provider.change(&context(), &zone(), &add).await.unwrap();
        assert_eq!(knot.updates(), 1);
        provider.change(&context(), &zone(), &remove).await.unwrap();
        assert_eq!(knot.updates(), 2);
    }
    if let Some(powerdns) = PowerDns::start(&zones(), &key) {
        let provider = at(powerdns.port(), &key);
        provider.change(&context(), &zone(), &add).await.unwrap();
        assert_eq!(powerdns.updates(), 1);
        provider.change(&context(), &zone(), &remove).await.unwrap();
        assert_eq!(powerdns.updates(), 2);
    }
}

#[tokio::test]
async fn a_change_too_large_for_one_message_is_split() {
    let key = TsigKey::new("hmac-sha256");
    let Some(bind) = Bind::start(&zones(), &key) else { return };
    let value = "x".repeat(255);
    let label = "y".repeat(60);
    let name = |index: usize| fqdn(&format!("{label}.{label}.{index:03}.example.test"));
    let additions = (0..500).map(|index| TxtRecord { name: name(index), value: value.clone() }).collect();
    let change = TxtChange { additions, ttl: Duration::from_secs(60), ..TxtChange::default() };
    at(bind.port(), &key).change(&context(), &zone(), &change).await.unwrap();
    // 500 records of about 400 octets are three times what one message holds; halving makes four of it.
    assert_eq!(bind.updates(), 4);
    for index in 0..500 {
        assert_eq!(bind.txt(name(index).as_str()), slice::from_ref(&value), "{index}");
    }
}

#[tokio::test]
async fn a_server_is_reached_by_ipv6_and_by_name() {
    let key = TsigKey::new("hmac-sha256");
    let Some(bind) = Bind::start(&zones(), &key) else { return };
    let mut servers = vec![format!("localhost:{}", bind.port())];
    if TcpStream::connect(("::1", bind.port())).is_ok() {
        servers.push(format!("[::1]:{}", bind.port()));
    } else {
        println!("SKIPPED: there is no IPv6 loopback");
    }
    for server in servers {
        let provider = provider(&server, &key);
        provider.change(&context(), &zone(), &addition("x.example.test", &server)).await.unwrap();
        assert!(bind.txt("x.example.test").contains(&server));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_transient() {
    let provider = at(free_port(), &TsigKey::new("hmac-sha256"));
    let error = provider.txt(&context(), &zone(), &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
    assert!(error.to_string().starts_with("cannot connect to the DNS server"), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_no_more_than_the_deadline() {
    let (port, counts) = fake::start(|_, _| Act::Silence).await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    let context = context().within(Duration::from_millis(200));
    let began = Instant::now();
    let error = provider.change(&context, &zone(), &addition("x.example.test", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
    assert!(began.elapsed() >= Duration::from_millis(200) && began.elapsed() < Duration::from_secs(3));
    assert_eq!(counts.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn cancellation_ends_a_question_and_not_an_update() {
    let (port, _) = fake::start(|_, _| Act::Silence).await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    let context = context().within(Duration::from_millis(600));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        context.cancel.cancel();
    };
    let began = Instant::now();
    let name = fqdn("x.example.test");
    let change = addition("x.example.test", "x");
    let zone = zone();
    let update = async {
        let error = provider.change(&context, &zone, &change).await.unwrap_err();
        (error.to_string(), began.elapsed())
    };
    let question = async {
        let error = provider.txt(&context, &zone, &name).await.unwrap_err();
        (error.to_string(), began.elapsed())
    };
    let ((update, waited), (question, ended), ()) = tokio::join!(update, question, stop);
    assert_eq!(question, "the run was cancelled");
    assert!(ended < waited, "{ended:?} {waited:?}");
    assert!(update.contains("did not give an answer"), "{update}");
    assert!(waited >= Duration::from_millis(500), "the effect in flight is waited for: {waited:?}");
}

#[tokio::test]
async fn a_server_that_never_accepts_costs_no_more_than_the_deadline() {
    // A listener whose queue nobody empties accepts in the kernel, and nothing reads what is sent.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let provider = at(listener.local_addr().unwrap().port(), &TsigKey::new("hmac-sha256"));
    let context = context().within(Duration::from_millis(200));
    let error = provider.zones_for(&context, &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
}

type Script = fn(&Message, &[u8]) -> Act;

/// What comes of a change when the server answers so.
async fn outcome(script: Script) -> (ProviderErrorKind, String) {
    let (port, _) = fake::start(script).await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    let context = context().within(Duration::from_secs(5));
    let result = provider.change(&context, &zone(), &addition("x.example.test", "x")).await;
    let error = result.expect_err("such an answer is not believed");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn an_answer_that_is_not_signed_as_it_should_be_is_not_believed() {
    fn other() -> TsigKey {
        let secret = "d3Jvbmcgc2VjcmV0LCBhbmQgbG9uZyBlbm91Z2ggZm9yIGFsbA==".to_owned();
        TsigKey { secret, ..TsigKey::new("hmac-sha256") }
    }
    let scripts: [(&str, Script); 5] = [
        ("no signature", |request, _| {
            Act::Answer(response(request, ResponseCode::NoError).to_vec().unwrap())
        }),
        ("another secret", |request, _| {
            Act::Answer(signed(request, response(request, ResponseCode::NoError), &other()))
        }),
        ("another key", |request, _| {
            let key = TsigKey { name: "another".to_owned(), ..TsigKey::new("hmac-sha256") };
            Act::Answer(signed(request, response(request, ResponseCode::NoError), &key))
        }),
        ("the request's own signature", |_, octets| {
            let mut reflected = octets.to_vec();
            reflected[2] |= 0x80;
            Act::Answer(reflected)
        }),
        ("a changed code", |request, _| {
            let refusal = response(request, ResponseCode::ServFail);
            let mut answer = signed(request, refusal, &TsigKey::new("hmac-sha256"));
            answer[3] &= 0xf0;
            Act::Answer(answer)
        }),
    ];
    for (what, script) in scripts {
        let (kind, message) = outcome(script).await;
        assert_eq!(kind, ProviderErrorKind::Auth, "{what}: {message}");
        assert!(message.contains("not believed"), "{what}: {message}");
    }
    // Of a question, that there is nothing must be signed too.
    let (port, _) =
        fake::start(|request, _| Act::Answer(response(request, ResponseCode::NXDomain).to_vec().unwrap()))
            .await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    let error = provider.txt(&context(), &zone(), &fqdn("x.example.test")).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Auth, "{error}");
}

#[tokio::test]
async fn garbage_is_transient() {
    let scripts: [(&str, Script); 9] = [
        ("no answer", |_, _| Act::Close),
        ("an empty message", |_, _| Act::Answer(Vec::new())),
        ("random octets", |_, _| Act::Answer((0..200).map(|index: u8| index.wrapping_mul(37)).collect())),
        ("half a length", |_, _| Act::Raw(vec![0])),
        ("half a message", |request, _| {
            let answer = response(request, ResponseCode::NoError).to_vec().unwrap();
            Act::Raw([&[0, 200], answer.as_slice()].concat())
        }),
        ("a header that promises too much", |request, _| {
            let mut answer = response(request, ResponseCode::NoError).to_vec().unwrap();
            answer[6..12].fill(0xff);
            Act::Answer(answer)
        }),
        ("another request's answer", |request, _| {
            let mut other = response(request, ResponseCode::NoError);
            other.metadata.id = request.id.wrapping_add(1);
            Act::Answer(other.to_vec().unwrap())
        }),
        ("a truncated answer", |request, _| {
            let mut truncated = response(request, ResponseCode::NoError);
            truncated.metadata.truncation = true;
            Act::Answer(truncated.to_vec().unwrap())
        }),
        ("a web server", |_, _| Act::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
    ];
    for (what, script) in scripts {
        let (kind, message) = outcome(script).await;
        assert_eq!(kind, ProviderErrorKind::Transient, "{what}: {message}");
    }
}

#[tokio::test]
async fn refusals_are_classified_by_what_to_do_next() {
    fn refuse(request: &Message, code: ResponseCode) -> Act {
        Act::Answer(signed(request, response(request, code), &TsigKey::new("hmac-sha256")))
    }
    let scripts: [(Script, ProviderErrorKind, &str); 5] = [
        (|request, _| refuse(request, ResponseCode::ServFail), ProviderErrorKind::Transient, "SERVFAIL"),
        (
            |request, _| refuse(request, ResponseCode::NotImp),
            ProviderErrorKind::Invalid,
            "no dynamic updates",
        ),
        (|request, _| refuse(request, ResponseCode::FormErr), ProviderErrorKind::Invalid, "FORMERR"),
        (|request, _| refuse(request, ResponseCode::NotZone), ProviderErrorKind::Invalid, "NOTZONE"),
        (|request, _| refuse(request, ResponseCode::Refused), ProviderErrorKind::NotFound, "not the primary"),
    ];
    for (script, kind, words) in scripts {
        let (found, message) = outcome(script).await;
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_wrong_clock_is_told_with_the_difference() {
    let (kind, message) = outcome(|request, _| {
        let mut answer = response(request, ResponseCode::NotAuth);
        let asked = request.signature.as_ref().unwrap();
        let theirs = (asked.data.time + 86_400).to_be_bytes()[2..].to_vec();
        let tsig = TSIG::new(
            TsigAlgorithm::HmacSha256,
            asked.data.time,
            300,
            Vec::new(),
            request.id,
            Some(TsigError::BadTime),
            theirs,
        );
        answer.set_signature(Box::new(make_tsig_record(asked.name.clone(), tsig)));
        Act::Answer(answer.to_vec().unwrap())
    })
    .await;
    assert_eq!(kind, ProviderErrorKind::Auth, "{message}");
    assert!(message.contains("differ by 864"), "{message}");
    assert!(message.contains("BADTIME"), "{message}");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_in_between_is_replaced() {
    let (port, counts) = fake::start(|request, _| {
        let answer = response(request, ResponseCode::NoError);
        Act::AnswerAndClose(signed(request, answer, &TsigKey::new("hmac-sha256")))
    })
    .await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    for count in 1..=3 {
        provider.change(&context(), &zone(), &addition("x.example.test", "x")).await.unwrap();
        assert_eq!(counts.requests.load(Ordering::SeqCst), count);
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (port, counts) = fake::start(|request, _| {
        Act::Answer(signed(request, response(request, ResponseCode::NoError), &TsigKey::new("hmac-sha256")))
    })
    .await;
    let provider = at(port, &TsigKey::new("hmac-sha256"));
    for _ in 0..5 {
        provider.change(&context(), &zone(), &addition("x.example.test", "x")).await.unwrap();
    }
    assert_eq!(counts.requests.load(Ordering::SeqCst), 5);
    assert_eq!(counts.connections.load(Ordering::SeqCst), 1);
}
