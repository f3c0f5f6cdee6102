//! One place under several names: what serves there is never taken down.

use std::os::unix::fs::symlink;

use certplan::sandbox::Event;

use crate::world::World;
use crate::world::name;

const OLD: &str = "old: { files: { directory: out } }";
const NEW: &str = "new: { files: { directory: out } }";

fn configure(world: &World, targets: &str, certificates: &str) {
    let text = format!("{}targets: {{ {targets} }}\ncertificates:\n{certificates}", world.head());
    world.project.write("certplan.yaml", &text);
}

fn serves(world: &World) -> bool {
    world.project.path().join("out/shop/fullchain.pem").exists()
}

fn shop(target: &str) -> String {
    format!("  shop: {{ names: [shop.example.test], deploy: [{{ target: {target} }}] }}\n")
}

#[test]
fn a_target_that_gets_another_name_keeps_serving() {
    let world = World::new();
    configure(&world, OLD, &shop("old"));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    configure(&world, &format!("{OLD}, {NEW}"), &shop("new"));
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(serves(&world), "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    assert_eq!(world.issued(), 1);
}

#[test]
fn a_folder_that_is_reached_through_a_link_keeps_serving() {
    let world = World::new();
    configure(&world, OLD, &shop("old"));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    symlink("out", world.project.path().join("link")).expect("a link");
    configure(&world, "old: { files: { directory: link } }", &shop("old"));
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(serves(&world), "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn a_certificate_that_gets_another_name_and_keeps_its_place_keeps_serving() {
    let world = World::new();
    configure(&world, OLD, &shop("old"));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    configure(
        &world,
        OLD,
        "  store: { names: [shop.example.test, www.example.test], deploy: [{ target: old, name: shop }] }\n",
    );
    // The new certificate first, so that the removal of the old one finds it in its place and not the other way round.
    let excluded = ["--exclude", "certificate/shop", "--exclude", "deployment/shop/*"];
    let run = world.project.certplan(&[["apply", "--auto-approve"].as_slice(), &excluded].concat()).expect(0);
    assert!(serves(&world) && world.issued() == 2, "{run}");
    let shop = ["--allow-remove", "certificate/shop"];
    let run = world.project.certplan(&[["apply", "--auto-approve"].as_slice(), &shop].concat()).expect(0);
    assert!(serves(&world), "{run}");
    assert!(run.stdout.contains("what its target holds by now stays: another certificate"), "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

/// A certificate goes over to another project, which deploys it to the same place.
#[test]
fn what_another_project_deployed_there_is_not_taken_down() {
    for refresh in [true, false] {
        let (world, other) = (World::new(), World::new());
        configure(&world, OLD, &shop("old"));
        let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
        let folder = world.project.path().join("out").display().to_string();
        configure(&other, &format!("theirs: {{ files: {{ directory: \"{folder}\" }} }}"), &shop("theirs"));
        let _ = other.project.certplan(&["apply", "--auto-approve"]).expect(0);
        let theirs = world.project.read("out/shop/fullchain.pem");

        configure(&world, OLD, "  blog: { names: [blog.example.test] }\n");
        let removal = ["--allow-remove", "certificate/shop"];
        let arguments = [["--auto-approve"].as_slice(), &removal].concat();
        if refresh {
            let plan = world.plan(&removal, 0);
            let change = plan["resource_changes"].as_array().expect("changes").iter();
            let change = change
                .clone()
                .find(|change| change["address"] == "deployment/shop/old")
                .expect("it is shown");
            assert_eq!(change["action_reason"], "forget_because_target_differs", "{plan:#}");
            let _ = world.project.certplan(&[["apply"].as_slice(), &arguments].concat()).expect(0);
        } else {
            let blind = [["apply", "--refresh=false"].as_slice(), &arguments].concat();
            let run = world.project.certplan(&blind).expect(0);
            assert!(run.stderr.contains("holds what certplan did not deploy there"), "{run}");
        }
        assert_eq!(world.project.read("out/shop/fullchain.pem"), theirs);
        let left = world.runtime.block_on(world.state().certificate(&name("shop"))).expect("a good state");
        assert!(left.is_none(), "{left:?}");
        let _ = other.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    }
}

/// Somebody put a folder of theirs in place of our link, and then takes the certificate out of the configuration.
#[test]
fn a_removal_beside_something_foreign_leaves_no_key_of_ours() {
    let world = World::new();
    configure(&world, OLD, &shop("old"));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let place = world.project.path().join("out/shop");
    std::fs::remove_file(&place).expect("it is a link");
    std::fs::create_dir(&place).expect("a folder");
    let theirs = world.project.write("out/shop/privkey.pem", "somebody's");
    configure(&world, OLD, "  blog: { names: [blog.example.test] }\n");
    let run =
        world.project.certplan(&["apply", "--auto-approve", "--allow-remove", "certificate/shop"]).expect(0);
    assert_eq!(std::fs::read_to_string(theirs).expect("it is theirs"), "somebody's", "{run}");
    assert!(!world.project.path().join("out/.certplan").exists(), "{run}");
}

/// The identity of `keys:` alone opens the certificate's key, and not the account's.
#[test]
fn a_certificate_that_may_exist_outlives_a_run_that_cannot_go_on_with_it() {
    let world = World::new();
    let keys = certplan::state::generate_identity();
    let offline = world.project.write("offline.txt", secrecy::ExposeSecret::expose_secret(&keys.text));
    world.configure(&[("shop", "names: [shop.example.test]")]);
    let text = world.project.read("certplan.yaml");
    let recipients = format!("recipients: [{}]", world.project.recipient());
    world.project.write(
        "certplan.yaml",
        &text.replace(&recipients, &format!("{recipients}\n  keys: [{}]", keys.recipient)),
    );
    world.faults(|faults| faults.processing_delay = std::time::Duration::from_secs(1));
    let (mut child, mut lines) = world.project.apply_events(&[]);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("\"finalizing\""))));
    let finalized = || {
        let entries = world.sandbox.ledger().entries();
        entries.iter().any(|entry| matches!(entry.event, Event::Finalized { .. }))
    };
    let begun = std::time::Instant::now();
    while !finalized() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it does not finalize");
        std::thread::yield_now();
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let before = world.project.record("default", "shop")["content"]["operation"]["id"].clone();
    assert!(before.is_string(), "it was killed in the middle: {before}");
    let output = world
        .project
        .command(&["apply", "--auto-approve"])
        .env("CERTPLAN_AGE_KEY_FILE", &offline)
        .output()
        .expect("certplan runs");
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(world.project.record("default", "shop")["content"]["operation"]["id"], before, "{output:?}");
}

#[test]
fn a_deployment_that_is_to_be_kept_by_now_is_kept_though_nothing_was_deployed_since() {
    let world = World::new();
    configure(&world, OLD, &shop("old"));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let kept = "  shop: { names: [shop.example.test], deploy: [{ target: old, on_remove: keep }] }\n";
    configure(&world, OLD, kept);
    let plan = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(2);
    assert!(plan.stdout.contains("on_remove: remove -> keep"), "{plan}");
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    assert_eq!(world.issued(), 1, "nothing is issued or deployed for that");
    configure(&world, OLD, "  other: { names: [other.example.test] }\n");
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(serves(&world), "{run}");
}
