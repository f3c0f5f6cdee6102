use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use certplan_provider::Secret;
use zeroize::Zeroizing;

use super::error::AcmeError;

/// What binds a new account to one that the CA knows from elsewhere.
#[derive(Debug, Clone)]
pub struct EabCredential {
    /// The key identifier.
    pub key_id: String,
    /// The MAC key as the CA shows it: in base64url or base64, with or without padding and line breaks.
    pub hmac_key: Secret,
}

/// Nothing shorter is taken for a key that was encoded twice.
const SHORTEST_KEY: usize = 16;

impl EabCredential {
    /// The MAC keys that the text may stand for, the likeliest first.
    ///
    /// There are two when the decoded text is base64 again: `gcloud` prints such keys, but a CA may as well give out
    /// a key that consists of such characters. A refused binding is not used up, so that both can be tried.
    pub(super) fn mac_keys(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, AcmeError> {
        let once =
            decode(self.hmac_key.expose().as_bytes()).filter(|key| !key.is_empty()).ok_or_else(|| {
                AcmeError::Key {
                    reason: "the `hmac_key` of the external account binding is neither base64url nor base64"
                        .to_owned(),
                }
            })?;
        let twice = decode(&once).filter(|key| key.len() >= SHORTEST_KEY);
        Ok([Some(once), twice].into_iter().flatten().collect())
    }
}

/// Decodes both alphabets, padding or not, white space left out.
fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let text: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.iter()
            .filter(|octet| !octet.is_ascii_whitespace())
            .map(|octet| match octet {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            })
            .collect(),
    );
    ENGINE.decode(text.as_slice()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn keys(text: &str) -> Vec<Vec<u8>> {
        let credential = EabCredential { key_id: "kid".to_owned(), hmac_key: Secret::new(text.to_owned()) };
        credential.mac_keys().unwrap().iter().map(|key| key.to_vec()).collect()
    }

    #[test]
    fn a_key_is_understood_in_every_form_that_a_ca_prints() {
        let raw: Vec<u8> = (200..=255).chain(0..10).collect();
        let padded = STANDARD.encode(&raw);
        for text in [
            padded.clone(),
            padded.trim_end_matches('=').to_owned(),
            URL_SAFE_NO_PAD.encode(&raw),
            format!(" {}\n{}\n", &padded[..10], &padded[10..]),
        ] {
            assert_eq!(keys(&text), std::slice::from_ref(&raw), "{text}");
        }
    }

    #[test]
    fn a_key_that_was_encoded_twice_has_two_readings() {
        let raw: Vec<u8> = (100..132).collect();
        let once = URL_SAFE_NO_PAD.encode(&raw);
        let twice = STANDARD.encode(&once);
        assert_eq!(keys(&twice), [once.into_bytes(), raw]);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        for text in ["", "not*base64", "ä"] {
            let credential =
                EabCredential { key_id: "kid".to_owned(), hmac_key: Secret::new(text.to_owned()) };
            let error = credential.mac_keys().unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
            assert!(!format!("{credential:?}").contains("base64"));
        }
    }
}
