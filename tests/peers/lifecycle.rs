use super::story::SHOP;
use super::story::Story;
use crate::evidence::assert_no_changes;
use crate::evidence::change;
use crate::evidence::exported_key;
use crate::evidence::key_spki;
use crate::evidence::plan_json;

#[test]
fn a_rename_keeps_the_certificate_and_its_key() {
    let Some(story) = Story::new() else { return };
    story.configure(SHOP);
    let pair = story.apply();
    let renamed = SHOP.replace("  shop:\n", "  store:\n");
    story.configure(&format!("{renamed}moved: [{{ from: certificate.shop, to: certificate.store }}]\n"));
    let plan = plan_json(&story.project, &[]);
    assert_eq!(change(&plan, "certificate/store")["previous_address"], "certificate/shop", "{plan:#}");
    story.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let moved = story.deployed("store").expect("it is deployed under its new name");
    assert_eq!(moved.fingerprint, pair.fingerprint, "no certificate was issued");
    assert!(story.deployed("shop").is_none(), "the old place is gone");
    assert_eq!(key_spki(&exported_key(&story.project, "store")), pair.spki);
    assert_no_changes(&story.project);
    // The line may stay, and may go.
    story.configure(&renamed);
    assert_no_changes(&story.project);
    story.project.certplan(&["renew", "store", "--auto-approve"]).expect(0);
    assert_no_changes(&story.project);
}

#[test]
fn a_removed_deployment_is_taken_back_or_kept_as_it_says() {
    let Some(mut story) = Story::new() else { return };
    story.targets = "web: { files: { directory: live } }, spare: { files: { directory: spare } }, kept: { files: { directory: kept } }".to_owned();
    let three = SHOP.replace(
        "[{ target: web }]",
        "[{ target: web }, { target: spare }, { target: kept, on_remove: keep }]",
    );
    story.configure(&three);
    story.apply();
    assert!(story.path("spare/shop/privkey.pem").exists() && story.path("kept/shop/privkey.pem").exists());
    story.configure(SHOP);
    let plan = plan_json(&story.project, &[]);
    assert_eq!(change(&plan, "deployment/shop/spare")["change"]["actions"][0], "delete", "{plan:#}");
    assert_eq!(change(&plan, "deployment/shop/kept")["change"]["actions"][0], "forget", "{plan:#}");
    story.apply();
    assert!(!story.path("spare/shop").exists(), "it is removed");
    assert!(story.path("kept/shop/privkey.pem").exists(), "it is kept");
    assert_no_changes(&story.project);
}

#[test]
fn a_removed_certificate_is_taken_out_of_its_targets_and_archived() {
    let Some(story) = Story::new() else { return };
    let other = "  other:\n    names: [other.example.org]\n    deploy: [{ target: web }]\n";
    story.configure(&format!("{SHOP}{other}"));
    story.apply();
    story.configure(&format!("certificates:\n{other}"));
    let plan = plan_json(&story.project, &[]);
    assert_eq!(change(&plan, "certificate/shop")["change"]["actions"][0], "delete", "{plan:#}");
    story.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(story.deployed("shop").is_none());
    assert!(story.deployed("other").is_some());
    let archived: Vec<_> = story
        .files()
        .into_keys()
        .filter(|name| name.contains("/archive/") && name.ends_with(".json"))
        .collect();
    assert_eq!(archived.len(), 1, "its record is in the archive: {archived:?}");
    assert!(story.project.read(&archived[0]).contains("AGE ENCRYPTED FILE"), "its key is not destroyed");
    assert_no_changes(&story.project);
    // It may come back.
    story.configure(&format!("{SHOP}{other}"));
    story.apply();
    assert_no_changes(&story.project);
}

#[test]
fn state_is_listed_shown_moved_and_forgotten() {
    let Some(story) = Story::new() else { return };
    let project = &story.project;
    story.configure(SHOP);
    let pair = story.apply();
    let list = project.certplan(&["state", "list"]).expect(0);
    assert_eq!(list.stdout, "account/ca\ncertificate/shop\ndeployment/shop/web\n");
    let json = project.certplan(&["state", "list", "--json"]).expect(0);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["addresses"][1], "certificate/shop");
    let shown = project.certplan(&["state", "show", "certificate/shop"]).expect(0);
    assert!(shown.stdout.contains("shop.example.org"), "{shown}");
    assert!(!shown.stdout.contains("PRIVATE KEY"));

    let unlocked = project.certplan(&["state", "unlock", "certificate/shop", "--force"]).expect(0);
    assert!(unlocked.stderr.contains("Nobody holds"), "{unlocked}");

    project.certplan(&["state", "mv", "certificate/shop", "certificate/store"]).expect(0);
    story.configure(&SHOP.replace("  shop:\n", "  store:\n"));
    project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(story.deployed("store").unwrap().fingerprint, pair.fingerprint);
    assert_eq!(key_spki(&exported_key(project, "store")), pair.spki);
    assert_no_changes(project);

    project.certplan(&["state", "rm", "deployment/store/web"]).expect(0);
    project.certplan(&["plan", "--detailed-exitcode"]).expect(2);
    project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(
        story.deployed("store").unwrap().fingerprint,
        pair.fingerprint,
        "it is deployed again, not issued"
    );
    project.certplan(&["state", "rm", "certificate/store"]).expect(0);
    assert_eq!(
        story.deployed("store").unwrap().fingerprint,
        pair.fingerprint,
        "what is forgotten stays in place"
    );
    assert_eq!(project.certplan(&["state", "list"]).expect(0).stdout, "account/ca\n");
    project.certplan(&["state", "rm", "certificate/store"]).expect(1);
}

#[test]
fn a_key_is_exported_to_a_file_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let Some(story) = Story::new() else { return };
    story.configure(SHOP);
    let pair = story.apply();
    story.project.certplan(&["key", "export", "shop", "--out", "shop.key"]).expect(0);
    assert_eq!(key_spki(&story.project.read("shop.key")), pair.spki);
    let mode = std::fs::metadata(story.path("shop.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    story.project.certplan(&["key", "export", "shop", "--out", "shop.key"]).expect(1);
}

#[test]
fn a_file_that_was_replaced_by_hand_is_drift_and_is_repaired() {
    let Some(story) = Story::new() else { return };
    story.configure(SHOP);
    let pair = story.apply();
    let key = rcgen::KeyPair::generate().unwrap();
    let foreign =
        rcgen::CertificateParams::new(["shop.example.org".to_owned()]).unwrap().self_signed(&key).unwrap();
    for (name, text) in
        [("fullchain.pem", foreign.pem()), ("cert.pem", foreign.pem()), ("privkey.pem", key.serialize_pem())]
    {
        std::fs::write(story.path("live/shop").join(name), text).unwrap();
    }
    let found = crate::evidence::sha256(foreign.der());
    let plan = plan_json(&story.project, &[]);
    let redeploy = change(&plan, "deployment/shop/web");
    assert_eq!(redeploy["cause"], "drift", "{plan:#}");
    let text = redeploy.to_string();
    assert!(
        text.contains(&found) && text.contains(&pair.fingerprint),
        "both fingerprints are named: {redeploy:#}"
    );
    assert_eq!(plan["resource_changes"].as_array().unwrap().len(), 1, "nothing is issued: {plan:#}");
    assert_eq!(story.apply().fingerprint, pair.fingerprint);
    assert_no_changes(&story.project);

    std::fs::remove_dir_all(story.path("live")).unwrap();
    let plan = plan_json(&story.project, &[]);
    assert_eq!(change(&plan, "deployment/shop/web")["cause"], "drift", "{plan:#}");
    assert_eq!(story.apply().fingerprint, pair.fingerprint);
}
