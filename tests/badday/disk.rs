use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::project::Project;
use crate::project::Run;
use crate::world::World;
use crate::world::no_panic;
use crate::world::tree;

/// Runs certplan from a shell, with `before` done in it.
fn in_shell(project: &Project, before: &str, arguments: &[&str]) -> Run {
    let shell = ["sh", "-c", &format!("{before}; exec \"$0\" \"$@\"")];
    project.certplan_under(Command::new(shell[0]).args(&shell[1..]), arguments)
}

/// Runs certplan with the n-th of some system calls failing, counted in each thread. `None` where nobody may trace.
#[expect(clippy::print_stdout, reason = "what is skipped has to be seen")]
fn with_failing(project: &Project, calls: &str, errno: &str, when: u32, arguments: &[&str]) -> Option<Run> {
    let strace = certplan_test_support::peer("strace")?;
    let may = Command::new(&strace).args(["-qq", "-o", "/dev/null", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: this user cannot trace");
        return None;
    }
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:error={errno}:when={when}"));
    Some(project.certplan_under(&mut command, arguments))
}

/// With no room for a write, nothing happens outside that the write was to make recoverable: the next run always finishes,
/// with one certificate and no record left.
#[test]
fn a_disk_that_is_full_at_any_write_costs_nothing() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    let mut failed = 0;
    for blocks in 0..64 {
        let (issued, orders, accounts) = (world.issued(), world.orders(), world.accounts());
        // A limit on the size of a file stands for a disk without room; the signal would kill instead.
        let run = in_shell(
            &world.project,
            &format!("trap '' XFSZ; ulimit -f {blocks}"),
            &["apply", "--auto-approve"],
        );
        no_panic(&run);
        if run.code == Some(0) {
            break;
        }
        failed += 1;
        assert!(matches!(run.code, Some(1 | 3)), "{blocks}: {run}");
        assert!(run.stderr.contains("no room"), "{blocks}: {run}");
        assert_recoverable(&world, (orders, accounts), &format!("{blocks}: {run}"));

        let run = world.project.certplan(&["apply", "--auto-approve"]);
        assert_eq!(run.code, Some(0), "{blocks}: {run}");
        assert_eq!(world.issued(), issued + 1, "{blocks}: {run}");
        assert_eq!(world.txt(), [], "{blocks}");
        // Begin anew.
        fs::remove_dir_all(world.project.path().join(".certplan")).expect("own folder");
        fs::remove_dir_all(world.project.path().join("out")).expect("own folder");
    }
    assert!(failed >= 3, "the limit hit {failed} writes only");
}

/// The same where it is not the room that is missing: a disk that is dying says so when it is asked to keep what was
/// written, a quota when a name is made, and a file system of the network knows no locks or modes.
#[test]
fn a_disk_that_fails_at_any_time_costs_nothing() {
    for (calls, errno, most) in [
        ("fsync,fdatasync", "EIO", 26),
        ("rename,renameat,renameat2", "EDQUOT", 7),
        ("flock", "ENOLCK", 10),
        ("fchmod", "EPERM", 10),
    ] {
        let world = World::new();
        world.configure(&[(
            "shop",
            "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]",
        )]);
        let mut failed = 0;
        for when in 1..=most {
            let (issued, orders, accounts) = (world.issued(), world.orders(), world.accounts());
            let apply = ["apply", "--auto-approve"];
            let Some(run) = with_failing(&world.project, calls, errno, when, &apply) else { return };
            let what = format!("{errno} at {when}");
            no_panic(&run);
            if run.code != Some(0) {
                failed += 1;
                assert!(matches!(run.code, Some(1 | 3)), "{what}: {run}");
                assert!(run.stderr.contains("error"), "{what}: {run}");
            }
            assert_recoverable(&world, (orders, accounts), &format!("{what}: {run}"));
            let _ = world.project.certplan(&apply).expect(0);
            assert_eq!(world.issued(), issued + 1, "{what}: {run}");
            assert_eq!(world.txt(), [], "{what}");
            fs::remove_dir_all(world.project.path().join(".certplan")).expect("own folder");
            fs::remove_dir_all(world.project.path().join("out")).expect("own folder");
        }
        assert!(failed >= 3, "{errno} hit {failed} calls only");
    }
}

#[test]
fn with_too_few_open_files_nothing_is_lost() {
    let apply = ["apply", "--auto-approve", "--parallelism", "40"];
    for files in [4, 6, 12, 31] {
        let world = World::with_shop();
        let run = in_shell(&world.project, &format!("ulimit -n {files}"), &apply);
        no_panic(&run);
        assert_eq!(run.code, Some(1), "{files}: {run}");
        let told = format!("only {files} files may be open at once");
        assert!(run.stderr.contains(&told) && run.stderr.contains("hint: "), "{files}: {run}");
    }
    let mut failed = 0;
    for files in [32, 40] {
        let world = World::new();
        let certificates: Vec<(String, String)> = (0..40)
            .map(|number| {
                let names = format!(
                    "names: [s{number}.example.test]\n    deploy: [{{ files: {{ directory: out }} }}]"
                );
                (format!("s{number}"), names)
            })
            .collect();
        let certificates: Vec<(&str, &str)> =
            certificates.iter().map(|(name, names)| (name.as_str(), names.as_str())).collect();
        world.configure(&certificates);
        let run = in_shell(&world.project, &format!("ulimit -n {files}"), &apply);
        no_panic(&run);
        failed += usize::from(run.code != Some(0));
        // What failed may be made to wait for a minute.
        let Some(run) = world.project.certplan_at("+150s", &apply) else { return };
        assert_eq!((run.code, world.issued()), (Some(0), 40), "{files}: {run}");
        assert_eq!(world.txt(), [], "{files}");
    }
    assert!(failed >= 1, "the limit was never met");
}

/// What came to be at the CA since there were so many orders and accounts is in state, and nothing half-written is.
fn assert_recoverable(world: &World, (orders, accounts): (usize, usize), what: &str) {
    if world.accounts() > accounts {
        assert!(world.state_folder().join("accounts/ca.json").exists(), "an account without its key: {what}");
    }
    if world.orders() > orders {
        assert!(world.object("shop").exists(), "an order without its intent: {what}");
    }
    let strays: Vec<_> = tree(&world.state_folder()).into_keys().filter(|path| is_temporary(path)).collect();
    assert!(strays.is_empty(), "{what}: {strays:?}");
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    !path.to_string_lossy().contains("/.locks/") && !name.ends_with(".json") && !name.ends_with(".age")
}

#[test]
fn a_read_only_state_halts_before_anything_happens_outside() {
    let world = World::with_shop();
    let effects = world.effects();
    let folder = world.state_folder();
    let make = format!("mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'", folder.display());
    let works = Command::new("unshare")
        .args(["-m", "sh", "-c", &make])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("skipped: this user cannot make a read-only mount");
        return;
    }
    let certplan = world.project.command(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &format!("{make} && exec \"$0\" renew shop --auto-approve")])
        .arg(certplan.get_program())
        .current_dir(world.project.path())
        .env_clear();
    for (name, value) in certplan.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.output().expect("unshare was there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 3)), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("Read-only file system"), "{stderr}");
    assert!(stderr.contains("hint: "), "{stderr}");
    assert_eq!(world.effects(), effects);
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn what_is_written_is_private_under_any_umask() {
    let mut fresh = Project::new();
    fresh.unset("CERTPLAN_AGE_KEY_FILE");
    let run = in_shell(&fresh, "umask 000", &["init", "shop.example.com", "--dns", "rfc2136"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(mode(&fresh.path().join("home/.config/certplan/identity.txt")), 0o600);
    assert_eq!(mode(&fresh.path().join("home/.config/certplan")), 0o700);
    assert_eq!(
        mode(&fresh.path().join("certplan.yaml")) & 0o022,
        0,
        "nobody else may change the configuration"
    );

    for umask in ["000", "077", "777"] {
        let world = World::new();
        world.configure(&[(
            "shop",
            "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]",
        )]);
        let run = in_shell(&world.project, &format!("umask {umask}"), &["apply", "--auto-approve"]);
        assert_eq!(run.code, Some(0), "umask {umask}: {run}");
        let run = in_shell(
            &world.project,
            &format!("umask {umask}"),
            &["key", "export", "shop", "--out", "key.pem"],
        );
        assert_eq!(run.code, Some(0), "umask {umask}: {run}");
        if umask == "000" {
            let run = in_shell(&world.project, "umask 000", &["plan", "--out", "saved.plan"]);
            assert_eq!(run.code, Some(0), "{run}");
            assert_eq!(mode(&world.project.path().join("saved.plan")) & 0o022, 0);
        }
        assert_eq!(mode(&world.project.path().join("key.pem")) & 0o177, 0, "umask {umask}");
        private(&world.state_folder(), umask);
        for (path, bytes) in tree(&world.project.path().join("out")) {
            if String::from_utf8_lossy(&bytes).contains("PRIVATE KEY") {
                assert_eq!(mode(&path) & 0o077, 0, "umask {umask}: {}", path.display());
            }
            assert_eq!(mode(&path) & 0o022, 0, "umask {umask}: {}", path.display());
        }
    }
}

#[test]
fn permissions_that_somebody_widened_are_narrowed_and_told() {
    let world = World::with_shop();
    fs::set_permissions(world.object("shop"), fs::Permissions::from_mode(0o644)).expect("own file");
    let run = world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    assert!(run.stderr.contains("was open to other users (mode 0644)"), "{run}");
    assert_eq!(mode(&world.object("shop")), 0o600);
}

fn private(folder: &Path, umask: &str) {
    assert_eq!(mode(folder), 0o700, "umask {umask}: {}", folder.display());
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            private(&path, umask);
        } else {
            assert_eq!(mode(&path), 0o600, "umask {umask}: {}", path.display());
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}
