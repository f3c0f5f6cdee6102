//! `state`, `encryption`, `dns`, `targets` and `moved`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Converter;
use super::Place;
use super::endpoint::Place as VerifyPlace;
use crate::config::Names;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::is_key_material;
use crate::config::diagnostic::quoted;
use crate::config::node::Entry;
use crate::config::node::Node;
use crate::config::node::Scalar;
use crate::config::span::Span;
use crate::model::DesiredDnsProvider;
use crate::model::DesiredTarget;
use crate::model::Encryption;
use crate::model::Fqdn;
use crate::model::Moved;
use crate::model::Name;
use crate::model::Propagation;
use crate::model::StateBackend;

/// A target with what its block says beside what its factory reads.
pub(super) struct Target {
    pub(super) desired: DesiredTarget,
    pub(super) verify: Vec<VerifyPlace>,
    /// Whether nothing is wrong with its block.
    pub(super) sound: bool,
}

impl<'a> Converter<'a> {
    pub(super) fn state(&mut self) -> StateBackend {
        let path = self.root.get("state").and_then(|state| state.get("local")?.text_of("path"));
        let path = path.and_then(|(text, span)| self.path(text, span));
        StateBackend::Local { path: path.unwrap_or_else(|| PathBuf::from(StateBackend::FOLDER)) }
    }

    pub(super) fn encryption(&mut self) -> Option<Encryption> {
        let Some(block) = self.root.get("encryption") else {
            if !self.checker.incomplete && self.root.get("certificates").is_some() {
                let message = "without `encryption:` nothing can be issued";
                let help = "add `encryption: { recipients: [age1...] }` with the recipient that `certplan init` prints";
                self.push(Diagnostic::warning("no-encryption", self.root.span, message).help(help));
            }
            return None;
        };
        Some(Encryption {
            recipients: self.recipients(block, "recipients"),
            keys: self.recipients(block, "keys"),
        })
    }

    fn recipients(&mut self, block: &Node, key: &str) -> Vec<String> {
        let mut recipients: BTreeMap<&str, Span> = BTreeMap::new();
        let mut ordered = Vec::new();
        for item in block.get(key).map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            if is_key_material(text) {
                self.checker.report.mask(item.span);
                self.push(
                    Diagnostic::error("literal-secret", item.span, "this is an identity, which is a secret")
                        .label("a secret is not shown")
                        .help("write its recipient (`age1...`): `age-keygen -y FILE` prints it")
                        .help("whoever can read the file or its history can read what is sealed: replace the identity"),
                );
                continue;
            }
            if !is_recipient(text) {
                let message = format!("{} is not an age recipient", quoted(text));
                let help =
                    "recipients look like `age1...` or `age1NAME1...`, 62 characters or more with a checksum";
                self.push(Diagnostic::error("bad-recipient", item.span, message).help(help));
                continue;
            }
            if let Some(first) = recipients.insert(text, item.span) {
                let message = format!("the recipient {} is there twice", quoted(text));
                self.push(Diagnostic::warning("duplicate", item.span, message).related(first, "first here"));
                continue;
            }
            ordered.push(text.to_owned());
        }
        ordered
    }

    pub(super) fn dns(&mut self) -> Names<DesiredDnsProvider> {
        let mut providers = Names::new();
        let mut zones_seen: HashMap<Fqdn, Span> = HashMap::new();
        let registry = self.registry;
        for (name, entry) in self.named("dns") {
            let zones = self.zones(&entry.value, &mut zones_seen);
            let propagation = self.propagation(&entry.value).unwrap_or_default();
            let allow_private_servers = entry.value.get("allow_private_servers").and_then(Node::scalar);
            let allow_private_servers = allow_private_servers == Some(Scalar::Bool(true));
            let kind =
                entry.value.entries().iter().find_map(|own| Some((own, registry.dns_factory(&own.key)?)));
            let Some((own, factory)) = kind else { continue };
            let block = own.value.to_json(&[]);
            if self.ask(factory.check, &own.value, &[]) {
                self.places.dns.insert(name.clone(), Place::new(entry.span, &own.value));
            }
            providers.insert(
                name,
                DesiredDnsProvider {
                    kind: factory.kind.to_owned(),
                    block,
                    zones,
                    propagation,
                    allow_private_servers,
                },
            );
        }
        if self.root.get("dns").is_none_or(|dns| dns.entries().is_empty())
            && let Some(certificates) = self.root.entry("certificates")
            && !self.checker.incomplete
        {
            let message = "there is no DNS provider to prove control of names with";
            let help = "add one under `dns:`; without it only names that the CA has authorised already can be issued";
            self.push(Diagnostic::warning("no-dns", certificates.span, message).help(help));
        }
        providers
    }

    fn zones(&mut self, block: &Node, seen: &mut HashMap<Fqdn, Span>) -> Vec<Fqdn> {
        let mut zones = BTreeSet::new();
        for item in block.get("zones").map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            match Fqdn::new(text) {
                Ok(zone) => match seen.get(&zone) {
                    Some(first) => {
                        let message = format!("the zone {} is listed twice", quoted(zone.as_str()));
                        let help = "which provider writes a name has to be clear: leave it at one of them";
                        self.push(
                            Diagnostic::error("duplicate-zone", item.span, message)
                                .related(*first, "first here")
                                .help(help),
                        );
                    }
                    None => {
                        seen.insert(zone.clone(), item.span);
                        zones.insert(zone);
                    }
                },
                Err(error) => {
                    let message = format!("{} is not a zone: {error}", quoted(text));
                    self.push(Diagnostic::error("bad-zone", item.span, message));
                }
            }
        }
        zones.into_iter().collect()
    }

    fn propagation(&mut self, block: &Node) -> Option<Propagation> {
        let value = block.get("propagation")?;
        match value.text() {
            Some("provider") => return Some(Propagation::Provider),
            Some(_) => return Some(Propagation::Authoritative),
            None => {}
        }
        if let Some((text, span)) = value.text_of("wait") {
            let duration = seconds(text).map(Duration::from_secs);
            if duration.is_none_or(|duration| duration > Duration::from_secs(24 * 3_600))
                && self.checker.is_valid(value)
            {
                let message = format!("{} is not a time to wait", quoted(text));
                self.push(
                    Diagnostic::error("bad-value", span, message).help("at most 24h, for example `60s`"),
                );
            }
            return duration.map(Propagation::Wait);
        }
        let mut resolvers = Vec::new();
        for item in value.get("resolvers").map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() > 0 => resolvers.push(address),
                _ => {
                    let message = format!("{} is not an address and a port", quoted(text));
                    let help = "for example `\"192.0.2.53:53\"` or `\"[2001:db8::53]:53\"`";
                    self.push(Diagnostic::error("bad-value", item.span, message).help(help));
                }
            }
        }
        (!resolvers.is_empty()).then_some(Propagation::Resolvers(resolvers))
    }

    pub(super) fn targets(&mut self) -> Names<Target> {
        let mut targets = Names::new();
        for (name, entry) in self.named("targets") {
            let registry = self.registry;
            let kind = entry.value.entries().iter().find(|own| registry.target_factory(&own.key).is_some());
            let Some(own) = kind else { continue };
            let Some(target) = self.target(own) else { continue };
            if target.sound {
                self.places.targets.insert(name.clone(), Place::new(entry.span, &own.value));
            }
            targets.insert(name, target);
        }
        targets
    }

    /// Reads a target's block under its kind, in `targets` or in place.
    pub(super) fn target(&mut self, own: &'a Entry) -> Option<Target> {
        let factory = self.registry.target_factory(&own.key)?;
        let sound = self.ask(factory.check, &own.value, &["verify"]);
        let block = own.value.to_json(&["verify"]);
        let verify = self.verify_places(own.value.get("verify"));
        Some(Target { desired: DesiredTarget { kind: factory.kind.to_owned(), block }, verify, sound })
    }

    pub(super) fn moved(&mut self) -> Vec<Moved> {
        let mut moves: BTreeMap<Name, (Name, Span)> = BTreeMap::new();
        let mut targets: HashMap<Name, Span> = HashMap::new();
        let mut doubled = Vec::new();
        for item in self.root.get("moved").map_or(&[][..], Node::items) {
            let side = |key: &str| {
                let (text, span) = item.text_of(key)?;
                let name = text.strip_prefix("certificate.").or_else(|| text.strip_prefix("certificate/"))?;
                Some((Name::new(name).ok()?, span))
            };
            let (Some((from, from_span)), Some((to, to_span))) = (side("from"), side("to")) else { continue };
            if self.is_defined("certificates", from.as_str()) {
                let message = format!("the certificate {} is still there", quoted(from.as_str()));
                let help = "a certificate that was renamed has left `certificates:`; remove it there or here";
                self.push(Diagnostic::error("bad-move", from_span, message).help(help));
                continue;
            }
            if let Some((_, first)) = moves.get(&from) {
                let message = format!("{} is moved twice", quoted(from.as_str()));
                self.push(Diagnostic::error("bad-move", from_span, message).related(*first, "first here"));
                doubled.push((to, to_span));
                continue;
            }
            if let Some(first) = targets.insert(to.clone(), to_span) {
                let message = format!("two certificates are moved to {}", quoted(to.as_str()));
                self.push(Diagnostic::error("bad-move", to_span, message).related(first, "first here"));
            }
            moves.insert(from, (to, to_span));
        }
        for (to, span) in doubled {
            if !moves.contains_key(&to) && !self.is_defined("certificates", to.as_str()) {
                self.unknown("bad-move", "certificate", "certificates", to.as_str(), span);
            }
        }
        let ends = ends(&moves);
        let mut moved = Vec::new();
        for (from, (_, span)) in &moves {
            match ends.get(from).copied().flatten() {
                None => {
                    let message = format!("{} is moved in a circle", quoted(from.as_str()));
                    self.push(Diagnostic::error("bad-move", *span, message));
                }
                Some(last) if self.is_defined("certificates", last.as_str()) => {
                    moved.push(Moved { from: from.clone(), to: last.clone() });
                }
                Some(last) => {
                    self.unknown("bad-move", "certificate", "certificates", last.as_str(), *span);
                }
            }
        }
        moved
    }
}

/// Where each name ends when all moves are followed, each once; `None` where they go in a circle.
fn ends(moves: &BTreeMap<Name, (Name, Span)>) -> HashMap<&Name, Option<&Name>> {
    let mut ends: HashMap<&Name, Option<&Name>> = HashMap::with_capacity(moves.len());
    for from in moves.keys() {
        let (mut way, mut last) = (Vec::new(), from);
        let end = loop {
            if let Some(end) = ends.get(last) {
                break *end;
            }
            let Some((next, _)) = moves.get(last) else { break Some(last) };
            // Whoever comes here again on the same way goes in a circle.
            ends.insert(last, None);
            way.push(last);
            last = next;
        };
        ends.extend(way.into_iter().map(|name| (name, end)));
    }
    ends
}

fn is_recipient(text: &str) -> bool {
    age::x25519::Recipient::from_str(text).is_ok() || age::plugin::Recipient::from_str(text).is_ok()
}

/// A time as a number with a unit: `60s`, `20d`.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 24 * 3_600,
        'w' => 7 * 24 * 3_600,
        _ => return None,
    };
    text.get(..text.len() - 1)?.parse::<u64>().ok()?.checked_mul(unit)
}
