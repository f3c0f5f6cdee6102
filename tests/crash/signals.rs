use std::process::Command;
use std::time::Instant;

use super::world::PATIENCE;
use super::world::World;

fn signal(child: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_interrupt_lets_the_effect_finish_and_the_next_run_goes_on() {
    let events = ["order_created", "txt_intended", "txt_presented", "validated", "finalizing", "issued"];
    let signals: &[&str] = if ignores_hang_up() { &["INT", "TERM"] } else { &["INT", "HUP", "TERM"] };
    for (event, name) in events.into_iter().zip(signals.iter().cycle()) {
        let world = World::new().await;
        let (mut child, mut lines) = world.project.apply_events(&[]);
        let seen = lines.any(|line| line.is_ok_and(|line| line.contains(&format!("\"{event}\""))));
        assert!(seen, "the run comes to {event}");
        signal(child.id(), name);
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let status = child.wait().unwrap();
        // What had no effect left to wait for may also have come to its end.
        assert!([Some(130), Some(0)].contains(&status.code()), "{event}, {name}: {status:?} {rest:#?}");
        if ["order_created", "txt_presented"].contains(&event) {
            assert_eq!(status.code(), Some(130), "{event}: {rest:#?}");
        }
        let _ = world.deployed();
        world.finish();
        world.judge();
        assert_eq!(world.issued().len(), 1, "interrupted at {event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_interrupts_end_at_once_and_the_journal_still_holds() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.validation_delay = std::time::Duration::from_secs(600);
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"propagated\""))));
    let start = Instant::now();
    signal(child.id(), "INT");
    crate::evidence::wait_until("end", PATIENCE, || {
        signal_if_running(&mut child);
        child.try_wait().unwrap().is_some()
    });
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "it ends at once");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // Pending validations of the killed run go on waiting; a new order is not needed once they answer.
    let mut faults = world.sandbox.faults();
    faults.validation_delay = std::time::Duration::ZERO;
    world.sandbox.set_faults(faults);
}

/// Whether whoever runs the tests had them ignore it: what they start does so then.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_none_or(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}

fn signal_if_running(child: &mut std::process::Child) {
    if child.try_wait().unwrap().is_none() {
        signal(child.id(), "INT");
    }
}
