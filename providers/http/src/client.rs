use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::BytesMut;
use certplan_provider::Context;
use http::HeaderValue;
use reqwest::redirect;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::error::HttpError;
use crate::proxy;
use crate::request::Request;
use crate::response::Response;
use crate::retry::RetryClass;
use crate::retry::RetryPolicy;

/// How a client behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientSettings {
    /// The `User-Agent`.
    pub user_agent: String,
    /// The longest time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// The longest time without a byte of the answer.
    pub read_timeout: Duration,
    /// The longest time for one exchange as a whole.
    pub timeout: Duration,
    /// The largest body in bytes, after decompression.
    pub body_limit: usize,
    /// Certificates in PEM to trust beside the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// Where proxies come from.
    pub proxy: ProxySource,
    /// What happens with redirects.
    pub redirects: Redirects,
    /// How requests are repeated.
    pub retry: RetryPolicy,
    /// How many idle connections to one host are kept.
    pub idle_connections: usize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            user_agent: concat!("certplan/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            body_limit: 4 << 20,
            ca_bundle: None,
            proxy: ProxySource::default(),
            redirects: Redirects::default(),
            retry: RetryPolicy::default(),
            idle_connections: 32,
        }
    }
}

/// Where proxies come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxySource {
    /// From `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case of letters.
    #[default]
    Environment,
    /// There is none.
    None,
}

/// What happens with redirects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redirects {
    /// They are answers like others.
    #[default]
    None,
    /// Up to five are followed while scheme, host and port stay the same; the first that leaves is the answer.
    SameOrigin,
}

/// The client. Clones share its connections.
///
/// The system's roots are read at the first request: a hundred files, which a plan that asks nobody does without.
#[derive(Clone)]
pub struct HttpClient {
    client: Arc<OnceCell<reqwest::Client>>,
    settings: Arc<ClientSettings>,
    roots: Vec<reqwest::Certificate>,
    timeout: Duration,
    body_limit: usize,
    retry: RetryPolicy,
}

impl HttpClient {
    /// Sets a client up.
    ///
    /// # Errors
    /// [`HttpError::Settings`] when the CA bundle holds no certificate, or the user agent is no header value.
    pub fn new(settings: &ClientSettings) -> Result<Self, HttpError> {
        let roots = match &settings.ca_bundle {
            None => Vec::new(),
            Some(pem) => {
                let roots = reqwest::Certificate::from_pem_bundle(pem)
                    .map_err(|_| HttpError::Settings { reason: "the CA bundle is not PEM".to_owned() })?;
                if roots.is_empty() {
                    return Err(HttpError::Settings {
                        reason: "the CA bundle holds no certificate in PEM".to_owned(),
                    });
                }
                // What is wrong with the bundle is told now and not at the first request.
                builder(settings).tls_certs_only(roots.clone()).build().map_err(|error| refused(&error))?;
                roots
            }
        };
        if HeaderValue::from_str(&settings.user_agent).is_err() {
            return Err(HttpError::Settings { reason: "the user agent is no header value".to_owned() });
        }
        Ok(Self {
            client: Arc::default(),
            settings: Arc::new(settings.clone()),
            roots,
            timeout: settings.timeout,
            body_limit: settings.body_limit,
            retry: settings.retry.clone(),
        })
    }

    async fn client(&self) -> Result<&reqwest::Client, HttpError> {
        let (settings, roots) = (&self.settings, &self.roots);
        let set_up = || async {
            let (settings, roots) = (Arc::clone(settings), roots.clone());
            match spawn_blocking(move || set_up(&settings, roots)).await {
                Ok(client) => client,
                Err(error) => Err(HttpError::Settings { reason: error.to_string() }),
            }
        };
        self.client.get_or_try_init(set_up).await
    }

    /// Sends a request, again where its class and the policy allow it.
    ///
    /// Pauses end early when the context is cancelled or its deadline would pass: then the last answer or error is
    /// returned. Any answer is a success here; [`Response::check`] judges it.
    pub async fn send(
        &self,
        context: &Context,
        request: &Request,
        class: RetryClass,
    ) -> Result<Response, HttpError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if context.cancel.is_cancelled() {
                return Err(HttpError::Cancelled { target: request.target() });
            }
            let result = self.once(request, context.remaining()).await;
            let (again, retry_after) = match &result {
                Ok(response) => (class.after_status(response.status), response.retry_after),
                Err(error) => (class.after_error(error), None),
            };
            if !again {
                return result;
            }
            let Some(pause) = self.retry.pause(attempt, retry_after) else { return result };
            if context.remaining().is_some_and(|remaining| pause >= remaining) {
                return result;
            }
            tracing::debug!(request = %request.target(), attempt, ?pause, "repeating a request");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = context.cancel.cancelled() => return result,
            }
        }
    }

    /// Sends a request exactly once, within `bound` where that is shorter than the client's own timeout.
    pub async fn once(&self, request: &Request, bound: Option<Duration>) -> Result<Response, HttpError> {
        let bound = bound.map_or(self.timeout, |bound| bound.min(self.timeout));
        let started = Instant::now();
        let result = self.exchange(request, bound).await;
        match &result {
            Ok(response) => tracing::debug!(
                request = %response.target,
                status = response.status.as_u16(),
                bytes = response.body.len(),
                elapsed = ?started.elapsed(),
                "answered",
            ),
            Err(error) => tracing::debug!(%error, elapsed = ?started.elapsed(), "not answered"),
        }
        result
    }

    async fn exchange(&self, request: &Request, bound: Duration) -> Result<Response, HttpError> {
        let target = request.target();
        if self.settings.proxy == ProxySource::Environment {
            proxy::check(&request.url)?;
        }
        let failed = |error: reqwest::Error| {
            let proxy = match self.settings.proxy {
                ProxySource::Environment => proxy::of(&request.url),
                ProxySource::None => None,
            };
            HttpError::from_reqwest(&error, target.clone(), bound, proxy.as_deref())
        };
        let mut response = self
            .client()
            .await?
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .body(request.body.clone())
            .timeout(bound)
            .send()
            .await
            .map_err(failed)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > self.body_limit {
                return Err(HttpError::BodyTooLarge { target, limit: self.body_limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response::new(status, headers, body.freeze(), target, request.secrets.clone()))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

fn set_up(settings: &ClientSettings, roots: Vec<reqwest::Certificate>) -> Result<reqwest::Client, HttpError> {
    match builder(settings).tls_certs_merge(roots.clone()).build() {
        Ok(client) => Ok(client),
        // Without a single root on the system the library refuses to build a client at all, even one for plain
        // HTTP or for the bundle alone.
        Err(first) => builder(settings).tls_certs_only(roots).build().map_err(|_| refused(&first)),
    }
}

fn builder(settings: &ClientSettings) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(&settings.user_agent)
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.read_timeout)
        .timeout(settings.timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        // Shorter than the usual sixty seconds of servers, so that a connection is rarely closed under a request.
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(settings.idle_connections)
        .referer(false)
        .redirect(match settings.redirects {
            Redirects::None => redirect::Policy::none(),
            Redirects::SameOrigin => redirect::Policy::custom(|attempt| {
                let stays =
                    attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
                if stays && attempt.previous().len() <= 5 { attempt.follow() } else { attempt.stop() }
            }),
        });
    match settings.proxy {
        ProxySource::Environment => builder,
        ProxySource::None => builder.no_proxy(),
    }
}

/// Settings that the library refuses, with its innermost reason.
fn refused(error: &reqwest::Error) -> HttpError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    HttpError::Settings { reason: crate::text::printable(&cause.to_string(), 200) }
}

#[cfg(test)]
mod tests;
