use std::fs;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use certplan_provider::ProviderError;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::chmod;
use rustix::fs::fchmod;
use rustix::fs::flock;
use rustix::fs::fstat;
use rustix::fs::fsync;
use rustix::fs::mkdirat;
use rustix::fs::openat;
use rustix::fs::statat;
use rustix::fs::unlinkat;
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::failed;
use crate::failure::shown;
use crate::guard::check_path;
use crate::guard::io_failed;
use crate::place::OURS;
use crate::store::FOLDER_MODE;

pub(crate) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(crate) const LOCK: &str = "lock";

/// Opens the target's folder; symbolic links on the way were checked.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, ProviderError> {
    openat(CWD, path, FOLDER - OFlags::NOFOLLOW, Mode::empty()).map_err(|error| failed("open", path, error))
}

/// Opens the folder of versions, which has to be of this user or root, and writable for nobody else.
pub(crate) fn open_ours(directory: &OwnedFd, path: &Path) -> Result<OwnedFd, ProviderError> {
    let ours = openat(directory, OURS, FOLDER, Mode::empty()).map_err(|error| failed("open", path, error))?;
    let metadata = fstat(&ours).map_err(|error| failed("look at", path, error))?;
    let trusted = metadata.st_uid == 0 || metadata.st_uid == geteuid().as_raw();
    if !trusted || metadata.st_mode & 0o022 != 0 {
        return Err(ProviderError::invalid(format!(
            "`{}` belongs to another user or is writable for others, who could put another key in its place",
            shown(path)
        )));
    }
    Ok(ours)
}

/// Makes a path of folders, each readable by everyone whatever the umask, after it was checked.
pub(crate) fn make_folders(path: &Path) -> Result<(), ProviderError> {
    check_path(path)?;
    let mut missing: Vec<PathBuf> = Vec::new();
    for prefix in path.ancestors() {
        if prefix.exists() {
            break;
        }
        missing.push(prefix.to_owned());
    }
    for prefix in missing.iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(prefix) {
            Ok(()) => chmod(prefix, Mode::from_raw_mode(FOLDER_MODE))
                .map_err(|error| failed("set the mode of", prefix, error))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_failed("create", prefix, &error)),
        }
        if let Some(parent) = prefix.parent() {
            sync(&open_directory(parent)?, parent)?;
        }
    }
    Ok(())
}

pub(crate) fn make_folder(parent: &OwnedFd, name: &str, path: &Path) -> Result<(), ProviderError> {
    match mkdirat(parent, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) => {
            let folder =
                openat(parent, name, FOLDER, Mode::empty()).map_err(|error| failed("open", path, error))?;
            fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE))
                .map_err(|error| failed("set the mode of", path, error))?;
            fsync(parent).map_err(|error| failed("save", path, error))
        }
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed("create", path, error)),
    }
}

/// Takes the lock of a folder; `None` when the folder or its lock was removed meanwhile.
pub(crate) fn lock_file(
    folder: &OwnedFd,
    path: &Path,
    until: Instant,
) -> Result<Option<OwnedFd>, ProviderError> {
    let path = path.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(folder, LOCK, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open", &path, error)),
    };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(failed("lock", &path, error)),
        }
        if Instant::now() >= until {
            return Err(ProviderError::transient(format!("`{}` is locked by another run", shown(&path))));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let now = statat(folder, LOCK, AtFlags::SYMLINK_NOFOLLOW).ok().zip(fstat(&file).ok());
    Ok(now.filter(|(now, ours)| (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino)).map(|_| file))
}

/// Removes something that may be gone already.
pub(crate) fn unlink(folder: &OwnedFd, name: &str, path: &Path, flags: AtFlags) -> Result<(), ProviderError> {
    match unlinkat(folder, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove", &path.join(name), error)),
    }
}

/// Removes a folder when it is empty, and tells whether it is gone.
pub(crate) fn remove_empty(parent: &OwnedFd, name: &str, path: &Path) -> Result<bool, ProviderError> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(failed("remove", path, error)),
    }
}

pub(crate) fn sync(file: impl AsFd, path: &Path) -> Result<(), ProviderError> {
    fsync(file).map_err(|error| failed("save", path, error))
}
