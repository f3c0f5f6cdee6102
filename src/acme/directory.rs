use std::collections::BTreeMap;

use bytes::Bytes;
use certplan_http::Response;
use certplan_http::printable;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;
use url::Url;

use super::error::AcmeError;
use super::origin::Origin;

/// What a CA offers ([RFC 8555, section 7.1.1](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directory {
    /// Profiles by name, with their descriptions.
    pub profiles: BTreeMap<String, String>,
    /// Whether there is renewal information ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)).
    pub renewal_info: bool,
    /// Whether a new account needs an external account binding.
    pub external_account_required: bool,
    /// The URL of the terms of service.
    pub terms_of_service: Option<String>,
    /// The domains that CAA records name to allow this CA.
    pub caa_identities: Vec<String>,
}

/// The directory with its URLs, each checked to be on the CA's origin.
#[derive(Debug, Clone)]
pub(super) struct Resources {
    pub(super) facts: Directory,
    pub(super) new_nonce: Url,
    pub(super) new_account: Url,
    pub(super) renewal_info: Option<Url>,
    /// How far this machine's clock is ahead of the server's, where that told its own.
    pub(super) clock_ahead: Option<SignedDuration>,
    /// What the library gets when it asks for the directory: the URLs only, for it is strict about everything else.
    pub(super) for_library: Bytes,
}

impl Resources {
    pub(super) fn parse(response: &Response, origin: &Origin) -> Result<Self, AcmeError> {
        let malformed = |reason: String| AcmeError::malformed(response, reason);
        let value: Value = serde_json::from_slice(&response.body).map_err(|_| {
            malformed(format!("it is not a directory in JSON, and says: {}", response.excerpt()))
        })?;
        let optional = |key: &str| match value.get(key).and_then(Value::as_str) {
            Some(text) => origin.url(text).map(Some),
            None => Ok(None),
        };
        let required = |key: &str| {
            optional(key)?
                .ok_or_else(|| malformed(format!("it is not an ACME directory: there is no `{key}`")))
        };
        let (new_nonce, new_account, new_order) =
            (required("newNonce")?, required("newAccount")?, required("newOrder")?);
        let renewal_info = optional("renewalInfo")?;
        let for_library = json!({
            "newNonce": new_nonce,
            "newAccount": new_account,
            "newOrder": new_order,
            "renewalInfo": renewal_info,
        });
        let meta = value.get("meta").unwrap_or(&Value::Null);
        let text = |value: &Value| value.as_str().map(|text| printable(text, 500));
        Ok(Self {
            facts: Directory {
                profiles: meta
                    .get("profiles")
                    .and_then(Value::as_object)
                    .map(|profiles| {
                        let described = profiles.iter().map(|(name, description)| {
                            (printable(name, 200), text(description).unwrap_or_default())
                        });
                        described.collect()
                    })
                    .unwrap_or_default(),
                renewal_info: renewal_info.is_some(),
                external_account_required: meta.get("externalAccountRequired") == Some(&Value::Bool(true)),
                terms_of_service: meta.get("termsOfService").and_then(text),
                caa_identities: meta
                    .get("caaIdentities")
                    .and_then(Value::as_array)
                    .map(|identities| identities.iter().filter_map(text).collect())
                    .unwrap_or_default(),
            },
            new_nonce,
            new_account,
            renewal_info,
            clock_ahead: response.server_time().map(|theirs| now().duration_since(theirs)),
            for_library: Bytes::from(for_library.to_string()),
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is compared with the server's clock at the moment of its answer"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
