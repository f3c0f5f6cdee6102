//! `deploy`: where a certificate goes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Converter;
use super::Place;
use super::blocks::Target;
use crate::config::Names;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Entry;
use crate::config::node::Node;
use crate::config::span::Span;
use crate::model::Address;
use crate::model::DesiredDeployment;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::OnRemove;

impl<'a> Converter<'a> {
    pub(super) fn deployments(
        &mut self,
        certificate: &Name,
        block: &'a Node,
        names: &NameSet,
        targets: &mut Names<Target>,
    ) -> Vec<DesiredDeployment> {
        let mut deployments = Vec::new();
        let mut seen: HashMap<Name, Span> = HashMap::new();
        let mut numbers = HashMap::new();
        for entry in block.get("deploy").map_or(&[][..], Node::items) {
            if entry.entries().is_empty() {
                // Not a map was said already; an empty one says nothing.
                self.check_entry(entry, None);
                continue;
            }
            let registry = self.registry;
            let in_place = entry.entries().iter().find(|own| registry.target_factory(&own.key).is_some());
            let target = match (entry.text_of("target"), in_place) {
                (Some((text, span)), _) => self.by_name(text, span, entry, targets),
                (None, Some(own)) => self.in_place(certificate, own, entry, &mut numbers, targets),
                (None, None) => {
                    self.check_entry(entry, None);
                    None
                }
            };
            let Some((target, kind)) = target else { continue };
            if let Some(first) = seen.get(&target) {
                let message = format!("the certificate is deployed to {} twice", quoted(target.as_str()));
                let help = "a target takes a certificate once: define a second target for the second place";
                self.push(
                    Diagnostic::error("duplicate-deployment", entry.span, message)
                        .related(*first, "first here")
                        .help(help),
                );
                continue;
            }
            seen.insert(target.clone(), entry.span);
            let mut places = self.verify_places(entry.get("verify"));
            let mut verify = self.endpoints(&places, names, None);
            if let Some(target) = targets.get(&target) {
                places.clone_from(&target.verify);
                verify.extend(self.endpoints(&places, names, Some(entry.span)));
                verify.sort();
                verify.dedup();
            }
            let on_remove = match entry.text_of("on_remove") {
                Some(("keep", _)) => OnRemove::Keep,
                _ => OnRemove::Remove,
            };
            let address = Address::Deployment(certificate.clone(), target.clone());
            if self.checker.is_valid(entry) {
                self.places.addresses.insert(address, Place::new(entry.span, entry));
            }
            let parameters = entry.to_json(&["target", "on_remove", "verify", kind]);
            deployments.push(DesiredDeployment { target, parameters, on_remove, verify });
        }
        deployments
    }

    /// Checks an entry with what is known of its target's kind.
    fn check_entry(&mut self, entry: &Node, kind: Option<&str>) {
        let rule = kind.and_then(|kind| self.deploy_rules.get(kind)).unwrap_or(&self.any_deploy);
        let rule = Arc::clone(rule);
        self.checker.check(entry, &rule, "deploy");
    }

    fn by_name(
        &mut self,
        text: &str,
        span: Span,
        entry: &Node,
        targets: &Names<Target>,
    ) -> Option<(Name, &'static str)> {
        let Some(target) = targets.get(text) else {
            self.check_entry(entry, None);
            if !self.is_defined("targets", text) {
                self.unknown("unknown-target", "target", "targets", text, span);
            }
            return None;
        };
        let kind = self.registry.target_factory(&target.desired.kind)?.kind;
        self.check_entry(entry, Some(kind));
        Some((Name::new(text).ok()?, kind))
    }

    fn in_place(
        &mut self,
        certificate: &Name,
        own: &'a Entry,
        entry: &Node,
        numbers: &mut HashMap<&'static str, usize>,
        targets: &mut Names<Target>,
    ) -> Option<(Name, &'static str)> {
        let kind = self.registry.target_factory(&own.key)?.kind;
        self.check_entry(entry, Some(kind));
        let target = self.target(own)?;
        let name = self.name_in_place(certificate, kind, numbers.entry(kind).or_default(), targets)?;
        if target.sound {
            self.places.targets.insert(name.clone(), Place::new(entry.span, &own.value));
        }
        targets.insert(name.clone(), target);
        Some((name, kind))
    }

    /// The name of a target that has none: `files-shop`, `files-shop-2`.
    ///
    /// It depends on the certificate and on the order of its own entries only: a number over all certificates would
    /// rename the targets of others when one is added, and a plan would remove and create them. `number` is the last that
    /// was tried for the certificate and kind, and becomes the one that is taken.
    fn name_in_place(
        &self,
        certificate: &Name,
        kind: &str,
        number: &mut usize,
        targets: &Names<Target>,
    ) -> Option<Name> {
        const LONGEST: usize = 63;
        let kind = kind.replace('_', "-");
        loop {
            *number += 1;
            let suffix = if *number == 1 { String::new() } else { format!("-{number}") };
            let room = LONGEST.checked_sub(kind.len() + 1 + suffix.len())?;
            let certificate = match certificate.as_str() {
                name if name.len() <= room => name.to_owned(),
                // Two long names with the same beginning stay apart.
                name => {
                    let digest = crate::model::sha256(name.as_bytes()).to_string();
                    let digest: String = digest.chars().filter(char::is_ascii_hexdigit).take(8).collect();
                    format!("{}-{}", name.get(..room.checked_sub(9)?)?, digest.to_lowercase())
                }
            };
            let name = Name::new(&format!("{kind}-{certificate}{suffix}")).ok()?;
            if !targets.contains_key(&name) && !self.is_defined("targets", name.as_str()) {
                return Some(name);
            }
        }
    }
}
