use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de;

use crate::model::Address;
use crate::model::sha256;

use super::Plan;
use super::cause::Action;
use super::cause::Reason;
use super::change::Change;
use super::step::Step;

/// The SHA-256 digest of what a reviewer saw of a change or of a plan: 64 hexadecimal digits.
///
/// Of a change it covers address, action, reason, steps and the revision that it was planned on, and neither the clock
/// nor anything that only the CA decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    pub(super) fn of(value: &impl Serialize) -> Self {
        // Steps and settings are strings, numbers and JSON values: they always serialise.
        Self(sha256(&serde_json::to_vec(value).unwrap_or_default()).to_string())
    }

    /// The 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a digest has 64 lower-case hexadecimal digits")
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[derive(Serialize)]
struct Reviewed<'a> {
    address: &'a Address,
    previous_address: Option<&'a Address>,
    action: Action,
    reason: Reason,
    steps: Vec<Step>,
    base_revision: u64,
}

impl Change {
    /// The digest of what a reviewer sees of the change.
    pub fn digest(&self) -> Digest {
        let mut steps = self.steps.clone();
        for step in &mut steps {
            if let Step::Issue(issue) = step {
                // Whether the CA's renewal information could be read is no part of a review.
                issue.replaces = None;
            }
        }
        Digest::of(&Reviewed {
            address: &self.address,
            previous_address: self.previous_address.as_ref(),
            action: self.action,
            reason: self.reason,
            steps,
            base_revision: self.base_revision,
        })
    }
}

impl Plan {
    /// The digest of the whole plan: of project, lineage and the digest of each change.
    pub fn digest(&self) -> Digest {
        let changes: Vec<Digest> = self.changes.iter().map(Change::digest).collect();
        Digest::of(&(&self.project, &self.lineage, changes))
    }
}
