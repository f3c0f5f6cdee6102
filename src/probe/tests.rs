use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use rcgen::CertificateParams;
use rcgen::KeyPair;
use rcgen::SignatureAlgorithm;
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::sha256;

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { certificate: certificate.der().clone(), key: der }
    }

    fn fingerprint(&self) -> Fingerprint {
        sha256(&self.certificate)
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key).unwrap();
        Arc::new(CertifiedKey::new(vec![self.certificate.clone()], key))
    }
}

/// Gives each server name, or each kind of client, its own certificate.
#[derive(Debug)]
struct Choice(Vec<(String, Arc<CertifiedKey>)>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().unwrap_or_default().to_owned();
        self.0
            .iter()
            .find(|(name, key)| *name == asked && key.key.choose_scheme(hello.signature_schemes()).is_some())
            .map(|(_, key)| Arc::clone(key))
    }
}

struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Server {
    fn endpoint(&self, sni: &str) -> Endpoint {
        Endpoint { host: self.address.ip().to_string(), port: self.address.port(), sni: sni.to_owned() }
    }

    async fn start(config: ServerConfig) -> Self {
        Self::start_on(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    async fn start_on(config: ServerConfig, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
            }
        });
        Self { address, _task: task }
    }
}

fn config(versions: &[&'static SupportedProtocolVersion], choice: Choice) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(choice))
}

fn both() -> Vec<&'static SupportedProtocolVersion> {
    vec![&rustls::version::TLS12, &rustls::version::TLS13]
}

fn choice(identities: &[(&str, &Identity)]) -> Choice {
    Choice(identities.iter().map(|(name, identity)| ((*name).to_owned(), identity.certified())).collect())
}

fn options() -> ProbeOptions {
    ProbeOptions { timeout: Duration::from_secs(5), ..ProbeOptions::default() }
}

async fn leaf(endpoint: &Endpoint) -> Result<Fingerprint, ProbeError> {
    probe(endpoint, options()).await.unwrap().leaf()
}

#[tokio::test]
async fn every_kind_of_certificate_is_read_in_both_versions_of_tls() {
    let algorithms = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    for algorithm in algorithms {
        let identity = Identity::new(algorithm, &["shop.example.test"]);
        for version in both() {
            let choice = choice(&[("shop.example.test", &identity)]);
            let server = Server::start(config(&[version], choice)).await;
            assert_eq!(leaf(&server.endpoint("shop.example.test")).await, Ok(identity.fingerprint()));
        }
    }
}

#[tokio::test]
async fn the_server_name_decides() {
    let one = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["one.test"]);
    let two = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["two.test"]);
    let choice = choice(&[("one.test", &one), ("two.test", &two)]);
    let server = Server::start(config(&both(), choice)).await;
    assert_eq!(leaf(&server.endpoint("one.test")).await, Ok(one.fingerprint()));
    assert_eq!(leaf(&server.endpoint("two.test")).await, Ok(two.fingerprint()));
    let error = leaf(&server.endpoint("three.test")).await.unwrap_err();
    assert!(matches!(error, ProbeError::Alert { .. }), "{error}");
}

#[tokio::test]
async fn a_server_with_two_kinds_shows_the_one_that_is_asked_for() {
    let ecdsa = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.test"]);
    let rsa = Identity::new(&rcgen::PKCS_RSA_SHA256, &["shop.test"]);
    for version in both() {
        let choice = choice(&[("shop.test", &ecdsa), ("shop.test", &rsa)]);
        let server = Server::start(config(&[version], choice)).await;
        for (offer, expected) in [(Offer::Any, &ecdsa), (Offer::Ecdsa, &ecdsa), (Offer::Rsa, &rsa)] {
            let probe =
                probe(&server.endpoint("shop.test"), ProbeOptions { offer, ..options() }).await.unwrap();
            assert_eq!(probe.leaf(), Ok(expected.fingerprint()), "{offer:?}");
        }
        let offer = Offer::Ed25519;
        let probe = probe(&server.endpoint("shop.test"), ProbeOptions { offer, ..options() }).await.unwrap();
        assert!(matches!(probe.leaf(), Err(ProbeError::Alert { .. })), "{probe:?}");
    }
}

#[tokio::test]
async fn a_server_without_the_key_does_not_serve_the_certificate() {
    let shown = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.test"]);
    let other = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.test"]);
    let key = aws_lc_rs::sign::any_supported_type(&other.key).unwrap();
    let mismatched = Arc::new(CertifiedKey::new(vec![shown.certificate.clone()], key));
    for version in both() {
        let choice = Choice(vec![("shop.test".to_owned(), Arc::clone(&mismatched))]);
        let server = Server::start(config(&[version], choice)).await;
        let error = leaf(&server.endpoint("shop.test")).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::Handshake { leaf: Some(leaf), .. } if leaf == shown.fingerprint()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_is_read_all_the_same() {
    let identity = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.test"]);
    for version in both() {
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(identity.certificate.clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&crypto));
        let config = ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_cert_resolver(Arc::new(choice(&[("shop.test", &identity)])));
        let server = Server::start(config).await;
        assert_eq!(leaf(&server.endpoint("shop.test")).await, Ok(identity.fingerprint()));
    }
}

#[tokio::test]
async fn a_name_is_probed_at_all_its_addresses() {
    let identity = Identity::new(&rcgen::PKCS_ECDSA_P256_SHA256, &["localhost"]);
    let server = Server::start(config(&both(), choice(&[("localhost", &identity)]))).await;
    let endpoint = Endpoint { host: "localhost".to_owned(), ..server.endpoint("localhost") };
    let probe = probe(&endpoint, options()).await.unwrap();
    let at_v4 = &probe.addresses[&server.address];
    assert_eq!(at_v4.as_ref().unwrap(), &Presented { leaf: identity.fingerprint(), chain_length: 1 });
}

/// Accepts one connection after the other and does this with them.
async fn raw(octets: &'static [u8], keep_open: bool) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(octets).await.unwrap();
            if keep_open {
                open.push(stream);
            } else {
                // Read what came, so that closing is no reset.
                stream.readable().await.unwrap();
                let _ = stream.try_read(&mut [0; 4096]);
            }
        }
    });
    Server { address, _task: task }
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let refused = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Endpoint { host: address.ip().to_string(), port: address.port(), sni: "shop.test".to_owned() }
    };
    let error = leaf(&refused).await.unwrap_err();
    assert!(matches!(error, ProbeError::Refused { .. }), "{error}");

    let server = raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", true).await;
    let error = leaf(&server.endpoint("shop.test")).await.unwrap_err();
    assert!(matches!(error, ProbeError::NotTls { .. }), "{error}");

    let server = raw(b"", false).await;
    let error = leaf(&server.endpoint("shop.test")).await.unwrap_err();
    assert!(matches!(error, ProbeError::Closed { .. }), "{error}");

    let server = raw(b"", true).await;
    let quick = ProbeOptions { timeout: Duration::from_millis(200), ..options() };
    let error = probe(&server.endpoint("shop.test"), quick).await.unwrap().leaf().unwrap_err();
    assert!(matches!(error, ProbeError::TimedOut { .. }), "{error}");

    // `.invalid` never resolves (RFC 6761); without a resolver it does not either.
    let nowhere = Endpoint { host: "nowhere.invalid".to_owned(), ..refused.clone() };
    let error = probe(&nowhere, options()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Unresolved { .. }), "{error}");

    let error = probe(&Endpoint { sni: "not a name".to_owned(), ..refused }, options()).await.unwrap_err();
    assert!(matches!(error, ProbeError::ServerName { .. }), "{error}");
}

fn probe_of(outcomes: &[(IpAddr, Result<u8, bool>)]) -> Probe {
    let addresses = outcomes.iter().map(|(ip, outcome)| {
        let address = SocketAddr::new(*ip, 443);
        let outcome = match outcome {
            Ok(digest) => Ok(Presented { leaf: Fingerprint::from_digest([*digest; 32]), chain_length: 2 }),
            Err(true) => Err(ProbeError::Unreachable { address, reason: "no route".to_owned() }),
            Err(false) => Err(ProbeError::Refused { address }),
        };
        (address, outcome)
    });
    let endpoint = Endpoint { host: "shop.test".to_owned(), port: 443, sni: "shop.test".to_owned() };
    Probe { endpoint, addresses: addresses.collect() }
}

#[test]
fn all_addresses_that_can_be_asked_have_to_agree() {
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let leaf = Fingerprint::from_digest([7; 32]);
    assert_eq!(probe_of(&[(v4(1), Ok(7)), (v6, Ok(7))]).leaf(), Ok(leaf));
    assert_eq!(probe_of(&[(v4(1), Ok(7)), (v6, Err(true))]).leaf(), Ok(leaf), "no IPv6 here");
    assert_eq!(probe_of(&[(v4(1), Ok(7)), (v6, Err(false))]).leaf(), Ok(leaf), "it listens on IPv4 only");
    for (outcomes, expected) in [
        (vec![], "cannot be resolved"),
        (vec![(v4(1), Ok(7)), (v4(2), Err(false))], "refused"),
        (vec![(v4(1), Ok(7)), (v4(2), Err(true))], "cannot be reached"),
        (vec![(v4(1), Err(true)), (v6, Err(true))], "cannot be reached"),
        (vec![(v4(1), Ok(7)), (v4(2), Ok(8))], "192.0.2.2 serves"),
    ] {
        let error = probe_of(&outcomes).leaf().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
