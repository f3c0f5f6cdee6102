use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::plan::PlanDocument;
use crate::plan::json;

/// A plan with one of each: created, reissued, renewed, removed, repaired, deferred, refused, failed.
pub(crate) fn mixed() -> World {
    let mut world = World::empty();
    for each in ["bad", "blog", "due", "gone", "off", "serving", "shop", "slow"] {
        world.want(each, &[&format!("{each}.example.com")]);
        world.settle(each);
    }
    world.want("new", &["new.example.com", "*.new.example.com"]);
    world.want("blog", &["blog.example.com", "www.blog.example.com"]);
    world.wanted("bad").profile = Some("none".to_owned());
    world.holds("off", "edge", Fact::Present(held(fingerprint("by hand"))));
    world.desired.certificates.remove(&name("gone"));
    world.desired.certificates.remove(&name("serving"));
    world.record("serving").deployments.get_mut(&name("edge")).unwrap().verify =
        vec![endpoint("serving.example.com")];
    world.serves("serving", &[endpoint("serving.example.com")], Fact::Present(fingerprint("serving")));
    world.window("due", "2026-09-30T10:00:00Z", "2026-09-30T11:00:00Z");
    let failures = json!({
        "count": 2, "last": EARLY, "retry_after": "2026-10-01T05:00:00Z", "message": "the CA answered 503"
    });
    world.record("slow").failures = Some(serde_json::from_value(failures).unwrap());
    world.wanted("slow").profile = Some("classic".to_owned());
    world
}

#[test]
fn the_json_has_terraforms_names_and_survives_a_round_trip() {
    let plan = mixed().plan();
    let text = json::to_text(&plan);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["format_version"], "1.0");
    assert_eq!(value["timestamp"], EARLY);
    assert_eq!((&value["errored"], &value["applyable"]), (&json!(true), &json!(true)));
    let change = |address: &str| {
        let changes = value["resource_changes"].as_array().unwrap();
        changes.iter().find(|change| change["address"] == address).unwrap().clone()
    };
    let new = change("certificate/new");
    assert_eq!((&new["type"], &new["name"]), (&json!("certificate"), &json!("new")));
    assert_eq!(new["change"]["actions"], json!(["create"]));
    assert_eq!(new["change"]["before"], Value::Null);
    assert_eq!(new["change"]["after"]["names"], json!(["new.example.com", "*.new.example.com"]));
    assert_eq!(new["change"]["after_unknown"]["fingerprint"], json!(true));
    let due = change("certificate/due");
    assert_eq!(
        (&due["action_reason"], &due["cause"], &due["change"]["actions"]),
        (&json!("renew_because_ari"), &json!("ca"), &json!(["update"]))
    );
    assert_eq!(due["details"]["window_end"], "2026-09-30T11:00:00Z");
    assert_eq!(change("deployment/gone/edge")["change"]["actions"], json!(["delete"]));
    assert_eq!(value["resource_drift"][0]["action_reason"], "redeploy_because_target_differs");
    assert_eq!(value["deferred"][0]["waits_for"], "back_off");
    let severities: Vec<_> =
        value["diagnostics"].as_array().unwrap().iter().map(|each| each["severity"].clone()).collect();
    assert_eq!(severities, ["error", "error"]);

    let document: PlanDocument = serde_json::from_str(&text).unwrap();
    assert_eq!(document, PlanDocument::from(&plan));
    assert_eq!(document.to_json(), text);
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
    for cause in Cause::ALL {
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
    }
}

/// `CERTPLAN_UPDATE=1 cargo test` writes it anew.
#[test]
fn the_checked_in_schema_is_the_one_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/plan.schema.json");
    let expected = format!("{:#}\n", json::json_schema());
    if std::env::var_os("CERTPLAN_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "schema/plan.schema.json is stale: run the tests with CERTPLAN_UPDATE=1");
}

#[test]
fn no_sealed_key_and_no_chain_gets_into_a_plan() {
    const CANARY: &str = "canary-7d1f";
    let mut world = mixed();
    for prior in world.prior.certificates.values_mut() {
        if let Some(current) = &mut prior.record.current {
            current.key.armored = CANARY.to_owned();
            current.chain_pem = CANARY.to_owned();
        }
    }
    for account in world.prior.accounts.values_mut() {
        account.record.key.armored = CANARY.to_owned();
    }
    world.interrupt("new", "validating").csr = Some(CANARY.to_owned());
    for slot in world.observed.slots.values_mut() {
        slot.parameters = json!({ "password": CANARY });
    }
    let plan = world.plan();
    assert!(!json::to_text(&plan).contains(CANARY));
    assert!(!crate::plan::SavedPlan::new(&plan, &world.options, None).to_json().contains(CANARY));
}

#[test]
fn ten_thousand_certificates_with_nothing_to_do_are_planned() {
    let world = many(10_000);
    let plan = world.plan();
    assert!(plan.is_empty() && plan.errors.is_empty() && plan.warnings.is_empty());
    assert_eq!(plan.certificates, 10_000);
}

/// `cargo test --release -p certplan --lib ten_thousand -- --ignored --nocapture` prints how long it takes.
#[test]
#[ignore = "a measurement"]
fn how_long_ten_thousand_certificates_take() {
    for (what, now) in [("nothing due", EARLY), ("everything due", LATE)] {
        let mut world = many(10_000);
        world.now = time(now);
        let begin = std::time::Instant::now();
        let plan = world.plan();
        println!("ten thousand, {what}: {:?} for {} changes", begin.elapsed(), plan.changes.len());
    }
}

fn many(count: usize) -> World {
    let mut world = World::empty();
    for i in 0..count {
        let certificate = format!("c{i:05}");
        world.want(
            &certificate,
            &[&format!("{certificate}.example.com"), &format!("*.{certificate}.example.com")],
        );
        world.settle(&certificate);
        world.window(&certificate, "2026-10-29T00:00:00Z", "2026-10-30T00:00:00Z");
    }
    world
}
