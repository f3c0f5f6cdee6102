//! What serves does not become older by itself.
//!
//! State may be a copy from a backup. What it has as current is older then than what a target holds, and must not take that
//! one's place: that is an error of the deployment, and `--replace` says that it may.

use crate::model::Address;
use crate::model::CertName;
use crate::model::Deployed;
use crate::model::DesiredDeployment;
use crate::model::Fact;
use crate::model::Issued;
use crate::model::NameSet;
use crate::model::Operation;

use super::planner::Planner;
use super::planner::Subject;
use super::text::moment;

/// What a deployment would put in place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coming<'a> {
    /// What is current in state.
    Current(&'a Issued),
    /// What an operation of state has ordered and will get.
    Ordered(&'a Operation),
}

impl<'a> Planner<'a> {
    /// Whether a target holds a certificate for the same names that is newer than what is to come, which is an error.
    ///
    /// A certificate that nobody signed is a placeholder, and one without a name that is wanted serves nobody: both are
    /// drift. What state knows is no surprise, whatever its dates.
    pub(super) fn would_downgrade(
        &mut self,
        subject: Subject<'a>,
        entry: &DesiredDeployment,
        coming: Coming<'_>,
    ) -> bool {
        let address = Address::Deployment(subject.desired.name.clone(), entry.target.clone());
        let key = (subject.name_in_state().clone(), entry.target.clone());
        let Some(held) = self.input.observed.deployments.get(&key).and_then(Fact::present) else {
            return false;
        };
        if held.self_signed || self.replace.contains(&address) || subject.record().knows(&entry.target, held)
        {
            return false;
        }
        let found = match coming {
            Coming::Current(current) => {
                let facts = &current.facts;
                let newer = held.not_before.is_none_or(|begins| begins > facts.not_before);
                match held.not_after.filter(|ends| newer && *ends > facts.not_after) {
                    Some(ends) if covers(held, &facts.names) => format!(
                        "is valid until {}, longer than the current one of state, which ends on {}",
                        moment(ends),
                        moment(facts.not_after)
                    ),
                    _ => return false,
                }
            }
            Coming::Ordered(operation) => {
                match held.not_before.filter(|begins| *begins > operation.started) {
                    Some(begins) if covers(held, &operation.names) => format!(
                        "begins on {}, after the operation of {} that is to be finished",
                        moment(begins),
                        moment(operation.started)
                    ),
                    _ => return false,
                }
            }
        };
        self.fail(
            Some(address.clone()),
            format!("the target holds a certificate for these names that {found}: state may be an older copy"),
            format!("bring the newest copy of state back; where the one in state is right, `--replace {address}` deploys it"),
        );
        true
    }
}

/// Whether what is held serves all names of another certificate; where the target does not tell its names it may.
fn covers(held: &Deployed, names: &NameSet) -> bool {
    let Some(found) = &held.names else { return true };
    let found: Vec<CertName> = found.iter().filter_map(|name| name.parse().ok()).collect();
    names.iter().all(|name| found.iter().any(|found| found.covers(name)))
}
