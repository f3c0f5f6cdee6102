use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use certplan_http::Request;
use certplan_http::Response;
use http::Method;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use http_body_util::Full;
use instant_acme::BodyWrapper;
use instant_acme::BytesResponse;
use instant_acme::Error as InstantError;
use instant_acme::HttpClient;
use serde_json::json;
use url::Url;

use super::account_key::AccountKey;
use super::error::AcmeError;
use super::jws::sign_again;
use super::problem::Problem;
use super::transport::Transport;

tokio::task_local! {
    /// The last answer that the library got within [`observed`], with the headers and members that it drops.
    static LAST: Arc<Mutex<Option<Response>>>;
}

/// instant-acme's HTTP client over our transport.
///
/// It answers two requests itself: the directory, which is known, and newNonce, from the pool of nonces; the library
/// would fetch both again and again.
pub(super) struct Adapter {
    transport: Arc<Transport>,
    /// The account's key, where the library cannot sign with it.
    key: Option<AccountKey>,
}

impl Adapter {
    pub(super) const fn new(transport: Arc<Transport>, key: Option<AccountKey>) -> Self {
        Self { transport, key }
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Adapter(..)")
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, InstantError>> + Send>>;

impl HttpClient for Adapter {
    fn request(&self, request: http::Request<BodyWrapper<Bytes>>) -> Answer {
        let (transport, key) = (Arc::clone(&self.transport), self.key.clone());
        Box::pin(async move {
            answer(&transport, key.as_ref(), request)
                .await
                .map_err(|error| InstantError::Other(Box::new(error)))
        })
    }
}

async fn answer(
    transport: &Transport,
    key: Option<&AccountKey>,
    request: http::Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, AcmeError> {
    let (parts, body) = request.into_parts();
    if parts.method == Method::HEAD {
        let nonce = transport.nonce().await?;
        return respond(http::Response::builder().header("replay-nonce", nonce), Bytes::new());
    }
    let url = transport.origin.url(&parts.uri.to_string())?;
    if parts.method == Method::GET && url == transport.directory {
        return respond(http::Response::builder(), transport.resources().await?.for_library.clone());
    }
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(impossible) => infallible(impossible),
    };
    let body = match key {
        Some(key) => sign_again(key, &body)?.into(),
        None => body,
    };
    let mut request = Request::new(parts.method, url);
    if let Some(content_type) = parts.headers.get(CONTENT_TYPE) {
        request = request.body(content_type.clone(), body);
    }
    let response = transport.exchange(&request).await?;
    // Outside of `observed` nobody wants to know.
    let _ = LAST.try_with(|last| {
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(response.clone());
    });
    let mut builder = http::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        // The pool has the nonce: the library would keep it for itself.
        if name != "replay-nonce" {
            builder = builder.header(name, value);
        }
    }
    let body = if response.status.is_success() || Problem::from_json(&response.body).is_some() {
        response.body
    } else {
        // A proxy's HTML: the library reads a problem document or nothing.
        Bytes::from(json!({ "detail": response.excerpt(), "status": response.status.as_u16() }).to_string())
    };
    respond(builder, body)
}

fn respond(builder: http::response::Builder, body: Bytes) -> Result<BytesResponse, AcmeError> {
    let response = builder
        .body(Full::new(body))
        .map_err(|error| AcmeError::Settings { reason: format!("a header cannot be passed on: {error}") })?;
    Ok(BytesResponse::from(response))
}

const fn infallible(impossible: Infallible) -> ! {
    match impossible {}
}

/// Runs a call of the library and returns its result beside the last answer, so that nothing that the library drops is
/// lost. Errors of ours that went through the library come out as they were; answers that are no success are
/// classified by us.
pub(super) async fn observed<T>(
    call: impl Future<Output = Result<T, InstantError>>,
) -> Result<(Option<T>, Response), AcmeError> {
    let last = Arc::new(Mutex::new(None));
    let result = LAST.scope(Arc::clone(&last), call).await;
    let response = last.lock().unwrap_or_else(PoisonError::into_inner).take();
    let error = match result {
        Ok(value) => match response {
            Some(response) => return Ok((Some(value), response)),
            None => None,
        },
        Err(InstantError::Other(error)) => match error.downcast::<AcmeError>() {
            Ok(error) => return Err(*error),
            Err(error) => Some(error.to_string()),
        },
        Err(error) => Some(error.to_string()),
    };
    match response {
        Some(response) if response.status.is_success() => Ok((None, response)),
        Some(response) => Err(match AcmeError::from_response(&response) {
            // The library tries three times by itself.
            AcmeError::BadNonce { .. } => AcmeError::BadNonce { attempts: 3 },
            error => error,
        }),
        None => Err(AcmeError::Settings {
            reason: certplan_http::printable(&error.unwrap_or_else(|| "no answer at all".to_owned()), 200),
        }),
    }
}

/// Where the answer says the resource is.
pub(super) fn location(response: &Response, transport: &Transport) -> Result<Option<Url>, AcmeError> {
    response.location().map(|text| transport.origin.url(text)).transpose()
}
