use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::model::RenewBefore;
use crate::plan::Basis;
use crate::plan::Only;
use crate::plan::WaitsFor;
use crate::plan::renewal;

const DAY: u64 = 24 * 3_600;

/// The seconds after issuance at which a certificate with this lifetime is due.
fn due(lifetime: u64, before: Option<RenewBefore>) -> (i64, bool) {
    let mut world = World::shop();
    let current = world.current("shop");
    current.facts.not_after = current.facts.not_before + Duration::from_secs(lifetime);
    let renewal = renewal(&current.facts, current.issued_at, before, None, None);
    let after = renewal.at.as_second() - current.facts.not_before.as_second();
    assert!(renewal.not_before <= renewal.at, "the guard never holds back what is due");
    (after, renewal.clamped.is_some())
}

#[test]
fn moving_only_the_clock_yields_exactly_one_renewal_for_time() {
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.settle("blog");
    // The other certificate came later.
    let blog = world.current("blog");
    blog.facts.not_before = time("2026-09-20T00:00:00Z");
    blog.facts.not_after = time("2026-12-19T00:00:00Z");
    assert_eq!(world.lines(), [""; 0]);
    world.now = time("2026-10-30T23:59:59Z");
    assert_eq!(world.lines(), [""; 0], "a second before");
    world.now = time("2026-10-31T00:00:00Z");
    assert_eq!(
        world.lines(),
        [
            "~ certificate/shop time renew_because_window",
            "~ deployment/shop/edge time redeploy_because_reissued",
        ]
    );
    let plan = world.plan();
    let details = &find(&plan, "certificate/shop").details;
    assert_eq!(details.renew_at, Some(time("2026-10-31T00:00:00Z")));
    assert_eq!(details.not_after, Some(time("2026-11-30T00:00:00Z")));
    assert_eq!(plan.next_renewal.unwrap().certificate, name("blog"));
}

#[test]
fn the_default_leaves_a_third_of_the_lifetime_or_half_of_a_short_one() {
    for (lifetime, expected) in [
        (90 * DAY, 60 * DAY),
        (45 * DAY, 30 * DAY),
        (10 * DAY, 10 * DAY - 10 * DAY / 3),
        (10 * DAY - 1, (10 * DAY - 1) / 2),
        (160 * 3_600, 80 * 3_600),
        (60, 30),
        (1, 0),
        (0, 0),
    ] {
        assert_eq!(due(lifetime, None), (expected as i64, false), "{lifetime}");
    }
}

#[test]
fn what_renew_before_says_counts_unless_it_would_loop() {
    let days = |days: u64| Some(RenewBefore::Duration(Duration::from_secs(days * DAY)));
    for (lifetime, before, expected, clamped) in [
        (90 * DAY, days(20), 70 * DAY, false),
        (45 * DAY, days(30), 15 * DAY, false),
        (45 * DAY, days(31), 45 * DAY - 45 * DAY / 2, true),
        (45 * DAY, days(60), 45 * DAY - 45 * DAY / 2, true),
        (45 * DAY, days(u64::MAX / DAY), 45 * DAY - 45 * DAY / 2, true),
        (90 * DAY, days(0), 90 * DAY, false),
        (90 * DAY, Some(RenewBefore::Fraction(1, 2)), 45 * DAY, false),
        (90 * DAY, Some(RenewBefore::Fraction(9, 10)), 45 * DAY, true),
        (90 * DAY, Some(RenewBefore::Fraction(u32::MAX, 1)), 45 * DAY, true),
        (90 * DAY, Some(RenewBefore::Fraction(1, 0)), 60 * DAY, false),
    ] {
        assert_eq!(due(lifetime, before), (expected as i64, clamped), "{lifetime} {before:?}");
    }
}

#[test]
fn a_renewal_that_does_not_fit_the_lifetime_is_warned_about() {
    let mut world = World::shop();
    world.wanted("shop").renew = Some(RenewBefore::Duration(Duration::from_secs(100 * DAY)));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(
        warnings(&plan),
        [
            "`renew.before` of 100 days does not fit the certificate's lifetime of 90 days: half the lifetime is used"
        ]
    );
}

#[test]
fn the_window_of_the_ca_comes_before_the_default() {
    let mut world = World::shop();
    world.window("shop", "2026-10-29T00:00:00Z", "2026-10-29T12:00:00Z");
    world.now = time("2026-10-28T23:59:59Z");
    assert_eq!(world.lines(), [""; 0]);
    world.now = time("2026-10-29T12:00:00Z");
    assert_eq!(
        world.lines(),
        [
            "~ certificate/shop time renew_because_ari",
            "~ deployment/shop/edge time redeploy_because_reissued"
        ]
    );
    let plan = world.plan();
    let details = &find(&plan, "certificate/shop").details;
    assert_eq!(details.window_start, Some(time("2026-10-29T00:00:00Z")));
    assert_eq!(plan.work()[&name("shop")].issue.as_ref().unwrap().replaces.as_deref(), Some("aki.serial"));

    // And a later one holds back what would be due by its lifetime.
    world.window("shop", "2026-11-10T00:00:00Z", "2026-11-11T00:00:00Z");
    world.now = time("2026-11-05T00:00:00Z");
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn the_moment_in_a_window_is_the_same_in_every_run_and_differs_over_a_fleet() {
    let mut world = World::shop();
    world.window("shop", "2026-10-29T00:00:00Z", "2026-10-31T00:00:00Z");
    let ari = world.observed.ari[&name("shop")].present().unwrap().clone();
    let current = world.current("shop");
    let mut moment = |serial: &str, lineage: Option<&str>| {
        current.facts.serial = serial.to_owned();
        let at = renewal(&current.facts, current.issued_at, None, Some(&ari), lineage).at;
        assert!((time("2026-10-29T00:00:00Z")..time("2026-10-31T00:00:00Z")).contains(&at), "{at}");
        at
    };
    assert_eq!(moment("01", Some("a")), moment("01", Some("a")));
    let moments: BTreeSet<_> = (0..100).map(|serial| moment(&serial.to_string(), Some("a"))).collect();
    assert!(moments.len() > 90, "{}", moments.len());
    assert_ne!(moment("01", Some("a")), moment("01", Some("b")));
}

#[test]
fn a_window_well_before_the_usual_time_is_the_cas_doing() {
    let mut world = World::shop();
    world.window("shop", "2026-09-30T22:00:00Z", "2026-09-30T23:00:00Z");
    assert_eq!(world.lines()[0], "~ certificate/shop ca renew_because_ari");
    // Also against what the user wrote.
    world.wanted("shop").renew = Some(RenewBefore::Duration(Duration::from_secs(10 * DAY)));
    assert_eq!(world.lines()[0], "~ certificate/shop ca renew_because_ari");
    // What the user wrote comes before a usual window.
    world.window("shop", "2026-10-29T00:00:00Z", "2026-10-30T00:00:00Z");
    world.now = time("2026-11-01T00:00:00Z");
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn a_window_that_makes_no_sense_is_no_answer() {
    for (from, to) in [
        ("2026-09-30T00:00:00Z", "2026-09-29T00:00:00Z"),
        ("2026-09-30T00:00:00Z", "2026-09-30T00:00:00Z"),
        ("2026-11-30T00:00:00Z", "2026-12-30T00:00:00Z"),
        ("2036-11-30T00:00:00Z", "2036-12-30T00:00:00Z"),
    ] {
        let mut world = World::shop();
        world.window("shop", from, to);
        assert_eq!(world.lines(), [""; 0], "{from} {to}");
        world.now = time("2026-10-31T00:00:00Z");
        assert_eq!(world.lines()[0], "~ certificate/shop time renew_because_window", "{from} {to}");
    }
    // One about another certificate is none either.
    let mut world = World::shop();
    world.window("shop", "2026-09-30T22:00:00Z", "2026-09-30T23:00:00Z");
    let Some(Fact::Present(ari)) = world.observed.ari.get_mut(&name("shop")) else { panic!() };
    ari.fingerprint = fingerprint("another");
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn an_expired_certificate_is_renewed_even_when_the_ca_says_later() {
    let mut world = World::shop();
    world.window("shop", "2026-11-29T23:59:58Z", "2027-11-29T00:00:00Z");
    world.now = time("2026-11-30T00:00:00Z");
    assert_eq!(world.lines()[0], "~ certificate/shop time renew_because_expired");
}

#[test]
fn renewal_information_that_could_not_be_read_leaves_what_state_remembers() {
    let mut world = World::shop();
    world.window("shop", "2026-09-30T22:00:00Z", "2026-09-30T23:00:00Z");
    let Some(Fact::Present(ari)) =
        world.observed.ari.insert(name("shop"), Fact::Unknown("connection refused".to_owned()))
    else {
        panic!()
    };
    world.record("shop").ari = Some(ari);
    let plan = world.plan();
    assert_eq!(find(&plan, "certificate/shop").reason, Reason::RenewBecauseAri);
    assert_eq!(
        warnings(&plan),
        ["the CA's renewal information could not be read for 1 certificate: connection refused"]
    );
    world.observed.ari.insert(name("shop"), Fact::Absent);
    assert_eq!(world.lines(), [""; 0], "the CA offers none any more");
}

#[test]
fn with_the_ca_down_and_nothing_due_there_is_a_plan() {
    let mut world = World::shop();
    world.observed.directories.insert(name("le"), Fact::Unknown("connection refused".to_owned()));
    world.observed.challenges.clear();
    let plan = world.plan();
    assert!(plan.is_empty() && plan.errors.is_empty() && plan.warnings.is_empty(), "{plan:#?}");
    // And when something is due it is planned, with a word about what is not known.
    world.now = time(LATE);
    let plan = world.plan();
    assert_eq!(find(&plan, "certificate/shop").reason, Reason::RenewBecauseWindow);
    assert!(plan.errors.is_empty());
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn a_window_that_is_open_as_soon_as_a_certificate_comes_does_not_loop() {
    let mut world = World::shop();
    world.now = time("2026-09-01T00:30:00Z");
    world.window("shop", "2026-08-01T00:00:00Z", "2026-08-02T00:00:00Z");
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.deferred[0].waits_for, WaitsFor::LoopGuard);
    assert_eq!(plan.deferred[0].until, time("2026-09-01T01:00:00Z"));
    // After an hour it may be an incident.
    world.now = time("2026-09-01T01:00:00Z");
    assert_eq!(world.lines()[0], "~ certificate/shop ca renew_because_ari");
    // But not again and again, though such renewals are exempt from the CA's own limits.
    let (directory, names) = (DIRECTORY.to_owned(), world.wanted("shop").names.clone());
    world.record("shop").issuances = (0..5)
        .map(|hour| Issuance {
            at: time("2026-08-31T00:00:00Z") + Duration::from_secs(hour * 3_600),
            directory: directory.clone(),
            names: names.clone(),
            spki: fingerprint(&hour.to_string()),
            replaces: true,
        })
        .collect();
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.deferred[0].until, time("2026-09-07T00:00:00Z"));
    // Nobody is stopped who asks for it.
    world.options.replace = vec![address("certificate/shop")];
    assert_eq!(find(&world.plan(), "certificate/shop").reason, Reason::ReissueByRequest);
}

#[test]
fn a_certificate_that_has_expired_when_it_comes_does_not_loop() {
    let mut world = World::shop();
    world.current("shop").issued_at = time("2027-01-01T00:00:00Z");
    world.now = time("2027-01-01T12:00:00Z");
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.deferred[0].until, time("2027-01-02T00:00:00Z"));
    world.now = time("2027-01-02T00:00:00Z");
    assert_eq!(world.lines()[0], "~ certificate/shop time renew_because_expired");
}

#[test]
fn certificates_that_live_for_seconds_renew_by_themselves() {
    let mut world = World::shop();
    let current = world.current("shop");
    current.facts.not_after = current.facts.not_before + Duration::from_secs(40);
    current.directory = "https://127.0.0.1/directory".to_owned();
    world.issuer().directory = "https://127.0.0.1/directory".parse().unwrap();
    world.record("shop").issuances[0].directory = "https://127.0.0.1/directory".to_owned();
    world.now = time("2026-09-01T00:00:19Z");
    assert_eq!(world.lines(), [""; 0]);
    world.now = time("2026-09-01T00:00:20Z");
    assert!(world.lines().contains(&"~ certificate/shop time renew_because_window".to_owned()));
}

#[test]
fn a_configuration_that_changed_holds_back_the_schedule_with_a_word() {
    let mut world = World::shop();
    world.now = time(LATE);
    world.wanted("shop").names = names(&["shop.example.com"]);
    world.options.only = Some(Only::Renewals);
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(plan.left_out.config, 1);
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn the_basis_says_which_rule_was_used() {
    let mut world = World::shop();
    let current = world.current("shop");
    let basis = |before| renewal(&current.facts, current.issued_at, before, None, None).basis;
    assert_eq!(basis(None), Basis::Lifetime);
    assert_eq!(basis(Some(RenewBefore::Fraction(1, 3))), Basis::Configured);
}

#[test]
fn what_is_due_by_this_clock_or_by_that_of_the_ca_is_due() {
    let hours = SignedDuration::from_hours;
    let at = |now: &str, ahead: SignedDuration| {
        let mut world = World::shop();
        world.now = time(now);
        world.observed.clocks.insert(name("le"), ahead);
        world.plan()
    };
    // Nobody knows whose is wrong: a renewal too many is better than none.
    let ahead = at(LATE, hours(30 * 24));
    assert_eq!(lines(&ahead)[0], "~ certificate/shop time renew_because_window");
    assert_eq!(
        warnings(&ahead),
        ["this machine's clock is 30 days ahead of that of the CA: what is due by either is due"]
    );
    let behind = at(EARLY, -hours(45 * 24));
    assert_eq!(lines(&behind)[0], "~ certificate/shop time renew_because_window");
    assert!(
        warnings(&behind)[0].contains("clock is 45 days behind that of the CA"),
        "{:?}",
        warnings(&behind)
    );
    assert!(at(EARLY, hours(45 * 24)).changes.is_empty());
    // Minutes are nothing.
    for ahead in [SignedDuration::from_mins(4), SignedDuration::from_mins(-5)] {
        let plan = at(LATE, ahead);
        assert_eq!((plan.changes.len(), warnings(&plan)), (2, Vec::new()), "{ahead}");
    }
    // Nor does one issuer say anything of another's.
    let mut world = World::shop();
    world.observed.clocks.insert(name("other"), -hours(60 * 24));
    assert!(world.plan().changes.is_empty());
    // Whatever a server says that means harm.
    for ahead in [SignedDuration::MAX, SignedDuration::MIN] {
        let plan = at(EARLY, ahead);
        assert_eq!((plan.errors.len(), plan.warnings.len()), (0, 1), "{:?}", lines(&plan));
    }
}

#[test]
fn a_clock_from_before_its_certificates_is_an_error_of_their_issuer() {
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.settle("blog");
    world.now = time("1970-01-01T00:00:00Z");
    let plan = world.plan();
    assert!(plan.changes.is_empty());
    let [error] = <[_; 1]>::try_from(plan.errors).unwrap();
    assert_eq!(error.address, Some(address("account/le")), "other issuers' certificates are not held up");
    let message = error.message;
    assert!(
        message.starts_with("this machine's clock says 1970-01-01 00:00 UTC, and certificate/"),
        "{message}"
    );
    assert!(message.contains(", and 1 more later than now: what is due cannot be judged"), "{message}");
    // A CA dates back, or its clock is some minutes ahead; one that is behind itself says nothing of this one.
    for (before, errors) in [(59, 0), (61, 1)] {
        world.now = time(ISSUED) - SignedDuration::from_mins(before);
        assert_eq!(world.plan().errors.len(), errors, "{before}");
    }
    world.now = time(EARLY);
    world.observed.clocks.insert(name("le"), SignedDuration::from_hours(60 * 24));
    assert_eq!(world.plan().errors.len(), 0);
}
