//! From a persisted certificate to targets that serve it, or that still serve what they did before.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use certplan_provider::DeployTarget;
use certplan_provider::ReadBack;
use certplan_provider::Receipt;
use certplan_provider::message_of;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::acme::CertificateKey;
use crate::model::Address;
use crate::model::Bundle;
use crate::model::CertificateRecord;
use crate::model::DeploymentRecord;
use crate::model::DeploymentStage;
use crate::model::DesiredCertificate;
use crate::model::DesiredDeployment;
use crate::model::Endpoint;
use crate::model::Fingerprint;
use crate::model::JournaledDeployment;
use crate::model::Name;
use crate::model::Operation;
use crate::model::Slot;
use crate::model::Stage;
use crate::plan::CertificateWork;
use crate::probe::ProbeOptions;
use crate::probe::probe;
use crate::state::Revise;

use super::Apply;
use super::error::ApplyError;
use super::event::Event;
use super::event::Step;
use super::guard::guarded;
use super::journal::Journal;

/// How long a target that has answered may take until it serves.
const SERVE_PATIENCE: Duration = Duration::from_secs(30);

/// A deployment on its way.
struct Underway<'a> {
    desired: &'a DesiredDeployment,
    target: Arc<dyn DeployTarget>,
    slot: Slot,
    receipt: Receipt,
}

impl Apply {
    /// Deploys the current certificate wherever it is due, verifies what is served, and commits or rolls back.
    pub(super) async fn deploy(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let Some(current) = &journal.record().current else { return Ok(()) };
        let fingerprint = current.facts.fingerprint;
        let due: Vec<&DesiredDeployment> =
            desired.deploy.iter().filter(|deployment| is_planned(work, &deployment.target)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let bundle = self.bundle(work, journal).await?;
        self.intend(&due, work, journal).await?;
        let mut failures = Vec::new();
        let mut underway = Vec::new();
        for deployment in due {
            self.unless_interrupted()?;
            match guarded(self.deploy_one(deployment, &bundle, journal)).await {
                Ok(Some(deployed)) => underway.push(deployed),
                Ok(None) => {}
                Err(error) => failures.push(self.deployment_failed(&work.name, &deployment.target, error)?),
            }
        }
        if let Err(error) = self.verify(&desired.verify, fingerprint).await {
            // Nobody knows yet whether it serves: the journal has it, and the next run goes on.
            if matches!(error, ApplyError::Interrupted) {
                return Err(error);
            }
            for deployed in underway.drain(..) {
                let target = &deployed.desired.target;
                if let Err(error) = guarded(self.roll_back(&work.name, &deployed, journal)).await {
                    failures.push(self.deployment_failed(&work.name, target, error)?);
                }
            }
            failures.push(error);
        }
        for deployed in underway {
            self.unless_interrupted()?;
            let target = deployed.desired.target.clone();
            if let Err(error) = guarded(self.commit(&work.name, deployed, fingerprint, journal)).await {
                failures.push(self.deployment_failed(&work.name, &target, error)?);
            }
        }
        ApplyError::collect(failures)
    }

    /// Fails where none of the targets would take a certificate that is to be ordered, before that costs an issuance. Where
    /// one would, or a renewal is due, it is ordered: what can serve is to serve.
    pub(super) async fn ask_targets(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
    ) -> Result<(), ApplyError> {
        let mut failures = Vec::new();
        for deployment in desired.deploy.iter().filter(|deployment| is_planned(work, &deployment.target)) {
            let target = self.target(&deployment.target)?;
            let Err(source) = target.check(&self.context, &slot(&*target, &work.name, deployment)?).await
            else {
                return Ok(());
            };
            let address = Address::Deployment(work.name.clone(), deployment.target.clone());
            failures.push(ApplyError::Target { address, source });
        }
        ApplyError::collect(failures)
    }

    /// Journals what is to be deployed, with what each target holds now, in one write.
    async fn intend(
        &self,
        due: &[&DesiredDeployment],
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        if journal.record().operation.is_none() {
            let current = journal.record().current.as_ref().ok_or(ApplyError::JournalClosed)?;
            let operation = Operation {
                id: (self.random_id)(),
                cause: work.cause.as_str().to_owned(),
                reason: work.reason.as_str().to_owned(),
                started: self.now(),
                stage: Stage::Deploying,
                names: current.facts.names.clone(),
                issuer: current.issuer.clone(),
                directory: current.directory.clone(),
                profile: current.profile.clone(),
                preferred_chain: current.preferred_chain.clone(),
                replaces: None,
                key: None,
                csr: None,
                account: None,
                order_url: None,
                order_expires: None,
                txt: Vec::new(),
                delegations: BTreeSet::new(),
                deployments: BTreeMap::new(),
            };
            journal.record_mut().operation = Some(Box::new(operation));
        }
        // A deployment that moved before it was finished leaves its old place when it is committed.
        let left = self.settle_unfinished(journal).await?;
        self.tell_left(journal, left);
        for deployment in due {
            let target = self.target(&deployment.target)?;
            let slot = slot(&*target, &work.name, deployment)?;
            // What cannot be looked at is found out by the deployment itself.
            let before = target.observe(&self.context, &slot).await.ok().flatten();
            let operation = journal.operation_mut()?;
            operation.deployments.insert(
                deployment.target.clone(),
                JournaledDeployment { slot, stage: DeploymentStage::Intent, before, receipt: None },
            );
        }
        let operation = journal.operation_mut()?;
        // Beside an order that is open, that order's progress is what counts.
        if operation.stage >= Stage::Issued {
            operation.stage = Stage::Deploying;
        }
        journal.persist(Revise::Bump).await
    }

    /// Deploys to one target, reads it back and looks at what it serves; rolls back when that is something else.
    async fn deploy_one<'a>(
        &self,
        deployment: &'a DesiredDeployment,
        bundle: &Bundle,
        journal: &mut Journal,
    ) -> Result<Option<Underway<'a>>, ApplyError> {
        let certificate = journal.name().clone();
        let address = Address::Deployment(certificate.clone(), deployment.target.clone());
        let target = self.target(&deployment.target)?;
        let journaled =
            journal.operation()?.deployments.get(&deployment.target).ok_or(ApplyError::JournalClosed)?;
        let (slot, before) = (journaled.slot.clone(), journaled.before.clone());
        journal.check_lease()?;
        let context = self.context.for_operation(&journal.operation()?.id);
        let failed = |source| ApplyError::Target { address: address.clone(), source };
        let receipt = target.deploy(&context, &slot, bundle, before.as_ref()).await.map_err(failed)?;
        self.note_place(&*target, &deployment.target, &slot).await;
        let deployed = Underway { desired: deployment, target, slot, receipt };
        let read_back = self.read_back(&deployed, &address, bundle.fingerprint).await;
        // Where the run ends before it was read back, the receipt is kept all the same: the effect was made.
        if matches!(read_back, Ok(()) | Err(ApplyError::Interrupted)) {
            note(journal, &deployment.target, DeploymentStage::Deployed, Some(&deployed.receipt))?;
            journal.persist(Revise::Keep).await?;
        }
        if read_back.is_ok() {
            self.step(address, Step::Deployed);
        }
        let verified = match read_back {
            Ok(()) => self.verify(&deployment.verify, bundle.fingerprint).await,
            failed => failed,
        };
        match verified {
            Ok(()) => Ok(Some(deployed)),
            Err(ApplyError::Interrupted) => Err(ApplyError::Interrupted),
            Err(error) => {
                self.roll_back(&certificate, &deployed, journal).await?;
                Err(error)
            }
        }
    }

    /// Compares what the target says it holds with what it was given.
    async fn read_back(
        &self,
        deployed: &Underway<'_>,
        address: &Address,
        expected: Fingerprint,
    ) -> Result<(), ApplyError> {
        if deployed.target.capabilities().read_back != ReadBack::Certificate {
            return Ok(());
        }
        let observed = deployed
            .target
            .observe(&self.context, &deployed.slot)
            .await
            // What could not be looked at because the run ends is no sign that anything is wrong.
            .map_err(|source| match self.unless_interrupted() {
                Ok(()) => ApplyError::Target { address: address.clone(), source },
                Err(interrupted) => interrupted,
            })?;
        let found = observed.and_then(|observed| observed.fingerprint);
        if found == Some(expected) {
            return Ok(());
        }
        Err(ApplyError::ReadBack { address: address.clone(), expected, found })
    }

    /// Waits until every endpoint serves the certificate.
    async fn verify(&self, endpoints: &[Endpoint], expected: Fingerprint) -> Result<(), ApplyError> {
        for endpoint in endpoints {
            let patience = self.options.serve_patience.unwrap_or(SERVE_PATIENCE);
            let served = self.wait_until_served(endpoint, expected, patience);
            let served = tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Err(ApplyError::Interrupted),
                served = served => served,
            };
            served.map_err(|reason| ApplyError::NotServed {
                endpoint: endpoint.clone(),
                expected,
                reason,
            })?;
        }
        Ok(())
    }

    /// Fails when the run is to end: to be asked where what follows can wait for the next run.
    pub(super) fn unless_interrupted(&self) -> Result<(), ApplyError> {
        if self.context.cancel.is_cancelled() { Err(ApplyError::Interrupted) } else { Ok(()) }
    }

    /// Looks at an endpoint until it serves the certificate; what it said last is the reason when it never does.
    async fn wait_until_served(
        &self,
        endpoint: &Endpoint,
        expected: Fingerprint,
        patience: Duration,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let reason = match probe(endpoint, ProbeOptions::default()).await.and_then(|probe| probe.leaf()) {
                Ok(leaf) if leaf == expected => return Ok(()),
                Ok(leaf) => format!("it serves {}", leaf.short()),
                Err(error) => message_of(&error),
            };
            if begun.elapsed() + pause > patience {
                return Err(reason);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn roll_back(
        &self,
        certificate: &Name,
        deployed: &Underway<'_>,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let target = &deployed.desired.target;
        let address = Address::Deployment(certificate.clone(), target.clone());
        let rolled_back = deployed.target.rollback(&self.context, &deployed.slot, &deployed.receipt).await;
        if let Err(source) = rolled_back {
            self.reporter.report(Event::Warning {
                address: address.clone(),
                message: format!(
                    "could not be rolled back, and the next run tries again: {}",
                    message_of(&source)
                ),
            });
            return Ok(());
        }
        note(journal, target, DeploymentStage::RolledBack, None)?;
        journal.persist(Revise::Keep).await?;
        self.step(address, Step::RolledBack);
        Ok(())
    }

    /// Detaches what was replaced, and remembers what is deployed where.
    async fn commit(
        &self,
        certificate: &Name,
        deployed: Underway<'_>,
        fingerprint: Fingerprint,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let Underway { desired, target, slot, receipt } = deployed;
        let address = Address::Deployment(certificate.clone(), desired.target.clone());
        let failed = |source| ApplyError::Target { address: address.clone(), source };
        if !desired.verify.is_empty() {
            self.step(address.clone(), Step::Verified);
        }
        journal.check_lease()?;
        target.commit(&self.context, &slot, &receipt).await.map_err(failed)?;
        if let Some(old) = journal.record().deployments.get(&desired.target)
            && old.slot.location != slot.location
        {
            // The deployment moved within its target: the old place goes once the new one serves.
            self.take_away(&address, &*target, &desired.target, old, journal.record()).await?;
        }
        let record = DeploymentRecord {
            kind: self
                .desired
                .targets
                .get(&desired.target)
                .map(|target| target.kind.clone())
                .unwrap_or_default(),
            slot,
            fingerprint,
            deployed_at: self.now(),
            receipt: Some(receipt),
            on_remove: desired.on_remove,
            verify: desired.verify.clone(),
        };
        journal.record_mut().deployments.insert(desired.target.clone(), Box::new(record));
        // Written with the operation's end, or by the caller when something else fails: a run that is killed here deploys
        // and commits once more, which changes nothing.
        note(journal, &desired.target, DeploymentStage::Verified, None)?;
        self.step(address, Step::Committed);
        Ok(())
    }

    /// Takes the certificate out of targets that the configuration no longer names for it.
    pub(super) async fn remove_deployments(
        &self,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        for name in work.remove.iter().map(|step| &step.target) {
            let Some(record) = journal.record().deployments.get(name).cloned() else { continue };
            let address = Address::Deployment(work.name.clone(), name.clone());
            let target = self.target(name)?;
            journal.check_lease()?;
            self.take_away(&address, &*target, name, &record, journal.record()).await?;
            journal.record_mut().deployments.remove(name);
            journal.persist(Revise::Bump).await?;
            self.step(address, Step::Removed);
        }
        let forgotten: BTreeSet<_> =
            work.forget.iter().filter(|name| journal.record().deployments.contains_key(*name)).collect();
        if !forgotten.is_empty() {
            for name in forgotten {
                journal.record_mut().deployments.remove(name);
            }
            journal.persist(Revise::Bump).await?;
        }
        Ok(())
    }

    /// Takes a certificate out of a place, unless the configuration wants that very place under another target's or
    /// certificate's name, or by another path, or something else is there by now: what serves there is never taken down.
    async fn take_away(
        &self,
        address: &Address,
        target: &dyn DeployTarget,
        name: &Name,
        deployed: &DeploymentRecord,
        record: &CertificateRecord,
    ) -> Result<(), ApplyError> {
        let slot = &deployed.slot;
        let location = slot.location.escape_debug();
        let stays = |why: String| {
            let message = format!("forgotten, and not removed: {why}");
            self.reporter.report(Event::Warning { address: address.clone(), message });
        };
        if self.is_wanted(target, name, slot).await {
            stays(format!("the configuration still deploys to `{location}`"));
            return Ok(());
        }
        let failed = |source| ApplyError::Target { address: address.clone(), source };
        let held = target.observe(&self.context, slot).await.map_err(failed)?;
        if let Some(held) = held.as_ref().filter(|held| record.is_foreign(name, held)) {
            let found =
                held.fingerprint.map_or_else(|| "another certificate".to_owned(), |found| found.short());
            stays(format!("`{location}` holds what certplan did not deploy there ({found})"));
            return Ok(());
        }
        let receipt = deployed.receipt.as_ref();
        target.remove(&self.context, slot, held.as_ref(), receipt).await.map_err(failed)
    }

    /// Removes a certificate that left the configuration from its targets, and archives its record.
    pub(super) async fn retire(
        &self,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let mut failures = Vec::new();
        if journal.record().operation.is_some() {
            self.remove_txt(journal).await?;
            let left = self.settle_unfinished(journal).await?;
            failures = self.end_operation(journal, left).await?;
        }
        let remembered = journal.record().deployments.keys();
        let planned: BTreeSet<&Name> =
            work.remove.iter().map(|step| &step.target).chain(&work.forget).collect();
        if remembered.clone().any(|target| !planned.contains(target)) {
            // The operation had made a deployment that no plan has shown yet.
            return Err(ApplyError::Stale { planned: work.base_revision, found: journal.revision() });
        }
        self.remove_deployments(work, journal).await?;
        ApplyError::collect(failures)?;
        journal.archive(self.now()).await?;
        self.step(Address::Certificate(work.name.clone()), Step::Archived);
        Ok(())
    }

    async fn bundle(&self, work: &CertificateWork, journal: &Journal) -> Result<Bundle, ApplyError> {
        let record = journal.record();
        let current = record.current.as_ref().ok_or(ApplyError::JournalClosed)?;
        let operation = record.operation.as_ref().map(|operation| operation.id.as_str());
        let der = self
            .open_key(journal.name(), record, &current.key, operation)
            .await?
            .ok_or_else(|| ApplyError::KeySealed { certificate: work.name.clone() })?;
        let key = CertificateKey::from_pkcs8(&der)?.to_private_key();
        Ok(Bundle {
            certificate: work.name.to_string(),
            chain: chain_ders(&current.chain_pem)?,
            chain_pem: current.chain_pem.clone(),
            key,
            key_type: current.key.key_type,
            fingerprint: current.facts.fingerprint,
        })
    }

    /// Reports a deployment's failure; the certificate's other deployments go on, unless the run itself has to end.
    fn deployment_failed(
        &self,
        certificate: &Name,
        target: &Name,
        error: ApplyError,
    ) -> Result<ApplyError, ApplyError> {
        if error.ends_certificate() {
            return Err(error);
        }
        let address = Address::Deployment(certificate.clone(), target.clone());
        self.reporter.report(Event::ApplyErrored {
            address,
            message: message_of(&error),
            help: error.help(),
        });
        Ok(error)
    }

    pub(super) fn target(&self, name: &Name) -> Result<Arc<dyn DeployTarget>, ApplyError> {
        self.targets
            .get(name)
            .map(Arc::clone)
            .ok_or_else(|| ApplyError::UnknownTarget { target: name.clone() })
    }
}

fn chain_ders(pem: &str) -> Result<Vec<Vec<u8>>, ApplyError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| ApplyError::JournalCorrupt { what: "the certificate's chain" })
}

pub(super) fn slot(
    target: &dyn DeployTarget,
    certificate: &Name,
    deployment: &DesiredDeployment,
) -> Result<Slot, ApplyError> {
    target.slot(certificate.as_str(), &deployment.parameters).map_err(|complaints| ApplyError::Slot {
        address: Address::Deployment(certificate.clone(), deployment.target.clone()),
        message: complaints.into_iter().map(|complaint| complaint.message).collect::<Vec<_>>().join("; "),
    })
}

/// Notes how far a deployment is, for the next write.
pub(super) fn note(
    journal: &mut Journal,
    target: &Name,
    stage: DeploymentStage,
    receipt: Option<&Receipt>,
) -> Result<(), ApplyError> {
    if let Some(journaled) = journal.operation_mut()?.deployments.get_mut(target) {
        journaled.stage = stage;
        if receipt.is_some() {
            journaled.receipt = receipt.cloned();
        }
    }
    Ok(())
}

/// Whether the plan shows a deployment. One that the open operation has finished is shown when it drifted since.
pub(super) fn is_planned(work: &CertificateWork, target: &Name) -> bool {
    work.deploy.iter().any(|step| step.target == *target)
}
