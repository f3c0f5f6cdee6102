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
/// Returns what can be done of the rest; what cannot, or waits, stays overtaken.
///
/// What `--replace` asked for is left: whether the other run has done it is for whoever asked to say.
pub(super) async fn plan_again(
    project: &Project,
    clients: &Clients,
    options: &PlanOptions,
    context: &Context,
    outcome: &mut Outcome,
) -> Result<Planned, CliError> {
    let mut names = overtaken(outcome);
    names.retain(|name| !options.replace.iter().any(|asked| asked.certificate() == Some(name)));
    let mut again = planning::plan(project, clients, options, context).await?;
    context.check()?;
    let errors: Vec<Option<&Name>> =
        again.plan.errors.iter().map(|error| error.address.as_ref().and_then(Address::certificate)).collect();
    if errors.contains(&None) {
        // Of an issuer, or of the plan as a whole.
        names.clear();
    }
    let waiting = again.plan.deferred.iter().map(|deferral| deferral.address.certificate());
    let unsettled: BTreeSet<&Name> = errors.iter().copied().chain(waiting).flatten().collect();
    names.retain(|name| !unsettled.contains(name));
    again.plan.retain(|address| address.certificate().is_some_and(|name| names.contains(name)));
    let at_work = again.plan.certificates_at_work();
    for name in names.iter().filter(|name| !at_work.contains(name)) {
        outcome.failed.remove(&Address::Certificate(name.clone()));
        outcome.done.insert(name.clone());
    }
    Ok(again)
}
