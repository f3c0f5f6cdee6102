//! What is no longer in the configuration.

use std::collections::BTreeMap;

use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::DeploymentRecord;
use crate::model::DesiredCertificate;
use crate::model::Endpoint;
use crate::model::Fact;
use crate::model::Fingerprint;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::OnRemove;
use crate::model::Served;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::PlanError;
use super::change::PlanErrorKind;
use super::change::Risk;
use super::change::Warning;
use super::input::PriorCertificate;
use super::operation::resume;
use super::planner::Planner;
use super::planner::Subject;
use super::step::RemoveStep;
use super::step::Step;
use super::view;

impl<'a> Planner<'a> {
    /// Plans the removal of certificates that are in state and no longer wanted.
    pub(super) fn removals(&mut self) {
        let renamed = self.names_before();
        let gone: Vec<(&'a Name, &'a PriorCertificate)> = self
            .input
            .prior
            .certificates
            .iter()
            .filter(|(name, prior)| {
                prior.record.archived.is_none()
                    && !self.desired.certificates.contains_key(*name)
                    && !renamed.contains(name)
            })
            .collect();
        if self.desired.certificates.is_empty() && !gone.is_empty() {
            self.warnings.push(Warning {
                address: None,
                message: format!(
                    "the configuration has no certificates and state has {}: nothing is removed, for an empty configuration is more likely a mistake",
                    gone.len()
                ),
                help: Some("to remove them all, leave one certificate in the configuration".to_owned()),
            });
            return;
        }
        let new: BTreeMap<&NameSet, &Name> = match gone.is_empty() {
            true => BTreeMap::new(),
            false => self
                .desired
                .certificates
                .values()
                .filter(|wanted| self.prior(&wanted.name).0.is_none())
                .map(|wanted| (&wanted.names, &wanted.name))
                .collect(),
        };
        for (name, prior) in gone {
            let successor = prior.record.current.as_ref().and_then(|current| new.get(&current.facts.names));
            self.remove(name, prior, successor.copied());
        }
    }

    /// `successor` is a new certificate with the same names.
    fn remove(&mut self, name: &'a Name, prior: &'a PriorCertificate, successor: Option<&Name>) {
        let record = &prior.record;
        let address = Address::Certificate(name.clone());
        let selected = self.selects(&address, &BTreeMap::new());
        let served = self.served(name);
        let (changes, complete) =
            self.removed_deployments_of((name, name), prior.revision, record, None, &served);
        self.changes.extend(changes);
        // The archive holds nothing that is still deployed.
        if !selected || !complete || !self.takes(Cause::Config, false) {
            return;
        }
        if let Some(operation) = &record.operation
            && !self.can_clean_up(&address, operation)
        {
            return;
        }
        if let Some(successor) = successor {
            let message = format!(
                "certificate/{successor} is new and has the same names: without `moved:` a rename costs an issuance"
            );
            let help = format!(
                "to rename it, write `moved: [{{ from: certificate.{name}, to: certificate.{successor} }}]`"
            );
            self.warn(address.clone(), message, Some(&help));
        }
        let never_issued = record.current.is_none() && record.deployments.is_empty();
        let (action, reason) = if never_issued {
            (Action::Forget, Reason::ForgetBecauseNeverIssued)
        } else {
            (Action::Remove, Reason::RemoveBecauseNotConfigured)
        };
        let resume = record.operation.iter().map(|operation| resume(operation, true, Vec::new()));
        let mut change = Change::new(address, Cause::Config, reason, prior.revision);
        change.action = action;
        change.steps = resume.chain([Step::Archive]).collect();
        change.details.now = Some(self.input.now);
        if let Some(current) = &record.current {
            change.before = view::issued(current);
            change.details.not_after = Some(current.facts.not_after);
            change.details.fingerprint = Some(current.facts.fingerprint);
        }
        self.changes.push(change);
    }

    /// Plans the removal of the deployments of a certificate that stays.
    pub(super) fn removed_deployments(&mut self, subject: Subject<'a>) {
        let desired = subject.desired;
        let served = self.served(subject.name_in_state());
        let (changes, _) = self.removed_deployments_of(
            (&desired.name, subject.name_in_state()),
            subject.base_revision(),
            subject.record(),
            Some(desired),
            &served,
        );
        self.changes.extend(changes);
    }

    /// The removals, and whether they are all that there is to remove. A certificate has a name, and one in state.
    fn removed_deployments_of(
        &mut self,
        (name, in_state): (&'a Name, &'a Name),
        revision: u64,
        record: &'a CertificateRecord,
        desired: Option<&'a DesiredCertificate>,
        served: &[&'a Served],
    ) -> (Vec<Change>, bool) {
        let mut changes = Vec::new();
        let mut complete = true;
        let no_labels = BTreeMap::new();
        let labels = desired.map_or(&no_labels, |desired| &desired.labels);
        for (target, recorded) in &record.deployments {
            if desired.is_some_and(|desired| desired.deploy.iter().any(|entry| entry.target == *target)) {
                continue;
            }
            let address = Address::Deployment(name.clone(), target.clone());
            if !self.selects(&address, labels) || !self.takes(Cause::Config, false) {
                complete = false;
                continue;
            }
            let mut change = Change::new(address.clone(), Cause::Config, Reason::ForgetBecauseKept, revision);
            change.details.fingerprint = Some(recorded.fingerprint);
            change.before = view::deployment(
                target,
                Some(&recorded.kind),
                Some(&recorded.slot.location),
                Some(recorded.fingerprint),
            );
            let held = self
                .input
                .observed
                .deployments
                .get(&(in_state.clone(), target.clone()))
                .and_then(Fact::present);
            let foreign = held.filter(|held| record.is_foreign(target, held));
            if let Some(foreign) = foreign {
                change.reason = Reason::ForgetBecauseTargetDiffers;
                change.details.found = foreign.fingerprint;
            }
            if recorded.on_remove == OnRemove::Keep || foreign.is_some() {
                change.action = Action::Forget;
                change.steps = vec![Step::ForgetDeployment { target: target.clone() }];
                changes.push(change);
                continue;
            }
            if !self.is_target_there(&address, target, recorded) {
                complete = false;
                continue;
            }
            match Self::still_serves(recorded, record, desired, served) {
                Serves::No => {}
                Serves::Yes(why) if self.is_allowed(&address) => {
                    change.risks.insert(Risk::RemovesServing);
                    self.warn(address.clone(), format!("{why}, and it is removed all the same"), None);
                }
                Serves::Yes(why) => {
                    let allowed =
                        desired.map_or_else(|| Address::Certificate(name.clone()), |_| address.clone());
                    self.errors.push(PlanError {
                        address: Some(address),
                        kind: PlanErrorKind::Refused,
                        message: format!("it is not removed: {why}"),
                        help: Some(format!(
                            "see that something else serves there, or run with `--allow-remove {allowed}`"
                        )),
                    });
                    complete = false;
                    continue;
                }
            }
            change.action = Action::Remove;
            change.reason = Reason::RemoveBecauseNotConfigured;
            change.steps = vec![Step::RemoveDeployment(RemoveStep {
                target: target.clone(),
                slot: recorded.slot.clone(),
                definition: self.target_definition(target),
            })];
            change.risks.insert(Risk::RemovesDeployment);
            changes.push(change);
        }
        (changes, complete)
    }

    fn is_target_there(&mut self, address: &Address, target: &Name, recorded: &DeploymentRecord) -> bool {
        match self.desired.targets.get(target) {
            Some(wanted) if wanted.kind == recorded.kind => return true,
            Some(wanted) => self.fail(
                Some(address.clone()),
                format!(
                    "the target `{target}` was of the kind `{}` and is `{}` now, and it still holds this deployment",
                    recorded.kind, wanted.kind
                ),
                "give the new target a name of its own".to_owned(),
            ),
            None => self.fail(
                Some(address.clone()),
                format!("the target `{target}` is gone from the configuration and still holds this deployment"),
                format!(
                    "write `{target}: {{ {kind}: ... }}` under `targets:`, with what stood at `{kind}:` before, there or in place at `deploy:`; \
                     run `certplan apply` to remove the deployment, and then remove the target; \
                     `certplan state rm {address}` forgets the deployment and leaves it there",
                    kind = recorded.kind,
                ),
            ),
        }
        false
    }

    fn still_serves(
        recorded: &'a DeploymentRecord,
        record: &CertificateRecord,
        desired: Option<&'a DesiredCertificate>,
        served: &[&'a Served],
    ) -> Serves {
        let remaining = desired.map(DesiredCertificate::endpoints).unwrap_or_default();
        let endpoints: Vec<&Endpoint> =
            recorded.verify.iter().filter(|endpoint| !remaining.contains(endpoint)).collect();
        let ours: Vec<Fingerprint> =
            [Some(recorded.fingerprint), record.current.as_ref().map(|current| current.facts.fingerprint)]
                .into_iter()
                .flatten()
                .collect();
        let mut unknown = None;
        for endpoint in &endpoints {
            let Some(served) = served.iter().find(|served| served.endpoint == **endpoint) else {
                return Serves::Yes(format!("whether `{endpoint}` still serves it was not looked at"));
            };
            match &served.leaf {
                Fact::Present(leaf) if ours.contains(leaf) => {
                    return Serves::Yes(format!("`{endpoint}` still serves it"));
                }
                Fact::Unknown(why) => unknown = Some((endpoint, why)),
                Fact::Present(_) | Fact::Absent => {}
            }
        }
        if desired.is_none()
            && let Some(served) = served
                .iter()
                .find(|served| matches!(&served.leaf, Fact::Present(leaf) if ours.contains(leaf)))
        {
            return Serves::Yes(format!("`{}` still serves it", served.endpoint));
        }
        match unknown {
            Some((endpoint, why)) => {
                Serves::Yes(format!("whether `{endpoint}` still serves it could not be found out: {why}"))
            }
            None => Serves::No,
        }
    }

    fn is_allowed(&self, address: &Address) -> bool {
        self.input.options.allow_remove.iter().any(|allowed| {
            allowed == address
                || matches!(allowed, Address::Certificate(name) if address.certificate() == Some(name))
        })
    }
}

/// Whether a deployment still serves.
enum Serves {
    No,
    /// It does, or nobody could find out; in words.
    Yes(String),
}
