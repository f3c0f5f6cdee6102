use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;

use super::*;
use crate::model::sha256;

fn names(names: &[&str]) -> NameSet {
    names.iter().map(|name| CertName::new(name).unwrap()).collect()
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

/// Leaf, two intermediates and root in PEM, the leaf valid for 2026 and for `a.example`.
struct Hierarchy {
    leaf: String,
    lower: String,
    upper: String,
    root: String,
    spki: Fingerprint,
}

fn hierarchy(leaf_names: &[&str]) -> Hierarchy {
    let (root_key, upper_key, lower_key, leaf_key) = (
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    );
    let root = authority("Root").self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(authority("Root"), root_key);
    let upper = authority("Upper").signed_by(&upper_key, &root_issuer).unwrap();
    let upper_issuer = Issuer::new(authority("Upper"), upper_key);
    let lower = authority("Lower").signed_by(&lower_key, &upper_issuer).unwrap();
    let lower_issuer = Issuer::new(authority("Lower"), lower_key);
    let leaf_names: Vec<String> = leaf_names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(leaf_names).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let leaf = parameters.signed_by(&leaf_key, &lower_issuer).unwrap();
    let spki = sha256(&rcgen::PublicKeyData::subject_public_key_info(&leaf_key));
    Hierarchy { leaf: leaf.pem(), lower: lower.pem(), upper: upper.pem(), root: root.pem(), spki }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_chain_is_put_in_order_and_its_root_left_out() {
    let h = hierarchy(&["a.example", "*.a.example"]);
    let wanted = names(&["a.example", "*.a.example"]);
    let now = at("2026-06-01T00:00:00Z");
    let straight = format!("{}{}{}", h.leaf, h.lower, h.upper);
    let expected = check_chain(&straight, h.spki, &wanted, &(now..=now)).unwrap();
    assert_eq!(expected.ders.len(), 3);
    assert_eq!(expected.pem, straight.replace("\r\n", "\n"));
    assert_eq!(expected.facts.names, wanted);
    let muddled =
        [&h.leaf, "some text\r\n", &h.root, &h.upper, &h.lower, &h.lower].map(String::from).concat();
    assert_eq!(check_chain(&muddled.replace('\n', "\r\n"), h.spki, &wanted, &(now..=now)).unwrap(), expected);
    let alone = check_chain(&h.leaf, h.spki, &wanted, &(now..=now)).unwrap();
    assert_eq!(alone.ders.len(), 1);
}

#[test]
fn what_was_not_ordered_is_refused() {
    let h = hierarchy(&["a.example"]);
    let stranger = hierarchy(&["a.example"]);
    let wanted = names(&["a.example"]);
    let now = at("2026-06-01T00:00:00Z");
    let chain = format!("{}{}{}", h.leaf, h.lower, h.upper);
    let check =
        |pem: &str, spki, names: &NameSet, now| check_chain(pem, spki, names, &(now..=now)).unwrap_err();
    assert!(matches!(check(&chain, stranger.spki, &wanted, now), ChainError::Key { .. }));
    for other in [names(&["a.example", "b.example"]), names(&["b.example"]), names(&["*.a.example"])] {
        assert!(matches!(check(&chain, h.spki, &other, now), ChainError::Names { .. }));
    }
    assert!(matches!(check(&chain, h.spki, &wanted, at("2027-01-01T00:00:00Z")), ChainError::Expired { .. }));
    assert!(matches!(
        check(&chain, h.spki, &wanted, at("2025-12-31T23:00:00Z")),
        ChainError::NotYetValid { .. }
    ));
    assert!(
        check_chain(&chain, h.spki, &wanted, &(at("2025-12-31T23:58:00Z")..=at("2025-12-31T23:58:00Z")))
            .is_ok(),
        "two minutes are tolerated"
    );
    // Clocks that are apart: it is valid by one of them, or between them.
    for (from, to) in
        [("2025-01-01", "2026-02-01"), ("2026-06-01", "2028-01-01"), ("2025-01-01", "2028-01-01")]
    {
        let time = at(&format!("{from}T00:00:00Z"))..=at(&format!("{to}T00:00:00Z"));
        assert!(check_chain(&chain, h.spki, &wanted, &time).is_ok(), "{from} {to}");
    }
    // The same names, but not the same key: a signature that does not fit.
    let foreign = format!("{}{}{}", h.leaf, stranger.lower, stranger.upper);
    assert!(matches!(check(&foreign, h.spki, &wanted, now), ChainError::Broken { .. }));
    let gap = format!("{}{}", h.leaf, h.upper);
    assert!(matches!(check(&gap, h.spki, &wanted, now), ChainError::Broken { .. }));
    let ip = hierarchy(&["a.example", "192.0.2.1"]);
    assert!(matches!(check(&ip.leaf, ip.spki, &wanted, now), ChainError::Names { .. }));
}

#[test]
fn what_is_no_chain_is_refused() {
    let h = hierarchy(&["a.example"]);
    let wanted = names(&["a.example"]);
    let now = at("2026-06-01T00:00:00Z");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, expected) in
        [("", "no certificate"), ("<html>", "no certificate"), (garbage, "not a certificate")]
    {
        let error = check_chain(pem, h.spki, &wanted, &(now..=now)).unwrap_err().to_string();
        assert!(error.contains(expected), "{pem}: {error}");
    }
    let cut = &h.leaf[..h.leaf.len() / 2];
    assert!(check_chain(cut, h.spki, &wanted, &(now..=now)).is_err());
    assert_eq!(check_chain(&h.leaf.repeat(21), h.spki, &wanted, &(now..=now)), Err(ChainError::TooLong));
}

#[test]
fn authorities_are_intermediates_and_issuers() {
    let h = hierarchy(&["a.example"]);
    let found = authorities(&format!("{}{}{}", h.leaf, h.lower, h.upper));
    assert_eq!(found, ["Lower", "Lower", "Upper", "Upper", "Root"]);
    assert!(authorities("nonsense").is_empty());
}
