//! Whether a certificate is ordered, and why.

use crate::model::Address;
use crate::model::AriRecord;
use crate::model::CertificateRecord;
use crate::model::Fact;
use crate::model::Issued;
use crate::model::Name;
use crate::model::Operation;
use crate::model::Rotation;
use crate::model::Stage;

use super::NextRenewal;
use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::Changed;
use super::change::Details;
use super::change::Risk;
use super::change::WaitsFor;
use super::check::Wanted;
use super::input::Only;
use super::planner::Planner;
use super::planner::Subject;
use super::renewal::Basis;
use super::renewal::Renewal;
use super::renewal::renewal;
use super::step::IssueStep;
use super::step::ResumeStep;
use super::step::Step;
use super::text::span;
use super::view;

/// Why a certificate is ordered: the weightiest first.
type Reasons = Vec<(Reason, Cause)>;

/// A certificate's change, and whether its deployments follow in the same plan.
struct Ordered {
    change: Change,
    deploys: bool,
}

impl<'a> Planner<'a> {
    /// Plans one wanted certificate with its deployments.
    pub(super) fn certificate(&mut self, subject: Subject<'a>) {
        let record = subject.record();
        let address = subject.address();
        let selected = self.selects(&address, &subject.desired.labels);
        let renewal = self.renewal(subject);
        if selected {
            self.warn_about(subject, renewal.as_ref());
        }
        if subject.from.is_some() && !(selected && self.takes(Cause::Config, false)) {
            // Everything about it is under its old name until the rename is applied.
            if selected && renewal.as_ref().is_some_and(|renewal| self.is_due(record, renewal)) {
                self.warn(
                    address,
                    "it is due for renewal, and waits until it is renamed",
                    Some("apply the `moved:` entry"),
                );
            }
            return;
        }
        let ordered = if selected { self.order(subject, renewal.as_ref()) } else { None };
        let needs = self.deployment_needs(subject, ordered.as_ref().is_some_and(|ordered| ordered.deploys));
        let follows = ordered.as_ref().filter(|ordered| ordered.deploys).map(|ordered| ordered.change.cause);
        let mut change = ordered.map(|ordered| ordered.change);
        let deployments = match follows {
            Some(cause) => self.follow(subject, cause),
            None if self.is_sealed(subject) && !needs.is_empty() => {
                let (sealed, following) = self.unseal(subject, selected, renewal.as_ref(), &needs);
                change = change.or(sealed);
                following
            }
            None => needs,
        };
        if let Some(from) = subject.from {
            change = Some(rename(subject, from, change));
        }
        if change.is_none()
            && selected
            && let Some(renewal) = renewal
        {
            self.note_next(subject, &renewal);
        }
        self.changes.extend(change);
        self.changes.extend(deployments);
        self.removed_deployments(
            &subject.desired.name,
            subject.base_revision(),
            record,
            Some(subject.desired),
        );
    }

    fn renewal(&mut self, subject: Subject<'a>) -> Option<Renewal> {
        let current = subject.record().current.as_ref()?;
        let ari = self.ari(subject);
        let lineage = self.input.prior.lineage.as_deref();
        Some(renewal(&current.facts, current.issued_at, subject.desired.renew, ari, lineage))
    }

    fn ari(&self, subject: Subject<'a>) -> Option<&'a AriRecord> {
        match self.input.observed.ari.get(&subject.desired.name) {
            Some(Fact::Present(fresh)) => Some(fresh),
            // The CA offers none, or none any more.
            Some(Fact::Absent) => None,
            Some(Fact::Unknown(_)) | None => subject.record().ari.as_ref(),
        }
    }

    fn warn_about(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) {
        if let Some(Fact::Unknown(why)) = self.input.observed.ari.get(&subject.desired.name) {
            if self.without_ari.0 == 0 {
                self.without_ari.1 = why;
            }
            self.without_ari.0 += 1;
        }
        if let (Some(Renewal { clamped: Some(asked), .. }), Some(current)) =
            (renewal, &subject.record().current)
        {
            let message = format!(
                "`renew.before` of {} does not fit the certificate's lifetime of {}: half the lifetime is used",
                span(*asked),
                span(current.facts.lifetime().as_secs()),
            );
            self.warn(subject.address(), message, Some("write a fraction, as `renew: { before: 1/3 }`"));
        }
    }

    fn is_due(&self, record: &CertificateRecord, renewal: &Renewal) -> bool {
        let expired =
            record.current.as_ref().is_some_and(|current| self.input.now >= current.facts.not_after);
        expired || self.input.now >= renewal.at
    }

    fn is_sealed(&self, subject: Subject<'a>) -> bool {
        // While an operation is open its key is handed over.
        subject.record().operation.is_none() && subject.prior.is_some_and(|prior| !prior.key_readable)
    }

    fn is_requested(&self, subject: Subject<'a>) -> bool {
        self.replace.contains(&subject.address())
    }

    fn note_next(&mut self, subject: Subject<'a>, renewal: &Renewal) {
        let at = renewal.at.max(renewal.not_before);
        if self
            .next_renewal
            .as_ref()
            .is_none_or(|next| (at, &subject.desired.name) < (next.at, &next.certificate))
        {
            self.next_renewal = Some(NextRenewal { at, certificate: subject.desired.name.clone() });
        }
    }

    /// The change of a certificate: to order one, to finish an order, or to clean up after one.
    fn order(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) -> Option<Ordered> {
        let record = subject.record();
        let operation = record.operation.as_ref();
        let mut superseded = false;
        if let Some(operation) = operation
            && operation.stage < Stage::Issued
            && !operation.names.is_empty()
        {
            let wanted = self.is_wanted(subject, operation);
            // A certificate may exist already, so it is fetched, whatever is wanted by now.
            let finish = wanted || (operation.stage == Stage::Finalizing && self.is_reachable(operation));
            if finish {
                let change = self.finish(subject, operation, wanted)?;
                return Some(Ordered { change, deploys: wanted });
            }
            superseded = true;
        }
        let reasons = self.reasons(subject, renewal);
        if !reasons.is_empty()
            && let Some(change) = self.issue(subject, renewal, &reasons, superseded)
        {
            return Some(Ordered { change, deploys: true });
        }
        let change = self.close(subject, operation?, superseded)?;
        Some(Ordered { change, deploys: false })
    }

    /// Whether an interrupted operation ordered what the configuration still wants.
    fn is_wanted(&self, subject: Subject<'a>, operation: &Operation) -> bool {
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

    fn is_reachable(&self, operation: &Operation) -> bool {
        let issuer = self.desired.issuers.get(&operation.issuer);
        issuer.is_some_and(|issuer| issuer.acme().directory.as_str() == operation.directory)
    }

    fn directory(&self, subject: Subject<'a>) -> Option<&'a str> {
        self.desired.issuers.get(&subject.desired.issuer).map(|issuer| issuer.acme().directory.as_str())
    }

    /// Finishes an interrupted order.
    fn finish(&mut self, subject: Subject<'a>, operation: &'a Operation, wanted: bool) -> Option<Change> {
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
    fn close(&mut self, subject: Subject<'a>, operation: &'a Operation, superseded: bool) -> Option<Change> {
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
        Change {
            action: if record.current.is_some() || abandon { Action::Update } else { Action::Create },
            details,
            before: record.current.as_ref().map(view::issued).unwrap_or_default(),
            steps: vec![resume(operation, abandon)],
            ..Change::new(
                subject.address(),
                cause,
                Reason::ResumeInterruptedOperation,
                subject.base_revision(),
            )
        }
    }

    /// Why the certificate is to be ordered; empty when it is not.
    fn reasons(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) -> Reasons {
        let desired = subject.desired;
        let Some(current) = &subject.record().current else {
            return vec![(Reason::CreateBecauseNew, Cause::Config)];
        };
        let mut reasons = Reasons::new();
        let differences = [
            (
                self.directory(subject).is_some_and(|directory| directory != current.directory),
                Reason::ReissueBecauseIssuerChanged,
            ),
            (current.facts.names != desired.names, Reason::ReissueBecauseNamesChanged),
            (current.profile != desired.profile, Reason::ReissueBecauseProfileChanged),
            (current.key.key_type != desired.key.key_type, Reason::ReissueBecauseKeyTypeChanged),
            (current.preferred_chain != desired.preferred_chain, Reason::ReissueBecausePreferredChainChanged),
        ];
        reasons.extend(
            differences
                .into_iter()
                .filter(|(differs, _)| *differs)
                .map(|(_, reason)| (reason, Cause::Config)),
        );
        if self.is_requested(subject) {
            reasons.push((Reason::ReissueByRequest, Cause::Request));
        }
        if let Some(renewal) = renewal
            && let Some(due) = self.due(subject, current, renewal, reasons.is_empty())
        {
            reasons.push(due);
        }
        reasons
    }

    /// Whether time or the CA asks for a renewal; says so when that has to wait (and nothing else asks).
    fn due(
        &mut self,
        subject: Subject<'a>,
        current: &Issued,
        renewal: &Renewal,
        alone: bool,
    ) -> Option<(Reason, Cause)> {
        let now = self.input.now;
        let expired = now >= current.facts.not_after;
        if now < renewal.at && !expired {
            return None;
        }
        let due = match renewal.basis {
            _ if expired => (Reason::RenewBecauseExpired, Cause::Time),
            Basis::Ari { early, .. } => {
                (Reason::RenewBecauseAri, if early { Cause::Ca } else { Cause::Time })
            }
            Basis::Configured | Basis::Lifetime => (Reason::RenewBecauseWindow, Cause::Time),
        };
        if now >= renewal.not_before {
            return Some(due);
        }
        if alone && self.takes(due.1, false) {
            let message = if expired {
                "it had expired by this clock as soon as it was issued: this clock or the CA's is wrong"
            } else {
                "it was issued a moment ago, and the CA's window is open already"
            };
            let wanted = Wanted {
                reason: due.0,
                cause: due.1,
                requested: false,
                exempt: true,
                lifetime: 0,
                record: subject.record(),
            };
            self.defer(subject, WaitsFor::LoopGuard, renewal.not_before, message.to_owned(), wanted);
        }
        None
    }

    /// Orders a certificate, if everything that it takes is there.
    fn issue(
        &mut self,
        subject: Subject<'a>,
        renewal: Option<&Renewal>,
        reasons: &[(Reason, Cause)],
        superseded: bool,
    ) -> Option<Change> {
        let desired = subject.desired;
        let record = subject.record();
        let (&(reason, cause), also) = reasons.split_first()?;
        let due = reasons.iter().any(|(_, cause)| matches!(cause, Cause::Time | Cause::Ca));
        if !self.takes(cause, false) {
            if due && self.only() == Some(Only::Renewals) {
                self.warn(
                    subject.address(),
                    "it is due for renewal, and its configuration changed: it waits for an apply that takes the change",
                    Some("run `certplan apply` without `--only renewals`"),
                );
            }
            return None;
        }
        let wanted = Wanted {
            reason,
            cause,
            requested: self.is_requested(subject),
            exempt: self.replaces(subject).is_some() && self.is_window_open(subject),
            lifetime: record.current.as_ref().map_or(0, |current| current.facts.lifetime().as_secs()),
            record,
        };
        // An operation that was superseded failed with a configuration that is no more.
        if !superseded && self.backs_off(subject.address(), wanted) {
            return None;
        }
        if let Some(operation) = &record.operation
            && !self.can_clean_up(&subject.address(), operation)
        {
            return None;
        }
        if !self.can_order(subject) {
            return None;
        }
        let directory = self.directory(subject)?;
        if self.is_limited(subject, directory, wanted) {
            return None;
        }
        self.need_account(&desired.issuer);

        let mut steps: Vec<Step> = record.operation.iter().map(|operation| resume(operation, true)).collect();
        steps.push(Step::Issue(IssueStep {
            names: desired.names.clone(),
            issuer: desired.issuer.clone(),
            directory: directory.to_owned(),
            profile: desired.profile.clone(),
            key: desired.key,
            preferred_chain: desired.preferred_chain.clone(),
            replaces: self.replaces(subject),
            reuse_key: self.reuses_key(subject),
        }));
        let mut change = Change {
            also: also.iter().map(|(reason, _)| *reason).collect(),
            details: self.details(subject, renewal),
            before: record.current.as_ref().map(view::issued).unwrap_or_default(),
            after: view::wanted(desired, directory),
            steps,
            ..Change::new(subject.address(), cause, reason, subject.base_revision())
        };
        match &record.current {
            None => change.action = Action::Create,
            Some(current) => {
                if current.directory != directory {
                    change.risks.insert(Risk::ChangesIssuer);
                }
                if !change.details.removed_names.is_empty() {
                    change.risks.insert(Risk::DropsNames);
                }
            }
        }
        if let Some(operation) = &record.operation {
            change.also.push(Reason::ResumeInterruptedOperation);
            describe_operation(&mut change.details, operation, true);
        }
        Some(change)
    }

    /// Reissues a certificate because a deployment needs its key, which cannot be had any more.
    fn unseal(
        &mut self,
        subject: Subject<'a>,
        selected: bool,
        renewal: Option<&Renewal>,
        needs: &[Change],
    ) -> (Option<Change>, Vec<Change>) {
        // What an endpoint serves may never be in our hands: no certificates are spent on it.
        let Some(need) = needs.iter().find(|need| need.reason != Reason::RedeployBecauseServedDiffers) else {
            self.warn(
                subject.address(),
                "an endpoint serves another certificate, and deploying again needs the private key, which only the holders of `keys:` can open",
                Some("`--replace` reissues it"),
            );
            return (None, Vec::new());
        };
        if !selected {
            self.fail(
                Some(need.address.clone()),
                "deploying needs the private key, which only the holders of `keys:` can open: the certificate has to be reissued",
                format!("select `{}` as well", subject.address()),
            );
            return (None, Vec::new());
        }
        match self.issue(subject, renewal, &[(Reason::ReissueBecauseKeySealed, need.cause)], false) {
            Some(change) => {
                let cause = change.cause;
                (Some(change), self.follow(subject, cause))
            }
            None => (None, Vec::new()),
        }
    }

    /// The ARI identifier of the predecessor, when the same CA can make use of it.
    fn replaces(&self, subject: Subject<'a>) -> Option<String> {
        let current = subject.record().current.as_ref()?;
        let offered = match self.input.observed.directories.get(&subject.desired.issuer) {
            Some(Fact::Present(facts)) => facts.renewal_info,
            Some(Fact::Absent | Fact::Unknown(_)) | None => self.ari(subject).is_some(),
        };
        let same = self.directory(subject) == Some(current.directory.as_str());
        let shared = !current.facts.names.is_disjoint(&subject.desired.names);
        current.facts.ari_id.clone().filter(|_| offered && same && shared)
    }

    fn is_window_open(&self, subject: Subject<'a>) -> bool {
        let fingerprint = subject.record().current.as_ref().map(|current| current.facts.fingerprint);
        self.ari(subject)
            .filter(|ari| Some(ari.fingerprint) == fingerprint)
            .and_then(|ari| ari.window)
            .is_some_and(|(from, to)| from < to && from <= self.input.now)
    }

    fn reuses_key(&mut self, subject: Subject<'a>) -> bool {
        let key = subject.desired.key;
        let same =
            subject.record().current.as_ref().is_some_and(|current| current.key.key_type == key.key_type);
        if key.rotation != Rotation::Never || !same {
            return false;
        }
        let readable = subject.prior.is_some_and(|prior| prior.key_readable);
        if !readable {
            self.warn(
                subject.address(),
                "`rotation: never` cannot be kept: only the holders of `keys:` can open the private key, so a new one is made",
                None,
            );
        }
        readable
    }

    /// The numbers behind an order.
    fn details(&self, subject: Subject<'a>, renewal: Option<&Renewal>) -> Details {
        let desired = subject.desired;
        let mut details = self.facts_of(subject.record().current.as_ref());
        details.challenges = self.delegated(&desired.names);
        let Some(current) = &subject.record().current else { return details };
        details.added_names = desired.names.difference(&current.facts.names).cloned().collect();
        details.removed_names = current.facts.names.difference(&desired.names).cloned().collect();
        let text = |value: &str| Some(value.to_owned());
        let directory = self.directory(subject).unwrap_or_default();
        let pairs = [
            ("issuer", text(&current.directory), text(directory)),
            ("profile", current.profile.clone(), desired.profile.clone()),
            ("key_type", text(current.key.key_type.as_str()), text(desired.key.key_type.as_str())),
            ("preferred_chain", current.preferred_chain.clone(), desired.preferred_chain.clone()),
        ];
        details.changed = pairs
            .into_iter()
            .filter(|(_, before, after)| before != after)
            .map(|(field, before, after)| (field.to_owned(), Changed { before, after }))
            .collect();
        if let Some(renewal) = renewal {
            details.renew_at = Some(renewal.at);
            if let Basis::Ari { window, .. } = renewal.basis {
                details.window_start = Some(window.0);
                details.window_end = Some(window.1);
                details.explanation_url = self.ari(subject).and_then(|ari| ari.explanation_url.clone());
            }
        }
        details
    }

    fn facts_of(&self, current: Option<&Issued>) -> Details {
        Details {
            now: Some(self.input.now),
            not_before: current.map(|current| current.facts.not_before),
            not_after: current.map(|current| current.facts.not_after),
            fingerprint: current.map(|current| current.facts.fingerprint),
            ..Details::default()
        }
    }
}

fn resume(operation: &Operation, abandon: bool) -> Step {
    let orders = !abandon && operation.stage < Stage::Issued && !operation.names.is_empty();
    let issuer = orders.then(|| operation.issuer.clone());
    Step::Resume(ResumeStep { operation: operation.id.clone(), abandon, issuer })
}

fn describe_operation(details: &mut Details, operation: &Operation, abandoned: bool) {
    details.operation = Some(operation.id.clone());
    details.operation_stage =
        serde_json::to_value(operation.stage).ok().and_then(|stage| stage.as_str().map(str::to_owned));
    details.operation_started = Some(operation.started);
    details.operation_abandoned = abandoned;
}

fn rename(subject: Subject<'_>, from: &Name, change: Option<Change>) -> Change {
    let mut change = change.unwrap_or_else(|| {
        let before = subject.record().current.as_ref().map(view::issued).unwrap_or_default();
        Change {
            after: before.clone(),
            before,
            ..Change::new(
                subject.address(),
                Cause::Config,
                Reason::MoveBecauseRenamed,
                subject.base_revision(),
            )
        }
    });
    change.previous_address = Some(Address::Certificate(from.clone()));
    change.steps.insert(0, Step::Rename { from: from.clone() });
    if change.reason != Reason::MoveBecauseRenamed {
        change.also.push(Reason::MoveBecauseRenamed);
    }
    change
}
