use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeSettings;
use certplan::acme::Session;
use certplan_http::Jitter;
use certplan_http::ProxySource;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use url::Url;

/// A request that the fake got.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) user_agent: String,
    /// The protected header of a JWS.
    pub(crate) header: Value,
    /// The payload of a JWS.
    pub(crate) payload: Value,
    /// How often the path was asked before.
    pub(crate) before: usize,
    pub(crate) at: Instant,
}

/// What the fake does.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answers.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// Acts, and closes the connection without an answer.
    Close,
    /// Answers one byte after the other, for ever.
    Drip,
    /// Says nothing.
    Silence,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::text(status, "application/json", &body.to_string())
    }

    pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({ "type": kind, "detail": detail, "status": status });
        Self::text(status, "application/problem+json", &body.to_string())
    }

    pub(crate) fn text(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self::Answer { status, headers, body: body.to_owned() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

/// What happens instead of the default, if anything.
type Rule = Box<dyn Fn(&Call, &str) -> Option<Reply> + Send + Sync>;

/// An ACME server on plain HTTP that answers one order for `a.example` and misbehaves as its rule says. It checks no
/// signature: Pebble does that.
pub(crate) struct Fake {
    pub(crate) base: String,
    inner: Arc<Inner>,
}

struct Inner {
    base: String,
    rule: Rule,
    calls: Mutex<Vec<Call>>,
    nonces: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Fake {
    pub(crate) async fn start(rule: impl Fn(&Call, &str) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            base: base.clone(),
            rule: Box::new(rule),
            calls: Mutex::default(),
            nonces: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let server = Arc::clone(&inner);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&server)));
            }
        });
        Self { base, inner }
    }

    /// Requests so far, optionally of one path only.
    pub(crate) fn calls(&self, path: &str) -> Vec<Call> {
        let calls = self.inner.calls.lock().unwrap();
        calls.iter().filter(|call| path.is_empty() || call.path == path).cloned().collect()
    }

    /// How many requests were in the server at once.
    pub(crate) fn most_open(&self) -> usize {
        self.inner.most_open.load(Ordering::SeqCst)
    }

    /// Waits until a path was asked.
    pub(crate) async fn was_asked(&self, path: &str) {
        let started = Instant::now();
        while self.calls(path).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(10), "nobody asked for {path}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Settings that retry quickly.
    pub(crate) fn settings(&self) -> AcmeSettings {
        let mut settings = AcmeSettings::new(Url::parse(&format!("{}/dir", self.base)).unwrap());
        settings.proxy = ProxySource::None;
        settings.timeout = Duration::from_millis(500);
        settings.retry.first_pause = Duration::from_millis(5);
        settings.retry.longest_pause = Duration::from_secs(3);
        settings.retry.jitter = Jitter::new(|| 0.5);
        settings
    }

    pub(crate) fn client(&self) -> Arc<AcmeClient> {
        AcmeClient::new(self.settings()).unwrap()
    }

    pub(crate) fn session(&self) -> Session {
        self.session_of(&self.client())
    }

    pub(crate) fn session_of(&self, client: &Arc<AcmeClient>) -> Session {
        client.session(&AccountKey::generate().unwrap(), &format!("{}/acct/1", self.base)).unwrap()
    }
}

/// The order of the fake in a status.
pub(crate) fn order(base: &str, status: &str) -> Value {
    let mut order = json!({
        "status": status,
        "expires": "2030-01-01T00:00:00Z",
        "identifiers": [{ "type": "dns", "value": "a.example" }],
        "authorizations": [format!("{base}/authz/1")],
        "finalize": format!("{base}/finalize/1"),
    });
    if status == "valid" {
        order["certificate"] = json!(format!("{base}/cert/1"));
    }
    order
}

fn default_reply(call: &Call, base: &str) -> Reply {
    match call.path.as_str() {
        "/dir" => Reply::json(
            200,
            json!({
                "newNonce": format!("{base}/nonce"),
                "newAccount": format!("{base}/acct"),
                "newOrder": format!("{base}/order"),
                "renewalInfo": format!("{base}/ari"),
                "meta": { "termsOfService": "https://ca.example/terms", "profiles": { "odd": 7 } },
                "AbCdEf": "https://community.example/random",
            }),
        ),
        "/nonce" => Reply::text(200, "text/plain", ""),
        "/acct" => Reply::json(201, json!({ "status": "valid" })).with("location", format!("{base}/acct/1")),
        "/order" => Reply::json(201, order(base, "pending")).with("location", format!("{base}/order/1")),
        "/order/1" => Reply::json(200, order(base, "ready")),
        "/finalize/1" => Reply::json(200, order(base, "valid")),
        "/authz/1" => Reply::json(
            200,
            json!({
                "status": "pending",
                "identifier": { "type": "dns", "value": "a.example" },
                "challenges": [
                    { "type": "dns-persist-01", "url": format!("{base}/chal/0"), "status": "pending" },
                    { "type": "dns-01", "url": format!("{base}/chal/2"), "status": "pending" },
                    { "type": 7 },
                    { "type": "dns-01", "url": format!("{base}/chal/1"), "status": "pending", "token": "tok-en_1" },
                ],
            }),
        ),
        "/chal/1" => Reply::json(200, json!({ "type": "dns-01", "status": "pending", "token": "tok-en_1" })),
        "/cert/1" => Reply::text(200, "application/pem-certificate-chain", "no certificate"),
        _ => Reply::problem(404, "malformed", "no such resource"),
    }
}

async fn serve(stream: TcpStream, inner: Arc<Inner>) {
    let mut stream = BufReader::new(stream);
    while let Some(mut call) = read(&mut stream).await {
        let open = inner.open.fetch_add(1, Ordering::SeqCst) + 1;
        inner.most_open.fetch_max(open, Ordering::SeqCst);
        {
            let mut calls = inner.calls.lock().unwrap();
            call.before = calls.iter().filter(|other| other.path == call.path).count();
            calls.push(call.clone());
        }
        let reply = (inner.rule)(&call, &inner.base).unwrap_or_else(|| default_reply(&call, &inner.base));
        let done = respond(&mut stream, &call, reply, &inner).await;
        inner.open.fetch_sub(1, Ordering::SeqCst);
        if done.is_none() {
            return;
        }
    }
}

async fn respond(stream: &mut BufReader<TcpStream>, call: &Call, reply: Reply, inner: &Inner) -> Option<()> {
    let (status, headers, body) = match reply {
        Reply::Answer { status, headers, body } => (status, headers, body),
        Reply::Close => return None,
        // Until the client goes.
        Reply::Silence => {
            let _ = stream.read_u8().await;
            return None;
        }
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await.ok()?;
            while stream.write_all(b"x").await.is_ok() {
                stream.flush().await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return None;
        }
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
    if call.path != "/dir" && !headers.iter().any(|(name, _)| *name == "replay-nonce") {
        head += &format!("replay-nonce: nonce{}\r\n", inner.nonces.fetch_add(1, Ordering::SeqCst));
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if call.method != "HEAD" {
        head += &body;
    }
    stream.write_all(head.as_bytes()).await.ok()
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Call> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut user_agent) = (0, String::new());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "user-agent" => value.trim().clone_into(&mut user_agent),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let jws: Value = serde_json::from_slice(&body).unwrap_or_default();
    let member = |name: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap_or_default()).unwrap_or_default();
        serde_json::from_slice(&decoded).unwrap_or_default()
    };
    let (header, payload) = (member("protected"), member("payload"));
    Some(Call { method, path, user_agent, header, payload, before: 0, at: Instant::now() })
}
