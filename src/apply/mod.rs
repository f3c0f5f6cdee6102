//! The journaled execution of a plan: many certificates at once, each one killable at any point.
//!
//! The rule of every step: **persist the intent, do the effect, persist the outcome**. The journal is the `operation`
//! in a certificate's object ([`crate::model::Operation`]); `certificate` drives it, `issue` brings it from an
//! intent to a certificate, `deploy` from there to targets that serve it, `clean_up` takes its TXT values away, and
//! `account` does the same for accounts.
//! One certificate's failure is its own: the others go on.

mod account;
mod backoff;
mod certificate;
mod clean_up;
mod deploy;
mod error;
mod event;
mod guard;
mod in_use;
mod issue;
mod journal;
mod key_ring;
mod places;
mod unfinished;
mod zones;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::SecretResolver;
use certplan_provider::message_of;
use jiff::Timestamp;
use tokio::sync::OnceCell;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::acme::AcmeClient;
use crate::acme::Session;
use crate::dns01::ConfiguredDns;
use crate::dns01::Lookup;
use crate::dns01::Poller;
use crate::dns01::Providers;
use crate::dns01::ZoneWriters;
use crate::model::AcmeIssuer;
use crate::model::Address;
use crate::model::AriRecord;
use crate::model::Desired;
use crate::model::JournaledTxt;
use crate::model::Name;
use crate::plan::CertificateWork;
use crate::plan::Plan;
use crate::state::Lease;
use crate::state::LeaseError;
use crate::state::LeaseKey;
use crate::state::Leases;
use crate::state::Place;
use crate::state::Revise;
use crate::state::Sealer;
use crate::state::State;
use crate::state::Stored;

pub use error::ApplyError;
pub use event::Event;
pub use event::Reporter;
pub use event::Silent;
pub use event::Step;
pub use zones::LeasedZones;
pub use zones::ReportedZones;

use guard::guarded;
use in_use::InUse;
use key_ring::KeyRing;
use places::Places;

/// How a run goes about its work.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// How many certificates are open at once: enough for the zones' writers to gather large changes.
    pub open_certificates: usize,
    /// How long to wait for a lease that another run holds.
    pub lock_timeout: Duration,
    /// How long to wait for the CA to validate or to issue before the next run goes on with it.
    pub ca_patience: Duration,
    /// How long a target may take until it serves what it was given.
    pub serve_patience: Option<Duration>,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            open_certificates: 1_000,
            lock_timeout: Duration::ZERO,
            ca_patience: Duration::from_secs(300),
            serve_patience: None,
        }
    }
}

/// Everything that a run works with. The edge builds it; nothing in here reads a clock or the environment.
pub struct World {
    /// What the user wants.
    pub desired: Arc<Desired>,
    /// What is known.
    pub state: Arc<State>,
    /// The lineage of that state.
    pub lineage: String,
    /// Who works on what.
    pub leases: Arc<Leases>,
    /// Seals and opens keys; `None` without `encryption:`.
    pub sealer: Option<Arc<Sealer>>,
    /// Resolves references to secrets.
    pub secrets: Arc<dyn SecretResolver>,
    /// A client per issuer.
    pub issuers: BTreeMap<Name, Arc<AcmeClient>>,
    /// The DNS providers.
    pub providers: Arc<Providers>,
    /// Looks up names for delegation.
    pub lookup: Arc<dyn Lookup>,
    /// One writer per zone.
    pub writers: Arc<ZoneWriters>,
    /// Waits until values can be seen.
    pub propagation: Arc<Poller>,
    /// The TXT values that open operations listed when the run began, by operation.
    pub journaled: BTreeMap<String, Vec<JournaledTxt>>,
    /// The deploy targets.
    pub targets: BTreeMap<Name, Arc<dyn DeployTarget>>,
    /// Takes events.
    pub reporter: Arc<dyn Reporter>,
    /// Cancelled by the first Ctrl-C.
    pub context: Context,
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// 128 random bits in hexadecimal.
    pub random_id: Arc<dyn Fn() -> String + Send + Sync>,
    /// How to go about it.
    pub options: ApplyOptions,
}

/// What became of each certificate.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Certificates that are as they should be.
    pub done: BTreeSet<Name>,
    /// How many accounts were changed.
    pub accounts: usize,
    /// Certificates that failed, and why; each was reported.
    pub failed: BTreeMap<Address, ApplyError>,
}

/// A run over a plan.
pub(crate) struct Apply {
    world: World,
    sessions: BTreeMap<Name, OnceCell<Session>>,
    in_use: InUse,
    keys: KeyRing,
    places: Places,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("lineage", &self.lineage).finish_non_exhaustive()
    }
}

impl std::ops::Deref for Apply {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// Carries out a plan. `ari` is what the refresh learned of renewal windows, to be remembered.
pub async fn apply(world: World, plan: &Plan, ari: &BTreeMap<Name, AriRecord>) -> Outcome {
    // What was down while it was planned may be up again.
    world.providers.values().for_each(ConfiguredDns::forget_failures);
    world.issuers.values().for_each(|issuer| issuer.forget_failure());
    let sessions = world.issuers.keys().map(|issuer| (issuer.clone(), OnceCell::new())).collect();
    let places = Places::of_kinds(world.desired.targets.values().map(|target| target.kind.clone()));
    let run = Arc::new(Apply { world, sessions, in_use: InUse::default(), keys: KeyRing::default(), places });
    let mut outcome = Outcome::default();
    let handoffs = run.state.handoffs().await.unwrap_or_default();
    let work = plan.work();
    run.rename(&work, &mut outcome).await;
    run.carry_out(plan, work, &mut outcome).await;
    let tidied = guarded(async {
        run.remember_ari(ari, &outcome).await;
        run.collect_handoffs(&handoffs).await;
        Ok(())
    });
    if let Err(error) = tidied.await {
        tracing::warn!(%error, "what the next run would know or find tidied is left to it");
    }
    outcome
}

impl Apply {
    /// Does everything at once; a certificate waits for its own account only.
    async fn carry_out(
        self: &Arc<Self>,
        plan: &Plan,
        work: BTreeMap<Name, CertificateWork>,
        outcome: &mut Outcome,
    ) {
        let open = Arc::new(Semaphore::new(self.options.open_certificates.max(1)));
        let mut tasks = JoinSet::new();
        let mut addresses = HashMap::new();
        let mut opened = BTreeMap::new();
        for issuer in plan.accounts() {
            let (sender, receiver) = watch::channel(None);
            opened.insert(issuer.clone(), receiver);
            let (run, address) = (Arc::clone(self), Address::Account(issuer.clone()));
            let task = tasks.spawn(async move {
                run.start(Address::Account(issuer.clone()));
                let session = guarded(run.session(&issuer)).await;
                sender.send_replace(Some(session.as_ref().map(|_| ()).map_err(ApplyError::is_deferral)));
                session.map(|_| ())
            });
            addresses.insert(task.id(), address);
        }
        let updated = plan.updated_accounts();
        for issuer in &updated {
            let (run, issuer) = (Arc::clone(self), issuer.clone());
            let address = Address::Account(issuer.clone());
            // An account that cannot be changed stays as it was, and certificates are ordered with it.
            let task = tasks.spawn(async move {
                run.start(Address::Account(issuer.clone()));
                guarded(run.update_account(&issuer)).await
            });
            addresses.insert(task.id(), address);
        }
        for (name, work) in work {
            if outcome.failed.contains_key(&Address::Certificate(name.clone())) {
                continue;
            }
            let account = work.account.as_ref().and_then(|issuer| opened.get(issuer)).cloned();
            let (run, open) = (Arc::clone(self), Arc::clone(&open));
            let task = tasks.spawn(async move {
                if let (Some(mut account), Some(issuer)) = (account, &work.account) {
                    // Asking the CA once more for each certificate would be as many failures more.
                    let opened =
                        account.wait_for(Option::is_some).await.map_or(Some(Err(false)), |opened| *opened);
                    if let Some(Err(is_deferral)) = opened {
                        return Err(ApplyError::NoAccount { issuer: issuer.clone(), is_deferral });
                    }
                }
                let _permit = open.acquire().await.map_err(|_| ApplyError::Interrupted)?;
                if run.context.cancel.is_cancelled() {
                    return Err(ApplyError::Interrupted);
                }
                run.certificate(&work).await
            });
            addresses.insert(task.id(), Address::Certificate(name));
        }
        while let Some(joined) = tasks.join_next_with_id().await {
            let (id, ended) = match joined {
                Ok((id, ended)) => (id, ended),
                // Nobody aborts one, so it panicked where nothing else caught that: it is lost, and the others go on.
                Err(lost) => (lost.id(), Err(ApplyError::Panicked)),
            };
            match (addresses.remove(&id), ended) {
                (Some(Address::Certificate(name)), Ok(())) => {
                    outcome.done.insert(name);
                }
                (Some(Address::Account(issuer)), Ok(())) => {
                    outcome.accounts += usize::from(updated.contains(&issuer));
                }
                (Some(address), Err(error)) => self.fail(address, error, outcome),
                (Some(Address::Deployment(..)) | None, _) => {}
            }
        }
    }

    fn start(&self, address: Address) {
        self.reporter.report(Event::ApplyStart { address, resumed: false });
    }

    fn fail(&self, address: Address, error: ApplyError, outcome: &mut Outcome) {
        // What a stopped run leaves undone is no failure of the certificate.
        let error = if self.context.cancel.is_cancelled() { ApplyError::Interrupted } else { error };
        let message = message_of(&error);
        self.reporter.report(match error {
            // Nor is what another run did.
            ApplyError::Stale { .. } => Event::ApplyOvertaken { address: address.clone(), message },
            _ => Event::ApplyErrored { address: address.clone(), message, help: error.help() },
        });
        outcome.failed.insert(address, error);
    }

    /// Renames records before anything works on them.
    async fn rename(&self, work: &BTreeMap<Name, CertificateWork>, outcome: &mut Outcome) {
        for work in work.values() {
            let Some(from) = &work.rename else { continue };
            if let Err(error) = guarded(self.rename_one(from, work)).await {
                self.fail(Address::Certificate(work.name.clone()), error, outcome);
            }
        }
    }

    async fn rename_one(&self, from: &Name, work: &CertificateWork) -> Result<(), ApplyError> {
        let stored = self.state.certificate(from).await?;
        let found = stored.as_ref().map_or(0, Stored::revision);
        let Some(mut stored) = stored.filter(|_| found == work.base_revision) else {
            return Err(ApplyError::Stale { planned: work.base_revision, found });
        };
        stored.content.formerly.push(from.clone());
        self.state.rename_certificate(from, &work.name, stored).await?;
        Ok(())
    }

    /// Remembers renewal windows of certificates that nothing else was done for. A lost write only costs a question.
    async fn remember_ari(&self, ari: &BTreeMap<Name, AriRecord>, outcome: &Outcome) {
        for (name, window) in ari {
            if outcome.failed.contains_key(&Address::Certificate(name.clone()))
                || self.context.cancel.is_cancelled()
            {
                continue;
            }
            let saved = async {
                let Some(mut stored) = self.state.certificate(name).await? else { return Ok(()) };
                let current = stored.content.current.as_ref().map(|current| current.facts.fingerprint);
                // Another run's operation is not disturbed: its next write would find that somebody else wrote.
                if current != Some(window.fingerprint) || stored.content.operation.is_some() {
                    return Ok(());
                }
                stored.content.ari = Some(window.clone());
                self.state.save_certificate(name, &mut stored, Revise::Keep).await
            };
            if let Err(error) = saved.await {
                tracing::debug!(%error, certificate = %name, "renewal information not remembered");
            }
        }
    }

    /// Deletes hand-offs that were there when the run began and belong to no open operation: a killed run may leave one.
    async fn collect_handoffs(&self, handoffs: &[String]) {
        let collected = async {
            if handoffs.is_empty() {
                return Ok(());
            }
            let open = self.state.open_operations().await?;
            for orphan in handoffs.iter().filter(|operation| !open.contains(*operation)) {
                self.state.delete_handoff(orphan).await?;
            }
            Ok::<_, crate::state::StateError>(())
        };
        if let Err(error) = collected.await {
            tracing::warn!(%error, "hand-offs of closed operations are left");
        }
    }

    fn step(&self, address: Address, step: Step) {
        self.reporter.report(Event::ApplyProgress { address, step });
    }

    /// Acquires a lease; an interrupted run does not wait for one.
    async fn lease(&self, key: &LeaseKey, address: &Address) -> Result<Lease, ApplyError> {
        let told = |error: &LeaseError| {
            let LeaseError::Held { stale_in, .. } = error else { return };
            let message = format!(
                "{error}, which has shown no sign of life so far: waiting for one, or up to {} s until its lease is free",
                stale_in.as_secs()
            );
            self.reporter.report(Event::Warning { address: address.clone(), message });
        };
        let wait = self.options.lock_timeout;
        Ok(self.leases.acquire_or_outwait(key, wait, &self.context.cancel, told).await?)
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn sealer(&self) -> Result<&Sealer, ApplyError> {
        self.sealer.as_deref().ok_or(ApplyError::Unencrypted)
    }

    fn place(&self, address: Address) -> Result<Place, ApplyError> {
        Ok(Place { lineage: self.lineage.clone(), address })
    }

    fn issuer(&self, issuer: &Name) -> Result<(&Arc<AcmeClient>, &AcmeIssuer), ApplyError> {
        match (self.issuers.get(issuer), self.desired.issuers.get(issuer)) {
            (Some(client), Some(desired)) => Ok((client, desired.acme())),
            _ => Err(ApplyError::UnknownIssuer { issuer: issuer.clone() }),
        }
    }
}
