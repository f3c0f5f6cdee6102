//! Accounts that change, or cannot be made, while certificates are.

use std::sync::Arc;
use std::time::Duration;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeSettings;
use certplan::sandbox::Endpoint;
use certplan::sandbox::FaultRule;
use certplan::sandbox::Faults;
use certplan::sandbox::HttpFault;
use certplan::sandbox::Sandbox;
use certplan::sandbox::SandboxOptions;
use rcgen::KeyPair;

use super::world::SHOP;
use super::world::World;
use super::world::kill;
use crate::evidence;

/// The key of an account that another client has made, and the account's URL.
async fn account_of_another_client(world: &World) -> (String, String) {
    let pem = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let mut settings = AcmeSettings::new(world.sandbox.directory_url().parse().unwrap());
    settings.ca_bundle = Some(world.sandbox.ca_bundle_pem().into_bytes());
    let client: Arc<AcmeClient> = AcmeClient::new(settings).unwrap();
    let url = client.create_account(&AccountKey::from_text(&pem).unwrap(), &[], None).await.unwrap();
    (pem, url)
}

fn account(world: &World) -> serde_json::Value {
    let text = world.project.read(".certplan/state/accounts/sandbox.json");
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["content"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_finished_by_the_account_that_made_it() {
    for step in ["order_created", "finalizing"] {
        let world = World::new().await;
        let (mut child, lines) = world.project.apply_events(&[]);
        let needle = format!("\"step\":\"{step}\"");
        assert!(lines.map_while(Result::ok).any(|line| line.contains(&needle)), "{step}");
        kill(&mut child);
        let (pem, url) = account_of_another_client(&world).await;
        world.project.write("account.pem", &pem);
        let world = world.issuer("account_key: { file: account.pem }");
        world.project.certplan(&["apply", "--auto-approve", "--address", "account/sandbox"]).expect(0);
        assert_eq!(account(&world)["url"], url.as_str(), "{step}: the other account is in use");
        world.finish();
        world.judge();
        assert_eq!(world.issued().len(), 1, "{step}");
        assert_eq!(world.orders(), 1, "{step}: the order that was there was finished");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_refused_is_made_with_the_key_that_is_configured_by_then() {
    let world = World::new().await;
    let mut rule = FaultRule::new(HttpFault::ServerError, 100);
    rule.endpoints = [Endpoint::NewAccount].into();
    let mut faults = Faults::default();
    faults.http.push(rule);
    world.sandbox.set_faults(faults);
    world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    let unmade = account(&world);
    assert_eq!((&unmade["url"], &unmade["operation"]["sent"]), (&serde_json::Value::Null, &true.into()));
    world.sandbox.set_faults(Faults::default());

    let (pem, url) = account_of_another_client(&world).await;
    world.project.write("account.pem", &pem);
    let world = world.issuer("account_key: { file: account.pem }");
    assert!(world.finish_later());
    world.judge();
    assert_eq!(account(&world)["url"], url.as_str());
    assert_eq!(world.accounts(), 1, "none was made beside that of the configured key");
    evidence::assert_no_changes(&world.project);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_gives_no_account_holds_up_its_own_certificates_only() {
    let slow = Sandbox::start(SandboxOptions::default()).await.unwrap();
    let mut rule = FaultRule::new(HttpFault::Unavailable, 100);
    rule.endpoints = [Endpoint::NewAccount].into();
    let mut faults = Faults::default();
    faults.http.push(rule);
    faults.retry_after = Some(Duration::from_secs(20));
    slow.set_faults(faults);
    let world = World::new()
        .await
        .certificates(&format!("  blog:\n    names: [blog.example.test]\n    issuer: slow\n{SHOP}"));
    world.project.write("slow.pem", &slow.ca_bundle_pem());
    let config = world.project.read("certplan.yaml");
    let issuer = format!(
        "issuers:\n  slow:\n    acme: {{ directory: \"{}\", ca_bundle: slow.pem, agree_tos: true }}\n",
        slow.directory_url()
    );
    world.project.write("certplan.yaml", &config.replace("issuers:\n", &issuer));
    let (mut child, lines) = world.project.apply_events(&[]);
    let ended = lines.map_while(Result::ok).find(|line| {
        line.contains("apply_errored")
            || (line.contains("apply_complete") && line.contains("certificate/shop"))
    });
    kill(&mut child);
    let ended = ended.unwrap_or_default();
    assert!(ended.contains("apply_complete"), "the certificate of the other CA was issued first: {ended}");
}
