//! The forms in which clients keep account keys: PEM, and JWK as certbot has it.

use aws_lc_rs::rsa;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use zeroize::Zeroize;
use zeroize::ZeroizeOnDrop;
use zeroize::Zeroizing;

use super::AccountKey;
use super::key_error;
use crate::acme::AcmeError;
use crate::model::KeyType;

impl AccountKey {
    /// Takes a key as text: PEM with a `PRIVATE KEY` (PKCS#8), an `EC PRIVATE KEY` (SEC 1) or an `RSA PRIVATE KEY`
    /// (PKCS#1), or a private JWK ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)).
    pub fn from_text(text: &str) -> Result<Self, AcmeError> {
        // Some editors write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('{') {
            return from_jwk(text);
        }
        // The parser knows nothing of encrypted keys and would only say that there is none.
        if text.contains("ENCRYPTED") {
            return Err(key_error("the account key is encrypted with a password: decrypt it first"));
        }
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => Self::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Sec1(der)) => from_sec1(der.secret_sec1_der()),
            Ok(PrivateKeyDer::Pkcs1(der)) => from_pkcs1(der.secret_pkcs1_der()),
            Ok(_) => Err(key_error("the account key is of a kind that certplan does not know")),
            Err(_) => Err(key_error(
                "the account key is no JWK, and holds no `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY` block in PEM",
            )),
        }
    }
}

fn from_sec1(der: &[u8]) -> Result<AccountKey, AcmeError> {
    if let Ok(pair) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
        return Ok(AccountKey::ecdsa(pair, KeyType::EcdsaP256));
    }
    match EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, der) {
        Ok(pair) => Ok(AccountKey::ecdsa(pair, KeyType::EcdsaP384)),
        Err(_) => Err(key_error("the account key is an ECDSA key on neither P-256 nor P-384")),
    }
}

fn from_pkcs1(der: &[u8]) -> Result<AccountKey, AcmeError> {
    match rsa::KeyPair::from_der(der) {
        Ok(pair) => AccountKey::rsa(pair),
        Err(_) => Err(key_error("the account key is no RSA key of 2048 bits or more")),
    }
}

/// The members of a private JWK ([RFC 7518, section 6](https://www.rfc-editor.org/rfc/rfc7518#section-6)).
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(tag = "kty")]
enum Jwk {
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String, d: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String, d: String, p: String, q: String, dp: String, dq: String, qi: String },
}

fn from_jwk(text: &str) -> Result<AccountKey, AcmeError> {
    // What the parser would quote may be the key.
    let jwk: Jwk = serde_json::from_str(text).map_err(|_| {
        key_error("the account key is no private JWK of the type `EC` or `RSA` with all its members")
    })?;
    let octets = |text: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(text).map(Zeroizing::new);
        decoded.map_err(|_| key_error("a member of the account key's JWK is not base64url"))
    };
    match &jwk {
        Jwk::Ec { crv, x, y, d } => {
            let (algorithm, key_type) = match crv.as_str() {
                "P-256" => (&ECDSA_P256_SHA256_FIXED_SIGNING, KeyType::EcdsaP256),
                "P-384" => (&ECDSA_P384_SHA384_FIXED_SIGNING, KeyType::EcdsaP384),
                _ => return Err(key_error("the account key is an ECDSA key on neither P-256 nor P-384")),
            };
            let point = [&[4], octets(x)?.as_slice(), octets(y)?.as_slice()].concat();
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, &octets(d)?, &point)
                .map(|pair| AccountKey::ecdsa(pair, key_type))
                .map_err(|_| key_error("the members of the account key's JWK do not belong together"))
        }
        Jwk::Rsa { n, e, d, p, q, dp, dq, qi } => {
            let mut numbers = Vec::new();
            for member in [n, e, d, p, q, dp, dq, qi] {
                numbers.push(octets(member)?);
            }
            // RSAPrivateKey of RFC 8017, appendix A.1.2.
            let der = Zeroizing::new(yasna::construct_der(|writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_u8(0);
                    for number in &numbers {
                        writer.next().write_bigint_bytes(number, true);
                    }
                });
            }));
            from_pkcs1(&der)
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::super::tests::keys;
    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\r\n{}\r\n-----END {label}-----\r\n", STANDARD.encode(der))
    }

    #[test]
    fn pkcs8_in_pem_is_taken_and_not_shown() {
        for (key, ..) in keys() {
            let der = key.to_pkcs8().unwrap();
            let again = AccountKey::from_text(&pem("PRIVATE KEY", &der)).unwrap();
            assert_eq!(again.thumbprint().unwrap(), key.thumbprint().unwrap());
            assert!(!format!("{key:?}").contains(&STANDARD.encode(der.as_slice())[..20]));
        }
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
        AccountKey::from_text(pem).unwrap();
    }

    #[test]
    fn a_byte_order_mark_before_a_key_is_no_part_of_it() {
        let (key, ..) = keys().into_iter().next().unwrap();
        let pem = pem("PRIVATE KEY", &key.to_pkcs8().unwrap());
        for text in [pem.as_str(), include_str!("samples/rfc7517-ec.jwk")] {
            let marked = AccountKey::from_text(&format!("\u{feff}{text}")).unwrap();
            let plain = AccountKey::from_text(text).unwrap();
            assert_eq!(marked.thumbprint().unwrap(), plain.thumbprint().unwrap());
        }
    }

    #[test]
    fn jwks_are_the_keys_that_they_say() {
        // The keys of RFC 7517, appendix A.2; RFC 7638, section 3.1, gives the thumbprint of the RSA key.
        for (jwk, thumbprint) in [
            (include_str!("samples/rfc7517-rsa.jwk"), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            (include_str!("samples/rfc7517-ec.jwk"), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"),
        ] {
            let key = AccountKey::from_text(jwk).unwrap();
            assert_eq!(key.thumbprint().unwrap(), thumbprint);
        }
    }

    #[test]
    fn other_keys_are_refused_with_the_reason_and_without_the_key() {
        for (text, reason) in [
            ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "no RSA key"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no ECDSA key"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "encrypted",
            ),
            ("", "no `PRIVATE KEY`"),
            (r#"{"kty":"oct","k":"secretsecret"}"#, "no private JWK"),
            (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, "no private JWK"),
            (r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA","d":"secretsecret"}"#, "neither P-256"),
            (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"secretsecret"}"#, "belong together"),
            (r#"{"kty":"EC","crv":"P-256","x":"A+","y":"AA","d":"secretsecret"}"#, "base64url"),
        ] {
            let error = AccountKey::from_text(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("secretsecret"), "{error}");
        }
    }
}
