//! The journal under bad timing: what it says is true at any moment, and what it lists is enough to go on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certplan::model::Stage;
use certplan::sandbox::ZoneOptions;
use certplan_provider::ProviderError;
use futures::FutureExt;

use crate::world::World;
use crate::world::inside::Hook;
use crate::world::inside::Inside;
use crate::world::inside::address;
use crate::world::inside::forget_failures;
use crate::world::inside::hook;
use crate::world::inside::record;

const SHOP: (&str, &str) = ("shop", "names: [shop.example.test]");

/// A world in which certificate keys are for an identity that no run has.
pub(super) fn hardened(certificates: &[(&str, &str)]) -> World {
    let world = World::new();
    world.configure(certificates);
    harden(&world);
    world
}

/// Seals certificate keys to somebody else from now on, and returns to whom.
fn harden(world: &World) -> String {
    let keys = certplan::state::generate_identity();
    let recipients = format!("recipients: [{}]", world.project.recipient());
    let text = world.project.read("certplan.yaml");
    world.project.write(
        "certplan.yaml",
        &text.replace(&recipients, &format!("{recipients}\n  keys: [{}]", keys.recipient)),
    );
    keys.recipient
}

#[test]
fn keys_from_before_custody_was_hardened_are_told_of_and_closed_by_a_renewal() {
    let world = World::with_shop();
    let keys = harden(&world);
    let warning = "a private key of certificate/shop is from before `keys:`";
    let plan = world.project.certplan(&["plan"]).expect(0);
    assert!(plan.to_string().contains(warning), "{plan}");
    let _ = world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    let shop = record(&world, "shop");
    for issued in shop.current.iter().chain(shop.previous.as_deref()) {
        assert_eq!(issued.key.recipients, [keys.as_str()], "{issued:?}");
    }
    let plan = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    assert!(!plan.to_string().contains(warning), "{plan}");
}

#[test]
fn two_providers_with_one_zone_id_each_have_their_own_change_in_the_journal() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test, alias.example.test]")]);
    // The second provider is the same server: what differs is who is asked for which name.
    let text = world.project.read("certplan.yaml");
    let (head, rest) = text.split_once("dns:\n").expect("it has providers");
    let (block, tail) = rest.split_once("defaults:").expect("it has defaults");
    let other = block.replace("  local:\n", "  other:\n");
    world.project.write("certplan.yaml", &format!("{head}dns:\n{block}{other}defaults:{tail}"));
    let inside = Inside::new(&world);
    // Each knows the zone for one name only.
    inside.hook(hook(|call| {
        let foreign = (call.of == "local") == call.at.contains("alias");
        match call.what {
            "zones_for" if foreign => Err(ProviderError::not_found("no such zone")),
            _ => Ok(()),
        }
    }));
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    let written = inside.written("certificates/shop.json");
    let finalizing = written
        .iter()
        .find(|object| object["content"]["operation"]["stage"] == "finalizing")
        .expect("it was written");
    let values = finalizing["content"]["operation"]["txt"].as_array().expect("a list");
    assert_eq!(values.len(), 2, "{finalizing:#}");
    for value in values {
        let provider = value["provider"].as_str().expect("a name");
        assert!(value["state"].to_string().contains(&format!("{provider}:")), "{value:#}");
    }
}

#[test]
fn an_order_that_is_finalized_is_finished_though_dns_cannot_be_asked() {
    let world = World::new();
    world.configure(&[SHOP]);
    world.faults(|faults| faults.processing_delay = Duration::from_secs(2));
    let mut inside = Inside::new(&world);
    inside.options.ca_patience = Duration::from_millis(100);
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    assert_eq!(record(&world, "shop").operation.expect("it goes on").stage, Stage::Finalizing);
    inside.options.ca_patience = Duration::from_secs(30);
    inside.plan.replace = Vec::new();
    forget_failures(&world, "shop");
    inside.hook(hook(|call| match call.what {
        "alias" | "zones_for" => Err(ProviderError::transient("DNS is down")),
        _ => Ok(()),
    }));
    let outcome = inside.run(&world);
    let record = record(&world, "shop");
    assert!(record.current.is_some(), "{outcome:?}");
    assert_eq!((world.orders(), world.issued()), (1, 1));
    assert!(outcome.failed.is_empty(), "{outcome:?}");
}

/// Another run that has nothing to do begins and ends between the hand-off and the next write of a certificate's run.
#[test]
fn a_hand_off_of_an_operation_that_just_begins_is_not_collected() {
    let world = hardened(&[SHOP]);
    let inside = Inside::new(&world);
    let other = {
        let mut other = inside.clone();
        other.plan.selection.exclude = vec!["certificate/*".to_owned()];
        other
    };
    let passed = Arc::new(AtomicBool::new(false));
    let interleave: Hook = {
        let passed = Arc::clone(&passed);
        Arc::new(move |call| {
            let here = call.what == "written"
                && call.at.starts_with("handoff/")
                && !passed.swap(true, Ordering::Relaxed);
            let other = other.clone();
            async move {
                if here {
                    let outcome = other.beside().await;
                    assert!(outcome.failed.is_empty() && outcome.done.is_empty(), "{outcome:?}");
                }
                Ok(())
            }
            .boxed()
        })
    };
    inside.hook(interleave);
    let outcome = inside.run(&world);
    assert!(passed.load(Ordering::Relaxed), "there was a hand-off: {outcome:?}");
    let deleted: Vec<_> =
        inside.calls("delete").into_iter().filter(|call| call.at.starts_with("handoff/")).collect();
    assert_eq!(deleted.len(), 1, "only its own operation's end deletes it: {deleted:?}");
    assert!(outcome.failed.is_empty(), "{outcome:?}");
}

#[test]
fn an_operation_that_starts_over_keeps_its_cause() {
    let world = hardened(&[SHOP]);
    let mut inside = Inside::new(&world);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    // Asked for, and stopped before the hand-off was there.
    inside.plan.replace = vec![address("shop")];
    inside.hook(hook(|call| match call.what {
        "put" if call.at.starts_with("handoff/") => Err(ProviderError::transient("no room")),
        _ => Ok(()),
    }));
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    let Some(begun) = record(&world, "shop").operation else { panic!("the intent was not persisted first") };
    assert_eq!((begun.cause.as_str(), begun.stage), ("request", Stage::Intent));
    inside.plan.replace = Vec::new();
    inside.hook(hook(|_| Ok(())));
    let before = inside.written("certificates/shop.json").len();
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    let after = inside.written("certificates/shop.json");
    let begun: Vec<_> = after[before..]
        .iter()
        .map(|object| &object["content"]["operation"])
        .filter(|operation| operation["stage"] == "intent")
        .collect();
    assert!(!begun.is_empty());
    assert!(begun.iter().all(|operation| operation["cause"] == "request"), "{begun:#?}");
    assert_eq!(world.issued(), 2);
}

/// A CA may hand two orders the same pending authorization: both wait for one value, and the last removes it.
#[test]
fn a_value_that_two_orders_share_is_removed_when_the_last_is_done() {
    let world = World::with(|options| {
        options.pending_reuse = true;
        options.authorization_reuse_percent = 0;
        options.zones = vec![ZoneOptions::new("example.test".parse().expect("a name"))];
    });
    world.configure(&[
        ("one", "names: [shared.example.test]"),
        ("two", "names: [shared.example.test, two.example.test]"),
    ]);
    let inside = Inside::new(&world);
    // Each waits, with its order made, until the other has one: neither has shown the CA a value yet.
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let seen = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::<String, usize>::new()));
    let meet: Hook = Arc::new(move |call| {
        let mut seen = seen.lock().expect("nobody panics in here");
        let puts = seen.entry(call.at.clone()).or_default();
        if call.what == "written" && call.at.contains("certificates/") {
            *puts += 1;
        }
        // The second write of an operation notes its order.
        let here = call.what == "written" && call.at.contains("certificates/") && *puts == 2;
        let both = Arc::clone(&both);
        async move {
            if here {
                both.wait().await;
            }
            Ok(())
        }
        .boxed()
    });
    inside.hook(meet);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!((world.issued(), world.txt()), (2, Vec::new()));
}

/// The first clean-up of an operation fails after it has given its values back, and is tried again.
#[test]
fn a_clean_up_that_is_tried_again_takes_no_value_from_another_operation() {
    let world = World::with(|options| {
        options.pending_reuse = true;
        options.authorization_reuse_percent = 0;
    });
    world.configure(&[
        ("one", "names: [shared.example.test, one.example.test]"),
        ("two", "names: [shared.example.test, two.example.test]"),
    ]);
    let inside = Inside::new(&world);
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let ended = Arc::new(tokio::sync::Notify::new());
    let seen = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::<String, usize>::new()));
    let failed = Arc::new(AtomicBool::new(false));
    let shared_was_removed = Arc::new(AtomicBool::new(false));
    let meet: Hook = {
        let (ended, shared_was_removed) = (Arc::clone(&ended), Arc::clone(&shared_was_removed));
        Arc::new(move |call| {
            if call.what == "event"
                && call.at.contains("certificate/one")
                && (call.at.contains("apply_errored") || call.at.contains("apply_complete"))
            {
                ended.notify_one();
            }
            let mut puts = 0;
            if call.what == "written" && call.at.contains("certificates/") {
                let mut seen = seen.lock().expect("nobody panics in here");
                let count = seen.entry(call.at.clone()).or_default();
                *count += 1;
                puts = *count;
            }
            let refuse = call.what == "remove_txt"
                && call.at.contains("challenge.one.")
                && !failed.swap(true, Ordering::Relaxed);
            if call.what == "remove_txt" && !refuse && call.at.contains("shared") && !call.at.contains("two")
            {
                shared_was_removed.store(true, Ordering::Relaxed);
            }
            // The second write notes the order; the fourth, that it is finalized: `two` still lists its values then.
            let (both, ended) = (Arc::clone(&both), Arc::clone(&ended));
            async move {
                match puts {
                    2 => {
                        both.wait().await;
                    }
                    4 if call.at.contains("two") => ended.notified().await,
                    _ if refuse => return Err(ProviderError::invalid("not now")),
                    _ => {}
                }
                Ok(())
            }
            .boxed()
        })
    };
    inside.hook(meet);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "the second time it succeeds: {outcome:?}");
    assert!(!shared_was_removed.load(Ordering::Relaxed), "`two` still needed it");
    assert_eq!((world.issued(), world.txt()), (2, Vec::new()));
}

#[test]
fn removing_many_asks_for_each_place_once() {
    let world = World::new();
    let names: Vec<String> = (0..16).map(|number| format!("c{number}")).collect();
    let block = |name: &String, deploy: &str| (name.clone(), format!("names: [{name}.example.test]{deploy}"));
    let configure = |deployed: usize| {
        let certificates: Vec<(String, String)> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                block(name, if index < deployed { "\n    deploy: [{ target: web }]" } else { "" })
            })
            .collect();
        let certificates: Vec<(&str, &str)> =
            certificates.iter().map(|(name, block)| (name.as_str(), block.as_str())).collect();
        let text = world.config(&certificates);
        world.project.write(
            "certplan.yaml",
            &format!("{text}targets: {{ web: {{ files: {{ directory: out }} }} }}\n"),
        );
    };
    configure(16);
    let outcome = Inside::new(&world).run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    configure(8);
    let mut inside = Inside::new(&world);
    inside.plan.allow_remove = names.iter().map(|name| address(name)).collect();
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(inside.calls("remove").len(), 8);
    // Eight places to leave and eight that are wanted.
    let asked = inside.calls("identity").len();
    assert!(asked <= 16, "{asked} questions for sixteen places");
}

#[test]
fn a_certificate_costs_six_writes_and_with_deployments_one_and_one_for_each() {
    let world = World::new();
    world.configure(&[
        ("bare", "names: [bare.example.test]"),
        ("one", "names: [one.example.test]\n    deploy: [{ files: { directory: out } }]"),
        (
            "two",
            "names: [two.example.test]\n    deploy: [{ files: { directory: out } }, { files: { directory: more } }]",
        ),
    ]);
    let inside = Inside::new(&world);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    let writes = |certificate: &str| {
        let end = format!("certificates/{certificate}.json");
        (
            inside.written(&end).len(),
            inside.calls("put").iter().filter(|call| call.at.ends_with(&end)).count(),
        )
    };
    assert_eq!([writes("bare"), writes("one"), writes("two")], [(6, 6), (8, 8), (9, 9)]);
}

/// Ctrl-C at any call to the outside, any write and any event: nothing is lost, nothing is left, nothing is done twice.
#[test]
fn a_run_that_is_stopped_anywhere_is_finished_by_the_next() {
    let block = "names: [shop.example.test, alias.example.test]\n    \
                 deploy: [{ files: { directory: one } }, { files: { directory: two } }]";
    for is_hardened in [false, true] {
        for position in (1..).step_by(if is_hardened { 3 } else { 2 }) {
            let world = if is_hardened { hardened(&[("shop", block)]) } else { World::new() };
            if !is_hardened {
                world.configure(&[("shop", block)]);
            }
            let inside = Inside::new(&world);
            let (cancel, calls) = (inside.cancel.clone(), std::sync::atomic::AtomicUsize::new(0));
            inside.hook(hook(move |_| {
                if calls.fetch_add(1, Ordering::Relaxed) + 1 == position {
                    cancel.cancel();
                }
                Ok(())
            }));
            let outcome = inside.run(&world);
            let completed = !inside.cancel.is_cancelled();
            let before = inside.calls("deploy").len();
            let inside = Inside::new(&world);
            let second = inside.run(&world);
            assert!(second.failed.is_empty(), "{position}: {outcome:?}, {second:?}");
            let shop = record(&world, "shop");
            assert!(shop.operation.is_none(), "{position}: {shop:#?}");
            assert_eq!(shop.deployments.len(), 2, "{position}: {shop:#?}");
            assert_eq!((world.issued(), world.orders(), world.accounts()), (1, 1, 1), "{position}");
            assert_eq!(world.txt(), [], "{position}");
            let deployed = before + inside.calls("deploy").len();
            assert!((2..=4).contains(&deployed), "{position}: {deployed}");
            for place in ["one", "two"] {
                assert!(world.project.path().join(place).join("shop/privkey.pem").exists(), "{position}");
            }
            if completed {
                assert!(position > 40, "a run makes more calls than {position}");
                break;
            }
        }
    }
}

/// Any call to the outside and any write fails once, with whatever may be said: the run, or the one after it, ends it all.
#[test]
fn a_call_that_fails_anywhere_is_made_good() {
    let block = "names: [shop.example.test, alias.example.test]\n    \
                 deploy: [{ files: { directory: one } }, { files: { directory: two } }]";
    let errors: [fn() -> ProviderError; 3] = [
        || ProviderError::transient("not now"),
        || ProviderError::auth("not you"),
        || ProviderError::conflict("somebody else was here"),
    ];
    for (offset, error) in errors.into_iter().enumerate() {
        for position in (1 + offset..).step_by(errors.len()) {
            let world = World::new();
            world.configure(&[("shop", block)]);
            let inside = Inside::new(&world);
            let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let failed = Arc::new(std::sync::Mutex::new(None));
            inside.hook({
                let (calls, failed) = (Arc::clone(&calls), Arc::clone(&failed));
                hook(move |call| {
                    if matches!(call.what, "event" | "limits" | "slot" | "identity")
                        || call.at == "state.json"
                        // A lease that is not given back is held by whoever lives, and both runs are this process.
                        || call.at.starts_with("leases/")
                        || calls.fetch_add(1, Ordering::Relaxed) + 1 != position
                    {
                        return Ok(());
                    }
                    *failed.lock().expect("nobody panics in here") = Some(call.clone());
                    Err(error())
                })
            });
            let outcome = inside.run(&world);
            let Some(failed) = failed.lock().expect("nobody panics in here").take() else {
                assert!(position > 20, "a run makes more calls than {position}");
                break;
            };
            let what = format!("{position}: {failed:?} failed with {:?}: {outcome:?}", error());
            forget_failures(&world, "shop");
            for run in 0.. {
                let again = Inside::new(&world).run(&world);
                if again.failed.is_empty() && again.done.is_empty() {
                    break;
                }
                forget_failures(&world, "shop");
                assert!(run < 3, "{what}: {again:?}");
            }
            let shop = record(&world, "shop");
            assert!(shop.operation.is_none() && shop.deployments.len() == 2, "{what}: {shop:#?}");
            assert_eq!((world.issued(), world.accounts(), world.txt()), (1, 1, Vec::new()), "{what}");
            for place in ["one", "two"] {
                assert!(world.project.path().join(place).join("shop/privkey.pem").exists(), "{what}");
            }
        }
    }
}
