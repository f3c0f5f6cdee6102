use std::time::Duration;

use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;
use futures::future;

use super::*;
use crate::dns01::Repeat;
use crate::dns01::Unwatched;
use crate::dns01::testing::MemoryDns;
use crate::dns01::testing::configured;
use crate::dns01::testing::context;
use crate::dns01::testing::one_provider;
use crate::dns01::testing::txt;
use crate::dns01::testing::word;
use crate::model::Propagation;

mod trouble;

const SECOND: Duration = Duration::from_secs(1);

fn writers(provider: &Arc<MemoryDns>) -> Arc<ZoneWriters> {
    guarded(provider, context(), Arc::new(NoGuard))
}

fn guarded(provider: &Arc<MemoryDns>, context: Context, guard: Arc<dyn ZoneGuard>) -> Arc<ZoneWriters> {
    watched(provider, context, guard, Arc::new(Unwatched))
}

fn watched(
    provider: &Arc<MemoryDns>,
    context: Context,
    guard: Arc<dyn ZoneGuard>,
    watch: Arc<dyn WriteWatch>,
) -> Arc<ZoneWriters> {
    ZoneWriters::new(Arc::new(one_provider(provider, vec![])), context, guard, watch)
}

/// Remembers what it was told, and when.
#[derive(Debug)]
struct Witness {
    since: Instant,
    told: Mutex<Vec<(Duration, Repeat)>>,
}

impl Witness {
    fn new() -> Arc<Self> {
        Arc::new(Self { since: Instant::now(), told: Mutex::default() })
    }

    fn told(&self) -> Vec<(Duration, Repeat)> {
        self.told.lock().unwrap().clone()
    }
}

impl WriteWatch for Witness {
    fn repeating(&self, repeat: Repeat) {
        self.told.lock().unwrap().push((self.since.elapsed(), repeat));
    }
}

fn record(index: usize) -> TxtRecord {
    txt(&format!("_acme-challenge.h{index}.example.test"), &format!("value{index}"))
}

/// Adds one value, and returns what came of it and how long it took.
async fn add(
    writers: &Arc<ZoneWriters>,
    expectation: Expectation,
    records: Vec<TxtRecord>,
) -> (Result<ChangeRef, WriteError>, Duration) {
    let started = Instant::now();
    let outcome = writers.add(expectation, records).await;
    (outcome, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn five_hundred_tasks_cost_one_change_to_add_and_one_to_remove() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let tasks = (0..500).map(|index| {
        let (writers, dns, zone) = (Arc::clone(&writers), dns.clone(), zone.clone());
        let expectation = writers.expect(&dns, &zone);
        tokio::spawn(async move {
            // Orders arrive over a second, validations end over another.
            time::sleep(Duration::from_millis(2 * index as u64)).await;
            writers.add(expectation, vec![record(index)]).await.unwrap();
            time::sleep(Duration::from_millis(2 * (500 - index) as u64)).await;
            writers.remove(&dns, &zone, vec![record(index)]).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!((provider.additions(), provider.removals()), (vec![500], vec![500]));
    assert!(provider.memory().values.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_ca_still_costs_at_most_five_changes_each_way() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().latency = Duration::from_millis(300);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let tasks = (0..500).map(|index| {
        let (writers, dns, zone) = (Arc::clone(&writers), dns.clone(), zone.clone());
        let expectation = writers.expect(&dns, &zone);
        tokio::spawn(async move {
            // Fifty seconds for all orders, and again for all validations.
            time::sleep(Duration::from_millis(100 * index as u64)).await;
            writers.add(expectation, vec![record(index)]).await.unwrap();
            time::sleep(Duration::from_millis(100 * index as u64)).await;
            writers.remove(&dns, &zone, vec![record(index)]).await.unwrap();
        })
    });
    let started = Instant::now();
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let (additions, removals) = (provider.additions(), provider.removals());
    assert!(additions.len() <= 5 && removals.len() <= 5, "{additions:?} {removals:?}");
    assert_eq!(additions.iter().sum::<usize>(), 500);
    assert!(started.elapsed() < 180 * SECOND, "{:?}", started.elapsed());
    assert!(provider.memory().values.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_window_for_a_straggler() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let straggler = writers.expect(&dns, &zone);
    let (first, second) = (writers.expect(&dns, &zone), writers.expect(&dns, &zone));
    let ((_, took), _) =
        future::join(add(&writers, first, vec![record(1)]), add(&writers, second, vec![record(2)])).await;
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    assert_eq!(provider.additions(), [2]);
    let (_, took) = add(&writers, straggler, vec![record(3)]).await;
    assert!(took < SECOND, "nobody else is to come: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_announcement_sets_the_others_free() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let dead = writers.expect(&dns, &zone);
    let task = tokio::spawn(async move {
        let _held = dead;
        time::sleep(SECOND / 2).await;
        panic!("its owner dies");
    });
    let expectation = writers.expect(&dns, &zone);
    let (outcome, took) = add(&writers, expectation, vec![record(1)]).await;
    assert!(outcome.is_ok() && took < SECOND, "{took:?}");
    assert!(task.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_before_removing_costs_time_and_no_more() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let (first, second) = (writers.expect(&dns, &zone), writers.expect(&dns, &zone));
    let (a, b) =
        future::join(writers.add(first, vec![record(1)]), writers.add(second, vec![record(2)])).await;
    a.and(b).unwrap();
    let started = Instant::now();
    writers.remove(&dns, &zone, vec![record(1)]).await.unwrap();
    assert!((2 * SECOND..3 * SECOND).contains(&started.elapsed()));
    writers.abandon(&dns, &zone, &[record(2)]);
    let started = Instant::now();
    writers.remove(&dns, &zone, vec![record(3)]).await.unwrap();
    assert!(started.elapsed() < SECOND, "what is abandoned is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_bad_value_fails_alone() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().invalid = [record(77).name, record(300).name].into();
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let adds: Vec<_> = (0..500)
        .map(|index| {
            let expectation = writers.expect(&dns, &zone);
            let writers = &writers;
            async move { (index, writers.add(expectation, vec![record(index)]).await) }
        })
        .collect();
    for (index, outcome) in future::join_all(adds).await {
        match outcome {
            Ok(_) => assert!(index != 77 && index != 300),
            Err(error) => {
                assert!(index == 77 || index == 300, "{index}: {error}");
                assert_eq!(error.kind(), Some(ProviderErrorKind::Invalid));
                assert!(error.to_string().contains(record(index).name.as_str()), "{error}");
            }
        }
    }
    assert_eq!(provider.memory().values.len(), 498);
    let calls = provider.memory().changes.len();
    assert!(calls <= 40, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_is_not_tried_for_every_value() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().forbidden = (0..100).map(|index| record(index).name).collect();
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let adds: Vec<_> =
        (0..100).map(|index| writers.add(writers.expect(&dns, &zone), vec![record(index)])).collect();
    for outcome in future::join_all(adds).await {
        assert_eq!(outcome.unwrap_err().kind(), Some(ProviderErrorKind::Auth));
    }
    assert_eq!(provider.memory().changes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_credential_for_some_names_writes_those() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().forbidden = [record(5).name].into();
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let adds: Vec<_> =
        (0..20).map(|index| writers.add(writers.expect(&dns, &zone), vec![record(index)])).collect();
    let failed = future::join_all(adds).await.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!((failed, provider.memory().values.len()), (1, 19));
}

#[tokio::test(start_paused = true)]
async fn zones_do_not_wait_for_each_other() {
    let provider = MemoryDns::new(&["example.test", "slow.test"]);
    let writers = writers(&provider);
    let dns = word("dns");
    let _waiting = writers.expect(&dns, &provider.zone(1));
    let slow = writers.expect(&dns, &provider.zone(1));
    let fast = writers.expect(&dns, &provider.zone(0));
    let ((slow, slow_took), (fast, fast_took)) = future::join(
        add(&writers, slow, vec![txt("_acme-challenge.slow.test", "v")]),
        add(&writers, fast, vec![record(1)]),
    )
    .await;
    slow.and(fast).unwrap();
    assert!(fast_took < SECOND && slow_took >= 2 * SECOND, "{fast_took:?} {slow_took:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_hold_what_the_service_allows_and_go_when_full() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.limits.lock().unwrap().values_per_change = 200;
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let straggler = writers.expect(&dns, &zone);
    let adds: Vec<_> =
        (0..500).map(|index| add(&writers, writers.expect(&dns, &zone), vec![record(index)])).collect();
    let outcomes = future::join_all(adds).await;
    assert!(outcomes.iter().all(|(outcome, _)| outcome.is_ok()));
    assert_eq!(provider.additions(), [200, 200, 100]);
    let at_once = outcomes.iter().filter(|(_, took)| *took < SECOND).count();
    assert_eq!(at_once, 400, "a full change does not wait for a straggler");
    drop(straggler);
}

#[tokio::test(start_paused = true)]
async fn one_request_larger_than_a_change_is_divided() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.limits.lock().unwrap().values_per_change = 3;
    let writers = writers(&provider);
    let expectation = writers.expect(&word("dns"), &provider.zone(0));
    writers.add(expectation, (0..7).map(record).collect()).await.unwrap();
    assert_eq!(provider.additions(), [3, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_zone_fails_all_at_once() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().failures = [(ProviderError::not_found("no such zone"), false)].into();
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let adds: Vec<_> =
        (0..10).map(|index| writers.add(writers.expect(&dns, &zone), vec![record(index)])).collect();
    for outcome in future::join_all(adds).await {
        assert_eq!(outcome.unwrap_err().kind(), Some(ProviderErrorKind::NotFound));
    }
    assert_eq!(provider.memory().changes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_keep_to_the_rate_over_all_zones_of_a_provider() {
    let provider = MemoryDns::new(&["example.test", "other.test"]);
    provider.limits.lock().unwrap().calls_per_second = Some(0.5);
    let writers = writers(&provider);
    let dns = word("dns");
    let (a, b) = (writers.expect(&dns, &provider.zone(0)), writers.expect(&dns, &provider.zone(1)));
    let ((a, first), (b, second)) = future::join(
        add(&writers, a, vec![record(1)]),
        add(&writers, b, vec![txt("_acme-challenge.other.test", "v")]),
    )
    .await;
    a.and(b).unwrap();
    // Two changes and two questions for their status, one call every two seconds.
    assert!(first.max(second) >= 6 * SECOND, "{first:?} {second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_fewer_calls_gets_fewer_for_every_zone() {
    let provider = MemoryDns::new(&["example.test", "other.test"]);
    provider.memory().failures =
        [(ProviderError::rate_limited("slow down", Some(60 * SECOND)), false)].into();
    let writers = writers(&provider);
    let dns = word("dns");
    let limited = tokio::spawn({
        let (writers, expectation) = (Arc::clone(&writers), writers.expect(&dns, &provider.zone(0)));
        async move { writers.add(expectation, vec![record(1)]).await }
    });
    time::sleep(SECOND).await;
    let expectation = writers.expect(&dns, &provider.zone(1));
    let (outcome, took) = add(&writers, expectation, vec![txt("_acme-challenge.other.test", "v")]).await;
    outcome.unwrap();
    assert!(took >= 59 * SECOND, "{took:?}");
    limited.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_addition_returns_when_it_is_confirmed_and_the_next_does_not_wait_for_it() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().pending = 4;
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let (_, took) = add(&writers, writers.expect(&dns, &zone), vec![record(1)]).await;
    assert!(took >= 3 * SECOND, "{took:?}");
    assert_eq!(provider.memory().status_calls, 5);

    provider.memory().pending = usize::MAX;
    let waiting = tokio::spawn({
        let (writers, expectation) = (Arc::clone(&writers), writers.expect(&dns, &zone));
        async move { writers.add(expectation, vec![record(2)]).await }
    });
    time::sleep(SECOND).await;
    provider.memory().pending = 0;
    let (_, took) = add(&writers, writers.expect(&dns, &zone), vec![record(3)]).await;
    assert!(took < SECOND, "{took:?}");
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_never_confirmed_is_an_error_of_unknown_outcome() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().pending = usize::MAX;
    let writers = writers(&provider);
    let expectation = writers.expect(&word("dns"), &provider.zone(0));
    let error = writers.add(expectation, vec![record(1)]).await.unwrap_err();
    assert!(matches!(error, WriteError::Unconfirmed { .. }) && error.is_outcome_unknown());
}

#[tokio::test(start_paused = true)]
async fn cancelling_finishes_what_was_sent_and_sends_nothing_more() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().latency = 5 * SECOND;
    let context = context();
    let writers = guarded(&provider, context.clone(), Arc::new(NoGuard));
    let (dns, zone) = (word("dns"), provider.zone(0));
    let sent = tokio::spawn({
        let (writers, dns, zone) = (Arc::clone(&writers), dns.clone(), zone.clone());
        async move { writers.remove(&dns, &zone, vec![record(1)]).await }
    });
    time::sleep(SECOND).await;
    let queued = tokio::spawn({
        let (writers, expectation) = (Arc::clone(&writers), writers.expect(&dns, &zone));
        async move { writers.add(expectation, vec![record(2)]).await }
    });
    time::sleep(SECOND).await;
    context.cancel.cancel();
    assert!(sent.await.unwrap().is_ok(), "its outcome is known");
    assert!(matches!(queued.await.unwrap(), Err(WriteError::Cancelled { .. })));
    assert_eq!(provider.memory().changes.len(), 1);
    let late = writers.add(writers.expect(&dns, &zone), vec![record(3)]).await;
    assert!(matches!(late, Err(WriteError::Cancelled { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_sent_but_what_was_sent_is_finished() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().latency = SECOND;
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let _straggler = writers.expect(&dns, &zone);
    let add = writers.add(writers.expect(&dns, &zone), vec![record(1)]);
    assert!(time::timeout(SECOND, add).await.is_err(), "its caller gives up while it waits");
    time::sleep(5 * SECOND).await;
    assert!(provider.memory().changes.is_empty());

    let add = writers.add(writers.expect(&dns, &zone), vec![record(2)]);
    assert!(time::timeout(5 * SECOND / 2, add).await.is_err(), "its caller gives up during the call");
    time::sleep(5 * SECOND).await;
    assert_eq!(provider.memory().values.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_defect_in_a_provider_is_an_error_and_not_a_standstill() {
    let provider = MemoryDns::new(&["example.test"]);
    provider.memory().panics = true;
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let error = writers.add(writers.expect(&dns, &zone), vec![record(1)]).await.unwrap_err();
    assert!(matches!(error, WriteError::Interrupted { .. }), "{error}");
    provider.state.clear_poison();
    provider.memory().panics = false;
    assert!(writers.add(writers.expect(&dns, &zone), vec![record(1)]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_two_want_is_added_once_and_removed_by_the_last() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let (first, second) = (writers.expect(&dns, &zone), writers.expect(&dns, &zone));
    let (a, b) =
        future::join(writers.add(first, vec![record(1)]), writers.add(second, vec![record(1), record(2)]))
            .await;
    a.and(b).unwrap();
    assert_eq!(provider.additions(), [2]);
    writers.remove(&dns, &zone, vec![record(1)]).await.unwrap();
    assert_eq!(provider.memory().values.len(), 2, "the other still needs it");
    writers.remove(&dns, &zone, vec![record(1), record(2)]).await.unwrap();
    assert!(provider.memory().values.is_empty());
}

#[derive(Debug, Default)]
struct CountingGuard {
    held: Arc<Mutex<(usize, usize)>>,
    refuse: bool,
}

struct Held(Arc<Mutex<(usize, usize)>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().1 += 1;
    }
}

#[async_trait]
impl ZoneGuard for CountingGuard {
    async fn lock(&self, provider: &Name, zone: &Zone) -> Result<Box<dyn Send>, WriteError> {
        if self.refuse {
            return Err(WriteError::Locked {
                provider: provider.clone(),
                zone: zone.name.clone(),
                reason: "another run holds it".to_owned(),
            });
        }
        self.held.lock().unwrap().0 += 1;
        Ok(Box::new(Held(Arc::clone(&self.held))))
    }
}

#[tokio::test(start_paused = true)]
async fn zones_are_guarded_where_the_provider_cannot_compare_and_swap() {
    let provider = MemoryDns::new(&["example.test"]);
    let guard = CountingGuard::default();
    let held = Arc::clone(&guard.held);
    let writers = guarded(&provider, context(), Arc::new(guard));
    let (dns, zone) = (word("dns"), provider.zone(0));
    writers.add(writers.expect(&dns, &zone), vec![record(1)]).await.unwrap();
    assert_eq!(*held.lock().unwrap(), (0, 0));
    provider.limits.lock().unwrap().compare_and_swap = false;
    writers.add(writers.expect(&dns, &zone), vec![record(2)]).await.unwrap();
    time::sleep(SECOND).await;
    assert_eq!(*held.lock().unwrap(), (1, 1), "taken and given free");

    let writers =
        guarded(&provider, context(), Arc::new(CountingGuard { refuse: true, ..Default::default() }));
    let error = writers.add(writers.expect(&dns, &zone), vec![record(3)]).await.unwrap_err();
    assert!(matches!(error, WriteError::Locked { .. }));
    assert_eq!(provider.memory().values.len(), 2, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_provider_is_an_error() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let other = word("other");
    let outcome = writers.add(writers.expect(&other, &provider.zone(0)), vec![record(1)]).await;
    assert!(matches!(outcome, Err(WriteError::UnknownProvider { .. })));
    let outcome = writers.remove(&other, &provider.zone(0), vec![record(1)]).await;
    assert!(matches!(outcome, Err(WriteError::UnknownProvider { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_twice_in_one_request_is_removed_with_one() {
    let provider = MemoryDns::new(&["example.test"]);
    let writers = writers(&provider);
    let (dns, zone) = (word("dns"), provider.zone(0));
    let twice = vec![record(1), record(1)];
    writers.add(writers.expect(&dns, &zone), twice.clone()).await.unwrap();
    writers.remove(&dns, &zone, vec![record(1)]).await.unwrap();
    assert!(provider.memory().values.is_empty());
    writers.add(writers.expect(&dns, &zone), vec![record(1)]).await.unwrap();
    writers.add(writers.expect(&dns, &zone), vec![record(1)]).await.unwrap();
    writers.remove(&dns, &zone, twice).await.unwrap();
    assert!(!provider.memory().values.is_empty(), "somebody else needs it still");
}
