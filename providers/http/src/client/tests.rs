use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;
use http::HeaderValue;
use http::Method;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::*;
use crate::retry::Jitter;

/// What a scripted server does with one request.
#[derive(Clone)]
enum Act {
    /// Sends these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Closes the connection without a word.
    Close,
    /// Sends these bytes, then one byte each 20 ms for ever.
    Drip(Vec<u8>),
    /// Says nothing.
    Silence,
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Act {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Act::Answer(bytes)
}

/// A server that acts by its script, one entry a request and the last for ever; it counts requests.
async fn server(script: Vec<Act>) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let (count, script) = (Arc::clone(&seen), Arc::new(script));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&count)));
        }
    });
    (url, seen)
}

async fn serve(mut stream: TcpStream, script: Arc<Vec<Act>>, count: Arc<AtomicUsize>) {
    while read_head(&mut stream).await {
        let turn = count.fetch_add(1, Ordering::SeqCst);
        match script[turn.min(script.len() - 1)].clone() {
            Act::Answer(bytes) => {
                let _ = stream.write_all(&bytes).await;
            }
            Act::Close => return,
            Act::Drip(bytes) => {
                let _ = stream.write_all(&bytes).await;
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            Act::Silence => std::future::pending().await,
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(octet) => head.push(octet),
            Err(_) => return false,
        }
    }
    true
}

fn settings() -> ClientSettings {
    ClientSettings {
        proxy: ProxySource::None,
        timeout: Duration::from_secs(5),
        retry: RetryPolicy {
            first_pause: Duration::from_millis(4),
            longest_pause: Duration::from_secs(2),
            jitter: Jitter::new(|| 0.0),
            ..RetryPolicy::default()
        },
        ..ClientSettings::default()
    }
}

fn client() -> HttpClient {
    HttpClient::new(&settings()).unwrap()
}

fn context() -> Context {
    Context::new(Timestamp::UNIX_EPOCH, CancellationToken::new())
}

#[tokio::test]
async fn an_idempotent_request_outlives_a_bad_moment() {
    let script = vec![
        Act::Close,
        answer("502 Bad Gateway", "", b"<html>"),
        answer("429 Too Many", "retry-after: 0\r\n", b""),
        answer("200 OK", "", b"\"fine\""),
    ];
    let (url, seen) = server(script).await;
    let response = client().send(&context(), &Request::get(url), RetryClass::Idempotent).await.unwrap();
    assert_eq!(response.json::<String>().unwrap(), "fine");
    assert_eq!(seen.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn attempts_are_bounded_and_the_last_answer_comes_back() {
    let (url, seen) = server(vec![answer("500 Oops", "", b"no")]).await;
    let response = client().send(&context(), &Request::get(url), RetryClass::Idempotent).await.unwrap();
    assert_eq!(response.status, 500);
    assert_eq!(seen.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_may_have_had_an_effect_is_not_repeated() {
    for act in [Act::Close, answer("500 Oops", "", b""), answer("503 Busy", "retry-after: 0\r\n", b"")] {
        let (url, seen) = server(vec![act, answer("200 OK", "", b"")]).await;
        let request = Request::new(Method::POST, url).body(HeaderValue::from_static("text/plain"), "");
        let result = client().send(&context(), &request, RetryClass::Unsafe).await;
        assert!(result.is_err() || result.is_ok_and(|response| response.status.is_server_error()));
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_unsafe_request_is_repeated_after_429_and_a_single_one_never() {
    for (class, status, count) in [(RetryClass::Unsafe, 200, 2), (RetryClass::Never, 429, 1)] {
        let (url, seen) = server(vec![answer("429 Slow", "", b""), answer("200 OK", "", b"")]).await;
        let response = client().send(&context(), &Request::new(Method::POST, url), class).await.unwrap();
        assert_eq!(response.status, status);
        assert_eq!(seen.load(Ordering::SeqCst), count);
    }
}

#[tokio::test]
async fn a_long_retry_after_is_returned_and_not_waited_out() {
    let (url, seen) = server(vec![answer("429 Slow", "retry-after: 86400\r\n", b"later")]).await;
    let response = client().send(&context(), &Request::get(url), RetryClass::Idempotent).await.unwrap();
    assert_eq!(response.retry_after, Some(Duration::from_secs(86_400)));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let error = response.check("it").unwrap_err();
    assert!(
        matches!(error, ProviderError::RateLimited { retry_after: Some(asked), .. } if asked.as_secs() == 86_400)
    );
}

#[tokio::test]
async fn the_deadline_ends_the_attempts() {
    let (url, _) = server(vec![Act::Silence]).await;
    let started = Instant::now();
    let context = context().within(Duration::from_millis(150));
    let error = client().send(&context, &Request::get(url), RetryClass::Idempotent).await.unwrap_err();
    assert!(matches!(error, HttpError::Timeout { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(ProviderError::from(error).kind(), ProviderErrorKind::Transient);
}

#[tokio::test]
async fn cancellation_ends_a_pause() {
    let (url, _) = server(vec![answer("429 Slow", "retry-after: 2\r\n", b"")]).await;
    let context = context();
    let cancel = context.cancel.clone();
    let started = Instant::now();
    let client = client();
    let request = Request::get(url);
    let (response, ()) = tokio::join!(client.send(&context, &request, RetryClass::Idempotent), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    assert_eq!(response.unwrap().status, 429);
    assert!(started.elapsed() < Duration::from_millis(1900));
    let again = client.send(&context, &request, RetryClass::Idempotent).await.unwrap_err();
    assert!(matches!(again, HttpError::Cancelled { .. }));
}

#[tokio::test]
async fn a_slow_loris_ends_with_the_total_timeout() {
    let slow =
        HttpClient::new(&ClientSettings { timeout: Duration::from_millis(200), ..settings() }).unwrap();
    let heads: [&[u8]; 2] =
        [b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx-slow: "];
    for head in heads {
        let (url, _) = server(vec![Act::Drip(head.to_vec())]).await;
        let error = slow.once(&Request::get(url), None).await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn half_a_body_is_an_interruption() {
    let (url, _) =
        server(vec![Act::Answer(b"HTTP/1.0 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Act::Close])
            .await;
    let bounded =
        HttpClient::new(&ClientSettings { read_timeout: Duration::from_millis(100), ..settings() }).unwrap();
    let error = bounded.once(&Request::get(url), None).await.unwrap_err();
    assert!(error.is_transient() && !error.nothing_sent(), "{error:?}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_cut_off_while_it_is_read() {
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1000\r\n".to_vec();
    let small = HttpClient::new(&ClientSettings { body_limit: 100, ..settings() }).unwrap();
    for act in [Act::Drip(endless), answer("200 OK", "", &[b'x'; 101])] {
        let (url, _) = server(vec![act]).await;
        let error = small.once(&Request::get(url), None).await.unwrap_err();
        assert!(matches!(error, HttpError::BodyTooLarge { limit: 100, .. }), "{error:?}");
    }
}

/// `head -c 65536 /dev/zero | gzip -9 -n`
const ZEROS: &str = "1f8b0800000000000203edc101010000008090feafee080a0000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000000000006aeb8e97d700000100";

#[tokio::test]
async fn a_gzip_bomb_is_bounded_by_its_decompressed_size() {
    let member: Vec<u8> =
        (0..ZEROS.len() / 2).map(|i| u8::from_str_radix(&ZEROS[2 * i..2 * i + 2], 16).unwrap()).collect();
    // Each zero octet in its middle stands for 1,032 zeros: these are 100 MB.
    let mut bomb = member.clone();
    bomb.splice(50..50, [0; 100_000]);
    let (url, _) = server(vec![
        answer("200 OK", "content-encoding: gzip\r\n", &member),
        answer("200 OK", "content-encoding: gzip\r\n", &bomb),
    ])
    .await;
    let client = client();
    let one = client.once(&Request::get(url.clone()), None).await.unwrap();
    assert_eq!(one.body.len(), 65_536);
    let error = client.once(&Request::get(url), None).await.unwrap_err();
    assert!(matches!(error, HttpError::BodyTooLarge { limit: 4_194_304, .. }), "{error:?}");
}

#[tokio::test]
async fn redirects_stay_on_the_origin_or_are_not_followed() {
    let (elsewhere, strangers) = server(vec![answer("200 OK", "", b"secret")]).await;
    let script = vec![
        answer("302 Found", "location: /next\r\n", b""),
        answer("302 Found", &format!("location: {elsewhere}\r\n"), b""),
    ];
    let (url, _) = server(script.clone()).await;
    let response = client().once(&Request::get(url), None).await.unwrap();
    assert_eq!((response.status.as_u16(), response.location()), (302, Some("/next")));
    let (url, seen) = server(script).await;
    let same = HttpClient::new(&ClientSettings { redirects: Redirects::SameOrigin, ..settings() }).unwrap();
    let response = same.once(&Request::get(url), None).await.unwrap();
    assert_eq!(response.location(), Some(elsewhere.as_str()));
    assert_eq!((seen.load(Ordering::SeqCst), strangers.load(Ordering::SeqCst)), (2, 0));
}

#[tokio::test]
async fn a_refused_connection_says_that_nothing_was_sent() {
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let url = Url::parse(&format!("http://127.0.0.1:{port}/x?key=hidden")).unwrap();
    let error = client().once(&Request::get(url), None).await.unwrap_err();
    assert!(error.nothing_sent() && error.is_transient(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("refused") && !text.contains("hidden"), "{text}");
}

#[tokio::test]
async fn a_ca_bundle_without_certificates_is_refused() {
    for pem in [&b""[..], b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error =
            HttpClient::new(&ClientSettings { ca_bundle: Some(pem.to_vec()), ..settings() }).unwrap_err();
        assert!(matches!(error, HttpError::Settings { .. }), "{error:?}");
    }
}
