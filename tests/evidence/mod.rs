//! What is to be seen of a run from outside: files, keys, state and what servers hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::digest;
use rcgen::KeyPair;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::project::Project;

/// A certificate and a private key that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// SHA-256 of the leaf, as 64 hexadecimal digits.
    pub fingerprint: String,
    /// SHA-256 of the public key, as 64 hexadecimal digits.
    pub spki: String,
    /// How many certificates the chain has.
    pub chain_length: usize,
    /// The chain as it is in the file.
    pub chain: String,
}

/// Reads the files that `files` has deployed in the layout `certbot`; `None` when nothing is there.
///
/// # Panics
/// When certificate and key do not belong together, or someone else can read the key.
#[track_caller]
pub fn pair(folder: &Path) -> Option<Pair> {
    let chain = fs::read_to_string(folder.join("fullchain.pem")).ok()?;
    let key_file = folder.join("privkey.pem");
    let key = fs::read_to_string(&key_file).unwrap();
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600, "the key is ours alone");
    let pair = chain_and_key(&chain, &key);
    let leaf = fs::read_to_string(folder.join("cert.pem")).unwrap();
    assert!(chain.starts_with(leaf.trim_end()), "cert.pem is the first of fullchain.pem");
    Some(pair)
}

/// Checks that a chain and a key belong together.
#[track_caller]
pub fn chain_and_key(chain: &str, key: &str) -> Pair {
    let ders: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().expect("the chain is PEM");
    let leaf = ders.first().expect("the chain has a leaf");
    let (_, certificate) = X509Certificate::from_der(leaf).expect("the leaf is a certificate");
    let spki = sha256(certificate.public_key().raw);
    assert_eq!(key_spki(key), spki, "certificate and key belong together");
    Pair { fingerprint: sha256(leaf), spki, chain_length: ders.len(), chain: chain.to_owned() }
}

/// SHA-256 of the public key of a private key in PEM.
#[track_caller]
pub fn key_spki(pem: &str) -> String {
    sha256(&KeyPair::from_pem(pem).expect("the key is PKCS#8 in PEM").subject_public_key_info())
}

/// SHA-256 as hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below a folder with its content, by path relative to it; symbolic links by their target.
pub fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let kind = entry.file_type().unwrap();
            if kind.is_symlink() {
                files.insert(name, fs::read_link(&path).unwrap().display().to_string().into_bytes());
            } else if kind.is_dir() {
                files.insert(format!("{name}/"), Vec::new());
                folders.push(path);
            } else {
                files.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    files
}

/// The private key that `certplan key export` takes out of state, in PEM.
#[track_caller]
pub fn exported_key(project: &Project, certificate: &str) -> String {
    project.certplan(&["key", "export", &format!("certificate/{certificate}"), "--out", "-"]).expect(0).stdout
}

/// The plan as JSON.
#[track_caller]
pub fn plan_json(project: &Project, arguments: &[&str]) -> serde_json::Value {
    let run = project.certplan(&[&["plan", "--json"], arguments].concat());
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

/// The change that a plan has for an address.
#[track_caller]
pub fn change<'a>(plan: &'a serde_json::Value, address: &str) -> &'a serde_json::Value {
    plan["resource_changes"]
        .as_array()
        .and_then(|changes| changes.iter().find(|change| change["address"] == address))
        .unwrap_or_else(|| panic!("no change for {address} in {plan:#}"))
}

/// Fails unless there is nothing to do.
#[track_caller]
pub fn assert_no_changes(project: &Project) {
    let run = project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    assert!(!run.stdout.contains("will be"), "{run}");
}

/// Waits until something holds.
///
/// # Panics
/// When it does not within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The content of a certificate's state object.
#[track_caller]
pub fn content(project: &Project, certificate: &str) -> serde_json::Value {
    project.record("story", certificate)["content"].clone()
}
