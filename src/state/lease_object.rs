use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use super::holder::Holder;
use super::key::ObjectKey;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::sha256;

/// The longest time to live that another's lease is believed: a forged one blocks nobody for ever.
const LONGEST_TTL: Duration = Duration::from_secs(3600);

/// How often this process tried to acquire a lease.
static ACQUISITIONS: AtomicU64 = AtomicU64::new(1);

/// The format of a lease.
const FORMAT: u64 = 1;

/// What a lease is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    object: ObjectKey,
    subject: String,
}

impl LeaseKey {
    /// The lease of everybody who orders these names: a CA may hand two of them the same order.
    pub fn for_names(issuer: &Name, names: &NameSet, profile: Option<&str>) -> Self {
        let mut text = String::new();
        for name in names {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}");
        }
        let _ = write!(text, "profile {}", profile.unwrap_or_default());
        let mut subject: Vec<String> = names.iter().take(3).map(ToString::to_string).collect();
        if names.len() > subject.len() {
            subject.push(format!("{} more", names.len() - subject.len()));
        }
        Self::new(
            &format!("leases/{issuer}/{}.json", digest(&text)),
            format!("{} at {issuer}", subject.join(", ")),
        )
    }

    /// The lease of the one writer of a zone, for DNS providers without compare-and-swap.
    pub fn for_zone(provider: &Name, zone: &str) -> Self {
        // A dot keeps providers apart from issuers, whose names have none.
        let shown: String = zone.chars().take(253).collect();
        Self::new(
            &format!("leases/zone.{provider}/{}.json", digest(zone)),
            format!("zone {} at {provider}", shown.escape_debug()),
        )
    }

    /// The lease of whoever works on a certificate that is no longer configured, so that its issuer is not known.
    pub fn for_certificate(project: &Name, certificate: &Name) -> Self {
        Self::new(
            &format!("leases/project.{project}/{}.json", digest(certificate.as_str())),
            format!("certificate/{certificate} of {project}"),
        )
    }

    /// The lease of whoever creates the account at an issuer.
    pub fn for_account(issuer: &Name) -> Self {
        // Digests are hexadecimal, so none is this word.
        Self::new(&format!("leases/{issuer}/account.json"), format!("the account at {issuer}"))
    }

    fn new(object: &str, subject: String) -> Self {
        // Names are at most 63 of a key's characters, and digests 32.
        let object = ObjectKey::new(object).expect("names and digests make a key");
        Self { object, subject }
    }

    /// The object of the lease.
    pub const fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// What the lease is about, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

/// A lease that somebody holds, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLease {
    /// The object of the lease.
    pub object: ObjectKey,
    /// What it is about, for people, as its holder says.
    pub subject: String,
    /// Who holds it; `None` when the object is damaged.
    pub holder: Option<Holder>,
    /// How often the lease was acquired.
    pub fence: u64,
    /// Whether its holder is a process of this machine that has died.
    pub dead: bool,
}

fn digest(text: &str) -> String {
    let mut digest = sha256(text.as_bytes()).to_string();
    digest.truncate(32);
    digest
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseObject {
    pub(super) format: u64,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) holder: Holder,
    /// +1 for each acquisition.
    pub(super) fence: u64,
    /// Tells the acquisitions of one holder apart.
    pub(super) acquisition: u64,
    /// +1 for each sign of life: no two writes are the same.
    pub(super) beat: u64,
    pub(super) ttl_seconds: u64,
    /// Set when the holder gave it back.
    #[serde(default)]
    pub(super) released: bool,
}

impl LeaseObject {
    pub(super) fn first(key: &LeaseKey, holder: &Holder, ttl: Duration) -> Self {
        Self {
            format: FORMAT,
            kind: "lease".to_owned(),
            subject: key.subject.clone(),
            holder: holder.clone(),
            fence: 1,
            acquisition: ACQUISITIONS.fetch_add(1, Ordering::Relaxed),
            beat: 0,
            ttl_seconds: ttl.as_secs().max(1),
            released: false,
        }
    }

    /// What takes the place of a lease that cannot be read when it is broken.
    pub(super) fn unreadable(holder: &Holder) -> Self {
        Self {
            format: FORMAT,
            kind: "lease".to_owned(),
            subject: String::new(),
            holder: holder.clone(),
            fence: 1,
            acquisition: ACQUISITIONS.fetch_add(1, Ordering::Relaxed),
            beat: 0,
            ttl_seconds: 1,
            released: true,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a lease has string keys only");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a lease; one that cannot be read is held by somebody unknown until it has not moved for long enough.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let lease: Self = serde_json::from_slice(bytes).ok()?;
        let texts = [&lease.subject, &lease.holder.run, &lease.holder.host];
        let bounded = texts.iter().all(|text| text.len() <= 4096);
        (lease.format == FORMAT && lease.kind == "lease" && bounded).then_some(lease)
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds).min(LONGEST_TTL)
    }

    /// Whether this is the acquisition that `other` is a sign of life of.
    pub(super) fn is_same_acquisition(&self, other: &Self) -> bool {
        self.fence == other.fence && self.acquisition == other.acquisition && self.holder == other.holder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CertName;

    fn names(texts: &[&str]) -> NameSet {
        texts.iter().map(|text| CertName::new(text).unwrap()).collect()
    }

    #[test]
    fn a_lease_is_of_the_issuer_the_set_of_names_and_the_profile() {
        let (le, corp) = (Name::new("le").unwrap(), Name::new("corp").unwrap());
        let key = LeaseKey::for_names(&le, &names(&["a.example", "b.example"]), None);
        assert_eq!(key, LeaseKey::for_names(&le, &names(&["B.example.", "a.example"]), None));
        assert_eq!(key.subject(), "a.example, b.example at le");
        let others = [
            LeaseKey::for_names(&corp, &names(&["a.example", "b.example"]), None),
            LeaseKey::for_names(&le, &names(&["a.example"]), None),
            LeaseKey::for_names(&le, &names(&["a.example", "b.example"]), Some("shortlived")),
            LeaseKey::for_zone(&le, "a.example"),
            LeaseKey::for_account(&le),
        ];
        for other in others {
            assert_ne!(key.object(), other.object());
            assert!(other.object().as_str().starts_with("leases/"));
        }
    }

    #[test]
    fn a_hostile_zone_cannot_leave_its_folder() {
        let key = LeaseKey::for_zone(&Name::new("cf").unwrap(), "../../\u{1b}[2J");
        assert_eq!(key.object().segments().count(), 3);
        assert!(!key.subject().chars().any(char::is_control));
    }
}
