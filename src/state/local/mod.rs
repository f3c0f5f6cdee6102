//! State in a folder of this machine.

mod folder;
mod lock;
mod scratch;
mod tree;

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::key::ObjectKey;
use super::store::Expected;
use super::store::Store;
use super::store::StoreError;
use super::store::Version;
use super::store::Versioned;
use tree::Tree;

/// State in a folder: a file per object, at the path that is its key.
///
/// - A put holds an exclusive lock of its object (a file under `.locks`, shared by few objects) while it compares,
///   writes a temporary file in the same folder, syncs it, gives it the object's name and syncs the folder. Where it
///   can exchange names, the file that the object had is written into again by a later put, unless somebody reads it
///   and says so with a shared `flock`, as every `get` does. A copy that is made while a run writes (`tar`, a backup)
///   says nothing: it may hold an object that is damaged, which is noticed when it is used.
/// - Files are 0600 and folders 0700, whatever the umask. A put that replaces a file with wider permissions, or finds
///   the folder itself with them, narrows them and tells the [warning hook](Self::with_warnings).
/// - A folder or file that is a symbolic link, a FIFO, a device, hard-linked or another user's is refused, and
///   so is a folder below one that everybody may write and that is not sticky.
/// - A version is the SHA-256 of the content: it does not depend on inodes or times, and survives a copy of the tree.
/// - Temporary files of processes that died are swept by the next process that writes.
/// - Nothing is created before the first put.
///
/// The folder has to be on a file system with working `flock` and atomic rename: any local one.
#[derive(Debug, Clone)]
pub struct LocalStore {
    tree: Arc<Tree>,
}

/// Something about the folder that was put right and that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Other users had permissions on a file or folder; they were taken away.
    Tightened {
        /// The file or folder.
        path: PathBuf,
        /// Its permissions before.
        mode: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tightened { path, mode } => write!(
                f,
                "`{}` was open to other users (mode {mode:04o}); their permissions were removed",
                path.display()
            ),
        }
    }
}

impl LocalStore {
    /// A store in the folder `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        let hook = Box::new(|warning: Warning| tracing::warn!("{warning}"));
        Self { tree: Arc::new(Tree::new(root, hook)) }
    }

    /// The same store, with `hook` called for each [`Warning`] instead of a log line.
    ///
    /// To be called before the store is used or cloned.
    pub fn with_warnings(self, hook: impl Fn(Warning) + Send + Sync + 'static) -> Self {
        Self { tree: Arc::new(Tree::new(self.tree.root().to_owned(), Box::new(hook))) }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.tree.root()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = Arc::clone(&self.tree);
        match spawn_blocking(move || work(&tree)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Transient {
                location: self.root().display().to_string(),
                action: "use",
                source: Box::new(error),
            }),
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Versioned>, StoreError> {
        let key = key.clone();
        self.run(move |tree| tree.get(&key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>, expected: &Expected) -> Result<Version, StoreError> {
        let (key, expected) = (key.clone(), expected.clone());
        self.run(move |tree| tree.put(&key, &bytes, &expected)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.run(move |tree| tree.delete(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError> {
        let prefix = prefix.to_owned();
        self.run(move |tree| tree.list(&prefix)).await
    }

    async fn get_many(&self, keys: &[ObjectKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys = keys.to_vec();
        self.run(move |tree| tree.get_many(&keys)).await
    }

    fn close(&self) {
        self.tree.close();
    }

    fn locate(&self, key: &ObjectKey) -> String {
        self.tree.path(key).display().to_string()
    }
}

#[cfg(test)]
mod tests;
