use std::fmt;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::ProviderError;
use crate::factory::Complaint;
use crate::fingerprint::Fingerprint;
use crate::key_type::KeyType;

/// A place that certificates are served from.
///
/// # Contract
///
/// The life of a deployment is `observe`, `deploy`, read back by `observe`, then `commit` or `rollback`; later `remove`.
///
/// - **Together or not at all.** Certificate and key become visible as one: nobody who reads the target at any moment
///   sees a mismatched, half or empty pair.
/// - **Idempotent.** Deploying what is there succeeds; so do a second `commit`, `rollback` or `remove`. What was
///   killed in the middle is completed by the same call made again.
/// - **Never down.** `deploy` keeps what served before until `commit`, so that `rollback` can bring it back.
/// - **Absent is not an error.** `observe` of an empty slot is `None`; `remove` of an empty slot succeeds.
/// - **The receipt is the target's own.** It is persisted as opaque JSON before `commit` and given back by a later
///   process; it holds no secret.
#[async_trait]
pub trait DeployTarget: Send + Sync + fmt::Debug {
    /// What the target can do, as data: checked when planning.
    fn capabilities(&self) -> Capabilities;

    /// Reads the parameters of one deployment into a slot, or says what is wrong with them. Pure.
    fn slot(&self, certificate: &str, parameters: &serde_json::Value) -> Result<Slot, Vec<Complaint>>;

    /// What tells one place of this kind from another, however its slot spells it: two slots of targets of one kind with
    /// the same identity are one place. The location, unless the target knows better: links lead to one folder.
    async fn identity(&self, slot: &Slot) -> String {
        slot.location.clone()
    }

    /// Returns what the slot holds now, without reading the private key where the target allows that.
    async fn observe(&self, context: &Context, slot: &Slot) -> Result<Option<Deployed>, ProviderError>;

    /// Observes several slots, and returns what each holds in their order: for targets that can look at many for the
    /// price of one.
    async fn observe_all(
        &self,
        context: &Context,
        slots: &[&Slot],
    ) -> Vec<Result<Option<Deployed>, ProviderError>> {
        join_all(slots.iter().map(|slot| self.observe(context, slot))).await
    }

    /// Fails where [`deploy`](Self::deploy) surely would, as far as that can be told beforehand: asked before a first
    /// certificate is ordered for the slot. Changes nothing.
    async fn check(&self, _: &Context, _: &Slot) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Puts a bundle into the slot.
    ///
    /// `expected` is what the caller saw there last; a target that can compare and swap fails with
    /// [`ProviderError::Conflict`] when the slot holds neither that nor the bundle itself.
    async fn deploy(
        &self,
        context: &Context,
        slot: &Slot,
        bundle: &Bundle,
        expected: Option<&Deployed>,
    ) -> Result<Receipt, ProviderError>;

    /// Detaches and removes what the deployment replaced.
    async fn commit(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError>;

    /// Brings back what the deployment replaced, and makes it serve.
    async fn rollback(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError>;

    /// Takes our certificate out of the slot; what is not ours stays.
    ///
    /// `expected` is what the caller saw there last; a target that can compare and swap fails with
    /// [`ProviderError::Conflict`] when the slot holds something else.
    async fn remove(
        &self,
        context: &Context,
        slot: &Slot,
        expected: Option<&Deployed>,
        receipt: Option<&Receipt>,
    ) -> Result<(), ProviderError>;
}

/// A place within a target, for one certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Where it is, for people: a path, an ARN. Two slots of a kind with the same location are one place.
    pub location: String,
    /// The normalised parameters, persisted in state: enough to remove the deployment after its configuration is gone.
    pub parameters: serde_json::Value,
}

/// What a slot holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// SHA-256 of the leaf; `None` when what is there is no certificate, or the target tells only a version.
    pub fingerprint: Option<Fingerprint>,
    /// The leaf's serial number in lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The end of the leaf's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The beginning of the leaf's validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The leaf's DNS names; `None` where the target does not tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Whether the leaf names itself as its issuer, as placeholders do that no CA signed.
    #[serde(default)]
    pub self_signed: bool,
    /// Why a deployment would be refused: in one phrase what is there that is somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The target's own version of what is there, for compare-and-swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is wrong with it apart from the certificate, in one phrase: `mode is 0644, not 0640`, `key.pem is missing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<String>,
}

/// A target's own record of a deployment, opaque to everyone else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(pub serde_json::Value);

/// What a target can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// How exactly the target tells what it holds.
    pub read_back: ReadBack,
    /// How a new certificate takes the place of the old.
    pub update: Update,
    /// Whether two writers at once cannot overwrite each other.
    pub compare_and_swap: bool,
    /// The key types that it takes.
    pub key_types: Vec<KeyType>,
    /// How large certificate, chain and key may be together, in octets of PEM.
    pub max_size: Option<usize>,
    /// Where private keys come from.
    pub key_origin: KeyOrigin,
}

/// How exactly a target tells what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadBack {
    /// The whole certificate, so that its fingerprint is known.
    Certificate,
    /// Only a version or metadata that we wrote.
    Metadata,
    /// Nothing.
    Nothing,
}

/// How a new certificate takes the place of the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// In the same object.
    InPlace,
    /// By a new object that is attached before the old one is detached.
    Replace,
}

/// Where private keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyOrigin {
    /// certplan makes the key and hands it over.
    Local,
    /// The target makes the key and hands out a certificate signing request.
    Target,
}
