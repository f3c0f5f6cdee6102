use jiff::SignedDuration;

use super::*;
use crate::model::OnRemove;
use crate::plan::Only;
use crate::plan::Step;

#[test]
fn reality_that_differs_is_drift_with_both_fingerprints() {
    let other = fingerprint("other");
    let nothing = Deployed { deviations: vec!["key.pem is missing".to_owned()], ..Deployed::default() };
    let mut off = held(fingerprint("shop"));
    off.deviations = vec!["mode is 0644, not 0640".to_owned()];
    for (fact, action, reason, found) in [
        (Fact::Present(held(other)), "~", "redeploy_because_target_differs", Some(other)),
        (Fact::Present(nothing), "~", "redeploy_because_target_differs", None),
        (Fact::Absent, "+", "redeploy_because_target_is_empty", None),
        (Fact::Present(off), "~", "redeploy_because_target_deviates", Some(fingerprint("shop"))),
    ] {
        let mut world = World::shop();
        world.holds("shop", "edge", fact);
        let plan = world.plan();
        assert_eq!(lines(&plan), [format!("{action} deployment/shop/edge drift {reason}")]);
        let change = find(&plan, "deployment/shop/edge");
        assert_eq!((change.details.fingerprint, change.details.found), (Some(fingerprint("shop")), found));
        assert_eq!(plan.drift.len(), 1);
        assert_eq!(plan.drift[0].details, change.details);
    }
}

#[test]
fn a_certificate_is_never_replaced_by_an_older_one_unless_that_is_asked_for() {
    let newer = |change: fn(&mut Deployed)| {
        let mut held = Deployed {
            not_after: Some(time("2099-01-01T00:00:00Z")),
            not_before: Some(time(EARLY)),
            names: Some(vec!["*.shop.example.com".to_owned(), "shop.example.com".to_owned()]),
            ..held(fingerprint("from elsewhere"))
        };
        change(&mut held);
        Fact::Present(held)
    };
    let mut world = World::shop();
    for held in [
        newer(|_| {}),
        newer(|held| held.names = None),
        newer(|held| held.not_before = None),
        newer(|held| held.fingerprint = None),
    ] {
        world.holds("shop", "edge", held.clone());
        let plan = world.plan();
        assert!(plan.changes.is_empty(), "{held:?}: {:?}", lines(&plan));
        assert_eq!(plan.errors.len(), 1, "{held:?}");
        let error = &plan.errors[0];
        assert_eq!(error.address, Some(address("deployment/shop/edge")));
        assert!(error.message.contains("until 2099-01-01 00:00 UTC"), "{error:?}");
        assert!(error.help.as_ref().unwrap().contains("--replace deployment/shop/edge"), "{error:?}");
    }
    world.options.replace = vec![address("deployment/shop/edge")];
    assert_eq!(world.lines(), ["~ deployment/shop/edge request redeploy_by_request"]);

    let older = |held: &mut Deployed| held.not_after = Some(time(ISSUED));
    for held in [
        newer(older),
        newer(|held| held.self_signed = true),
        newer(|held| held.names = Some(vec!["example.com".to_owned()])),
        newer(|held| held.names = Some(Vec::new())),
        // Put back by hand, from before certificates had a shorter lifetime.
        newer(|held| held.not_before = Some(time("2026-08-31T00:00:00Z"))),
        newer(|held| held.not_after = None),
    ] {
        let mut world = World::shop();
        world.holds("shop", "edge", held.clone());
        let plan = world.plan();
        assert_eq!(
            lines(&plan),
            ["~ deployment/shop/edge drift redeploy_because_target_differs"],
            "{held:?}"
        );
        assert!(plan.errors.is_empty(), "{held:?}");
    }

    // What was there before, of a longer lifetime, is nothing that state does not know.
    let mut world = World::shop();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().fingerprint =
        fingerprint("from elsewhere");
    world.holds("shop", "edge", newer(|_| {}));
    assert_eq!(world.lines(), ["~ deployment/shop/edge time redeploy_because_outdated"]);

    // A name that is wanted since says nothing of what is current.
    let mut world = World::shop();
    world.holds("shop", "edge", newer(|_| {}));
    world.wanted("shop").names = names(&["shop.example.com", "new.example.com"]);
    world.options.only = Some(Only::Drift);
    assert_eq!(world.plan().errors.len(), 1);

    // What is not selected is no error.
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.holds("shop", "edge", newer(|_| {}));
    world.options.selection.addresses = vec!["certificate/blog".to_owned()];
    assert!(world.plan().errors.is_empty());

    // A renewal is newer than anything.
    let mut world = World::shop();
    world.holds("shop", "edge", newer(|_| {}));
    world.now = time(LATE);
    let plan = world.plan();
    assert!(plan.errors.is_empty() && plan.changes.len() == 2, "{:?} {:?}", lines(&plan), plan.errors);
}

#[test]
fn what_could_not_be_looked_at_is_never_deployed_or_removed() {
    let mut world = World::shop();
    world.holds("shop", "edge", Fact::Unknown("connection refused".to_owned()));
    let plan = world.plan();
    assert!(plan.is_empty() && plan.drift.is_empty());
    assert_eq!(warnings(&plan), ["what the target holds could not be read: connection refused"]);
}

#[test]
fn a_target_that_tells_no_certificates_is_compared_by_what_it_tells() {
    for (serial, expected) in [(None, 0), (Some("00c0ffee"), 0), (Some("01"), 1)] {
        let mut world = World::shop();
        world.observed.capabilities.get_mut(&name("edge")).unwrap().read_back = ReadBack::Metadata;
        let mut deployed = held(fingerprint("shop"));
        deployed.fingerprint = None;
        deployed.serial = serial.map(str::to_owned);
        world.holds("shop", "edge", Fact::Present(deployed));
        assert_eq!(world.plan().changes.len(), expected, "{serial:?}");
    }
}

#[test]
fn a_new_entry_deploys_what_is_there() {
    let mut world = World::shop();
    world.deploy("shop", "vault");
    let plan = world.plan();
    assert_eq!(lines(&plan), ["+ deployment/shop/vault config create_because_new"]);
    let work = &plan.work()[&name("shop")];
    assert!(work.issue.is_none() && !work.archive);
    assert_eq!((work.deploy.len(), work.base_revision), (1, 7));
}

#[test]
fn another_place_is_deployed_to_before_the_old_one_is_removed() {
    let mut world = World::shop();
    let moved = Slot { location: "/etc/tls".to_owned(), ..slot("shop", "edge") };
    world.observed.slots.insert((name("shop"), name("edge")), moved.clone());
    let plan = world.plan();
    assert_eq!(lines(&plan), ["+/- deployment/shop/edge config redeploy_because_slot_changed"]);
    let change = find(&plan, "deployment/shop/edge");
    let Step::Deploy(step) = &change.steps[0] else { panic!("{change:?}") };
    assert_eq!((step.slot.as_ref(), step.moves_from.as_ref()), (Some(&moved), Some(&slot("shop", "edge"))));
    assert_eq!((plan.summary().add, plan.summary().remove), (1, 1));

    // With a renewal at the same time the move is still one.
    world.now = time(LATE);
    let plan = world.plan();
    assert_eq!(find(&plan, "deployment/shop/edge").action, Action::CreateThenRemove);
    assert_eq!(plan.work()[&name("shop")].deploy[0].moves_from, Some(slot("shop", "edge")));
}

#[test]
fn other_parameters_at_the_same_place_are_deployed_again() {
    let mut world = World::shop();
    let slot = Slot { parameters: json!({ "mode": "0600" }), ..slot("shop", "edge") };
    world.observed.slots.insert((name("shop"), name("edge")), slot);
    assert_eq!(world.lines(), ["~ deployment/shop/edge config redeploy_because_parameters_changed"]);
}

#[test]
fn a_deployment_that_was_left_behind_is_made_up_for() {
    let mut world = World::shop();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().fingerprint = fingerprint("previous");
    world.holds("shop", "edge", Fact::Present(held(fingerprint("previous"))));
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ deployment/shop/edge time redeploy_because_outdated"]);
    assert!(plan.drift.is_empty(), "the target holds what state says");
}

#[test]
fn an_endpoint_that_serves_something_else_is_deployed_again_where_it_belongs() {
    let mut world = World::shop();
    world.wanted("shop").deploy[0].verify = vec![endpoint("shop.example.com")];
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("old")));
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ deployment/shop/edge drift redeploy_because_served_differs"]);
    let details = &find(&plan, "deployment/shop/edge").details;
    assert_eq!(details.endpoints, ["shop.example.com:443"]);
    assert_eq!((details.fingerprint, details.found), (Some(fingerprint("shop")), Some(fingerprint("old"))));

    // With one deployment, the certificate's endpoints are its own.
    world.wanted("shop").deploy[0].verify.clear();
    world.wanted("shop").verify = vec![endpoint("shop.example.com")];
    assert_eq!(world.lines(), ["~ deployment/shop/edge drift redeploy_because_served_differs"]);

    // With two, nobody knows which of them it is.
    world.deploy("shop", "vault");
    world.settle("shop");
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("old")));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!((plan.drift.len(), plan.warnings.len()), (1, 1));
}

#[test]
fn an_endpoint_that_does_not_answer_is_a_warning() {
    for fact in [Fact::Unknown("timed out".to_owned()), Fact::Absent] {
        let mut world = World::shop();
        world.wanted("shop").verify = vec![endpoint("shop.example.com")];
        world.serves("shop", &[endpoint("shop.example.com")], fact);
        let plan = world.plan();
        assert!(plan.is_empty() && plan.drift.is_empty());
        assert_eq!(plan.warnings.len(), 1);
    }
}

#[test]
fn drift_is_told_even_when_the_certificate_is_reissued_anyway() {
    let mut world = World::shop();
    world.now = time(LATE);
    world.holds("shop", "edge", Fact::Absent);
    let plan = world.plan();
    assert_eq!(find(&plan, "deployment/shop/edge").reason, Reason::RedeployBecauseReissued);
    assert_eq!(plan.drift[0].reason, Reason::RedeployBecauseTargetIsEmpty);
}

#[test]
fn what_needs_a_key_that_nobody_here_can_open_is_a_reissue() {
    let sealed = |edit: fn(&mut World)| {
        let mut world = World::shop();
        world.prior.certificates.get_mut(&name("shop")).unwrap().key_readable = false;
        edit(&mut world);
        world
    };
    assert_eq!(sealed(|_| {}).lines(), [""; 0], "nothing needs it");
    assert_eq!(
        sealed(|world| world.deploy("shop", "vault")).lines(),
        [
            "~ certificate/shop config reissue_because_key_sealed",
            "~ deployment/shop/edge config redeploy_because_reissued",
            "+ deployment/shop/vault config create_because_new",
        ]
    );
    assert_eq!(
        sealed(|world| world.holds("shop", "edge", Fact::Absent)).lines(),
        [
            "~ certificate/shop drift reissue_because_key_sealed",
            "~ deployment/shop/edge drift redeploy_because_reissued",
        ]
    );
    // A removal needs no key.
    let world = sealed(|world| world.wanted("shop").deploy.clear());
    assert_eq!(world.lines(), ["- deployment/shop/edge config delete_because_no_resource_config"]);
    // Neither does an operation that is open, for its key is handed over.
    let world = sealed(|world| {
        world.deploy("shop", "vault");
        world.interrupt("shop", "deploying");
    });
    assert!(!world.lines().contains(&"~ certificate/shop config reissue_because_key_sealed".to_owned()));
}

#[test]
fn certificates_are_not_spent_on_an_endpoint_that_may_never_be_ours() {
    let mut world = World::shop();
    world.prior.certificates.get_mut(&name("shop")).unwrap().key_readable = false;
    world.wanted("shop").verify = vec![endpoint("shop.example.com")];
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("old")));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!((plan.drift.len(), plan.warnings.len()), (1, 1));
}

#[test]
fn a_sealed_key_and_a_certificate_left_out_is_an_error_that_says_so() {
    let mut world = World::shop();
    world.prior.certificates.get_mut(&name("shop")).unwrap().key_readable = false;
    world.deploy("shop", "vault");
    world.options.selection.addresses = vec!["deployment/shop/vault".to_owned()];
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.errors[0].help.as_deref(), Some("select `certificate/shop` as well"));
}

#[test]
fn custody_is_read_from_the_configuration() {
    let mut world = World::shop();
    let record = world.record("shop").clone();
    let readable = |recipients: &[&str], keys: &[&str]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let encryption = Encryption { recipients: texts(recipients), keys: texts(keys) };
        PriorCertificate::new(Box::new(record.clone()), 1, Some(&encryption)).key_readable
    };
    assert!(readable(&["age1ci", "age1me"], &[]));
    assert!(!readable(&["age1other"], &["age1ci"]), "only the holders of `keys:`");
}

#[test]
fn a_target_of_another_kind_under_the_same_name_is_an_error() {
    let mut world = World::shop();
    world.desired.targets.get_mut(&name("edge")).unwrap().kind = "ssh".to_owned();
    world.now = time(LATE);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ certificate/shop time renew_because_window"]);
    assert!(messages(&plan)[0].contains("was of the kind `files` and is `ssh` now"), "{:?}", plan.errors);
}

#[test]
fn what_a_removal_goes_by_is_remembered_when_it_changes() {
    let mut world = World::shop();
    let entry = &mut world.wanted("shop").deploy[0];
    entry.on_remove = OnRemove::Keep;
    entry.verify = vec![endpoint("shop.example.com")];
    assert_eq!(world.lines(), ["~ deployment/shop/edge config update_because_settings_changed"]);
    let plan = world.plan();
    let changed = &plan.changes[0].details.changed;
    assert_eq!(changed["on_remove"].after.as_deref(), Some("keep"));
    assert_eq!(changed["verify"].after.as_deref(), Some("shop.example.com:443"));
    let work = &plan.work()[&name("shop")];
    assert_eq!((work.record.as_slice(), work.deploy.len()), ([name("edge")].as_slice(), 0));
    // A deployment that is made anyway remembers it by itself.
    world.holds("shop", "edge", Fact::Absent);
    assert_eq!(world.lines(), ["+ deployment/shop/edge drift redeploy_because_target_is_empty"]);
}

#[test]
fn a_resumption_is_reviewed_with_its_deployments_in_whatever_order_they_stand() {
    let digest = |edit: fn(&mut World)| {
        let mut world = World::shop();
        world.deploy("shop", "vault");
        world.settle("shop");
        world.interrupt("shop", "deploying");
        edit(&mut world);
        let plan = world.plan();
        plan.changes.iter().find(|change| change.address == address("certificate/shop")).unwrap().digest()
    };
    let reviewed = digest(|_| {});
    assert_eq!(digest(|world| world.wanted("shop").deploy.reverse()), reviewed);
    let edited = digest(|world| {
        world.desired.targets.get_mut(&name("edge")).unwrap().block = json!({ "reload": ["another"] });
    });
    assert_ne!(edited, reviewed);
}

#[test]
fn an_order_that_is_older_than_what_serves_is_finished_and_not_deployed() {
    let held = |begins: &str| {
        Fact::Present(Deployed {
            not_before: Some(time(begins)),
            not_after: Some(time("2099-01-01T00:00:00Z")),
            names: Some(vec!["*.shop.example.com".to_owned(), "shop.example.com".to_owned()]),
            ..held(fingerprint("from elsewhere"))
        })
    };
    let mut world = World::shop();
    let started = world.interrupt("shop", "finalizing").started;
    for (begins, deploys) in
        [(started - SignedDuration::from_hours(2), 1), (started + SignedDuration::from_hours(2), 0)]
    {
        world.holds("shop", "edge", held(&begins.to_string()));
        let plan = world.plan();
        let deployed =
            plan.changes.iter().filter(|change| matches!(change.address, Address::Deployment(..))).count();
        assert_eq!((deployed, plan.errors.len()), (deploys, 1 - deploys), "{begins}: {:?}", lines(&plan));
        assert!(plan.changes.iter().any(|change| change.address == address("certificate/shop")), "{begins}");
    }
}

#[test]
fn where_something_of_somebody_else_stands_nothing_is_deployed() {
    let mut world = World::shop();
    let foreign = "`shop` is a folder that certplan did not make".to_owned();
    let held =
        Deployed { refusal: Some(foreign.clone()), deviations: vec![foreign.clone()], ..Deployed::default() };
    world.holds("shop", "edge", Fact::Present(held));
    let plan = world.plan();
    assert_eq!((lines(&plan), plan.drift.len()), (Vec::new(), 1));
    assert_eq!(messages(&plan), [format!("the target would not take it: {foreign}")]);
    // The renewal is not held up by it.
    world.now = time(LATE);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ certificate/shop time renew_because_window"]);
    assert_eq!(plan.errors.len(), 1);
    // Nor is a move to another place.
    world.now = time(EARLY);
    let moved = Slot { location: "/etc/tls".to_owned(), ..slot("shop", "edge") };
    world.observed.slots.insert((name("shop"), name("edge")), moved);
    assert_eq!(world.lines(), ["+/- deployment/shop/edge config redeploy_because_slot_changed"]);
}
