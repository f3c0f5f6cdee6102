use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::CertName;
use super::Fingerprint;
use super::KeyType;
use super::NameSet;

/// What a certificate says about itself: everything that a plan reasons about, without the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// SHA-256 of the certificate in DER.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its SubjectPublicKeyInfo in DER.
    pub spki: Fingerprint,
    /// The serial number in lower-case hexadecimal, with leading zero octets as in DER.
    pub serial: String,
    /// The DNS names.
    pub names: NameSet,
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// The issuer's distinguished name, for people.
    pub issuer: String,
    /// The key's type, when it is one that certplan knows.
    pub key_type: Option<KeyType>,
    /// The ARI certificate identifier
    /// ([RFC 9773, section 4.1](https://www.rfc-editor.org/rfc/rfc9773#section-4.1)), when there is an authority key identifier.
    pub ari_id: Option<String>,
}

impl CertificateFacts {
    /// Reads the facts from a certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|error| CertificateError::Malformed { reason: error.to_string() })?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed { reason: format!("{} octets follow it", rest.len()) });
        }
        let mut names = NameSet::new();
        let mut key_identifier = None;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(alternative) => {
                    for name in &alternative.general_names {
                        if let GeneralName::DNSName(text) = name {
                            let name = CertName::new(text).map_err(|error| CertificateError::Malformed {
                                reason: format!("the name `{}` in it: {error}", text.escape_debug()),
                            })?;
                            names.insert(name);
                        }
                    }
                }
                ParsedExtension::AuthorityKeyIdentifier(authority) => {
                    key_identifier =
                        authority.key_identifier.as_ref().map(|identifier| identifier.0.to_vec());
                }
                _ => {}
            }
        }
        let serial = certificate.raw_serial();
        Ok(Self {
            fingerprint: sha256(der),
            spki: sha256(certificate.public_key().raw),
            serial: serial.iter().map(|octet| format!("{octet:02x}")).collect(),
            names,
            not_before: timestamp(certificate.validity().not_before.timestamp())?,
            not_after: timestamp(certificate.validity().not_after.timestamp())?,
            issuer: certificate.issuer().to_string(),
            key_type: key_type(&certificate),
            ari_id: key_identifier.map(|identifier| {
                format!("{}.{}", URL_SAFE_NO_PAD.encode(identifier), URL_SAFE_NO_PAD.encode(serial))
            }),
        })
    }

    /// The length of its validity.
    pub fn lifetime(&self) -> jiff::SignedDuration {
        self.not_after.duration_since(self.not_before)
    }
}

/// The SHA-256 digest of some octets as a fingerprint.
pub fn sha256(octets: &[u8]) -> Fingerprint {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, octets).as_ref());
    Fingerprint::from_digest(digest)
}

fn timestamp(seconds: i64) -> Result<Timestamp, CertificateError> {
    Timestamp::from_second(seconds)
        .map_err(|error| CertificateError::Malformed { reason: format!("a date in it: {error}") })
}

fn key_type(certificate: &X509Certificate<'_>) -> Option<KeyType> {
    const ED25519: &str = "1.3.101.112";
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    let key = certificate.public_key();
    if key.algorithm.algorithm.to_id_string() == ED25519 {
        return Some(KeyType::Ed25519);
    }
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => match rsa.key_size() {
            2048 => Some(KeyType::Rsa2048),
            3072 => Some(KeyType::Rsa3072),
            4096 => Some(KeyType::Rsa4096),
            _ => None,
        },
        PublicKey::EC(_) => match key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
            P256 => Some(KeyType::EcdsaP256),
            P384 => Some(KeyType::EcdsaP384),
            _ => None,
        },
        _ => None,
    }
}

/// Why a document is not a certificate that certplan can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It does not parse.
    #[error("not a certificate: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
}
