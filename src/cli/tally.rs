use std::collections::BTreeSet;

use serde::Serialize;

use crate::apply::ApplyError;
use crate::apply::Outcome;
use crate::plan::Plan;
use crate::plan::PlanErrorKind;

/// What became of everything that was planned, and of what could not be.
#[derive(Debug, Serialize)]
pub(super) struct Tally {
    done: usize,
    removed: usize,
    accounts: usize,
    failed: usize,
    interrupted: usize,
    waiting: usize,
    unplanned: usize,
    refused: usize,
}

impl Tally {
    pub(super) fn of(plan: &Plan, outcome: &Outcome) -> Self {
        let failed = |is: fn(&ApplyError) -> bool| outcome.failed.values().filter(|error| is(error)).count();
        let waiting = failed(ApplyError::is_deferral);
        let interrupted = failed(|error| matches!(error, ApplyError::Interrupted));
        let with_errors = |kind| {
            let errors = plan.errors.iter().filter(|error| error.kind == kind);
            errors.map(|error| &error.address).collect::<BTreeSet<_>>().len()
        };
        let archived = plan.work().into_values().filter(|work| work.archive);
        let removed = archived.filter(|work| outcome.done.contains(&work.name)).count();
        Self {
            done: outcome.done.len() - removed,
            removed,
            accounts: outcome.accounts,
            failed: outcome.failed.len() - waiting - interrupted,
            interrupted,
            waiting,
            unplanned: with_errors(PlanErrorKind::Failed),
            refused: with_errors(PlanErrorKind::Refused),
        }
    }

    /// A sentence; an error unless everything is as it should be.
    pub(super) fn text(&self) -> Result<String, String> {
        let counts = [
            (self.done, "certificate is as it should be", "certificates are as they should be"),
            (self.removed, "certificate is kept no more", "certificates are kept no more"),
            (self.accounts, "account was changed", "accounts were changed"),
            (self.failed, "failed", "failed"),
            (self.interrupted, "was interrupted", "were interrupted"),
            (self.waiting, "has to wait", "have to wait"),
            (self.unplanned, "could not be planned", "could not be planned"),
            (self.refused, "was refused", "were refused"),
        ];
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
            .collect();
        match self.failed + self.interrupted + self.waiting + self.unplanned + self.refused {
            0 => Ok(format!("Apply complete: {}.", counts.join(", "))),
            _ => Err(format!("Apply ended: {}.", counts.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlanError;
    use crate::plan::tests::World;
    use crate::plan::tests::address;
    use crate::plan::tests::name;

    #[test]
    fn a_plan_with_errors_is_never_complete() {
        let outcome = Outcome { done: BTreeSet::from([name("shop")]), ..Outcome::default() };
        let mut plan = World::new_shop().plan();
        assert_eq!(
            Tally::of(&plan, &outcome).text().as_deref(),
            Ok("Apply complete: 1 certificate is as it should be.")
        );
        // One address with two errors is one that could not be planned.
        for (of, kind, message) in [
            ("certificate/blog", PlanErrorKind::Failed, "no zone"),
            ("certificate/blog", PlanErrorKind::Failed, "no profile"),
            ("deployment/gone/edge", PlanErrorKind::Refused, "it still serves"),
        ] {
            plan.errors.push(PlanError {
                address: Some(address(of)),
                kind,
                message: message.to_owned(),
                help: None,
            });
        }
        let ended = "Apply ended: 1 certificate is as it should be, 1 could not be planned, 1 was refused.";
        assert_eq!(Tally::of(&plan, &outcome).text(), Err(ended.to_owned()));
    }

    #[test]
    fn what_is_gone_and_what_was_interrupted_is_counted_apart() {
        let mut world = World::shop();
        world.want("blog", &["blog.example.com"]);
        world.settle("blog");
        world.desired.certificates.remove(&name("shop"));
        let mut outcome = Outcome { done: BTreeSet::from([name("shop")]), ..Outcome::default() };
        let plan = world.plan();
        let gone = Tally::of(&plan, &outcome).text();
        assert_eq!(gone.as_deref(), Ok("Apply complete: 1 certificate is kept no more."));
        outcome.failed.insert(address("certificate/blog"), ApplyError::Interrupted);
        let ended = "Apply ended: 1 certificate is kept no more, 1 was interrupted.";
        assert_eq!(Tally::of(&plan, &outcome).text(), Err(ended.to_owned()));
    }
}
