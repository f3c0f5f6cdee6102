use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use super::lock;
use crate::model::Fqdn;

/// How the sandbox behaves and misbehaves. All of it can change while it runs. In JSON, durations are whole
/// milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Faults {
    /// How the CA misbehaves over HTTP. Of the rules that match a request, the first that fires counts.
    pub http: Vec<FaultRule>,
    /// What `Retry-After` says with [`HttpFault::RateLimited`] and [`HttpFault::Unavailable`].
    #[serde(with = "optional_milliseconds")]
    pub retry_after: Option<Duration>,
    /// What `Retry-After` says while an authorization or order is worked on.
    #[serde(with = "optional_milliseconds")]
    pub poll_after: Option<Duration>,
    /// How long a validation waits before it begins.
    #[serde(with = "milliseconds")]
    pub validation_delay: Duration,
    /// How long an order is `processing`; with zero, finalization answers with the valid order.
    #[serde(with = "milliseconds")]
    pub processing_delay: Duration,
    /// Whether orders stay `pending` when the validation of a name failed: then only the authorization tells, which RFC
    /// 8555 (section 7.1.6) does not allow.
    pub undecided_orders: bool,
    /// How long certificates are valid, whatever their profile says.
    #[serde(with = "optional_milliseconds")]
    pub certificate_lifetime: Option<Duration>,
    /// When renewal is suggested.
    pub ari: AriWindow,
    /// How long a client should wait before it asks for the window again; a twentieth of the lifetime, within a second
    /// and six hours, when there is none.
    #[serde(with = "optional_milliseconds")]
    pub ari_retry_after: Option<Duration>,
    /// How the DNS server misbehaves.
    pub dns: DnsFaults,
}

impl Faults {
    /// Adds a rule for every request.
    #[must_use]
    pub fn with(mut self, fault: HttpFault, percent: u8) -> Self {
        self.http.push(FaultRule::new(fault, percent));
        self
    }
}

/// When one fault of the CA happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FaultRule {
    /// What happens.
    pub fault: HttpFault,
    /// To how many of a hundred requests, 100 when not said.
    #[serde(default = "FaultRule::always")]
    pub percent: u8,
    /// To which kinds of request; to every kind when empty.
    #[serde(default)]
    pub endpoints: BTreeSet<Endpoint>,
    /// How many requests that match pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How often it happens at most.
    #[serde(default)]
    pub times: Option<u32>,
}

impl FaultRule {
    /// A rule for every kind of request.
    pub const fn new(fault: HttpFault, percent: u8) -> Self {
        Self { fault, percent, endpoints: BTreeSet::new(), skip: 0, times: None }
    }

    /// A rule that fires once: at the first request of a kind after `skip` of them.
    pub fn once(fault: HttpFault, endpoint: Endpoint, skip: u32) -> Self {
        Self { fault, percent: 100, endpoints: BTreeSet::from([endpoint]), skip, times: Some(1) }
    }

    const fn always() -> u8 {
        100
    }
}

/// A fault of the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HttpFault {
    /// A good nonce is called bad.
    BadNonce,
    /// The request is carried out, and the connection closes without an answer.
    DropAfterCommit,
    /// The connection closes before anything is done.
    DropBeforeCommit,
    /// The request is carried out, and the answer is 500.
    ErrorAfterCommit,
    /// 429 with the type `rateLimited` and `Retry-After`; nothing is done.
    RateLimited,
    /// 500 with the type `serverInternal`; nothing is done.
    ServerError,
    /// 503 with an HTML page and `Retry-After`, as a load balancer answers; nothing is done.
    Unavailable,
}

impl HttpFault {
    /// Whether the request is carried out all the same.
    pub(super) const fn is_after_commit(self) -> bool {
        matches!(self, Self::DropAfterCommit | Self::ErrorAfterCommit)
    }
}

/// A kind of request to the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Endpoint {
    /// An account: reading, updating and deactivating it.
    Account,
    /// An authorization.
    Authorization,
    /// The download of a certificate.
    Certificate,
    /// A challenge.
    Challenge,
    /// The directory.
    Directory,
    /// The finalization of an order.
    Finalize,
    /// The change of an account's key.
    KeyChange,
    /// A new account.
    NewAccount,
    /// A fresh nonce.
    NewNonce,
    /// A new order.
    NewOrder,
    /// An order.
    Order,
    /// The suggested window of renewal.
    RenewalInfo,
    /// A revocation.
    RevokeCertificate,
}

/// When the CA suggests to renew ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AriWindow {
    /// As Let's Encrypt does: around two thirds of the lifetime, or half of one under ten days, one percent to each side.
    #[default]
    Default,
    /// Between two fractions of the lifetime.
    Fraction {
        /// The beginning, from 0 to 1.
        start: f64,
        /// The end, from 0 to 1 and after the beginning.
        end: f64,
    },
    /// The CA has no `renewalInfo` at all.
    None,
    /// A window that has passed, as after an incident: renew now.
    Now,
}

/// How the DNS server misbehaves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DnsFaults {
    /// How long after an update its changes come into the answers to queries. Updates see them at once.
    #[serde(with = "milliseconds")]
    pub lag: Duration,
    /// How long every answer waits.
    #[serde(with = "milliseconds")]
    pub delay: Duration,
    /// Names that are answered with SERVFAIL, with all below them.
    pub servfail: BTreeSet<Fqdn>,
    /// How many of a hundred updates are carried out and not answered.
    pub drop_after_commit_percent: u8,
    /// How many of a hundred updates are answered with SERVFAIL and not carried out.
    pub fail_updates_percent: u8,
}

/// The faults in force and the dice that decide about them.
#[derive(Debug)]
pub(super) struct FaultState {
    seed: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    faults: Faults,
    /// Per rule: how many requests it has matched, and how often it has fired.
    counts: Vec<(u32, u32)>,
    rolls: BTreeMap<String, u64>,
}

impl FaultState {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let counts = vec![(0, 0); faults.http.len()];
        Self { seed, inner: Mutex::new(Inner { faults, counts, rolls: BTreeMap::new() }) }
    }

    pub(super) fn current(&self) -> Faults {
        lock(&self.inner).faults.clone()
    }

    pub(super) fn set(&self, faults: Faults) {
        let mut inner = lock(&self.inner);
        inner.counts = vec![(0, 0); faults.http.len()];
        inner.faults = faults;
    }

    /// Reads from the faults in force without copying them.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&lock(&self.inner).faults)
    }

    /// Decides what happens to a request.
    pub(super) fn http(&self, endpoint: Endpoint, is_post: bool) -> Option<HttpFault> {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        for (index, rule) in inner.faults.http.iter().enumerate() {
            let matches = (rule.endpoints.is_empty() || rule.endpoints.contains(&endpoint))
                && (is_post || rule.fault != HttpFault::BadNonce);
            if !matches {
                continue;
            }
            let (seen, fired) = &mut inner.counts[index];
            *seen += 1;
            if *seen <= rule.skip || rule.times.is_some_and(|times| *fired >= times) {
                continue;
            }
            if roll(self.seed, &mut inner.rolls, &format!("http/{index}"), rule.percent) {
                *fired += 1;
                return Some(rule.fault);
            }
        }
        None
    }

    /// Decides about something that happens to `percent` of a hundred.
    pub(super) fn roll(&self, what: &str, percent: u8) -> bool {
        roll(self.seed, &mut lock(&self.inner).rolls, what, percent)
    }
}

fn roll(seed: u64, rolls: &mut BTreeMap<String, u64>, what: &str, percent: u8) -> bool {
    match percent {
        0 => false,
        100.. => true,
        _ => {
            let count = rolls.entry(what.to_owned()).or_default();
            *count += 1;
            // Not `RandomState`: the same seed must give the same faults in every process.
            let mut hasher = std::hash::DefaultHasher::new();
            (seed, what, *count).hash(&mut hasher);
            hasher.finish() % 100 < u64::from(percent)
        }
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

mod optional_milliseconds {
    use std::time::Duration;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::milliseconds::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = || Faults::default().with(HttpFault::BadNonce, 30);
        let run = |seed| {
            let state = FaultState::new(seed, faults());
            (0..1000).map(|_| state.http(Endpoint::NewOrder, true).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let fired = run(7).into_iter().filter(|fired| *fired).count();
        assert!((200..400).contains(&fired), "{fired} of 1000 at 30 %");
    }

    #[test]
    fn a_rule_that_fires_once_waits_for_its_request() {
        let mut faults = Faults::default();
        faults.http.push(FaultRule::once(HttpFault::DropAfterCommit, Endpoint::Finalize, 1));
        let state = FaultState::new(0, faults);
        assert_eq!(state.http(Endpoint::NewOrder, true), None);
        assert_eq!(state.http(Endpoint::Finalize, true), None);
        assert_eq!(state.http(Endpoint::Finalize, true), Some(HttpFault::DropAfterCommit));
        assert_eq!(state.http(Endpoint::Finalize, true), None);
    }

    #[test]
    fn a_request_without_a_nonce_has_no_bad_nonce() {
        let state = FaultState::new(0, Faults::default().with(HttpFault::BadNonce, 100));
        assert_eq!(state.http(Endpoint::Directory, false), None);
        assert_eq!(state.http(Endpoint::NewOrder, true), Some(HttpFault::BadNonce));
    }

    #[test]
    fn faults_survive_json() {
        let mut faults = Faults::default().with(HttpFault::RateLimited, 5);
        faults.retry_after = Some(Duration::from_millis(1500));
        faults.dns.lag = Duration::from_secs(2);
        faults.ari = AriWindow::Fraction { start: 0.5, end: 0.75 };
        let text = serde_json::to_string(&faults).unwrap();
        assert_eq!(serde_json::from_str::<Faults>(&text).unwrap(), faults);
        assert!(serde_json::from_str::<Faults>(r#"{"unknown": 1}"#).is_err());
    }
}
