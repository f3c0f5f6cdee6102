//! Many certificates with nothing to do: `plan` and `validate` of the real program.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certplan::acme::CertificateKey;
use certplan::config;
use certplan::model::Address;
use certplan::model::AriRecord;
use certplan::model::CertificateFacts;
use certplan::model::CertificateRecord;
use certplan::model::DeploymentRecord;
use certplan::model::Desired;
use certplan::model::DesiredCertificate;
use certplan::model::Issued;
use certplan::registry::BUILTIN;
use certplan::state::Identities;
use certplan::state::LocalStore;
use certplan::state::Place;
use certplan::state::Revise;
use certplan::state::Sealer;
use certplan::state::State;
use certplan::state::Stored;
use certplan_provider::BuildContext;
use certplan_provider::Bundle;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use futures::StreamExt;
use futures::stream;
use jiff::SignedDuration;
use jiff::Timestamp;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use tokio_util::sync::CancellationToken;

use crate::bare::NoSecrets;
use crate::program::Folder;
use crate::runtime;
use crate::table::Table;
use crate::table::median;
use crate::table::seconds;

const RUNS: usize = 7;

/// Measures a fleet of 10,000 and one of 1,000.
pub(crate) fn measure(table: &mut Table) {
    let fleet = build(10_000);
    let validate = time(&fleet, &["validate"]);
    limit(table, "`validate` of 10,000 certificates", 0.5, validate);
    let plan = ["plan", "--detailed-exitcode"];
    let planned = time(&fleet, &plan);
    limit(table, "`plan` of 10,000 certificates, nothing to do", 1.0, planned);
    let peak = fleet.peak(&plan);
    table.add("its peak memory", "300 MiB", format!("{peak:.0} MiB"), peak <= 300.0);
    let fleet = build(1_000);
    let planned = time(&fleet, &plan);
    limit(table, "`plan` of 1,000 certificates, nothing to do", 0.15, planned);
}

fn limit(table: &mut Table, claim: &str, limit: f64, measured: Duration) {
    table.add(claim, &format!("{limit} s"), seconds(measured), measured.as_secs_f64() <= limit);
}

fn time(fleet: &Folder, arguments: &[&str]) -> Duration {
    let run = || {
        let run = fleet.run(arguments).expect(0);
        let nothing_to_do = arguments[0] != "plan" || run.stdout.contains("No changes");
        assert!(nothing_to_do, "{}{}", run.stdout, run.stderr);
        run.took
    };
    run();
    median((0..RUNS).map(|_| run()).collect())
}

/// A folder with a fleet that was issued an hour ago: chains of some 4 KB, sealed keys, renewal windows, and files.
fn build(count: usize) -> Folder {
    let folder = Folder::new().with("PDNS_API_KEY", "unused");
    folder.write("certplan.yaml", &configuration(count, &folder.recipient));
    let loaded = config::load(&folder.path().join("certplan.yaml"), &BUILTIN).expect("it is valid");
    runtime().block_on(populate(&loaded.desired, folder.path()));
    // What was written is on the disk before anything is measured.
    rustix::fs::sync();
    folder
}

fn configuration(count: usize, recipient: &str) -> String {
    let mut text = format!(
        "version: 1\nproject: fleet\n\n\
         encryption: {{ recipients: [{recipient}] }}\n\n\
         issuers:\n  letsencrypt: {{ acme: {{ contact: [ops@example.com], agree_tos: true }} }}\n\n\
         dns:\n  main:\n    powerdns: {{ url: \"http://127.0.0.1:8081\", api_key: {{ env: PDNS_API_KEY }} }}\n    zones: [example.com]\n\n\
         targets:\n  edge: {{ files: {{ directory: live }} }}\n\n\
         defaults: {{ issuer: letsencrypt }}\n\n\
         certificates:\n"
    );
    for number in 0..count {
        let _ = write!(
            text,
            "  service-{number:05}:\n    names: [service-{number:05}.example.com, \"*.service-{number:05}.example.com\"]\n    \
             labels: {{ team: team-{} }}\n    deploy: [{{ target: edge }}]\n",
            number % 40
        );
    }
    text
}

/// What all certificates of the fleet share while they are made.
struct Fleet<'a> {
    desired: &'a Desired,
    state: State,
    lineage: String,
    sealer: Sealer,
    target: Arc<dyn DeployTarget>,
    issuer: Issuer<'static, KeyPair>,
    issuer_der: Vec<u8>,
    issuer_pem: String,
    context: Context,
}

async fn populate(desired: &Desired, folder: &Path) {
    let now = Timestamp::now();
    let store = LocalStore::new(folder.join(".certplan/state"));
    let state = State::new(Arc::new(store), desired.project.clone(), "bench".to_owned());
    let lineage = state.initialize(now).await.expect("the folder is empty");
    let encryption = desired.encryption.as_ref().expect("it is configured");
    let sealer = Sealer::new(encryption, Identities::default()).expect("the recipient is sound");
    let (name, wanted) = desired.targets.first_key_value().expect("there is one");
    let factory = BUILTIN.target_factory(&wanted.kind).expect("it is built in");
    let build = BuildContext::new(Arc::new(NoSecrets), folder.to_owned(), "bench".to_owned());
    let target = (factory.build)(&wanted.block, &build).unwrap_or_else(|_| panic!("`{name}` is sound"));
    let (issuer, issuer_der, issuer_pem) = intermediate();
    let context = Context::new(now, CancellationToken::new());
    let fleet = Fleet { desired, state, lineage, sealer, target, issuer, issuer_der, issuer_pem, context };
    stream::iter(desired.certificates.values())
        .for_each_concurrent(32, |certificate| fleet.issue(certificate))
        .await;
}

/// An intermediate as large as those of public CAs.
fn intermediate() -> (Issuer<'static, KeyPair>, Vec<u8>, String) {
    let key = KeyPair::generate().expect("a key can be made");
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names are sound names");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "An intermediate of a fleet");
    parameters.custom_extensions.push(padding(900));
    let certificate = parameters.self_signed(&key).expect("it can be signed");
    let (der, pem) = (certificate.der().to_vec(), certificate.pem());
    (Issuer::new(parameters, key), der, pem)
}

/// An extension that makes a certificate as large as those with all the extensions that public CAs write.
fn padding(octets: usize) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 1], vec![0x5a; octets])
}

impl Fleet<'_> {
    async fn issue(&self, certificate: &DesiredCertificate) {
        let now = self.context.now;
        let key = KeyPair::generate().expect("a key can be made");
        let names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).expect("they are sound");
        parameters.use_authority_key_identifier_extension = true;
        parameters.custom_extensions.push(padding(700));
        let after = |hours| (now + SignedDuration::from_hours(hours)).as_second();
        let date = |second| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second as u64);
        parameters.not_before = date(after(-1));
        parameters.not_after = date(after(90 * 24));
        let leaf = parameters.signed_by(&key, &self.issuer).expect("it can be signed");
        let facts = CertificateFacts::from_der(leaf.der()).expect("it is a certificate");
        let chain_pem = format!("{}{}", leaf.pem(), self.issuer_pem).replace("\r\n", "\n");
        let key = CertificateKey::from_pkcs8(&key.serialize_der()).expect("it is a key");
        let place =
            Place { lineage: self.lineage.clone(), address: Address::Certificate(certificate.name.clone()) };
        let sealed = self
            .sealer
            .seal_certificate_key(&place, key.key_type(), key.spki(), &key.to_pkcs8())
            .expect("it can be sealed");
        let bundle = Bundle {
            certificate: certificate.name.to_string(),
            chain: vec![leaf.der().to_vec(), self.issuer_der.clone()],
            chain_pem: chain_pem.clone(),
            key: key.to_private_key(),
            key_type: key.key_type(),
            fingerprint: facts.fingerprint,
        };
        let mut record = CertificateRecord::default();
        for wanted in &certificate.deploy {
            let slot = self
                .target
                .slot(certificate.name.as_str(), &wanted.parameters)
                .unwrap_or_else(|_| panic!("the deployment is sound"));
            let receipt =
                self.target.deploy(&self.context, &slot, &bundle, None).await.expect("it can be written");
            self.target.commit(&self.context, &slot, &receipt).await.expect("it is in place");
            let deployed = DeploymentRecord {
                kind: self.desired.targets[&wanted.target].kind.clone(),
                slot,
                fingerprint: facts.fingerprint,
                deployed_at: now,
                receipt: Some(receipt),
                on_remove: wanted.on_remove,
                verify: wanted.verify.clone(),
            };
            record.deployments.insert(wanted.target.clone(), Box::new(deployed));
        }
        record.ari = Some(AriRecord {
            fingerprint: facts.fingerprint,
            window: Some((
                now + SignedDuration::from_hours(58 * 24),
                now + SignedDuration::from_hours(60 * 24),
            )),
            explanation_url: None,
            fetched: now,
            next_check: now + SignedDuration::from_hours(20),
        });
        let issuer = self.desired.issuers[&certificate.issuer].acme();
        record.current = Some(Issued {
            facts,
            chain_pem,
            key: sealed,
            issuer: certificate.issuer.clone(),
            directory: issuer.directory.to_string(),
            profile: None,
            preferred_chain: None,
            issued_at: now - SignedDuration::from_hours(1),
            operation: "0123456789abcdef0123456789abcdef".to_owned(),
        });
        let mut stored = Stored::new(record);
        self.state
            .save_certificate(&certificate.name, &mut stored, Revise::Bump)
            .await
            .expect("the folder is writable");
    }
}
