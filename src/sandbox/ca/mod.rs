//! An ACME certification authority ([RFC 8555](https://www.rfc-editor.org/rfc/rfc8555),
//! [RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)) that is strict where Let's Encrypt is.

mod account;
mod authority;
mod authorization;
mod certificate;
mod csr;
mod finalize;
mod jws;
mod nonces;
mod order;
mod problem;
mod server;
mod store;
mod validation;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::authority::Authority;
use self::nonces::Nonces;
pub(super) use self::server::serve;
pub(super) use self::store::Kept;
use self::store::Store;
use super::FaultState;
use super::Ledger;
use super::SandboxError;
use super::SandboxOptions;
use super::folder::Folder;
use super::lock;

/// The CA's state.
pub(super) struct Ca {
    options: SandboxOptions,
    /// `https://address:port`, without a slash at its end.
    base: String,
    authority: Authority,
    nonces: Nonces,
    store: Mutex<Store>,
    /// The secrets of the external account keys.
    eab_keys: BTreeMap<String, Vec<u8>>,
    /// Who is asked when a name is validated.
    resolver: SocketAddr,
    faults: Arc<FaultState>,
    ledger: Ledger,
    tasks: TaskTracker,
    stop: CancellationToken,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// What a [`Ca`] is given besides its options.
pub(super) struct Surroundings {
    pub(super) address: SocketAddr,
    pub(super) resolver: SocketAddr,
    pub(super) faults: Arc<FaultState>,
    pub(super) ledger: Ledger,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) changed: Box<dyn Fn() + Send + Sync>,
}

impl Ca {
    pub(super) fn open(
        options: SandboxOptions,
        folder: Option<&Folder>,
        kept: Kept,
        surroundings: Surroundings,
    ) -> Result<Self, SandboxError> {
        if !options.profiles.contains_key(&options.default_profile) {
            return Err(SandboxError::Option {
                reason: format!("the default profile `{}` is not a profile", options.default_profile),
            });
        }
        let mut eab_keys = BTreeMap::new();
        for key in &options.eab_keys {
            let secret = URL_SAFE_NO_PAD.decode(key.hmac_key.trim_end_matches('=')).map_err(|_| {
                SandboxError::Option {
                    reason: format!(
                        "the external account key `{}` is not base64url",
                        key.key_id.escape_debug()
                    ),
                }
            })?;
            eab_keys.insert(key.key_id.clone(), secret);
        }
        let authority = Authority::open(options.clock.now(), folder)?;
        Ok(Self {
            base: format!("https://{}", surroundings.address),
            authority,
            nonces: Nonces::default(),
            store: Mutex::new(Store::open(kept)),
            eab_keys,
            resolver: options.resolver.unwrap_or(surroundings.resolver),
            faults: surroundings.faults,
            ledger: surroundings.ledger,
            tasks: surroundings.tasks,
            stop: surroundings.stop,
            changed: surroundings.changed,
            options,
        })
    }

    /// Where clients begin.
    pub(super) fn directory_url(&self) -> String {
        format!("{}/directory", self.base)
    }

    /// The roots as PEM, that of the default chain first.
    pub(super) fn roots(&self) -> [String; 2] {
        self.authority.roots()
    }

    /// Everything that is to be kept.
    pub(super) fn kept(&self) -> Kept {
        self.store().kept.clone()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Works on something after the answer; given up when the sandbox stops.
    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled(work).await;
        });
    }

    fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    fn account_url(&self, id: u64) -> String {
        format!("{}/account/{id}", self.base)
    }

    fn authorization_url(&self, id: u64) -> String {
        format!("{}/authorization/{id}", self.base)
    }

    fn order_url(&self, id: u64) -> String {
        format!("{}/order/{id}", self.base)
    }
}

/// 128 random bits in base64url: what nonces and tokens are.
fn random_text() -> String {
    let mut octets = [0; 16];
    // The library ends the process by itself when the system has no randomness.
    rand::fill(&mut octets).expect("the system has randomness");
    URL_SAFE_NO_PAD.encode(octets)
}
