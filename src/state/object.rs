use std::ops::Deref;
use std::ops::DerefMut;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StateError;
use super::key::ObjectKey;
use super::store::MAX_OBJECT;
use super::store::StoreError;
use super::store::Version;
use crate::model::Failures;
use crate::model::Issuance;
use crate::model::Name;
use crate::model::sha256;

/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u64 = 1;

/// What an object starts with. The checksum is of every octet after its line.
const PREFIX: &str = "{\n  \"checksum\": \"sha256:";
const SUFFIX: &str = "\",\n";
const DIGEST: usize = 64;
const BODY: usize = PREFIX.len() + DIGEST + SUFFIX.len();

/// Who wrote an object: enough to recognise one's own write after a lost answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The run's identifier.
    pub run: String,
    /// The number of the write within the run.
    pub seq: u64,
}

/// What an object is about, checked like input.
pub(super) trait Content: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The object's `kind`.
    const KIND: &'static str;

    /// Says what is wrong with the content beyond its types.
    fn check(&self) -> Result<(), String>;
}

/// The content of an object together with what a compare-and-swap needs.
///
/// It derefs to the content. After a failed save it is as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// The content.
    pub content: T,
    serial: u64,
    revision: u64,
    version: Option<Version>,
    writer: Option<Writer>,
    moved_from: Option<MovedFrom>,
}

impl<T> Stored<T> {
    /// The content of an object that is still to be created.
    pub const fn new(content: T) -> Self {
        Self { content, serial: 0, revision: 0, version: None, writer: None, moved_from: None }
    }

    /// How often the object was written; zero before the first time.
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// How often something changed that a plan depends on.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Who wrote it last; `None` before the first time.
    pub const fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    /// The same with a content that is moved at no cost, as those of a large fleet are several times.
    pub(super) fn boxed(self) -> Stored<Box<T>> {
        let Self { content, serial, revision, version, writer, moved_from } = self;
        Stored { content: Box::new(content), serial, revision, version, writer, moved_from }
    }

    pub(super) const fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    pub(super) const fn moved_from(&self) -> Option<&MovedFrom> {
        self.moved_from.as_ref()
    }
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T> DerefMut for Stored<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.content
    }
}

/// Where a renamed certificate came from: with this the old object is known for a copy until it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovedFrom {
    pub(super) name: Name,
    pub(super) serial: u64,
}

/// What is left of a certificate that was forgotten, renamed or archived: what the CA's rate limits still count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remains {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) issuances: Vec<Issuance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failures: Option<Failures>,
}

/// An object as it is stored; the checksum comes before it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) format: u64,
    pub(super) kind: String,
    /// The object's own key: an object in another's place is noticed.
    pub(super) key: ObjectKey,
    pub(super) lineage: String,
    pub(super) serial: u64,
    pub(super) revision: u64,
    pub(super) writer: Writer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moved_from: Option<MovedFrom>,
    /// Set instead of the content when the object was given up.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) remains: Option<Remains>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<T>,
}

/// A default that asks nothing of the type.
const fn none<T>() -> Option<T> {
    None
}

impl<T: Content> Envelope<T> {
    /// The object's octets.
    pub(super) fn encode(&self, location: &str) -> Result<Vec<u8>, StateError> {
        let failed = |error: serde_json::Error| StateError::Damaged {
            location: location.to_owned(),
            reason: format!("it cannot be written: {error}"),
        };
        if let Some(reason) = self.content.as_ref().and_then(|content| content.check().err()) {
            return Err(StateError::Damaged {
                location: location.to_owned(),
                reason: format!("it is not to be written: {reason}"),
            });
        }
        let body = serde_json::to_vec_pretty(self).map_err(failed)?;
        // A struct in pretty print starts with a brace and a newline, and the checksum takes their place.
        let body = body.get(2..).unwrap_or_default();
        let mut bytes = Vec::with_capacity(BODY + body.len() + 1);
        bytes.resize(BODY, 0);
        bytes.extend_from_slice(body);
        bytes.push(b'\n');
        if bytes.len() > MAX_OBJECT {
            return Err(StoreError::TooLarge { location: location.to_owned() }.into());
        }
        let head = format!("{PREFIX}{}{SUFFIX}", sha256(&bytes[BODY..]));
        bytes[..BODY].copy_from_slice(head.as_bytes());
        Ok(bytes)
    }

    /// Reads and judges an object: its checksum, format, kind, key, lineage and content.
    pub(super) fn decode(
        bytes: &[u8],
        key: &ObjectKey,
        location: &str,
        lineage: Option<&str>,
    ) -> Result<Self, StateError> {
        let damaged = |reason: String| StateError::Damaged { location: location.to_owned(), reason };
        if let Err(reason) = check_digest(bytes) {
            return Err(newer(bytes, location).unwrap_or_else(|| damaged(reason.to_owned())));
        }
        let object: Self = serde_json::from_slice(bytes).map_err(|error| {
            newer(bytes, location).unwrap_or_else(|| damaged(format!("its content is invalid: {error}")))
        })?;
        if object.format > FORMAT {
            return Err(StateError::TooNew {
                location: location.to_owned(),
                format: object.format,
                known: FORMAT,
            });
        }
        if object.format == 0 {
            return Err(damaged("it has format 0, which there is not".to_owned()));
        }
        if object.kind != T::KIND {
            return Err(damaged(format!(
                "it is of the kind `{}`, not `{}`",
                object.kind.escape_debug(),
                T::KIND
            )));
        }
        if let Some(expected) = lineage.filter(|expected| *expected != object.lineage) {
            return Err(StateError::ForeignLineage {
                location: location.to_owned(),
                found: object.lineage,
                expected: expected.to_owned(),
            });
        }
        if object.key != *key {
            return Err(damaged(format!("it is the object `{}` in the wrong place", object.key)));
        }
        if object.writer.run.len() > 200 || object.lineage.len() > 200 || object.lineage.is_empty() {
            return Err(damaged("its lineage or writer is out of bounds".to_owned()));
        }
        match (&object.content, &object.remains) {
            (Some(content), None) => {
                content.check().map_err(|reason| damaged(format!("its content is invalid: {reason}")))?;
            }
            (None, Some(_)) => {}
            _ => return Err(damaged("it has no content".to_owned())),
        }
        Ok(object)
    }

    /// The content with its version, or what remains of it. Without a version it cannot be written again.
    pub(super) fn into_stored(self, version: Option<Version>) -> Result<Stored<T>, Box<Gone>> {
        match self.content {
            Some(content) => Ok(Stored {
                content,
                serial: self.serial,
                revision: self.revision,
                version,
                writer: Some(self.writer),
                moved_from: self.moved_from,
            }),
            None => Err(Box::new(Gone {
                serial: self.serial,
                revision: self.revision,
                version,
                remains: self.remains.unwrap_or_default(),
            })),
        }
    }
}

/// An object that was given up, so that its name is free; its serial goes on when the name is taken again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gone {
    pub(super) serial: u64,
    pub(super) revision: u64,
    pub(super) version: Option<Version>,
    pub(super) remains: Remains,
}

impl Gone {
    /// Lets `stored` take the place of what was given up.
    pub(super) fn revive<T>(self, stored: &mut Stored<T>) {
        stored.serial = self.serial;
        stored.revision = self.revision;
        stored.version = self.version;
    }
}

/// The outcome of a write, to be noted once it succeeded.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) serial: u64,
    pub(super) revision: u64,
    pub(super) version: Version,
    pub(super) writer: Writer,
}

impl<T> Stored<T> {
    pub(super) fn note(&mut self, written: Written) {
        self.serial = written.serial;
        self.revision = written.revision;
        self.version = Some(written.version);
        self.writer = Some(written.writer);
    }

    pub(super) fn set_moved_from(&mut self, origin: MovedFrom) {
        self.moved_from = Some(origin);
    }
}

fn check_digest(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.is_empty() {
        return Err("it is empty");
    }
    let damaged = "its checksum does not match: it was truncated, damaged or edited by hand";
    let rest = bytes.strip_prefix(PREFIX.as_bytes()).ok_or("it does not start like a state object")?;
    let (digest, rest) = rest.split_at_checked(DIGEST).ok_or(damaged)?;
    let body = rest.strip_prefix(SUFFIX.as_bytes()).ok_or(damaged)?;
    if sha256(body).to_string().as_bytes() == digest { Ok(()) } else { Err(damaged) }
}

/// Whether an object that is not understood says that it is of a newer format.
fn newer(bytes: &[u8], location: &str) -> Option<StateError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u64,
    }
    let probe: Probe = serde_json::from_slice(bytes).ok()?;
    (probe.format > FORMAT).then(|| StateError::TooNew {
        location: location.to_owned(),
        format: probe.format,
        known: FORMAT,
    })
}
