//! Folders and files by descriptor, so that no symbolic link is ever followed below the root.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::super::store::MAX_OBJECT;
use super::super::store::StoreError;
use super::lock::PATIENCE;

pub(super) const FOLDER_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a file holds, and who may read it.
#[derive(Debug)]
pub(super) struct FileContent {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// How a file took the name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// What had the name is gone.
    Renamed,
    /// What had the name has the file's former one.
    Exchanged,
}

/// An entry of a folder.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_folder: bool,
}

impl Folder {
    /// Opens a folder that is no symbolic link; `None` when nothing is there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::from_open(open_folder(CWD, path), path.to_owned())
    }

    /// Opens a folder in this one; `None` when nothing is there.
    pub(super) fn child(&self, name: &str) -> Result<Option<Self>, StoreError> {
        Self::from_open(open_folder(&self.fd, Path::new(name)), self.path.join(name))
    }

    fn from_open(opened: Result<OwnedFd, Errno>, path: PathBuf) -> Result<Option<Self>, StoreError> {
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(refused(&path, "is not a folder: a symbolic link or a file stands in its place"));
            }
            Err(errno) => return Err(classify(errno, &path, "read")),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| classify(errno, &path, "read"))?;
        if stat.st_uid != geteuid().as_raw() {
            return Err(refused(&path, "belongs to another user"));
        }
        Ok(Some(Self { fd, path }))
    }

    /// Opens a folder in this one, and creates it durably if need be.
    pub(super) fn child_or_create(&self, name: &str) -> Result<Self, StoreError> {
        if let Some(child) = self.child(name)? {
            return Ok(child);
        }
        create_folder(&self.fd, Path::new(name), &self.path.join(name))?;
        self.sync()?;
        self.child(name)?.ok_or_else(|| refused(&self.path.join(name), "was removed while it was created"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn mode(&self) -> Result<u32, StoreError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| classify(errno, &self.path, "read"))?;
        Ok(stat.st_mode & 0o7777)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Result<(), StoreError> {
        rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
            .map_err(|errno| classify(errno, &self.path, "write"))
    }

    /// Reads a regular file that is ours alone; `None` when nothing is there.
    ///
    /// A file that was replaced between its opening and its lock may be written again: then the name is opened anew.
    pub(super) fn read(&self, name: &str) -> Result<Option<FileContent>, StoreError> {
        let begun = Instant::now();
        let mut pause = Duration::ZERO;
        loop {
            // Without NONBLOCK the open of a FIFO would wait for a writer.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = match self.open_file(name, flags, Mode::empty()) {
                Ok(file) => file,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP) => return Err(refused(&self.path_of(name), "is a symbolic link")),
                Err(errno) => return Err(classify(errno, &self.path_of(name), "read")),
            };
            match self.lock_to_read(name, &file) {
                Ok(true) => return self.content(name, file).map(Some),
                Ok(false) | Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < PATIENCE => {
                    thread::sleep(pause);
                    pause = Duration::from_millis(1);
                }
                // A file system whose files are others each time they are looked at.
                Ok(false) => return Err(classify(Errno::STALE, &self.path_of(name), "read")),
                Err(errno) => return Err(classify(errno, &self.path_of(name), "lock")),
            }
        }
    }

    /// Keeps others from writing into an open file until it is closed; `false` when it has lost its name already.
    pub(super) fn lock_to_read(&self, name: &str, file: &File) -> Result<bool, Errno> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(self.is_same(name, file)),
            // Nor is anything written into again there.
            Err(errno) if has_no_locks(errno) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    fn content(&self, name: &str, file: File) -> Result<FileContent, StoreError> {
        let stat = rustix::fs::fstat(&file).map_err(|errno| classify(errno, &self.path_of(name), "read"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(&self.path_of(name), "is not a regular file"));
        }
        if stat.st_uid != geteuid().as_raw() {
            return Err(refused(&self.path_of(name), "belongs to another user"));
        }
        if stat.st_nlink > 1 {
            return Err(refused(&self.path_of(name), "has a second name (a hard link)"));
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if size > MAX_OBJECT {
            return Err(StoreError::TooLarge { location: self.path_of(name).display().to_string() });
        }
        let mut bytes = Vec::with_capacity(size);
        // No further than the size, which saves a read that only finds the end: objects are replaced, and never grow.
        file.take(size as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| classify_io(error, &self.path_of(name), "read"))?;
        Ok(FileContent { bytes, mode: stat.st_mode & 0o7777 })
    }

    /// Gives a file the name of an object, whose former file takes the name `scratch` where it is to be kept.
    pub(super) fn put_in_place(&self, scratch: &str, name: &str, keep: bool) -> Result<Put, StoreError> {
        // Not every file system exchanges names.
        if keep && exchange(&self.fd, scratch, name).is_ok() {
            return Ok(Put::Exchanged);
        }
        rustix::fs::renameat(&self.fd, scratch, &self.fd, name)
            .map(|()| Put::Renamed)
            .map_err(|errno| classify(errno, &self.path_of(name), "write"))
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        rustix::fs::openat(&self.fd, name, flags, mode).map(File::from)
    }

    /// Opens a lock file, and creates it if need be.
    pub(super) fn open_lock(&self, name: &str) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(FILE_MODE))
            .map_err(|errno| classify(errno, &self.path_of(name), "write"))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(FILE_MODE))
            .map_err(|errno| classify(errno, &self.path_of(name), "write"))?;
        Ok(fd)
    }

    /// Whether `name` is still the file behind `fd`.
    pub(super) fn is_same(&self, name: &str, fd: impl AsFd) -> bool {
        let there = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(fd);
        matches!((there, ours), (Ok(a), Ok(b)) if a.st_ino == b.st_ino && a.st_dev == b.st_dev)
    }

    /// Removes a file; one that is gone is removed already.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(classify(errno, &self.path_of(name), "remove")),
        }
    }

    /// Makes the folder's entries durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| classify(errno, &self.path, "write"))
    }

    /// The entries with names in UTF-8, in no order; others are nothing of ours.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let failed = |errno| classify(errno, &self.path, "read");
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            entries.push(Entry { name: name.to_owned(), is_folder: kind == FileType::Directory });
        }
        Ok(entries)
    }
}

/// Creates a folder, with whatever is missing above it, durably.
pub(super) fn create_with_parents(path: &Path) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    let mut ancestor = path;
    while let Err(Errno::NOENT) = rustix::fs::stat(ancestor) {
        missing.push(ancestor);
        let Some(parent) = ancestor.parent() else { break };
        ancestor = parent;
    }
    for folder in missing.into_iter().rev() {
        create_folder(CWD, folder, folder)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            open_folder_following(parent)
                .and_then(rustix::fs::fsync)
                .map_err(|errno| classify(errno, parent, "write"))?;
        }
    }
    Ok(())
}

/// Refuses a path below a folder in which anybody can put something else in its place.
pub(super) fn check_parents(path: &Path) -> Result<(), StoreError> {
    let absolute = std::path::absolute(path).map_err(|error| classify_io(error, path, "read"))?;
    let mut ancestor = absolute.parent();
    while let Some(folder) = ancestor {
        if let Ok(stat) = rustix::fs::stat(folder)
            && stat.st_mode & 0o002 != 0
            && stat.st_mode & 0o1000 == 0
        {
            let reason = format!("lies below `{}`, which every user may write", folder.display());
            return Err(refused(path, &reason));
        }
        ancestor = folder.parent();
    }
    Ok(())
}

/// Exchanges the names of two files.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exchange(folder: &OwnedFd, a: &str, b: &str) -> Result<(), Errno> {
    rustix::fs::renameat_with(folder, a, folder, b, RenameFlags::EXCHANGE)
}

// What lost its name is written again as soon as the folder is durable, and `fsync` does not promise that on Apple's systems.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exchange(_folder: &OwnedFd, _a: &str, _b: &str) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Whether a file system does without `flock`.
fn has_no_locks(errno: Errno) -> bool {
    matches!(errno, Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)
}

fn create_folder(parent: impl AsFd + Copy, name: &Path, path: &Path) -> Result<(), StoreError> {
    let mode = Mode::from_raw_mode(FOLDER_MODE);
    match rustix::fs::mkdirat(parent, name, mode) {
        // A umask may have taken even the owner's permissions.
        Ok(()) => rustix::fs::chmodat(parent, name, mode, AtFlags::empty()),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
    .map_err(|errno| classify(errno, path, "create"))
}

fn open_folder(parent: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, path, flags, Mode::empty())
}

fn open_folder_following(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn refused(path: &Path, reason: &str) -> StoreError {
    StoreError::Unsafe { location: path.display().to_string(), reason: reason.to_owned() }
}

/// The class of an error of the system.
pub(super) fn classify(errno: Errno, path: &Path, action: &'static str) -> StoreError {
    let location = path.display().to_string();
    let source = Box::new(std::io::Error::from(errno));
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreError::Full { location, source },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::Denied { location, action, source },
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR => {
            StoreError::Unsafe { location, reason: "is not what state is kept in".to_owned() }
        }
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::BUSY | Errno::STALE => {
            StoreError::Transient { location, action, source }
        }
        _ => StoreError::Failed { location, action, source },
    }
}

pub(super) fn classify_io(error: std::io::Error, path: &Path, action: &'static str) -> StoreError {
    match error.raw_os_error() {
        Some(code) => classify(Errno::from_raw_os_error(code), path, action),
        None => StoreError::Failed { location: path.display().to_string(), action, source: Box::new(error) },
    }
}
