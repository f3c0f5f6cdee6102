//! What content has to be beyond its types: whoever can write the store can forge an object.

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use url::Url;

use super::key::is_segment;
use super::object::Content;
use super::records::ProviderMemory;
use crate::model::AccountRecord;
use crate::model::CertificateRecord;
use crate::model::Issued;
use crate::model::NameSet;
use crate::model::Operation;
use crate::model::OperationKey;
use crate::model::SealedKey;

/// Bounds in octets or entries: generous for what is written, and small enough to be harmless.
const TEXT: usize = 4 << 10;
const CHAIN: usize = 256 << 10;
const ARMOR: usize = 256 << 10;
const ENTRIES: usize = 1_000;
const NAMES: usize = 1_000;
const ISSUANCES: usize = 5_000;

/// What `state.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Root {
    /// When the state was begun.
    pub(super) created: Timestamp,
}

impl Content for Root {
    const KIND: &'static str = "state";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Content for CertificateRecord {
    const KIND: &'static str = "certificate";

    fn check(&self) -> Result<(), String> {
        for (place, issued) in [("current", self.current.as_ref()), ("previous", self.previous.as_deref())] {
            if let Some(issued) = issued {
                check_issued(issued).map_err(|reason| format!("`{place}`: {reason}"))?;
            }
        }
        if let Some(operation) = &self.operation {
            check_operation(operation).map_err(|reason| format!("`operation`: {reason}"))?;
        }
        entries("deployments", self.deployments.len(), ENTRIES)?;
        for deployment in self.deployments.values() {
            text("deployment.kind", &deployment.kind, TEXT)?;
            text("deployment.slot.location", &deployment.slot.location, TEXT)?;
            entries("deployment.verify", deployment.verify.len(), ENTRIES)?;
        }
        entries("issuances", self.issuances.len(), ISSUANCES)?;
        for issuance in &self.issuances {
            names("issuances", &issuance.names)?;
            text("issuances.directory", &issuance.directory, TEXT)?;
        }
        if let Some(failures) = &self.failures {
            bounded("failures.message", failures.message.len(), 16 * TEXT)?;
        }
        if let Some(url) = self.ari.as_ref().and_then(|ari| ari.explanation_url.as_ref()) {
            text("ari.explanation_url", url, TEXT)?;
        }
        Ok(())
    }
}

impl Content for AccountRecord {
    const KIND: &'static str = "account";

    fn check(&self) -> Result<(), String> {
        url("directory", &self.directory)?;
        if let Some(account) = &self.url {
            url("url", account)?;
        }
        check_key(&self.key)?;
        entries("contact", self.contact.len(), ENTRIES)?;
        for contact in &self.contact {
            text("contact", contact, TEXT)?;
        }
        if let Some(operation) = &self.operation {
            identifier("operation.id", &operation.id)?;
        }
        entries("retired", self.retired.len(), ENTRIES)?;
        self.retired.iter().try_for_each(Self::check)
    }
}

impl Content for ProviderMemory {
    const KIND: &'static str = "provider";

    fn check(&self) -> Result<(), String> {
        armor(&self.sealed)
    }
}

fn check_issued(issued: &Issued) -> Result<(), String> {
    names("facts.names", &issued.facts.names)?;
    text("facts.serial", &issued.facts.serial, 200)?;
    bounded("facts.issuer", issued.facts.issuer.len(), TEXT)?;
    if issued.facts.not_after < issued.facts.not_before {
        return Err("its validity ends before it begins".to_owned());
    }
    bounded("chain_pem", issued.chain_pem.len(), CHAIN)?;
    if !issued.chain_pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err("`chain_pem` holds no certificate".to_owned());
    }
    url("directory", &issued.directory)?;
    optional("profile", issued.profile.as_deref())?;
    optional("preferred_chain", issued.preferred_chain.as_deref())?;
    identifier("operation", &issued.operation)?;
    check_key(&issued.key)?;
    if issued.key.spki != issued.facts.spki {
        return Err("the sealed key is of another certificate".to_owned());
    }
    Ok(())
}

fn check_operation(operation: &Operation) -> Result<(), String> {
    identifier("id", &operation.id)?;
    text("cause", &operation.cause, TEXT)?;
    text("reason", &operation.reason, TEXT)?;
    bounded("names", operation.names.len(), NAMES)?;
    url("directory", &operation.directory)?;
    optional("profile", operation.profile.as_deref())?;
    optional("preferred_chain", operation.preferred_chain.as_deref())?;
    optional("replaces", operation.replaces.as_deref())?;
    if let Some(OperationKey::Sealed(key)) = &operation.key {
        check_key(key)?;
    }
    if let Some(csr) = &operation.csr {
        text("csr", csr, 64 << 10)?;
    }
    if let Some(account) = &operation.account {
        url("account", account)?;
    }
    if let Some(order) = &operation.order_url {
        url("order_url", order)?;
    }
    // Two values for each name, and those of an attempt before it.
    entries("txt", operation.txt.len(), 8 * NAMES)?;
    for record in &operation.txt {
        text("txt.value", &record.value, 255)?;
        text("txt.zone.id", &record.zone.id, TEXT)?;
    }
    entries("deployments", operation.deployments.len(), ENTRIES)
}

fn check_key(key: &SealedKey) -> Result<(), String> {
    entries("key.recipients", key.recipients.len(), ENTRIES)?;
    for recipient in &key.recipients {
        text("key.recipients", recipient, TEXT)?;
    }
    armor(&key.armored)
}

fn armor(armored: &str) -> Result<(), String> {
    bounded("the sealed key", armored.len(), ARMOR)
}

fn names(field: &str, names: &NameSet) -> Result<(), String> {
    if names.is_empty() {
        return Err(format!("`{field}` is empty"));
    }
    entries(field, names.len(), NAMES)
}

/// An operation's identifier is also part of a key.
fn identifier(field: &str, id: &str) -> Result<(), String> {
    if is_segment(id) && id.len() <= 64 { Ok(()) } else { Err(format!("`{field}` is no identifier")) }
}

fn url(field: &str, url: &str) -> Result<(), String> {
    text(field, url, TEXT)?;
    match Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "https" | "http") && parsed.has_host() => Ok(()),
        _ => Err(format!("`{field}` is no URL of a server")),
    }
}

fn optional(field: &str, value: Option<&str>) -> Result<(), String> {
    value.map_or(Ok(()), |value| text(field, value, TEXT))
}

/// A text without control characters.
fn text(field: &str, text: &str, limit: usize) -> Result<(), String> {
    bounded(field, text.len(), limit)?;
    if text.chars().any(char::is_control) {
        return Err(format!("`{field}` has a control character"));
    }
    Ok(())
}

fn bounded(field: &str, length: usize, limit: usize) -> Result<(), String> {
    if length > limit { Err(format!("`{field}` has {length} octets, more than {limit}")) } else { Ok(()) }
}

fn entries(field: &str, count: usize, limit: usize) -> Result<(), String> {
    if count > limit { Err(format!("`{field}` has {count} entries, more than {limit}")) } else { Ok(()) }
}
