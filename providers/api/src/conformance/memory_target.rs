use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::ProviderError;
use crate::factory::Complaint;
use crate::fingerprint::Fingerprint;
use crate::key_type::KeyType;
use crate::target::Capabilities;
use crate::target::DeployTarget;
use crate::target::Deployed;
use crate::target::KeyOrigin;
use crate::target::ReadBack;
use crate::target::Receipt;
use crate::target::Slot;
use crate::target::Update;

/// A deploy target in memory, as strict as the contract, with a ledger of its calls and faults on request.
///
/// A slot's only parameter is `path`, by default the certificate's name.
#[derive(Debug)]
pub struct MemoryTarget {
    capabilities: Capabilities,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    places: BTreeMap<String, Place>,
    last_version: u64,
    ledger: Vec<TargetCall>,
    faults: BTreeMap<TargetCallKind, VecDeque<Fault>>,
}

/// What is at a location: every version that is kept, and which one serves.
#[derive(Debug, Default)]
struct Place {
    versions: BTreeMap<u64, Bundle>,
    serving: Option<u64>,
    /// What the deployment that is neither committed nor rolled back replaced.
    pending: Option<(u64, Option<u64>)>,
    deviations: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u64,
    changed: bool,
    previous: Option<u64>,
}

/// Which of a target's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TargetCallKind {
    /// [`DeployTarget::commit`].
    Commit,
    /// [`DeployTarget::deploy`].
    Deploy,
    /// [`DeployTarget::observe`].
    Observe,
    /// [`DeployTarget::remove`].
    Remove,
    /// [`DeployTarget::rollback`].
    Rollback,
}

/// One call in the ledger of a [`MemoryTarget`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetCall {
    /// Which call.
    pub kind: TargetCallKind,
    /// The slot's location.
    pub location: String,
    /// What was to be deployed.
    pub fingerprint: Option<Fingerprint>,
    /// The operation of the call's context.
    pub operation: Option<String>,
    /// Whether it changed anything.
    pub changed: bool,
    /// Whether the caller was told that it succeeded.
    pub succeeded: bool,
}

/// What goes wrong with a call of a [`MemoryTarget`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Its effect happens, and the answer is lost.
    AfterEffect(ProviderError),
    /// It fails, and nothing happens.
    BeforeEffect(ProviderError),
    /// It takes this long, by the runtime's clock, and then does what it is to do.
    Slow(Duration),
}

impl Default for MemoryTarget {
    fn default() -> Self {
        Self::new(ReadBack::Certificate)
    }
}

impl MemoryTarget {
    /// An empty target that tells what it holds as exactly as `read_back` says.
    pub fn new(read_back: ReadBack) -> Self {
        let capabilities = Capabilities {
            read_back,
            update: Update::InPlace,
            compare_and_swap: true,
            key_types: KeyType::ALL.to_vec(),
            max_size: None,
            key_origin: KeyOrigin::Local,
        };
        Self { capabilities, inner: Mutex::default() }
    }

    /// The same target with other capabilities declared.
    pub fn with_capabilities(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }

    /// Lets the next call of a kind that has no fault yet go wrong; several are used up one after the other.
    pub fn inject(&self, kind: TargetCallKind, fault: Fault) {
        self.lock().faults.entry(kind).or_default().push_back(fault);
    }

    /// Every call so far, in order.
    pub fn ledger(&self) -> Vec<TargetCall> {
        self.lock().ledger.clone()
    }

    /// What a server that reads a location gets.
    pub fn serving(&self, location: &str) -> Option<Bundle> {
        let inner = self.lock();
        let place = inner.places.get(location)?;
        place.versions.get(&place.serving?).cloned()
    }

    /// How many versions a location keeps: one, when nothing is in progress.
    pub fn kept(&self, location: &str) -> usize {
        self.lock().places.get(location).map_or(0, |place| place.versions.len())
    }

    /// The locations that serve something.
    pub fn locations(&self) -> BTreeSet<String> {
        let inner = self.lock();
        inner.places.iter().filter(|(_, place)| place.serving.is_some()).map(|(at, _)| at.clone()).collect()
    }

    /// Replaces what a location serves, as somebody else would by hand; `None` removes it.
    pub fn tamper(&self, location: &str, bundle: Option<Bundle>) {
        let mut inner = self.lock();
        inner.last_version += 1;
        let version = inner.last_version;
        let place = inner.places.entry(location.to_owned()).or_default();
        place.serving = bundle.map(|bundle| {
            place.versions.insert(version, bundle);
            version
        });
    }

    /// Lets a location deviate in what is not the certificate, until the next deployment.
    pub fn deviate(&self, location: &str, deviation: &str) {
        self.lock().places.entry(location.to_owned()).or_default().deviations.push(deviation.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the effect of a call with the faults that are due, and writes the ledger.
    async fn call<T>(
        &self,
        context: &Context,
        slot: &Slot,
        kind: TargetCallKind,
        fingerprint: Option<Fingerprint>,
        effect: impl FnOnce(&mut Inner) -> Result<(T, bool), ProviderError> + Send,
    ) -> Result<T, ProviderError> {
        let fault = self.lock().faults.get_mut(&kind).and_then(VecDeque::pop_front);
        if let Some(Fault::Slow(time)) = &fault {
            tokio::time::sleep(*time).await;
        }
        if kind != TargetCallKind::Observe {
            context.check()?;
        }
        let mut inner = self.lock();
        let outcome = match fault {
            Some(Fault::BeforeEffect(error)) => Err((error, false)),
            Some(Fault::AfterEffect(error)) => match effect(&mut inner) {
                Ok((_, changed)) => Err((error, changed)),
                Err(refused) => Err((refused, false)),
            },
            Some(Fault::Slow(_)) | None => effect(&mut inner).map_err(|error| (error, false)),
        };
        inner.ledger.push(TargetCall {
            kind,
            location: slot.location.clone(),
            fingerprint,
            operation: context.operation.clone(),
            changed: matches!(outcome, Ok((_, true)) | Err((_, true))),
            succeeded: outcome.is_ok(),
        });
        outcome.map(|(value, _)| value).map_err(|(error, _)| error)
    }

    fn describe(&self, place: &Place) -> Option<Deployed> {
        let version = place.serving?;
        let fingerprint = place.versions.get(&version).map(|bundle| bundle.fingerprint);
        Some(Deployed {
            fingerprint: fingerprint.filter(|_| self.capabilities.read_back == ReadBack::Certificate),
            version: (self.capabilities.read_back != ReadBack::Nothing).then(|| version.to_string()),
            deviations: place.deviations.clone(),
            ..Deployed::default()
        })
    }
}

#[async_trait]
impl DeployTarget for MemoryTarget {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn slot(&self, certificate: &str, parameters: &Value) -> Result<Slot, Vec<Complaint>> {
        let location = match parameters.get("path") {
            None => certificate.to_owned(),
            Some(Value::String(path)) if !path.is_empty() => path.clone(),
            Some(_) => return Err(vec![Complaint::new("/path", "the path is a text that is not empty")]),
        };
        Ok(Slot { parameters: json!({ "path": location }), location })
    }

    async fn observe(&self, context: &Context, slot: &Slot) -> Result<Option<Deployed>, ProviderError> {
        self.call(context, slot, TargetCallKind::Observe, None, |inner| {
            Ok((inner.places.get(&slot.location).and_then(|place| self.describe(place)), false))
        })
        .await
    }

    async fn deploy(
        &self,
        context: &Context,
        slot: &Slot,
        bundle: &Bundle,
        expected: Option<&Deployed>,
    ) -> Result<Receipt, ProviderError> {
        self.call(context, slot, TargetCallKind::Deploy, Some(bundle.fingerprint), |inner| {
            if !self.capabilities.key_types.contains(&bundle.key_type) {
                return Err(ProviderError::invalid(format!(
                    "a key of the type {} is not taken",
                    bundle.key_type
                )));
            }
            let size = bundle.chain_pem.len() + bundle.key.expose_pem().len();
            if self.capabilities.max_size.is_some_and(|max| size > max) {
                return Err(ProviderError::invalid(format!(
                    "the bundle has {size} octets, which is too many"
                )));
            }
            let next = inner.last_version + 1;
            let place = inner.places.entry(slot.location.clone()).or_default();
            let serving = place.serving.and_then(|version| place.versions.get(&version));
            let is_there = serving.is_some_and(|serving| {
                serving.fingerprint == bundle.fingerprint
                    && serving.key.expose_der() == bundle.key.expose_der()
            });
            let now = self.describe(place);
            let as_expected = now.is_none() || now.as_ref().map(identity) == expected.map(identity);
            if self.capabilities.compare_and_swap && !is_there && !as_expected {
                return Err(ProviderError::conflict(format!("`{}` holds something else", slot.location)));
            }
            let record = match (place.serving, place.pending) {
                (Some(version), Some((pending, previous))) if is_there && pending == version => {
                    Record { version, changed: true, previous }
                }
                (Some(version), _) if is_there => Record { version, changed: false, previous: None },
                (previous, _) => {
                    place.versions.insert(next, bundle.clone());
                    place.serving = Some(next);
                    place.pending = Some((next, previous));
                    Record { version: next, changed: true, previous }
                }
            };
            place.deviations.clear();
            let changed = record.version == next;
            inner.last_version = inner.last_version.max(record.version);
            Ok((Receipt(json!(record)), changed))
        })
        .await
    }

    async fn commit(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        let record = record(receipt)?;
        self.call(context, slot, TargetCallKind::Commit, None, |inner| {
            let place = inner.places.get_mut(&slot.location);
            let Some(place) = place.filter(|place| place.serving == Some(record.version)) else {
                return Err(ProviderError::conflict(format!("`{}` holds another version", slot.location)));
            };
            let before = place.versions.len();
            place.versions.retain(|version, _| *version == record.version);
            place.pending = None;
            Ok(((), before != place.versions.len()))
        })
        .await
    }

    async fn rollback(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        let record = record(receipt)?;
        self.call(context, slot, TargetCallKind::Rollback, None, |inner| {
            let place = inner.places.entry(slot.location.clone()).or_default();
            if !record.changed || place.serving == record.previous {
                return Ok(((), false));
            }
            let gone = record.previous.is_some_and(|previous| !place.versions.contains_key(&previous));
            if place.serving != Some(record.version) || gone {
                return Err(ProviderError::conflict(format!("`{}` holds another version", slot.location)));
            }
            place.serving = record.previous;
            place.versions.remove(&record.version);
            place.pending = None;
            Ok(((), true))
        })
        .await
    }

    async fn remove(
        &self,
        context: &Context,
        slot: &Slot,
        expected: Option<&Deployed>,
        _: Option<&Receipt>,
    ) -> Result<(), ProviderError> {
        self.call(context, slot, TargetCallKind::Remove, None, |inner| {
            let now = inner.places.get(&slot.location).and_then(|place| self.describe(place));
            let as_expected = now.is_none() || now.as_ref().map(identity) == expected.map(identity);
            if self.capabilities.compare_and_swap && !as_expected {
                return Err(ProviderError::conflict(format!("`{}` holds something else", slot.location)));
            }
            let removed = inner.places.remove(&slot.location);
            Ok(((), removed.is_some_and(|place| place.serving.is_some())))
        })
        .await
    }
}

/// What tells one content from another.
fn identity(deployed: &Deployed) -> (Option<Fingerprint>, Option<String>) {
    (deployed.fingerprint, deployed.version.clone())
}

fn record(receipt: &Receipt) -> Result<Record, ProviderError> {
    Record::deserialize(&receipt.0)
        .map_err(|error| ProviderError::invalid("the receipt is not of this target").with_source(error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;
    use zeroize::Zeroizing;

    use crate::bundle::PrivateKey;
    use crate::conformance::TargetHarness;
    use crate::conformance::check_target;
    use crate::error::ProviderErrorKind;

    use super::*;

    #[derive(Debug, Default)]
    struct Harness {
        target: Arc<MemoryTarget>,
        slots: AtomicUsize,
    }

    impl TargetHarness for Harness {
        fn target(&self) -> Arc<dyn DeployTarget> {
            Arc::clone(&self.target) as Arc<dyn DeployTarget>
        }

        fn slot(&self) -> Slot {
            let number = self.slots.fetch_add(1, Ordering::Relaxed);
            self.target.slot(&format!("slot-{number}"), &json!({})).unwrap()
        }

        fn bundle(&self, number: usize) -> Bundle {
            bundle(number)
        }

        fn served(&self, slot: &Slot) -> Option<(Fingerprint, String)> {
            let bundle = self.target.serving(&slot.location)?;
            Some((bundle.fingerprint, bundle.key.expose_pem().to_owned()))
        }

        fn plant_foreign(&self, slot: &Slot) {
            self.target.tamper(&format!("{}/foreign", slot.location), Some(bundle(9)));
        }

        fn foreign_is_intact(&self, slot: &Slot) -> bool {
            self.target.serving(&format!("{}/foreign", slot.location)).is_some()
        }
    }

    fn bundle(number: usize) -> Bundle {
        let octet = number as u8;
        let pem = format!("-----BEGIN PRIVATE KEY-----\nkey-{number}\n-----END PRIVATE KEY-----\n");
        Bundle {
            certificate: "shop".to_owned(),
            chain: vec![vec![octet]],
            chain_pem: String::new(),
            key: PrivateKey::new(Zeroizing::new(vec![octet]), Zeroizing::new(pem)),
            key_type: KeyType::default(),
            fingerprint: Fingerprint::from_digest([octet; 32]),
        }
    }

    fn context() -> Context {
        Context::new(Timestamp::UNIX_EPOCH, CancellationToken::new())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn the_reference_keeps_the_contract_at_every_level_of_read_back() {
        for read_back in [ReadBack::Certificate, ReadBack::Metadata] {
            let target = Arc::new(MemoryTarget::new(read_back));
            block_on(check_target(Arc::new(Harness { target, slots: AtomicUsize::default() })));
        }
    }

    #[test]
    fn a_lost_answer_is_completed_by_the_same_call() {
        block_on(async {
            let target = MemoryTarget::default();
            let slot = target.slot("shop", &json!({})).unwrap();
            let lost = Fault::AfterEffect(ProviderError::transient("the connection broke"));
            target.inject(TargetCallKind::Deploy, lost);
            let error = target.deploy(&context(), &slot, &bundle(1), None).await.unwrap_err();
            assert_eq!(error.kind(), ProviderErrorKind::Transient);
            let receipt =
                target.deploy(&context().for_operation("op"), &slot, &bundle(1), None).await.unwrap();
            target.commit(&context(), &slot, &receipt).await.unwrap();
            let ledger = target.ledger();
            let seen: Vec<_> = ledger.iter().map(|call| (call.kind, call.changed, call.succeeded)).collect();
            assert_eq!(
                seen,
                [
                    (TargetCallKind::Deploy, true, false),
                    (TargetCallKind::Deploy, false, true),
                    (TargetCallKind::Commit, false, true),
                ]
            );
            assert_eq!(ledger[1].operation.as_deref(), Some("op"));
            assert_eq!(target.kept("shop"), 1);
        });
    }

    #[test]
    fn what_somebody_changes_by_hand_is_observed_and_not_overwritten_unseen() {
        block_on(async {
            let target = MemoryTarget::default();
            let slot = target.slot("shop", &json!({})).unwrap();
            let receipt = target.deploy(&context(), &slot, &bundle(1), None).await.unwrap();
            target.commit(&context(), &slot, &receipt).await.unwrap();
            let seen = target.observe(&context(), &slot).await.unwrap();
            target.tamper("shop", Some(bundle(2)));
            target.deviate("shop", "mode is 0644, not 0640");
            let refused = target.deploy(&context(), &slot, &bundle(3), seen.as_ref()).await.unwrap_err();
            assert_eq!(refused.kind(), ProviderErrorKind::Conflict);
            let seen = target.observe(&context(), &slot).await.unwrap().unwrap();
            assert_eq!(seen.fingerprint, Some(bundle(2).fingerprint));
            assert_eq!(seen.deviations, ["mode is 0644, not 0640"]);
            target.deploy(&context(), &slot, &bundle(3), Some(&seen)).await.unwrap();
            assert_eq!(target.serving("shop").unwrap().fingerprint, bundle(3).fingerprint);
        });
    }
}
