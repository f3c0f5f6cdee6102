//! What state remembers, in full and without a secret byte.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::cli::ui::escape_line;
use crate::model::AccountRecord;
use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::Issued;
use crate::model::Name;
use crate::model::OperationKey;
use crate::model::SealedKey;
use crate::plan::text::moment;
use crate::plan::text::span;

/// A certificate's record as JSON: everything but the sealed documents themselves.
pub(crate) fn certificate_json(name: &Name, record: &CertificateRecord, revision: u64, serial: u64) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    for pointer in ["/current/key", "/previous/key"] {
        if let Some(key) = value.pointer_mut(pointer) {
            *key = sealed_json(key);
        }
    }
    if let Some(key) = value.pointer_mut("/operation/key/sealed") {
        *key = sealed_json(key);
    }
    let mut object = json!({
        "address": Address::Certificate(name.clone()),
        "serial": serial,
        "revision": revision,
    });
    if let (Some(object), Value::Object(members)) = (object.as_object_mut(), value) {
        object.extend(members);
    }
    object
}

/// An account's record as JSON, likewise.
pub(crate) fn account_json(issuer: &Name, record: &AccountRecord) -> Value {
    json!({
        "address": Address::Account(issuer.clone()),
        "directory": record.directory,
        "url": record.url,
        "contact": record.contact,
        "key_source": record.key_source,
        "key": { "key_type": record.key.key_type, "spki": record.key.spki, "recipients": record.key.recipients },
        "operation": record.operation,
        "retired": record.retired.iter().map(|retired| json!({ "directory": retired.directory, "url": retired.url })).collect::<Vec<_>>(),
    })
}

fn sealed_json(key: &Value) -> Value {
    json!({ "key_type": key["key_type"], "spki": key["spki"], "recipients": key["recipients"] })
}

/// A certificate's record for people.
pub(crate) fn certificate_text(name: &Name, record: &CertificateRecord, now: Timestamp) -> String {
    let mut text = format!("certificate/{name}\n");
    match &record.current {
        Some(current) => issued(&mut text, "current", current, now),
        None => line(&mut text, "current", "none yet"),
    }
    if let Some(previous) = &record.previous {
        line(
            &mut text,
            "previous",
            &format!("{}, until {}", previous.facts.fingerprint.short(), moment(previous.facts.not_after)),
        );
    }
    if let Some((from, until)) = record.ari.as_ref().and_then(|ari| ari.window) {
        line(&mut text, "renewal window", &format!("{} to {} (CA)", moment(from), moment(until)));
    }
    for (target, deployment) in &record.deployments {
        line(
            &mut text,
            "deployed",
            &format!(
                "{target} at {}, {} since {}",
                escape_line(&deployment.slot.location),
                deployment.fingerprint.short(),
                moment(deployment.deployed_at)
            ),
        );
    }
    if let Some(operation) = &record.operation {
        line(
            &mut text,
            "operation",
            &format!("{} since {} ({})", stage(operation), moment(operation.started), operation.reason),
        );
        for value in &operation.txt {
            line(&mut text, "TXT", &format!("{} \"{}\"", value.name, escape_line(&value.value)));
        }
    }
    if let Some(failures) = &record.failures {
        line(
            &mut text,
            "failures",
            &format!(
                "{} in a row, not before {}: {}",
                failures.count,
                moment(failures.retry_after),
                escape_line(&failures.message)
            ),
        );
    }
    text
}

/// An account's record for people.
pub(crate) fn account_text(issuer: &Name, record: &AccountRecord) -> String {
    let mut text = format!("account/{issuer}\n");
    line(&mut text, "directory", &escape_line(&record.directory));
    match &record.url {
        Some(url) => line(&mut text, "url", &escape_line(url)),
        None => line(&mut text, "url", "being created"),
    }
    if !record.contact.is_empty() {
        line(&mut text, "contact", &escape_line(&record.contact.join(", ")));
    }
    if let Some(source) = &record.key_source {
        line(&mut text, "key from", &escape_line(&source.to_string()));
    }
    sealed(&mut text, &record.key);
    text
}

fn issued(text: &mut String, label: &str, issued: &Issued, now: Timestamp) {
    let facts = &issued.facts;
    let names: Vec<String> = facts.names.iter().map(ToString::to_string).collect();
    line(text, label, &facts.fingerprint.to_string());
    line(text, "names", &names.join(", "));
    line(text, "issuer", &format!("{} ({})", issued.issuer, escape_line(&facts.issuer)));
    line(text, "serial", &facts.serial);
    let left = facts.not_after.duration_since(now).as_secs();
    let left = if left > 0 { format!("{} left", span(left)) } else { format!("expired {} ago", span(left)) };
    line(text, "valid", &format!("{} to {} ({left})", moment(facts.not_before), moment(facts.not_after)));
    sealed(text, &issued.key);
}

fn sealed(text: &mut String, key: &SealedKey) {
    line(text, "key", &format!("{}, sealed to {}", key.key_type, key.recipients.join(", ")));
}

fn stage(operation: &crate::model::Operation) -> String {
    let stage = serde_json::to_value(operation.stage).unwrap_or_default();
    let held = matches!(operation.key, Some(OperationKey::HeldByTarget));
    format!("{}{}", stage.as_str().unwrap_or("open"), if held { ", key held by the target" } else { "" })
}

fn line(text: &mut String, label: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {label:<15} {value}");
}
