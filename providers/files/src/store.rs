use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use certplan_provider::ProviderError;
use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawMode;
use rustix::fs::Timespec;
use rustix::fs::accessat;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::fs::readlinkat;
use rustix::fs::statat;
use rustix::io::Errno;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::account::Owners;
use crate::contents::Contents;
use crate::failure::failed;
use crate::failure::shown;
use crate::folders::FOLDER;
use crate::folders::LOCK;
use crate::folders::lock_file;
use crate::folders::make_folder;
use crate::folders::make_folders;
use crate::folders::open_directory;
use crate::folders::open_ours;
use crate::folders::remove_empty;
use crate::folders::sync;
use crate::folders::unlink;
use crate::guard::check_path;
use crate::guard::io_failed;
use crate::place::OURS;
use crate::place::PemFile;
use crate::place::Place;
use crate::place::sequence;
use crate::step::NEW_PENDING;
use crate::step::NEXT_LINK;
use crate::step::Step;

/// The mode of folders, which whoever reads the public files has to pass through.
pub(crate) const FOLDER_MODE: RawMode = 0o755;
/// The mode of files without the key.
pub(crate) const PUBLIC_MODE: RawMode = 0o644;

pub(crate) const PENDING: &str = "pending.json";
const STAGING: &str = "staging-";

/// The folder of one place, locked: nobody else who uses this lock changes anything in it meanwhile.
pub(crate) struct Store {
    pub(crate) place: Place,
    pub(crate) directory: OwnedFd,
    pub(crate) home: OwnedFd,
    _lock: OwnedFd,
}

/// What the symbolic link of a place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Not there.
    Absent,
    /// Something that certplan did not make, said in a phrase: `a folder`.
    Foreign(String),
    /// A link to a version.
    Version(String),
}

/// A deployment that is neither committed nor rolled back: what a run that died leaves for the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The version that was deployed.
    pub(crate) version: String,
    /// The version that served before, if one did.
    pub(crate) previous: Option<String>,
}

impl Store {
    /// Opens the folder of a place, making what is missing, and locks it.
    pub(crate) fn create(place: Place, wait: Duration) -> Result<Self, ProviderError> {
        check_nesting(&place.directory)?;
        make_folders(&place.directory)?;
        let path = place.directory.join(OURS);
        let directory = open_directory(&place.directory)?;
        make_folder(&directory, OURS, &path)?;
        let ours = open_ours(&directory, &path)?;
        let until = Instant::now() + wait;
        loop {
            make_folder(&ours, &place.entry(), &place.home())?;
            if let Some(store) = Self::lock(&place, &directory, &ours, until)? {
                return Ok(store);
            }
        }
    }

    /// Opens and locks the folder of a place; `None` when there is none.
    pub(crate) fn open(place: Place, wait: Duration) -> Result<Option<Self>, ProviderError> {
        let until = Instant::now() + wait;
        loop {
            let path = place.directory.join(OURS);
            let directory = match openat(CWD, &place.directory, FOLDER - OFlags::NOFOLLOW, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(error) => return Err(failed("open", &place.directory, error)),
            };
            match statat(&directory, OURS, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(failed("look at", &path, error)),
                Ok(_) => {}
            }
            check_path(&place.directory)?;
            let ours = open_ours(&directory, &path)?;
            match statat(&ours, place.entry(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(failed("look at", &place.home(), error)),
                Ok(_) => {}
            }
            if let Some(store) = Self::lock(&place, &directory, &ours, until)? {
                return Ok(Some(store));
            }
        }
    }

    /// Locks the folder; `None` when it was removed meanwhile.
    fn lock(
        place: &Place,
        directory: &OwnedFd,
        ours: &OwnedFd,
        until: Instant,
    ) -> Result<Option<Self>, ProviderError> {
        let path = place.home();
        let home = match openat(ours, place.entry(), FOLDER, Mode::empty()) {
            Ok(home) => home,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        let Some(lock) = lock_file(&home, &path, until)? else { return Ok(None) };
        // Whoever removed the folder did so under the lock, so that what is there now stays.
        let same = statat(ours, place.entry(), AtFlags::SYMLINK_NOFOLLOW).ok().zip(fstat(&home).ok());
        if same.is_none_or(|(now, ours)| (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)) {
            return Ok(None);
        }
        let directory = directory.try_clone().map_err(|error| io_failed("open", &place.directory, &error))?;
        Ok(Some(Self { place: place.clone(), directory, home, _lock: lock }))
    }

    /// Locks the whole target's folder, for as long as the returned file is open: while a server reads it.
    pub(crate) fn lock_directory(&self, wait: Duration) -> Result<OwnedFd, ProviderError> {
        let path = self.place.directory.join(OURS);
        let ours = open_ours(&self.directory, &path)?;
        lock_file(&ours, &path, Instant::now() + wait)?.ok_or_else(|| {
            ProviderError::conflict(format!("`{}` was removed while certplan worked in it", shown(&path)))
        })
    }

    /// What is at the place now.
    pub(crate) fn entry(&self) -> Result<Entry, ProviderError> {
        entry(&self.directory, &self.place)
    }

    /// The unfinished deployment, if there is one. A file that cannot be read is as good as none.
    pub(crate) fn pending(&self) -> Option<Pending> {
        let file =
            openat(&self.home, PENDING, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let pending: Pending = serde_json::from_reader(File::from(file.ok()?)).ok()?;
        let ours = |version: &String| sequence(version).is_some();
        if ours(&pending.version) && pending.previous.as_ref().is_none_or(ours) {
            Some(pending)
        } else {
            None
        }
    }

    /// The versions that are there, in ascending order.
    pub(crate) fn versions(&self) -> Result<Vec<String>, ProviderError> {
        let mut versions: Vec<String> = self
            .names(&self.home, &self.place.home())?
            .into_iter()
            .filter(|name| sequence(name).is_some())
            .collect();
        versions.sort_by_key(|version| sequence(version));
        Ok(versions)
    }

    /// The name for the next version of a certificate.
    pub(crate) fn next_version(&self, fingerprint: &str) -> Result<String, ProviderError> {
        let linked = match self.entry()? {
            Entry::Version(version) => sequence(&version),
            Entry::Absent | Entry::Foreign(_) => None,
        };
        let last = self.versions()?.last().and_then(|version| sequence(version)).max(linked).unwrap_or(0);
        Ok(format!("{:06}-{fingerprint}", last + 1))
    }

    /// Opens the folder of a version.
    pub(crate) fn open_version(&self, version: &str) -> Result<OwnedFd, Errno> {
        openat(&self.home, version, FOLDER, Mode::empty())
    }

    /// Whether a version has a chain that may be served, and is more than what somebody left in its folder.
    pub(crate) fn has_chain(&self, version: &str) -> bool {
        self.open_version(version)
            .and_then(|folder| statat(folder, PemFile::Fullchain.name(), AtFlags::SYMLINK_NOFOLLOW))
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
    }

    /// Whether a version has exactly these contents, the key included.
    pub(crate) fn holds(&self, version: &str, contents: &Contents) -> bool {
        let Ok(folder) = self.open_version(version) else { return false };
        self.place.files().into_iter().all(|file| {
            let wanted = contents.of(file);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(opened) = openat(&folder, file.name(), flags, Mode::empty()) else { return false };
            // One octet more than there should be, so that a longer file differs, in a buffer that never grows.
            let mut found = Zeroizing::new(Vec::with_capacity(wanted.len() + 32));
            let read = File::from(opened).take(wanted.len() as u64 + 1).read_to_end(&mut found);
            read.is_ok() && found == wanted
        })
    }

    /// The steps that write a version and publish its folder.
    pub(crate) fn write(
        &self,
        version: &str,
        files: Vec<(PemFile, Zeroizing<Vec<u8>>)>,
        owners: Owners,
        modified: Timespec,
    ) -> Vec<Step> {
        let folder = format!("{STAGING}{version}");
        let mut steps = vec![Step::MakeFolder { folder: folder.clone() }];
        for (file, octets) in files {
            let mode = if file.is_secret() { self.place.secret_mode() } else { PUBLIC_MODE };
            let (folder, file) = (folder.clone(), file.name());
            steps.push(Step::CreateFile { folder: folder.clone(), file });
            steps.push(Step::FillFile { folder: folder.clone(), file, octets });
            steps.push(Step::FinishFile { folder, file, mode, owners, modified });
        }
        steps.push(Step::FinishFolder { folder: folder.clone() });
        steps.push(Step::PublishFolder { from: folder, to: version.to_owned() });
        steps.push(Step::SyncHome);
        steps
    }

    /// The steps that make a version serve, after they noted what served before.
    pub(crate) fn switch(&self, pending: Pending) -> Vec<Step> {
        let link = self.swap_to(Some(&pending.version));
        [Step::WritePending { pending }, Step::PublishPending, Step::SyncHome]
            .into_iter()
            .chain(link)
            .collect()
    }

    /// The steps that point the link at a version, or take it away.
    pub(crate) fn swap_to(&self, version: Option<&str>) -> Vec<Step> {
        match version {
            Some(version) => {
                vec![
                    Step::MakeLink { text: self.place.link_to(version) },
                    Step::SwapLink,
                    Step::SyncDirectory,
                ]
            }
            None => vec![Step::RemoveLink, Step::SyncDirectory],
        }
    }

    /// The steps that end a deployment: nothing is pending, and only one version is left.
    pub(crate) fn keep_only(&self, version: &str) -> Result<Vec<Step>, ProviderError> {
        let mut steps = vec![Step::RemovePending];
        steps.extend(self.sweep(&[version])?);
        steps.push(Step::SyncHome);
        Ok(steps)
    }

    /// The steps that remove the versions that nobody needs, and what died runs left half-written.
    pub(crate) fn sweep(&self, keep: &[&str]) -> Result<Vec<Step>, ProviderError> {
        let mut steps = Vec::new();
        for name in self.names(&self.home, &self.place.home())? {
            let ours = name.starts_with(STAGING) || sequence(&name).is_some();
            if ours && !keep.contains(&name.as_str()) {
                steps.extend(self.clear(&name)?);
            }
        }
        Ok(steps)
    }

    /// The steps that remove a version or a half-written one. What somebody else put into it stays, with its folder.
    pub(crate) fn clear(&self, folder: &str) -> Result<Vec<Step>, ProviderError> {
        let path = self.place.home().join(folder);
        let opened = match openat(&self.home, folder, FOLDER, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(failed("open", &path, error)),
        };
        // Nobody but us has put anything into one that is not finished.
        let is_ours = |file: &String| {
            folder.starts_with(STAGING) || PemFile::ALL.iter().any(|ours| ours.name() == file)
        };
        let mut steps: Vec<Step> = self
            .names(&opened, &path)?
            .into_iter()
            .filter(is_ours)
            .map(|file| Step::RemoveFile { folder: folder.to_owned(), file })
            .collect();
        steps.push(Step::RemoveFolder { folder: folder.to_owned() });
        Ok(steps)
    }

    /// Removes the emptied folder of the place, and the one above when nothing else is in it.
    ///
    /// What somebody else put there stays, and is no error.
    pub(crate) fn dissolve(self) -> Result<(), ProviderError> {
        let path = self.place.directory.join(OURS);
        for name in [NEXT_LINK, NEW_PENDING, PENDING, LOCK] {
            unlink(&self.home, name, &self.place.home(), AtFlags::empty())?;
        }
        let ours = open_ours(&self.directory, &path)?;
        if remove_empty(&ours, &self.place.entry(), &self.place.home())? {
            let others: Vec<String> =
                self.names(&ours, &path)?.into_iter().filter(|name| name != LOCK).collect();
            if others.is_empty() {
                unlink(&ours, LOCK, &path, AtFlags::empty())?;
                remove_empty(&self.directory, OURS, &path)?;
            }
        }
        sync(&self.directory, &self.place.directory)
    }

    fn names(&self, folder: &OwnedFd, path: &Path) -> Result<Vec<String>, ProviderError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(|error| failed("list", path, error))? {
            let entry = entry.map_err(|error| failed("list", path, error))?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// What is at a place, seen from its directory.
pub(crate) fn entry(directory: impl AsFd, place: &Place) -> Result<Entry, ProviderError> {
    let path = place.location();
    match readlinkat(&directory, place.entry(), Vec::new()) {
        Ok(link) => {
            let version = link.to_str().ok().and_then(|link| place.version_of(link));
            return Ok(version.map_or_else(
                || Entry::Foreign("a symbolic link".to_owned()),
                |version| Entry::Version(version.to_owned()),
            ));
        }
        Err(Errno::NOENT) => return Ok(Entry::Absent),
        // No link.
        Err(Errno::INVAL) => {}
        Err(error) => return Err(failed("read the link", &path, error)),
    }
    let metadata = match statat(&directory, place.entry(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(metadata) => metadata,
        Err(Errno::NOENT) => return Ok(Entry::Absent),
        Err(error) => return Err(failed("look at", &path, error)),
    };
    match FileType::from_raw_mode(metadata.st_mode) {
        FileType::Symlink => Ok(Entry::Foreign("a symbolic link".to_owned())),
        FileType::Directory => Ok(Entry::Foreign("a folder".to_owned())),
        FileType::RegularFile => Ok(Entry::Foreign("a file".to_owned())),
        _ => Ok(Entry::Foreign("a special file".to_owned())),
    }
}

/// The error for something at a place that certplan did not make.
pub(crate) fn foreign(place: &Place, what: &str) -> ProviderError {
    ProviderError::conflict(format!(
        "`{path}` is {what} that certplan did not make and does not touch; move it away (`mv {path} {path}.old`) or set `name`",
        path = shown(&place.location())
    ))
}

/// Fails where nothing can be written for a place, as far as looking tells.
pub(crate) fn check(place: &Place) -> Result<(), ProviderError> {
    let directory = &place.directory;
    check_nesting(directory)?;
    check_path(directory)?;
    Owners::of(place)?;
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    if there == directory
        && let Entry::Foreign(what) = entry(open_directory(directory)?, place)?
    {
        return Err(foreign(place, &what));
    }
    match accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::ROFS)) => Err(failed("write to", there, error)),
        _ => Ok(()),
    }
}

/// Refuses a folder inside of what is deployed: it would go with the next version.
fn check_nesting(directory: &Path) -> Result<(), ProviderError> {
    let Some(there) = directory.ancestors().find(|path| path.exists()) else { return Ok(()) };
    let real = there.canonicalize().map_err(|error| io_failed("look at", there, &error))?;
    let names: Vec<_> = real.iter().filter_map(OsStr::to_str).collect();
    if names.windows(3).any(|names| names[0] == OURS && sequence(names[2]).is_some()) {
        return Err(ProviderError::invalid(format!(
            "`{}` lies in the folder of another deployment, whose next renewal would take it away; choose a folder beside it",
            shown(directory)
        )));
    }
    Ok(())
}
