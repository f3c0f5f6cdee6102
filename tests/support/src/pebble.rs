use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use certplan_http::ClientSettings;
use certplan_http::HttpClient;
use certplan_http::ProxySource;
use certplan_http::Request;
use certplan_http::Response;
use http::Method;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use url::Url;

use crate::process::Server;
use crate::process::free_port;
use crate::process::peer;
use crate::process::wait_for_port;

/// Which Pebble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PebbleVersion {
    /// Debian's: without renewal information and profiles.
    V2_4_0,
    /// The newest: strict about more, with both.
    V2_10_1,
}

impl PebbleVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V2_4_0, Self::V2_10_1];

    fn program(self) -> &'static str {
        match self {
            Self::V2_4_0 => "pebble",
            Self::V2_10_1 => "pebble-2.10.1",
        }
    }

    fn challenge_program(self) -> &'static str {
        match self {
            Self::V2_4_0 => "pebble-challtestsrv",
            Self::V2_10_1 => "pebble-challtestsrv-2.10.1",
        }
    }
}

/// How Pebble behaves; the default is strict, fast and without chance but for nonces, of which it refuses 5 %.
#[derive(Debug, Clone)]
pub struct PebbleOptions {
    /// Which one.
    pub version: PebbleVersion,
    /// How many of a hundred good nonces it refuses.
    pub nonce_reject: u8,
    /// In how many of a hundred cases it reuses a valid authorization.
    pub authorization_reuse: u8,
    /// `Retry-After` of pending authorizations and orders, in seconds.
    pub retry_after: u32,
    /// Profiles with the validity of their certificates in seconds; 2.10.1 draws one when an order names none.
    pub profiles: BTreeMap<String, u64>,
    /// External accounts by key identifier, with MAC keys in base64url. Not empty means that accounts need one.
    pub external_accounts: BTreeMap<String, String>,
    /// How many other roots there are, each with a chain.
    pub alternate_roots: u32,
    /// How many intermediates a chain has.
    pub chain_length: u32,
    /// Names that it refuses.
    pub blocked: Vec<String>,
    /// The DNS server to ask, `ADDRESS:PORT`; the default is a challenge server of its own.
    pub dns_server: Option<String>,
    /// How long it sleeps before it validates, in seconds; 0 is not at all.
    pub validation_sleep: u32,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self {
            version: PebbleVersion::V2_10_1,
            nonce_reject: 5,
            authorization_reuse: 0,
            retry_after: 0,
            profiles: BTreeMap::from([("default".to_owned(), 90 * 86_400)]),
            external_accounts: BTreeMap::new(),
            alternate_roots: 0,
            chain_length: 1,
            blocked: Vec::new(),
            dns_server: None,
            validation_sleep: 0,
        }
    }
}

/// A running Pebble, with a challenge server that answers its DNS questions unless there is another.
#[derive(Debug)]
pub struct Pebble {
    server: Server,
    challenges: Option<Challenges>,
    port: u16,
    management_port: u16,
    ca_bundle: String,
    http: HttpClient,
}

impl Pebble {
    /// Starts one; `None` when it is not installed and may be missing (see [`peer`]).
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(options: &PebbleOptions) -> Option<Self> {
        let program = peer(options.version.program())?;
        let challenges = match options.dns_server {
            Some(_) => None,
            None => Some(Challenges::start(options.version)?),
        };
        let folder = TempDir::new().expect("a temporary folder can be made");
        let key = KeyPair::generate().expect("a key can be generated");
        let certificate =
            CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()])
                .and_then(|parameters| parameters.self_signed(&key))
                .expect("a certificate can be signed");
        let (port, management_port) = (free_port(), free_port());
        let config = folder.path().join("config.json");
        let (certificate_file, key_file) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
        fs::write(&certificate_file, certificate.pem()).expect("the folder is writable");
        fs::write(&key_file, key.serialize_pem()).expect("the folder is writable");
        let profiles: Value = options
            .profiles
            .iter()
            .map(|(name, seconds)| {
                (name.clone(), json!({ "description": format!("{seconds} s"), "validityPeriod": seconds }))
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        let configuration = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": certificate_file,
            "privateKey": key_file,
            "httpPort": free_port(),
            "tlsPort": free_port(),
            "externalAccountBindingRequired": !options.external_accounts.is_empty(),
            "externalAccountMACKeys": options.external_accounts,
            "domainBlocklist": options.blocked,
            "retryAfter": { "authz": options.retry_after, "order": options.retry_after },
            "profiles": profiles,
        }});
        fs::write(&config, configuration.to_string()).expect("the folder is writable");
        let dns_server = options
            .dns_server
            .clone()
            .or_else(|| challenges.as_ref().map(Challenges::dns_server))
            .expect("there is one or the other");
        let mut command = Command::new(program);
        command
            .args(["-strict", "-dnsserver", &dns_server, "-config"])
            .arg(&config)
            .env("PEBBLE_WFE_NONCEREJECT", options.nonce_reject.to_string())
            .env("PEBBLE_AUTHZREUSE", options.authorization_reuse.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", options.alternate_roots.to_string())
            .env("PEBBLE_CHAIN_LENGTH", options.chain_length.to_string());
        match options.validation_sleep {
            0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        let server = Server::start(folder, &mut command)
            .wait_until("Pebble listens", || wait_for_port(port) && wait_for_port(management_port));
        let ca_bundle = certificate.pem();
        let http = client(Some(ca_bundle.clone()));
        Some(Self { server, challenges, port, management_port, ca_bundle, http })
    }

    /// The URL of the directory.
    pub fn directory_url(&self) -> Url {
        parse(&format!("https://127.0.0.1:{}/dir", self.port))
    }

    /// The certificate to trust for the directory, in PEM. It is not one of the roots that issue.
    pub fn ca_bundle(&self) -> &str {
        &self.ca_bundle
    }

    /// A URL of the management interface: `/roots/0`, `/intermediates/0`, `/cert-status-by-serial/…`.
    pub fn management_url(&self, path: &str) -> Url {
        parse(&format!("https://127.0.0.1:{}{path}", self.management_port))
    }

    /// The root of a chain in PEM: 0 is the default one's, and alternates count from 1. Roots are new with each start.
    ///
    /// # Panics
    /// When there is no such root.
    pub async fn root(&self, number: u32) -> String {
        let url = self.management_url(&format!("/roots/{number}"));
        let response = exchange(&self.http, &Request::get(url)).await;
        String::from_utf8(response.body.to_vec()).expect("PEM is text")
    }

    /// Makes Pebble 2.10.1 answer with this for the renewal information of a certificate, whatever it is.
    ///
    /// # Panics
    /// When Pebble does not take it.
    pub async fn set_renewal_info(&self, certificate_pem: &str, answer: &str) {
        let body = json!({ "certificate": certificate_pem, "ariResponse": answer });
        let request = Request::new(Method::POST, self.management_url("/set-renewal-info/"))
            .json(&body)
            .expect("it is JSON");
        exchange(&self.http, &request).await;
    }

    /// The challenge server, to publish TXT values at.
    ///
    /// # Panics
    /// When another DNS server was given.
    pub fn challenges(&self) -> &Challenges {
        self.challenges.as_ref().expect("Pebble asks a DNS server of its own")
    }

    /// What Pebble has logged so far.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

/// A running pebble-challtestsrv: a DNS server that answers what it was told over HTTP, and `127.0.0.1` otherwise.
#[derive(Debug)]
pub struct Challenges {
    _server: Server,
    dns_port: u16,
    management_port: u16,
    http: HttpClient,
}

impl Challenges {
    /// Starts one; `None` when it is not installed and may be missing.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(version: PebbleVersion) -> Option<Self> {
        let program = peer(version.challenge_program())?;
        let (dns_port, management_port) = (free_port(), free_port());
        let dns_flag = match version {
            PebbleVersion::V2_4_0 => "-dns01",
            PebbleVersion::V2_10_1 => "-dnsserver",
        };
        let mut command = Command::new(program);
        command
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args([dns_flag, &format!("127.0.0.1:{dns_port}")])
            .args(["-management", &format!("127.0.0.1:{management_port}")]);
        if version == PebbleVersion::V2_10_1 {
            command.args(["-doh", ""]);
        }
        let folder = TempDir::new().expect("a temporary folder can be made");
        let server = Server::start(folder, &mut command)
            .wait_until("the challenge server listens", || wait_for_port(management_port));
        Some(Self { _server: server, dns_port, management_port, http: client(None) })
    }

    /// The DNS server as `ADDRESS:PORT`.
    pub fn dns_server(&self) -> String {
        format!("127.0.0.1:{}", self.dns_port)
    }

    /// Adds a TXT value at a name without trailing dot.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn add_txt(&self, name: &str, value: &str) {
        self.post("/set-txt", &json!({ "host": format!("{name}."), "value": value })).await;
    }

    /// Removes all TXT values at a name.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn clear_txt(&self, name: &str) {
        self.post("/clear-txt", &json!({ "host": format!("{name}.") })).await;
    }

    /// Makes the server answer SERVFAIL for a name.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn set_servfail(&self, name: &str) {
        self.post("/set-servfail", &json!({ "host": format!("{name}.") })).await;
    }

    async fn post(&self, path: &str, body: &Value) {
        let url = parse(&format!("http://127.0.0.1:{}{path}", self.management_port));
        exchange(&self.http, &Request::new(Method::POST, url).json(body).expect("it is JSON")).await;
    }
}

fn client(ca_bundle: Option<String>) -> HttpClient {
    let mut settings = ClientSettings::default();
    settings.ca_bundle = ca_bundle.map(String::into_bytes);
    settings.proxy = ProxySource::None;
    settings.timeout = Duration::from_secs(10);
    HttpClient::new(&settings).expect("the settings are sound")
}

async fn exchange(http: &HttpClient, request: &Request) -> Response {
    let response = http.once(request, None).await.expect("the peer answers");
    assert!(response.status.is_success(), "{}: {}", response.target, response.excerpt());
    response
}

fn parse(url: &str) -> Url {
    Url::parse(url).expect("it is a URL")
}
