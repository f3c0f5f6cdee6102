//! Something panics in the middle: the certificate that it happens to fails alone, and the next run goes on with it.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use certplan::apply::Outcome;
use certplan::model::DeploymentStage;

use crate::world::World;
use crate::world::inside::Inside;
use crate::world::inside::address;
use crate::world::inside::forget_failures;
use crate::world::inside::hook;
use crate::world::inside::record;
use crate::world::name;

const THREE: [(&str, &str); 3] = [
    ("a", "names: [a.example.test]\n    deploy: [{ target: web }]"),
    ("b", "names: [b.example.test]\n    deploy: [{ target: web }]"),
    ("c", "names: [c.example.test]\n    deploy: [{ target: web }]"),
];

fn three() -> (World, Inside) {
    let world = World::new();
    let text = format!("{}targets: {{ web: {{ files: {{ directory: out }} }} }}\n", world.config(&THREE));
    world.project.write("certplan.yaml", &text);
    let inside = Inside::new(&world);
    (world, inside)
}

/// Of three certificates only `b` failed.
#[track_caller]
fn only_b_failed(outcome: &Outcome) {
    assert_eq!(outcome.done, [name("a"), name("c")].into(), "{outcome:?}");
    assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), [&address("b")], "{outcome:?}");
}

/// A run in which nothing panics ends what was begun, with one certificate each and nothing left.
#[track_caller]
fn the_next_run_finishes(world: &World, inside: &Inside) {
    inside.hook(hook(|_| Ok(())));
    // A failure waits for its turn: what is asked for does not.
    let mut inside = inside.clone();
    inside.plan.replace = Vec::new();
    for certificate in ["a", "b", "c"] {
        forget_failures(world, certificate);
    }
    let outcome = inside.run(world);
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    for certificate in ["a", "b", "c"] {
        let record = record(world, certificate);
        assert!(record.operation.is_none(), "{record:?}");
        assert!(world.project.path().join(format!("out/{certificate}/fullchain.pem")).exists());
    }
    assert_eq!((world.issued(), world.txt()), (3, Vec::new()));
}

#[test]
fn a_target_that_panics_fails_one_certificate_and_the_others_are_deployed() {
    let (world, inside) = three();
    inside.hook(hook(|call| {
        assert!(call.what != "deploy" || !call.at.contains("/b"), "a fault of the target");
        Ok(())
    }));
    only_b_failed(&inside.run(&world));
    let operation = record(&world, "b").operation.expect("it is kept for the next run");
    assert_eq!(operation.deployments[&name("web")].stage, DeploymentStage::Intent);
    let said = inside.calls("event");
    let errored = |call: &&crate::world::inside::Call| {
        call.at.contains("apply_errored") && call.at.contains("certificate/b")
    };
    assert_eq!(said.iter().filter(errored).count(), 1, "{said:#?}");
    the_next_run_finishes(&world, &inside);
}

#[test]
fn a_panic_at_any_step_of_one_certificate_loses_nothing_and_stops_nobody() {
    for step in [
        "leased",
        "key_persisted",
        "order_created",
        "txt_intended",
        "txt_presented",
        "propagated",
        "validated",
        "finalizing",
        "issued",
        "cleaned_up",
        "deployed",
        "committed",
    ] {
        let (world, inside) = three();
        inside.hook(hook(move |call| {
            let here = call.what == "event"
                && call.at.contains(&format!("\"step\":\"{step}\""))
                && (call.at.contains("\"certificate/b\"") || call.at.contains("\"deployment/b/"));
            assert!(!here, "a fault at `{step}`");
            Ok(())
        }));
        let outcome = inside.run(&world);
        assert!(outcome.done.is_superset(&[name("a"), name("c")].into()), "{step}: {outcome:?}");
        assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), [&address("b")], "{step}: {outcome:?}");
        assert_eq!(world.txt(), [], "{step}: values are left");
        the_next_run_finishes(&world, &inside);
    }
}

/// Before the certificate's own part catches anything: its task is lost, and the run knows whose it was.
#[test]
fn a_task_that_is_lost_as_a_whole_is_its_certificates_failure() {
    let (world, inside) = three();
    inside.hook(hook(|call| {
        let here = call.at.contains("apply_start") && call.at.contains("\"certificate/b\"");
        assert!(!here, "a fault before anything");
        Ok(())
    }));
    only_b_failed(&inside.run(&world));
    assert_eq!((world.issued(), world.txt()), (2, Vec::new()));
    the_next_run_finishes(&world, &inside);
}

#[test]
fn a_dns_provider_that_panics_in_the_zones_writer_lets_nobody_wait() {
    let (world, inside) = three();
    let asked = AtomicUsize::new(0);
    // The first question comes from a certificate's task; those after it from the task that writes the zone.
    inside.hook(hook(move |call| {
        let number = if call.what == "limits" { asked.fetch_add(1, Ordering::Relaxed) } else { 0 };
        assert!(number != 1, "a fault of the provider");
        Ok(())
    }));
    let outcome = inside.run(&world);
    assert!(!outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(world.txt(), []);
    the_next_run_finishes(&world, &inside);
}

#[test]
fn a_dns_provider_that_panics_at_a_change_fails_those_whose_values_it_had() {
    let (world, inside) = three();
    inside.hook(hook(|call| {
        assert!(call.what != "add", "a fault of the provider");
        Ok(())
    }));
    let outcome = inside.run(&world);
    assert_eq!(outcome.failed.len(), 3, "{outcome:?}");
    the_next_run_finishes(&world, &inside);
}

/// Taking back what one left may panic as well.
#[test]
fn a_dns_provider_that_panics_at_every_removal_leaves_them_to_the_next_run() {
    let (world, inside) = three();
    inside.hook(hook(|call| {
        assert!(call.what != "remove_txt", "a fault of the provider");
        Ok(())
    }));
    let outcome = inside.run(&world);
    assert!(!outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(world.issued(), 3);
    the_next_run_finishes(&world, &inside);
}
