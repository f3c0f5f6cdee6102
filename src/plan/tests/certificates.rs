use super::*;
use crate::model::Moved;
use crate::model::Rotation;
use crate::plan::Step;
use crate::plan::change::Risk;

type Edit = fn(&mut World);

#[test]
fn what_is_as_it_should_be_has_no_changes() {
    let plan = World::shop().plan();
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!((plan.certificates, plan.warnings.len(), plan.errors.len()), (1, 0, 0));
    assert_eq!(plan.next_renewal.unwrap().at, time("2026-10-31T00:00:00Z"));
}

#[test]
fn a_new_certificate_is_created_and_deployed() {
    let world = World::new_shop();
    assert_eq!(
        world.lines(),
        ["+ certificate/shop config create_because_new", "+ deployment/shop/edge config create_because_new",]
    );
    let plan = world.plan();
    let work = &plan.work()[&name("shop")];
    let issue = work.issue.as_ref().unwrap();
    assert_eq!(issue.names, names(&["shop.example.com", "*.shop.example.com"]));
    assert_eq!(
        (issue.directory.as_str(), issue.replaces.as_deref(), issue.reuse_key),
        (DIRECTORY, None, false)
    );
    assert_eq!((work.base_revision, work.deploy.len(), work.account.as_ref()), (0, 1, None));
    assert_eq!(work.deploy[0].slot, Some(slot("shop", "edge")));
}

#[test]
fn each_difference_from_what_was_issued_is_a_reissue_with_its_own_reason() {
    let table: [(Edit, &str); 5] = [
        (
            |world| world.wanted("shop").names = names(&["shop.example.com", "www.example.com"]),
            "reissue_because_names_changed",
        ),
        (|world| world.current("shop").directory = STAGING.to_owned(), "reissue_because_issuer_changed"),
        (
            |world| world.wanted("shop").profile = Some("shortlived".to_owned()),
            "reissue_because_profile_changed",
        ),
        (|world| world.wanted("shop").key.key_type = KeyType::Rsa2048, "reissue_because_key_type_changed"),
        (
            |world| world.wanted("shop").preferred_chain = Some("Root X2".to_owned()),
            "reissue_because_preferred_chain_changed",
        ),
    ];
    for (edit, reason) in table {
        let mut world = World::shop();
        edit(&mut world);
        assert_eq!(
            world.lines(),
            [
                format!("~ certificate/shop config {reason}"),
                "~ deployment/shop/edge config redeploy_because_reissued".to_owned(),
            ]
        );
    }
}

#[test]
fn changed_names_are_told_apart_and_dropped_ones_are_a_risk() {
    let mut world = World::shop();
    world.wanted("shop").names = names(&["shop.example.com", "www.example.com"]);
    let plan = world.plan();
    let change = find(&plan, "certificate/shop");
    assert_eq!(change.details.added_names, names(&["www.example.com"]));
    assert_eq!(change.details.removed_names, names(&["*.shop.example.com"]));
    assert!(change.risks.contains(&Risk::DropsNames));
}

#[test]
fn staging_to_production_is_a_reissue_with_a_new_account_and_without_a_predecessor() {
    let mut world = World::shop();
    world.current("shop").directory = STAGING.to_owned();
    world.prior.accounts.insert(name("le"), account(STAGING));
    let plan = world.plan();
    assert_eq!(
        lines(&plan),
        [
            "+ account/le config create_because_new",
            "~ certificate/shop config reissue_because_issuer_changed",
            "~ deployment/shop/edge config redeploy_because_reissued",
        ]
    );
    let work = &plan.work()[&name("shop")];
    assert_eq!(work.account, Some(name("le")));
    assert_eq!(work.issue.as_ref().unwrap().replaces, None);
    assert!(find(&plan, "certificate/shop").risks.contains(&Risk::ChangesIssuer));
}

#[test]
fn another_name_for_the_same_directory_is_no_reissue() {
    let mut world = World::shop();
    let issuer = world.desired.issuers[&name("le")].clone();
    world.desired.issuers.insert(name("other"), issuer);
    world.wanted("shop").issuer = name("other");
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn several_reasons_are_all_named_and_the_weightiest_leads() {
    let mut world = World::shop();
    world.now = time(LATE);
    world.wanted("shop").names = names(&["shop.example.com"]);
    world.wanted("shop").profile = Some("shortlived".to_owned());
    let plan = world.plan();
    let change = find(&plan, "certificate/shop");
    assert_eq!(change.reason, Reason::ReissueBecauseNamesChanged);
    assert_eq!(change.also, [Reason::ReissueBecauseProfileChanged, Reason::RenewBecauseWindow]);
    assert_eq!(change.cause, Cause::Config);
}

#[test]
fn a_request_reissues_or_redeploys() {
    for (asked, expected) in [
        (
            "certificate/shop",
            &[
                "~ certificate/shop request reissue_by_request",
                "~ deployment/shop/edge request redeploy_because_reissued",
            ][..],
        ),
        ("deployment/shop/edge", &["~ deployment/shop/edge request redeploy_by_request"][..]),
    ] {
        let mut world = World::shop();
        world.options.replace = vec![address(asked)];
        assert_eq!(world.lines(), expected, "{asked}");
    }
}

#[test]
fn a_request_for_what_is_not_there_is_an_error() {
    for asked in ["certificate/other", "deployment/shop/vault", "account/le"] {
        let mut world = World::shop();
        world.options.replace = vec![address(asked)];
        let plan = world.plan();
        assert_eq!(plan.errors.len(), 1, "{asked}");
        assert!(plan.is_empty(), "{asked}");
    }
}

#[test]
fn keys_rotate_unless_they_are_never_to() {
    let reuse = |edit: Edit| {
        let mut world = World::shop();
        world.now = time(LATE);
        world.wanted("shop").key.rotation = Rotation::Never;
        edit(&mut world);
        let plan = world.plan();
        let reuse = plan.work()[&name("shop")].issue.as_ref().unwrap().reuse_key;
        (reuse, plan.warnings.len())
    };
    assert_eq!(reuse(|_| {}), (true, 0));
    assert_eq!(reuse(|world| world.wanted("shop").key.rotation = Rotation::Always), (false, 0));
    assert_eq!(reuse(|world| world.wanted("shop").key.key_type = KeyType::Rsa2048), (false, 0));
    let sealed: Edit = |world| world.prior.certificates.get_mut(&name("shop")).unwrap().key_readable = false;
    assert_eq!(reuse(sealed), (false, 1), "a new key, and a word about it");
}

#[test]
fn changing_the_rotation_alone_changes_nothing() {
    let mut world = World::shop();
    world.wanted("shop").key.rotation = Rotation::Never;
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn a_renamed_certificate_keeps_what_it_has() {
    let mut world = World::shop();
    let mut wanted = world.desired.certificates.remove(&name("shop")).unwrap();
    wanted.name = name("store");
    world.desired.certificates.insert(name("store"), wanted);
    world.desired.moved = vec![Moved { from: name("shop"), to: name("store") }];
    world.observed.slots.insert((name("store"), name("edge")), slot("shop", "edge"));
    let plan = world.plan();
    assert_eq!(lines(&plan), ["~ certificate/store config move_because_renamed"]);
    let change = find(&plan, "certificate/store");
    assert_eq!(change.steps, [Step::Rename { from: name("shop") }]);
    assert_eq!(change.previous_address, Some(address("certificate/shop")));
    assert_eq!(plan.work()[&name("store")].base_revision, 7);

    // It was looked at under the name that state has.
    let mut drifted = world.clone();
    drifted.holds("shop", "edge", Fact::Absent);
    let plan = drifted.plan();
    assert_eq!(find(&plan, "deployment/store/edge").reason, Reason::RedeployBecauseTargetIsEmpty);

    // A place that has the name in it moves as well.
    world.observed.slots.insert((name("store"), name("edge")), slot("store", "edge"));
    let plan = world.plan();
    assert_eq!(
        lines(&plan),
        [
            "~ certificate/store config move_because_renamed",
            "+/- deployment/store/edge config redeploy_because_slot_changed",
        ]
    );

    // Once it is applied, the entry may stay.
    let record = world.prior.certificates.remove(&name("shop")).unwrap();
    world.prior.certificates.insert(name("store"), record);
    world.observed.slots.insert((name("store"), name("edge")), slot("shop", "edge"));
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn renames_are_followed_through_a_chain_and_a_ring_ends() {
    let moved = |from, to| Moved { from: name(from), to: name(to) };
    let mut world = World::shop();
    let mut wanted = world.desired.certificates.remove(&name("shop")).unwrap();
    wanted.name = name("store");
    world.desired.certificates.insert(name("store"), wanted);
    world.observed.slots.clear();
    world.desired.moved = vec![moved("shop", "middle"), moved("middle", "store")];
    assert_eq!(world.plan().work()[&name("store")].rename, Some(name("shop")));
    world.desired.moved = vec![moved("a", "store"), moved("store", "a")];
    let plan = world.plan();
    assert_eq!(plan.work()[&name("store")].rename, None);
    assert!(plan.work()[&name("shop")].archive);
}

#[test]
fn what_is_archived_is_new_when_it_is_wanted_again() {
    let mut world = World::shop();
    world.record("shop").archived = Some(time(ISSUED));
    assert_eq!(find(&world.plan(), "certificate/shop").reason, Reason::CreateBecauseNew);
}

#[test]
fn nothing_is_ever_lost_of_a_certificate_that_fails() {
    let mut world = World::shop();
    world.want("blog", &["blog.example.com"]);
    world.want("wiki", &["wiki.example.com"]);
    world
        .observed
        .challenges
        .insert(Fqdn::new("blog.example.com").unwrap(), Fact::Unknown("no answer".to_owned()));
    let plan = world.plan();
    assert_eq!(
        lines(&plan),
        ["+ certificate/wiki config create_because_new", "+ deployment/wiki/edge config create_because_new",]
    );
    assert_eq!(plan.errors[0].address, Some(address("certificate/blog")));
}

#[test]
fn a_target_that_replaces_is_shown_as_create_then_remove() {
    let mut world = World::shop();
    world.observed.capabilities.get_mut(&name("edge")).unwrap().update = Update::Replace;
    world.wanted("shop").key.key_type = KeyType::Rsa2048;
    assert_eq!(find(&world.plan(), "deployment/shop/edge").action, Action::CreateThenRemove);
}
