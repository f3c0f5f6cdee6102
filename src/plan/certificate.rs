//! One wanted certificate, with its deployments.

use crate::model::Address;
use crate::model::AriRecord;
use crate::model::Fact;
use crate::model::Name;
use crate::model::Operation;
use crate::model::Stage;

use super::NextRenewal;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::planner::Planner;
use super::planner::Subject;
use super::renewal::Renewal;
use super::renewal::renewal;
use super::step::Step;
use super::text::span;
use super::view;

/// A certificate's change, and whether its deployments follow in the same plan.
struct Ordered<'a> {
    change: Change,
    deploys: bool,
    /// The operation of an earlier run that is finished.
    resumed: Option<&'a Operation>,
}

impl<'a> Planner<'a> {
    /// Plans one wanted certificate with its deployments.
    pub(super) fn certificate(&mut self, subject: Subject<'a>) {
        let address = subject.address();
        let selected = self.selects(&address, &subject.desired.labels);
        let renewal = self.renewal(subject);
        if selected {
            self.warn_about(subject, renewal.as_ref());
        }
        if subject.from.is_some() && !(selected && self.takes(Cause::Config, false)) {
            // Everything about it is under its old name until the rename is applied.
            if selected && renewal.as_ref().is_some_and(|renewal| self.is_due(subject, renewal)) {
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
        let follows = ordered
            .as_ref()
            .filter(|ordered| ordered.deploys)
            .map(|ordered| (ordered.change.cause, ordered.resumed));
        let mut change = ordered.map(|ordered| ordered.change);
        let deployments = match follows {
            Some((cause, resumed)) => self.follow(subject, cause, resumed),
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
        let settings = self.changed_settings(subject, &deployments);
        self.changes.extend(change);
        self.changes.extend(deployments);
        self.changes.extend(settings);
        self.removed_deployments(subject);
    }

    fn renewal(&self, subject: Subject<'a>) -> Option<Renewal> {
        let current = subject.record().current.as_ref()?;
        let ari = self.ari(subject);
        let lineage = self.input.prior.lineage.as_deref();
        Some(renewal(&current.facts, current.issued_at, subject.desired.renew, ari, lineage))
    }

    pub(super) fn ari(&self, subject: Subject<'a>) -> Option<&'a AriRecord> {
        match self.input.observed.ari.get(subject.name_in_state()) {
            Some(Fact::Present(fresh)) => Some(fresh),
            // The CA offers none, or none any more.
            Some(Fact::Absent) => None,
            Some(Fact::Unknown(_)) | None => subject.record().ari.as_ref(),
        }
    }

    fn warn_about(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) {
        if let Some(current) = &subject.record().current {
            self.check_beginning(&subject.desired.name, &subject.desired.issuer, current);
        }
        if let Some(Fact::Unknown(why)) = self.input.observed.ari.get(subject.name_in_state()) {
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

    fn is_due(&self, subject: Subject<'a>, renewal: &Renewal) -> bool {
        let (record, now) = (subject.record(), self.now_at(&subject.desired.issuer));
        let expired = record.current.as_ref().is_some_and(|current| now >= current.facts.not_after);
        expired || now >= renewal.at
    }

    fn is_sealed(&self, subject: Subject<'a>) -> bool {
        // While an operation is open its key is handed over.
        subject.record().operation.is_none() && subject.prior.is_some_and(|prior| !prior.key_readable)
    }

    pub(super) fn is_requested(&self, subject: Subject<'a>) -> bool {
        self.replace.contains(&subject.address())
    }

    fn note_next(&mut self, subject: Subject<'a>, renewal: &Renewal) {
        let at = renewal.at.max(renewal.not_before);
        // What is due and has no change waits for something else than time.
        if at > self.now_at(&subject.desired.issuer)
            && self
                .next_renewal
                .as_ref()
                .is_none_or(|next| (at, &subject.desired.name) < (next.at, &next.certificate))
        {
            self.next_renewal = Some(NextRenewal { at, certificate: subject.desired.name.clone() });
        }
    }

    /// The change of a certificate: to order one, to finish an order, or to clean up after one.
    fn order(&mut self, subject: Subject<'a>, renewal: Option<&Renewal>) -> Option<Ordered<'a>> {
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
                return Some(Ordered { change, deploys: wanted, resumed: Some(operation) });
            }
            superseded = true;
        }
        let reasons = self.reasons(subject, renewal);
        if !reasons.is_empty()
            && let Some(change) = self.issue(subject, renewal, &reasons, superseded)
        {
            return Some(Ordered { change, deploys: true, resumed: None });
        }
        let change = self.close(subject, operation?, superseded)?;
        Some(Ordered { change, deploys: false, resumed: None })
    }

    pub(super) fn directory(&self, subject: Subject<'a>) -> Option<&'a str> {
        self.desired.issuers.get(&subject.desired.issuer).map(|issuer| issuer.acme().directory.as_str())
    }
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
