//! Certificates that another run changed between this one's plan and its work.

use std::collections::BTreeSet;

use certplan_provider::Context;

use crate::apply::ApplyError;
use crate::apply::Outcome;
use crate::model::Address;
use crate::model::Name;
use crate::plan::PlanOptions;

use super::error::CliError;
use super::planning;
use super::planning::Clients;
use super::planning::Planned;
use super::project::Project;

/// The certificates of an outcome that another run changed since they were planned.
pub(super) fn overtaken(outcome: &Outcome) -> BTreeSet<Name> {
    let stale = outcome.failed.iter().filter(|(_, error)| matches!(error, ApplyError::Stale { .. }));
    stale.filter_map(|(address, _)| address.certificate().cloned()).collect()
}

/// Plans once more what was overtaken, for the other run may have done all that there was to do: then it is done here, too.
/// Returns what is still to be done of it.
pub(super) async fn plan_again(
    project: &Project,
    clients: &Clients,
    options: &PlanOptions,
    context: &Context,
    outcome: &mut Outcome,
) -> Result<Planned, CliError> {
    let names = overtaken(outcome);
    let mut again = planning::plan(project, clients, options, context).await?;
    let concerns = |address: &Address| address.certificate().is_some_and(|name| names.contains(name));
    again.plan.changes.retain(|change| concerns(&change.address));
    let failed = again.plan.errors.iter().filter_map(|error| error.address.as_ref()?.certificate());
    let left: BTreeSet<&Name> = again.plan.certificates_at_work().into_iter().chain(failed).collect();
    for name in names.iter().filter(|name| !left.contains(name)) {
        outcome.failed.remove(&Address::Certificate(name.clone()));
        outcome.done.insert(name.clone());
    }
    Ok(again)
}
