//! Plans that are saved for an apply to come, and what became of them meanwhile.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::model::Address;
use crate::model::Name;
use crate::model::Selection;

use super::Plan;
use super::change::Change;
use super::digest::Digest;
use super::input::Only;
use super::input::PlanOptions;
use super::json::FORMAT_VERSION;
use super::json::PlanDocument;
use super::json::ResourceChange;

const FORMAT: &str = "certplan-plan";
const VERSION: u32 = 1;

/// The largest file that is read: 300 octets for each of a hundred thousand changes, and more.
const MAX_SIZE: usize = 64 << 20;

/// A plan that was saved for an apply to come. Nothing in it is ever executed: apply plans again, and the file says
/// only what was reviewed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedPlan {
    format: String,
    version: u32,
    /// What the plan was asked for.
    #[serde(default)]
    asked: Asked,
    /// When it is too old to be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What was reviewed.
    pub plan: PlanDocument,
}

/// The options that shape a plan, so that apply plans the same again.
///
/// What may be removed though it still serves is not among them: a file that somebody tampered with can only narrow what
/// apply does, or ask for a reissue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Asked {
    addresses: Vec<String>,
    exclude: Vec<String>,
    labels: BTreeMap<String, String>,
    only: Option<Only>,
    replace: Vec<Address>,
}

impl SavedPlan {
    /// Saves a plan that was made with these options.
    pub fn new(plan: &Plan, options: &PlanOptions, expires: Option<Timestamp>) -> Self {
        let selection = options.selection.clone();
        let asked = Asked {
            addresses: selection.addresses,
            exclude: selection.exclude,
            labels: selection.labels,
            only: options.only,
            replace: options.replace.clone(),
        };
        Self { format: FORMAT.to_owned(), version: VERSION, asked, expires, plan: PlanDocument::from(plan) }
    }

    /// The options to plan again with: those of the saved plan, and `given` for what a file cannot grant.
    pub fn options(&self, given: &PlanOptions) -> PlanOptions {
        PlanOptions {
            selection: Selection {
                addresses: self.asked.addresses.clone(),
                exclude: self.asked.exclude.clone(),
                labels: self.asked.labels.clone(),
            },
            only: self.asked.only,
            replace: self.asked.replace.clone(),
            allow_remove: given.allow_remove.clone(),
            refreshed: given.refreshed,
        }
    }

    /// Whether a file holds a saved plan, of whatever version.
    pub fn is_one(bytes: &[u8]) -> bool {
        matches!(Self::from_json(bytes), Ok(_) | Err(SavedPlanError::OtherVersion { .. }))
    }

    /// Reads a file, which anybody may have written.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SavedPlanError> {
        if bytes.len() > MAX_SIZE {
            return Err(SavedPlanError::TooLarge { size: bytes.len() });
        }
        /// What is asked before the rest is understood.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head =
            serde_json::from_slice(bytes).map_err(|source| SavedPlanError::NotAPlan { source })?;
        if head.format != FORMAT {
            return Err(SavedPlanError::OtherFormat { format: head.format });
        }
        if head.version != VERSION {
            return Err(SavedPlanError::OtherVersion { version: head.version.to_string() });
        }
        let saved: Self =
            serde_json::from_slice(bytes).map_err(|source| SavedPlanError::NotAPlan { source })?;
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        if major(&saved.plan.format_version) != major(FORMAT_VERSION) {
            return Err(SavedPlanError::OtherVersion { version: saved.plan.format_version });
        }
        let mut seen = BTreeSet::new();
        for change in &saved.plan.resource_changes {
            if !seen.insert(&change.address) {
                return Err(SavedPlanError::Twice { address: change.address.clone() });
            }
        }
        Ok(saved)
    }

    /// The file's content.
    pub fn to_json(&self) -> String {
        // Every field is a string, a number or a JSON value: it always serialises.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Whether it is too old.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The digests of what was reviewed, by address.
    fn reviewed(&self) -> BTreeMap<&Address, &Digest> {
        self.plan.resource_changes.iter().map(|change| (&change.address, &change.digest)).collect()
    }

    /// Keeps of a fresh plan what was reviewed and is still the same.
    ///
    /// A certificate with one stale address is left out as a whole: its steps belong together.
    pub fn restrict(&self, fresh: &mut Plan) {
        let stale: BTreeSet<Address> = verify(self, fresh).into_iter().map(|stale| stale.address).collect();
        let mut stale_certificates: BTreeSet<Name> =
            stale.iter().filter_map(|address| address.certificate().cloned()).collect();
        // Nor is anything ordered with an account that would be made otherwise than it was reviewed.
        let accounts: BTreeSet<&Name> = fresh
            .changes
            .iter()
            .filter(|change| stale.contains(&change.address))
            .filter_map(Change::created_account)
            .collect();
        let theirs =
            fresh.changes.iter().filter(|change| change.issuer().is_some_and(|name| accounts.contains(name)));
        stale_certificates.extend(theirs.filter_map(|change| change.address.certificate().cloned()));
        let reviewed: BTreeSet<Address> = self.reviewed().into_keys().cloned().collect();
        let unreviewed = fresh.changes.iter().filter(|change| !reviewed.contains(&change.address));
        fresh.left_out.unreviewed += unreviewed.count();
        fresh.retain(|address| {
            reviewed.contains(address)
                && !stale.contains(address)
                && !address.certificate().is_some_and(|name| stale_certificates.contains(name))
        });
    }
}

/// Why a file cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedPlanError {
    /// It does not parse.
    #[error("not a saved plan")]
    NotAPlan {
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It is something else.
    #[error("not a saved plan: its format is `{}`, not `certplan-plan`", format.escape_debug())]
    OtherFormat {
        /// What it says it is.
        format: String,
    },
    /// Another version of certplan wrote it.
    #[error("the saved plan has the version {}, and this certplan reads version 1", version.escape_debug())]
    OtherVersion {
        /// Its version.
        version: String,
    },
    /// It is larger than any plan.
    #[error("a saved plan of {size} octets is too large")]
    TooLarge {
        /// Its size in octets.
        size: usize,
    },
    /// It has two changes for one address.
    #[error("the saved plan names `{address}` twice")]
    Twice {
        /// The address.
        address: Address,
    },
}

/// Something that was reviewed and is no longer so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staleness {
    /// The address.
    pub address: Address,
    /// What happened.
    pub cause: StalenessCause,
}

/// What happened to a change after it was reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StalenessCause {
    /// Something else would be done now.
    Changed {
        /// The reason that was reviewed.
        reviewed: String,
        /// The reason now.
        now: String,
    },
    /// The file shows something else than what it says was reviewed.
    Edited,
    /// Nothing is left to do: somebody else did it, or it is no longer wanted.
    Gone,
    /// The same would be done, to state that somebody changed.
    Moved {
        /// The revision that was reviewed.
        reviewed: u64,
        /// The revision now.
        now: u64,
    },
    /// It was reviewed before there was any state, which there is now.
    NoStateYet,
    /// It was reviewed for the state of another project or lineage.
    OtherState,
    /// Its certificate does something beside it that was not reviewed.
    Unreviewed,
}

impl std::fmt::Display for StalenessCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed { reviewed, now } if reviewed == now => {
                write!(f, "`{}` was reviewed, and would do something else now", reviewed.escape_debug())
            }
            Self::Changed { reviewed, now } => {
                write!(f, "`{}` was reviewed, and it is `{now}` now", reviewed.escape_debug())
            }
            Self::Edited => f.write_str(
                "the file was changed after it was saved: it shows something else than would be done",
            ),
            Self::Gone => f.write_str("nothing is left to do: it was done, or is no longer wanted"),
            Self::Moved { reviewed, now } => {
                write!(f, "its state changed after the review, from revision {reviewed} to {now}")
            }
            Self::NoStateYet => {
                f.write_str("it was reviewed before there was any state, and now there is some")
            }
            Self::OtherState => f.write_str("it was reviewed for the state of another project or lineage"),
            Self::Unreviewed => f.write_str("it was not reviewed, and belongs to a certificate that was"),
        }
    }
}

/// Compares what was reviewed with what would be done now.
///
/// Of accounts that are created only what they will be is compared: they follow the certificates that need them, and one
/// that was created meanwhile changes nothing. What is new and belongs to no reviewed certificate is not stale, only not reviewed:
/// [`SavedPlan::restrict`] leaves it out.
pub fn verify(saved: &SavedPlan, fresh: &Plan) -> Vec<Staleness> {
    let now: BTreeMap<&Address, &Change> =
        fresh.changes.iter().map(|change| (&change.address, change)).collect();
    let same_project = saved.plan.project == fresh.project.as_str();
    let same_state = same_project && saved.plan.lineage == fresh.lineage;
    let mut stale = Vec::new();
    for reviewed in &saved.plan.resource_changes {
        let creation = now.get(&reviewed.address).filter(|change| change.created_account().is_some());
        if reviewed.address.certificate().is_none()
            && reviewed.change.before.is_null()
            && (creation.is_some() || !now.contains_key(&reviewed.address))
        {
            if let Some(change) = creation.filter(|_| same_state)
                && change.after != reviewed.change.after
            {
                let (reviewed, now) = (reviewed.action_reason.clone(), change.reason.as_str().to_owned());
                let cause = StalenessCause::Changed { reviewed, now };
                stale.push(Staleness { address: change.address.clone(), cause });
            }
            continue;
        }
        let cause = match now.get(&reviewed.address) {
            _ if same_project && !same_state && saved.plan.lineage.is_none() => StalenessCause::NoStateYet,
            _ if !same_state => StalenessCause::OtherState,
            None => StalenessCause::Gone,
            Some(change) if change.digest() == reviewed.digest => {
                if reviewed.shows_the_same_as(&ResourceChange::from(*change)) {
                    continue;
                }
                StalenessCause::Edited
            }
            Some(change) if change.base_revision != reviewed.base_revision => {
                StalenessCause::Moved { reviewed: reviewed.base_revision, now: change.base_revision }
            }
            Some(change) => StalenessCause::Changed {
                reviewed: reviewed.action_reason.clone(),
                now: change.reason.as_str().to_owned(),
            },
        };
        stale.push(Staleness { address: reviewed.address.clone(), cause });
    }
    let reviewed = saved.reviewed();
    let certificates: BTreeSet<_> = reviewed.keys().filter_map(|address| address.certificate()).collect();
    for change in &fresh.changes {
        let beside = change.address.certificate().is_some_and(|name| certificates.contains(name));
        if same_state && beside && !reviewed.contains_key(&change.address) {
            stale.push(Staleness { address: change.address.clone(), cause: StalenessCause::Unreviewed });
        }
    }
    stale.sort_by(|a, b| a.address.cmp(&b.address));
    stale
}
