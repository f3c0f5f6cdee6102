//! The names of a certificate.

use std::collections::BTreeMap;
use std::collections::HashMap;

use psl::Type;

use super::Converter;
use super::ca::Ca;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Node;
use crate::config::span::Span;
use crate::model::CertName;
use crate::model::CertNameError;
use crate::model::NameSet;

impl Converter<'_> {
    pub(super) fn names(&mut self, block: &Node, ca: Option<&Ca>, profile: Option<&str>) -> NameSet {
        let mut names: BTreeMap<CertName, Span> = BTreeMap::new();
        for item in block.get("names").map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            let name = match CertName::new(text) {
                Ok(name) => name,
                Err(error) => {
                    self.bad_name(text, item.span, &error);
                    continue;
                }
            };
            if name
                .base()
                .labels()
                .last()
                .is_some_and(|label| label.bytes().all(|octet| octet.is_ascii_digit()))
            {
                let message = format!("{} ends in a number, as only IP addresses do", quoted(text));
                self.push(
                    Diagnostic::error("bad-dns-name", item.span, message)
                        .help("certplan proves control through DNS only; use a name"),
                );
                continue;
            }
            self.mixed_scripts(text, &name, item.span);
            if let Some(first) = names.get(&name) {
                let message = format!("the name {} is there twice", quoted(&name.to_string()));
                self.push(
                    Diagnostic::warning("duplicate-name", item.span, message).related(*first, "first here"),
                );
                continue;
            }
            self.suffix(&name, item.span, ca);
            names.insert(name, item.span);
        }
        self.redundant(&names, ca);
        if let (Some(ca), Some(list)) = (ca, block.get("names"))
            && let Some(most) = ca.most_names(profile).filter(|most| names.len() > *most)
        {
            let message = format!("{} names, and {} takes at most {most}", names.len(), quoted(ca.name));
            let span = Span { end: list.span.start + 1, ..list.span };
            self.push(
                Diagnostic::error("too-many-names", span, message)
                    .help("split them over several certificates"),
            );
        }
        names.into_keys().collect()
    }

    fn bad_name(&mut self, text: &str, span: Span, error: &CertNameError) {
        let bad = Diagnostic::error(
            "bad-dns-name",
            span,
            format!("{} cannot be in a certificate: {error}", quoted(text)),
        );
        let host = text.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next());
        self.push(match (error, host) {
            (_, Some(host)) if !host.is_empty() => bad.help(format!("write the name only: {}", quoted(host))),
            (CertNameError::IpAddress, _) => bad.help("certplan proves control through DNS only; use a name"),
            (CertNameError::Wildcard, _) => bad.help("for example `\"*.example.com\"`"),
            _ => bad,
        });
    }

    /// A name that looks like another because it mixes alphabets.
    fn mixed_scripts(&mut self, text: &str, name: &CertName, span: Span) {
        if text.is_ascii() {
            return;
        }
        let foreign =
            |c: char| matches!(c, '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{52f}' | '\u{530}'..='\u{58f}');
        let mixed = text
            .split('.')
            .any(|label| label.contains(|c: char| c.is_ascii_alphabetic()) && label.contains(foreign));
        if mixed {
            let message = format!("{} mixes alphabets in one label", quoted(text));
            let help =
                format!("its DNS form is {}; is it the name that you mean?", quoted(&name.to_string()));
            self.push(Diagnostic::warning("mixed-scripts", span, message).help(help));
        }
    }

    fn suffix(&mut self, name: &CertName, span: Span, ca: Option<&Ca>) {
        let base = name.base().as_str();
        let labels = name.base().labels().count() + usize::from(name.is_wildcard());
        let suffix = psl::suffix(base.as_bytes()).filter(|suffix| suffix.as_bytes() == base.as_bytes());
        let kind = suffix.and_then(|suffix| suffix.typ());
        // Said of few names, and asked of all.
        let what = || quoted(&name.to_string());
        let boulder = ca.is_some_and(|ca| ca.boulder);
        match kind {
            Some(Type::Icann) if name.is_wildcard() => {
                let message =
                    format!("{} is a wildcard on a public suffix, where others register their names", what());
                self.push(Diagnostic::error("public-suffix", span, message).help("no public CA issues that"));
            }
            Some(Type::Private) if name.is_wildcard() => {
                let message = format!("{} is a wildcard on a suffix that others get names under", what());
                self.push(
                    Diagnostic::warning("public-suffix", span, message)
                        .help("right only if the suffix is yours"),
                );
            }
            Some(Type::Icann) if boulder => {
                let message =
                    format!("{} is a public suffix, and Let's Encrypt does not issue for it", what());
                self.push(Diagnostic::error("public-suffix", span, message));
            }
            _ if boulder && labels < 2 => {
                let message =
                    format!("{} has one label, and Let's Encrypt issues for public names only", what());
                self.push(Diagnostic::error("bad-dns-name", span, message));
            }
            _ if boulder && labels > 10 => {
                let message = format!("{} has {labels} labels, and Let's Encrypt takes at most 10", what());
                self.push(Diagnostic::error("bad-dns-name", span, message));
            }
            _ => {}
        }
    }

    /// Names that a wildcard beside them covers: Boulder refuses the order.
    fn redundant(&mut self, names: &BTreeMap<CertName, Span>, ca: Option<&Ca>) {
        let wildcards: HashMap<&str, Span> = names
            .iter()
            .filter(|(name, _)| name.is_wildcard())
            .map(|(name, span)| (name.base().as_str(), *span))
            .collect();
        if wildcards.is_empty() {
            return;
        }
        for (name, span) in names.iter().filter(|(name, _)| !name.is_wildcard()) {
            let Some((_, parent)) = name.base().as_str().split_once('.') else { continue };
            let Some(wildcard) = wildcards.get(parent) else { continue };
            let message =
                format!("{} is covered by {}", quoted(&name.to_string()), quoted(&format!("*.{parent}")));
            let diagnostic = match ca.filter(|ca| ca.boulder) {
                Some(_) => Diagnostic::error("redundant-name", *span, message)
                    .help("Let's Encrypt refuses that; remove the name"),
                None => Diagnostic::warning("redundant-name", *span, message).help("some CAs refuse that"),
            };
            self.push(diagnostic.related(*wildcard, "the wildcard"));
        }
    }
}
