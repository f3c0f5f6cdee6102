use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use serde_json::json;
use zeroize::Zeroizing;

use super::error::AcmeError;
use crate::model::Fingerprint;
use crate::model::sha256;

/// The key of an account: ECDSA on P-256, which every CA takes. Clones share it.
#[derive(Clone)]
pub struct AccountKey {
    pair: Arc<EcdsaKeyPair>,
}

impl AccountKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, AcmeError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| key_error("the account key cannot be generated"))?;
        Ok(Self { pair: Arc::new(pair) })
    }

    /// Takes a key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, AcmeError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| key_error("the account key is not an ECDSA P-256 key in PKCS#8"))?;
        Ok(Self { pair: Arc::new(pair) })
    }

    /// Takes a key in PEM, as `PRIVATE KEY` (PKCS#8) or `EC PRIVATE KEY` (SEC 1).
    pub fn from_pem(pem: &str) -> Result<Self, AcmeError> {
        // The parser knows nothing of encrypted keys and would only say that there is none.
        if pem.contains("ENCRYPTED") {
            return Err(key_error("the account key is encrypted with a password: decrypt it first"));
        }
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => Self::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Sec1(der)) => {
                let pair = EcdsaKeyPair::from_private_key_der(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    der.secret_sec1_der(),
                )
                .map_err(|_| key_error("the account key is not an ECDSA P-256 key"))?;
                Ok(Self { pair: Arc::new(pair) })
            }
            Ok(_) => {
                Err(key_error("the account key is an RSA key; certplan uses ECDSA P-256 account keys only"))
            }
            Err(_) => {
                Err(key_error("the account key holds no `PRIVATE KEY` or `EC PRIVATE KEY` block in PEM"))
            }
        }
    }

    /// The key in PKCS#8, to be sealed.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, AcmeError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| key_error("the account key cannot be encoded"))?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn spki(&self) -> Result<Fingerprint, AcmeError> {
        let der: PublicKeyX509Der<'_> =
            self.pair.public_key().as_der().map_err(|_| key_error("the public key cannot be encoded"))?;
        Ok(sha256(der.as_ref()))
    }

    /// The key's thumbprint ([RFC 7638](https://www.rfc-editor.org/rfc/rfc7638)), part of every key authorization.
    pub fn thumbprint(&self) -> String {
        let (x, y) = self.coordinates();
        // The members in lexicographic order, without white space: that is what the digest is defined over.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()).as_bytes())
    }

    /// The public key as JWK.
    pub(super) fn jwk(&self) -> Value {
        let (x, y) = self.coordinates();
        json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y })
    }

    /// An ES256 signature, `r || s`.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AcmeError> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| key_error("the account key cannot sign"))?;
        Ok(signature.as_ref().to_vec())
    }

    fn coordinates(&self) -> (String, String) {
        // An uncompressed point: 0x04, then both coordinates in 32 octets each.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({})", self.thumbprint())
    }
}

fn key_error(reason: &str) -> AcmeError {
    AcmeError::Key { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
    use aws_lc_rs::signature::UnparsedPublicKey;

    use super::*;

    #[test]
    fn a_key_survives_its_encodings() {
        let key = AccountKey::generate().unwrap();
        let der = key.to_pkcs8().unwrap();
        let again = AccountKey::from_pkcs8(&der).unwrap();
        assert_eq!(key.thumbprint(), again.thumbprint());
        assert_eq!(key.spki().unwrap(), again.spki().unwrap());
        let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_slice());
        let pem = format!("-----BEGIN PRIVATE KEY-----\r\n{base64}\r\n-----END PRIVATE KEY-----\r\n");
        assert_eq!(AccountKey::from_pem(&pem).unwrap().thumbprint(), key.thumbprint());
        assert!(!format!("{key:?}").contains(&base64[..20]));
    }

    #[test]
    fn sec1_as_openssl_writes_it_is_taken() {
        // openssl ecparam -genkey -name prime256v1, a key of this test only
        let pem = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
            -----BEGIN EC PRIVATE KEY-----\n\
            MHcCAQEEIOWuy1STrLKkrg8/+7ud9pwC3ndg7Xybwt8Ghvw2zJj3oAoGCCqGSM49\n\
            AwEHoUQDQgAEeLyVSArxQoOjbg/Tfb5BrXAwSPT6Rmp0KVkds6DomoUUBuMOdbWN\n\
            dHoXphBVGue1yrFFfyP1u9ozha8VHnvHPQ==\n\
            -----END EC PRIVATE KEY-----\n";
        AccountKey::from_pem(pem).unwrap();
    }

    #[test]
    fn other_keys_are_refused_with_the_reason() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for (pem, reason) in [
            (p384.as_str(), "P-256"),
            ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "RSA"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "encrypted",
            ),
            ("", "no `PRIVATE KEY`"),
        ] {
            let error = AccountKey::from_pem(pem).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn signatures_are_fixed_size_es256() {
        let key = AccountKey::generate().unwrap();
        let signature = key.sign(b"message").unwrap();
        assert_eq!(signature.len(), 64);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref())
            .verify(b"message", &signature)
            .unwrap();
    }
}
