use std::fs;
use std::path::Path;
use std::time::Duration;

use super::world::World;
use crate::evidence;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_state_takes_no_newer_certificate_down() {
    let world = World::new().await;
    let state = world.project.path().join(".certplan");
    let backup = world.project.path().join("backup");
    world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let older = world.deployed().unwrap();
    copy(&state, &backup);
    // Dates in certificates are of whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    let newer = world.deployed().unwrap();
    assert_ne!(newer.fingerprint, older.fingerprint);
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&backup, &state).unwrap();

    for arguments in
        [&["plan"][..], &["apply", "--auto-approve"], &["apply", "--auto-approve", "--only", "drift"]]
    {
        let run = world.project.certplan(arguments);
        assert!(matches!(run.code, Some(1 | 3)), "{arguments:?}: {run}");
        let told = run.to_string();
        assert!(
            told.contains("Error: deployment/shop/web: ") && told.contains("may be an older copy"),
            "{arguments:?}: {run}"
        );
        assert_eq!(world.deployed().unwrap().fingerprint, newer.fingerprint, "{arguments:?}: {run}");
    }
    assert_eq!(world.issued().len(), 2);

    world.project.certplan(&["apply", "--auto-approve", "--replace", "deployment/shop/web"]).expect(0);
    assert_eq!(world.deployed().unwrap().fingerprint, older.fingerprint, "it was asked for by name");
    evidence::assert_no_changes(&world.project);
    // A renewal is newer than both.
    world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    evidence::assert_no_changes(&world.project);
}
