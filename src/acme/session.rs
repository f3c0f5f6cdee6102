use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan_http::Response;
use instant_acme::Account;
use instant_acme::CertificateIdentifier;
use instant_acme::Identifier;
use instant_acme::NewOrder;
use jiff::Timestamp;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::sync::OnceCell;

use super::account_key::AccountKey;
use super::adapter::Adapter;
use super::adapter::location;
use super::adapter::observed;
use super::certificate_key::csr_names;
use super::client::contact_urls;
use super::error::AcmeError;
use super::jws::Signer;
use super::order::Authorization;
use super::order::AuthorizationStatus;
use super::order::Order;
use super::order::OrderStatus;
use super::order::check_names;
use super::problem::Problem;
use super::transport::Repeat;
use super::transport::Transport;
use crate::model::CertName;
use crate::model::KeyType;
use crate::model::NameSet;
use crate::model::sha256;

/// How often a CSR is sent while the order stays `ready` after answers that do not say what happened.
const FINALIZE_ATTEMPTS: u32 = 3;

/// An account at a CA. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Session {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) transport: Arc<Transport>,
    key: AccountKey,
    thumbprint: String,
    account_url: String,
    account: OnceCell<Account>,
}

impl Session {
    pub(super) fn new(
        transport: Arc<Transport>,
        key: AccountKey,
        account_url: String,
    ) -> Result<Self, AcmeError> {
        let thumbprint = key.thumbprint()?;
        let account = OnceCell::new();
        Ok(Self { inner: Arc::new(Inner { transport, key, thumbprint, account_url, account }) })
    }

    /// The account's URL.
    pub fn account_url(&self) -> &str {
        &self.inner.account_url
    }

    /// What the time is: by this machine's clock or by the CA's, between which it lies when one of them is wrong.
    pub fn time(&self, now: Timestamp) -> RangeInclusive<Timestamp> {
        let ahead = self.inner.transport.resources.get().and_then(|resources| resources.clock_ahead);
        let theirs = ahead.and_then(|ahead| now.checked_sub(ahead).ok()).unwrap_or(now);
        now.min(theirs)..=now.max(theirs)
    }

    /// Tells the CA who to write to, in place of whoever it knew; none is allowed
    /// ([RFC 8555, section 7.3.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.2)). Twice is the same as once.
    ///
    /// Contacts are e-mail addresses, with or without `mailto:`.
    pub async fn update_contact(&self, contact: &[String]) -> Result<(), AcmeError> {
        let payload = json!({ "contact": contact_urls(contact) });
        self.post(&self.inner.account_url, Some(&payload)).await?;
        Ok(())
    }

    /// Orders a certificate. The CA may answer with an order that it still has for the same names.
    ///
    /// `replaces` is the ARI identifier of the certificate that this one is to replace; it is left out where the CA has
    /// no renewal information.
    ///
    /// # Errors
    /// [`AcmeError::AlreadyReplaced`]: ask again without `replaces`. [`AcmeError::Malformed`] with `order` set: the
    /// order was created, its URL is there, but it could not be read at that URL either.
    /// [`AcmeError::IdentifiersDiffer`] when the order is for other names.
    pub async fn new_order(
        &self,
        names: &NameSet,
        profile: Option<&str>,
        replaces: Option<&str>,
    ) -> Result<Order, AcmeError> {
        let transport = &self.inner.transport;
        let account = self.account().await?;
        let supported = transport.resources().await?.facts.renewal_info;
        let replaces = replaces.filter(|_| supported).and_then(|id| id.split_once('.'));
        let identifiers: Vec<Identifier> =
            names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
        let result = transport
            .signed(Repeat::Always, || {
                let mut request = NewOrder::new(&identifiers);
                if let Some(profile) = profile {
                    request = request.profile(profile);
                }
                if let Some((authority, serial)) = replaces {
                    request = request.replaces(CertificateIdentifier {
                        authority_key_identifier: authority.into(),
                        serial: serial.into(),
                    });
                }
                async move { observed(account.new_order(&request)).await }
            })
            .await;
        let (handle, response) = match result {
            Err(AcmeError::Problem(problem)) if replaces.is_some() && is_about_replaces(&problem) => {
                return Err(AcmeError::AlreadyReplaced(problem));
            }
            result => result?,
        };
        let url: String = location(&response, transport)?
            .ok_or_else(|| AcmeError::malformed(&response, "there is no order URL in it"))?
            .into();
        let order = match Order::parse(&url, &response, &transport.origin) {
            Ok(order) => order.with_handle(handle),
            // The order exists: what the answer to its creation lacks, the order itself may say.
            Err(AcmeError::Malformed { request, reason, order }) => match self.order(&url).await {
                Ok(order) => order,
                Err(_) => return Err(AcmeError::Malformed { request, reason, order }),
            },
            Err(error) => return Err(error),
        };
        order.check_names(names)?;
        Ok(order)
    }

    /// Reads an order again.
    ///
    /// # Errors
    /// [`AcmeError::NotFound`] when the CA has forgotten it.
    pub async fn order(&self, url: &str) -> Result<Order, AcmeError> {
        let transport = &self.inner.transport;
        let url: String = transport.origin.url(url)?.into();
        let account = self.account().await?;
        let (handle, response) =
            transport.signed(Repeat::Always, || observed(account.order(url.clone()))).await?;
        Ok(Order::parse(&url, &response, &transport.origin)?.with_handle(handle))
    }

    /// Reads an authorization.
    pub async fn authorization(&self, url: &str) -> Result<Authorization, AcmeError> {
        Authorization::parse(url, &self.post(url, None).await?, &self.inner.transport.origin)
    }

    /// The TXT value that answers a DNS-01 challenge: 43 characters of base64url.
    pub fn dns01_value(&self, token: &str) -> String {
        let authorization = format!("{token}.{}", self.inner.thumbprint);
        URL_SAFE_NO_PAD.encode(sha256(authorization.as_bytes()).as_bytes())
    }

    /// Tells the CA to look at a challenge. A challenge that it is looking at already, or has looked at, is no error.
    pub async fn answer(&self, challenge_url: &str) -> Result<(), AcmeError> {
        match self.post(challenge_url, Some(&json!({}))).await {
            Ok(_) => Ok(()),
            // A lost answer was repeated, or another order shares the authorization.
            Err(AcmeError::Problem(problem)) => {
                let challenge = self.post(challenge_url, None).await?;
                let challenge: Value = serde_json::from_slice(&challenge.body).unwrap_or_default();
                match challenge.get("status").and_then(Value::as_str) {
                    Some("processing" | "valid" | "invalid") => Ok(()),
                    _ => Err(AcmeError::Problem(problem)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Why the authorizations of an invalid order failed, by name.
    pub async fn failures(&self, order: &Order) -> Result<Vec<(CertName, Problem)>, AcmeError> {
        let mut failures = Vec::new();
        for url in &order.authorizations {
            let authorization = self.authorization(url).await?;
            if authorization.status == AuthorizationStatus::Invalid {
                let problem = authorization.dns01.and_then(|challenge| challenge.error).unwrap_or_default();
                failures.push((authorization.name, problem));
            }
        }
        Ok(failures)
    }

    /// Sends the CSR, and returns the order as it is then: `processing`, or `valid` at once.
    ///
    /// The order is never finalized for other names than its own. When an answer does not say whether the CA acted, the
    /// order is asked; while it stays `ready` the same CSR is sent again, which issues nothing twice.
    ///
    /// # Errors
    /// [`AcmeError::BadCsr`], [`AcmeError::OrderNotReady`] when the order has authorizations to come, and whatever is
    /// left after that.
    pub async fn finalize(&self, order: &Order, csr_der: &[u8]) -> Result<Order, AcmeError> {
        let (names, other) = csr_names(csr_der)?;
        check_names(&order.names, &names, other)?;
        let mut attempt = 1;
        loop {
            let error = match self.finalize_once(order, csr_der).await {
                Ok(order) => return Ok(order),
                Err(error) => error,
            };
            let not_ready = matches!(error, AcmeError::OrderNotReady(_));
            if !not_ready && !error.outcome_is_unknown() {
                return Err(error);
            }
            match self.order(&order.url).await {
                Ok(now) if matches!(now.status, OrderStatus::Processing | OrderStatus::Valid) => {
                    return Ok(now);
                }
                // A replica that lags behind says "not ready" of an order that is.
                Ok(now) if now.status == OrderStatus::Ready && attempt < FINALIZE_ATTEMPTS => {
                    let pause = now
                        .retry_after
                        .unwrap_or_default()
                        .clamp(Duration::from_millis(250 * u64::from(attempt)), Duration::from_secs(5));
                    self.inner.transport.pause(pause).await?;
                    attempt += 1;
                }
                _ => return Err(error),
            }
        }
    }

    async fn finalize_once(&self, order: &Order, csr_der: &[u8]) -> Result<Order, AcmeError> {
        let handle = match &order.handle {
            Some(handle) => Arc::clone(handle),
            None => match self.order(&order.url).await?.handle {
                Some(handle) => handle,
                None => {
                    return Err(AcmeError::Malformed {
                        request: format!("`POST {}`", order.url),
                        reason: "the order cannot be read".to_owned(),
                        order: Some(order.url.clone()),
                    });
                }
            },
        };
        let transport = &self.inner.transport;
        let (_, response) = transport
            .signed(Repeat::WhenRefused, || {
                let handle = Arc::clone(&handle);
                async move { observed(handle.lock().await.finalize_csr(csr_der)).await }
            })
            .await?;
        let finalized = Order::parse(&order.url, &response, &transport.origin)?;
        Ok(Order { handle: order.handle.clone(), ..finalized })
    }

    /// A signed request of our own: with a payload, or as POST-as-GET.
    pub(super) async fn post(&self, url: &str, payload: Option<&Value>) -> Result<Response, AcmeError> {
        let url = self.inner.transport.origin.url(url)?;
        let signer = Signer::Kid(&self.inner.key, &self.inner.account_url);
        self.inner.transport.post(signer, &url, payload, Repeat::Always).await
    }

    /// The library's account, made at its first use.
    async fn account(&self) -> Result<&Account, AcmeError> {
        let inner = &self.inner;
        inner
            .account
            .get_or_try_init(|| async {
                // The adapter answers the library's request for the directory from here.
                inner.transport.resources().await?;
                // The library signs with P-256 keys alone. In the place of another key it gets one that no server
                // sees, and the adapter signs again.
                let (key, signer) = match inner.key.key_type() {
                    KeyType::EcdsaP256 => (inner.key.to_pkcs8()?, None),
                    _ => (AccountKey::generate()?.to_pkcs8()?, Some(inner.key.clone())),
                };
                Account::builder_with_http(Box::new(Adapter::new(Arc::clone(&inner.transport), signer)))
                    .from_parts(
                        inner.account_url.clone(),
                        PrivatePkcs8KeyDer::from(key.as_slice()),
                        inner.transport.directory.to_string(),
                    )
                    .await
                    .map_err(|error| AcmeError::Settings {
                        reason: format!(
                            "the account cannot be used: {}",
                            certplan_http::printable(&error.to_string(), 200)
                        ),
                    })
            })
            .await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.inner.account_url)
    }
}

impl Order {
    fn with_handle(mut self, handle: Option<instant_acme::Order>) -> Self {
        self.handle = handle.map(|handle| Arc::new(Mutex::new(handle)));
        self
    }
}

/// Whether a refused order may be accepted without `replaces`: some CAs have words of their own for that.
fn is_about_replaces(problem: &Problem) -> bool {
    let detail = problem.detail.to_ascii_lowercase();
    problem.status == Some(409)
        || problem.kind == "conflict"
        || ["replace", "predecessor", "certid", "renewal info"].iter().any(|word| detail.contains(word))
}
