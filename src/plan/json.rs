//! The plan for machines. Field names follow Terraform's plan where they fit, so that its policies work.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::model::Address;

use super::ExitClass;
use super::NextRenewal;
use super::Plan;
use super::PlanErrorKind;
use super::cause::Action;
use super::cause::Cause;
use super::change::Change;
use super::change::Deferral;
use super::change::Details;
use super::change::Drift;
use super::change::PlanError;
use super::change::Risk;
use super::change::WaitsFor;
use super::change::Warning;
use super::digest::Digest;

/// The version of the format: the minor number grows with additions, the major number with anything else.
pub const FORMAT_VERSION: &str = "1.0";

/// A plan as JSON. Unknown fields and unknown reasons are to be ignored by readers: minor versions add some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "certplan plan")]
pub struct PlanDocument {
    /// The version of the format.
    pub format_version: String,
    /// The time that the plan was made for.
    #[schemars(with = "String")]
    pub timestamp: Timestamp,
    /// The project.
    pub project: String,
    /// The lineage of the state that it was made from.
    pub lineage: Option<String>,
    /// Whether the world was looked at.
    pub refreshed: bool,
    /// Whether something could not be planned, or must not be done.
    pub errored: bool,
    /// Whether something is left to apply.
    pub applyable: bool,
    /// The digest of the plan, for `apply --checksum`.
    pub digest: Digest,
    /// What is to happen, by address.
    pub resource_changes: Vec<ResourceChange>,
    /// Where reality is not what state remembers.
    pub resource_drift: Vec<DriftDocument>,
    /// What has to wait.
    pub deferred: Vec<DeferralDocument>,
    /// How many changes were left out: by `--only`, `config`, `drift` and `renewals`; by a saved plan, `unreviewed`.
    pub left_out: BTreeMap<String, usize>,
    /// How many changes of which kind there are: `add`, `change`, `forget`, `import`, `remove`.
    pub summary: BTreeMap<String, usize>,
    /// How many certificates were looked at.
    #[serde(default)]
    pub certificates: usize,
    /// When the next certificate that has no change is to be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_renewal: Option<NextRenewal>,
    /// Errors and warnings.
    pub diagnostics: Vec<DiagnosticDocument>,
}

/// What is to happen to one address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceChange {
    /// The address.
    #[schemars(with = "String")]
    pub address: Address,
    /// The address before a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub previous_address: Option<Address>,
    /// `account`, `certificate` or `deployment`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address without its type.
    pub name: String,
    /// What is done.
    pub change: ResourceChangeBody,
    /// Why exactly; a stable name such as `renew_because_ari`.
    pub action_reason: String,
    /// Further reasons that held as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Who or what moved.
    pub cause: Cause,
    /// The numbers behind the reason.
    pub details: Details,
    /// What a reviewer should look at twice.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub risks: BTreeSet<Risk>,
    /// The revision of the state object that the change was planned on.
    pub base_revision: u64,
    /// The digest of what was reviewed.
    pub digest: Digest,
}

impl ResourceChange {
    /// Whether a reader is shown the same, but for numbers that the clock moves and what only the CA decides.
    pub(super) fn shows_the_same_as(&self, other: &Self) -> bool {
        self.previous_address == other.previous_address
            && self.kind == other.kind
            && self.name == other.name
            && self.change == other.change
            && self.action_reason == other.action_reason
            && self.cause == other.cause
            && self.details.changed == other.details.changed
            && self.details.added_names == other.details.added_names
            && self.details.removed_names == other.details.removed_names
    }
}

/// What is done to one address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceChangeBody {
    /// Terraform's names: `["create"]`, `["update"]`, `["delete"]`, `["create", "delete"]`, `["forget"]`.
    pub actions: Vec<String>,
    /// Public facts of what is there.
    pub before: Value,
    /// Public facts of what will be there.
    pub after: Value,
    /// What only apply finds out, as Terraform says it: `true` at each field.
    pub after_unknown: Value,
}

/// A place where reality is not what state remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftDocument {
    /// The address.
    #[schemars(with = "String")]
    pub address: Address,
    /// `certificate` or `deployment`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address without its type.
    pub name: String,
    /// What kind of difference.
    pub action_reason: String,
    /// What was recorded and what was found.
    pub details: Details,
}

/// Something that has to wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeferralDocument {
    /// The address.
    #[schemars(with = "String")]
    pub address: Address,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// When it can be done.
    #[schemars(with = "String")]
    pub until: Timestamp,
    /// Why.
    pub message: String,
    /// What is wanted.
    pub action_reason: String,
    /// Who or what asks for it.
    pub cause: Cause,
}

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiagnosticDocument {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, when it is one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Address>,
    /// What.
    pub summary: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether it must not be done, rather than cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot, or must not, be done.
    Error,
    /// Somebody should know.
    Warning,
}

impl From<&Plan> for PlanDocument {
    fn from(plan: &Plan) -> Self {
        let summary = plan.summary();
        Self {
            format_version: FORMAT_VERSION.to_owned(),
            timestamp: plan.now,
            project: plan.project.to_string(),
            lineage: plan.lineage.clone(),
            refreshed: plan.refreshed,
            errored: matches!(plan.exit_class(), ExitClass::Error | ExitClass::Refused),
            applyable: !plan.is_empty(),
            digest: plan.digest(),
            resource_changes: plan.changes.iter().map(ResourceChange::from).collect(),
            resource_drift: plan.drift.iter().map(DriftDocument::from).collect(),
            deferred: plan.deferred.iter().map(DeferralDocument::from).collect(),
            left_out: counts(&[
                ("config", plan.left_out.config),
                ("drift", plan.left_out.drift),
                ("renewals", plan.left_out.renewals),
                ("unreviewed", plan.left_out.unreviewed),
            ]),
            summary: counts(&[
                ("add", summary.add),
                ("change", summary.change),
                ("forget", summary.forget),
                ("import", summary.import),
                ("remove", summary.remove),
            ]),
            certificates: plan.certificates,
            next_renewal: plan.next_renewal.clone(),
            diagnostics: plan
                .errors
                .iter()
                .map(DiagnosticDocument::from)
                .chain(plan.warnings.iter().map(DiagnosticDocument::from))
                .collect(),
        }
    }
}

/// A plan as the text of its [`PlanDocument`].
pub fn to_text(plan: &Plan) -> String {
    PlanDocument::from(plan).to_json()
}

impl PlanDocument {
    /// The document as text, with a newline at its end: the same bytes for the same plan.
    pub fn to_json(&self) -> String {
        // Every field is a string, a number or a JSON value: it always serialises.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl From<&Change> for ResourceChange {
    fn from(change: &Change) -> Self {
        let (kind, name) = parts(&change.address);
        Self {
            address: change.address.clone(),
            previous_address: change.previous_address.clone(),
            kind,
            name,
            change: ResourceChangeBody {
                actions: actions(change.action),
                before: change.before.clone(),
                after: change.after.clone(),
                after_unknown: unknown(change),
            },
            action_reason: change.reason.as_str().to_owned(),
            also: change.also.iter().map(|reason| reason.as_str().to_owned()).collect(),
            cause: change.cause,
            details: change.details.clone(),
            risks: change.risks.clone(),
            base_revision: change.base_revision,
            digest: change.digest(),
        }
    }
}

impl From<&Drift> for DriftDocument {
    fn from(drift: &Drift) -> Self {
        let (kind, name) = parts(&drift.address);
        Self {
            address: drift.address.clone(),
            kind,
            name,
            action_reason: drift.reason.as_str().to_owned(),
            details: drift.details.clone(),
        }
    }
}

impl From<&Deferral> for DeferralDocument {
    fn from(deferral: &Deferral) -> Self {
        Self {
            address: deferral.address.clone(),
            waits_for: deferral.waits_for,
            until: deferral.until,
            message: deferral.message.clone(),
            action_reason: deferral.wanted.as_str().to_owned(),
            cause: deferral.cause,
        }
    }
}

impl From<&PlanError> for DiagnosticDocument {
    fn from(error: &PlanError) -> Self {
        Self {
            severity: Severity::Error,
            address: error.address.clone(),
            summary: error.message.clone(),
            detail: error.help.clone(),
            refused: error.kind == PlanErrorKind::Refused,
        }
    }
}

impl From<&Warning> for DiagnosticDocument {
    fn from(warning: &Warning) -> Self {
        Self {
            severity: Severity::Warning,
            address: warning.address.clone(),
            summary: warning.message.clone(),
            detail: warning.help.clone(),
            refused: false,
        }
    }
}

/// The JSON Schema of [`PlanDocument`].
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<PlanDocument>().to_value()
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn parts(address: &Address) -> (String, String) {
    let text = address.to_string();
    let (kind, name) = text.split_once('/').unwrap_or((&text, ""));
    (kind.to_owned(), name.to_owned())
}

fn actions(action: Action) -> Vec<String> {
    let names: &[&str] = match action {
        Action::Create => &["create"],
        Action::CreateThenRemove => &["create", "delete"],
        Action::Forget => &["forget"],
        // Terraform marks an import at a change that does nothing.
        Action::Import => &["no-op"],
        Action::Remove => &["delete"],
        Action::Update => &["update"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The fields that `before` of such a thing has and `after` cannot have yet.
fn unknown(change: &Change) -> Value {
    let Value::Object(after) = &change.after else { return Value::Object(serde_json::Map::new()) };
    let later: &[&str] = match change.address {
        Address::Account(_) => &["url"],
        Address::Certificate(_) => &["serial", "fingerprint", "not_before", "not_after"],
        Address::Deployment(..) => &["fingerprint"],
    };
    later
        .iter()
        .filter(|field| !after.contains_key(**field))
        .map(|field| ((*field).to_owned(), Value::Bool(true)))
        .collect()
}
