use std::process::Child;
use std::process::Stdio;
use std::time::Instant;

use super::world::PATIENCE;
use super::world::World;
use super::world::kill;

/// Starts a run and kills it when it reports its `position`-th event; whether it ended before.
pub(super) fn killed_at_event(world: &World, arguments: &[&str], position: usize) -> bool {
    let (mut child, lines) = world.project.apply_events(arguments);
    let seen = lines.take(position).filter(Result::is_ok).count();
    kill_unless_ended(&mut child, seen < position)
}

/// Starts a run and kills it when the servers have carried out its `position`-th request; whether it ended before.
fn killed_at_effect(world: &World, arguments: &[&str], position: u64) -> bool {
    let mut ledger = world.sandbox.ledger().subscribe();
    let end = *ledger.borrow_and_update() + position;
    let mut child = world
        .project
        .command(&[&["apply", "--auto-approve", "--json"], arguments].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while *ledger.borrow() < end {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        assert!(start.elapsed() < PATIENCE, "the run does not end");
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    kill_unless_ended(&mut child, false)
}

fn kill_unless_ended(child: &mut Child, ended: bool) -> bool {
    if ended {
        child.wait().unwrap();
    } else {
        kill(child);
    }
    ended
}

/// A first certificate, killed at every event of its run.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_issuance_killed_at_any_event_is_finished_by_the_next_run() {
    matrix(false, 1, killed_at_event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_issuance_killed_at_any_effect_is_finished_by_the_next_run() {
    matrix(false, 1, |world, arguments, position| killed_at_effect(world, arguments, position as u64)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hardened_custody_survives_a_kill_at_any_event_and_leaves_no_readable_key() {
    matrix(true, 1, killed_at_event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hardened_custody_survives_a_kill_at_any_effect_and_leaves_no_readable_key() {
    matrix(true, 2, |world, arguments, position| killed_at_effect(world, arguments, position as u64)).await;
}

/// Kills at position 1, 1 + step, ... until a run completes, each time in a new world.
async fn matrix(hardened: bool, step: usize, run: impl Fn(&World, &[&str], usize) -> bool) {
    for position in (1..200).step_by(step) {
        let world = World::new().await;
        let world = if hardened { world.harden() } else { world };
        let completed = run(&world, &[], position);
        // Consistent or empty, also right after the kill.
        let _ = world.deployed();
        world.finish();
        println!("killed at {position}");
        world.judge();
        assert_eq!(world.issued().len(), 1, "one wish, one certificate; killed at {position}");
        assert_eq!(world.accounts(), 1, "one account; killed at {position}");
        if completed {
            assert!(position > 10, "a run has more steps than {position}");
            return;
        }
    }
    panic!("no run completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_killed_at_any_event_never_leaves_a_mismatched_target() {
    let world = World::new().await;
    world.finish();
    let mut known = world.deployed().unwrap();
    for position in 1..200 {
        let before = world.issued().len();
        let completed = killed_at_event(&world, &["--replace", "certificate/shop"], position);
        let between = world.deployed().expect("what was served still is");
        let newest = world.issued().last().unwrap().fingerprint.to_string();
        assert!(
            [&known.fingerprint, &newest].contains(&&between.fingerprint),
            "the target has the old or the new one; killed at {position}"
        );
        world.finish();
        world.judge();
        assert!(world.issued().len() - before <= 1, "one request, one certificate; killed at {position}");
        known = world.deployed().unwrap();
        if completed {
            return;
        }
    }
    panic!("no run completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_certificates_killed_in_the_middle_are_finished_without_a_second_one() {
    const COUNT: usize = 20;
    let certificates: String = (0..COUNT)
        .map(|number| {
            format!(
                "  site{number}:\n    names: [site{number}.example.test]\n    deploy: [{{ target: web }}]\n"
            )
        })
        .collect();
    for position in [15, 70, 130] {
        let world = World::new().await.certificates(&certificates);
        killed_at_event(&world, &[], position);
        world.finish();
        world.assert_only_foreign_txt();
        assert_eq!(world.issued().len(), COUNT, "one each; killed at {position}");
        for number in 0..COUNT {
            let folder = world.project.path().join(format!("live/site{number}"));
            crate::evidence::pair(&folder).expect("every certificate is deployed");
        }
    }
}
