//! What becomes of an operation that was interrupted.

use crate::model::Operation;
use crate::model::Stage;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::Details;
use super::check::Wanted;
use super::digest::Digest;
use super::planner::Planner;
use super::planner::Subject;
use super::step::IssueStep;
use super::step::ResumeStep;
use super::step::Step;
use super::view;

impl<'a> Planner<'a> {
    /// Whether an interrupted operation ordered what the configuration still wants.
    pub(super) fn is_wanted(&self, subject: Subject<'a>, operation: &Operation) -> bool {
        let desired = subject.desired;
        let directory = self.directory(subject);
        let key_type = IssueStep::from_operation(operation, desired).key.key_type;
        operation.names == desired.names
            && directory == Some(operation.directory.as_str())
            && operation.issuer == desired.issuer
            && operation.profile == desired.profile
            && operation.preferred_chain == desired.preferred_chain
            && key_type == desired.key.key_type
    }

    pub(super) fn is_reachable(&self, operation: &Operation) -> bool {
        let issuer = self.desired.issuers.get(&operation.issuer);
        issuer.is_some_and(|issuer| issuer.acme().directory.as_str() == operation.directory)
    }

    /// Finishes an interrupted order.
    pub(super) fn finish(
        &mut self,
        subject: Subject<'a>,
        operation: &'a Operation,
        wanted: bool,
    ) -> Option<Change> {
        let record = subject.record();
        let cause = Cause::from_journal(&operation.cause);
        if !self.takes(cause, true) {
            return None;
        }
        let waits = Wanted {
            reason: Reason::ResumeInterruptedOperation,
            cause,
            requested: self.is_requested(subject),
            exempt: true,
            lifetime: 0,
            record,
        };
        if self.backs_off(subject.address(), waits) || !self.can_clean_up(&subject.address(), operation) {
            return None;
        }
        let errors = self.errors.len();
        if self.desired.encryption.is_none() {
            self.unencrypted += 1;
            return None;
        }
        if operation.stage < Stage::Finalizing {
            self.check_challenges(subject.address(), &operation.names);
        }
        if self.errors.len() > errors {
            return None;
        }
        if let Some(issuer) = self.desired.issuers.get_key_value(&operation.issuer) {
            self.need_account(issuer.0);
        }
        if !wanted {
            self.warn(
                subject.address(),
                "the configuration changed after the interrupted operation had its certificate made: it is fetched first, and the next plan asks for what is wanted now",
                None,
            );
        }
        let key_type = IssueStep::from_operation(operation, subject.desired).key.key_type;
        let mut change = self.resumption(subject, operation, false);
        change.after = view::ordered(operation, key_type);
        change.details.challenges = self.delegated(&operation.names);
        Some(change)
    }

    /// Ends an operation that has no more to order: its clean-up, its deployments, its journal.
    pub(super) fn close(
        &mut self,
        subject: Subject<'a>,
        operation: &'a Operation,
        superseded: bool,
    ) -> Option<Change> {
        let cause = Cause::from_journal(&operation.cause);
        if !self.takes(cause, true) || !self.can_clean_up(&subject.address(), operation) {
            return None;
        }
        let mut change = self.resumption(subject, operation, superseded);
        change.after = change.before.clone();
        Some(change)
    }

    fn resumption(&self, subject: Subject<'a>, operation: &Operation, abandon: bool) -> Change {
        let record = subject.record();
        let cause = Cause::from_journal(&operation.cause);
        let mut details = self.facts_of(record.current.as_ref());
        describe_operation(&mut details, operation, abandon);
        let definitions = if abandon { Vec::new() } else { self.definitions(subject) };
        Change {
            action: if record.current.is_some() || abandon { Action::Update } else { Action::Create },
            details,
            before: record.current.as_ref().map(view::issued).unwrap_or_default(),
            steps: vec![resume(operation, abandon, definitions)],
            ..Change::new(
                subject.address(),
                cause,
                Reason::ResumeInterruptedOperation,
                subject.base_revision(),
            )
        }
    }
}

pub(super) fn resume(operation: &Operation, abandon: bool, definitions: Vec<Digest>) -> Step {
    let orders = !abandon && operation.stage < Stage::Issued && !operation.names.is_empty();
    let issuer = orders.then(|| operation.issuer.clone());
    Step::Resume(ResumeStep { operation: operation.id.clone(), abandon, issuer, definitions })
}

pub(super) fn describe_operation(details: &mut Details, operation: &Operation, abandoned: bool) {
    details.operation = Some(operation.id.clone());
    details.operation_stage =
        serde_json::to_value(operation.stage).ok().and_then(|stage| stage.as_str().map(str::to_owned));
    details.operation_started = Some(operation.started);
    details.operation_abandoned = abandoned;
}
