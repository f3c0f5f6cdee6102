use std::collections::BTreeMap;

use jiff::SignedDuration;
use jiff::Timestamp;

use super::Capabilities;
use super::Deployed;
use super::Endpoint;
use super::Fingerprint;
use super::Fqdn;
use super::Name;
use super::Slot;
use super::record::AriRecord;

/// Something that was looked at. `Unknown` never becomes a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is not there.
    Absent,
    /// It is there.
    Present(T),
    /// It could not be looked at, and why.
    Unknown(String),
}

impl<T> Fact<T> {
    /// What is there, if it is known to be.
    pub const fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unknown(_) => None,
        }
    }
}

/// What a refresh saw of the world. What is missing from a map was not looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The directories of the issuers, where something is to be asked of them.
    pub directories: BTreeMap<Name, Fact<DirectoryFacts>>,
    /// How far this machine's clock is ahead of that of the CA of an issuer (behind, when negative), where it was asked.
    pub clocks: BTreeMap<Name, SignedDuration>,
    /// What targets hold, by certificate and target.
    pub deployments: BTreeMap<(Name, Name), Fact<Deployed>>,
    /// What endpoints serve, by certificate.
    pub served: BTreeMap<Name, Vec<Served>>,
    /// The CA's renewal information, by certificate; fresh where it was due, else what state remembers.
    pub ari: BTreeMap<Name, Fact<AriRecord>>,
    /// Where the challenge of a name has to go, for names of certificates that may be issued, by the name without its
    /// wildcard.
    pub challenges: BTreeMap<Fqdn, Fact<ChallengeLocation>>,
    /// Where wanted deployments go, as their targets read the parameters, by certificate and target.
    pub slots: BTreeMap<(Name, Name), Slot>,
    /// What the targets can do.
    pub capabilities: BTreeMap<Name, Capabilities>,
}

/// What an ACME directory says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectoryFacts {
    /// Profiles by name, with their descriptions.
    pub profiles: BTreeMap<String, String>,
    /// Whether the server offers renewal information.
    pub renewal_info: bool,
    /// Whether a new account needs an external account binding.
    pub external_account_required: bool,
    /// The URL of the terms of service.
    pub terms_of_service: Option<String>,
}

/// What one endpoint serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// SHA-256 of the leaf, per address that was asked.
    pub leaf: Fact<Fingerprint>,
}

/// Where the challenge for a name goes, after CNAMEs are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeLocation {
    /// The names on the way: the first is `_acme-challenge.<name>`, the last the one that holds the value.
    pub chain: Vec<Fqdn>,
    /// The DNS provider in the configuration that can write the last name.
    pub provider: Name,
    /// The zone there.
    pub zone: super::Zone,
}

impl ChallengeLocation {
    /// The name that holds the value.
    pub fn effective(&self) -> Option<&Fqdn> {
        self.chain.last()
    }
}

/// A window that is checked with the clock.
impl AriRecord {
    /// Whether the CA is due to be asked again: also when this was fetched later than now, for then a clock is wrong.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.next_check || now < self.fetched
    }
}
