//! Exclusive locks between threads and processes.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::super::key::ObjectKey;
use super::super::store::StoreError;
use super::folder::Folder;
use super::folder::classify;

/// How many locks objects share: enough that 32 writers seldom meet, few enough to be no clutter.
const SHARDS: usize = 64;

/// How long to wait for a process that holds a lock: a put holds it for milliseconds, so this one was stopped.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The locks of a folder within this process. Between processes, `flock` on a file of the same number adds to them.
#[derive(Debug)]
pub(super) struct Locks {
    shards: Vec<Mutex<()>>,
}

/// A held lock: released when dropped, in the order of the fields.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    _file: OwnedFd,
    _thread: MutexGuard<'a, ()>,
}

impl Locks {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(())).collect() }
    }

    /// Takes the lock of an object; `folder` is where lock files are.
    pub(super) fn lock(&self, folder: &Folder, key: &ObjectKey) -> Result<Guard<'_>, StoreError> {
        let shard = shard_of(key);
        // The mutex guards no data, so a panic of its last holder leaves nothing behind.
        let thread = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{shard:02}");
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let file = folder.open_lock(&name)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A lock of a file that somebody removed excludes nobody.
                Ok(()) if folder.is_same(&name, &file) => {
                    return Ok(Guard { _file: file, _thread: thread });
                }
                Ok(()) | Err(Errno::INTR | Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                // A file system whose files are others each time they are looked at.
                Ok(()) => return Err(classify(Errno::STALE, &folder.path_of(&name), "lock")),
                Err(errno) => return Err(classify(errno, &folder.path_of(&name), "lock")),
            }
        }
    }
}

/// The lock of an object: a hash that every process computes alike (FNV-1a), whatever its version of the library.
fn shard_of(key: &ObjectKey) -> usize {
    let hash = key.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Less than SHARDS, which fits.
    (hash % SHARDS as u64) as usize
}
