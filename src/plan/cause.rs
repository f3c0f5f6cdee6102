use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// What is done to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// It is made.
    Create,
    /// A new one is made and takes over before the old one is removed.
    CreateThenRemove,
    /// certplan forgets it; what is outside stays.
    Forget,
    /// certplan takes over what is already there.
    Import,
    /// It is removed.
    Remove,
    /// It is changed where it is: renewed, reissued, redeployed.
    Update,
}

impl Action {
    /// The symbol in front of a line of the text.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Create => "+",
            Self::CreateThenRemove => "+/-",
            Self::Forget => ".",
            Self::Import => "<",
            Self::Remove => "-",
            Self::Update => "~",
        }
    }

    /// The name in digests and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateThenRemove => "create_then_remove",
            Self::Forget => "forget",
            Self::Import => "import",
            Self::Remove => "remove",
            Self::Update => "update",
        }
    }
}

/// Why something is to be done, by who or what moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The CA asks for it.
    Ca,
    /// The configuration changed.
    Config,
    /// Reality is no longer what state remembers.
    Drift,
    /// A flag of the command asks for it.
    Request,
    /// Time passed.
    Time,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Ca, Self::Config, Self::Drift, Self::Request, Self::Time];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Config => "config",
            Self::Drift => "drift",
            Self::Request => "request",
            Self::Time => "time",
        }
    }

    /// The cause that a journal recorded; a journal that says something else was made by what the user asked for.
    pub(super) fn from_journal(text: &str) -> Self {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text).unwrap_or(Self::Config)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),* $(,)?) => {
        /// Why exactly something is to be done. The names are stable; consumers treat unknown ones as unspecified.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// It is in the configuration and not yet in state.
    CreateBecauseNew => "create_because_new",
    /// `account_key` names another account of the CA than the one in use.
    ImportBecauseAccountKeyChanged => "import_because_account_key_changed",
    /// The entry is gone, and said `on_remove: keep`.
    ForgetBecauseKept => "forget_because_kept",
    /// The entry is gone, and the target holds something else by now, which stays.
    ForgetBecauseTargetDiffers => "forget_because_target_differs",
    /// The certificate is gone from the configuration and was never issued.
    ForgetBecauseNeverIssued => "forget_because_never_issued",
    /// `moved:` says that it has another name now.
    MoveBecauseRenamed => "move_because_renamed",
    /// The target holds an older certificate than the current one, as state remembers.
    RedeployBecauseOutdated => "redeploy_because_outdated",
    /// The parameters of the deployment changed; the place did not.
    RedeployBecauseParametersChanged => "redeploy_because_parameters_changed",
    /// The certificate is issued anew in the same plan.
    RedeployBecauseReissued => "redeploy_because_reissued",
    /// An endpoint serves another certificate, though the target holds the current one.
    RedeployBecauseServedDiffers => "redeploy_because_served_differs",
    /// The deployment goes to another place of the target.
    RedeployBecauseSlotChanged => "redeploy_because_slot_changed",
    /// The target holds the certificate, and something else about it is off.
    RedeployBecauseTargetDeviates => "redeploy_because_target_deviates",
    /// The target holds something else.
    RedeployBecauseTargetDiffers => "redeploy_because_target_differs",
    /// The target holds nothing.
    RedeployBecauseTargetIsEmpty => "redeploy_because_target_is_empty",
    /// `--replace` names the deployment.
    RedeployByRequest => "redeploy_by_request",
    /// Another directory issues it: staging to production, or another CA.
    ReissueBecauseIssuerChanged => "reissue_because_issuer_changed",
    /// Something needs the private key, and only the holders of `keys:` can open it.
    ReissueBecauseKeySealed => "reissue_because_key_sealed",
    /// Another key type is wanted.
    ReissueBecauseKeyTypeChanged => "reissue_because_key_type_changed",
    /// Other names are wanted.
    ReissueBecauseNamesChanged => "reissue_because_names_changed",
    /// The CA no longer knows the order of an interrupted operation, whose certificate may exist.
    ReissueBecauseOrderLost => "reissue_because_order_lost",
    /// Another chain is wanted.
    ReissueBecausePreferredChainChanged => "reissue_because_preferred_chain_changed",
    /// Another profile is wanted.
    ReissueBecauseProfileChanged => "reissue_because_profile_changed",
    /// `--replace` names the certificate.
    ReissueByRequest => "reissue_by_request",
    /// It is no longer in the configuration; the name is Terraform's.
    RemoveBecauseNotConfigured => "delete_because_no_resource_config",
    /// The CA's suggested window is open.
    RenewBecauseAri => "renew_because_ari",
    /// It has expired.
    RenewBecauseExpired => "renew_because_expired",
    /// So much of its lifetime is over.
    RenewBecauseWindow => "renew_because_window",
    /// An earlier run was interrupted.
    ResumeInterruptedOperation => "resume_interrupted_operation",
    /// The account has other contacts than the configuration.
    UpdateBecauseContactChanged => "update_because_contact_changed",
    /// What a later removal of the deployment goes by changed: `on_remove`, `verify`.
    UpdateBecauseSettingsChanged => "update_because_settings_changed",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
