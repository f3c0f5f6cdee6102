use super::*;
use crate::plan::ExitClass;
use crate::plan::LeftOut;
use crate::plan::Only;

/// Five certificates: `new` is new, `due` is due, `gone` left, `off` drifted and `fine` is fine.
fn five() -> World {
    let mut world = World::empty();
    for each in ["due", "fine", "gone", "off"] {
        world.want(each, &[&format!("{each}.example.com")]);
        world.settle(each);
    }
    world.want("new", &["new.example.com"]);
    world.desired.certificates.remove(&name("gone"));
    world.holds("off", "edge", Fact::Absent);
    world.now = time("2026-10-20T00:00:00Z");
    world.current("due").facts.not_after = time("2026-10-25T00:00:00Z");
    world.wanted("new").labels.insert("team".to_owned(), "search".to_owned());
    world
}

fn addresses(world: &World) -> Vec<String> {
    world.plan().changes.iter().map(|change| change.address.to_string()).collect()
}

#[test]
fn a_selection_names_addresses_or_labels() {
    let all = [
        "certificate/due",
        "certificate/gone",
        "certificate/new",
        "deployment/due/edge",
        "deployment/gone/edge",
        "deployment/new/edge",
        "deployment/off/edge",
    ];
    assert_eq!(addresses(&five()), all);
    for (addresses_of, exclude, label, expected) in [
        (&["certificate/due"][..], &[][..], None, &["certificate/due", "deployment/due/edge"][..]),
        (&["deployment/off/*"], &[], None, &["deployment/off/edge"]),
        (&["deployment/**"], &[], None, &["deployment/gone/edge", "deployment/off/edge"]),
        (&[], &["certificate/*"], None, &[]),
        (&["certificate/due"], &["deployment/due/edge"], None, &["certificate/due"]),
        (&[], &[], Some("search"), &["certificate/new", "deployment/new/edge"]),
    ] {
        let mut world = five();
        world.options.selection.addresses = addresses_of.iter().map(|glob| (*glob).to_owned()).collect();
        world.options.selection.exclude = exclude.iter().map(|glob| (*glob).to_owned()).collect();
        world.options.selection.labels =
            label.iter().map(|label| ("team".to_owned(), (*label).to_owned())).collect();
        assert_eq!(addresses(&world), expected, "{addresses_of:?} {exclude:?} {label:?}");
    }
}

#[test]
fn a_selection_that_matches_nothing_is_an_error() {
    for selection in ["certificate/other", "shop", "deployment/due/vault"] {
        let mut world = five();
        world.options.selection.addresses = vec![selection.to_owned()];
        let plan = world.plan();
        assert_eq!(messages(&plan), ["the selection matches nothing"], "{selection}");
        assert_eq!(plan.exit_class(), ExitClass::Error);
    }
    // One that matches what is in order is none.
    let mut world = five();
    world.options.selection.addresses = vec!["certificate/fine".to_owned()];
    let plan = world.plan();
    assert_eq!((plan.exit_class(), plan.certificates), (ExitClass::Done, 1));
}

#[test]
fn an_exclude_that_matches_nothing_is_an_error_and_not_an_apply_of_everything() {
    for exclude in ["certificate/dew", "due", "deployment/due/vault", "account/other"] {
        let mut world = five();
        world.options.selection.exclude = vec!["certificate/due".to_owned(), exclude.to_owned()];
        let plan = world.plan();
        assert_eq!(messages(&plan), [format!("`--exclude {exclude}` matches nothing")]);
        assert!(plan.errors[0].address.is_none(), "it stops all of the plan");
        assert!(plan.errors[0].help.as_ref().unwrap().contains("`account/ISSUER`"));
    }
    // What is there, in the configuration or in state, is matched also when another flag leaves it out.
    for exclude in
        ["certificate/fine", "certificate/gone", "deployment/gone/*", "deployment/new/edge", "account/le"]
    {
        let mut world = five();
        world.options.selection.addresses = vec!["certificate/due".to_owned()];
        world.options.selection.exclude = vec![exclude.to_owned()];
        assert_eq!(messages(&world.plan()), [""; 0], "{exclude}");
    }
}

#[test]
fn a_request_outside_of_the_selection_is_an_error() {
    let mut world = five();
    world.options.selection.addresses = vec!["certificate/due".to_owned()];
    world.options.replace = vec![address("certificate/fine")];
    assert_eq!(messages(&world.plan()), ["`--replace` names what the selection leaves out"]);
}

#[test]
fn only_takes_one_kind_of_cause_and_counts_the_others() {
    for (only, expected, left_out) in [
        (
            Only::Config,
            &["certificate/gone", "certificate/new", "deployment/gone/edge", "deployment/new/edge"][..],
            LeftOut { config: 0, drift: 1, renewals: 1, unreviewed: 0 },
        ),
        (
            Only::Renewals,
            &["certificate/due", "deployment/due/edge"],
            LeftOut { config: 2, drift: 1, renewals: 0, unreviewed: 0 },
        ),
        (Only::Drift, &["deployment/off/edge"], LeftOut { config: 2, drift: 0, renewals: 1, unreviewed: 0 }),
    ] {
        let mut world = five();
        world.options.only = Some(only);
        let plan = world.plan();
        assert_eq!(addresses(&world), expected, "{only:?}");
        assert_eq!(plan.left_out, left_out, "{only:?}");
    }
}

#[test]
fn what_only_leaves_out_may_still_be_repaired() {
    // A renewal is due and the target is empty: repaired with what there is.
    let mut world = World::shop();
    world.now = time(LATE);
    world.holds("shop", "edge", Fact::Absent);
    world.options.only = Some(Only::Drift);
    assert_eq!(world.lines(), ["+ deployment/shop/edge drift redeploy_because_target_is_empty"]);
}

#[test]
fn a_request_that_only_leaves_out_is_an_error() {
    let mut world = World::shop();
    world.options.replace = vec![address("certificate/shop")];
    world.options.only = Some(Only::Config);
    assert_eq!(world.lines().len(), 2);
    world.options.only = Some(Only::Renewals);
    assert_eq!(messages(&world.plan()), ["`--replace` asks for what `--only` leaves out"]);
}
