//! The files that objects are written into before they take their names, and that are written again and again.
//!
//! The file that a put replaces is not removed but kept as scratch for the next put: creating and removing a file for
//! each write is what a put spends its time with, most of all on a file system without a journal (ext4 looks at every
//! inode freed in the last minutes before it gives one out). So that no reader meets a file that is written again:
//!
//! - A scratch file has an exclusive `flock` until it has taken an object's name, and the former file of the object gets
//!   one before it is written.
//! - A reader holds a shared one, and reads only what still has the name that it opened ([`Folder::read`]). A file
//!   that somebody reads is removed, and not written again.
//! - A file becomes scratch when the folder is durable, if it has to be: no loss of power brings back a name for what
//!   was overwritten.
//! - One with wider permissions or a second name may be in other hands, and is removed.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::super::store::StoreError;
use super::folder::FILE_MODE;
use super::folder::Folder;
use super::folder::Put;
use super::folder::classify;
use super::folder::classify_io;

/// How many files are kept: more than there are puts at once, few enough to be open all the time.
const KEPT: usize = 64;

/// How often a new file is tried to be made: it fails when somebody sweeps it in the moment between its making and its lock.
const ATTEMPTS: u32 = 100;

/// What is done about an object's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upkeep {
    /// Whether a change has to outlast a loss of power.
    pub(super) durable: bool,
    /// Whether the former file is kept to be written again. Otherwise it is gone when the change is made, though the
    /// process dies in the next moment.
    pub(super) reused: bool,
}

/// The scratch files of a store. Closed or dropped, it removes them; those of a process that died are [swept](sweep) by the next.
#[derive(Debug)]
pub(super) struct Scratch {
    /// `None` when the store is closed.
    kept: Mutex<Option<Vec<Kept>>>,
    /// Random, so that no name is that of another store, be it in this process or in a container with the same numbers.
    id: u64,
    next: AtomicU64,
}

/// A file that nobody else writes: its lock is ours.
#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    name: String,
    file: File,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::new(Some(Vec::new())),
            id: RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(0),
        }
    }

    /// Writes a file that nobody can see half written; the caller holds the object's lock.
    ///
    /// `is_there` tells whether the object exists already.
    pub(super) fn replace(
        &self,
        folder: &Folder,
        name: &str,
        is_there: bool,
        bytes: &[u8],
        upkeep: Upkeep,
    ) -> Result<(), StoreError> {
        let scratch = self.take(folder)?;
        let put = write(&scratch.file, bytes, upkeep.durable)
            .map_err(|error| classify_io(error, &folder.path_of(name), "write"))
            .and_then(|()| folder.put_in_place(&scratch.name, name, is_there && upkeep.reused))
            // The error that matters is the first; what stays is swept by the next process.
            .inspect_err(|_| drop(folder.remove(&scratch.name)))?;
        // Closed, and with it the lock is gone: from here on the file can be read.
        drop(scratch.file);
        self.settle(folder, (put == Put::Exchanged).then_some(scratch.name), upkeep.durable)
    }

    /// Removes an object's file, if it is there, for good: with it goes whatever this store may have kept of it.
    pub(super) fn remove(&self, folder: &Folder, name: &str, durable: bool) -> Result<(), StoreError> {
        let is_beside = |kept: &mut Kept| kept.folder == folder.path();
        let former: Vec<Kept> = self.with_kept(|kept| kept.extract_if(.., is_beside).collect());
        for kept in former {
            folder.remove(&kept.name)?;
        }
        folder.remove(name)?;
        if durable { folder.sync() } else { Ok(()) }
    }

    /// Removes what is kept, and keeps nothing any more.
    pub(super) fn close(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        for kept in kept.into_iter().flatten() {
            if let Ok(Some(folder)) = Folder::open(&kept.folder)
                && folder.is_same(&kept.name, &kept.file)
            {
                // What stays is swept by the next process.
                let _ = folder.remove(&kept.name);
            }
        }
    }

    fn with_kept<T: Default>(&self, work: impl FnOnce(&mut Vec<Kept>) -> T) -> T {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or_else(T::default, work)
    }

    /// Makes a change of names durable, and only then keeps the file that lost its own.
    fn settle(&self, folder: &Folder, former: Option<String>, durable: bool) -> Result<(), StoreError> {
        if durable && let Err(error) = folder.sync() {
            // What stays is swept by the next process.
            let _ = former.map(|name| folder.remove(&name));
            return Err(error);
        }
        if let Some(name) = former {
            self.keep(folder, name);
        }
        Ok(())
    }

    /// A file to write into, in the same folder.
    fn take(&self, folder: &Folder) -> Result<Kept, StoreError> {
        loop {
            let found = self.with_kept(|kept| {
                let at = kept.iter().rposition(|kept| kept.folder == folder.path());
                at.map(|at| kept.swap_remove(at))
            });
            let Some(found) = found else { return self.create(folder) };
            // Since it was kept somebody may have given it a second name, or removed it.
            if is_ours_alone(&found.file) && folder.is_same(&found.name, &found.file) {
                return Ok(found);
            }
            folder.remove(&found.name)?;
        }
    }

    fn create(&self, folder: &Folder) -> Result<Kept, StoreError> {
        for _ in 0..ATTEMPTS {
            let name = self.name();
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match folder.open_file(&name, flags, Mode::from_raw_mode(FILE_MODE)) {
                Ok(file) => file,
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(classify(errno, &folder.path_of(&name), "write")),
            };
            let made_ours = rustix::fs::fchmod(&file, Mode::from_raw_mode(FILE_MODE))
                .and_then(|()| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive));
            let is_ours = match made_ours {
                Ok(()) => folder.is_same(&name, &file),
                Err(Errno::WOULDBLOCK | Errno::INTR) => false,
                Err(errno) => {
                    // Empty as it is, it is nobody's; what went wrong first is told.
                    let _ = folder.remove(&name);
                    return Err(classify(errno, &folder.path_of(&name), "write"));
                }
            };
            if is_ours {
                return Ok(Kept { folder: folder.path().to_owned(), name, file });
            }
            // Somebody who sweeps was quicker.
            folder.remove(&name)?;
        }
        // A file system whose files are others each time they are looked at.
        Err(classify(Errno::STALE, folder.path(), "write in"))
    }

    fn name(&self) -> String {
        format!(".{:016x}-{}.tmp", self.id, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Keeps the file that an object had, or removes it.
    fn keep(&self, folder: &Folder, name: String) {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if let Ok(file) = folder.open_file(&name, flags, Mode::empty())
            && is_ours_alone(&file)
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && folder.is_same(&name, &file)
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = kept.as_mut().filter(|kept| kept.len() < KEPT) {
                kept.push(Kept { folder: folder.path().to_owned(), name, file });
                return;
            }
        }
        // What stays is swept by the next process.
        let _ = folder.remove(&name);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.close();
    }
}

/// Removes a scratch file whose process died: nobody holds its lock.
pub(super) fn sweep(folder: &Folder, name: &str) -> Result<(), StoreError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // What cannot be opened is a link, or another user's: nothing of ours.
    let Ok(file) = folder.open_file(name, flags, Mode::empty()) else { return Ok(()) };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => folder.remove(name),
        Err(_) => Ok(()),
    }
}

/// Whether a file in a folder is scratch; no key has a segment like it.
pub(super) fn is_scratch(name: &str) -> bool {
    name.starts_with('.') && Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}

fn is_ours_alone(file: &File) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == geteuid().as_raw()
            && stat.st_nlink == 1
            && stat.st_mode & 0o7777 == FILE_MODE
    })
}

fn write(file: &File, bytes: &[u8], durable: bool) -> std::io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    if durable { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests;
