//! Whether a wanted deployment is where it should be.

use std::collections::BTreeSet;

use crate::model::Address;
use crate::model::Deployed;
use crate::model::DeploymentRecord;
use crate::model::DesiredDeployment;
use crate::model::Endpoint;
use crate::model::Fact;
use crate::model::Fingerprint;
use crate::model::Issued;
use crate::model::Name;
use crate::model::Operation;
use crate::model::ReadBack;
use crate::model::Served;
use crate::model::Slot;
use crate::model::Update;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::Changed;
use super::change::Details;
use super::change::Drift;
use super::digest::Digest;
use super::downgrade::Coming;
use super::planner::Planner;
use super::planner::Subject;
use super::step::DeployStep;
use super::step::Step;
use super::view;

/// Why a deployment is made, without a new certificate.
struct Need {
    cause: Cause,
    reason: Reason,
    details: Details,
}

impl<'a> Planner<'a> {
    /// The deployments that have to be made of the certificate that is current now, as far as they are asked for.
    ///
    /// Notes drift and what could not be looked at. With `reissued` it only notes: every deployment is made anyway.
    pub(super) fn deployment_needs(&mut self, subject: Subject<'a>, reissued: bool) -> Vec<Change> {
        let Some(current) = &subject.record().current else { return Vec::new() };
        self.check_shared_endpoints(subject, current);
        let mut changes = Vec::new();
        for entry in &subject.desired.deploy {
            let Some(need) = self.need(subject, current, entry) else { continue };
            if reissued
                || !self.is_deployable(subject, entry)
                || !self.selects(&address(subject, entry), &subject.desired.labels)
                || !self.takes(need.cause, need.reason == Reason::RedeployBecauseOutdated)
                || self.would_be_refused(subject, entry)
                || self.would_downgrade(subject, entry, Coming::Current(current))
            {
                continue;
            }
            changes.push(self.deploy(subject, entry, need, Some(current.facts.fingerprint)));
        }
        changes
    }

    /// The deployments that follow when another certificate is current.
    ///
    /// `resumed` is the operation that gets it, where that began before.
    pub(super) fn follow(
        &mut self,
        subject: Subject<'a>,
        cause: Cause,
        resumed: Option<&Operation>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for entry in &subject.desired.deploy {
            if !self.is_deployable(subject, entry)
                || !self.selects(&address(subject, entry), &subject.desired.labels)
                || self.would_be_refused(subject, entry)
                || resumed
                    .is_some_and(|operation| self.would_downgrade(subject, entry, Coming::Ordered(operation)))
            {
                continue;
            }
            let recorded = subject.record().deployments.get(&entry.target);
            let (reason, details) = match recorded {
                None => (Reason::CreateBecauseNew, Details::default()),
                Some(recorded) => match moved(subject, self.slot(subject, entry), recorded) {
                    Some(details) => (Reason::RedeployBecauseSlotChanged, details),
                    None => (Reason::RedeployBecauseReissued, Details::default()),
                },
            };
            changes.push(self.deploy(subject, entry, Need { cause, reason, details }, None));
        }
        changes
    }

    /// Whether the target can be told from the one that state remembers.
    fn is_deployable(&mut self, subject: Subject<'a>, entry: &'a DesiredDeployment) -> bool {
        let recorded = subject.record().deployments.get(&entry.target);
        let target = self.desired.targets.get(&entry.target);
        let (Some(recorded), Some(target)) = (recorded, target) else { return target.is_some() };
        if recorded.kind == target.kind {
            return true;
        }
        self.fail(
            Some(address(subject, entry)),
            format!(
                "the target `{}` was of the kind `{}` and is `{}` now, and it still holds this deployment",
                entry.target, recorded.kind, target.kind
            ),
            "give the new target a name of its own; the deployment then moves there".to_owned(),
        );
        false
    }

    /// Whether something of somebody else stands where the deployment goes, which is an error.
    fn would_be_refused(&mut self, subject: Subject<'a>, entry: &'a DesiredDeployment) -> bool {
        let key = (subject.name_in_state().clone(), entry.target.clone());
        let held = self.input.observed.deployments.get(&key).and_then(Fact::present);
        let Some(refusal) = held.and_then(|held| held.refusal.as_deref()) else { return false };
        let recorded = subject.record().deployments.get(&entry.target);
        if recorded.is_some_and(|recorded| moved(subject, self.slot(subject, entry), recorded).is_some()) {
            // It goes to another place.
            return false;
        }
        self.fail(
            Some(address(subject, entry)),
            format!("the target would not take it: {refusal}"),
            "move that away, or choose another place".to_owned(),
        );
        true
    }

    fn need(
        &mut self,
        subject: Subject<'a>,
        current: &'a Issued,
        entry: &'a DesiredDeployment,
    ) -> Option<Need> {
        let record = subject.record();
        let address = address(subject, entry);
        let expected = current.facts.fingerprint;
        let Some(recorded) = record.deployments.get(&entry.target) else {
            return Some(Need {
                cause: Cause::Config,
                reason: Reason::CreateBecauseNew,
                details: Details { fingerprint: Some(expected), ..Details::default() },
            });
        };
        // Before anything else, so that drift is noted whatever is done about it.
        let drift = self.drifted(subject, recorded, expected, entry);

        let slot = self.slot(subject, entry);
        if let Some(details) = moved(subject, slot, recorded) {
            return Some(Need { cause: Cause::Config, reason: Reason::RedeployBecauseSlotChanged, details });
        }
        let details = Details { fingerprint: Some(expected), ..Details::default() };
        if slot.is_some_and(|slot| slot.parameters != recorded.slot.parameters) {
            return Some(Need {
                cause: Cause::Config,
                reason: Reason::RedeployBecauseParametersChanged,
                details,
            });
        }
        if recorded.fingerprint != expected {
            let cause = record
                .operation
                .as_ref()
                .map_or(Cause::Time, |operation| Cause::from_journal(&operation.cause));
            let details = Details { found: Some(recorded.fingerprint), ..details };
            return Some(Need { cause, reason: Reason::RedeployBecauseOutdated, details });
        }
        if self.replace.contains(&address) {
            return Some(Need { cause: Cause::Request, reason: Reason::RedeployByRequest, details });
        }
        let (reason, details) = drift?;
        Some(Need { cause: Cause::Drift, reason, details })
    }

    /// What is not as state remembers it; noted as drift.
    fn drifted(
        &mut self,
        subject: Subject<'a>,
        recorded: &DeploymentRecord,
        current: Fingerprint,
        entry: &'a DesiredDeployment,
    ) -> Option<(Reason, Details)> {
        let address = address(subject, entry);
        let key = (subject.name_in_state().clone(), entry.target.clone());
        let details = Details { fingerprint: Some(recorded.fingerprint), ..Details::default() };
        let target = match self.input.observed.deployments.get(&key) {
            Some(Fact::Unknown(why)) => {
                self.warn(address.clone(), format!("what the target holds could not be read: {why}"), None);
                None
            }
            Some(Fact::Absent) => Some((Reason::RedeployBecauseTargetIsEmpty, details.clone())),
            Some(Fact::Present(held)) => {
                self.differs(recorded, held, current, &entry.target, subject).map(|reason| {
                    (
                        reason,
                        Details {
                            found: held.fingerprint,
                            deviations: held.deviations.clone(),
                            ..details.clone()
                        },
                    )
                })
            }
            None => None,
        };
        let drift = target.or_else(|| {
            let served = self.served_otherwise(subject, &[recorded.fingerprint, current], |endpoint| {
                entry.verify.contains(endpoint)
                    || (subject.desired.deploy.len() == 1 && subject.desired.verify.contains(endpoint))
            });
            served.map(|(endpoints, found)| {
                (Reason::RedeployBecauseServedDiffers, Details { endpoints, found, ..details })
            })
        });
        if let Some((reason, details)) = &drift {
            self.drift.push(Drift { address, reason: *reason, details: details.clone() });
        }
        drift
    }

    fn differs(
        &self,
        recorded: &DeploymentRecord,
        held: &Deployed,
        current: Fingerprint,
        target: &Name,
        subject: Subject<'a>,
    ) -> Option<Reason> {
        let tells = self.input.observed.capabilities.get(target).map(|capabilities| capabilities.read_back);
        let differs = match (held.fingerprint, &held.serial) {
            // The current one may have come there just before a run was interrupted.
            (Some(fingerprint), _) => fingerprint != recorded.fingerprint && fingerprint != current,
            // A target that shows certificates and shows none here holds something else.
            (None, _) if tells == Some(ReadBack::Certificate) => true,
            (None, Some(serial)) => {
                serial_of(subject, recorded.fingerprint).is_some_and(|known| known != serial)
            }
            (None, None) => false,
        };
        if differs {
            Some(Reason::RedeployBecauseTargetDiffers)
        } else if held.deviations.is_empty() {
            None
        } else {
            Some(Reason::RedeployBecauseTargetDeviates)
        }
    }

    /// The endpoints among `of` that serve something else, and the first of what they serve. Warns of those that could
    /// not be looked at.
    fn served_otherwise(
        &mut self,
        subject: Subject<'a>,
        expected: &[Fingerprint],
        of: impl Fn(&Endpoint) -> bool,
    ) -> Option<(Vec<String>, Option<Fingerprint>)> {
        let served = self.served(subject.name_in_state());
        let mut endpoints = Vec::new();
        let mut found = None;
        for served in served.into_iter().filter(|served| of(&served.endpoint)) {
            let endpoint = &served.endpoint;
            match &served.leaf {
                Fact::Present(leaf) if !expected.contains(leaf) => {
                    endpoints.push(endpoint.to_string());
                    found = found.or(Some(*leaf));
                }
                Fact::Present(_) => {}
                Fact::Absent => {
                    self.warn(subject.address(), format!("`{endpoint}` serves no certificate"), None);
                }
                Fact::Unknown(why) => {
                    self.warn(
                        subject.address(),
                        format!("what `{endpoint}` serves could not be read: {why}"),
                        None,
                    );
                }
            }
        }
        endpoints.sort();
        endpoints.dedup();
        (!endpoints.is_empty()).then_some((endpoints, found))
    }

    /// What the endpoints of a certificate serve, in an order that does not depend on who answered first.
    pub(super) fn served(&self, name: &Name) -> Vec<&'a Served> {
        let mut served: Vec<&Served> = self.input.observed.served.get(name).into_iter().flatten().collect();
        served.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        served
    }

    /// Endpoints of the certificate as a whole say nothing about which of several targets is to blame.
    fn check_shared_endpoints(&mut self, subject: Subject<'a>, current: &Issued) {
        let desired = subject.desired;
        if desired.deploy.len() == 1 {
            return;
        }
        let of_a_deployment =
            |endpoint: &Endpoint| desired.deploy.iter().any(|entry| entry.verify.contains(endpoint));
        let served = self.served_otherwise(subject, &[current.facts.fingerprint], |endpoint| {
            desired.verify.contains(endpoint) && !of_a_deployment(endpoint)
        });
        // Before the first deployment is done, nothing is expected there.
        let deployed =
            subject.record().deployments.values().any(|held| held.fingerprint == current.facts.fingerprint);
        let Some((endpoints, found)) = served.filter(|_| deployed) else { return };
        self.warn(
            subject.address(),
            format!("{} serves another certificate than the current one, and several deployments could be the cause", endpoints.join(", ")),
            Some("write `verify:` at the `deploy` entry that serves there: it is deployed again when it does not"),
        );
        self.drift.push(Drift {
            address: subject.address(),
            reason: Reason::RedeployBecauseServedDiffers,
            details: Details {
                fingerprint: Some(current.facts.fingerprint),
                found,
                endpoints,
                ..Details::default()
            },
        });
    }

    fn slot(&self, subject: Subject<'a>, entry: &'a DesiredDeployment) -> Option<&'a Slot> {
        self.input.observed.slots.get(&(subject.desired.name.clone(), entry.target.clone()))
    }

    fn deploy(
        &self,
        subject: Subject<'a>,
        entry: &'a DesiredDeployment,
        need: Need,
        fingerprint: Option<Fingerprint>,
    ) -> Change {
        let recorded = subject.record().deployments.get(&entry.target);
        let slot = self.slot(subject, entry);
        let kind = self.desired.targets.get(&entry.target).map(|target| target.kind.as_str());
        let moves = need.reason == Reason::RedeployBecauseSlotChanged;
        let replaces = self
            .input
            .observed
            .capabilities
            .get(&entry.target)
            .is_some_and(|target| target.update == Update::Replace);
        let action = match (recorded, need.reason) {
            (None, _) | (_, Reason::RedeployBecauseTargetIsEmpty) => Action::Create,
            (Some(_), _) if moves || replaces => Action::CreateThenRemove,
            (Some(_), _) => Action::Update,
        };
        let before = recorded.map(|recorded| {
            let location = Some(recorded.slot.location.as_str());
            view::deployment(&entry.target, Some(&recorded.kind), location, Some(recorded.fingerprint))
        });
        let location =
            slot.or_else(|| recorded.map(|recorded| &recorded.slot)).map(|slot| slot.location.as_str());
        Change {
            action,
            details: need.details,
            before: before.unwrap_or_default(),
            after: view::deployment(&entry.target, kind, location, fingerprint),
            steps: vec![Step::Deploy(DeployStep {
                target: entry.target.clone(),
                slot: slot.cloned(),
                definition: self.definition(entry),
                moves_from: recorded.filter(|_| moves).map(|recorded| recorded.slot.clone()),
            })],
            previous_address: subject
                .from
                .filter(|_| recorded.is_some())
                .map(|from| Address::Deployment(from.clone(), entry.target.clone())),
            ..Change::new(address(subject, entry), need.cause, need.reason, subject.base_revision())
        }
    }
}

impl<'a> Planner<'a> {
    /// A digest of all that the configuration says of a deployment and of its target: a review is of that as well.
    fn definition(&self, entry: &DesiredDeployment) -> Digest {
        let verify: BTreeSet<String> = entry.verify.iter().map(Endpoint::to_string).collect();
        Digest::of(&(self.target_definition(&entry.target), &entry.parameters, entry.on_remove, verify))
    }

    /// The same for all deployments of a certificate.
    pub(super) fn definitions(&self, subject: Subject<'a>) -> Vec<Digest> {
        let definitions: BTreeSet<Digest> =
            subject.desired.deploy.iter().map(|entry| self.definition(entry)).collect();
        definitions.into_iter().collect()
    }

    /// The same for a target alone.
    pub(super) fn target_definition(&self, target: &Name) -> Digest {
        Digest::of(&self.desired.targets.get(target).map(|target| (&target.kind, &target.block)))
    }

    /// Notes what the configuration says otherwise of a deployment than state remembers, and that only a later removal
    /// asks for.
    pub(super) fn changed_settings(&mut self, subject: Subject<'a>, planned: &[Change]) -> Vec<Change> {
        let mut changes = Vec::new();
        for entry in &subject.desired.deploy {
            let Some(recorded) = subject.record().deployments.get(&entry.target) else { continue };
            let same_verify = recorded.verify == entry.verify
                || recorded.verify.iter().collect::<BTreeSet<_>>() == entry.verify.iter().collect();
            if recorded.on_remove == entry.on_remove && same_verify {
                continue;
            }
            let address = address(subject, entry);
            if planned.iter().any(|change| change.address == address)
                || !self.selects(&address, &subject.desired.labels)
                || !self.takes(Cause::Config, false)
            {
                continue;
            }
            let mut change = Change::new(
                address,
                Cause::Config,
                Reason::UpdateBecauseSettingsChanged,
                subject.base_revision(),
            );
            let texts = |verify: &[Endpoint]| {
                let mut texts: Vec<String> = verify.iter().map(Endpoint::to_string).collect();
                texts.sort_unstable();
                (!texts.is_empty()).then(|| texts.join(", "))
            };
            for (field, before, after) in [
                (
                    "on_remove",
                    Some(recorded.on_remove.as_str().to_owned()),
                    Some(entry.on_remove.as_str().to_owned()),
                ),
                ("verify", texts(&recorded.verify), texts(&entry.verify)),
            ] {
                if before != after {
                    change.details.changed.insert(field.to_owned(), Changed { before, after });
                }
            }
            change.steps = vec![Step::RecordSettings {
                target: entry.target.clone(),
                definition: self.definition(entry),
            }];
            let location = Some(recorded.slot.location.as_str());
            change.before =
                view::deployment(&entry.target, Some(&recorded.kind), location, Some(recorded.fingerprint));
            change.after = change.before.clone();
            changes.push(change);
        }
        changes
    }
}

fn address(subject: Subject<'_>, entry: &DesiredDeployment) -> Address {
    Address::Deployment(subject.desired.name.clone(), entry.target.clone())
}

/// The details of a move to another place, if there is one.
fn moved(subject: Subject<'_>, slot: Option<&Slot>, recorded: &DeploymentRecord) -> Option<Details> {
    let slot = slot.filter(|slot| slot.location != recorded.slot.location)?;
    let mut details = Details {
        fingerprint: subject.record().current.as_ref().map(|current| current.facts.fingerprint),
        ..Details::default()
    };
    details.changed.insert(
        "location".to_owned(),
        Changed { before: Some(recorded.slot.location.clone()), after: Some(slot.location.clone()) },
    );
    Some(details)
}

fn serial_of(subject: Subject<'_>, fingerprint: Fingerprint) -> Option<&String> {
    let record = subject.record();
    [record.current.as_ref(), record.previous.as_deref()]
        .into_iter()
        .flatten()
        .find(|issued| issued.facts.fingerprint == fingerprint)
        .map(|issued| &issued.facts.serial)
}
