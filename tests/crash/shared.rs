use std::time::Duration;

use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lease_was_broken_and_its_successor_issue_one_certificate() {
    let world = World::new().await;
    let mut faults = world.sandbox.faults();
    faults.validation_delay = Duration::from_secs(3);
    world.sandbox.set_faults(faults);
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"propagated\""))));
    let shown = world.project.certplan(&["state", "unlock", "certificate/shop"]).expect(1);
    assert!(shown.stderr.contains(&child.id().to_string()), "it says who works: {shown}");
    world.project.certplan(&["state", "unlock", "certificate/shop", "--force"]).expect(0);
    // The late effects of the first are those of the second: the same order, the same key, the same values.
    let second = world.project.certplan(&["apply", "--auto-approve"]);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let first = child.wait().unwrap();
    assert!(
        [first.code(), second.code].contains(&Some(0)) || [first.code(), second.code].contains(&Some(3)),
        "{first:?} {second}: {rest:#?}"
    );
    let _ = world.deployed();
    world.finish();
    world.judge();
    assert_eq!(world.issued().len(), 1, "{rest:#?} {second}");
}
