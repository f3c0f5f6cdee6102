use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SandboxError;

/// The folder that a sandbox keeps over a restart: files that only its owner can read.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, and makes it when it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, SandboxError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| SandboxError::Folder { action: "create", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned() })
    }

    /// Reads a text file; `None` when it is not there.
    #[expect(clippy::disallowed_methods, reason = "the sandbox keeps its own folder")]
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, SandboxError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SandboxError::Folder { action: "read", path, source }),
        }
    }

    /// Reads a JSON file; `None` when it is not there.
    pub(super) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SandboxError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| SandboxError::FolderContent {
            path: self.path.join(name),
            reason: error.to_string(),
        })
    }

    /// Replaces a file as a whole: a reader sees the old one or the new one.
    #[expect(clippy::disallowed_methods, reason = "the sandbox keeps its own folder")]
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), SandboxError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.new"));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| SandboxError::Folder { action: "write", path: path.clone(), source })
    }

    /// Replaces a JSON file.
    pub(super) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), SandboxError> {
        let content = serde_json::to_vec(value).map_err(|error| SandboxError::FolderContent {
            path: self.path.join(name),
            reason: error.to_string(),
        })?;
        self.write(name, &content)
    }

    /// The path of a file in the folder.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Opens a file to append lines to and counts those that it has. A last line that a kill cut off is ended.
pub(super) fn open_to_append(path: &Path) -> Result<(File, u64), SandboxError> {
    let open = || {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        if content.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
            content.push(b'\n');
        }
        let lines = content.iter().filter(|octet| **octet == b'\n').count();
        Ok((file, lines as u64))
    };
    open().map_err(|source| SandboxError::Folder { action: "open", path: path.to_owned(), source })
}
