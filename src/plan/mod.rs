//! The plan: what is to happen, why, and in which order.
//!
//! [`plan`] is pure, synchronous and total: it compares what is wanted with what state remembers and what was observed,
//! at a time that is given to it. A [`Plan`] is data. Its [`Change`]s carry executable [`Step`]s ([`Plan::work`] sorts them
//! by certificate for apply), and every output is a projection of it: [`PlanDocument`] for machines and saved plans,
//! `cli::render` for people.
//!
//! What was looked at in vain ([`Fact::Unknown`](crate::model::Fact::Unknown)) never leads to a removal or a deployment, and a
//! certificate that cannot be planned never stops another.

mod account;
mod cause;
mod certificate;
mod change;
mod check;
mod clock;
mod custody;
mod deployment;
mod digest;
mod downgrade;
mod input;
pub mod json;
mod limits;
mod operation;
mod order;
mod planner;
mod removal;
mod renewal;
pub mod saved;
mod step;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;
mod view;
mod work;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::model::Address;
use crate::model::Name;

pub use cause::{Action, Cause, Reason};
pub use change::{
    Change, Changed, Deferral, Details, Drift, PlanError, PlanErrorKind, Risk, WaitsFor, Warning,
};
pub(crate) use check::LONGEST_WAIT;
pub use digest::Digest;
pub use input::{Only, PlanInput, PlanOptions, Prior, PriorAccount, PriorCertificate};
pub use json::{
    DeferralDocument, DiagnosticDocument, DriftDocument, FORMAT_VERSION, PlanDocument, ResourceChange,
    ResourceChangeBody, Severity,
};
pub use renewal::{Basis, Renewal, renewal};
pub use saved::{SavedPlan, SavedPlanError, Staleness, StalenessCause, verify};
pub use step::{DeployStep, IssueStep, RemoveStep, ResumeStep, Step};
pub use work::CertificateWork;

/// What is to happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The project.
    pub project: Name,
    /// The lineage of the state that it was made from; `None` before anything was written.
    pub lineage: Option<String>,
    /// The time that it was made for.
    pub now: Timestamp,
    /// Whether the world was looked at.
    pub refreshed: bool,
    /// What is to happen, by address.
    pub changes: Vec<Change>,
    /// Where reality is not what state remembers, by address.
    pub drift: Vec<Drift>,
    /// What has to wait, by address.
    pub deferred: Vec<Deferral>,
    /// What `--only` left out.
    pub left_out: LeftOut,
    /// What somebody should know.
    pub warnings: Vec<Warning>,
    /// What cannot be planned.
    pub errors: Vec<PlanError>,
    /// How many certificates were looked at.
    pub certificates: usize,
    /// When the next certificate that has no change is to be renewed.
    pub next_renewal: Option<NextRenewal>,
}

/// How many changes were left out, by what they are left to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Changes that the configuration or a flag asks for.
    pub config: usize,
    /// Repairs.
    pub drift: usize,
    /// Renewals that are due.
    pub renewals: usize,
    /// Changes that are not in the saved plan that is applied.
    pub unreviewed: usize,
}

/// The next renewal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct NextRenewal {
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Of which certificate.
    #[schemars(with = "String")]
    pub certificate: Name,
}

/// How many changes of which kind a plan has. One that creates and then removes counts twice, as in Terraform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Made.
    pub add: usize,
    /// Changed in place.
    pub change: usize,
    /// Forgotten.
    pub forget: usize,
    /// Taken over.
    pub import: usize,
    /// Removed.
    pub remove: usize,
}

/// How a command that only plans ends, the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitClass {
    /// Something could not be planned.
    Error,
    /// Something must not be done.
    Refused,
    /// There are changes.
    Changes,
    /// There is nothing to do now, and something waits for a rate limit or a back-off.
    Deferred,
    /// There is nothing to do.
    Done,
}

impl ExitClass {
    /// The exit code of the process; `detailed` with `--detailed-exitcode`.
    pub const fn code(self, detailed: bool) -> u8 {
        match (self, detailed) {
            (Self::Error, _) => 1,
            (Self::Refused, _) => 7,
            (Self::Changes, true) => 2,
            (Self::Deferred, true) => 6,
            (Self::Changes | Self::Deferred, false) | (Self::Done, _) => 0,
        }
    }
}

/// Plans.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    planner::Planner::new(input).plan()
}

impl Plan {
    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes of which kind there are.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for change in &self.changes {
            match change.action {
                Action::Create => summary.add += 1,
                Action::CreateThenRemove => {
                    summary.add += 1;
                    summary.remove += 1;
                }
                Action::Forget => summary.forget += 1,
                Action::Import => summary.import += 1,
                Action::Remove => summary.remove += 1,
                Action::Update => summary.change += 1,
            }
        }
        summary
    }

    /// How many changes there are of each cause.
    pub fn causes(&self) -> BTreeMap<Cause, usize> {
        let mut causes = BTreeMap::new();
        for change in &self.changes {
            *causes.entry(change.cause).or_default() += 1;
        }
        causes
    }

    /// How a command that only plans ends.
    pub fn exit_class(&self) -> ExitClass {
        if self.errors.iter().any(|error| error.kind == PlanErrorKind::Failed) {
            ExitClass::Error
        } else if !self.errors.is_empty() {
            ExitClass::Refused
        } else if !self.changes.is_empty() {
            ExitClass::Changes
        } else if !self.deferred.is_empty() {
            ExitClass::Deferred
        } else {
            ExitClass::Done
        }
    }

    /// Keeps the changes of the addresses that `keep` takes, for an apply that does a part. Accounts are created as long as
    /// a change needs them.
    pub fn retain(&mut self, mut keep: impl FnMut(&Address) -> bool) {
        self.changes.retain(|change| change.created_account().is_some() || keep(&change.address));
        let needed: BTreeSet<Name> =
            self.changes.iter().filter_map(|change| change.issuer().cloned()).collect();
        self.changes.retain(|change| change.created_account().is_none_or(|issuer| needed.contains(issuer)));
    }
}

impl Change {
    /// The issuer that is asked for a certificate.
    pub fn issuer(&self) -> Option<&Name> {
        self.steps.iter().find_map(|step| match step {
            Step::Issue(issue) => Some(&issue.issuer),
            Step::Resume(resume) => resume.issuer.as_ref(),
            _ => None,
        })
    }

    /// The issuer whose account is created.
    fn created_account(&self) -> Option<&Name> {
        self.steps.iter().find_map(|step| match step {
            Step::CreateAccount { issuer } => Some(issuer),
            _ => None,
        })
    }
}
