//! The files as real web servers take them: nginx, Apache and HAProxy.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use certplan_files::FACTORY;
use certplan_provider::BuildContext;
use certplan_provider::Bundle;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::Fingerprint;
use certplan_provider::KeyType;
use certplan_provider::PrivateKey;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::Slot;
use certplan_provider::Unresolved;
use certplan_test_support::Apache;
use certplan_test_support::Haproxy;
use certplan_test_support::Nginx;
use certplan_test_support::WebServer;
use jiff::Timestamp;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

#[tokio::test]
async fn nginx_serves_the_folder_as_it_is() {
    let story = Story::new(json!({ "directory": "tls" })).await;
    if let Some(server) = Nginx::start(&story.path("tls/shop")) {
        story.run(server).await;
    }
}

#[tokio::test]
async fn apache_serves_the_folder_as_it_is() {
    let story = Story::new(json!({ "directory": "tls" })).await;
    if let Some(server) = Apache::start(&story.path("tls/shop")) {
        story.run(server).await;
    }
}

#[tokio::test]
async fn haproxy_serves_a_folder_of_combined_files_as_it_is() {
    let story = Story::new(json!({ "directory": "tls", "layout": "haproxy" })).await;
    if let Some(server) = Haproxy::start(&story.path("tls")) {
        story.run(server).await;
    }
}

#[tokio::test]
async fn haproxy_serves_the_combined_file_of_a_certificate() {
    let story = Story::new(json!({ "directory": "tls", "formats": ["pem", "combined"] })).await;
    if let Some(server) = Haproxy::start(&story.path("tls/shop/combined.pem")) {
        story.run(server).await;
    }
}

/// A certificate that is in place, and what follows once a server serves it.
struct Story {
    folder: TempDir,
    block: Value,
    bundles: Vec<Bundle>,
}

impl Story {
    async fn new(block: Value) -> Self {
        let story = Self { folder: private_folder(), block, bundles: (0..4).map(|_| bundle()).collect() };
        let target = story.target(json!({}));
        story.deploy(&target, 0).await.unwrap();
        story
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn target(&self, commands: Value) -> Arc<dyn DeployTarget> {
        let mut block = self.block.clone();
        for (name, command) in commands.as_object().unwrap() {
            block[name] = command.clone();
        }
        (FACTORY.check)(&block).unwrap();
        build(&block, self.folder.path())
    }

    fn fingerprint(&self, number: usize) -> String {
        self.bundles[number].fingerprint.to_string()
    }

    /// Deploys over what is there and commits.
    async fn deploy(&self, target: &Arc<dyn DeployTarget>, number: usize) -> Result<(), String> {
        let slot = slot(target);
        let before = target.observe(&context(), &slot).await.unwrap();
        let receipt = target
            .deploy(&context(), &slot, &self.bundles[number], before.as_ref())
            .await
            .map_err(|error| error.to_string())?;
        target.commit(&context(), &slot, &receipt).await.unwrap();
        Ok(())
    }

    async fn run(self, mut server: impl WebServer) {
        let (test, reload) = (server.test_command(), server.reload_command());
        server.wait_for(&self.fingerprint(0));

        // Renewed: the new certificate serves.
        let target = self.target(json!({ "test": &test, "reload": &reload }));
        self.deploy(&target, 1).await.unwrap();
        server.wait_for(&self.fingerprint(1));

        // Refused by the test: nothing is reloaded, and the files are as before.
        let refused = self.target(json!({ "test": ["/bin/false"], "reload": &reload }));
        let error = self.deploy(&refused, 2).await.unwrap_err();
        assert!(error.contains("the previous certificate was put back"), "{error}");
        // Waited for, because an nginx worker of before the last reload may still take a connection; what does not serve
        // again in the end fails here all the same.
        server.wait_for(&self.fingerprint(1));
        let seen = target.observe(&context(), &slot(&target)).await.unwrap().unwrap();
        assert_eq!(seen.fingerprint, Some(self.bundles[1].fingerprint));

        // Refused by a reload that went half its way: the old certificate serves again.
        let words: Vec<String> = reload.iter().map(|word| format!("'{word}'")).collect();
        let script = format!("{} && touch reloaded && exit 7", words.join(" "));
        let broken = self.target(json!({ "test": &test, "reload": ["/bin/sh", "-c", script] }));
        let error = self.deploy(&broken, 2).await.unwrap_err();
        assert!(error.contains("failed with exit status 7"), "{error}");
        assert!(self.path("reloaded").exists(), "the server was told to reload");
        server.wait_for(&self.fingerprint(1));

        // And nothing stands in the way of the next.
        self.deploy(&target, 3).await.unwrap();
        server.wait_for(&self.fingerprint(3));

        // The server is still set up for the files: they stay.
        let seen = target.observe(&context(), &slot(&target)).await.unwrap();
        let error =
            target.remove(&context(), &slot(&target), seen.as_ref(), None).await.unwrap_err().to_string();
        assert!(error.contains("was put back, for the server still needs it"), "{error}");
        server.wait_for(&self.fingerprint(3));
        assert!(!server.server().has_ended());
        let unmanaged = self.target(json!({}));
        let seen = unmanaged.observe(&context(), &slot(&unmanaged)).await.unwrap();
        unmanaged.remove(&context(), &slot(&unmanaged), seen.as_ref(), None).await.unwrap();
        assert_eq!(fs::read_dir(self.path("tls")).unwrap().count(), 0, "nothing of ours is left");
    }
}

fn slot(target: &Arc<dyn DeployTarget>) -> Slot {
    target.slot("shop", &json!({})).unwrap()
}

fn context() -> Context {
    Context::new(Timestamp::from_second(1_800_000_000).unwrap(), CancellationToken::new())
}

#[derive(Debug)]
struct NoSecrets;

impl SecretResolver for NoSecrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        Err(Unresolved { reference: reference.clone(), reason: "is not set".to_owned() })
    }
}

fn build(block: &Value, base: &Path) -> Arc<dyn DeployTarget> {
    (FACTORY.build)(block, &BuildContext::new(Arc::new(NoSecrets), base.to_owned(), String::new())).unwrap()
}

fn bundle() -> Bundle {
    let key = KeyPair::generate().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let leaf = CertificateParams::new(vec!["shop.example.com".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let mut octets = [0; 32];
    octets.copy_from_slice(digest::digest(&digest::SHA256, leaf.der()).as_ref());
    Bundle {
        certificate: "shop".to_owned(),
        chain: vec![leaf.der().to_vec(), authority_certificate.der().to_vec()],
        chain_pem: format!("{}{}", unix(&leaf.pem()), unix(&authority_certificate.pem())),
        key: PrivateKey::new(Zeroizing::new(key.serialize_der()), Zeroizing::new(unix(&key.serialize_pem()))),
        key_type: KeyType::EcdsaP256,
        fingerprint: Fingerprint::from_digest(octets),
    }
}

fn private_folder() -> TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(mode).tempdir().unwrap()
}

fn unix(pem: &str) -> String {
    format!("{}\n", pem.replace("\r\n", "\n").trim_end())
}
