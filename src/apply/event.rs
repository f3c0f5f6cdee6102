//! What a run tells while it works.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::Address;
use crate::model::Fingerprint;
use crate::model::Fqdn;
use crate::model::Name;

/// Something that happened during a run. The JSON form is one line of `apply --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Work on an address began.
    ApplyStart {
        /// The address.
        address: Address,
        /// Whether an interrupted operation goes on.
        resumed: bool,
    },
    /// A step was done, and its outcome is persisted.
    ApplyProgress {
        /// The address.
        address: Address,
        /// The step.
        step: Step,
    },
    /// The address is as it should be.
    ApplyComplete {
        /// The address.
        address: Address,
        /// SHA-256 of the certificate, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<Fingerprint>,
        /// The end of its validity.
        #[serde(skip_serializing_if = "Option::is_none")]
        not_after: Option<Timestamp>,
    },
    /// The address failed; the others go on.
    ApplyErrored {
        /// The address.
        address: Address,
        /// What went wrong.
        message: String,
        /// What to do about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        help: Option<String>,
    },
    /// Another run changed the address since it was planned; nothing was done.
    ApplyOvertaken {
        /// The address.
        address: Address,
        /// How.
        message: String,
    },
    /// A DNS provider has trouble with a zone, and is tried again; told at the first time.
    DnsRetry {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
        /// What it is, and how long it is tried.
        message: String,
        /// The seconds until the next try.
        next_try_seconds: f64,
    },
    /// Something that does not stop the work.
    Warning {
        /// The address.
        address: Address,
        /// What it is.
        message: String,
    },
}

/// The steps of an operation, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The lease is held.
    Leased,
    /// The intent is persisted, with the new key.
    KeyPersisted,
    /// The account exists at the CA.
    AccountReady,
    /// The account is as the configuration says.
    AccountUpdated,
    /// The order exists and its URL is persisted.
    OrderCreated,
    /// The TXT values to come are persisted.
    TxtIntended,
    /// The DNS provider confirmed the TXT values.
    TxtPresented,
    /// The TXT values can be seen.
    Propagated,
    /// The CA validated every name.
    Validated,
    /// The intent to finalize is persisted.
    Finalizing,
    /// The certificate is persisted.
    Issued,
    /// The TXT values are gone.
    CleanedUp,
    /// The target took the certificate, and was read back.
    Deployed,
    /// What is served was verified.
    Verified,
    /// What was replaced is detached.
    Committed,
    /// The deployment was taken back.
    RolledBack,
    /// The deployment is removed.
    Removed,
    /// The record is archived.
    Archived,
}

impl Step {
    /// What the step says to people, in a few words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Leased => "lease taken",
            Self::KeyPersisted => "key sealed",
            Self::AccountReady => "account ready",
            Self::AccountUpdated => "account updated",
            Self::OrderCreated => "order created",
            Self::TxtIntended => "challenges read",
            Self::TxtPresented => "TXT records written",
            Self::Propagated => "TXT records visible",
            Self::Validated => "names validated",
            Self::Finalizing => "finalizing",
            Self::Issued => "certificate issued",
            Self::CleanedUp => "TXT records removed",
            Self::Deployed => "deployed",
            Self::Verified => "verified",
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Removed => "removed",
            Self::Archived => "archived",
        }
    }
}

/// Takes events; called from many tasks at once, and must not block.
pub trait Reporter: Send + Sync + fmt::Debug {
    /// Takes one event.
    fn report(&self, event: Event);
}

/// Takes events and forgets them.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}
