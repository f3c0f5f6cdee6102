use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;

use super::name::Name;
use super::name::NameError;

/// The address of a thing that certplan keeps in order: what plans, selections and messages name.
///
/// `account/<issuer>`, `certificate/<name>` and `deployment/<name>/<target>`. Their order is the order of output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An account at an ACME server.
    Account(Name),
    /// A certificate.
    Certificate(Name),
    /// A certificate's presence in a target.
    Deployment(Name, Name),
}

impl Address {
    /// The certificate that the address is about, if it is about one.
    pub const fn certificate(&self) -> Option<&Name> {
        match self {
            Self::Account(_) => None,
            Self::Certificate(name) | Self::Deployment(name, _) => Some(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(issuer) => write!(f, "account/{issuer}"),
            Self::Certificate(name) => write!(f, "certificate/{name}"),
            Self::Deployment(name, target) => write!(f, "deployment/{name}/{target}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("account"), Some(issuer), None, None) => Ok(Self::Account(Name::new(issuer)?)),
            (Some("certificate"), Some(name), None, None) => Ok(Self::Certificate(Name::new(name)?)),
            (Some("deployment"), Some(name), Some(target), None) => {
                Ok(Self::Deployment(Name::new(name)?, Name::new(target)?))
            }
            _ => Err(AddressError::Form { text: text.to_owned() }),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It has another form.
    #[error(
        "`{}` is not an address: use `certificate/NAME`, `deployment/NAME/TARGET` or `account/ISSUER`",
        text.escape_debug()
    )]
    Form {
        /// The text.
        text: String,
    },
    /// A part of it is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip_and_sort_by_kind() {
        let texts = ["account/le", "certificate/a", "certificate/b", "deployment/a/edge"];
        let addresses: Vec<Address> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(addresses.is_sorted());
        assert!(addresses.iter().zip(texts).all(|(address, text)| address.to_string() == text));
        for bad in
            ["", "certificate", "certificate/", "certificate/a/b", "deployment/a", "x/y", "certificate/.."]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
