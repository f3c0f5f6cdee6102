//! The DNS servers start, serve what they were given, and stop.

use certplan_test_support::Bind;
use certplan_test_support::Knot;
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;

fn zones() -> Vec<ZoneFile> {
    vec![
        ZoneFile::new("example.test")
            .with(r#"_acme-challenge 60 IN TXT "foreign value" "in two""#)
            .with("_acme-challenge.alias 60 IN CNAME elsewhere"),
        ZoneFile::new("sub.example.test"),
    ]
}

#[test]
fn bind_serves_its_zones() {
    let Some(bind) = Bind::start(&zones(), &TsigKey::new("hmac-sha256")) else { return };
    assert_eq!(bind.txt("_acme-challenge.example.test"), ["foreign valuein two"]);
    assert!(bind.txt("_acme-challenge.alias.example.test").is_empty());
    assert_eq!(bind.updates(), 0);
}

#[test]
fn knot_serves_its_zones() {
    let Some(knot) = Knot::start(&zones(), &TsigKey::new("hmac-sha384")) else { return };
    assert_eq!(knot.txt("_acme-challenge.example.test"), ["foreign valuein two"]);
    assert_eq!(knot.updates(), 0);
}

#[test]
fn powerdns_serves_its_zones() {
    let Some(powerdns) = PowerDns::start(&zones(), &TsigKey::new("hmac-sha512")) else { return };
    assert_eq!(powerdns.txt("_acme-challenge.example.test"), ["foreign valuein two"]);
    assert_eq!(powerdns.patches(), 0);
    assert_eq!(powerdns.updates(), 0);
}
