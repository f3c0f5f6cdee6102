use super::*;
use crate::model::AccountRecord;
use crate::model::SecretRef;
use crate::plan::Action;
use crate::plan::Only;

#[test]
fn an_account_is_created_before_the_first_certificate_and_only_then() {
    let mut world = World::shop();
    world.prior.accounts.clear();
    assert_eq!(world.lines(), [""; 0], "nothing is to be issued");
    world.want("blog", &["blog.example.com"]);
    assert_eq!(world.lines()[0], "+ account/le config create_because_new");
    // Also when the selection names only the certificate.
    world.options.selection.addresses = vec!["certificate/blog".to_owned()];
    assert_eq!(world.lines()[0], "+ account/le config create_because_new");
}

#[test]
fn an_account_whose_creation_was_interrupted_is_resumed() {
    let mut world = World::new_shop();
    let operation = json!({ "id": "aa", "started": ISSUED, "sent": true });
    let account = world.prior.accounts.get_mut(&name("le")).unwrap();
    account.record.url = None;
    account.record.operation = Some(serde_json::from_value(operation).unwrap());
    assert_eq!(world.lines()[0], "+ account/le config resume_interrupted_operation");
    assert_eq!(world.plan().work()[&name("shop")].account, Some(name("le")));
}

fn record(world: &mut World) -> &mut AccountRecord {
    &mut world.prior.accounts.get_mut(&name("le")).unwrap().record
}

#[test]
fn other_contacts_are_told_to_the_ca() {
    let mut world = World::shop();
    world.issuer().contact = vec!["dev@example.com".to_owned(), "ops@example.com".to_owned()];
    assert_eq!(world.lines(), ["~ account/le config update_because_contact_changed"]);
    let plan = world.plan();
    assert_eq!(plan.updated_accounts(), BTreeSet::from([name("le")]));
    assert!(plan.accounts().is_empty(), "no certificate waits for it");
    let changed = &plan.changes[0].details.changed["contact"];
    assert_eq!(changed.before.as_deref(), Some("ops@example.com"));
    assert_eq!(changed.after.as_deref(), Some("dev@example.com, ops@example.com"));
    // None is a change too, and another order of the same is none.
    world.issuer().contact.clear();
    assert_eq!(world.plan().changes[0].details.changed["contact"].after, None);
    record(&mut world).contact.clear();
    assert_eq!(world.lines(), [""; 0]);
    record(&mut world).contact = vec!["a@example.com".to_owned(), "b@example.com".to_owned()];
    world.issuer().contact = vec!["b@example.com".to_owned(), "a@example.com".to_owned()];
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn an_account_key_that_is_named_later_takes_its_account_over_once() {
    let mut world = World::shop();
    let key = SecretRef::Env("ACCOUNT".to_owned());
    world.issuer().account_key = Some(key.clone());
    assert_eq!(world.lines(), ["< account/le config import_because_account_key_changed"]);
    assert_eq!(world.plan().changes[0].action, Action::Import);
    // A certificate that is issued meanwhile is issued with the account that there is.
    world.want("blog", &["blog.example.com"]);
    assert_eq!(world.plan().work()[&name("blog")].account, None);
    world.desired.certificates.remove(&name("blog"));
    record(&mut world).key_source = Some(key);
    assert_eq!(world.lines(), [""; 0]);
    world.issuer().account_key = Some(SecretRef::File("account.pem".into()));
    assert_eq!(world.lines(), ["< account/le config import_because_account_key_changed"]);
    // The key stays in state when it leaves the configuration.
    world.issuer().account_key = None;
    assert_eq!(world.lines(), [""; 0]);
}

#[test]
fn changes_of_an_account_are_selected_like_others() {
    let mut world = World::shop();
    world.issuer().contact.clear();
    for (selected, expected) in [("account/le", 1), ("account/*", 1), ("certificate/shop", 0)] {
        world.options.selection.addresses = vec![selected.to_owned()];
        let plan = world.plan();
        assert_eq!((plan.changes.len(), plan.errors.len()), (expected, 0), "{selected}");
    }
    world.options.selection.addresses.clear();
    world.options.only = Some(Only::Renewals);
    let plan = world.plan();
    assert_eq!((plan.changes.len(), plan.left_out.config), (0, 1));
}

#[test]
fn an_account_that_is_not_in_use_is_not_changed() {
    // It is created with what the configuration says, when something needs it.
    for edit in [
        |record: &mut AccountRecord| record.directory = STAGING.to_owned(),
        |record: &mut AccountRecord| record.url = None,
    ] {
        let mut world = World::shop();
        world.issuer().contact.clear();
        edit(record(&mut world));
        assert_eq!(world.lines(), [""; 0]);
    }
}
