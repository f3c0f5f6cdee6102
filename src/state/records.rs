use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::rand;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::error::StateError;
use super::key::KeyError;
use super::key::ObjectKey;
use super::object::Content;
use super::object::Envelope;
use super::object::FORMAT;
use super::object::Gone;
use super::object::MovedFrom;
use super::object::Remains;
use super::object::Stored;
use super::object::Writer;
use super::object::Written;
use super::store::Expected;
use super::store::Store;
use super::store::StoreError;
use super::store::Version;
use super::store::Versioned;
use super::validate::Root;
use crate::model::AccountRecord;
use crate::model::CertificateRecord;
use crate::model::Name;

/// How often a write is tried whose answer was lost, and how long before the second time; the pause doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a write changes what a plan depends on.
///
/// Saved plans bind to an object's revision: a heartbeat or a renewed ARI answer makes none of them stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revise {
    /// Something that a plan depends on changed.
    Bump,
    /// Nothing did.
    Keep,
}

/// What a DNS provider must remember between runs, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderMemory {
    /// The armoured age file that [`Sealer::seal_text`](super::Sealer::seal_text) made.
    pub sealed: String,
}

/// The objects of one project on a store, and those that all projects share.
///
/// Every write is a compare-and-swap. An answer that was lost, or a conflict with one's own write, is found out by
/// reading the object again: the caller sees success exactly when its write is what is there.
#[derive(Debug)]
pub struct State {
    pub(super) store: Arc<dyn Store>,
    pub(super) project: Name,
    run: String,
    writes: AtomicU64,
    lineage: OnceLock<String>,
}

/// The lineage of what is on a store.
pub(super) async fn lineage_of(store: &dyn Store) -> Result<Option<String>, StateError> {
    let key = ObjectKey::state();
    let Some(found) = store.get(&key).await? else {
        for prefix in ["projects/", "accounts/", "archive/", "handoff/", "providers/"] {
            if let Some(other) = store.list(prefix).await?.first() {
                let (location, other) = (store.locate(&key), store.locate(other));
                return Err(StateError::NoLineage { location, other });
            }
        }
        return Ok(None);
    };
    let location = store.locate(&key);
    let object = Envelope::<Root>::decode(&found.bytes, &key, &location, None)?;
    if object.content.is_none() {
        return Err(StateError::Damaged { location, reason: "it has no content".to_owned() });
    }
    Ok(Some(object.lineage))
}

impl State {
    /// The state of a project; `run` identifies this process's run in everything that it writes.
    pub fn new(store: Arc<dyn Store>, project: Name, run: String) -> Self {
        Self { store, project, run, writes: AtomicU64::new(0), lineage: OnceLock::new() }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The lineage, which tells this state from every other; `None` when nothing was ever written.
    ///
    /// # Errors
    /// [`StateError::NoLineage`] when there are objects but no `state.json`: a damaged state is not a new one.
    pub async fn lineage(&self) -> Result<Option<String>, StateError> {
        if let Some(lineage) = self.lineage.get() {
            return Ok(Some(lineage.clone()));
        }
        let found = lineage_of(self.store.as_ref()).await?;
        Ok(found.map(|lineage| self.lineage.get_or_init(|| lineage).clone()))
    }

    /// Begins a new state, or joins the one that is there, and returns its lineage.
    pub async fn initialize(&self, now: Timestamp) -> Result<String, StateError> {
        if let Some(lineage) = self.lineage().await? {
            return Ok(lineage);
        }
        let key = ObjectKey::state();
        let location = self.store.locate(&key);
        let object = Envelope {
            format: FORMAT,
            kind: Root::KIND.to_owned(),
            key: key.clone(),
            lineage: random_identifier(&location)?,
            serial: 1,
            revision: 1,
            writer: self.writer(),
            moved_from: None,
            remains: None,
            content: Some(Root { created: now }),
        };
        match self.write(&key, object.encode(&location)?, &Expected::Absent).await {
            Ok(_) => Ok(self.lineage.get_or_init(|| object.lineage).clone()),
            // Another run began it at the same moment.
            Err(StateError::Conflict { .. }) => self.lineage().await?.ok_or(StateError::Uninitialized),
            Err(error) => Err(error),
        }
    }

    /// Returns a certificate's object; `None` when there is none or it was given up.
    pub async fn certificate(&self, name: &Name) -> Result<Option<Stored<CertificateRecord>>, StateError> {
        self.load(&ObjectKey::certificate(&self.project, name)).await
    }

    /// Writes a certificate's object, and notes the new version in `stored`.
    ///
    /// # Errors
    /// [`StateError::Conflict`] when another run wrote it since it was read.
    pub async fn save_certificate(
        &self,
        name: &Name,
        stored: &mut Stored<CertificateRecord>,
        revise: Revise,
    ) -> Result<(), StateError> {
        self.save(&ObjectKey::certificate(&self.project, name), stored, revise).await
    }

    /// Returns the account at an issuer.
    pub async fn account(&self, issuer: &Name) -> Result<Option<Stored<AccountRecord>>, StateError> {
        self.load(&ObjectKey::account(issuer)).await
    }

    /// Writes the account at an issuer; as [`save_certificate`](Self::save_certificate).
    pub async fn save_account(
        &self,
        issuer: &Name,
        stored: &mut Stored<AccountRecord>,
        revise: Revise,
    ) -> Result<(), StateError> {
        self.save(&ObjectKey::account(issuer), stored, revise).await
    }

    /// Returns what a DNS provider remembers under a name, which is a segment of an [`ObjectKey`].
    pub async fn provider_memory(
        &self,
        dns: &Name,
        name: &str,
    ) -> Result<Option<Stored<ProviderMemory>>, StateError> {
        self.load(&memory_key(dns, name)?).await
    }

    /// Writes what a DNS provider remembers; as [`save_certificate`](Self::save_certificate).
    pub async fn save_provider_memory(
        &self,
        dns: &Name,
        name: &str,
        stored: &mut Stored<ProviderMemory>,
    ) -> Result<(), StateError> {
        self.save(&memory_key(dns, name)?, stored, Revise::Keep).await
    }

    /// Retires a certificate: its object moves to `archive/`, with its keys, and its name is free.
    ///
    /// Done again after a crash, it finishes what was begun.
    pub async fn archive_certificate(
        &self,
        name: &Name,
        stored: Stored<CertificateRecord>,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let key = ObjectKey::archived(&self.project, name, stored.serial());
        let mut archived = Stored::new(stored.content.clone());
        archived.archived = Some(now);
        match self.save(&key, &mut archived, Revise::Bump).await {
            // A run that died between the two writes archived this very serial; only the moment differs.
            Err(StateError::Conflict { location, run }) => {
                let there = self.load::<CertificateRecord>(&key).await?;
                let same = there.is_some_and(|there| {
                    CertificateRecord { archived: None, ..there.content }
                        == CertificateRecord { archived: None, ..stored.content.clone() }
                });
                if !same {
                    return Err(StateError::Conflict { location, run });
                }
            }
            other => other?,
        }
        self.forget_certificate(name, stored).await
    }

    /// Forgets a certificate: its keys are gone with it, and only what the CA's rate limits count remains.
    pub async fn forget_certificate(
        &self,
        name: &Name,
        stored: Stored<CertificateRecord>,
    ) -> Result<(), StateError> {
        let key = ObjectKey::certificate(&self.project, name);
        let remains = Remains {
            issuances: stored.content.issuances.clone(),
            failures: stored.content.failures.clone(),
        };
        self.give_up(&key, &stored, remains).await
    }

    /// Gives a certificate another name and returns its object there.
    ///
    /// `stored.content` may have been changed for its new place, and its keys have to be: sealed keys are bound to
    /// the certificate's address ([`Sealer::reseal`](super::Sealer::reseal)). Done again after a crash, it finishes
    /// what was begun; until then [`snapshot`](Self::snapshot) shows the new object only.
    ///
    /// # Errors
    /// [`StateError::Conflict`] when the new name is taken by another certificate.
    pub async fn rename_certificate(
        &self,
        from: &Name,
        to: &Name,
        stored: Stored<CertificateRecord>,
    ) -> Result<Stored<CertificateRecord>, StateError> {
        let origin = MovedFrom { name: from.clone(), serial: stored.serial() };
        let mut renamed = Stored::new(stored.content.clone());
        renamed.set_moved_from(origin.clone());
        match self.save_certificate(to, &mut renamed, Revise::Bump).await {
            Err(StateError::Conflict { location, run }) => match self.certificate(to).await? {
                Some(there) if there.moved_from() == Some(&origin) => renamed = there,
                _ => return Err(StateError::Conflict { location, run }),
            },
            other => other?,
        }
        // Its issuances are counted in the new object.
        self.give_up(&ObjectKey::certificate(&self.project, from), &stored, Remains::default()).await?;
        Ok(renamed)
    }

    /// Persists the key of an open operation for those who renew; written again, it is replaced.
    pub async fn put_handoff(&self, operation: &str, bytes: Vec<u8>) -> Result<(), StateError> {
        let key = handoff_key(operation)?;
        match self.write(&key, bytes.clone(), &Expected::Absent).await {
            Err(StateError::Conflict { .. }) => {}
            other => return other.map(drop),
        }
        match self.store.get(&key).await? {
            Some(there) if there.bytes == bytes => Ok(()),
            there => {
                let expected = Expected::from(there.map(|there| there.version));
                self.write(&key, bytes, &expected).await.map(drop)
            }
        }
    }

    /// Returns the hand-off of an operation, still sealed.
    pub async fn handoff(&self, operation: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.store.get(&handoff_key(operation)?).await?.map(|found| found.bytes))
    }

    /// Removes the hand-off of an operation for good.
    pub async fn delete_handoff(&self, operation: &str) -> Result<(), StateError> {
        Ok(self.store.delete(&handoff_key(operation)?).await?)
    }

    /// Returns the operations that have a hand-off, of all projects, sorted.
    pub async fn handoffs(&self) -> Result<Vec<String>, StateError> {
        let keys = self.store.list("handoff/").await?;
        let operation =
            |key: &ObjectKey| key.as_str().strip_prefix("handoff/")?.strip_suffix(".age").map(str::to_owned);
        Ok(keys.iter().filter_map(operation).collect())
    }

    async fn load<T: Content>(&self, key: &ObjectKey) -> Result<Option<Stored<T>>, StateError> {
        let lineage = self.lineage().await?;
        let Some(found) = self.store.get(key).await? else { return Ok(None) };
        Ok(self.decode(key, found, lineage.as_deref())?.ok())
    }

    pub(super) fn decode<T: Content>(
        &self,
        key: &ObjectKey,
        found: Versioned,
        lineage: Option<&str>,
    ) -> Result<Result<Stored<T>, Box<Gone>>, StateError> {
        let object = Envelope::<T>::decode(&found.bytes, key, &self.store.locate(key), lineage)?;
        Ok(object.into_stored(Some(found.version)))
    }

    async fn save<T: Content + Clone>(
        &self,
        key: &ObjectKey,
        stored: &mut Stored<T>,
        revise: Revise,
    ) -> Result<(), StateError> {
        match self.write_content(key, stored, revise).await {
            // The name may be free all the same: of what was given up, only remains are there.
            Err(StateError::Conflict { location, run }) if stored.version().is_none() => {
                let lineage = self.lineage().await?;
                let Some(found) = self.store.get(key).await? else {
                    return Err(StateError::Conflict { location, run });
                };
                match self.decode::<T>(key, found, lineage.as_deref())? {
                    Ok(_) => Err(StateError::Conflict { location, run }),
                    Err(gone) => {
                        let mut revived = stored.clone();
                        gone.revive(&mut revived);
                        self.write_content(key, &mut revived, revise).await?;
                        *stored = revived;
                        Ok(())
                    }
                }
            }
            other => other,
        }
    }

    async fn write_content<T: Content + Clone>(
        &self,
        key: &ObjectKey,
        stored: &mut Stored<T>,
        revise: Revise,
    ) -> Result<(), StateError> {
        let object = self.envelope(key, stored, revise, Some(stored.content.clone()), None).await?;
        let written = self.write_object(key, &object, stored.version().cloned()).await?;
        stored.note(written);
        Ok(())
    }

    async fn give_up(
        &self,
        key: &ObjectKey,
        stored: &Stored<CertificateRecord>,
        remains: Remains,
    ) -> Result<(), StateError> {
        let object = self.envelope(key, stored, Revise::Bump, None, Some(remains)).await?;
        self.write_object(key, &object, stored.version().cloned()).await?;
        // What was given up is not to be found in what the store keeps to be quicker either.
        self.store.close();
        Ok(())
    }

    async fn envelope<T: Content>(
        &self,
        key: &ObjectKey,
        stored: &Stored<T>,
        revise: Revise,
        content: Option<T>,
        remains: Option<Remains>,
    ) -> Result<Envelope<T>, StateError> {
        let lineage = self.lineage().await?.ok_or(StateError::Uninitialized)?;
        let overflow = || StateError::Damaged {
            location: self.store.locate(key),
            reason: "its serial cannot grow any more".to_owned(),
        };
        let step = u64::from(revise == Revise::Bump || stored.serial() == 0);
        Ok(Envelope {
            format: FORMAT,
            kind: T::KIND.to_owned(),
            key: key.clone(),
            lineage,
            serial: stored.serial().checked_add(1).ok_or_else(overflow)?,
            revision: stored.revision().checked_add(step).ok_or_else(overflow)?,
            writer: self.writer(),
            moved_from: stored.moved_from().filter(|_| content.is_some()).cloned(),
            remains,
            content,
        })
    }

    async fn write_object<T: Content>(
        &self,
        key: &ObjectKey,
        object: &Envelope<T>,
        version: Option<Version>,
    ) -> Result<Written, StateError> {
        let bytes = object.encode(&self.store.locate(key))?;
        let version = self.write(key, bytes, &Expected::from(version)).await?;
        let writer = object.writer.clone();
        Ok(Written { serial: object.serial, revision: object.revision, version, writer })
    }

    fn writer(&self) -> Writer {
        Writer { run: self.run.clone(), seq: self.writes.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Puts an object, and finds out what became of a put whose answer says little.
    ///
    /// No two writes have the same octets, for each holds its writer's number: what is found there and is the same
    /// is this write.
    async fn write(
        &self,
        key: &ObjectKey,
        bytes: Vec<u8>,
        expected: &Expected,
    ) -> Result<Version, StateError> {
        let mut pause = PAUSE;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.store.put(key, bytes.clone(), expected).await {
                Ok(version) => return Ok(version),
                Err(error @ (StoreError::Conflict { .. } | StoreError::Transient { .. })) => error,
                Err(error) => return Err(error.into()),
            };
            let conflict = matches!(error, StoreError::Conflict { .. });
            match self.store.get(key).await {
                Ok(Some(there)) if there.bytes == bytes => return Ok(there.version),
                Ok(there) => {
                    let found = Expected::from(there.as_ref().map(|there| there.version.clone()));
                    if conflict || found != *expected {
                        let run = there.map(|there| writer_of(&there.bytes)).unwrap_or_default();
                        return Err(StateError::Conflict { location: self.store.locate(key), run });
                    }
                }
                Err(StoreError::Transient { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if attempt >= TRIES {
                return Err(error.into());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// The run that wrote an object, for a message: nothing is decided by it.
fn writer_of(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Probe {
        writer: Writer,
    }
    serde_json::from_slice::<Probe>(bytes)
        .map(|probe| probe.writer.run.chars().take(80).collect())
        .unwrap_or_default()
}

fn memory_key(dns: &Name, name: &str) -> Result<ObjectKey, KeyError> {
    if name.contains('/') {
        return Err(KeyError { key: name.to_owned() });
    }
    ObjectKey::new(&format!("providers/{dns}/{name}.json"))
}

fn handoff_key(operation: &str) -> Result<ObjectKey, KeyError> {
    if operation.contains('/') {
        return Err(KeyError { key: operation.to_owned() });
    }
    ObjectKey::new(&format!("handoff/{operation}.age"))
}

fn random_identifier(location: &str) -> Result<String, StoreError> {
    let mut octets = [0_u8; 16];
    rand::fill(&mut octets).map_err(|_| StoreError::Failed {
        location: location.to_owned(),
        action: "find randomness for",
        source: "the system has none".into(),
    })?;
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}

#[cfg(test)]
mod tests;
