use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::model::CertificateFacts;
use certplan::sandbox::AriWindow;
use certplan::sandbox::EabKey;
use certplan::sandbox::Event;
use certplan::sandbox::ExpiredOrders;
use certplan::sandbox::Faults;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::client::Client;
use crate::client::StillClock;
use crate::client::csr;
use crate::client::order;
use crate::client::sandbox;

const APEX: &[&str] = &["example.test", "*.example.test"];

fn leaf(chain: &str) -> CertificateFacts {
    CertificateFacts::from_der(&CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_certificate_for_an_apex_and_its_wildcard_is_issued_and_in_the_ledger() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let (order, chain) = client.obtain(&sandbox, APEX).await;
    let facts = leaf(&chain);
    assert_eq!(facts.names.len(), 2);
    let issued = sandbox.ledger().issued();
    assert_eq!(issued.len(), 1);
    assert_eq!(issued[0].order, order);
    assert_eq!(issued[0].fingerprint, facts.fingerprint);
    assert_eq!(issued[0].spki, facts.spki);

    let order = client.get(&order).await.json();
    let url = order["certificate"].as_str().unwrap();
    let default = client.get(url).await.expect(200);
    assert_eq!(default.header("content-type"), "application/pem-certificate-chain");
    let alternate = format!("<{url}/1>;rel=\"alternate\"");
    let links: Vec<_> = default.headers.get_all("link").iter().collect();
    assert!(links.iter().any(|link| *link == alternate.as_str()), "{links:?}");
    let other = client.get(&format!("{url}/1")).await.expect(200);
    let roots = sandbox.roots();
    for (chain, root) in [(&chain, &roots[0]), (&other.text, &roots[1])] {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).map(|der| der.unwrap()).collect();
        assert_eq!(certificates.len(), 2);
        let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
        let (_, root) = x509_parser::parse_x509_certificate(&root).unwrap();
        let (_, intermediate) = x509_parser::parse_x509_certificate(&certificates[1]).unwrap();
        assert_eq!(intermediate.issuer(), root.subject());
        let (_, leaf) = x509_parser::parse_x509_certificate(&certificates[0]).unwrap();
        assert_eq!(leaf.issuer(), intermediate.subject());
    }
}

#[tokio::test]
async fn a_signature_that_is_not_right_is_refused() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let payload = || order(&["a.example.test"]);
    let wrong_url = client
        .post_spoiled("newOrder", payload(), |parts| parts.header["url"] = json!("https://127.0.0.1/other"))
        .await;
    assert_eq!(wrong_url.problem(), (403, "unauthorized".to_owned()));
    let no_url = client.post_spoiled("newOrder", payload(), |parts| parts.header["url"] = json!(null)).await;
    assert_eq!(no_url.problem(), (403, "unauthorized".to_owned()));
    let wrong_signature = client
        .post_spoiled("newOrder", payload(), |parts| {
            parts.signature = Some(URL_SAFE_NO_PAD.encode([1; 64]));
        })
        .await;
    assert_eq!(wrong_signature.problem(), (400, "malformed".to_owned()));
    for algorithm in ["none", "HS256", "RS256", "ES384"] {
        let answer = client
            .post_spoiled("newOrder", payload(), |parts| {
                parts.header["alg"] = json!(algorithm);
                if algorithm == "none" {
                    parts.signature = Some(String::new());
                }
            })
            .await;
        assert_eq!(answer.problem(), (400, "badSignatureAlgorithm".to_owned()), "{algorithm}");
        assert!(answer.json()["algorithms"].as_array().unwrap().contains(&json!("ES256")));
    }
    let both = client.post_spoiled("newOrder", payload(), |parts| parts.header["jwk"] = client.jwk()).await;
    assert_eq!(both.problem(), (400, "malformed".to_owned()));
    let unknown = client
        .post_spoiled("newOrder", payload(), |parts| {
            let other = client.account.as_ref().unwrap().replace("/account/1", "/account/99");
            parts.header["kid"] = json!(other);
        })
        .await;
    assert_eq!(unknown.problem(), (400, "accountDoesNotExist".to_owned()));
    let key_where_an_account_is_due = client
        .post_spoiled("newOrder", payload(), |parts| {
            parts.header.as_object_mut().unwrap().remove("kid");
            parts.header["jwk"] = client.jwk();
        })
        .await;
    assert_eq!(key_where_an_account_is_due.problem(), (400, "malformed".to_owned()));
    let content_type =
        client.post_spoiled("newOrder", payload(), |parts| parts.content_type = "application/json").await;
    assert_eq!(content_type.status, 415);
    let created = |entry: &certplan::sandbox::Entry| matches!(entry.event, Event::OrderCreated { .. });
    assert!(!sandbox.ledger().entries().iter().any(created), "nothing was done");
}

#[tokio::test]
async fn a_nonce_is_good_once_and_every_answer_brings_a_fresh_one() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let nonce = client.nonce().await;
    let post = async |nonce: &str| {
        client
            .post_spoiled("newOrder", order(&["a.example.test"]), |parts| {
                parts.header["nonce"] = json!(nonce);
            })
            .await
    };
    post(&nonce).await.expect(201);
    let again = post(&nonce).await;
    assert_eq!(again.problem(), (400, "badNonce".to_owned()));
    let fresh = again.header("replay-nonce");
    assert_ne!(fresh, "");
    post(fresh).await.expect(201);
    let missing = client
        .post_spoiled("newOrder", order(&["a.example.test"]), |parts| {
            parts.header.as_object_mut().unwrap().remove("nonce");
        })
        .await;
    assert_eq!(missing.problem(), (400, "badNonce".to_owned()));
}

#[tokio::test]
async fn what_every_request_needs_is_asked_of_every_request() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let get = client.http.get(client.url("newOrder")).send().await.unwrap();
    assert_eq!(get.status(), 405);
    let anonymous = client.http.get(sandbox.directory_url()).header("user-agent", "").send().await.unwrap();
    assert_eq!(anonymous.status(), 400);
    let nowhere = client.get(&sandbox.directory_url().replace("directory", "nowhere")).await;
    assert_eq!(nowhere.status, 404);
    let order_url = client.order(&["a.example.test"]).await.header("location").to_owned();
    let not_empty = client.post(&order_url, json!({})).await;
    assert_eq!(not_empty.problem(), (400, "malformed".to_owned()));
    let nonce = client.http.get(client.url("newNonce")).send().await.unwrap();
    assert_eq!(nonce.status(), 204);
    assert_eq!(nonce.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn an_account_is_found_by_its_key_and_gone_when_deactivated() {
    let sandbox =
        sandbox(|options| options.terms_of_service = Some("https://example.test/terms".into())).await;
    let mut client = Client::new(&sandbox).await;
    let none = client.post("newAccount", json!({ "onlyReturnExisting": true })).await;
    assert_eq!(none.problem(), (400, "accountDoesNotExist".to_owned()));
    let disagreeing = client.post("newAccount", json!({})).await;
    assert_eq!(disagreeing.problem(), (400, "malformed".to_owned()));
    for (contact, kind) in [
        ("tel:+12025551212", "unsupportedContact"),
        ("mailto:a@example.test,b@example.test", "invalidContact"),
        ("mailto:a@example.test?subject=x", "invalidContact"),
        ("mailto:nobody", "invalidContact"),
    ] {
        let payload = json!({ "termsOfServiceAgreed": true, "contact": [contact] });
        assert_eq!(client.post("newAccount", payload).await.problem(), (400, kind.to_owned()), "{contact}");
    }
    let payload = json!({ "termsOfServiceAgreed": true, "contact": ["mailto:a@example.test"] });
    let created = client.post("newAccount", payload).await.expect(201);
    let account = created.header("location").to_owned();
    let found = client.post("newAccount", json!({ "onlyReturnExisting": true })).await.expect(200);
    assert_eq!(found.header("location"), account);

    client.account = Some(account.clone());
    let updated = client.post(&account, json!({ "contact": [] })).await.expect(200);
    assert_eq!(updated.json()["contact"], json!([]));
    let other = Client::new(&sandbox).await;
    let foreign = other
        .post_spoiled(&account, json!({ "contact": [] }), |parts| {
            parts.header.as_object_mut().unwrap().remove("jwk");
            parts.header["kid"] = json!(account);
        })
        .await;
    assert_eq!(foreign.problem(), (400, "malformed".to_owned()), "signed by another key");
    client.post(&account, json!({ "status": "deactivated" })).await.expect(200);
    assert_eq!(client.get(&account).await.problem(), (401, "unauthorized".to_owned()));
    client.account = None;
    let again = client.post("newAccount", json!({ "onlyReturnExisting": true })).await;
    assert_eq!(again.problem(), (401, "unauthorized".to_owned()));
}

#[tokio::test]
async fn an_accounts_key_can_be_changed() {
    let sandbox = sandbox(|_| {}).await;
    let mut client = Client::registered(&sandbox).await;
    let mut next = Client::new(&sandbox).await;
    let account = client.account.clone().unwrap();
    let url = client.url("keyChange");
    let inner = next.sign(&crate::client::Parts {
        header: json!({ "alg": "ES256", "jwk": next.jwk(), "url": url }),
        payload: json!({ "account": account, "oldKey": client.jwk() }).to_string(),
        signature: None,
        content_type: "",
    });
    client.post("keyChange", inner.clone()).await.expect(200);
    client.order(&["a.example.test"]).await.expect(400);
    next.account = Some(account);
    next.order(&["a.example.test"]).await.expect(201);
    client.account = None;
    client.post("newAccount", json!({ "onlyReturnExisting": true })).await.expect(400);
}

#[tokio::test]
async fn an_external_account_key_registers_one_account() {
    let secret = b"an external account key of 32 oct";
    let sandbox = sandbox(|options| {
        options.eab_required = true;
        options.eab_keys = vec![EabKey { key_id: "kid-1".into(), hmac_key: URL_SAFE_NO_PAD.encode(secret) }];
    })
    .await;
    let first = Client::new(&sandbox).await;
    assert_eq!(first.directory["meta"]["externalAccountRequired"], json!(true));
    let without = first.post("newAccount", json!({})).await;
    assert_eq!(without.problem(), (403, "externalAccountRequired".to_owned()));
    let other = Client::new(&sandbox).await;
    for (binding, status, kind) in [
        (first.binding("kid-1", b"wrong"), 403, "unauthorized"),
        (first.binding("kid-2", secret), 403, "unauthorized"),
        (other.binding("kid-1", secret), 400, "malformed"),
    ] {
        let answer = first.post("newAccount", json!({ "externalAccountBinding": binding })).await;
        assert_eq!(answer.problem(), (status, kind.to_owned()));
    }
    let payload = json!({ "externalAccountBinding": first.binding("kid-1", secret) });
    first.post("newAccount", payload.clone()).await.expect(201);
    // The answer may have been lost: the same key gets the same account, and uses nothing up.
    first.post("newAccount", payload).await.expect(200);
    let payload = json!({ "externalAccountBinding": other.binding("kid-1", secret) });
    let reused = other.post("newAccount", payload).await;
    assert_eq!(reused.problem(), (403, "unauthorized".to_owned()));
    let created = sandbox.ledger().entries().into_iter().filter_map(|entry| match entry.event {
        Event::AccountCreated { eab_key_id, .. } => eab_key_id,
        _ => None,
    });
    assert_eq!(created.collect::<Vec<_>>(), ["kid-1"]);
}

#[tokio::test]
async fn an_open_order_is_given_again_and_an_expired_one_is_gone() {
    let time = StillClock::new();
    let sandbox = sandbox(|options| {
        options.clock = time.clock();
        options.order_lifetime = Duration::from_secs(3_600);
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let first = client.order(APEX).await.expect(201);
    let first = first.header("location");
    let again = client.order(&["*.example.test", "example.test"]).await.expect(201);
    assert_eq!(again.header("location"), first);
    let mut short = order(APEX);
    short["profile"] = json!("shortlived");
    let other_profile = client.post("newOrder", short).await.expect(201);
    assert_ne!(other_profile.header("location"), first);
    let other_account = Client::registered(&sandbox).await;
    assert_ne!(other_account.order(APEX).await.header("location"), first);
    assert_eq!(other_account.get(first).await.status, 404, "another account's order");
    assert_eq!(client.authorize(&sandbox, first).await["status"], "ready");
    assert_eq!(client.order(APEX).await.header("location"), first, "ready is open too");

    time.advance(Duration::from_secs(3_600));
    assert_eq!(client.get(first).await.status, 404);
    assert_eq!(client.finalize(first, &csr(APEX)).await.status, 404);
    let fresh = client.order(APEX).await.expect(201);
    assert_ne!(fresh.header("location"), first);
    assert_eq!(fresh.json()["status"], "ready", "the authorizations live longer than the order");
}

#[tokio::test]
async fn an_expired_order_can_stay_as_invalid() {
    let time = StillClock::new();
    let sandbox = sandbox(|options| {
        options.clock = time.clock();
        options.pending_lifetime = Duration::from_secs(600);
        options.expired_orders = ExpiredOrders::Invalid;
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(APEX).await.expect(201);
    let url = order.header("location");
    time.advance(Duration::from_secs(600));
    assert_eq!(client.get(url).await.json()["status"], "invalid");
    assert_eq!(client.finalize(url, &csr(APEX)).await.problem(), (403, "orderNotReady".to_owned()));
}

#[tokio::test]
async fn only_a_ready_order_is_finalized_and_only_once_and_for_its_names() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(APEX).await.expect(201);
    let url = order.header("location").to_owned();
    let early = client.finalize(&url, &csr(APEX)).await;
    assert_eq!(early.problem(), (403, "orderNotReady".to_owned()));
    client.authorize(&sandbox, &url).await;
    let others = client.finalize(&url, &csr(&["example.test"])).await;
    assert_eq!(others.problem(), (400, "badCSR".to_owned()));
    assert_eq!(client.get(&url).await.json()["status"], "ready", "a bad request costs nothing");
    let (one, two) = tokio::join!(async { client.finalize(&url, &csr(APEX)).await.status }, async {
        client.finalize(&url, &csr(APEX)).await.status
    });
    assert_eq!([one.min(two), one.max(two)], [200, 403]);
    assert_eq!(client.finalize(&url, &csr(APEX)).await.status, 403);
    assert_eq!(sandbox.ledger().issued().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_replaced_once() {
    let sandbox = sandbox(|options| options.order_reuse = false).await;
    let client = Client::registered(&sandbox).await;
    let (_, chain) = client.obtain(&sandbox, APEX).await;
    let id = leaf(&chain).ari_id.unwrap();
    let replacing = |names: &[&str], id: &str| {
        let mut payload = order(names);
        payload["replaces"] = json!(id);
        payload
    };
    let disjoint = client.post("newOrder", replacing(&["other.example.test"], &id)).await;
    assert_eq!(disjoint.problem(), (400, "malformed".to_owned()));
    let unknown = client.post("newOrder", replacing(APEX, "AAAA.AAAA")).await;
    assert_eq!(unknown.problem(), (404, "malformed".to_owned()));
    let nonsense = client.post("newOrder", replacing(APEX, "not an identifier")).await;
    assert_eq!(nonsense.problem(), (400, "malformed".to_owned()));
    let foreign = Client::registered(&sandbox).await.post("newOrder", replacing(APEX, &id)).await;
    assert_eq!(foreign.problem(), (403, "unauthorized".to_owned()));
    let first = client.post("newOrder", replacing(APEX, &id)).await.expect(201);
    assert_eq!(first.json()["replaces"], json!(id));
    let second = client.post("newOrder", replacing(APEX, &id)).await;
    assert_eq!(second.problem(), (409, "alreadyReplaced".to_owned()));
    let url = first.header("location");
    client.finalize(url, &csr(APEX)).await.expect(200);
    let third = client.post("newOrder", replacing(APEX, &id)).await;
    assert_eq!(third.problem(), (409, "alreadyReplaced".to_owned()));
}

#[tokio::test]
async fn a_replacement_that_failed_is_none() {
    let time = StillClock::new();
    let sandbox = sandbox(|options| options.clock = time.clock()).await;
    let client = Client::registered(&sandbox).await;
    let (_, chain) = client.obtain(&sandbox, APEX).await;
    let mut payload = order(APEX);
    payload["replaces"] = json!(leaf(&chain).ari_id.unwrap());
    client.post("newOrder", payload.clone()).await.expect(201);
    client.post("newOrder", payload.clone()).await.expect(409);
    time.advance(Duration::from_secs(8 * 86_400));
    client.post("newOrder", payload).await.expect(201);
}

#[tokio::test]
async fn names_and_profiles_that_cannot_be_are_refused() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let mut profile = order(APEX);
    profile["profile"] = json!("none");
    assert_eq!(client.post("newOrder", profile).await.problem(), (400, "invalidProfile".to_owned()));
    let address = json!({ "identifiers": [{ "type": "ip", "value": "127.0.0.1" }] });
    assert_eq!(client.post("newOrder", address).await.problem(), (400, "unsupportedIdentifier".to_owned()));
    let redundant = client.order(&["a.example.test", "*.example.test"]).await;
    assert_eq!(redundant.problem(), (400, "malformed".to_owned()));
    let several = client.order(&["test", "com"]).await;
    assert_eq!(several.problem(), (400, "rejectedIdentifier".to_owned()));
    assert_eq!(several.json()["subproblems"].as_array().unwrap().len(), 2);
    let mut dated = order(APEX);
    dated["notAfter"] = json!("2030-01-01T00:00:00Z");
    assert_eq!(client.post("newOrder", dated).await.problem(), (400, "malformed".to_owned()));
}

#[tokio::test]
async fn valid_authorizations_are_used_again_as_told() {
    for (percent, status) in [(100, "ready"), (0, "pending")] {
        let sandbox = sandbox(|options| options.authorization_reuse_percent = percent).await;
        let client = Client::registered(&sandbox).await;
        client.obtain(&sandbox, APEX).await;
        assert_eq!(client.order(APEX).await.json()["status"], status);
    }
}

#[tokio::test]
async fn a_deactivated_authorization_ends_its_order() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(&["a.example.test"]).await;
    let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let answer = client.post(&url, json!({ "status": "deactivated" })).await.expect(200);
    assert_eq!(answer.json()["status"], "deactivated");
    assert_eq!(client.get(order.header("location")).await.json()["status"], "invalid");
}

#[tokio::test]
async fn renewal_is_suggested_as_told() {
    let time = StillClock::new();
    let sandbox = sandbox(|options| options.clock = time.clock()).await;
    let client = Client::registered(&sandbox).await;
    let (_, chain) = client.obtain(&sandbox, APEX).await;
    let facts = leaf(&chain);
    let ask = async |id: &str| {
        let url = format!("{}/{id}", client.url("renewalInfo"));
        let answer = client.http.get(url).send().await.unwrap();
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (
            status,
            retry_after,
            serde_json::from_str::<serde_json::Value>(&answer.text().await.unwrap()).unwrap(),
        )
    };
    let id = facts.ari_id.clone().unwrap();
    let moment = |value: &serde_json::Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let (status, retry_after, default) = ask(&id).await;
    assert_eq!((status, retry_after.as_deref()), (200, Some("21600")));
    let start = moment(&default["suggestedWindow"]["start"]);
    let at = start.duration_since(facts.not_before).as_secs_f64() / facts.lifetime().as_secs_f64();
    assert!((0.65..0.667).contains(&at), "{at}");
    let mut faults = Faults::default();
    faults.ari = AriWindow::Now;
    faults.ari_retry_after = Some(Duration::from_secs(60));
    sandbox.set_faults(faults);
    let (_, retry_after, now) = ask(&id).await;
    assert_eq!(retry_after.as_deref(), Some("60"));
    assert!(moment(&now["suggestedWindow"]["end"]) < time.clock().now());
    assert_eq!(ask("AAAA.AAAA").await.0, 404);
    assert_eq!(ask("nonsense").await.0, 400);
    let mut faults = Faults::default();
    faults.ari = AriWindow::None;
    sandbox.set_faults(faults);
    assert_eq!(ask(&id).await.0, 404);
    assert_eq!(Client::new(&sandbox).await.directory["renewalInfo"], json!(null));
}

#[tokio::test]
async fn certificates_of_seconds_have_a_window_inside_them() {
    let sandbox = sandbox(|options| {
        options.faults.certificate_lifetime = Some(Duration::from_secs(10));
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let (_, chain) = client.obtain(&sandbox, APEX).await;
    let facts = leaf(&chain);
    assert_eq!(facts.lifetime().as_secs(), 10);
    let url = format!("{}/{}", client.url("renewalInfo"), facts.ari_id.clone().unwrap());
    let text = client.http.get(url).send().await.unwrap().text().await.unwrap();
    let window: serde_json::Value = serde_json::from_str(&text).unwrap();
    let moment =
        |key: &str| window["suggestedWindow"][key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(facts.not_before < moment("start") && moment("start") < moment("end"), "{window}");
    assert!(moment("end") < facts.not_after, "{window}");
}

#[tokio::test]
async fn a_certificate_is_revoked_once_by_who_may() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    let (_, chain) = client.obtain(&sandbox, APEX).await;
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let payload = |reason: u8| json!({ "certificate": URL_SAFE_NO_PAD.encode(&der), "reason": reason });
    let stranger = Client::registered(&sandbox).await;
    assert_eq!(stranger.post("revokeCert", payload(0)).await.problem(), (403, "unauthorized".to_owned()));
    let keyless = Client::new(&sandbox).await;
    assert_eq!(keyless.post("revokeCert", payload(0)).await.problem(), (403, "unauthorized".to_owned()));
    let reason = client.post("revokeCert", payload(10)).await;
    assert_eq!(reason.problem(), (400, "badRevocationReason".to_owned()));
    client.post("revokeCert", payload(4)).await.expect(200);
    assert_eq!(client.post("revokeCert", payload(4)).await.problem(), (400, "alreadyRevoked".to_owned()));
}
