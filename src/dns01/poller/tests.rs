use certplan_provider::Context;
use futures::future;
use hickory_proto::op::ResponseCode;

use super::*;
use crate::dns01::authority::Authorities;
use crate::dns01::testing::DnsServer;
use crate::dns01::testing::FakeNet;
use crate::dns01::testing::MemoryDns;
use crate::dns01::testing::configured;
use crate::dns01::testing::context;
use crate::dns01::testing::name;
use crate::dns01::testing::quick_client;
use crate::dns01::testing::txt;
use crate::dns01::testing::word;

const SECOND: Duration = Duration::from_secs(1);
const OWNER: &str = "_acme-challenge.example.test";

/// Servers `ns1` to `ns3` of `example.test` at public addresses, and the system's resolver that knows them.
fn net(v6: bool) -> FakeNet {
    let mut net = FakeNet::default();
    let system = net.server("127.0.0.1:53");
    for index in 1..=3 {
        let host = format!("ns{index}.example.test");
        system.lock().unwrap().add("example.test", "NS", &host);
        system.lock().unwrap().add(&host, "A", &format!("192.0.32.{index}"));
        net.server(&format!("192.0.32.{index}:53"));
        if v6 {
            system.lock().unwrap().add(&host, "AAAA", &format!("2001:db8::{index}"));
        }
    }
    net
}

fn poller(net: &FakeNet, propagation: Propagation) -> Poller {
    let provider = MemoryDns::new(&["example.test"]);
    let net = Arc::new(net.clone());
    let surveyor = Arc::new(Authorities::new(net.clone()));
    let providers = Arc::new([(word("dns"), configured(&provider, vec![], propagation))].into());
    Poller::new(providers, net, surveyor, vec!["127.0.0.1:53".parse().unwrap()])
}

fn zone() -> Zone {
    Zone { id: "example.test".to_owned(), name: name("example.test") }
}

async fn wait(
    poller: &Poller,
    context: &Context,
    records: &[TxtRecord],
) -> (Result<Vec<Warning>, PropagationError>, Duration) {
    let started = Instant::now();
    let outcome = poller.wait_visible(context, &word("dns"), &zone(), records).await;
    (outcome, started.elapsed())
}

fn serve(net: &mut FakeNet, index: usize, after: Duration, record: &TxtRecord) {
    let server = net.server(&format!("192.0.32.{index}:53"));
    let from = Instant::now() + after;
    server.lock().unwrap().add_at(from, record.name.as_str(), "TXT", &record.value);
}

#[tokio::test(start_paused = true)]
async fn the_slowest_server_decides() {
    let mut net = net(false);
    let record = txt(OWNER, "value");
    for (index, after) in [(1, 0), (2, 3), (3, 9)] {
        serve(&mut net, index, after * SECOND, &record);
    }
    let (outcome, took) = wait(&poller(&net, Propagation::Authoritative), &context(), &[record]).await;
    assert_eq!(outcome.unwrap(), []);
    assert!((9 * SECOND..=12 * SECOND).contains(&took), "{took:?}");
    let resolver = net.server("127.0.0.1:53");
    assert_eq!(resolver.lock().unwrap().asked_for(OWNER), 0, "no cache is asked for the value");
    let asked = net.server("192.0.32.3:53").lock().unwrap().asked_for(OWNER);
    assert!(asked < 15, "{asked} questions in nine seconds");
}

#[tokio::test(start_paused = true)]
async fn only_one_of_three_servers_updated_is_an_error_that_names_the_others() {
    let mut net = net(false);
    let (old, new) = (txt(OWNER, "old"), txt(OWNER, "new"));
    serve(&mut net, 1, Duration::ZERO, &new);
    serve(&mut net, 2, Duration::ZERO, &old);
    net.server("192.0.32.3:53").lock().unwrap().minimum = Some(900);
    let context = context().within(30 * SECOND);
    let (outcome, took) =
        wait(&poller(&net, Propagation::Authoritative), &context, std::slice::from_ref(&new)).await;
    let Err(PropagationError::NotVisible { lacking, .. }) = &outcome else { panic!("{outcome:?}") };
    let servers: Vec<&str> = lacking.iter().map(|lacking| lacking.server.as_str()).collect();
    assert_eq!(servers, ["ns2.example.test", "ns3.example.test"]);
    assert!(lacking.iter().all(|lacking| lacking.record == new));
    assert!(matches!(lacking[0].seen, Seen::Absent { others: 1, .. }));
    let text = outcome.unwrap_err().to_string();
    for part in ["`ns3.example.test` (192.0.32.3:53)", "`new`", OWNER, "900 s"] {
        assert!(text.contains(part), "{text}");
    }
    assert!((29 * SECOND..=31 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_family_is_a_warning_at_once() {
    // Nothing of the IPv6 addresses is in the network.
    let mut net = net(true);
    let record = txt(OWNER, "value");
    for index in 1..=3 {
        serve(&mut net, index, Duration::ZERO, &record);
    }
    let (outcome, took) = wait(&poller(&net, Propagation::Authoritative), &context(), &[record]).await;
    let warnings = outcome.unwrap();
    assert_eq!(warnings.len(), 3);
    assert!(warnings.iter().all(|warning| warning.to_string().contains("over IPv6")), "{warnings:?}");
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reachable_family_without_the_value_is_no_warning() {
    let mut net = net(true);
    let record = txt(OWNER, "value");
    for index in 1..=3 {
        serve(&mut net, index, Duration::ZERO, &record);
        let v6 = net.server(&format!("[2001:db8::{index}]:53"));
        if index > 1 {
            v6.lock().unwrap().add(OWNER, "TXT", "value");
        }
    }
    let context = context().within(10 * SECOND);
    let (outcome, _) = wait(&poller(&net, Propagation::Authoritative), &context, &[record]).await;
    let Err(PropagationError::NotVisible { lacking, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(lacking.len(), 1);
    assert_eq!(lacking[0].address, "[2001:db8::1]:53".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nobody_is_left_out_after_a_while() {
    for defect in ["silent", "refuses", "lame"] {
        let mut net = net(false);
        let record = txt(OWNER, "value");
        for index in 1..=3 {
            serve(&mut net, index, Duration::ZERO, &record);
        }
        {
            let server = net.server("192.0.32.2:53");
            let mut script = server.lock().unwrap();
            match defect {
                "silent" => script.silent = true,
                "refuses" => script.code = Some(ResponseCode::Refused),
                _ => script.not_authoritative = true,
            }
        }
        let poller = poller(&net, Propagation::Authoritative);
        let (outcome, took) = wait(&poller, &context(), std::slice::from_ref(&record)).await;
        let warnings = outcome.unwrap();
        assert!(
            matches!(&warnings[..], [Warning::ServerSilent { server, .. }] if server == "ns2.example.test"),
            "{warnings:?}"
        );
        assert!((20 * SECOND..30 * SECOND).contains(&took), "{defect}: {took:?}");
        if defect == "silent" {
            let (outcome, took) = wait(&poller, &context(), &[record]).await;
            assert!(outcome.is_ok());
            assert!(took < 7 * SECOND, "the next caller knows already: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_for_a_moment_still_has_to_have_the_value() {
    let mut net = net(false);
    let record = txt(OWNER, "value");
    for index in 1..=3 {
        serve(&mut net, index, Duration::ZERO, &record);
    }
    let server = net.server("192.0.32.2:53");
    server.lock().unwrap().code = Some(ResponseCode::ServFail);
    let recovery = async {
        time::sleep(5 * SECOND).await;
        server.lock().unwrap().code = None;
    };
    let poller = poller(&net, Propagation::Authoritative);
    let context = context();
    let records = [record];
    let ((outcome, took), ()) = future::join(wait(&poller, &context, &records), recovery).await;
    assert_eq!(outcome.unwrap(), []);
    assert!((5 * SECOND..8 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn no_server_at_all_is_never_a_success() {
    let mut net = net(false);
    for index in 1..=3 {
        net.server(&format!("192.0.32.{index}:53")).lock().unwrap().silent = true;
    }
    let context = context().within(60 * SECOND);
    let (outcome, _) =
        wait(&poller(&net, Propagation::Authoritative), &context, &[txt(OWNER, "value")]).await;
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("did not answer"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_names_share_the_pollers() {
    let mut net = net(false);
    let record = |index: usize| txt(&format!("_acme-challenge.h{index}.example.test"), "value");
    for index in 0..500 {
        for server in 1..=3 {
            serve(&mut net, server, SECOND, &record(index));
        }
    }
    let poller = poller(&net, Propagation::Authoritative);
    let context = context();
    let waits = (0..500).map(|index| {
        let (poller, context) = (&poller, &context);
        async move { wait(poller, context, &[record(index), record((index + 1) % 500)]).await }
    });
    let outcomes = future::join_all(waits).await;
    for (outcome, took) in &outcomes {
        assert!(outcome.is_ok());
        assert!(*took < 4 * SECOND, "{took:?}");
    }
    let asked = net.server("192.0.32.1:53").lock().unwrap().log.len();
    assert!((500..=3000).contains(&asked), "two callers for each name ask once: {asked}");
    let surveyed = net.server("127.0.0.1:53").lock().unwrap().log.len();
    assert_eq!(surveyed, 7, "one zone is surveyed once");
}

#[tokio::test(start_paused = true)]
async fn one_name_that_lags_does_not_hold_up_another() {
    let mut net = net(false);
    let (quick, slow) = (txt(OWNER, "quick"), txt("_acme-challenge.slow.example.test", "slow"));
    for server in 1..=3 {
        serve(&mut net, server, Duration::ZERO, &quick);
        serve(&mut net, server, 40 * SECOND, &slow);
    }
    let poller = poller(&net, Propagation::Authoritative);
    let context = context();
    let (quick, slow) = ([quick], [slow]);
    let ((quick, quick_took), (slow, slow_took)) =
        future::join(wait(&poller, &context, &quick), wait(&poller, &context, &slow)).await;
    assert!(quick.is_ok() && slow.is_ok());
    assert!(quick_took < SECOND && slow_took >= 40 * SECOND, "{quick_took:?} {slow_took:?}");
}

#[tokio::test(start_paused = true)]
async fn polling_ends_when_its_callers_are_gone() {
    let net = net(false);
    let poller = poller(&net, Propagation::Authoritative);
    let (outcome, _) = wait(&poller, &context().within(10 * SECOND), &[txt(OWNER, "value")]).await;
    assert!(outcome.is_err());
    time::sleep(5 * SECOND).await;
    let asked =
        |index: usize| net.0[&format!("192.0.32.{index}:53").parse().unwrap()].lock().unwrap().log.len();
    let before = [asked(1), asked(2), asked(3)];
    time::sleep(60 * SECOND).await;
    assert_eq!([asked(1), asked(2), asked(3)], before);
}

#[tokio::test(start_paused = true)]
async fn resolvers_are_asked_where_the_configuration_names_them() {
    let mut net = FakeNet::default();
    let (first, second) = ("192.0.2.53:5353", "192.0.2.54:5353");
    for address in [first, second] {
        let server = net.server(address);
        let mut script = server.lock().unwrap();
        script.not_authoritative = true;
        // Resolvers follow CNAMEs.
        script.add(OWNER, "CNAME", "x.validation.test");
        script.add("x.validation.test", "TXT", "elsewhere");
        script.add(OWNER, "TXT", "value");
    }
    let resolvers = vec![first.parse().unwrap(), second.parse().unwrap()];
    let poller = poller(&net, Propagation::Resolvers(resolvers));
    let (outcome, took) = wait(&poller, &context(), &[txt(OWNER, "value")]).await;
    assert_eq!(outcome.unwrap(), []);
    assert!(took < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_wait_is_one_for_all_and_a_trusted_provider_needs_none() {
    let net = FakeNet::default();
    let records = [txt(OWNER, "value")];
    let poller_of = |propagation| poller(&net, propagation);
    let (outcome, took) = wait(&poller_of(Propagation::Provider), &context(), &records).await;
    assert!(outcome.is_ok() && took.is_zero());
    let fixed = poller_of(Propagation::Wait(60 * SECOND));
    let context = context();
    let outcomes = future::join_all((0..50).map(|_| wait(&fixed, &context, &records))).await;
    assert!(outcomes.iter().all(|(outcome, took)| outcome.is_ok() && *took == 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_every_wait() {
    let net = net(false);
    for propagation in [Propagation::Authoritative, Propagation::Wait(600 * SECOND)] {
        let (poller, context) = (poller(&net, propagation), context());
        let cancel = async {
            time::sleep(3 * SECOND).await;
            context.cancel.cancel();
        };
        let records = [txt(OWNER, "value")];
        let ((outcome, took), ()) = future::join(wait(&poller, &context, &records), cancel).await;
        assert!(matches!(outcome, Err(PropagationError::Cancelled { .. })));
        assert_eq!(took, 3 * SECOND);
    }
}

#[tokio::test]
async fn values_are_seen_over_real_sockets() {
    let server = DnsServer::start().await;
    server.add("example.test", "NS", "ns.example.test");
    server.add("ns.example.test", "A", "127.0.0.1");
    server.add(OWNER, "TXT", "other");
    server.script.lock().unwrap().truncate = true;
    let provider = MemoryDns::new(&["example.test"]);
    let client = quick_client();
    let surveyor = Arc::new(Authorities::on_port(client.clone(), server.address().port()));
    let dns = configured(&provider, vec![], Propagation::Authoritative);
    let poller = Poller::new(Arc::new([(word("dns"), dns)].into()), client, surveyor, vec![server.address()]);
    let context = context();
    let records = [txt(OWNER, "value")];
    let later = async {
        time::sleep(Duration::from_millis(150)).await;
        server.add(OWNER, "TXT", "value");
    };
    let ((outcome, _), ()) = future::join(wait(&poller, &context, &records), later).await;
    assert_eq!(outcome.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn private_servers_have_to_be_allowed() {
    let mut net = FakeNet::default();
    let system = net.server("127.0.0.1:53");
    system.lock().unwrap().add("example.test", "NS", "ns.example.test");
    system.lock().unwrap().add("ns.example.test", "A", "10.0.0.1");
    net.server("10.0.0.1:53").lock().unwrap().add(OWNER, "TXT", "value");
    let net = Arc::new(net);
    let surveyor = Arc::new(Authorities::new(net.clone()));
    let provider = MemoryDns::new(&["example.test"]);
    for allow in [false, true] {
        let dns = configured(&provider, vec![], Propagation::Authoritative).allow_private_servers(allow);
        let poller = Poller::new(
            Arc::new([(word("dns"), dns)].into()),
            net.clone(),
            surveyor.clone(),
            vec!["127.0.0.1:53".parse().unwrap()],
        );
        let (outcome, _) = wait(&poller, &context(), &[txt(OWNER, "value")]).await;
        assert_eq!(outcome.is_ok(), allow, "{outcome:?}");
    }
}

/// A server whose answers make whoever reads them panic, the first so many times.
#[derive(Debug)]
struct Stumbling {
    net: FakeNet,
    server: SocketAddr,
    times: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl Exchange for Stumbling {
    async fn ask(
        &self,
        server: SocketAddr,
        query: &crate::dns01::client::Query,
    ) -> Result<crate::dns01::client::Answer, crate::dns01::client::QueryError> {
        use std::sync::atomic::Ordering;
        let stumbles = server == self.server
            && self
                .times
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok();
        assert!(!stumbles, "a fault in whoever reads answers");
        self.net.ask(server, query).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_certplan_stumbles_over_ends_no_poller() {
    let mut net = net(false);
    let record = txt(OWNER, "value");
    for index in 1..=3 {
        serve(&mut net, index, Duration::ZERO, &record);
    }
    for (times, ends) in [(2, true), (usize::MAX, false)] {
        let provider = MemoryDns::new(&["example.test"]);
        let providers =
            Arc::new([(word("dns"), configured(&provider, vec![], Propagation::Authoritative))].into());
        let surveyor = Arc::new(Authorities::new(Arc::new(net.clone())));
        let stumbling = Arc::new(Stumbling {
            net: net.clone(),
            server: "192.0.32.2:53".parse().unwrap(),
            times: times.into(),
        });
        let poller = Poller::new(providers, stumbling, surveyor, vec!["127.0.0.1:53".parse().unwrap()]);
        let (outcome, took) = wait(&poller, &context(), std::slice::from_ref(&record)).await;
        match outcome {
            Ok(warnings) => assert_eq!(warnings.is_empty(), ends, "{warnings:?}"),
            Err(error) => panic!("the other servers have it: {error}"),
        }
        assert!(took < 120 * SECOND, "{took:?}");
    }
}

/// Nobody answers and nobody waits: the poller itself ends.
#[derive(Debug)]
struct Broken;

impl Exchange for Broken {
    fn ask<'a, 'b, 'c>(
        &'a self,
        _: SocketAddr,
        _: &'b crate::dns01::client::Query,
    ) -> std::pin::Pin<
        Box<
            dyn Future<Output = Result<crate::dns01::client::Answer, crate::dns01::client::QueryError>>
                + Send
                + 'c,
        >,
    >
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        panic!("a fault before there is anything to wait for")
    }
}

#[tokio::test(start_paused = true)]
async fn a_poller_that_ends_lets_those_go_who_wait_for_it() {
    let provider = MemoryDns::new(&["example.test"]);
    let resolvers = Propagation::Resolvers(vec!["127.0.0.1:53".parse().unwrap()]);
    let providers = Arc::new([(word("dns"), configured(&provider, vec![], resolvers))].into());
    let surveyor = Arc::new(Authorities::new(Arc::new(net(false))));
    let poller = Poller::new(providers, Arc::new(Broken), surveyor, vec![]);
    for _ in 0..2 {
        let (outcome, took) = wait(&poller, &context(), &[txt(OWNER, "value")]).await;
        let error = outcome.expect_err("nobody has seen it");
        assert!(matches!(error, PropagationError::NotVisible { .. }), "{error}");
        assert!(took < SECOND, "{took:?}");
    }
}
