//! One certificate's part of a run, from the lease to the closed operation.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use certplan_provider::message_of;

use crate::model::Address;
use crate::model::CertName;
use crate::model::CertificateRecord;
use crate::model::ChallengeLocation;
use crate::model::DeploymentStage;
use crate::model::DesiredCertificate;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Operation;
use crate::model::OperationKey;
use crate::model::SealedKey;
use crate::model::Stage;
use crate::plan::CertificateWork;
use crate::plan::IssueStep;
use crate::state::LeaseKey;
use crate::state::Revise;

use super::Apply;
use super::backoff;
use super::error::ApplyError;
use super::error::Disposition;
use super::event::Event;
use super::event::Step;
use super::guard::guarded;
use super::issue::NewKey;
use super::journal::Journal;
use super::unfinished::Left;

/// Where the challenge of each name goes, by the name without its wildcard.
pub(super) type Locations = BTreeMap<Fqdn, ChallengeLocation>;

impl Apply {
    /// Does everything that the plan has for one certificate.
    pub(super) async fn certificate(&self, work: &CertificateWork) -> Result<(), ApplyError> {
        let address = Address::Certificate(work.name.clone());
        self.reporter.report(Event::ApplyStart { address: address.clone(), resumed: work.resume.is_some() });
        let lease = self.lease(&self.lease_key(work), &address).await?;
        let mut journal = Journal::open(Arc::clone(&self.state), work.name.clone(), lease).await?;
        let parks = parks_order(work, &journal);
        let outcome = guarded(self.work(work, &mut journal)).await;
        if let Some(error) = outcome.as_ref().err().filter(|_| !parks) {
            let settled = guarded(async {
                self.settle(&mut journal, error).await;
                Ok(())
            });
            if settled.await.is_err() {
                self.reporter.report(Event::Warning {
                    address: address.clone(),
                    message: "what is left of it could not be taken back, and the next run tries again"
                        .to_owned(),
                });
            }
        }
        let record = journal.close().await.content;
        if outcome.is_ok() {
            let facts = record.current.as_ref().map(|current| &current.facts);
            self.reporter.report(Event::ApplyComplete {
                address,
                fingerprint: facts.map(|facts| facts.fingerprint),
                not_after: facts.map(|facts| facts.not_after),
            });
        }
        outcome
    }

    async fn work(&self, work: &CertificateWork, journal: &mut Journal) -> Result<(), ApplyError> {
        self.step(Address::Certificate(work.name.clone()), Step::Leased);
        // A rename was compared with its plan when it was done.
        if work.rename.is_none() && journal.revision() != work.base_revision {
            return Err(ApplyError::Stale { planned: work.base_revision, found: journal.revision() });
        }
        if work.archive {
            return self.retire(work, journal).await;
        }
        let desired = self
            .desired
            .certificates
            .get(&work.name)
            .ok_or_else(|| ApplyError::NotConfigured { certificate: work.name.clone() })?;
        if let Some(resume) = &work.resume
            && journal.record().operation.is_some()
        {
            if resume.abandon {
                self.abandon(journal).await?;
            } else {
                self.resume(desired, journal).await?;
            }
        }
        if parks_order(work, journal) {
            return self.work_beside_order(desired, work, journal).await;
        }
        if let Some(issue) = &work.issue {
            if journal.record().current.is_none() {
                self.ask_targets(desired, work).await?;
            }
            self.begin(issue, work, journal).await?;
            self.issue(desired, journal).await?;
        }
        self.remove_txt_beside(desired, work, journal).await?;
        self.remove_deployments(work, journal).await?;
        self.record_settings(desired, work, journal).await?;
        if let Some(operation) = &journal.record().operation
            && self.leaves_deployment(desired, work, journal.record(), operation)
        {
            // What it began there, a later run finishes or takes back; what it made, a later run deploys.
            self.remove_txt(journal).await?;
            return journal.persist(Revise::Bump).await;
        }
        self.close_operation(journal).await
    }

    /// Does what there is to do beside an order that this plan does not go on with: its TXT values, its key and how far it
    /// is stay as they are.
    async fn work_beside_order(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let deployed = self.deploy(desired, work, journal).await;
        if !work.deploy.is_empty() {
            // What is finished is remembered of the certificate; in the journal it would count as the order's.
            let deployments = &mut journal.operation_mut()?.deployments;
            deployments.retain(|_, deployment| deployment.stage != DeploymentStage::Verified);
            let noted = journal.persist(Revise::Bump).await;
            deployed.and(noted)?;
        }
        self.remove_deployments(work, journal).await?;
        self.record_settings(desired, work, journal).await
    }

    /// Remembers what the configuration says of deployments that stay as they are: a removal goes by it when the
    /// configuration says nothing of them any more.
    async fn record_settings(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        for entry in desired.deploy.iter().filter(|entry| work.record.contains(&entry.target)) {
            if let Some(recorded) = journal.record_mut().deployments.get_mut(&entry.target) {
                recorded.on_remove = entry.on_remove;
                recorded.verify.clone_from(&entry.verify);
            }
        }
        if work.record.is_empty() { Ok(()) } else { journal.persist(Revise::Bump).await }
    }

    /// Goes on where an interrupted run stopped.
    async fn resume(&self, desired: &DesiredCertificate, journal: &mut Journal) -> Result<(), ApplyError> {
        match journal.operation()?.stage {
            Stage::Intent | Stage::Ordered | Stage::Validating | Stage::Finalizing => {
                if self.operation_key(journal).await?.is_none() {
                    // The run died between the journal and the hand-off, or the key is not for this identity: nothing
                    // was finalized with it, so nothing is lost.
                    if journal.operation()?.stage < Stage::Finalizing {
                        let interrupted = journal.operation()?;
                        let issue = IssueStep::from_operation(interrupted, desired);
                        let cause = interrupted.cause.clone();
                        self.abandon(journal).await?;
                        self.open_operation(&issue, &cause, "resume_interrupted_operation", journal).await?;
                    } else {
                        return Err(ApplyError::KeySealed { certificate: desired.name.clone() });
                    }
                }
                self.issue(desired, journal).await
            }
            Stage::Issued | Stage::Deploying => Ok(()),
        }
    }

    /// Persists the intent: names, issuer, the signing request and the new key, before anything leaves this machine.
    async fn begin(
        &self,
        issue: &IssueStep,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        if journal.record().operation.is_some() {
            // A certificate that was issued but never deployed everywhere is due again: what it left is cleaned up first.
            self.abandon(journal).await?;
        }
        self.open_operation(issue, work.cause.as_str(), work.reason.as_str(), journal).await
    }

    pub(super) async fn open_operation(
        &self,
        issue: &IssueStep,
        cause: &str,
        reason: &str,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let id = (self.random_id)();
        let name = journal.name().clone();
        let NewKey { sealed, csr, handoff } = self.new_key(issue, &id, journal).await?;
        journal.record_mut().operation = Some(Box::new(Operation {
            id: id.clone(),
            cause: cause.to_owned(),
            reason: reason.to_owned(),
            started: self.now(),
            stage: Stage::Intent,
            names: issue.names.clone(),
            issuer: issue.issuer.clone(),
            directory: issue.directory.clone(),
            profile: issue.profile.clone(),
            preferred_chain: issue.preferred_chain.clone(),
            replaces: issue.replaces.clone(),
            key: Some(OperationKey::Sealed(sealed)),
            csr: Some(csr),
            account: None,
            order_url: None,
            order_expires: None,
            txt: Vec::new(),
            delegations: BTreeSet::new(),
            deployments: BTreeMap::new(),
        }));
        journal.persist(Revise::Bump).await?;
        // After the journal names it and before anything is ordered: a hand-off of no open operation is nobody's, so that
        // any run may collect it at any time; and an operation without its hand-off has no order yet and starts over.
        if let Some(handoff) = handoff {
            journal.check_lease()?;
            self.state.put_handoff(&id, handoff).await?;
        }
        self.step(Address::Certificate(name), Step::KeyPersisted);
        Ok(())
    }

    /// Removes what an operation has left in the world, and forgets it.
    pub(super) async fn abandon(&self, journal: &mut Journal) -> Result<(), ApplyError> {
        self.remove_txt(journal).await?;
        let left = self.settle_unfinished(journal).await?;
        self.tell_left(journal, left);
        self.forget_operation(journal).await
    }

    /// Closes the operation: the hand-off goes first, for no key of a closed operation may be readable, and no TXT value
    /// that it lists is left.
    pub(super) async fn close_operation(&self, journal: &mut Journal) -> Result<(), ApplyError> {
        self.remove_txt(journal).await?;
        let left = self.settle_unfinished(journal).await?;
        ApplyError::collect(self.end_operation(journal, left).await?)
    }

    /// Closes an operation of which this is left; where that is to be tried again by the next run, it stays open, and what
    /// this run has done is noted.
    pub(super) async fn end_operation(
        &self,
        journal: &mut Journal,
        left: Vec<Left>,
    ) -> Result<Vec<ApplyError>, ApplyError> {
        let lends_key =
            journal.record().operation.as_ref().is_some_and(|operation| self.needs_handoff(operation));
        if !left.is_empty() && !lends_key {
            journal.persist(Revise::Bump).await?;
            return Ok(left.into_iter().map(|left| left.error).collect());
        }
        self.tell_left(journal, left);
        self.forget_operation(journal).await?;
        Ok(Vec::new())
    }

    async fn forget_operation(&self, journal: &mut Journal) -> Result<(), ApplyError> {
        let Some(operation) = &journal.record().operation else { return Ok(()) };
        if !operation.deployments.is_empty() && self.needs_handoff(operation) {
            // Once the hand-off is gone nothing can be deployed again, so that what was deployed is noted before.
            journal.persist(Revise::Bump).await?;
        }
        let operation = journal.operation()?;
        self.state.delete_handoff(&operation.id).await?;
        if let Some(OperationKey::Sealed(sealed)) = &operation.key {
            self.keys.forget(sealed.spki);
        }
        journal.record_mut().operation = None;
        journal.record_mut().failures = None;
        journal.persist(Revise::Bump).await
    }

    /// Records a failure; what is left in the world is taken back where nothing can come of it any more.
    async fn settle(&self, journal: &mut Journal, error: &ApplyError) {
        if matches!(error, ApplyError::Panicked) {
            // What it was changing is half changed: what counts is what is persisted. Without an operation there is
            // nothing to take back.
            match journal.reload().await {
                Ok(()) if journal.record().operation.is_some() => {}
                _ => return,
            }
        }
        let stage = journal.record().operation.as_ref().map(|operation| operation.stage);
        let disposition = error.disposition(stage);
        if matches!(disposition, Disposition::Leave) || self.context.cancel.is_cancelled() {
            return;
        }
        let address = Address::Certificate(journal.name().clone());
        // TXT values are removed whenever that is possible: an operation that goes on writes them again.
        let left = match self.remove_txt(journal).await {
            Ok(()) => matches!(disposition, Disposition::Close),
            Err(cleanup) => {
                self.reporter.report(Event::Warning {
                    address: address.clone(),
                    message: format!(
                        "TXT records are left, and the next run removes them: {}",
                        message_of(&cleanup)
                    ),
                });
                false
            }
        };
        let record = journal.record();
        let expiry = record.current.as_ref().map(|current| current.facts.not_after);
        let failures = backoff::after(record.failures.as_ref(), error, self.now(), expiry);
        if left
            && let Some(operation) = &journal.record().operation
            && operation.stage < Stage::Issued
        {
            match self.state.delete_handoff(&operation.id).await {
                Ok(()) => journal.record_mut().operation = None,
                // No key of a closed operation may be readable: it stays open, and the next run closes it.
                Err(kept) => {
                    tracing::warn!(error = %kept, certificate = %journal.name(), "a hand-off is left");
                }
            }
        }
        journal.record_mut().failures = Some(failures);
        if let Err(unsaved) = journal.persist(Revise::Bump).await {
            self.reporter.report(Event::Warning {
                address,
                message: format!("the failure could not be recorded: {unsaved}"),
            });
        }
    }

    /// The lease that keeps two runs from working on the same order: by names, not by the certificate's name.
    fn lease_key(&self, work: &CertificateWork) -> LeaseKey {
        match &work.issue {
            Some(issue) => LeaseKey::for_names(&issue.issuer, &issue.names, issue.profile.as_deref()),
            None => match self.desired.certificates.get(&work.name) {
                Some(desired) => {
                    LeaseKey::for_names(&desired.issuer, &desired.names, desired.profile.as_deref())
                }
                None => LeaseKey::for_certificate(&self.desired.project, &work.name),
            },
        }
    }

    /// The key that the operation made, opened; `None` when no identity here can open it.
    pub(super) async fn operation_key(
        &self,
        journal: &Journal,
    ) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, ApplyError> {
        let operation = journal.operation()?;
        let Some(OperationKey::Sealed(sealed)) = &operation.key else { return Ok(None) };
        self.open_key(journal.name(), journal.record(), sealed, Some(&operation.id)).await
    }

    /// Whether the operation's key may be had through its hand-off only: by this run, or by whoever goes on with it.
    pub(super) fn needs_handoff(&self, operation: &Operation) -> bool {
        let Some(OperationKey::Sealed(sealed)) = &operation.key else { return false };
        self.sealer.as_deref().is_none_or(|sealer| sealer.hardened() || !sealer.can_open(sealed))
    }

    /// Opens a sealed key, through the hand-off of an open operation where custody is hardened.
    pub(super) async fn open_key(
        &self,
        name: &Name,
        record: &CertificateRecord,
        sealed: &SealedKey,
        operation: Option<&str>,
    ) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, ApplyError> {
        if let Some(key) = self.keys.get(sealed.spki) {
            return Ok(Some(key));
        }
        let sealer = self.sealer()?;
        let handoff = match operation {
            _ if sealer.can_open(sealed) => None,
            Some(operation) => match self.state.handoff(operation).await? {
                Some(bytes) => Some((operation, bytes)),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        let mut failure = None;
        // It is bound to the name that the certificate had when it was sealed.
        for name in std::iter::once(name).chain(&record.formerly) {
            let place = self.place(Address::Certificate(name.clone()))?;
            let opened = match &handoff {
                Some((operation, bytes)) => sealer.open_handoff(&place, operation, sealed.spki, bytes),
                None => sealer.open(&place, sealed),
            };
            match opened {
                Ok(key) => return Ok(Some(key)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or(ApplyError::JournalClosed, ApplyError::from))
    }
}

/// The names to ask a challenge location for: each once, without its wildcard.
pub(super) fn bases<'a>(names: impl IntoIterator<Item = &'a CertName>) -> BTreeSet<&'a Fqdn> {
    names.into_iter().map(CertName::base).collect()
}

/// Whether an order is open that the plan leaves for later, as while it backs off.
fn parks_order(work: &CertificateWork, journal: &Journal) -> bool {
    let ordered =
        journal.record().operation.as_ref().is_some_and(|operation| operation.stage < Stage::Issued);
    ordered && work.resume.is_none() && work.issue.is_none() && !work.archive
}
