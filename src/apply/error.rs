//! Why a certificate could not be brought to where it should be, and what becomes of its operation.

use std::time::Duration;

use certplan_provider::FqdnError;
use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;
use certplan_provider::Unresolved;

use crate::acme::AcmeError;
use crate::acme::Authorization;
use crate::acme::ChainError;
use crate::dns01::LocateError;
use crate::dns01::PropagationError;
use crate::dns01::WriteError;
use crate::model::Address;
use crate::model::Endpoint;
use crate::model::Fingerprint;
use crate::model::Name;
use crate::model::Stage;
use crate::state::LeaseError;
use crate::state::SealError;
use crate::state::StateError;

/// Why one certificate, or its deployment, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The CA refused, or could not be asked.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// What the CA issued is not what was asked for.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A name of the certificate is too long to have a challenge.
    #[error("`{name}` cannot have a DNS-01 challenge: {source}")]
    ChallengeName {
        /// The name.
        name: String,
        /// Why.
        source: FqdnError,
    },
    /// A DNS provider could not be asked for its zones.
    #[error("DNS provider `{provider}`: {source}")]
    Dns {
        /// The provider.
        provider: Name,
        /// What it said.
        source: ProviderError,
    },
    /// The CA put a name into the order that was not asked for.
    #[error("the CA asks for an authorization of `{name}`, which is not a name of the certificate")]
    ForeignAuthorization {
        /// The name.
        name: String,
    },
    /// The journal has no operation where one is needed: a fault in certplan.
    #[error("the certificate's journal has no open operation")]
    JournalClosed,
    /// The journal holds something that cannot be used.
    #[error("{what} in the certificate's journal is corrupt")]
    JournalCorrupt {
        /// What it is.
        what: &'static str,
    },
    /// No identity here can open the key that is needed.
    #[error(
        "the private key of `certificate/{certificate}` is sealed to `keys`, and no identity here opens it"
    )]
    KeySealed {
        /// The certificate.
        certificate: Name,
    },
    /// Somebody else works on the same names.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Nobody can write the challenge.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Several deployments failed; each was reported.
    #[error("{} deployments failed: {}", messages.len(), messages.join("; "))]
    Many {
        /// What each said.
        messages: Vec<String>,
    },
    /// The CA offers no DNS-01 challenge for the name.
    #[error("the CA offers no dns-01 challenge for `{name}`, only: {}", offered.join(", "))]
    NoDnsChallenge {
        /// The name.
        name: String,
        /// The types that it offers.
        offered: Vec<String>,
    },
    /// The account that the certificate is to be ordered with could not be made.
    #[error("there is no account at its CA yet; `account/{issuer}` tells why")]
    NoAccount {
        /// The issuer.
        issuer: Name,
        /// Whether that is a wait that the CA asks for.
        is_deferral: bool,
    },
    /// `account_key` is the key of no account.
    #[error("the CA has no account of the key that `account_key` of `{issuer}` names; the one in use stays")]
    NoAccountOfKey {
        /// The issuer.
        issuer: Name,
    },
    /// The plan names a certificate that the configuration does not have.
    #[error("`certificate/{certificate}` is not in the configuration")]
    NotConfigured {
        /// The certificate.
        certificate: Name,
    },
    /// An endpoint does not serve the certificate.
    #[error("`{endpoint}` does not serve the certificate {}: {reason}", expected.short())]
    NotServed {
        /// The endpoint.
        endpoint: Endpoint,
        /// What should be served.
        expected: Fingerprint,
        /// What is.
        reason: String,
    },
    /// The order became invalid after it was finalized.
    #[error("the CA declared the order invalid: {message}")]
    OrderInvalid {
        /// What the CA said.
        message: String,
    },
    /// The order of an interrupted operation is gone at the CA.
    #[error("the interrupted order is gone at the CA")]
    OrderLost {
        /// Whether it may have been finalized.
        finalizing: bool,
    },
    /// The CA is still at work.
    #[error("the CA has not finished the order `{url}` yet; the next run goes on with it")]
    OrderPending {
        /// The order.
        url: String,
    },
    /// Something panicked: a fault in certplan or in a provider.
    #[error("a part of certplan broke down, and the next run goes on from here")]
    Panicked,
    /// A TXT value cannot be seen.
    #[error(transparent)]
    Propagation(#[from] PropagationError),
    /// A target holds something else than it was given.
    #[error(
        "`{address}` holds {} after deploying {}",
        found.map_or_else(|| "no certificate".to_owned(), |found| found.short()),
        expected.short()
    )]
    ReadBack {
        /// The deployment.
        address: Address,
        /// What it was given.
        expected: Fingerprint,
        /// What it holds.
        found: Option<Fingerprint>,
    },
    /// Sealing or opening a key failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A secret of the configuration cannot be resolved.
    #[error(transparent)]
    Secret(#[from] Unresolved),
    /// The parameters of a deployment are wrong.
    #[error("`{address}`: {message}")]
    Slot {
        /// The deployment.
        address: Address,
        /// What is wrong.
        message: String,
    },
    /// The certificate changed since it was planned.
    #[error("the certificate changed since it was planned (revision {planned}, now {found})")]
    Stale {
        /// The revision that was planned.
        planned: u64,
        /// The revision now.
        found: u64,
    },
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A deploy target failed.
    #[error("`{address}`: {source}")]
    Target {
        /// The deployment.
        address: Address,
        /// What it said.
        source: ProviderError,
    },
    /// The run was stopped by a signal.
    #[error("interrupted; the next run goes on from here")]
    Interrupted,
    /// Nothing can be issued without `encryption:`.
    #[error("nothing can be sealed: the configuration has no `encryption:`")]
    Unencrypted,
    /// The plan names an issuer that the configuration does not have.
    #[error("the issuer `{issuer}` is not in the configuration")]
    UnknownIssuer {
        /// The issuer.
        issuer: Name,
    },
    /// A deployment names a target that the configuration does not have.
    #[error("the target `{target}` is not in the configuration")]
    UnknownTarget {
        /// The target.
        target: Name,
    },
    /// The CA did not accept the proof for some names.
    #[error("the CA could not validate {}", failures.join("; "))]
    Validation {
        /// Each name, with what the CA said about it.
        failures: Vec<String>,
    },
    /// A TXT value could not be written or removed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What becomes of an operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Nothing can come of it: it is cleaned up and closed, and the failure counts.
    Close,
    /// It may still succeed: it stays open, and the failure counts.
    Keep,
    /// It stays as it is, for whoever comes next; nothing is written.
    Leave,
}

impl ApplyError {
    /// The names that the CA could not validate.
    pub(super) fn validation<'a>(failed: impl IntoIterator<Item = &'a Authorization>) -> Self {
        let failures = failed
            .into_iter()
            .map(|authorization| {
                let problem = authorization.dns01.as_ref().and_then(|challenge| challenge.error.as_ref());
                match problem {
                    Some(problem) => format!("`{}`: {problem}", authorization.name),
                    None => format!("`{}`", authorization.name),
                }
            })
            .collect();
        Self::Validation { failures }
    }

    pub(super) fn no_dns_challenge(authorization: &Authorization) -> Self {
        Self::NoDnsChallenge { name: authorization.name.to_string(), offered: authorization.offered.clone() }
    }

    /// One error of many, or success of none.
    pub(super) fn collect(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many { messages: errors.iter().map(ToString::to_string).collect() }),
        }
    }

    /// What becomes of the operation, which is at this stage.
    pub(super) fn disposition(&self, stage: Option<Stage>) -> Disposition {
        match self {
            // The certificate may exist from here on: its key stays until the CA has said what became of the order.
            error if stage == Some(Stage::Finalizing) && error.own_disposition() == Disposition::Close => {
                match error {
                    Self::Acme(AcmeError::BadCsr(_))
                    | Self::Chain(
                        ChainError::Expired { .. } | ChainError::Key { .. } | ChainError::Names { .. },
                    )
                    | Self::JournalClosed
                    | Self::JournalCorrupt { .. }
                    | Self::OrderInvalid { .. } => Disposition::Close,
                    _ => Disposition::Keep,
                }
            }
            error => error.own_disposition(),
        }
    }

    fn own_disposition(&self) -> Disposition {
        match self {
            Self::Interrupted | Self::Lease(_) | Self::Stale { .. } | Self::State(_) => Disposition::Leave,
            Self::Many { .. }
            | Self::NotServed { .. }
            | Self::ReadBack { .. }
            | Self::Slot { .. }
            | Self::Target { .. }
            | Self::UnknownTarget { .. }
            | Self::KeySealed { .. } => Disposition::Leave,
            Self::Acme(error) if error.is_retryable() => Disposition::Keep,
            Self::Dns { .. }
            | Self::OrderPending { .. }
            | Self::Panicked
            | Self::Propagation(_)
            | Self::Write(_) => Disposition::Keep,
            _ => Disposition::Close,
        }
    }

    /// Whether nothing further may be done for the certificate in this run.
    pub(super) const fn ends_certificate(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Lease(_) | Self::State(_))
    }

    /// How long the CA asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Acme(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the failure is a wait that the CA or our own back-off asks for.
    pub fn is_deferral(&self) -> bool {
        matches!(
            self,
            Self::OrderPending { .. }
                | Self::NoAccount { is_deferral: true, .. }
                | Self::Acme(AcmeError::RateLimited { .. } | AcmeError::Timeout { .. })
        )
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Acme(AcmeError::ExternalAccountRequired) => {
                "the CA gives out a key id and an HMAC key: put them into `eab:` of the issuer"
            }
            Self::Acme(AcmeError::AccountDoesNotExist(_)) => {
                "where the CA was set up anew, or the account was closed, give the issuer another name in the configuration: it gets an account of its own, and its certificates stay"
            }
            Self::NoAccountOfKey { .. } => {
                "check the key, and that the account is of this CA; a key without an account is registered only for an issuer that has none yet"
            }
            Self::KeySealed { .. } => {
                "run with an identity of `encryption.keys`, or ask for a new certificate with `--replace`"
            }
            Self::NotServed { .. } => {
                "what was there before was brought back; look at the server's own log, and where no server runs before it has a certificate, deploy once without `verify`"
            }
            Self::Lease(error) => return error.hint().map(str::to_owned),
            Self::Seal(SealError::NoIdentity { .. }) => {
                "CERTPLAN_AGE_KEY_FILE names the file of an identity that it is sealed to; CERTPLAN_AGE_KEY holds it itself"
            }
            Self::State(error) => return error.each().find_map(StateError::hint).map(str::to_owned),
            Self::Panicked => {
                "this is a fault in certplan or in a provider: report it with the message that begins with `thread`"
            }
            Self::Stale { .. } => "run `certplan plan` again and review what it shows now",
            Self::Unencrypted => "`certplan init` makes an identity and shows the two lines to add",
            Self::Validation { .. } => {
                "see that the zone is delegated to the DNS provider in the configuration, and that no CAA record forbids the CA"
            }
            Self::Target { source, .. } => match source.kind() {
                ProviderErrorKind::Auth => "give the user that runs certplan the permission that is missing",
                _ => return None,
            },
            _ => return None,
        };
        Some(help.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_may_have_a_certificate_is_closed_only_when_nothing_can_come_of_it() {
        let off_origin = || {
            ApplyError::Acme(AcmeError::OffOrigin {
                url: "https://other.test/".to_owned(),
                origin: "https://ca.test".to_owned(),
            })
        };
        assert_eq!(off_origin().disposition(Some(Stage::Ordered)), Disposition::Close);
        assert_eq!(off_origin().disposition(None), Disposition::Close);
        for error in [off_origin(), ApplyError::Chain(ChainError::Pem), ApplyError::Unencrypted] {
            assert_eq!(error.disposition(Some(Stage::Finalizing)), Disposition::Keep, "{error}");
        }
        let invalid = ApplyError::OrderInvalid { message: String::new() };
        assert_eq!(invalid.disposition(Some(Stage::Finalizing)), Disposition::Close);
    }
}
