//! Looking at many certificates when those who are asked are down.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use certplan::config;
use certplan::dns01::Alias;
use certplan::dns01::Lookup;
use certplan::dns01::LookupError;
use certplan::dns01::Path;
use certplan::model::CertificateFacts;
use certplan::model::CertificateRecord;
use certplan::model::Desired;
use certplan::model::Fact;
use certplan::model::Fqdn;
use certplan::model::Issued;
use certplan::model::KeyType;
use certplan::model::Name;
use certplan::model::Observed;
use certplan::model::SealedKey;
use certplan::refresh::Refresh;
use certplan::registry::BUILTIN;
use certplan_provider::Context;
use jiff::Timestamp;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;
use crate::fake::Reply;

const COUNT: usize = 500;

#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Lookup for Nobody {
    async fn alias(&self, _: &Fqdn, _: Path<'_>) -> Result<Alias, LookupError> {
        Ok(Alias::None)
    }
}

/// The same certificate many times, each with the parameters of its one deployment.
fn fleet(directory: &str, deploy: impl Fn(usize) -> String) -> (Desired, BTreeMap<Name, CertificateRecord>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certplan.yaml");
    let mut text = format!(
        "version: 1\nissuers:\n  ca: {{ acme: {{ directory: \"{directory}\", agree_tos: true }} }}\n\
         defaults: {{ issuer: ca }}\ncertificates:\n"
    );
    for number in 0..COUNT {
        writeln!(text, "  c{number}: {{ names: [c{number}.example.test]{} }}", deploy(number)).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let desired = match config::load(&path, &BUILTIN) {
        Ok(loaded) => loaded.desired,
        Err(error) => panic!("{error:?}"),
    };
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["c.example.test".to_owned()]).unwrap();
    parameters.use_authority_key_identifier_extension = true;
    let issuer = rcgen::Issuer::from_params(&parameters, &key);
    let leaf = parameters.signed_by(&key, &issuer).unwrap();
    let facts = CertificateFacts::from_der(leaf.der()).unwrap();
    let now = facts.not_before;
    let sealed = SealedKey {
        key_type: KeyType::EcdsaP256,
        spki: facts.fingerprint,
        recipients: Vec::new(),
        armored: String::new(),
    };
    let records = desired.certificates.values().map(|certificate| {
        let issued = Issued {
            facts: facts.clone(),
            chain_pem: leaf.pem(),
            key: sealed.clone(),
            issuer: certificate.issuer.clone(),
            directory: directory.to_owned(),
            profile: None,
            preferred_chain: None,
            issued_at: now,
            operation: "0123456789abcdef0123456789abcdef".to_owned(),
        };
        (
            certificate.name.clone(),
            CertificateRecord { current: Some(issued), ..CertificateRecord::default() },
        )
    });
    let records = records.collect();
    (desired, records)
}

async fn observe(fake: &Fake, desired: &Desired, records: &BTreeMap<Name, CertificateRecord>) -> Observed {
    let issuers = desired.issuers.keys().map(|issuer| (issuer.clone(), fake.client())).collect();
    let now: Timestamp =
        records.values().find_map(|record| Some(record.current.as_ref()?.issued_at)).unwrap();
    let context = Context::new(now, CancellationToken::new());
    let refresh = Refresh {
        desired,
        records: records.iter().collect(),
        issuers: &issuers,
        providers: &BTreeMap::new(),
        lookup: &Nobody,
        targets: &BTreeMap::new(),
        context: &context,
    };
    refresh.observe(|_| true).await
}

/// A CA that is down costs a plan one question and not one for each certificate.
#[tokio::test]
async fn many_windows_do_not_wait_for_the_same_ca() {
    // Four attempts each: of the directory once, of the windows for those that are asked before sixteen have failed.
    for (down, most) in [("/dir", 4), ("/ari", (64 + 16) * 4)] {
        let fake = Fake::start(move |call, _| call.path.starts_with(down).then_some(Reply::Close)).await;
        let (desired, records) = fleet(&format!("{}/dir", fake.base), |_| String::new());
        let start = Instant::now();
        let observed = observe(&fake, &desired, &records).await;
        assert_eq!(observed.ari.len(), COUNT);
        assert!(observed.ari.values().all(|fact| matches!(fact, Fact::Unknown(_))), "{:?}", observed.ari);
        let asked = fake.calls("").iter().filter(|call| call.path.starts_with(down)).count();
        assert!((1..=most).contains(&asked), "{down}: {asked}");
        // Nor is it waited for: a plan goes on without.
        assert!(start.elapsed() < Duration::from_secs(30), "{down}: {:?}", start.elapsed());
    }
}

/// A load balancer that is silent costs its patience once and not once for each name.
#[tokio::test(start_paused = true)]
async fn many_names_do_not_wait_for_the_same_endpoint() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = silent.local_addr().unwrap();
    let fake = Fake::start(|call, _| (call.path == "/dir").then(|| Reply::text(404, "text/plain", ""))).await;
    let (desired, records) = fleet(&format!("{}/dir", fake.base), |number| {
        let verify = format!("verify: {{ tls: \"{endpoint}\", sni: c{number}.example.test }}");
        format!(", deploy: [{{ files: {{ directory: out/{number} }}, {verify} }}]")
    });
    let start = Instant::now();
    let observed = observe(&fake, &desired, &records).await;
    assert_eq!(observed.served.len(), COUNT);
    let served = observed.served.values().flatten();
    assert!(served.clone().all(|served| matches!(served.leaf, Fact::Unknown(_))), "{:?}", observed.served);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
