use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certplan_provider::BuildContext;
use certplan_provider::Bundle;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::Deployed;
use certplan_provider::Fingerprint;
use certplan_provider::KeyType;
use certplan_provider::PrivateKey;
use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::Slot;
use certplan_provider::Unresolved;
use certplan_provider::conformance::TargetHarness;
use certplan_provider::conformance::check_target;
use jiff::Timestamp;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use rustix::fs::Timespec;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::FACTORY;
use crate::account::Owners;
use crate::contents::Contents;
use crate::look::fingerprint;
use crate::place::Place;
use crate::step::Step;
use crate::store::Pending;
use crate::store::Store;

mod commands;
mod killed;

const WAIT: Duration = Duration::from_secs(20);
const MODIFIED: Timespec = Timespec { tv_sec: 1_800_000_000, tv_nsec: 7 };

#[derive(Debug)]
struct NoSecrets;

impl SecretResolver for NoSecrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        Err(Unresolved { reference: reference.clone(), reason: "is not set".to_owned() })
    }
}

/// A target in a folder of its own.
struct Bench {
    folder: TempDir,
    target: Arc<dyn DeployTarget>,
}

impl Bench {
    fn new(block: Value) -> Self {
        let folder = private_folder();
        let target = build(&block, folder.path());
        Self { folder, target }
    }

    fn slot(&self) -> Slot {
        self.target.slot("shop", &json!({})).unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    async fn observe(&self) -> Option<Deployed> {
        self.target.observe(&context(), &self.slot()).await.unwrap()
    }

    async fn deployed(&self, number: usize) -> Deployed {
        let expected = self.observe().await;
        let receipt =
            self.target.deploy(&context(), &self.slot(), &bundle(number), expected.as_ref()).await.unwrap();
        self.target.commit(&context(), &self.slot(), &receipt).await.unwrap();
        self.observe().await.unwrap()
    }

    /// Removes what is seen there.
    async fn remove(&self) -> Result<(), ProviderError> {
        let seen = self.observe().await;
        self.target.remove(&context(), &self.slot(), seen.as_ref(), None).await
    }

    async fn deviations(&self) -> Vec<String> {
        self.observe().await.unwrap().deviations
    }
}

fn build(block: &Value, base: &Path) -> Arc<dyn DeployTarget> {
    (FACTORY.check)(block).unwrap();
    (FACTORY.build)(block, &BuildContext::new(Arc::new(NoSecrets), base.to_owned(), String::new())).unwrap()
}

fn context() -> Context {
    Context::new(Timestamp::from_second(1_800_000_000).unwrap(), CancellationToken::new())
}

/// A certificate that was made once, by its number.
fn bundle(number: usize) -> Bundle {
    static MADE: Mutex<Vec<Bundle>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap();
    while made.len() <= number {
        let key = KeyPair::generate().unwrap();
        let issuer = KeyPair::generate().unwrap();
        let authority = CertificateParams::new(vec!["authority.example".to_owned()]).unwrap();
        let authority_certificate = authority.clone().self_signed(&issuer).unwrap();
        let issuer = rcgen::Issuer::new(authority, issuer);
        let leaf = CertificateParams::new(vec!["shop.example.com".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        made.push(Bundle {
            certificate: "shop".to_owned(),
            chain: vec![leaf.der().to_vec(), authority_certificate.der().to_vec()],
            chain_pem: format!("{}{}", unix(&leaf.pem()), unix(&authority_certificate.pem())),
            key: PrivateKey::new(
                Zeroizing::new(key.serialize_der()),
                Zeroizing::new(unix(&key.serialize_pem())),
            ),
            key_type: KeyType::EcdsaP256,
            fingerprint: fingerprint(leaf.der()),
        });
    }
    made[number].clone()
}

/// A folder that is nobody else's, whatever the umask of the run.
fn private_folder() -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn private_key(key: &KeyPair) -> PrivateKey {
    PrivateKey::new(Zeroizing::new(key.serialize_der()), Zeroizing::new(unix(&key.serialize_pem())))
}

fn unix(pem: &str) -> String {
    format!("{}\n", pem.replace("\r\n", "\n").trim_end())
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(path: PathBuf) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[derive(Debug)]
struct Harness {
    folder: TempDir,
    target: Arc<dyn DeployTarget>,
    haproxy: bool,
    slots: AtomicUsize,
}

impl Harness {
    fn new(layout: &str) -> Arc<Self> {
        let folder = private_folder();
        let target = build(&json!({ "directory": "tls", "layout": layout, "mode": "0640" }), folder.path());
        Arc::new(Self { folder, target, haproxy: layout == "haproxy", slots: AtomicUsize::new(0) })
    }

    /// As a server reads: the link once, then the files of the folder that it led to.
    fn read_pair(&self, slot: &Slot) -> Option<(String, String)> {
        loop {
            let link = fs::read_link(&slot.location).ok()?;
            let there = self.folder.path().join("tls").join(&link);
            let (cert, key) = match self.haproxy {
                true => (fs::read_to_string(&there), fs::read_to_string(&there)),
                false => (
                    fs::read_to_string(there.join("fullchain.pem")),
                    fs::read_to_string(there.join("privkey.pem")),
                ),
            };
            match (cert, key) {
                (Ok(cert), Ok(key)) => return Some((cert, key)),
                // The reader slept through a whole deployment and its commit.
                _ if fs::read_link(&slot.location).ok() != Some(link) => {}
                (cert, key) => panic!("half a pair: {:?} {:?}", cert.err(), key.err()),
            }
        }
    }
}

impl TargetHarness for Harness {
    fn target(&self) -> Arc<dyn DeployTarget> {
        Arc::clone(&self.target)
    }

    fn slot(&self) -> Slot {
        let number = self.slots.fetch_add(1, Ordering::Relaxed);
        self.target.slot(&format!("slot-{number}"), &json!({})).unwrap()
    }

    fn bundle(&self, number: usize) -> Bundle {
        bundle(number)
    }

    fn served(&self, slot: &Slot) -> Option<(Fingerprint, String)> {
        let (cert, key) = self.read_pair(slot)?;
        let leaf = x509_parser::pem::Pem::iter_from_buffer(cert.as_bytes()).next().unwrap().unwrap().contents;
        let at = key.find("-----BEGIN PRIVATE").expect("the key is whole");
        Some((fingerprint(&leaf), key[at..].to_owned()))
    }

    fn plant_foreign(&self, slot: &Slot) {
        for folder in ["tls", "tls/.certplan"].map(|folder| self.folder.path().join(folder)) {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(format!("{}-foreign", slot.location), "foreign").unwrap();
        fs::create_dir(format!("{}.d", slot.location)).unwrap();
    }

    fn foreign_is_intact(&self, slot: &Slot) -> bool {
        read(PathBuf::from(format!("{}-foreign", slot.location))) == "foreign"
            && Path::new(&format!("{}.d", slot.location)).is_dir()
    }
}

#[tokio::test]
async fn the_layout_certbot_keeps_the_contract() {
    check_target(Harness::new("certbot")).await;
}

#[tokio::test]
async fn the_layout_haproxy_keeps_the_contract() {
    check_target(Harness::new("haproxy")).await;
}

#[tokio::test]
async fn the_files_are_those_of_certbot_with_the_right_modes() {
    let bench = Bench::new(json!({ "directory": "tls", "formats": ["pem", "combined"] }));
    let deployed = bench.deployed(0).await;
    assert_eq!(deployed.deviations, Vec::<String>::new());
    assert_eq!(deployed.serial.as_ref().map(|serial| serial.len() % 2), Some(0));
    assert!(deployed.not_after.is_some());
    let files = ["cert.pem", "chain.pem", "combined.pem", "fullchain.pem", "privkey.pem"];
    assert_eq!(names(bench.path("tls/shop")), files);
    let modes = files.map(|file| mode(bench.path(&format!("tls/shop/{file}"))));
    assert_eq!(modes, [0o644, 0o644, 0o600, 0o644, 0o600]);
    assert_eq!(mode(bench.path("tls/shop/")), 0o755);
    let [cert, chain, combined, fullchain, key] =
        files.map(|file| read(bench.path(&format!("tls/shop/{file}"))));
    assert_eq!(fullchain, bundle(0).chain_pem);
    assert_eq!(format!("{cert}{chain}"), fullchain);
    assert_eq!(format!("{fullchain}{key}"), combined);
    assert_eq!(key, bundle(0).key.expose_pem());
}

#[tokio::test]
async fn after_a_commit_no_old_key_lies_about() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    for number in 0..3 {
        bench.deployed(number).await;
    }
    let left = names(bench.path("tls/.certplan/shop"));
    assert_eq!(left, [format!("000003-{}", bundle(2).fingerprint.short()), "lock".to_owned()]);
}

#[tokio::test]
async fn removing_leaves_nothing_of_ours() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    bench.deployed(0).await;
    bench.remove().await.unwrap();
    assert_eq!(names(bench.path("tls")), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_changed_by_hand_is_seen() {
    let bench = Bench::new(json!({ "directory": "tls", "formats": ["pem", "combined"] }));
    let fresh = bench.deployed(0).await;
    let version = bench.path("tls/.certplan/shop").join(fresh.version.clone().unwrap());
    type Ruin<'a> = Box<dyn Fn() + 'a>;
    let ruined: [(&str, Ruin<'_>); 10] = [
        ("privkey.pem is missing", Box::new(|| fs::remove_file(version.join("privkey.pem")).unwrap())),
        ("mode of privkey.pem is 0644, not 0600", {
            Box::new(|| {
                fs::set_permissions(version.join("privkey.pem"), fs::Permissions::from_mode(0o644)).unwrap();
            })
        }),
        (
            "cert.pem holds something else than fullchain.pem",
            Box::new(|| fs::write(version.join("cert.pem"), "x").unwrap()),
        ),
        (
            "cert.pem was changed at another time than fullchain.pem",
            Box::new(|| {
                let mut octets = fs::read(version.join("cert.pem")).unwrap();
                octets.reverse();
                fs::write(version.join("cert.pem"), octets).unwrap();
            }),
        ),
        (
            "combined.pem holds something else than fullchain.pem",
            Box::new(|| fs::write(version.join("combined.pem"), bundle(1).chain_pem).unwrap()),
        ),
        // Same size, other key: only its date tells, for nobody reads it.
        (
            "privkey.pem was changed at another time than fullchain.pem",
            Box::new(|| fs::write(version.join("privkey.pem"), bundle(1).key.expose_pem()).unwrap()),
        ),
        ("fullchain.pem is missing", Box::new(|| fs::remove_file(version.join("fullchain.pem")).unwrap())),
        ("chain.pem is not a regular file", {
            Box::new(|| {
                fs::remove_file(version.join("chain.pem")).unwrap();
                symlink("/etc/passwd", version.join("chain.pem")).unwrap();
            })
        }),
        ("fullchain.pem is not a regular file", {
            Box::new(|| {
                fs::remove_file(version.join("fullchain.pem")).unwrap();
                fs::create_dir(version.join("fullchain.pem")).unwrap();
            })
        }),
        ("mode of the folder is 0700, not 0755", {
            Box::new(|| fs::set_permissions(&version, fs::Permissions::from_mode(0o700)).unwrap())
        }),
    ];
    for (expected, ruin) in ruined {
        let copy = bench.path("copy");
        let copied = std::process::Command::new("cp").arg("-a").arg(&version).arg(&copy).status().unwrap();
        assert!(copied.success());
        ruin();
        let seen = bench.observe().await.unwrap();
        assert!(seen.deviations.iter().any(|found| found == expected), "{expected}: {:?}", seen.deviations);
        fs::remove_dir_all(&version).unwrap();
        fs::rename(&copy, &version).unwrap();
        assert_eq!(bench.observe().await, Some(fresh.clone()), "a copy with all its dates is as good");
    }
    // A whole certificate of somebody else.
    fs::write(version.join("fullchain.pem"), bundle(1).chain_pem).unwrap();
    assert_eq!(bench.observe().await.unwrap().fingerprint, Some(bundle(1).fingerprint));
    assert_ne!(bench.deviations().await, Vec::<String>::new());
    // The same call as ever repairs it.
    assert_eq!(bench.deployed(0).await.deviations, Vec::<String>::new());
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_seen_and_repaired() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    let fresh = bench.deployed(0).await;
    fs::remove_dir_all(bench.path("tls/.certplan")).unwrap();
    let seen = bench.observe().await.unwrap();
    assert_eq!(seen.fingerprint, None);
    assert_eq!(seen.deviations, ["`shop` leads to a folder that is gone"]);
    let repaired = bench.deployed(0).await;
    assert_eq!(repaired.fingerprint, fresh.fingerprint);
    assert_ne!(repaired.version, fresh.version);
}

#[tokio::test]
async fn what_certplan_did_not_make_is_never_touched() {
    type Plant = fn(&Path);
    let plant: [(&str, Plant); 3] = [
        ("a folder", |at| {
            fs::create_dir(at).unwrap();
            fs::write(at.join("fullchain.pem"), bundle(3).chain_pem).unwrap();
        }),
        ("a file", |at| fs::write(at, "theirs").unwrap()),
        ("a symbolic link", |at| symlink("../elsewhere", at).unwrap()),
    ];
    for (what, plant) in plant {
        let bench = Bench::new(json!({ "directory": "tls" }));
        fs::create_dir(bench.path("tls")).unwrap();
        fs::set_permissions(bench.path("tls"), fs::Permissions::from_mode(0o755)).unwrap();
        plant(&bench.path("tls/shop"));
        let seen = bench.observe().await.unwrap();
        let refusal = format!("`shop` is {what} that certplan did not make");
        assert_eq!((&seen.deviations[..], seen.refusal.as_ref()), (&[refusal.clone()][..], Some(&refusal)));
        if what == "a folder" {
            assert_eq!(seen.fingerprint, Some(bundle(3).fingerprint), "what is served there is told");
        }
        let error =
            bench.target.deploy(&context(), &bench.slot(), &bundle(0), Some(&seen)).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Conflict);
        assert!(error.to_string().contains(&format!("is {what} that certplan did not make")), "{error}");
        bench.remove().await.unwrap();
        assert_eq!(bench.observe().await.unwrap(), seen);
    }
}

#[tokio::test]
async fn what_somebody_put_beside_our_files_is_kept_and_holds_nothing_up() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    bench.deployed(1).await;
    let version = fs::canonicalize(bench.path("tls/shop")).unwrap();
    fs::create_dir(version.join("sub")).unwrap();
    fs::write(version.join("dhparam.pem"), "somebody's").unwrap();
    fs::remove_file(version.join("chain.pem")).unwrap();
    fs::create_dir(version.join("chain.pem")).unwrap();
    for number in 2..4 {
        assert_eq!(bench.deployed(number).await.fingerprint, Some(bundle(number).fingerprint));
    }
    let current = fs::canonicalize(bench.path("tls/shop")).unwrap();
    fs::remove_file(current.join("fullchain.pem")).unwrap();
    fs::create_dir(current.join("fullchain.pem")).unwrap();
    assert_eq!(bench.deployed(3).await.deviations, Vec::<String>::new(), "it is repaired");
    assert_eq!(bench.observe().await.unwrap().refusal, None);
    assert_eq!(names(version.clone()), ["chain.pem", "dhparam.pem", "sub"], "its key is gone");
    let current = fs::canonicalize(bench.path("tls/shop")).unwrap();
    let target = build(&json!({ "directory": "tls/shop/inside" }), bench.folder.path());
    let slot = target.slot("other", &json!({})).unwrap();
    let error = target.deploy(&context(), &slot, &bundle(4), None).await.unwrap_err();
    assert!(error.to_string().contains("lies in the folder of another deployment"), "{error}");
    assert!(!current.join("inside").exists());
    bench.remove().await.unwrap();
    assert_eq!(names(version), ["chain.pem", "dhparam.pem", "sub"]);
    assert!(!bench.path("tls/shop").exists());
}

#[tokio::test]
async fn a_file_in_place_of_the_targets_folder_is_seen_and_kept() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    bench.deployed(0).await;
    fs::rename(bench.path("tls"), bench.path("away")).unwrap();
    fs::write(bench.path("tls"), "somebody's").unwrap();
    let seen = bench.observe().await.unwrap();
    assert!(seen.refusal.unwrap().ends_with("/tls/shop` is not in a folder"));
    assert!(bench.target.check(&context(), &bench.slot()).await.is_err());
    assert!(bench.target.deploy(&context(), &bench.slot(), &bundle(1), None).await.is_err());
    assert_eq!(read(bench.path("tls")), "somebody's");
}

#[tokio::test]
async fn a_folder_put_in_place_of_our_link_is_seen_and_kept() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    let receipt = bench.target.deploy(&context(), &bench.slot(), &bundle(0), None).await.unwrap();
    fs::remove_file(bench.path("tls/shop")).unwrap();
    fs::create_dir(bench.path("tls/shop")).unwrap();
    assert_eq!(bench.deviations().await, ["`shop` is a folder that certplan did not make"]);
    for error in [
        bench.target.commit(&context(), &bench.slot(), &receipt).await,
        bench.target.rollback(&context(), &bench.slot(), &receipt).await,
    ] {
        assert_eq!(error.unwrap_err().kind(), ProviderErrorKind::Conflict);
    }
    assert!(bench.path("tls/shop").is_dir());
}

#[tokio::test]
async fn a_slot_outside_the_configured_directory_gets_no_key() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    let other = Bench::new(json!({ "directory": "tls" }));
    let refused = bench.target.deploy(&context(), &other.slot(), &bundle(0), None).await.unwrap_err();
    assert_eq!(refused.kind(), ProviderErrorKind::Invalid);
    assert!(!other.path("tls").exists());
}

#[tokio::test]
async fn a_bundle_that_contradicts_itself_is_refused_before_anything_is_written() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    let good = bundle(0);
    let mut wrong = vec![good.clone(); 5];
    wrong[0].chain_pem = bundle(1).chain_pem;
    wrong[1].chain.pop();
    wrong[2].fingerprint = bundle(1).fingerprint;
    wrong[3].key = bundle(1).key;
    wrong[4].key_type = KeyType::Rsa2048;
    for wrong in wrong {
        let refused = bench.target.deploy(&context(), &bench.slot(), &wrong, None).await.unwrap_err();
        assert_eq!(refused.kind(), ProviderErrorKind::Invalid, "{refused}");
    }
    assert!(!bench.path("tls").exists());
}

#[tokio::test]
async fn every_key_type_is_taken() {
    let bench = Bench::new(json!({ "directory": "tls" }));
    for key_type in KeyType::ALL {
        let key = match key_type {
            KeyType::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
            KeyType::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072),
            KeyType::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_4096),
            _ => KeyPair::generate(),
        }
        .unwrap();
        let leaf =
            CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
        let bundle = Bundle {
            chain: vec![leaf.der().to_vec()],
            chain_pem: unix(&leaf.pem()),
            key: private_key(&key),
            key_type,
            fingerprint: fingerprint(leaf.der()),
            ..bundle(0)
        };
        let slot = bench.target.slot(key_type.as_str(), &json!({})).unwrap();
        bench.target.deploy(&context(), &slot, &bundle, None).await.unwrap();
        let seen = bench.target.observe(&context(), &slot).await.unwrap().unwrap();
        assert_eq!((seen.fingerprint, seen.deviations), (Some(bundle.fingerprint), Vec::new()), "{key_type}");
    }
}

#[tokio::test]
async fn many_deployments_at_once_do_not_disturb_each_other() {
    let bench = Bench::new(json!({ "directory": "tls", "test": ["/bin/true"], "reload": ["/bin/true"] }));
    let runs = (0..8).map(|number| {
        let target = Arc::clone(&bench.target);
        tokio::spawn(async move {
            let slot = target.slot(&format!("shop-{}", number % 4), &json!({})).unwrap();
            target.deploy(&context(), &slot, &bundle(number % 4), None).await.unwrap();
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
    for number in 0..4 {
        let slot = bench.target.slot(&format!("shop-{number}"), &json!({})).unwrap();
        let seen = bench.target.observe(&context(), &slot).await.unwrap().unwrap();
        assert_eq!(seen.fingerprint, Some(bundle(number).fingerprint));
    }
}

#[tokio::test]
async fn observing_writes_nothing() {
    let bench = Bench::new(json!({ "directory": "deep/tls" }));
    assert_eq!(bench.observe().await, None);
    assert_eq!(names(bench.path("")), Vec::<String>::new());
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let bench = Bench::new(json!({ "directory": "tls", "owner": "certplan-nobody-knows" }));
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(0), None).await.unwrap_err();
    assert!(matches!(error, ProviderError::Invalid { .. }), "{error}");
    let bench = Bench::new(json!({ "directory": "file/tls" }));
    fs::write(bench.path("file"), "").unwrap();
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(0), None).await.unwrap_err();
    assert!(matches!(error, ProviderError::Invalid { .. }), "{error}");
    let full = crate::failure::failed("write", Path::new("/srv/a\u{1b}b"), rustix::io::Errno::NOSPC);
    assert_eq!(full.kind(), ProviderErrorKind::Transient);
    assert!(
        full.to_string().starts_with("cannot write `/srv/a\\u{1b}b`: the disk or the quota is full"),
        "{full}"
    );
    let denied = crate::failure::failed("write", Path::new("/srv"), rustix::io::Errno::ACCESS);
    assert_eq!(denied.kind(), ProviderErrorKind::Auth);
}
