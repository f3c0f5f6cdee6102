//! HTTP: which request is which, the checks that all of them share, and what every answer carries.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::super::AriWindow;
use super::super::Endpoint;
use super::super::Event;
use super::super::HttpFault;
use super::super::SandboxError;
use super::Ca;
use super::jws::Jwk;
use super::jws::Jws;
use super::problem::Kind;
use super::problem::Problem;

/// The largest body: a request for a hundred long names with a large key is a tenth of it.
const BODY_LIMIT: usize = 128 * 1024;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves HTTPS until cancelled.
pub(in super::super) fn serve(
    ca: &Arc<Ca>,
    listener: TcpListener,
    stop: &CancellationToken,
) -> Result<(), SandboxError> {
    let address = listener.local_addr().map_err(|source| SandboxError::Bind {
        address: ca.base.clone(),
        purpose: "ACME",
        source,
    })?;
    let hosts = ["localhost".to_owned(), address.ip().to_string()];
    let identity = ca.authority.server_identity(ca.now(), &hosts)?;
    let fail =
        |error: rustls::Error| SandboxError::Certificates { action: "serve", reason: error.to_string() };
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(fail)?
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .map_err(fail)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let ca = Arc::clone(ca);
    let stop = stop.clone();
    let tasks = ca.tasks.clone();
    tasks.spawn(async move {
        let connections = ca.tasks.clone();
        let accepting = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let serving = serve_connection(Arc::clone(&ca), stream, acceptor.clone());
                let stop = stop.clone();
                connections.spawn(async move {
                    if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
                        tracing::debug!(error, "a connection to the CA ended");
                    }
                });
            }
        };
        stop.run_until_cancelled(accepting).await
    });
    Ok(())
}

async fn serve_connection(ca: Arc<Ca>, stream: TcpStream, acceptor: TlsAcceptor) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| "no handshake".to_owned())?
        .map_err(|error| error.to_string())?;
    let service = service_fn(|request| {
        let ca = Arc::clone(&ca);
        async move { ca.respond(request).await.ok_or_else(|| io::Error::other("dropped")) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| error.to_string())
}

/// An answer before it is HTTP.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Empty,
    Json(Value),
    Pem(String),
}

impl Reply {
    pub(super) const fn new(status: StatusCode, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub(super) const fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, Body::Json(body))
    }

    #[must_use]
    pub(super) fn with(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds `Retry-After`, in whole seconds and at least one.
    #[must_use]
    pub(super) fn with_retry_after(self, after: Option<Duration>) -> Self {
        match after {
            Some(after) => self.with(header::RETRY_AFTER, retry_after(after)),
            None => self,
        }
    }
}

fn retry_after(after: Duration) -> String {
    after.as_secs().max(1).to_string()
}

/// Which resource a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Account(u64),
    Authorization(u64),
    Certificate(u64, usize),
    Challenge(u64, &'a str),
    Directory,
    Finalize(u64),
    KeyChange,
    NewAccount,
    NewNonce,
    NewOrder,
    Order(u64),
    RenewalInfo(&'a str),
    RevokeCertificate,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let route = (parts.next()?, parts.next(), parts.next(), parts.next());
        let number = |text: &str| {
            // `007` and `+7` are not the number 7's URL.
            text.parse::<u64>().ok().filter(|number| number.to_string() == text)
        };
        Some(match route {
            ("account", Some(id), None, None) => Self::Account(number(id)?),
            ("authorization", Some(id), None, None) => Self::Authorization(number(id)?),
            ("certificate", Some(id), None, None) => Self::Certificate(number(id)?, 0),
            ("certificate", Some(id), Some("1"), None) => Self::Certificate(number(id)?, 1),
            ("challenge", Some(id), Some(kind), None) => Self::Challenge(number(id)?, kind),
            ("directory", None, None, None) => Self::Directory,
            ("key-change", None, None, None) => Self::KeyChange,
            ("new-account", None, None, None) => Self::NewAccount,
            ("new-nonce", None, None, None) => Self::NewNonce,
            ("new-order", None, None, None) => Self::NewOrder,
            ("order", Some(id), None, None) => Self::Order(number(id)?),
            ("order", Some(id), Some("finalize"), None) => Self::Finalize(number(id)?),
            ("renewal-info", Some(id), None, None) => Self::RenewalInfo(id),
            ("revoke-certificate", None, None, None) => Self::RevokeCertificate,
            _ => return None,
        })
    }

    const fn endpoint(self) -> Endpoint {
        match self {
            Self::Account(_) => Endpoint::Account,
            Self::Authorization(_) => Endpoint::Authorization,
            Self::Certificate(..) => Endpoint::Certificate,
            Self::Challenge(..) => Endpoint::Challenge,
            Self::Directory => Endpoint::Directory,
            Self::Finalize(_) => Endpoint::Finalize,
            Self::KeyChange => Endpoint::KeyChange,
            Self::NewAccount => Endpoint::NewAccount,
            Self::NewNonce => Endpoint::NewNonce,
            Self::NewOrder => Endpoint::NewOrder,
            Self::Order(_) => Endpoint::Order,
            Self::RenewalInfo(_) => Endpoint::RenewalInfo,
            Self::RevokeCertificate => Endpoint::RevokeCertificate,
        }
    }

    const fn is_read_with_get(self) -> bool {
        matches!(self, Self::Directory | Self::NewNonce | Self::RenewalInfo(_))
    }
}

/// Who signed a request.
#[derive(Debug)]
pub(super) enum Signer {
    /// An account, by its URL.
    Account(u64, Jwk),
    /// A bare key.
    Key(Jwk),
}

/// A request whose signature, nonce and URL are good.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) signer: Signer,
    pub(super) jws: Jws,
}

impl Signed {
    /// The account that signed.
    pub(super) fn account(&self) -> Result<(u64, &Jwk), Problem> {
        match &self.signer {
            Signer::Account(id, key) => Ok((*id, key)),
            Signer::Key(_) => {
                Err(Problem::malformed("this request is signed with an account: `kid`, not `jwk`"))
            }
        }
    }

    /// The bare key that signed.
    pub(super) fn key(&self) -> Result<&Jwk, Problem> {
        match &self.signer {
            Signer::Key(key) => Ok(key),
            Signer::Account(..) => {
                Err(Problem::malformed("this request is signed with a key: `jwk`, not `kid`"))
            }
        }
    }
}

/// What is entered into the ledger about a request.
#[derive(Debug, Default)]
struct Trace {
    account: Option<String>,
    problem: Option<Kind>,
}

impl Ca {
    /// Answers a request; `None` closes the connection instead.
    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let method = request.method().clone();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let route = Route::of(&path);
        let fault = route.and_then(|route| self.faults.http(route.endpoint(), method == Method::POST));
        let mut trace = Trace::default();
        let response = match fault {
            Some(HttpFault::DropBeforeCommit) => None,
            Some(HttpFault::Unavailable) => Some(self.unavailable()),
            Some(HttpFault::RateLimited) => {
                let mut problem =
                    Problem::new(Kind::RateLimited, "too many requests, as the sandbox was told to say");
                problem.retry_after = self.faults.read(|faults| faults.retry_after);
                Some(self.finish(&method, Err(problem), &mut trace))
            }
            Some(HttpFault::ServerError) => Some(self.finish(&method, Err(injected()), &mut trace)),
            Some(HttpFault::BadNonce) => {
                let reply = self.handle(request, &path, route, &mut trace, true).await;
                Some(self.finish(&method, reply, &mut trace))
            }
            fault => {
                let reply = self.handle(request, &path, route, &mut trace, false).await;
                if fault.is_some_and(HttpFault::is_after_commit) {
                    let is_error = fault == Some(HttpFault::ErrorAfterCommit);
                    is_error.then(|| self.finish(&method, Err(injected()), &mut trace))
                } else {
                    Some(self.finish(&method, reply, &mut trace))
                }
            }
        };
        self.ledger.record(Event::Request {
            method: method.to_string(),
            path,
            account: trace.account,
            status: response.as_ref().map(|response| response.status().as_u16()),
            problem: trace.problem.map(|kind| kind.as_str().to_owned()),
            fault,
        });
        response
    }

    async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        path: &str,
        route: Option<Route<'_>>,
        trace: &mut Trace,
        nonce_fault: bool,
    ) -> Result<Reply, Problem> {
        let headers = request.headers().clone();
        if headers.get(header::USER_AGENT).is_none_or(|agent| agent.is_empty()) {
            // RFC 8555, section 6.1: clients MUST send one.
            return Err(Problem::malformed("the request has no User-Agent"));
        }
        let Some(route) = route else { return Err(Problem::not_found("there is nothing at this URL")) };
        let method = request.method().clone();
        if route.is_read_with_get() {
            if method != Method::GET && method != Method::HEAD {
                return Err(not_allowed("this resource is read with GET"));
            }
            return self.read(route, &method);
        }
        if method != Method::POST {
            return Err(not_allowed("this resource is read with POST-as-GET"));
        }
        check_content_type(&headers)?;
        let body = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|_| {
                Problem::malformed("the body is cut off or too large")
                    .with_status(StatusCode::PAYLOAD_TOO_LARGE)
            })?
            .to_bytes();
        let signed = self.authenticate(&body, path, trace, nonce_fault)?;
        let reply = match route {
            Route::Account(id) => self.account(id, &signed),
            Route::Authorization(id) => self.authorization(id, &signed),
            Route::Certificate(id, chain) => self.certificate(id, chain, &signed),
            Route::Challenge(id, kind) => self.challenge(id, kind, &signed),
            Route::Finalize(id) => self.finalize(id, &signed),
            Route::KeyChange => self.key_change(&signed),
            Route::NewAccount => self.new_account(&signed),
            Route::NewOrder => self.new_order(&signed),
            Route::Order(id) => self.order(id, &signed),
            Route::RevokeCertificate => self.revoke(&signed),
            Route::Directory | Route::NewNonce | Route::RenewalInfo(_) => {
                Err(Problem::not_found("there is nothing at this URL"))
            }
        };
        (self.changed)();
        reply
    }

    fn read(&self, route: Route<'_>, method: &Method) -> Result<Reply, Problem> {
        match route {
            Route::Directory => Ok(Reply::ok(self.directory())),
            Route::NewNonce => {
                let status = if *method == Method::HEAD { StatusCode::OK } else { StatusCode::NO_CONTENT };
                Ok(Reply::new(status, Body::Empty)
                    .with(header::HeaderName::from_static("replay-nonce"), self.nonces.issue()))
            }
            Route::RenewalInfo(id) => self.renewal_info(id),
            _ => Err(Problem::not_found("there is nothing at this URL")),
        }
    }

    fn directory(&self) -> Value {
        let url = |path: &str| json!(format!("{}/{path}", self.base));
        let profiles: serde_json::Map<String, Value> = self
            .options
            .profiles
            .iter()
            .map(|(name, profile)| (name.clone(), json!(profile.description)))
            .collect();
        let mut meta = json!({
            "website": "https://github.com/certplan/certplan",
            "caaIdentities": ["sandbox.certplan.test"],
            "externalAccountRequired": self.options.eab_required,
            "profiles": profiles,
        });
        if let Some(terms) = &self.options.terms_of_service {
            meta["termsOfService"] = json!(terms);
        }
        let mut directory = json!({
            "newNonce": url("new-nonce"),
            "newAccount": url("new-account"),
            "newOrder": url("new-order"),
            "revokeCert": url("revoke-certificate"),
            "keyChange": url("key-change"),
            "meta": meta,
        });
        if self.faults.read(|faults| faults.ari != AriWindow::None) {
            directory["renewalInfo"] = url("renewal-info");
        }
        directory
    }

    /// Checks what [RFC 8555, section 6](https://www.rfc-editor.org/rfc/rfc8555#section-6) asks of every POST.
    fn authenticate(
        &self,
        body: &[u8],
        path: &str,
        trace: &mut Trace,
        nonce_fault: bool,
    ) -> Result<Signed, Problem> {
        let jws = Jws::parse(body)?;
        let signer = match (&jws.protected.kid, &jws.protected.jwk) {
            (Some(kid), None) => self.signing_account(kid)?,
            (None, Some(jwk)) => Signer::Key(Jwk::from_value(jwk)?),
            _ => return Err(Problem::malformed("the protected header has either `kid` or `jwk`")),
        };
        let (Signer::Account(_, key) | Signer::Key(key)) = &signer;
        jws.verify(key)?;
        if let Signer::Account(id, _) = &signer {
            trace.account = Some(self.account_url(*id));
        }
        let Some(nonce) = &jws.protected.nonce else {
            return Err(Problem::new(Kind::BadNonce, "the protected header has no nonce"));
        };
        if !self.nonces.take(nonce) || nonce_fault {
            return Err(Problem::new(Kind::BadNonce, "the nonce is not one that was given out and not used"));
        }
        if jws.protected.url.as_deref() != Some(&format!("{}{path}", self.base)) {
            return Err(Problem::unauthorized("the URL in the protected header is not that of the request"));
        }
        Ok(Signed { signer, jws })
    }

    fn signing_account(&self, kid: &str) -> Result<Signer, Problem> {
        let id = kid
            .strip_prefix(&format!("{}/account/", self.base))
            .ok_or_else(|| Problem::malformed("the `kid` is no account URL of this CA"))?;
        let store = self.store();
        let found = id.parse().ok().and_then(|id: u64| Some((id, store.kept.accounts.get(&id)?)));
        let Some((id, account)) = found.filter(|(number, _)| number.to_string() == id) else {
            return Err(Problem::new(Kind::AccountDoesNotExist, "there is no such account"));
        };
        if account.is_deactivated {
            return Err(deactivated());
        }
        Ok(Signer::Account(id, account.key.clone()))
    }

    /// Makes HTTP of an answer or problem, with the headers that every answer has.
    fn finish(
        &self,
        method: &Method,
        reply: Result<Reply, Problem>,
        trace: &mut Trace,
    ) -> Response<Full<Bytes>> {
        let is_problem = reply.is_err();
        let reply = reply.unwrap_or_else(|problem| {
            trace.problem = Some(problem.kind);
            let mut reply = Reply::new(problem.status(), Body::Json(problem.document()))
                .with_retry_after(problem.retry_after);
            if let Some(location) = &problem.location {
                reply = reply.with(header::LOCATION, location.clone());
            }
            reply
        });
        let (content_type, body) = match reply.body {
            Body::Empty => (None, Bytes::new()),
            Body::Json(value) if is_problem => {
                (Some("application/problem+json"), Bytes::from(value.to_string()))
            }
            Body::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
            Body::Pem(text) => (Some("application/pem-certificate-chain"), Bytes::from(text)),
        };
        let mut headers = reply.headers;
        if let Some(content_type) = content_type {
            headers.push((header::CONTENT_TYPE, content_type.to_owned()));
        }
        headers.push((header::CACHE_CONTROL, "no-store".to_owned()));
        headers.push((header::LINK, format!("<{}>;rel=\"index\"", self.directory_url())));
        if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.now()) {
            headers.push((header::DATE, date));
        }
        if *method == Method::POST {
            headers.push((header::HeaderName::from_static("replay-nonce"), self.nonces.issue()));
        }
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = reply.status;
        for (name, value) in headers {
            // What clients sent can be in a header only as part of a URL of ours, which is ASCII.
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }

    fn unavailable(&self) -> Response<Full<Bytes>> {
        const PAGE: &str = "<html><head><title>503 Service Temporarily Unavailable</title></head>\n\
            <body><center><h1>503 Service Temporarily Unavailable</h1></center></body></html>\n";
        let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        let after = self.faults.read(|faults| faults.retry_after);
        if let Some(value) = after.and_then(|after| HeaderValue::try_from(retry_after(after)).ok()) {
            headers.insert(header::RETRY_AFTER, value);
        }
        response
    }
}

fn injected() -> Problem {
    Problem::new(Kind::ServerInternal, "an internal error, as the sandbox was told to have")
}

/// The account is no more ([RFC 8555, section 7.3.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.6)).
pub(super) fn deactivated() -> Problem {
    Problem::unauthorized("the account is deactivated").with_status(StatusCode::UNAUTHORIZED)
}

fn not_allowed(detail: &str) -> Problem {
    Problem::malformed(detail).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type == Some("application/jose+json") {
        Ok(())
    } else {
        Err(Problem::malformed("the content type of a POST is `application/jose+json`")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_resource_and_a_resource_has_one_url() {
        assert_eq!(Route::of("/order/7"), Some(Route::Order(7)));
        assert_eq!(Route::of("/order/7/finalize"), Some(Route::Finalize(7)));
        assert_eq!(Route::of("/challenge/7/dns-01"), Some(Route::Challenge(7, "dns-01")));
        for none in
            ["", "/", "/order/07", "/order/+7", "/order/7/", "/order/7?x", "/order/7/finalize/x", "/ORDER/7"]
        {
            assert_eq!(Route::of(none), None, "{none}");
        }
    }
}
