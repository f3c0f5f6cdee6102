use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use rustix::fs::Mode;
use tempfile::TempDir;

use super::tree::LOCKS;
use super::*;
use crate::state::Revise;
use crate::state::State;
use crate::state::Stored;
use crate::state::testing::name;
use crate::state::testing::record;
use crate::state::testing::timestamp;

/// Set for a test that runs again in a process of its own, to the folder that it works in.
const FOLDER: &str = "CERTPLAN_TEST_STATE_FOLDER";

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn store() -> (TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("nested/state"));
    (folder, store)
}

/// Every path below a folder.
fn tree(folder: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            paths.extend(tree(&path));
        }
        paths.insert(path);
    }
    paths
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

/// Runs one of these tests in a process of its own, started by a shell after `setup`.
fn run_in_shell(test: &str, setup: &str, folder: &Path) {
    let output = Command::new("sh")
        .args(["-c", &format!("{setup}; exec \"$0\" \"$@\"")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("state::local::tests::{test}"), "--ignored", "--test-threads=1"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{setup}: {text}");
}

#[tokio::test]
async fn nothing_is_created_before_the_first_put() {
    let (folder, store) = store();
    assert_eq!(store.get(&key("a/b.json")).await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap(), []);
    assert_eq!(store.get_many(&[key("a"), key("b/c")]).await.unwrap(), [None, None]);
    store.delete(&key("a/b.json")).await.unwrap();
    assert_eq!(tree(folder.path()), BTreeSet::new());
}

#[tokio::test]
async fn objects_are_created_replaced_listed_and_deleted() {
    let (_folder, store) = store();
    let (a, b) = (key("projects/shop/certificates/a.json"), key("projects/shop-2/certificates/b.json"));
    let first = store.put(&a, b"1".to_vec(), &Expected::Absent).await.unwrap();
    store.put(&b, b"1".to_vec(), &Expected::Absent).await.unwrap();
    store.put(&key("state.json"), b"1".to_vec(), &Expected::Absent).await.unwrap();
    for expected in [Expected::Absent, Expected::Version(Version("other".to_owned()))] {
        let put = store.put(&a, b"2".to_vec(), &expected).await;
        assert!(matches!(put, Err(StoreError::Conflict { .. })), "{put:?}");
    }
    let second = store.put(&a, b"2".to_vec(), &Expected::Version(first.clone())).await.unwrap();
    let zombie = store.put(&a, b"3".to_vec(), &Expected::Version(first)).await;
    assert!(matches!(zombie, Err(StoreError::Conflict { .. })));
    let found = Versioned { bytes: b"2".to_vec(), version: second };
    assert_eq!(store.get(&a).await.unwrap(), Some(found));
    let many = store.get_many(&[b.clone(), key("none.json"), a.clone()]).await.unwrap();
    assert_eq!(many, [Some(b"1".to_vec()), None, Some(b"2".to_vec())]);

    assert_eq!(store.list("projects/shop/").await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(store.list("projects/shop").await.unwrap(), [b.clone(), a.clone()]);
    assert_eq!(store.list("").await.unwrap(), [b, a.clone(), key("state.json")]);
    assert_eq!(store.list("../").await.unwrap(), []);
    store.delete(&a).await.unwrap();
    store.delete(&a).await.unwrap();
    assert_eq!(store.list("projects/shop/").await.unwrap(), []);
    let gone = store.put(&a, b"4".to_vec(), &Expected::Version(Version("other".to_owned()))).await;
    assert!(matches!(gone, Err(StoreError::Conflict { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_or_replace_at_once_exactly_one_succeeds() {
    let (_folder, store) = store();
    let object = key("leases/le/account.json");
    let mut expected = Expected::Absent;
    for round in 0..50 {
        let puts = (0..8).map(|writer| {
            // A store of its own stands for a process of its own: nothing but the file system is shared.
            let (store, object, expected) =
                (LocalStore::new(store.root().to_owned()), object.clone(), expected.clone());
            tokio::spawn(
                async move { store.put(&object, format!("{round} {writer}").into(), &expected).await },
            )
        });
        let mut winners = Vec::new();
        for put in puts.collect::<Vec<_>>() {
            match put.await.unwrap() {
                Ok(version) => winners.push(version),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        expected = Expected::Version(winners.remove(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_a_half_written_object() {
    let (_folder, store) = store();
    let object = key("a.json");
    let bytes = |n: u8| vec![n; 100_000];
    let mut version = store.put(&object, bytes(0), &Expected::Absent).await.unwrap();
    let reader = tokio::spawn({
        let (store, object) = (store.clone(), object.clone());
        async move {
            loop {
                let found = store.get(&object).await.unwrap().unwrap().bytes;
                assert!(found.len() == 100_000 && found.iter().all(|byte| *byte == found[0]));
                if found[0] == 100 {
                    return;
                }
            }
        }
    });
    for n in 1..=100 {
        version = store.put(&object, bytes(n), &Expected::Version(version)).await.unwrap();
    }
    reader.await.unwrap();
}

#[test]
fn permissions_do_not_depend_on_the_umask() {
    for umask in ["000", "077", "022", "777"] {
        let folder = tempfile::tempdir().unwrap();
        run_in_shell("child_writes_some_objects", &format!("umask {umask}"), folder.path());
        let root = folder.path().join("nested/state");
        let paths = tree(&folder.path().join("nested"));
        assert!(paths.contains(&root.join("projects/shop/certificates/www.json")), "{paths:?}");
        for path in paths {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}, umask {umask}", path.display());
        }
    }
}

#[tokio::test]
#[ignore = "run by others in a process of its own"]
async fn child_writes_some_objects() {
    let store = LocalStore::new(PathBuf::from(env::var_os(FOLDER).unwrap()).join("nested/state"));
    for object in ["state.json", "projects/shop/certificates/www.json", "leases/le/account.json"] {
        let version = store.put(&key(object), b"1".to_vec(), &Expected::Absent).await.unwrap();
        store.put(&key(object), b"2".to_vec(), &Expected::Version(version)).await.unwrap();
    }
}

#[tokio::test]
async fn wider_permissions_are_taken_away_with_a_warning_by_puts_only() {
    let (_folder, store) = store();
    let object = key("accounts/le.json");
    let version = store.put(&object, b"1".to_vec(), &Expected::Absent).await.unwrap();
    let file = store.root().join("accounts/le.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(store.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let next = LocalStore::new(store.root().to_owned()).with_warnings({
        let warnings = Arc::clone(&warnings);
        move |warning| warnings.lock().unwrap().push(warning.to_string())
    });
    next.get(&object).await.unwrap().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644, "reading writes nothing");
    next.put(&object, b"2".to_vec(), &Expected::Version(version)).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(store.root()).unwrap().mode() & 0o777, 0o700);
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("accounts/le.json") && warnings[1].contains("0644"), "{warnings:?}");
}

#[tokio::test]
async fn what_is_no_folder_of_ours_is_refused_as_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("real")).unwrap();
    symlink(path("real"), path("link")).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    fs::write(path("file"), "").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    for root in ["link", "dangling", "file", "fifo", "open/state", "open/a/b"] {
        let store = LocalStore::new(path(root));
        let error = store.put(&key("a"), Vec::new(), &Expected::Absent).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }), "{root}: {error}");
        assert!(error.to_string().contains(root), "{error}");
    }
    assert_eq!(fs::read_dir(path("real")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(path("open")).unwrap().count(), 0);
    // Sticky, as /tmp is, nobody can put something else into the place of our folder.
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    LocalStore::new(path("open/state")).put(&key("a"), Vec::new(), &Expected::Absent).await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_refused_as_an_object() {
    let (folder, store) = store();
    store.put(&key("projects/a/x.json"), b"1".to_vec(), &Expected::Absent).await.unwrap();
    let path = |name: &str| store.root().join("projects/a").join(name);
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, path("link.json")).unwrap();
    fs::hard_link(&secret, path("hard.json")).unwrap();
    fs::create_dir(path("folder.json")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo.json"), fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for object in ["link.json", "hard.json", "folder.json", "fifo.json"] {
        let object = key(&format!("projects/a/{object}"));
        let error = store.get(&object).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }), "{object}: {error}");
        let error = store.put(&object, b"2".to_vec(), &Expected::Absent).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }), "{object}: {error}");
    }
    // A folder within the tree that leads out of it.
    fs::create_dir(folder.path().join("outside")).unwrap();
    symlink(folder.path().join("outside"), store.root().join("accounts")).unwrap();
    let error = store.put(&key("accounts/le.json"), b"2".to_vec(), &Expected::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsafe { .. }), "{error}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_in_the_place_of_an_object_is_listed_and_refused_and_never_taken_for_nothing() {
    let (_folder, store) = store();
    store.put(&key("state.json"), b"{}".to_vec(), &Expected::Absent).await.unwrap();
    for object in ["projects/p/certificates/shop.json", "projects/p/handoff/1.age"] {
        fs::create_dir_all(store.root().join(object).join("below")).unwrap();
        assert!(store.list("projects/p/").await.unwrap().contains(&key(object)), "{object}");
        let error = store.get(&key(object)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }), "{object}: {error}");
    }
}

#[tokio::test]
async fn another_users_files_are_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away; /etc/passwd is somebody else's for everybody else.
        let error = LocalStore::new(PathBuf::from("/etc")).get(&key("passwd")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }), "{error}");
        return;
    }
    let (_folder, store) = store();
    store.put(&key("a.json"), b"1".to_vec(), &Expected::Absent).await.unwrap();
    std::os::unix::fs::chown(store.root().join("a.json"), Some(12_345), None).unwrap();
    let error = store.get(&key("a.json")).await.unwrap_err();
    assert!(error.to_string().contains("another user"), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_neither_written_nor_read() {
    let (_folder, store) = store();
    let large = vec![0; super::super::store::MAX_OBJECT + 1];
    let error = store.put(&key("a"), large.clone(), &Expected::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    store.put(&key("a"), large[1..].to_vec(), &Expected::Absent).await.unwrap();
    fs::write(store.root().join("a"), large).unwrap();
    assert!(matches!(store.get(&key("a")).await, Err(StoreError::TooLarge { .. })));
}

#[tokio::test]
async fn leftovers_of_dead_writers_are_swept_and_never_listed() {
    let (_folder, store) = store();
    for object in ["projects/shop/certificates/www.json", "handoff/op1.age"] {
        store.put(&key(object), b"1".to_vec(), &Expected::Absent).await.unwrap();
    }
    let leftovers =
        ["projects/shop/certificates/.www.json.tmp", "handoff/.op1.age.tmp", "handoff/.op2.age.tmp"];
    for leftover in leftovers {
        fs::write(store.root().join(leftover), "half").unwrap();
    }
    assert_eq!(store.list("").await.unwrap().len(), 2);
    // The next process sweeps them with its first put.
    let next = LocalStore::new(store.root().to_owned());
    next.put(&key("other.json"), b"1".to_vec(), &Expected::Absent).await.unwrap();
    assert!(!tree(store.root()).iter().any(|path| is_temporary(path)));
}

#[test]
fn a_full_disk_changes_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    run_in_shell("child_writes_some_objects", ":", folder.path());
    // Lock files have no content and need no room.
    let objects = || -> Vec<PathBuf> {
        tree(folder.path()).into_iter().filter(|path| !path.to_string_lossy().contains(LOCKS)).collect()
    };
    let before = objects();
    // No file may grow: the system itself answers every write with an error, as a full disk does.
    run_in_shell("child_meets_a_full_disk", "trap '' XFSZ; ulimit -f 0", folder.path());
    assert_eq!(objects(), before);
}

#[tokio::test]
#[ignore = "run by others in a process of its own"]
async fn child_meets_a_full_disk() {
    let store = LocalStore::new(PathBuf::from(env::var_os(FOLDER).unwrap()).join("nested/state"));
    let object = key("projects/shop/certificates/www.json");
    let found = store.get(&object).await.unwrap().unwrap();
    let expected = Expected::Version(found.version.clone());
    let error = store.put(&object, b"3".to_vec(), &expected).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let created =
        store.put(&key("projects/shop/certificates/new.json"), b"1".to_vec(), &Expected::Absent).await;
    assert!(matches!(created, Err(StoreError::Full { .. })), "{created:?}");
    assert_eq!(store.get(&object).await.unwrap(), Some(found));
}

#[test]
fn a_disk_that_is_full_in_the_midst_of_a_kept_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    run_in_shell("child_writes_some_objects", ":", folder.path());
    run_in_shell("child_fills_the_disk_within_a_kept_file", "trap '' XFSZ; ulimit -f 1", folder.path());
}

#[tokio::test]
#[ignore = "run by others in a process of its own"]
async fn child_fills_the_disk_within_a_kept_file() {
    let root = PathBuf::from(env::var_os(FOLDER).unwrap()).join("nested/state");
    let store = LocalStore::new(root.clone());
    let object = key("projects/shop/certificates/www.json");
    let scratch = || -> usize {
        let files = fs::read_dir(root.join("projects/shop/certificates")).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
    };
    let version = store.get(&object).await.unwrap().unwrap().version;
    let version = store.put(&object, b"3".to_vec(), &Expected::Version(version)).await.unwrap();
    assert_eq!(scratch(), 1, "the former file is kept");
    // More than the limit: the first half is written.
    let error = store.put(&object, vec![b'4'; 4096], &Expected::Version(version.clone())).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(scratch(), 0);
    assert_eq!(store.get(&object).await.unwrap().unwrap().bytes, b"3");
    store.put(&object, b"5".to_vec(), &Expected::Version(version)).await.unwrap();
    assert_eq!(store.get(&object).await.unwrap().unwrap().bytes, b"5");
}

#[test]
fn a_read_only_folder_is_read_and_says_that_it_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    run_in_shell("child_writes_some_objects", ":", folder.path());
    let root = folder.path().join("nested/state");
    let mut setup = ":".to_owned();
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere, so the child gives that up: the files stay its own, the capability goes.
        setup = "exec setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search \"$0\" \"$@\""
            .to_owned();
    }
    for path in tree(&root).into_iter().chain([root.clone()]).filter(|path| path.is_dir()) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    }
    run_in_shell("child_meets_a_read_only_folder", &setup, folder.path());
    for path in tree(&root).into_iter().chain([root.clone()]).filter(|path| path.is_dir()) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[tokio::test]
#[ignore = "run by others in a process of its own"]
async fn child_meets_a_read_only_folder() {
    let store = LocalStore::new(PathBuf::from(env::var_os(FOLDER).unwrap()).join("nested/state"));
    let object = key("projects/shop/certificates/www.json");
    let found = store.get(&object).await.unwrap().unwrap();
    let error = store.put(&object, b"3".to_vec(), &Expected::Version(found.version)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(error.to_string().contains("write"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it with --release"]
async fn measure_durable_writes_a_second() {
    let folder = tempfile::tempdir_in(".").unwrap();
    for writers in [1, 32, 64] {
        let store = Arc::new(LocalStore::new(folder.path().join(writers.to_string())));
        let state = Arc::new(State::new(store, name("shop"), "run".to_owned()));
        state.initialize(timestamp(1)).await.unwrap();
        let rounds = 4_096 / writers;
        let start = Instant::now();
        let work = (0..writers).map(|writer| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let name = name(&format!("c{writer}"));
                let mut stored = Stored::new(record("www", 4_096));
                for _ in 0..rounds {
                    state.save_certificate(&name, &mut stored, Revise::Bump).await.unwrap();
                }
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{writers} writers: {:.0} writes/s", f64::from(writers * rounds) / seconds);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it with --release"]
async fn measure_a_snapshot_of_ten_thousand() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = Arc::new(LocalStore::new(folder.path().join("state")));
    let state = Arc::new(State::new(Arc::clone(&store) as Arc<dyn Store>, name("shop"), "run".to_owned()));
    state.initialize(timestamp(1)).await.unwrap();
    for chunk in (0..10_000).collect::<Vec<_>>().chunks(100) {
        let saves = chunk.iter().map(|number| {
            let (state, number) = (Arc::clone(&state), *number);
            tokio::spawn(async move {
                let mut stored = Stored::new(record(&format!("c{number}"), 4_096));
                state
                    .save_certificate(&name(&format!("c{number}")), &mut stored, Revise::Bump)
                    .await
                    .unwrap();
            })
        });
        for save in saves.collect::<Vec<_>>() {
            save.await.unwrap();
        }
    }
    for _ in 0..3 {
        let fresh = State::new(Arc::clone(&store) as Arc<dyn Store>, name("shop"), "run".to_owned());
        let start = Instant::now();
        let keys = store.list("projects/").await.unwrap();
        let listed = start.elapsed();
        store.get_many(&keys).await.unwrap();
        let read = start.elapsed();
        let snapshot = fresh.snapshot().await.unwrap();
        assert_eq!(snapshot.certificates.len(), 10_000);
        println!("list {listed:?}, read {:?}, snapshot {:?}", read - listed, start.elapsed() - read);
    }
}
