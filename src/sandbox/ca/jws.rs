//! Requests signed as [RFC 8555, section 6.2](https://www.rfc-editor.org/rfc/rfc8555#section-6.2) says, and the keys
//! that sign them.

use aws_lc_rs::hmac;
use aws_lc_rs::signature;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::signature::UnparsedPublicKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Kind;
use super::problem::Problem;
use crate::model::sha256;

/// The algorithms of account keys.
pub(super) const ALGORITHMS: [&str; 4] = ["ES256", "ES384", "EdDSA", "RS256"];

/// A signed request, its signature not yet checked.
#[derive(Debug)]
pub(super) struct Jws {
    pub(super) protected: Protected,
    pub(super) payload: Vec<u8>,
    signing_input: String,
    signature: Vec<u8>,
}

/// The protected header.
#[derive(Debug, Deserialize)]
pub(super) struct Protected {
    alg: String,
    pub(super) nonce: Option<String>,
    pub(super) url: Option<String>,
    pub(super) kid: Option<String>,
    pub(super) jwk: Option<Value>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

impl Jws {
    /// Reads the flattened JSON serialisation; the compact one, the general one and unprotected headers are refused.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let flattened: Flattened = serde_json::from_slice(body)
            .map_err(|error| Problem::malformed(format!("the body is no flattened JWS: {error}")))?;
        Self::from_flattened(flattened)
    }

    /// Reads a JWS inside the payload of another.
    pub(super) fn from_value(value: &Value) -> Result<Self, Problem> {
        let flattened = Flattened::deserialize(value)
            .map_err(|error| Problem::malformed(format!("the inner JWS is no flattened JWS: {error}")))?;
        Self::from_flattened(flattened)
    }

    fn from_flattened(flattened: Flattened) -> Result<Self, Problem> {
        let decode = |part: &str, what: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| Problem::malformed(format!("the JWS's {what} is not base64url without padding")))
        };
        let header = decode(&flattened.protected, "protected header")?;
        let protected: Protected = serde_json::from_slice(&header)
            .map_err(|error| Problem::malformed(format!("the protected header is wrong: {error}")))?;
        if protected.crit.is_some() {
            return Err(Problem::malformed("the protected header has critical fields that are not known"));
        }
        Ok(Self {
            payload: decode(&flattened.payload, "payload")?,
            signature: decode(&flattened.signature, "signature")?,
            signing_input: format!("{}.{}", flattened.protected, flattened.payload),
            protected,
        })
    }

    /// Checks the signature.
    pub(super) fn verify(&self, key: &Jwk) -> Result<(), Problem> {
        let alg = self.protected.alg.as_str();
        if alg != key.algorithm() {
            let detail = if ALGORITHMS.contains(&alg) {
                format!("the algorithm {alg} does not go with the key, which signs with {}", key.algorithm())
            } else {
                "the algorithm of the JWS is not supported".to_owned()
            };
            return Err(Problem::new(Kind::BadSignatureAlgorithm, detail));
        }
        if key.verify(self.signing_input.as_bytes(), &self.signature)? {
            Ok(())
        } else {
            Err(Problem::malformed("the JWS's signature does not verify"))
        }
    }

    /// Checks a code of an external account key.
    pub(super) fn verify_hmac(&self, secret: &[u8]) -> Result<(), Problem> {
        let algorithm = match self.protected.alg.as_str() {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => {
                return Err(Problem::malformed("an external account binding is signed with HS256"));
            }
        };
        hmac::verify(&hmac::Key::new(algorithm, secret), self.signing_input.as_bytes(), &self.signature)
            .map_err(|_| Problem::unauthorized("the external account binding's signature does not verify"))
    }

    /// The payload as JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Problem::malformed(format!("the payload is wrong: {error}")))
    }

    /// An error unless the payload is empty, as of a POST-as-GET.
    pub(super) fn expect_empty(&self) -> Result<(), Problem> {
        if self.payload.is_empty() {
            Ok(())
        } else {
            Err(Problem::malformed("the payload of a POST-as-GET is empty"))
        }
    }
}

/// A public key of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub(super) enum Jwk {
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "OKP")]
    Okp { crv: String, x: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

impl Jwk {
    /// Reads a key and refuses what is weak, private or malformed.
    pub(super) fn from_value(value: &Value) -> Result<Self, Problem> {
        if value.get("d").is_some() {
            return Err(Problem::malformed("the JWK has a private part, which must never be sent"));
        }
        let key = Self::deserialize(value)
            .map_err(|error| Problem::malformed(format!("the JWK is wrong: {error}")))?;
        key.check()?;
        Ok(key)
    }

    fn check(&self) -> Result<(), Problem> {
        let bad = |detail: &str| Err(Problem::new(Kind::BadPublicKey, detail));
        match self {
            Self::Ec { crv, x, y } => {
                let length = match crv.as_str() {
                    "P-256" => 32,
                    "P-384" => 48,
                    _ => return bad("the curve is neither P-256 nor P-384"),
                };
                if decode(x)?.len() != length || decode(y)?.len() != length {
                    return bad("the coordinates have the wrong length");
                }
            }
            Self::Okp { crv, x } => {
                if crv != "Ed25519" || decode(x)?.len() != 32 {
                    return bad("the key is no Ed25519 key");
                }
            }
            Self::Rsa { n, e } => {
                let modulus = decode(n)?;
                if modulus.first() == Some(&0) || decode(e)?.first() == Some(&0) {
                    return bad("the numbers of an RSA key have no leading zero");
                }
                if !(2048..=4096).contains(&(modulus.len() * 8)) {
                    return bad("an RSA key has 2048 to 4096 bits");
                }
            }
        }
        Ok(())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec { crv, .. } if crv == "P-384" => "ES384",
            Self::Ec { .. } => "ES256",
            Self::Okp { .. } => "EdDSA",
            Self::Rsa { .. } => "RS256",
        }
    }

    fn verify(&self, message: &[u8], signed: &[u8]) -> Result<bool, Problem> {
        Ok(match self {
            Self::Ec { .. } => {
                let algorithm = match self.algorithm() {
                    "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => &signature::ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(algorithm, self.public_octets()?).verify(message, signed).is_ok()
            }
            Self::Okp { .. } => UnparsedPublicKey::new(&signature::ED25519, self.public_octets()?)
                .verify(message, signed)
                .is_ok(),
            Self::Rsa { n, e } => RsaPublicKeyComponents { n: decode(n)?, e: decode(e)? }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed)
                .is_ok(),
        })
    }

    /// What identifies the key in a certificate: the point, the raw key, or the modulus.
    pub(super) fn public_octets(&self) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Ec { x, y, .. } => {
                let mut point = vec![4];
                point.extend(decode(x)?);
                point.extend(decode(y)?);
                Ok(point)
            }
            Self::Okp { x, .. } => decode(x),
            Self::Rsa { n, .. } => decode(n),
        }
    }

    /// The thumbprint of [RFC 7638](https://www.rfc-editor.org/rfc/rfc7638) with SHA-256, in base64url.
    pub(super) fn thumbprint(&self) -> String {
        // The members were read as base64url or known names: nothing in them needs escaping.
        let canonical = match self {
            Self::Ec { crv, x, y } => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Self::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
            Self::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()).as_bytes())
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Problem::malformed("a member of the JWK is not base64url without padding"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638, section 3.1.
        let key = Jwk::from_value(&json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29",
        }))
        .unwrap();
        assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn weak_private_and_malformed_keys_are_refused() {
        let x = URL_SAFE_NO_PAD.encode([1; 32]);
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        let weak = URL_SAFE_NO_PAD.encode([0xff; 128]);
        for bad in [
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x, "d": x }),
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": short }),
            json!({ "kty": "EC", "crv": "P-521", "x": x, "y": x }),
            json!({ "kty": "EC", "crv": "P-256", "x": format!("{x}="), "y": x }),
            json!({ "kty": "OKP", "crv": "X25519", "x": x }),
            json!({ "kty": "RSA", "n": weak, "e": "AQAB" }),
            json!({ "kty": "oct", "k": x }),
            json!("EC"),
        ] {
            assert!(Jwk::from_value(&bad).is_err(), "{bad}");
        }
        assert!(Jwk::from_value(&json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x })).is_ok());
    }

    #[test]
    fn other_serialisations_and_unprotected_headers_are_refused() {
        let part = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let good = json!({ "protected": part, "payload": "", "signature": "" });
        assert!(Jws::parse(good.to_string().as_bytes()).is_ok());
        for bad in [
            json!({ "protected": part, "payload": "", "signature": "", "header": { "kid": "x" } }),
            json!({ "payload": "", "signatures": [{ "protected": part, "signature": "" }] }),
            json!({ "protected": format!("{part}="), "payload": "", "signature": "" }),
            json!({ "protected": URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","crit":["b64"]}"#), "payload": "", "signature": "" }),
        ] {
            assert!(Jws::parse(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        assert!(Jws::parse(format!("{part}..").as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Jws::parse(&body);
        }
    }
}
