use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certplan_http::Response;
use certplan_http::printable;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::error::AcmeError;
use super::origin::Origin;
use super::problem::Problem;
use crate::model::CertName;
use crate::model::NameSet;

/// An order ([RFC 8555, section 7.1.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3)), as the CA described it
/// last. Its URLs are on the CA's origin.
#[derive(Clone)]
#[non_exhaustive]
pub struct Order {
    /// The order's own URL: all that is needed to go on with it later.
    pub url: String,
    /// How far it is.
    pub status: OrderStatus,
    /// When the CA forgets it, where it says so.
    pub expires: Option<Timestamp>,
    /// The names.
    pub names: NameSet,
    /// The URLs of its authorizations.
    pub authorizations: Vec<String>,
    /// Where the CSR goes.
    pub finalize: String,
    /// Where the certificate is, once there is one.
    pub certificate: Option<String>,
    /// Why it is invalid.
    pub error: Option<Problem>,
    /// The profile, where the CA names one.
    pub profile: Option<String>,
    /// Whether the CA counts the order as the replacement that was asked for.
    pub replaces_accepted: bool,
    /// When to look again, where the CA said so.
    pub retry_after: Option<Duration>,
    /// The library's own view of the order, to finalize it with.
    pub(super) handle: Option<Arc<Mutex<instant_acme::Order>>>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("url", &self.url)
            .field("status", &self.status)
            .field("expires", &self.expires)
            .field("names", &self.names)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderStatus {
    /// It failed.
    Invalid,
    /// Authorizations are missing.
    Pending,
    /// The certificate is being issued.
    Processing,
    /// It waits for the CSR.
    Ready,
    /// Something that RFC 8555 does not know.
    Unknown(String),
    /// The certificate is there.
    Valid,
}

impl Order {
    /// Reads an order from an answer.
    pub(super) fn parse(url: &str, response: &Response, origin: &Origin) -> Result<Self, AcmeError> {
        let malformed = |reason: &str| AcmeError::Malformed {
            request: response.target.clone(),
            reason: reason.to_owned(),
            order: Some(url.to_owned()),
        };
        let value: Value =
            serde_json::from_slice(&response.body).map_err(|_| malformed("it is not an order in JSON"))?;
        let link = |value: &Value| -> Result<String, AcmeError> {
            let text = value.as_str().ok_or_else(|| malformed("a URL in the order is no text"))?;
            origin.url(text).map(Into::into)
        };
        let list = |key: &str| value.get(key).and_then(Value::as_array);
        let identifiers = list("identifiers").ok_or_else(|| malformed("there are no `identifiers`"))?;
        let names = identifiers
            .iter()
            .map(|identifier| dns_name(identifier).ok_or_else(|| malformed("an identifier is no DNS name")))
            .collect::<Result<NameSet, _>>()?;
        let authorizations =
            list("authorizations").ok_or_else(|| malformed("there are no `authorizations`"))?;
        // The CA's policy decides which there are (RFC 8555, section 7.1.3); each costs a request.
        if authorizations.len() > 2 * names.len() + 10 {
            let reason = format!("it has {} authorizations for {} names", authorizations.len(), names.len());
            return Err(malformed(&reason));
        }
        let status = value.get("status").and_then(Value::as_str);
        let finalize = value.get("finalize").ok_or_else(|| malformed("there is no `finalize`"))?;
        Ok(Self {
            url: url.to_owned(),
            status: OrderStatus::parse(status.ok_or_else(|| malformed("there is no `status`"))?),
            expires: moment(&value, "expires"),
            names,
            authorizations: authorizations.iter().map(link).collect::<Result<_, _>>()?,
            finalize: link(finalize)?,
            certificate: value.get("certificate").filter(|url| !url.is_null()).map(link).transpose()?,
            error: value.get("error").and_then(Problem::from_value),
            profile: value.get("profile").and_then(Value::as_str).map(|profile| printable(profile, 200)),
            replaces_accepted: value.get("replaces").is_some_and(|replaces| !replaces.is_null()),
            retry_after: response.retry_after,
            handle: None,
        })
    }

    /// Fails unless the order is for exactly these names: nothing else is ever finalized.
    pub fn check_names(&self, names: &NameSet) -> Result<(), AcmeError> {
        check_names(names, &self.names, Vec::new())
    }
}

/// Fails unless `found` is `wanted` and there is nothing else.
pub(super) fn check_names(wanted: &NameSet, found: &NameSet, other: Vec<String>) -> Result<(), AcmeError> {
    if wanted == found && other.is_empty() {
        return Ok(());
    }
    let mut extra: Vec<String> = found.difference(wanted).map(CertName::to_string).collect();
    extra.extend(other);
    Err(AcmeError::IdentifiersDiffer { missing: wanted.difference(found).cloned().collect(), extra })
}

impl OrderStatus {
    fn parse(text: &str) -> Self {
        match text {
            "invalid" => Self::Invalid,
            "pending" => Self::Pending,
            "processing" => Self::Processing,
            "ready" => Self::Ready,
            "valid" => Self::Valid,
            other => Self::Unknown(printable(other, 50)),
        }
    }
}

/// An authorization ([RFC 8555, section 7.1.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authorization {
    /// Its URL.
    pub url: String,
    /// The name, a wildcard where the order asked for one.
    pub name: CertName,
    /// How far it is.
    pub status: AuthorizationStatus,
    /// When the CA forgets it, where it says so.
    pub expires: Option<Timestamp>,
    /// The DNS-01 challenge, where it is offered.
    pub dns01: Option<Dns01>,
    /// The types of all challenges, for an error that says what the CA offers instead.
    pub offered: Vec<String>,
    /// When to look again, where the CA said so.
    pub retry_after: Option<Duration>,
}

/// How far an authorization is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorizationStatus {
    /// The client gave it up.
    Deactivated,
    /// It was valid for long enough.
    Expired,
    /// A challenge failed.
    Invalid,
    /// No challenge is answered yet, or the CA is looking.
    Pending,
    /// The CA took it back.
    Revoked,
    /// Something that RFC 8555 does not know.
    Unknown(String),
    /// The name is ours.
    Valid,
}

/// A DNS-01 challenge ([RFC 8555, section 8.4](https://www.rfc-editor.org/rfc/rfc8555#section-8.4)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dns01 {
    /// Where to answer it.
    pub url: String,
    /// What goes into the value, see [`Session::dns01_value`](super::Session::dns01_value).
    pub token: String,
    /// `pending`, `processing`, `valid` or `invalid`.
    pub status: String,
    /// Why it is invalid.
    pub error: Option<Problem>,
}

impl Authorization {
    pub(super) fn parse(url: &str, response: &Response, origin: &Origin) -> Result<Self, AcmeError> {
        let malformed = |reason: &str| AcmeError::malformed(response, reason);
        let value: Value = serde_json::from_slice(&response.body)
            .map_err(|_| malformed("it is not an authorization in JSON"))?;
        let identifier = value.get("identifier").ok_or_else(|| malformed("there is no `identifier`"))?;
        let mut name = dns_name(identifier).ok_or_else(|| malformed("its identifier is no DNS name"))?;
        if value.get("wildcard") == Some(&Value::Bool(true)) && !name.is_wildcard() {
            name = CertName::new(&format!("*.{name}"))
                .map_err(|_| malformed("its identifier cannot be a wildcard"))?;
        }
        let challenges =
            value.get("challenges").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let kind = |challenge: &Value| challenge.get("type").and_then(Value::as_str).map(str::to_owned);
        let dns01 = challenges
            .iter()
            .filter(|challenge| kind(challenge).as_deref() == Some("dns-01"))
            .find_map(|challenge| Dns01::parse(challenge, origin).transpose())
            .transpose()?;
        Ok(Self {
            url: url.to_owned(),
            name,
            status: match value.get("status").and_then(Value::as_str) {
                Some("deactivated") => AuthorizationStatus::Deactivated,
                Some("expired") => AuthorizationStatus::Expired,
                Some("invalid") => AuthorizationStatus::Invalid,
                // `processing` was a status once, and some servers still use it.
                Some("pending" | "processing") => AuthorizationStatus::Pending,
                Some("revoked") => AuthorizationStatus::Revoked,
                Some("valid") => AuthorizationStatus::Valid,
                other => AuthorizationStatus::Unknown(printable(other.unwrap_or("none"), 50)),
            },
            expires: moment(&value, "expires"),
            dns01,
            offered: challenges.iter().filter_map(|c| Some(printable(&kind(c)?, 50))).take(20).collect(),
            retry_after: response.retry_after,
        })
    }
}

impl Dns01 {
    /// `None` for a challenge without a usable token, which is none that can be answered.
    fn parse(challenge: &Value, origin: &Origin) -> Result<Option<Self>, AcmeError> {
        let text = |key: &str| challenge.get(key).and_then(Value::as_str);
        let (Some(token), Some(url)) = (text("token"), text("url")) else { return Ok(None) };
        let base64url = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        if token.is_empty() || token.len() > 500 || !token.bytes().all(base64url) {
            return Ok(None);
        }
        Ok(Some(Self {
            url: origin.url(url)?.into(),
            token: token.to_owned(),
            status: printable(text("status").unwrap_or("pending"), 50),
            error: challenge.get("error").and_then(Problem::from_value),
        }))
    }
}

fn dns_name(identifier: &Value) -> Option<CertName> {
    if identifier.get("type")?.as_str()? != "dns" {
        return None;
    }
    CertName::new(identifier.get("value")?.as_str()?).ok()
}

fn moment(value: &Value, key: &str) -> Option<Timestamp> {
    value.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok())
}
