use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use certplan_provider::ProviderError;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawMode;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::fchmod;
use rustix::fs::fchown;
use rustix::fs::futimens;
use rustix::fs::mkdirat;
use rustix::fs::openat;
use rustix::fs::renameat;
use rustix::fs::symlinkat;
use rustix::fs::unlinkat;
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::account::Owners;
use crate::failure::failed;
use crate::folders::remove_empty;
use crate::folders::sync;
use crate::folders::unlink;
use crate::guard::io_failed;
use crate::store::Entry;
use crate::store::FOLDER_MODE;
use crate::store::PENDING;
use crate::store::Pending;
use crate::store::Store;
use crate::store::foreign;

const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(crate) const NEXT_LINK: &str = "next";
pub(crate) const NEW_PENDING: &str = "pending.new";

/// One change to the file system. A deployment is a list of them, and may end between any two.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    CreateFile { folder: String, file: &'static str },
    FillFile { folder: String, file: &'static str, octets: Zeroizing<Vec<u8>> },
    FinishFile { folder: String, file: &'static str, mode: RawMode, owners: Owners, modified: Timespec },
    FinishFolder { folder: String },
    MakeFolder { folder: String },
    MakeLink { text: String },
    PublishFolder { from: String, to: String },
    PublishPending,
    RemoveFile { folder: String, file: String },
    RemoveFolder { folder: String },
    RemoveLink,
    RemovePending,
    SwapLink,
    SyncDirectory,
    SyncHome,
    WritePending { pending: Pending },
}

impl Store {
    /// Does steps in their order.
    pub(crate) fn run(&self, steps: &[Step]) -> Result<(), ProviderError> {
        steps.iter().try_for_each(|step| self.take(step))
    }

    fn take(&self, step: &Step) -> Result<(), ProviderError> {
        let home = self.place.home();
        match step {
            Step::CreateFile { folder, file } => {
                let path = home.join(folder).join(file);
                let folder = self.folder(folder)?;
                openat(&folder, *file, NEW, Mode::from_raw_mode(0o600))
                    .map(drop)
                    .map_err(|error| failed("create", &path, error))
            }
            Step::FillFile { folder, file, octets } => {
                let path = home.join(folder).join(file);
                let mut opened = File::from(self.file(folder, file)?);
                opened.write_all(octets).map_err(|error| io_failed("write", &path, &error))
            }
            Step::FinishFile { folder, file, mode, owners, modified } => {
                let path = home.join(folder).join(file);
                let opened = self.file(folder, file)?;
                // The owner first: a group must not read the key for the moment between the two.
                if owners.user.is_some() || owners.group.is_some() {
                    fchown(&opened, owners.user, owners.group)
                        .map_err(|error| failed("give away", &path, error))?;
                }
                fchmod(&opened, Mode::from_raw_mode(*mode))
                    .map_err(|error| failed("set the mode of", &path, error))?;
                let times = Timestamps { last_access: *modified, last_modification: *modified };
                futimens(&opened, &times).map_err(|error| failed("date", &path, error))?;
                sync(&opened, &path)
            }
            Step::FinishFolder { folder } => {
                let path = home.join(folder);
                let opened = self.folder(folder)?;
                fchmod(&opened, Mode::from_raw_mode(FOLDER_MODE))
                    .map_err(|error| failed("set the mode of", &path, error))?;
                sync(&opened, &path)
            }
            Step::MakeFolder { folder } => mkdirat(&self.home, folder, Mode::from_raw_mode(0o700))
                .map_err(|error| failed("create", &home.join(folder), error)),
            Step::MakeLink { text } => {
                unlink(&self.home, NEXT_LINK, &home, AtFlags::empty())?;
                symlinkat(text, &self.home, NEXT_LINK)
                    .map_err(|error| failed("create", &home.join(NEXT_LINK), error))
            }
            Step::PublishFolder { from, to } => renameat(&self.home, from, &self.home, to)
                .map_err(|error| failed("create", &home.join(to), error)),
            Step::PublishPending => renameat(&self.home, NEW_PENDING, &self.home, PENDING)
                .map_err(|error| failed("replace", &home.join(PENDING), error)),
            Step::RemoveFile { folder, file } => {
                let path = home.join(folder);
                match self.open_version(folder) {
                    // A folder by that name is somebody else's.
                    Ok(opened) => match unlinkat(&opened, file.as_str(), AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
                        Err(error) => Err(failed("remove", &path.join(file), error)),
                    },
                    Err(Errno::NOENT) => Ok(()),
                    Err(error) => Err(failed("open", &path, error)),
                }
            }
            Step::RemoveFolder { folder } => remove_empty(&self.home, folder, &home.join(folder)).map(drop),
            Step::RemoveLink => match self.entry()? {
                Entry::Version(_) => {
                    unlink(&self.directory, &self.place.entry(), &self.place.directory, AtFlags::empty())
                }
                Entry::Absent => Ok(()),
                Entry::Foreign(what) => Err(foreign(&self.place, &what)),
            },
            Step::RemovePending => unlink(&self.home, PENDING, &home, AtFlags::empty()),
            Step::SwapLink => {
                // Renaming replaces a file, so look once more: what somebody else put there meanwhile is not ours.
                if let Entry::Foreign(what) = self.entry()? {
                    return Err(foreign(&self.place, &what));
                }
                renameat(&self.home, NEXT_LINK, &self.directory, self.place.entry())
                    .map_err(|error| failed("replace", &self.place.location(), error))
            }
            Step::SyncDirectory => sync(&self.directory, &self.place.directory),
            Step::SyncHome => sync(&self.home, &home),
            Step::WritePending { pending } => {
                let path = home.join(NEW_PENDING);
                unlink(&self.home, NEW_PENDING, &home, AtFlags::empty())?;
                let file = openat(&self.home, NEW_PENDING, NEW, Mode::from_raw_mode(0o600))
                    .map_err(|error| failed("create", &path, error))?;
                let mut file = File::from(file);
                serde_json::to_vec(pending)
                    .map_err(Into::into)
                    .and_then(|octets| file.write_all(&octets))
                    .map_err(|error| io_failed("write", &path, &error))?;
                sync(&file, &path)
            }
        }
    }

    fn folder(&self, folder: &str) -> Result<OwnedFd, ProviderError> {
        self.open_version(folder).map_err(|error| failed("open", &self.place.home().join(folder), error))
    }

    fn file(&self, folder: &str, file: &str) -> Result<OwnedFd, ProviderError> {
        let path = self.place.home().join(folder).join(file);
        let folder = self.folder(folder)?;
        openat(&folder, file, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open", &path, error))
    }
}
