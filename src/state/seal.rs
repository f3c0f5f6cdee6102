use std::fmt;
use std::io::Read;
use std::io::Write;
use std::path::PathBuf;

use age::DecryptError;
use age::Decryptor;
use age::Encryptor;
use age::NoCallbacks;
use age::armor::ArmoredReader;
use age::armor::ArmoredWriter;
use age::armor::Format;
use age::plugin;
use age::tag;
use age::tagpq;
use age::x25519;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use super::envelope::Binding;
use super::identity::Identities;
use crate::model::Address;
use crate::model::Encryption;
use crate::model::Fingerprint;
use crate::model::KeyType;
use crate::model::SealedKey;

/// The largest sealed text that is opened, in octets of armour.
const LARGEST: usize = 256 << 10;

/// Where a sealed key belongs: it opens nowhere else, whatever somebody did to the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The lineage of the state.
    pub lineage: String,
    /// The certificate or account. Addresses name no project, so between certificates of one name in two projects of
    /// a store only the public key tells keys apart.
    pub address: Address,
}

/// Seals private keys for the configured recipients, and opens what this process's identities open.
///
/// Calls take well under a millisecond, but for recipients and identities of age plugins, which are programs.
pub struct Sealer {
    recipients: Vec<Recipient>,
    keys: Vec<Recipient>,
    identities: Identities,
}

impl Sealer {
    /// Reads the recipients, and checks that one file can be for all of them.
    pub fn new(encryption: &Encryption, identities: Identities) -> Result<Self, SealError> {
        let recipients = Recipient::parse_all(&encryption.recipients)?;
        if recipients.is_empty() {
            return Err(SealError::NoRecipients);
        }
        let keys = Recipient::parse_all(&encryption.keys)?;
        let sealer = Self { recipients, keys, identities };
        for recipients in [&sealer.recipients, &sealer.keys] {
            let native: Vec<_> = recipients.iter().filter_map(Recipient::as_native).collect();
            if !native.is_empty() {
                Encryptor::with_recipients(native.into_iter()).map_err(SealError::encrypt)?;
            }
        }
        Ok(sealer)
    }

    /// A sealer that only opens.
    pub const fn for_opening(identities: Identities) -> Self {
        Self { recipients: Vec::new(), keys: Vec::new(), identities }
    }

    /// Whether certificate keys are for others than those who renew.
    pub const fn hardened(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The identities.
    pub const fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Seals a certificate's private key (PKCS#8): to `keys` when there are any, else to `recipients`.
    pub fn seal_certificate_key(
        &self,
        place: &Place,
        key_type: KeyType,
        spki: Fingerprint,
        pkcs8: &[u8],
    ) -> Result<SealedKey, SealError> {
        let recipients = if self.hardened() { &self.keys } else { &self.recipients };
        self.seal_key(place, key_type, spki, pkcs8, recipients)
    }

    /// Seals an account's private key (PKCS#8) to `recipients`.
    pub fn seal_account_key(
        &self,
        place: &Place,
        key_type: KeyType,
        spki: Fingerprint,
        pkcs8: &[u8],
    ) -> Result<SealedKey, SealError> {
        self.seal_key(place, key_type, spki, pkcs8, &self.recipients)
    }

    /// Seals the private key of an open operation to `recipients`: the content of `handoff/<operation>.age`.
    pub fn seal_handoff(
        &self,
        place: &Place,
        operation: &str,
        spki: Fingerprint,
        pkcs8: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let plaintext = Binding { place, operation: Some(operation), spki }.wrap(pkcs8)?;
        self.encrypt(&self.recipients, &plaintext).map(String::into_bytes)
    }

    /// Opens the hand-off of an operation for the key that the journal names.
    pub fn open_handoff(
        &self,
        place: &Place,
        operation: &str,
        spki: Fingerprint,
        handoff: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let plaintext = self.decrypt(handoff, &[])?;
        Binding { place, operation: Some(operation), spki }.unwrap(&plaintext)
    }

    /// Opens a sealed key, and checks that it is of this state, this address and this public key.
    pub fn open(&self, place: &Place, sealed: &SealedKey) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let plaintext = self.decrypt(sealed.armored.as_bytes(), &sealed.recipients)?;
        Binding { place, operation: None, spki: sealed.spki }.unwrap(&plaintext)
    }

    /// Whether one of the identities opens a sealed key, by the recipients that it names; nothing is opened or started.
    pub fn can_open(&self, sealed: &SealedKey) -> bool {
        sealed.recipients.iter().any(|recipient| self.identities.opens(recipient))
    }

    /// Whether a key is sealed to nobody but `keys`.
    pub fn is_sealed_to_keys(&self, sealed: &SealedKey) -> bool {
        sealed.recipients.iter().all(|recipient| self.keys.iter().any(|key| key.text == *recipient))
    }

    /// Opens a key and seals it again: for another place, or for recipients that changed.
    pub fn reseal(&self, sealed: &SealedKey, from: &Place, to: &Place) -> Result<SealedKey, SealError> {
        let key = self.open(from, sealed)?;
        match to.address {
            Address::Account(_) => self.seal_account_key(to, sealed.key_type, sealed.spki, &key),
            Address::Certificate(_) | Address::Deployment(..) => {
                self.seal_certificate_key(to, sealed.key_type, sealed.spki, &key)
            }
        }
    }

    /// Seals a text to `recipients`, bound to a state and a subject, such as the key of the object it goes into.
    pub fn seal_text(&self, lineage: &str, subject: &str, text: &str) -> Result<String, SealError> {
        let mut encoded = Zeroizing::new(String::with_capacity(text.len() * 4 / 3 + 4));
        STANDARD.encode_string(text, &mut encoded);
        let mut plaintext = Zeroizing::new(Vec::with_capacity(encoded.len() + 2_048));
        let sealed = SealedText { lineage: lineage.to_owned(), subject: subject.to_owned(), text: &encoded };
        serde_json::to_writer(&mut *plaintext, &sealed)
            .map_err(|_| SealError::Content { reason: "the text cannot be wrapped" })?;
        self.encrypt(&self.recipients, &plaintext)
    }

    /// Opens a sealed text, and checks that it is of this state and subject.
    pub fn open_text(
        &self,
        lineage: &str,
        subject: &str,
        armored: &str,
    ) -> Result<Zeroizing<String>, SealError> {
        let plaintext = self.decrypt(armored.as_bytes(), &[])?;
        let opened: SealedText<'_> = serde_json::from_slice(&plaintext)
            .map_err(|_| SealError::Content { reason: "it holds something else than a text" })?;
        for (what, found, expected) in
            [("state", opened.lineage, lineage), ("subject", opened.subject, subject)]
        {
            if found != expected {
                return Err(SealError::Misplaced { what, found, expected: expected.to_owned() });
            }
        }
        let mut text = Zeroizing::new(Vec::with_capacity(opened.text.len()));
        STANDARD
            .decode_vec(opened.text, &mut text)
            .map_err(|_| SealError::Content { reason: "the text in it is not base64" })?;
        let text = std::str::from_utf8(&text)
            .map_err(|_| SealError::Content { reason: "the text in it is not UTF-8" })?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn seal_key(
        &self,
        place: &Place,
        key_type: KeyType,
        spki: Fingerprint,
        pkcs8: &[u8],
        recipients: &[Recipient],
    ) -> Result<SealedKey, SealError> {
        let plaintext = Binding { place, operation: None, spki }.wrap(pkcs8)?;
        let armored = self.encrypt(recipients, &plaintext)?;
        let recipients = recipients.iter().map(|recipient| recipient.text.clone()).collect();
        Ok(SealedKey { key_type, spki, recipients, armored })
    }

    fn encrypt(&self, recipients: &[Recipient], plaintext: &[u8]) -> Result<String, SealError> {
        if recipients.is_empty() {
            return Err(SealError::NoRecipients);
        }
        let started = self.start_plugins(recipients)?;
        let native = recipients.iter().filter_map(Recipient::as_native);
        let all = native.chain(started.iter().map(|plugin| plugin as &dyn age::Recipient));
        let encryptor = Encryptor::with_recipients(all).map_err(SealError::encrypt)?;
        let written = || {
            let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
            let mut writer = encryptor.wrap_output(armor)?;
            writer.write_all(plaintext)?;
            writer.finish()?.finish()
        };
        let armored = written().map_err(|error| SealError::encrypt(error.into()))?;
        String::from_utf8(armored).map_err(|_| SealError::Content { reason: "the armour is no text" })
    }

    fn start_plugins(
        &self,
        recipients: &[Recipient],
    ) -> Result<Vec<plugin::RecipientPluginV1<NoCallbacks>>, SealError> {
        let plugins: Vec<plugin::Recipient> =
            recipients.iter().filter_map(Recipient::as_plugin).cloned().collect();
        let mut names: Vec<&str> = plugins.iter().map(plugin::Recipient::plugin).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let program = format!("age-plugin-{name}");
                if !self.identities.may_start_plugins() {
                    return Err(SealError::PluginNotAllowed { program });
                }
                plugin::RecipientPluginV1::new(name, &plugins, &[], NoCallbacks)
                    .map_err(|_| SealError::NoPlugin { program })
            })
            .collect()
    }

    fn decrypt(&self, armored: &[u8], recipients: &[String]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if armored.len() > LARGEST {
            return Err(SealError::Content { reason: "it is too large" });
        }
        let identities = self.identities.as_age()?;
        let decryptor = Decryptor::new_buffered(ArmoredReader::new(armored)).map_err(SealError::decrypt)?;
        let opened = decryptor.decrypt(identities.iter().map(|identity| &**identity as &dyn age::Identity));
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(DecryptError::NoMatchingKeys) => {
                return Err(SealError::NoIdentity {
                    recipients: recipients.to_vec(),
                    tried: self.identities.described(),
                });
            }
            Err(error) => return Err(SealError::decrypt(error)),
        };
        // Armour is longer than what it holds, so the buffer never grows and leaves a copy behind.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(armored.len() + 1));
        reader.read_to_end(&mut plaintext).map_err(|error| SealError::decrypt(error.into()))?;
        Ok(plaintext)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("recipients", &self.recipients)
            .field("keys", &self.keys)
            .field("identities", &self.identities)
            .finish()
    }
}

/// What [`Sealer::seal_text`] seals; the text is in base64, so that it has no escapes and can be borrowed.
#[derive(Serialize, Deserialize)]
struct SealedText<'a> {
    lineage: String,
    subject: String,
    #[serde(borrow)]
    text: &'a str,
}

/// A recipient, with the text that the configuration names it by.
struct Recipient {
    text: String,
    kind: RecipientKind,
}

enum RecipientKind {
    Native(Box<dyn age::Recipient + Send + Sync>),
    Plugin(plugin::Recipient),
}

impl Recipient {
    fn parse_all(texts: &[String]) -> Result<Vec<Self>, SealError> {
        let mut recipients: Vec<Self> = Vec::new();
        for text in texts {
            if recipients.iter().all(|recipient| recipient.text != *text) {
                recipients.push(Self::parse(text)?);
            }
        }
        Ok(recipients)
    }

    fn parse(text: &str) -> Result<Self, SealError> {
        let kind = if let Ok(recipient) = text.parse::<x25519::Recipient>() {
            RecipientKind::Native(Box::new(recipient))
        } else if let Ok(recipient) = text.parse::<tag::Recipient>() {
            RecipientKind::Native(Box::new(recipient))
        } else if let Ok(recipient) = text.parse::<tagpq::Recipient>() {
            RecipientKind::Native(Box::new(recipient))
        } else if let Ok(recipient) = text.parse::<plugin::Recipient>() {
            RecipientKind::Plugin(recipient)
        } else {
            // Somebody may have taken the identity for the recipient.
            let secret =
                text.to_ascii_uppercase().contains("SECRET") || text.to_ascii_uppercase().starts_with("AGE-");
            let shown = if secret { "AGE-…".to_owned() } else { text.chars().take(100).collect() };
            return Err(SealError::Recipient { recipient: shown, secret });
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    fn as_native(&self) -> Option<&dyn age::Recipient> {
        match &self.kind {
            RecipientKind::Native(recipient) => Some(&**recipient),
            RecipientKind::Plugin(_) => None,
        }
    }

    const fn as_plugin(&self) -> Option<&plugin::Recipient> {
        match &self.kind {
            RecipientKind::Native(_) => None,
            RecipientKind::Plugin(recipient) => Some(recipient),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why something could not be sealed or opened. No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// What is sealed, or to be sealed, is not what it should be.
    #[error("the sealed key is not usable: {reason}")]
    Content {
        /// What is wrong.
        reason: &'static str,
    },
    /// age could not open the file, for another reason than a missing identity: it is damaged.
    #[error("the sealed key is damaged")]
    Decrypt {
        /// What age said.
        #[source]
        source: Box<DecryptError>,
    },
    /// age could not seal for these recipients.
    #[error("nothing can be sealed for these recipients together")]
    Encrypt {
        /// What age said.
        #[source]
        source: Box<age::EncryptError>,
    },
    /// A line is no identity. It is not shown, for it may be a mistyped one.
    #[error("line {line} of {origin} is no age identity")]
    Identity {
        /// Where the line is.
        origin: String,
        /// Its number.
        line: usize,
    },
    /// The identity file cannot be read.
    #[error("cannot read the identity file `{}`", path.display())]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key is another's.
    #[error("the sealed key belongs to another {what}: `{}` instead of `{expected}`", found.escape_debug())]
    Misplaced {
        /// What differs.
        what: &'static str,
        /// What the key is bound to.
        found: String,
        /// What it should be bound to.
        expected: String,
    },
    /// None of the identities opens the key.
    #[error(
        "none of the identities opens the sealed key: it is sealed to {}, and tried were {}",
        listed(recipients, "recipients that it does not name"),
        listed(tried, "none, for there is no identity")
    )]
    NoIdentity {
        /// Whom it is sealed to, as far as is known.
        recipients: Vec<String>,
        /// The recipients of the identities that were tried, or their plugins.
        tried: Vec<String>,
    },
    /// A plugin is not installed.
    #[error("`{program}` is not on the path")]
    NoPlugin {
        /// The program.
        program: String,
    },
    /// There is nobody to seal to.
    #[error("there are no recipients to seal to")]
    NoRecipients,
    /// A plugin would have to be started where nothing may be.
    #[error("`{program}` would have to be started, which is not allowed here")]
    PluginNotAllowed {
        /// The program.
        program: String,
    },
    /// The identities are protected by a passphrase.
    #[error("{origin} is protected by a passphrase, which certplan does not ask for")]
    ProtectedIdentity {
        /// Where they are.
        origin: String,
    },
    /// A text is no recipient.
    #[error(
        "`{}` is no age recipient{}",
        recipient.escape_debug(),
        if *secret { ": it is an identity, which is secret and belongs in no configuration" } else { "" }
    )]
    Recipient {
        /// The text, or its beginning where it may be a secret.
        recipient: String,
        /// Whether it looks like an identity.
        secret: bool,
    },
}

impl SealError {
    fn encrypt(source: age::EncryptError) -> Self {
        Self::Encrypt { source: Box::new(source) }
    }

    fn decrypt(source: DecryptError) -> Self {
        Self::Decrypt { source: Box::new(source) }
    }
}

fn listed(texts: &[String], none: &str) -> String {
    if texts.is_empty() {
        return none.to_owned();
    }
    let shown: Vec<String> = texts
        .iter()
        .take(10)
        .map(|text| format!("`{}`", text.chars().take(100).collect::<String>().escape_debug()))
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
