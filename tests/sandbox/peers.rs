//! Whole clients that others wrote.

use std::future::Future;
use std::pin::Pin;
use std::process::Command;

use bytes::Bytes;
use certplan::model::CertificateFacts;
use certplan::sandbox::Event;
use certplan::sandbox::FaultRule;
use certplan::sandbox::HttpFault;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::ZoneRecord;
use certplan_test_support::peer;
use http_body_util::BodyExt;
use instant_acme::Account;
use instant_acme::AuthorizationStatus;
use instant_acme::BodyWrapper;
use instant_acme::BytesResponse;
use instant_acme::CertificateIdentifier;
use instant_acme::ChallengeType;
use instant_acme::HttpClient;
use instant_acme::Identifier;
use instant_acme::NewAccount;
use instant_acme::NewOrder;
use instant_acme::OrderStatus;
use instant_acme::RetryPolicy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::client::csr;
use crate::client::sandbox;

#[tokio::test(flavor = "multi_thread")]
async fn lego_gets_and_renews_a_certificate_for_an_apex_and_its_wildcard() {
    let Some(lego) = peer("lego") else { return };
    let sandbox = sandbox(|options| {
        options.terms_of_service = Some("https://example.test/terms".into());
        options.faults.http.push(FaultRule::new(HttpFault::BadNonce, 20));
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("roots.pem"), sandbox.ca_bundle_pem()).unwrap();
    let key = &sandbox.tsig_keys()[0];
    let run = |action: &'static [&'static str]| {
        let mut command = Command::new(&lego);
        command
            .env_clear()
            .env("LEGO_CA_CERTIFICATES", folder.path().join("roots.pem"))
            .env("RFC2136_NAMESERVER", sandbox.dns_address().to_string())
            .env("RFC2136_TSIG_KEY", key.name.as_str())
            .env("RFC2136_TSIG_SECRET", &key.secret)
            .env("RFC2136_TSIG_ALGORITHM", format!("{}.", key.algorithm))
            .env("RFC2136_POLLING_INTERVAL", "1")
            .env("RFC2136_SEQUENCE_INTERVAL", "1")
            .env("RFC2136_PROPAGATION_TIMEOUT", "10")
            .args(["--path".as_ref(), folder.path().as_os_str()])
            .args(["--server", &sandbox.directory_url(), "--email", "ops@example.com", "--accept-tos"])
            .args(["--domains", "example.test", "--domains", "*.example.test"])
            .args(["--dns", "rfc2136", "--dns.resolvers", &sandbox.dns_address().to_string()])
            // Its own check asks port 53 of the zone's name server.
            .arg("--dns.disable-cp")
            .args(action);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = run(&["run"]).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let chain = std::fs::read(folder.path().join("certificates/example.test.crt")).unwrap();
    let facts = CertificateFacts::from_der(&CertificateDer::from_pem_slice(&chain).unwrap()).unwrap();
    assert_eq!(facts.names.len(), 2);
    assert_eq!(sandbox.ledger().issued()[0].fingerprint, facts.fingerprint);
    let output = run(&["renew", "--days", "1000", "--no-random-sleep"]).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sandbox.ledger().issued().len(), 2);
    assert_no_challenge_is_left(&sandbox);
    let updates = sandbox.ledger().entries().into_iter().filter_map(|entry| match entry.event {
        Event::DnsUpdate(update) => Some(update),
        _ => None,
    });
    let (mut added, mut removed) = (0, 0);
    for update in updates {
        assert_eq!(update.rcode, "NOERROR");
        added += update.added.len();
        removed += update.removed.len();
    }
    assert!(added == removed && added > 0, "{added} added and {removed} removed");
    // It looks for a certificate of each name, and there is one for both: its exit code says nothing.
    run(&["revoke"]).await.unwrap();
    let revoked = |entry: &certplan::sandbox::Entry| matches!(entry.event, Event::CertificateRevoked { .. });
    assert_eq!(sandbox.ledger().entries().iter().filter(|entry| revoked(entry)).count(), 1);
}

fn assert_no_challenge_is_left(sandbox: &Sandbox) {
    let left: Vec<_> =
        sandbox.records().into_iter().filter(|record| record.name.starts_with("_acme-challenge")).collect();
    assert_eq!(left, []);
}

struct Transport(reqwest::Client);

impl HttpClient for Transport {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| instant_acme::Error::Other(Box::new(error));
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body in memory").to_bytes();
            let answer = client
                .request(parts.method, parts.uri.to_string())
                .headers(parts.headers)
                .body(body)
                .send()
                .await
                .map_err(other)?;
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            let body = answer.bytes().await.map_err(other)?;
            Ok(response.map(|()| http_body_util::Full::new(body)).into())
        })
    }
}

#[tokio::test]
async fn instant_acme_gets_a_certificate_and_its_renewal_information() {
    let sandbox = sandbox(|_| {}).await;
    let roots = sandbox.roots().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    let client = reqwest::Client::builder()
        .tls_certs_only(roots)
        .user_agent("certplan-tests")
        .no_proxy()
        .build()
        .unwrap();
    let new_account = NewAccount {
        contact: &["mailto:ops@example.com"],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, _) = Account::builder_with_http(Box::new(Transport(client)))
        .create(&new_account, sandbox.directory_url(), None)
        .await
        .unwrap();
    let names = ["example.test", "*.example.test"];
    let identifiers = names.map(|name| Identifier::Dns(name.to_owned()));
    let wanted = NewOrder::new(&identifiers).profile("tlsserver");
    let mut order = account.new_order(&wanted).await.unwrap();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.unwrap();
        assert_eq!(authorization.status, AuthorizationStatus::Pending);
        let mut challenge = authorization.challenge(ChallengeType::Dns01).unwrap();
        let value = RecordValue::Txt(challenge.key_authorization().dns_value());
        sandbox.insert_record(&ZoneRecord::new("_acme-challenge.example.test", value)).unwrap();
        challenge.set_ready().await.unwrap();
    }
    let retry = RetryPolicy::default();
    assert_eq!(order.poll_ready(&retry).await.unwrap(), OrderStatus::Ready);
    order.finalize_csr(&csr(&names)).await.unwrap();
    let chain = order.poll_certificate(&retry).await.unwrap();
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let identifier = CertificateIdentifier::try_from(&der).unwrap();
    let (_, retry_after) = account.renewal_info(&identifier).await.unwrap();
    // instant-acme makes a moment of it first.
    assert!((21_590..=21_600).contains(&retry_after.as_secs()), "{retry_after:?}");
    let replacement = NewOrder::new(&identifiers).replaces(identifier.into_owned());
    let order = account.new_order(&replacement).await.unwrap();
    assert!(order.url().starts_with("https://127.0.0.1:"));
}
