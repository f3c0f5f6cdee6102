//! What is inside a sealed key: age binds a plaintext to nothing, so the plaintext says what it belongs to.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use super::seal::Place;
use super::seal::SealError;
use crate::model::Address;
use crate::model::Fingerprint;

/// The longest PKCS#8 document: an RSA key of 16,384 bits has a little more than 9,000 octets.
const LONGEST: usize = 32 << 10;

/// The plaintext of a sealed key, borrowing what is secret: nothing of it is copied beyond what wipes itself.
#[derive(Serialize, Deserialize)]
struct Plain<'a> {
    format: u32,
    lineage: String,
    address: Address,
    /// Set in a hand-off only, so that neither serves as the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    spki: Fingerprint,
    #[serde(borrow)]
    pkcs8: &'a str,
}

/// What a private key belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding<'a> {
    pub(super) place: &'a Place,
    pub(super) operation: Option<&'a str>,
    pub(super) spki: Fingerprint,
}

impl Binding<'_> {
    /// The plaintext for a key.
    pub(super) fn wrap(&self, pkcs8: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if pkcs8.is_empty() || pkcs8.len() > LONGEST {
            return Err(SealError::Content { reason: "the key has no sensible length" });
        }
        // Reserved in full: a string that grows leaves copies of its beginning behind.
        let mut encoded = Zeroizing::new(String::with_capacity(pkcs8.len() * 4 / 3 + 4));
        STANDARD.encode_string(pkcs8, &mut encoded);
        let plain = Plain {
            format: 1,
            lineage: self.place.lineage.clone(),
            address: self.place.address.clone(),
            operation: self.operation.map(str::to_owned),
            spki: self.spki,
            pkcs8: &encoded,
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(encoded.len() + 2_048));
        serde_json::to_writer(&mut *bytes, &plain)
            .map_err(|_| SealError::Content { reason: "the key cannot be wrapped" })?;
        Ok(bytes)
    }

    /// The key in a plaintext, if that is what it should be.
    pub(super) fn unwrap(&self, plaintext: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        // The parser's message could quote the plaintext.
        let plain: Plain<'_> = serde_json::from_slice(plaintext)
            .map_err(|_| SealError::Content { reason: "it holds something else than a key" })?;
        let expected = |what, found: String, expected: String| SealError::Misplaced { what, found, expected };
        if plain.format != 1 {
            return Err(SealError::Content { reason: "it was sealed by a newer certplan" });
        }
        if plain.lineage != self.place.lineage {
            return Err(expected("state", plain.lineage, self.place.lineage.clone()));
        }
        if plain.address != self.place.address {
            return Err(expected("address", plain.address.to_string(), self.place.address.to_string()));
        }
        if plain.operation.as_deref() != self.operation {
            let text = |operation: Option<&str>| operation.unwrap_or("none").to_owned();
            return Err(expected("operation", text(plain.operation.as_deref()), text(self.operation)));
        }
        if plain.spki != self.spki {
            return Err(expected("public key", plain.spki.to_string(), self.spki.to_string()));
        }
        let mut key = Zeroizing::new(Vec::with_capacity(plain.pkcs8.len()));
        STANDARD
            .decode_vec(plain.pkcs8, &mut key)
            .map_err(|_| SealError::Content { reason: "the key in it is not base64" })?;
        if key.is_empty() || key.len() > LONGEST {
            return Err(SealError::Content { reason: "the key in it has no sensible length" });
        }
        Ok(key)
    }
}
