use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de;

/// A fully qualified DNS name in its one normal form: lower case, A-labels, no trailing dot, no wildcard.
///
/// Underscores are allowed, because `_acme-challenge` is such a name; host name rules for certificate names are
/// stricter and are checked by the configuration. Labels are at most 63 octets and the name at most 253
/// ([RFC 1035, section 2.3.4](https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4)).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Fqdn(String);

impl Fqdn {
    /// Parses and normalises a name; U-labels become A-labels as UTS 46 says.
    pub fn new(name: &str) -> Result<Self, FqdnError> {
        let trimmed = name.strip_suffix('.').unwrap_or(name);
        if trimmed.is_empty() {
            return Err(FqdnError::Empty);
        }
        if trimmed.split('.').any(str::is_empty) {
            return Err(FqdnError::EmptyLabel);
        }
        let ascii = idna::domain_to_ascii(trimmed).map_err(|_| FqdnError::NotIdna)?;
        if ascii.len() > 253 {
            return Err(FqdnError::TooLong { length: ascii.len() });
        }
        for label in ascii.split('.') {
            if label.is_empty() {
                return Err(FqdnError::EmptyLabel);
            }
            if label.len() > 63 {
                return Err(FqdnError::LabelTooLong { label: label.to_owned() });
            }
            if let Some(character) =
                label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_'))
            {
                return Err(FqdnError::Character { character });
            }
        }
        Ok(Self(ascii))
    }

    /// The name as text, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its leftmost label, or `None` for a single label.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.to_owned()))
    }

    /// The labels from left to right.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The name with `label` before it.
    pub fn prepend(&self, label: &str) -> Result<Self, FqdnError> {
        Self::new(&format!("{label}.{}", self.0))
    }

    /// Whether the name is `zone` or lies below it, on a label boundary.
    pub fn is_within(&self, zone: &Self) -> bool {
        match self.0.strip_suffix(zone.as_str()) {
            Some("") => true,
            Some(head) => head.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Debug for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Fqdn {
    type Err = FqdnError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl Borrow<str> for Fqdn {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Fqdn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(de::Error::custom)
    }
}

/// Why a text is not a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FqdnError {
    /// A character that a DNS name cannot hold.
    #[error("the character `{}` cannot be in a DNS name", character.escape_default())]
    Character {
        /// The character.
        character: char,
    },
    /// No text at all.
    #[error("the name is empty")]
    Empty,
    /// Two dots in a row, or a leading dot.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label of more than 63 octets.
    #[error("the label `{label}` is longer than 63 octets")]
    LabelTooLong {
        /// The label.
        label: String,
    },
    /// UTS 46 refuses the name.
    #[error("the name is not a valid internationalised domain name")]
    NotIdna,
    /// A name of more than 253 octets.
    #[error("the name has {length} octets, and a DNS name has at most 253")]
    TooLong {
        /// Its length in octets.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_once() {
        assert_eq!(Fqdn::new("Shop.Example.COM.").unwrap().as_str(), "shop.example.com");
        assert_eq!(Fqdn::new("bücher.example").unwrap().as_str(), "xn--bcher-kva.example");
        assert_eq!(Fqdn::new("_acme-challenge.a.b").unwrap().as_str(), "_acme-challenge.a.b");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in
            ["", ".", "a..b", ".com", "a b.com", "a/b.com", "*.example.com", "..", "a.com..", "a\0b.com"]
        {
            assert!(Fqdn::new(bad).is_err(), "{bad:?}");
        }
        assert!(Fqdn::new(&"a".repeat(64)).is_err());
        assert!(Fqdn::new(&"a".repeat(63)).is_ok());
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        assert!(Fqdn::new(&long).is_err(), "254 octets");
        assert!(Fqdn::new(&long[1..]).is_ok(), "253 octets");
    }

    #[test]
    fn a_zone_contains_names_on_label_boundaries_only() {
        let zone = Fqdn::new("example.com").unwrap();
        assert!(Fqdn::new("example.com").unwrap().is_within(&zone));
        assert!(Fqdn::new("a.b.example.com").unwrap().is_within(&zone));
        assert!(!Fqdn::new("notexample.com").unwrap().is_within(&zone));
        assert!(!Fqdn::new("com").unwrap().is_within(&zone));
    }
}
