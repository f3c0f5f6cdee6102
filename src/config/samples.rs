//! The samples of `tests/samples`: each is read as a file, and what is said about it is kept beside it.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;

use super::LoadError;
use super::fake::REGISTRY;
use super::fake::UNREACHABLE;
use super::load;

/// What a literal secret in a sample contains.
const CANARIES: [&str; 2] = ["hunter2", "HUNTER2"];

fn samples(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(kind);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    paths
}

/// Compares with the snapshot beside the sample.
fn compare(path: &Path, said: &str) {
    let root = path.parent().unwrap().to_string_lossy().into_owned() + "/";
    let said = said.replace(&root, "");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.parent().unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(path.file_name().unwrap());
    settings.bind(|| insta::assert_snapshot!(path.file_stem().unwrap().to_str().unwrap(), said));
}

#[test]
fn every_fault_is_reported_at_its_place_without_a_secret() {
    let samples = samples("invalid");
    assert!(samples.len() >= 40, "{} samples", samples.len());
    for path in samples {
        let error = load(&path, &REGISTRY).expect_err(&format!("{} is accepted", path.display()));
        let LoadError::Invalid { diagnostics } = &error else { panic!("{}: {error}", path.display()) };
        assert!(diagnostics.has_errors());
        let text = diagnostics.render(false);
        for said in
            [&text, &diagnostics.to_json().to_string(), &diagnostics.render(true), &format!("{error:?}")]
        {
            assert!(CANARIES.iter().all(|canary| !said.contains(canary)), "{}: {said}", path.display());
        }
        let plain = text.chars().all(|c| c == '\n' || !super::diagnostic::is_hidden(c));
        assert!(plain, "{}: a control character is printed", path.display());
        compare(&path, &text);
    }
}

#[test]
fn valid_samples_become_what_is_wanted() {
    for path in samples("valid") {
        let loaded = load(&path, &REGISTRY).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut desired = loaded.desired.clone();
        desired.base = PathBuf::from("BASE");
        let mut said = format!("{desired:#?}\n\n");
        for (address, place) in &loaded.places.addresses {
            writeln!(said, "{address} {}", loaded.sources.locate(place.span).unwrap()).unwrap();
        }
        writeln!(said, "\n{}", loaded.warnings.render(false)).unwrap();
        compare(&path, said.trim_end());
    }
}

mod behaviour {
    use std::time::Duration;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::InitOptions;
    use super::super::Loaded;
    use super::super::Source;
    use super::super::Sources;
    use super::super::init;
    use super::super::parse;
    use super::super::promote;
    use super::super::schema;
    use super::*;
    use crate::registry::BUILTIN;

    /// What takes seconds at most, without optimisation and on a machine that does other things; what is out of proportion takes
    /// many minutes.
    const PROMPT: Duration = Duration::from_secs(60);

    const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    fn read(text: &str) -> Result<Loaded, LoadError> {
        let sources = Sources::new(vec![Source::new("certplan.yaml", text)]);
        parse(sources, PathBuf::from("."), &REGISTRY)
    }

    fn minimal() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/valid/minimal.yaml");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn complaints_of_built_providers_point_at_their_places() {
        let text = minimal().replace("https://vault.example.com", UNREACHABLE)
            + "    deploy:\n      - { target: edge, mode: \"0777\" }\n      - { target: vault, path: a }\n      - files: { directory: out }\n\
               \x20 blog:\n    names: [b.example.com]\n    deploy: [{ target: edge }]\n";
        let said = read(&text).unwrap_err().diagnostics().unwrap().render(false);
        insta::assert_snapshot!(said);
    }

    #[test]
    fn what_a_hint_says_is_taken_when_it_is_written() {
        let base = |more: &str| minimal().replace("    names: [shop.example.com]\n", more);
        let names = "    names: [shop.example.com]\n";
        let at_target =
            |files: &str| base(&format!("{names}    deploy: [{{ files: {{ directory: out, {files} }} }}]\n"));
        let with_mode = |mode: &str| base(&format!("{names}    deploy: [{{ target: edge, {mode} }}]\n"));
        let reload = "systemctl reload nginx";
        for (text, hint, mended) in [
            (
                at_target(&format!("reload: {reload}")),
                "write it as a list: `reload: [systemctl, reload, nginx]`",
                at_target("reload: [systemctl, reload, nginx]"),
            ),
            (
                at_target("reload: \"kill -1 7, true *.pid\""),
                "write it as a list: `reload: [kill, \"-1\", \"7\", \"true\", \"*.pid\"]`",
                at_target("reload: [kill, \"-1\", \"7\", \"true\", \"*.pid\"]"),
            ),
            (
                at_target("reload: \"sh -c 'nginx -s reload'\""),
                "write a list: `reload: [...]`",
                at_target("reload: [sh, -c, nginx -s reload]"),
            ),
            (
                base("    names: no\n"),
                "write a list: `names: [\"shop.example.com\",\"*.shop.example.com\"]`",
                base("    names: [\"shop.example.com\",\"*.shop.example.com\"]\n"),
            ),
            (
                base("    names: a.example.com,b.example.com\n"),
                "write it as a list: `names: [a.example.com, b.example.com]`",
                base("    names: [a.example.com, b.example.com]\n"),
            ),
            (
                base("    names: \"*.example.com, b.example.org\"\n"),
                "write it as a list: `names: [\"*.example.com\", b.example.org]`",
                base("    names: [\"*.example.com\", b.example.org]\n"),
            ),
            (base(&format!("{names}    deploy: edge\n")), "write a list: `deploy: [...]`", minimal()),
            (
                base(&format!("{names}    renew: {{ before: 0.5 }}\n")),
                "for example `1/3`",
                base(&format!("{names}    renew: {{ before: 1/3 }}\n")),
            ),
            (with_mode("mode: 640"), "for example `\"0640\"`", with_mode("mode: \"0640\"")),
            (with_mode("mode: 0600"), "write it in quotes: `\"0600\"`", with_mode("mode: \"0600\"")),
            (
                base(&format!("{names}    key: {{ rotation: no }}\n")),
                "allowed: `always`, `never`",
                base(&format!("{names}    key: {{ rotation: never }}\n")),
            ),
        ] {
            let error = read(&text).unwrap_err();
            let said = error.diagnostics().unwrap();
            assert_eq!(said.len(), 1, "{said}");
            let help = &said.iter().next().unwrap().help;
            assert!(help.iter().any(|help| help == hint), "{hint}: {said}");
            assert!(read(&mended).is_ok(), "{}", read(&mended).unwrap_err());
        }
    }

    #[test]
    fn two_deployments_to_one_place_are_an_error() {
        for other in ["files: { directory: out }", "files: { directory: out, reload: [\"true\"] }"] {
            let text =
                minimal() + &format!("    deploy: [{{ files: {{ directory: out }} }}, {{ {other} }}]\n");
            let error = read(&text).unwrap_err();
            let said = error.diagnostics().unwrap();
            assert_eq!(said.iter().filter(|diagnostic| diagnostic.code == "same-place").count(), 1, "{said}");
        }
    }

    #[test]
    fn private_keys_are_not_deployed_into_state() {
        let base = std::env::current_dir().unwrap().join(".certplan/state/live");
        for (directory, errors) in [(base.to_str().unwrap(), 1), ("/var/lib/.certplan/state", 0)] {
            let text = minimal() + &format!("    deploy: [{{ files: {{ directory: {directory} }} }}]\n");
            let said = read(&text).err();
            let found = said.as_ref().map_or(0, |error| {
                error.diagnostics().unwrap().iter().filter(|found| found.code == "in-state").count()
            });
            assert_eq!(found, errors, "{directory}: {said:?}");
        }
    }

    #[test]
    fn adding_a_certificate_renames_no_target_of_another() {
        let entry = |name: &str| {
            format!(
                "  {name}:\n    names: [{name}.example.com]\n    deploy: [{{ files: {{ directory: {name} }} }}]\n"
            )
        };
        let head = minimal().split("certificates:").next().unwrap().to_owned() + "certificates:\n";
        let before = read(&(head.clone() + &entry("shop"))).unwrap();
        let after = read(&(head + &entry("blog") + &entry("shop"))).unwrap();
        let shop = crate::model::Name::new("shop").unwrap();
        assert_eq!(before.desired.certificates[&shop], after.desired.certificates[&shop]);
    }

    #[test]
    fn the_first_configuration_is_valid_and_can_be_promoted() {
        for dns in ["cloudflare", "rfc2136"] {
            for to in [None, Some("./out".to_owned())] {
                let names = vec!["shop.example.com".to_owned(), "*.shop.example.com".to_owned()];
                let mut options = InitOptions::new(names, dns, RECIPIENT);
                options.to = to;
                options.contact = Some("ops@example.com".to_owned());
                let text = init(&options, &REGISTRY);
                let loaded = read(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
                assert!(loaded.warnings.is_empty(), "{text}\n{}", loaded.warnings);
                let issuer = loaded.desired.issuers.values().next().unwrap().acme().clone();
                assert!(issuer.directory.as_str().contains("staging"));

                let production = promote(&text, "letsencrypt").unwrap();
                let issuer =
                    read(&production).unwrap().desired.issuers.values().next().unwrap().acme().clone();
                assert_eq!(issuer.directory.as_str(), "https://acme-v02.api.letsencrypt.org/directory");
                options.production = true;
                assert!(read(&init(&options, &REGISTRY)).is_ok());
                assert_eq!(super::super::format(&text).unwrap(), text);
            }
        }
        let options = InitOptions::new(vec!["*.example.com".to_owned()], "cloudflare", RECIPIENT);
        insta::assert_snapshot!(init(&options, &REGISTRY));
    }

    #[test]
    fn the_schema_that_is_checked_in_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/certplan.schema.json");
        let current = serde_json::to_string_pretty(&schema(&BUILTIN)).unwrap() + "\n";
        if std::env::var_os("CERTPLAN_UPDATE").is_some() {
            std::fs::write(&path, &current).unwrap();
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(checked_in == current, "run this test with CERTPLAN_UPDATE=1 to write {}", path.display());
    }

    #[test]
    fn every_key_of_the_schema_is_documented_and_every_map_is_closed() {
        fn walk(value: &serde_json::Value, path: &str) {
            if let Some(properties) = value.get("properties").and_then(|properties| properties.as_object()) {
                assert_eq!(
                    value.get("additionalProperties"),
                    Some(&serde_json::Value::Bool(false)),
                    "{path}"
                );
                for (key, property) in properties {
                    let reference = property.get("$ref").is_some();
                    let described = property.get("description").is_some() || property.get("anyOf").is_some();
                    assert!(reference || described, "{path}/{key} has no description");
                }
            }
            match value {
                serde_json::Value::Array(items) => items.iter().for_each(|item| walk(item, path)),
                serde_json::Value::Object(map) => {
                    map.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}")));
                }
                _ => {}
            }
        }
        walk(&schema(&REGISTRY), "");
    }

    #[test]
    fn hostile_texts_are_refused_at_once() {
        let mut bomb = "version: 1\na: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..60 {
            let inner = vec![format!("*a{}", level - 1); 9].join(", ");
            writeln!(bomb, "b{level}: &a{level} [{inner}]").unwrap();
        }
        let nested_anchors = (0..31).map(|level| format!("&a{level} [")).collect::<String>()
            + &"x, ".repeat(200_000)
            + &"]".repeat(31);
        for (what, text) in [
            ("bomb", bomb),
            ("flow", "[".repeat(1 << 20)),
            ("maps", "{a: ".repeat(1 << 20)),
            ("blocks", (0..2_000).map(|depth| " ".repeat(depth) + "a:\n").collect()),
            ("dashes", "- ".repeat(1 << 20)),
            ("documents", "---\n".repeat(100_000)),
            ("anchors", nested_anchors),
            ("large", "a".repeat(20 << 20)),
            ("keys", "a: 1\n".repeat(200_000)),
            ("quote", format!("a: \"{}", "x".repeat(8 << 20))),
        ] {
            let started = Instant::now();
            assert!(read(&text).is_err(), "{what}");
            let elapsed = started.elapsed();
            assert!(elapsed < PROMPT, "{what} took {elapsed:?}");
        }
    }

    /// Quadratic work on these takes minutes without optimisation; their size is far below the limits.
    #[test]
    fn no_shape_of_a_text_takes_time_out_of_proportion() {
        let lines = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
        let head = minimal().split("certificates:").next().unwrap().to_owned();
        let certificates = head.clone() + "certificates:\n";
        let certificate = |number: usize, more: &str| {
            format!("  c{number}: {{ names: [c{number}.example.com], issuer: corp{more} }}\n")
        };
        let first = certificates.clone() + &certificate(0, "");
        let keys = lines(50_000, &|number| format!("    key{number}: 1\n"));
        let chain = |last: usize| {
            lines(20_000, &|number| {
                let to = if number + 1 == 20_000 { last } else { number + 1 };
                format!("  - {{ from: certificate.m{number}, to: certificate.m{to} }}\n")
            })
        };
        let many =
            lines(10_000, &|number| certificate(number, &format!(", deploy: [{{ target: u{number} }}]")));
        let issuers = lines(10_000, &|number| format!("  i{number}: {{ acme: {{ agree_tos: true }} }}\n"));
        let strangers = lines(10_000, &|number| {
            format!("  c{number}: {{ names: [c{number}.example.com], issuer: u{number} }}\n")
        });
        let targets =
            lines(10_000, &|number| format!("  t{number}: {{ files: {{ directory: d{number} }} }}\n"));
        let places = lines(20_000, &|number| format!("      - files: {{ directory: d{number} }}\n"));
        let hosts = lines(20_000, &|number| format!("      - n{number}.example.com\n"));
        let seen = lines(20_000, &|number| format!("      - tls: n{number}.example.com:443\n"));
        let line = lines(20_000, &|number| format!("token{number}: hunter2-{number}, "));
        for (what, valid, text) in [
            (
                "keys of a certificate",
                false,
                format!("{certificates}  c:\n    names: [c.example.com]\n{keys}"),
            ),
            ("keys of the configuration", false, first.clone() + &keys.replace("    ", "")),
            (
                "moves in a chain",
                true,
                format!("{certificates}  m20000: {{ names: [m.example.com] }}\nmoved:\n{}", chain(20_000)),
            ),
            ("moves in a circle", false, format!("{first}moved:\n{}", chain(0))),
            (
                "targets in place",
                true,
                format!("{certificates}  c:\n    names: [c.example.com]\n    deploy:\n{places}"),
            ),
            (
                "unknown targets",
                false,
                head.replace("targets:\n", &format!("targets:\n{targets}")) + "certificates:\n" + &many,
            ),
            (
                "unknown issuers",
                false,
                head.replace("issuers:\n", &format!("issuers:\n{issuers}")) + "certificates:\n" + &strangers,
            ),
            (
                "endpoints",
                true,
                format!("{certificates}  c:\n    issuer: corp\n    names:\n{hosts}    verify:\n{seen}"),
            ),
            ("one line", false, format!("{certificates}  c: {{ {line} }}\n")),
        ] {
            let started = Instant::now();
            match read(&text) {
                Ok(loaded) => {
                    assert!(valid, "{what}");
                    let deployments =
                        loaded.desired.certificates.values().map(|wanted| wanted.deploy.len()).sum();
                    assert!([0, 20_000].contains(&deployments), "{what}: {deployments} deployments");
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(!valid, "{what}: {said}");
                    assert!(!said.contains("hunter2"), "{what}: {said}");
                    let _ = error.diagnostics().map(|diagnostics| diagnostics.to_json());
                }
            }
            let elapsed = started.elapsed();
            println!("{what}: {elapsed:?}");
            assert!(elapsed < PROMPT, "{what} took {elapsed:?}");
        }
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p certplan --lib ten_thousand -- --ignored --nocapture"]
    fn ten_thousand_certificates_are_validated_in_half_a_second() {
        let mut text = minimal().split("certificates:").next().unwrap().to_owned() + "certificates:\n";
        for number in 0..10_000 {
            write!(
                text,
                "  shop-{number}:\n    names: [shop-{number}.example.com, \"*.shop-{number}.example.com\"]\n    labels: {{ team: checkout }}\n    \
                 deploy:\n      - {{ target: edge, mode: \"0640\", owner: root }}\n      - files: {{ directory: ./out/{number} }}\n    \
                 verify:\n      - {{ tls: \"shop-{number}.example.com:443\" }}\n"
            )
            .unwrap();
        }
        let started = Instant::now();
        let loaded = read(&text).unwrap();
        let elapsed = started.elapsed();
        println!("{} octets, {} certificates: {elapsed:?}", text.len(), loaded.desired.certificates.len());
        assert!(elapsed < Duration::from_millis(500), "{elapsed:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Err(error) = read(&text) {
                let _ = (error.to_string(), error.diagnostics().map(|said| said.to_json()));
            }
        }

        #[test]
        fn no_damaged_configuration_panics_and_no_secret_gets_out(
            at in any::<prop::sample::Index>(),
            length in 0_usize..12,
            junk in "([a-z]{0,3}|[\\[\\]{}:,*&!|>'\"#%@ \t\r\n-]){0,4}",
        ) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/valid/everything.yaml");
            let mut text: Vec<char> = std::fs::read_to_string(path).unwrap().chars().collect();
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, junk.chars());
            if let Err(error) = read(&text.into_iter().collect::<String>()) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
