use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::AccountRecord;
use super::Fqdn;
use super::KeyType;
use super::Name;
use super::NameSet;
use super::SecretRef;

/// A validated configuration: what the user wants. Nothing after it checks it again.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The project; state of other projects is never planned.
    pub project: Name,
    /// The folder that relative paths start from.
    pub base: PathBuf,
    /// Where state is kept.
    pub state: StateBackend,
    /// Who can read what is sealed; `None` until `encryption:` is written, and then nothing can be issued.
    pub encryption: Option<Encryption>,
    /// The issuers.
    pub issuers: BTreeMap<Name, DesiredIssuer>,
    /// The DNS providers.
    pub dns: BTreeMap<Name, DesiredDnsProvider>,
    /// The deploy targets, those written in place at a certificate among them.
    pub targets: BTreeMap<Name, DesiredTarget>,
    /// The certificates.
    pub certificates: BTreeMap<Name, DesiredCertificate>,
    /// Renamed certificates.
    pub moved: Vec<Moved>,
}

/// Where state objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateBackend {
    /// A folder on this machine.
    Local {
        /// The folder, absolute or relative to [`Desired::base`].
        path: PathBuf,
    },
}

impl StateBackend {
    /// The folder where nothing else is said, relative to [`Desired::base`].
    pub const FOLDER: &str = ".certplan/state";
}

/// The variable that holds an identity, which opens what is sealed: no provider's secret is in it.
pub const IDENTITY: &str = "CERTPLAN_AGE_KEY";

/// The variable that holds the path of one.
pub const IDENTITY_FILE: &str = "CERTPLAN_AGE_KEY_FILE";

/// Who can read what is sealed: age recipients (`age1…`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Encryption {
    /// Recipients of everything.
    pub recipients: Vec<String>,
    /// When not empty, certificate keys are for these only.
    pub keys: Vec<String>,
}

/// Who issues.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DesiredIssuer {
    /// An ACME server ([RFC 8555](https://www.rfc-editor.org/rfc/rfc8555)).
    Acme(AcmeIssuer),
}

impl DesiredCertificate {
    /// Every place where the certificate is to be served: its own, and those of its deployments.
    pub fn endpoints(&self) -> BTreeSet<&Endpoint> {
        self.verify.iter().chain(self.deploy.iter().flat_map(|deployment| &deployment.verify)).collect()
    }
}

impl DesiredIssuer {
    /// The ACME server, as the one kind of issuer there is.
    pub const fn acme(&self) -> &AcmeIssuer {
        match self {
            Self::Acme(acme) => acme,
        }
    }
}

/// An ACME server and our account there.
#[derive(Debug, Clone, PartialEq)]
pub struct AcmeIssuer {
    /// The URL of the directory.
    pub directory: Url,
    /// E-mail addresses, without `mailto:`.
    pub contact: Vec<String>,
    /// Whether the user agreed to the terms of service.
    pub agree_tos: bool,
    /// A PEM file with the roots to trust for the server, beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Other hosts that URLs of the server may name.
    pub allow_hosts: Vec<String>,
    /// An external account binding ([RFC 8555, section 7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4)).
    pub eab: Option<Eab>,
    /// The key of an existing account, in PEM or as JWK.
    pub account_key: Option<SecretRef>,
}

impl AcmeIssuer {
    /// Whether `account_key` names another key than the one that the account in state was taken from. An `account_key`
    /// that left the configuration changes nothing: the key is in state.
    pub fn names_other_key(&self, account: &AccountRecord) -> bool {
        self.account_key.is_some() && self.account_key != account.key_source
    }

    /// Whether the CA was last told other contacts, in whatever order.
    pub fn has_other_contact(&self, account: &AccountRecord) -> bool {
        self.contact.iter().collect::<BTreeSet<_>>() != account.contact.iter().collect()
    }
}

/// An external account binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eab {
    /// The key identifier.
    pub key_id: SecretRef,
    /// The HMAC key in base64url, or base64 as some CAs print it.
    pub hmac_key: SecretRef,
}

/// A DNS provider.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredDnsProvider {
    /// The kind: `rfc2136`, `powerdns`.
    pub kind: String,
    /// The block under the kind, as its factory reads it.
    pub block: Value,
    /// The only zones to use; empty means those that the provider has.
    pub zones: Vec<Fqdn>,
    /// How to find out that a value can be seen.
    pub propagation: Propagation,
    /// Whether the zone's servers may have private, loopback or link-local addresses.
    pub allow_private_servers: bool,
}

/// How to find out that a TXT value can be seen by the CA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagation {
    /// Ask every authoritative server of the zone.
    #[default]
    Authoritative,
    /// Trust the provider's own confirmation.
    Provider,
    /// Ask these resolvers, `ADDRESS:PORT`.
    Resolvers(Vec<std::net::SocketAddr>),
    /// Wait for a fixed time.
    Wait(Duration),
}

/// A deploy target.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredTarget {
    /// The kind: `files`.
    pub kind: String,
    /// The block under the kind, as its factory reads it.
    pub block: Value,
}

/// A certificate that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredCertificate {
    /// Its name.
    pub name: Name,
    /// The DNS names.
    pub names: NameSet,
    /// The issuer.
    pub issuer: Name,
    /// The profile, or `None` to leave it to the CA.
    pub profile: Option<String>,
    /// What key it has.
    pub key: KeyPolicy,
    /// The common name of a root or intermediate: the chain that holds it is chosen among the CA's.
    pub preferred_chain: Option<String>,
    /// When to renew if not at the default moment.
    pub renew: Option<RenewBefore>,
    /// Labels to select by.
    pub labels: BTreeMap<String, String>,
    /// Where to deploy it.
    pub deploy: Vec<DesiredDeployment>,
    /// Where it serves.
    pub verify: Vec<Endpoint>,
}

/// What key a certificate has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeyPolicy {
    /// The type.
    pub key_type: KeyType,
    /// Whether a new certificate has a new key.
    pub rotation: Rotation,
}

/// Whether a new certificate has a new key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotation {
    /// A new key with every certificate.
    #[default]
    Always,
    /// The same key as long as its type stays.
    Never,
}

/// When to renew: this much before the end of the validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewBefore {
    /// A time.
    Duration(Duration),
    /// A fraction of the lifetime, as numerator and denominator: 1/3.
    Fraction(u32, u32),
}

/// A deployment that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredDeployment {
    /// The target.
    pub target: Name,
    /// The parameters of the deployment, as the target's factory reads them.
    pub parameters: Value,
    /// What removing the entry does.
    pub on_remove: OnRemove,
    /// Where the target serves it: what the target's block and the entry say, beside the certificate's own `verify`.
    pub verify: Vec<Endpoint>,
}

/// What removing a deployment from the configuration does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemove {
    /// The target keeps the certificate, and certplan forgets it.
    Keep,
    /// The certificate is removed from the target.
    #[default]
    Remove,
}

impl OnRemove {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Remove => "remove",
        }
    }
}

/// A place where a certificate is served over TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// The host to connect to: a name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The server name to send (SNI): as configured, else the host, else (for an IP address) a name of the certificate.
    pub sni: String,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A certificate that has another name now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The name before.
    pub from: Name,
    /// The name now.
    pub to: Name,
}
