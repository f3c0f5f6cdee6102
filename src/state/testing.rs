//! What the tests of state share.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::clock::Clock;
use super::holder::Holder;
use super::key::ObjectKey;
use super::store::Expected;
use super::store::Store;
use super::store::StoreError;
use super::store::Version;
use super::store::Versioned;
use crate::model::CertName;
use crate::model::CertificateFacts;
use crate::model::CertificateRecord;
use crate::model::Issuance;
use crate::model::Issued;
use crate::model::KeyType;
use crate::model::Name;
use crate::model::SealedKey;
use crate::model::sha256;

/// What a store does to the next put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It answers that it does not know, and wrote.
    AnswerLost,
    /// It answers that somebody else was faster, and wrote: a store that repeats requests by itself.
    ConflictWithItself,
    /// It fails for good.
    Failed,
    /// It has no room.
    Full,
    /// It answers that it does not know, and did not write.
    NotSent,
    /// It may not be written to.
    ReadOnly,
}

/// A store in memory that fails on request.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    pub(super) objects: Mutex<BTreeMap<ObjectKey, (Vec<u8>, u64)>>,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    pub(super) puts: Mutex<u64>,
}

impl MemoryStore {
    pub(super) fn failing(faults: impl IntoIterator<Item = Fault>) -> Arc<Self> {
        let store = Self::default();
        store.fail(faults);
        Arc::new(store)
    }

    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(super) fn bytes(&self, key: &str) -> Vec<u8> {
        self.objects.lock().unwrap()[&ObjectKey::new(key).unwrap()].0.clone()
    }

    /// Puts octets into the place of an object without asking.
    pub(super) fn overwrite(&self, key: &str, bytes: Vec<u8>) {
        let mut objects = self.objects.lock().unwrap();
        let version = objects.values().map(|(_, version)| *version).max().unwrap_or(0) + 1;
        objects.insert(ObjectKey::new(key).unwrap(), (bytes, version));
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Versioned>, StoreError> {
        let found = self.objects.lock().unwrap().get(key).cloned();
        Ok(found.map(|(bytes, version)| Versioned { bytes, version: Version(version.to_string()) }))
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>, expected: &Expected) -> Result<Version, StoreError> {
        *self.puts.lock().unwrap() += 1;
        let location = key.to_string();
        let fault = self.faults.lock().unwrap().pop_front();
        let source = || "injected".into();
        match fault {
            Some(Fault::Failed) => {
                return Err(StoreError::Failed { location, action: "write", source: source() });
            }
            Some(Fault::Full) => return Err(StoreError::Full { location, source: source() }),
            Some(Fault::NotSent) => {
                return Err(StoreError::Transient { location, action: "write", source: source() });
            }
            Some(Fault::ReadOnly) => {
                return Err(StoreError::Denied { location, action: "write", source: source() });
            }
            Some(Fault::AnswerLost | Fault::ConflictWithItself) | None => {}
        }
        let mut objects = self.objects.lock().unwrap();
        let found = objects.get(key).map(|(_, version)| Version(version.to_string()));
        if Expected::from(found) != *expected {
            return Err(StoreError::Conflict { location });
        }
        let version = objects.values().map(|(_, version)| *version).max().unwrap_or(0) + 1;
        objects.insert(key.clone(), (bytes, version));
        match fault {
            Some(Fault::AnswerLost) => {
                Err(StoreError::Transient { location, action: "write", source: source() })
            }
            Some(Fault::ConflictWithItself) => Err(StoreError::Conflict { location }),
            _ => Ok(Version(version.to_string())),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError> {
        let objects = self.objects.lock().unwrap();
        Ok(objects.keys().filter(|key| key.as_str().starts_with(prefix)).cloned().collect())
    }
}

/// A clock that stands until it is moved.
#[derive(Debug, Default)]
pub(super) struct StandingClock(Mutex<Duration>);

impl StandingClock {
    pub(super) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for StandingClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// This process as a holder.
pub(super) fn holder(run: &str) -> Holder {
    Holder::current(&|_| None, run)
}

/// A holder on another machine.
pub(super) fn stranger(run: &str) -> Holder {
    Holder { host: "elsewhere".to_owned(), boot: Some("another boot".to_owned()), ..holder(run) }
}

/// A record with a certificate for `<label>.example.com` whose chain has about `size` octets.
pub(super) fn record(label: &str, size: usize) -> CertificateRecord {
    let names = [format!("{label}.example.com"), format!("*.{label}.example.com")];
    let facts = CertificateFacts {
        fingerprint: sha256(label.as_bytes()),
        spki: sha256(format!("spki of {label}").as_bytes()),
        serial: "00ff".to_owned(),
        names: names.iter().map(|name| CertName::new(name).unwrap()).collect(),
        not_before: timestamp(1_800_000_000),
        not_after: timestamp(1_808_000_000),
        issuer: "CN=Test".to_owned(),
        key_type: Some(KeyType::EcdsaP256),
        ari_id: Some("abc.def".to_owned()),
    };
    let line = format!("{}\n", "A".repeat(64));
    let chain_pem =
        format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", line.repeat(size / line.len()));
    CertificateRecord {
        issuances: vec![Issuance {
            at: timestamp(1_800_000_000),
            directory: "https://ca.example/directory".to_owned(),
            names: facts.names.clone(),
            spki: facts.spki,
            replaces: false,
        }],
        current: Some(Issued {
            key: SealedKey {
                key_type: KeyType::EcdsaP256,
                spki: facts.spki,
                recipients: vec!["age1example".to_owned()],
                armored: "-----BEGIN AGE ENCRYPTED FILE-----\n".to_owned(),
            },
            facts,
            chain_pem,
            issuer: name("le"),
            directory: "https://ca.example/directory".to_owned(),
            profile: None,
            preferred_chain: None,
            issued_at: timestamp(1_800_000_000),
            operation: "00112233445566778899aabbccddeeff".to_owned(),
        }),
        ..CertificateRecord::default()
    }
}
