//! What a provider does with values.

use std::time::Duration;

use super::Harness;
use super::TTL;
use super::Test;
use super::record;
use crate::dns::TxtChange;

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
