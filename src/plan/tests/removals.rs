use super::*;
use crate::model::Moved;
use crate::plan::ExitClass;
use crate::plan::Step;
use crate::plan::change::Risk;

/// `shop` left the configuration, and `blog` is still there.
fn without_shop() -> World {
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.settle("blog");
    world.desired.certificates.remove(&name("shop"));
    world
}

#[test]
fn a_certificate_that_is_gone_is_undeployed_and_archived() {
    let plan = without_shop().plan();
    assert_eq!(
        lines(&plan),
        [
            "- certificate/shop config delete_because_no_resource_config",
            "- deployment/shop/edge config delete_because_no_resource_config",
        ]
    );
    let work = &plan.work()[&name("shop")];
    assert!(work.archive && work.resume.is_none() && work.issue.is_none());
    assert_eq!((work.remove[0].target.as_str(), &work.remove[0].slot), ("edge", &slot("shop", "edge")));
}

#[test]
fn an_empty_configuration_removes_nothing() {
    let mut world = World::shop();
    world.desired.certificates.clear();
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn a_removed_entry_is_removed_or_forgotten_as_it_said_when_it_was_deployed() {
    for (on_remove, line) in [
        (OnRemove::Remove, "- deployment/shop/edge config delete_because_no_resource_config"),
        (OnRemove::Keep, ". deployment/shop/edge config forget_because_kept"),
    ] {
        let mut world = World::shop();
        world.record("shop").deployments.get_mut(&name("edge")).unwrap().on_remove = on_remove;
        world.wanted("shop").deploy.clear();
        assert_eq!(world.lines(), [line]);
    }
}

/// Refused, unless it is allowed by this address.
fn is_refused(mut world: World, removed: &str, allow: &str) {
    let plan = world.plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!((plan.exit_class(), plan.exit_class().code(false)), (ExitClass::Refused, 7));
    assert!(
        plan.errors[0].help.as_ref().unwrap().contains(&format!("--allow-remove {allow}")),
        "{:?}",
        plan.errors
    );
    world.options.allow_remove = vec![address("certificate/other")];
    let plan = world.plan();
    assert_eq!(plan.exit_class(), ExitClass::Refused);
    // Most likely a slip of the hand, or what was removed long ago.
    let warned: Vec<&Option<Address>> = plan.warnings.iter().map(|warning| &warning.address).collect();
    assert_eq!(warned, [&Some(address("certificate/other"))]);
    world.options.allow_remove = vec![address(allow)];
    let plan = world.plan();
    assert_eq!(plan.exit_class(), ExitClass::Changes);
    assert!(!plan.warnings.iter().any(|warning| warning.message.contains("--allow-remove")));
    assert!(find(&plan, removed).risks.contains(&Risk::RemovesServing));
}

#[test]
fn a_certificate_that_still_serves_is_not_removed() {
    let mut world = without_shop();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().verify =
        vec![endpoint("shop.example.com")];
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("shop")));
    is_refused(world, "deployment/shop/edge", "certificate/shop");
}

#[test]
fn a_deployment_that_still_serves_is_not_removed() {
    let mut world = World::shop();
    world.wanted("shop").deploy.clear();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().verify =
        vec![endpoint("shop.example.com")];
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("shop")));
    is_refused(world, "deployment/shop/edge", "deployment/shop/edge");
}

#[test]
fn what_was_not_looked_at_may_still_serve() {
    let mut world = without_shop();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().verify =
        vec![endpoint("shop.example.com")];
    world.options.refreshed = false;
    is_refused(world, "deployment/shop/edge", "certificate/shop");
}

#[test]
fn what_serves_something_else_is_removed() {
    for fact in [Fact::Present(fingerprint("another")), Fact::Absent] {
        let mut world = without_shop();
        world.record("shop").deployments.get_mut(&name("edge")).unwrap().verify =
            vec![endpoint("shop.example.com")];
        world.serves("shop", &[endpoint("shop.example.com")], fact);
        let plan = world.plan();
        assert_eq!((plan.changes.len(), plan.warnings.len()), (2, 0));
    }
}

#[test]
fn what_does_not_answer_may_still_serve() {
    let mut world = without_shop();
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().verify =
        vec![endpoint("shop.example.com")];
    world.serves("shop", &[endpoint("shop.example.com")], Fact::Unknown("timed out".to_owned()));
    is_refused(world, "deployment/shop/edge", "certificate/shop");
}

#[test]
fn a_deployment_beside_another_that_serves_the_same_place_is_removed() {
    let mut world = World::shop();
    world.deploy("shop", "vault");
    for entry in &mut world.wanted("shop").deploy {
        entry.verify = vec![endpoint("shop.example.com")];
    }
    world.settle("shop");
    world.wanted("shop").deploy.remove(1);
    assert_eq!(world.lines(), ["- deployment/shop/vault config delete_because_no_resource_config"]);
}

#[test]
fn a_target_that_is_gone_and_still_holds_something_is_an_error() {
    let mut world = World::shop();
    world.wanted("shop").deploy.clear();
    world.desired.targets.remove(&name("edge"));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.exit_class(), ExitClass::Error);
    assert!(plan.errors[0].help.as_ref().unwrap().contains("write `edge: { files: ... }` under `targets:`"));

    // What is kept is only forgotten, which takes no target.
    world.record("shop").deployments.get_mut(&name("edge")).unwrap().on_remove = OnRemove::Keep;
    assert_eq!(world.lines(), [". deployment/shop/edge config forget_because_kept"]);
}

#[test]
fn nothing_is_archived_while_something_of_it_is_deployed() {
    let mut world = without_shop();
    world.desired.targets.remove(&name("edge"));
    world.wanted("blog").deploy.clear();
    world.record("blog").deployments.clear();
    let plan = world.plan();
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.errors.len(), 1);

    let mut world = without_shop();
    world.options.selection.addresses = vec!["certificate/shop".to_owned()];
    world.options.selection.exclude = vec!["deployment/shop/edge".to_owned()];
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn a_certificate_that_was_never_issued_is_forgotten() {
    let mut world = without_shop();
    *world.record("shop") = CertificateRecord::default();
    assert_eq!(world.lines(), [". certificate/shop config forget_because_never_issued"]);
}

#[test]
fn an_interrupted_operation_is_cleaned_up_before_its_certificate_is_archived() {
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.settle("blog");
    world.interrupt("shop", "validating");
    world.desired.certificates.remove(&name("shop"));
    let plan = world.plan();
    let steps = &find(&plan, "certificate/shop").steps;
    assert!(matches!(&steps[..], [Step::Resume(resume), Step::Archive] if resume.abandon), "{steps:?}");
}

#[test]
fn what_is_archived_is_not_removed_again() {
    let mut world = without_shop();
    world.record("shop").archived = Some(time(ISSUED));
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn a_rename_that_nobody_announced_is_asked_about() {
    let mut world = World::shop();
    let mut renamed = world.desired.certificates.remove(&name("shop")).unwrap();
    renamed.name = name("store");
    world.desired.certificates.insert(name("store"), renamed);
    let asked = |world: &World| {
        let plan = world.plan();
        let asked =
            plan.warnings.iter().find(|warning| warning.message.contains("a rename costs an issuance"));
        asked.map(|warning| (warning.address.clone(), warning.help.clone().unwrap_or_default()))
    };
    let (at, help) = asked(&world).unwrap();
    assert_eq!(at, Some(address("certificate/shop")));
    assert_eq!(help, "to rename it, write `moved: [{ from: certificate.shop, to: certificate.store }]`");

    // Announced it is one, and with other names it is none.
    let mut announced = world.clone();
    announced.desired.moved = vec![Moved { from: name("shop"), to: name("store") }];
    assert_eq!(asked(&announced), None);
    world.wanted("store").names = names(&["store.example.com"]);
    assert_eq!(asked(&world), None);
}
