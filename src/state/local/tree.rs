use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::super::key::ObjectKey;
use super::super::key::is_segment;
use super::super::store::Expected;
use super::super::store::MAX_OBJECT;
use super::super::store::StoreError;
use super::super::store::Version;
use super::super::store::Versioned;
use super::Warning;
use super::folder::FOLDER_MODE;
use super::folder::FileContent;
use super::folder::Folder;
use super::folder::check_parents;
use super::folder::create_with_parents;
use super::folder::refused;
use super::lock::Locks;
use super::scratch;
use super::scratch::Scratch;
use super::scratch::Upkeep;
use super::scratch::is_scratch;
use crate::model::sha256;

pub(super) const LOCKS: &str = ".locks";

/// Objects below this are not worth a sync: no process holds a lease through a loss of power.
const VOLATILE: &str = "leases/";

/// Objects below this hold a key for an identity that shall not be able to open it when they are removed.
const HANDED_OVER: &str = "handoff/";

/// The blocking side of a store in a folder.
pub(super) struct Tree {
    root: PathBuf,
    locks: Locks,
    scratch: Scratch,
    /// Whether the first put of the process did its housekeeping.
    prepared: Mutex<bool>,
    warn: Box<dyn Fn(Warning) + Send + Sync>,
}

impl Tree {
    pub(super) fn new(root: PathBuf, warn: Box<dyn Fn(Warning) + Send + Sync>) -> Self {
        Self { root, locks: Locks::new(), scratch: Scratch::new(), prepared: Mutex::new(false), warn }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Result<Option<Versioned>, StoreError> {
        let (parents, name) = split(key);
        let Some(folder) = self.find(parents)? else { return Ok(None) };
        Ok(folder.read(name)?.map(versioned))
    }

    pub(super) fn get_many(&self, keys: &[ObjectKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut objects = Vec::with_capacity(keys.len());
        let mut last: Option<(&str, Option<Folder>)> = None;
        for key in keys {
            let (parents, name) = split(key);
            if last.as_ref().is_none_or(|(path, _)| *path != parents) {
                last = Some((parents, self.find(parents)?));
            }
            let folder = last.as_ref().and_then(|(_, folder)| folder.as_ref());
            objects.push(match folder {
                Some(folder) => folder.read(name)?.map(|content| content.bytes),
                None => None,
            });
        }
        Ok(objects)
    }

    pub(super) fn put(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        if bytes.len() > MAX_OBJECT {
            return Err(StoreError::TooLarge { location: self.location(key) });
        }
        let root = self.prepare()?;
        let locks = root.child_or_create(LOCKS)?;
        let (parents, name) = split(key);
        let _guard = self.locks.lock(&locks, key)?;
        let mut folder = root;
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            folder = folder.child_or_create(parent)?;
        }
        let current = folder.read(name)?;
        let found = current.as_ref().map(|content| version_of(&content.bytes));
        if Expected::from(found) != *expected {
            return Err(StoreError::Conflict { location: self.location(key) });
        }
        self.scratch.replace(&folder, name, current.is_some(), bytes, upkeep(key))?;
        if let Some(mode) = current.map(|content| content.mode).filter(|mode| mode & 0o077 != 0) {
            (self.warn)(Warning::Tightened { path: folder.path_of(name), mode });
        }
        Ok(version_of(bytes))
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let (parents, name) = split(key);
        // What is not there needs no lock, and a store that nobody wrote to stays as it is.
        let Some(folder) = self.find(parents)? else { return Ok(()) };
        let locks = self.prepare()?.child_or_create(LOCKS)?;
        let _guard = self.locks.lock(&locks, key)?;
        self.scratch.remove(&folder, name, upkeep(key).durable)
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError> {
        let parents = prefix.rsplit_once('/').map_or("", |(parents, _)| parents);
        let mut keys = Vec::new();
        // A prefix that no key can have matches nothing, and must not lead out of the folder.
        if parents.is_empty() || parents.split('/').all(is_segment) {
            if let Some(folder) = self.find(parents)? {
                let path = if parents.is_empty() { String::new() } else { format!("{parents}/") };
                collect(&folder, &path, prefix, &mut keys)?;
            }
            keys.sort();
        }
        Ok(keys)
    }

    pub(super) fn close(&self) {
        self.scratch.close();
    }

    fn location(&self, key: &ObjectKey) -> String {
        self.path(key).display().to_string()
    }

    fn open_root(&self) -> Result<Option<Folder>, StoreError> {
        let root = Folder::open(&self.root)?;
        if root.is_some() {
            check_parents(&self.root)?;
        }
        Ok(root)
    }

    fn find(&self, parents: &str) -> Result<Option<Folder>, StoreError> {
        let Some(mut folder) = self.open_root()? else { return Ok(None) };
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            let Some(child) = folder.child(parent)? else { return Ok(None) };
            folder = child;
        }
        Ok(Some(folder))
    }

    /// The root, created if need be; the first time also narrowed to its owner and swept.
    fn prepare(&self) -> Result<Folder, StoreError> {
        let root = match self.open_root()? {
            Some(root) => root,
            None => {
                check_parents(&self.root)?;
                create_with_parents(&self.root)?;
                self.open_root()?.ok_or_else(|| refused(&self.root, "was removed while it was created"))?
            }
        };
        // Held while sweeping: a sweep in one thread never meets a second one.
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if !*prepared {
            let mode = root.mode()?;
            if mode & 0o077 != 0 {
                root.set_mode(FOLDER_MODE)?;
                (self.warn)(Warning::Tightened { path: self.root.clone(), mode });
            }
            sweep(&root)?;
            *prepared = true;
        }
        Ok(root)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Removes the scratch files of processes that died.
fn sweep(folder: &Folder) -> Result<(), StoreError> {
    for entry in folder.entries()? {
        if entry.is_folder && is_segment(&entry.name) {
            if let Some(child) = folder.child(&entry.name)? {
                sweep(&child)?;
            }
        } else if is_scratch(&entry.name) {
            scratch::sweep(folder, &entry.name)?;
        }
    }
    Ok(())
}

fn collect(folder: &Folder, path: &str, prefix: &str, keys: &mut Vec<ObjectKey>) -> Result<(), StoreError> {
    for entry in folder.entries()? {
        if !is_segment(&entry.name) {
            continue;
        }
        let own = format!("{path}{}", entry.name);
        // A folder in the place of an object is listed as one, for whoever reads it to be told: else it would pass for
        // nothing, and what it stood for would be made anew.
        let is_object = [".json", ".age"].iter().any(|ending| entry.name.ends_with(ending));
        if entry.is_folder && !is_object {
            let below = format!("{own}/");
            if (below.starts_with(prefix) || prefix.starts_with(&below))
                && let Some(child) = folder.child(&entry.name)?
            {
                collect(&child, &below, prefix, keys)?;
            }
        } else if own.starts_with(prefix)
            && let Ok(key) = ObjectKey::new(&own)
        {
            keys.push(key);
        }
    }
    Ok(())
}

fn upkeep(key: &ObjectKey) -> Upkeep {
    Upkeep { durable: !key.as_str().starts_with(VOLATILE), reused: !key.as_str().starts_with(HANDED_OVER) }
}

/// A key's folders and its file.
fn split(key: &ObjectKey) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

fn version_of(bytes: &[u8]) -> Version {
    Version(sha256(bytes).to_string())
}

fn versioned(content: FileContent) -> Versioned {
    Versioned { version: version_of(&content.bytes), bytes: content.bytes }
}
