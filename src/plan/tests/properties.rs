use proptest::prelude::*;

use super::*;
use crate::model::Failures;
use crate::model::Moved;
use crate::model::RenewBefore;
use crate::plan::Only;
use crate::plan::json;

/// What may have happened to a certificate of a world.
#[derive(Debug, Clone)]
struct Fate {
    bits: u32,
    from: i64,
    to: i64,
    issued_at: i64,
    stage: u8,
}

fn fate() -> impl Strategy<Value = Fate> {
    let second = prop_oneof![
        4 => 1_780_000_000_i64..1_800_000_000,
        1 => Timestamp::MIN.as_second()..Timestamp::MAX.as_second(),
    ];
    (any::<u32>(), second.clone(), second.clone(), second, 0_u8..12)
        .prop_map(|(bits, from, to, issued_at, stage)| Fate { bits, from, to, issued_at, stage })
}

fn world(fates: &[Fate], only: Option<Only>, now: i64) -> World {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut world = World::empty();
    for (i, fate) in fates.iter().enumerate() {
        let certificate = format!("c{i}");
        let bit = |n: u32| fate.bits >> n & 1 == 1;
        world.want(&certificate, &[&format!("{certificate}.example.com"), "shared.example.com"]);
        world.deploy(&certificate, "vault");
        world.wanted(&certificate).verify = vec![endpoint("a.example.com"), endpoint("b.example.com")];
        if bit(0) {
            continue;
        }
        if bit(14) {
            for entry in &mut world.wanted(&certificate).deploy {
                entry.verify = vec![endpoint("c.example.com"), endpoint("d.example.com")];
            }
        }
        world.settle(&certificate);
        let current = world.current(&certificate);
        if bit(1) {
            current.facts.not_before = at(fate.from);
            current.facts.not_after = at(fate.to);
        }
        if bit(2) {
            current.issued_at = at(fate.issued_at);
        }
        if bit(3) {
            let ari = AriRecord {
                fingerprint: current.facts.fingerprint,
                window: Some((at(fate.to), at(fate.from))),
                explanation_url: None,
                fetched: at(0),
                next_check: at(0),
            };
            world.observed.ari.insert(name(&certificate), Fact::Present(ari));
        }
        if bit(4) {
            world.holds(&certificate, "edge", Fact::Absent);
        }
        if bit(15) {
            for entry in &mut world.wanted(&certificate).deploy {
                entry.verify =
                    vec![endpoint("d.example.com"), endpoint("c.example.com"), endpoint("e.example.com")];
            }
        }
        if bit(5) {
            world.serves(
                &certificate,
                &[endpoint("b.example.com"), endpoint("a.example.com")],
                Fact::Present(fingerprint("other")),
            );
        }
        if bit(6) {
            world.wanted(&certificate).deploy.remove(0);
        }
        if bit(7) {
            let failures = Failures {
                count: fate.bits,
                last: at(fate.from),
                retry_after: at(fate.to),
                message: String::new(),
            };
            world.record(&certificate).failures = Some(failures);
        }
        if bit(8) {
            world.prior.certificates.get_mut(&name(&certificate)).unwrap().key_readable = false;
        }
        if bit(9) {
            world.wanted(&certificate).renew = Some(RenewBefore::Fraction(fate.bits % 7, fate.bits % 5));
        }
        if bit(10) {
            world.wanted(&certificate).profile = Some("none".to_owned());
        }
        if bit(11) {
            world.wanted(&certificate).names = names(&["changed.example.com"]);
        }
        let stages = ["intent", "ordered", "validating", "finalizing", "issued", "deploying"];
        if let Some(stage) = stages.get(usize::from(fate.stage)) {
            world.interrupt(&certificate, stage);
        }
        let mut more = world.record(&certificate).issuances[0].clone();
        for n in 0..fate.bits % 8 {
            more.at = at(fate.issued_at.saturating_sub(i64::from(n)).max(Timestamp::MIN.as_second()));
            more.spki = fingerprint(&format!("{certificate} {n}"));
            world.record(&certificate).issuances.push(more.clone());
            world.prior.foreign_issuances.push(more.clone());
        }
        if bit(12) {
            world.desired.certificates.remove(&name(&certificate));
            let to = if bit(13) { name("new") } else { name("c0") };
            world.desired.moved.push(Moved { from: name(&certificate), to });
        }
    }
    world.options.only = only;
    world.now = at(now);
    world
}

fn only() -> impl Strategy<Value = Option<Only>> {
    prop_oneof![Just(None), Just(Some(Only::Config)), Just(Some(Only::Drift)), Just(Some(Only::Renewals))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_world_is_planned_and_in_whatever_order_it_comes_the_bytes_are_the_same(
        fates in prop::collection::vec(fate(), 1..5),
        only in only(),
        now in prop_oneof![1_780_000_000_i64..1_800_000_000, Timestamp::MIN.as_second()..Timestamp::MAX.as_second()],
    ) {
        let mut world = world(&fates, only, now);
        let before = json::to_text(&world.plan());
        for wanted in world.desired.certificates.values_mut() {
            wanted.deploy.reverse();
            for entry in &mut wanted.deploy {
                entry.verify.reverse();
            }
            wanted.verify.reverse();
        }
        for prior in world.prior.certificates.values_mut() {
            prior.record.issuances.reverse();
        }
        for served in world.observed.served.values_mut() {
            served.reverse();
        }
        world.prior.foreign_issuances.reverse();
        prop_assert_eq!(before, json::to_text(&world.plan()));
    }

    #[test]
    fn what_could_not_be_looked_at_never_leads_to_a_removal_or_a_repair(
        fates in prop::collection::vec(fate(), 1..5),
        only in only(),
        now in 1_780_000_000_i64..1_800_000_000,
    ) {
        let mut world = world(&fates, only, now);
        let unknown = || "timed out".to_owned();
        for fact in world.observed.deployments.values_mut() {
            *fact = Fact::Unknown(unknown());
        }
        for served in world.observed.served.values_mut().flatten() {
            served.leaf = Fact::Unknown(unknown());
        }
        let plan = world.plan();
        prop_assert!(plan.drift.is_empty());
        for change in &plan.changes {
            prop_assert!(change.cause != Cause::Drift, "{:?}", change);
            let wanted = change.address.certificate().and_then(|name| world.desired.certificates.get(name));
            let removes = matches!(change.action, Action::Remove | Action::Forget);
            let stays = match &change.address {
                Address::Deployment(_, target) => {
                    wanted.is_some_and(|wanted| wanted.deploy.iter().any(|entry| entry.target == *target))
                }
                Address::Account(_) | Address::Certificate(_) => wanted.is_some(),
            };
            prop_assert!(!(removes && stays), "{:?}", change);
        }
    }

    #[test]
    fn the_clock_alone_asks_for_nothing_but_renewals(
        now in 1_788_220_800_i64..1_900_000_000,
        window in prop::option::of((1_788_220_800_i64..1_796_000_000, 1_i64..1_000_000)),
    ) {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut world = World::shop();
        if let Some((from, length)) = window {
            world.window("shop", &at(from).to_string(), &at(from + length).to_string());
        }
        world.now = at(now);
        let plan = world.plan();
        prop_assert!(plan.changes.iter().all(|change| matches!(change.cause, Cause::Time | Cause::Ca)));
        prop_assert!(plan.changes.len() <= 2 && plan.errors.is_empty());
        // And once it is renewed, nothing is due at that moment.
        if !plan.is_empty() {
            let current = world.current("shop");
            current.facts.not_before = at(now);
            current.facts.not_after = at(now + 90 * 86_400);
            current.facts.fingerprint = fingerprint("renewed");
            current.issued_at = at(now);
            let deployed = world.record("shop").deployments.get_mut(&name("edge")).unwrap();
            deployed.fingerprint = fingerprint("renewed");
            world.holds("shop", "edge", Fact::Present(held(fingerprint("renewed"))));
            let again = world.plan();
            prop_assert!(again.is_empty() && again.deferred.is_empty(), "{:?}", lines(&again));
        }
    }
}
