use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeError;
use certplan::acme::AuthorizationStatus;
use certplan::acme::CertificateKey;
use certplan::acme::EabCredential;
use certplan::acme::OrderStatus;
use certplan::acme::check_chain;
use certplan::model::KeyType;
use certplan_provider::Secret;
use certplan_test_support::Pebble;
use certplan_test_support::PebbleOptions;
use certplan_test_support::PebbleVersion;
use jiff::Timestamp;

use crate::issue::PATIENCE;
use crate::issue::answer;
use crate::issue::client;
use crate::issue::complete;
use crate::issue::issue;
use crate::issue::names;
use crate::issue::session;
use crate::issue::settings;

fn start(version: PebbleVersion) -> Option<Pebble> {
    Pebble::start(&PebbleOptions { version, ..PebbleOptions::default() })
}

#[tokio::test]
async fn a_certificate_for_an_apex_and_its_wildcard_comes_from_both_pebbles() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let session = session(&pebble).await;
        let mut times = Vec::new();
        for number in 0..5 {
            let apex = format!("shop{number}.example");
            let wanted = names(&[&apex, &format!("*.{apex}")]);
            let started = Instant::now();
            let issued = issue(&session, pebble.challenges(), &wanted).await;
            times.push(started.elapsed());
            assert_eq!(issued.checked.facts.names, wanted);
            assert_eq!(issued.checked.ders.len(), 2, "the leaf and one intermediate");
            assert!(issued.order.expires.is_some());
        }
        times.sort();
        println!("{version:?}: one certificate end to end: median {:?}, slowest {:?}", times[2], times[4]);
        assert!(times[2] < Duration::from_secs(1), "{times:?}");
    }
}

#[tokio::test]
async fn a_third_of_the_nonces_may_be_refused() {
    for version in PebbleVersion::ALL {
        let options = PebbleOptions { version, nonce_reject: 30, ..PebbleOptions::default() };
        let Some(pebble) = Pebble::start(&options) else { return };
        let session = session(&pebble).await;
        let issued =
            futures::future::join_all(
                (0..20).map(|number| {
                    let (session, pebble) = (&session, &pebble);
                    async move {
                        issue(session, pebble.challenges(), &names(&[&format!("n{number}.example")])).await
                    }
                }),
            );
        assert_eq!(issued.await.len(), 20);
        // Each of these takes one request a certificate when nothing is refused.
        let log = pebble.log();
        let sent = log.matches("POST /order-plz").count() + log.matches("POST /finalize-order").count();
        assert!(sent > 40, "no nonce was refused: {sent} requests");
    }
}

#[tokio::test]
async fn a_hundred_certificates_at_once_share_one_client() {
    // Under many orders at once Pebble locks itself up now and then, and answers nothing any more.
    for _ in 0..5 {
        let Some(pebble) = start(PebbleVersion::V2_10_1) else { return };
        let session = session(&pebble).await;
        let started = Instant::now();
        let issued = futures::future::try_join_all((0..100).map(async |number| {
            let key = CertificateKey::generate(KeyType::EcdsaP256).await?;
            let order = session.new_order(&names(&[&format!("m{number}.example")]), None, None).await?;
            complete(&session, order, pebble.challenges(), &key).await
        }));
        match tokio::time::timeout(Duration::from_secs(25), issued).await {
            Ok(issued) => {
                println!("100 certificates: {:?}", started.elapsed());
                let serials: BTreeSet<_> =
                    issued.unwrap().into_iter().map(|issued| issued.checked.facts.serial).collect();
                assert_eq!(serials.len(), 100);
                return;
            }
            Err(_) => println!("Pebble hangs; another is started"),
        }
    }
    panic!("no Pebble issued 100 certificates");
}

#[tokio::test]
async fn a_valid_authorization_needs_no_challenge() {
    for version in PebbleVersion::ALL {
        let options = PebbleOptions { version, authorization_reuse: 100, ..PebbleOptions::default() };
        let Some(pebble) = Pebble::start(&options) else { return };
        let session = session(&pebble).await;
        let wanted = names(&["again.example"]);
        issue(&session, pebble.challenges(), &wanted).await;
        pebble.challenges().clear_txt("_acme-challenge.again.example").await;
        let order = session.new_order(&wanted, None, None).await.unwrap();
        let authorization = session.authorization(&order.authorizations[0]).await.unwrap();
        assert_eq!(authorization.status, AuthorizationStatus::Valid);
        let order = session.wait_until_ready(&order.url, PATIENCE).await.unwrap();
        assert_eq!(order.status, OrderStatus::Ready);
        let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
        complete(&session, order, pebble.challenges(), &key).await.unwrap();
    }
}

#[tokio::test]
async fn an_order_goes_on_in_another_process_at_every_stage() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let first = client(&pebble);
        let account_key = AccountKey::generate().unwrap();
        let account = first.create_account(&account_key, &[], None).await.unwrap();
        let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
        let stored = (account_key.to_pkcs8().unwrap(), key.to_pkcs8());
        let anew = || {
            let account_key = AccountKey::from_pkcs8(&stored.0).unwrap();
            client(&pebble).session(&account_key, &account).unwrap()
        };
        let url = anew().new_order(&names(&["resume.example"]), None, None).await.unwrap().url;
        let order = anew().order(&url).await.unwrap();
        assert_eq!(order.status, OrderStatus::Pending);
        answer(&anew(), &order, pebble.challenges()).await.unwrap();
        // Answered twice, as by a run that was killed before it wrote that down.
        for authorization in &order.authorizations {
            let challenge = anew().authorization(authorization).await.unwrap().dns01.unwrap();
            anew().answer(&challenge.url).await.unwrap();
        }
        let order = anew().wait_until_ready(&url, PATIENCE).await.unwrap();
        assert_eq!(order.status, OrderStatus::Ready);
        let csr = CertificateKey::from_pkcs8(&stored.1).unwrap().csr(&order.names).unwrap();
        anew().finalize(&order, &csr).await.unwrap();
        // Finalized twice: the order says that it is finalized already.
        anew().finalize(&order, &csr).await.unwrap();
        let order = anew().wait_until_issued(&url, PATIENCE).await.unwrap();
        let chain = anew().chains(&order, None, |_| Ok(())).await.unwrap();
        check_chain(&chain.pem, key.spki(), &order.names, &anew().time(Timestamp::now())).unwrap();
    }
}

#[tokio::test]
async fn an_account_is_found_by_its_key_and_not_created_by_asking() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let client = client(&pebble);
        let key = AccountKey::generate().unwrap();
        assert_eq!(client.find_account(&key).await.unwrap(), None);
        assert_eq!(client.find_account(&key).await.unwrap(), None);
        let contact = ["ops@example.com".to_owned()];
        let url = client.create_account(&key, &contact, None).await.unwrap();
        assert_eq!(client.find_account(&key).await.unwrap().as_deref(), Some(url.as_str()));
        assert_eq!(client.create_account(&key, &contact, None).await.unwrap(), url, "it exists");
    }
}

#[tokio::test]
async fn an_unknown_account_is_an_error_of_its_own() {
    let Some(pebble) = start(PebbleVersion::V2_10_1) else { return };
    let client = client(&pebble);
    let key = AccountKey::generate().unwrap();
    let url = pebble.directory_url().join("/my-account/nobody").unwrap();
    let error =
        client.session(&key, url.as_str()).unwrap().new_order(&names(&["a.example"]), None, None).await;
    assert!(matches!(error, Err(AcmeError::AccountDoesNotExist(_))), "{error:?}");
}

#[tokio::test]
async fn an_external_account_is_bound_together_with_contacts() {
    const MAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    for version in PebbleVersion::ALL {
        let external_accounts = BTreeMap::from([("kid-1".to_owned(), MAC_KEY.to_owned())]);
        let Some(pebble) =
            Pebble::start(&PebbleOptions { version, external_accounts, ..PebbleOptions::default() })
        else {
            return;
        };
        let client = client(&pebble);
        let key = AccountKey::generate().unwrap();
        assert!(client.directory().await.unwrap().external_account_required);
        let contact = ["mailto:ops@example.com".to_owned()];
        let error = client.create_account(&key, &contact, None).await.unwrap_err();
        assert!(matches!(error, AcmeError::ExternalAccountRequired), "{error:?}");
        let eab =
            |key: &str| EabCredential { key_id: "kid-1".to_owned(), hmac_key: Secret::new(key.to_owned()) };
        let wrong = client.create_account(&key, &contact, Some(&eab("d3Jvbmcgd3Jvbmcgd3Jvbmc"))).await;
        assert!(matches!(wrong, Err(AcmeError::Problem(_))), "{wrong:?}");
        assert_eq!(client.find_account(&key).await.unwrap(), None);
        // As `gcloud` prints it: encoded once more.
        let twice = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, MAC_KEY);
        let url = client.create_account(&key, &contact, Some(&eab(&twice))).await.unwrap();
        let session = client.session(&key, &url).unwrap();
        issue(&session, pebble.challenges(), &names(&["bound.example"])).await;
        let another = AccountKey::generate().unwrap();
        client.create_account(&another, &contact, Some(&eab(MAC_KEY))).await.unwrap();
    }
}

#[tokio::test]
async fn profiles_are_listed_chosen_and_refused() {
    let profiles =
        BTreeMap::from([("classic".to_owned(), 90 * 86_400), ("shortlived".to_owned(), 6 * 86_400)]);
    let Some(pebble) = Pebble::start(&PebbleOptions { profiles, ..PebbleOptions::default() }) else { return };
    let session = session(&pebble).await;
    let directory = client(&pebble).directory().await.unwrap();
    assert_eq!(directory.profiles.keys().collect::<Vec<_>>(), ["classic", "shortlived"]);
    assert!(directory.renewal_info && !directory.external_account_required);
    assert_eq!(directory.caa_identities, ["pebble.letsencrypt.org"]);
    let wanted = names(&["p.example"]);
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.new_order(&wanted, Some("shortlived"), None).await.unwrap();
    assert_eq!(order.profile.as_deref(), Some("shortlived"));
    let issued = complete(&session, order, pebble.challenges(), &key).await.unwrap();
    assert!(issued.checked.facts.lifetime().as_hours() <= 6 * 24);
    let error = session.new_order(&wanted, Some("nonsense"), None).await.unwrap_err();
    assert!(matches!(error, AcmeError::InvalidProfile(_)), "{error:?}");
}

#[tokio::test]
async fn the_old_pebble_offers_neither_profiles_nor_renewal_information() {
    let Some(pebble) = start(PebbleVersion::V2_4_0) else { return };
    let client = client(&pebble);
    let directory = client.directory().await.unwrap();
    assert!(directory.profiles.is_empty() && !directory.renewal_info);
    let error = client.renewal_info("AAAA.AAAA").await.unwrap_err();
    assert!(matches!(error, AcmeError::Unsupported { .. }), "{error:?}");
    // What replaces which is left out where nobody understands it.
    let order =
        session(&pebble).await.new_order(&names(&["r.example"]), None, Some("AAAA.AAAA")).await.unwrap();
    assert!(!order.replaces_accepted);
}

#[tokio::test]
async fn a_renewal_names_what_it_replaces_once() {
    let Some(pebble) = start(PebbleVersion::V2_10_1) else { return };
    let session = session(&pebble).await;
    let client = client(&pebble);
    let wanted = names(&["ari.example"]);
    let first = issue(&session, pebble.challenges(), &wanted).await;
    let ari_id = first.checked.facts.ari_id.as_deref().unwrap();
    let info = client.renewal_info(ari_id).await.unwrap();
    let (start, end) = info.window.unwrap();
    assert!(first.checked.facts.not_before < start && start < end && end < first.checked.facts.not_after);
    assert_eq!(info.retry_after, Duration::from_secs(6 * 3600));
    let order = loop {
        match session.new_order(&wanted, None, Some(ari_id)).await {
            // Pebble tells that an order is valid before it finds it by the serial number of its certificate.
            Err(AcmeError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => break other.unwrap(),
        }
    };
    assert!(order.replaces_accepted);
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    complete(&session, order, pebble.challenges(), &key).await.unwrap();
    let error = loop {
        match session.new_order(&wanted, None, Some(ari_id)).await {
            // It also tells that before it counts the predecessor as replaced.
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AcmeError::AlreadyReplaced(_)), "{error:?}");
    session.new_order(&wanted, None, None).await.unwrap();
}

#[tokio::test]
async fn strange_renewal_information_is_no_window() {
    let Some(pebble) = start(PebbleVersion::V2_10_1) else { return };
    let session = session(&pebble).await;
    let client = client(&pebble);
    let issued = issue(&session, pebble.challenges(), &names(&["odd.example"])).await;
    let ari_id = issued.checked.facts.ari_id.as_deref().unwrap();
    let backwards = r#"{"suggestedWindow":{"start":"2026-02-01T00:00:00Z","end":"2026-01-01T00:00:00Z"},
                        "explanationURL":"https://ca.example/incident"}"#;
    pebble.set_renewal_info(&issued.chain.pem, backwards).await;
    let info = client.renewal_info(ari_id).await.unwrap();
    assert_eq!((info.window, info.explanation_url.as_deref()), (None, Some("https://ca.example/incident")));
    for nonsense in ["", "<html>", "{}", r#"{"suggestedWindow":{"start":"now","end":"later"}}"#] {
        pebble.set_renewal_info(&issued.chain.pem, nonsense).await;
        let result = client.renewal_info(ari_id).await;
        // An empty override is none.
        assert!(
            nonsense.is_empty() || matches!(result, Err(AcmeError::Malformed { .. })),
            "{nonsense}: {result:?}"
        );
    }
    let unknown = client.renewal_info("AAAA.AAAA").await.unwrap_err();
    assert!(matches!(unknown, AcmeError::NotFound { .. } | AcmeError::Problem(_)), "{unknown:?}");
}

#[tokio::test]
async fn the_preferred_chain_is_found_among_the_alternates() {
    for version in PebbleVersion::ALL {
        let options =
            PebbleOptions { version, alternate_roots: 2, chain_length: 2, ..PebbleOptions::default() };
        let Some(pebble) = Pebble::start(&options) else { return };
        let session = session(&pebble).await;
        let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
        let wanted = names(&["alt.example"]);
        let order = session.new_order(&wanted, None, None).await.unwrap();
        let issued = complete(&session, order, pebble.challenges(), &key).await.unwrap();
        assert_eq!(issued.checked.ders.len(), 3);
        let mut chains = vec![issued.chain.pem.clone()];
        for number in 1..=2 {
            let (_, root) = x509_parser::pem::parse_x509_pem(pebble.root(number).await.as_bytes()).unwrap();
            let root = root
                .parse_x509()
                .unwrap()
                .subject()
                .iter_common_name()
                .next()
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned();
            let chain = session.chains(&issued.order, Some(&root), |_| Ok(())).await.unwrap();
            assert_eq!(chain.warnings, Vec::<String>::new());
            check_chain(&chain.pem, key.spki(), &wanted, &session.time(Timestamp::now())).unwrap();
            chains.push(chain.pem);
        }
        chains.sort();
        chains.dedup();
        assert_eq!(chains.len(), 3, "three different chains");
        let default = session.chains(&issued.order, Some("No Such Root"), |_| Ok(())).await.unwrap();
        assert_eq!(default.pem, issued.chain.pem);
        assert!(default.warnings[0].contains("No Such Root"), "{:?}", default.warnings);
    }
}

#[tokio::test]
async fn every_key_type_gets_a_certificate_or_a_clear_refusal() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let session = session(&pebble).await;
        for key_type in KeyType::ALL {
            let key = CertificateKey::generate(key_type).await.unwrap();
            let order =
                session.new_order(&names(&[&format!("{key_type}.example")]), None, None).await.unwrap();
            match complete(&session, order, pebble.challenges(), &key).await {
                Ok(issued) => assert_eq!(issued.checked.facts.key_type, Some(key_type)),
                Err(error) => {
                    assert_eq!(key_type, KeyType::Ed25519, "{error:?}");
                    assert!(matches!(error, AcmeError::BadCsr(_) | AcmeError::Problem(_)), "{error:?}");
                    println!("{version:?} refuses {key_type}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_failed_validation_says_which_name_and_why() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let session = session(&pebble).await;
        let order = session.new_order(&names(&["bad.example", "good.example"]), None, None).await.unwrap();
        for url in &order.authorizations {
            let authorization = session.authorization(url).await.unwrap();
            let challenge = authorization.dns01.unwrap();
            let good = session.dns01_value(&challenge.token);
            let value = if authorization.name.to_string() == "good.example" {
                good
            } else {
                good.replace(|_| true, "x")
            };
            pebble.challenges().add_txt(authorization.name.challenge_name().unwrap().as_str(), &value).await;
            session.answer(&challenge.url).await.unwrap();
        }
        let order = session.wait_until_ready(&order.url, PATIENCE).await.unwrap();
        assert_eq!(order.status, OrderStatus::Invalid);
        let failures = session.failures(&order).await.unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].0.to_string(), "bad.example");
        assert_eq!(failures[0].1.kind, "unauthorized");
        let one = session.wait_for_authorization(&order.authorizations[0], PATIENCE).await.unwrap();
        assert_ne!(one.status, AuthorizationStatus::Pending);
    }
}

#[tokio::test]
async fn a_refused_name_is_named() {
    let options = PebbleOptions { blocked: vec!["blocked.example".to_owned()], ..PebbleOptions::default() };
    let Some(pebble) = Pebble::start(&options) else { return };
    let session = session(&pebble).await;
    let wanted = names(&["fine.example", "www.blocked.example"]);
    let error = session.new_order(&wanted, None, None).await.unwrap_err();
    assert!(error.to_string().contains("www.blocked.example"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn an_order_that_is_gone_is_not_found() {
    for version in PebbleVersion::ALL {
        let Some(pebble) = start(version) else { return };
        let session = session(&pebble).await;
        let url = pebble.directory_url().join("/my-order/gone").unwrap();
        let error = session.order(url.as_str()).await.unwrap_err();
        assert!(matches!(error, AcmeError::NotFound { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_order_is_finalized_when_it_is_ready_and_for_its_own_names_only() {
    let Some(pebble) = start(PebbleVersion::V2_10_1) else { return };
    let session = session(&pebble).await;
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.new_order(&names(&["early.example"]), None, None).await.unwrap();
    let early = session.finalize(&order, &key.csr(&order.names).unwrap()).await.unwrap_err();
    assert!(matches!(early, AcmeError::OrderNotReady(_)), "{early:?}");
    let other = session.finalize(&order, &key.csr(&names(&["other.example"])).unwrap()).await.unwrap_err();
    assert!(matches!(other, AcmeError::IdentifiersDiffer { .. }), "{other:?}");
}

#[tokio::test]
async fn a_long_retry_after_of_a_pending_order_ends_the_wait_at_once() {
    let options = PebbleOptions { retry_after: 86_400, validation_sleep: 15, ..PebbleOptions::default() };
    let Some(pebble) = Pebble::start(&options) else { return };
    let session = session(&pebble).await;
    let order = session.new_order(&names(&["slow.example"]), None, None).await.unwrap();
    answer(&session, &order, pebble.challenges()).await.unwrap();
    let started = Instant::now();
    let error = session.wait_for_authorization(&order.authorizations[0], PATIENCE).await.unwrap_err();
    assert!(matches!(error, AcmeError::Timeout { .. }), "{error:?}");
    assert!(error.retry_after().is_some_and(|asked| asked.as_secs() >= 86_000), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_with_another_certificate_is_not_spoken_to() {
    let (Some(pebble), Some(other)) = (start(PebbleVersion::V2_10_1), start(PebbleVersion::V2_4_0)) else {
        return;
    };
    let mut settings = settings(&pebble);
    settings.ca_bundle = Some(other.ca_bundle().as_bytes().to_vec());
    let error = AcmeClient::new(settings).unwrap().directory().await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    assert!(!error.is_retryable() && !error.outcome_is_unknown());
}
