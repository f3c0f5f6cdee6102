use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;

use super::*;
use crate::dns01::testing::MemoryDns;
use crate::dns01::testing::configured;
use crate::dns01::testing::context;
use crate::dns01::testing::name;
use crate::dns01::testing::one_provider;
use crate::dns01::testing::word;

/// DNS as a table of CNAMEs; `*.zone` is a wildcard for names that are not `present`.
#[derive(Debug, Default)]
struct Table {
    aliases: BTreeMap<String, String>,
    present: Vec<String>,
    delegated: Vec<String>,
    broken: bool,
    asked: Mutex<Vec<(String, String)>>,
}

impl Table {
    fn new(aliases: &[(&str, &str)]) -> Self {
        Self {
            aliases: aliases.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            ..Self::default()
        }
    }
}

#[async_trait]
impl Lookup for Table {
    async fn alias(&self, name: &Fqdn, path: Path<'_>) -> Result<Alias, LookupError> {
        self.asked.lock().unwrap().push((name.to_string(), format!("{path:?}")));
        if self.broken {
            return Err(LookupError::Resolvers { name: name.clone(), reasons: vec!["silence".to_owned()] });
        }
        if let Some(child) = self.delegated.iter().find(|child| name.is_within(&Fqdn::new(child).unwrap())) {
            return Ok(Alias::Delegated(Fqdn::new(child).unwrap()));
        }
        if let Some(target) = self.aliases.get(name.as_str()) {
            return Ok(Alias::To(target.clone()));
        }
        if self.present.iter().any(|present| present == name.as_str()) {
            return Ok(Alias::None);
        }
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(target) = self.aliases.get(&format!("*.{parent}")) {
                return Ok(Alias::To(target.clone()));
            }
            if self.present.iter().any(|present| present == parent) {
                break;
            }
            rest = parent;
        }
        Ok(Alias::Missing)
    }
}

async fn place(providers: &Providers, table: &Table, challenge: &str) -> Result<Located, LocateError> {
    locate(&context(), providers, table, &name(challenge)).await
}

#[tokio::test]
async fn the_longest_zone_on_a_label_boundary_wins_over_all_providers() {
    let short = MemoryDns::new(&["example.test", "op.example.test"]);
    let long = MemoryDns::new(&["shop.example.test"]);
    let providers = [
        (word("a"), configured(&short, vec![], Propagation::Provider)),
        (word("b"), configured(&long, vec![], Propagation::Provider)),
    ]
    .into();
    let table = Table::default();
    let located = place(&providers, &table, "_acme-challenge.www.shop.example.test").await.unwrap();
    assert_eq!(located.location.provider, word("b"));
    assert_eq!(located.location.zone.name, name("shop.example.test"));
    let located = place(&providers, &table, "_acme-challenge.workshop.example.test").await.unwrap();
    assert_eq!(located.location.zone.name, name("example.test"), "a suffix of a label is no zone");
    assert_eq!(located.location.provider, word("a"));
    assert_eq!(located.notes, []);
}

#[tokio::test]
async fn names_in_nobodys_zone_are_asked_for_at_the_configured_resolvers() {
    let inner = "192.0.2.53:53".parse().unwrap();
    let outer = "198.51.100.53:53".parse().unwrap();
    let (a, b) = (MemoryDns::new(&["other.test"]), MemoryDns::new(&["example.test"]));
    let providers = [
        (word("a"), configured(&a, vec![], Propagation::Resolvers(vec![outer]))),
        (word("b"), configured(&b, vec![], Propagation::Resolvers(vec![inner]))),
        (word("c"), configured(&MemoryDns::new(&["third.test"]), vec![], Propagation::Authoritative)),
    ]
    .into();
    let asked = |table: &Table, name: &str| {
        let asked = table.asked.lock().unwrap();
        asked.iter().find(|(asked, _)| asked == name).expect("it was asked for").1.clone()
    };
    // On the way from a zone whose provider has resolvers: those, as for the zone itself.
    let table = Table::new(&[("_acme-challenge.example.test", "x.validation.test")]);
    let error = place(&providers, &table, "_acme-challenge.example.test").await.unwrap_err();
    assert!(matches!(error, LocateError::Dangling { .. }), "{error}");
    let path = asked(&table, "x.validation.test");
    assert!(path.contains("192.0.2.53:53") && !path.contains("198.51.100.53"), "{path}");
    // From nowhere, or from a zone whose provider has none: all of them.
    let table = Table::new(&[("_acme-challenge.third.test", "x.validation.test")]);
    let _ = place(&providers, &table, "_acme-challenge.third.test").await.unwrap_err();
    let _ = place(&providers, &table, "_acme-challenge.nowhere.test").await.unwrap_err();
    for name in ["x.validation.test", "_acme-challenge.nowhere.test"] {
        let path = asked(&table, name);
        assert!(path.contains("192.0.2.53:53") && path.contains("198.51.100.53:53"), "{path}");
    }
}

#[tokio::test]
async fn two_equal_candidates_are_named_with_how_to_pin() {
    let (a, b) = (MemoryDns::new(&["example.test=1"]), MemoryDns::new(&["example.test=2"]));
    let providers = |zones: Vec<Fqdn>| -> Providers {
        [
            (word("a"), configured(&a, vec![], Propagation::Provider)),
            (word("b"), configured(&b, zones, Propagation::Provider)),
        ]
        .into()
    };
    let error =
        place(&providers(vec![]), &Table::default(), "_acme-challenge.example.test").await.unwrap_err();
    let text = error.to_string();
    for part in ["provider `a`", "zone id `1`", "provider `b`", "zone id `2`", "`zones:`"] {
        assert!(text.contains(part), "{text}");
    }
    let pinned = providers(vec![name("other.test")]);
    let located = place(&pinned, &Table::default(), "_acme-challenge.example.test").await.unwrap();
    assert_eq!(located.location.provider, word("a"));
}

#[tokio::test]
async fn a_zone_that_one_account_holds_twice_is_ambiguous() {
    let provider = MemoryDns::new(&["example.test=private", "example.test=public"]);
    let providers = one_provider(&provider, vec![]);
    let error = place(&providers, &Table::default(), "_acme-challenge.example.test").await.unwrap_err();
    assert!(matches!(&error, LocateError::Ambiguous { candidates, .. } if candidates.len() == 2));
    assert!(error.to_string().contains("pin the zone's id"), "{error}");
}

#[tokio::test]
async fn a_delegation_out_of_an_ambiguous_zone_is_not_ambiguous() {
    let (a, b) = (MemoryDns::new(&["example.test"]), MemoryDns::new(&["example.test", "validation.test"]));
    let providers = [
        (word("a"), configured(&a, vec![], Propagation::Provider)),
        (word("b"), configured(&b, vec![], Propagation::Provider)),
    ]
    .into();
    let table = Table::new(&[("_acme-challenge.example.test", "x.validation.test.")]);
    let located = place(&providers, &table, "_acme-challenge.example.test").await.unwrap();
    assert_eq!(located.location.effective(), Some(&name("x.validation.test")));
}

/// A chain of this many CNAMEs that ends in a zone of ours.
fn chain(hops: usize) -> Table {
    let at = |hop: usize| match hop {
        0 => "_acme-challenge.shop.example.test".to_owned(),
        hop => format!("hop{hop}.elsewhere{hop}.test"),
    };
    let mut table = Table::default();
    for hop in 0..hops {
        let target = if hop + 1 == hops { "end.validation.test".to_owned() } else { at(hop + 1) };
        table.aliases.insert(at(hop), format!("{target}."));
    }
    table
}

#[tokio::test]
async fn eight_cnames_are_followed_and_nine_are_not() {
    let providers = one_provider(&MemoryDns::new(&["example.test", "validation.test"]), vec![]);
    let located = place(&providers, &chain(8), "_acme-challenge.shop.example.test").await.unwrap();
    assert_eq!(located.location.chain.len(), 9);
    assert_eq!(located.location.zone.name, name("validation.test"));
    let error = place(&providers, &chain(9), "_acme-challenge.shop.example.test").await.unwrap_err();
    assert!(matches!(error, LocateError::TooManyHops { .. }));
    assert!(error.to_string().contains("`hop7.elsewhere7.test` -> `hop8.elsewhere8.test`"), "{error}");
}

#[tokio::test]
async fn loops_are_seen_with_their_chain() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let table = Table::new(&[
        ("_acme-challenge.example.test", "a.example.test"),
        ("a.example.test", "b.example.test"),
        ("b.example.test", "A.example.test."),
    ]);
    let error = place(&providers, &table, "_acme-challenge.example.test").await.unwrap_err();
    assert!(matches!(error, LocateError::Loop { .. }));
    let expected =
        "`_acme-challenge.example.test` -> `a.example.test` -> `b.example.test` -> `a.example.test`";
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn dangling_and_foreign_targets_are_told_apart() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let mut table = Table::new(&[("_acme-challenge.example.test", "gone.foreign.test")]);
    let error = place(&providers, &table, "_acme-challenge.example.test").await.unwrap_err();
    assert!(matches!(error, LocateError::Dangling { .. }), "{error}");
    table.present.push("gone.foreign.test".to_owned());
    let error = place(&providers, &table, "_acme-challenge.example.test").await.unwrap_err();
    assert!(matches!(error, LocateError::ForeignZone { .. }), "{error}");
    assert!(error.to_string().contains("-> `gone.foreign.test`"), "{error}");
    assert!(table.asked.lock().unwrap().last().unwrap().1.contains("zone: None"), "asked at the system");
}

#[tokio::test]
async fn a_name_in_nobodys_zone_can_be_delegated_into_ours() {
    let providers = one_provider(&MemoryDns::new(&["validation.test"]), vec![]);
    let table = Table::new(&[("_acme-challenge.foreign.test", "x.validation.test.")]);
    let located = place(&providers, &table, "_acme-challenge.foreign.test").await.unwrap();
    assert_eq!(located.location.zone.name, name("validation.test"));
    let error = place(&providers, &table, "_acme-challenge.other.test").await.unwrap_err();
    assert!(matches!(&error, LocateError::NoZone { providers, .. } if *providers == [word("dns")]));
}

#[tokio::test]
async fn a_wildcard_cname_gives_way_to_the_name_itself() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let table = Table::new(&[("*.example.test", "lb.foreign.test")]);
    let located = place(&providers, &table, "_acme-challenge.example.test").await.unwrap();
    assert_eq!(located.location.chain, [name("_acme-challenge.example.test")]);
    assert!(matches!(&located.notes[..], [Note::WildcardBypassed { .. }]), "{:?}", located.notes);
    let mut table = Table::new(&[("*.example.test", "lb.foreign.test")]);
    table.present = vec!["shop.example.test".to_owned()];
    table.aliases.insert("*.shop.example.test".to_owned(), "lb.foreign.test".to_owned());
    let located = place(&providers, &table, "_acme-challenge.shop.example.test").await.unwrap();
    assert_eq!(located.location.chain.len(), 1, "the host has records of its own");
}

#[tokio::test]
async fn a_host_that_lives_by_a_wildcard_is_not_hidden() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let table = Table::new(&[("*.example.test", "lb.foreign.test")]);
    let error = place(&providers, &table, "_acme-challenge.shop.example.test").await.unwrap_err();
    assert!(matches!(&error, LocateError::WildcardCapture { hides: Some(host), .. }
        if *host == name("shop.example.test")));
    assert!(error.to_string().contains("records of its own"), "{error}");
}

#[tokio::test]
async fn a_wildcard_cname_in_nobodys_zone_is_an_error() {
    let providers = one_provider(&MemoryDns::new(&["validation.test"]), vec![]);
    let table = Table::new(&[("*.foreign.test", "lb.validation.test")]);
    let error = place(&providers, &table, "_acme-challenge.foreign.test").await.unwrap_err();
    assert!(matches!(error, LocateError::WildcardCapture { hides: None, .. }), "{error}");
    let explicit = Table::new(&[
        ("*.foreign.test", "lb.elsewhere.test"),
        ("_acme-challenge.foreign.test", "x.validation.test"),
    ]);
    assert!(place(&providers, &explicit, "_acme-challenge.foreign.test").await.is_ok());
}

#[tokio::test]
async fn a_zone_below_ours_that_is_served_elsewhere_is_an_error() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let table = Table { delegated: vec!["shop.example.test".to_owned()], ..Table::default() };
    let error = place(&providers, &table, "_acme-challenge.shop.example.test").await.unwrap_err();
    assert!(
        matches!(&error, LocateError::DelegatedAway { child, .. } if *child == name("shop.example.test"))
    );
}

#[tokio::test]
async fn each_propagation_asks_its_own_servers_and_only_some_may_be_silent() {
    let provider = MemoryDns::new(&["example.test"]);
    let resolver = "192.0.2.53:53".parse().unwrap();
    for (propagation, expected, tolerant) in [
        (Propagation::Authoritative, "Authoritative", false),
        (Propagation::Resolvers(vec![resolver]), "Some([192.0.2.53:53])", false),
        (Propagation::Provider, "resolvers: None", true),
        (Propagation::Wait(Duration::from_secs(60)), "resolvers: None", true),
    ] {
        let providers = [(word("dns"), configured(&provider, vec![], propagation))].into();
        let table = Table { broken: true, ..Table::default() };
        let outcome = place(&providers, &table, "_acme-challenge.example.test").await;
        assert!(table.asked.lock().unwrap()[0].1.contains(expected), "{:?}", table.asked);
        match outcome {
            Ok(located) => {
                assert!(tolerant);
                assert!(matches!(&located.notes[..], [Note::Unresolved { .. }]));
            }
            Err(error) => assert!(!tolerant && matches!(error, LocateError::Lookup { .. })),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cannot_tell_does_not_stop_the_others() {
    let (good, bad) = (MemoryDns::new(&["example.test"]), MemoryDns::new(&["bad.test"]));
    bad.memory().zone_failure = Some("the token is wrong".to_owned());
    let providers = [
        (word("bad"), configured(&bad, vec![], Propagation::Provider)),
        (word("good"), configured(&good, vec![], Propagation::Provider)),
    ]
    .into();
    let located = place(&providers, &Table::default(), "_acme-challenge.example.test").await.unwrap();
    assert!(located.notes[0].to_string().contains("the token is wrong"));
    let error = place(&providers, &Table::default(), "_acme-challenge.bad.test").await.unwrap_err();
    assert!(matches!(error, LocateError::Provider { .. }), "{error}");
    bad.memory().zone_failure = None;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(place(&providers, &Table::default(), "_acme-challenge.bad.test").await.is_ok(), "asked again");
}

#[tokio::test]
async fn a_target_that_is_no_name_is_an_error_that_prints_it_safely() {
    let providers = one_provider(&MemoryDns::new(&["example.test"]), vec![]);
    let table = Table::new(&[("_acme-challenge.example.test", "bad name\u{1b}[31m.test")]);
    let text = place(&providers, &table, "_acme-challenge.example.test").await.unwrap_err().to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

/// What is wrong with some zones is not said of the others, however many their names are.
#[tokio::test]
async fn a_provider_that_fails_for_one_zone_is_asked_for_another() {
    let provider = MemoryDns::new(&["good.test"]);
    let bad_zones: Vec<Fqdn> = (0..100).map(|number| name(&format!("bad{number}.test"))).collect();
    let restricted = bad_zones.iter().cloned().chain([name("good.test")]).collect();
    let of_one: Vec<Fqdn> =
        (0..100).map(|number| name(&format!("_acme-challenge.h{number}.bad.test"))).collect();
    let apexes: Vec<Fqdn> = bad_zones.iter().map(|zone| name(&format!("_acme-challenge.{zone}"))).collect();
    for (zones, bad) in [(vec![], of_one), (vec![], apexes.clone()), (restricted, apexes)] {
        let providers = one_provider(&provider, zones);
        provider.memory().zone_failure = Some("the zone is not loaded".to_owned());
        for bad in bad {
            assert!(providers["dns"].zones_for(&context(), &bad).await.is_err());
        }
        provider.memory().zone_failure = None;
        let good = name("_acme-challenge.good.test");
        assert_eq!(providers["dns"].zones_for(&context(), &good).await.unwrap(), [provider.zone(0)]);
    }
}

/// A plan of ten thousand names with the provider down ends within minutes, not days.
#[tokio::test(start_paused = true)]
async fn ten_thousand_names_do_not_wait_for_the_same_failure() {
    for (zones, most) in [(vec![name("example.test")], 1), (vec![], 64)] {
        let provider = MemoryDns::new(&["example.test"]);
        provider.memory().zone_failure = Some("the API key is wrong".to_owned());
        provider.memory().latency = Duration::from_secs(40);
        let providers = one_provider(&provider, zones);
        let start = tokio::time::Instant::now();
        let failed = stream::iter(0..10_000)
            .map(|number| {
                let providers = &providers;
                async move {
                    let name = name(&format!("_acme-challenge.h{number}.example.test"));
                    providers["dns"].zones_for(&context(), &name).await.is_err()
                }
            })
            .buffer_unordered(64)
            .filter(|failed| std::future::ready(*failed))
            .count()
            .await;
        assert_eq!(failed, 10_000);
        assert_eq!(start.elapsed().as_secs(), 40);
        assert!(provider.memory().zone_calls.len() <= most);
    }
}

#[tokio::test]
async fn ten_thousand_names_in_a_pinned_zone_cost_one_call() {
    let provider = MemoryDns::new(&["example.test", "deep.example.test"]);
    let providers = Arc::new(one_provider(&provider, vec![name("example.test")]));
    for i in 0..10_000 {
        let zones =
            providers["dns"].zones_for(&context(), &name(&format!("h{i}.deep.example.test"))).await.unwrap();
        assert_eq!(zones, [provider.zone(0)], "a zone that is not listed does not count");
    }
    assert_eq!(provider.memory().zone_calls, [name("example.test")]);
}

#[tokio::test]
async fn without_a_restriction_a_name_is_asked_for_once_and_sub_zones_are_found() {
    let provider = MemoryDns::new(&["example.test", "shop.example.test"]);
    let providers = one_provider(&provider, vec![]);
    let zones_for = async |host: &str| providers["dns"].zones_for(&context(), &name(host)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(zones_for("_acme-challenge.blog.example.test").await, [provider.zone(0)]);
        let zones = zones_for("_acme-challenge.shop.example.test").await;
        assert_eq!(zones, [provider.zone(1), provider.zone(0)], "the longest first");
    }
    assert_eq!(provider.memory().zone_calls.len(), 2);
}
