//! What every DNS provider has to do, as tests.
//!
//! A provider's own test implements [`Harness`] for a real server or a strict fake and calls [`all`], or the functions
//! one by one. Each function works at names of its own, so that they share a server.
//!
//! What cannot be provoked at every server is left to the provider's own tests: too many requests, an answer that is
//! lost after the commit, a server that hangs, a private twin of a zone.

mod crowds;
mod failures;
mod values;

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::dns::ChangeRef;
use crate::dns::ChangeStatus;
use crate::dns::DnsProvider;
use crate::dns::TxtChange;
use crate::dns::TxtRecord;
use crate::dns::Zone;
use crate::error::ProviderError;
use crate::fqdn::Fqdn;

pub use crowds::{
    concurrent_batches_all_arrive, concurrent_writers_keep_each_others_values,
    many_names_fit_into_few_changes,
};
pub use failures::{
    abandoned_changes_can_be_repeated, cancelled_changes_can_be_repeated, missing_zones_are_not_found,
    passed_deadlines_are_respected, records_outside_the_zone_change_nothing,
    refused_credentials_are_classified,
};
pub use values::{
    absent_names_have_no_values, addition_is_idempotent, foreign_values_survive, names_have_no_case,
    one_change_adds_and_removes, removal_is_idempotent, removal_keeps_other_values,
    short_times_to_live_are_raised, values_are_exact,
};

/// A provider under test, with a way to look at its service from outside.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The provider, with a credential that may change [`outer`](Self::outer) and [`inner`](Self::inner).
    fn provider(&self) -> Arc<dyn DnsProvider>;

    /// The apex of a zone that the service has.
    fn outer(&self) -> Fqdn;

    /// The apex of another zone that it has, one or more labels below [`outer`](Self::outer).
    fn inner(&self) -> Fqdn;

    /// The same provider with a credential that the service refuses.
    fn without_access(&self) -> Arc<dyn DnsProvider>;

    /// The TXT values at a name, sorted, seen by another way than the provider.
    async fn look(&self, name: &Fqdn) -> Vec<String>;

    /// Adds a value by another way than the provider, as somebody else would. `name` may be in any case, and the text is
    /// a printable ASCII value without quotes and backslashes.
    async fn plant(&self, name: &str, value: &str);
}

/// Runs every test, one after the other.
///
/// # Panics
/// When one fails.
pub async fn all(harness: &dyn Harness) {
    zones_are_found_longest_first(harness).await;
    absent_names_have_no_values(harness).await;
    addition_is_idempotent(harness).await;
    removal_is_idempotent(harness).await;
    removal_keeps_other_values(harness).await;
    one_change_adds_and_removes(harness).await;
    foreign_values_survive(harness).await;
    names_have_no_case(harness).await;
    values_are_exact(harness).await;
    short_times_to_live_are_raised(harness).await;
    concurrent_writers_keep_each_others_values(harness).await;
    concurrent_batches_all_arrive(harness).await;
    many_names_fit_into_few_changes(harness).await;
    records_outside_the_zone_change_nothing(harness).await;
    missing_zones_are_not_found(harness).await;
    refused_credentials_are_classified(harness).await;
    passed_deadlines_are_respected(harness).await;
    cancelled_changes_can_be_repeated(harness).await;
    abandoned_changes_can_be_repeated(harness).await;
    changes_are_confirmed(harness).await;
}

/// The longest zone comes first, on a label boundary; a name outside all zones has none.
///
/// # Panics
/// When the provider does otherwise.
pub async fn zones_are_found_longest_first(harness: &dyn Harness) {
    let (provider, outer, inner) = (harness.provider(), harness.outer(), harness.inner());
    let found = |name: Fqdn| {
        let provider = provider.clone();
        async move {
            let zones = provider.zones_for(&context(), &name).await.expect("zones are found");
            zones.into_iter().map(|zone| zone.name).collect::<Vec<_>>()
        }
    };
    let below = inner.prepend("a").and_then(|name| name.prepend("_acme-challenge")).expect("a short name");
    assert_eq!(found(below).await, [inner.clone(), outer.clone()], "longest first");
    assert_eq!(found(inner.clone()).await, [inner.clone(), outer.clone()], "an apex is in its own zone");
    let beside = outer.prepend("beside").expect("a short name");
    assert_eq!(found(beside).await, slice::from_ref(&outer), "only the outer zone");
    assert_eq!(found(outer.clone()).await, slice::from_ref(&outer));
    // `notexample.test` ends in `example.test`, and is not in it.
    let label = Fqdn::new(&format!("not{inner}")).expect("a short name");
    assert_eq!(found(label).await, slice::from_ref(&outer), "zones end on label boundaries");
    let foreign = Fqdn::new(&format!("a.not{outer}")).expect("a short name");
    assert_eq!(found(foreign).await, Vec::<Fqdn>::new(), "a name outside all zones has none");
}

/// A change is confirmed after a while, and a reference that the service does not know counts as confirmed.
///
/// # Panics
/// When the provider does otherwise.
pub async fn changes_are_confirmed(harness: &dyn Harness) {
    let test = Test::new(harness, "status").await;
    let reference = test.add(&["value"]).await;
    let json = serde_json::to_string(&reference).expect("a reference is saved");
    let reference: ChangeRef = serde_json::from_str(&json).expect("and read by a later process");
    let confirmed = async {
        loop {
            match test.provider.status(&context(), &test.zone, &reference).await.expect("a status") {
                ChangeStatus::Confirmed => break,
                ChangeStatus::Pending => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(Duration::from_secs(60), confirmed).await.expect("a change is confirmed in the end");
    test.expect(&["value"]).await;
    let unknown = ChangeRef("no-such-change".to_owned());
    let status = test.provider.status(&context(), &test.zone, &unknown).await.expect("a status");
    assert_eq!(status, ChangeStatus::Confirmed, "an unknown reference counts as confirmed");
}

const TTL: Duration = Duration::from_secs(60);

/// One test's name in the outer zone.
struct Test<'a> {
    harness: &'a dyn Harness,
    provider: Arc<dyn DnsProvider>,
    zone: Zone,
    name: Fqdn,
}

impl<'a> Test<'a> {
    async fn new(harness: &'a dyn Harness, label: &str) -> Self {
        let provider = harness.provider();
        let name = harness.outer().prepend(label).and_then(|name| name.prepend("_acme-challenge"));
        let name = name.expect("a short name");
        let zones = provider.zones_for(&context(), &name).await.expect("zones are found");
        let zone = zones.into_iter().next().expect("the outer zone is there");
        assert_eq!(zone.name, harness.outer());
        assert!(harness.look(&name).await.is_empty(), "{name} is fresh");
        Self { harness, provider, zone, name }
    }

    async fn change(&self, change: &TxtChange) -> Result<ChangeRef, ProviderError> {
        self.provider.change(&context(), &self.zone, change).await
    }

    async fn add(&self, values: &[&str]) -> ChangeRef {
        let additions = values.iter().map(|value| record(&self.name, value)).collect();
        let change = TxtChange { additions, ttl: TTL, ..TxtChange::default() };
        self.change(&change).await.expect("an addition succeeds")
    }

    async fn remove(&self, values: &[&str]) {
        let removals = values.iter().map(|value| record(&self.name, value)).collect();
        let change = TxtChange { removals, ttl: TTL, ..TxtChange::default() };
        self.change(&change).await.expect("a removal succeeds");
    }

    async fn read(&self) -> Vec<String> {
        self.read_at(&self.name).await
    }

    async fn read_at(&self, name: &Fqdn) -> Vec<String> {
        self.provider.txt(&context(), &self.zone, name).await.expect("values are read")
    }

    /// The values are these, for the provider and from outside.
    async fn expect(&self, values: &[&str]) {
        let mut values = values.to_vec();
        values.sort_unstable();
        assert_eq!(self.read().await, values, "what the provider reads at {}", self.name);
        assert_eq!(self.harness.look(&self.name).await, values, "seen from outside at {}", self.name);
    }

    /// Makes all changes at once, under a lock where the service has no compare-and-swap.
    async fn concurrently(&self, changes: impl Iterator<Item = TxtChange>) {
        let lock = (!self.provider.limits().compare_and_swap).then(|| Arc::new(Mutex::new(())));
        let mut tasks = JoinSet::new();
        for change in changes {
            let (provider, zone, lock) = (self.provider.clone(), self.zone.clone(), lock.clone());
            tasks.spawn(async move {
                let _held = match &lock {
                    Some(lock) => Some(lock.lock().await),
                    None => None,
                };
                // A conflict is what compare-and-swap may answer: the caller repeats.
                for _ in 0..20 {
                    match provider.change(&context(), &zone, &change).await {
                        Err(ProviderError::Conflict { .. }) => {}
                        other => return other.map(|_| ()),
                    }
                }
                Err(ProviderError::conflict("twenty conflicts in a row"))
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("a writer does not panic").expect("a concurrent change succeeds");
        }
    }
}

fn record(name: &Fqdn, value: &str) -> TxtRecord {
    TxtRecord { name: name.clone(), value: value.to_owned() }
}

fn context() -> Context {
    Context::new(Timestamp::UNIX_EPOCH, CancellationToken::new()).within(Duration::from_secs(30))
}

#[cfg(test)]
mod tests;
