use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de;

use crate::model::Name;

/// The name of an object on a store: `projects/shop/certificates/www.json`.
///
/// Its segments match `[a-z0-9][a-z0-9._-]*`, so that a key can neither climb (`..`), nor hide (`.git`), nor differ
/// from another only in case. A key has at most 512 octets and a segment at most 200, which leaves a file system
/// room for a temporary name beside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.len() > 512 || !text.split('/').all(is_segment) {
            return Err(KeyError { key: text.chars().take(600).collect() });
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, from the outermost to the object's own.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    pub(super) fn state() -> Self {
        Self("state.json".to_owned())
    }

    pub(super) fn account(issuer: &Name) -> Self {
        Self(format!("accounts/{issuer}.json"))
    }

    pub(super) fn certificate(project: &Name, name: &Name) -> Self {
        Self(format!("{}{name}.json", Self::certificates_of(project)))
    }

    /// Where a retired certificate goes: serials never repeat under a name, so each retirement has a place of its own.
    pub(super) fn archived(project: &Name, name: &Name, serial: u64) -> Self {
        Self(format!("archive/{}{name}.{serial}.json", Self::certificates_of(project)))
    }

    pub(super) fn certificates_of(project: &Name) -> String {
        format!("projects/{project}/certificates/")
    }

    /// The project and name of a certificate's object, if this is the key of one.
    pub(super) fn as_certificate(&self) -> Option<(Name, Name)> {
        let segments: Vec<&str> = self.segments().collect();
        let ["projects", project, "certificates", file] = segments[..] else { return None };
        Some((Name::new(project).ok()?, Name::new(file.strip_suffix(".json")?).ok()?))
    }

    /// The issuer of an account's object, if this is the key of one.
    pub(super) fn as_account(&self) -> Option<Name> {
        let issuer = self.0.strip_prefix("accounts/")?.strip_suffix(".json")?;
        Name::new(issuer).ok()
    }
}

/// Whether a text can be one segment of a key.
pub(super) fn is_segment(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 200
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|b| first(b) || matches!(b, b'.' | b'_' | b'-'))
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text that is no [`ObjectKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` cannot be the key of a state object", key.escape_debug())]
pub struct KeyError {
    /// The text, cut where it is very long.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_climb_hide_or_differ_in_case_only() {
        for good in ["state.json", "projects/shop/certificates/www.json", "handoff/00ff.age", "a/b_c/d-e.f"] {
            assert_eq!(ObjectKey::new(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".git/config",
            "a/.b",
            "A",
            "a\0",
            "a b",
            "-a",
            "_a",
            "é",
        ] {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectKey::new(&"a".repeat(201)).is_err());
        assert!(ObjectKey::new(&["abcdefghi"; 52].join("/")).is_err());
    }

    #[test]
    fn a_key_tells_what_it_is_the_key_of() {
        let (project, name) = (Name::new("shop").unwrap(), Name::new("www").unwrap());
        let key = ObjectKey::certificate(&project, &name);
        assert_eq!(key.as_certificate(), Some((project.clone(), name.clone())));
        assert_eq!(ObjectKey::account(&name).as_account(), Some(name.clone()));
        assert_eq!(ObjectKey::archived(&project, &name, 3).as_certificate(), None);
        assert_eq!(ObjectKey::new("projects/shop/certificates/a_b.json").unwrap().as_certificate(), None);
    }
}
