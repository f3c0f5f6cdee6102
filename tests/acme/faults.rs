use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeError;
use certplan::acme::AcmeSettings;
use certplan::acme::CertificateKey;
use certplan::acme::ChainError;
use certplan::acme::OrderStatus;
use certplan::model::KeyType;
use certplan_http::ProxySource;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::fake::Call;
use crate::fake::Fake;
use crate::fake::Reply;
use crate::fake::order;
use crate::issue::names;

/// A rule for one path.
macro_rules! on {
    ($path:literal, $reply:expr) => {
        |call: &crate::fake::Call, base: &str| {
            let reply: fn(&crate::fake::Call, &str) -> Option<Reply> = $reply;
            if call.path == $path { reply(call, base) } else { None }
        }
    };
}

#[tokio::test]
async fn nonces_that_are_refused_for_ever_end_in_an_error() {
    let fake = Fake::start(on!("/order", |_, _| Some(Reply::problem(400, "badNonce", "no")))).await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(matches!(error, AcmeError::BadNonce { .. }), "{error:?}");
    assert!(error.is_retryable());
    let tried = fake.calls("/order").len();
    assert!((10..=15).contains(&tried), "{tried}");
    // The same through our own requests, and without a nonce in the refusal.
    let fake = Fake::start(on!("/authz/1", |_, _| {
        Some(Reply::problem(400, "badNonce", "no").with("replay-nonce", ""))
    }))
    .await;
    let error = fake.session().authorization(&format!("{}/authz/1", fake.base)).await.unwrap_err();
    assert!(matches!(error, AcmeError::BadNonce { attempts: 10 }), "{error:?}");
}

#[tokio::test]
async fn nonces_of_before_a_restart_cost_a_few_requests_only() {
    // Ten requests at once fill the pool with ten nonces; the server then forgets all that it gave out.
    let fake = Fake::start(|call, _| {
        let nonce = call.header["nonce"].as_str().and_then(|nonce| nonce.strip_prefix("nonce")?.parse().ok());
        let restarted = call.path == "/order/1" && nonce.is_some_and(|number: usize| number < 20);
        restarted.then(|| Reply::problem(400, "badNonce", "unknown").with("replay-nonce", ""))
    })
    .await;
    let session = fake.session();
    let authorization = format!("{}/authz/1", fake.base);
    for _ in 0..1 {
        let all = (0..10).map(|_| session.authorization(&authorization));
        futures::future::try_join_all(all).await.unwrap();
    }
    session.order(&format!("{}/order/1", fake.base)).await.unwrap();
    assert!(fake.calls("/order/1").len() <= 12, "{}", fake.calls("/order/1").len());
}

#[tokio::test]
async fn no_nonce_is_used_twice_and_most_come_from_answers() {
    let fake = Fake::start(|_, _| None).await;
    let session = fake.session();
    for _ in 0..20 {
        session.new_order(&names(&["a.example"]), None, None).await.unwrap();
        session.authorization(&format!("{}/authz/1", fake.base)).await.unwrap();
    }
    let posts: Vec<_> = fake.calls("").into_iter().filter(|call| call.method == "POST").collect();
    let nonces: BTreeSet<_> =
        posts.iter().map(|call| call.header["nonce"].as_str().unwrap().to_owned()).collect();
    assert_eq!((posts.len(), nonces.len()), (40, 40));
    assert_eq!((fake.calls("/nonce").len(), fake.calls("/dir").len()), (1, 1));
    assert!(fake.calls("").iter().all(|call| call.user_agent.starts_with("certplan/")));
    assert_eq!(posts[0].payload, json!({ "identifiers": [{ "type": "dns", "value": "a.example" }] }));
}

#[tokio::test]
async fn a_proxys_html_is_retried_and_then_quoted_in_one_line() {
    let fake = Fake::start(on!("/order", |call, _| {
        (call.before < 2).then(|| Reply::text(502, "text/html", "<html>\r\n<h1>Bad\u{1b}[31m Gateway</h1>"))
    }))
    .await;
    fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap();
    assert_eq!(fake.calls("/order").len(), 3);
    let fake =
        Fake::start(on!("/order", |_, _| Some(Reply::text(502, "text/html", "<html>\r\n<h1>Bad\u{1b}[31m"))))
            .await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(matches!(error, AcmeError::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("502: <html> <h1>Bad [31m") && !text.chars().any(char::is_control), "{text:?}");
    assert_eq!(fake.calls("/order").len(), 4);
}

#[tokio::test]
async fn a_retry_after_of_a_day_is_told_and_not_slept() {
    for (status, kind) in [(429, "rateLimited"), (503, "rateLimited"), (503, "serverInternal")] {
        let fake = Fake::start(move |call, _| {
            let reply = Reply::problem(status, kind, "slow down").with("retry-after", "86400");
            (call.path == "/order").then_some(reply)
        })
        .await;
        let started = Instant::now();
        let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(86_400)), "{error:?}");
        assert!(error.is_retryable() && error.to_string().contains("wait 24 h"), "{error}");
        assert_eq!(fake.calls("/order").len(), 1);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_short_retry_after_is_honoured_by_every_request() {
    let fake = Fake::start(on!("/order", |call, _| {
        (call.before == 0).then(|| Reply::text(503, "text/plain", "busy").with("retry-after", "1"))
    }))
    .await;
    let session = fake.session();
    let authorization = format!("{}/authz/1", fake.base);
    let (wanted, later) = (names(&["a.example"]), async {
        // Another certificate comes along while the server asks for a pause.
        fake.was_asked("/order").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.authorization(&authorization).await
    });
    let (order, other) = tokio::join!(session.new_order(&wanted, None, None), later);
    order.unwrap();
    other.unwrap();
    let refused = fake.calls("/order")[0].at;
    for call in [&fake.calls("/order")[1], &fake.calls("/authz/1")[0]] {
        assert!(call.at - refused >= Duration::from_millis(990), "{:?}", call.at - refused);
    }
}

#[tokio::test]
async fn a_rate_limit_in_words_and_a_pause_are_understood() {
    let fake = Fake::start(on!("/order", |_, _| {
        let detail =
            "too many certificates, retry after 2026-11-25 10:00:00 UTC: see https://ca.example/limits";
        Some(Reply::problem(429, "rateLimited", detail).with("date", "Wed, 25 Nov 2026 09:00:00 GMT"))
    }))
    .await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(matches!(error, AcmeError::RateLimited { .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    let fake = Fake::start(on!("/order", |_, _| {
        let detail = "Your account is temporarily prevented from requesting certificates for a.example. \
                      Please visit: https://portal.example/unpause?jwt=abc";
        Some(Reply::problem(429, "rateLimited", detail))
    }))
    .await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    let url = "https://portal.example/unpause?jwt=abc";
    assert!(
        matches!(&error, AcmeError::UserActionRequired { url: Some(found), .. } if found == url),
        "{error:?}"
    );
    assert_eq!(fake.calls("/order").len(), 1, "it is not tried again");
}

#[tokio::test]
async fn the_order_is_kept_when_the_answer_to_its_creation_is_garbage() {
    for body in ["<html>", "", "{}", r#"{"status":"pending","identifiers":7}"#] {
        let garbage = move |base: &str| {
            Reply::text(201, "application/json", body).with("location", format!("{base}/order/1"))
        };
        let fake = Fake::start(move |call, base| (call.path == "/order").then(|| garbage(base))).await;
        let order = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap();
        assert_eq!(order.url, format!("{}/order/1", fake.base), "{body}");
        assert_eq!(order.status, OrderStatus::Ready);
        let fake =
            Fake::start(move |call, base| call.path.starts_with("/order").then(|| garbage(base))).await;
        let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
        let url = format!("{}/order/1", fake.base);
        assert!(
            matches!(&error, AcmeError::Malformed { order: Some(found), .. } if *found == url),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_replacement_that_is_not_echoed_is_still_an_order_that_can_be_finalized() {
    let fake = Fake::start(|_, _| None).await;
    let session = fake.session();
    let order = session.new_order(&names(&["a.example"]), None, Some("AAAA.BBBB")).await.unwrap();
    assert!(!order.replaces_accepted);
    assert_eq!(fake.calls("/order")[0].payload["replaces"], "AAAA.BBBB");
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap();
    assert_eq!(order.status, OrderStatus::Valid);
}

#[tokio::test]
async fn a_refusal_of_replaces_in_other_words_is_recognised() {
    for (status, kind, detail) in [
        (409, "alreadyReplaced", "cert already replaced"),
        (409, "conflict", "an order exists"),
        (400, "malformed", "could not parse the certID of the predecessor"),
    ] {
        let fake = Fake::start(move |call, _| {
            (call.path == "/order" && !call.payload["replaces"].is_null())
                .then(|| Reply::problem(status, kind, detail))
        })
        .await;
        let session = fake.session();
        let wanted = names(&["a.example"]);
        let error = session.new_order(&wanted, None, Some("AAAA.BBBB")).await.unwrap_err();
        assert!(matches!(error, AcmeError::AlreadyReplaced(_)), "{error:?}");
        session.new_order(&wanted, None, None).await.unwrap();
    }
}

#[tokio::test]
async fn no_request_leaves_the_origin() {
    let elsewhere = Fake::start(|_, _| None).await;
    let stranger = elsewhere.base.clone();
    let at = |path: &'static str, member: &'static str, list: bool| {
        let stranger = stranger.clone();
        move |call: &Call, base: &str| {
            let url = format!("{stranger}/x");
            let reply = match path {
                "/dir" => json!({ "newNonce": format!("{base}/nonce"), "newAccount": format!("{base}/acct"),
                                  "newOrder": format!("{base}/order") }),
                _ => order(base, "ready"),
            };
            let mut body = reply;
            body[member] = if list { json!([url]) } else { json!(url) };
            let reply = Reply::json(200, body);
            (call.path == path).then(|| reply.with("location", format!("{base}/order/1")))
        }
    };
    for (path, member, list) in [
        ("/dir", "newNonce", false),
        ("/dir", "newOrder", false),
        ("/dir", "renewalInfo", false),
        ("/order", "authorizations", true),
        ("/order", "finalize", false),
        ("/order", "certificate", false),
    ] {
        let fake = Fake::start(at(path, member, list)).await;
        let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
        assert!(matches!(error, AcmeError::OffOrigin { .. }), "{path} {member}: {error:?}");
        assert!(error.to_string().contains("allow_hosts"), "{error}");
    }
    let away = stranger.clone();
    let fake = Fake::start(move |call, base| {
        let reply = Reply::json(201, order(base, "ready")).with("location", format!("{away}/order/1"));
        (call.path == "/order").then_some(reply)
    })
    .await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(matches!(error, AcmeError::OffOrigin { .. }), "{error:?}");
    let away = stranger.clone();
    let fake = Fake::start(move |call, _| {
        (call.path == "/dir")
            .then(|| Reply::text(302, "text/plain", "").with("location", format!("{away}/dir")))
    })
    .await;
    fake.client().directory().await.unwrap_err();
    let error =
        fake.client().session(&AccountKey::generate().unwrap(), &format!("{stranger}/acct/1")).unwrap_err();
    assert!(matches!(error, AcmeError::OffOrigin { .. }), "{error:?}");
    assert_eq!(elsewhere.calls("").len(), 0, "{:?}", elsewhere.calls(""));
    // And with leave it does.
    let fake = Fake::start(at("/order", "certificate", false)).await;
    let mut settings = fake.settings();
    settings.allow_hosts = vec![stranger.strip_prefix("http://").unwrap().to_owned()];
    let session = fake.session_of(&AcmeClient::new(settings).unwrap());
    session.new_order(&names(&["a.example"]), None, None).await.unwrap();
}

#[tokio::test]
async fn a_server_that_drips_is_given_up() {
    let fake = Fake::start(on!("/order", |_, _| Some(Reply::Drip))).await;
    let started = Instant::now();
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(error.outcome_is_unknown() && error.is_retryable(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fake.calls("/order").len(), 4);
}

#[tokio::test]
async fn a_ca_that_answers_nobody_for_a_while_is_waited_for_together() {
    for reply in [Reply::Silence, Reply::Close] {
        let away = Arc::new(AtomicBool::new(false));
        let rule = Arc::clone(&away);
        let fake = Fake::start(move |_, _| rule.load(Ordering::SeqCst).then(|| reply.clone())).await;
        let mut settings = fake.settings();
        settings.timeout = Duration::from_millis(100);
        let session = fake.session_of(&AcmeClient::new(settings).unwrap());
        let url = format!("{}/authz/1", fake.base);
        session.authorization(&url).await.unwrap();
        away.store(true, Ordering::SeqCst);
        let ask_all = futures::future::join_all((0..100).map(|_| session.authorization(&url)));
        let (answers, ()) = tokio::join!(ask_all, async {
            // Many times as long as one alone tries.
            tokio::time::sleep(Duration::from_secs(3)).await;
            away.store(false, Ordering::SeqCst);
        });
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(failed <= 10, "{failed} of 100 gave up by themselves");
    }
}

#[tokio::test]
async fn a_ca_that_stays_silent_is_given_up_together() {
    let fake = Fake::start(|call, _| (call.path != "/dir").then_some(Reply::Silence)).await;
    let mut settings = fake.settings();
    settings.timeout = Duration::from_millis(100);
    settings.patience = Duration::from_millis(500);
    let session = fake.session_of(&AcmeClient::new(settings).unwrap());
    let url = format!("{}/authz/1", fake.base);
    let answers = futures::future::join_all((0..500).map(|_| session.authorization(&url))).await;
    assert!(answers.iter().all(Result::is_err));
    // Those that were in flight, and one after the other for half a second: not each of them four times.
    assert!(fake.calls("").len() < 100, "{}", fake.calls("").len());
    let told = answers.iter().filter(|answer| {
        answer.as_ref().is_err_and(|error| error.to_string().contains("has answered nobody for a while"))
    });
    assert!(told.count() > 400, "{:?}", answers[499]);
}

#[tokio::test]
async fn an_order_for_other_names_is_refused() {
    for identifiers in [
        json!([{ "type": "dns", "value": "b.example" }]),
        json!([{ "type": "dns", "value": "a.example" }, { "type": "dns", "value": "b.example" }]),
        json!([]),
        json!([{ "type": "ip", "value": "192.0.2.1" }]),
    ] {
        let other = identifiers.clone();
        let fake = Fake::start(move |call, base| {
            let mut body = order(base, "ready");
            body["identifiers"] = other.clone();
            let reply = Reply::json(201, body).with("location", format!("{base}/order/1"));
            call.path.starts_with("/order").then_some(reply)
        })
        .await;
        let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
        assert!(
            matches!(error, AcmeError::IdentifiersDiffer { .. } | AcmeError::Malformed { .. }),
            "{identifiers}: {error:?}"
        );
    }
    // The case of letters is no difference.
    let fake = Fake::start(on!("/order", |_, base| {
        let mut body = order(base, "ready");
        body["identifiers"][0]["value"] = json!("A.Example");
        Some(Reply::json(201, body).with("location", format!("{base}/order/1")))
    }))
    .await;
    fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap();
}

#[tokio::test]
async fn an_order_with_more_authorizations_than_names_is_refused() {
    let fake = Fake::start(|call, base| {
        let mut body = order(base, "pending");
        body["authorizations"] = (0..50_000).map(|number| json!(format!("{base}/authz/{number}"))).collect();
        let reply = Reply::json(201, body).with("location", format!("{base}/order/1"));
        call.path.starts_with("/order").then_some(reply)
    })
    .await;
    let error = fake.session().new_order(&names(&["a.example"]), None, None).await.unwrap_err();
    assert!(matches!(error, AcmeError::Malformed { order: Some(_), .. }), "{error:?}");
    assert!(error.to_string().contains("50000 authorizations for 1 names"), "{error}");

    // An apex and its wildcard are proved separately.
    let fake = Fake::start(|call, base| {
        let mut body = order(base, "pending");
        body["identifiers"] =
            json!([{ "type": "dns", "value": "a.example" }, { "type": "dns", "value": "*.a.example" }]);
        body["authorizations"] = json!([format!("{base}/authz/1"), format!("{base}/authz/2")]);
        let reply = Reply::json(201, body).with("location", format!("{base}/order/1"));
        (call.path == "/order").then_some(reply)
    })
    .await;
    let both = names(&["a.example", "*.a.example"]);
    let found = fake.session().new_order(&both, None, None).await.unwrap();
    assert_eq!(found.authorizations.len(), 2);
}

#[tokio::test]
async fn a_ca_that_serves_its_own_root_is_told_so() {
    let mut root = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = root.self_signed(&key).unwrap();
    let served = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], served)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://localhost:{}/dir", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let mut settings = AcmeSettings::new(Url::parse(&url).unwrap());
    settings.proxy = ProxySource::None;
    settings.ca_bundle = Some(certificate.pem().into_bytes());
    let error = AcmeClient::new(settings).unwrap().directory().await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate: it is a CA's, and not one for a server"), "{error}");
}

#[tokio::test]
async fn a_status_that_nobody_knows_is_waited_out_within_the_patience() {
    let fake =
        Fake::start(on!("/order/1", |_, base| Some(Reply::json(200, order(base, "frobbed\u{7}"))))).await;
    let session = fake.session();
    let url = format!("{}/order/1", fake.base);
    assert_eq!(session.order(&url).await.unwrap().status, OrderStatus::Unknown("frobbed".to_owned()));
    let error = session.wait_until_ready(&url, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, AcmeError::Timeout { .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn an_order_that_stays_pending_though_a_name_was_refused_is_not_waited_for() {
    let fake = Fake::start(|call, base| match call.path.as_str() {
        "/order/1" => Some(Reply::json(200, order(base, "pending"))),
        "/authz/1" => Some(Reply::json(
            200,
            json!({
                "status": "invalid",
                "identifier": { "type": "dns", "value": "a.example" },
                "challenges": [],
            }),
        )),
        _ => None,
    })
    .await;
    let (session, url) = (fake.session(), format!("{}/order/1", fake.base));
    let waited = session.wait_until_ready(&url, Duration::from_secs(300));
    let order = tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it is seen").unwrap();
    assert_eq!(order.status, OrderStatus::Pending);
    assert!(fake.calls("/authz/1").len() <= 2, "the order is asked, and authorizations now and then");
}

#[tokio::test]
async fn a_finalize_that_the_server_did_and_did_not_answer_is_not_repeated() {
    for lost in
        [Reply::text(500, "text/html", "<html>"), Reply::Close, Reply::problem(500, "serverInternal", "x")]
    {
        let fake = Fake::start(move |call, base| match call.path.as_str() {
            "/finalize/1" => Some(lost.clone()),
            "/order/1" => {
                Some(Reply::json(200, order(base, if call.before == 0 { "ready" } else { "valid" })))
            }
            _ => None,
        })
        .await;
        let session = fake.session();
        let order = session.order(&format!("{}/order/1", fake.base)).await.unwrap();
        let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
        let done = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap();
        assert_eq!(done.status, OrderStatus::Valid);
        assert_eq!(fake.calls("/finalize/1").len(), 1);
    }
}

#[tokio::test]
async fn a_replica_that_lags_behind_is_asked_again_with_the_same_csr() {
    let fake = Fake::start(on!("/finalize/1", |call, _| {
        (call.before < 2).then(|| Reply::problem(403, "orderNotReady", "order is pending"))
    }))
    .await;
    let session = fake.session();
    let order = session.order(&format!("{}/order/1", fake.base)).await.unwrap();
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let done = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap();
    assert_eq!(done.status, OrderStatus::Valid);
    let sent = fake.calls("/finalize/1");
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|call| call.payload == sent[0].payload));
}

#[tokio::test]
async fn an_account_whose_creation_was_not_answered_is_found() {
    let fake = Fake::start(on!("/acct", |call, _| (call.before == 0).then_some(Reply::Close))).await;
    let url = fake.client().create_account(&AccountKey::generate().unwrap(), &[], None).await.unwrap();
    assert_eq!(url, format!("{}/acct/1", fake.base));
    let calls = fake.calls("/acct");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].payload, json!({ "onlyReturnExisting": true }));
}

#[tokio::test]
async fn a_deactivated_account_is_no_account() {
    let fake = Fake::start(on!("/acct", |_, base| {
        Some(Reply::json(200, json!({ "status": "deactivated" })).with("location", format!("{base}/acct/1")))
    }))
    .await;
    let error = fake.client().find_account(&AccountKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(error, AcmeError::AccountDoesNotExist(_)), "{error:?}");
}

#[tokio::test]
async fn unknown_challenges_and_those_without_a_token_are_passed_over() {
    let fake = Fake::start(|_, _| None).await;
    let authorization = fake.session().authorization(&format!("{}/authz/1", fake.base)).await.unwrap();
    let challenge = authorization.dns01.unwrap();
    assert_eq!((challenge.token.as_str(), challenge.url), ("tok-en_1", format!("{}/chal/1", fake.base)));
    assert_eq!(authorization.offered, ["dns-persist-01", "dns-01", "dns-01"]);
}

#[tokio::test]
async fn cancellation_ends_waits_and_lets_nothing_out() {
    let fake = Fake::start(on!("/order/1", |_, base| {
        Some(Reply::json(200, order(base, "pending")).with("retry-after", "30"))
    }))
    .await;
    let settings = fake.settings();
    let cancel = settings.cancel.clone();
    let session = fake.session_of(&AcmeClient::new(settings).unwrap());
    let url = format!("{}/order/1", fake.base);
    let started = Instant::now();
    let (waited, ()) = tokio::join!(session.wait_until_ready(&url, Duration::from_secs(60)), async {
        fake.was_asked("/order/1").await;
        cancel.cancel();
    });
    assert!(matches!(waited, Err(AcmeError::Cancelled)), "{waited:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let asked = fake.calls("").len();
    assert!(matches!(session.order(&url).await, Err(AcmeError::Cancelled)));
    assert_eq!(fake.calls("").len(), asked);
}

#[tokio::test]
async fn alternates_that_cannot_be_had_leave_the_default_chain() {
    let fake = Fake::start(on!("/cert/1", |_, base| {
        let links = format!(
            "<{base}/gone>;rel=\"alternate\", <http://elsewhere.example/2>; rel=alternate, <>, nonsense, <{base}/dir>;rel=\"index\""
        );
        Some(Reply::text(200, "application/pem-certificate-chain", "pem").with("link", links))
    }))
    .await;
    let session = fake.session();
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.order(&format!("{}/order/1", fake.base)).await.unwrap();
    let order = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap();
    let chain = session.chains(&order, Some("Preferred Root"), |_| Ok(())).await.unwrap();
    assert_eq!(chain.pem, "pem");
    assert_eq!(chain.warnings.len(), 3, "{:?}", chain.warnings);
    assert_eq!(fake.calls("/gone").len(), 1);
}

#[tokio::test]
async fn contacts_are_told_as_urls_in_place_of_those_before() {
    let fake = Fake::start(on!("/acct/1", |_, _| Some(Reply::json(200, json!({ "status": "valid" }))))).await;
    let session = fake.session();
    session.update_contact(&["a@example.org".to_owned(), "mailto:b@example.org".to_owned()]).await.unwrap();
    session.update_contact(&[]).await.unwrap();
    let payloads: Vec<_> = fake.calls("/acct/1").into_iter().map(|call| call.payload).collect();
    let expected =
        [json!({ "contact": ["mailto:a@example.org", "mailto:b@example.org"] }), json!({ "contact": [] })];
    assert_eq!(payloads, expected);
}

#[tokio::test]
async fn a_preferred_chain_that_cannot_be_used_leaves_one_that_can() {
    let pem = |root: &str| {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, root);
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    };
    let (own, preferred) = (pem("Own Root"), pem("Preferred Root"));
    let documents = [own.clone(), preferred.clone()];
    let fake = Fake::start(move |call: &Call, base: &str| {
        let (document, links) = match call.path.as_str() {
            "/cert/1" => (&documents[0], format!("<{base}/cert/2>;rel=alternate")),
            "/cert/2" => (&documents[1], String::new()),
            _ => return None,
        };
        Some(Reply::text(200, "application/pem-certificate-chain", document).with("link", links))
    })
    .await;
    let session = fake.session();
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.order(&format!("{}/order/1", fake.base)).await.unwrap();
    let order = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap();
    let chains = async |wanted, bad: &[&String]| {
        let check = |pem: &str| match bad.iter().any(|bad| *bad == pem) {
            true => Err(ChainError::Pem),
            false => Ok(()),
        };
        session.chains(&order, wanted, check).await.unwrap()
    };
    let wanted = Some("Preferred Root");
    let chain = chains(wanted, &[]).await;
    assert_eq!((chain.pem, chain.warnings), (preferred.clone(), Vec::new()));
    let chain = chains(wanted, &[&preferred]).await;
    assert_eq!(chain.pem, own);
    assert!(chain.warnings[0].contains("the chain with `Preferred Root` so that"), "{:?}", chain.warnings);
    // Nothing is preferred, and the CA's own chain is the one that is broken.
    let chain = chains(None, &[&own]).await;
    assert_eq!(chain.pem, preferred);
    assert!(chain.warnings[0].contains("its own chain so that"), "{:?}", chain.warnings);
    // None is any good: its own, which the caller refuses.
    let chain = chains(wanted, &[&own, &preferred]).await;
    assert_eq!(chain.pem, own);
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let fake = Fake::start(|_, _| {
        std::thread::sleep(Duration::from_millis(2));
        None
    })
    .await;
    let mut settings = fake.settings();
    settings.max_in_flight = 3;
    settings.timeout = Duration::from_secs(10);
    let session = fake.session_of(&AcmeClient::new(settings).unwrap());
    let url = format!("{}/authz/1", fake.base);
    futures::future::try_join_all((0..50).map(|_| session.authorization(&url))).await.unwrap();
    assert!(fake.most_open() <= 3, "{}", fake.most_open());
    // One for each that may be in flight: what waits for its turn holds no nonce that another could use.
    let fetched = fake.calls("/nonce").len();
    assert!((1..=3).contains(&fetched), "{fetched}");
}

#[tokio::test]
async fn what_is_no_directory_says_so() {
    for (body, expected) in [
        ("<html>Log in to the hotel's network", "not a directory"),
        ("{}", "there is no `newNonce`"),
        ("[1]", "there is no `newNonce`"),
    ] {
        let fake =
            Fake::start(move |call, _| (call.path == "/dir").then(|| Reply::text(200, "text/html", body)))
                .await;
        let error = fake.client().directory().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let fake = Fake::start(on!("/dir", |call, _| {
        std::thread::sleep(Duration::from_millis(100));
        (call.before == 0).then(|| Reply::text(404, "text/plain", ""))
    }))
    .await;
    let client = fake.client();
    let asked = futures::future::join_all((0..100).map(|_| client.directory())).await;
    assert!(asked.iter().all(|asked| matches!(asked, Err(AcmeError::NotFound { .. }))), "{asked:?}");
    assert_eq!(fake.calls("/dir").len(), 1, "who waits for the same hears the same");
    fake.client().directory().await.unwrap();
}

#[tokio::test]
async fn renewal_information_is_bounded_and_errors_keep_their_reason() {
    for (header, expected) in
        [("", 6 * 3600), ("1", 60), ("99999999", 86_400), ("soon", 6 * 3600), ("7200", 7200)]
    {
        let fake = Fake::start(move |call, _| {
            let window = json!({ "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00+01:00" });
            let reply =
                Reply::json(200, json!({ "suggestedWindow": window, "explanationURL": "javascript:x" }));
            (call.path == "/ari/AAAA.BB").then(|| reply.with("retry-after", header))
        })
        .await;
        let info = fake.client().renewal_info("AAAA.BB").await.unwrap();
        assert_eq!(info.retry_after, Duration::from_secs(expected), "{header:?}");
        assert_eq!(info.explanation_url, None);
        assert_eq!(info.window.unwrap().1, "2026-01-01T23:00:00Z".parse().unwrap());
        assert_eq!(fake.calls("/nonce").len(), 0, "it needs no nonce");
    }
    let fake =
        Fake::start(on!("/ari/AAAA.BB", |_, _| Some(Reply::problem(400, "malformed", "bad certID")))).await;
    let error = fake.client().renewal_info("AAAA.BB").await.unwrap_err();
    assert!(error.to_string().contains("bad certID"), "{error}");
    assert!(fake.client().renewal_info("../order").await.is_err());
}
