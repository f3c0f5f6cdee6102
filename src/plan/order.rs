//! Why a certificate is ordered, and what exactly.

use crate::model::Fact;
use crate::model::Issued;
use crate::model::Rotation;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::Changed;
use super::change::Details;
use super::change::Risk;
use super::change::WaitsFor;
use super::check::Wanted;
use super::clock::OFF;
use super::input::Only;
use super::operation::describe_operation;
use super::operation::resume;
use super::planner::Planner;
use super::planner::Subject;
use super::renewal::Basis;
use super::renewal::Renewal;
use super::step::IssueStep;
use super::step::Step;
use super::view;

/// Why a certificate is ordered: the weightiest first.
pub(super) type Reasons = Vec<(Reason, Cause)>;

impl<'a> Planner<'a> {
    /// Why the certificate is to be ordered; empty when it is not.
    pub(super) fn reasons(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) -> Reasons {
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
        let now = self.now_at(&subject.desired.issuer);
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
        // By the clock that it was issued by; where that is not this one, its notes say nothing.
        let issued_later = current.issued_at.duration_since(self.input.now) > OFF;
        if self.input.now >= renewal.not_before || issued_later {
            return Some(due);
        }
        if alone && self.takes(due.1, false) {
            let message = if expired {
                "it had expired as soon as it was issued: this machine's clock or the CA's is wrong"
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
    pub(super) fn issue(
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

        let mut steps: Vec<Step> =
            record.operation.iter().map(|operation| resume(operation, true, Vec::new())).collect();
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
    pub(super) fn unseal(
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
                (Some(change), self.follow(subject, cause, None))
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
            .is_some_and(|(from, to)| from < to && from <= self.now_at(&subject.desired.issuer))
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

    pub(super) fn facts_of(&self, current: Option<&Issued>) -> Details {
        Details {
            now: Some(self.input.now),
            not_before: current.map(|current| current.facts.not_before),
            not_after: current.map(|current| current.facts.not_after),
            fingerprint: current.map(|current| current.facts.fingerprint),
            ..Details::default()
        }
    }
}
