//! Deployments under bad timing: each is made once, or taken back, whatever happens beside it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certplan::apply::ApplyError;
use certplan::model::DeploymentStage;
use certplan::model::Stage;
use certplan_provider::ProviderError;
use futures::FutureExt;

use super::journal::hardened;
use crate::world::World;
use crate::world::inside::Inside;
use crate::world::inside::address;
use crate::world::inside::hook;
use crate::world::inside::record;
use crate::world::name;

#[test]
fn a_value_that_cannot_be_removed_holds_no_deployment_up() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    let inside = Inside::new(&world);
    inside.hook(hook(|call| match call.what {
        "remove_txt" => Err(ProviderError::auth("no longer allowed")),
        _ => Ok(()),
    }));
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    assert!(world.project.path().join("out/shop/fullchain.pem").exists(), "{outcome:?}");
    let operation = record(&world, "shop").operation.expect("it is open until the value is gone");
    assert_eq!((operation.stage, operation.txt.len()), (Stage::Deploying, 1));
    inside.hook(hook(|_| Ok(())));
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!((world.issued(), world.txt(), record(&world, "shop").operation), (1, Vec::new(), None));
}

#[test]
fn an_interruption_while_it_is_verified_leaves_the_deployment_to_the_next_run() {
    let world = World::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = nobody.local_addr().expect("bound").port();
    drop(nobody);
    for place in ["certificate", "deployment"] {
        let deploy = "deploy: [{ files: { directory: out } }]";
        let verify = format!("verify: [{{ tls: \"127.0.0.1:{port}\" }}]");
        let block = match place {
            "certificate" => format!("names: [{place}.example.test]\n    {deploy}\n    {verify}"),
            _ => format!(
                "names: [{place}.example.test]\n    deploy: [{{ files: {{ directory: out }}, {verify} }}]"
            ),
        };
        world.configure(&[(place, &block)]);
        let inside = Inside::new(&world);
        let cancel = inside.cancel.clone();
        inside.hook(hook(move |call| {
            if call.what == "event" && call.at.contains("\"deployed\"") {
                cancel.cancel();
            }
            Ok(())
        }));
        let outcome = inside.run(&world);
        assert!(matches!(outcome.failed[&address(place)], ApplyError::Interrupted), "{outcome:?}");
        assert_eq!(inside.calls("rollback"), [], "{place}");
        let operation = record(&world, place).operation.expect("it is open");
        let deployment = operation.deployments.values().next().expect("one deployment");
        assert_eq!(deployment.stage, DeploymentStage::Deployed, "{place}: {operation:?}");
        assert!(world.project.path().join(format!("out/{place}/fullchain.pem")).exists());
        // It goes on from there: no second certificate.
        world.configure(&[(place, &format!("names: [{place}.example.test]\n    {deploy}"))]);
        let issued = world.issued();
        let outcome = Inside::new(&world).run(&world);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        assert_eq!((world.issued(), record(&world, place).operation), (issued, None));
    }
}

#[test]
fn an_interrupted_run_begins_no_further_deployment() {
    let world = World::new();
    world.configure(&[(
        "shop",
        "names: [shop.example.test]\n    deploy: [{ files: { directory: one } }, { files: { directory: two } }]",
    )]);
    let inside = Inside::new(&world);
    stop_when_deployed(&inside);
    let outcome = inside.run(&world);
    assert!(matches!(outcome.failed[&address("shop")], ApplyError::Interrupted), "{outcome:?}");
    assert_eq!((inside.calls("deploy").len(), inside.calls("rollback").len()), (1, 0));
    let outcome = Inside::new(&world).run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(world.issued(), 1);
}

/// What was committed is remembered though another deployment fails: the server behind it is not reloaded again with
/// each run until the other one is mended.
#[test]
fn a_deployment_that_fails_takes_nothing_from_one_that_was_committed() {
    let world = World::new();
    world.configure(&[(
        "shop",
        "names: [shop.example.test]\n    deploy: [{ files: { directory: good } }, { files: { directory: bad } }]",
    )]);
    for call in ["deploy", "commit"] {
        let mut inside = Inside::new(&world);
        inside.plan.replace = vec![address("shop")];
        inside.hook(hook(move |at| {
            if at.what == call && at.at.contains("/bad/") {
                return Err(ProviderError::auth("not allowed"));
            }
            Ok(())
        }));
        let issued = world.issued();
        let outcome = inside.run(&world);
        assert_eq!(outcome.failed.len(), 1, "{call}: {outcome:?}");
        assert_eq!(world.issued(), issued + 1);
        let shop = record(&world, "shop");
        let current = shop.current.as_ref().expect("it was issued").facts.fingerprint;
        let good = shop.deployments.values().find(|deployed| deployed.slot.location.contains("/good/"));
        assert_eq!(good.map(|good| good.fingerprint), Some(current), "{call}: {shop:#?}");
        assert_eq!(shop.operation.as_ref().expect("it is open").txt, [], "{call}: they are gone");
        // The next run does what is left, and that only.
        inside.plan.replace = Vec::new();
        inside.hook(hook(|_| Ok(())));
        let before = inside.calls("deploy").len();
        let outcome = inside.run(&world);
        assert!(outcome.failed.is_empty(), "{call}: {outcome:?}");
        let deployed = inside.calls("deploy").split_off(before);
        assert!(deployed.iter().all(|call| call.at.contains("/bad/")), "{call}: {deployed:?}");
        assert_eq!((world.issued(), record(&world, "shop").operation), (issued + 1, None));
    }
}

/// A run that was stopped once the certificate was there left a value; the next knows no zone yet when it deploys.
#[test]
fn a_deployment_does_not_wait_for_dns() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    let inside = Inside::new(&world);
    let cancel = inside.cancel.clone();
    inside.hook(hook(move |call| {
        if call.what == "event" && call.at.contains("\"issued\"") {
            cancel.cancel();
        }
        Ok(())
    }));
    let outcome = inside.run(&world);
    assert!(matches!(outcome.failed[&address("shop")], ApplyError::Interrupted), "{outcome:?}");
    assert_eq!(world.txt().len(), 1);

    let inside = Inside::new(&world);
    let begun = Arc::new(AtomicBool::new(false));
    let deployed = Arc::new(tokio::sync::Notify::new());
    inside.hook({
        let deployed = Arc::clone(&deployed);
        Arc::new(move |call| {
            if call.what == "event" && call.at.contains("\"leased\"") {
                begun.store(true, Ordering::Relaxed);
            }
            if call.what == "event" && call.at.contains("\"committed\"") {
                deployed.notify_one();
            }
            let (asks, begun) = (call.what == "zones_for", begun.load(Ordering::Relaxed));
            let deployed = Arc::clone(&deployed);
            async move {
                if asks && !begun {
                    return Err(ProviderError::transient("DNS is down while it is planned"));
                }
                if asks {
                    let waited = tokio::time::timeout(Duration::from_secs(20), deployed.notified()).await;
                    return waited.map_err(|_| ProviderError::invalid("nothing was deployed meanwhile"));
                }
                Ok(())
            }
            .boxed()
        })
    });
    let outcome = inside.run(&world);
    let warnings: Vec<_> =
        inside.calls("event").into_iter().filter(|call| call.at.contains("\"warning\"")).collect();
    assert_eq!(warnings, [], "{outcome:?}");
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!((world.txt(), record(&world, "shop").operation), (Vec::new(), None));
}

/// Ctrl-C after the last deployment was committed, while the TXT values wait to be removed.
#[test]
fn what_was_committed_is_kept_when_the_run_is_stopped_while_values_are_removed() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    let inside = Inside::new(&world);
    let cancel = inside.cancel.clone();
    inside.hook(Arc::new(move |call| {
        if call.what == "event" && call.at.contains("\"committed\"") {
            cancel.cancel();
        }
        let waits = call.what == "remove_txt";
        let cancel = cancel.clone();
        async move {
            if waits {
                cancel.cancelled().await;
                return Err(ProviderError::transient("the run ends"));
            }
            Ok(())
        }
        .boxed()
    }));
    let outcome = inside.run(&world);
    assert!(matches!(outcome.failed[&address("shop")], ApplyError::Interrupted), "{outcome:?}");
    let shop = record(&world, "shop");
    assert_eq!(shop.deployments.len(), 1, "{shop:#?}");
    let operation = shop.operation.expect("it is open: a value is left");
    let stages: Vec<_> = operation.deployments.values().map(|deployment| deployment.stage).collect();
    assert_eq!((stages, operation.txt.len()), (vec![DeploymentStage::Verified], 1));
    let inside = Inside::new(&world);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(inside.calls("deploy"), []);
    assert_eq!((world.issued(), world.txt(), record(&world, "shop").operation), (1, Vec::new(), None));
}

/// Under hardened custody nothing can be deployed again once the hand-off is gone.
#[test]
fn a_run_that_ends_right_after_the_hand_off_went_has_noted_what_it_deployed() {
    let world = hardened(&[(
        "shop",
        "names: [shop.example.test]\n    deploy: [{ files: { directory: one } }, { files: { directory: two } }]",
    )]);
    let inside = Inside::new(&world);
    let gone = Arc::new(AtomicBool::new(false));
    inside.hook(hook(move |call| match call.what {
        "delete" if call.at.starts_with("handoff/") => {
            gone.store(true, Ordering::Relaxed);
            Ok(())
        }
        "put" if call.at.contains("certificates/") && gone.load(Ordering::Relaxed) => {
            Err(ProviderError::transient("no room"))
        }
        _ => Ok(()),
    }));
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    let inside = Inside::new(&world);
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(inside.calls("deploy"), []);
    assert_eq!((world.issued(), world.txt(), record(&world, "shop").operation), (1, Vec::new(), None));
}

/// The configuration drops a deployment that a stopped run made and no run has finished: it is not forgotten there.
#[test]
fn a_deployment_that_nobody_wants_any_more_before_it_was_finished_is_taken_away() {
    for event in ["\"deployed\"", "put"] {
        let world = World::new();
        let configure = |deploy: &str| {
            let text =
                world.config(&[("shop", &format!("names: [shop.example.test]\n    deploy: [{deploy}]"))]);
            let targets =
                "targets: { web: { files: { directory: out } }, edge: { files: { directory: edge } } }";
            world.project.write("certplan.yaml", &format!("{text}{targets}\n"));
        };
        configure("{ target: web }");
        let inside = Inside::new(&world);
        let (cancel, deploying) = (inside.cancel.clone(), AtomicBool::new(false));
        inside.hook(hook(move |call| {
            if call.what == "deploy" {
                deploying.store(true, Ordering::Relaxed);
            }
            // The receipt cannot be written, or it is the last that is.
            if event == "put" && call.what == "put" && deploying.load(Ordering::Relaxed) {
                return match call.at.contains("certificates/") {
                    true => Err(ProviderError::transient("no room")),
                    false => Ok(()),
                };
            }
            if call.what == "event" && call.at.contains(event) {
                cancel.cancel();
            }
            Ok(())
        }));
        let outcome = inside.run(&world);
        assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
        assert!(world.project.path().join("out/shop/privkey.pem").exists(), "{event}: {outcome:?}");
        assert_eq!(record(&world, "shop").deployments.len(), 0);

        configure("");
        let mut inside = Inside::new(&world);
        inside.plan.allow_remove = vec![address("shop"), "deployment/shop/web".parse().expect("an address")];
        for _ in 0..2 {
            let outcome = inside.run(&world);
            assert!(outcome.failed.is_empty(), "{event}: {outcome:?}");
        }
        assert!(!world.project.path().join("out/shop").exists(), "{event}: {:#?}", record(&world, "shop"));
        let shop = record(&world, "shop");
        assert!(shop.deployments.is_empty() && shop.operation.is_none(), "{event}: {shop:#?}");
        assert_eq!(world.issued(), 1);
    }
}

/// The same for a certificate that leaves the configuration altogether: the first plan cannot know of the deployment.
#[test]
fn a_certificate_that_nobody_wants_any_more_leaves_no_unfinished_deployment() {
    let world = World::new();
    let configure = |certificate: &str, deploy: &str| {
        let block = format!("names: [{certificate}.example.test]\n    deploy: [{deploy}]");
        let text = world.config(&[(certificate, &block)]);
        let targets = "targets: { web: { files: { directory: out } }, edge: { files: { directory: edge } } }";
        world.project.write("certplan.yaml", &format!("{text}{targets}\n"));
    };
    configure("shop", "{ target: edge }");
    let outcome = Inside::new(&world).run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    configure("shop", "{ target: edge }, { target: web }");
    let inside = Inside::new(&world);
    stop_when_deployed(&inside);
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    assert!(world.project.path().join("out/shop/privkey.pem").exists(), "{outcome:?}");

    configure("blog", "");
    let mut inside = Inside::new(&world);
    inside.plan.allow_remove = vec![address("shop")];
    let outcome = inside.run(&world);
    assert!(matches!(outcome.failed[&address("shop")], ApplyError::Stale { .. }), "{outcome:?}");
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    for place in ["out/shop", "edge/shop"] {
        assert!(!world.project.path().join(place).exists(), "{place}: {outcome:?}");
    }
    let left = world.runtime.block_on(world.state().certificate(&name("shop"))).expect("a good state");
    assert!(left.is_none(), "{left:?}");
}

/// The configuration moves a deployment within its target before a stopped run's was finished.
#[test]
fn a_deployment_that_moves_before_it_was_finished_leaves_its_old_place() {
    let world = World::new();
    let configure = |name: &str| deploy_as(&world, name);
    configure("old");
    let inside = Inside::new(&world);
    stop_when_deployed(&inside);
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
    assert!(world.project.path().join("out/old/privkey.pem").exists(), "{outcome:?}");
    configure("new");
    let outcome = Inside::new(&world).run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(world.project.path().join("out/new/privkey.pem").exists(), "{outcome:?}");
    assert!(!world.project.path().join("out/old").exists(), "{:#?}", record(&world, "shop"));
    assert_eq!((world.issued(), record(&world, "shop").operation), (1, None));
}

/// The configuration goes back to where a deployment was before a stopped run moved it, or on to a third place.
#[test]
fn a_deployment_that_moves_twice_before_it_was_finished_leaves_no_place_between() {
    for (before, after, again) in
        [("old", "old", false), ("old", "third", false), ("old", "old", true), ("old", "third", true)]
    {
        let world = World::new();
        let configure = |name: &str| deploy_as(&world, name);
        let holds = |name: &str| world.project.path().join(format!("out/{name}/privkey.pem")).exists();
        configure(before);
        let outcome = Inside::new(&world).run(&world);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        configure("between");
        let inside = Inside::new(&world);
        stop_when_deployed(&inside);
        let outcome = inside.run(&world);
        assert_eq!((outcome.failed.len(), holds("between")), (1, true), "{outcome:?}");
        if again {
            // What it found there this time is its own, and it has no receipt of it.
            let inside = Inside::new(&world);
            inside.hook(hook(|call| match call.what {
                "deploy" => Err(ProviderError::transient("no answer")),
                _ => Ok(()),
            }));
            assert_eq!(inside.run(&world).failed.len(), 1);
        }

        configure(after);
        let outcome = Inside::new(&world).run(&world);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        let shop = record(&world, "shop");
        assert_eq!(shop.operation, None, "{after}");
        assert!(
            holds(after) && !holds("between") && (after == before || !holds(before)),
            "{after}: {shop:#?}"
        );
        let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
        assert_eq!(world.issued(), 1);
    }
}

/// What a stopped run deployed between two places is taken back only where it is nobody's by now.
#[test]
fn a_place_between_that_is_wanted_under_another_name_is_not_taken_down() {
    let world = World::new();
    let configure = |deploy: &str| {
        let text = world.config(&[("shop", &format!("names: [shop.example.test]\n    deploy: [{deploy}]"))]);
        let targets = "targets: { web: { files: { directory: out } }, edge: { files: { directory: out } } }";
        world.project.write("certplan.yaml", &format!("{text}{targets}\n"));
    };
    configure("{ target: web, name: old }");
    let outcome = Inside::new(&world).run(&world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    configure("{ target: web, name: between }");
    let inside = Inside::new(&world);
    stop_when_deployed(&inside);
    assert_eq!(inside.run(&world).failed.len(), 1);

    configure("{ target: web, name: old }, { target: edge, name: between }");
    let between = world.project.path().join("out/between/fullchain.pem");
    let inside = Inside::new(&world);
    inside.hook(hook({
        let between = between.clone();
        move |call| {
            assert!(call.what != "event" || between.exists(), "it was taken down before {}", call.at);
            Ok(())
        }
    }));
    let outcome = inside.run(&world);
    assert!(outcome.failed.is_empty() && between.exists(), "{outcome:?}");
    assert_eq!(record(&world, "shop").operation, None);
}

#[test]
fn nothing_is_ordered_for_targets_that_would_all_refuse_it() {
    use std::os::unix::fs::PermissionsExt;
    const BAD: &str =
        "{ files: { directory: open } }, { files: { directory: out, owner: nobody-of-this-name } }";
    for (deploy, issued) in [(BAD.to_owned(), 0), (format!("{BAD}, {{ files: {{ directory: good }} }}"), 1)] {
        let world = World::new();
        let open = world.project.path().join("open");
        std::fs::create_dir(&open).expect("a folder");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
        world.configure(&[("shop", &format!("names: [shop.example.test]\n    deploy: [{deploy}]"))]);
        let run = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
        for part in ["everyone may write to", "nobody-of-this-name"] {
            assert!(run.stderr.contains(part), "{part}: {run}");
        }
        assert_eq!((world.issued(), world.orders(), world.txt()), (issued, issued, Vec::new()), "{run}");
        assert_eq!(world.project.path().join("good/shop/fullchain.pem").exists(), issued > 0, "{run}");
    }
}

/// Has the certificate deployed to one target under a name.
fn deploy_as(world: &World, name: &str) {
    let deploy = format!("deploy: [{{ target: web, name: {name} }}]");
    let text = world.config(&[("shop", &format!("names: [shop.example.test]\n    {deploy}"))]);
    let targets = "targets: { web: { files: { directory: out } } }";
    world.project.write("certplan.yaml", &format!("{text}{targets}\n"));
}

/// Stops the run, as Ctrl-C does, when a target took a certificate.
fn stop_when_deployed(inside: &Inside) {
    let cancel = inside.cancel.clone();
    inside.hook(hook(move |call| {
        if call.what == "event" && call.at.contains("\"deployed\"") {
            cancel.cancel();
        }
        Ok(())
    }));
}
