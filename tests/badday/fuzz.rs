use std::fs;

use certplan::config;
use certplan::plan::SavedPlan;
use certplan::registry::BUILTIN;
use proptest::prelude::*;

const CONFIG: &str = "version: 1\nproject: demo\nencryption:\n  recipients: [age1mhpdqvexvhs595fwezz07gwrjvhtvngx5g5zpyuckruewg3f5ujscy7cav]\n\
issuers:\n  ca: { acme: { directory: \"https://127.0.0.1:1/directory\", agree_tos: true } }\n\
dns:\n  local: { rfc2136: { server: \"127.0.0.1:1\", tsig: { name: key, secret: { env: SECRET } } } }\n\
certificates:\n  shop:\n    issuer: ca\n    names: [shop.example.test, \"*.shop.example.test\"]\n    deploy: [{ files: { directory: out } }]\n";

fn load(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("certplan.yaml");
    fs::write(&path, bytes).expect("own folder");
    if let Err(error) = config::load(&path, &BUILTIN)
        && let Some(diagnostics) = error.diagnostics()
    {
        let text = diagnostics.render(false);
        assert!(!text.is_empty());
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = config::format(text);
        let _ = config::promote(text, "ca");
    }
}

#[test]
fn the_example_that_is_damaged_below_is_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("certplan.yaml");
    fs::write(&path, CONFIG).expect("own folder");
    config::load(&path, &BUILTIN).expect("it is valid");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_as_a_configuration_end_in_words(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        load(&bytes);
    }

    #[test]
    fn any_yaml_like_text_as_a_configuration_ends_in_words(text in "[\\[\\]{}:,&*!|>'\"#%@` \\n\\ta-e0-9.-]{0,200}") {
        load(text.as_bytes());
    }

    #[test]
    fn a_damaged_configuration_ends_in_words(at in 0..CONFIG.len(), length in 0..40_usize, with in proptest::collection::vec(any::<u8>(), 0..12)) {
        let mut bytes = CONFIG.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, with);
        load(&bytes);
    }

    #[test]
    fn any_octets_as_a_saved_plan_end_in_words(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SavedPlan::from_json(&bytes).is_err());
    }

    #[test]
    fn any_json_as_a_saved_plan_ends_in_words(text in "\\{(\"(format|version|plan|asked|expires)\":(1|null|\"certplan-plan\"|\\[\\]|\\{\\}|-1e99),?){0,5}\\}") {
        prop_assert!(SavedPlan::from_json(text.as_bytes()).is_err());
    }
}
