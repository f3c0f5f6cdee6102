use std::time::Duration;

use certplan::sandbox::Event;
use certplan::sandbox::Faults;
use certplan::sandbox::HttpFault;
use certplan::sandbox::SandboxOptions;

use super::kill::killed_at_event;
use super::world::PATIENCE;
use super::world::SHOP;
use super::world::World;
use super::world::kill;
use crate::evidence;

/// A command that fails while a file is there.
fn fails_while(world: &World, file: &str) -> String {
    let path = world.project.path().join(file);
    format!("[\"/bin/sh\", \"-c\", \"! test -e {}\"]", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_could_not_be_deployed_is_deployed_by_the_next_run_under_hardened_custody() {
    let world = World::new().await.harden();
    let reload = fails_while(&world, "broken");
    let config = world.project.read("certplan.yaml");
    world.project.write(
        "certplan.yaml",
        &config.replace("{ directory: live }", &format!("{{ directory: live, reload: {reload} }}")),
    );
    world.project.write("broken", "");
    world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert!(world.deployed().is_none(), "what does not reload is taken back");
    assert_eq!(world.issued().len(), 1);
    std::fs::remove_file(world.project.path().join("broken")).unwrap();
    world.finish();
    world.judge();
    assert_eq!(world.issued().len(), 1, "the certificate that is there is deployed, through its hand-off");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_under_hardened_custody_costs_a_new_certificate_and_says_so() {
    let world = World::new().await.harden();
    world.finish();
    let before = world.deployed().unwrap();
    std::fs::remove_dir_all(world.project.path().join("live")).unwrap();
    let plan = evidence::plan_json(&world.project, &[]);
    assert_eq!(
        evidence::change(&plan, "certificate/shop")["action_reason"],
        "reissue_because_key_sealed",
        "{plan:#}"
    );
    world.finish();
    world.judge();
    assert_ne!(world.deployed().unwrap().fingerprint, before.fingerprint);
    assert_eq!(world.issued().len(), 2);
}

/// A certificate for two targets; one of them, `edge`, fails while the file `broken` is there, which it is.
async fn with_broken_edge() -> World {
    let world = World::new()
        .await
        .certificates(&SHOP.replace("[{ target: web }]", "[{ target: web }, { target: edge }]"));
    let reload = fails_while(&world, "broken");
    let config = world.project.read("certplan.yaml");
    world.project.write(
        "certplan.yaml",
        &config.replace(
            "targets:\n",
            &format!("targets:\n  edge: {{ files: {{ directory: edge, reload: {reload} }} }}\n"),
        ),
    );
    world.project.write("broken", "");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_targets_the_one_that_fails_is_tried_again_alone() {
    let world = with_broken_edge().await;
    let failed = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert!(failed.stderr.contains("deployment/shop/edge"), "{failed}");
    let pair = world.deployed().expect("the other target has it");
    std::fs::remove_file(world.project.path().join("broken")).unwrap();
    let again = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(!again.stderr.contains("deployment/shop/web"), "what is done is not done again: {again}");
    let edge = evidence::pair(&world.project.path().join("edge/shop")).unwrap();
    assert_eq!(edge.fingerprint, pair.fingerprint);
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drifted_since_it_was_verified_is_repaired_with_what_is_resumed() {
    let world = with_broken_edge().await;
    world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    let pair = world.deployed().expect("the other target has it");
    std::fs::remove_dir_all(world.project.path().join("live")).unwrap();
    std::fs::remove_file(world.project.path().join("broken")).unwrap();
    let plan = evidence::plan_json(&world.project, &[]);
    assert_eq!(
        evidence::change(&plan, "deployment/shop/web")["action_reason"],
        "redeploy_because_target_is_empty",
        "{plan:#}"
    );
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(world.deployed().expect("as planned").fingerprint, pair.fingerprint);
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_not_selected_is_left_for_later_though_it_was_begun() {
    let world = World::new()
        .await
        .harden()
        .certificates(&SHOP.replace("[{ target: web }]", "[{ target: web }, { target: edge }]"));
    let reload = fails_while(&world, "broken");
    let config = world.project.read("certplan.yaml");
    world.project.write(
        "certplan.yaml",
        &config.replace("{ directory: live }", &format!("{{ directory: live, reload: {reload} }}")).replace(
            "targets:\n",
            &format!("targets:\n  edge: {{ files: {{ directory: edge, reload: {reload} }} }}\n"),
        ),
    );
    world.project.write("broken", "");
    world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    std::fs::remove_file(world.project.path().join("broken")).unwrap();
    world.project.certplan(&["apply", "--auto-approve", "--address", "deployment/shop/web"]).expect(0);
    let pair = world.deployed().expect("the one that was asked for");
    let edge = || evidence::pair(&world.project.path().join("edge/shop"));
    assert!(edge().is_none(), "the plan did not show it");
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(edge().unwrap().fingerprint, pair.fingerprint, "with the key that was handed over");
    world.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excluded_deployment_does_not_come_with_what_is_resumed() {
    for hardened in [false, true] {
        let world = World::new().await;
        let world = if hardened { world.harden() } else { world };
        let (mut child, mut lines) = world.project.apply_events(&[]);
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"validated\""))));
        kill(&mut child);
        let args = ["apply", "--auto-approve", "--exclude", "deployment/shop/*"];
        world.project.certplan(&args).expect(0);
        assert_eq!(world.issued().len(), 1);
        assert!(world.deployed().is_none(), "it was excluded");
        world.project.certplan(&args).expect(0);
        world.finish();
        world.judge();
        assert!(world.deployed().is_some());
        assert_eq!(world.issued().len(), 1, "hardened: {hardened}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_gone_after_finalizing_is_counted_and_followed_by_another() {
    let mut options = SandboxOptions::default();
    options.order_lifetime = Duration::from_secs(3);
    let world = World::with(options).await;
    let mut faults = world.sandbox.faults();
    faults.processing_delay = Duration::from_secs(1);
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"finalizing\""))));
    evidence::wait_until("finalization", PATIENCE, || {
        world.count(|event| matches!(event, Event::Finalized { .. })) == 1
    });
    kill(&mut child);
    let record = evidence::content(&world.project, "shop");
    let expires: jiff::Timestamp = record["operation"]["order_expires"].as_str().unwrap().parse().unwrap();
    evidence::wait_until("expiry", PATIENCE, || jiff::Timestamp::now() > expires + Duration::from_secs(1));
    world.sandbox.set_faults(Faults::default());
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(run.stderr.contains("is gone at the CA"), "{run}");
    world.judge();
    let issuances = evidence::content(&world.project, "shop")["issuances"].clone();
    assert_eq!(issuances.as_array().unwrap().len(), 2, "the lost one counts: {issuances:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_issues_slowly_is_gone_on_with_after_a_kill() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.processing_delay = Duration::from_secs(2);
    faults.poll_after = Some(Duration::from_secs(1));
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"finalizing\""))));
    kill(&mut child);
    world.finish();
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_defers_and_is_no_failure() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.retry_after = Some(Duration::from_secs(3600));
    let mut rule = certplan::sandbox::FaultRule::new(HttpFault::RateLimited, 100);
    rule.endpoints = [certplan::sandbox::Endpoint::NewOrder].into();
    faults.http.push(rule);
    world.sandbox.set_faults(faults);
    let run = world.project.certplan(&["apply", "--auto-approve", "--detailed-exitcode"]).expect(6);
    assert!(run.stderr.contains("certificate/shop"), "{run}");
    let record = evidence::content(&world.project, "shop");
    let last: jiff::Timestamp = record["failures"]["last"].as_str().unwrap().parse().unwrap();
    let again: jiff::Timestamp = record["failures"]["retry_after"].as_str().unwrap().parse().unwrap();
    let wait = again.duration_since(last).as_secs();
    assert!((3500..=3700).contains(&wait), "the CA's word is kept: {wait} s");
    world.assert_only_foreign_txt();
    let orders = world.count(|event| matches!(event, Event::Request { path, .. } if path.contains("order")));
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let later = world.count(|event| matches!(event, Event::Request { path, .. } if path.contains("order")));
    assert_eq!(later, orders, "nobody knocks before the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_of_bad_nonces_goes_unnoticed() {
    let world = World::new().await;
    world.sandbox.set_faults(Faults::default().with(HttpFault::BadNonce, 33));
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    world.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renamed_while_its_key_is_handed_over_is_finished() {
    let renamed = "  new:\n    names: [old.example.test]\n    deploy: [{ target: web }]\n\
                   moved: [{ from: certificate.old, to: certificate.new }]\n";
    for event in ["\"txt_presented\"", "\"issued\""] {
        let world = World::new()
            .await
            .harden()
            .certificates("  old:\n    names: [old.example.test]\n    deploy: [{ target: web }]\n");
        let (mut child, mut lines) = world.project.apply_events(&[]);
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains(event))));
        kill(&mut child);
        let world = world.certificates(renamed);
        world.finish();
        assert_eq!(world.issued().len(), 1, "killed at {event}");
        evidence::pair(&world.project.path().join("live/new")).expect("it is deployed under its new name");
        world.assert_only_foreign_txt();
    }
}

/// Renamed, with other names, another place and a certificate less: killed at every event of the run that does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_change_killed_at_any_event_comes_to_the_same_end() {
    let before = "  old:\n    names: [old.example.test]\n    deploy: [{ target: web }]\n  \
                  shop:\n    names: [shop.example.test]\n    deploy: [{ target: web }]\n  \
                  gone:\n    names: [gone.example.test]\n    deploy: [{ target: web }]\n";
    let after = "  new:\n    names: [old.example.test]\n    deploy: [{ target: web }]\n  \
                 shop:\n    names: [shop.example.test, \"*.shop.example.test\"]\n    deploy: [{ target: web }]\n\
                 moved: [{ from: certificate.old, to: certificate.new }]\n";
    for position in (1..200).step_by(2) {
        let world = World::new().await.certificates(before);
        world.finish();
        let old = evidence::pair(&world.project.path().join("live/old")).unwrap();
        let world = world.certificates(after);
        let completed = killed_at_event(&world, &[], position);
        world.finish();
        world.judge();
        assert_eq!(world.issued().len(), 4, "killed at {position}");
        let new = evidence::pair(&world.project.path().join("live/new")).expect("it is renamed");
        assert_eq!(new, old, "killed at {position}");
        for gone in ["old", "gone"] {
            let left = evidence::pair(&world.project.path().join("live").join(gone));
            assert!(left.is_none(), "{gone} is left; killed at {position}");
        }
        let list = world.project.certplan(&["state", "list"]).expect(0).stdout;
        assert_eq!(
            list,
            "account/sandbox\ncertificate/new\ncertificate/shop\ndeployment/new/web\ndeployment/shop/web\n",
            "killed at {position}"
        );
        if completed {
            return;
        }
    }
    panic!("no run completed");
}

/// As Pebble does now and then: `could not find an order for the given certificate (serverInternal)`.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_stumbles_over_the_predecessor_is_asked_without_it() {
    let world = World::new().await;
    world.finish();
    let mut faults = world.sandbox.faults();
    let endpoint = certplan::sandbox::Endpoint::NewOrder;
    let mut rule = certplan::sandbox::FaultRule::once(HttpFault::ServerError, endpoint, 0);
    // As often as one request is repeated.
    rule.times = Some(4);
    faults.http.push(rule);
    world.sandbox.set_faults(faults);
    let _ = world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    world.judge();
    let replaced = world.sandbox.ledger().entries().into_iter().rev().find_map(|entry| match entry.event {
        Event::OrderCreated { replaces, .. } => Some(replaces),
        _ => None,
    });
    assert_eq!(replaced, Some(None), "the order names no predecessor");
    assert_eq!(evidence::content(&world.project, "shop")["issuances"][1]["replaces"], false);
}

/// What only concerns a deployment may be applied while an order is open that the plan leaves for later.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_left_for_later_survives_what_is_done_beside_it() {
    let world = World::new().await;
    world.finish();
    let (mut child, lines) = world.project.apply_events(&["--replace", "certificate/shop"]);
    assert!(lines.map_while(Result::ok).any(|line| line.contains("\"step\":\"txt_presented\"")));
    kill(&mut child);
    let operation = || evidence::content(&world.project, "shop")["operation"].clone();
    let before = operation();
    assert!(before["order_url"].is_string(), "{before:#}");

    // Only the deployment is selected: its settings, and then its drift.
    let keep = SHOP.replace("{ target: web }", "{ target: web, on_remove: keep }");
    let config = world.project.read("certplan.yaml").replace(SHOP, &keep);
    world.project.write("certplan.yaml", &config);
    let beside = ["apply", "--auto-approve", "--address", "deployment/shop/web"];
    world.project.certplan(&beside).expect(0);
    assert_eq!(operation(), before, "the order is as it was");
    std::fs::remove_dir_all(world.project.path().join("live")).unwrap();
    world.project.certplan(&beside).expect(0);
    assert!(world.deployed().is_some());
    assert_eq!(operation(), before, "the order is as it was");
    let record = evidence::content(&world.project, "shop");
    assert_eq!(record["deployments"]["web"]["on_remove"], "keep");

    world.finish();
    world.judge();
    assert_eq!((world.orders(), world.issued().len()), (2, 2), "the order was finished");
}
