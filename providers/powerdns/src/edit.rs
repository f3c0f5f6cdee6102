use std::collections::BTreeMap;
use std::collections::BTreeSet;

use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::content;

/// An RRset as the API gives it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct RrSet {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) ttl: u32,
    #[serde(default)]
    pub(crate) records: Vec<ApiRecord>,
    /// Whose form is the server's business.
    #[serde(default)]
    pub(crate) comments: Vec<Value>,
}

/// A record of an RRset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiRecord {
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) disabled: bool,
}

/// One RRset in a `PATCH`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Edit {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    ttl: u32,
    changetype: ChangeType,
    records: Vec<ApiRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comments: Option<Vec<Value>>,
}

/// What a `PATCH` does with an RRset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ChangeType {
    /// Adds one record, which the server does from 4.9.12 and 5.0.2 on.
    Extend,
    /// Removes one record, likewise.
    Prune,
    /// Writes the RRset whole.
    Replace,
}

/// The values that a change wants at one name.
#[derive(Default)]
struct Wish<'a> {
    additions: BTreeSet<&'a str>,
    removals: BTreeSet<&'a str>,
}

/// Computes what is left to do for a change. Nothing is left when everything is as it should be.
///
/// `granular` says whether the server can add and remove single records. It compares contents as text and insists on one
/// time to live, so that what is there is named in its own words.
///
/// # Errors
/// `Invalid` for a name outside the zone or one that is an alias, and for a value that is no character string.
pub(crate) fn edits(
    zone: &Fqdn,
    existing: &[RrSet],
    change: &TxtChange,
    ttl: u32,
    granular: bool,
) -> Result<Vec<Edit>, ProviderError> {
    let mut wishes = BTreeMap::<&Fqdn, Wish<'_>>::new();
    for TxtRecord { name, value } in &change.additions {
        check(zone, name, value)?;
        wishes.entry(name).or_default().additions.insert(value);
    }
    for TxtRecord { name, value } in &change.removals {
        check(zone, name, value)?;
        wishes.entry(name).or_default().removals.insert(value);
    }
    let mut found = BTreeMap::new();
    for set in existing.iter().filter(|set| matches!(set.kind.as_str(), "TXT" | "CNAME")) {
        let Ok(name) = Fqdn::new(&set.name) else { continue };
        let Some((name, wish)) = wishes.get_key_value(&name) else { continue };
        if set.kind == "TXT" {
            found.insert(*name, set);
        } else if !wish.additions.is_empty() && set.records.iter().any(|record| !record.disabled) {
            return Err(ProviderError::invalid(format!(
                "`{name}` is an alias (CNAME) in the zone `{zone}`, so that no TXT record can be there: remove it, or add the \
                 value where it leads to"
            )));
        }
    }
    let mut edits = Vec::new();
    for (name, wish) in wishes {
        wish.edits(name, found.get(name).copied(), ttl, granular, &mut edits);
    }
    Ok(edits)
}

fn check(zone: &Fqdn, name: &Fqdn, value: &str) -> Result<(), ProviderError> {
    if !name.is_within(zone) {
        return Err(ProviderError::invalid(format!("`{name}` is outside the zone `{zone}`")));
    }
    if value.is_empty() || value.len() > 255 {
        return Err(ProviderError::invalid(format!(
            "a TXT value has 1 to 255 octets, and the one at `{name}` has {}",
            value.len()
        )));
    }
    Ok(())
}

impl Wish<'_> {
    fn edits(&self, name: &Fqdn, existing: Option<&RrSet>, ttl: u32, granular: bool, edits: &mut Vec<Edit>) {
        let records = existing.map(|set| set.records.as_slice()).unwrap_or_default();
        let comments = existing.map(|set| set.comments.as_slice()).unwrap_or_default();
        let ttl = existing.map_or(ttl, |set| set.ttl);
        let edit = |changetype, records, comments| Edit {
            name: format!("{name}."),
            kind: "TXT",
            ttl,
            changetype,
            records,
            comments,
        };
        // A disabled record is not served: somebody keeps it for later, and it is not the value that a change means.
        let removed = |record: &ApiRecord| {
            let value = content::decode(&record.content);
            !record.disabled && self.removals.iter().any(|removal| removal.as_bytes() == value)
        };
        let served: BTreeSet<Vec<u8>> = records
            .iter()
            .filter(|record| !record.disabled)
            .map(|record| content::decode(&record.content))
            .collect();
        let added: Vec<ApiRecord> = self
            .additions
            .iter()
            .filter(|value| !served.contains(value.as_bytes()))
            .map(|value| ApiRecord { content: content::encode(value), disabled: false })
            .collect();
        let (gone, kept): (Vec<_>, Vec<_>) = records.iter().cloned().partition(removed);
        if added.is_empty() && gone.is_empty() {
            return;
        }
        let empties = kept.is_empty() && added.is_empty();
        let disabled = records.iter().any(|record| record.disabled);
        let orphans_comments = empties && !comments.is_empty();
        if granular && !disabled && !orphans_comments {
            let single = |changetype| move |record| edit(changetype, vec![record], None);
            edits.extend(added.into_iter().map(single(ChangeType::Extend)));
            edits.extend(gone.into_iter().map(single(ChangeType::Prune)));
            return;
        }
        // A value that somebody keeps disabled becomes enabled: the server refuses the same content twice.
        let kept = kept.into_iter().filter(|record| {
            !(record.disabled && added.iter().any(|addition| addition.content == record.content))
        });
        let records = kept.chain(added.iter().cloned()).collect();
        // Comments stay where the records do; of an RRset that becomes empty they would go.
        let comments = orphans_comments.then(|| comments.to_vec());
        edits.push(edit(ChangeType::Replace, records, comments));
    }
}

/// The TXT values at a name that are served, sorted. Octets that are not UTF-8 are replaced.
pub(crate) fn values(existing: &[RrSet], name: &Fqdn) -> Vec<String> {
    let mut values: Vec<String> = existing
        .iter()
        .filter(|set| set.kind == "TXT" && Fqdn::new(&set.name).is_ok_and(|found| found == *name))
        .flat_map(|set| &set.records)
        .filter(|record| !record.disabled)
        .map(|record| String::from_utf8_lossy(&content::decode(&record.content)).into_owned())
        .collect();
    values.sort();
    values
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fqdn(name: &str) -> Fqdn {
        Fqdn::new(name).unwrap()
    }

    fn change(additions: &[(&str, &str)], removals: &[(&str, &str)]) -> TxtChange {
        let records = |list: &[(&str, &str)]| {
            let record =
                |(name, value): &(&str, &str)| TxtRecord { name: fqdn(name), value: (*value).to_owned() };
            list.iter().map(record).collect()
        };
        TxtChange { additions: records(additions), removals: records(removals), ..TxtChange::default() }
    }

    fn existing() -> Vec<RrSet> {
        serde_json::from_value(json!([
            { "name": "A.example.test.", "type": "TXT", "ttl": 3600, "comments": [{ "content": "why", "account": "me" }],
              "records": [
                { "content": "\"foreign \" \"value\"", "disabled": false },
                { "content": "\"ours\"", "disabled": false },
                { "content": "\"later\"", "disabled": true } ] },
            { "name": "b.example.test.", "type": "TXT", "ttl": 30, "comments": [],
              "records": [{ "content": "bare", "disabled": false }] },
            { "name": "alias.example.test.", "type": "CNAME", "ttl": 30, "comments": [],
              "records": [{ "content": "b.example.test.", "disabled": false }] },
            { "name": "commented.example.test.", "type": "TXT", "ttl": 30, "comments": [{ "content": "why" }],
              "records": [{ "content": "\"ours\"", "disabled": false }] },
        ]))
        .unwrap()
    }

    fn edited(change: &TxtChange, granular: bool) -> Value {
        json!(edits(&fqdn("example.test"), &existing(), change, 60, granular).unwrap())
    }

    #[test]
    fn what_others_have_is_written_back_as_it_was() {
        for granular in [false, true] {
            let change = change(&[("a.example.test", "new")], &[("a.example.test", "ours")]);
            let expected = json!([{
                "name": "a.example.test.", "type": "TXT", "ttl": 3600, "changetype": "REPLACE",
                "records": [
                    { "content": "\"foreign \" \"value\"", "disabled": false },
                    { "content": "\"later\"", "disabled": true },
                    { "content": "\"new\"", "disabled": false } ],
            }]);
            assert_eq!(edited(&change, granular), expected, "disabled records rule the single ways out");
        }
    }

    #[test]
    fn single_records_are_added_and_removed_where_the_server_can() {
        let change =
            change(&[("b.example.test", "new"), ("c.example.test", "new")], &[("b.example.test", "bare")]);
        let record = |content: &str| json!([{ "content": content, "disabled": false }]);
        let expected = json!([
            { "name": "b.example.test.", "type": "TXT", "ttl": 30, "changetype": "EXTEND", "records": record("\"new\"") },
            { "name": "b.example.test.", "type": "TXT", "ttl": 30, "changetype": "PRUNE", "records": record("bare") },
            { "name": "c.example.test.", "type": "TXT", "ttl": 60, "changetype": "EXTEND", "records": record("\"new\"") },
        ]);
        assert_eq!(edited(&change, true), expected);
    }

    #[test]
    fn comments_outlive_the_last_record() {
        for granular in [false, true] {
            let change = change(&[], &[("commented.example.test", "ours")]);
            let expected = json!([{
                "name": "commented.example.test.", "type": "TXT", "ttl": 30, "changetype": "REPLACE", "records": [],
                "comments": [{ "content": "why" }],
            }]);
            assert_eq!(edited(&change, granular), expected);
        }
    }

    #[test]
    fn nothing_is_left_to_do_when_everything_is_as_it_should_be() {
        let done = change(
            &[("a.example.test", "foreign value"), ("b.example.test", "bare")],
            &[("a.example.test", "later"), ("none.example.test", "x"), ("alias.example.test", "x")],
        );
        assert_eq!(edited(&done, false), json!([]));
    }

    #[test]
    fn a_disabled_value_that_is_wanted_becomes_enabled() {
        let edits = edited(&change(&[("a.example.test", "later")], &[]), false);
        let records = edits.pointer("/0/records").unwrap();
        assert_eq!(records.pointer("/2"), Some(&json!({ "content": "\"later\"", "disabled": false })));
        assert_eq!(records.as_array().unwrap().len(), 3);
    }

    #[test]
    fn names_outside_the_zone_and_aliases_and_long_values_are_refused() {
        let long = "x".repeat(256);
        for bad in [
            change(&[("a.example.com", "x")], &[]),
            change(&[], &[("a.notexample.test", "x")]),
            change(&[("alias.example.test", "x")], &[]),
            change(&[("a.example.test", "")], &[]),
            change(&[("a.example.test", &long)], &[]),
        ] {
            assert!(edits(&fqdn("example.test"), &existing(), &bad, 60, true).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disabled_values_are_not_there() {
        assert_eq!(values(&existing(), &fqdn("a.example.test")), ["foreign value", "ours"]);
        assert!(values(&existing(), &fqdn("none.example.test")).is_empty());
    }
}
