use serde_json::json;

use super::*;
use crate::model::Fact;
use crate::model::Failures;
use crate::model::KeyType;
use crate::model::Moved;
use crate::model::SecretRef;
use crate::model::Slot;
use crate::plan::Only;
use crate::plan::Plan;
use crate::plan::SavedPlan;
use crate::plan::tests::EARLY;
use crate::plan::tests::LATE;
use crate::plan::tests::STAGING;
use crate::plan::tests::World;
use crate::plan::tests::account;
use crate::plan::tests::address;
use crate::plan::tests::endpoint;
use crate::plan::tests::fingerprint;
use crate::plan::tests::held;
use crate::plan::tests::machines::mixed;
use crate::plan::tests::name;
use crate::plan::tests::names;
use crate::plan::tests::slot;
use crate::plan::tests::time;

/// The text of the plan in a world, after an edit.
fn shown(mut world: World, edit: impl FnOnce(&mut World)) -> String {
    edit(&mut world);
    text(&world.plan(), false)
}

macro_rules! snapshots {
    ($($name:ident: $world:expr, $edit:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(shown($world, $edit));
        }
    )*};
}

snapshots! {
    no_changes: World::shop(), |_| {};
    no_changes_and_nothing_configured: World::empty(), |_| {};
    a_new_certificate_and_its_account: World::new_shop(), |world| world.prior.accounts.clear();
    an_account_taken_over_with_other_contacts: World::shop(), |world| {
        world.issuer().contact = vec!["dev@example.com".to_owned()];
        world.issuer().account_key = Some(SecretRef::Env("ACCOUNT_KEY".to_owned()));
    };
    settings_of_a_deployment_changed: World::shop(), |world| {
        world.wanted("shop").deploy[0].verify = vec![endpoint("shop.example.com")];
    };
    contacts_changed: World::shop(), |world| world.issuer().contact.clear();
    renewed_because_time_passed: World::shop(), |world| world.now = time("2026-11-01T00:00:00Z");
    renewed_because_of_the_window: World::shop(), |world| {
        world.now = time("2026-11-01T00:00:00Z");
        world.window("shop", "2026-10-30T12:00:00Z", "2026-10-31T12:00:00Z");
    };
    renewed_because_the_ca_asks: World::shop(), |world| {
        world.window("shop", "2026-09-30T10:00:00Z", "2026-09-30T11:00:00Z");
        let Some(Fact::Present(ari)) = world.observed.ari.get_mut(&name("shop")) else { panic!() };
        ari.explanation_url = Some("https://ca.example/incident\u{1b}[2J".to_owned());
    };
    renewed_because_it_expired: World::shop(), |world| world.now = time("2026-12-02T00:00:00Z");
    reissued_with_other_names_profile_and_key: World::shop(), |world| {
        let wanted = world.wanted("shop");
        wanted.names = names(&["shop.example.com", "www.example.com", "bücher.example.com"]);
        wanted.profile = Some("shortlived".to_owned());
        wanted.key.key_type = KeyType::EcdsaP384;
    };
    from_staging_to_production: World::shop(), |world| {
        world.current("shop").directory = STAGING.to_owned();
        world.prior.accounts.insert(name("le"), account(STAGING));
    };
    reissued_by_request: World::shop(), |world| world.options.replace = vec![address("certificate/shop")];
    a_delegated_challenge: World::new_shop(), |world| {
        for fact in world.observed.challenges.values_mut() {
            let Fact::Present(location) = fact else { panic!() };
            location.chain.push("shop.acme.example.net".parse().unwrap());
        }
    };
    resumed: World::new_shop(), |world| { world.interrupt("shop", "validating"); };
    resumed_deployment: World::shop(), |world| {
        world.interrupt("shop", "deploying");
        let recorded = world.record("shop").deployments.get_mut(&name("edge")).unwrap();
        recorded.fingerprint = fingerprint("previous");
    };
    cleaned_up_and_ordered_anew: World::new_shop(), |world| {
        world.interrupt("shop", "validating");
        world.wanted("shop").names = names(&["shop.example.com"]);
    };
    drift_of_a_target: World::shop(), |world| {
        world.deploy("shop", "vault");
        world.settle("shop");
        world.holds("shop", "edge", Fact::Present(held(fingerprint("by hand"))));
        world.holds("shop", "vault", Fact::Absent);
    };
    drift_of_a_mode: World::shop(), |world| {
        let mut deployed = held(fingerprint("shop"));
        deployed.deviations = vec!["mode is 0644, not 0640".to_owned(), "owner is www\u{7}".to_owned()];
        world.holds("shop", "edge", Fact::Present(deployed));
    };
    drift_of_an_endpoint: World::shop(), |world| {
        world.wanted("shop").verify = vec![endpoint("shop.example.com"), endpoint("192.0.2.7")];
        let endpoints = world.wanted("shop").verify.clone();
        world.serves("shop", &endpoints, Fact::Present(fingerprint("previous")));
    };
    drift_that_nobody_can_place: World::shop(), |world| {
        world.deploy("shop", "vault");
        world.wanted("shop").verify = vec![endpoint("shop.example.com")];
        world.settle("shop");
        world.serves("shop", &[endpoint("shop.example.com")], Fact::Present(fingerprint("previous")));
    };
    deployed_to_another_place: World::shop(), |world| {
        let moved = Slot { location: "/etc/tls/shop".to_owned(), ..slot("shop", "edge") };
        world.observed.slots.insert((name("shop"), name("edge")), moved);
        world.deploy("shop", "vault");
    };
    deployed_to_another_place_and_renewed: World::shop(), |world| {
        world.now = time(LATE);
        let moved = Slot { location: "/etc/tls/shop".to_owned(), ..slot("shop", "edge") };
        world.observed.slots.insert((name("shop"), name("edge")), moved);
    };
    reissued_because_its_key_is_sealed: World::shop(), |world| {
        world.prior.certificates.get_mut(&name("shop")).unwrap().key_readable = false;
        world.deploy("shop", "vault");
    };
    renamed: World::shop(), |world| {
        let mut wanted = world.desired.certificates.remove(&name("shop")).unwrap();
        wanted.name = name("store");
        world.desired.certificates.insert(name("store"), wanted);
        world.desired.moved = vec![Moved { from: name("shop"), to: name("store") }];
        world.observed.slots.insert((name("store"), name("edge")), slot("store", "edge"));
    };
    removed: World::shop(), |world| {
        world.want("blog", &["blog.example.com"]);
        world.settle("blog");
        world.wanted("blog").deploy.clear();
        world.record("blog").deployments.get_mut(&name("edge")).unwrap().on_remove = crate::model::OnRemove::Keep;
        world.desired.certificates.remove(&name("shop"));
    };
    deferred_after_failures: World::shop(), |world| {
        world.now = time(LATE);
        world.record("shop").failures = Some(Failures {
            count: 3,
            last: time(LATE),
            retry_after: time("2026-11-29T05:00:00Z"),
            message: "the CA answered \u{1b}]0;503".to_owned(),
        });
    };
    everything_at_once: mixed(), |_| {};
    without_a_look_at_the_world: World::shop(), |world| {
        world.observed = crate::model::Observed::default();
        world.options.refreshed = false;
    };
    only_the_configuration: fleet(47, LATE), |world| {
        world.options.only = Some(Only::Config);
        world.want("new", &["new.example.com"]);
    };
    many_at_once: fleet(22, LATE), |world| {
        for i in 0..21 {
            world.want(&format!("new{i:02}"), &[&format!("new{i:02}.example.net"), "a.example.net", "b.example.net"]);
        }
        world.wanted("c007").names = names(&["changed.example.com"]);
    };
    nothing_encrypted: World::new_shop(), |world| world.desired.encryption = None;
}

/// So many certificates, all as they should be.
fn fleet(count: usize, now: &str) -> World {
    let mut world = World::empty();
    for i in 0..count {
        let certificate = format!("c{i:03}");
        world.want(&certificate, &[&format!("{certificate}.example.com")]);
        world.settle(&certificate);
    }
    world.now = time(now);
    world
}

#[test]
fn three_hundred_changes_stay_readable() {
    let mut world = fleet(300, LATE);
    world.wanted("c150").names = names(&["changed.example.com"]);
    let shown = text(&world.plan(), false);
    assert!(shown.lines().count() < 330, "{}", shown.lines().count());
    for i in 0..300 {
        assert!(shown.contains(&format!("certificate/c{i:03}")), "{i}");
    }
    assert!(
        shown.contains("\n  # certificate/c150 will be reissued\n"),
        "what is not like the others is shown in full"
    );
}

#[test]
fn colour_only_adds() {
    let plan = mixed().plan();
    let colored = text(&plan, true);
    assert!(colored.contains("\u{1b}[32m+\u{1b}[0m"));
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, text(&plan, false));
}

#[test]
fn a_saved_plan_reads_as_it_did() {
    let world = mixed();
    let plan = world.plan();
    let saved = SavedPlan::new(&plan, &world.options, None).to_json();
    assert_eq!(document(&SavedPlan::from_json(saved.as_bytes()).unwrap().plan, false), text(&plan, false));
}

/// Puts hostile text wherever a file can have text.
#[test]
fn a_hostile_file_cannot_write_to_the_terminal() {
    const HOSTILE: &str = "\u{1b}]52;c;x\u{7}\r\n\u{202e}evil\u{200b}";
    let world = mixed();
    let good = SavedPlan::new(&world.plan(), &world.options, None).to_json();
    let mut value: serde_json::Value = serde_json::from_str(&good).unwrap();
    fn spoil(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Array(values) => values.iter_mut().for_each(spoil),
            serde_json::Value::Object(members) => {
                for (key, value) in members.iter_mut() {
                    let checked =
                        ["address", "timestamp", "not_after", "not_before", "renew_at", "now", "until"];
                    let typed = ["digest", "cause", "severity", "waits_for", "fingerprint", "found", "risks"];
                    let more = [
                        "window_start",
                        "window_end",
                        "added_names",
                        "removed_names",
                        "format",
                        "format_version",
                    ];
                    let known = checked.contains(&key.as_str()) || typed.contains(&key.as_str());
                    if !known && !more.contains(&key.as_str()) && key != "next_renewal" && key != "asked" {
                        spoil(value);
                    }
                }
            }
            serde_json::Value::String(text) => *text = HOSTILE.to_owned(),
            _ => {}
        }
    }
    spoil(&mut value);
    let change = &mut value["plan"]["resource_changes"][1];
    change["details"]["changed"] = json!({ HOSTILE: { "before": HOSTILE, "after": HOSTILE } });
    change["details"]["challenges"] = json!({ HOSTILE: HOSTILE });
    change["details"]["endpoints"] = json!([HOSTILE]);
    change["details"]["deviations"] = json!([HOSTILE]);
    for reason in crate::plan::Reason::ALL {
        value["plan"]["resource_changes"][1]["action_reason"] = json!(reason.as_str());
        value["plan"]["resource_changes"][1]["details"]["explanation_url"] = json!(HOSTILE);
        let saved = SavedPlan::from_json(value.to_string().as_bytes()).unwrap();
        let shown = document(&saved.plan, false);
        assert!(shown.contains("evil"));
        for character in ['\u{1b}', '\u{7}', '\r', '\u{202e}', '\u{200b}'] {
            assert!(!shown.contains(character), "{character:?} in {shown}");
        }
        assert!(!shown.contains("\nevil") && !shown.contains("\n\\u{202e}evil"));
    }
}

#[test]
fn a_plan_of_an_early_time_says_when_the_next_renewal_is() {
    let plan: Plan = World::shop().plan();
    assert_eq!(plan.now, time(EARLY));
    assert!(text(&plan, false).contains("in 30 days (2026-10-31 00:00 UTC)"));
}
