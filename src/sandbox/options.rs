use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::Faults;
use crate::model::Fqdn;

/// How a sandbox is set up. The default is a CA without external accounts and a DNS server for `example.test`, both on
/// free loopback ports, that keep nothing when they stop.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxOptions {
    /// The loopback address to listen on.
    pub address: IpAddr,
    /// The port of the CA (HTTPS); 0 takes the folder's last one, or a free one.
    pub acme_port: u16,
    /// The port of the DNS server, UDP and TCP; 0 takes the folder's last one, or a free one.
    pub dns_port: u16,
    /// The port of the management endpoint (plain HTTP); 0 takes the folder's last one, or a free one.
    pub management_port: u16,
    /// The zones that the DNS server is authoritative for.
    pub zones: Vec<ZoneOptions>,
    /// Who may update the zones; when empty, one key of HMAC-SHA-256 is made (or read from the folder).
    pub tsig_keys: Vec<TsigKey>,
    /// External account keys, each of which registers one account; when empty and one is required, one is made (or read from
    /// the folder).
    pub eab_keys: Vec<EabKey>,
    /// Whether an account needs an external account binding.
    pub eab_required: bool,
    /// The certificate profiles by name; at least one.
    pub profiles: BTreeMap<String, Profile>,
    /// The profile of an order that names none.
    pub default_profile: String,
    /// The terms that a new account must agree to, if there are any.
    pub terms_of_service: Option<String>,
    /// How long an order can be worked on.
    pub order_lifetime: Duration,
    /// How long an authorization can be pending; it ends the order too.
    pub pending_lifetime: Duration,
    /// How long a valid authorization stays valid.
    pub authorization_lifetime: Duration,
    /// How many of a hundred valid authorizations are used again for a later order of the same account.
    pub authorization_reuse_percent: u8,
    /// Whether a pending authorization of the account is given to a later order as well: two orders then wait for one value.
    pub pending_reuse: bool,
    /// Whether an order equal to an open one of the account (names and profile) is answered with the open one.
    pub order_reuse: bool,
    /// What is said about an order whose time is over.
    pub expired_orders: ExpiredOrders,
    /// Whether certificates with Ed25519 keys are issued; public CAs issue none.
    pub ed25519: bool,
    /// The port that HTTP-01 validation connects to.
    pub http_port: u16,
    /// The port that TLS-ALPN-01 validation connects to.
    pub tls_port: u16,
    /// The server that validation asks; the sandbox's own DNS server when there is none.
    pub resolver: Option<SocketAddr>,
    /// Where HTTP-01 and TLS-ALPN-01 validation connect to for a name without an address record.
    pub validation_address: Option<IpAddr>,
    /// Where keys, certificates, ports, accounts, orders and zones are kept over a restart.
    pub folder: Option<PathBuf>,
    /// A file that every entry of the ledger is appended to as a line of JSON.
    pub ledger_file: Option<PathBuf>,
    /// How the servers behave and misbehave at first.
    pub faults: Faults,
    /// What decides the faults that come at a rate: the same seed and order of requests give the same faults.
    pub seed: u64,
    /// What time it is.
    pub clock: Clock,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            acme_port: 0,
            dns_port: 0,
            management_port: 0,
            zones: Vec::new(),
            tsig_keys: Vec::new(),
            eab_keys: Vec::new(),
            eab_required: false,
            profiles: Profile::defaults(),
            default_profile: "classic".to_owned(),
            terms_of_service: None,
            order_lifetime: 7 * day,
            pending_lifetime: 7 * day,
            authorization_lifetime: 30 * day,
            authorization_reuse_percent: 100,
            pending_reuse: false,
            order_reuse: true,
            expired_orders: ExpiredOrders::default(),
            ed25519: false,
            http_port: 80,
            tls_port: 443,
            resolver: None,
            validation_address: None,
            folder: None,
            ledger_file: None,
            faults: Faults::default(),
            seed: 0,
            clock: Clock::default(),
        }
    }
}

/// What the CA says about an order that has expired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiredOrders {
    /// The order stays, with the status `invalid`.
    Invalid,
    /// 404, as Let's Encrypt does, for valid orders too.
    #[default]
    NotFound,
}

/// A certificate profile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// What the directory says about it.
    pub description: String,
    /// How long its certificates are valid.
    pub lifetime: Duration,
    /// How many names a certificate can have.
    pub max_names: usize,
    /// Whether the first name is repeated as the common name.
    pub common_name: bool,
}

impl Profile {
    /// A profile without a common name for at most 100 names.
    pub fn new(description: &str, lifetime: Duration) -> Self {
        Self { description: description.to_owned(), lifetime, max_names: 100, common_name: false }
    }

    /// Profiles like those of Let's Encrypt.
    fn defaults() -> BTreeMap<String, Self> {
        let day = Duration::from_secs(86_400);
        let mut classic = Self::new("90 days, with a common name", 90 * day);
        classic.common_name = true;
        let mut tls_server = Self::new("45 days, names only", 45 * day);
        tls_server.max_names = 25;
        let mut short_lived = Self::new("160 hours", Duration::from_secs(160 * 3_600));
        short_lived.max_names = 25;
        [("classic", classic), ("shortlived", short_lived), ("tlsserver", tls_server)]
            .into_iter()
            .map(|(name, profile)| (name.to_owned(), profile))
            .collect()
    }
}

/// A zone and what is in it from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZoneOptions {
    /// The zone's name.
    pub origin: Fqdn,
    /// Records beside SOA and NS, which every zone has.
    pub records: Vec<ZoneRecord>,
}

impl ZoneOptions {
    /// A zone with nothing but SOA and NS.
    pub const fn new(origin: Fqdn) -> Self {
        Self { origin, records: Vec::new() }
    }

    /// The zone with one more record.
    #[must_use]
    pub fn with(mut self, record: ZoneRecord) -> Self {
        self.records.push(record);
        self
    }
}

/// A record of a zone, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// The owner: a DNS name, whose leftmost label may be `*`.
    pub name: String,
    /// The time to live in seconds.
    pub ttl: u32,
    /// The type and value.
    #[serde(flatten)]
    pub value: RecordValue,
}

impl ZoneRecord {
    /// A record with a time to live of a minute.
    pub fn new(name: &str, value: RecordValue) -> Self {
        Self { name: name.to_owned(), ttl: 60, value }
    }
}

/// The type and value of a [`ZoneRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum RecordValue {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The one record of an alias.
    Cname(Fqdn),
    /// A name server: of the zone at its origin, of a delegated zone below.
    Ns(Fqdn),
    /// A text.
    Txt(String),
}

/// What a TSIG key computes ([RFC 8945, section 6](https://www.rfc-editor.org/rfc/rfc8945#section-6)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TsigAlgorithm {
    /// HMAC with SHA-256, the one that every server has.
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

impl TsigAlgorithm {
    /// The algorithm's name in DNS, without a trailing dot.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }
}

impl fmt::Display for TsigAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TsigAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or_else(|| format!("`{}` is no TSIG algorithm", text.escape_debug()))
    }
}

/// A key that signs DNS updates.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TsigKey {
    /// The key's name.
    pub name: Fqdn,
    /// What it computes.
    pub algorithm: TsigAlgorithm,
    /// The shared secret in base64.
    pub secret: String,
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TsigKey")
            .field("name", &self.name)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// An external account key ([RFC 8555, section 7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4)).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EabKey {
    /// The key's identifier.
    pub key_id: String,
    /// The shared secret in base64url without padding, as CAs hand it out.
    pub hmac_key: String,
}

impl fmt::Debug for EabKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EabKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A function that says what time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock of one's own, so that tests can move it.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    #[expect(clippy::disallowed_methods, reason = "a CA of its own has a clock of its own")]
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
