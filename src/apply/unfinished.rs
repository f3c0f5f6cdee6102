//! Deployments that a stopped run has begun and none has finished.

use std::collections::BTreeMap;

use certplan_provider::DeployTarget;
use certplan_provider::ProviderError;
use certplan_provider::message_of;

use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::Deployed;
use crate::model::DeploymentRecord;
use crate::model::DeploymentStage;
use crate::model::DesiredCertificate;
use crate::model::JournaledDeployment;
use crate::model::Name;
use crate::model::OnRemove;
use crate::model::Operation;
use crate::plan::CertificateWork;

use super::Apply;
use super::deploy::is_planned;
use super::deploy::note;
use super::deploy::slot;
use super::error::ApplyError;
use super::event::Event;
use super::event::Step;
use super::journal::Journal;

/// What could not be taken back.
pub(super) struct Left {
    location: String,
    pub(super) error: ApplyError,
}

impl Apply {
    /// Sees to what the operation deployed to places that the configuration no longer wants, when no run has finished that:
    /// it is remembered, and the next plan takes it away. Where a target's own place is remembered already, one that it
    /// left is taken back at once. Returns why that failed.
    ///
    /// # Errors
    /// [`ApplyError::Interrupted`] only.
    pub(super) async fn settle_unfinished(&self, journal: &mut Journal) -> Result<Vec<Left>, ApplyError> {
        let record = journal.record();
        let (Some(operation), Some(current)) = (&record.operation, &record.current) else {
            return Ok(Vec::new());
        };
        let mut failures = Vec::new();
        let fingerprint = current.facts.fingerprint;
        let mut remembered = BTreeMap::new();
        let mut taken_back = Vec::new();
        for (name, journaled) in &operation.deployments {
            let location = &journaled.slot.location;
            let own = record.deployments.get(name);
            if !matches!(journaled.stage, DeploymentStage::Deployed | DeploymentStage::Intent)
                || own.is_some_and(|own| own.slot.location == *location)
                || self.wants_place(journal.name(), name, location)
            {
                continue;
            }
            self.unless_interrupted()?;
            let address = Address::Deployment(journal.name().clone(), name.clone());
            let may_hold = |why: String| self.may_hold(address.clone(), location, &why);
            let (Ok(target), Some(configured)) = (self.target(name), self.desired.targets.get(name)) else {
                may_hold("the target is gone from the configuration".to_owned());
                continue;
            };
            let seen = target.observe(&self.context, &journaled.slot).await;
            let is_beside =
                matches!(&seen, Ok(held) if held.as_ref().is_none_or(|held| held.refusal.is_some()));
            if own.is_some() || is_beside {
                match self.take_back(&*target, name, journaled, record).await {
                    Ok(true) => taken_back.push(name.clone()),
                    Ok(false) => {}
                    Err(_) if self.context.cancel.is_cancelled() => return Err(ApplyError::Interrupted),
                    // Nothing serves there, and nothing may ever have been written.
                    Err(error) if own.is_none() => may_hold(message_of(&error)),
                    Err(source) => failures.push(Left {
                        location: location.clone(),
                        error: ApplyError::Target { address: address.clone(), source },
                    }),
                }
                continue;
            }
            let held = match seen {
                Ok(Some(held)) if held.fingerprint.is_none() || record.knows(name, &held) => {
                    Some(held.fingerprint.unwrap_or(fingerprint))
                }
                Ok(_) => None,
                Err(_) if journaled.stage == DeploymentStage::Deployed => Some(fingerprint),
                Err(error) => {
                    may_hold(message_of(&error));
                    None
                }
            };
            if let Some(fingerprint) = held {
                let record = DeploymentRecord {
                    kind: configured.kind.clone(),
                    slot: journaled.slot.clone(),
                    fingerprint,
                    deployed_at: operation.started,
                    receipt: journaled.receipt.clone(),
                    on_remove: OnRemove::default(),
                    verify: Vec::new(),
                };
                remembered.insert(name.clone(), Box::new(record));
            }
        }
        journal.record_mut().deployments.extend(remembered);
        for name in taken_back {
            note(journal, &name, DeploymentStage::RolledBack, None)?;
            self.step(Address::Deployment(journal.name().clone(), name), Step::RolledBack);
        }
        Ok(failures)
    }

    /// Tells of what could not be taken back, where the work goes on: nothing may hold a renewal up.
    pub(super) fn tell_left(&self, journal: &Journal, left: Vec<Left>) {
        for Left { location, error } in left {
            self.may_hold(Address::Certificate(journal.name().clone()), &location, &message_of(&error));
        }
    }

    fn may_hold(&self, address: Address, location: &str, why: &str) {
        self.reporter.report(Event::Warning {
            address,
            message: format!(
                "`{}` may hold the certificate of a run that was stopped, and nobody removes it: {why}",
                location.escape_debug()
            ),
        });
    }

    /// Takes back what a stopped run deployed to a place, as far as it did, and tells whether it may have been something.
    /// What the configuration wants there by now, under whatever name, and what is not of this certificate stays.
    async fn take_back(
        &self,
        target: &dyn DeployTarget,
        name: &Name,
        journaled: &JournaledDeployment,
        record: &CertificateRecord,
    ) -> Result<bool, ProviderError> {
        let (slot, receipt) = (&journaled.slot, journaled.receipt.as_ref());
        if self.is_wanted(target, name, slot).await {
            return Ok(false);
        }
        let held = target.observe(&self.context, slot).await?;
        let Some(there) = held.as_ref().filter(|held| held.refusal.is_none()) else {
            // Nothing in the place, or something foreign instead of our link: what is ours beside it goes.
            target.remove(&self.context, slot, held.as_ref(), receipt).await?;
            return Ok(false);
        };
        if record.is_foreign(name, there) {
            return Ok(false);
        }
        // What an earlier run of this certificate had put there is no loss.
        let is_own = |before: &Deployed| before.refusal.is_none() && !record.is_foreign(name, before);
        if journaled.before.as_ref().is_none_or(is_own) {
            // As any removal: the server is asked, and keeps what it still needs.
            target.remove(&self.context, slot, Some(there), receipt).await?;
            return Ok(true);
        }
        match receipt {
            Some(receipt) => target.rollback(&self.context, slot, receipt).await?,
            None => return Err(ProviderError::conflict("what it replaced there is not known")),
        }
        Ok(true)
    }

    /// Whether this plan leaves a deployment for later that the configuration wants and that needs the operation: one that it
    /// began there, or, where its hand-off is the only way to the key, one of what it made.
    pub(super) fn leaves_deployment(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
        record: &CertificateRecord,
        operation: &Operation,
    ) -> bool {
        let has_only_key = self.needs_handoff(operation);
        let issued = record.current.as_ref().filter(|current| current.operation == operation.id);
        let lacks = |target: &Name| {
            let deployed = record.deployments.get(target).map(|deployment| deployment.fingerprint);
            issued.is_some_and(|issued| deployed != Some(issued.facts.fingerprint))
        };
        let began = |target: &Name| {
            operation.deployments.get(target).is_some_and(|journaled| {
                journaled.stage != DeploymentStage::Verified
                    && self.wants_place(&desired.name, target, &journaled.slot.location)
            })
        };
        desired
            .deploy
            .iter()
            .map(|entry| &entry.target)
            .any(|target| !is_planned(work, target) && (began(target) || (has_only_key && lacks(target))))
    }

    /// Whether the configuration wants a certificate's deployment to a target in this place.
    fn wants_place(&self, certificate: &Name, target: &Name, location: &str) -> bool {
        let wanted = self.desired.certificates.get(certificate);
        let entry = wanted.and_then(|wanted| wanted.deploy.iter().find(|entry| entry.target == *target));
        entry.is_some_and(|entry| {
            let now = self.target(target).and_then(|target| slot(&*target, certificate, entry));
            now.is_ok_and(|now| now.location == location)
        })
    }
}
