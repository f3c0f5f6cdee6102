use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::json;

use super::account_key::AccountKey;
use super::error::AcmeError;

/// How a request says whose it is ([RFC 8555, section 6.2](https://www.rfc-editor.org/rfc/rfc8555#section-6.2)).
#[derive(Debug, Clone, Copy)]
pub(super) enum Signer<'a> {
    /// By the key itself: for newAccount only.
    Jwk(&'a AccountKey),
    /// By the account's URL.
    Kid(&'a AccountKey, &'a str),
}

impl Signer<'_> {
    /// A JWS in the flattened JSON serialisation. Without a payload it is a POST-as-GET.
    pub(super) fn sign(self, url: &str, nonce: &str, payload: Option<&Value>) -> Result<Vec<u8>, AcmeError> {
        let (key, header) = match self {
            Self::Jwk(key) => (key, json!({ "jwk": key.jwk()?, "nonce": nonce, "url": url })),
            Self::Kid(key, kid) => (key, json!({ "kid": kid, "nonce": nonce, "url": url })),
        };
        let payload = payload.map_or_else(String::new, Value::to_string);
        signed(key, header, &payload)
    }
}

/// Signs with another key what was signed already: instant-acme has ES256 alone.
pub(super) fn sign_again(key: &AccountKey, jws: &[u8]) -> Result<Vec<u8>, AcmeError> {
    let unexpected = || AcmeError::Settings { reason: "the request is no JWS in JSON".to_owned() };
    let jws: Value = serde_json::from_slice(jws).map_err(|_| unexpected())?;
    let member = |name| {
        let text = jws.get(name).and_then(Value::as_str)?;
        String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    };
    let (header, payload) = member("protected").zip(member("payload")).ok_or_else(unexpected)?;
    signed(key, serde_json::from_str(&header).map_err(|_| unexpected())?, &payload)
}

fn signed(key: &AccountKey, mut header: Value, payload: &str) -> Result<Vec<u8>, AcmeError> {
    header["alg"] = key.algorithm().into();
    let jws = flattened(&header, payload, |message| key.sign(message))?;
    Ok(jws.to_string().into_bytes())
}

/// The binding of a new account to one outside ([RFC 8555, section 7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4)):
/// the account's public key, signed with the MAC key by HMAC-SHA-256.
pub(super) fn external_account_binding(
    key: &AccountKey,
    key_id: &str,
    mac_key: &[u8],
    new_account: &str,
) -> Result<Value, AcmeError> {
    let header = json!({ "alg": "HS256", "kid": key_id, "url": new_account });
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, mac_key);
    flattened(&header, &key.jwk()?.to_string(), |message| Ok(hmac::sign(&mac_key, message).as_ref().to_vec()))
}

fn flattened(
    header: &Value,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, AcmeError>,
) -> Result<Value, AcmeError> {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(signature) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(value: &Value, member: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(value[member].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_post_as_get_has_an_empty_payload_and_the_account_as_kid() {
        let key = AccountKey::generate().unwrap();
        let signer = Signer::Kid(&key, "https://ca/acct/1");
        let jws: Value =
            serde_json::from_slice(&signer.sign("https://ca/order/1", "n", None).unwrap()).unwrap();
        assert_eq!(jws["payload"], "");
        let header: Value = serde_json::from_slice(&decoded(&jws, "protected")).unwrap();
        assert_eq!(
            header,
            json!({ "alg": "ES256", "kid": "https://ca/acct/1", "nonce": "n", "url": "https://ca/order/1" })
        );
        assert_eq!(decoded(&jws, "signature").len(), 64);
    }

    #[test]
    fn the_binding_signs_the_public_key_without_a_nonce() {
        let key = AccountKey::generate().unwrap();
        let binding = external_account_binding(&key, "kid-1", b"secret", "https://ca/new").unwrap();
        let header: Value = serde_json::from_slice(&decoded(&binding, "protected")).unwrap();
        assert_eq!(header, json!({ "alg": "HS256", "kid": "kid-1", "url": "https://ca/new" }));
        let payload: Value = serde_json::from_slice(&decoded(&binding, "payload")).unwrap();
        assert_eq!(payload, key.jwk().unwrap());
        let message =
            format!("{}.{}", binding["protected"].as_str().unwrap(), binding["payload"].as_str().unwrap());
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        hmac::verify(&mac_key, message.as_bytes(), &decoded(&binding, "signature")).unwrap();
    }
}
