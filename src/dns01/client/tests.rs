use std::time::Instant;

use super::*;
use crate::dns01::testing::DnsServer;
use crate::dns01::testing::name;
use crate::dns01::testing::quick_client;

fn query() -> Query {
    Query::authoritative(&name("_acme-challenge.example.test"), RecordType::TXT)
}

async fn server() -> DnsServer {
    let server = DnsServer::start().await;
    server.add("_acme-challenge.example.test", "TXT", "one");
    server.add("_acme-challenge.example.test", "TXT", "two");
    server
}

#[tokio::test]
async fn values_come_over_udp_and_over_tcp() {
    let server = server().await;
    for transport in [Transport::UdpThenTcp, Transport::Tcp] {
        let answer = quick_client().ask(server.address(), &Query { transport, ..query() }).await.unwrap();
        assert_eq!(answer.txt(&query().name), ["one", "two"], "character strings are joined");
        assert!(answer.is_authoritative());
        assert!(!answer.is_negative());
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let server = server().await;
    server.script.lock().unwrap().truncate = true;
    let answer = quick_client().ask(server.address(), &query()).await.unwrap();
    assert_eq!(answer.txt(&query().name), ["one", "two"]);
    assert_eq!(server.questions(), 2);
}

#[tokio::test]
async fn an_answer_with_another_identifier_is_ignored() {
    let server = server().await;
    server.script.lock().unwrap().wrong_id = true;
    let answer = quick_client().ask(server.address(), &query()).await.unwrap();
    assert_eq!(answer.txt(&query().name), ["one", "two"], "the forgery came first");
    let error = quick_client()
        .ask(server.address(), &Query { transport: Transport::Tcp, ..query() })
        .await
        .unwrap_err();
    assert!(matches!(error, QueryError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn the_answer_to_another_question_is_none() {
    let server = server().await;
    server.script.lock().unwrap().wrong_question = true;
    let error = quick_client().ask(server.address(), &query()).await.unwrap_err();
    assert!(error.to_string().contains("another question"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_asked_twice_and_then_given_up() {
    let server = server().await;
    server.script.lock().unwrap().silent = true;
    let started = Instant::now();
    let error = quick_client().ask(server.address(), &query()).await.unwrap_err();
    assert!(matches!(error, QueryError::Silent { .. }), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(600));
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_unreachable() {
    let address = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.local_addr().unwrap()
    };
    let error = quick_client().ask(address, &query()).await.unwrap_err();
    assert!(matches!(error, QueryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let server = server().await;
    server.script.lock().unwrap().no_edns = true;
    for transport in [Transport::UdpThenTcp, Transport::Tcp] {
        let answer = quick_client().ask(server.address(), &Query { transport, ..query() }).await.unwrap();
        assert_eq!(answer.txt(&query().name).len(), 2);
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_how_long_that_is_remembered() {
    let server = server().await;
    server.script.lock().unwrap().minimum = Some(900);
    let query = Query::authoritative(&name("nothing.example.test"), RecordType::TXT);
    let answer = quick_client().ask(server.address(), &query).await.unwrap();
    assert_eq!(answer.code(), ResponseCode::NXDomain);
    assert!(answer.is_negative());
    assert_eq!(answer.negative_ttl(), Some(Duration::from_secs(900)));
}

#[tokio::test]
async fn names_are_compared_without_regard_to_case() {
    let server = DnsServer::start().await;
    server.add("alias.example.test", "CNAME", "Target.Example.TEST.");
    let name = name("alias.example.test");
    let query = Query::authoritative(&name, RecordType::CNAME);
    let answer = quick_client().ask(server.address(), &query).await.unwrap();
    assert_eq!(Fqdn::new(&answer.cname(&name).unwrap()).unwrap().as_str(), "target.example.test");
}

#[test]
fn identifiers_differ() {
    let identifiers: std::collections::BTreeSet<u16> =
        (0..50).map(|_| request(&query(), true).unwrap().metadata.id).collect();
    assert!(identifiers.len() > 40, "{identifiers:?}");
}

proptest::proptest! {
    #[test]
    fn no_octets_make_the_reader_panic(octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        let request = request(&query(), true).unwrap();
        let _ = decode(&request, &octets);
        // With the right identifier and flags the rest is read as well.
        let mut message = request.metadata.id.to_be_bytes().to_vec();
        message.extend([0x84, 0x00]);
        message.extend(octets);
        let _ = decode(&request, &message);
    }
}
