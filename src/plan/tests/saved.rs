use proptest::prelude::*;

use super::machines::mixed;
use super::*;
use crate::model::SecretRef;
use crate::plan::Only;
use crate::plan::SavedPlan;
use crate::plan::SavedPlanError;
use crate::plan::StalenessCause;
use crate::plan::verify;

fn save(world: &World) -> SavedPlan {
    let saved = SavedPlan::new(&world.plan(), &world.options, None);
    // As apply gets it: from a file.
    SavedPlan::from_json(saved.to_json().as_bytes()).unwrap()
}

fn stale(saved: &SavedPlan, world: &World) -> Vec<String> {
    verify(saved, &world.plan()).iter().map(|stale| format!("{}: {}", stale.address, stale.cause)).collect()
}

#[test]
fn what_is_planned_again_the_same_is_not_stale_whatever_the_clock_says() {
    let mut world = mixed();
    world.wanted("bad").profile = None;
    world.now = time("2026-09-30T20:00:00Z");
    let saved = save(&world);
    world.now = time(EARLY);
    // Neither when the CA's renewal information cannot be read any more.
    world.observed.directories.clear();
    assert_eq!(stale(&saved, &world), [""; 0]);
    let mut fresh = world.plan();
    let all = fresh.changes.len();
    saved.restrict(&mut fresh);
    assert_eq!(fresh.changes.len(), all);
}

#[test]
fn what_became_due_after_the_review_is_not_stale_and_not_applied() {
    let mut world = World::new_shop();
    world.want("blog", &["blog.example.com"]);
    world.settle("blog");
    let saved = save(&world);
    world.now = time(LATE);
    assert_eq!(stale(&saved, &world), [""; 0]);
    let mut fresh = world.plan();
    assert_eq!(fresh.work().len(), 2);
    saved.restrict(&mut fresh);
    assert_eq!(fresh.work().into_keys().collect::<Vec<_>>(), [name("shop")]);
    assert_eq!(fresh.left_out.unreviewed, 2, "the certificate and its deployment are not as they should be");
}

#[test]
fn what_changed_after_the_review_is_stale_alone() {
    let mut world = World::new_shop();
    world.want("blog", &["blog.example.com"]);
    let saved = save(&world);

    let mut changed = world.clone();
    changed.wanted("shop").names = names(&["other.example.com"]);
    assert_eq!(
        stale(&saved, &changed),
        ["certificate/shop: `create_because_new` was reviewed, and would do something else now"]
    );
    let mut fresh = changed.plan();
    saved.restrict(&mut fresh);
    assert_eq!(fresh.work().into_keys().collect::<Vec<_>>(), [name("blog")], "and its deployments with it");

    let mut done = world.clone();
    done.settle("shop");
    assert_eq!(
        stale(&saved, &done),
        [
            "certificate/shop: nothing is left to do: it was done, or is no longer wanted",
            "deployment/shop/edge: nothing is left to do: it was done, or is no longer wanted",
        ]
    );

    let mut interrupted = world.clone();
    interrupted.interrupt("shop", "validating");
    assert_eq!(
        stale(&saved, &interrupted)[0],
        "certificate/shop: its state changed after the review, from revision 0 to 7"
    );

    let mut beside = world.clone();
    beside.deploy("shop", "vault");
    assert_eq!(
        stale(&saved, &beside),
        ["deployment/shop/vault: it was not reviewed, and belongs to a certificate that was"]
    );

    let mut elsewhere = world.clone();
    elsewhere.prior.lineage = Some("another".to_owned());
    assert_eq!(verify(&saved, &elsewhere.plan())[0].cause, StalenessCause::OtherState);
}

#[test]
fn what_shows_something_else_than_would_be_done_is_refused() {
    let world = World::new_shop();
    let text = save(&world).to_json();
    for (shown, instead) in [
        ("\"shop.example.com\"", "\"evil.example.com\""),
        ("\"create\"", "\"update\""),
        ("\"cause\": \"config\"", "\"cause\": \"drift\""),
        ("\"issuer\": \"", "\"issuer\": \"not-"),
    ] {
        assert!(text.contains(shown), "{text}");
        let saved = SavedPlan::from_json(text.replace(shown, instead).as_bytes()).unwrap();
        let stale = stale(&saved, &world);
        assert!(
            stale.contains(
                &"certificate/shop: the file was changed after it was saved: it shows something else than would be done"
                    .to_owned()
            ),
            "{instead}: {stale:?}"
        );
        let mut fresh = world.plan();
        saved.restrict(&mut fresh);
        assert!(fresh.work().is_empty());
    }
}

#[test]
fn the_lines_below_a_change_are_shown_as_they_are_done() {
    let mut world = World::shop();
    world.wanted("shop").names = names(&["www.example.com"]);
    world.wanted("shop").key.key_type = KeyType::EcdsaP384;
    let text = save(&world).to_json();
    for (shown, instead) in [
        ("\"after\": \"ecdsa-p384\"", "\"after\": \"ecdsa-p256\""),
        ("\"added_names\": [", "\"added_names\": [\"harmless.example.com\","),
        ("\"removed_names\": [", "\"removed_names\": [\"harmless.example.com\","),
    ] {
        assert!(text.contains(shown), "{text}");
        let saved = SavedPlan::from_json(text.replace(shown, instead).as_bytes()).unwrap();
        let stale = stale(&saved, &world);
        assert!(stale.iter().any(|stale| stale.contains("shows something else")), "{instead}: {stale:?}");
    }
}

#[test]
fn a_plan_from_before_there_was_state_says_so() {
    let mut world = World::new_shop();
    world.prior.lineage = None;
    let saved = save(&world);
    world.prior.lineage = Some("new".to_owned());
    assert!(
        stale(&saved, &world)[0]
            .ends_with("it was reviewed before there was any state, and now there is some")
    );
}

#[test]
fn an_account_that_was_created_meanwhile_makes_nothing_stale() {
    let mut world = World::new_shop();
    world.prior.accounts.clear();
    let saved = save(&world);
    world.prior.accounts.insert(name("le"), account(DIRECTORY));
    assert_eq!(stale(&saved, &world), [""; 0]);
    let mut fresh = world.plan();
    saved.restrict(&mut fresh);
    assert_eq!(fresh.changes.len(), 2);
}

#[test]
fn a_change_of_an_account_is_applied_as_it_was_reviewed_or_not_at_all() {
    let mut world = World::shop();
    world.issuer().contact.clear();
    let saved = save(&world);
    let mut fresh = world.plan();
    saved.restrict(&mut fresh);
    assert_eq!(lines(&fresh), ["~ account/le config update_because_contact_changed"]);
    world.issuer().contact = vec!["dev@example.com".to_owned()];
    assert_eq!(stale(&saved, &world).len(), 1);
    let mut fresh = world.plan();
    saved.restrict(&mut fresh);
    assert!(fresh.is_empty());
    // One that nobody reviewed is left out as well.
    world.issuer().contact = vec!["ops@example.com".to_owned()];
    let saved = save(&world);
    world.issuer().contact.clear();
    let mut fresh = world.plan();
    saved.restrict(&mut fresh);
    assert!(fresh.is_empty());
}

#[test]
fn an_account_that_would_be_another_is_stale_with_what_needs_it() {
    let key = |name: &str| Some(SecretRef::File(name.into()));
    // In use already.
    let mut world = World::shop();
    world.issuer().account_key = key("reviewed.pem");
    let saved = save(&world);
    world.issuer().account_key = key("another.pem");
    assert_eq!(stale(&saved, &world).len(), 1);
    // And created.
    let mut world = World::new_shop();
    world.prior.accounts.clear();
    let saved = save(&world);
    for (contact, account_key) in [("evil@example.com", None), ("ops@example.com", key("evil.pem"))] {
        let mut world = World::new_shop();
        world.prior.accounts.clear();
        world.issuer().contact = vec![contact.to_owned()];
        world.issuer().account_key = account_key;
        assert_eq!(stale(&saved, &world).len(), 1);
        let mut fresh = world.plan();
        saved.restrict(&mut fresh);
        assert!(fresh.is_empty(), "{:?}", lines(&fresh));
    }
}

#[test]
fn a_command_that_changed_after_the_review_is_stale() {
    let mut world = World::new_shop();
    let saved = save(&world);
    world.desired.targets.get_mut(&name("edge")).unwrap().block = json!({ "reload": ["another"] });
    assert_eq!(stale(&saved, &world).len(), 1);
    let mut world = World::shop();
    world.wanted("shop").deploy.clear();
    let saved = save(&world);
    world.desired.targets.get_mut(&name("edge")).unwrap().block = json!({ "reload": ["another"] });
    assert_eq!(stale(&saved, &world).len(), 1);
}

#[test]
fn a_plan_is_made_again_with_the_same_options_but_those_that_only_the_command_gives() {
    let mut world = World::shop();
    world.options.only = Some(Only::Config);
    world.options.replace = vec![address("certificate/shop")];
    world.options.allow_remove = vec![address("certificate/shop")];
    world.options.selection.addresses = vec!["certificate/*".to_owned()];
    let saved = save(&world);
    let again = saved.options(&PlanOptions::default());
    assert_eq!(again.allow_remove, []);
    assert_eq!(PlanOptions { allow_remove: world.options.allow_remove.clone(), ..again }, world.options);
}

#[test]
fn the_digest_of_a_plan_covers_each_change() {
    let world = mixed();
    let digest = world.plan().digest();
    assert_eq!(digest, world.plan().digest());
    let mut other = world.clone();
    other.wanted("new").names = names(&["new.example.com"]);
    assert_ne!(digest, other.plan().digest());
    let mut fewer = world.plan();
    fewer.changes.pop();
    assert_ne!(digest, fewer.digest());
}

#[test]
fn a_saved_plan_expires() {
    let world = World::new_shop();
    let saved = SavedPlan::new(&world.plan(), &world.options, Some(time(LATE)));
    assert!(!saved.is_expired(time(EARLY)));
    assert!(saved.is_expired(time(LATE)));
}

#[test]
fn a_file_that_is_no_saved_plan_is_refused_and_says_why() {
    let good = save(&World::new_shop()).to_json();
    let edit = |pointer: &str, value: serde_json::Value| {
        let mut document: serde_json::Value = serde_json::from_str(&good).unwrap();
        *document.pointer_mut(pointer).unwrap() = value;
        SavedPlan::from_json(document.to_string().as_bytes()).unwrap_err().to_string()
    };
    assert_eq!(
        edit("/format", json!("tf\u{1b}plan")),
        "not a saved plan: its format is `tf\\u{1b}plan`, not `certplan-plan`"
    );
    assert_eq!(
        edit("/version", json!(2)),
        "the saved plan has the version 2, and this certplan reads version 1"
    );
    assert_eq!(
        edit("/plan/format_version", json!("2.0")),
        "the saved plan has the version 2.0, and this certplan reads version 1"
    );
    assert_eq!(edit("/plan/resource_changes/0/digest", json!("../x")), "not a saved plan");
    assert_eq!(edit("/plan/resource_changes/0/address", json!("certificate/../x")), "not a saved plan");
    assert_eq!(
        edit("/plan/resource_changes/1/address", json!("certificate/shop")),
        "the saved plan names `certificate/shop` twice"
    );
    for bad in ["", "{", "[]", "null", "{}", &"[".repeat(100_000)] {
        assert!(
            matches!(SavedPlan::from_json(bad.as_bytes()), Err(SavedPlanError::NotAPlan { .. })),
            "{bad:.10}"
        );
    }
}

#[test]
fn a_newer_minor_version_is_read() {
    let mut document: serde_json::Value = serde_json::from_str(&save(&World::new_shop()).to_json()).unwrap();
    document["plan"]["format_version"] = json!("1.7");
    document["plan"]["news"] = json!([]);
    document["plan"]["resource_changes"][0]["action_reason"] = json!("a_reason_to_come");
    assert!(SavedPlan::from_json(document.to_string().as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = SavedPlan::from_json(&bytes);
    }

    #[test]
    fn a_damaged_file_never_approves_what_was_not_reviewed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let world = World::new_shop();
        let mut bytes = save(&world).to_json().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(saved) = SavedPlan::from_json(&bytes) {
            let mut fresh = world.plan();
            let before: Vec<_> = fresh.changes.clone();
            saved.restrict(&mut fresh);
            prop_assert!(fresh.changes.iter().all(|change| before.contains(change)));
        }
    }
}
