//! What a provider does when something is wrong, late or given up.

use std::time::Duration;

use tokio::time::timeout;

use super::Harness;
use super::TTL;
use super::Test;
use super::context;
use super::record;
use crate::dns::TxtChange;
use crate::dns::Zone;
use crate::error::ProviderErrorKind;
use crate::fqdn::Fqdn;

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
