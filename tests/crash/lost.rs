use std::time::Duration;

use certplan::sandbox::EabKey;
use certplan::sandbox::Endpoint;
use certplan::sandbox::Event;
use certplan::sandbox::FaultRule;
use certplan::sandbox::HttpFault;
use certplan::sandbox::SandboxOptions;

use super::world::PATIENCE;
use super::world::World;
use super::world::kill;
use crate::evidence;

/// The requests that change something at the CA, or bring what must not be lost.
const ENDPOINTS: [Endpoint; 7] = [
    Endpoint::NewAccount,
    Endpoint::NewOrder,
    Endpoint::Authorization,
    Endpoint::Challenge,
    Endpoint::Finalize,
    Endpoint::Order,
    Endpoint::Certificate,
];

fn with_single_use_account() -> SandboxOptions {
    let mut options = SandboxOptions::default();
    options.eab_required = true;
    options.eab_keys = vec![EabKey {
        key_id: "kid-1".to_owned(),
        hmac_key: "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned(),
    }];
    options
}

const EAB: &str =
    "contact: [ops@example.test], eab: { key_id: { env: EAB_KID }, hmac_key: { env: EAB_HMAC } }";

async fn world_with_single_use_account() -> World {
    let mut world = World::with(with_single_use_account()).await.issuer(EAB);
    world.project.set("EAB_KID", "kid-1");
    world.project.set("EAB_HMAC", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_any_endpoint_costs_no_second_account_order_or_certificate() {
    for fault in [HttpFault::DropAfterCommit, HttpFault::ErrorAfterCommit] {
        for endpoint in ENDPOINTS {
            let world = world_with_single_use_account().await;
            let mut faults = world.sandbox.faults();
            faults.http.push(FaultRule::once(fault, endpoint, 0));
            world.sandbox.set_faults(faults);
            world.finish();
            let injected = world.count(
                |event| matches!(event, Event::Request { fault: Some(injected), .. } if *injected == fault),
            );
            println!("{fault:?} at {endpoint:?}: injected {injected} times");
            world.judge();
            assert_eq!(world.issued().len(), 1, "{fault:?} at {endpoint:?}");
            assert_eq!(world.accounts(), 1, "{fault:?} at {endpoint:?}");
            // Polling may not come to pass at all: an order that is ready or valid at once is not asked for.
            assert!(injected == 1 || endpoint == Endpoint::Order, "{fault:?} at {endpoint:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_after_its_account_was_made_finds_it_again() {
    let world = world_with_single_use_account().await;
    let mut ledger = world.sandbox.ledger().subscribe();
    let (mut child, _lines) = world.project.apply_events(&[]);
    tokio::time::timeout(PATIENCE, async {
        while world.accounts() == 0 {
            ledger.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    kill(&mut child);
    world.finish();
    world.judge();
    assert_eq!(world.accounts(), 1, "the binding may be used once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_expired_while_nobody_ran_is_followed_by_another() {
    for event in ["order_created", "txt_presented"] {
        let mut options = SandboxOptions::default();
        options.order_lifetime = Duration::from_secs(3);
        options.pending_lifetime = Duration::from_secs(3);
        let world = World::with(options).await;
        let mut faults = world.sandbox.faults();
        faults.validation_delay = Duration::from_secs(600);
        world.sandbox.set_faults(faults);
        let (mut child, mut lines) = world.project.apply_events(&[]);
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains(&format!("\"{event}\"")))));
        kill(&mut child);
        let mut faults = world.sandbox.faults();
        faults.validation_delay = Duration::ZERO;
        world.sandbox.set_faults(faults);
        let order =
            evidence::content(&world.project, "shop")["operation"]["order_url"].as_str().unwrap().to_owned();
        let expires: jiff::Timestamp =
            evidence::content(&world.project, "shop")["operation"]["order_expires"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
        evidence::wait_until("expiry", PATIENCE, || {
            jiff::Timestamp::now() > expires + Duration::from_secs(1)
        });
        world.finish();
        world.judge();
        let issued = world.issued();
        assert_eq!(issued.len(), 1);
        assert_ne!(issued[0].order, order, "another order was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_applies_at_once_one_works_and_the_other_names_it() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.validation_delay = Duration::from_secs(3);
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"order_created\""))));
    let second = world.project.certplan(&["apply", "--auto-approve"]).expect(5);
    assert!(second.stderr.contains(&child.id().to_string()), "it says who holds the lease: {second}");
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_waits_for_the_lease_finds_the_work_done() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.validation_delay = Duration::from_secs(1);
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"order_created\""))));
    let second = world.project.certplan(&["apply", "--auto-approve", "--lock-timeout", "30s"]);
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // What it planned was done by the other one meanwhile.
    assert_eq!(second.code, Some(0), "{second}");
    assert!(second.stderr.contains("changed since it was planned"), "{second}");
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_waited_for_one_that_failed_calls_nothing_done() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    // The CA looks late, and does not find the values; certplan itself does not look.
    faults.dns.lag = Duration::from_secs(3600);
    faults.validation_delay = Duration::from_secs(2);
    world.sandbox.set_faults(faults);
    let text = world.project.read("certplan.yaml");
    let trusting =
        |line| if str::contains(line, "propagation:") { "    propagation: provider" } else { line };
    world.project.write("certplan.yaml", &text.lines().map(trusting).collect::<Vec<_>>().join("\n"));
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"order_created\""))));
    let second = world.project.certplan(&["apply", "--auto-approve", "--lock-timeout", "60s"]);
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(second.code, Some(4), "{second}");
    assert!(second.stderr.contains("overtaken: "), "{second}");
    assert_eq!(world.issued().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_whose_confirmation_was_lost_are_removed_by_the_next_run() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.dns.drop_after_commit_percent = 100;
    world.sandbox.set_faults(faults);
    let (mut child, _lines) = world.project.apply_events(&[]);
    let is_dropped = |event: &Event| matches!(event, Event::DnsUpdate(update) if update.dropped);
    evidence::wait_until("lost answer", PATIENCE, || world.count(is_dropped) > 0);
    kill(&mut child);
    assert!(world.sandbox.records().len() > 5, "the values are there, and nobody was told");
    world.sandbox.set_faults(certplan::sandbox::Faults::default());
    world.finish();
    world.judge();
    assert_eq!(world.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dns_server_that_fails_for_a_moment_is_tried_again_by_the_same_run() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.dns.fail_updates_percent = 100;
    world.sandbox.set_faults(faults);
    let (mut child, lines) = world.project.apply_events(&[]);
    let has_failed = |event: &Event| matches!(event, Event::DnsUpdate(update) if update.rcode == "SERVFAIL");
    evidence::wait_until("failed update", PATIENCE, || world.count(has_failed) > 0);
    world.sandbox.set_faults(certplan::sandbox::Faults::default());
    assert!(lines.count() > 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    world.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_validation_leaves_nothing_and_is_tried_again_later() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    // The CA does not find the values, as with a zone that is not delegated; certplan itself does not look.
    faults.dns.lag = Duration::from_secs(3600);
    world.sandbox.set_faults(faults);
    let text = world.project.read("certplan.yaml");
    let trusting = text
        .lines()
        .map(|line| if line.contains("propagation:") { "    propagation: provider" } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    world.project.write("certplan.yaml", &trusting);
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert!(run.stderr.contains("shop.example.test"), "it says what could not be validated: {run}");
    world.assert_only_foreign_txt();
    let record = evidence::content(&world.project, "shop");
    assert!(record["operation"].is_null(), "nothing can come of the order: {record:#}");
    assert_eq!(record["failures"]["count"], 1);
    world.project.certplan(&["plan", "--detailed-exitcode"]).expect(6);
    world.sandbox.set_faults(certplan::sandbox::Faults::default());
    world.project.write("certplan.yaml", &text);
    if world.finish_later() {
        world.judge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_down_for_a_while_costs_no_certificate_and_no_order() {
    for fault in [HttpFault::Unavailable, HttpFault::ServerError, HttpFault::DropBeforeCommit] {
        for endpoint in [Endpoint::NewOrder, Endpoint::Finalize, Endpoint::Certificate] {
            let world = World::new().await;
            let mut faults = world.sandbox.faults();
            let mut rule = FaultRule::new(fault, 100);
            rule.endpoints = [endpoint].into();
            faults.http.push(rule);
            faults.retry_after = Some(Duration::from_secs(60));
            world.sandbox.set_faults(faults);
            let run = world.project.certplan(&["apply", "--auto-approve"]);
            assert!([Some(3), Some(0)].contains(&run.code), "{fault:?} at {endpoint:?}: {run}");
            assert!(world.deployed().is_none(), "{fault:?} at {endpoint:?}: {run}");
            world.sandbox.set_faults(certplan::sandbox::Faults::default());
            if !world.finish_later() {
                return;
            }
            world.judge();
            assert_eq!(world.issued().len(), 1, "{fault:?} at {endpoint:?}");
            let orders = world.count(|event| matches!(event, Event::OrderCreated { .. }));
            assert_eq!(orders, 1, "{fault:?} at {endpoint:?}: the order goes on");
        }
    }
}
