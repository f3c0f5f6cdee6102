//! Providers in trouble.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_repeated_and_what_the_service_asks_is_waited_for() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().failures = [
        // The service made the change and lost the answer.
        (ProviderError::transient("502"), true),
        (ProviderError::conflict("somebody was faster"), false),
        (ProviderError::rate_limited("slow down", Some(60 * SECOND)), false),
    ]
    .into();
    let writers = writers(&provider);
    let expectation = writers.expect(&word("dns"), &provider.zone(0));
    let (outcome, took) = add(&writers, expectation, vec![record(1)]).await;
    outcome.unwrap();
    assert!((60 * SECOND..70 * SECOND).contains(&took), "{took:?}");
    assert_eq!(provider.memory().changes.len(), 4);
    assert_eq!(provider.memory().values.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn repeating_ends_at_the_deadline() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().failures = (0..1000).map(|_| (ProviderError::transient("503"), false)).collect();
    let writers = guarded(&provider, context().within(20 * SECOND), Arc::new(NoGuard));
    let expectation = writers.expect(&word("dns"), &provider.zone(0));
    let (outcome, took) = add(&writers, expectation, vec![record(1)]).await;
    let error = outcome.unwrap_err();
    assert!(error.is_outcome_unknown() && took <= 20 * SECOND, "{error} {took:?}");
    provider.memory().failures =
        [(ProviderError::rate_limited("tomorrow", Some(86_400 * SECOND)), false)].into();
    let expectation = writers.expect(&word("dns"), &provider.zone(0));
    let (outcome, took) = add(&writers, expectation, vec![record(1)]).await;
    assert_eq!(outcome.unwrap_err().kind(), Some(ProviderErrorKind::RateLimited));
    assert!(took < SECOND, "what cannot succeed in time is not waited for: {took:?}");
}

/// Answers of a server that fails every update.
fn endless_trouble() -> std::collections::VecDeque<(ProviderError, bool)> {
    (0..1000).map(|_| (ProviderError::transient("SERVFAIL"), false)).collect()
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_on_the_first_repetition_and_not_on_every_one() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().failures = (0..3).map(|_| (ProviderError::transient("SERVFAIL"), false)).collect();
    let witness = Witness::new();
    let writers = watched(&provider, context(), Arc::new(NoGuard), Arc::<Witness>::clone(&witness));
    let (dns, zone) = (word("dns"), provider.zone(0));
    add(&writers, writers.expect(&dns, &zone), vec![record(1)]).await.0.unwrap();
    let told = witness.told();
    let [(at, repeat)] = told.as_slice() else { panic!("{told:?}") };
    assert!(*at < SECOND, "at once: {at:?}");
    assert_eq!((&repeat.provider, &repeat.zone), (&dns, &zone.name));
    assert_eq!(repeat.wait, SECOND / 2);
    let text = repeat.to_string();
    for part in ["`dns`", "`example.test`", "SERVFAIL", "in 500 ms", "up to 1 min"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    provider.memory().failures =
        [(ProviderError::rate_limited("slow down", Some(40 * SECOND)), false)].into();
    writers.remove(&dns, &zone, vec![record(1)]).await.unwrap();
    assert_eq!(witness.told().len(), 2, "what comes after a success is new trouble");
    assert_eq!(witness.told()[1].1.wait, 40 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_zone_in_trouble_is_given_up_after_a_minute_and_then_tried_once_a_change() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().failures = endless_trouble();
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let (outcome, took) = add(&writers, writers.expect(&dns, &zone), vec![record(1)]).await;
    let error = outcome.unwrap_err();
    assert!(error.is_outcome_unknown() && error.to_string().contains("attempts"), "{error}");
    assert!((30 * SECOND..=60 * SECOND).contains(&took), "{took:?}");

    let calls = provider.memory().changes.len();
    let started = Instant::now();
    let error = writers.remove(&dns, &zone, vec![record(1)]).await.unwrap_err();
    assert!(started.elapsed() < SECOND && provider.memory().changes.len() == calls + 1, "{error}");

    provider.memory().failures = [].into();
    add(&writers, writers.expect(&dns, &zone), vec![record(2)]).await.0.unwrap();
    writers.remove(&dns, &zone, vec![record(2)]).await.unwrap();
    provider.memory().failures = [(ProviderError::transient("SERVFAIL"), false)].into();
    add(&writers, writers.expect(&dns, &zone), vec![record(3)]).await.0.expect("its patience is back");
}

#[tokio::test(start_paused = true)]
async fn a_zone_in_trouble_delays_no_other() {
    let troubled = MemoryDns::new(&["example.test"]);
    troubled.memory().failures = endless_trouble();
    let well = MemoryDns::new(&["other.test"]);
    let providers = [("troubled", &troubled), ("well", &well)]
        .map(|(name, provider)| (word(name), configured(provider, vec![], Propagation::Authoritative)));
    let witness: Arc<dyn WriteWatch> = Arc::new(Unwatched);
    let writers = ZoneWriters::new(Arc::new(providers.into()), context(), Arc::new(NoGuard), witness);
    let (first, second) =
        (writers.expect(&word("troubled"), &troubled.zone(0)), writers.expect(&word("well"), &well.zone(0)));
    let ((failed, slow), (done, fast)) = future::join(
        add(&writers, first, vec![record(1)]),
        add(&writers, second, vec![txt("_acme-challenge.other.test", "v")]),
    )
    .await;
    done.unwrap();
    assert!(failed.is_err() && slow > 30 * SECOND && fast < SECOND, "{slow:?} {fast:?}");
}
