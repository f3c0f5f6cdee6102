use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;

use certplan_provider::Complaint;
use certplan_provider::Fqdn;
use certplan_provider::SecretRef;
use certplan_provider::forbidden_host;
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// A DNS server that takes dynamic updates (RFC 2136) signed with TSIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rfc2136Config {
    /// The primary server of the zones: a host name or an address, with `:PORT` when it is not 53. Updates and questions
    /// go there over TCP. An IPv6 address with a port is written in brackets: `[2001:db8::1]:5353`.
    pub server: String,
    /// The key that signs updates. The server must allow it to change TXT records: `update-policy { grant KEY zonesub
    /// TXT; };` in BIND.
    pub tsig: TsigConfig,
    /// The time to live of the TXT records in seconds; by default what certplan uses everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub ttl: Option<u32>,
}

/// A TSIG key, as `tsig-keygen` or `keymgr -t` print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TsigConfig {
    /// The key's name, the same as on the server.
    pub name: String,
    /// The key's algorithm, the same as on the server.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Where the secret is found, in base64.
    pub secret: SecretRef,
}

/// An algorithm of TSIG keys; older ones are too weak and are not supported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC with SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        })
    }
}

impl From<Algorithm> for TsigAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HmacSha256 => Self::HmacSha256,
            Algorithm::HmacSha384 => Self::HmacSha384,
            Algorithm::HmacSha512 => Self::HmacSha512,
        }
    }
}

/// What a configuration says, read.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) server: ServerAddress,
    pub(crate) key_name: Name,
}

impl Rfc2136Config {
    /// Reads what serde leaves as text, or says everything that is wrong with it.
    pub(crate) fn check(&self) -> Result<Settings, Vec<Complaint>> {
        let server = ServerAddress::parse(&self.server).ok_or_else(|| {
            Complaint::new("/server", "this is neither a host name nor an address, with or without a port")
                .with_help("write `ns1.example.com`, `192.0.2.1:5353` or `[2001:db8::1]:53`")
        });
        let server = server.and_then(|server| match forbidden_host(&server.host()) {
            Some(why) => Err(Complaint::new("/server", format!("the server {why}"))),
            None => Ok(server),
        });
        let key_name = Fqdn::new(&self.tsig.name).ok().and_then(|name| Name::from_ascii(name.as_str()).ok());
        let key_name = key_name.ok_or_else(|| {
            Complaint::new("/tsig/name", "this is not the name of a TSIG key, which looks like a DNS name")
                .with_help("copy the name from the server's key statement")
        });
        let ttl = match self.ttl {
            Some(ttl) if !(1..=86_400).contains(&ttl) => {
                Err(Complaint::new("/ttl", "a time to live is 1 to 86400 seconds"))
            }
            _ => Ok(()),
        };
        match (server, key_name, ttl) {
            (Ok(server), Ok(mut key_name), Ok(())) => {
                key_name.set_fqdn(true);
                Ok(Settings { server, key_name })
            }
            (server, key_name, ttl) => {
                Err([server.err(), key_name.err(), ttl.err()].into_iter().flatten().collect())
            }
        }
    }
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// An address that needs no resolver.
    Address(SocketAddr),
    /// A name that the host's resolver knows, and a port.
    Host(Fqdn, u16),
}

impl ServerAddress {
    fn parse(text: &str) -> Option<Self> {
        const PORT: u16 = 53;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then_some(Self::Address(address));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Address(SocketAddr::new(address, PORT)));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, PORT),
        };
        // `1.2.3` would be a name to `Fqdn`, and is a mistyped address to everyone else.
        let name = Fqdn::new(host).ok()?;
        let last = name.labels().last()?;
        (!last.bytes().all(|octet| octet.is_ascii_digit())).then_some(Self::Host(name, port))
    }

    /// The host without the port.
    fn host(&self) -> String {
        match self {
            Self::Address(address) => address.ip().to_string(),
            Self::Host(name, _) => name.to_string(),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use certplan_provider::schema_of;
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_names_or_addresses_with_or_without_a_port() {
        for (text, expected) in [
            ("ns1.Example.com", "ns1.example.com:53"),
            ("ns1.example.com:5353", "ns1.example.com:5353"),
            ("localhost", "localhost:53"),
            ("10.0.0.1", "10.0.0.1:53"),
            ("10.0.0.1:5353", "10.0.0.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(ServerAddress::parse(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            ":53",
            "host:",
            "host:0",
            "host:65536",
            "host:53:53",
            "10.0.0.1:0",
            "10.0.0",
            "10.0.0.256",
            "https://host",
            "host/path",
            "a b",
        ] {
            assert_eq!(ServerAddress::parse(text), None, "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_where_they_are() {
        let block = json!({
            "server": "no server", "ttl": 0,
            "tsig": { "name": "no name", "algorithm": "hmac-sha256", "secret": { "env": "KEY" } },
        });
        let complaints = (crate::FACTORY.check)(&block).unwrap_err();
        let pointers: Vec<_> = complaints.iter().map(|complaint| complaint.pointer.as_str()).collect();
        assert_eq!(pointers, ["/server", "/tsig/name", "/ttl"]);
        for bad in [
            json!({ "server": "ns1" }),
            json!({ "server": "ns1", "tsig": { "name": "k", "secret": "literal" } }),
            json!({ "server": "ns1", "tsig": { "name": "k", "algorithm": "hmac-md5", "secret": { "env": "K" } } }),
            json!({ "server": "ns1", "typo": 1, "tsig": { "name": "k", "secret": { "env": "K" } } }),
            json!({ "server": "169.254.169.254:53", "tsig": { "name": "k", "secret": { "env": "K" } } }),
            json!({ "server": "metadata.google.internal", "tsig": { "name": "k", "secret": { "env": "K" } } }),
        ] {
            assert!((crate::FACTORY.check)(&bad).is_err(), "{bad}");
        }
        let good =
            json!({ "server": "ns1", "tsig": { "name": "Key.", "secret": { "file": "key" } }, "ttl": 30 });
        assert_eq!((crate::FACTORY.check)(&good), Ok(()));
    }

    #[test]
    fn the_schema_documents_every_key() {
        let schema = schema_of::<Rfc2136Config>();
        for key in ["server", "tsig", "ttl"] {
            assert!(schema.pointer(&format!("/properties/{key}/description")).is_some(), "{key}");
        }
        assert_eq!(
            schema.pointer("/properties/tsig/properties/algorithm/default"),
            Some(&json!("hmac-sha256"))
        );
    }
}
