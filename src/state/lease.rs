use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::clock::Clock;
use super::holder::Holder;
use super::key::ObjectKey;
use super::lease_object::HeldLease;
use super::lease_object::LeaseKey;
use super::lease_object::LeaseObject;
use super::store::Expected;
use super::store::Store;
use super::store::StoreError;
use super::store::Version;
use super::store::Versioned;

/// How long an effect may still be on its way when its sender's lease has run out, unless told otherwise.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

/// How often one looks whether a holder that may be dead shows a sign of life.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Leases: who works on what.
///
/// A lease is an object that its holder moves while it works. It is stale when it has not moved for its time to live
/// plus the longest request's timeout, both measured by the *observer's* clock from when it first saw it so; or at
/// once when its holder was a process of this machine that has died. No wall clock is compared with another's.
///
/// A holder that is not known to be alive, of another machine or container, may be dead: its lease is waited out until it
/// moves ([`acquire_or_outwait`](Leases::acquire_or_outwait)), for nobody comes to free it where each run has a container
/// of its own.
///
/// Leases save work. They do not make writes safe: that is what the compare-and-swap of each object does.
#[derive(Debug, Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    holder: Holder,
    ttl: Duration,
    longest_request: Duration,
    clock: Arc<dyn Clock>,
    /// Since when each of others' leases was seen not to move.
    seen: Arc<Mutex<BTreeMap<ObjectKey, (Version, Duration)>>>,
    /// The runs that moved a lease since it was seen first; of a lease that cannot be understood, its key.
    moving: Arc<Mutex<BTreeSet<String>>>,
    /// Set once all leases were looked at.
    looked: Arc<AtomicBool>,
}

impl Leases {
    /// Leases on a store for a holder, which live for `ttl` (whole seconds, at least one) without a sign of life.
    pub fn new(store: Arc<dyn Store>, holder: Holder, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        Self {
            store,
            holder,
            ttl,
            longest_request: LONGEST_REQUEST,
            clock,
            seen: Arc::default(),
            moving: Arc::default(),
            looked: Arc::default(),
        }
    }

    /// The same leases where no request takes longer than this.
    pub fn with_longest_request(self, longest_request: Duration) -> Self {
        Self { longest_request, ..self }
    }

    /// Acquires a lease, and waits up to `wait` for somebody else to give it back or die.
    ///
    /// Of those who try at the same moment exactly one succeeds. Whoever acquires one after another looks again at
    /// whether there is still something to do.
    ///
    /// # Errors
    /// [`LeaseError::Held`] with the holder when the time is over. With a `wait` shorter than the lease's time to live
    /// and the longest request together, another machine's abandoned lease stays held; what was seen is kept for
    /// the next call.
    pub async fn acquire(&self, key: &LeaseKey, wait: Duration) -> Result<Lease, LeaseError> {
        self.acquire_unless(key, wait, &CancellationToken::new()).await
    }

    /// Acquires a lease as [`acquire`](Self::acquire) does, and waits no longer for it when `cancel` is cancelled.
    pub async fn acquire_unless(
        &self,
        key: &LeaseKey,
        wait: Duration,
        cancel: &CancellationToken,
    ) -> Result<Lease, LeaseError> {
        let start = self.clock.now();
        // Often enough to be prompt, seldom enough for a store over the network.
        let mut pause = Duration::from_millis(20);
        loop {
            let found = self.store.get(key.object()).await?;
            let current = found.as_ref().and_then(|found| LeaseObject::decode(&found.bytes));
            let stale_in = self.stale_in(key.object(), found.as_ref(), current.as_ref());
            if stale_in.is_zero() {
                let fence = current.as_ref().map_or(0, |current| current.fence).saturating_add(1);
                let ours = LeaseObject { fence, ..LeaseObject::first(key, &self.holder, self.ttl) };
                let expected = Expected::from(found.map(|found| found.version));
                let asked = self.clock.now();
                if let Some(version) = self.put(key.object(), &ours, &expected).await? {
                    return Ok(self.hold(key, ours, version, asked));
                }
                // Somebody was faster; who, shows the next look.
                if self.clock.now().saturating_sub(start) < wait {
                    continue;
                }
            }
            let waited = self.clock.now().saturating_sub(start);
            if waited >= wait || cancel.is_cancelled() {
                return Err(self.held(key, stale_in).await?);
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(wait - waited)) => {}
                () = cancel.cancelled() => {}
            }
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// Acquires a lease as [`acquire_unless`](Self::acquire_unless) does; and waits on for one whose holder may be dead, until
    /// that shows a sign of life or the lease is stale. `told` hears of the waiting when it begins.
    pub async fn acquire_or_outwait(
        &self,
        key: &LeaseKey,
        wait: Duration,
        cancel: &CancellationToken,
        told: impl FnOnce(&LeaseError) + Send,
    ) -> Result<Lease, LeaseError> {
        let mut told = Some(told);
        let mut wait = wait;
        loop {
            let error = match self.acquire_unless(key, wait, cancel).await {
                Err(error @ LeaseError::Held { .. }) if !cancel.is_cancelled() => error,
                done => return done,
            };
            if self.shows_life(key, &error) {
                return Err(error);
            }
            if let Some(told) = told.take() {
                told(&error);
                self.look_around().await?;
            }
            wait = Duration::ZERO;
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = cancel.cancelled() => {}
            }
        }
    }

    /// Whether who holds a lease is known to be alive.
    fn shows_life(&self, key: &LeaseKey, error: &LeaseError) -> bool {
        let moving = lock(&self.moving);
        match error {
            LeaseError::Held { holder: Some(holder), .. } => {
                holder.is_alive(&self.holder) || moving.contains(&holder.run)
            }
            // A lease of another version, which only its key tells of.
            LeaseError::Held { holder: None, .. } => moving.contains(key.object().as_str()),
            _ => false,
        }
    }

    /// Sees all leases once, so that those of a dead run go stale together and not one after the other.
    async fn look_around(&self) -> Result<(), LeaseError> {
        if self.looked.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        for key in self.store.list("leases/").await? {
            // One that cannot be read is for whoever needs it.
            let Ok(found) = self.store.get(&key).await else { continue };
            let current = found.as_ref().and_then(|found| LeaseObject::decode(&found.bytes));
            self.stale_in(&key, found.as_ref(), current.as_ref());
        }
        Ok(())
    }

    /// Who holds a lease now; `None` when nobody does.
    pub async fn holder_of(&self, key: &LeaseKey) -> Result<Option<HeldLease>, LeaseError> {
        let found = self.store.get(key.object()).await?;
        Ok(found.and_then(|found| self.describe(key.object(), &found.bytes)))
    }

    /// Every lease that somebody holds, in the order of the keys.
    pub async fn list(&self) -> Result<Vec<HeldLease>, LeaseError> {
        let keys = self.store.list("leases/").await?;
        let found = self.store.get_many(&keys).await?;
        let held = |(key, found): (&ObjectKey, Option<Vec<u8>>)| self.describe(key, &found?);
        Ok(keys.iter().zip(found).filter_map(held).collect())
    }

    /// Takes a lease away from whoever holds it, and returns what it was: the user is sure that nobody works there.
    ///
    /// # Errors
    /// [`LeaseError::Store`] with [`StoreError::Conflict`] when its holder moved in this moment: it is alive.
    pub async fn break_lease(&self, object: &ObjectKey) -> Result<Option<HeldLease>, LeaseError> {
        let Some(found) = self.store.get(object).await? else { return Ok(None) };
        let Some(held) = self.describe(object, &found.bytes) else { return Ok(None) };
        let free = match LeaseObject::decode(&found.bytes) {
            Some(lease) => LeaseObject { released: true, ..lease },
            None => LeaseObject::unreadable(&self.holder),
        };
        self.store.put(object, free.encode(), &Expected::Version(found.version)).await?;
        Ok(Some(held))
    }

    /// How long a lease still has to stay as it is until it may be taken; zero when it is free.
    fn stale_in(
        &self,
        key: &ObjectKey,
        found: Option<&Versioned>,
        current: Option<&LeaseObject>,
    ) -> Duration {
        let mut seen = lock(&self.seen);
        let Some(found) = found else {
            seen.remove(key);
            return Duration::ZERO;
        };
        if current.is_some_and(|current| current.released || current.holder.is_dead(&self.holder)) {
            seen.remove(key);
            return Duration::ZERO;
        }
        let now = self.clock.now();
        let since = match seen.get(key) {
            Some((version, since)) if *version == found.version => *since,
            before => {
                if before.is_some() {
                    let who = current.map_or_else(|| key.to_string(), |current| current.holder.run.clone());
                    lock(&self.moving).insert(who);
                }
                seen.insert(key.clone(), (found.version.clone(), now));
                now
            }
        };
        let ttl = current.map_or(self.ttl, LeaseObject::ttl).max(self.ttl);
        (ttl + self.longest_request).saturating_sub(now.saturating_sub(since))
    }

    /// Puts a lease; `None` when what is there is somebody else's.
    async fn put(
        &self,
        key: &ObjectKey,
        lease: &LeaseObject,
        expected: &Expected,
    ) -> Result<Option<Version>, StoreError> {
        let error = match self.store.put(key, lease.encode(), expected).await {
            Ok(version) => return Ok(Some(version)),
            Err(error) => error,
        };
        if !matches!(error, StoreError::Conflict { .. } | StoreError::Transient { .. }) {
            return Err(error);
        }
        // The answer may have been lost. Each acquisition has a number of its own, so equal octets are this write.
        let there = self.store.get(key).await?;
        match there {
            Some(there) if there.bytes == lease.encode() => Ok(Some(there.version)),
            _ if matches!(error, StoreError::Conflict { .. }) => Ok(None),
            _ => Err(error),
        }
    }

    async fn held(&self, key: &LeaseKey, stale_in: Duration) -> Result<LeaseError, LeaseError> {
        let held = self.holder_of(key).await?;
        Ok(LeaseError::Held {
            subject: key.subject().to_owned(),
            holder: held.and_then(|held| held.holder).map(Box::new),
            stale_in,
        })
    }

    fn describe(&self, object: &ObjectKey, found: &[u8]) -> Option<HeldLease> {
        let object = object.clone();
        let Some(lease) = LeaseObject::decode(found) else {
            return Some(HeldLease { object, subject: String::new(), holder: None, fence: 0, dead: false });
        };
        let dead = lease.holder.is_dead(&self.holder);
        (!lease.released).then(|| HeldLease {
            object,
            subject: lease.subject.escape_debug().to_string(),
            holder: Some(lease.holder),
            fence: lease.fence,
            dead,
        })
    }

    fn hold(&self, key: &LeaseKey, lease: LeaseObject, version: Version, asked: Duration) -> Lease {
        lock(&self.seen).remove(key.object());
        let grip = Arc::new(Grip {
            leases: self.clone(),
            key: key.clone(),
            fence: lease.fence,
            moving: AsyncMutex::new((lease, version)),
            standing: Mutex::new(Standing { confirmed: asked, lost: None }),
        });
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&grip).beat(stop.clone()));
        Lease { grip, _stop: stop.drop_guard() }
    }
}

/// A lease that this process holds and keeps alive in the background.
///
/// Dropped without [`release`](Self::release) it is not moved any more, and goes stale by itself.
pub struct Lease {
    grip: Arc<Grip>,
    _stop: DropGuard,
}

impl Lease {
    /// How often the lease was acquired by anybody: whoever comes later has a greater number.
    pub fn fence(&self) -> u64 {
        self.grip.fence
    }

    /// For how long nobody else can take the lease, counted from when its last sign of life was sent.
    pub fn remaining(&self) -> Duration {
        let standing = lock(&self.grip.standing);
        if standing.lost.is_some() {
            return Duration::ZERO;
        }
        let since = self.grip.leases.clock.now().saturating_sub(standing.confirmed);
        self.grip.leases.ttl.saturating_sub(since)
    }

    /// Fails unless the lease lasts for an effect that takes up to `needed`: to be asked before each.
    pub fn check(&self, needed: Duration) -> Result<(), LeaseError> {
        let subject = || self.grip.key.subject().to_owned();
        if let Some(by) = &lock(&self.grip.standing).lost {
            return Err(LeaseError::Lost { subject: subject(), holder: by.clone().map(Box::new) });
        }
        let remaining = self.remaining();
        if remaining < needed {
            return Err(LeaseError::Short { subject: subject(), remaining, needed });
        }
        Ok(())
    }

    /// Gives the lease back: the next one gets it at once.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when somebody else took it; [`LeaseError::Store`] when the store fails, and then it goes
    /// stale by itself.
    pub async fn release(self) -> Result<(), LeaseError> {
        self.grip.release().await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.grip.key.subject();
        f.debug_struct("Lease")
            .field("subject", &subject)
            .field("fence", &self.grip.fence)
            .finish_non_exhaustive()
    }
}

/// What the lease and its heartbeat share.
#[derive(Debug)]
struct Grip {
    leases: Leases,
    key: LeaseKey,
    fence: u64,
    /// What was written last, locked while it is written anew: a release never overtakes a heartbeat.
    moving: AsyncMutex<(LeaseObject, Version)>,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    /// When the last sign of life that arrived was sent.
    confirmed: Duration,
    /// Set for good when somebody else has the lease; who, if it could be read.
    lost: Option<Option<Holder>>,
}

impl Grip {
    async fn beat(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.leases.ttl / 3) => {}
            }
            // A failure leaves less and less time, which `check` sees; the next beat may succeed.
            if let Err(LeaseError::Lost { .. }) = self.write(false).await {
                return;
            }
        }
    }

    async fn release(&self) -> Result<(), LeaseError> {
        self.write(true).await
    }

    async fn write(&self, released: bool) -> Result<(), LeaseError> {
        let mut moving = self.moving.lock().await;
        let asked = self.leases.clock.now();
        let next = |last: &LeaseObject| LeaseObject { beat: last.beat + 1, released, ..last.clone() };
        let mut ours = next(&moving.0);
        let object = self.key.object();
        let expected = Expected::Version(moving.1.clone());
        let mut written = self.leases.put(object, &ours, &expected).await?;
        if written.is_none()
            && let Some(there) = self.leases.store.get(object).await?
            && let Some(lease) = LeaseObject::decode(&there.bytes)
            && lease.is_same_acquisition(&ours)
            && !lease.released
        {
            // An earlier beat arrived after its answer was given up for lost.
            ours = next(&lease);
            written = self.leases.put(object, &ours, &Expected::Version(there.version)).await?;
        }
        match written {
            Some(version) => {
                *moving = (ours, version);
                lock(&self.standing).confirmed = asked;
                Ok(())
            }
            None => {
                let there = self.leases.store.get(object).await?;
                let lease = there.and_then(|there| LeaseObject::decode(&there.bytes));
                let holder = lease.filter(|lease| !lease.released).map(|lease| lease.holder);
                lock(&self.standing).lost = Some(holder.clone());
                let subject = self.key.subject().to_owned();
                Err(LeaseError::Lost { subject, holder: holder.map(Box::new) })
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced as a whole, so a panic elsewhere leaves it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a lease is not held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Somebody else holds it.
    #[error("{subject} is being worked on by {}", shown(holder.as_deref()))]
    Held {
        /// What the lease is about.
        subject: String,
        /// Who holds it; `None` when that could not be read, or it was given back in this moment.
        holder: Option<Box<Holder>>,
        /// In how long it can be taken if it does not move until then.
        stale_in: Duration,
    },
    /// Somebody else took it: no effect may be started under it any more.
    #[error("the lease of {subject} was taken over by {}", shown(holder.as_deref()))]
    Lost {
        /// What the lease is about.
        subject: String,
        /// Who took it; `None` when that is unknown, as after `state unlock`.
        holder: Option<Box<Holder>>,
    },
    /// It does not last as long as the effect may take, for the store did not answer in time or the machine slept.
    #[error("the lease of {subject} lasts {} ms more, and {} ms are needed", remaining.as_millis(), needed.as_millis())]
    Short {
        /// What the lease is about.
        subject: String,
        /// How long it lasts.
        remaining: Duration,
        /// How long it would have to.
        needed: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LeaseError {
    /// What the user can do about it.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Held { .. } => Some(
                "wait for it with `--lock-timeout 5m`; if that run is surely dead, `certplan state unlock ADDRESS` frees it",
            ),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

fn shown(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "an unknown run".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
