use std::fmt;
use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use certplan_http::ClientSettings;
use certplan_http::HttpClient;
use certplan_http::HttpError;
use certplan_http::Request;
use certplan_http::Response;
use certplan_http::RetryPolicy;
use certplan_provider::Once;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header::ACCEPT;
use http::header::CACHE_CONTROL;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::AcmeSettings;
use super::directory::Resources;
use super::error::AcmeError;
use super::jws::Signer;
use super::nonce::NoncePool;
use super::origin::Origin;
use super::problem::Problem;
use super::silence::Silence;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const JOSE_JSON: HeaderValue = HeaderValue::from_static("application/jose+json");

/// How often a request is signed anew after a refused nonce. At 30 % refusals one of 170,000 requests needs more.
const NONCE_ATTEMPTS: u32 = 10;

/// Whether a request may be sent again when it is unknown whether the server acted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice is the same as once.
    Always,
    /// Only when the server certainly has not acted.
    WhenRefused,
}

/// Everything between a signed request and the wire: the origin rule, the limit of requests in flight, the nonces,
/// what the server asks for with `Retry-After`.
pub(super) struct Transport {
    pub(super) origin: Origin,
    pub(super) directory: Url,
    pub(super) cancel: CancellationToken,
    http: HttpClient,
    permits: Semaphore,
    /// As many as permits, taken before the nonce: requests that only wait for a permit would hold all nonces that come back,
    /// and each later one would have to fetch another.
    turns: Semaphore,
    nonces: NoncePool,
    retry: RetryPolicy,
    pub(super) resources: Once<Resources, AcmeError>,
    pub(super) silence: Silence,
    /// Nothing is sent before: the server, or what stands before it, turned a request away for the load it has.
    held_until: Mutex<Option<Instant>>,
}

impl Transport {
    pub(super) fn new(settings: &AcmeSettings) -> Result<Self, AcmeError> {
        let mut http = ClientSettings::default();
        http.user_agent.clone_from(&settings.user_agent);
        http.timeout = settings.timeout;
        http.read_timeout = settings.timeout;
        http.connect_timeout = settings.timeout.min(Duration::from_secs(10));
        http.ca_bundle.clone_from(&settings.ca_bundle);
        http.proxy = settings.proxy;
        http.idle_connections = settings.max_in_flight.max(1);
        let in_flight = settings.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            origin: Origin::new(&settings.directory, &settings.allow_hosts)?,
            directory: settings.directory.clone(),
            cancel: settings.cancel.clone(),
            http: HttpClient::new(&http)?,
            permits: Semaphore::new(in_flight),
            turns: Semaphore::new(in_flight),
            nonces: NoncePool::default(),
            retry: settings.retry.clone(),
            resources: Once::new(),
            silence: Silence::new(settings.patience),
            held_until: Mutex::new(None),
        })
    }

    /// The directory, fetched once.
    pub(super) async fn resources(&self) -> Result<&Resources, AcmeError> {
        self.resources
            .get_or_try_init(|| async {
                let response = self.get(self.directory.clone()).await?;
                Resources::parse(&response, &self.origin)
            })
            .await
    }

    /// An unauthenticated `GET`, repeated as far as the policy goes. Its answer is a success.
    pub(super) async fn get(&self, url: Url) -> Result<Response, AcmeError> {
        // Renewal information must be fresh, and no proxy is to answer for the CA.
        let request = Request::get(url)
            .header(ACCEPT, HeaderValue::from_static("application/json, application/problem+json"))
            .header(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        self.persistently(Repeat::Always, || async { success(self.exchange(&request).await?) }).await
    }

    /// A signed `POST` of our own; without a payload, a POST-as-GET. Its answer is a success.
    pub(super) async fn post(
        &self,
        signer: Signer<'_>,
        url: &Url,
        payload: Option<&Value>,
        repeat: Repeat,
    ) -> Result<Response, AcmeError> {
        self.signed(repeat, || async {
            let nonce = self.nonce().await?;
            let body = signer.sign(url.as_str(), &nonce, payload)?;
            success(self.exchange(&Request::new(Method::POST, url.clone()).body(JOSE_JSON, body)).await?)
        })
        .await
    }

    /// A nonce from the pool, or a new one.
    pub(super) async fn nonce(&self) -> Result<String, AcmeError> {
        if let Some(nonce) = self.nonces.take() {
            return Ok(nonce);
        }
        let url = self.resources().await?.new_nonce.clone();
        let request = Request::new(Method::HEAD, url);
        let response = self.send(&request).await?;
        if !response.status.is_success() {
            return Err(AcmeError::from_response(&response));
        }
        response
            .header(REPLAY_NONCE)
            .map(str::to_owned)
            .ok_or_else(|| AcmeError::malformed(&response, "there is no nonce in it"))
    }

    /// Sends one request and keeps the nonce of its answer, whatever that is.
    pub(super) async fn exchange(&self, request: &Request) -> Result<Response, AcmeError> {
        let response = self.send(request).await?;
        if let Some(nonce) = response.header(REPLAY_NONCE) {
            self.nonces.put(nonce);
        }
        Ok(response)
    }

    async fn send(&self, request: &Request) -> Result<Response, AcmeError> {
        self.origin.url(request.url().as_str())?;
        loop {
            let held = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
            match held.and_then(|until| until.checked_duration_since(Instant::now())) {
                Some(pause) if !pause.is_zero() => self.pause(pause).await?,
                _ => break,
            }
        }
        let permit = self.permits.acquire().await.map_err(|_| AcmeError::Cancelled)?;
        if self.cancel.is_cancelled() {
            return Err(AcmeError::Cancelled);
        }
        let question = self.http.once(request, None);
        let asked = match *request.method() {
            // Of the directory and of windows a plan wants to hear soon that they cannot be had.
            Method::GET => question.await,
            _ => self.silence.ask(&self.cancel, || request.target(), question).await,
        };
        drop(permit);
        let response = match asked {
            Err(HttpError::Cancelled { .. }) => return Err(AcmeError::Cancelled),
            asked => asked?,
        };
        self.heed(&response);
        Ok(response)
    }

    /// Holds all requests back for a while when the server turned one away for its load. A used-up rate limit, which is
    /// a problem document of its own, concerns one request only.
    fn heed(&self, response: &Response) {
        let overloaded = response.status == StatusCode::SERVICE_UNAVAILABLE
            || (response.status == StatusCode::TOO_MANY_REQUESTS
                && Problem::from_json(&response.body).is_none());
        if let Some(asked) =
            response.retry_after.filter(|asked| overloaded && *asked <= self.retry.longest_pause)
        {
            let until = Instant::now() + asked;
            let mut held = self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
            *held = Some(held.map_or(until, |before| before.max(until)));
        }
    }

    /// An attempt that takes a nonce, signs and sends, repeated as [`persistently`](Self::persistently) does.
    pub(super) async fn signed<T, F>(
        &self,
        repeat: Repeat,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<T, AcmeError>>,
    {
        self.persistently(repeat, || {
            let attempt = attempt();
            async move {
                let _turn = self.turns.acquire().await.map_err(|_| AcmeError::Cancelled)?;
                attempt.await
            }
        })
        .await
    }

    /// Repeats an attempt as its errors and the policy allow: with fresh nonces at once, and with pauses after
    /// failed connections, 429, 5xx and whatever `repeat` allows.
    async fn persistently<T, F>(&self, repeat: Repeat, mut attempt: impl FnMut() -> F) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<T, AcmeError>>,
    {
        let (mut attempts, mut nonces) = (0, 0);
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let again = match &error {
                AcmeError::BadNonce { attempts } => {
                    nonces += attempts;
                    if nonces >= NONCE_ATTEMPTS {
                        return Err(AcmeError::BadNonce { attempts: nonces });
                    }
                    // One refusal is chance. Several mean that the server forgot what it gave out.
                    if nonces >= 3 {
                        self.nonces.clear();
                    }
                    continue;
                }
                AcmeError::RateLimited { .. } => true,
                AcmeError::Transport(error) => {
                    error.is_transient() && (repeat == Repeat::Always || error.nothing_sent())
                }
                AcmeError::Unavailable { .. } => repeat == Repeat::Always,
                _ => false,
            };
            attempts += 1;
            match self.retry.pause(attempts, error.retry_after()).filter(|_| again) {
                Some(pause) => {
                    tracing::debug!(%error, attempts, ?pause, "repeating a request to the CA");
                    self.pause(pause).await?;
                }
                None => return Err(error),
            }
        }
    }

    /// Sleeps, unless the run is to end.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), AcmeError> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.cancel.cancelled() => Err(AcmeError::Cancelled),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("directory", &self.directory.as_str()).finish_non_exhaustive()
    }
}

pub(super) fn success(response: Response) -> Result<Response, AcmeError> {
    if response.status.is_success() {
        return Ok(response);
    }
    Err(AcmeError::from_response(&response))
}
