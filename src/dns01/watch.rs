use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certplan_provider::ProviderError;
use certplan_provider::message_of;

use super::writer::Action;
use crate::model::Fqdn;
use crate::model::Name;

/// Hears about trouble with zones while it is waited out, so that nobody waits without a word.
///
/// Called from the zone's writer, and must not block.
pub trait WriteWatch: Send + Sync + fmt::Debug {
    /// A call failed and is repeated; told once for each zone until a change of it succeeds again.
    fn repeating(&self, repeat: Repeat);
}

/// Hears nothing, where nobody waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl WriteWatch for Unwatched {
    fn repeating(&self, _: Repeat) {}
}

/// A call to a DNS provider that is repeated.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// The provider.
    pub provider: Name,
    /// The zone.
    pub zone: Fqdn,
    /// What was to be done; `None` when it was done and only its confirmation is asked for.
    pub action: Option<Action>,
    /// What the provider said.
    pub error: Arc<ProviderError>,
    /// After which time it is tried again.
    pub wait: Duration,
    /// How long it is tried in all.
    pub limit: Duration,
}

impl fmt::Display for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, zone, action, error, wait, limit } = self;
        let error = message_of(&**error);
        match action {
            Some(action) => {
                write!(f, "DNS provider `{provider}` did not {action} TXT values in zone `{zone}`: {error}")?;
            }
            None => write!(
                f,
                "DNS provider `{provider}` did not say whether its change of zone `{zone}` is done: {error}"
            )?,
        }
        write!(f, "; trying again in {}, for up to {}", Brief(*wait), Brief(*limit))
    }
}

/// A time as people say it, to three digits: `500 ms`, `1.5 s`, `5 min`.
struct Brief(Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        match () {
            () if seconds < 1.0 => write!(f, "{} ms", self.0.as_millis()),
            () if seconds < 60.0 => write!(f, "{} s", (seconds * 10.0).round() / 10.0),
            () => write!(f, "{} min", (seconds / 6.0).round() / 10.0),
        }
    }
}
