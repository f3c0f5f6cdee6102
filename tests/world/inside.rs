//! A run inside the test's own process, in which everything that is not certplan's own can fail, wait or panic: DNS
//! providers, targets, the store, whoever takes events.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeSettings;
use certplan::apply;
use certplan::apply::ApplyOptions;
use certplan::apply::Event;
use certplan::apply::LeasedZones;
use certplan::apply::Outcome;
use certplan::apply::Reporter;
use certplan::config;
use certplan::dns01::Alias;
use certplan::dns01::Authorities;
use certplan::dns01::Client;
use certplan::dns01::ConfiguredDns;
use certplan::dns01::Exchange;
use certplan::dns01::Lookup;
use certplan::dns01::LookupError;
use certplan::dns01::Path as LookupPath;
use certplan::dns01::Poller;
use certplan::dns01::Providers;
use certplan::dns01::Surveyor;
use certplan::dns01::Unwatched;
use certplan::dns01::ZoneWriters;
use certplan::model::Address;
use certplan::model::Bundle;
use certplan::model::CertificateRecord;
use certplan::model::Deployed;
use certplan::model::Desired;
use certplan::model::Name;
use certplan::model::Receipt;
use certplan::model::Slot;
use certplan::model::Zone;
use certplan::plan;
use certplan::plan::Plan;
use certplan::plan::PlanInput;
use certplan::plan::PlanOptions;
use certplan::plan::Prior;
use certplan::plan::PriorAccount;
use certplan::plan::PriorCertificate;
use certplan::refresh::Refresh;
use certplan::registry::BUILTIN;
use certplan::state::BootClock;
use certplan::state::Expected;
use certplan::state::Holder;
use certplan::state::Identities;
use certplan::state::Leases;
use certplan::state::LocalStore;
use certplan::state::ObjectKey;
use certplan::state::Revise;
use certplan::state::Sealer;
use certplan::state::State;
use certplan::state::Store;
use certplan::state::StoreError;
use certplan::state::Version;
use certplan::state::Versioned;
use certplan_provider::BuildContext;
use certplan_provider::Capabilities;
use certplan_provider::ChangeRef;
use certplan_provider::ChangeStatus;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::DnsLimits;
use certplan_provider::DnsProvider;
use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::TxtChange;
use certplan_provider::Unresolved;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::SECRET;
use super::World;

/// A call that a run makes to something outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which: `change`, `deploy`, `put`, and `written` after a put; `event` for what is reported.
    pub what: &'static str,
    /// The provider or target; empty for the store.
    pub of: String,
    /// The place: a name, a location, a key; an event in JSON.
    pub at: String,
}

/// What happens before a call is passed on: it may wait, fail or panic.
pub type Hook = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<(), ProviderError>> + Send + Sync>;

/// A hook that does something at once.
pub fn hook(act: impl Fn(&Call) -> Result<(), ProviderError> + Send + Sync + 'static) -> Hook {
    Arc::new(move |call| {
        let outcome = act(&call);
        async move { outcome }.boxed()
    })
}

/// Runs of one project, in this process.
#[derive(Clone)]
pub struct Inside {
    base: PathBuf,
    identity: String,
    secret: String,
    dns: SocketAddr,
    common: Arc<Common>,
    /// How a run goes about its work.
    pub options: ApplyOptions,
    /// What is asked of the plan.
    pub plan: PlanOptions,
    /// Cancels the run.
    pub cancel: CancellationToken,
}

/// What all runs share.
struct Common {
    hook: Mutex<Hook>,
    calls: Mutex<Vec<Call>>,
    written: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Common {
    fn note(
        &self,
        what: &'static str,
        of: &str,
        at: String,
    ) -> BoxFuture<'static, Result<(), ProviderError>> {
        let call = Call { what, of: of.to_owned(), at };
        self.calls.lock().expect("no test panics in here").push(call.clone());
        let hook = Arc::clone(&self.hook.lock().expect("no test panics in here"));
        hook(call)
    }

    /// The same for a call that cannot wait.
    fn note_now(&self, what: &'static str, of: &str, at: String) {
        let _ = self.note(what, of, at).now_or_never();
    }
}

impl Inside {
    /// Runs in a world's folder, against its servers.
    pub fn new(world: &World) -> Self {
        Self {
            base: world.project.path().to_owned(),
            identity: world.project.read("identity.txt"),
            secret: world.sandbox.tsig_keys()[0].secret.clone(),
            dns: world.sandbox.dns_address(),
            common: Arc::new(Common {
                hook: Mutex::new(hook(|_| Ok(()))),
                calls: Mutex::default(),
                written: Mutex::default(),
            }),
            options: ApplyOptions::default(),
            plan: PlanOptions::default(),
            cancel: CancellationToken::new(),
        }
    }

    /// Puts a hook into the place of the one before.
    pub fn hook(&self, hook: Hook) {
        *self.common.hook.lock().expect("no test panics in here") = hook;
    }

    /// The calls so far.
    pub fn calls(&self, what: &str) -> Vec<Call> {
        let calls = self.common.calls.lock().expect("no test panics in here");
        calls.iter().filter(|call| call.what == what).cloned().collect()
    }

    /// What was written to the store so far at keys that end so, in order.
    pub fn written(&self, end: &str) -> Vec<serde_json::Value> {
        let written = self.common.written.lock().expect("no test panics in here");
        let wanted = written.iter().filter(|(key, _)| key.ends_with(end));
        wanted.map(|(_, bytes)| serde_json::from_slice(bytes).expect("state is JSON")).collect()
    }

    /// Plans and applies; fails when that does not end.
    pub fn run(&self, world: &World) -> Outcome {
        let ended = world
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), self.apply()).await });
        ended.expect("the run ends")
    }

    /// Plans and applies beside another run.
    pub async fn beside(self) -> Outcome {
        let run = move || tokio::runtime::Runtime::new().expect("a runtime").block_on(self.apply());
        tokio::task::spawn_blocking(run).await.expect("the run does not panic")
    }

    async fn apply(&self) -> Outcome {
        let loaded = config::load(&self.base.join("certplan.yaml"), &BUILTIN).expect("a configuration");
        let desired = Arc::new(loaded.desired);
        let secrets: Arc<dyn SecretResolver> = Arc::new(Secrets(self.secret.clone()));
        let build = BuildContext::new(Arc::clone(&secrets), self.base.clone(), "test".to_owned());
        let run = random_id();
        let store: Arc<dyn Store> = Arc::new(Meddled {
            inner: LocalStore::new(self.base.join(".certplan/state")),
            of: String::new(),
            common: Arc::clone(&self.common),
        });
        let state = Arc::new(State::new(Arc::clone(&store), desired.project.clone(), run.clone()));
        let holder = Holder::current(&|_| None, &run);
        let leases = Arc::new(Leases::new(store, holder, Duration::from_secs(60), Arc::new(BootClock)));
        let lineage = state.initialize(now()).await.expect("a state");
        let issuers = self.issuers(&desired);
        let providers = Arc::new(self.providers(&desired, &build));
        let targets = self.targets(&desired, &build);
        let lookup: Arc<dyn Lookup> = Arc::new(NoAliases(Arc::clone(&self.common)));
        let context = Context::new(now(), self.cancel.clone());
        let snapshot = state.snapshot().await.expect("a good state");
        let mut prior = Prior { lineage: snapshot.lineage, ..Prior::default() };
        for (name, stored) in snapshot.certificates {
            let revision = stored.revision();
            let known = PriorCertificate::new(stored.content, revision, desired.encryption.as_ref());
            prior.certificates.insert(name, known);
        }
        for (name, stored) in snapshot.accounts {
            let revision = stored.revision();
            prior.accounts.insert(name, PriorAccount { record: *stored.content, revision });
        }
        let plan = {
            let refresh = Refresh {
                desired: &desired,
                records: prior
                    .certificates
                    .iter()
                    .map(|(name, known)| (name, known.record.as_ref()))
                    .collect(),
                issuers: &issuers,
                providers: &providers,
                lookup: lookup.as_ref(),
                targets: &targets,
                context: &context,
            };
            self.plan(&desired, &prior, &refresh).await
        };
        let operations = prior.certificates.values().filter_map(|known| known.record.operation.as_ref());
        let journaled = operations.map(|operation| (operation.id.clone(), operation.txt.clone())).collect();
        let exchange: Arc<dyn Exchange> = Arc::new(Client::default());
        let surveyor: Arc<dyn Surveyor> = Arc::new(Authorities::new(Arc::clone(&exchange)));
        let poller = Poller::new(Arc::clone(&providers), exchange, surveyor, vec![self.dns]);
        let guard = Arc::new(LeasedZones::new(Arc::clone(&leases), Duration::ZERO, CancellationToken::new()));
        let identities = Identities::from_texts([self.identity.as_str()]).expect("an identity");
        let sealer = desired
            .encryption
            .as_ref()
            .map(|encryption| Arc::new(Sealer::new(encryption, identities).expect("recipients")));
        let world = apply::World {
            writers: ZoneWriters::new(Arc::clone(&providers), context.clone(), guard, Arc::new(Unwatched)),
            propagation: Arc::new(poller),
            reporter: Arc::new(Ear(Arc::clone(&self.common))),
            clock: Arc::new(now),
            random_id: Arc::new(random_id),
            options: self.options.clone(),
            desired,
            state,
            lineage,
            leases,
            sealer,
            secrets,
            issuers,
            providers,
            lookup,
            journaled,
            targets,
            context,
        };
        apply::apply(world, &plan, &BTreeMap::new()).await
    }

    async fn plan(&self, desired: &Desired, prior: &Prior, refresh: &Refresh<'_>) -> Plan {
        let input = |observed| {
            let options = &self.plan;
            plan::plan(&PlanInput { desired, prior, observed, now: refresh.context.now, options })
        };
        let mut observed = refresh.observe(|_| true).await;
        let issuers: BTreeSet<Name> = desired.issuers.keys().cloned().collect();
        let names =
            desired.certificates.values().flat_map(|certificate| &certificate.names).cloned().collect();
        refresh.prepare(&mut observed, &issuers, &names).await;
        input(&observed)
    }

    fn issuers(&self, desired: &Desired) -> BTreeMap<Name, Arc<AcmeClient>> {
        let clients = desired.issuers.iter().map(|(name, issuer)| {
            let acme = issuer.acme();
            let mut settings = AcmeSettings::new(acme.directory.clone());
            let bundle =
                acme.ca_bundle.as_ref().map(|path| std::fs::read(self.base.join(path)).expect("it is there"));
            settings.ca_bundle = bundle;
            settings.cancel = self.cancel.clone();
            (name.clone(), AcmeClient::new(settings).expect("good settings"))
        });
        clients.collect()
    }

    fn providers(&self, desired: &Desired, build: &BuildContext) -> Providers {
        let built = desired.dns.iter().map(|(name, wanted)| {
            let factory = BUILTIN.dns_factory(&wanted.kind).expect("it is built in");
            let inner = (factory.build)(&wanted.block, build).expect("a good block");
            let meddled = Meddled { inner, of: name.to_string(), common: Arc::clone(&self.common) };
            (
                name.clone(),
                ConfiguredDns::new(Arc::new(meddled), wanted.zones.clone(), wanted.propagation.clone()),
            )
        });
        built.collect()
    }

    fn targets(&self, desired: &Desired, build: &BuildContext) -> BTreeMap<Name, Arc<dyn DeployTarget>> {
        let built = desired.targets.iter().map(|(name, wanted)| {
            let factory = BUILTIN.target_factory(&wanted.kind).expect("it is built in");
            let inner = (factory.build)(&wanted.block, build).expect("a good block");
            let meddled = Meddled { inner, of: name.to_string(), common: Arc::clone(&self.common) };
            (name.clone(), Arc::new(meddled) as Arc<dyn DeployTarget>)
        });
        built.collect()
    }
}

/// A certificate's record as it is in the store.
pub fn record(world: &World, certificate: &str) -> CertificateRecord {
    let found = world.runtime.block_on(world.state().certificate(&super::name(certificate)));
    found.expect("a good state").expect("it is there").content
}

/// Forgets how often a certificate failed, so that the next run does not wait for its turn.
pub fn forget_failures(world: &World, certificate: &str) {
    let (state, certificate) = (world.state(), super::name(certificate));
    world.runtime.block_on(async {
        let Some(mut stored) = state.certificate(&certificate).await.expect("a good state") else { return };
        stored.content.failures = None;
        let saved = state.save_certificate(&certificate, &mut stored, Revise::Bump).await;
        saved.expect("it is written");
    });
}

/// The address of a certificate.
pub fn address(certificate: &str) -> Address {
    Address::Certificate(super::name(certificate))
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn random_id() -> String {
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}

/// Knows the one secret of the world.
#[derive(Debug)]
struct Secrets(String);

impl SecretResolver for Secrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        match reference {
            SecretRef::Env(name) if name == SECRET => Ok(Secret::new(self.0.clone())),
            _ => Err(Unresolved { reference: reference.clone(), reason: "is not set".to_owned() }),
        }
    }
}

/// Something outside, with a hook before each call.
struct Meddled<T> {
    inner: T,
    of: String,
    common: Arc<Common>,
}

impl<T> Meddled<T> {
    async fn note(&self, what: &'static str, at: impl Into<String>) -> Result<(), ProviderError> {
        self.common.note(what, &self.of, at.into()).await
    }
}

impl<T> fmt::Debug for Meddled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddled").field("of", &self.of).finish_non_exhaustive()
    }
}

#[async_trait]
impl DnsProvider for Meddled<Arc<dyn DnsProvider>> {
    fn limits(&self) -> DnsLimits {
        self.common.note_now("limits", &self.of, String::new());
        self.inner.limits()
    }

    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        self.note("zones_for", name.to_string()).await?;
        self.inner.zones_for(context, name).await
    }

    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        self.note("txt", name.to_string()).await?;
        self.inner.txt(context, zone, name).await
    }

    /// The reference tells the provider, so that a mix-up is seen.
    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError> {
        let what = if change.removals.is_empty() { "add" } else { "remove_txt" };
        let names = change.additions.iter().chain(&change.removals).map(|record| record.name.to_string());
        self.note(what, names.collect::<Vec<_>>().join(" ")).await?;
        let reference = self.inner.change(context, zone, change).await?;
        Ok(ChangeRef(format!("{}:{}", self.of, reference.0)))
    }

    async fn status(
        &self,
        context: &Context,
        zone: &Zone,
        change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError> {
        let own = change.0.strip_prefix(&format!("{}:", self.of)).expect("a reference of this provider");
        self.inner.status(context, zone, &ChangeRef(own.to_owned())).await
    }
}

#[async_trait]
impl DeployTarget for Meddled<Arc<dyn DeployTarget>> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn slot(&self, certificate: &str, parameters: &serde_json::Value) -> Result<Slot, Vec<Complaint>> {
        self.common.note_now("slot", &self.of, certificate.to_owned());
        self.inner.slot(certificate, parameters)
    }

    async fn identity(&self, slot: &Slot) -> String {
        let _ = self.note("identity", &slot.location).await;
        self.inner.identity(slot).await
    }

    async fn observe(&self, context: &Context, slot: &Slot) -> Result<Option<Deployed>, ProviderError> {
        self.note("observe", &slot.location).await?;
        self.inner.observe(context, slot).await
    }

    async fn check(&self, context: &Context, slot: &Slot) -> Result<(), ProviderError> {
        self.inner.check(context, slot).await
    }

    async fn deploy(
        &self,
        context: &Context,
        slot: &Slot,
        bundle: &Bundle,
        expected: Option<&Deployed>,
    ) -> Result<Receipt, ProviderError> {
        self.note("deploy", &slot.location).await?;
        self.inner.deploy(context, slot, bundle, expected).await
    }

    async fn commit(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        self.note("commit", &slot.location).await?;
        self.inner.commit(context, slot, receipt).await
    }

    async fn rollback(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        self.note("rollback", &slot.location).await?;
        self.inner.rollback(context, slot, receipt).await
    }

    async fn remove(
        &self,
        context: &Context,
        slot: &Slot,
        expected: Option<&Deployed>,
        receipt: Option<&Receipt>,
    ) -> Result<(), ProviderError> {
        self.note("remove", &slot.location).await?;
        self.inner.remove(context, slot, expected, receipt).await
    }
}

#[async_trait]
impl Store for Meddled<LocalStore> {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>, expected: &Expected) -> Result<Version, StoreError> {
        let failed = |source: ProviderError| StoreError::Failed {
            location: key.to_string(),
            action: "write",
            source: source.into(),
        };
        self.note("put", key.as_str()).await.map_err(failed)?;
        let version = self.inner.put(key, bytes.clone(), expected).await?;
        self.common.written.lock().expect("no test panics in here").push((key.to_string(), bytes));
        self.note("written", key.as_str()).await.map_err(failed)?;
        Ok(version)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _ = self.note("delete", key.as_str()).await;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError> {
        self.inner.list(prefix).await
    }
}

/// A world without CNAMEs.
struct NoAliases(Arc<Common>);

impl fmt::Debug for NoAliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoAliases")
    }
}

#[async_trait]
impl Lookup for NoAliases {
    async fn alias(&self, name: &Fqdn, _: LookupPath<'_>) -> Result<Alias, LookupError> {
        match self.0.note("alias", "", name.to_string()).await {
            Ok(()) => Ok(Alias::None),
            Err(error) => {
                Err(LookupError::Resolvers { name: name.clone(), reasons: vec![error.to_string()] })
            }
        }
    }
}

/// Hears events.
struct Ear(Arc<Common>);

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

impl Reporter for Ear {
    fn report(&self, event: Event) {
        self.0.note_now("event", "", serde_json::to_string(&event).expect("an event is JSON"));
    }
}
