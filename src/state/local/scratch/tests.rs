use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::super::folder::Folder;
use super::is_scratch;
use crate::state::Expected;
use crate::state::LocalStore;
use crate::state::ObjectKey;
use crate::state::Store;

fn store() -> (TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("state"));
    (folder, store)
}

async fn put(store: &LocalStore, name: &str, bytes: &[u8]) {
    let key = ObjectKey::new(name).unwrap();
    let expected = Expected::from(store.get(&key).await.unwrap().map(|found| found.version));
    store.put(&key, bytes.to_vec(), &expected).await.unwrap();
}

async fn get(store: &LocalStore, name: &str) -> Vec<u8> {
    store.get(&ObjectKey::new(name).unwrap()).await.unwrap().unwrap().bytes
}

fn scratch_in(folder: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_scratch(path.file_name().unwrap().to_str().unwrap()))
        .collect()
}

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[tokio::test]
async fn what_was_replaced_is_written_again_and_gone_at_the_end() {
    let (_folder, store) = store();
    let root = store.root().to_owned();
    put(&store, "a.json", b"first and long").await;
    let first = inode(root.join("a.json"));
    put(&store, "a.json", b"2").await;
    assert_eq!(scratch_in(&root).into_iter().map(inode).collect::<Vec<_>>(), [first]);
    put(&store, "b.json", b"3").await;
    assert_eq!(inode(root.join("b.json")), first);
    assert_eq!(get(&store, "b.json").await, b"3");
    assert!(scratch_in(&root).is_empty());
    put(&store, "a.json", b"4").await;
    assert_eq!(scratch_in(&root).len(), 1);
    store.delete(&ObjectKey::new("b.json").unwrap()).await.unwrap();
    assert!(scratch_in(&root).is_empty(), "what is removed is removed with its former versions");
    put(&store, "a.json", b"5").await;
    assert_eq!(scratch_in(&root).len(), 1);
    store.close();
    assert!(scratch_in(&root).is_empty());
    put(&store, "a.json", b"6").await;
    assert_eq!(get(&store, "a.json").await, b"6");
    assert!(scratch_in(&root).is_empty(), "a closed store keeps nothing");
    let next = LocalStore::new(root.clone());
    put(&next, "a.json", b"7").await;
    assert_eq!(scratch_in(&root).len(), 1);
    drop(next);
    assert!(scratch_in(&root).is_empty());
}

#[tokio::test]
async fn what_somebody_reads_is_not_written_again() {
    let (_folder, store) = store();
    put(&store, "a.json", b"1").await;
    let mut reader = File::open(store.root().join("a.json")).unwrap();
    rustix::fs::flock(&reader, FlockOperation::NonBlockingLockShared).unwrap();
    for n in [b"2", b"3", b"4"] {
        put(&store, "a.json", n).await;
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1");
}

#[tokio::test]
async fn what_may_be_in_other_hands_is_not_written_again() {
    let (folder, store) = store();
    put(&store, "a.json", b"1").await;
    fs::set_permissions(store.root().join("a.json"), fs::Permissions::from_mode(0o644)).unwrap();
    put(&store, "a.json", b"2").await;
    assert!(scratch_in(store.root()).is_empty(), "a file that others could open");
    put(&store, "a.json", b"3").await;
    let kept = scratch_in(store.root()).pop_first().unwrap();
    let copy = folder.path().join("snapshot");
    fs::hard_link(kept, &copy).unwrap();
    put(&store, "b.json", b"4").await;
    assert_eq!(fs::read(copy).unwrap(), b"2");
    assert_eq!(get(&store, "b.json").await, b"4");
}

#[tokio::test]
async fn a_key_that_was_handed_over_is_gone_when_it_is_removed() {
    let (_folder, store) = store();
    put(&store, "handoff/a.age", b"1").await;
    put(&store, "handoff/a.age", b"2").await;
    assert_eq!(fs::read_dir(store.root().join("handoff")).unwrap().count(), 1, "nor is a former one kept");
    store.delete(&ObjectKey::new("handoff/a.age").unwrap()).await.unwrap();
    assert_eq!(fs::read_dir(store.root().join("handoff")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_living_process_keeps_its_own_when_another_begins() {
    let (_folder, store) = store();
    put(&store, "a.json", b"1").await;
    put(&store, "a.json", b"2").await;
    let kept = scratch_in(store.root());
    assert_eq!(kept.len(), 1);
    fs::write(store.root().join(".7-0.tmp"), "of one that died").unwrap();
    let next = LocalStore::new(store.root().to_owned());
    put(&next, "b.json", b"1").await;
    assert_eq!(scratch_in(store.root()), kept);
    // Nor does it harm the first when somebody takes it away.
    fs::remove_file(kept.first().unwrap()).unwrap();
    put(&store, "a.json", b"3").await;
    assert_eq!(get(&store, "a.json").await, b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_written_is_read_when_it_is_whole() {
    let (_folder, store) = store();
    put(&store, "a.json", b"1").await;
    let path = store.root().join("a.json");
    let writer = File::options().write(true).open(&path).unwrap();
    rustix::fs::flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
    writer.set_len(0).unwrap();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { get(&store, "a.json").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs::write(store.root().join("whole"), "2").unwrap();
    fs::rename(store.root().join("whole"), &path).unwrap();
    assert_eq!(reader.await.unwrap(), b"2");
}

#[tokio::test]
async fn what_was_replaced_since_it_was_opened_is_not_read() {
    let (_folder, store) = store();
    put(&store, "a.json", b"1").await;
    let folder = Folder::open(store.root()).unwrap().unwrap();
    let opened = File::open(store.root().join("a.json")).unwrap();
    assert_eq!(folder.lock_to_read("a.json", &opened), Ok(true));
    put(&store, "a.json", b"2").await;
    assert_eq!(folder.lock_to_read("a.json", &opened), Ok(false));
}

/// Objects of one folder write into each other's former files, while others read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_whole_objects_and_their_own() {
    const LENGTH: usize = 200_000;
    let (_folder, store) = store();
    let names = ["a.json", "b.json", "c.json"];
    for name in names {
        put(&store, name, &vec![name.as_bytes()[0]; LENGTH]).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, done) = (LocalStore::new(store.root().to_owned()), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    for name in names {
                        let found = get(&store, name).await;
                        let own = name.as_bytes()[0];
                        assert!(found.len() == LENGTH && found.iter().all(|byte| *byte == own), "{name}");
                    }
                }
            })
        })
        .collect();
    let writers: Vec<_> = names
        .into_iter()
        .map(|name| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    put(&store, name, &vec![name.as_bytes()[0]; LENGTH]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}
