//! Checks a tree against the schema that editors use, and never stops at the first problem.

mod secret;

use std::collections::HashMap;
use std::collections::HashSet;

use serde_json::Value;

use super::diagnostic::Diagnostic;
use super::diagnostic::Report;
use super::diagnostic::list;
use super::diagnostic::quoted;
use super::grammar::NAME;
use super::init::PLACEHOLDER;
use super::node::Content;
use super::node::Entry;
use super::node::Node;
use super::node::POISONED;
use super::node::Scalar;
use super::node::not_a_text;
use super::node::written;
use super::render::names_a_secret;
use super::rule::Kind;
use super::rule::Rule;
use super::sketch::as_list;
use super::sketch::example;
use super::sketch::sketch;
use super::span::Span;

/// Walks over trees; knows afterwards which nodes are not to be read.
pub(crate) struct Checker<'a> {
    pub(crate) report: &'a mut Report,
    /// Whether the text ended early, so that what is missing may have been in the rest.
    pub(crate) incomplete: bool,
    /// What does not fit as a whole.
    faulty: HashMap<u32, Fit>,
    /// Values of maps which can be read without them.
    surplus: HashSet<u32>,
    /// Values that would do where a map misses one or has a wrong one, by the map.
    stand_ins: HashMap<u32, Vec<(String, Value)>>,
}

/// How well a node fits what is asked of it; the worst of its parts counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Whole,
    /// Without the values that are wrong, and with others for those that have to be there.
    InPart,
    Not,
}

impl Fit {
    fn and(&mut self, other: impl Into<Self>) {
        *self = (*self).max(other.into());
    }
}

impl From<bool> for Fit {
    fn from(fits: bool) -> Self {
        if fits { Self::Whole } else { Self::Not }
    }
}

impl<'a> Checker<'a> {
    pub(crate) fn new(report: &'a mut Report, incomplete: bool) -> Self {
        Self {
            report,
            incomplete,
            faulty: HashMap::new(),
            surplus: HashSet::new(),
            stand_ins: HashMap::new(),
        }
    }

    /// Whether a node that was checked fits, with everything in it.
    pub(crate) fn is_valid(&self, node: &Node) -> bool {
        node.id != POISONED && !self.faulty.contains_key(&node.id)
    }

    /// A node that was checked as JSON, without the keys that `leave_out` names at the top and without wrong values;
    /// others stand in for those that have to be there. `None` where too little would be left.
    pub(crate) fn readable(&self, node: &Node, leave_out: &[&str]) -> Option<Value> {
        if self.faulty.get(&node.id) == Some(&Fit::Not) || node.id == POISONED {
            return None;
        }
        let left_out =
            |entry: &Entry| self.surplus.contains(&entry.value.id) || leave_out.contains(&entry.key.as_str());
        match &node.content {
            _ if self.is_valid(node) => Some(node.to_json(leave_out)),
            Content::List(items) => items.iter().map(|item| self.readable(item, &[])).collect(),
            Content::Map(entries) => entries
                .iter()
                .filter(|entry| !left_out(entry))
                .map(|entry| Some((entry.key.clone(), self.readable(&entry.value, &[])?)))
                .chain(self.stand_ins.get(&node.id).into_iter().flatten().cloned().map(Some))
                .collect(),
            Content::Scalar { .. } => None,
        }
    }

    /// Rejects what [`init`](super::init()) left for the user to replace, and everything that it stands in; returns
    /// whether there is such a thing.
    pub(crate) fn reject_placeholders(&mut self, node: &Node, key: &str) -> bool {
        let mut found = false;
        match &node.content {
            Content::List(items) => {
                for item in items {
                    found |= self.reject_placeholders(item, key);
                }
            }
            Content::Map(entries) => {
                for entry in entries {
                    found |= self.reject_placeholders(&entry.value, &entry.key);
                }
            }
            Content::Scalar { .. } => {
                found = node.text().is_some_and(|text| text.contains(PLACEHOLDER));
                if found {
                    let message = format!("{} is still to be replaced", quoted(PLACEHOLDER));
                    let help = format!("write the value of {} here: only you know it", quoted(key));
                    self.report.push(Diagnostic::error("placeholder", node.span, message).help(help));
                }
            }
        }
        if found {
            self.faulty.insert(node.id, Fit::Not);
        }
        found
    }

    /// Checks a node, which stands at `key` if it is the value of one.
    pub(crate) fn check(&mut self, node: &Node, rule: &Rule, key: &str) {
        self.judge(node, rule, key);
    }

    fn judge(&mut self, node: &Node, rule: &Rule, key: &str) -> Fit {
        if node.id == POISONED {
            return Fit::Not;
        }
        let fit = self.fit(node, rule, key);
        if fit > Fit::Whole {
            self.faulty.entry(node.id).or_insert(fit).and(fit);
        }
        fit
    }

    fn fit(&mut self, node: &Node, rule: &Rule, key: &str) -> Fit {
        if rule.secret {
            return self.secret(node, rule, key);
        }
        let mut fit = Fit::Whole;
        for part in &rule.all {
            fit.and(self.judge(node, part, key));
        }
        if !rule.branches.is_empty() {
            fit.and(self.branches(node, rule, key));
            return fit;
        }
        if !rule.kinds.is_empty() && !rule.kinds.iter().any(|kind| is_kind(node, *kind)) {
            if holds_secrets(rule) {
                self.report.mask(node.span);
            }
            self.wrong_kind(node, &rule.kinds, key, rule);
            return Fit::Not;
        }
        if rule.deferred {
            return fit;
        }
        match &node.content {
            Content::List(items) => fit.and(self.list(node, items, rule, key)),
            Content::Map(entries) => fit.and(self.map(node, entries, rule)),
            Content::Scalar { .. } => fit.and(self.scalar(node, rule, key)),
        }
        fit
    }

    fn list(&mut self, node: &Node, items: &[Node], rule: &Rule, key: &str) -> Fit {
        let mut fit = Fit::Whole;
        if items.len() < rule.min_items {
            let message = match rule.min_items {
                1 => format!("{} is empty", quoted(key)),
                least => format!("{} needs at least {least} items", quoted(key)),
            };
            self.report.push(Diagnostic::error("bad-value", node.span, message));
            fit = Fit::Not;
        }
        if let Some(most) = rule.max_items.filter(|most| items.len() > *most) {
            let message =
                format!("{} has {} items, and at most {most} are allowed", quoted(key), items.len());
            self.report.push(Diagnostic::error("bad-value", node.span, message));
            fit = Fit::Not;
        }
        if let Some(rule) = &rule.items {
            for item in items {
                fit.and(self.judge(item, rule, key));
            }
        }
        fit
    }

    fn map(&mut self, node: &Node, entries: &[Entry], rule: &Rule) -> Fit {
        let mut fit = Fit::Whole;
        let mut unused = None;
        for entry in entries {
            if let Some(property) = rule.properties.get(&entry.key) {
                match self.judge(&entry.value, property, &entry.key) {
                    Fit::Not if !rule.one_of_keys.contains(&entry.key) => {
                        self.surplus.insert(entry.value.id);
                        if rule.required.contains(&entry.key) {
                            self.stand_in(node, &entry.key, property);
                        }
                        fit.and(Fit::InPart);
                    }
                    value => fit.and(value),
                }
                continue;
            }
            if let Some(pattern) = rule.key_pattern.as_ref().filter(|pattern| !pattern.is_match(&entry.key)) {
                self.bad_name(entry, pattern.as_str());
                fit = Fit::Not;
            }
            match &rule.others {
                Some(rule) => fit.and(self.judge(&entry.value, rule, &entry.key)),
                None => {
                    let unused = unused.get_or_insert_with(|| Unused::new(entries, rule));
                    self.unknown_key(entry, rule, unused);
                    self.surplus.insert(entry.value.id);
                    fit.and(Fit::InPart);
                }
            }
        }
        if self.incomplete {
            return fit;
        }
        for key in rule.required.iter().filter(|key| !entries.iter().any(|entry| entry.key == **key)) {
            fit.and(match rule.properties.get(key) {
                Some(property) => {
                    self.stand_in(node, key, property);
                    Fit::InPart
                }
                None => Fit::Not,
            });
            if self.is_misspelt(key, entries, rule) {
                continue;
            }
            let mut missing = Diagnostic::error(
                "missing-key",
                opening(node),
                format!("the key {} is missing", quoted(key)),
            );
            if let Some(rule) = rule.properties.get(key) {
                missing = missing.help(format!("add {}", quoted(&sketch(key, rule))));
            }
            self.report.push(missing);
        }
        if !rule.one_of_keys.is_empty() {
            fit.and(self.one_of_keys(node, entries, rule));
        }
        fit
    }

    fn stand_in(&mut self, map: &Node, key: &str, rule: &Rule) {
        self.stand_ins.entry(map.id).or_default().push((key.to_owned(), example(rule)));
    }

    fn one_of_keys(&mut self, node: &Node, entries: &[Entry], rule: &Rule) -> bool {
        let options = list(rule.one_of_keys.iter().map(String::as_str));
        let is_option = |entry: &&Entry| rule.one_of_keys.contains(&entry.key);
        let mut present = entries.iter().filter(is_option);
        match (present.next(), present.next()) {
            (Some(_), None) => true,
            (Some(first), Some(second)) => {
                let message =
                    format!("{} and {} exclude each other", quoted(&first.key), quoted(&second.key));
                self.report.push(
                    Diagnostic::error("bad-value", second.span, message)
                        .related(first.span, "the other one")
                        .help(format!("exactly one of {options} is to be there")),
                );
                false
            }
            (None, _) => {
                // A misspelt kind has been reported already.
                let misspelt = entries
                    .iter()
                    .any(|entry| !rule.properties.contains_key(&entry.key) && rule.others.is_none());
                if !misspelt {
                    let message = format!("one of the keys {options} is missing");
                    self.report.push(Diagnostic::error("missing-key", opening(node), message));
                }
                false
            }
        }
    }

    /// Whether an unknown key has been taken for this one already.
    fn is_misspelt(&mut self, key: &str, entries: &[Entry], rule: &Rule) -> bool {
        rule.others.is_none()
            && entries
                .iter()
                .filter(|entry| !rule.properties.contains_key(&entry.key))
                .any(|entry| self.report.closest(&entry.key, [key]).is_some())
    }

    fn unknown_key(&mut self, entry: &Entry, rule: &Rule, unused: &Unused<'_>) {
        // Under whatever name it was written: a secret that is missing may be this.
        if unused.secret || names_a_secret(&entry.key) {
            self.report.mask(entry.value.span);
        }
        let mut unknown =
            Diagnostic::error("unknown-key", entry.span, format!("unknown key {}", quoted(&entry.key)));
        if self.report.suggests() {
            let suggestion = self.report.closest(&entry.key, unused.keys.iter().copied());
            unknown = match suggestion {
                Some(suggestion) => unknown.help(format!("did you mean {}?", quoted(suggestion))),
                None if rule.properties.is_empty() => unknown.help("no keys are allowed here"),
                None if unused.keys.is_empty() => unknown.help("all allowed keys are there already"),
                None => unknown.help(format!("allowed here: {}", list(unused.keys.iter().copied()))),
            };
        }
        self.report.push(unknown);
    }

    fn bad_name(&mut self, entry: &Entry, pattern: &str) {
        let message = format!("{} is not a valid name", quoted(&entry.key));
        let mut bad = Diagnostic::error("bad-name", entry.span, message);
        if pattern == NAME {
            bad = bad.help("names have 1 to 63 of `a-z`, `0-9` and `-`, and start with a letter or digit");
            let better: String = entry
                .key
                .to_lowercase()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            let better = better.trim_matches('-');
            if !better.is_empty() && better.len() <= 63 && better != entry.key {
                bad = bad.help(format!("for example {}", quoted(better)));
            }
        } else {
            bad = bad.help(format!("it has to match {pattern}"));
        }
        self.report.push(bad);
    }

    fn scalar(&mut self, node: &Node, rule: &Rule, key: &str) -> bool {
        let Some(scalar) = node.scalar() else { return true };
        let wants_text = rule.kinds.contains(&Kind::Text);
        if let (true, Content::Scalar { text, plain: true }) = (wants_text, &node.content)
            && let Some(taken_for) = not_a_text(text)
            && !rule.kinds.iter().any(|kind| *kind != Kind::Text && is_kind(node, *kind))
        {
            self.trap(node, text, taken_for, key, rule);
            return false;
        }
        let mut valid = true;
        if !rule.allows(&scalar) {
            self.not_an_option(node, rule);
            return false;
        }
        match scalar {
            Scalar::Text(text) => {
                if let Some(pattern) = rule.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
                    self.no_match(node, text, pattern.as_str(), rule);
                    valid = false;
                }
                let length = text.chars().count();
                if length < rule.min_length || rule.max_length.is_some_and(|most| length > most) {
                    let message = format!("{} has {length} characters", quoted(key));
                    let help = match rule.max_length {
                        Some(most) => format!("it has {} to {most} characters", rule.min_length),
                        None => format!("it has at least {} characters", rule.min_length),
                    };
                    self.report.push(Diagnostic::error("bad-value", node.span, message).help(help));
                    valid = false;
                }
            }
            Scalar::Number(number) => {
                let value = number.as_f64().unwrap_or_default();
                if rule.minimum.is_some_and(|least| value < least)
                    || rule.maximum.is_some_and(|most| value > most)
                {
                    let range = match (rule.minimum, rule.maximum) {
                        (Some(least), Some(most)) => format!("from {least} to {most}"),
                        (Some(least), None) => format!("at least {least}"),
                        (None, most) => format!("at most {}", most.unwrap_or_default()),
                    };
                    let message = format!("{number} is out of range");
                    self.report.push(
                        Diagnostic::error("bad-value", node.span, message)
                            .help(format!("{range} is allowed")),
                    );
                    valid = false;
                }
            }
            Scalar::Bool(_) | Scalar::Null => {}
        }
        valid
    }

    /// A text is due, and what stands there is one to a reader but not to every YAML parser.
    fn trap(&mut self, node: &Node, text: &str, taken_for: &str, key: &str, rule: &Rule) {
        if text.is_empty() {
            self.report.push(
                Diagnostic::error("wrong-type", node.span, format!("{} has no value", quoted(key)))
                    .help("write a text after it, or leave the key out"),
            );
            return;
        }
        // Quotes alone would only lead to the next problem.
        if !rule.allows(&Scalar::Text(text)) {
            self.not_an_option(node, rule);
        } else if let Some(pattern) = rule.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.no_match(node, text, pattern.as_str(), rule);
        } else {
            let message = format!("{} is {taken_for} in YAML, and a text is expected", quoted(text));
            self.report.push(
                Diagnostic::error("wrong-type", node.span, message)
                    .help(format!("write it in quotes: {}", quoted(&format!("\"{text}\"")))),
            );
        }
    }

    fn not_an_option(&mut self, node: &Node, rule: &Rule) {
        let options: Vec<String> = rule
            .values
            .iter()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
            .collect();
        let found = match &node.content {
            Content::Scalar { text, .. } => text.as_str(),
            Content::List(_) | Content::Map(_) => "",
        };
        let bad = Diagnostic::error("bad-value", node.span, format!("{} is not allowed here", quoted(found)));
        let all = format!("allowed: {}", list(options.iter().map(String::as_str)));
        let suggestion = self.report.closest(found, options.iter().map(String::as_str));
        self.report.push(match suggestion {
            Some(option) if options.len() > 1 => {
                bad.help(format!("did you mean {}?", quoted(option))).help(all)
            }
            _ => bad.help(all),
        });
    }

    fn no_match(&mut self, node: &Node, text: &str, pattern: &str, rule: &Rule) {
        let message = format!("{} does not have the expected form", quoted(text));
        let mut bad = Diagnostic::error("bad-value", node.span, message);
        bad = match &rule.example {
            Some(example) => bad.help(format!("for example {}", quoted(&written(example)))),
            None if pattern == NAME => {
                bad.help("names have 1 to 63 of `a-z`, `0-9` and `-`, and start with a letter or digit")
            }
            None => bad.help(format!("it has to match {pattern}")),
        };
        self.report.push(bad);
    }

    /// `rule` is what is asked of a text or a list there, if it may be one.
    fn wrong_kind(&mut self, node: &Node, kinds: &[Kind], key: &str, rule: &Rule) {
        let expected: Vec<&str> = kinds.iter().map(|kind| kind.describe()).collect();
        let expected = expected.join(" or ");
        if let Content::Scalar { text, plain: true } = &node.content
            && text.is_empty()
        {
            let message = format!("{} has no value, and {expected} is expected", quoted(key));
            let help = "write a value after it, or leave the key out";
            self.report.push(Diagnostic::error("wrong-type", node.span, message).help(help));
            return;
        }
        if let (Content::Scalar { text, plain: true }, true) = (&node.content, kinds.contains(&Kind::Text))
            && let Some(taken_for) = not_a_text(text)
        {
            self.trap(node, text, taken_for, key, rule);
            return;
        }
        let message = format!("{} is {}, and {expected} is expected", quoted(key), node.describe());
        let mut wrong = Diagnostic::error("wrong-type", opening(node), message);
        if let Content::Scalar { text, plain } = &node.content {
            if kinds == [Kind::List] {
                wrong = wrong.help(match as_list(text, *plain, rule) {
                    Some(items) => format!("write it as a list: {}", quoted(&format!("{key}: [{items}]"))),
                    None => format!("write a list: {}", quoted(&sketch(key, rule))),
                });
            } else if !plain
                && kinds.iter().any(|kind| matches!(kind, Kind::Integer | Kind::Number | Kind::Boolean))
            {
                wrong = wrong.help("write it without quotes");
            } else if kinds == [Kind::Boolean] && not_a_text(text) == Some("a boolean") {
                wrong = wrong.help("YAML 1.2 knows only `true` and `false`");
            }
        }
        self.report.push(wrong);
    }

    /// Reports for the alternative that was most likely meant.
    fn branches(&mut self, node: &Node, rule: &Rule, key: &str) -> Fit {
        let candidates: Vec<&Rule> = rule
            .branches
            .iter()
            .map(AsRef::as_ref)
            .filter(|branch| {
                branch.secret
                    || branch.kinds.is_empty()
                    || branch.kinds.iter().any(|kind| is_kind(node, *kind))
            })
            .collect();
        let matching =
            |branch: &Rule| node.entries().iter().filter(|e| branch.properties.contains_key(&e.key)).count();
        match candidates.as_slice() {
            [] => {
                let mut kinds: Vec<Kind> = Vec::new();
                for kind in rule.branches.iter().flat_map(|branch| &branch.kinds) {
                    if !kinds.contains(kind) {
                        kinds.push(*kind);
                    }
                }
                let texts = rule.branches.iter().find(|branch| branch.kinds.contains(&Kind::Text));
                self.wrong_kind(node, &kinds, key, texts.map_or(rule, AsRef::as_ref));
                Fit::Not
            }
            [only] => self.judge(node, only, key),
            several if several.iter().all(|branch| matching(branch) == 0) && !node.entries().is_empty() => {
                // A map of one key of several: all those keys are what could have been meant.
                let mut union = Rule { kinds: vec![Kind::Map], ..Rule::default() };
                for branch in several {
                    union.properties.extend(branch.properties.clone());
                    union.one_of_keys.extend(branch.required.clone());
                }
                self.judge(node, &union, key)
            }
            several => {
                let best = several
                    .iter()
                    .copied()
                    .reduce(|best, branch| if matching(branch) > matching(best) { branch } else { best });
                best.map_or(Fit::Whole, |best| self.judge(node, best, key))
            }
        }
    }
}

/// What a map may have and has not.
struct Unused<'a> {
    keys: Vec<&'a str>,
    /// Whether there is a secret among it.
    secret: bool,
}

impl<'a> Unused<'a> {
    fn new(entries: &[Entry], rule: &'a Rule) -> Self {
        let used: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let decided = rule.one_of_keys.iter().any(|key| used.contains(key.as_str()));
        let unused = || rule.properties.iter().filter(|(key, _)| !used.contains(key.as_str()));
        Self {
            keys: unused()
                .map(|(key, _)| key.as_str())
                .filter(|key| !decided || !rule.one_of_keys.iter().any(|option| option == key))
                .collect(),
            secret: unused().any(|(_, rule)| rule.secret),
        }
    }
}

/// Whether a secret is expected somewhere in a map.
fn holds_secrets(rule: &Rule) -> bool {
    rule.properties.values().any(|rule| rule.secret || holds_secrets(rule))
}

/// Where a collection begins, rather than all of it.
fn opening(node: &Node) -> Span {
    match &node.content {
        Content::Map(entries) => entries.first().map_or(node.span, |entry| entry.span),
        Content::List(_) | Content::Scalar { .. } => node.span,
    }
}

fn is_kind(node: &Node, kind: Kind) -> bool {
    match (&node.content, kind) {
        (Content::Map(_), Kind::Map) | (Content::List(_), Kind::List) => true,
        (Content::Scalar { plain, text }, Kind::Text) => {
            // Traps are reported by `scalar`, with a hint.
            !(*plain && text.is_empty()) && matches!(node.scalar(), Some(Scalar::Text(_)))
        }
        (Content::Scalar { .. }, Kind::Boolean) => matches!(node.scalar(), Some(Scalar::Bool(_))),
        (Content::Scalar { .. }, Kind::Number) => matches!(node.scalar(), Some(Scalar::Number(_))),
        (Content::Scalar { .. }, Kind::Integer) => {
            matches!(node.scalar(), Some(Scalar::Number(number)) if !number.is_f64())
        }
        _ => false,
    }
}
