use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::ProviderErrorKind;
use crate::fingerprint::Fingerprint;
use crate::target::DeployTarget;
use crate::target::Deployed;
use crate::target::ReadBack;
use crate::target::Receipt;
use crate::target::Slot;

/// What the suite for deploy targets needs of whoever runs it.
pub trait TargetHarness: Send + Sync + fmt::Debug {
    /// The target under test.
    fn target(&self) -> Arc<dyn DeployTarget>;

    /// A slot that is empty and was never returned before.
    fn slot(&self) -> Slot;

    /// One of at least five certificates, each with its own key; the same number gives the same bundle.
    fn bundle(&self, number: usize) -> Bundle;

    /// What a server that reads the slot now gets, past the target: the fingerprint of the leaf, and the key in PEM.
    ///
    /// Panics when there is half a pair. `None` when nothing is there.
    fn served(&self, slot: &Slot) -> Option<(Fingerprint, String)>;

    /// Puts something beside the slot that the target has to leave alone; [`foreign_is_intact`](Self::foreign_is_intact) looks for it.
    fn plant_foreign(&self, slot: &Slot);

    /// Whether what [`plant_foreign`](Self::plant_foreign) put there is as it was.
    fn foreign_is_intact(&self, slot: &Slot) -> bool;
}

/// Runs every test of the contract of [`DeployTarget`].
///
/// # Panics
/// At the first broken promise, naming it.
pub async fn check_target(harness: Arc<dyn TargetHarness>) {
    let suite = Suite { harness };
    suite.an_empty_slot_is_none().await;
    suite.what_is_deployed_is_read_back().await;
    suite.many_are_observed_in_their_order().await;
    suite.deploying_twice_is_deploying_once().await;
    suite.a_replacement_stays_after_its_commit().await;
    suite.a_rollback_brings_back_what_served().await;
    suite.a_rollback_of_the_first_deployment_leaves_nothing().await;
    suite.a_rollback_of_what_changed_nothing_takes_nothing_away().await;
    suite.removing_is_idempotent_and_leaves_nothing().await;
    suite.foreign_content_stays().await;
    suite.an_unexpected_content_is_a_conflict().await;
    suite.a_cancelled_run_changes_nothing().await;
    suite.every_key_type_is_taken_as_declared();
    suite.readers_see_whole_pairs_only().await;
}

struct Suite {
    harness: Arc<dyn TargetHarness>,
}

impl Suite {
    async fn an_empty_slot_is_none(&self) {
        let slot = self.harness.slot();
        assert_eq!(self.observe(&slot).await, None, "an empty slot is `None`");
        assert_eq!(self.harness.served(&slot), None, "observing makes nothing");
    }

    async fn what_is_deployed_is_read_back(&self) {
        let slot = self.harness.slot();
        let receipt = self.deploy(&slot, 0, None).await;
        let deployed = self.holds(&slot, 0).await;
        assert_eq!(deployed.deviations, Vec::<String>::new(), "what was just deployed deviates in nothing");
        self.commit(&slot, &receipt).await;
        self.holds(&slot, 0).await;
    }

    async fn many_are_observed_in_their_order(&self) {
        let slots = [self.harness.slot(), self.harness.slot(), self.harness.slot()];
        self.deployed(&slots[0], 0).await;
        self.deployed(&slots[2], 1).await;
        let together = self.harness.target().observe_all(&context(), &slots.each_ref()).await;
        let together: Vec<_> = together.into_iter().map(|seen| seen.expect("observing succeeds")).collect();
        let mut alone = Vec::new();
        for slot in &slots {
            alone.push(self.observe(slot).await);
        }
        assert_eq!(together, alone, "looking at many is looking at each");
        assert!(alone[0].is_some() && alone[1].is_none(), "they differ");
    }

    async fn deploying_twice_is_deploying_once(&self) {
        let slot = self.harness.slot();
        self.deploy(&slot, 0, None).await;
        // As a run does that died before it could save the receipt: with what it saw before.
        let receipt = self.deploy(&slot, 0, None).await;
        self.commit(&slot, &receipt).await;
        self.commit(&slot, &receipt).await;
        let before = self.holds(&slot, 0).await;
        let receipt = self.deploy(&slot, 0, Some(&before)).await;
        self.commit(&slot, &receipt).await;
        self.holds(&slot, 0).await;
    }

    async fn a_replacement_stays_after_its_commit(&self) {
        let slot = self.harness.slot();
        let before = self.deployed(&slot, 0).await;
        let receipt = self.deploy(&slot, 1, Some(&before)).await;
        let after = self.holds(&slot, 1).await;
        if before.version.is_some() {
            assert_ne!(before.version, after.version, "a version names one content");
        }
        self.commit(&slot, &receipt).await;
        self.commit(&slot, &receipt).await;
        self.holds(&slot, 1).await;
    }

    async fn a_rollback_brings_back_what_served(&self) {
        let slot = self.harness.slot();
        let before = self.deployed(&slot, 0).await;
        self.deploy(&slot, 1, Some(&before)).await;
        // The receipt of the first call was lost; the second has to know what to bring back.
        let receipt = self.deploy(&slot, 1, Some(&before)).await;
        self.rollback(&slot, &receipt).await;
        self.holds(&slot, 0).await;
        self.rollback(&slot, &receipt).await;
        let before = self.holds(&slot, 0).await;
        let receipt = self.deploy(&slot, 2, Some(&before)).await;
        self.commit(&slot, &receipt).await;
        self.holds(&slot, 2).await;
    }

    async fn a_rollback_of_the_first_deployment_leaves_nothing(&self) {
        let slot = self.harness.slot();
        let receipt = self.deploy(&slot, 0, None).await;
        self.rollback(&slot, &receipt).await;
        self.rollback(&slot, &receipt).await;
        assert_eq!(self.observe(&slot).await, None, "nothing was there before");
    }

    async fn a_rollback_of_what_changed_nothing_takes_nothing_away(&self) {
        let slot = self.harness.slot();
        let before = self.deployed(&slot, 0).await;
        let receipt = self.deploy(&slot, 0, Some(&before)).await;
        self.rollback(&slot, &receipt).await;
        self.holds(&slot, 0).await;
    }

    async fn removing_is_idempotent_and_leaves_nothing(&self) {
        let slot = self.harness.slot();
        let target = self.harness.target();
        let nothing = target.remove(&context(), &slot, None, None).await;
        nothing.expect("removing from an empty slot succeeds");
        let before = self.deployed(&slot, 0).await;
        let receipt = self.deploy(&slot, 1, Some(&before)).await;
        for receipt in [Some(&receipt), Some(&receipt), None] {
            let seen = self.observe(&slot).await;
            let removed = target.remove(&context(), &slot, seen.as_ref(), receipt).await;
            removed.expect("removing succeeds, again and again");
            assert_eq!(self.observe(&slot).await, None, "what was removed is gone");
            assert_eq!(self.harness.served(&slot), None, "what was removed serves no more");
        }
        self.deploy(&slot, 2, None).await;
        self.holds(&slot, 2).await;
    }

    async fn foreign_content_stays(&self) {
        let slot = self.harness.slot();
        self.harness.plant_foreign(&slot);
        let before = self.deployed(&slot, 0).await;
        let receipt = self.deploy(&slot, 1, Some(&before)).await;
        self.rollback(&slot, &receipt).await;
        let before = self.holds(&slot, 0).await;
        let receipt = self.deploy(&slot, 2, Some(&before)).await;
        self.commit(&slot, &receipt).await;
        assert!(self.harness.foreign_is_intact(&slot), "what is not ours stays while we deploy");
        let seen = self.observe(&slot).await;
        let removed = self.harness.target().remove(&context(), &slot, seen.as_ref(), None).await;
        removed.expect("removing succeeds");
        assert!(self.harness.foreign_is_intact(&slot), "what is not ours stays when we go");
    }

    async fn an_unexpected_content_is_a_conflict(&self) {
        let target = self.harness.target();
        if !target.capabilities().compare_and_swap {
            return;
        }
        let slot = self.harness.slot();
        let first = self.deployed(&slot, 0).await;
        let receipt = self.deploy(&slot, 1, Some(&first)).await;
        self.commit(&slot, &receipt).await;
        for expected in [Some(&first), None] {
            let refused = target.deploy(&context(), &slot, &self.harness.bundle(2), expected).await;
            let kind = refused.expect_err("the slot holds neither what was expected nor the bundle").kind();
            assert_eq!(kind, ProviderErrorKind::Conflict);
            let refused = target.remove(&context(), &slot, expected, None).await;
            let kind = refused.expect_err("the slot holds what nobody expected").kind();
            assert_eq!(kind, ProviderErrorKind::Conflict);
            self.holds(&slot, 1).await;
        }
    }

    async fn a_cancelled_run_changes_nothing(&self) {
        let slot = self.harness.slot();
        let before = self.deployed(&slot, 0).await;
        let context = context();
        context.cancel.cancel();
        let target = self.harness.target();
        let stopped = target.deploy(&context, &slot, &self.harness.bundle(1), Some(&before)).await;
        assert_eq!(stopped.expect_err("a cancelled run starts nothing").kind(), ProviderErrorKind::Transient);
        self.holds(&slot, 0).await;
    }

    fn every_key_type_is_taken_as_declared(&self) {
        let capabilities = self.harness.target().capabilities();
        assert!(!capabilities.key_types.is_empty(), "a target takes some key type");
        let bundle = self.harness.bundle(0);
        assert!(
            capabilities.key_types.contains(&bundle.key_type),
            "the harness' certificates suit the target"
        );
    }

    async fn readers_see_whole_pairs_only(&self) {
        let slot = self.harness.slot();
        let pairs: BTreeMap<Fingerprint, String> = (0..5)
            .map(|number| self.harness.bundle(number))
            .map(|bundle| (bundle.fingerprint, bundle.key.expose_pem().to_owned()))
            .collect();
        assert_eq!(pairs.len(), 5, "the harness has five certificates");
        let mut before = self.deployed(&slot, 0).await;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicU64::new(0));
        let reader = {
            let (harness, slot) = (Arc::clone(&self.harness), slot.clone());
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (fingerprint, key) = harness.served(&slot).expect("something serves at every moment");
                    assert!(pairs.get(&fingerprint) == Some(&key), "certificate and key belong together");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        for round in 1..40 {
            // The reader is at it while the slot changes, however the threads are scheduled.
            let so_far = seen.load(Ordering::Relaxed);
            while seen.load(Ordering::Relaxed) == so_far && !reader.is_finished() {
                thread::yield_now();
            }
            let receipt = self.deploy(&slot, round % 5, Some(&before)).await;
            if round % 3 == 0 {
                self.rollback(&slot, &receipt).await;
            } else {
                self.commit(&slot, &receipt).await;
            }
            before = self.observe(&slot).await.expect("it was deployed");
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    /// Deploys and commits, and returns what is there then.
    async fn deployed(&self, slot: &Slot, number: usize) -> Deployed {
        let receipt = self.deploy(slot, number, None).await;
        self.commit(slot, &receipt).await;
        self.observe(slot).await.expect("it was deployed")
    }

    async fn deploy(&self, slot: &Slot, number: usize, expected: Option<&Deployed>) -> Receipt {
        let bundle = self.harness.bundle(number);
        let receipt = self.harness.target().deploy(&context(), slot, &bundle, expected).await;
        let receipt = receipt.expect("deploying succeeds");
        // Receipts and slots live in state between two processes.
        let saved = serde_json::to_string(&receipt).expect("a receipt is JSON");
        let key = bundle.key.expose_pem();
        assert!(key.lines().skip(1).take(1).all(|line| !saved.contains(line)), "a receipt holds no secret");
        let read: Receipt = serde_json::from_str(&saved).expect("a receipt is read back");
        assert_eq!(read, receipt, "a receipt is read back as it was");
        read
    }

    async fn commit(&self, slot: &Slot, receipt: &Receipt) {
        self.harness.target().commit(&context(), slot, receipt).await.expect("a commit succeeds");
    }

    async fn rollback(&self, slot: &Slot, receipt: &Receipt) {
        self.harness.target().rollback(&context(), slot, receipt).await.expect("a rollback succeeds");
    }

    async fn observe(&self, slot: &Slot) -> Option<Deployed> {
        let saved = serde_json::to_string(slot).expect("a slot is JSON");
        let slot: Slot = serde_json::from_str(&saved).expect("a slot is read back");
        self.harness.target().observe(&context(), &slot).await.expect("observing succeeds")
    }

    /// Asserts what the slot holds, by the target's word and past it.
    async fn holds(&self, slot: &Slot, number: usize) -> Deployed {
        let bundle = self.harness.bundle(number);
        let deployed = self.observe(slot).await.expect("something is deployed");
        if self.harness.target().capabilities().read_back == ReadBack::Certificate {
            assert_eq!(deployed.fingerprint, Some(bundle.fingerprint), "what was deployed is read back");
        }
        let served = self.harness.served(slot);
        assert!(
            served == Some((bundle.fingerprint, bundle.key.expose_pem().to_owned())),
            "the right pair serves"
        );
        deployed
    }
}

fn context() -> Context {
    let now = Timestamp::from_second(1_800_000_000).expect("a date that exists");
    Context::new(now, CancellationToken::new())
}
