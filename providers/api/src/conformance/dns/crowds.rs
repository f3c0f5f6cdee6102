//! What a provider does with many values and many writers.

use std::slice;

use super::Harness;
use super::TTL;
use super::Test;
use super::record;
use crate::dns::TxtChange;
use crate::dns::TxtRecord;

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
