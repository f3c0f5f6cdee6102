use std::fs;
use std::net::TcpListener;

use certplan::model::CertificateRecord;
use certplan::model::JournaledTxt;
use certplan::model::Operation;
use certplan::model::OperationKey;
use certplan::model::Stage;
use certplan::model::TxtState;
use certplan::model::Zone;
use certplan::sandbox::RecordValue;
use certplan::sandbox::ZoneRecord;
use certplan::state::Revise;

use crate::world::World;
use crate::world::name;
use crate::world::no_panic;

/// A value as a challenge has it.
const VALUE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Writes what somebody could who can write the state and knows its format.
fn forge(world: &World, change: impl FnOnce(&mut CertificateRecord, &mut Operation)) {
    forge_for(world, "shop", change);
}

fn forge_for(world: &World, certificate: &str, change: impl FnOnce(&mut CertificateRecord, &mut Operation)) {
    let state = world.state();
    let id: String = certificate.bytes().map(|octet| format!("{octet:02x}")).collect();
    let id = format!("{id:0>32}");
    world.runtime.block_on(async {
        let mut stored =
            state.certificate(&name(certificate)).await.expect("good state").expect("it is there");
        let current = stored.content.current.clone().expect("it was issued");
        let mut operation: Operation = serde_json::from_value(serde_json::json!({
            "id": id,
            "cause": "time",
            "reason": "renew_because_window",
            "started": "2026-01-01T00:00:00Z",
            "stage": "validating",
            "names": current.facts.names,
            "issuer": "ca",
            "directory": current.directory,
        }))
        .expect("an operation");
        operation.stage = Stage::Validating;
        operation.key = Some(OperationKey::Sealed(current.key));
        change(&mut stored.content, &mut operation);
        stored.content.operation = Some(Box::new(operation));
        state.save_certificate(&name(certificate), &mut stored, Revise::Bump).await.expect("it is written");
    });
}

fn txt(zone: &str, at: &str, value: &str) -> JournaledTxt {
    JournaledTxt {
        provider: name("local"),
        zone: Zone { id: zone.to_owned(), name: zone.parse().expect("a name") },
        name: at.parse().expect("a name"),
        value: value.to_owned(),
        state: TxtState::Added("1".to_owned()),
    }
}

#[test]
fn a_forged_journal_removes_nothing_that_is_not_ours() {
    let world = World::with_shop();
    let foreign = [
        ("example.test", "v=spf1 -all"),
        ("_dmarc.example.test", "v=DMARC1; p=reject"),
        ("_acme-challenge.other.example.test", VALUE),
        ("_acme-challenge.shop.example.test", "somebody's note"),
    ];
    for (at, text) in foreign {
        world
            .sandbox
            .insert_record(&ZoneRecord::new(at, RecordValue::Txt(text.to_owned())))
            .expect("a zone of ours");
    }
    forge(&world, |_, operation| {
        operation.txt = foreign.iter().map(|(at, text)| txt("example.test", at, text)).collect();
        operation.txt.push(txt("test", "_acme-challenge.shop.example.test", VALUE));
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    let left = world.txt();
    for (at, text) in foreign {
        assert!(left.contains(&(at.to_owned(), text.to_owned())), "`{at}` lost its value: {left:?}\n{run}");
    }
    assert!(run.stderr.contains("is left alone"), "{run}");
    let removed: Vec<_> = world.updates().into_iter().flat_map(|update| update.removed).collect();
    assert!(
        removed.iter().all(|value| !foreign.contains(&(value.name.as_str(), value.value.as_str()))),
        "{removed:?}"
    );
}

#[test]
fn a_forged_order_on_another_host_is_not_asked() {
    let world = World::with_shop();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let url = format!("https://{}/order/1", listener.local_addr().expect("bound"));
    forge(&world, |_, operation| operation.order_url = Some(url.clone()));
    let orders = world.orders();
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(run.stderr.contains("not on the directory's origin"), "{run}");
    assert!(listener.accept().is_err(), "the host was contacted");
    assert_eq!(world.orders(), orders);
}

#[test]
fn a_forged_name_is_not_put_into_an_order() {
    let world = World::with_shop();
    forge(&world, |_, operation| {
        operation.stage = Stage::Intent;
        operation.names = ["bank.example.test".parse().expect("a name")].into();
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    for issued in world.sandbox.ledger().issued() {
        assert_eq!(
            issued.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["shop.example.test"],
            "{run}"
        );
    }
}

#[test]
fn a_forged_deployment_writes_nowhere_but_where_the_configuration_says() {
    let world = World::with_shop();
    let victim = world.project.write("victim/fullchain.pem", "somebody's\n");
    forge(&world, |record, operation| {
        for deployment in record.deployments.values_mut() {
            deployment.slot.location = victim.parent().expect("a folder").display().to_string();
        }
        operation.stage = Stage::Deploying;
        operation.deployments.clear();
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    assert_eq!(fs::read_to_string(&victim).expect("it is there"), "somebody's\n", "{run}");
    assert_eq!(fs::read_dir(victim.parent().expect("a folder")).expect("it is there").count(), 1, "{run}");
}

/// What moves is taken away from where it was: from where state says.
#[test]
fn a_forged_place_takes_no_other_certificate_down() {
    // The other one is the older, for a newer one stops the deployment at once.
    let (victim, world) = (World::with_shop(), World::with_shop());
    let serves = victim.project.read("out/shop/fullchain.pem");
    let folder = victim.project.path().join("out");
    let state = world.state();
    world.runtime.block_on(async {
        let mut stored = state.certificate(&name("shop")).await.expect("good state").expect("it is there");
        for deployment in stored.content.deployments.values_mut() {
            deployment.slot.location = folder.join("shop").display().to_string();
            deployment.slot.parameters["directory"] = folder.display().to_string().into();
        }
        state.save_certificate(&name("shop"), &mut stored, Revise::Bump).await.expect("it is written");
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    assert!(run.stderr.contains("holds what certplan did not deploy there"), "{run}");
    assert_eq!(victim.project.read("out/shop/fullchain.pem"), serves, "{run}");
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

/// What a stopped run deployed between two places is taken back from where the journal says.
#[test]
fn a_forged_deployment_takes_no_other_certificate_down() {
    let (victim, world) = (World::with_shop(), World::with_shop());
    let serves = victim.project.read("out/shop/fullchain.pem");
    let folder = victim.project.path().join("out");
    let version = fs::read_link(folder.join("shop")).expect("a link of certplan");
    let version = version.file_name().expect("a version").to_str().expect("a name").to_owned();
    for receipt in
        [Some(serde_json::json!({ "version": version, "replaced": "nothing", "reloaded": false })), None]
    {
        forge(&world, |record, operation| {
            let (name, deployment) = record.deployments.iter().next().expect("it is deployed");
            let mut slot = deployment.slot.clone();
            slot.location = folder.join("shop").display().to_string();
            slot.parameters["directory"] = folder.display().to_string().into();
            operation.stage = Stage::Deploying;
            operation.key = None;
            let stage = certplan::model::DeploymentStage::Deployed;
            let receipt = receipt.clone().map(certplan::model::Receipt);
            let journaled = certplan::model::JournaledDeployment { slot, stage, before: None, receipt };
            operation.deployments = [(name.clone(), journaled)].into();
        });
        let run = world.project.certplan(&["apply", "--auto-approve"]);
        no_panic(&run);
        assert_eq!(victim.project.read("out/shop/fullchain.pem"), serves, "{run}");
        let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    }
}

/// A CA may give two orders the same pending authorization, and both journals list its value then.
#[test]
fn a_value_that_two_killed_operations_share_is_removed_by_the_last() {
    let world = World::new();
    world.configure(&[
        ("shop", "names: [shop.example.test]"),
        ("more", "names: [shop.example.test, more.example.test]"),
    ]);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let at = "_acme-challenge.shop.example.test";
    let record = ZoneRecord::new(at, RecordValue::Txt(VALUE.to_owned()));
    world.sandbox.insert_record(&record).expect("a zone of ours");
    for certificate in ["shop", "more"] {
        forge_for(&world, certificate, |_, operation| {
            operation.txt = vec![txt("example.test", at, VALUE)];
        });
    }
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    no_panic(&run);
    assert_eq!(world.txt(), [], "{run}");
}
