use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certplan_http::ProxySource;
use certplan_http::Response;
use certplan_http::RetryPolicy;
use certplan_http::printable;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::account_key::AccountKey;
use super::adapter::location;
use super::directory::Directory;
use super::eab::EabCredential;
use super::error::AcmeError;
use super::jws::Signer;
use super::jws::external_account_binding;
use super::problem::Problem;
use super::session::Session;
use super::transport::Repeat;
use super::transport::Transport;

/// The bounds of the time after which to ask for renewal information again
/// ([RFC 9773, section 4.3.2](https://www.rfc-editor.org/rfc/rfc9773#section-4.3.2)).
const ARI_SOONEST: Duration = Duration::from_secs(60);
const ARI_LATEST: Duration = Duration::from_secs(86_400);
/// When the server does not say when to ask again.
const ARI_DEFAULT: Duration = Duration::from_secs(6 * 3600);

/// How to reach a CA.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AcmeSettings {
    /// The URL of the directory.
    pub directory: Url,
    /// Certificates in PEM to trust for the server, beside the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// Further hosts (`HOST` or `HOST:PORT`) that URLs of the server may name.
    pub allow_hosts: Vec<String>,
    /// The `User-Agent`.
    pub user_agent: String,
    /// How many requests may be in flight at once.
    pub max_in_flight: usize,
    /// The longest time for one request.
    pub timeout: Duration,
    /// How requests are repeated. A `Retry-After` beyond the longest pause becomes an error that carries it.
    pub retry: RetryPolicy,
    /// How long a CA is waited for together that answers nobody any more, before all give it up.
    pub patience: Duration,
    /// Where proxies come from.
    pub proxy: ProxySource,
    /// Ends every wait, and lets no further request out.
    pub cancel: CancellationToken,
}

impl AcmeSettings {
    /// The defaults for a directory: 32 requests in flight, 30 s for each, a minute for a CA that falls silent.
    pub fn new(directory: Url) -> Self {
        Self {
            directory,
            ca_bundle: None,
            allow_hosts: Vec::new(),
            user_agent: concat!("certplan/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_in_flight: 32,
            timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            patience: Duration::from_secs(60),
            proxy: ProxySource::default(),
            cancel: CancellationToken::new(),
        }
    }
}

/// A CA, as one client for a whole run: connections, nonces and limits are shared by everything that talks to it.
#[derive(Clone)]
pub struct AcmeClient {
    pub(super) transport: Arc<Transport>,
}

impl AcmeClient {
    /// Sets a client up; nothing is sent.
    ///
    /// # Errors
    /// [`AcmeError::Settings`] when the directory is no https URL or `allow_hosts` makes no sense, and
    /// [`AcmeError::Transport`] when the CA bundle cannot be read.
    pub fn new(settings: AcmeSettings) -> Result<Arc<Self>, AcmeError> {
        Ok(Arc::new(Self { transport: Arc::new(Transport::new(&settings)?) }))
    }

    /// What the CA offers. Fetched once.
    pub async fn directory(&self) -> Result<Directory, AcmeError> {
        Ok(self.transport.resources().await?.facts.clone())
    }

    /// How far this machine's clock is ahead of the CA's (behind, when negative), as far as the directory was asked for
    /// and told that.
    pub fn clock_ahead(&self) -> Option<SignedDuration> {
        self.transport.resources.get()?.clock_ahead
    }

    /// Lets the CA be asked again at once when the directory could not be fetched, or it was silent.
    pub fn forget_failure(&self) {
        self.transport.resources.forget_failure();
        self.transport.silence.forget();
    }

    /// Asks when a certificate should be renewed ([RFC 9773, section 4](https://www.rfc-editor.org/rfc/rfc9773#section-4)).
    /// It needs no account.
    ///
    /// # Errors
    /// [`AcmeError::Unsupported`] when the CA has no renewal information, [`AcmeError::NotFound`] when it does not know
    /// the certificate. After an error that is not [retryable](AcmeError::is_retryable) the RFC suggests six hours until
    /// the next try.
    pub async fn renewal_info(&self, ari_id: &str) -> Result<RenewalInfo, AcmeError> {
        let resources = self.transport.resources().await?;
        let base = resources
            .renewal_info
            .as_ref()
            .ok_or(AcmeError::Unsupported { feature: "renewal information" })?;
        if !ari_id.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet)) {
            return Err(AcmeError::Settings { reason: "a renewal identifier is base64url".to_owned() });
        }
        let url = self.transport.origin.url(&format!("{}/{ari_id}", base.as_str().trim_end_matches('/')))?;
        RenewalInfo::parse(&self.transport.get(url).await?)
    }

    /// Returns the URL of the account that a key has, if it has one, and creates none.
    ///
    /// # Errors
    /// [`AcmeError::AccountDoesNotExist`] when there was an account and it is deactivated.
    pub async fn find_account(&self, key: &AccountKey) -> Result<Option<String>, AcmeError> {
        let url = &self.transport.resources().await?.new_account;
        let payload = json!({ "onlyReturnExisting": true });
        match self.transport.post(Signer::Jwk(key), url, Some(&payload), Repeat::Always).await {
            Ok(response) => self.account_url(&response).map(Some),
            Err(AcmeError::AccountDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates the account of a key, or returns the one that it has; the terms of service are agreed to.
    ///
    /// Contacts are e-mail addresses, with or without `mailto:`. An account that exists keeps the contacts it has.
    ///
    /// # Errors
    /// After an error whose [outcome is unknown](AcmeError::outcome_is_unknown) [`find_account`](Self::find_account)
    /// was asked already; call it again before the next try, for a binding may be usable once.
    pub async fn create_account(
        &self,
        key: &AccountKey,
        contact: &[String],
        eab: Option<&EabCredential>,
    ) -> Result<String, AcmeError> {
        let resources = self.transport.resources().await?;
        if resources.facts.external_account_required && eab.is_none() {
            return Err(AcmeError::ExternalAccountRequired);
        }
        let contact = contact_urls(contact);
        let mut payload = json!({ "termsOfServiceAgreed": true });
        if !contact.is_empty() {
            payload["contact"] = json!(contact);
        }
        let Some(eab) = eab else { return self.new_account(key, &payload).await };
        let mut refusal = None;
        for mac_key in eab.mac_keys()? {
            payload["externalAccountBinding"] =
                external_account_binding(key, &eab.key_id, &mac_key, resources.new_account.as_str())?;
            match self.new_account(key, &payload).await {
                // The CA refused the signature: the text may stand for another key.
                Err(AcmeError::Problem(problem)) => {
                    refusal.get_or_insert(problem);
                }
                result => return result,
            }
        }
        Err(AcmeError::Problem(refusal.unwrap_or_default()))
    }

    /// Everything that an account does. Nothing is sent.
    ///
    /// # Errors
    /// [`AcmeError::OffOrigin`] when the account's URL is not one of this CA.
    pub fn session(self: &Arc<Self>, key: &AccountKey, account_url: &str) -> Result<Session, AcmeError> {
        let account_url = self.transport.origin.url(account_url)?;
        Session::new(Arc::clone(&self.transport), key.clone(), account_url.into())
    }

    async fn new_account(&self, key: &AccountKey, payload: &Value) -> Result<String, AcmeError> {
        let url = &self.transport.resources().await?.new_account;
        let error = match self.transport.post(Signer::Jwk(key), url, Some(payload), Repeat::WhenRefused).await
        {
            Ok(response) => return self.account_url(&response),
            Err(error) => error,
        };
        if error.outcome_is_unknown()
            && let Ok(Some(found)) = self.find_account(key).await
        {
            return Ok(found);
        }
        Err(error)
    }

    fn account_url(&self, response: &Response) -> Result<String, AcmeError> {
        let account: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if let Some(status @ ("deactivated" | "revoked")) = account.get("status").and_then(Value::as_str) {
            return Err(AcmeError::AccountDoesNotExist(Problem {
                detail: format!("it is {status}"),
                ..Problem::default()
            }));
        }
        location(response, &self.transport)?
            .map(Into::into)
            .ok_or_else(|| AcmeError::malformed(response, "there is no account URL in it"))
    }
}

/// Contacts as the protocol has them.
pub(super) fn contact_urls(contact: &[String]) -> Vec<String> {
    let url = |contact: &String| {
        if contact.starts_with("mailto:") { contact.clone() } else { format!("mailto:{contact}") }
    };
    contact.iter().map(url).collect()
}

impl fmt::Debug for AcmeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcmeClient({})", self.transport.directory)
    }
}

/// When the CA would like a certificate to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenewalInfo {
    /// The window; `None` when the CA gave one that ends before it starts, which counts as no answer.
    pub window: Option<(Timestamp, Timestamp)>,
    /// A page that explains the window.
    pub explanation_url: Option<String>,
    /// When to ask again: between one minute and one day, and six hours where the CA does not say.
    pub retry_after: Duration,
}

impl RenewalInfo {
    fn parse(response: &Response) -> Result<Self, AcmeError> {
        let malformed = |reason: &str| AcmeError::malformed(response, reason);
        let value: Value = serde_json::from_slice(&response.body)
            .map_err(|_| malformed("it is no renewal information in JSON"))?;
        let window =
            value.get("suggestedWindow").ok_or_else(|| malformed("there is no `suggestedWindow`"))?;
        let moment = |key: &str| -> Result<Timestamp, AcmeError> {
            window
                .get(key)
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| malformed("the `suggestedWindow` does not hold two dates"))
        };
        let (start, end) = (moment("start")?, moment("end")?);
        Ok(Self {
            window: (start < end).then_some((start, end)),
            explanation_url: value
                .get("explanationURL")
                .and_then(Value::as_str)
                .filter(|url| url.starts_with("https://") || url.starts_with("http://"))
                .map(|url| printable(url, 500)),
            retry_after: response.retry_after.unwrap_or(ARI_DEFAULT).clamp(ARI_SOONEST, ARI_LATEST),
        })
    }
}
