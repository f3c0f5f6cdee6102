//! What every DNS provider has to do, as tests.
//!
//! A provider's own test implements [`Harness`] for a real server or a strict fake and calls [`all`], or the functions
//! one by one. Each function works at names of its own, so that they share a server.
//!
//! What cannot be provoked at every server is left to the provider's own tests: too many requests, an answer that is
//! lost after the commit, a server that hangs, a private twin of a zone.

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
use crate::error::ProviderErrorKind;
use crate::fqdn::Fqdn;

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

/// A name without TXT records has no values, and that is no error.
///
/// # Panics
/// When the provider does otherwise.
pub async fn absent_names_have_no_values(harness: &dyn Harness) {
    let test = Test::new(harness, "absent").await;
    assert!(test.read().await.is_empty());
    let deeper = test.name.prepend("deeper").expect("a short name");
    assert!(test.read_at(&deeper).await.is_empty());
}

/// Adding a value that is there succeeds and changes nothing.
///
/// # Panics
/// When the provider does otherwise.
pub async fn addition_is_idempotent(harness: &dyn Harness) {
    let test = Test::new(harness, "addition").await;
    for _ in 0..3 {
        test.add(&["value"]).await;
        test.expect(&["value"]).await;
    }
}

/// Removing a value that is gone succeeds, from a name with values, without, and one that never was.
///
/// # Panics
/// When the provider does otherwise.
pub async fn removal_is_idempotent(harness: &dyn Harness) {
    let test = Test::new(harness, "removal").await;
    test.remove(&["value"]).await;
    test.add(&["value", "other"]).await;
    for _ in 0..2 {
        test.remove(&["value"]).await;
        test.expect(&["other"]).await;
    }
    for _ in 0..2 {
        test.remove(&["other"]).await;
        test.expect(&[]).await;
    }
}

/// Removing one value keeps the others, also those that it is a part of, or that differ in case.
///
/// # Panics
/// When the provider does otherwise.
pub async fn removal_keeps_other_values(harness: &dyn Harness) {
    let test = Test::new(harness, "keeps").await;
    test.add(&["value", "Value", "values", "a value", "another"]).await;
    test.remove(&["value"]).await;
    test.expect(&["Value", "a value", "another", "values"]).await;
}

/// One change adds and removes at once, at one name and at several.
///
/// # Panics
/// When the provider does otherwise.
pub async fn one_change_adds_and_removes(harness: &dyn Harness) {
    let test = Test::new(harness, "both").await;
    let beside = test.name.prepend("beside").expect("a short name");
    test.add(&["old", "stays"]).await;
    let change = TxtChange {
        additions: vec![record(&test.name, "new"), record(&beside, "new")],
        removals: vec![record(&test.name, "old"), record(&beside, "never was")],
        ttl: TTL,
    };
    test.change(&change).await.expect("a change succeeds");
    test.expect(&["new", "stays"]).await;
    assert_eq!(test.read_at(&beside).await, ["new"]);
    assert_eq!(harness.look(&beside).await, ["new"]);
}

/// A value of somebody else survives additions, removals and the removal of a value that never was.
///
/// # Panics
/// When the provider does otherwise.
pub async fn foreign_values_survive(harness: &dyn Harness) {
    const FOREIGN: &str = "google-site-verification=rXOxyZounnZasA8Z7oaD3c14JdjS9aKSWvsR1EbUSIQ";
    let test = Test::new(harness, "foreign").await;
    harness.plant(test.name.as_str(), FOREIGN).await;
    test.add(&["ours", "zours"]).await;
    test.expect(&[FOREIGN, "ours", "zours"]).await;
    test.remove(&["ours", "never was"]).await;
    test.expect(&[FOREIGN, "zours"]).await;
    test.remove(&["zours"]).await;
    test.expect(&[FOREIGN]).await;
}

/// A name that somebody wrote in capitals is the same name.
///
/// # Panics
/// When the provider does otherwise.
pub async fn names_have_no_case(harness: &dyn Harness) {
    let test = Test::new(harness, "case").await;
    harness.plant(&test.name.as_str().to_uppercase(), "Foreign").await;
    assert_eq!(test.read().await, ["Foreign"]);
    test.add(&["ours"]).await;
    test.expect(&["Foreign", "ours"]).await;
    test.remove(&["ours"]).await;
    test.expect(&["Foreign"]).await;
}

/// Values come back octet for octet, whatever a service's own notation means by them.
///
/// # Panics
/// When the provider does otherwise.
pub async fn values_are_exact(harness: &dyn Harness) {
    let long = "x".repeat(255);
    let wide = "ü".repeat(127);
    let values = [
        "plain",
        "LFZjQ0aGzmwhTmkwtTpHPuw7XEsxNbUTJrnQWDkvPVs",
        "with space",
        " leading and trailing ",
        "two  spaces",
        r#"with "quotes""#,
        r#"""#,
        r#"" ""#,
        r#"a" "b"#,
        r"back\slash",
        r"\",
        r"\\",
        r"\065",
        r"trailing\",
        "semi;colon",
        "(round) [square] {curly}",
        "@ $ORIGIN %",
        "a,b=c",
        "tab\there",
        "bücher and 日本語",
        &long,
        &wide,
    ];
    let test = Test::new(harness, "exact").await;
    test.add(&values).await;
    test.expect(&values).await;
    let even: Vec<&str> = values.iter().step_by(2).copied().collect();
    let odd: Vec<&str> = values.iter().skip(1).step_by(2).copied().collect();
    test.remove(&odd).await;
    test.expect(&even).await;
    test.remove(&even).await;
    test.expect(&[]).await;
}

/// A time to live below the service's minimum is raised to it, and no error.
///
/// # Panics
/// When the provider does otherwise.
pub async fn short_times_to_live_are_raised(harness: &dyn Harness) {
    let test = Test::new(harness, "ttl").await;
    let change = TxtChange {
        additions: vec![record(&test.name, "value")],
        ttl: Duration::ZERO,
        ..TxtChange::default()
    };
    test.change(&change).await.expect("a short time to live is raised");
    test.expect(&["value"]).await;
}

/// Many writers at one name at once all find their values there, and those of others. Writers hold a lock where the
/// service has no compare-and-swap, as the contract says.
///
/// # Panics
/// When the provider does otherwise.
pub async fn concurrent_writers_keep_each_others_values(harness: &dyn Harness) {
    let test = Test::new(harness, "writers").await;
    let values: Vec<String> = (0..12).map(|index| format!("value-{index:02}")).collect();
    harness.plant(test.name.as_str(), "foreign").await;
    test.concurrently(values.iter().map(|value| TxtChange {
        additions: vec![record(&test.name, value)],
        ttl: TTL,
        ..TxtChange::default()
    }))
    .await;
    let mut expected: Vec<&str> = values.iter().map(String::as_str).collect();
    expected.insert(0, "foreign");
    test.expect(&expected).await;
    test.concurrently(values.iter().map(|value| TxtChange {
        removals: vec![record(&test.name, value)],
        ttl: TTL,
        ..TxtChange::default()
    }))
    .await;
    test.expect(&["foreign"]).await;
}

/// Batches of one zone that are under way at once all arrive.
///
/// # Panics
/// When the provider does otherwise.
pub async fn concurrent_batches_all_arrive(harness: &dyn Harness) {
    let test = Test::new(harness, "batches").await;
    let name =
        |batch: usize, index: usize| test.name.prepend(&format!("n{batch}-{index}")).expect("a short name");
    test.concurrently((0..6).map(|batch| TxtChange {
        additions: (0..10).map(|index| record(&name(batch, index), "value")).collect(),
        ttl: TTL,
        ..TxtChange::default()
    }))
    .await;
    for batch in 0..6 {
        assert_eq!(harness.look(&name(batch, 9)).await, ["value"], "batch {batch}");
    }
}

/// More names than 100, and more values than one change holds: exactly at the limit in one change, and above it in two.
///
/// # Panics
/// When the provider does otherwise.
pub async fn many_names_fit_into_few_changes(harness: &dyn Harness) {
    let test = Test::new(harness, "many").await;
    // A service whose limit is far off is not tried with ten thousand names.
    let limit = test.provider.limits().values_per_change.min(600);
    let count = limit.max(100) + 1;
    let records: Vec<TxtRecord> = (0..count)
        .map(|index| {
            let name = test.name.prepend(&format!("host-{index:05}")).expect("a short name");
            record(&name, "LFZjQ0aGzmwhTmkwtTpHPuw7XEsxNbUTJrnQWDkvPVs")
        })
        .collect();
    for batch in records.chunks(limit) {
        let change = TxtChange { additions: batch.to_vec(), ttl: TTL, ..TxtChange::default() };
        test.change(&change).await.expect("a change at the limit succeeds");
    }
    for record in records.iter().step_by(7).chain(records.last()) {
        assert_eq!(harness.look(&record.name).await, slice::from_ref(&record.value), "{}", record.name);
    }
    assert_eq!(test.read_at(&records[count - 1].name).await, [records[count - 1].value.clone()]);
    for batch in records.chunks(limit) {
        let change = TxtChange { removals: batch.to_vec(), ttl: TTL, ..TxtChange::default() };
        test.change(&change).await.expect("a change at the limit succeeds");
    }
    for record in records.iter().step_by(7).chain(records.last()) {
        assert!(harness.look(&record.name).await.is_empty(), "{}", record.name);
    }
}

/// A change with a record outside its zone is refused as a whole.
///
/// # Panics
/// When the provider does otherwise.
pub async fn records_outside_the_zone_change_nothing(harness: &dyn Harness) {
    let test = Test::new(harness, "outside").await;
    let outside = Fqdn::new(&format!("a.not{}", test.zone.name)).expect("a short name");
    let change = TxtChange {
        additions: vec![record(&test.name, "value"), record(&outside, "value")],
        ttl: TTL,
        ..TxtChange::default()
    };
    let error = test.change(&change).await.expect_err("a record outside the zone is refused");
    assert_eq!(error.kind(), ProviderErrorKind::Invalid, "{error}");
    test.expect(&[]).await;
}

/// A zone that the service does not have is not found, for reading and for writing.
///
/// # Panics
/// When the provider does otherwise.
pub async fn missing_zones_are_not_found(harness: &dyn Harness) {
    let provider = harness.provider();
    let name = Fqdn::new(&format!("missing-{}", harness.outer())).expect("a short name");
    let zone = Zone { id: name.to_string(), name: name.clone() };
    let change = TxtChange { additions: vec![record(&name, "value")], ttl: TTL, ..TxtChange::default() };
    let error = provider.change(&context(), &zone, &change).await.expect_err("the zone is missing");
    assert_eq!(error.kind(), ProviderErrorKind::NotFound, "{error}");
    let error = provider.txt(&context(), &zone, &name).await.expect_err("the zone is missing");
    assert_eq!(error.kind(), ProviderErrorKind::NotFound, "{error}");
    // Below a zone that is there, it is missing all the same.
    let name = harness.outer().prepend("missing").expect("a short name");
    let zone = Zone { id: name.to_string(), name: name.clone() };
    let change = TxtChange { additions: vec![record(&name, "value")], ttl: TTL, ..TxtChange::default() };
    let error = provider.change(&context(), &zone, &change).await.expect_err("the zone is missing");
    assert_eq!(error.kind(), ProviderErrorKind::NotFound, "{error}");
    assert!(harness.look(&name).await.is_empty());
}

/// A refused credential is an authentication error, whatever it is used for, and changes nothing.
///
/// # Panics
/// When the provider does otherwise.
pub async fn refused_credentials_are_classified(harness: &dyn Harness) {
    let test = Test::new(harness, "refused").await;
    let refused = harness.without_access();
    let change = TxtChange { additions: vec![record(&test.name, "value")], ttl: TTL, ..TxtChange::default() };
    let error = refused.change(&context(), &test.zone, &change).await.expect_err("the credential is wrong");
    assert_eq!(error.kind(), ProviderErrorKind::Auth, "{error}");
    let error = refused.zones_for(&context(), &test.name).await.expect_err("the credential is wrong");
    assert_eq!(error.kind(), ProviderErrorKind::Auth, "{error}");
    let error = refused.txt(&context(), &test.zone, &test.name).await.expect_err("the credential is wrong");
    assert_eq!(error.kind(), ProviderErrorKind::Auth, "{error}");
    test.expect(&[]).await;
}

/// A call whose deadline has passed fails at once, as one that can be repeated.
///
/// # Panics
/// When the provider does otherwise.
pub async fn passed_deadlines_are_respected(harness: &dyn Harness) {
    let test = Test::new(harness, "deadline").await;
    let late = context().within(Duration::ZERO);
    let change = TxtChange { additions: vec![record(&test.name, "value")], ttl: TTL, ..TxtChange::default() };
    let call = test.provider.change(&late, &test.zone, &change);
    let result = timeout(Duration::from_secs(2), call).await.expect("a passed deadline ends the call");
    let error = result.expect_err("the deadline has passed");
    assert_eq!(error.kind(), ProviderErrorKind::Transient, "{error}");
    test.change(&change).await.expect("the same change succeeds later");
    test.expect(&["value"]).await;
}

/// A cancelled change is done or not done, never more than that; repeated, it is done. A run that is cancelled already
/// starts no change.
///
/// # Panics
/// When the provider does otherwise.
pub async fn cancelled_changes_can_be_repeated(harness: &dyn Harness) {
    let test = Test::new(harness, "cancelled").await;
    harness.plant(test.name.as_str(), "foreign").await;
    let change = TxtChange { additions: vec![record(&test.name, "value")], ttl: TTL, ..TxtChange::default() };
    let cancelled = context();
    cancelled.cancel.cancel();
    let result = test.provider.change(&cancelled, &test.zone, &change).await;
    assert_eq!(result.expect_err("the run is over").kind(), ProviderErrorKind::Transient);
    test.expect(&["foreign"]).await;
    for delay in [0, 50, 200, 1_000, 5_000] {
        let context = context();
        let stop = async {
            tokio::time::sleep(Duration::from_micros(delay)).await;
            context.cancel.cancel();
        };
        let (result, ()) = tokio::join!(test.provider.change(&context, &test.zone, &change), stop);
        match result {
            Ok(_) => test.expect(&["foreign", "value"]).await,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        test.change(&change).await.expect("the change can be repeated");
        test.expect(&["foreign", "value"]).await;
        test.remove(&["value"]).await;
        test.expect(&["foreign"]).await;
    }
}

/// A change whose caller went away can be repeated, and the provider goes on working.
///
/// # Panics
/// When the provider does otherwise.
pub async fn abandoned_changes_can_be_repeated(harness: &dyn Harness) {
    let test = Test::new(harness, "abandoned").await;
    harness.plant(test.name.as_str(), "foreign").await;
    let change = TxtChange { additions: vec![record(&test.name, "value")], ttl: TTL, ..TxtChange::default() };
    for delay in [0, 50, 200, 1_000, 5_000] {
        let _ = timeout(Duration::from_micros(delay), test.change(&change)).await;
        test.change(&change).await.expect("the change can be repeated");
        test.expect(&["foreign", "value"]).await;
    }
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
mod tests {
    use super::*;
    use crate::conformance::Call;
    use crate::conformance::Fault;
    use crate::conformance::FaultPoint;
    use crate::conformance::MemoryDns;
    use crate::dns::DnsLimits;

    struct Memory(Arc<MemoryDns>);

    #[async_trait]
    impl Harness for Memory {
        fn provider(&self) -> Arc<dyn DnsProvider> {
            self.0.clone()
        }

        fn outer(&self) -> Fqdn {
            fqdn("example.test")
        }

        fn inner(&self) -> Fqdn {
            fqdn("a.b.example.test")
        }

        fn without_access(&self) -> Arc<dyn DnsProvider> {
            let refused = MemoryDns::new([self.outer(), self.inner()]);
            for point in [FaultPoint::BeforeCommit, FaultPoint::ZonesFor, FaultPoint::Txt] {
                refused.inject(Fault::new(point, ProviderErrorKind::Auth));
            }
            Arc::new(refused)
        }

        async fn look(&self, name: &Fqdn) -> Vec<String> {
            self.0.values(name)
        }

        async fn plant(&self, name: &str, value: &str) {
            self.0.insert(&fqdn(name), value);
        }
    }

    fn fqdn(name: &str) -> Fqdn {
        Fqdn::new(name).unwrap()
    }

    fn memory() -> MemoryDns {
        MemoryDns::new([fqdn("example.test"), fqdn("a.b.example.test")])
    }

    fn addition(name: &str, value: &str) -> TxtChange {
        TxtChange { additions: vec![record(&fqdn(name), value)], ttl: TTL, ..TxtChange::default() }
    }

    #[tokio::test]
    async fn the_reference_conforms() {
        let memory = Arc::new(memory());
        memory.confirm_after(2);
        all(&Memory(memory)).await;
    }

    #[tokio::test]
    async fn the_reference_conforms_without_compare_and_swap() {
        let limits = DnsLimits { compare_and_swap: false, ..memory().limits() };
        let memory = memory().with_limits(limits);
        memory.set_latency(Duration::from_micros(100));
        all(&Memory(Arc::new(memory))).await;
    }

    #[tokio::test]
    async fn without_compare_and_swap_and_without_a_lease_an_update_is_lost() {
        let limits = DnsLimits { compare_and_swap: false, ..memory().limits() };
        let memory = memory().with_limits(limits);
        let zone = memory.zones().remove(1);
        let (one, two) = (addition("x.example.test", "one"), addition("x.example.test", "two"));
        let context = context();
        let (first, second) =
            tokio::join!(memory.change(&context, &zone, &one), memory.change(&context, &zone, &two));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(memory.values(&fqdn("x.example.test")).len(), 1);
    }

    #[tokio::test]
    async fn faults_strike_once_before_or_after_the_commit() {
        let memory = memory();
        let zone = memory.zones().remove(1);
        let change = addition("x.example.test", "value");
        memory.inject(
            Fault::new(FaultPoint::BeforeCommit, ProviderErrorKind::RateLimited)
                .retry_after(Duration::from_secs(7)),
        );
        memory.inject(Fault::new(FaultPoint::AfterCommit, ProviderErrorKind::Transient));
        memory.inject(
            Fault::new(FaultPoint::BeforeCommit, ProviderErrorKind::Invalid).at(fqdn("y.example.test")),
        );
        let error = memory.change(&context(), &zone, &change).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 7)
        );
        assert!(memory.all_values().is_empty());
        let error = memory.change(&context(), &zone, &change).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Transient);
        assert_eq!(memory.values(&fqdn("x.example.test")), ["value"], "it happened all the same");
        memory.change(&context(), &zone, &change).await.unwrap();
        let other = addition("y.example.test", "value");
        assert!(memory.change(&context(), &zone, &other).await.is_err());
        let seen: Vec<_> = memory
            .ledger()
            .into_iter()
            .map(|call| match call {
                Call::Change { committed, error, .. } => (committed, error),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (false, Some(ProviderErrorKind::RateLimited)),
            (true, Some(ProviderErrorKind::Transient)),
            (true, None),
            (false, Some(ProviderErrorKind::Invalid)),
        ];
        assert_eq!(seen, expected);
        assert_eq!(memory.changes(), 4);
    }

    #[tokio::test]
    async fn changes_above_the_limit_and_doubled_records_are_refused() {
        let limits = DnsLimits { values_per_change: 2, ..memory().limits() };
        let memory = memory().with_limits(limits);
        let zone = memory.zones().remove(1);
        let name = fqdn("x.example.test");
        for values in [&["a", "b", "c"][..], &["a", "a"], &[""], &["x".repeat(256).as_str()]] {
            let additions = values.iter().map(|value| record(&name, value)).collect();
            let change = TxtChange { additions, ttl: TTL, ..TxtChange::default() };
            let error = memory.change(&context(), &zone, &change).await.unwrap_err();
            assert_eq!(error.kind(), ProviderErrorKind::Invalid, "{values:?}");
        }
        assert!(memory.all_values().is_empty());
    }

    #[tokio::test]
    async fn twins_are_two_candidates() {
        let memory = memory();
        memory.add_zone("twin", fqdn("example.test"));
        let zones = memory.zones_for(&context(), &fqdn("x.example.test")).await.unwrap();
        assert_eq!(
            zones.iter().map(|zone| zone.id.as_str()).collect::<Vec<_>>(),
            ["twin", "zone-example.test"]
        );
    }

    /// A provider that gets one thing wrong.
    #[derive(Debug)]
    struct Mutant {
        right: Arc<MemoryDns>,
        wrong: Wrong,
    }

    #[derive(Debug, Clone, Copy)]
    enum Wrong {
        AbsentIsAnError,
        AlwaysPending,
        AnyZone,
        IgnoresCancellation,
        KeepsRemovals,
        RemovesPrefixes,
        RemovesTheName,
        ReplacesTheName,
        ShortestZoneFirst,
        SuffixWithoutBoundary,
        TrimsValues,
    }

    #[async_trait]
    impl DnsProvider for Mutant {
        fn limits(&self) -> DnsLimits {
            self.right.limits()
        }

        async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
            let mut zones = self.right.zones_for(context, name).await?;
            match self.wrong {
                Wrong::ShortestZoneFirst => zones.reverse(),
                Wrong::SuffixWithoutBoundary => {
                    zones = self.right.zones();
                    zones.retain(|zone| name.as_str().ends_with(zone.name.as_str()));
                }
                _ => {}
            }
            Ok(zones)
        }

        async fn txt(
            &self,
            context: &Context,
            zone: &Zone,
            name: &Fqdn,
        ) -> Result<Vec<String>, ProviderError> {
            let values = self.right.txt(context, zone, name).await?;
            match self.wrong {
                Wrong::AbsentIsAnError if values.is_empty() => Err(ProviderError::not_found("nothing")),
                Wrong::TrimsValues => Ok(values.iter().map(|value| value.trim().to_owned()).collect()),
                _ => Ok(values),
            }
        }

        async fn change(
            &self,
            context: &Context,
            zone: &Zone,
            change: &TxtChange,
        ) -> Result<ChangeRef, ProviderError> {
            let mut change = change.clone();
            let mut context = context.clone();
            let mut zone = zone.clone();
            match self.wrong {
                Wrong::AnyZone if self.right.zones().iter().all(|known| known.id != zone.id) => {
                    zone = self.right.zones().pop().unwrap();
                    change = TxtChange::default();
                }
                Wrong::IgnoresCancellation => context.cancel = CancellationToken::new(),
                Wrong::KeepsRemovals => change.removals.clear(),
                Wrong::RemovesPrefixes | Wrong::RemovesTheName => {
                    for removal in change.removals.clone() {
                        for value in self.right.values(&removal.name) {
                            let starts = value.starts_with(&removal.value);
                            let also = record(&removal.name, &value);
                            if (starts || matches!(self.wrong, Wrong::RemovesTheName))
                                && !change.removals.contains(&also)
                                && !change.additions.contains(&also)
                            {
                                change.removals.push(also);
                            }
                        }
                    }
                }
                Wrong::ReplacesTheName => {
                    for addition in change.additions.clone() {
                        for value in self.right.values(&addition.name) {
                            let old = record(&addition.name, &value);
                            if !change.additions.contains(&old) && !change.removals.contains(&old) {
                                change.removals.push(old);
                            }
                        }
                    }
                }
                _ => {}
            }
            self.right.change(&context, &zone, &change).await
        }

        async fn status(
            &self,
            context: &Context,
            zone: &Zone,
            change: &ChangeRef,
        ) -> Result<ChangeStatus, ProviderError> {
            match self.wrong {
                Wrong::AlwaysPending => Ok(ChangeStatus::Pending),
                _ => self.right.status(context, zone, change).await,
            }
        }
    }

    struct MutantHarness(Wrong, Memory);

    #[async_trait]
    impl Harness for MutantHarness {
        fn provider(&self) -> Arc<dyn DnsProvider> {
            Arc::new(Mutant { right: Arc::clone(&self.1.0), wrong: self.0 })
        }

        fn outer(&self) -> Fqdn {
            self.1.outer()
        }

        fn inner(&self) -> Fqdn {
            self.1.inner()
        }

        fn without_access(&self) -> Arc<dyn DnsProvider> {
            self.1.without_access()
        }

        async fn look(&self, name: &Fqdn) -> Vec<String> {
            self.1.look(name).await
        }

        async fn plant(&self, name: &str, value: &str) {
            self.1.plant(name, value).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_gets_one_thing_wrong_is_found_out() {
        for wrong in [
            Wrong::AbsentIsAnError,
            Wrong::AlwaysPending,
            Wrong::AnyZone,
            Wrong::IgnoresCancellation,
            Wrong::KeepsRemovals,
            Wrong::RemovesPrefixes,
            Wrong::RemovesTheName,
            Wrong::ReplacesTheName,
            Wrong::ShortestZoneFirst,
            Wrong::SuffixWithoutBoundary,
            Wrong::TrimsValues,
        ] {
            let run = async move { all(&MutantHarness(wrong, Memory(Arc::new(memory())))).await };
            let result = tokio::spawn(run).await;
            assert!(result.is_err_and(|error| error.is_panic()), "{wrong:?} passes");
        }
    }
}
