use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde::Serialize;

use crate::context::Context;
use crate::error::ProviderError;
use crate::fqdn::Fqdn;

/// A service that holds DNS zones, able to add and remove single TXT values.
///
/// # Contract
///
/// - **Values, not sets.** Several TXT values live at one name: an apex and its wildcard need two, and other
///   people's values are there too. No call replaces or removes a value that it was not given.
/// - **Idempotent.** Adding a value that is there succeeds and changes nothing; removing one that is gone succeeds.
/// - **Absent is not an error.** A name without TXT records has no values; only a missing *zone* is
///   [`ProviderError::NotFound`].
/// - **Unknown outcome.** After [`ProviderError::Transient`] from [`change`](Self::change) the change may have
///   happened; the caller repeats it.
/// - **Values are exact.** They are compared octet for octet, after the service's own quoting and splitting into
///   character strings is undone.
#[async_trait]
pub trait DnsProvider: Send + Sync + fmt::Debug {
    /// What the service allows, as data.
    fn limits(&self) -> DnsLimits;

    /// Returns the zones that contain `name` and that the provider can write, longest first.
    ///
    /// Never a private twin of a public zone. Services that cannot list zones probe for the name's ancestors. No such
    /// zone is an empty list, not an error.
    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError>;

    /// Returns the TXT values at a name, sorted, as the service itself holds them, not as a resolver sees them.
    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError>;

    /// Applies additions and removals of exact values as one change, atomically when [`DnsLimits::atomic`] says so.
    ///
    /// The caller never exceeds [`DnsLimits::values_per_change`]. The returned reference survives a crash: it is
    /// persisted and given to [`status`](Self::status) by a later process.
    ///
    /// [`ProviderError::Invalid`] is said of the change as a whole, and one name of it may be the reason (an alias, for
    /// example): a caller that batches finds it by splitting, so that the others go on.
    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError>;

    /// Returns whether the service has put a change into effect on its own servers.
    ///
    /// A service without such a status says [`ChangeStatus::Confirmed`] at once. A reference that it no longer knows
    /// counts as confirmed.
    async fn status(
        &self,
        context: &Context,
        zone: &Zone,
        change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError>;
}

/// What a DNS service allows, for the writer that batches changes.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsLimits {
    /// How many values, additions and removals together, one change holds.
    pub values_per_change: usize,
    /// How many calls a second the service takes in the long run; `None` when it does not say.
    pub calls_per_second: Option<f64>,
    /// The smallest time to live of a record.
    pub minimum_ttl: Duration,
    /// Whether a change happens as a whole or not at all.
    pub atomic: bool,
    /// Whether two writers at once cannot lose each other's values. Without it the caller holds a lease per zone.
    pub compare_and_swap: bool,
}

/// A zone of a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Zone {
    /// The identifier by which the service knows the zone; persisted, and stable for the zone's life.
    pub id: String,
    /// The zone's apex.
    pub name: Fqdn,
}

/// One TXT value at one name. Values are at most 255 octets here, for ACME's have 43.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxtRecord {
    /// The owner name.
    pub name: Fqdn,
    /// The value, unquoted.
    pub value: String,
}

/// What one change does. The same record is never in both lists, nor twice in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TxtChange {
    /// Values to add.
    pub additions: Vec<TxtRecord>,
    /// Values to remove.
    pub removals: Vec<TxtRecord>,
    /// The time to live of additions; raised to [`DnsLimits::minimum_ttl`] by the provider.
    pub ttl: Duration,
}

impl TxtChange {
    /// How many values the change holds.
    pub fn len(&self) -> usize {
        self.additions.len() + self.removals.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A service's own handle of a change, opaque to everyone else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeRef(pub String);

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeStatus {
    /// The service's own servers have it.
    Confirmed,
    /// Not everywhere yet; ask again.
    Pending,
}
