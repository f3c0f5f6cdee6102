use std::path::Path;

use certplan_test_support::Apache;
use certplan_test_support::Haproxy;
use certplan_test_support::Nginx;
use certplan_test_support::WebServer;

use super::story::SHOP;
use super::story::Story;
use crate::evidence::assert_no_changes;
use crate::evidence::change;
use crate::evidence::plan_json;

#[test]
fn nginx_serves_what_is_deployed_or_what_it_served_before() {
    serve("", |live| Nginx::start(&live.join("shop")));
}

#[test]
fn apache_serves_what_is_deployed_or_what_it_served_before() {
    serve("", |live| Apache::start(&live.join("shop")));
}

#[test]
fn haproxy_serves_what_is_deployed_or_what_it_served_before() {
    serve("formats: [pem, combined], ", |live| Haproxy::start(&live.join("shop/combined.pem")));
}

fn yaml(command: &[String]) -> String {
    serde_json::to_string(command).unwrap()
}

fn serve<S: WebServer>(formats: &str, start: impl Fn(&Path) -> Option<S>) {
    let Some(mut story) = Story::new() else { return };
    // The server needs something to start with: the first certificate comes before it.
    story.targets = format!("web: {{ files: {{ {formats}directory: live }} }}");
    story.configure(SHOP);
    let first = story.apply();
    let Some(mut server) = start(&story.path("live")) else { return };
    server.wait_for(&first.fingerprint);

    let (test, reload) = (yaml(&server.test_command()), yaml(&server.reload_command()));
    let verify = format!("verify: {{ tls: \"127.0.0.1:{}\", sni: shop.example.org }}", server.port());
    let target = |test: &str, reload: &str| {
        format!("web: {{ files: {{ {formats}directory: live, test: {test}, reload: {reload}, {verify} }} }}")
    };
    story.targets = target(&test, &reload);
    story.configure(SHOP);
    story.project.certplan(&["apply", "--auto-approve"]).expect(0);
    story.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    let second = story.deployed("shop").unwrap();
    assert_ne!(second.fingerprint, first.fingerprint);
    // The run has seen it served; a worker on its way out may still serve the old one for a moment.
    server.wait_for(&second.fingerprint);
    assert_no_changes(&story.project);

    // A reload that fails: the old one keeps serving, and the new one is not lost.
    story.targets = target(&test, r#"["/bin/sh", "-c", "exit 7"]"#);
    story.configure(SHOP);
    let _ = story.project.certplan(&["apply", "--auto-approve"]);
    let failed =
        story.project.certplan(&["apply", "--auto-approve", "--replace", "certificate/shop"]).expect(3);
    assert!(failed.stderr.contains("deployment/shop/web"), "{failed}");
    assert_eq!(story.deployed("shop").unwrap().fingerprint, second.fingerprint, "the files are as before");
    assert_eq!(server.serving().as_deref(), Some(second.fingerprint.as_str()));
    let third = story.record("shop")["current"]["facts"]["fingerprint"].as_str().unwrap().to_owned();
    assert_ne!(third, second.fingerprint, "it was issued");

    // The next apply tries again, with the certificate that is there.
    story.targets = target(&test, &reload);
    story.configure(SHOP);
    story.project.certplan(&["plan", "--detailed-exitcode"]).expect(2);
    let deployed = story.apply();
    assert_eq!(deployed.fingerprint, third, "nothing was issued a second time");
    server.wait_for(&third);
    assert_no_changes(&story.project);

    // Removal of what still serves is refused.
    story.configure("certificates:\n  other:\n    names: [other.example.org]\n");
    let refused = story.project.certplan(&["apply", "--auto-approve"]).expect(7);
    assert!(refused.to_string().contains("--allow-remove"), "{refused}");
    assert_eq!(story.deployed("shop").unwrap().fingerprint, third);
    story.targets = format!("web: {{ files: {{ {formats}directory: live }} }}");
    story.configure("certificates:\n  other:\n    names: [other.example.org]\n");
    story.project.certplan(&["apply", "--auto-approve", "--allow-remove", "certificate/shop"]).expect(0);
    assert!(story.deployed("shop").is_none());
    assert_no_changes(&story.project);
}

#[test]
fn a_server_that_never_serves_the_new_one_is_found_out_and_rolled_back() {
    let Some(mut story) = Story::new() else { return };
    story.configure(SHOP);
    let first = story.apply();
    let Some(mut server) = Nginx::start(&story.path("live/shop")) else { return };
    server.wait_for(&first.fingerprint);
    // The reload succeeds and does nothing, as with the wrong unit's name.
    story.targets = format!(
        "web: {{ files: {{ directory: live, reload: [\"/bin/true\"], verify: {{ tls: \"127.0.0.1:{}\", sni: shop.example.org }} }} }}",
        server.port()
    );
    story.configure(SHOP);
    let failed = story.project.certplan(&["renew", "shop", "--auto-approve"]).expect(3);
    assert!(failed.stderr.contains("does not serve"), "{failed}");
    assert_eq!(server.serving().as_deref(), Some(first.fingerprint.as_str()));
    assert_eq!(story.deployed("shop").unwrap().fingerprint, first.fingerprint, "the files were brought back");
    let plan = plan_json(&story.project, &[]);
    let _ = change(&plan, "deployment/shop/web");
}
