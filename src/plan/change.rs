use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::model::Address;
use crate::model::Fingerprint;
use crate::model::NameSet;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::step::Step;

/// What is to happen to one address, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The address; a plan has at most one change for each.
    pub address: Address,
    /// The address before a rename.
    pub previous_address: Option<Address>,
    /// What is done.
    pub action: Action,
    /// Who or what moved.
    pub cause: Cause,
    /// Why exactly.
    pub reason: Reason,
    /// Further reasons that held as well, the weightier first.
    pub also: Vec<Reason>,
    /// The numbers behind the reason.
    pub details: Details,
    /// Public facts of what is there; `null` when nothing is.
    pub before: Value,
    /// Public facts of what will be there; `null` when nothing will be. What only apply finds out is left out.
    pub after: Value,
    /// What apply does, in this order.
    pub steps: Vec<Step>,
    /// The revision of the state object that the change was planned on; 0 when there is none.
    pub base_revision: u64,
    /// What a reviewer should look at twice.
    pub risks: BTreeSet<Risk>,
}

impl Change {
    /// A change that says only what and why; an update without steps.
    pub(super) fn new(address: Address, cause: Cause, reason: Reason, base_revision: u64) -> Self {
        Self {
            address,
            previous_address: None,
            action: Action::Update,
            cause,
            reason,
            also: Vec::new(),
            details: Details::default(),
            before: Value::Null,
            after: Value::Null,
            steps: Vec::new(),
            base_revision,
            risks: BTreeSet::new(),
        }
    }
}

/// The numbers behind a change or a drift. What does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Details {
    /// Names that the new certificate has and the current one has not.
    #[serde(default, skip_serializing_if = "NameSet::is_empty")]
    #[schemars(with = "BTreeSet<String>")]
    pub added_names: NameSet,
    /// Names that the current certificate has and the new one has not.
    #[serde(default, skip_serializing_if = "NameSet::is_empty")]
    #[schemars(with = "BTreeSet<String>")]
    pub removed_names: NameSet,
    /// What else changed: `issuer`, `profile`, `key_type`, `preferred_chain`, `location`; of an account
    /// `account_key` (where it is) and `contact`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, Changed>,
    /// The time that the plan was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub now: Option<Timestamp>,
    /// The beginning of the current certificate's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub not_before: Option<Timestamp>,
    /// The end of the current certificate's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub not_after: Option<Timestamp>,
    /// The moment from which the current certificate is to be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub renew_at: Option<Timestamp>,
    /// The beginning of the window that the CA suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub window_start: Option<Timestamp>,
    /// The end of the window that the CA suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub window_end: Option<Timestamp>,
    /// The CA's page about the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
    /// The fingerprint of the current certificate, which is the one that should be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub fingerprint: Option<Fingerprint>,
    /// The fingerprint that was found instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub found: Option<Fingerprint>,
    /// The endpoints that serve something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// What is off about a deployment besides the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<String>,
    /// Where challenges go that are delegated by CNAME: the challenge's name and the one that holds the value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub challenges: BTreeMap<String, String>,
    /// The interrupted operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// How far the interrupted operation is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_stage: Option<String>,
    /// When the interrupted operation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub operation_started: Option<Timestamp>,
    /// What the interrupted operation had ordered is no longer wanted: it is cleaned up, not finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operation_abandoned: bool,
}

/// A value that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The value now; `None` where there was none.
    pub before: Option<String>,
    /// The value after; `None` where there will be none.
    pub after: Option<String>,
}

/// What a reviewer should look at twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Risk {
    /// Another CA, or another environment of it, issues from now on.
    ChangesIssuer,
    /// Names are dropped: who still connects under them gets an error.
    DropsNames,
    /// Something is taken out of a target.
    RemovesDeployment,
    /// What is removed still serves, and `--allow-remove` says to do it all the same.
    RemovesServing,
}

/// A place where reality is not what state remembers, whatever is done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// The address.
    pub address: Address,
    /// What kind of difference, as the reason that it is a cause of.
    pub reason: Reason,
    /// What was recorded and what was found.
    pub details: Details,
}

/// Something that is wanted and has to wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Deferral {
    /// The address.
    pub address: Address,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// When it can be done.
    pub until: Timestamp,
    /// Why, in one sentence without a period.
    pub message: String,
    /// What is wanted.
    pub wanted: Reason,
    /// Who or what asks for it.
    pub cause: Cause,
}

/// What a [`Deferral`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitsFor {
    /// It failed, and is tried again later and later.
    BackOff,
    /// It was renewed so lately, or so often, that something else is wrong.
    LoopGuard,
    /// The CA issues no more for these names before then.
    RateLimit,
}

/// Something that does not stop the work and that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// What it is about, when it is one thing.
    pub address: Option<Address>,
    /// What, in one sentence without a period.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Something that cannot be planned; the rest of the plan stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanError {
    /// What it is about, when it is one thing.
    pub address: Option<Address>,
    /// What kind of error, for the exit code.
    pub kind: PlanErrorKind,
    /// What is wrong, in one sentence without a period.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The kinds of [`PlanError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PlanErrorKind {
    /// It cannot be done: exit code 1.
    Failed,
    /// It could be done and must not be: exit code 7.
    Refused,
}
