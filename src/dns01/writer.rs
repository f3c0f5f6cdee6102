use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certplan_provider::ChangeStatus;
use certplan_provider::Context;
use certplan_provider::DnsProvider;
use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use tokio::sync::oneshot;
use tokio::time;
use tokio::time::Instant;

use super::watch::Repeat;
use super::watch::WriteWatch;
use super::writers::ZoneGuard;
use crate::model::ChangeRef;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Zone;

/// How long writers wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// How long the first values of a batch wait for others that were announced.
    pub gather: Duration,
    /// How far that grows: it doubles each time that it was too short, so that a slow CA does not cause many changes.
    pub gather_limit: Duration,
    /// How long a failed call waits before it is repeated at first; it doubles each time.
    pub retry: Duration,
    /// How far that grows.
    pub retry_limit: Duration,
    /// How long a change is tried while the service is in trouble or does not answer.
    pub patience: Duration,
    /// How long a change is tried while the service asks for fewer calls, and then its confirmation waited for.
    pub give_up: Duration,
    /// How long after the first question the provider is asked again whether a change is confirmed; it doubles each time.
    pub confirm: Duration,
    /// How far that grows.
    pub confirm_limit: Duration,
    /// The time to live of added values; the provider raises it to its minimum.
    pub ttl: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(2),
            gather_limit: Duration::from_secs(32),
            retry: Duration::from_millis(500),
            retry_limit: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            give_up: Duration::from_secs(300),
            confirm: Duration::from_millis(200),
            confirm_limit: Duration::from_secs(5),
            ttl: Duration::from_secs(60),
        }
    }
}

/// What a change does with its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It adds them.
    Add,
    /// It removes them.
    Remove,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Add => "add",
            Self::Remove => "remove",
        })
    }
}

/// Values that one caller wants added or removed, and how it is told.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) records: Vec<TxtRecord>,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<ChangeRef, WriteError>>,
}

/// Spreads the calls to one provider so that they stay below what it takes in the long run.
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl Rate {
    pub(super) fn new(calls_per_second: Option<f64>) -> Self {
        let interval = calls_per_second
            .filter(|calls| *calls > 0.0)
            .and_then(|calls| Duration::try_from_secs_f64(1.0 / calls).ok())
            .unwrap_or_default();
        Self { interval, next: Mutex::new(None) }
    }

    /// Keeps all calls back for a while: the service asked for that, and means the account and not the zone.
    fn hold(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(until, |next| next.max(until)));
    }

    async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.interval);
            at
        };
        time::sleep_until(at).await;
    }
}

/// What is known of a zone's trouble since its last success.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Whether somebody was told.
    told: AtomicBool,
    /// Whether a change was given up.
    given_up: AtomicBool,
}

impl Trouble {
    fn end(&self) {
        self.told.store(false, Ordering::Relaxed);
        self.given_up.store(false, Ordering::Relaxed);
    }
}

/// Writes batches to one zone.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) name: Name,
    pub(super) provider: Arc<dyn DnsProvider>,
    pub(super) zone: Zone,
    pub(super) context: Context,
    pub(super) guard: Arc<dyn ZoneGuard>,
    pub(super) watch: Arc<dyn WriteWatch>,
    pub(super) trouble: Arc<Trouble>,
    pub(super) pacing: Pacing,
    pub(super) rate: Arc<Rate>,
}

impl Writer {
    /// How many values one change holds.
    pub(super) fn capacity(&self) -> usize {
        self.provider.limits().values_per_change.max(1)
    }

    /// Writes the values of all requests in as few changes as possible, one after the other, and tells each caller.
    ///
    /// A change that the provider refuses as a whole is divided until the refused value is alone.
    pub(super) async fn write(&self, action: Action, requests: Vec<Request>) {
        let mut parts = pack(&requests, self.capacity());
        parts.reverse();
        let batch = Arc::new(Batch(Mutex::new(requests.into_iter().map(Pending::new).collect())));
        let _guard = if self.provider.limits().compare_and_swap {
            None
        } else {
            match self.guard.lock(&self.name, &self.zone).await {
                Ok(guard) => Some(guard),
                Err(error) => return batch.fail(&error),
            }
        };
        let mut tally = Tally::default();
        while let Some(part) = parts.pop() {
            if let Some(error) = tally.hopeless() {
                batch.settle(&part, &Err(error));
                continue;
            }
            match self.change(action, &part).await {
                Ok(reference) => {
                    tally = Tally { succeeded: true, refusals: Vec::new() };
                    match action {
                        Action::Add => self.confirm_later(&batch, part, reference),
                        Action::Remove => batch.settle(&part, &Ok(reference)),
                    }
                }
                Err(error) if part.len() > 1 && error.is_divisible() => {
                    parts.extend(divide(part, &error, &tally));
                }
                Err(error) => {
                    tally.refused(&error);
                    batch.settle(&part, &Err(error));
                }
            }
        }
    }

    /// Makes one change, again while that may help.
    async fn change(&self, action: Action, records: &[TxtRecord]) -> Result<ChangeRef, WriteError> {
        let (additions, removals) = match action {
            Action::Add => (records.to_vec(), Vec::new()),
            Action::Remove => (Vec::new(), records.to_vec()),
        };
        let change = Arc::new(TxtChange { additions, removals, ttl: self.pacing.ttl });
        let started = Instant::now();
        let (patience, give_up) = (self.limit(self.pacing.patience), self.limit(self.pacing.give_up));
        let mut pause = self.pacing.retry;
        let mut attempts = 0;
        loop {
            self.unless_cancelled(self.rate.turn()).await?;
            attempts += 1;
            // In a task of its own: it is finished even when this one is dropped, and a panic stays there.
            let call = tokio::spawn({
                let (this, change) = (self.clone(), Arc::clone(&change));
                async move { this.provider.change(&this.context, &this.zone, &change).await }
            });
            let error = match call.await {
                Ok(Ok(reference)) => {
                    self.trouble.end();
                    return Ok(reference);
                }
                Ok(Err(error)) => Arc::new(error),
                Err(_) => return Err(self.interrupted()),
            };
            let (wait, limit) = match &*error {
                ProviderError::RateLimited { retry_after, .. } => {
                    (retry_after.unwrap_or_default().max(pause), give_up)
                }
                _ if self.trouble.given_up.load(Ordering::Relaxed) => (pause, Duration::ZERO),
                _ => (pause, patience),
            };
            let limited = matches!(*error, ProviderError::RateLimited { .. });
            if !error.is_retryable() || started.elapsed() + wait > limit {
                if error.is_retryable() && !limited {
                    self.trouble.given_up.store(true, Ordering::Relaxed);
                }
                return Err(WriteError::Provider {
                    provider: self.name.clone(),
                    zone: self.zone.name.clone(),
                    action,
                    names: records.iter().map(|record| record.name.clone()).take(NAMES_IN_MESSAGE).collect(),
                    count: records.len(),
                    attempts,
                    source: error,
                });
            }
            if limited {
                self.rate.hold(wait);
            }
            tracing::debug!(provider = %self.name, zone = %self.zone.name, %error, ?wait, "repeating a change");
            self.tell(Some(action), &error, wait, limit);
            self.unless_cancelled(time::sleep(wait)).await?;
            pause = (pause * 2).min(self.pacing.retry_limit);
        }
    }

    /// Waits for the provider's confirmation beside the next change: no value waits for another's.
    fn confirm_later(&self, batch: &Arc<Batch>, records: Vec<TxtRecord>, reference: ChangeRef) {
        let (this, batch) = (self.clone(), Arc::clone(batch));
        tokio::spawn(async move {
            let inner = tokio::spawn({
                let (this, reference) = (this.clone(), reference.clone());
                async move { this.confirm(&reference).await }
            });
            let outcome = inner.await.unwrap_or_else(|_| Err(this.interrupted()));
            batch.settle(&records, &outcome.map(|()| reference));
        });
    }

    async fn confirm(&self, reference: &ChangeRef) -> Result<(), WriteError> {
        let started = Instant::now();
        let limit = self.limit(self.pacing.give_up);
        let mut pause = self.pacing.confirm;
        loop {
            self.unless_cancelled(self.rate.turn()).await?;
            let unconfirmed = |source: Option<Arc<ProviderError>>| WriteError::Unconfirmed {
                provider: self.name.clone(),
                zone: self.zone.name.clone(),
                waited: started.elapsed(),
                source,
            };
            let mut wait = pause;
            let error = match self.provider.status(&self.context, &self.zone, reference).await {
                Ok(ChangeStatus::Confirmed) => return Ok(()),
                Ok(_) => None,
                Err(error) if error.is_retryable() => {
                    if let ProviderError::RateLimited { retry_after, .. } = &error {
                        wait = wait.max(retry_after.unwrap_or_default());
                        self.rate.hold(wait);
                    }
                    Some(Arc::new(error))
                }
                Err(error) => return Err(unconfirmed(Some(Arc::new(error)))),
            };
            if started.elapsed() + wait > limit {
                return Err(unconfirmed(error));
            }
            if let Some(error) = &error {
                self.tell(None, error, wait, limit);
            }
            self.unless_cancelled(time::sleep(wait)).await?;
            pause = (pause * 2).min(self.pacing.confirm_limit);
        }
    }

    /// How long something is tried that may take `usual`: no longer than the context allows.
    fn limit(&self, usual: Duration) -> Duration {
        self.context.remaining().map_or(usual, |remaining| remaining.min(usual))
    }

    /// Tells that a call is repeated, unless that is known.
    fn tell(&self, action: Option<Action>, error: &Arc<ProviderError>, wait: Duration, limit: Duration) {
        if self.trouble.told.swap(true, Ordering::Relaxed) {
            return;
        }
        self.watch.repeating(Repeat {
            provider: self.name.clone(),
            zone: self.zone.name.clone(),
            action,
            error: Arc::clone(error),
            wait,
            limit,
        });
    }

    async fn unless_cancelled<T>(&self, wait: impl Future<Output = T>) -> Result<T, WriteError> {
        tokio::select! {
            biased;
            () = self.context.cancel.cancelled() => Err(self.cancelled()),
            done = wait => Ok(done),
        }
    }

    pub(super) fn cancelled(&self) -> WriteError {
        WriteError::Cancelled { zone: self.zone.name.clone() }
    }

    pub(super) fn interrupted(&self) -> WriteError {
        WriteError::Interrupted { provider: self.name.clone(), zone: self.zone.name.clone() }
    }
}

/// The requests of one batch, each with what it still waits for.
#[derive(Debug)]
struct Batch(Mutex<Vec<Pending>>);

#[derive(Debug)]
struct Pending {
    missing: Vec<TxtRecord>,
    reply: Option<oneshot::Sender<Result<ChangeRef, WriteError>>>,
}

impl Pending {
    fn new(request: Request) -> Self {
        Self { missing: request.records, reply: Some(request.reply) }
    }
}

impl Batch {
    /// Tells every caller whose last value this was, or one of whose values failed.
    fn settle(&self, records: &[TxtRecord], outcome: &Result<ChangeRef, WriteError>) {
        let records: BTreeSet<&TxtRecord> = records.iter().collect();
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for request in pending.iter_mut() {
            let before = request.missing.len();
            request.missing.retain(|record| !records.contains(record));
            let touched = request.missing.len() != before;
            if touched
                && (request.missing.is_empty() || outcome.is_err())
                && let Some(reply) = request.reply.take()
            {
                // The caller may be gone; what was written is in its journal.
                let _ = reply.send(outcome.clone());
            }
        }
        pending.retain(|request| request.reply.is_some());
    }

    fn fail(&self, error: &WriteError) {
        for request in mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Some(reply) = request.reply {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

/// Single values that were refused since the last success in a batch.
#[derive(Debug, Default)]
struct Tally {
    succeeded: bool,
    refusals: Vec<WriteError>,
}

impl Tally {
    fn refused(&mut self, error: &WriteError) {
        self.refusals.push(error.clone());
    }

    /// The error of all that is left, when so many values were refused that it is not the values.
    fn hopeless(&self) -> Option<WriteError> {
        let last = self.refusals.last()?;
        let enough = match last {
            // A cancelled or hopelessly late run makes no further call.
            error if !error.is_divisible() => 1,
            error if error.kind() == Some(ProviderErrorKind::Auth) && !self.succeeded => {
                REFUSALS_OF_CREDENTIAL
            }
            _ => REFUSALS_OF_VALUES,
        };
        (self.refusals.len() >= enough).then(|| last.clone())
    }
}

/// Divides a refused part, so that what is returned last is tried first.
///
/// A refused credential mostly refuses everything: single values tell that with two calls.
fn divide(mut part: Vec<TxtRecord>, error: &WriteError, tally: &Tally) -> Vec<Vec<TxtRecord>> {
    if error.kind() == Some(ProviderErrorKind::Auth) && !tally.succeeded && part.len() > 2 {
        let last = part.split_off(part.len() - 1);
        let middle = part.split_off(1);
        return vec![middle, last, part];
    }
    let second = part.split_off(part.len() / 2);
    vec![second, part]
}

/// Distributes the values of requests over changes; a request is divided only when it is larger than a change.
fn pack(requests: &[Request], capacity: usize) -> Vec<Vec<TxtRecord>> {
    let mut seen = BTreeSet::new();
    let mut parts: Vec<Vec<TxtRecord>> = Vec::new();
    for request in requests {
        let fresh: Vec<TxtRecord> =
            request.records.iter().filter(|record| seen.insert((*record).clone())).cloned().collect();
        for piece in fresh.chunks(capacity) {
            match parts.last_mut() {
                Some(part) if part.len() + piece.len() <= capacity => part.extend_from_slice(piece),
                _ => parts.push(piece.to_vec()),
            }
        }
    }
    parts
}

/// How many names an error lists.
const NAMES_IN_MESSAGE: usize = 3;

/// After so many single values refused for want of permission, without one success, it is the credential.
const REFUSALS_OF_CREDENTIAL: usize = 2;

/// After so many single values refused in a row, the rest is not tried.
const REFUSALS_OF_VALUES: usize = 16;

fn some_of(names: &[Fqdn], count: usize) -> String {
    let mut text = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if count > names.len() {
        text.push_str(&format!(" and {} more", count - names.len()));
    }
    text
}

/// Why values were not written. It is cloned to every caller whose values were in the change.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The run is to end: nothing more was sent, and what was is not waited for.
    #[error("the run was cancelled before zone `{zone}` was done")]
    Cancelled {
        /// The zone.
        zone: Fqdn,
    },
    /// The call to the provider broke off; whether it took effect is unknown.
    #[error("the call to DNS provider `{provider}` for zone `{zone}` broke off")]
    Interrupted {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
    },
    /// The zone's lease is not to be had.
    #[error("zone `{zone}` of DNS provider `{provider}` is locked: {reason}")]
    Locked {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
        /// By whom, or why that is not known.
        reason: String,
    },
    /// The provider refused the change, or did not take it in time.
    #[error(
        "DNS provider `{provider}` did not {action} TXT values in zone `{zone}` for {} ({attempts} {})",
        some_of(names, *count),
        if *attempts == 1 { "attempt" } else { "attempts" }
    )]
    Provider {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
        /// What was to be done.
        action: Action,
        /// The first few names.
        names: Vec<Fqdn>,
        /// How many values it was about.
        count: usize,
        /// How often it was tried.
        attempts: u32,
        /// What the provider said last.
        #[source]
        source: Arc<ProviderError>,
    },
    /// The provider took the change and did not confirm it in time.
    #[error(
        "DNS provider `{provider}` took a change of zone `{zone}` and did not confirm it within {waited:?}"
    )]
    Unconfirmed {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
        /// How long it had.
        waited: Duration,
        /// What the provider said last, if that was an error.
        #[source]
        source: Option<Arc<ProviderError>>,
    },
    /// No such provider is configured.
    #[error("DNS provider `{provider}` is not in the configuration")]
    UnknownProvider {
        /// Its name.
        provider: Name,
    },
}

impl WriteError {
    /// The class of the provider's error, if it is one.
    pub fn kind(&self) -> Option<ProviderErrorKind> {
        match self {
            Self::Provider { source, .. } => Some(source.kind()),
            Self::Unconfirmed { source, .. } => source.as_ref().map(|source| source.kind()),
            _ => None,
        }
    }

    /// Whether the values may have been written although this is an error.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            // Cancelling also ends the wait for the confirmation of what was taken.
            Self::Cancelled { .. } | Self::Interrupted { .. } | Self::Unconfirmed { .. } => true,
            Self::Provider { source, .. } => source.kind() == ProviderErrorKind::Transient,
            _ => false,
        }
    }

    /// Whether a smaller change may succeed.
    fn is_divisible(&self) -> bool {
        matches!(self, Self::Provider { source, .. }
            if matches!(source.kind(), ProviderErrorKind::Auth | ProviderErrorKind::Invalid))
    }
}
