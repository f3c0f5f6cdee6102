use std::sync::Arc;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeSettings;
use certplan_test_support::Pebble;
use certplan_test_support::PebbleOptions;
use certplan_test_support::PebbleVersion;
use certplan_test_support::ZoneFile;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use super::story::DnsKind;
use super::story::SHOP;
use super::story::Story;
use crate::evidence::assert_no_changes;
use crate::evidence::change;
use crate::evidence::plan_json;

#[test]
fn of_thirty_certificates_the_one_that_the_ca_refuses_fails_alone() {
    let options =
        PebbleOptions { blocked: vec!["site13.example.org".to_owned()], ..PebbleOptions::default() };
    let Some(story) = Story::with(DnsKind::Bind, options) else { return };
    let certificates: String = (0..30)
        .map(|n| format!("  site{n}:\n    names: [site{n}.example.org]\n    deploy: [{{ target: web }}]\n"))
        .collect();
    story.configure(&format!("certificates:\n{certificates}"));
    let writes = story.dns.writes();
    let run = story.project.certplan(&["apply", "--auto-approve", "--parallelism", "16"]).expect(3);
    assert!(run.stderr.contains("certificate/site13: error"), "{run}");
    assert_eq!(run.stderr.matches(": error:").count(), 1, "{run}");
    for number in 0..30 {
        let deployed = story.deployed(&format!("site{number}"));
        assert_eq!(deployed.is_some(), number != 13, "site{number}");
        assert!(story.dns.txt(&format!("_acme-challenge.site{number}.example.org")).is_empty());
    }
    let writes = story.dns.writes() - writes;
    assert!(writes <= 12, "values are gathered into few changes, not {writes}");
    // The failure is remembered, so that a schedule that runs often does not knock again at once.
    story.project.certplan(&["plan", "--detailed-exitcode"]).expect(6);
    let again = story.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(!again.stderr.contains("error"), "{again}");
}

#[test]
fn a_profile_that_the_ca_does_not_have_is_an_error_of_the_plan() {
    let options = PebbleOptions {
        profiles: [("classic".to_owned(), 7_776_000), ("brief".to_owned(), 600_000)].into(),
        ..PebbleOptions::default()
    };
    let Some(story) = Story::with(DnsKind::Bind, options) else { return };
    story.configure(&SHOP.replace("  shop:\n", "  shop:\n    profile: breif\n"));
    let plan = story.project.certplan(&["plan"]).expect(1);
    for profile in ["breif", "brief", "classic"] {
        assert!(plan.to_string().contains(profile), "{plan}");
    }
    assert!(!story.ca_was_used());
    story.configure(&SHOP.replace("  shop:\n", "  shop:\n    profile: brief\n"));
    let pair = story.apply();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pair.chain.as_bytes()).unwrap();
    let validity = pem.parse_x509().unwrap().validity().clone();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!((599_000..601_000).contains(&seconds), "{seconds}");
    assert_no_changes(&story.project);
}

#[test]
fn keys_of_every_type_are_issued_and_a_change_of_type_is_a_change() {
    for version in PebbleVersion::ALL {
        let Some(story) = Story::with(DnsKind::Bind, PebbleOptions { version, ..PebbleOptions::default() })
        else {
            return;
        };
        let mut types = vec!["ecdsa-p256", "ecdsa-p384", "rsa-2048"];
        if version == PebbleVersion::V2_4_0 {
            types.push("ed25519");
        }
        let mut seen = Vec::new();
        for key_type in types {
            story.configure(
                &SHOP.replace("  shop:\n", &format!("  shop:\n    key: {{ type: {key_type} }}\n")),
            );
            if !seen.is_empty() {
                let plan = plan_json(&story.project, &[]);
                let reissue = change(&plan, "certificate/shop");
                assert_eq!(reissue["action_reason"], "reissue_because_key_type_changed", "{plan:#}");
            }
            let pair = story.apply();
            assert_eq!(story.record("shop")["current"]["facts"]["key_type"], key_type);
            assert_no_changes(&story.project);
            assert!(!seen.contains(&pair.spki));
            seen.push(pair.spki);
        }
    }
}

#[test]
fn an_account_is_bound_to_an_external_one() {
    let secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let options = PebbleOptions {
        external_accounts: [("kid-7".to_owned(), secret.to_owned())].into(),
        ..PebbleOptions::default()
    };
    let Some(mut story) = Story::with(DnsKind::Bind, options) else { return };
    story.configure(SHOP);
    let run = story.project.certplan(&["apply", "--auto-approve"]).expect(1);
    assert!(run.to_string().contains("eab:"), "it says what to do: {run}");
    assert!(!story.ca_was_used(), "no account is tried without");
    story.issuer =
        "contact: [ops@example.org, sec@example.org], eab: { key_id: { env: KID }, hmac_key: { file: hmac.txt } }".to_owned();
    story.project.set("KID", "kid-7");
    story.project.write("hmac.txt", &format!("{secret}\n"));
    story.configure(SHOP);
    story.apply();
    for (path, bytes) in story.files() {
        if path != "hmac.txt" {
            assert!(!String::from_utf8_lossy(&bytes).contains(secret), "the secret is in {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_chain_is_chosen_among_those_of_the_ca() {
    let options = PebbleOptions { alternate_roots: 2, ..PebbleOptions::default() };
    let Some(mut story) = Story::with(DnsKind::Bind, options) else { return };
    story.configure(SHOP);
    let default = issuer_of_last(&story.apply().chain);
    let mut roots = Vec::new();
    for number in 0..3 {
        roots.push(common_name(&story.pebble.root(number).await));
    }
    assert!(default.contains(&roots[0]), "{default} is signed by {}", roots[0]);
    story.defaults = format!("issuer: ca, preferred_chain: \"{}\"", roots[2]);
    story.configure(SHOP);
    let plan = plan_json(&story.project, &[]);
    assert_eq!(
        change(&plan, "certificate/shop")["action_reason"],
        "reissue_because_preferred_chain_changed",
        "{plan:#}"
    );
    let chosen = issuer_of_last(&story.apply().chain);
    assert!(chosen.contains(&roots[2]), "{chosen} is signed by {}", roots[2]);
    assert_no_changes(&story.project);
}

fn common_name(pem: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

fn issuer_of_last(chain: &str) -> String {
    let last = CertificateDer::pem_slice_iter(chain.as_bytes()).last().unwrap().unwrap();
    X509Certificate::from_der(&last).unwrap().1.issuer().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_another_client_is_taken_over_with_its_key() {
    let Some(mut story) = Story::new() else { return };
    let client = client_of(&story);
    let contact = ["ops@example.org".to_owned()];
    for (number, pem) in [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem(),
        rsa_pem(),
    ]
    .into_iter()
    .enumerate()
    {
        let key = AccountKey::from_text(&pem).unwrap();
        let url = client.create_account(&key, &contact, None).await.unwrap();
        let file = format!("account-{number}.pem");
        story.project.write(&file, &pem);
        story.issuer = format!("account_key: {{ file: {file} }}");
        story.configure(SHOP);
        let _ = std::fs::remove_dir_all(story.project.path().join(".certplan/state"));
        story.apply();
        assert_eq!(account(&story)["content"]["url"], url.as_str(), "the account is the one that was there");
        assert_no_changes(&story.project);
    }
}

fn client_of(story: &Story) -> Arc<AcmeClient> {
    let mut settings = AcmeSettings::new(story.pebble.directory_url());
    settings.ca_bundle = Some(story.pebble.ca_bundle().as_bytes().to_vec());
    AcmeClient::new(settings).unwrap()
}

fn account(story: &Story) -> serde_json::Value {
    serde_json::from_str(&story.project.read(".certplan/state/accounts/ca.json")).unwrap()
}

fn rsa_pem() -> String {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap().serialize_pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_changes_about_an_account_is_planned_and_applied() {
    for version in PebbleVersion::ALL {
        let options = PebbleOptions { version, ..PebbleOptions::default() };
        let Some(mut story) = Story::with(DnsKind::Bind, options) else { return };
        let client = client_of(&story);
        story.issuer = "contact: [ops@example.org]".to_owned();
        story.configure(SHOP);
        story.apply();
        let first = account(&story)["content"]["url"].clone();

        story.issuer = "contact: [dev@example.org, ops@example.org]".to_owned();
        story.configure(SHOP);
        let plan = plan_json(&story.project, &[]);
        assert_eq!(change(&plan, "account/ca")["action_reason"], "update_because_contact_changed");
        let applied = story.project.certplan(&["apply", "--auto-approve"]).expect(0);
        assert!(applied.stderr.contains("1 account was changed"), "{applied}");
        assert_no_changes(&story.project);

        // An RSA key, as certbot and cert-manager make them, of an account without contacts.
        let pem = rsa_pem();
        story.project.write("account.pem", &pem);
        story.issuer = "contact: [dev@example.org], account_key: { file: account.pem }".to_owned();
        story.configure(SHOP);
        let refused = story.project.certplan(&["apply", "--auto-approve"]).expect(3);
        assert!(refused.stderr.contains("the CA has no account of the key"), "{refused}");
        assert_eq!(account(&story)["content"]["url"], first, "the account in use stays");
        let url = client.create_account(&AccountKey::from_text(&pem).unwrap(), &[], None).await.unwrap();
        let plan = plan_json(&story.project, &[]);
        assert_eq!(change(&plan, "account/ca")["action_reason"], "import_because_account_key_changed");
        story.project.certplan(&["apply", "--auto-approve"]).expect(0);
        let taken = account(&story);
        assert_eq!(taken["content"]["url"], url.as_str());
        assert_eq!(taken["content"]["retired"][0]["url"], first);
        assert_eq!(taken["content"]["contact"], serde_json::json!(["dev@example.org"]));
        assert_no_changes(&story.project);
        // Orders are made with it, and without the file.
        std::fs::remove_file(story.project.path().join("account.pem")).unwrap();
        story.project.certplan(&["renew", "certificate/shop", "--auto-approve"]).expect(0);
        assert_no_changes(&story.project);
    }
}

#[test]
fn a_challenge_that_is_delegated_by_a_cname_is_written_where_it_leads() {
    // PowerDNS follows a CNAME into its other zones, so that the CA sees the value as through a resolver.
    let zones = [
        ZoneFile::new("example.org")
            .with("_acme-challenge.shop 60 IN CNAME shop.validation.example.net.")
            .read_only(),
        ZoneFile::new("validation.example.net"),
    ];
    let Some(mut story) = Story::with_zones(DnsKind::PowerDnsUpdate, PebbleOptions::default(), &zones) else {
        return;
    };
    story.zones = "zones: [example.org, validation.example.net]".to_owned();
    story.configure(SHOP);
    let plan = story.project.certplan(&["plan", "--detailed-exitcode"]).expect(2);
    assert!(
        plan.stdout.contains("shop.validation.example.net"),
        "the plan shows where the challenge goes: {plan}"
    );
    let writes = story.dns.writes();
    story.apply();
    assert!(story.dns.writes() > writes);
    assert!(story.dns.txt("shop.validation.example.net").is_empty());
    assert_no_changes(&story.project);
}

#[test]
fn a_fleet_moves_from_staging_to_production() {
    let Some(mut story) = Story::new() else { return };
    let dns_server = Some(format!("127.0.0.1:{}", story.dns.port()));
    let Some(production) = Pebble::start(&PebbleOptions { dns_server, ..PebbleOptions::default() }) else {
        return;
    };
    story.configure(SHOP);
    let staged = story.apply();
    story.project.write("production.pem", production.ca_bundle());
    story.issuers = format!(
        "  production:\n    acme: {{ directory: \"{}\", ca_bundle: production.pem, agree_tos: true }}\n",
        production.directory_url()
    );
    story.defaults = "issuer: production".to_owned();
    story.configure(SHOP);
    let plan = plan_json(&story.project, &[]);
    let reissue = change(&plan, "certificate/shop");
    assert_eq!(reissue["action_reason"], "reissue_because_issuer_changed", "{plan:#}");
    assert_eq!(reissue["cause"], "config");
    assert_eq!(change(&plan, "account/production")["change"]["actions"][0], "create");
    let moved = story.apply();
    assert_ne!(issuer_of_last(&staged.chain), issuer_of_last(&moved.chain));
    assert_no_changes(&story.project);
    // The account at the first CA is kept: one may go back.
    assert!(story.path(".certplan/state/accounts/ca.json").exists());
}

#[test]
fn a_name_without_a_zone_is_told_by_the_plan_and_stops_no_other() {
    let Some(story) = Story::new() else { return };
    let stray = "  stray:\n    names: [stray.example.com]\n    deploy: [{ target: web }]\n";
    story.configure(&format!("{SHOP}{stray}"));
    let plan = story.project.certplan(&["plan", "--detailed-exitcode"]);
    assert!(plan.to_string().contains("stray.example.com"), "{plan}");
    let run = story.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert!(run.to_string().contains("stray"), "{run}");
    assert!(story.deployed("shop").is_some(), "the other is done: {run}");
    assert!(story.deployed("stray").is_none());
}

#[test]
fn a_validation_that_takes_seconds_is_waited_for() {
    let options = PebbleOptions { validation_sleep: 5, retry_after: 1, ..PebbleOptions::default() };
    let Some(story) = Story::with(DnsKind::Bind, options) else { return };
    story.configure(SHOP);
    story.apply();
    assert_no_changes(&story.project);
}
