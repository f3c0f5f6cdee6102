use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::model::Eab;
use crate::model::Failures;
use crate::model::SecretRef;
use crate::plan::ExitClass;
use crate::plan::WaitsFor;

/// The errors of a plan for a new certificate after an edit; nothing is planned then.
fn errors(edit: impl FnOnce(&mut World)) -> Vec<(Option<String>, String, String)> {
    let mut world = World::new_shop();
    edit(&mut world);
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.exit_class(), ExitClass::Error);
    plan.errors
        .iter()
        .map(|error| {
            let about = error.address.as_ref().map(ToString::to_string);
            (about, error.message.clone(), error.help.clone().unwrap_or_default())
        })
        .collect()
}

#[test]
fn without_encryption_nothing_is_issued_and_one_error_says_what_to_add() {
    let errors = errors(|world| {
        world.want("blog", &["blog.example.com"]);
        world.desired.encryption = None;
    });
    let [(None, message, help)] = &errors[..] else { panic!("{errors:?}") };
    assert!(message.starts_with("2 certificates wait for `encryption:`"), "{message}");
    assert!(help.contains("encryption:\n  recipients: [age1...]"), "{help}");
}

#[test]
fn without_encryption_what_is_in_order_stays_in_order() {
    let mut world = World::shop();
    world.desired.encryption = None;
    let plan = world.plan();
    assert!(plan.is_empty() && plan.errors.is_empty());
}

#[test]
fn an_unknown_profile_is_an_error_that_lists_those_of_the_ca() {
    let errors = errors(|world| world.wanted("shop").profile = Some("tlsserver".to_owned()));
    assert_eq!(
        errors,
        [(
            Some("certificate/shop".to_owned()),
            "the issuer `le` has no profile `tlsserver`".to_owned(),
            "the CA offers `classic`, `shortlived`".to_owned()
        )]
    );
}

#[test]
fn a_profile_at_a_ca_without_profiles_is_an_error() {
    let errors = errors(|world| {
        world.wanted("shop").profile = Some("classic".to_owned());
        world.directory().profiles.clear();
    });
    assert_eq!(errors[0].2, "the CA offers no profiles: leave `profile` out");
}

#[test]
fn an_account_that_needs_a_binding_is_one_error_for_all_certificates() {
    let errors = errors(|world| {
        world.want("blog", &["blog.example.com"]);
        world.prior.accounts.clear();
        world.directory().external_account_required = true;
    });
    let [(Some(address), message, _)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(address, "account/le");
    assert!(message.starts_with("2 certificates wait for an account"), "{message}");
    assert!(message.contains("external account binding"), "{message}");
}

#[test]
fn an_account_that_is_there_or_bound_needs_nothing() {
    let edits: [fn(&mut World); 3] = [
        |_| {},
        |world| {
            world.prior.accounts.clear();
            let secret = SecretRef::Env("X".to_owned());
            world.issuer().eab = Some(Eab { key_id: secret.clone(), hmac_key: secret });
        },
        |world| {
            world.prior.accounts.clear();
            world.issuer().account_key = Some(SecretRef::Env("X".to_owned()));
        },
    ];
    for edit in edits {
        let mut world = World::new_shop();
        world.directory().external_account_required = true;
        edit(&mut world);
        assert!(world.plan().errors.is_empty());
    }
}

#[test]
fn terms_of_service_have_to_be_agreed_to() {
    let errors = errors(|world| {
        world.prior.accounts.clear();
        world.issuer().agree_tos = false;
    });
    assert!(errors[0].1.contains("https://ca.example/terms"), "{errors:?}");
    assert!(errors[0].2.contains("agree_tos: true"), "{errors:?}");
}

#[test]
fn a_challenge_that_has_nowhere_to_go_is_an_error_of_its_certificate() {
    for (fact, part) in [
        (
            Fact::Unknown("two providers have the zone `example.com`".to_owned()),
            "two providers have the zone",
        ),
        (Fact::Absent, "no DNS provider in the configuration has a zone"),
    ] {
        let errors = errors(|world| {
            world.observed.challenges.insert(Fqdn::new("shop.example.com").unwrap(), fact);
        });
        assert_eq!(errors.len(), 1, "an apex and its wildcard share a challenge");
        assert!(errors[0].1.contains(part), "{errors:?}");
    }
}

#[test]
fn a_challenge_that_goes_nowhere_matters_only_when_something_is_issued() {
    let mut world = World::shop();
    world.observed.challenges.insert(Fqdn::new("shop.example.com").unwrap(), Fact::Absent);
    assert!(world.plan().errors.is_empty());
    // What was not looked at is not held against it.
    world.observed.challenges.clear();
    world.now = time(LATE);
    assert!(world.plan().errors.is_empty());
}

#[test]
fn a_delegated_challenge_shows_where_it_goes() {
    let mut world = World::new_shop();
    let Some(Fact::Present(location)) =
        world.observed.challenges.get_mut(&Fqdn::new("shop.example.com").unwrap())
    else {
        panic!()
    };
    location.chain.push(Fqdn::new("x.acme.example.net").unwrap());
    let plan = world.plan();
    assert_eq!(
        find(&plan, "certificate/shop").details.challenges,
        BTreeMap::from([("_acme-challenge.shop.example.com".to_owned(), "x.acme.example.net".to_owned())])
    );
}

#[test]
fn a_target_that_cannot_take_the_key_stops_the_order() {
    let errors = errors(|world| {
        world.observed.capabilities.get_mut(&name("edge")).unwrap().key_types = vec![KeyType::Rsa2048];
    });
    assert_eq!(errors[0].0.as_deref(), Some("deployment/shop/edge"));
    assert!(errors[0].2.contains("rsa-2048"), "{errors:?}");
}

#[test]
fn what_failed_waits_until_it_may_be_tried_again() {
    let mut world = World::new_shop();
    let failures = Failures {
        count: 3,
        last: time(EARLY),
        retry_after: time("2026-10-01T01:00:00Z"),
        message: "NXDOMAIN".to_owned(),
    };
    let record = CertificateRecord { failures: Some(failures), ..CertificateRecord::default() };
    world
        .prior
        .certificates
        .insert(name("shop"), PriorCertificate { record: Box::new(record), revision: 1, key_readable: true });
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.next_renewal, None);
    assert_eq!(plan.deferred[0].message, "it failed 3 times in a row: NXDOMAIN");
    assert_eq!(plan.deferred[0].wanted, Reason::CreateBecauseNew);
    assert_eq!(
        (plan.exit_class(), plan.exit_class().code(true), plan.exit_class().code(false)),
        (ExitClass::Deferred, 6, 0)
    );
    world.options.replace = vec![address("certificate/shop")];
    assert_eq!(world.lines().len(), 2, "who asks does not wait");
    world.options.replace.clear();
    world.now = time("2026-10-01T01:00:00Z");
    assert_eq!(world.lines().len(), 2);
    // No longer than an apply would note.
    let failures = world.record("shop").failures.as_mut().unwrap();
    failures.retry_after = time("2200-01-01T00:00:00Z");
    let week = failures.last + Duration::from_secs(8 * 24 * 3_600);
    assert_eq!(world.plan().deferred[0].until, week);
    world.now = week;
    assert_eq!(world.lines().len(), 2);
}

#[test]
fn a_failed_renewal_does_not_hold_back_a_deployment() {
    let mut world = World::shop();
    world.now = time(LATE);
    world.record("shop").failures = Some(Failures {
        count: 1,
        last: time(LATE),
        retry_after: time("2026-11-29T01:00:00Z"),
        message: "429".to_owned(),
    });
    world.deploy("shop", "vault");
    let plan = world.plan();
    assert_eq!(lines(&plan), ["+ deployment/shop/vault config create_because_new"]);
    assert_eq!(plan.deferred.len(), 1);
}

/// Issuances of the names of `shop`, so many hours before `EARLY`.
fn issuances(world: &mut World, hours: &[u64], replaces: bool) -> Vec<Issuance> {
    let names = world.wanted("shop").names.clone();
    hours
        .iter()
        .map(|hour| Issuance {
            at: time(EARLY) - Duration::from_secs(hour * 3_600),
            directory: DIRECTORY.to_owned(),
            names: names.clone(),
            spki: fingerprint(&format!("{hour}")),
            replaces,
        })
        .collect()
}

#[test]
fn the_limit_for_exactly_the_same_names_defers_and_says_until_when() {
    // Issued five times in the last five hours: one more after a fifth of a week since the first.
    let mut world = World::new_shop();
    world.prior.foreign_issuances = issuances(&mut world, &[5, 4, 3, 2, 1], false);
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    let deferral = &plan.deferred[0];
    assert_eq!(deferral.waits_for, WaitsFor::RateLimit);
    assert_eq!(
        deferral.until,
        time(EARLY) - Duration::from_secs(5 * 3_600) + Duration::from_secs(7 * 24 * 3_600 / 5)
    );
    // A request does not change the CA's mind.
    world.options.replace = vec![address("certificate/shop")];
    assert_eq!(world.lines(), [""; 0]);

    for (hours, replaces, directory) in [
        (&[5, 4, 3, 2][..], false, DIRECTORY),
        (&[200, 160, 120, 80, 40], false, DIRECTORY),
        (&[5, 4, 3, 2, 1], true, DIRECTORY),
        (&[5, 4, 3, 2, 1], false, STAGING),
    ] {
        let mut world = World::new_shop();
        world.prior.foreign_issuances = issuances(&mut world, hours, replaces);
        world.issuer().directory = directory.parse().unwrap();
        world.prior.accounts.insert(name("le"), account(directory));
        assert!(world.plan().deferred.is_empty(), "{hours:?} {replaces} {directory}");
    }
}

#[test]
fn the_limit_does_not_hold_for_a_renewal_in_the_window_of_the_ca() {
    let mut world = World::shop();
    world.wanted("shop").profile = Some("shortlived".to_owned());
    world.prior.foreign_issuances = issuances(&mut world, &[5, 4, 3, 2, 1], false);
    assert_eq!(world.plan().deferred.len(), 1);
    world.window("shop", "2026-09-30T12:00:00Z", "2026-10-02T12:00:00Z");
    assert_eq!(find(&world.plan(), "certificate/shop").reason, Reason::ReissueBecauseProfileChanged);
}

#[test]
fn many_new_names_under_a_domain_are_warned_about_once() {
    let mut world = World::empty();
    for i in 0..60 {
        world.want(&format!("c{i}"), &[&format!("c{i}.example.co.uk")]);
    }
    let plan = world.plan();
    assert_eq!(plan.changes.len(), 120);
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].message.contains("`example.co.uk`"), "{:?}", plan.warnings);
}

#[test]
fn the_loop_guard_never_costs_the_certificate() {
    // It ends on the 30th of November, after 90 days: with 15 of them left it waits no longer.
    for (now, waits) in [("2026-11-14T00:00:00Z", true), ("2026-11-16T00:00:00Z", false), (LATE, false)] {
        let mut world = shop_of_another_ca(time(now) - Duration::from_secs(3_600), false);
        world.now = time(now);
        let plan = world.plan();
        assert_eq!(plan.deferred.len(), usize::from(waits), "{now}: {:?}", lines(&plan));
        if waits {
            assert_eq!(plan.deferred[0].waits_for, WaitsFor::LoopGuard);
            assert_eq!(plan.deferred[0].until, time("2026-11-15T00:00:00Z"));
        }
    }
}

#[test]
fn a_clock_that_is_ahead_by_weeks_reissues_no_fleet_again_and_again() {
    // Eighty days ahead, by which it issued five times within hours.
    let now = time(ISSUED) + Duration::from_secs(80 * 24 * 3_600);
    let mut world = shop_of_another_ca(now - Duration::from_secs(3_600), true);
    world.current("shop").issued_at = now - Duration::from_secs(3_600);
    world.observed.clocks.insert(name("le"), SignedDuration::from_hours(80 * 24));
    world.window("shop", "2026-09-02T00:00:00Z", "2026-09-03T00:00:00Z");
    world.now = now + Duration::from_secs(3_600);
    let plan = world.plan();
    assert!(plan.changes.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.deferred[0].waits_for, WaitsFor::LoopGuard);
}

#[test]
fn what_a_wrong_clock_noted_holds_nothing_back() {
    let mut world = World::shop();
    world.now = time(LATE);
    // A failure, and issuances, of next week: of the guard against loops, and of the CA's own limit.
    let next_week = world.now + Duration::from_secs(7 * 24 * 3_600);
    world.prior.foreign_issuances = [true, false]
        .into_iter()
        .flat_map(|replaces| issuances(&mut world, &[5, 4, 3, 2, 1], replaces))
        .map(|issuance| Issuance { at: next_week, ..issuance })
        .collect();
    world.record("shop").failures =
        Some(Failures { count: 1, last: next_week, retry_after: next_week, message: "expired".to_owned() });
    world.current("shop").issued_at = next_week;
    let plan = world.plan();
    assert_eq!(lines(&plan)[0], "~ certificate/shop time renew_because_window", "{:?}", plan.deferred);
}

#[test]
fn a_short_lived_certificate_outlasts_what_a_clock_ahead_noted() {
    const LIFETIME: u64 = 160 * 3_600;
    let hours = |hours: u64| time(ISSUED) + Duration::from_secs(hours * 3_600);
    // It was issued five times by a clock that was ahead by some hours, or by days, and then set.
    for ahead in [1, 20, 5 * 24] {
        let mut world = shop_of_another_ca(hours(ahead), true);
        let current = world.current("shop");
        current.facts.not_before = hours(0);
        current.facts.not_after = hours(0) + Duration::from_secs(LIFETIME);
        current.issued_at = hours(ahead);
        for (hour, waits) in [(90, ahead <= 90), (133, true), (134, false), (170, false)] {
            world.now = hours(hour);
            let plan = world.plan();
            assert_eq!(plan.deferred.len(), usize::from(waits), "{ahead}, {hour}: {:?}", plan.deferred);
        }
    }
}

#[test]
fn a_ca_whose_clock_is_ahead_lets_no_renewal_loop() {
    // The CA, or a proxy before it, tells a time by which each new certificate has all but expired.
    for days in [60, 80, 100] {
        let now = time(ISSUED) + Duration::from_secs(24 * 3_600);
        let mut world = shop_of_another_ca(now - Duration::from_secs(3_600), true);
        world.current("shop").issued_at = now - Duration::from_secs(3_600);
        world.observed.clocks.insert(name("le"), -SignedDuration::from_hours(days * 24));
        world.window("shop", "2026-09-01T00:00:00Z", "2026-09-02T00:00:00Z");
        world.now = now;
        let plan = world.plan();
        assert!(plan.changes.is_empty(), "{days}: {:?}", lines(&plan));
        assert_eq!(plan.deferred[0].waits_for, WaitsFor::LoopGuard);
    }
}

/// A CA without limits of its own that issued the shop's certificate five times.
fn shop_of_another_ca(at: Timestamp, replaces: bool) -> World {
    const DIRECTORY: &str = "https://ca.example/directory";
    let mut world = World::shop();
    world.issuer().directory = DIRECTORY.parse().unwrap();
    world.prior.accounts.insert(name("le"), account(DIRECTORY));
    world.current("shop").directory = DIRECTORY.to_owned();
    world.prior.foreign_issuances = issuances(&mut world, &[5, 4, 3, 2, 1], replaces)
        .into_iter()
        .map(|issuance| Issuance { at, directory: DIRECTORY.to_owned(), ..issuance })
        .collect();
    world
}

#[test]
fn keys_that_who_applies_can_open_are_told_of_once_custody_is_hardened() {
    let warned = |sealed: &[&str], keys: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut world = World::shop();
        world.current("shop").key.recipients = list(sealed);
        world.desired.encryption = Some(Encryption { recipients: list(&["ci"]), keys: list(keys) });
        world.plan().warnings.iter().any(|warning| warning.message.contains("is from before `keys:`"))
    };
    assert!(warned(&["ci"], &["person"]));
    assert!(!warned(&["person"], &["person"]));
    // Other keys since: who applies opens it no more than before.
    assert!(!warned(&["person"], &["another"]));
    assert!(!warned(&["ci"], &[]));
}

#[test]
fn a_key_is_for_who_applies_and_not_for_who_holds_all_keys() {
    let readable = |sealed: &[&str], recipients: &[&str], keys: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut world = World::shop();
        world.current("shop").key.recipients = list(sealed);
        let record = world.record("shop").clone();
        let encryption = Encryption { recipients: list(recipients), keys: list(keys) };
        PriorCertificate::new(Box::new(record), 1, Some(&encryption)).key_readable
    };
    assert!(readable(&["ci"], &["ci", "person"], &[]));
    assert!(!readable(&["person"], &["ci"], &["person"]));
    // As in the example: the person may apply as well, and the schedule cannot open what is sealed to the person.
    assert!(!readable(&["person"], &["ci", "person"], &["person"]));
    assert!(readable(&["ci", "person"], &["ci", "person"], &["person"]));
    assert!(readable(&["person"], &["person"], &["person"]));
}
