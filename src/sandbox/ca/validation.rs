//! The three validations: [RFC 8555, section 8](https://www.rfc-editor.org/rfc/rfc8555#section-8) and
//! [RFC 8737](https://www.rfc-editor.org/rfc/rfc8737).

mod resolver;
mod tls;

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::resolver::Resolver;
use super::problem::Kind;
use super::problem::Problem;
use super::store::ChallengeKind;
use crate::model::Fqdn;
use crate::model::sha256;

/// How long a validation may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The largest body of an HTTP-01 answer.
const BODY_LIMIT: usize = 4 * 1024;

/// What is to be validated, and how.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) kind: ChallengeKind,
    pub(super) name: Fqdn,
    pub(super) token: String,
    pub(super) key_authorization: String,
    pub(super) resolver: SocketAddr,
    pub(super) http_port: u16,
    pub(super) tls_port: u16,
    /// Where a name without an address record is.
    pub(super) fallback: Option<IpAddr>,
}

impl Validation {
    /// Validates.
    pub(super) async fn run(&self) -> Result<(), Problem> {
        let validation = async {
            match self.kind {
                ChallengeKind::Dns01 => self.dns().await,
                ChallengeKind::Http01 => self.http().await,
                ChallengeKind::TlsAlpn01 => self.tls().await,
            }
        };
        timeout(LIMIT, validation)
            .await
            .unwrap_or_else(|_| Err(Problem::new(Kind::Connection, "the validation took too long")))
    }

    async fn dns(&self) -> Result<(), Problem> {
        let name = format!("_acme-challenge.{}", self.name);
        let texts = Resolver::new(self.resolver).texts(&name).await?;
        let expected = URL_SAFE_NO_PAD.encode(sha256(self.key_authorization.as_bytes()).as_bytes());
        if texts.iter().any(|text| *text == expected.as_bytes()) {
            return Ok(());
        }
        let Some(first) = texts.first() else {
            return Err(Problem::unauthorized(format!("there is no TXT record at {name}")));
        };
        let others = match texts.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        Err(Problem::unauthorized(format!(
            "the TXT record `{}`{others} at {name} is not what was expected",
            String::from_utf8_lossy(first).escape_debug()
        )))
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Problem> {
        let mut addresses = Resolver::new(self.resolver).addresses(self.name.as_str()).await;
        if let Some(fallback) = self.fallback
            && !addresses.as_ref().is_ok_and(|addresses| !addresses.is_empty())
        {
            addresses = Ok(vec![fallback]);
        }
        let addresses = addresses?;
        if addresses.is_empty() {
            return Err(Problem::new(Kind::Dns, format!("there is no address record at {}", self.name)));
        }
        let mut last = String::new();
        for address in addresses {
            match TcpStream::connect((address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("{}: {error}", SocketAddr::new(address, port)),
            }
        }
        Err(Problem::new(Kind::Connection, format!("cannot connect to {last}")))
    }

    async fn http(&self) -> Result<(), Problem> {
        let stream = self.connect(self.http_port).await?;
        let fail = |error: hyper::Error| Problem::new(Kind::Connection, format!("no HTTP answer: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fail)?;
        let serving = tokio::spawn(connection);
        let path = format!("/.well-known/acme-challenge/{}", self.token);
        let request = Request::get(&path)
            .header(header::HOST, self.name.as_str())
            .header(header::USER_AGENT, concat!("certplan-sandbox/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|_| Problem::new(Kind::ServerInternal, "the request cannot be made"))?;
        let response = sender.send_request(request).await.map_err(fail)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|_| Problem::unauthorized("the answer is cut off or too large"))?
            .to_bytes();
        serving.abort();
        if status != StatusCode::OK {
            // Redirects are not followed: nothing is served elsewhere in a sandbox.
            return Err(Problem::unauthorized(format!("the answer to {path} is {status}")));
        }
        if body.trim_ascii_end() == self.key_authorization.as_bytes() {
            Ok(())
        } else {
            Err(Problem::unauthorized(format!(
                "the answer to {path} is `{}`, not the key authorization",
                String::from_utf8_lossy(&body[..body.len().min(100)]).escape_debug()
            )))
        }
    }

    async fn tls(&self) -> Result<(), Problem> {
        let stream = self.connect(self.tls_port).await?;
        let digest = sha256(self.key_authorization.as_bytes());
        tls::check(stream, &self.name, digest.as_bytes()).await
    }
}
