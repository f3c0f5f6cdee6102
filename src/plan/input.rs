use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::model::AccountRecord;
use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::Desired;
use crate::model::Encryption;
use crate::model::Issuance;
use crate::model::Name;
use crate::model::Observed;
use crate::model::Selection;

use super::cause::Cause;

/// Everything that a plan is made of. The same input gives the same plan, byte for byte.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// What the configuration wants.
    pub desired: &'a Desired,
    /// What state remembers.
    pub prior: &'a Prior,
    /// What a refresh saw.
    pub observed: &'a Observed,
    /// The time to plan for.
    pub now: Timestamp,
    /// What the command asks for.
    pub options: &'a PlanOptions,
}

/// What state remembers of a project.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prior {
    /// The lineage; `None` before anything was written.
    pub lineage: Option<String>,
    /// The certificates.
    pub certificates: BTreeMap<Name, PriorCertificate>,
    /// The accounts, by issuer.
    pub accounts: BTreeMap<Name, PriorAccount>,
    /// What other projects of the store had issued lately: the CA's limits are for all of them.
    pub foreign_issuances: Vec<Issuance>,
}

/// A certificate in state.
#[derive(Debug, Clone, PartialEq)]
pub struct PriorCertificate {
    /// The content of its object.
    pub record: Box<CertificateRecord>,
    /// The object's revision.
    pub revision: u64,
    /// Whether the identities that apply may use open the key of the current certificate. The configuration
    /// decides (`keys:`), so that no secret is needed to know.
    pub key_readable: bool,
}

impl PriorCertificate {
    /// A certificate as state has it; `encryption` decides whether its key is readable.
    pub fn new(record: Box<CertificateRecord>, revision: u64, encryption: Option<&Encryption>) -> Self {
        let key_readable = record.current.as_ref().is_none_or(|current| {
            encryption.is_none_or(|encryption| {
                // Who is in `keys` as well opens every key, and is not who applies, unless nobody else is there.
                let Encryption { recipients, keys } = encryption;
                let apply = |recipient: &&String| keys.is_empty() || !keys.contains(recipient);
                let others: Vec<&String> = recipients.iter().filter(apply).collect();
                let sealed = &current.key.recipients;
                match others.is_empty() {
                    true => recipients.iter().any(|recipient| sealed.contains(recipient)),
                    false => others.into_iter().any(|recipient| sealed.contains(recipient)),
                }
            })
        });
        Self { record, revision, key_readable }
    }
}

/// An account in state.
#[derive(Debug, Clone, PartialEq)]
pub struct PriorAccount {
    /// The content of its object.
    pub record: AccountRecord,
    /// The object's revision.
    pub revision: u64,
}

/// What a command asks of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOptions {
    /// The addresses to plan.
    pub selection: Selection,
    /// The causes to plan; `None` for all.
    pub only: Option<Only>,
    /// Certificates to reissue and deployments to redeploy, though nothing asks for it.
    pub replace: Vec<Address>,
    /// What may be removed though it still serves. A certificate allows its deployments too.
    pub allow_remove: Vec<Address>,
    /// Whether the world was looked at.
    pub refreshed: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            only: None,
            replace: Vec::new(),
            allow_remove: Vec::new(),
            refreshed: true,
        }
    }
}

/// The part of a plan that is wanted, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// What somebody wrote or asked for: `config` and `request`.
    Config,
    /// What is to be repaired: `drift`.
    Drift,
    /// What the schedule does without anybody: `time` and `ca`, and finishing what was interrupted.
    Renewals,
}

impl Only {
    /// Whether a change of this cause is wanted; `interrupted` when it finishes what was begun.
    pub(super) const fn takes(self, cause: Cause, interrupted: bool) -> bool {
        match self {
            Self::Config => matches!(cause, Cause::Config | Cause::Request),
            Self::Drift => matches!(cause, Cause::Drift),
            Self::Renewals => interrupted || matches!(cause, Cause::Time | Cause::Ca),
        }
    }
}
