//! What state remembers. Every type here is part of a stored format: fields are only added, with defaults.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::CertificateFacts;
use super::ChangeRef;
use super::Deployed;
use super::Endpoint;
use super::Fingerprint;
use super::Fqdn;
use super::KeyType;
use super::Name;
use super::NameSet;
use super::OnRemove;
use super::Receipt;
use super::SecretRef;
use super::Slot;
use super::Zone;

/// What state remembers of a certificate: the content of `projects/<project>/certificates/<name>.json`.
///
/// What is large and mostly absent is boxed, and so are the values of a map that seldom has more than one: a plan of a
/// large fleet holds all records at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The certificate that is to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Issued>,
    /// The one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Box<Issued>>,
    /// The journal of what is being done; `None` when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<Operation>>,
    /// Where it is deployed, by target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deployments: BTreeMap<Name, Box<DeploymentRecord>>,
    /// What was issued in the last days, for the CA's rate limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuances: Vec<Issuance>,
    /// Failures in a row, for backing off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    /// The CA's renewal information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ari: Option<AriRecord>,
    /// The names it had before it was renamed: what was sealed then is bound to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<Name>,
    /// Set when the certificate left the configuration: it is kept under `archive/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Timestamp>,
}

impl CertificateRecord {
    /// Whether what a target holds is one of the certificates here, as far as the target tells.
    pub fn knows(&self, target: &Name, held: &Deployed) -> bool {
        let mut issued = self.current.iter().chain(self.previous.as_deref());
        let recorded = self.deployments.get(target).map(|recorded| recorded.fingerprint);
        match (held.fingerprint, &held.serial) {
            (Some(fingerprint), _) => {
                recorded == Some(fingerprint) || issued.any(|issued| issued.facts.fingerprint == fingerprint)
            }
            (None, Some(serial)) => issued.any(|issued| issued.facts.serial == *serial),
            (None, None) => false,
        }
    }

    /// Whether a target holds somebody else's certificate in our place, which no removal takes away. Something foreign
    /// instead of our place is the target's to tell from what else it has of ours.
    pub fn is_foreign(&self, target: &Name, held: &Deployed) -> bool {
        let tells = held.fingerprint.is_some() || held.serial.is_some();
        held.refusal.is_none() && tells && !self.knows(target, held)
    }

    /// Leaves out the documents: chains and sealed keys, most of a record's octets, and what no plan looks at.
    pub(crate) fn leave_out_documents(&mut self) {
        for issued in self.current.iter_mut().chain(self.previous.as_deref_mut()) {
            issued.chain_pem = String::new();
            issued.key.armored = String::new();
        }
        if let Some(Operation { key: Some(OperationKey::Sealed(key)), .. }) = self.operation.as_deref_mut() {
            key.armored = String::new();
        }
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// What it says.
    pub facts: CertificateFacts,
    /// The chain in PEM, the leaf first.
    pub chain_pem: String,
    /// The private key, sealed.
    pub key: SealedKey,
    /// The issuer's name in the configuration.
    pub issuer: Name,
    /// The issuer's directory: a certificate of another directory is of another issuer.
    pub directory: String,
    /// The profile that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The preferred chain that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// When it was persisted.
    pub issued_at: Timestamp,
    /// The operation that made it.
    pub operation: String,
}

/// A private key that only age identities can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    /// The key's type.
    pub key_type: KeyType,
    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub spki: Fingerprint,
    /// The recipients it was sealed to, so that `rekey` knows what to do and a plan who can open it.
    pub recipients: Vec<String>,
    /// The armoured age file: an envelope of lineage, address, public-key fingerprint and PKCS#8.
    pub armored: String,
}

/// The journal of one operation: persisted before each effect that it makes recoverable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// The cause in the plan.
    pub cause: String,
    /// The reason in the plan.
    pub reason: String,
    /// When it began.
    pub started: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// The names to certify; empty when the operation only deploys.
    #[serde(default, skip_serializing_if = "NameSet::is_empty")]
    pub names: NameSet,
    /// The issuer.
    pub issuer: Name,
    /// Its directory.
    pub directory: String,
    /// The profile asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The preferred chain asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// The ARI identifier of the certificate that is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Where the new private key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<OperationKey>,
    /// The certificate signing request, in base64url of DER as the CA gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
    /// The URL of the account that made the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The order's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_url: Option<String>,
    /// When the order expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_expires: Option<Timestamp>,
    /// Every TXT value that this operation may have created and not yet removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub txt: Vec<JournaledTxt>,
    /// Where CNAMEs led from the challenge names: beside those names, the only places of our values.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub delegations: BTreeSet<Fqdn>,
    /// The deployments of the operation, by target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deployments: BTreeMap<Name, JournaledDeployment>,
}

/// How far an operation is: each is persisted before what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The intent, the key and the signing request are persisted; an order may exist.
    Intent,
    /// The order's URL is known.
    Ordered,
    /// TXT values may exist.
    Validating,
    /// The order may be finalized: a certificate may exist.
    Finalizing,
    /// The certificate is persisted as current; TXT values may remain.
    Issued,
    /// The TXT values are gone; deployments follow.
    Deploying,
}

/// Where an operation's private key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKey {
    /// In the target, which never hands it out.
    HeldByTarget,
    /// Sealed here; with hardened custody also in `handoff/<operation>.age`.
    Sealed(SealedKey),
}

/// A TXT value that an operation may have created.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JournaledTxt {
    /// The DNS provider's name in the configuration.
    pub provider: Name,
    /// The zone.
    pub zone: Zone,
    /// The final name, after CNAMEs: clean-up never resolves again.
    pub name: Fqdn,
    /// The value.
    pub value: String,
    /// How far it is.
    pub state: TxtState,
}

/// How far a TXT value is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxtState {
    /// It is to be added, and may have been.
    Intent,
    /// The provider took it, under this reference.
    Added(String),
}

/// The journal of one deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournaledDeployment {
    /// Where to.
    pub slot: Slot,
    /// How far it is.
    pub stage: DeploymentStage,
    /// What the target held before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Deployed>,
    /// The target's receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStage {
    /// It is to be deployed, and may have been.
    Intent,
    /// The target gave a receipt and was read back.
    Deployed,
    /// It was verified and committed.
    Verified,
    /// It was rolled back.
    RolledBack,
}

/// What state remembers of a finished deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRecord {
    /// The kind of the target, so that a removed target is still understood.
    pub kind: String,
    /// Where it is.
    pub slot: Slot,
    /// Which certificate was deployed.
    pub fingerprint: Fingerprint,
    /// When.
    pub deployed_at: Timestamp,
    /// The target's receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// What removing it from the configuration does.
    #[serde(default)]
    pub on_remove: OnRemove,
    /// Where it serves, as the configuration said then: a removal looks there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<Endpoint>,
}

/// One issuance, for the CA's rate limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// When.
    pub at: Timestamp,
    /// The issuer's directory.
    pub directory: String,
    /// The names.
    pub names: NameSet,
    /// SHA-256 of the certificate's public key: one per operation.
    pub spki: Fingerprint,
    /// Whether it replaced another through ARI, which exempts it from most limits.
    #[serde(default)]
    pub replaces: bool,
}

/// Failures in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last was.
    pub last: Timestamp,
    /// Not to be tried again before.
    pub retry_after: Timestamp,
    /// What the last one said; safe to print.
    pub message: String,
}

/// The CA's renewal information for the current certificate
/// ([RFC 9773, section 4.2](https://www.rfc-editor.org/rfc/rfc9773#section-4.2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AriRecord {
    /// The certificate it is about.
    pub fingerprint: Fingerprint,
    /// The suggested window; `None` when the CA gave none or an invalid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<(Timestamp, Timestamp)>,
    /// A page that explains the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// When to ask again.
    pub next_check: Timestamp,
}

/// What state remembers of an account: the content of `accounts/<issuer>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// The issuer's directory.
    pub directory: String,
    /// The account's URL, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The account key, sealed to `recipients`.
    pub key: SealedKey,
    /// The contacts that the server was last told. Some servers keep none, so they are not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// Where the configuration's `account_key` said that the key is; `None` when certplan made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_source: Option<SecretRef>,
    /// Set while the account is being created: `onlyReturnExisting` comes before any retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<AccountOperation>,
    /// Accounts that the issuer had before: kept when it moved from staging to production, or took another one over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Self>,
}

/// The journal of an account's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountOperation {
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// Whether newAccount may have been sent.
    pub sent: bool,
}

impl JournaledTxt {
    /// The provider's reference, once it took the value.
    pub fn change_ref(&self) -> Option<ChangeRef> {
        match &self.state {
            TxtState::Added(reference) => Some(ChangeRef(reference.clone())),
            TxtState::Intent => None,
        }
    }
}
