use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::model::Name;

use super::Change;
use super::Plan;
use super::cause::Cause;
use super::cause::Reason;
use super::step::DeployStep;
use super::step::IssueStep;
use super::step::RemoveStep;
use super::step::ResumeStep;
use super::step::Step;

/// What apply does for one certificate, in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateWork {
    /// The certificate.
    pub name: Name,
    /// The cause of the weightiest change.
    pub cause: Cause,
    /// The reason of the weightiest change.
    pub reason: Reason,
    /// The revision of the state object that it was planned on (under the old name, when it is renamed); 0 when there is none.
    pub base_revision: u64,
    /// The issuer whose account has to be created first.
    pub account: Option<Name>,
    /// The name before, when the state object moves.
    pub rename: Option<Name>,
    /// The interrupted operation to finish or to clean up.
    pub resume: Option<ResumeStep>,
    /// What to order, after `resume`.
    pub issue: Option<IssueStep>,
    /// Where to deploy the certificate that is current then.
    pub deploy: Vec<DeployStep>,
    /// What to take out of targets, once everything is deployed.
    pub remove: Vec<RemoveStep>,
    /// The deployments to forget.
    pub forget: Vec<Name>,
    /// The deployments of which to remember what the configuration says.
    pub record: Vec<Name>,
    /// Whether the state object goes to the archive at last.
    pub archive: bool,
}

impl Plan {
    /// What there is to do, by certificate, from the steps of the changes.
    pub fn work(&self) -> BTreeMap<Name, CertificateWork> {
        let mut work: BTreeMap<Name, CertificateWork> = BTreeMap::new();
        for change in &self.changes {
            let Some(name) = change.address.certificate() else { continue };
            let entry = work.entry(name.clone()).or_insert_with(|| CertificateWork {
                name: name.clone(),
                cause: change.cause,
                reason: change.reason,
                base_revision: change.base_revision,
                account: None,
                rename: None,
                resume: None,
                issue: None,
                deploy: Vec::new(),
                remove: Vec::new(),
                forget: Vec::new(),
                record: Vec::new(),
                archive: false,
            });
            for step in &change.steps {
                entry.take(step);
            }
        }
        let accounts = self.accounts();
        for entry in work.values_mut() {
            let issuer = match (&entry.issue, &entry.resume) {
                (Some(issue), _) => Some(&issue.issuer),
                (None, Some(resume)) => resume.issuer.as_ref(),
                (None, None) => None,
            };
            entry.account = issuer.filter(|issuer| accounts.contains(*issuer)).cloned();
        }
        work
    }

    /// The certificates that there is something to do for.
    pub fn certificates_at_work(&self) -> BTreeSet<&Name> {
        self.changes.iter().filter_map(|change| change.address.certificate()).collect()
    }

    /// What is to be ordered anew.
    pub fn issues(&self) -> impl Iterator<Item = &IssueStep> {
        self.steps().filter_map(|(_, step)| match step {
            Step::Issue(issue) => Some(issue),
            _ => None,
        })
    }

    /// The certificates of which an interrupted operation is finished or cleaned up.
    pub fn resumed(&self) -> BTreeSet<&Name> {
        let resumed = self.steps().filter(|(_, step)| matches!(step, Step::Resume(_)));
        resumed.filter_map(|(change, _)| change.address.certificate()).collect()
    }

    fn steps(&self) -> impl Iterator<Item = (&Change, &Step)> {
        self.changes.iter().flat_map(|change| change.steps.iter().map(move |step| (change, step)))
    }

    /// The issuers whose accounts are to be created, or whose creation is to be finished.
    pub fn accounts(&self) -> BTreeSet<Name> {
        let created = self.steps().filter_map(|(_, step)| match step {
            Step::CreateAccount { issuer } => Some(issuer.clone()),
            _ => None,
        });
        created.collect()
    }

    /// The issuers whose accounts are in use and to be changed.
    pub fn updated_accounts(&self) -> BTreeSet<Name> {
        let updated = self.steps().filter_map(|(_, step)| match step {
            Step::UpdateAccount { issuer, .. } => Some(issuer.clone()),
            _ => None,
        });
        updated.collect()
    }
}

impl CertificateWork {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Archive => self.archive = true,
            Step::CreateAccount { .. } | Step::UpdateAccount { .. } => {}
            Step::Deploy(deploy) => self.deploy.push(deploy.clone()),
            Step::ForgetDeployment { target } => self.forget.push(target.clone()),
            Step::Issue(issue) => self.issue = Some(issue.clone()),
            Step::RemoveDeployment(remove) => self.remove.push(remove.clone()),
            Step::RecordSettings { target, .. } => self.record.push(target.clone()),
            Step::Rename { from } => self.rename = Some(from.clone()),
            Step::Resume(resume) => self.resume = Some(resume.clone()),
        }
    }
}
