//! The key of an account.

mod formats;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::json;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::error::AcmeError;
use crate::model::Fingerprint;
use crate::model::KeyType;
use crate::model::sha256;

/// The key of an account. certplan makes ECDSA keys on P-256, which every CA takes; one that another client made may be
/// on P-384 or RSA as well. Clones share it.
#[derive(Clone)]
pub struct AccountKey {
    pair: Arc<Pair>,
    key_type: KeyType,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl AccountKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, AcmeError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| key_error("the account key cannot be generated"))?;
        Ok(Self::ecdsa(pair, KeyType::EcdsaP256))
    }

    fn ecdsa(pair: EcdsaKeyPair, key_type: KeyType) -> Self {
        Self { pair: Arc::new(Pair::Ecdsa(pair)), key_type }
    }

    fn rsa(pair: rsa::KeyPair) -> Result<Self, AcmeError> {
        let key_type = match pair.public_modulus_len() * 8 {
            2048 => KeyType::Rsa2048,
            3072 => KeyType::Rsa3072,
            4096 => KeyType::Rsa4096,
            _ => return Err(key_error("the account key is an RSA key of neither 2048, 3072 nor 4096 bits")),
        };
        Ok(Self { pair: Arc::new(Pair::Rsa(pair)), key_type })
    }

    /// Takes a key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, AcmeError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self::ecdsa(pair, KeyType::EcdsaP256));
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der) {
            return Ok(Self::ecdsa(pair, KeyType::EcdsaP384));
        }
        match rsa::KeyPair::from_pkcs8(der) {
            Ok(pair) => Self::rsa(pair),
            Err(_) => Err(key_error(
                "the account key is no ECDSA key on P-256 or P-384 and no RSA key of 2048 bits or more",
            )),
        }
    }

    /// The key in PKCS#8, to be sealed.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, AcmeError> {
        let failed = |_| key_error("the account key cannot be encoded");
        Ok(Zeroizing::new(match &*self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map_err(failed)?.as_ref().to_vec(),
        }))
    }

    /// The key's type.
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn spki(&self) -> Result<Fingerprint, AcmeError> {
        Ok(sha256(self.public_key()?.as_ref()))
    }

    fn public_key(&self) -> Result<PublicKeyX509Der<'static>, AcmeError> {
        let der = match &*self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Rsa(pair) => pair.public_key().as_der(),
        };
        der.map_err(|_| key_error("the public key cannot be encoded"))
    }

    /// The key's thumbprint ([RFC 7638](https://www.rfc-editor.org/rfc/rfc7638)), part of every key authorization.
    pub fn thumbprint(&self) -> Result<String, AcmeError> {
        // The digest is defined over the members in lexicographic order, without white space.
        let canonical = self.jwk()?.to_string();
        Ok(URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()).as_bytes()))
    }

    /// The public key as JWK: the members that a thumbprint is made of, and no others.
    pub(super) fn jwk(&self) -> Result<Value, AcmeError> {
        let unexpected = || key_error("the public key cannot be encoded");
        let der = self.public_key()?;
        let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref()).map_err(|_| unexpected())?;
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        match info.parsed().map_err(|_| unexpected())? {
            PublicKey::EC(point) => {
                // An uncompressed point: 0x04, then both coordinates in as many octets each.
                let coordinates = point.data().get(1..).ok_or_else(unexpected)?;
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let curve = if self.key_type == KeyType::EcdsaP384 { "P-384" } else { "P-256" };
                Ok(json!({ "crv": curve, "kty": "EC", "x": text(x), "y": text(y) }))
            }
            PublicKey::RSA(key) => {
                let (n, e) = (unsigned(key.modulus), unsigned(key.exponent));
                Ok(json!({ "e": text(e), "kty": "RSA", "n": text(n) }))
            }
            _ => Err(unexpected()),
        }
    }

    /// The name of the algorithm that [`sign`](Self::sign) uses.
    pub(super) const fn algorithm(&self) -> &'static str {
        match self.key_type {
            KeyType::EcdsaP256 => "ES256",
            KeyType::EcdsaP384 => "ES384",
            _ => "RS256",
        }
    }

    /// A signature as JWS has it: with ECDSA `r || s`.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AcmeError> {
        let failed = |_| key_error("the account key cannot sign");
        match &*self.pair {
            Pair::Ecdsa(pair) => {
                Ok(pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// A number without the zero in front that DER puts there for the sign.
fn unsigned(octets: &[u8]) -> &[u8] {
    &octets[octets.iter().take_while(|octet| **octet == 0).count()..]
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({}, {})", self.key_type, self.thumbprint().unwrap_or_default())
    }
}

fn key_error(reason: &str) -> AcmeError {
    AcmeError::Key { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
    use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED;
    use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
    use aws_lc_rs::signature::UnparsedPublicKey;
    use aws_lc_rs::signature::VerificationAlgorithm;

    use super::*;

    /// A key of each kind that is taken, with how its signatures are verified.
    pub(super) fn keys() -> [(AccountKey, &'static str, &'static dyn VerificationAlgorithm); 3] {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let rsa =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        [
            (AccountKey::generate().unwrap(), "ES256", &ECDSA_P256_SHA256_FIXED),
            (AccountKey::from_pkcs8(&p384.serialize_der()).unwrap(), "ES384", &ECDSA_P384_SHA384_FIXED),
            (AccountKey::from_pkcs8(&rsa.serialize_der()).unwrap(), "RS256", &RSA_PKCS1_2048_8192_SHA256),
        ]
    }

    #[test]
    fn a_key_survives_its_encoding() {
        for (key, algorithm, _) in keys() {
            let again = AccountKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
            assert_eq!(key.thumbprint().unwrap(), again.thumbprint().unwrap());
            assert_eq!(key.spki().unwrap(), again.spki().unwrap());
            assert_eq!(again.algorithm(), algorithm);
        }
    }

    #[test]
    fn signatures_verify_with_the_public_key() {
        for (key, _, verifier) in keys() {
            let signature = key.sign(b"message").unwrap();
            let public = match &*key.pair {
                Pair::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
                Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            };
            UnparsedPublicKey::new(verifier, public).verify(b"message", &signature).unwrap();
        }
    }

    #[test]
    fn a_jwk_is_written_as_its_thumbprint_wants_it() {
        for (key, ..) in keys() {
            let jwk = key.jwk().unwrap();
            let members: Vec<&String> = jwk.as_object().unwrap().keys().collect();
            assert!(members.is_sorted(), "{jwk}");
            assert!(!jwk.to_string().contains(' '), "{jwk}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let error = AccountKey::from_pkcs8(b"nothing").unwrap_err().to_string();
        assert!(error.contains("no ECDSA key on P-256"), "{error}");
    }
}
