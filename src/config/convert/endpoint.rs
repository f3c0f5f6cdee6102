//! `verify`: where a certificate is seen.

use std::net::IpAddr;

use certplan_provider::forbidden_host;

use super::Converter;
use crate::config::diagnostic::Diagnostic;
use crate::config::diagnostic::quoted;
use crate::config::node::Node;
use crate::config::span::Span;
use crate::model::CertName;
use crate::model::Endpoint;
use crate::model::Fqdn;
use crate::model::NameSet;

/// A place to look at, before it is known for which certificate.
#[derive(Debug, Clone)]
pub(super) struct Place {
    host: Host,
    port: u16,
    sni: Option<Fqdn>,
    span: Span,
}

#[derive(Debug, Clone)]
enum Host {
    Address(IpAddr),
    Name(Fqdn),
}

impl Host {
    fn text(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Name(name) => name.as_str().to_owned(),
        }
    }
}

impl Converter<'_> {
    pub(super) fn verify_places(&mut self, node: Option<&Node>) -> Vec<Place> {
        let mut places = Vec::new();
        for item in node.map_or(&[][..], Node::one_or_many) {
            let Some((text, span)) = item.text_of("tls") else { continue };
            let place = host_and_port(text).and_then(|(host, port)| match forbidden_host(&host.text()) {
                Some(why) => Err(format!("it {why}")),
                None => Ok((host, port)),
            });
            let sni = self.server_name(item);
            match (place, sni) {
                (Ok((host, port)), Ok(sni)) => places.push(Place { host, port, sni, span }),
                (Err(problem), _) => {
                    let message = format!("{} is not a host and a port to look at: {problem}", quoted(text));
                    let help =
                        "for example `shop.example.com:443`, `192.0.2.1:443` or `\"[2001:db8::1]:443\"`";
                    self.push(Diagnostic::error("bad-endpoint", span, message).help(help));
                }
                (Ok(_), Err(())) => {}
            }
        }
        places
    }

    fn server_name(&mut self, item: &Node) -> Result<Option<Fqdn>, ()> {
        let Some((text, span)) = item.text_of("sni") else { return Ok(None) };
        let problem = match CertName::new(text) {
            Ok(name) if !name.is_wildcard() => return Ok(Some(name.base().clone())),
            Ok(_) => "a server name is no wildcard".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!("{} is not a server name: {problem}", quoted(text));
        self.push(
            Diagnostic::error("bad-endpoint", span, message)
                .help("name one host, for example `www.example.com`"),
        );
        Err(())
    }

    /// Chooses the server name to ask for: as written, else the host, else a name of the certificate.
    pub(super) fn endpoints(
        &mut self,
        places: &[Place],
        names: &NameSet,
        used: Option<Span>,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        let mut first = None;
        for place in places {
            let host = place.host.text();
            let related = |diagnostic: Diagnostic| match used {
                Some(used) if used != place.span => diagnostic.related(used, "used by this certificate"),
                _ => diagnostic,
            };
            let sni = match (&place.sni, &place.host) {
                (Some(sni), _) => Some(sni.as_str()),
                (None, Host::Name(name)) => {
                    if !names.is_empty() && !CertName::is_served(name, names) {
                        let message = format!(
                            "the server is asked for {}, which is not a name of the certificate",
                            quoted(name.as_str())
                        );
                        let help =
                            "write `sni: NAME` with a name of the certificate, if the server chooses by name";
                        self.push(related(
                            Diagnostic::warning("verify-name", place.span, message).help(help),
                        ));
                    }
                    Some(name.as_str())
                }
                (None, Host::Address(_)) => *first.get_or_insert_with(|| {
                    names.iter().find(|name| !name.is_wildcard()).map(|name| name.base().as_str())
                }),
            };
            match sni {
                Some(sni) => endpoints.push(Endpoint { host, port: place.port, sni: sni.to_owned() }),
                None if names.is_empty() => {}
                None => {
                    let message =
                        "which server name to ask for is not clear: the certificate has only wildcards";
                    let help = "add `sni: NAME` beside `tls`, with a name that the wildcard covers";
                    self.push(related(Diagnostic::error("missing-sni", place.span, message).help(help)));
                }
            }
        }
        endpoints.sort();
        endpoints.dedup();
        endpoints
    }
}

fn host_and_port(text: &str) -> Result<(Host, u16), String> {
    if text.contains("://") {
        return Err("it is no URL".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Err("the port is missing".to_owned()) };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 && !text.ends_with('+') => port,
        _ => return Err("a port is a number from 1 to 65535".to_owned()),
    };
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = address.parse().map_err(|_| "no IPv6 address is in the brackets".to_owned())?;
        return Ok((Host::Address(IpAddr::V6(address)), port));
    }
    if host.contains(':') {
        return Err("an IPv6 address is in brackets".to_owned());
    }
    if let Ok(address) = host.parse() {
        return Ok((Host::Address(IpAddr::V4(address)), port));
    }
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err("no IPv4 address stands before the port".to_owned());
    }
    Fqdn::new(host).map(|name| (Host::Name(name), port)).map_err(|error| error.to_string())
}
