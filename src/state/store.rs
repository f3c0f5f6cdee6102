use std::error::Error as StdError;
use std::fmt;

use async_trait::async_trait;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream;
use serde::Deserialize;
use serde::Serialize;

use super::key::ObjectKey;

/// The size in octets that no object exceeds: stores refuse to write more and to read more.
pub const MAX_OBJECT: usize = 4 << 20;

/// How many objects [`Store::get_many`] asks for at a time unless a store knows better.
const GETS_AT_ONCE: usize = 64;

/// A place for small objects in which every write is a compare-and-swap.
///
/// # Contract
///
/// - **All or nothing.** A reader sees an object as it was before a put or after it, never anything between.
/// - **Compare and swap.** Of several puts that expect the same version at most one succeeds; the others fail with
///   [`StoreError::Conflict`].
/// - **Lost answers.** After [`StoreError::Transient`] a put may have happened. The caller reads the object again
///   and recognises its own octets, which are therefore different in every write. After any other error nothing has
///   been written that a later put with the same expectation would not replace or refuse.
/// - **Read your writes.** What a put wrote, every later `get` and `list` of any process sees.
/// - **Durable.** A put or a removal that succeeded survives a loss of power, except below `leases/`: no process holds a
///   lease through one.
/// - **Absent is no error.** `get` returns `None`, `list` nothing, and `delete` succeeds.
/// - **Cancellation.** A call whose future is dropped may still take effect.
/// - A store creates nothing before its first put.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns an object with its version, or `None` when there is none.
    async fn get(&self, key: &ObjectKey) -> Result<Option<Versioned>, StoreError>;

    /// Writes an object if what is there now is what is expected, and returns its new version.
    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>, expected: &Expected) -> Result<Version, StoreError>;

    /// Removes an object for good, together with whatever copies of it this store made.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Returns the keys that start with `prefix`, sorted; `prefix` is text and need not end at a segment.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError>;

    /// Returns the octets of many objects in the order of their keys, without versions: to look at and not to write.
    async fn get_many(&self, keys: &[ObjectKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let gets: Vec<_> = keys.iter().map(|key| self.get(key)).collect();
        let octets = |found: Option<Versioned>| found.map(|found| found.bytes);
        stream::iter(gets).buffered(GETS_AT_ONCE).map_ok(octets).try_collect().await
    }

    /// Gives back what the store keeps to be quicker; it can be used on.
    fn close(&self) {}

    /// Where an object is, for messages: a path or a URL.
    fn locate(&self, key: &ObjectKey) -> String {
        key.to_string()
    }
}

/// An object's version on its store, opaque to everyone else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

/// An object's octets with their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The octets.
    pub bytes: Vec<u8>,
    /// The version that a put expects to replace them.
    pub version: Version,
}

/// What a put expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the object is to be created.
    Absent,
    /// This version.
    Version(Version),
}

impl From<Option<Version>> for Expected {
    fn from(version: Option<Version>) -> Self {
        version.map_or(Self::Absent, Self::Version)
    }
}

/// Why a store could not do what it was asked, classified by what the caller does next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The object is not what was expected: read it again and decide anew.
    #[error("`{location}` was changed by another run")]
    Conflict {
        /// Where the object is.
        location: String,
    },
    /// A permission is missing, or the place is read-only: nothing was written.
    #[error("cannot {action} `{location}`")]
    Denied {
        /// Where.
        location: String,
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// What lies below.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// There is no room: nothing was written, and what was there is as it was.
    #[error("there is no room to write `{location}`")]
    Full {
        /// Where.
        location: String,
        /// What lies below.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The store itself fails. A write that got this answer must not be relied on, even where it can be read.
    #[error("cannot {action} `{location}`")]
    Failed {
        /// Where.
        location: String,
        /// What was tried.
        action: &'static str,
        /// What lies below.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The object is larger than [`MAX_OBJECT`].
    #[error("`{location}` is larger than {} MiB, which no state object is", MAX_OBJECT >> 20)]
    TooLarge {
        /// Where.
        location: String,
    },
    /// The same call may succeed later; whether a put took effect is unknown.
    #[error("cannot {action} `{location}` at the moment")]
    Transient {
        /// Where.
        location: String,
        /// What was tried.
        action: &'static str,
        /// What lies below.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The place is not one that state can be trusted to: a symbolic link, a device, somebody else's folder.
    #[error("`{location}` {reason}")]
    Unsafe {
        /// Where.
        location: String,
        /// What is wrong with it, to be read after its name.
        reason: String,
    },
}

impl StoreError {
    /// What the user can do about it.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => Some("make room and run the command again: nothing was lost"),
            Self::Denied { .. } => Some("check who owns the state and whether its place is read-only"),
            _ => None,
        }
    }
}
