//! From the checked tree to [`Desired`]: the rules that no schema can say, all of them in one run.
//!
//! Each value is read for itself: what the walker has found invalid is left out here and costs no second message.

mod blocks;
pub(crate) mod ca;
mod certificate;
mod deploy;
mod endpoint;
mod issuer;
mod names;
mod renew;

pub(crate) use blocks::seconds;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use certplan_provider::Complaint;
use serde_json::Value;

use super::Names;
use super::check::Checker;
use super::diagnostic::Diagnostic;
use super::diagnostic::Report;
use super::diagnostic::list;
use super::diagnostic::quoted;
use super::node::Entry;
use super::node::Node;
use super::path::bad_path;
use super::rule::Compiler;
use super::rule::Rule;
use super::schema::deploy as deploy_schema;
use super::schema::schema;
use super::span::Span;
use crate::model::Address;
use crate::model::Desired;
use crate::model::Name;
use crate::registry::Registry;

/// Where things stand, for messages of later stages. What is wrong has no place: nothing more is to be said of it.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Issuers, certificates and the entries of `deploy`.
    pub(crate) addresses: BTreeMap<Address, Place>,
    pub(crate) dns: Names<Place>,
    pub(crate) targets: Names<Place>,
}

/// Where a thing stands, and which node of the tree a provider reads of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) span: Span,
    pub(crate) node: u32,
}

impl Place {
    const fn new(span: Span, node: &Node) -> Self {
        Self { span, node: node.id }
    }
}

/// Converts a tree. What is wrong goes to the report; a result that comes with errors is of no use.
pub(crate) fn convert(
    root: &Node,
    base: PathBuf,
    registry: &Registry,
    incomplete: bool,
    report: &mut Report,
) -> Option<(Desired, Places)> {
    if root.entries().is_empty() {
        if !incomplete && report.errors() == 0 {
            report.push(
                Diagnostic::error("empty", root.span, "the configuration is empty")
                    .help("an empty configuration never plans anything, least of all removals")
                    .help("`certplan init NAME --dns KIND` writes one to begin with, where no file is yet"),
            );
        }
        return None;
    }
    let schema = schema(registry);
    let nothing = serde_json::Map::new();
    let definitions = schema.get("definitions").and_then(Value::as_object).unwrap_or(&nothing);
    let mut compiler = Compiler::new(definitions, "deploy");
    let rule = compiler.compile(&schema);
    let deploy_rules = registry
        .targets
        .iter()
        .map(|factory| (factory.kind, compiler.compile(&deploy_schema(registry, Some(factory.kind)))))
        .collect();
    let any_deploy = compiler.compile(&deploy_schema(registry, None));
    let mut converter = Converter {
        checker: Checker::new(report, incomplete),
        registry,
        root,
        blocks: ["certificates", "issuers", "targets"].map(|block| (block, Block::new(root, block))).into(),
        deploy_rules,
        any_deploy,
        places: Places::default(),
    };
    converter.checker.check(root, &rule, "the configuration");
    converter.checker.reject_placeholders(root, "the configuration");
    let desired = converter.desired(base)?;
    Some((desired, converter.places))
}

struct Converter<'a> {
    checker: Checker<'a>,
    registry: &'a Registry,
    root: &'a Node,
    /// The blocks whose entries others name.
    blocks: HashMap<&'static str, Block<'a>>,
    /// What an entry of `deploy` may say, by the kind of its target.
    deploy_rules: HashMap<&'static str, Arc<Rule>>,
    any_deploy: Arc<Rule>,
    places: Places,
}

/// A block of named things. A walk through it for each reference would take hours where there are thousands of both.
#[derive(Default)]
struct Block<'a> {
    entries: &'a [Entry],
    names: HashSet<&'a str>,
}

impl<'a> Block<'a> {
    fn new(root: &'a Node, block: &str) -> Self {
        let entries = root.get(block).map_or(&[][..], Node::entries);
        Self { entries, names: entries.iter().map(|entry| entry.key.as_str()).collect() }
    }
}

impl<'a> Converter<'a> {
    fn desired(&mut self, base: PathBuf) -> Option<Desired> {
        let project = self.root.text_of("project").map_or("default", |(project, _)| project);
        let state = self.state();
        let encryption = self.encryption();
        let issuers = self.issuers();
        let dns = self.dns();
        let mut targets = self.targets();
        let certificates = self.certificates(&issuers, &mut targets);
        let moved = self.moved();
        Some(Desired {
            project: Name::new(project).ok()?,
            base,
            state,
            encryption,
            issuers: issuers.into_iter().filter_map(|(name, issuer)| Some((name, issuer.issuer?))).collect(),
            dns,
            targets: targets.into_iter().map(|(name, target)| (name, target.desired)).collect(),
            certificates,
            moved,
        })
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        self.checker.report.push(diagnostic);
    }

    /// The entries of a block of named things whose names are names.
    fn named(&self, block: &str) -> Vec<(Name, &'a Entry)> {
        let entries = self.root.get(block).map_or(&[][..], Node::entries);
        entries.iter().filter_map(|entry| Some((Name::new(&entry.key).ok()?, entry))).collect()
    }

    fn is_defined(&self, block: &str, name: &str) -> bool {
        self.blocks.get(block).is_some_and(|block| block.names.contains(name))
    }

    /// Reports a reference to something that is not there, with what is.
    fn unknown(&mut self, code: &'static str, what: &str, block: &str, name: &str, span: Span) {
        if self.checker.incomplete {
            return;
        }
        let mut unknown = Diagnostic::error(code, span, format!("there is no {what} {}", quoted(name)));
        if self.checker.report.suggests() {
            let entries = self.blocks.get(block).map_or(&[][..], |block| block.entries);
            let known = || entries.iter().map(|entry| entry.key.as_str());
            if let Some(suggestion) = self.checker.report.closest(name, known()) {
                unknown = unknown.help(format!("did you mean {}?", quoted(suggestion)));
            }
            unknown = match entries.is_empty() {
                true => unknown.help(format!("define it under `{block}:`")),
                false => unknown.help(format!("defined under `{block}:` are {}", list(known()))),
            };
        }
        self.push(unknown);
    }

    /// A relative path that stays in the configuration's folder, or an absolute one.
    fn path(&mut self, text: &str, span: Span) -> Option<PathBuf> {
        if let Some((message, help)) = bad_path(text) {
            self.push(Diagnostic::error("path", span, message).help(help));
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// Asks a provider what else is wrong with its block, and returns whether all is well. Of a block with wrong parts
    /// it sees the rest, and is heard about values that are there and fit: only those are what was written.
    fn ask(
        &mut self,
        check: fn(&Value) -> Result<(), Vec<Complaint>>,
        block: &Node,
        leave_out: &[&str],
    ) -> bool {
        let whole = self.checker.is_valid(block);
        let Some(readable) = self.checker.readable(block, leave_out) else { return false };
        let Err(complaints) = check(&readable) else { return whole };
        for complaint in complaints {
            let written = block.at(&complaint.pointer).is_some_and(|value| self.checker.is_valid(value));
            if whole || written {
                self.push(complained(&complaint, block));
            }
        }
        false
    }
}

/// A provider's complaint as a diagnostic at the place that it points at.
pub(crate) fn complained(complaint: &Complaint, block: &Node) -> Diagnostic {
    let message: String = complaint
        .message
        .chars()
        .flat_map(|c| if super::diagnostic::is_hidden(c) { c.escape_default().collect() } else { vec![c] })
        .collect();
    let diagnostic = Diagnostic::error("provider", block.pointer(&complaint.pointer), message);
    match &complaint.help {
        Some(help) => diagnostic.help(help.clone()),
        None => diagnostic,
    }
}
