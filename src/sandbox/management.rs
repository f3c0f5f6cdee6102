//! Plain HTTP on loopback for people and tests: the ledger, the faults, the roots.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::FaultState;
use super::Faults;
use super::Ledger;
use super::dns::Dns;

const BODY_LIMIT: usize = 64 * 1024;

/// What the management endpoint can show and change.
pub(super) struct Management {
    pub(super) ledger: Ledger,
    pub(super) faults: Arc<FaultState>,
    pub(super) dns: Arc<Dns>,
    pub(super) roots: [String; 2],
    pub(super) description: String,
}

impl Management {
    /// Serves until cancelled.
    pub(super) fn serve(self, listener: TcpListener, tasks: &TaskTracker, stop: &CancellationToken) {
        let management = Arc::new(self);
        let stop = stop.clone();
        let connections = tasks.clone();
        tasks.spawn(async move {
            let accepting = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let management = Arc::clone(&management);
                    let service = service_fn(move |request| {
                        let management = Arc::clone(&management);
                        async move { Ok::<_, Infallible>(management.respond(request).await) }
                    });
                    let stop = stop.clone();
                    connections.spawn(async move {
                        let serving = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .serve_connection(TokioIo::new(stream), service);
                        let _ = stop.run_until_cancelled(serving).await;
                    });
                }
            };
            stop.run_until_cancelled(accepting).await
        });
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !is_local(&request) {
            // A page in a browser reaches loopback under a name of its own.
            return text(StatusCode::FORBIDDEN, "only for this host\n");
        }
        let path = request.uri().path().to_owned();
        match (request.method().clone(), path.as_str()) {
            (Method::GET, "/") => text(StatusCode::OK, self.description.clone()),
            (Method::GET, "/ledger") => match after(&request) {
                Some(after) => json(&self.ledger.after(after)),
                None => text(StatusCode::BAD_REQUEST, "`after` is a sequence number\n"),
            },
            (Method::GET, "/faults") => json(&self.faults.current()),
            (Method::PUT, "/faults") => self.set_faults(request).await,
            (Method::GET, "/records") => json(&self.dns.records()),
            (Method::GET, "/roots") => text(StatusCode::OK, self.roots.concat()),
            (Method::GET, "/roots/1") => text(StatusCode::OK, self.roots[0].clone()),
            (Method::GET, "/roots/2") => text(StatusCode::OK, self.roots[1].clone()),
            _ => text(
                StatusCode::NOT_FOUND,
                "/ledger?after=N, /faults, /records, /roots, /roots/1, /roots/2\n",
            ),
        }
    }

    async fn set_faults(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_json =
            request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if !is_json {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is application/json\n");
        }
        let Ok(body) = Limited::new(request.into_body(), BODY_LIMIT).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is cut off or too large\n");
        };
        match serde_json::from_slice::<Faults>(&body.to_bytes()) {
            Ok(faults) => {
                self.faults.set(faults);
                json(&self.faults.current())
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

/// The sequence number in the query, 0 without one.
fn after(request: &Request<Incoming>) -> Option<u64> {
    match request.uri().query() {
        None => Some(0),
        Some(query) => query.strip_prefix("after=")?.parse().ok(),
    }
}

fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|digit| digit.is_ascii_digit()) { name } else { host }
    });
    name == "localhost"
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn json<T: serde::Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(StatusCode::OK, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
