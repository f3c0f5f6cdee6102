use std::fs;

use certplan::model::sha256;

use crate::project::Project;
use crate::project::Run;
use crate::world::World;
use crate::world::check;
use crate::world::name;
use crate::world::no_panic;
use crate::world::tree;

/// Every command that looks at state.
const COMMANDS: [&[&str]; 8] = [
    &["plan"],
    &["apply", "--auto-approve"],
    &["renew", "shop", "--auto-approve"],
    &["show"],
    &["state", "list"],
    &["state", "rm", "certificate/shop"],
    &["state", "mv", "certificate/shop", "certificate/other"],
    &["key", "export", "shop", "--out", "key.pem"],
];

/// An object with another body, and the checksum that belongs to it: what somebody can write who knows the format.
pub(super) fn with_checksum(text: &str, change: impl Fn(&str) -> String) -> String {
    let end = text.find(",\n").expect("a checksum line") + 2;
    let body = change(&text[end..]);
    format!("{{\n  \"checksum\": \"sha256:{}\",\n{body}", sha256(body.as_bytes()))
}

/// Every command halts with the object's name and what to do, and changes nothing anywhere.
#[track_caller]
fn halts(world: &World, what: &str, object: &str) {
    halts_at(world, what, object, &COMMANDS);
}

#[track_caller]
fn halts_at(world: &World, what: &str, object: &str, commands: &[&[&str]]) {
    let before = (tree(world.project.path()), world.effects());
    for &arguments in commands {
        let run = world.project.certplan(arguments);
        no_panic(&run);
        assert_eq!(run.code, Some(1), "{what}: {arguments:?}: {run}");
        assert_eq!(run.stdout, "", "{what}: {arguments:?}");
        assert!(run.stderr.contains(object), "{what}: {arguments:?} does not name `{object}`: {run}");
        assert!(run.stderr.contains("hint: "), "{what}: {arguments:?} does not say what to do: {run}");
    }
    let after = (tree(world.project.path()), world.effects());
    let keys = |tree: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| {
        tree.keys().filter(|path| !path.to_string_lossy().contains("/.locks/")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&before.0), keys(&after.0), "{what}");
    assert!(before.0.iter().all(|(path, bytes)| after.0.get(path) == Some(bytes)), "{what}");
    assert_eq!(before.1, after.1, "{what}");
}

#[test]
fn a_certificates_object_that_is_damaged_halts_with_its_name() {
    let world = World::with_shop();
    let path = world.object("shop");
    let good = fs::read_to_string(&path).expect("it is there");
    let newer = with_checksum(&good, |body| body.replacen("\"format\": 1", "\"format\": 2", 1));
    assert_ne!(newer, good);
    let foreign = with_checksum(&good, |body| {
        let start = body.find("\"lineage\": \"").expect("a lineage") + 12;
        format!("{}{}{}", &body[..start], "0".repeat(8), &body[start + 8..])
    });
    let traversal = with_checksum(&good, |body| body.replace("shop.example.test", "../../etc/passwd"));
    for (what, text) in [
        ("truncated", &good[..good.len() / 2]),
        ("one octet short", &good[..good.len() - 1]),
        ("empty", ""),
        ("an empty object", "{}"),
        ("no JSON", "certificate"),
        ("edited by hand", &good.replacen("\"revision\": ", "\"revision\": 1", 1)),
        ("newer", &newer),
        ("foreign", &foreign),
        ("a name that climbs", &traversal),
    ] {
        fs::write(&path, text).expect("own file");
        halts(&world, what, "certificates/shop.json");
    }
    fs::write(&path, &good[..good.len() / 2]).expect("own file");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: `./.certplan/state/projects/default/certificates/shop.json` is not usable as state: its checksum does not match: it was truncated, damaged or edited by hand
    hint: restore the file from a backup or version control; to give up what it remembers, move it away by hand
    [exit code: 1]
    ");
    fs::write(&path, &newer).expect("own file");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: `./.certplan/state/projects/default/certificates/shop.json` has format 2, and this certplan knows formats up to 1
    hint: use the certplan version that wrote it, or a newer one
    [exit code: 1]
    ");
    fs::write(&path, &foreign).expect("own file");
    let run = world.project.certplan(&["plan"]);
    assert!(run.stderr.contains("two states were mixed"), "{run}");
    fs::write(&path, &good).expect("own file");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn a_certificate_is_not_renamed_onto_another() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]"), ("blog", "names: [blog.example.test]")]);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let run = world.project.certplan(&["state", "mv", "certificate/shop", "certificate/blog"]).expect(1);
    assert!(run.stderr.contains("`certificate/blog` is in state already"), "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    // Nor is its lease kept.
    let _ = world.project.certplan(&["state", "mv", "certificate/shop", "certificate/store"]).expect(0);
}

/// The default folder is read before the configuration has said that it is another.
#[test]
fn the_default_folder_is_nothing_when_the_configuration_names_another() {
    let world = World::with_shop();
    let kept = world.project.path().join("kept");
    fs::rename(world.state_folder(), &kept).expect("own folder");
    let text = world.project.read("certplan.yaml");
    world.project.write("certplan.yaml", &format!("state: {{ local: {{ path: kept }} }}\n{text}"));
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    for (what, object) in [("damaged", "state.json"), ("without its lineage", "accounts/ca.json")] {
        let path = world.state_folder().join(object);
        fs::create_dir_all(path.parent().expect("a folder")).expect("own folder");
        fs::write(&path, "damaged").expect("own file");
        let run = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
        assert!(run.stdout.contains("No changes") && !run.stderr.contains("state"), "{what}: {run}");
        let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
        fs::remove_dir_all(world.state_folder()).expect("own folder");
    }
}

#[test]
fn the_objects_of_the_state_and_the_account_halt_likewise() {
    let world = World::with_shop();
    for object in ["state.json", "accounts/ca.json"] {
        let path = world.state_folder().join(object);
        let good = fs::read(&path).expect("it is there");
        for (what, bytes) in
            [("truncated", &good[..good.len() / 2]), ("empty", &b""[..]), ("an empty object", b"{}")]
        {
            fs::write(&path, bytes).expect("own file");
            // A certificate alone can be forgotten, renamed or exported without its account.
            let commands = if object == "state.json" { &COMMANDS[..] } else { &COMMANDS[..5] };
            halts_at(&world, what, object, commands);
        }
        fs::write(&path, &good).expect("own file");
    }
    let path = world.state_folder().join("state.json");
    let aside = world.project.path().join("aside.json");
    fs::rename(&path, &aside).expect("own file");
    halts(&world, "missing", "state.json");
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    ------- stderr -------
    error: `./.certplan/state/state.json` is missing, but there are other objects of a state: `./.certplan/state/projects/default/certificates/shop.json`
    hint: restore `state.json` from a backup or version control
    [exit code: 1]
    ");
}

#[test]
fn an_object_in_the_place_of_another_is_not_taken_for_it() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]"), ("blog", "names: [blog.example.test]")]);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let (shop, blog) = (world.object("shop"), world.object("blog"));
    let good = fs::read(&shop).expect("it is there");
    fs::copy(&blog, &shop).expect("own file");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: `./.certplan/state/projects/default/certificates/shop.json` is not usable as state: it is the object `projects/default/certificates/blog.json` in the wrong place
    hint: restore the file from a backup or version control; to give up what it remembers, move it away by hand
    [exit code: 1]
    ");
    halts(&world, "swapped", "certificates/shop.json");
    let other = World::with_shop();
    fs::copy(other.object("shop"), &shop).expect("own file");
    halts(&world, "another state's", "certificates/shop.json");
    fs::remove_file(&shop).expect("own file");
    std::os::unix::fs::symlink(&blog, &shop).expect("own folder");
    let run = world.project.certplan(&["plan"]).expect(1);
    assert!(run.stderr.contains("certificates/shop.json") && run.stderr.contains("symbolic link"), "{run}");
    fs::remove_file(&shop).expect("own file");
    fs::write(&shop, good).expect("own file");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn several_damaged_objects_are_all_named() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]"), ("blog", "names: [blog.example.test]")]);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    fs::write(world.object("shop"), "").expect("own file");
    fs::write(world.object("blog"), "{}").expect("own file");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: 2 state objects cannot be used:
      `./.certplan/state/projects/default/certificates/blog.json` is not usable as state: it does not start like a state object
      `./.certplan/state/projects/default/certificates/shop.json` is not usable as state: it is empty
    hint: restore the file from a backup or version control; to give up what it remembers, move it away by hand
    [exit code: 1]
    ");
}

#[test]
fn an_object_truncated_anywhere_is_never_taken_for_new() {
    let world = World::with_shop();
    let path = world.object("shop");
    let good = fs::read(&path).expect("it is there");
    for length in (0..good.len()).step_by(61).chain(good.len() - 3..good.len()) {
        fs::write(&path, &good[..length]).expect("own file");
        let found = world.runtime.block_on(world.state().certificate(&name("shop")));
        assert!(found.is_err(), "{length} of {} octets: {found:?}", good.len());
    }
}

#[test]
fn another_identity_or_none_opens_nothing_and_plans_all_the_same() {
    let mut world = World::with_shop();
    let other = Project::new();
    world.project.set("CERTPLAN_AGE_KEY_FILE", &other.path().join("identity.txt").display().to_string());
    let effects = world.effects();
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    check!(world.project.certplan(&["key", "export", "shop", "--out", "key.pem"]), @"
    ------- stderr -------
    error: none of the identities opens the sealed key: it is sealed to `[recipient]`, and tried were `[recipient]`
    hint: CERTPLAN_AGE_KEY_FILE names the file of an identity that it is sealed to; CERTPLAN_AGE_KEY holds it itself
    [exit code: 1]
    ");
    let run = world.project.certplan(&["renew", "shop", "--auto-approve"]);
    check!(Run { stdout: String::new(), ..run }, @"
    ------- stderr -------
    certificate/shop: starting
    certificate/shop: lease taken
    certificate/shop: key sealed
    certificate/shop: error: none of the identities opens the sealed key: it is sealed to `[recipient]`, and tried were `[recipient]`
      hint: CERTPLAN_AGE_KEY_FILE names the file of an identity that it is sealed to; CERTPLAN_AGE_KEY holds it itself
    Apply ended: 1 failed.
    [exit code: 3]
    ");
    assert_eq!(world.effects(), effects);

    world.project.unset("CERTPLAN_AGE_KEY_FILE");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    check!(world.project.certplan(&["key", "export", "shop", "--out", "key.pem"]), @"
    ------- stderr -------
    error: none of the identities opens the sealed key: it is sealed to `[recipient]`, and tried were none, for there is no identity
    hint: CERTPLAN_AGE_KEY_FILE names the file of an identity that it is sealed to; CERTPLAN_AGE_KEY holds it itself
    [exit code: 1]
    ");
    world.project.set("CERTPLAN_AGE_KEY_FILE", "no-such-identity");
    check!(world.project.certplan(&["key", "export", "shop", "--out", "key.pem"]), @"
    ------- stderr -------
    error: cannot read the identity file `no-such-identity`: No such file or directory (os error 2)
    hint: CERTPLAN_AGE_KEY_FILE names the file, or ~/.config/certplan/identity.txt is it
    [exit code: 1]
    ");
    world.project.write("broken", "AGE-SECRET-KEY-1TYPO\n");
    world.project.set("CERTPLAN_AGE_KEY_FILE", "broken");
    let run = world.project.certplan(&["key", "export", "shop", "--out", "key.pem"]);
    assert!(!run.stderr.contains("TYPO"), "a mistyped identity is not shown: {run}");
    check!(run, @"
    ------- stderr -------
    error: line 1 of `broken` is no age identity
    hint: an identity is one line that begins with AGE-SECRET-KEY-1, as `age-keygen` writes it
    [exit code: 1]
    ");
    assert!(!world.project.path().join("key.pem").exists());
    assert_eq!(world.effects(), effects);
}

#[test]
fn of_two_applies_at_once_one_works_and_the_other_says_who_does() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.faults(|faults| faults.validation_delay = std::time::Duration::from_secs(4));
    let (mut first, mut events) = world.project.apply_events(&[]);
    events
        .by_ref()
        .map(|line| line.expect("a line"))
        .find(|line| line.contains("txt_presented") || line.contains("order_created"))
        .expect("the first apply has an order");
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    assert_eq!(run.code, Some(5), "{run}");
    assert!(run.stderr.contains(&format!("{}", first.id())), "the holder's process is named: {run}");
    assert!(run.stderr.contains("--lock-timeout"), "{run}");
    for _ in events {}
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    assert_eq!((world.orders(), world.issued()), (1, 1));

    // With patience, the other finds the work done.
    world.configure(&[("blog", "names: [blog.example.test]"), ("shop", "names: [shop.example.test]")]);
    let (mut first, mut events) = world.project.apply_events(&[]);
    events
        .by_ref()
        .map(|line| line.expect("a line"))
        .find(|line| line.contains("order_created"))
        .expect("an order");
    let run = world.project.certplan(&["apply", "--auto-approve", "--lock-timeout", "60s"]);
    for _ in events {}
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    assert_eq!(world.issued(), 2, "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn what_another_run_works_on_is_neither_forgotten_nor_renamed() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    world.faults(|faults| faults.validation_delay = std::time::Duration::from_secs(4));
    let (mut child, mut events) = world.project.apply_events(&[]);
    assert!(events.any(|line| line.is_ok_and(|line| line.contains("\"propagated\""))));
    for arguments in
        [&["state", "rm", "certificate/shop"][..], &["state", "mv", "certificate/shop", "certificate/other"]]
    {
        let run = world.project.certplan(arguments).expect(5);
        assert!(run.stderr.contains(&child.id().to_string()), "it says who works: {run}");
    }
    let unlocked = world.project.certplan(&["state", "unlock", "certificate/shop", "--force"]).expect(0);
    assert!(unlocked.stderr.contains("finds that out within 20 s"), "{unlocked}");
    let _ = events.count();
    let _ = child.wait().expect("it ends");
}
