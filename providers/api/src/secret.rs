use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::ExposeSecret;
use secrecy::SecretString;
use serde::Deserialize;
use serde::Serialize;

/// Where a secret is found: the configuration never holds one literally.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretRef {
    /// The name of an environment variable that holds the secret.
    Env(String),
    /// The path of a file that holds the secret, relative to the configuration; a trailing newline is not part of it.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable `{name}`"),
            Self::File(path) => write!(f, "file `{}`", path.display()),
        }
    }
}

/// A secret text that prints itself nowhere and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The text itself; the name makes each use stand out in review.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Resolves references at the edge, as late as possible: nothing below reads the environment or a credential file.
pub trait SecretResolver: Send + Sync + fmt::Debug {
    /// Returns the secret behind a reference. An empty value is an error, for an empty credential never works.
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved>;
}

/// A reference that leads to nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference} {reason}")]
pub struct Unresolved {
    /// What was looked up.
    pub reference: SecretRef,
    /// What is wrong with it: `is not set`, `is empty`, `cannot be read: …`.
    pub reason: String,
}
