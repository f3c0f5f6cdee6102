//! A project beside a sandbox: what a run did is judged by the sandbox's own ledger.

pub mod inside;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use certplan::model::Name;
use certplan::sandbox::DnsUpdate;
use certplan::sandbox::Event;
use certplan::sandbox::Faults;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::SandboxOptions;
use certplan::sandbox::ZoneOptions;
use certplan::state::LocalStore;
use certplan::state::State;
use tokio::runtime::Runtime;

use crate::project::Project;
use crate::project::Run;

/// The name of the variable that the TSIG secret is in.
pub const SECRET: &str = "WORLD_TSIG_SECRET";

/// A project, a sandbox, and the runtime that the sandbox runs on.
#[derive(Debug)]
pub struct World {
    pub project: Project,
    pub sandbox: Sandbox,
    pub runtime: Runtime,
}

impl World {
    /// A sandbox with the zone `example.test`, and an empty folder.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A world whose sandbox is set up otherwise.
    pub fn with(change: impl FnOnce(&mut SandboxOptions)) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let mut options = SandboxOptions::default();
        options.zones = vec![ZoneOptions::new("example.test".parse().expect("a name"))];
        change(&mut options);
        let sandbox = runtime.block_on(Sandbox::start(options)).expect("a sandbox on free ports");
        let mut project = Project::new();
        project.write("root.pem", &sandbox.ca_bundle_pem());
        let secret = sandbox.tsig_keys()[0].secret.clone();
        project.set(SECRET, &secret);
        Self { project, sandbox, runtime }
    }

    /// A world with one certificate, `shop`, that is issued and deployed.
    pub fn with_shop() -> Self {
        let world = Self::new();
        world.configure(&[(
            "shop",
            "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]",
        )]);
        let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
        world
    }

    /// Writes a configuration with these certificates.
    pub fn configure(&self, certificates: &[(&str, &str)]) {
        self.project.write("certplan.yaml", &self.config(certificates));
    }

    /// A configuration with these certificates.
    pub fn config(&self, certificates: &[(&str, &str)]) -> String {
        let mut text = self.head();
        text.push_str("certificates:\n");
        for (name, block) in certificates {
            text.push_str(&format!("  {name}:\n    {block}\n"));
        }
        text
    }

    /// A configuration up to its certificates.
    pub fn head(&self) -> String {
        let key = &self.sandbox.tsig_keys()[0];
        format!(
            "version: 1\n\
             encryption:\n  recipients: [{recipient}]\n\
             issuers:\n  ca:\n    acme: {{ directory: \"{directory}\", ca_bundle: root.pem, agree_tos: true }}\n\
             dns:\n  local:\n    rfc2136:\n      server: {dns}\n      \
             tsig: {{ name: {name}, algorithm: {algorithm}, secret: {{ env: {SECRET} }} }}\n    \
             propagation: {{ resolvers: [\"{dns}\"] }}\n\
             defaults: {{ issuer: ca }}\n",
            recipient = self.project.recipient(),
            directory = self.sandbox.directory_url(),
            dns = self.sandbox.dns_address(),
            name = key.name,
            algorithm = key.algorithm,
        )
    }

    /// Changes how the servers misbehave.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.sandbox.faults();
        change(&mut faults);
        self.sandbox.set_faults(faults);
    }

    /// How many orders the CA created.
    pub fn orders(&self) -> usize {
        self.count(|event| matches!(event, Event::OrderCreated { .. }))
    }

    /// How many accounts the CA created.
    pub fn accounts(&self) -> usize {
        self.count(|event| matches!(event, Event::AccountCreated { .. }))
    }

    /// How many certificates the CA issued.
    pub fn issued(&self) -> usize {
        self.sandbox.ledger().issued().len()
    }

    /// The DNS updates that changed something.
    pub fn updates(&self) -> Vec<DnsUpdate> {
        let changing = |event| match event {
            Event::DnsUpdate(update) if !(update.added.is_empty() && update.removed.is_empty()) => {
                Some(update)
            }
            _ => None,
        };
        self.sandbox.ledger().entries().into_iter().filter_map(|entry| changing(entry.event)).collect()
    }

    /// What changed something outside so far: accounts, orders, and DNS updates.
    pub fn effects(&self) -> [usize; 3] {
        [self.accounts(), self.orders(), self.updates().len()]
    }

    /// The TXT values in the zones.
    pub fn txt(&self) -> Vec<(String, String)> {
        let texts = self.sandbox.records().into_iter().filter_map(|record| match record.value {
            RecordValue::Txt(text) => Some((record.name, text)),
            _ => None,
        });
        texts.collect()
    }

    /// The plan as JSON, with its exit code.
    #[track_caller]
    pub fn plan(&self, arguments: &[&str], code: i32) -> serde_json::Value {
        let mut all = vec!["plan", "--json"];
        all.extend(arguments);
        let run = self.project.certplan(&all).expect(code);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
    }

    /// The project's state, as certplan's own types read and write it.
    pub fn state(&self) -> State {
        let store = LocalStore::new(self.state_folder());
        State::new(std::sync::Arc::new(store), name("default"), "forger".to_owned())
    }

    /// Where state is.
    pub fn state_folder(&self) -> PathBuf {
        self.project.path().join(".certplan/state")
    }

    /// The path of a certificate's object.
    pub fn object(&self, certificate: &str) -> PathBuf {
        self.state_folder().join(format!("projects/default/certificates/{certificate}.json"))
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.sandbox.ledger().entries().iter().filter(|entry| wanted(&entry.event)).count()
    }
}

/// A name of the configuration.
pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Every file below a folder with its content, without lock files.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    collect(folder, &mut files);
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let kind = path.symlink_metadata().expect("it is there").file_type();
        if kind.is_dir() {
            collect(&path, files);
        } else if kind.is_file() {
            files.insert(path.clone(), fs::read(&path).expect("it is readable"));
        }
    }
}

/// Compares a run with an inline snapshot, without what differs from run to run.
pub fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    for (pattern, replacement) in [
        (r"[^\s`'\x22]*/certplan-test-[A-Za-z0-9]+", "[folder]"),
        (r"127\.0\.0\.1:\d+", "[address]"),
        (r"age1[0-9a-z]{58}", "[recipient]"),
        (r"[0-9a-f]{64}", "[sha256]"),
        (r"[0-9a-f]{32,40}", "[id]"),
        (r"E1 [0-9a-f]{6}", "E1 [tag]"),
        (r"\b[0-9a-f]{12}\b", "[short]"),
        (r"\b\d+ (days|minutes|hours) (left|\()", "[some] $1 $2"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z| UTC)?", "[time]"),
        (r"\d+\.\d+\.\d+ \(certplan\)", "[version]"),
        (r"/(order|account|authorization|authz|challenge)s?/[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", "/$1/[id]"),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings
}

/// Compares what a run printed, and its exit code, with an inline snapshot.
macro_rules! check {
    ($run:expr, @$snapshot:literal) => {{
        let run: $crate::project::Run = $run;
        $crate::world::settings().bind(|| insta::assert_snapshot!(run.to_string(), @$snapshot));
    }};
}
pub(crate) use check;

/// Whether a run ended in a panic, which none may.
#[track_caller]
pub fn no_panic(run: &Run) {
    assert!(!run.stderr.contains("panicked"), "{run}");
    assert!(run.code.is_some() && run.code != Some(101), "{run}");
}
