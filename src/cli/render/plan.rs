use crate::plan::{Plan, PlanDocument, SavedPlan};
pub(crate) fn text(plan: &Plan, _: bool) -> String {
    PlanDocument::from(plan).to_json()
}
pub(crate) fn saved(plan: &SavedPlan) -> String {
    plan.plan.to_json()
}
