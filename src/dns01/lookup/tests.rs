use std::time::Duration;

use hickory_proto::rr::RecordType;

use super::*;
use crate::dns01::authority::Authorities;
use crate::dns01::client::Client;
use crate::dns01::testing::DnsServer;
use crate::dns01::testing::FakeNet;
use crate::dns01::testing::name;
use crate::dns01::testing::quick_client;

/// A resolver of the system that knows where the zone is served: by the second server, on its port.
async fn network() -> (DnsServer, DnsServer, Resolver) {
    let (system, authority) = (DnsServer::start().await, DnsServer::start().await);
    system.script.lock().unwrap().not_authoritative = true;
    system.add("example.test", "SOA", "ns.example.test");
    system.add("example.test", "NS", "ns.example.test");
    system.add("ns.example.test", "A", "127.0.0.1");
    authority.add("_acme-challenge.example.test", "CNAME", "x.validation.test");
    let client: Arc<Client> = quick_client();
    let surveyor = Authorities::on_port(client.clone(), authority.address().port());
    let resolver = Resolver::new(client, Arc::new(surveyor), vec![system.address()]);
    (system, authority, resolver)
}

fn own(zone: &Fqdn) -> Path<'_> {
    Path::Resolvers { zone: Some(zone), resolvers: None, allow_private: true }
}

const CHALLENGE: &str = "_acme-challenge.example.test";

#[tokio::test]
async fn the_zones_own_servers_are_asked_and_a_resolver_never_for_the_challenge() {
    let (system, authority, resolver) = network().await;
    let zone = name("example.test");
    for path in [Path::Authoritative { zone: &zone, allow_private: true }, own(&zone)] {
        let alias = resolver.alias(&name(CHALLENGE), path).await.unwrap();
        assert_eq!(alias, Alias::To("x.validation.test.".to_owned()));
    }
    assert!(authority.was_asked(CHALLENGE, RecordType::CNAME));
    assert!(!system.was_asked(CHALLENGE, RecordType::CNAME), "it would remember that nothing is there");
}

#[tokio::test]
async fn a_resolver_is_asked_where_the_zones_servers_cannot_be() {
    let (system, authority, resolver) = network().await;
    authority.fail(ResponseCode::Refused);
    system.add(CHALLENGE, "CNAME", "y.validation.test");
    let zone = name("example.test");
    for _ in 0..2 {
        let alias = resolver.alias(&name(CHALLENGE), own(&zone)).await.unwrap();
        assert_eq!(alias, Alias::To("y.validation.test.".to_owned()));
    }
    assert_eq!(authority.questions(), 1, "that is found out once per zone");
    let path = Path::Authoritative { zone: &zone, allow_private: true };
    let error = resolver.alias(&name(CHALLENGE), path).await.unwrap_err();
    assert!(error.to_string().contains("Query Refused"), "{error}");
}

#[tokio::test]
async fn names_in_nobodys_zone_are_asked_for_at_the_system_where_the_configured_resolvers_do_not_answer() {
    let (system, _authority, resolver) = network().await;
    let configured = DnsServer::start().await;
    system.add("x.validation.test", "CNAME", "system.test");
    configured.add("x.validation.test", "CNAME", "configured.test");
    let resolvers = [configured.address()];
    let path = Path::Resolvers { zone: None, resolvers: Some(&resolvers), allow_private: false };
    let alias = resolver.alias(&name("x.validation.test"), path).await.unwrap();
    assert_eq!(alias, Alias::To("configured.test.".to_owned()));
    assert_eq!(system.questions(), 0);
    configured.fail(ResponseCode::Refused);
    let alias = resolver.alias(&name("x.validation.test"), path).await.unwrap();
    assert_eq!(alias, Alias::To("system.test.".to_owned()));
}

#[tokio::test]
async fn a_resolver_that_holds_the_zone_itself_is_asked_directly() {
    let (system, authority, resolver) = network().await;
    system.script.lock().unwrap().not_authoritative = false;
    let zone = name("example.test");
    assert_eq!(resolver.alias(&name(CHALLENGE), own(&zone)).await.unwrap(), Alias::Missing);
    assert_eq!(authority.questions(), 0);
}

#[tokio::test]
async fn private_servers_are_not_asked_unless_allowed() {
    let (_system, authority, resolver) = network().await;
    let zone = name("example.test");
    let path = Path::Authoritative { zone: &zone, allow_private: false };
    let error = resolver.alias(&name(CHALLENGE), path).await.unwrap_err();
    assert!(error.to_string().contains("private addresses"), "{error}");
    assert_eq!(authority.questions(), 0);
}

#[tokio::test]
async fn names_in_nobodys_zone_are_asked_for_at_the_systems_resolvers() {
    let (system, _authority, resolver) = network().await;
    system.add("a.foreign.test", "CNAME", "b.foreign.test");
    system.add("b.foreign.test", "A", "192.0.2.1");
    let path = Path::Resolvers { zone: None, resolvers: None, allow_private: false };
    let alias = async |text: &str| resolver.alias(&name(text), path).await.unwrap();
    assert_eq!(alias("a.foreign.test").await, Alias::To("b.foreign.test.".to_owned()));
    assert_eq!(alias("b.foreign.test").await, Alias::None);
    assert_eq!(alias("c.foreign.test").await, Alias::Missing);
}

#[tokio::test]
async fn a_referral_says_that_the_name_is_served_elsewhere() {
    let (_system, authority, resolver) = network().await;
    authority.script.lock().unwrap().delegated = Some(name("shop.example.test"));
    let zone = name("example.test");
    let path = Path::Authoritative { zone: &zone, allow_private: true };
    let alias = resolver.alias(&name("_acme-challenge.shop.example.test"), path).await.unwrap();
    assert_eq!(alias, Alias::Delegated(name("shop.example.test")));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_waited_for_when_another_answers() {
    let mut net = FakeNet::default();
    let system = net.server("127.0.0.1:53");
    for (host, address) in [("ns1.example.test", "192.0.2.1"), ("ns2.example.test", "192.0.2.2")] {
        system.lock().unwrap().add("example.test", "NS", host);
        system.lock().unwrap().add(host, "A", address);
    }
    net.server("192.0.2.1:53").lock().unwrap().silent = true;
    net.server("192.0.2.2:53").lock().unwrap().add(CHALLENGE, "CNAME", "x.validation.test");
    let net = Arc::new(net);
    let surveyor = Arc::new(Authorities::new(net.clone()));
    let resolver = Resolver::new(net, surveyor, vec!["127.0.0.1:53".parse().unwrap()]);
    let zone = name("example.test");
    let started = time::Instant::now();
    for _ in 0..10 {
        let path = Path::Authoritative { zone: &zone, allow_private: true };
        assert!(matches!(resolver.alias(&name(CHALLENGE), path).await, Ok(Alias::To(_))));
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
