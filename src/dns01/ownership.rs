use std::collections::BTreeSet;

use super::providers::Providers;
use crate::model::Fqdn;
use crate::model::JournaledTxt;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Zone;

/// What is known about a journaled value, from the journal and from elsewhere.
///
/// A journal can be forged by whoever can write the state. Nothing that it says leads to an effect unless what the
/// configuration and the provider say agrees.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The journal's entry.
    pub entry: &'a JournaledTxt,
    /// The names of the certificate that the operation is about.
    pub names: &'a NameSet,
    /// Where CNAMEs led from the challenge names of those, as recorded when they were located.
    pub delegations: &'a BTreeSet<Fqdn>,
    /// The provider's own zones for the entry's name ([`ConfiguredDns::zones_for`](super::ConfiguredDns::zones_for)).
    pub zones: &'a [Zone],
    /// The entries of all other open operations.
    pub others: &'a [JournaledTxt],
}

/// Decides whether a journaled value may be removed: it has to look like one that we added, at a place where the
/// configuration lets us add one, and no other operation may still need it.
pub fn ours(claim: &Claim<'_>, providers: &Providers) -> Result<(), NotOurs> {
    let entry = claim.entry;
    let Some(configured) = providers.get(&entry.provider) else {
        return Err(NotOurs::Provider { provider: entry.provider.clone() });
    };
    if !is_challenge_value(&entry.value) {
        return Err(NotOurs::Value { name: entry.name.clone() });
    }
    let allowed = configured.zones.is_empty() || configured.zones.contains(&entry.zone.name);
    if !allowed || !claim.zones.contains(&entry.zone) {
        return Err(NotOurs::Zone { provider: entry.provider.clone(), zone: entry.zone.name.clone() });
    }
    if !entry.name.is_within(&entry.zone.name) {
        return Err(NotOurs::Outside { name: entry.name.clone(), zone: entry.zone.name.clone() });
    }
    let of_a_name = claim.names.iter().any(|name| name.challenge_name().as_ref() == Ok(&entry.name));
    if !of_a_name && !claim.delegations.contains(&entry.name) {
        return Err(NotOurs::Name { name: entry.name.clone() });
    }
    let needed = claim.others.iter().any(|other| {
        (&other.provider, &other.zone, &other.name, &other.value)
            == (&entry.provider, &entry.zone, &entry.name, &entry.value)
    });
    if needed {
        return Err(NotOurs::Needed { name: entry.name.clone() });
    }
    Ok(())
}

/// Whether a value has the form of a DNS-01 challenge's: a SHA-256 digest in base64url without padding
/// ([RFC 8555, section 8.4](https://www.rfc-editor.org/rfc/rfc8555#section-8.4)).
///
/// That is 43 characters, the last of which carries four bits only, so that it is one of sixteen.
pub fn is_challenge_value(value: &str) -> bool {
    let alphabet = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    value.len() == 43
        && value.bytes().all(alphabet)
        && value.bytes().last().is_some_and(|last| LAST_CHARACTERS.contains(&last))
}

/// The characters whose two lowest bits are zero.
const LAST_CHARACTERS: &[u8; 16] = b"AEIMQUYcgkosw048";

/// Why a journaled value is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotOurs {
    /// It is at a name that the certificate has no challenge at.
    #[error("`{name}` is not where a challenge of the certificate is answered")]
    Name {
        /// The name.
        name: Fqdn,
    },
    /// Another open operation lists the same value.
    #[error("the value at `{name}` belongs to another open operation as well")]
    Needed {
        /// The name.
        name: Fqdn,
    },
    /// Its name is not in its zone.
    #[error("`{name}` is not in zone `{zone}`")]
    Outside {
        /// The name.
        name: Fqdn,
        /// The zone.
        zone: Fqdn,
    },
    /// Its provider is not configured.
    #[error("DNS provider `{provider}` is not in the configuration")]
    Provider {
        /// The provider.
        provider: Name,
    },
    /// It is not the digest of a key authorization.
    #[error("the value at `{name}` does not have the form of a challenge's")]
    Value {
        /// The name.
        name: Fqdn,
    },
    /// Its zone is not one that the configuration lets us write, or the provider knows it by another identifier.
    #[error("zone `{zone}` as recorded is not one that DNS provider `{provider}` may write")]
    Zone {
        /// The provider.
        provider: Name,
        /// The zone.
        zone: Fqdn,
    },
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;
    use crate::dns01::testing::MemoryDns;
    use crate::dns01::testing::name;
    use crate::dns01::testing::one_provider;
    use crate::dns01::testing::word;
    use crate::model::CertName;
    use crate::model::TxtState;

    const VALUE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn entry() -> JournaledTxt {
        JournaledTxt {
            provider: word("dns"),
            zone: Zone { id: "Z1".to_owned(), name: name("example.test") },
            name: name("_acme-challenge.shop.example.test"),
            value: VALUE.to_owned(),
            state: TxtState::Intent,
        }
    }

    fn judge(entry: &JournaledTxt, restriction: &[&str], others: &[JournaledTxt]) -> Result<(), NotOurs> {
        let restriction = restriction.iter().map(|zone| name(zone)).collect();
        let providers = one_provider(&MemoryDns::new(&[]), restriction);
        let names = [CertName::new("shop.example.test").unwrap()].into();
        let delegations = [name("shop.validation.test")].into();
        let zones = [
            Zone { id: "Z1".to_owned(), name: name("example.test") },
            Zone { id: "Z2".to_owned(), name: name("validation.test") },
        ];
        ours(&Claim { entry, names: &names, delegations: &delegations, zones: &zones, others }, &providers)
    }

    #[test]
    fn what_we_added_is_ours() {
        assert_eq!(judge(&entry(), &[], &[]), Ok(()));
        assert_eq!(judge(&entry(), &["example.test"], &[]), Ok(()));
        let delegated = JournaledTxt {
            zone: Zone { id: "Z2".to_owned(), name: name("validation.test") },
            name: name("shop.validation.test"),
            ..entry()
        };
        assert_eq!(judge(&delegated, &[], &[]), Ok(()));
    }

    #[test]
    fn forged_journals_do_not_pass() {
        let forged = [
            JournaledTxt { provider: word("other"), ..entry() },
            JournaledTxt { value: "v=spf1 -all".to_owned(), ..entry() },
            JournaledTxt { value: "A".repeat(42) + "B", ..entry() },
            JournaledTxt { value: "A".repeat(44), ..entry() },
            JournaledTxt { value: "google-site-verification=AAAAAAAAAAAAAAAAAA".to_owned(), ..entry() },
            JournaledTxt { name: name("example.test"), ..entry() },
            JournaledTxt { name: name("_dmarc.example.test"), ..entry() },
            JournaledTxt { name: name("_acme-challenge.other.example.test"), ..entry() },
            JournaledTxt { name: name("_acme-challenge.shop.example.test.evil.test"), ..entry() },
            JournaledTxt { name: name("shop.validation.test"), ..entry() },
            JournaledTxt { zone: Zone { id: "Z9".to_owned(), name: name("example.test") }, ..entry() },
            JournaledTxt { zone: Zone { id: "Z2".to_owned(), name: name("example.test") }, ..entry() },
            JournaledTxt { zone: Zone { id: "Z1".to_owned(), name: name("test") }, ..entry() },
        ];
        for entry in forged {
            assert!(judge(&entry, &[], &[]).is_err(), "{entry:?}");
        }
        assert!(judge(&entry(), &["other.test"], &[]).is_err(), "a zone outside the restriction");
    }

    #[test]
    fn what_another_operation_needs_stays() {
        let same = JournaledTxt { state: TxtState::Added("7".to_owned()), ..entry() };
        assert!(matches!(judge(&entry(), &[], &[same]), Err(NotOurs::Needed { .. })));
        let other_value = JournaledTxt { value: "E".repeat(43), ..entry() };
        assert_eq!(judge(&entry(), &[], &[other_value]), Ok(()));
    }

    proptest! {
        #[test]
        fn every_digest_has_the_form_of_a_value(digest in proptest::array::uniform32(any::<u8>())) {
            prop_assert!(is_challenge_value(&URL_SAFE_NO_PAD.encode(digest)));
        }

        #[test]
        fn what_does_not_decode_to_a_digest_is_no_value(text in "[A-Za-z0-9_=-]{40,46}") {
            let digest = URL_SAFE_NO_PAD.decode(&text).is_ok_and(|octets| octets.len() == 32);
            prop_assert_eq!(is_challenge_value(&text), digest);
        }
    }
}
