use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::Context;
use certplan_provider::TxtRecord;
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time;
use tokio::time::Instant;

use super::providers::Providers;
use super::watch::WriteWatch;
use super::writer::Action;
use super::writer::Pacing;
use super::writer::Rate;
use super::writer::Request;
use super::writer::Trouble;
use super::writer::WriteError;
use super::writer::Writer;
use crate::model::ChangeRef;
use crate::model::Name;
use crate::model::Zone;

/// Keeps others from writing a zone whose provider cannot tell that two wrote at once.
#[async_trait]
pub trait ZoneGuard: Send + Sync + fmt::Debug {
    /// Waits until the zone is ours and returns what gives it free again when dropped.
    ///
    /// Called before each batch to a provider without [`compare_and_swap`](certplan_provider::DnsLimits::compare_and_swap),
    /// never for one zone twice at a time.
    async fn lock(&self, provider: &Name, zone: &Zone) -> Result<Box<dyn Send>, WriteError>;
}

/// A guard that guards nothing, where nobody else writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGuard;

#[async_trait]
impl ZoneGuard for NoGuard {
    async fn lock(&self, _: &Name, _: &Zone) -> Result<Box<dyn Send>, WriteError> {
        Ok(Box::new(()))
    }
}

/// Gathers the values of many certificates into few changes: one writer per provider and zone.
///
/// # When a batch goes
///
/// Additions go when nobody who announced one with [`expect`](Self::expect) has still to come, when a change is full,
/// or when the oldest has waited for [`Pacing::gather`]. Removals go when every value that was added has been given
/// back for removal and none is announced, when a change is full, or after the same time.
///
/// The time doubles whenever it ran out before everybody had come, up to [`Pacing::gather_limit`], and is back at its
/// start when a batch was complete. So a CA that needs a minute for five hundred certificates causes five batches,
/// not thirty, and nobody waits much longer than the run has already taken. An announcement that is never kept costs
/// time and no more.
///
/// # What is certain
///
/// Changes to a zone are made one after the other. A change that was sent is waited for, also when the run is
/// cancelled or its callers are gone. The same value wanted by two callers is added once, and removed when both have
/// given it back.
///
/// # Trouble
///
/// A change that fails for a reason that may pass is repeated for [`Pacing::patience`], and while the service says how
/// long it wants to be left alone, for [`Pacing::give_up`]; the [`WriteWatch`] is told at the first repetition. A zone
/// that was given up is tried once for each later change, until one succeeds. Zones do not wait for each other's
/// trouble; where a service asks for fewer calls, it means its account, and all zones of the provider heed that.
#[derive(Debug)]
pub struct ZoneWriters {
    providers: Arc<Providers>,
    context: Context,
    guard: Arc<dyn ZoneGuard>,
    watch: Arc<dyn WriteWatch>,
    pacing: Pacing,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    zones: BTreeMap<(Name, Zone), Arc<Queue>>,
    rates: BTreeMap<Name, Arc<Rate>>,
}

impl ZoneWriters {
    /// Writers for the zones of these providers. Nothing is asked or started before the first value comes.
    pub fn new(
        providers: Arc<Providers>,
        context: Context,
        guard: Arc<dyn ZoneGuard>,
        watch: Arc<dyn WriteWatch>,
    ) -> Arc<Self> {
        Arc::new(Self {
            providers,
            context,
            guard,
            watch,
            pacing: Pacing::default(),
            queues: Mutex::default(),
        })
    }

    /// Announces that the caller will add values to the zone soon; dropping the expectation withdraws that.
    pub fn expect(&self, provider: &Name, zone: &Zone) -> Expectation {
        let queue = self.queue(provider, zone);
        if let Some(queue) = &queue {
            queue.state().expected += 1;
        }
        Expectation { queue, provider: provider.clone() }
    }

    /// Adds values, together with those of others, and returns when the provider took and confirmed them.
    ///
    /// From now on the values count as waiting for their removal: whoever adds is to call [`remove`](Self::remove) or
    /// [`abandon`](Self::abandon). After an error they do not; they may be there nevertheless
    /// ([`WriteError::is_outcome_unknown`]), also those of a certificate another of whose values was refused.
    pub async fn add(
        &self,
        mut expectation: Expectation,
        records: Vec<TxtRecord>,
    ) -> Result<ChangeRef, WriteError> {
        let records = each_once(records);
        let Some(queue) = expectation.queue.take() else {
            return Err(WriteError::UnknownProvider { provider: expectation.provider.clone() });
        };
        let reply = {
            let mut state = queue.state();
            state.expected -= 1;
            for record in &records {
                *state.held.entry(record.clone()).or_default() += 1;
            }
            queue.submit(&mut state, Action::Add, records.clone())
        };
        let outcome = reply.await.unwrap_or_else(|_| Err(queue.writer.interrupted()));
        if outcome.is_err() {
            queue.release(&records);
        }
        outcome
    }

    /// Removes values, together with those of others, and returns when the provider took the change.
    ///
    /// Values of an earlier run may be among them. A value that another caller added as well stays until that one
    /// removes it, and counts as removed here.
    pub async fn remove(
        &self,
        provider: &Name,
        zone: &Zone,
        records: Vec<TxtRecord>,
    ) -> Result<(), WriteError> {
        let Some(queue) = self.queue(provider, zone) else {
            return Err(WriteError::UnknownProvider { provider: provider.clone() });
        };
        let reply = {
            let mut state = queue.state();
            let records = state.give_back(each_once(records));
            queue.submit(&mut state, Action::Remove, records)
        };
        reply.await.unwrap_or_else(|_| Err(queue.writer.interrupted())).map(|_| ())
    }

    /// Says that values which were added will not be removed in this run, so that nobody waits for that.
    pub fn abandon(&self, provider: &Name, zone: &Zone, records: &[TxtRecord]) {
        if let Some(queue) = self.queue(provider, zone) {
            queue.release(records);
        }
    }

    fn queue(&self, provider: &Name, zone: &Zone) -> Option<Arc<Queue>> {
        let configured = self.providers.get(provider)?;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = Arc::clone(
            queues
                .rates
                .entry(provider.clone())
                .or_insert_with(|| Arc::new(Rate::new(configured.provider.limits().calls_per_second))),
        );
        let queue = queues.zones.entry((provider.clone(), zone.clone())).or_insert_with(|| {
            let writer = Writer {
                name: provider.clone(),
                provider: Arc::clone(&configured.provider),
                zone: zone.clone(),
                context: self.context.clone(),
                guard: Arc::clone(&self.guard),
                watch: Arc::clone(&self.watch),
                trouble: Arc::new(Trouble::default()),
                pacing: self.pacing,
                rate,
            };
            let state = State {
                expected: 0,
                held: BTreeMap::new(),
                additions: Gathering::new(self.pacing.gather),
                removals: Gathering::new(self.pacing.gather),
                running: false,
            };
            Arc::new(Queue { writer, state: Mutex::new(state), changed: Notify::new() })
        });
        Some(Arc::clone(queue))
    }
}

/// An announcement that values for a zone will come.
#[derive(Debug)]
pub struct Expectation {
    queue: Option<Arc<Queue>>,
    provider: Name,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.state().expected -= 1;
            queue.changed.notify_one();
        }
    }
}

/// What waits to be written to one zone.
#[derive(Debug)]
struct Queue {
    writer: Writer,
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request into the queue and makes sure that somebody works on it.
    fn submit(
        self: &Arc<Self>,
        state: &mut State,
        action: Action,
        records: Vec<TxtRecord>,
    ) -> oneshot::Receiver<Result<ChangeRef, WriteError>> {
        let (reply, receiver) = oneshot::channel();
        if records.is_empty() {
            let _ = reply.send(Ok(ChangeRef(String::new())));
            return receiver;
        }
        let request = Request { records, since: Instant::now(), reply };
        match action {
            Action::Add => state.additions.requests.push(request),
            Action::Remove => state.removals.requests.push(request),
        }
        if mem::replace(&mut state.running, true) {
            self.changed.notify_one();
        } else {
            tokio::spawn(Arc::clone(self).work());
        }
        receiver
    }

    fn release(&self, records: &[TxtRecord]) {
        let mut state = self.state();
        for record in records {
            state.release(record);
        }
        self.changed.notify_one();
    }

    /// Writes what waits. When a provider panics in here nobody waits for a task that is gone: the callers are told.
    async fn work(self: Arc<Self>) {
        if AssertUnwindSafe(Arc::clone(&self).run()).catch_unwind().await.is_ok() {
            return;
        }
        let mut state = self.state();
        state.running = false;
        for request in state.take() {
            let _ = request.reply.send(Err(self.writer.interrupted()));
        }
    }

    /// Writes batches until nothing waits any more.
    async fn run(self: Arc<Self>) {
        let cancel = &self.writer.context.cancel;
        loop {
            let step = self.state().step(Instant::now(), &self.writer, cancel.is_cancelled());
            match step {
                Step::Rest => return,
                Step::Wait(until) => tokio::select! {
                    () = time::sleep_until(until) => {}
                    () = self.changed.notified() => {}
                    () = cancel.cancelled() => {}
                },
                Step::Write(action, requests) => self.writer.write(action, requests).await,
            }
        }
    }
}

/// What a writer does next.
enum Step {
    Rest,
    Wait(Instant),
    Write(Action, Vec<Request>),
}

#[derive(Debug)]
struct State {
    /// How many announced additions have still to come.
    expected: usize,
    /// Values that were added and are to be removed, with how many callers hold each.
    held: BTreeMap<TxtRecord, usize>,
    additions: Gathering,
    removals: Gathering,
    /// Whether a task works on the queue.
    running: bool,
}

impl State {
    fn step(&mut self, now: Instant, writer: &Writer, cancelled: bool) -> Step {
        if cancelled {
            for request in self.take() {
                let _ = request.reply.send(Err(writer.cancelled()));
            }
        }
        // Nothing was sent yet for callers that are gone; nothing needs to be.
        let gone: Vec<Request> =
            self.additions.requests.extract_if(.., |request| request.reply.is_closed()).collect();
        for record in gone.iter().flat_map(|request| &request.records) {
            self.release(record);
        }
        let capacity = writer.capacity();
        let nothing_announced = self.expected == 0;
        if let Some(requests) = self.additions.due(now, nothing_announced, capacity, &writer.pacing) {
            return Step::Write(Action::Add, requests);
        }
        let complete = nothing_announced && self.additions.requests.is_empty() && self.held.is_empty();
        if let Some(requests) = self.removals.due(now, complete, capacity, &writer.pacing) {
            return Step::Write(Action::Remove, requests);
        }
        match self.additions.deadline().into_iter().chain(self.removals.deadline()).min() {
            Some(until) => Step::Wait(until),
            None => {
                self.running = false;
                Step::Rest
            }
        }
    }

    /// Takes everything that waits.
    fn take(&mut self) -> Vec<Request> {
        let mut requests = self.additions.take();
        requests.append(&mut self.removals.take());
        requests
    }

    /// Takes values back from a caller and returns those that nobody else holds.
    fn give_back(&mut self, records: Vec<TxtRecord>) -> Vec<TxtRecord> {
        records.into_iter().filter(|record| self.release(record)).collect()
    }

    /// Forgets one holder of a value and returns whether nobody holds it any more.
    fn release(&mut self, record: &TxtRecord) -> bool {
        let Some(holders) = self.held.get_mut(record) else { return true };
        *holders -= 1;
        let free = *holders == 0;
        if free {
            self.held.remove(record);
        }
        free
    }
}

/// A caller holds a value or does not: a CA may name one authorization twice.
fn each_once(records: Vec<TxtRecord>) -> Vec<TxtRecord> {
    records.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Requests of one kind that wait for others.
#[derive(Debug)]
struct Gathering {
    requests: Vec<Request>,
    window: Duration,
}

impl Gathering {
    fn new(window: Duration) -> Self {
        Self { requests: Vec::new(), window }
    }

    fn take(&mut self) -> Vec<Request> {
        mem::take(&mut self.requests)
    }

    /// When the oldest request has waited long enough.
    fn deadline(&self) -> Option<Instant> {
        self.requests.iter().map(|request| request.since).min().map(|since| since + self.window)
    }

    /// Takes what is to be written now.
    fn due(
        &mut self,
        now: Instant,
        complete: bool,
        capacity: usize,
        pacing: &Pacing,
    ) -> Option<Vec<Request>> {
        let deadline = self.deadline()?;
        if complete {
            self.window = pacing.gather;
            return Some(self.take());
        }
        if deadline <= now {
            self.window = (self.window * 2).min(pacing.gather_limit);
            return Some(self.take());
        }
        // A full change gains nothing by waiting; what is beyond it does.
        let mut values = 0;
        let full = self.requests.iter().take_while(|request| {
            values += request.records.len();
            values <= capacity
        });
        let count = full.count().max(1);
        (values >= capacity).then(|| self.requests.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests;
