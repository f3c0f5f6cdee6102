use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;

use super::Fqdn;
use super::FqdnError;

/// A DNS name in a certificate: a host name, or a wildcard as the whole leftmost label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertName {
    base: Fqdn,
    wildcard: bool,
}

/// The names of a certificate: a set, so that their order never causes a difference.
pub type NameSet = BTreeSet<CertName>;

impl CertName {
    /// Parses and normalises a name: lower case, A-labels, no trailing dot.
    pub fn new(text: &str) -> Result<Self, CertNameError> {
        let (host, wildcard) = match text.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (text, false),
        };
        if host.contains('*') {
            return Err(CertNameError::Wildcard);
        }
        if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
            return Err(CertNameError::IpAddress);
        }
        let base = Fqdn::new(host)?;
        for label in base.labels() {
            if label.contains('_') {
                return Err(CertNameError::Underscore);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(CertNameError::Hyphen { label: label.to_owned() });
            }
        }
        if base.parent().is_none() && wildcard {
            return Err(CertNameError::Wildcard);
        }
        Ok(Self { base, wildcard })
    }

    /// The name without its wildcard label: what an ACME authorization is for.
    pub const fn base(&self) -> &Fqdn {
        &self.base
    }

    /// Whether the leftmost label is `*`.
    pub const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Where the DNS-01 value for the name is looked for
    /// ([RFC 8555, section 8.4](https://www.rfc-editor.org/rfc/rfc8555#section-8.4)): the same for an apex and its wildcard.
    pub fn challenge_name(&self) -> Result<Fqdn, FqdnError> {
        self.base.prepend("_acme-challenge")
    }

    /// Whether a certificate for `self` serves `other` as well (one label below a wildcard).
    pub fn covers(&self, other: &Self) -> bool {
        self == other
            || (self.wildcard && !other.wildcard && other.base.parent().as_ref() == Some(&self.base))
    }

    /// Whether one of the names covers a host, without asking each of them.
    pub fn is_served(host: &Fqdn, names: &NameSet) -> bool {
        let wildcard = || Some(Self { base: host.parent()?, wildcard: true });
        names.contains(&Self { base: host.clone(), wildcard: false })
            || wildcard().is_some_and(|wildcard| names.contains(&wildcard))
    }
}

impl fmt::Display for CertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wildcard {
            f.write_str("*.")?;
        }
        write!(f, "{}", self.base)
    }
}

impl FromStr for CertName {
    type Err = CertNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl Serialize for CertName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CertName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text cannot be a name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertNameError {
    /// It is no DNS name.
    #[error(transparent)]
    Dns(#[from] FqdnError),
    /// A label starts or ends with a hyphen.
    #[error("the label `{label}` starts or ends with a hyphen")]
    Hyphen {
        /// The label.
        label: String,
    },
    /// An IP address, which DNS-01 cannot validate.
    #[error("an IP address cannot be validated through DNS")]
    IpAddress,
    /// Host names have no underscore.
    #[error("host names have no underscore")]
    Underscore,
    /// A `*` that is not the whole leftmost label.
    #[error("a wildcard is `*` as the whole leftmost label, before a domain")]
    Wildcard,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_whole_leftmost_labels() {
        assert!(CertName::new("*.example.com").unwrap().is_wildcard());
        for bad in ["*", "*.com.*", "a.*.com", "*a.example.com", "**.example.com", "*.*.example.com"] {
            assert!(CertName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_apex_and_its_wildcard_share_a_challenge_name() {
        let apex = CertName::new("Example.COM.").unwrap();
        let wildcard = CertName::new("*.example.com").unwrap();
        assert_eq!(apex.challenge_name(), wildcard.challenge_name());
        assert!(wildcard.covers(&CertName::new("a.example.com").unwrap()));
        assert!(!wildcard.covers(&apex));
        assert!(!wildcard.covers(&CertName::new("a.b.example.com").unwrap()));
    }

    #[test]
    fn what_cannot_be_certified_through_dns_is_refused() {
        assert_eq!(CertName::new("192.0.2.1"), Err(CertNameError::IpAddress));
        assert_eq!(CertName::new("2001:db8::1"), Err(CertNameError::IpAddress));
        assert_eq!(CertName::new("[::1]"), Err(CertNameError::IpAddress));
        assert_eq!(CertName::new("a_b.example.com"), Err(CertNameError::Underscore));
        assert!(CertName::new("-a.example.com").is_err());
    }
}
