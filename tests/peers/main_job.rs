use std::time::Duration;

use certplan_test_support::PebbleOptions;
use certplan_test_support::PebbleVersion;

use super::story::DnsKind;
use super::story::FOREIGN;
use super::story::SHOP;
use super::story::Story;
use crate::evidence::assert_no_changes;
use crate::evidence::change;
use crate::evidence::exported_key;
use crate::evidence::key_spki;
use crate::evidence::plan_json;
use crate::evidence::wait_until;

#[test]
fn the_main_job_with_pebble_2_10_1_and_bind() {
    main_job(PebbleVersion::V2_10_1, DnsKind::Bind);
}

#[test]
fn the_main_job_with_pebble_2_10_1_and_knot() {
    main_job(PebbleVersion::V2_10_1, DnsKind::Knot);
}

#[test]
fn the_main_job_with_pebble_2_10_1_and_the_api_of_powerdns() {
    main_job(PebbleVersion::V2_10_1, DnsKind::PowerDnsApi);
}

#[test]
fn the_main_job_with_pebble_2_10_1_and_updates_of_powerdns() {
    main_job(PebbleVersion::V2_10_1, DnsKind::PowerDnsUpdate);
}

#[test]
fn the_main_job_with_pebble_2_4_0_and_bind() {
    main_job(PebbleVersion::V2_4_0, DnsKind::Bind);
}

#[test]
fn the_main_job_with_pebble_2_4_0_and_knot() {
    main_job(PebbleVersion::V2_4_0, DnsKind::Knot);
}

#[test]
fn the_main_job_with_pebble_2_4_0_and_the_api_of_powerdns() {
    main_job(PebbleVersion::V2_4_0, DnsKind::PowerDnsApi);
}

#[test]
fn the_main_job_with_pebble_2_4_0_and_updates_of_powerdns() {
    main_job(PebbleVersion::V2_4_0, DnsKind::PowerDnsUpdate);
}

/// From a configuration to what is deployed, and on to the next certificate.
fn main_job(version: PebbleVersion, kind: DnsKind) {
    let Some(story) = Story::with(kind, PebbleOptions { version, ..PebbleOptions::default() }) else {
        return;
    };
    let project = &story.project;
    story.configure(SHOP);
    let challenge = "_acme-challenge.shop.example.org";
    assert_eq!(story.dns.txt(challenge), [FOREIGN]);

    project.certplan(&["validate"]).expect(0);
    let (files, writes) = (story.files(), story.dns.writes());
    let plan = project.certplan(&["plan", "--detailed-exitcode"]).expect(2);
    assert!(
        plan.stdout.contains("certificate/shop") && plan.stdout.contains("deployment/shop/web"),
        "{plan}"
    );
    assert_eq!(story.files(), files, "a plan writes no file");
    assert_eq!(story.dns.writes(), writes, "a plan writes no record");
    assert!(!story.ca_was_used(), "a plan makes no account and no order");

    let refused = project.certplan(&["apply"]).expect(1);
    assert!(refused.stderr.contains("--auto-approve"), "{refused}");
    assert_eq!(story.files(), files, "what was not approved writes no file");
    assert_eq!(story.dns.writes(), writes);
    assert!(!story.ca_was_used(), "what was not approved makes no account and no order");

    let first = story.apply();
    assert!(story.dns.writes() > writes, "challenges were written");
    assert_eq!(story.dns.txt(challenge), [FOREIGN], "ours are gone, and the other's is there");
    assert_eq!(key_spki(&exported_key(project, "shop")), first.spki);
    assert_eq!(story.record("shop")["current"]["facts"]["fingerprint"], first.fingerprint.as_str());
    assert_no_changes(project);

    let (files, writes) = (story.files(), story.dns.writes());
    project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(story.dns.writes(), writes, "nothing is due");
    let unchanged = story.files();
    let differing: Vec<_> = files.keys().filter(|name| files.get(*name) != unchanged.get(*name)).collect();
    // The only thing that may be noted is when the CA wants to be asked again.
    assert!(
        differing.iter().all(|name| name.ends_with("certificates/shop.json")),
        "an apply with nothing to do writes: {differing:?}"
    );

    project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    let second = story.deployed("shop").unwrap();
    assert_ne!(second.fingerprint, first.fingerprint);
    assert_ne!(second.spki, first.spki, "keys rotate");
    assert_eq!(story.dns.txt(challenge), [FOREIGN]);
    assert_eq!(story.record("shop")["previous"]["facts"]["fingerprint"], first.fingerprint.as_str());
    assert_no_changes(project);
}

#[test]
fn short_lived_certificates_renew_by_themselves_when_time_passes() {
    let options = PebbleOptions { profiles: [("brief".to_owned(), 20)].into(), ..PebbleOptions::default() };
    let Some(story) = Story::with(DnsKind::Bind, options) else { return };
    story.configure(SHOP);
    let mut known = story.apply();
    for _ in 0..2 {
        wait_until("renewal", Duration::from_secs(20), || {
            story.project.certplan(&["plan", "--detailed-exitcode"]).code == Some(2)
        });
        let plan = plan_json(&story.project, &[]);
        let cause = change(&plan, "certificate/shop")["cause"].as_str().unwrap();
        assert!(["time", "ca"].contains(&cause), "{plan:#}");
        let renewed = story.apply();
        assert_ne!(renewed.fingerprint, known.fingerprint);
        known = renewed;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_the_ca_that_has_passed_renews_and_names_the_predecessor() {
    // No TSIG here: its signatures would be of another time than the server's.
    let Some(story) = Story::with(DnsKind::PowerDnsApi, PebbleOptions::default()) else { return };
    story.configure(SHOP);
    let first = story.apply();
    let leaf = story.project.read("live/shop/cert.pem");
    let window = r#"{ "suggestedWindow": { "start": "2021-01-03T00:00:00Z", "end": "2021-01-07T00:00:00Z" }, "explanationURL": "https://ca.example/incident" }"#;
    story.pebble.set_renewal_info(&leaf, window).await;
    // A window that is open right after issuing could be a loop: for an hour it waits.
    let guarded = plan_json(&story.project, &[]);
    assert_eq!(guarded["deferred"][0]["waits_for"], "loop_guard", "{guarded:#}");
    let Some(later) = story.project.certplan_at("+2h", &["plan", "--json"]) else { return };
    let plan: serde_json::Value = serde_json::from_str(&later.stdout).unwrap();
    let renewal = change(&plan, "certificate/shop");
    assert_eq!(renewal["cause"], "ca", "{plan:#}");
    assert_eq!(renewal["action_reason"], "renew_because_ari");
    assert!(renewal.to_string().contains("https://ca.example/incident"), "{renewal:#}");
    let applied = story.project.certplan_at("+2h", &["apply", "--auto-approve"]).unwrap();
    assert_eq!(applied.code, Some(0), "{applied}");
    let second = story.deployed("shop").unwrap();
    assert_ne!(second.fingerprint, first.fingerprint);
    let issuances = story.record("shop")["issuances"].clone();
    assert_eq!(
        issuances[1]["replaces"], true,
        "the order named the certificate that it replaces: {issuances:#}"
    );
    assert_no_changes(&story.project);
}

#[test]
fn a_machine_whose_clock_is_wrong_completes_what_it_orders() {
    // No TSIG here either. Pebble's certificates last for five years.
    let Some(story) = Story::with(DnsKind::PowerDnsApi, PebbleOptions::default()) else { return };
    story.configure(SHOP);
    let mut known = story.apply();
    for (offset, told) in [("-30d", "30 days behind"), ("+3000d", "3000 days ahead of")] {
        let arguments = ["renew", "shop", "--auto-approve"];
        let Some(run) = story.project.certplan_at(offset, &arguments) else { return };
        assert_eq!(run.code, Some(0), "{offset}: {run}");
        assert!(run.to_string().contains(&format!("this machine's clock is {told} that of the CA")), "{run}");
        let renewed = story.deployed("shop").unwrap();
        assert_ne!(renewed.fingerprint, known.fingerprint, "{offset}");
        known = renewed;
    }
    assert_no_changes(&story.project);
}
