//! What a certificate signing request may ask for.

use aws_lc_rs::signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use aws_lc_rs::signature::VerificationAlgorithm;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::jws::Jwk;
use super::problem::Kind;
use super::problem::Problem;
use crate::model::CertName;
use crate::model::Fingerprint;
use crate::model::NameSet;
use crate::model::sha256;

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";
/// TLS feature, of which `must-staple` is one ([RFC 7633](https://www.rfc-editor.org/rfc/rfc7633)).
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// What is left of a request once it was found good.
#[derive(Debug)]
pub(super) struct CheckedRequest {
    pub(super) key: SubjectPublicKeyInfo,
    pub(super) spki: Fingerprint,
    pub(super) is_rsa: bool,
}

/// Checks a request: its signature, its key, and that it asks for the order's names and nothing else.
pub(super) fn check(
    der: &[u8],
    names: &NameSet,
    account_key: &Jwk,
    ed25519: bool,
) -> Result<CheckedRequest, Problem> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| bad("the CSR does not parse"))?;
    if !rest.is_empty() {
        return Err(bad("something follows the CSR"));
    }
    check_signature(&request)?;
    let is_rsa = check_key(&request, account_key, ed25519)?;
    let asked = requested_names(&request)?;
    if asked != *names {
        let list = |names: &NameSet| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(bad(format!(
            "the CSR's names are not the order's: it has [{}], and the order has [{}]",
            list(&asked),
            list(names)
        )));
    }
    let spki = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(spki)
        .map_err(|_| bad("the CSR's key has parameters that are not accepted"))?;
    Ok(CheckedRequest { key, spki: sha256(spki), is_rsa })
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadCSR, detail)
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), Problem> {
    let info = &request.certification_request_info;
    let key_algorithm = &info.subject_pki.algorithm;
    let curve = key_algorithm
        .parameters
        .as_ref()
        .filter(|_| key_algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY)
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|oid| oid.to_id_string());
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let algorithm: &dyn VerificationAlgorithm = match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.10045.4.3.2", Some(P256)) => &signature::ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some(P256)) => &signature::ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.2", Some(P384)) => &signature::ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some(P384)) => &signature::ECDSA_P384_SHA384_ASN1,
        ("1.2.840.113549.1.1.11", None) => &signature::RSA_PKCS1_2048_8192_SHA256,
        ("1.2.840.113549.1.1.12", None) => &signature::RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", None) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (ED25519, None) => &signature::ED25519,
        _ => return Err(bad("the CSR is signed with an algorithm that is not accepted")),
    };
    UnparsedPublicKey::new(algorithm, &info.subject_pki.subject_public_key.data)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| bad("the CSR's signature does not verify"))
}

/// Checks the key; whether it is RSA.
fn check_key(
    request: &X509CertificationRequest<'_>,
    account_key: &Jwk,
    ed25519: bool,
) -> Result<bool, Problem> {
    let subject = &request.certification_request_info.subject_pki;
    let octets = subject.subject_public_key.data.as_ref();
    let (is_rsa, identity) = if subject.algorithm.algorithm.to_id_string() == ED25519 {
        if !ed25519 {
            return Err(bad("keys of the type Ed25519 are not accepted"));
        }
        (false, octets.to_vec())
    } else {
        match subject.parsed() {
            Ok(PublicKey::RSA(key)) => {
                let modulus: Vec<u8> = key.modulus.iter().copied().skip_while(|octet| *octet == 0).collect();
                if !matches!(modulus.len() * 8, 2048 | 3072 | 4096) || modulus[0] & 0x80 == 0 {
                    return Err(bad("RSA keys have 2048, 3072 or 4096 bits"));
                }
                if key.try_exponent().ok() != Some(65_537) {
                    return Err(bad("RSA keys have the exponent 65537"));
                }
                (true, modulus)
            }
            // The signature check has let only P-256 and P-384 through; a compressed point is not used in certificates.
            Ok(PublicKey::EC(_)) if octets.first() == Some(&4) => (false, octets.to_vec()),
            _ => return Err(bad("the CSR's key is of a type that is not accepted")),
        }
    };
    if account_key.public_octets()? == identity {
        return Err(bad("the certificate's key is the account's key"));
    }
    Ok(is_rsa)
}

/// The names in the extension and the common name.
fn requested_names(request: &X509CertificationRequest<'_>) -> Result<NameSet, Problem> {
    let info = &request.certification_request_info;
    let mut names = NameSet::new();
    let mut insert = |text: &str| {
        let name = CertName::new(text)
            .ok()
            .filter(|name| name.to_string() == text.to_ascii_lowercase())
            .ok_or_else(|| bad(format!("`{}` in the CSR is no DNS name", text.escape_debug())))?;
        names.insert(name);
        Ok::<_, Problem>(())
    };
    let mut requests = 0;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        requests += 1;
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(alternative) => {
                    for name in &alternative.general_names {
                        match name {
                            GeneralName::DNSName(text) => insert(text)?,
                            _ => return Err(bad("the CSR has names that are no DNS names")),
                        }
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(bad("the CSR asks for the certificate of a CA"));
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(bad("an extension in the CSR does not parse"));
                }
                _ if extension.oid.to_id_string() == TLS_FEATURE => {
                    return Err(Problem::unauthorized("the CSR asks for OCSP must-staple, which is no more"));
                }
                _ => {}
            }
        }
    }
    if requests > 1 {
        return Err(bad("the CSR has more than one request for extensions"));
    }
    let mut common_names = info.subject.iter_common_name();
    if let Some(common_name) = common_names.next() {
        let text = common_name.as_str().map_err(|_| bad("the CSR's common name is no text"))?;
        if text.len() > 64 {
            return Err(bad("the CSR's common name has more than 64 octets"));
        }
        insert(text)?;
    }
    if common_names.next().is_some() {
        return Err(bad("the CSR has more than one common name"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::CustomExtension;
    use rcgen::DistinguishedName;
    use rcgen::DnType;
    use rcgen::IsCa;
    use rcgen::KeyPair;
    use rcgen::PublicKeyData;
    use rcgen::RsaKeySize;
    use rcgen::SanType;
    use rcgen::SignatureAlgorithm;
    use serde_json::json;

    use super::*;

    fn names(names: &[&str]) -> NameSet {
        names.iter().map(|name| CertName::new(name).unwrap()).collect()
    }

    fn params(names: &[&str]) -> CertificateParams {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
    }

    fn other_key() -> Jwk {
        let coordinate = URL_SAFE_NO_PAD.encode([1; 32]);
        Jwk::from_value(&json!({ "kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate })).unwrap()
    }

    fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn refused(params: &CertificateParams) -> Problem {
        let key = KeyPair::generate().unwrap();
        check(&request(params, &key), &names(&["a.test", "*.a.test"]), &other_key(), false).unwrap_err()
    }

    #[test]
    fn the_key_types_of_public_cas_are_taken() {
        let check_type = |algorithm: &'static SignatureAlgorithm, ed25519| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let checked =
                check(&request(&params(&["a.test"]), &key), &names(&["a.test"]), &other_key(), ed25519)?;
            assert_eq!(checked.spki, sha256(&key.subject_public_key_info()));
            assert_eq!(checked.key.subject_public_key_info(), key.subject_public_key_info());
            Ok::<_, Problem>(checked.is_rsa)
        };
        assert_eq!(check_type(&rcgen::PKCS_ECDSA_P256_SHA256, false), Ok(false));
        assert_eq!(check_type(&rcgen::PKCS_ECDSA_P384_SHA384, false), Ok(false));
        assert_eq!(check_type(&rcgen::PKCS_RSA_SHA256, false), Ok(true));
        assert_eq!(check_type(&rcgen::PKCS_ED25519, true), Ok(false));
        assert!(check_type(&rcgen::PKCS_ED25519, false).is_err());
        assert!(check_type(&rcgen::PKCS_ECDSA_P521_SHA512, false).is_err());
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap();
        let der = request(&params(&["a.test"]), &key);
        assert!(check(&der, &names(&["a.test"]), &other_key(), false).is_ok());
    }

    #[test]
    fn a_request_asks_for_the_names_of_the_order_and_nothing_else() {
        let key = KeyPair::generate().unwrap();
        let ordered = names(&["a.test", "*.a.test"]);
        let good = params(&["*.A.test", "a.test"]);
        assert!(check(&request(&good, &key), &ordered, &other_key(), false).is_ok());
        let mut with_common_name = params(&["*.a.test"]);
        with_common_name.distinguished_name.push(DnType::CommonName, "a.test");
        assert!(check(&request(&with_common_name, &key), &ordered, &other_key(), false).is_ok());

        for other in [&["a.test"][..], &["a.test", "*.a.test", "b.test"], &["a.test", "b.test"], &[]] {
            assert_eq!(refused(&params(other)).kind, Kind::BadCSR, "{other:?}");
        }
        let mut foreign_common_name = params(&["a.test", "*.a.test"]);
        foreign_common_name.distinguished_name.push(DnType::CommonName, "evil.test");
        assert_eq!(refused(&foreign_common_name).kind, Kind::BadCSR);
        let mut text = params(&["a.test", "*.a.test"]);
        text.distinguished_name.push(DnType::CommonName, "rcgen self signed cert");
        assert_eq!(refused(&text).kind, Kind::BadCSR);
        let mut address = params(&["a.test", "*.a.test"]);
        address.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        assert_eq!(refused(&address).kind, Kind::BadCSR);
        let mut authority = params(&["a.test", "*.a.test"]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(refused(&authority).kind, Kind::BadCSR);
        let mut staple = params(&["a.test", "*.a.test"]);
        staple
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]));
        assert_eq!(refused(&staple).kind, Kind::Unauthorized);
    }

    #[test]
    fn a_signature_that_does_not_verify_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut der = request(&params(&["a.test"]), &key);
        *der.last_mut().unwrap() ^= 1;
        let problem = check(&der, &names(&["a.test"]), &other_key(), false).unwrap_err();
        assert_eq!(problem.kind, Kind::BadCSR);
    }

    #[test]
    fn the_accounts_key_is_no_certificates_key() {
        let key = KeyPair::generate().unwrap();
        let point = key.public_key_raw();
        let account = Jwk::from_value(&json!({
            "kty": "EC",
            "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }))
        .unwrap();
        let problem =
            check(&request(&params(&["a.test"]), &key), &names(&["a.test"]), &account, false).unwrap_err();
        assert_eq!(problem.detail, "the certificate's key is the account's key");
    }

    proptest::proptest! {
        #[test]
        fn no_request_makes_it_panic(flip in 0usize..2000, bit in 0u8..8) {
            let key = KeyPair::generate().unwrap();
            let mut der = request(&params(&["a.test"]), &key);
            let index = flip % der.len();
            der[index] ^= 1 << bit;
            let _ = check(&der, &names(&["a.test"]), &other_key(), false);
        }
    }
}
