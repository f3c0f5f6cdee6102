use std::fmt;

use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::KeyPair;
use rcgen::PublicKeyData;
use rcgen::RsaKeySize;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::error::AcmeError;
use crate::model::CertName;
use crate::model::Fingerprint;
use crate::model::KeyType;
use crate::model::NameSet;
use crate::model::PrivateKey;
use crate::model::sha256;

/// The key of a certificate.
pub struct CertificateKey {
    pair: KeyPair,
    key_type: KeyType,
}

impl CertificateKey {
    /// Makes a new key. RSA takes a while (4,096 bits: about a second), on a thread of its own.
    pub async fn generate(key_type: KeyType) -> Result<Self, AcmeError> {
        let rsa = match key_type {
            KeyType::EcdsaP256 => return Self::curve(key_type, &rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::EcdsaP384 => return Self::curve(key_type, &rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Ed25519 => return Self::curve(key_type, &rcgen::PKCS_ED25519),
            KeyType::Rsa2048 => RsaKeySize::_2048,
            KeyType::Rsa3072 => RsaKeySize::_3072,
            KeyType::Rsa4096 => RsaKeySize::_4096,
            other => return Err(key_error(format!("certplan cannot make keys of the type `{other}`"))),
        };
        let made =
            tokio::task::spawn_blocking(move || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rsa))
                .await;
        match made {
            Ok(Ok(pair)) => Ok(Self { pair, key_type }),
            _ => Err(key_error("the RSA key cannot be generated")),
        }
    }

    fn curve(key_type: KeyType, algorithm: &'static rcgen::SignatureAlgorithm) -> Result<Self, AcmeError> {
        let pair = KeyPair::generate_for(algorithm)
            .map_err(|_| key_error("the certificate's key cannot be generated"))?;
        Ok(Self { pair, key_type })
    }

    /// Takes a key in PKCS#8 and finds out its type.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, AcmeError> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).map_err(|_| {
            key_error("the certificate's key is not a PKCS#8 key of a type that certplan knows")
        })?;
        let spki = pair.subject_public_key_info();
        let key_type = type_of(&spki)
            .ok_or_else(|| key_error("the certificate's key is of a size that certplan does not use"))?;
        Ok(Self { pair, key_type })
    }

    /// Takes a key in PEM, as `PRIVATE KEY` (PKCS#8).
    pub fn from_pem(pem: &str) -> Result<Self, AcmeError> {
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => Self::from_pkcs8(der.secret_pkcs8_der()),
            _ => Err(key_error("the certificate's key holds no `PRIVATE KEY` block in PEM")),
        }
    }

    /// The key's type.
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn spki(&self) -> Fingerprint {
        sha256(&self.pair.subject_public_key_info())
    }

    /// The key in PKCS#8, to be sealed.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// The key in both encodings, on its way to a target.
    pub fn to_private_key(&self) -> PrivateKey {
        PrivateKey::new(self.to_pkcs8(), Zeroizing::new(self.pair.serialize_pem().replace("\r\n", "\n")))
    }

    /// A certificate signing request in DER: an empty subject, the names as subject alternative names, nothing else.
    /// CAs refuse a common name that is too long, and extensions that they do not issue.
    pub fn csr(&self, names: &NameSet) -> Result<Vec<u8>, AcmeError> {
        let failed = || key_error("the certificate signing request cannot be made");
        let names: Vec<String> = names.iter().map(CertName::to_string).collect();
        let mut parameters = CertificateParams::new(names).map_err(|_| failed())?;
        parameters.distinguished_name = DistinguishedName::new();
        let request = parameters.serialize_request(&self.pair).map_err(|_| failed())?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateKey({}, {})", self.key_type, self.spki())
    }
}

fn key_error(reason: impl Into<String>) -> AcmeError {
    AcmeError::Key { reason: reason.into() }
}

fn type_of(spki: &[u8]) -> Option<KeyType> {
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    match spki.parsed().ok()? {
        PublicKey::RSA(rsa) => match rsa.key_size() {
            2048 => Some(KeyType::Rsa2048),
            3072 => Some(KeyType::Rsa3072),
            4096 => Some(KeyType::Rsa4096),
            _ => None,
        },
        PublicKey::EC(point) => match point.key_size() {
            256 => Some(KeyType::EcdsaP256),
            384 => Some(KeyType::EcdsaP384),
            _ => None,
        },
        _ => (spki.algorithm.algorithm.to_id_string() == "1.3.101.112").then_some(KeyType::Ed25519),
    }
}

/// The DNS names of a CSR, and everything else that it asks to certify.
pub(super) fn csr_names(der: &[u8]) -> Result<(NameSet, Vec<String>), AcmeError> {
    let malformed = || key_error("the certificate signing request cannot be read");
    let (_, request) = X509CertificationRequest::from_der(der).map_err(|_| malformed())?;
    let mut names = NameSet::new();
    let mut other: Vec<String> = request
        .certification_request_info
        .subject
        .iter_common_name()
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
            for name in &alternative.general_names {
                match name {
                    GeneralName::DNSName(name) => match CertName::new(name) {
                        Ok(name) => {
                            names.insert(name);
                        }
                        Err(_) => other.push(certplan_http::printable(name, 260)),
                    },
                    name => other.push(certplan_http::printable(&name.to_string(), 260)),
                }
            }
        }
    }
    other.retain(|name| !CertName::new(name).is_ok_and(|name| names.contains(&name)));
    Ok((names, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> NameSet {
        names.iter().map(|name| CertName::new(name).unwrap()).collect()
    }

    #[tokio::test]
    async fn every_key_type_survives_its_encodings() {
        for key_type in KeyType::ALL {
            let key = CertificateKey::generate(key_type).await.unwrap();
            let again = CertificateKey::from_pkcs8(&key.to_pkcs8()).unwrap();
            assert_eq!((again.key_type(), again.spki()), (key_type, key.spki()));
            let private = key.to_private_key();
            assert_eq!(CertificateKey::from_pem(private.expose_pem()).unwrap().spki(), key.spki());
            assert!(private.expose_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
            assert!(private.expose_pem().ends_with("-----END PRIVATE KEY-----\n"));
        }
    }

    #[tokio::test]
    async fn a_request_has_names_and_an_empty_subject() {
        let wanted = names(&["example.com", "*.example.com"]);
        for key_type in KeyType::ALL {
            let der = CertificateKey::generate(key_type).await.unwrap().csr(&wanted).unwrap();
            assert_eq!(csr_names(&der).unwrap(), (wanted.clone(), vec![]));
            let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
            request.verify_signature().unwrap();
        }
    }

    #[test]
    fn what_a_request_asks_beside_its_names_is_seen() {
        let pair = KeyPair::generate().unwrap();
        let mut parameters =
            CertificateParams::new(["a.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "b.example");
        let der = parameters.serialize_request(&pair).unwrap().der().to_vec();
        let (found, other) = csr_names(&der).unwrap();
        assert_eq!(found, names(&["a.example"]));
        assert_eq!(other.len(), 2, "{other:?}");
        assert!(csr_names(b"nonsense").is_err());
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        assert!(CertificateKey::from_pkcs8(b"nonsense").is_err());
        let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        assert!(CertificateKey::from_pkcs8(&p521.serialize_der()).is_err());
    }
}
