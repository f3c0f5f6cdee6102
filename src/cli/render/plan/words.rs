//! Reasons, causes and their numbers in words.

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::ui::escape_line;
use crate::model::Address;
use crate::model::Fingerprint;
use crate::model::NameSet;
use crate::plan::Cause;
use crate::plan::Changed;
use crate::plan::Details;
use crate::plan::ResourceChange;
use crate::plan::text::moment;
use crate::plan::text::relative;
use crate::plan::text::span;

const CONTACT_CHANGED: &str = "its contacts changed in the configuration";

/// What becomes of an address: `will be renewed`.
pub(super) fn will_be(change: &ResourceChange) -> &'static str {
    let actions: Vec<&str> = change.change.actions.iter().map(String::as_str).collect();
    let reason = change.action_reason.as_str();
    match (&change.address, &actions[..]) {
        _ if reason == "resume_interrupted_operation" && change.details.operation_abandoned => {
            "will be cleaned up"
        }
        _ if reason == "resume_interrupted_operation" => "will be finished",
        (_, ["forget"]) => "will be forgotten",
        (_, ["delete"]) => "will be removed",
        (Address::Deployment(..), _) if reason == "update_because_settings_changed" => "stays as it is",
        (Address::Deployment(..), ["create"]) if reason.starts_with("redeploy") => "will be deployed again",
        (Address::Deployment(..), ["create"]) => "will be deployed",
        (_, ["create"]) => "will be created",
        (Address::Deployment(..), ["create", "delete"]) => {
            "will be deployed anew before the old one is removed"
        }
        (Address::Deployment(..), _) => "will be deployed again",
        (Address::Account(_), _) if reason.starts_with("import") => {
            "will be the account of the configured key"
        }
        _ if reason.starts_with("renew") => "will be renewed",
        _ if reason.starts_with("reissue") => "will be reissued",
        _ if reason.starts_with("move") => "keeps its certificate under the new name",
        _ => "will be changed",
    }
}

/// Why, with the numbers.
pub(super) fn why(change: &ResourceChange, now: Timestamp) -> String {
    let details = &change.details;
    match change.action_reason.as_str() {
        "create_because_new" => match change.address {
            Address::Account(_) => "certificates of this CA need an account".to_owned(),
            _ => "it is new in the configuration".to_owned(),
        },
        "delete_because_no_resource_config" => {
            let archived = details
                .not_after
                .map(|end| format!("; it expires {}, is archived and not revoked", at(end, now)));
            format!("it is no longer in the configuration{}", archived.unwrap_or_default())
        }
        "forget_because_kept" => {
            "it is no longer in the configuration, which said `on_remove: keep`".to_owned()
        }
        "forget_because_target_differs" => {
            let found = details.found.map(|found| format!(", {}", found.short()));
            format!(
                "it is no longer in the configuration, and what its target holds by now stays: another certificate{}",
                found.unwrap_or_default()
            )
        }
        "forget_because_never_issued" => {
            "it is no longer in the configuration, and was never issued".to_owned()
        }
        "import_because_account_key_changed" => "`account_key` was added, or names another place".to_owned(),
        "move_because_renamed" => "`moved:` says so".to_owned(),
        "renew_because_ari" => {
            let opened = match (details.window_start, details.window_end) {
                (Some(start), _) => format!("opened {}", moment(start)),
                _ => "is open".to_owned(),
            };
            let early = if change.cause == Cause::Ca { ", much earlier than usual" } else { "" };
            let see = details
                .explanation_url
                .as_ref()
                .map(|url| format!("; see {}", escape_line(url)))
                .unwrap_or_default();
            format!("the CA's window {opened}{early}; {}{see}", expiry(details, now))
        }
        "renew_because_expired" => {
            let end = details.not_after.map_or_else(|| "before".to_owned(), |end| at(end, now));
            format!("it expired {end}")
        }
        "renew_because_window" => {
            let since =
                details.renew_at.map(|due| format!("due since {}; ", moment(due))).unwrap_or_default();
            format!("{since}{}{}", expiry(details, now), lifetime(details, now))
        }
        "reissue_because_key_sealed" => {
            "a deployment needs the private key, which only the holders of `keys:` can open".to_owned()
        }
        "reissue_by_request" | "redeploy_by_request" => "it was asked for".to_owned(),
        "redeploy_because_reissued" => "the certificate is issued anew".to_owned(),
        "redeploy_because_outdated" => format!(
            "it was last deployed with {}, and {} is current",
            fingerprint(details.found),
            fingerprint(details.fingerprint)
        ),
        "redeploy_because_parameters_changed" => "its parameters changed".to_owned(),
        "redeploy_because_slot_changed" => "it goes to another place".to_owned(),
        "resume_interrupted_operation" => {
            let started =
                details.operation_started.map(|start| format!(" of {}", moment(start))).unwrap_or_default();
            let stage = details.operation_stage.as_deref().map(stage).unwrap_or_default();
            let end = if details.operation_abandoned {
                "; the configuration asks for something else by now"
            } else {
                ""
            };
            format!("an operation{started} was interrupted{stage}{end}")
        }
        "update_because_contact_changed" => CONTACT_CHANGED.to_owned(),
        "update_because_settings_changed" => {
            "what a later removal goes by changed in the configuration, and is remembered".to_owned()
        }
        "reissue_because_order_lost" => {
            "the CA no longer knows the order of an interrupted operation".to_owned()
        }
        reason if reason.starts_with("reissue_because") => {
            let what = match reason {
                "reissue_because_issuer_changed" => "another issuer is configured",
                "reissue_because_key_type_changed" => "another key type is configured",
                "reissue_because_names_changed" => "its names changed",
                "reissue_because_preferred_chain_changed" => "another chain is configured",
                "reissue_because_profile_changed" => "another profile is configured",
                other => return escape_line(other),
            };
            what.to_owned()
        }
        reason => difference(reason, details),
    }
}

/// How reality differs.
pub(super) fn difference(reason: &str, details: &Details) -> String {
    let expected = fingerprint(details.fingerprint);
    match reason {
        "redeploy_because_served_differs" => format!(
            "{} {} {} instead of {expected}",
            escape_line(&details.endpoints.join(", ")),
            if details.endpoints.len() == 1 { "serves" } else { "serve" },
            fingerprint(details.found)
        ),
        "redeploy_because_target_deviates" => {
            let deviations: Vec<String> = details.deviations.iter().map(|text| escape_line(text)).collect();
            deviations.join("; ")
        }
        "redeploy_because_target_differs" => match details.found {
            Some(_) => format!("the target holds {} instead of {expected}", fingerprint(details.found)),
            None => format!("the target holds something else instead of {expected}"),
        },
        "redeploy_because_target_is_empty" => format!("the target holds nothing instead of {expected}"),
        other => escape_line(other),
    }
}

/// Further reasons, apart from those that the main one says already.
pub(super) fn also(change: &ResourceChange) -> Vec<&'static str> {
    change
        .also
        .iter()
        .filter_map(|reason| {
            Some(match reason.as_str() {
                "move_because_renamed" => return None,
                "reissue_because_key_type_changed" => "another key type is configured",
                "reissue_because_names_changed" => "its names changed",
                "reissue_because_preferred_chain_changed" => "another chain is configured",
                "reissue_because_profile_changed" => "another profile is configured",
                "reissue_by_request" => "it was asked for",
                "renew_because_ari" => "the CA's window is open",
                "renew_because_expired" => "it has expired",
                "renew_because_window" => "it is due for renewal",
                "resume_interrupted_operation" => "what an interrupted operation left is cleaned up first",
                "update_because_contact_changed" => CONTACT_CHANGED,
                _ => return None,
            })
        })
        .collect()
}

/// The lines below a change, each with its sign.
pub(super) fn attributes(change: &ResourceChange) -> Vec<(&'static str, String)> {
    let details = &change.details;
    let mut lines = Vec::new();
    let is_new = change.change.before.is_null();
    match &change.address {
        Address::Certificate(_) if is_new => {
            for field in ["names", "issuer", "profile", "key_type", "preferred_chain"] {
                if let Some(text) = after_text(change, field) {
                    lines.push(("+", format!("{field}: {text}")));
                }
            }
        }
        Address::Account(_) if is_new => {
            for field in ["directory", "contact"] {
                if let Some(text) = after_text(change, field) {
                    lines.push(("+", format!("{field}: {text}")));
                }
            }
        }
        Address::Deployment(..) => {
            if !details.changed.contains_key("location") {
                let place = location(change);
                if let Some(place) = place.strip_prefix(": ") {
                    lines.push((" ", format!("location: {place}")));
                }
            }
        }
        Address::Account(_) | Address::Certificate(_) => {}
    }
    let names = |names: &NameSet| {
        let texts: Vec<String> = names.iter().map(|name| dns_name(&name.to_string())).collect();
        texts.join(", ")
    };
    if !details.added_names.is_empty() && !is_new {
        lines.push(("+", format!("names: {}", names(&details.added_names))));
    }
    if !details.removed_names.is_empty() {
        lines.push(("-", format!("names: {}", names(&details.removed_names))));
    }
    for (field, changed) in &details.changed {
        lines.push(("~", format!("{}{}", escape_line(field), changed_text(changed))));
    }
    for (challenge, effective) in &details.challenges {
        lines.push((" ", format!("challenge: {} is at {}", escape_line(challenge), escape_line(effective))));
    }
    lines
}

/// One change in a line among many like it.
pub(super) fn in_short(change: &ResourceChange, now: Timestamp) -> String {
    if change.change.before.is_null() {
        let names = change.change.after.get("names").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let first: Vec<String> = names.iter().filter_map(Value::as_str).take(2).map(dns_name).collect();
        let more = names.len().saturating_sub(2);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let issuer = after_text(change, "issuer").unwrap_or_default();
        return format!("{}{rest}, from {issuer}", first.join(", "));
    }
    match change.action_reason.as_str() {
        "renew_because_window" => expiry(&change.details, now),
        _ => why(change, now),
    }
}

/// `: old -> new`.
pub(super) fn changed_text(changed: &Changed) -> String {
    let text = |value: &Option<String>| value.as_deref().map_or_else(|| "(none)".to_owned(), escape_line);
    format!(": {} -> {}", text(&changed.before), text(&changed.after))
}

/// `: place`, or nothing when it is not known.
pub(super) fn location(change: &ResourceChange) -> String {
    let place = change.change.after.get("location").or_else(|| change.change.before.get("location"));
    place.and_then(Value::as_str).map(|place| format!(": {}", escape_line(place))).unwrap_or_default()
}

/// A field of what will be there, as text; nothing when it is not set.
pub(super) fn after_text(change: &ResourceChange, field: &str) -> Option<String> {
    match change.change.after.get(field)? {
        Value::String(text) => Some(escape_line(text)),
        Value::Array(values) if !values.is_empty() => {
            let texts: Vec<String> = values.iter().filter_map(Value::as_str).map(dns_name).collect();
            Some(texts.join(", "))
        }
        _ => None,
    }
}

/// A name as the CA sees it, with the original beside it when it is internationalised.
fn dns_name(name: &str) -> String {
    let (prefix, host) = name.strip_prefix("*.").map_or(("", name), |host| ("*.", host));
    match idna::domain_to_unicode(host) {
        (original, Ok(())) if original != host => {
            format!("{} ({prefix}{})", escape_line(name), escape_line(&original))
        }
        _ => escape_line(name),
    }
}

fn fingerprint(fingerprint: Option<Fingerprint>) -> String {
    fingerprint.map_or_else(|| "an unknown certificate".to_owned(), |fingerprint| fingerprint.short())
}

fn expiry(details: &Details, now: Timestamp) -> String {
    match details.not_after {
        Some(end) if end <= now => format!("expired {}", at(end, now)),
        Some(end) => format!("expires {}", at(end, now)),
        None => "its expiry is not known".to_owned(),
    }
}

/// What the expiry is measured by.
fn lifetime(details: &Details, now: Timestamp) -> String {
    let (Some(start), Some(end)) = (details.not_before, details.not_after) else { return String::new() };
    if end <= now {
        return String::new();
    }
    format!("; its lifetime is {}", span(end.duration_since(start).as_secs()))
}

fn at(when: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", relative(when, now), moment(when))
}

fn stage(stage: &str) -> &'static str {
    match stage {
        "intent" => " before its order",
        "ordered" => " after its order",
        "validating" => " while its names were validated",
        "finalizing" => " while the CA made the certificate",
        "issued" => " after the certificate came",
        "deploying" => " while the certificate was deployed",
        _ => "",
    }
}
