//! Several files as one tree: what is named in two of them is an error that shows both places.

use std::collections::HashMap;

use super::diagnostic::Diagnostic;
use super::diagnostic::Report;
use super::diagnostic::quoted;
use super::node::Content;
use super::node::Entry;
use super::node::Node;
use super::span::Span;

/// Blocks whose entries are collected from all files.
const NAMED: [&str; 4] = ["certificates", "dns", "issuers", "targets"];

/// Merges the root maps of all files; roots that are no maps are reported.
pub(crate) fn merge(roots: Vec<Node>, report: &mut Report) -> Node {
    let mut all = Node::empty_map(roots.first().map_or_else(Span::default, |root| root.span));
    if let Some(first) = roots.first() {
        all.id = first.id;
    }
    let single = roots.len() == 1;
    let mut merged: Vec<Entry> = Vec::new();
    let mut places = HashMap::new();
    for root in roots {
        let is_nothing = root.is_nothing();
        match root.content {
            Content::Map(entries) if single => merged = entries,
            Content::Map(entries) => {
                entries.into_iter().for_each(|entry| add(&mut merged, &mut places, entry, report));
            }
            // What is empty is reported as that.
            _ if is_nothing => {}
            Content::List(_) | Content::Scalar { .. } => {
                let message = "a configuration is a map, with `version: 1` as its first key";
                report.push(Diagnostic::error("wrong-type", root.span, message));
            }
        }
    }
    if !single {
        for entry in merged.iter_mut().filter(|entry| NAMED.contains(&entry.key.as_str())) {
            refuse_duplicates(entry, report);
        }
    }
    all.content = Content::Map(merged);
    all
}

/// Adds an entry to those of other files; `places` says where the entry of a key is among them.
fn add(merged: &mut Vec<Entry>, places: &mut HashMap<String, usize>, entry: Entry, report: &mut Report) {
    let place = places.get(&entry.key).copied();
    let Some(existing) = place.and_then(|place| merged.get_mut(place)) else {
        places.insert(entry.key.clone(), merged.len());
        merged.push(entry);
        return;
    };
    match (&mut existing.value.content, entry.value.content) {
        (Content::Map(known), Content::Map(more)) if NAMED.contains(&entry.key.as_str()) => {
            known.extend(more);
        }
        (Content::List(known), Content::List(more)) if entry.key == "moved" => known.extend(more),
        (Content::Scalar { text: known, .. }, Content::Scalar { text, .. })
            if entry.key == "version" && *known == text => {}
        _ => report.push(
            Diagnostic::error(
                "duplicate-key",
                entry.span,
                format!("{} is there in two files", quoted(&entry.key)),
            )
            .label("again here")
            .related(existing.span, "first here"),
        ),
    }
}

fn refuse_duplicates(block: &mut Entry, report: &mut Report) {
    let Content::Map(entries) = &mut block.value.content else { return };
    let mut seen: HashMap<String, Span> = HashMap::with_capacity(entries.len());
    entries.retain(|entry| {
        let Some(first) = seen.get(&entry.key) else {
            seen.insert(entry.key.clone(), entry.span);
            return true;
        };
        let message = format!("{} is defined twice in {}", quoted(&entry.key), quoted(&block.key));
        report.push(
            Diagnostic::error("duplicate-key", entry.span, message)
                .label("again here")
                .related(*first, "first here"),
        );
        false
    });
}
