//! An embedded ACME CA and an authoritative DNS server on loopback, in one process and without privileges.
//!
//! For trying certplan, for rehearsing a configuration, and for tests that judge by the servers' own [`Ledger`]. It is
//! strict where real servers are strict. It shares no code with certplan's own ACME client and DNS providers, so that a
//! misunderstanding of one is not confirmed by the other.

mod ca;
mod dns;
mod error;
mod faults;
mod folder;
mod ledger;
mod management;
mod options;

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::ca::Ca;
use self::ca::Kept;
use self::ca::Surroundings;
use self::dns::Dns;
use self::dns::KeptZone;
use self::dns::Sockets;
pub use self::error::SandboxError;
use self::faults::FaultState;
pub use self::faults::{AriWindow, DnsFaults, Endpoint, FaultRule, Faults, HttpFault};
use self::folder::Folder;
pub use self::ledger::{DnsUpdate, DnsValue, Entry, Event, IssuedCertificate, Ledger};
use self::management::Management;
pub use self::options::{
    Clock, EabKey, ExpiredOrders, Profile, RecordValue, SandboxOptions, TsigAlgorithm, TsigKey, ZoneOptions,
    ZoneRecord,
};
use crate::model::Fqdn;

/// The ports and the made keys, kept so that a restarted sandbox is the same one to its clients.
const SETTINGS: &str = "sandbox.json";
/// Accounts, orders, authorizations and certificates.
const STATE: &str = "ca.json";
/// The zones.
const ZONES: &str = "zones.json";
/// The roots, for clients.
const BUNDLE: &str = "ca-bundle.pem";

/// How long changes are gathered before they are written to the folder.
const GATHER: Duration = Duration::from_millis(200);

/// A running sandbox. It stops when it is dropped; [`Sandbox::shutdown`] also writes its folder.
pub struct Sandbox {
    ca: Arc<Ca>,
    dns: Arc<Dns>,
    dns_address: SocketAddr,
    management_address: SocketAddr,
    tsig_keys: Vec<TsigKey>,
    eab_keys: Vec<EabKey>,
    zones: Vec<Fqdn>,
    ledger: Ledger,
    faults: Arc<FaultState>,
    keeper: Option<Arc<Keeper>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Settings {
    acme_port: u16,
    dns_port: u16,
    management_port: u16,
    tsig_keys: Vec<TsigKey>,
    #[serde(default)]
    eab_keys: Vec<EabKey>,
}

impl Sandbox {
    /// Starts the servers; they answer when this returns. It needs a Tokio runtime with I/O and time.
    pub async fn start(mut options: SandboxOptions) -> Result<Self, SandboxError> {
        if !options.address.is_loopback() {
            return Err(SandboxError::NotLoopback { address: options.address });
        }
        if options.zones.is_empty() {
            let origin = Fqdn::new("example.test")
                .map_err(|error| SandboxError::Option { reason: error.to_string() })?;
            options.zones.push(ZoneOptions::new(origin));
        }
        let folder = options.folder.as_deref().map(Folder::open).transpose()?;
        let settings: Settings = read(folder.as_ref(), SETTINGS)?.unwrap_or_default();
        let port = |asked: u16, kept: u16| if asked == 0 { kept } else { asked };
        let sockets = Sockets::bind(options.address, port(options.dns_port, settings.dns_port)).await?;
        let dns_address = address_of(sockets.address(), "DNS")?;
        let acme = listen(options.address, port(options.acme_port, settings.acme_port), "ACME").await?;
        let acme_address = address_of(acme.local_addr(), "ACME")?;
        let management_port = port(options.management_port, settings.management_port);
        let management = listen(options.address, management_port, "management").await?;
        let management_address = address_of(management.local_addr(), "management")?;

        let tsig_keys = match (options.tsig_keys.is_empty(), settings.tsig_keys.is_empty()) {
            (false, _) => options.tsig_keys.clone(),
            (true, false) => settings.tsig_keys,
            (true, true) => vec![make_tsig_key()?],
        };
        // One that was made once stays known: a configuration with it goes on working.
        if options.eab_keys.is_empty() {
            options.eab_keys = settings.eab_keys;
        }
        if options.eab_keys.is_empty() && options.eab_required {
            options.eab_keys.push(make_eab_key()?);
        }
        let eab_keys = options.eab_keys.clone();
        let ledger = Ledger::new(options.clock.clone(), options.ledger_file.as_deref())?;
        let faults = Arc::new(FaultState::new(options.seed, options.faults.clone()));
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let changed = Arc::new(Notify::new());
        let notify = || -> Box<dyn Fn() + Send + Sync> {
            let changed = Arc::clone(&changed);
            Box::new(move || changed.notify_one())
        };

        let kept_zones: Vec<KeptZone> = read(folder.as_ref(), ZONES)?.unwrap_or_default();
        let dns = Arc::new(Dns::new(
            options.address,
            &options.zones,
            kept_zones,
            &tsig_keys,
            options.clock.clone(),
            Arc::clone(&faults),
            ledger.clone(),
            notify(),
        )?);
        let zones = options.zones.iter().map(|zone| zone.origin.clone()).collect();
        let kept: Kept = read(folder.as_ref(), STATE)?.unwrap_or_default();
        let surroundings = Surroundings {
            address: acme_address,
            resolver: dns_address,
            faults: Arc::clone(&faults),
            ledger: ledger.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            changed: notify(),
        };
        let ca = Arc::new(Ca::open(options, folder.as_ref(), kept, surroundings)?);
        let keeper = match folder {
            Some(folder) => {
                folder.write_json(
                    SETTINGS,
                    &Settings {
                        acme_port: acme_address.port(),
                        dns_port: dns_address.port(),
                        management_port: management_address.port(),
                        tsig_keys: tsig_keys.clone(),
                        eab_keys: eab_keys.clone(),
                    },
                )?;
                folder.write(BUNDLE, ca.roots().concat().as_bytes())?;
                let keeper = Arc::new(Keeper {
                    folder,
                    ca: Arc::clone(&ca),
                    dns: Arc::clone(&dns),
                    writing: Mutex::new(()),
                });
                let task = Arc::clone(&keeper);
                let token = stop.clone();
                tasks.spawn(async move { token.run_until_cancelled(task.run(changed)).await });
                Some(keeper)
            }
            None => None,
        };

        dns.serve(sockets, &tasks, &stop);
        ca::serve(&ca, acme, &stop)?;
        let sandbox = Self {
            ca,
            dns,
            dns_address,
            management_address,
            tsig_keys,
            eab_keys,
            zones,
            ledger,
            faults,
            keeper,
            tasks,
            stop,
        };
        let endpoint = Management {
            ledger: sandbox.ledger.clone(),
            faults: Arc::clone(&sandbox.faults),
            dns: Arc::clone(&sandbox.dns),
            roots: sandbox.ca.roots(),
            description: sandbox.describe(),
        };
        endpoint.serve(management, &sandbox.tasks, &sandbox.stop);
        Ok(sandbox)
    }

    /// The URL of the ACME directory.
    pub fn directory_url(&self) -> String {
        self.ca.directory_url()
    }

    /// The roots in PEM: what a client has to trust for the CA's HTTPS and for its certificates.
    pub fn ca_bundle_pem(&self) -> String {
        self.ca.roots().concat()
    }

    /// The root of the default chain and that of the alternate one, in PEM.
    pub fn roots(&self) -> [String; 2] {
        self.ca.roots()
    }

    /// Where the DNS server listens, with UDP and TCP.
    pub const fn dns_address(&self) -> SocketAddr {
        self.dns_address
    }

    /// Where `GET /ledger`, `GET /faults` and `PUT /faults` are answered.
    pub fn management_url(&self) -> String {
        format!("http://{}", self.management_address)
    }

    /// The keys that may update the zones.
    pub fn tsig_keys(&self) -> &[TsigKey] {
        &self.tsig_keys
    }

    /// The external account keys that the CA knows.
    pub fn eab_keys(&self) -> &[EabKey] {
        &self.eab_keys
    }

    /// The zones that the DNS server is authoritative for.
    pub fn zones(&self) -> &[Fqdn] {
        &self.zones
    }

    /// What happened so far, and what will.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The behaviour in force.
    pub fn faults(&self) -> Faults {
        self.faults.current()
    }

    /// Changes the behaviour; rules that count begin anew.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// Everything that the zones hold now, without SOA, whether queries see it yet or not.
    pub fn records(&self) -> Vec<ZoneRecord> {
        self.dns.records()
    }

    /// Adds a record as if by hand: for what belongs to someone else.
    pub fn insert_record(&self, record: &ZoneRecord) -> Result<(), SandboxError> {
        self.dns.insert(record)
    }

    /// Removes a record as if by hand; whether it was there.
    pub fn remove_record(&self, record: &ZoneRecord) -> Result<bool, SandboxError> {
        self.dns.remove(record)
    }

    /// Stops the servers, waits for what they are doing, and writes the folder.
    pub async fn shutdown(self) -> Result<(), SandboxError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        match &self.keeper {
            Some(keeper) => keeper.write(),
            None => Ok(()),
        }
    }

    /// What to write into `certplan.yaml` to use this sandbox, and what to set before.
    pub fn describe(&self) -> String {
        let bundle = self.keeper.as_ref().map_or_else(
            || "sandbox.pem".to_owned(),
            |keeper| keeper.folder.path_of(BUNDLE).display().to_string(),
        );
        let mut text = format!(
            "ACME directory  {}\nDNS server      {} (UDP and TCP)\nledger          {}/ledger\n\n",
            self.directory_url(),
            self.dns_address,
            self.management_url(),
        );
        text.push_str("Before the first run:\n\n");
        if self.keeper.is_none() {
            text.push_str(&format!("    curl -so sandbox.pem {}/roots\n", self.management_url()));
        }
        if let Some(key) = self.tsig_keys.first() {
            text.push_str(&format!("    export SANDBOX_TSIG_SECRET='{}'\n", key.secret));
        }
        if let Some(key) = self.eab_keys.first() {
            text.push_str(&format!(
                "    export SANDBOX_EAB_KEY_ID='{}'\n    export SANDBOX_EAB_HMAC_KEY='{}'\n",
                key.key_id, key.hmac_key
            ));
        }
        text.push_str(&format!(
            "\nIn certplan.yaml:\n\n    issuers:\n      sandbox:\n        acme:\n          directory: {}\n          ca_bundle: {bundle}\n          agree_tos: true\n",
            self.directory_url(),
        ));
        if !self.eab_keys.is_empty() {
            text.push_str(
                "          eab:\n            key_id: { env: SANDBOX_EAB_KEY_ID }\n            hmac_key: { env: SANDBOX_EAB_HMAC_KEY }\n",
            );
        }
        text.push_str("    defaults: { issuer: sandbox }\n");
        if let Some(key) = self.tsig_keys.first() {
            let zones = self.zones.iter().map(Fqdn::as_str).collect::<Vec<_>>().join(", ");
            text.push_str(&format!(
                "    dns:\n      sandbox:\n        rfc2136:\n          server: {address}\n          tsig:\n            name: {name}\n            algorithm: {algorithm}\n            secret: {{ env: SANDBOX_TSIG_SECRET }}\n        zones: [{zones}]\n        propagation: {{ resolvers: [\"{address}\"] }}\n",
                address = self.dns_address,
                name = key.name,
                algorithm = key.algorithm,
            ));
        }
        text
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("directory_url", &self.directory_url())
            .field("dns_address", &self.dns_address)
            .finish_non_exhaustive()
    }
}

/// Writes what changed to the folder.
struct Keeper {
    folder: Folder,
    ca: Arc<Ca>,
    dns: Arc<Dns>,
    writing: Mutex<()>,
}

impl Keeper {
    async fn run(self: Arc<Self>, changed: Arc<Notify>) {
        loop {
            changed.notified().await;
            sleep(GATHER).await;
            let keeper = Arc::clone(&self);
            match spawn_blocking(move || keeper.write()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the sandbox's folder cannot be written"),
                Err(error) => tracing::error!(%error, "writing the sandbox's folder failed"),
            }
        }
    }

    fn write(&self) -> Result<(), SandboxError> {
        // Before the state is read: of two writers, the later one writes the later state.
        let _writing = lock(&self.writing);
        self.folder.write_json(STATE, &self.ca.kept())?;
        self.folder.write_json(ZONES, &self.dns.kept())
    }
}

fn read<T: serde::de::DeserializeOwned>(
    folder: Option<&Folder>,
    name: &str,
) -> Result<Option<T>, SandboxError> {
    match folder {
        Some(folder) => folder.read_json(name),
        None => Ok(None),
    }
}

async fn listen(address: IpAddr, port: u16, purpose: &'static str) -> Result<TcpListener, SandboxError> {
    TcpListener::bind((address, port)).await.map_err(|source| SandboxError::Bind {
        address: SocketAddr::new(address, port).to_string(),
        purpose,
        source,
    })
}

fn address_of(
    address: std::io::Result<SocketAddr>,
    purpose: &'static str,
) -> Result<SocketAddr, SandboxError> {
    address.map_err(|source| SandboxError::Bind { address: "a bound socket".to_owned(), purpose, source })
}

/// A secret for HMAC-SHA-256.
fn make_secret() -> Result<[u8; 32], SandboxError> {
    let mut secret = [0; 32];
    rand::fill(&mut secret)
        .map_err(|_| SandboxError::Option { reason: "there is no randomness for a key".to_owned() })?;
    Ok(secret)
}

fn make_eab_key() -> Result<EabKey, SandboxError> {
    Ok(EabKey { key_id: "certplan-sandbox".to_owned(), hmac_key: URL_SAFE_NO_PAD.encode(make_secret()?) })
}

fn make_tsig_key() -> Result<TsigKey, SandboxError> {
    let name =
        Fqdn::new("certplan-sandbox").map_err(|error| SandboxError::Option { reason: error.to_string() })?;
    Ok(TsigKey { name, algorithm: TsigAlgorithm::default(), secret: STANDARD.encode(make_secret()?) })
}

/// Locks; a panic elsewhere does not stop the servers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
