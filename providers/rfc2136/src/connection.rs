use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use certplan_provider::Context;
use certplan_provider::ProviderError;
use tokio::io;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::ServerAddress;

/// How long a connection may take, to each of the server's addresses.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take where the caller sets no deadline: a server signs what it takes in before it answers.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a connection is kept for the next request. Knot closes idle ones after ten seconds, BIND after thirty.
const IDLE: Duration = Duration::from_secs(8);

/// How many connections are kept.
const KEPT: usize = 8;

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing.
    Question,
    /// It has an effect.
    Update,
}

/// The way to a server: TCP connections, each used by one request at a time and kept for the next.
pub(crate) struct Connections {
    server: ServerAddress,
    kept: Mutex<Vec<(TcpStream, Instant)>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({})", self.server)
    }
}

impl Connections {
    pub(crate) const fn new(server: ServerAddress) -> Self {
        Self { server, kept: Mutex::new(Vec::new()) }
    }

    pub(crate) const fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// Sends one message and returns the answer, with the connection to [`keep`](Self::keep) when it makes sense.
    ///
    /// A kept connection may have been closed by the server in the meantime: when it ends without an answer, the request is
    /// sent again over a new one, which updates of single values allow. Cancellation ends a question, and not an update,
    /// whose outcome would be unknown.
    pub(crate) async fn exchange(
        &self,
        context: &Context,
        request: &[u8],
        kind: Kind,
    ) -> Result<(Vec<u8>, TcpStream), ProviderError> {
        if let Some(mut stream) = self.take() {
            match self.within(context, ANSWER, kind, "an answer", talk(&mut stream, request)).await? {
                Ok(answer) => return Ok((answer, stream)),
                Err(error) => tracing::debug!(server = %self.server, %error, "a kept connection has ended"),
            }
        }
        let mut stream = self.connect(context).await?;
        let answer = self.within(context, ANSWER, kind, "an answer", talk(&mut stream, request)).await?;
        let answer = answer.map_err(|error| {
            ProviderError::transient(format!("the DNS server `{}` does not answer", self.server))
                .with_source(error)
        })?;
        Ok((answer, stream))
    }

    async fn connect(&self, context: &Context) -> Result<TcpStream, ProviderError> {
        let addresses = match &self.server {
            ServerAddress::Address(address) => vec![*address],
            ServerAddress::Host(name, port) => {
                let found = lookup_host((name.as_str(), *port));
                let found = self.within(context, CONNECT, Kind::Question, "its address", found).await?;
                found
                    .map_err(|error| {
                        ProviderError::transient(format!("the DNS server `{name}` cannot be resolved"))
                            .with_source(error)
                    })?
                    .collect()
            }
        };
        let mut last = None;
        for address in addresses {
            match self.open(context, address).await {
                Ok(stream) => return Ok(stream),
                // A deadline that has passed leaves no time for another address.
                Err(error) if context.remaining().is_some_and(|left| left.is_zero()) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            ProviderError::transient(format!("the DNS server `{}` has no address", self.server))
        }))
    }

    async fn open(&self, context: &Context, address: SocketAddr) -> Result<TcpStream, ProviderError> {
        let connect = TcpStream::connect(address);
        let connected = self.within(context, CONNECT, Kind::Question, "a connection", connect);
        let stream = connected.await?.map_err(|error| {
            let message = format!("cannot connect to the DNS server `{}` at {address}", self.server);
            ProviderError::transient(message).with_source(error)
        })?;
        // An update is one write that waits for its answer: Nagle's algorithm would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(server = %self.server, %error, "cannot set TCP_NODELAY");
        }
        Ok(stream)
    }

    /// Waits until the deadline, or `limit` where that is sooner.
    async fn within<T>(
        &self,
        context: &Context,
        limit: Duration,
        kind: Kind,
        what: &str,
        future: impl Future<Output = io::Result<T>>,
    ) -> Result<io::Result<T>, ProviderError> {
        let limit = context.remaining().map_or(limit, |remaining| remaining.min(limit));
        let late = || {
            ProviderError::transient(format!(
                "the DNS server `{}` did not give {what} within {:.1} s",
                self.server,
                limit.as_secs_f64()
            ))
        };
        if limit.is_zero() {
            return Err(late());
        }
        let waited = timeout(limit, future);
        match kind {
            Kind::Question => tokio::select! {
                waited = waited => waited.map_err(|_| late()),
                () = context.cancel.cancelled() => Err(ProviderError::transient("the run was cancelled")),
            },
            Kind::Update => waited.await.map_err(|_| late()),
        }
    }

    fn take(&self) -> Option<TcpStream> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, since)| since.elapsed() < IDLE);
        kept.pop().map(|(stream, _)| stream)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, stream: TcpStream) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push((stream, Instant::now()));
        }
    }
}

/// Sends a message and reads one, each after its length in two octets
/// ([RFC 1035, section 4.2.2](https://www.rfc-editor.org/rfc/rfc1035#section-4.2.2)).
async fn talk(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(request.len()).map_err(|_| io::Error::other("the request is too large"))?;
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
