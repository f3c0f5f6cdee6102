use certplan::model::Fqdn;
use certplan::sandbox::Faults;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::SandboxError;
use certplan::sandbox::SandboxOptions;
use certplan::sandbox::ZoneRecord;

use crate::client::Client;

const NAMES: &[&str] = &["a.example.test"];

async fn start(folder: &std::path::Path) -> Sandbox {
    let mut options = SandboxOptions::default();
    options.folder = Some(folder.to_owned());
    options.ledger_file = Some(folder.join("ledger.jsonl"));
    Sandbox::start(options).await.unwrap()
}

#[tokio::test]
async fn a_restarted_sandbox_is_the_same_one_to_its_clients() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path()).await;
    let client = Client::registered(&first).await;
    let (valid, chain) = client.obtain(&first, NAMES).await;
    let pending = client.order(&["b.example.test"]).await.header("location").to_owned();
    let foreign = ZoneRecord::new("t.example.test", RecordValue::Txt("foreign".into()));
    first.insert_record(&foreign).unwrap();
    let before =
        (first.directory_url(), first.dns_address(), first.ca_bundle_pem(), first.tsig_keys().to_vec());
    let entries = first.ledger().entries().len() as u64;
    first.shutdown().await.unwrap();

    let second = start(folder.path()).await;
    let after =
        (second.directory_url(), second.dns_address(), second.ca_bundle_pem(), second.tsig_keys().to_vec());
    assert_eq!(before, after);
    assert!(second.records().contains(&foreign));
    assert_eq!(second.ledger().entries(), []);
    let order = client.get(&valid).await.expect(200).json();
    assert_eq!(client.get(order["certificate"].as_str().unwrap()).await.text, chain);
    assert_eq!(client.get(&pending).await.json()["status"], "pending");
    assert_eq!(client.order(&["b.example.test"]).await.header("location"), pending);
    assert_eq!(second.ledger().entries()[0].sequence, entries + 1);
    client.obtain(&second, &["b.example.test"]).await;
    let text = std::fs::read_to_string(folder.path().join("ca-bundle.pem")).unwrap();
    assert_eq!(text, second.ca_bundle_pem());
}

#[tokio::test]
async fn the_binding_that_a_sandbox_made_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let plain = start(folder.path()).await;
    assert_eq!(plain.eab_keys(), []);
    plain.shutdown().await.unwrap();
    let mut options = SandboxOptions::default();
    options.folder = Some(folder.path().to_owned());
    options.eab_required = true;
    let first = Sandbox::start(options.clone()).await.unwrap();
    let keys = first.eab_keys().to_vec();
    assert_eq!(keys.len(), 1);
    assert!(first.describe().contains(&keys[0].hmac_key));
    first.shutdown().await.unwrap();
    let second = Sandbox::start(options).await.unwrap();
    assert_eq!(second.eab_keys(), keys);
}

#[tokio::test]
async fn only_the_owner_reads_what_a_sandbox_keeps() {
    use std::os::unix::fs::PermissionsExt;

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("sandbox");
    let sandbox = start(&folder).await;
    sandbox.shutdown().await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_folder_that_is_not_a_sandboxs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sandbox.json"), "not json").unwrap();
    let mut options = SandboxOptions::default();
    options.folder = Some(folder.path().to_owned());
    let error = Sandbox::start(options).await.unwrap_err();
    assert!(matches!(error, SandboxError::FolderContent { .. }), "{error}");
    assert!(error.to_string().contains("sandbox.json"), "{error}");
}

#[tokio::test]
async fn a_sandbox_listens_on_loopback_only() {
    let mut options = SandboxOptions::default();
    options.address = [0, 0, 0, 0].into();
    assert!(matches!(Sandbox::start(options).await, Err(SandboxError::NotLoopback { .. })));
}

#[tokio::test]
async fn a_sandbox_says_how_to_use_it_and_shows_its_secrets_nowhere_else() {
    let mut options = SandboxOptions::default();
    options.faults = Faults::default();
    let sandbox = Sandbox::start(options).await.unwrap();
    let text = sandbox.describe();
    for part in [
        sandbox.directory_url(),
        sandbox.dns_address().to_string(),
        sandbox.tsig_keys()[0].secret.clone(),
        sandbox.management_url(),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    let debug = format!("{sandbox:?} {:?}", sandbox.tsig_keys());
    assert!(!debug.contains(&sandbox.tsig_keys()[0].secret));
    assert_eq!(sandbox.zones(), [Fqdn::new("example.test").unwrap()]);
}
