use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::sandbox::EabKey;

use crate::project::Run;
use crate::world::World;
use crate::world::tree;

const EAB: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmFyeS0x";

/// What must not be found anywhere, with how it is called when it is.
struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    fn text(&mut self, what: &str, text: &str) {
        self.0.push((what.to_owned(), text.as_bytes().to_vec()));
    }

    /// A private key in every form that it could leave in.
    fn key(&mut self, what: &str, pem: &str) {
        let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(lines.concat()).expect("PEM");
        // The middle of the document: the private number, whatever goes around it.
        let secret = &der[36..68];
        self.0.push((format!("{what} (DER)"), secret.to_vec()));
        self.text(&format!("{what} (PEM)"), lines[1]);
        self.text(&format!("{what} (hex)"), &hex(secret));
        self.text(&format!("{what} (base64url)"), &URL_SAFE_NO_PAD.encode(secret));
        self.text(&format!("{what} (base64)"), &STANDARD.encode(secret));
    }

    fn search(&self, place: &str, bytes: &[u8]) {
        for (what, needle) in &self.0 {
            let found = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!found, "{what} is in {place}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn no_secret_is_in_any_output_file_or_request() {
    let mut world = World::with(|options| {
        options.eab_required = true;
        options.eab_keys = vec![EabKey { key_id: "kid-1".to_owned(), hmac_key: EAB.to_owned() }];
    });
    world.project.set("WORLD_EAB", EAB);
    world.project.set("CERTPLAN_LOG", "trace");
    let config = world
        .config(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")])
        .replace(
            "agree_tos: true",
            "agree_tos: true, eab: { key_id: { file: kid }, hmac_key: { env: WORLD_EAB } }",
        );
    world.project.write("kid", "kid-1\n");
    world.project.write("certplan.yaml", &config);
    let identity = world.project.read("identity.txt");
    let mut canaries = Canaries(Vec::new());
    canaries.text("the TSIG secret", &world.sandbox.tsig_keys()[0].secret);
    canaries.text("the external account's key", EAB);
    canaries.text("the age identity", identity.lines().last().expect("a line"));

    let mut runs = run_everything(&world);
    let first = fs::read_to_string(key_file(&world)).expect("it was deployed");
    canaries.key("the certificate's key", &first);
    runs.extend([
        world.project.certplan(&["renew", "shop", "--auto-approve"]),
        world.project.certplan(&["apply", "--auto-approve", "--json"]),
    ]);
    let second = fs::read_to_string(key_file(&world)).expect("it was deployed");
    assert_ne!(first, second, "keys rotate");
    canaries.key("the second certificate's key", &second);

    // A run that goes wrong, for errors are where secrets leak.
    world.faults(|faults| faults.dns.fail_updates_percent = 100);
    runs.push(world.project.certplan(&["renew", "shop", "--auto-approve"]));
    judge(&world, &canaries, &runs);
}

#[test]
fn an_account_key_that_was_brought_stays_a_secret() {
    let world = World::new();
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
    world.project.write("account.pem", &pem);
    let config = world
        .config(&[("shop", "names: [shop.example.test]")])
        .replace("agree_tos: true", "agree_tos: true, account_key: { file: account.pem }");
    world.project.write("certplan.yaml", &config);
    let mut canaries = Canaries(Vec::new());
    canaries.key("the account's key", &pem);
    let runs = run_everything(&world);
    fs::remove_file(world.project.path().join("account.pem")).expect("own file");
    judge(&world, &canaries, &runs);
}

/// Runs all that prints, and returns what it printed.
fn run_everything(world: &World) -> Vec<Run> {
    [
        &["validate"][..],
        &["plan"],
        &["plan", "--json", "--out", "saved.plan"],
        &["apply", "saved.plan"],
        &["show"],
        &["show", "--json"],
        &["show", "saved.plan"],
        &["show", "saved.plan", "--json"],
        &["state", "show", "certificate/shop"],
        &["state", "show", "--json"],
        &["state", "list", "--json"],
        &["plan", "--json", "--replace", "certificate/shop"],
    ]
    .into_iter()
    .map(|arguments| world.project.certplan(arguments).expect(0))
    .collect()
}

fn judge(world: &World, canaries: &Canaries, runs: &[Run]) {
    for (number, run) in runs.iter().enumerate() {
        canaries.search(&format!("the output of run {number}"), run.to_string().as_bytes());
    }
    let allowed = |path: &Path| {
        path.starts_with(world.project.path().join("out"))
            || path == world.project.path().join("identity.txt")
    };
    let mut searched = 0;
    for (path, bytes) in tree(world.project.path()) {
        if !allowed(&path) {
            canaries.search(&path.display().to_string(), &bytes);
            searched += 1;
        }
    }
    assert!(searched > 4, "{searched} files");
    for (path, bytes) in tree(&world.project.path().join("out")) {
        let text = String::from_utf8_lossy(&bytes);
        let keys = canaries
            .0
            .iter()
            .filter(|(what, _)| !what.starts_with("the certificate") && !what.starts_with("the second"));
        for (what, needle) in keys {
            assert!(
                !bytes.windows(needle.len()).any(|window| window == needle),
                "{what} is in {}",
                path.display()
            );
        }
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(
            name.contains("key") || name.contains("combined") || !text.contains("PRIVATE KEY"),
            "{}",
            path.display()
        );
    }
    let ledger = serde_json::to_vec(&world.sandbox.ledger().entries()).expect("JSON");
    canaries.search("the requests", &ledger);
}

fn key_file(world: &World) -> std::path::PathBuf {
    let mut keys: Vec<_> = tree(&world.project.path().join("out"))
        .into_iter()
        .filter(|(_, bytes)| String::from_utf8_lossy(bytes).contains("PRIVATE KEY"))
        .map(|(path, _)| {
            (fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time"), path)
        })
        .collect();
    keys.sort();
    keys.pop().expect("a private key was deployed").1
}
