use super::*;
use crate::model::Failures;
use crate::plan::Only;
use crate::plan::ResumeStep;

fn resume(plan: &Plan) -> (Option<ResumeStep>, bool) {
    let work = plan.work();
    let work = &work[&name("shop")];
    (work.resume.clone(), work.issue.is_some())
}

#[test]
fn an_interrupted_operation_is_finished_and_deployed() {
    for stage in ["intent", "ordered", "validating", "finalizing"] {
        let mut world = World::new_shop();
        world.interrupt("shop", stage);
        let plan = world.plan();
        assert_eq!(
            lines(&plan),
            [
                "+ certificate/shop config resume_interrupted_operation",
                "+ deployment/shop/edge config create_because_new",
            ],
            "{stage}"
        );
        let (step, issues) = resume(&plan);
        let step = step.unwrap();
        assert_eq!((step.abandon, step.issuer, issues), (false, Some(name("le")), false), "{stage}");
        assert_eq!(find(&plan, "certificate/shop").details.operation_stage.as_deref(), Some(stage));
    }
}

#[test]
fn an_interrupted_renewal_keeps_its_cause() {
    let mut world = World::shop();
    world.interrupt("shop", "validating").cause = "time".to_owned();
    assert_eq!(
        world.lines(),
        [
            "~ certificate/shop time resume_interrupted_operation",
            "~ deployment/shop/edge time redeploy_because_reissued",
        ]
    );
}

#[test]
fn an_operation_that_only_deploys_what_is_left_is_closed() {
    let mut world = World::shop();
    world.interrupt("shop", "deploying");
    let recorded = world.record("shop").deployments.get_mut(&name("edge")).unwrap();
    recorded.fingerprint = fingerprint("previous");
    assert_eq!(
        world.lines(),
        [
            "~ certificate/shop config resume_interrupted_operation",
            "~ deployment/shop/edge config redeploy_because_outdated",
        ]
    );
    let plan = world.plan();
    let (step, issues) = resume(&plan);
    assert_eq!((step.unwrap().abandon, issues), (false, false));
    assert!(plan.drift.is_empty(), "what the interrupted run had deployed is no drift");
}

#[test]
fn what_is_no_longer_wanted_is_cleaned_up_and_ordered_anew() {
    let edits: [fn(&mut World); 4] = [
        |world| world.wanted("shop").names = names(&["shop.example.com"]),
        |world| world.wanted("shop").profile = Some("shortlived".to_owned()),
        |world| world.wanted("shop").key.key_type = KeyType::Rsa2048,
        |world| world.wanted("shop").preferred_chain = Some("X2".to_owned()),
    ];
    for edit in edits {
        let mut world = World::new_shop();
        world.interrupt("shop", "validating");
        edit(&mut world);
        let plan = world.plan();
        let (step, issues) = resume(&plan);
        assert_eq!((step.unwrap().abandon, issues), (true, true));
        let change = find(&plan, "certificate/shop");
        assert_eq!(change.reason, Reason::CreateBecauseNew);
        assert_eq!(change.also, [Reason::ResumeInterruptedOperation]);
    }
}

#[test]
fn what_is_no_longer_wanted_and_equals_what_is_there_is_only_cleaned_up() {
    let mut world = World::shop();
    world.interrupt("shop", "validating").names = names(&["other.example.com"]);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ certificate/shop config resume_interrupted_operation"]);
    let (step, issues) = resume(&plan);
    assert_eq!((step.unwrap().abandon, issues), (true, false));
}

#[test]
fn a_certificate_that_may_exist_is_fetched_before_anything_else() {
    let mut world = World::shop();
    world.interrupt("shop", "finalizing");
    world.wanted("shop").names = names(&["shop.example.com"]);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ certificate/shop config resume_interrupted_operation"]);
    let (step, issues) = resume(&plan);
    assert_eq!((step.unwrap().abandon, issues), (false, false));
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);

    // Unless nobody can be asked for it any more.
    world.issuer().directory = STAGING.parse().unwrap();
    let (step, issues) = resume(&world.plan());
    assert_eq!((step.unwrap().abandon, issues), (true, true));
}

#[test]
fn an_operation_that_is_due_again_before_it_was_deployed_is_cleaned_up_first() {
    let mut world = World::shop();
    world.interrupt("shop", "deploying");
    world.now = time(LATE);
    let plan = world.plan();
    assert_eq!(find(&plan, "certificate/shop").reason, Reason::RenewBecauseWindow);
    let (step, issues) = resume(&plan);
    assert_eq!((step.unwrap().abandon, issues), (true, true));
}

#[test]
fn a_provider_that_is_gone_and_still_holds_values_is_an_error() {
    for stage in ["validating", "deploying"] {
        let mut world = World::shop();
        world.interrupt("shop", stage);
        world.desired.dns.clear();
        let plan = world.plan();
        assert!(plan.is_empty(), "{stage} {:?}", lines(&plan));
        assert!(
            messages(&plan)[0].contains("`ns` is gone from the configuration and still holds 1 TXT value")
        );
    }
}

#[test]
fn an_operation_that_failed_waits_unless_the_configuration_changed() {
    let mut world = World::new_shop();
    world.interrupt("shop", "validating");
    world.record("shop").failures = Some(Failures {
        count: 1,
        last: time(EARLY),
        retry_after: time("2026-10-01T01:00:00Z"),
        message: "NXDOMAIN".to_owned(),
    });
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.deferred[0].wanted, Reason::ResumeInterruptedOperation);
    world.wanted("shop").names = names(&["shop.example.com"]);
    let (step, issues) = resume(&world.plan());
    assert_eq!(
        (step.unwrap().abandon, issues),
        (true, true),
        "the old failure says nothing about the new names"
    );
}

#[test]
fn the_schedule_finishes_what_was_interrupted_whatever_its_cause() {
    for (only, expected) in [(Only::Renewals, 2), (Only::Config, 2), (Only::Drift, 0)] {
        let mut world = World::new_shop();
        world.interrupt("shop", "validating");
        world.options.only = Some(only);
        assert_eq!(world.plan().work().len(), usize::from(expected > 0), "{only:?}");
    }
}

#[test]
fn an_operation_from_a_forged_journal_is_nothing_worse_than_interrupted() {
    let mut world = World::new_shop();
    let operation = world.interrupt("shop", "validating");
    operation.cause = "\u{1b}[31m".to_owned();
    operation.issuer = name("nobody");
    let plan = world.plan();
    let (step, issues) = resume(&plan);
    assert_eq!((step.unwrap().abandon, issues), (true, true));
    assert_eq!(find(&plan, "certificate/shop").cause, Cause::Config);
}

#[test]
fn what_a_plan_has_to_do_is_told_without_sorting_it_by_certificate() {
    let mut interrupted = World::shop();
    interrupted.interrupt("shop", "finalizing");
    for world in [World::shop(), World::new_shop(), interrupted] {
        let plan = world.plan();
        let work = plan.work();
        assert_eq!(plan.certificates_at_work(), work.keys().collect());
        assert_eq!(
            plan.issues().collect::<Vec<_>>(),
            work.values().filter_map(|work| work.issue.as_ref()).collect::<Vec<_>>()
        );
        let resumed = work.values().filter(|work| work.resume.is_some());
        assert_eq!(plan.resumed(), resumed.map(|work| &work.name).collect());
    }
}
