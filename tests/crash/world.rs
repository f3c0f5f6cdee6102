use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use certplan::sandbox::Event;
use certplan::sandbox::IssuedCertificate;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::SandboxOptions;
use certplan::sandbox::ZoneOptions;
use certplan::sandbox::ZoneRecord;
use certplan::state::generate_identity;
use secrecy::ExposeSecret;

use crate::evidence;
use crate::evidence::Pair;
use crate::project::Project;

/// A sandbox with a project that issues from it. The zone holds a value of somebody else at the challenge's name.
pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) project: Project,
    /// The identity of `keys:`, where custody is hardened.
    pub(super) keys_identity: Option<PathBuf>,
    custody: String,
    issuer: String,
    certificates: String,
}

/// The names of the one certificate that most stories are about.
pub(super) const SHOP: &str =
    "  shop:\n    names: [shop.example.test, \"*.shop.example.test\"]\n    deploy: [{ target: web }]\n";

impl World {
    pub(super) async fn new() -> Self {
        Self::with(SandboxOptions::default()).await
    }

    pub(super) async fn with(mut options: SandboxOptions) -> Self {
        // What is written is asked for: no chance decides how many steps a run has.
        options.authorization_reuse_percent = 0;
        if options.zones.is_empty() {
            options.zones = vec![ZoneOptions::new("example.test".parse().unwrap())];
        }
        let sandbox = Sandbox::start(options).await.unwrap();
        for foreign in foreign() {
            sandbox.insert_record(&foreign).unwrap();
        }
        let mut project = Project::new();
        project.set("TSIG_SECRET", &sandbox.tsig_keys()[0].secret.clone());
        project.write("root.pem", &sandbox.ca_bundle_pem());
        let custody = format!("recipients: [{}]", project.recipient());
        let world = Self {
            sandbox,
            project,
            keys_identity: None,
            custody,
            issuer: "contact: [ops@example.test]".to_owned(),
            certificates: SHOP.to_owned(),
        };
        world.configure();
        world
    }

    /// Seals certificate keys to another identity than the run's.
    pub(super) fn harden(mut self) -> Self {
        let keys = generate_identity();
        self.keys_identity = Some(self.project.write("offline/keys.txt", keys.text.expose_secret()));
        self.custody = format!("recipients: [{}], keys: [{}]", self.project.recipient(), keys.recipient);
        self.configure();
        self
    }

    /// Adds keys to the issuer's block.
    pub(super) fn issuer(mut self, keys: &str) -> Self {
        self.issuer = keys.to_owned();
        self.configure();
        self
    }

    /// Replaces the certificates.
    pub(super) fn certificates(mut self, certificates: &str) -> Self {
        self.certificates = certificates.to_owned();
        self.configure();
        self
    }

    fn configure(&self) {
        let key = &self.sandbox.tsig_keys()[0];
        let dns = self.sandbox.dns_address();
        self.project.write(
            "certplan.yaml",
            &format!(
                "version: 1\nproject: story\nencryption: {{ {custody} }}\n\
                 issuers:\n  sandbox:\n    acme: {{ directory: \"{directory}\", ca_bundle: root.pem, agree_tos: true, {issuer} }}\n\
                 dns:\n  local:\n    rfc2136:\n      server: {dns}\n      \
                 tsig: {{ name: {name}, algorithm: {algorithm}, secret: {{ env: TSIG_SECRET }} }}\n    \
                 propagation: {{ resolvers: [\"{dns}\"] }}\n\
                 targets:\n  web: {{ files: {{ directory: live }} }}\n\
                 defaults: {{ issuer: sandbox }}\ncertificates:\n{certificates}",
                custody = self.custody,
                directory = self.sandbox.directory_url(),
                issuer = self.issuer,
                name = key.name,
                algorithm = key.algorithm,
                certificates = self.certificates,
            ),
        );
    }

    /// What is deployed for `shop`, which has to be consistent at any time.
    #[track_caller]
    pub(super) fn deployed(&self) -> Option<Pair> {
        evidence::pair(&self.project.path().join("live/shop"))
    }

    /// Counts the events that a predicate picks.
    pub(super) fn count(&self, picks: impl Fn(&Event) -> bool) -> usize {
        self.sandbox.ledger().entries().iter().filter(|entry| picks(&entry.event)).count()
    }

    /// How many accounts and orders there are, and the certificates.
    pub(super) fn accounts(&self) -> usize {
        self.count(|event| matches!(event, Event::AccountCreated { .. }))
    }

    pub(super) fn orders(&self) -> usize {
        self.count(|event| matches!(event, Event::OrderCreated { .. }))
    }

    /// The certificates that were issued, checked to be at most one per public key.
    #[track_caller]
    pub(super) fn issued(&self) -> Vec<IssuedCertificate> {
        let issued = self.sandbox.ledger().issued();
        let mut by_key = BTreeMap::new();
        for certificate in &issued {
            *by_key.entry(certificate.spki).or_insert(0) += 1;
        }
        assert!(by_key.values().all(|count| *count == 1), "two certificates for one operation: {issued:#?}");
        issued
    }

    /// Fails unless the TXT values are those of somebody else, and only those.
    #[track_caller]
    pub(super) fn assert_only_foreign_txt(&self) {
        let mut left: Vec<_> = self
            .sandbox
            .records()
            .into_iter()
            .filter(|record| matches!(record.value, RecordValue::Txt(_)))
            .map(|record| format!("{record:?}"))
            .collect();
        let mut expected: Vec<_> = foreign().iter().map(|record| format!("{record:?}")).collect();
        left.sort();
        expected.sort();
        assert_eq!(left, expected, "no TXT value of ours is left, and those of others are as they were");
    }

    /// Runs apply until there is nothing left to do: once, if all is well, and never more than three times.
    #[track_caller]
    pub(super) fn finish(&self) {
        for _ in 0..3 {
            let run = self.project.certplan(&["apply", "--auto-approve"]);
            if run.code == Some(0) && self.project.certplan(&["plan", "--detailed-exitcode"]).code == Some(0)
            {
                return;
            }
        }
        let run = self.project.certplan(&["apply", "--auto-approve"]);
        panic!("not done after three runs: {run}");
    }

    /// The same two minutes later, when one failure before makes nothing wait any more: as far as TSIG lets the clock be
    /// moved. `false` when that cannot be done here.
    #[track_caller]
    pub(super) fn finish_later(&self) -> bool {
        for _ in 0..3 {
            let Some(run) = self.project.certplan_at("+150s", &["apply", "--auto-approve"]) else {
                return false;
            };
            if run.code == Some(0) && self.project.certplan(&["plan", "--detailed-exitcode"]).code == Some(0)
            {
                return true;
            }
        }
        let run = self.project.certplan_at("+150s", &["apply", "--auto-approve"]).unwrap();
        panic!("not done after three runs: {run}");
    }

    /// Everything that has to hold once a story has ended well with one certificate `shop`.
    #[track_caller]
    pub(super) fn judge(&self) {
        evidence::assert_no_changes(&self.project);
        self.assert_only_foreign_txt();
        let issued = self.issued();
        let deployed = self.deployed().expect("it is deployed");
        let last = issued.last().expect("it was issued");
        assert_eq!(deployed.fingerprint, last.fingerprint.to_string(), "the last one is deployed");
        self.judge_keys(&deployed);
        let record = evidence::content(&self.project, "shop");
        assert_eq!(record["current"]["facts"]["fingerprint"], deployed.fingerprint.as_str());
        assert!(record["operation"].is_null(), "the journal is closed: {record:#}");
    }

    /// The key is recoverable, and only by whom it is meant for.
    #[track_caller]
    fn judge_keys(&self, deployed: &Pair) {
        let handoff = evidence::tree(&self.project.path().join(".certplan/state/handoff"));
        let Some(keys) = &self.keys_identity else {
            assert_eq!(evidence::key_spki(&evidence::exported_key(&self.project, "shop")), deployed.spki);
            return;
        };
        assert!(handoff.keys().all(|name| name.ends_with('/')), "hand-offs are left: {:?}", handoff.keys());
        let run = self.project.certplan(&["key", "export", "shop", "--out", "-"]);
        assert_ne!(run.code, Some(0), "the identity of the run opens the key");
        let output = self
            .project
            .command(&["key", "export", "shop", "--out", "-"])
            .env("CERTPLAN_AGE_KEY_FILE", keys)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(evidence::key_spki(&String::from_utf8_lossy(&output.stdout)), deployed.spki);
        self.assert_run_opens_no_certificate_key();
    }

    /// Tries the identity of the run on everything that is sealed in state but the account's key.
    #[track_caller]
    fn assert_run_opens_no_certificate_key(&self) {
        let text = self.project.read("identity.txt");
        let secret = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
        let identity: age::x25519::Identity = secret.parse().unwrap();
        let mut sealed = 0;
        for (path, bytes) in evidence::tree(&self.project.path().join(".certplan/state")) {
            let text = String::from_utf8_lossy(&bytes).replace("\\n", "\n");
            let mut rest = text.as_str();
            while let Some(start) = rest.find("-----BEGIN AGE ENCRYPTED FILE-----") {
                const END: &str = "-----END AGE ENCRYPTED FILE-----";
                let end = rest.find(END).expect("armour ends") + END.len();
                let armour = format!("{}\n", &rest[start..end]);
                rest = &rest[end..];
                let opened = age::decrypt(&identity, armour.as_bytes());
                if path.starts_with("accounts/") {
                    assert!(opened.is_ok(), "the run needs its account: {path}");
                } else {
                    sealed += 1;
                    assert!(opened.is_err(), "the identity of the run opens what is sealed in {path}");
                }
            }
        }
        assert!(sealed > 0, "keys are sealed somewhere");
    }
}

/// Values that are not ours: one beside our challenges, and one that looks like a challenge of another client.
fn foreign() -> [ZoneRecord; 3] {
    let txt = |name: &str, value: &str| ZoneRecord::new(name, RecordValue::Txt(value.to_owned()));
    [
        txt("_acme-challenge.shop.example.test", "somebody else's note"),
        txt("_acme-challenge.shop.example.test", "kyV0i5RFBJMwMsX0XfYrMw0m2vTzWyYpTn8oQxRk1Zs"),
        txt("example.test", "v=spf1 -all"),
    ]
}

/// Kills a process as the kernel does when memory runs out, and waits until it is gone.
pub(super) fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How long something may take that takes seconds at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
