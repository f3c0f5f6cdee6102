use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use age::NoCallbacks;
use age::plugin;
use age::secrecy::ExposeSecret;
use age::secrecy::SecretString;
use age::x25519;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::seal::SealError;
use crate::model::IDENTITY;
use crate::model::IDENTITY_FILE;

/// The largest identity file that is read, in octets.
const LARGEST: u64 = 1 << 20;

/// age identities: what opens sealed keys. They print themselves nowhere.
#[derive(Clone, Default)]
pub struct Identities {
    native: Vec<x25519::Identity>,
    /// The recipient of each native identity: working one out takes a scalar multiplication, and a plan asks for it once
    /// per certificate.
    recipients: Vec<String>,
    plugins: Vec<plugin::Identity>,
    plugins_allowed: bool,
    exposed: Vec<PathBuf>,
}

/// A new identity, to be saved by whoever asked for it.
#[derive(Debug, Clone)]
pub struct IdentityFile {
    /// The recipient that goes into the configuration.
    pub recipient: String,
    /// The content of the identity's file, which only its owner may read.
    pub text: SecretString,
}

/// Makes a new identity.
pub fn generate_identity() -> IdentityFile {
    let identity = x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let head = format!("# public key: {recipient}\n");
    let mut text = String::with_capacity(head.len() + secret.expose_secret().len() + 1);
    text.push_str(&head);
    text.push_str(secret.expose_secret());
    text.push('\n');
    IdentityFile { recipient, text: SecretString::from(text) }
}

impl Identities {
    /// Reads identities from texts in the format of age's identity files: one a line, `#` starts a comment line.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, SealError> {
        let mut identities = Self::default();
        for text in texts {
            identities.add("the identity", text)?;
        }
        Ok(identities)
    }

    /// Finds the user's identities: those of `CERTPLAN_AGE_KEY` (the identity itself) and `CERTPLAN_AGE_KEY_FILE` (a
    /// path) together; without either, those of `.config/certplan/identity.txt` in `home`, if that is there.
    ///
    /// Empty variables count as unset: that is how CI systems pass a secret which a run may not have.
    pub fn load(env: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Result<Self, SealError> {
        let set = |name| env(name).filter(|value| !value.is_empty());
        let mut identities = Self::default();
        let key = set(IDENTITY);
        let file = set(IDENTITY_FILE);
        if key.is_none() && file.is_none() {
            if let Some(home) = home {
                let path = home.join(".config/certplan/identity.txt");
                if path.try_exists().unwrap_or(true) {
                    identities.add_file(&path)?;
                }
            }
            return Ok(identities);
        }
        if let Some(key) = key {
            let text = Zeroizing::new(key.into_encoded_bytes());
            let text = std::str::from_utf8(&text)
                .map_err(|_| SealError::Identity { origin: format!("`{IDENTITY}`"), line: 1 })?;
            identities.add(&format!("`{IDENTITY}`"), text)?;
        }
        if let Some(file) = file {
            identities.add_file(&PathBuf::from(file))?;
        }
        Ok(identities)
    }

    /// Lets age plugins be started for identities and recipients that need them. Never on a pull request.
    pub fn allow_plugins(self, allowed: bool) -> Self {
        Self { plugins_allowed: allowed, ..self }
    }

    /// The recipients of these identities, as far as they can be told: a plugin's are known to the plugin only.
    pub fn recipients(&self) -> Vec<String> {
        self.recipients.clone()
    }

    /// The files of these identities that every user of the machine can read or write.
    pub fn exposed(&self) -> &[PathBuf] {
        &self.exposed
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.native.is_empty() && self.plugins.is_empty()
    }

    /// Whether plugins may be started.
    pub(super) const fn may_start_plugins(&self) -> bool {
        self.plugins_allowed
    }

    /// How the identities are named in a message.
    pub(super) fn described(&self) -> Vec<String> {
        let plugin = |identity: &plugin::Identity| {
            let allowed = if self.plugins_allowed { "" } else { ", not started here" };
            format!("age-plugin-{}{allowed}", identity.plugin())
        };
        self.recipients().into_iter().chain(self.plugins.iter().map(plugin)).collect()
    }

    /// Whether one of these identities opens what is sealed to a recipient, as far as that can be told.
    pub(super) fn opens(&self, recipient: &str) -> bool {
        let by_plugin = |identity: &plugin::Identity| {
            recipient
                .strip_prefix("age1")
                .and_then(|rest| rest.strip_prefix(identity.plugin()))
                .is_some_and(|rest| rest.starts_with('1'))
        };
        self.recipients.iter().any(|own| own == recipient)
            || (self.plugins_allowed && self.plugins.iter().any(by_plugin))
    }

    /// The identities as age wants them, a plugin's only if it may be started.
    pub(super) fn as_age(&self) -> Result<Vec<Box<dyn age::Identity>>, SealError> {
        let mut identities: Vec<Box<dyn age::Identity>> = Vec::new();
        for identity in &self.native {
            identities.push(Box::new(identity.clone()));
        }
        if self.plugins_allowed {
            let mut names: Vec<&str> = self.plugins.iter().map(plugin::Identity::plugin).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let started = plugin::IdentityPluginV1::new(name, &self.plugins, NoCallbacks)
                    .map_err(|_| SealError::NoPlugin { program: format!("age-plugin-{name}") })?;
                identities.push(Box::new(started));
            }
        }
        Ok(identities)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), SealError> {
        let failed = |source| SealError::IdentityFile { path: path.to_owned(), source };
        // Without NONBLOCK, opening a FIFO would wait for a writer.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file =
            std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > LARGEST {
            return Err(failed(std::io::Error::other("it is no small regular file")));
        }
        if metadata.mode() & 0o007 != 0 {
            self.exposed.push(path.to_owned());
        }
        // Reserved in full: a buffer that grows leaves copies of its beginning behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST as usize + 1));
        file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
        let origin = format!("`{}`", path.display());
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| SealError::Identity { origin: origin.clone(), line: 1 })?;
        self.add(&origin, text)
    }

    fn add(&mut self, origin: &str, text: &str) -> Result<(), SealError> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("-----BEGIN AGE ENCRYPTED FILE") {
                return Err(SealError::ProtectedIdentity { origin: origin.to_owned() });
            }
            if let Ok(identity) = line.parse::<x25519::Identity>() {
                self.recipients.push(identity.to_public().to_string());
                self.native.push(identity);
            } else if let Ok(identity) = line.parse::<plugin::Identity>() {
                self.plugins.push(identity);
            } else {
                return Err(SealError::Identity { origin: origin.to_owned(), line: index + 1 });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.described()).finish()
    }
}
