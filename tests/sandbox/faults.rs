use std::time::Duration;

use certplan::sandbox::Endpoint;
use certplan::sandbox::Event;
use certplan::sandbox::FaultRule;
use certplan::sandbox::Faults;
use certplan::sandbox::HttpFault;
use serde_json::Value;
use serde_json::json;

use crate::client::Client;
use crate::client::csr;
use crate::client::order;
use crate::client::sandbox;

const NAMES: &[&str] = &["a.example.test"];

fn once(fault: HttpFault, endpoint: Endpoint) -> Faults {
    let mut faults = Faults::default();
    faults.http.push(FaultRule::once(fault, endpoint, 0));
    faults.retry_after = Some(Duration::from_secs(17));
    faults
}

#[tokio::test]
async fn rate_limits_and_load_balancers_answer_as_real_ones_do() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    sandbox.set_faults(once(HttpFault::RateLimited, Endpoint::NewOrder));
    let limited = client.order(NAMES).await;
    assert_eq!(limited.problem(), (429, "rateLimited".to_owned()));
    assert_eq!(limited.header("retry-after"), "17");
    assert_ne!(limited.header("replay-nonce"), "");
    sandbox.set_faults(once(HttpFault::Unavailable, Endpoint::NewOrder));
    let unavailable = client.order(NAMES).await.expect(503);
    assert_eq!(unavailable.header("content-type"), "text/html");
    assert_eq!(unavailable.header("retry-after"), "17");
    assert!(unavailable.text.starts_with("<html>"));
    sandbox.set_faults(once(HttpFault::BadNonce, Endpoint::NewOrder));
    assert_eq!(client.order(NAMES).await.problem(), (400, "badNonce".to_owned()));
    let created = |entry: &certplan::sandbox::Entry| matches!(entry.event, Event::OrderCreated { .. });
    assert!(!sandbox.ledger().entries().iter().any(created), "nothing was done");
    client.order(NAMES).await.expect(201);
}

#[tokio::test]
async fn what_is_committed_before_a_fault_is_there_after_it() {
    let sandbox = sandbox(|_| {}).await;
    let client = Client::registered(&sandbox).await;
    sandbox.set_faults(once(HttpFault::DropAfterCommit, Endpoint::NewOrder));
    assert!(client.try_post_spoiled("newOrder", order(NAMES), |_| {}).await.is_err());
    let again = client.order(NAMES).await.expect(201);
    let url = again.header("location").to_owned();
    let entries = sandbox.ledger().entries();
    let created = entries.iter().find_map(|entry| match &entry.event {
        Event::OrderCreated { order, .. } => Some(order.clone()),
        _ => None,
    });
    assert_eq!(created.as_ref(), Some(&url), "the order whose URL was lost is given again");
    let lost = entries.iter().any(|entry| {
        matches!(&entry.event, Event::Request { status: None, fault: Some(HttpFault::DropAfterCommit), .. })
    });
    assert!(lost, "{entries:?}");

    client.authorize(&sandbox, &url).await;
    sandbox.set_faults(once(HttpFault::DropBeforeCommit, Endpoint::Finalize));
    let payload = json!({ "csr": "" });
    assert!(client.try_post_spoiled(&format!("{url}/finalize"), payload, |_| {}).await.is_err());
    assert_eq!(sandbox.ledger().issued().len(), 0);
    sandbox.set_faults(once(HttpFault::ErrorAfterCommit, Endpoint::Finalize));
    let failed = client.finalize(&url, &csr(NAMES)).await;
    assert_eq!(failed.problem(), (500, "serverInternal".to_owned()));
    assert_eq!(sandbox.ledger().issued().len(), 1);
    assert_eq!(client.get(&url).await.json()["status"], "valid");
}

#[tokio::test]
async fn a_slow_order_is_processing_for_a_while() {
    let sandbox = sandbox(|options| {
        options.faults.processing_delay = Duration::from_millis(50);
        options.faults.poll_after = Some(Duration::from_secs(3));
    })
    .await;
    let client = Client::registered(&sandbox).await;
    let order = client.order(NAMES).await;
    let url = order.header("location").to_owned();
    client.authorize(&sandbox, &url).await;
    let processing = client.finalize(&url, &csr(NAMES)).await.expect(200);
    assert_eq!(processing.json()["status"], "processing");
    assert_eq!(processing.json()["certificate"], json!(null));
    assert_eq!(processing.header("retry-after"), "3");
    assert_eq!(client.finalize(&url, &csr(NAMES)).await.problem(), (403, "orderNotReady".to_owned()));
    client.poll(&url, |order| order["status"] == "valid").await;
}

#[tokio::test]
async fn the_management_endpoint_shows_the_ledger_and_changes_faults() {
    let sandbox = sandbox(|_| {}).await;
    Client::registered(&sandbox).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("{}{path}", sandbox.management_url());
    let text = http.get(url("/ledger")).send().await.unwrap().text().await.unwrap();
    let ledger: Vec<certplan::sandbox::Entry> = serde_json::from_str(&text).unwrap();
    assert_eq!(ledger, sandbox.ledger().entries());
    assert!(ledger.iter().zip(1..).all(|(entry, sequence)| entry.sequence == sequence));
    let text = http.get(url("/ledger?after=2")).send().await.unwrap().text().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()[0]["sequence"], 3);
    let roots = http.get(url("/roots")).send().await.unwrap().text().await.unwrap();
    assert_eq!(roots, sandbox.ca_bundle_pem());
    let put = |body: &'static str| {
        http.put(url("/faults")).header("content-type", "application/json").body(body).send()
    };
    let body =
        r#"{ "http": [{ "fault": "rate_limited", "endpoints": ["new_order"] }], "validation_delay": 5 }"#;
    assert_eq!(put(body).await.unwrap().status(), 200);
    assert_eq!(sandbox.faults().validation_delay, Duration::from_millis(5));
    assert_eq!(put(r#"{ "no_such_fault": 1 }"#).await.unwrap().status(), 400);
    let foreign = http.get(url("/ledger")).header("host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
}
