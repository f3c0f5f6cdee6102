use serde::Serialize;

use crate::model::DesiredCertificate;
use crate::model::KeyPolicy;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Operation;
use crate::model::OperationKey;
use crate::model::Rotation;
use crate::model::SecretRef;
use crate::model::Slot;

use super::digest::Digest;

/// One thing that apply does: data, so that a plan can be compared, digested and executed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Move the certificate's state object to the archive.
    Archive,
    /// Create, or take over, the account at an issuer.
    CreateAccount {
        /// The issuer.
        issuer: Name,
    },
    /// Put the current certificate into a target, after whatever the certificate's own steps make of it.
    Deploy(DeployStep),
    /// Forget a deployment; the target keeps what it holds.
    ForgetDeployment {
        /// The target.
        target: Name,
    },
    /// Order a certificate.
    Issue(IssueStep),
    /// Take the certificate out of a target.
    RemoveDeployment(RemoveStep),
    /// Remember what the configuration says of a deployment; the target is not touched.
    RecordSettings {
        /// The target.
        target: Name,
        /// A digest of what it says.
        definition: Digest,
    },
    /// Move the state object, and the deployments with it, from another name.
    Rename {
        /// The name before.
        from: Name,
    },
    /// Go on with, or clean up after, an interrupted operation.
    Resume(ResumeStep),
    /// Bring an account that is in use to what the configuration says of its key and contacts.
    UpdateAccount {
        /// The issuer.
        issuer: Name,
        /// The contacts to tell the CA.
        contact: Vec<String>,
        /// Where the account's key is, if the configuration says.
        account_key: Option<SecretRef>,
    },
}

/// What to order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssueStep {
    /// The names to certify.
    pub names: NameSet,
    /// The issuer's name in the configuration.
    pub issuer: Name,
    /// The issuer's directory.
    pub directory: String,
    /// The profile, or `None` to leave it to the CA.
    pub profile: Option<String>,
    /// What key the certificate has.
    pub key: KeyPolicy,
    /// The chain to choose among the CA's.
    pub preferred_chain: Option<String>,
    /// The ARI identifier of the certificate that is replaced, when the same CA issued it and offers ARI.
    pub replaces: Option<String>,
    /// Whether the key of the current certificate is used again.
    pub reuse_key: bool,
}

impl IssueStep {
    /// What an operation in the journal ordered, for running its order again. The journal's own key is used, so
    /// nothing is reused from the current certificate.
    pub fn from_operation(operation: &Operation, desired: &DesiredCertificate) -> Self {
        let key_type = match &operation.key {
            Some(OperationKey::Sealed(sealed)) => sealed.key_type,
            Some(OperationKey::HeldByTarget) | None => desired.key.key_type,
        };
        Self {
            names: operation.names.clone(),
            issuer: operation.issuer.clone(),
            directory: operation.directory.clone(),
            profile: operation.profile.clone(),
            key: KeyPolicy { key_type, rotation: Rotation::Always },
            preferred_chain: operation.preferred_chain.clone(),
            replaces: operation.replaces.clone(),
            reuse_key: false,
        }
    }
}

/// Which interrupted operation to end, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumeStep {
    /// The operation's identifier.
    pub operation: String,
    /// Remove what it left and close it, rather than finish it: the configuration asks for something else by now.
    pub abandon: bool,
    /// The issuer that is asked to finish the order; `None` when there is no order to finish.
    pub issuer: Option<Name>,
    /// Digests of what the configuration says of the deployments, which are finished with the operation.
    pub definitions: Vec<Digest>,
}

/// Where to deploy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeployStep {
    /// The target.
    pub target: Name,
    /// The place in it, when the refresh worked it out.
    pub slot: Option<Slot>,
    /// A digest of what the configuration says of the target and of the deployment: the commands to run, for one.
    pub definition: Digest,
    /// The place that is to be emptied once the new one is verified.
    pub moves_from: Option<Slot>,
}

/// What to take out of a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoveStep {
    /// The target.
    pub target: Name,
    /// The place in it, as state remembers it.
    pub slot: Slot,
    /// A digest of what the configuration says of the target.
    pub definition: Digest,
}
