//! `certificates` and `defaults`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use super::Converter;
use super::Place;
use super::blocks::Target;
use super::ca::Ca;
use super::issuer::Issuer;
use crate::config::Names;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Entry;
use crate::config::node::Node;
use crate::config::span::Span;
use crate::model::Address;
use crate::model::DesiredCertificate;
use crate::model::KeyPolicy;
use crate::model::KeyType;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Rotation;

/// What has been said or seen while going over the certificates.
#[derive(Default)]
struct Seen {
    renew: HashSet<(Span, Option<Duration>)>,
    issuers: HashSet<Span>,
    keys: HashSet<(Span, &'static str)>,
}

impl<'a> Converter<'a> {
    pub(super) fn certificates(
        &mut self,
        issuers: &Names<Issuer>,
        targets: &mut Names<Target>,
    ) -> Names<DesiredCertificate> {
        if let Some(entry) = self.root.entry("certificates")
            && self.checker.is_valid(&entry.value)
            && entry.value.entries().is_empty()
            && !self.checker.incomplete
        {
            let help = "an empty configuration never plans anything, least of all removals; \
                        `certplan state rm` forgets the last certificate";
            self.push(Diagnostic::error("empty", entry.span, "there is no certificate").help(help));
        }
        let root = self.root;
        let defaults = root.get("defaults");
        let mut seen = Seen::default();
        let mut certificates = Names::new();
        if let Some(block) = defaults {
            // Said once for the block, not once for each certificate.
            if let Some((text, span)) = block.text_of("issuer") {
                self.issuer(text, span, &mut seen);
            }
        }
        for (name, entry) in self.named("certificates") {
            if let Some(certificate) = self.certificate(&name, entry, defaults, issuers, targets, &mut seen) {
                certificates.insert(name, certificate);
            }
        }
        self.same_orders(&certificates);
        certificates
    }

    /// Reports certificates that would be one order to the CA, each with the first of its kind.
    fn same_orders(&mut self, certificates: &Names<DesiredCertificate>) {
        let mut orders: HashMap<(&Name, Option<&str>, &NameSet), Span> =
            HashMap::with_capacity(certificates.len());
        for (name, entry) in self.named("certificates") {
            let Some(certificate) = certificates.get(&name).filter(|wanted| !wanted.names.is_empty()) else {
                continue;
            };
            let order = (&certificate.issuer, certificate.profile.as_deref(), &certificate.names);
            let Some(first) = orders.get(&order) else {
                orders.insert(order, entry.span);
                continue;
            };
            let message = format!(
                "{} has the same names, issuer and profile as another certificate",
                quoted(name.as_str())
            );
            self.push(
                Diagnostic::error("same-order", entry.span, message)
                    .related(*first, "the other one")
                    .help("a CA may give both the same order: deploy one certificate to all targets instead"),
            );
        }
    }

    fn certificate(
        &mut self,
        name: &Name,
        entry: &'a Entry,
        defaults: Option<&'a Node>,
        issuers: &Names<Issuer>,
        targets: &mut Names<Target>,
        seen: &mut Seen,
    ) -> Option<DesiredCertificate> {
        let block = &entry.value;
        self.places.addresses.insert(Address::Certificate(name.clone()), Place::new(entry.span, block));
        let own = |key: &str| block.get(key).or_else(|| defaults.and_then(|defaults| defaults.get(key)));
        let text = |key: &str| own(key).and_then(Node::text).map(ToOwned::to_owned);

        let issuer = match own("issuer") {
            Some(value) => value.text().and_then(|text| self.issuer(text, value.span, seen)),
            None => {
                if !self.checker.incomplete {
                    let message = format!("the certificate {} has no issuer", quoted(name.as_str()));
                    let help = "add `issuer: NAME` to it, or to `defaults:` for all";
                    self.push(Diagnostic::error("missing-key", entry.span, message).help(help));
                }
                None
            }
        };
        let ca = issuer.as_ref().and_then(|issuer| issuers.get(issuer)?.ca);
        let profile = text("profile");
        let names = self.names(block, ca, profile.as_deref());
        let key = self.key(block, defaults, ca, seen);
        let lifetime = ca.and_then(|ca| ca.lifetime(profile.as_deref()));
        let renew = own("renew").and_then(|renew| {
            let said = !seen.renew.insert((renew.span, lifetime));
            self.renew(renew, lifetime, said)
        });
        let labels = labels(block, defaults);
        let places = self.verify_places(block.get("verify"));
        let verify = self.endpoints(&places, &names, None);
        let deploy = self.deployments(name, block, &names, targets);
        Some(DesiredCertificate {
            name: name.clone(),
            names,
            // Without one nothing comes of it, and its deployments are compared with others all the same.
            issuer: issuer.or_else(|| Name::new("missing").ok())?,
            profile,
            key,
            preferred_chain: text("preferred_chain"),
            renew,
            labels,
            deploy,
            verify,
        })
    }

    fn issuer(&mut self, text: &str, span: Span, seen: &mut Seen) -> Option<Name> {
        if !self.is_defined("issuers", text) && seen.issuers.insert(span) {
            self.unknown("unknown-issuer", "issuer", "issuers", text, span);
        }
        Name::new(text).ok()
    }

    fn key(&mut self, block: &Node, defaults: Option<&Node>, ca: Option<&Ca>, seen: &mut Seen) -> KeyPolicy {
        let of = |key: &str| {
            let own = block.get("key").and_then(|policy| policy.text_of(key));
            own.or_else(|| defaults?.get("key")?.text_of(key))
        };
        let mut policy = KeyPolicy::default();
        if let Some((text, span)) = of("type") {
            policy.key_type = text.parse().unwrap_or_default();
            if let (KeyType::Ed25519, Some(ca)) = (policy.key_type, ca)
                && seen.keys.insert((span, ca.name))
            {
                let message = format!("{} does not take Ed25519 keys", quoted(ca.name));
                self.push(
                    Diagnostic::error("key-type", span, message).help("no public CA does; use `ecdsa-p256`"),
                );
            }
        }
        if let Some(("never", _)) = of("rotation") {
            policy.rotation = Rotation::Never;
        }
        policy
    }
}

fn labels(block: &Node, defaults: Option<&Node>) -> BTreeMap<String, String> {
    let of = |node: Option<&Node>| -> Vec<(String, String)> {
        let entries = node.and_then(|node| node.get("labels")).map_or(&[][..], Node::entries);
        entries.iter().filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned()))).collect()
    };
    of(defaults).into_iter().chain(of(Some(block))).collect()
}
