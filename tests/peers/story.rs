use std::path::PathBuf;

use certplan_test_support::Bind;
use certplan_test_support::Knot;
use certplan_test_support::Pebble;
use certplan_test_support::PebbleOptions;
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use serde_json::Value;

use crate::evidence;
use crate::evidence::Pair;
use crate::project::Project;

/// Which DNS server, and how certplan writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DnsKind {
    Bind,
    Knot,
    PowerDnsApi,
    PowerDnsUpdate,
}

/// A running DNS server.
#[derive(Debug)]
pub(super) enum Dns {
    Bind(Bind),
    Knot(Knot),
    PowerDnsApi(PowerDns),
    PowerDnsUpdate(PowerDns),
}

impl Dns {
    fn start(kind: DnsKind, zones: &[ZoneFile], key: &TsigKey) -> Option<Self> {
        Some(match kind {
            DnsKind::Bind => Self::Bind(Bind::start(zones, key)?),
            DnsKind::Knot => Self::Knot(Knot::start(zones, key)?),
            DnsKind::PowerDnsApi => Self::PowerDnsApi(PowerDns::start(zones, key)?),
            DnsKind::PowerDnsUpdate => Self::PowerDnsUpdate(PowerDns::start(zones, key)?),
        })
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Bind(server) => server.port(),
            Self::Knot(server) => server.port(),
            Self::PowerDnsApi(server) | Self::PowerDnsUpdate(server) => server.port(),
        }
    }

    pub(super) fn txt(&self, name: &str) -> Vec<String> {
        certplan_test_support::txt(self.port(), name)
    }

    /// How many messages that change something have arrived.
    pub(super) fn writes(&self) -> u64 {
        match self {
            Self::Bind(server) => server.updates(),
            Self::Knot(server) => server.updates(),
            Self::PowerDnsApi(server) => server.patches(),
            Self::PowerDnsUpdate(server) => server.updates(),
        }
    }

    fn block(&self, key: &TsigKey) -> String {
        match self {
            Self::PowerDnsApi(server) => {
                format!("powerdns: {{ url: \"{}\", api_key: {{ env: DNS_SECRET }} }}", server.api_url())
            }
            _ => format!(
                "rfc2136: {{ server: \"127.0.0.1:{}\", tsig: {{ name: {}, algorithm: {}, secret: {{ env: DNS_SECRET }} }} }}",
                self.port(),
                key.name,
                key.algorithm
            ),
        }
    }

    fn secret(&self, key: &TsigKey) -> String {
        match self {
            Self::PowerDnsApi(server) => server.api_key().to_owned(),
            _ => key.secret.clone(),
        }
    }
}

/// A CA, a DNS server that it asks, and a project with both.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) pebble: Pebble,
    pub(super) dns: Dns,
    pub(super) project: Project,
    /// The zones to use, as YAML; those that the provider has when empty.
    pub(super) zones: String,
    /// Further keys of the issuer's block.
    pub(super) issuer: String,
    /// Further issuers.
    pub(super) issuers: String,
    /// The targets, in braces; empty when the end of the configuration has them.
    pub(super) targets: String,
    /// What defaults has.
    pub(super) defaults: String,
    key: TsigKey,
}

/// The zone of the stories, with values of somebody else.
pub(super) const ZONE: &str = "example.org";

/// What stands at the challenge's name of `shop.example.org` and belongs to somebody else.
pub(super) const FOREIGN: &str = "a value of somebody else";

/// One certificate with an apex and its wildcard, deployed to `live/shop`.
pub(super) const SHOP: &str = "certificates:\n  shop:\n    names: [shop.example.org, \"*.shop.example.org\"]\n    deploy: [{ target: web }]\n";

impl Story {
    /// Pebble 2.10.1 and BIND.
    pub(super) fn new() -> Option<Self> {
        Self::with(DnsKind::Bind, PebbleOptions::default())
    }

    pub(super) fn with(kind: DnsKind, options: PebbleOptions) -> Option<Self> {
        let zone = ZoneFile::new(ZONE).with(&format!("_acme-challenge.shop 60 IN TXT \"{FOREIGN}\""));
        Self::with_zones(kind, options, &[zone])
    }

    pub(super) fn with_zones(kind: DnsKind, mut options: PebbleOptions, zones: &[ZoneFile]) -> Option<Self> {
        let key = TsigKey::new("hmac-sha256");
        let dns = Dns::start(kind, zones, &key)?;
        options.dns_server = Some(format!("127.0.0.1:{}", dns.port()));
        let pebble = Pebble::start(&options)?;
        let mut project = Project::new();
        project.set("DNS_SECRET", &dns.secret(&key));
        project.write("pebble.pem", pebble.ca_bundle());
        let zones = if kind == DnsKind::PowerDnsApi { String::new() } else { format!("zones: [{ZONE}]") };
        Some(Self {
            pebble,
            dns,
            project,
            zones,
            issuer: "contact: [ops@example.org]".to_owned(),
            issuers: String::new(),
            targets: "web: { files: { directory: live } }".to_owned(),
            defaults: "issuer: ca".to_owned(),
            key,
        })
    }

    /// Writes the configuration; `rest` is its end, from `certificates:` on.
    pub(super) fn configure(&self, rest: &str) {
        let targets = match self.targets.as_str() {
            "" => String::new(),
            targets => format!("targets: {{ {targets} }}\n"),
        };
        let zones = if self.zones.is_empty() { String::new() } else { format!("    {}\n", self.zones) };
        self.project.write(
            "certplan.yaml",
            &format!(
                "version: 1\nproject: story\nencryption: {{ recipients: [{recipient}] }}\n\
                 issuers:\n  ca:\n    acme: {{ directory: \"{directory}\", ca_bundle: pebble.pem, agree_tos: true, {issuer} }}\n{issuers}\
                 dns:\n  main:\n    {block}\n{zones}    propagation: {{ resolvers: [\"127.0.0.1:{port}\"] }}\n\
                 {targets}defaults: {{ {defaults} }}\n{rest}",
                recipient = self.project.recipient(),
                directory = self.pebble.directory_url(),
                issuer = self.issuer,
                issuers = self.issuers,
                block = self.dns.block(&self.key),
                port = self.dns.port(),
                defaults = self.defaults,
            ),
        );
    }

    /// Applies and returns what is deployed for `shop` then.
    #[track_caller]
    pub(super) fn apply(&self) -> Pair {
        let run = self.project.certplan(&["apply", "--auto-approve"]);
        if run.code != Some(0) {
            panic!("{run}\n--- Pebble:\n{}", self.pebble.log());
        }
        self.deployed("shop").expect("it is deployed")
    }

    /// What is deployed under `live`.
    #[track_caller]
    pub(super) fn deployed(&self, name: &str) -> Option<Pair> {
        evidence::pair(&self.project.path().join("live").join(name))
    }

    /// The content of a certificate's state object.
    #[track_caller]
    pub(super) fn record(&self, certificate: &str) -> Value {
        evidence::content(&self.project, certificate)
    }

    /// Every file of the project but the configuration.
    pub(super) fn files(&self) -> std::collections::BTreeMap<String, Vec<u8>> {
        let mut files = evidence::tree(self.project.path());
        files.remove("certplan.yaml");
        files
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.project.path().join(path)
    }

    /// Whether the CA was asked for more than its directory.
    pub(super) fn ca_was_used(&self) -> bool {
        let log = self.pebble.log();
        log.contains("/sign-me-up") || log.contains("/order-plz") || log.contains("/nonce-plz")
    }
}
