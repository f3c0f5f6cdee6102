//! `issuers`.

use std::net::IpAddr;

use certplan_provider::forbidden_host;
use url::Host;
use url::Url;

use super::Converter;
use super::Place;
use super::ca::Ca;
use super::ca::KNOWN;
use crate::config::Names;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::closest;
use crate::config::diagnostic::list;
use crate::config::diagnostic::quoted;
use crate::config::node::Node;
use crate::config::node::Scalar;
use crate::config::span::Span;
use crate::model::AcmeIssuer;
use crate::model::Address;
use crate::model::DesiredIssuer;
use crate::model::Eab;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::SecretRef;

/// An issuer, and what is known about its CA.
pub(super) struct Issuer {
    /// `None` when something is wrong with it, which has been said.
    pub(super) issuer: Option<DesiredIssuer>,
    pub(super) ca: Option<&'static Ca>,
}

impl Converter<'_> {
    pub(super) fn issuers(&mut self) -> Names<Issuer> {
        let mut issuers = Names::new();
        for (name, entry) in self.named("issuers") {
            self.places
                .addresses
                .insert(Address::Account(name.clone()), Place::new(entry.span, &entry.value));
            let Some(block) = entry.value.get("acme") else { continue };
            let directory = self.directory(&name, entry.span, block);
            let ca = directory.as_ref().and_then(Ca::by_directory);
            let acme = self.acme(block, directory, ca, entry.span);
            issuers.insert(name, Issuer { issuer: acme.map(DesiredIssuer::Acme), ca });
        }
        issuers
    }

    fn directory(&mut self, name: &Name, name_span: Span, block: &Node) -> Option<Url> {
        let Some(value) = block.get("directory") else {
            let known = Ca::by_name(name.as_str());
            if known.is_none() && !self.checker.incomplete {
                let message = format!("the issuer {} has no `directory`", quoted(name.as_str()));
                let mut missing = Diagnostic::error("missing-key", name_span, message);
                if let Some(near) = closest(name.as_str(), KNOWN.iter().map(|ca| ca.name)) {
                    missing = missing.help(format!("did you mean {}?", quoted(near)));
                }
                let names = list(KNOWN.iter().map(|ca| ca.name));
                self.push(missing.help(format!("only well-known names give the directory: {names}")));
            }
            return known.and_then(|ca| Url::parse(ca.directory).ok());
        };
        let text = value.text()?;
        if let Some(ca) = Ca::by_name(text) {
            return Url::parse(ca.directory).ok();
        }
        let error = match Url::parse(text) {
            Ok(url) => match url_problem(&url) {
                None => return Some(url),
                Some(problem) => Diagnostic::error("bad-url", value.span, problem),
            },
            Err(_) => {
                let message = format!("{} is not a URL", quoted(text));
                let mut bad = Diagnostic::error("bad-url", value.span, message);
                if let Some(near) = closest(text, KNOWN.iter().map(|ca| ca.name)) {
                    bad = bad.help(format!("did you mean {}?", quoted(near)));
                }
                bad.help("for example `https://ca.example.com/acme/directory`, or a well-known name such as `letsencrypt`")
            }
        };
        if Url::parse(text).is_ok_and(|url| url.password().is_some() || !url.username().is_empty()) {
            self.checker.report.mask(value.span);
        }
        self.push(error);
        None
    }

    fn acme(
        &mut self,
        block: &Node,
        directory: Option<Url>,
        ca: Option<&Ca>,
        name: Span,
    ) -> Option<AcmeIssuer> {
        if let Some(entry) = block.entry("agree_tos")
            && entry.value.scalar() == Some(Scalar::Bool(false))
        {
            let message = "an account needs agreement to the CA's terms of service";
            let help = "read them, and write `agree_tos: true`";
            self.push(Diagnostic::error("agree-tos", entry.value.span, message).help(help));
        }
        let eab = block.get("eab").and_then(|eab| {
            Some(Eab { key_id: secret(eab.get("key_id")?)?, hmac_key: secret(eab.get("hmac_key")?)? })
        });
        let account_key = block.get("account_key").and_then(secret);
        if let Some(ca) = ca.filter(|ca| ca.binding)
            && block.get("eab").is_none()
            && account_key.is_none()
        {
            let message = format!("{} needs an external account binding for a new account", quoted(ca.name));
            let help = "add `eab: { key_id: { env: NAME }, hmac_key: { env: NAME } }`; an account that exists goes on without it";
            self.push(Diagnostic::warning("no-eab", name, message).help(help));
        }
        let contact = self.contacts(block);
        let ca_bundle = block.text_of("ca_bundle").and_then(|(text, span)| self.path(text, span));
        let allow_hosts = self.hosts(block);
        Some(AcmeIssuer {
            directory: directory?,
            contact,
            agree_tos: true,
            ca_bundle,
            allow_hosts,
            eab,
            account_key,
        })
    }

    fn contacts(&mut self, block: &Node) -> Vec<String> {
        let mut contacts = Vec::new();
        for item in block.get("contact").map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            if is_email(text) {
                contacts.push(text.to_owned());
                continue;
            }
            let bad = Diagnostic::error(
                "bad-contact",
                item.span,
                format!("{} is not an e-mail address", quoted(text)),
            );
            self.push(match text.strip_prefix("mailto:") {
                Some(address) => bad.help(format!("without `mailto:`: {}", quoted(address))),
                None => bad.help("for example `ops@example.com`"),
            });
        }
        contacts
    }

    fn hosts(&mut self, block: &Node) -> Vec<String> {
        let mut hosts = Vec::new();
        for item in block.get("allow_hosts").map_or(&[][..], Node::items) {
            let Some(text) = item.text() else { continue };
            match (text.parse::<IpAddr>(), Fqdn::new(text)) {
                (Ok(address), _) => hosts.push(address.to_string()),
                (_, Ok(name)) => hosts.push(name.as_str().to_owned()),
                (_, Err(error)) => {
                    let message = format!("{} is not a host: {error}", quoted(text));
                    self.push(
                        Diagnostic::error("bad-value", item.span, message)
                            .help("a name without `https://` and port"),
                    );
                }
            }
        }
        hosts
    }
}

/// Why a URL cannot be a directory's, without its password in the text.
fn url_problem(url: &Url) -> Option<String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Some("a directory's URL holds no user name or password".to_owned());
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Some(format!("{} names no host", quoted(url.as_str()))),
    };
    if let Some(why) = url.host_str().and_then(forbidden_host) {
        return Some(format!("{} {why}", quoted(url.host_str().unwrap_or_default())));
    }
    match url.scheme() {
        "https" => None,
        "http" if loopback => None,
        "http" => {
            Some("a directory is reached through https; plain http is for loopback addresses only".to_owned())
        }
        other => Some(format!("a directory is reached through https, not through {}", quoted(other))),
    }
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let local_fits = !local.is_empty()
        && local.len() <= 64
        && local.is_ascii()
        && !local.contains([' ', ',', ':', ';', '<', '>', '(', ')', '"', '?', '\t', '\n']);
    // A comma or a query would be more than one address in a mailto URL.
    local_fits
        && domain.is_ascii()
        && domain.contains('.')
        && Fqdn::new(domain).is_ok()
        && !domain.ends_with('.')
}

/// A reference that the walker has accepted.
fn secret(node: &Node) -> Option<SecretRef> {
    if let Some((name, _)) = node.text_of("env") {
        return Some(SecretRef::Env(name.to_owned()));
    }
    node.text_of("file").map(|(path, _)| SecretRef::File(path.into()))
}
