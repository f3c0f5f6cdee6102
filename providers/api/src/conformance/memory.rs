use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;

use crate::context::Context;
use crate::dns::ChangeRef;
use crate::dns::ChangeStatus;
use crate::dns::DnsLimits;
use crate::dns::DnsProvider;
use crate::dns::TxtChange;
use crate::dns::TxtRecord;
use crate::dns::Zone;
use crate::error::ProviderError;
use crate::error::ProviderErrorKind;
use crate::fqdn::Fqdn;

/// A DNS service in memory: the reference that the conformance tests are tried on, and the peer of tests that need none.
///
/// It is strict where a real service may be: it refuses changes above its limit, names outside the zone, values that no
/// character string holds, a record named twice in one change, and zones that it does not have. With
/// [`DnsLimits::compare_and_swap`] off it loses updates the way a service does that reads, merges and writes: two
/// overlapping changes at one name leave the later writer's set, so that a caller without a lease is found out.
///
/// Everything it is asked is in the [ledger](Self::ledger), in the order of the effects. It has no clock and no randomness.
#[derive(Debug)]
pub struct MemoryDns {
    limits: DnsLimits,
    inner: Mutex<Inner>,
}

/// The values at the names of one zone.
type Content = BTreeMap<Fqdn, BTreeSet<String>>;

#[derive(Debug, Default)]
struct Inner {
    zones: BTreeMap<String, (Fqdn, Content)>,
    ledger: Vec<Call>,
    faults: VecDeque<Fault>,
    latency: Duration,
    confirm_after: u32,
    /// How many more calls of `status` each change waits for.
    pending: BTreeMap<String, u32>,
    changes: u64,
}

/// A call that a [`MemoryDns`] has taken, with what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A change.
    Change {
        /// The zone's identifier.
        zone: String,
        /// What was to be added.
        additions: Vec<TxtRecord>,
        /// What was to be removed.
        removals: Vec<TxtRecord>,
        /// The time to live, after the floor of the limits.
        ttl: Duration,
        /// Whether the records are in effect.
        committed: bool,
        /// The class of the error that the caller saw.
        error: Option<ProviderErrorKind>,
    },
    /// A question for a change's status.
    Status {
        /// The change.
        change: ChangeRef,
    },
    /// A question for the values at a name.
    Txt {
        /// The name.
        name: Fqdn,
    },
    /// A question for the zones of a name.
    ZonesFor {
        /// The name.
        name: Fqdn,
    },
}

/// Where an injected error strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultPoint {
    /// A change that takes effect, and whose answer is lost.
    AfterCommit,
    /// A change that does not take effect.
    BeforeCommit,
    /// A question for a change's status.
    Status,
    /// A question for the values at a name.
    Txt,
    /// A question for the zones of a name.
    ZonesFor,
}

/// An error that strikes once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it strikes.
    pub point: FaultPoint,
    /// Its class.
    pub kind: ProviderErrorKind,
    /// What an error of the class [`ProviderErrorKind::RateLimited`] asks for.
    pub retry_after: Option<Duration>,
    /// Strikes only calls that touch this name.
    pub name: Option<Fqdn>,
}

impl Fault {
    /// An error that strikes the next call at `point`.
    pub fn new(point: FaultPoint, kind: ProviderErrorKind) -> Self {
        Self { point, kind, retry_after: None, name: None }
    }

    /// The same error for calls that touch `name` only.
    pub fn at(mut self, name: Fqdn) -> Self {
        self.name = Some(name);
        self
    }

    /// The same error with the wait that the service asks for.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    fn error(&self) -> ProviderError {
        let message = "an injected fault";
        match self.kind {
            ProviderErrorKind::Auth => ProviderError::auth(message),
            ProviderErrorKind::Conflict => ProviderError::conflict(message),
            ProviderErrorKind::Invalid => ProviderError::invalid(message),
            ProviderErrorKind::NotFound => ProviderError::not_found(message),
            ProviderErrorKind::RateLimited => ProviderError::rate_limited(message, self.retry_after),
            ProviderErrorKind::Transient => ProviderError::transient(message),
        }
    }
}

impl MemoryDns {
    /// A service with these zones, whose identifiers are `zone-` and their names, and with generous limits: 100 values
    /// per change, atomic, compare-and-swap, no minimum time to live.
    pub fn new(zones: impl IntoIterator<Item = Fqdn>) -> Self {
        let memory = Self {
            limits: DnsLimits {
                values_per_change: 100,
                calls_per_second: None,
                minimum_ttl: Duration::ZERO,
                atomic: true,
                compare_and_swap: true,
            },
            inner: Mutex::default(),
        };
        for name in zones {
            memory.add_zone(&format!("zone-{name}"), name);
        }
        memory
    }

    /// The same service with other limits.
    pub fn with_limits(mut self, limits: DnsLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds an empty zone under an identifier: a twin, when another has the same name.
    pub fn add_zone(&self, id: &str, name: Fqdn) {
        self.lock().zones.entry(id.to_owned()).or_insert_with(|| (name, Content::new()));
    }

    /// Drops a zone with all that is in it.
    pub fn remove_zone(&self, id: &str) {
        self.lock().zones.remove(id);
    }

    /// Makes each change take this long, which is when others can come between.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Makes each later change wait for so many calls of `status` before it counts as confirmed: with 2, the first two
    /// calls say pending.
    pub fn confirm_after(&self, calls: u32) {
        self.lock().confirm_after = calls;
    }

    /// Adds an error that strikes once; of several for the same point, the oldest that fits strikes first.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// Puts a value there as somebody else would: not in the ledger, without limits.
    ///
    /// # Panics
    /// When no zone contains the name.
    pub fn insert(&self, name: &Fqdn, value: &str) {
        let mut inner = self.lock();
        let id = inner.zone_ids(name).into_iter().next();
        let content = id.and_then(|id| inner.zones.get_mut(&id));
        let (_, content) = content.unwrap_or_else(|| panic!("no zone contains {name}"));
        content.entry(name.clone()).or_default().insert(value.to_owned());
    }

    /// The zones, by identifier.
    pub fn zones(&self) -> Vec<Zone> {
        let inner = self.lock();
        inner.zones.iter().map(|(id, (name, _))| Zone { id: id.clone(), name: name.clone() }).collect()
    }

    /// The values at a name, sorted, over all zones.
    pub fn values(&self, name: &Fqdn) -> Vec<String> {
        let inner = self.lock();
        let mut values: Vec<String> =
            inner.zones.values().filter_map(|(_, content)| content.get(name)).flatten().cloned().collect();
        values.sort();
        values
    }

    /// All values of all zones, by name; names without values are not there.
    pub fn all_values(&self) -> BTreeMap<Fqdn, Vec<String>> {
        let mut all = BTreeMap::<Fqdn, Vec<String>>::new();
        for (_, content) in self.lock().zones.values() {
            for (name, values) in content.iter().filter(|(_, values)| !values.is_empty()) {
                all.entry(name.clone()).or_default().extend(values.iter().cloned());
            }
        }
        all
    }

    /// All calls so far.
    pub fn ledger(&self) -> Vec<Call> {
        self.lock().ledger.clone()
    }

    /// How many changes have been asked for so far, refused ones too.
    pub fn changes(&self) -> usize {
        self.lock().ledger.iter().filter(|call| matches!(call, Call::Change { .. })).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A poisoned lock means that a test has failed already; its data is still what was asked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what no service takes.
    fn check(&self, zone: &Zone, change: &TxtChange) -> Result<(), ProviderError> {
        if change.len() > self.limits.values_per_change {
            return Err(ProviderError::invalid(format!(
                "{} values are more than the {} that one change holds",
                change.len(),
                self.limits.values_per_change
            )));
        }
        let mut seen = BTreeSet::new();
        for record in change.additions.iter().chain(&change.removals) {
            if !record.name.is_within(&zone.name) {
                let message = format!("`{}` is outside the zone `{}`", record.name, zone.name);
                return Err(ProviderError::invalid(message));
            }
            if record.value.is_empty() || record.value.len() > 255 {
                let message = format!("a value at `{}` is not 1 to 255 octets long", record.name);
                return Err(ProviderError::invalid(message));
            }
            if !seen.insert(record) {
                let message = format!("a record at `{}` is named twice in one change", record.name);
                return Err(ProviderError::invalid(message));
            }
        }
        Ok(())
    }

    /// Waits as long as a change takes, or fails at the deadline.
    async fn wait(&self, context: &Context) -> Result<(), ProviderError> {
        let latency = self.lock().latency;
        match context.remaining() {
            Some(remaining) if remaining <= latency => {
                tokio::time::sleep(remaining).await;
                Err(ProviderError::transient("the deadline passed before the service answered"))
            }
            _ if latency.is_zero() => {
                tokio::task::yield_now().await;
                Ok(())
            }
            _ => {
                tokio::time::sleep(latency).await;
                Ok(())
            }
        }
    }

    async fn apply(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> (bool, Result<ChangeRef, ProviderError>) {
        let (read, before) = {
            let mut inner = self.lock();
            let Some((_, content)) = inner.zones.get(&zone.id) else {
                let error = ProviderError::not_found(format!("there is no zone `{}`", zone.id));
                return (false, Err(error));
            };
            let names = change.additions.iter().chain(&change.removals).map(|record| &record.name);
            let read: Content =
                names.map(|name| (name.clone(), content.get(name).cloned().unwrap_or_default())).collect();
            (read, inner.strike(FaultPoint::BeforeCommit, change))
        };
        if let Err(error) = self.wait(context).await {
            return (false, Err(error));
        }
        if let Some(fault) = before {
            return (false, Err(fault.error()));
        }
        let mut inner = self.lock();
        let confirm_after = inner.confirm_after;
        let Some((_, content)) = inner.zones.get_mut(&zone.id) else {
            return (false, Err(ProviderError::not_found(format!("the zone `{}` is gone", zone.id))));
        };
        if !self.limits.compare_and_swap {
            // Read, merge, write: whoever wrote in between has lost.
            content.extend(read);
        }
        for record in &change.removals {
            content.entry(record.name.clone()).or_default().remove(&record.value);
        }
        for record in &change.additions {
            content.entry(record.name.clone()).or_default().insert(record.value.clone());
        }
        content.retain(|_, values| !values.is_empty());
        inner.changes += 1;
        let reference = format!("memory-{}", inner.changes);
        inner.pending.insert(reference.clone(), confirm_after);
        match inner.strike(FaultPoint::AfterCommit, change) {
            Some(fault) => (true, Err(fault.error())),
            None => (true, Ok(ChangeRef(reference))),
        }
    }
}

impl Inner {
    /// The identifiers of the zones that contain a name, longest zone first.
    fn zone_ids(&self, name: &Fqdn) -> Vec<String> {
        let mut found: Vec<_> = self.zones.iter().filter(|(_, (zone, _))| name.is_within(zone)).collect();
        found.sort_by_key(|(id, (zone, _))| (std::cmp::Reverse(zone.labels().count()), (*id).clone()));
        found.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// Takes the oldest fault for a change, when there is one.
    fn strike(&mut self, point: FaultPoint, change: &TxtChange) -> Option<Fault> {
        self.strike_if(point, |name| {
            change.additions.iter().chain(&change.removals).any(|record| record.name == *name)
        })
    }

    fn strike_if(&mut self, point: FaultPoint, touches: impl Fn(&Fqdn) -> bool) -> Option<Fault> {
        let index = self
            .faults
            .iter()
            .position(|fault| fault.point == point && fault.name.as_ref().is_none_or(&touches))?;
        self.faults.remove(index)
    }
}

#[async_trait]
impl DnsProvider for MemoryDns {
    fn limits(&self) -> DnsLimits {
        self.limits.clone()
    }

    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        context.check()?;
        let mut inner = self.lock();
        inner.ledger.push(Call::ZonesFor { name: name.clone() });
        if let Some(fault) = inner.strike_if(FaultPoint::ZonesFor, |fault| fault == name) {
            return Err(fault.error());
        }
        let zones = inner.zone_ids(name).into_iter().filter_map(|id| {
            let name = inner.zones.get(&id)?.0.clone();
            Some(Zone { id, name })
        });
        Ok(zones.collect())
    }

    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        context.check()?;
        let mut inner = self.lock();
        inner.ledger.push(Call::Txt { name: name.clone() });
        if let Some(fault) = inner.strike_if(FaultPoint::Txt, |fault| fault == name) {
            return Err(fault.error());
        }
        let Some((_, content)) = inner.zones.get(&zone.id) else {
            return Err(ProviderError::not_found(format!("there is no zone `{}`", zone.id)));
        };
        Ok(content.get(name).map(|values| values.iter().cloned().collect()).unwrap_or_default())
    }

    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError> {
        context.check()?;
        let (committed, result) = match self.check(zone, change) {
            Ok(()) => self.apply(context, zone, change).await,
            Err(error) => (false, Err(error)),
        };
        self.lock().ledger.push(Call::Change {
            zone: zone.id.clone(),
            additions: change.additions.clone(),
            removals: change.removals.clone(),
            ttl: change.ttl.max(self.limits.minimum_ttl),
            committed,
            error: result.as_ref().err().map(ProviderError::kind),
        });
        result
    }

    async fn status(
        &self,
        context: &Context,
        _zone: &Zone,
        change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError> {
        context.check()?;
        let mut inner = self.lock();
        inner.ledger.push(Call::Status { change: change.clone() });
        if let Some(fault) = inner.strike_if(FaultPoint::Status, |_| true) {
            return Err(fault.error());
        }
        match inner.pending.get_mut(&change.0) {
            Some(0) | None => Ok(ChangeStatus::Confirmed),
            Some(calls) => {
                *calls -= 1;
                Ok(ChangeStatus::Pending)
            }
        }
    }
}
