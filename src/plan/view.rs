//! What of a thing may be shown: an allow-list, so that nothing secret slips into a plan.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::model::DesiredCertificate;
use crate::model::Fingerprint;
use crate::model::Issued;
use crate::model::KeyType;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Operation;
use crate::model::SecretRef;

#[derive(Serialize)]
struct CertificateView<'a> {
    names: &'a NameSet,
    issuer: &'a Name,
    directory: &'a str,
    profile: Option<&'a str>,
    key_type: KeyType,
    preferred_chain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
}

#[derive(Serialize)]
struct DeploymentView<'a> {
    target: &'a Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Fingerprint>,
}

#[derive(Serialize)]
struct AccountView<'a> {
    directory: &'a str,
    contact: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    account_key: Option<&'a SecretRef>,
}

/// An issued certificate.
pub(super) fn issued(issued: &Issued) -> Value {
    value(&CertificateView {
        names: &issued.facts.names,
        issuer: &issued.issuer,
        directory: &issued.directory,
        profile: issued.profile.as_deref(),
        key_type: issued.key.key_type,
        preferred_chain: issued.preferred_chain.as_deref(),
        serial: Some(&issued.facts.serial),
        fingerprint: Some(issued.facts.fingerprint),
        not_before: Some(issued.facts.not_before),
        not_after: Some(issued.facts.not_after),
    })
}

/// A certificate as it is wanted.
pub(super) fn wanted(certificate: &DesiredCertificate, directory: &str) -> Value {
    value(&CertificateView {
        names: &certificate.names,
        issuer: &certificate.issuer,
        directory,
        profile: certificate.profile.as_deref(),
        key_type: certificate.key.key_type,
        preferred_chain: certificate.preferred_chain.as_deref(),
        serial: None,
        fingerprint: None,
        not_before: None,
        not_after: None,
    })
}

/// A certificate as an interrupted operation ordered it.
pub(super) fn ordered(operation: &Operation, key_type: KeyType) -> Value {
    value(&CertificateView {
        names: &operation.names,
        issuer: &operation.issuer,
        directory: &operation.directory,
        profile: operation.profile.as_deref(),
        key_type,
        preferred_chain: operation.preferred_chain.as_deref(),
        serial: None,
        fingerprint: None,
        not_before: None,
        not_after: None,
    })
}

/// A deployment; `fingerprint` where it is known.
pub(super) fn deployment(
    target: &Name,
    kind: Option<&str>,
    location: Option<&str>,
    fingerprint: Option<Fingerprint>,
) -> Value {
    value(&DeploymentView { target, kind, location, fingerprint })
}

/// An account; of its key only where it was taken from.
pub(super) fn account(directory: &str, contact: &[String], account_key: Option<&SecretRef>) -> Value {
    value(&AccountView { directory, contact, account_key })
}

fn value(view: &impl Serialize) -> Value {
    // Strings, numbers and options always serialise.
    serde_json::to_value(view).unwrap_or_default()
}
