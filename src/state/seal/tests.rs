use age::secrecy::ExposeSecret;

use super::*;
use crate::model::Name;
use crate::model::sha256;
use crate::state::generate_identity;

/// Octets that would be seen wherever they leaked.
const CANARY: &[u8] = b"CANARY-PRIVATE-KEY-0123456789";

fn identity() -> (Identities, String) {
    let file = generate_identity();
    (Identities::from_texts([file.text.expose_secret()]).unwrap(), file.recipient)
}

fn place(address: &str) -> Place {
    Place { lineage: "lineage-1".to_owned(), address: address.parse().unwrap() }
}

fn sealer(recipients: &[&String], keys: &[&String], identities: Identities) -> Sealer {
    let texts = |texts: &[&String]| texts.iter().map(|text| (*text).clone()).collect();
    Sealer::new(&Encryption { recipients: texts(recipients), keys: texts(keys) }, identities).unwrap()
}

fn seal(sealer: &Sealer, address: &str) -> SealedKey {
    sealer.seal_certificate_key(&place(address), KeyType::EcdsaP256, sha256(b"spki"), CANARY).unwrap()
}

#[test]
fn what_was_sealed_opens_in_its_place_and_nowhere_else() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let sealed = seal(&sealer, "certificate/www");
    assert!(sealed.armored.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    assert!(sealer.can_open(&sealed));
    assert_eq!(**sealer.open(&place("certificate/www"), &sealed).unwrap(), *CANARY);

    for other in ["certificate/api", "account/www", "deployment/www/edge"] {
        let error = sealer.open(&place(other), &sealed).unwrap_err();
        assert!(matches!(error, SealError::Misplaced { what: "address", .. }), "{error}");
    }
    let elsewhere = Place { lineage: "lineage-2".to_owned(), ..place("certificate/www") };
    assert!(matches!(sealer.open(&elsewhere, &sealed), Err(SealError::Misplaced { what: "state", .. })));
    let swapped = SealedKey { spki: sha256(b"another"), ..sealed };
    let error = sealer.open(&place("certificate/www"), &swapped).unwrap_err();
    assert!(matches!(error, SealError::Misplaced { what: "public key", .. }), "{error}");
}

#[test]
fn a_wrong_identity_is_told_whom_the_key_is_for_and_what_was_tried() {
    let ((mine, my_recipient), (theirs, their_recipient)) = (identity(), identity());
    let sealed = seal(&sealer(&[&their_recipient], &[], theirs), "certificate/www");
    let wrong = sealer(&[&my_recipient], &[], mine);
    assert!(!wrong.can_open(&sealed));
    let error = wrong.open(&place("certificate/www"), &sealed).unwrap_err().to_string();
    assert!(error.contains(&their_recipient) && error.contains(&my_recipient), "{error}");
    let none = Sealer::for_opening(Identities::default());
    let error = none.open(&place("certificate/www"), &sealed).unwrap_err().to_string();
    assert!(error.contains("there is no identity"), "{error}");
}

#[test]
fn hardened_custody_keeps_certificate_keys_from_those_who_renew() {
    let ((ci, ci_recipient), (people, people_recipient)) = (identity(), identity());
    let ci = sealer(&[&ci_recipient, &people_recipient], &[&people_recipient], ci);
    let people = sealer(&[&ci_recipient, &people_recipient], &[&people_recipient], people);
    assert!(ci.hardened());
    let www = place("certificate/www");
    let sealed = seal(&ci, "certificate/www");
    assert_eq!(sealed.recipients, [people_recipient]);
    assert!(!ci.can_open(&sealed));
    assert!(matches!(ci.open(&www, &sealed), Err(SealError::NoIdentity { .. })));
    assert_eq!(**people.open(&www, &sealed).unwrap(), *CANARY);

    let handoff = ci.seal_handoff(&www, "op1", sealed.spki, CANARY).unwrap();
    assert_eq!(**ci.open_handoff(&www, "op1", sealed.spki, &handoff).unwrap(), *CANARY);
    let error = ci.open_handoff(&www, "op2", sealed.spki, &handoff).unwrap_err();
    assert!(matches!(error, SealError::Misplaced { what: "operation", .. }), "{error}");
    let account = place("account/le");
    let sealed = ci.seal_account_key(&account, KeyType::EcdsaP256, sha256(b"spki"), CANARY).unwrap();
    assert_eq!(**ci.open(&account, &sealed).unwrap(), *CANARY);
}

#[test]
fn a_handoff_is_no_sealed_key_and_the_other_way_round() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let www = place("certificate/www");
    let sealed = seal(&sealer, "certificate/www");
    let handoff = sealer.seal_handoff(&www, "op1", sealed.spki, CANARY).unwrap();
    assert!(sealer.open_handoff(&www, "op1", sealed.spki, sealed.armored.as_bytes()).is_err());
    let posing = SealedKey { armored: String::from_utf8(handoff).unwrap(), ..sealed };
    assert!(matches!(sealer.open(&www, &posing), Err(SealError::Misplaced { what: "operation", .. })));
}

#[test]
fn a_key_can_be_moved_by_whoever_can_open_it() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let sealed = seal(&sealer, "certificate/www");
    let moved = sealer.reseal(&sealed, &place("certificate/www"), &place("certificate/web")).unwrap();
    assert_eq!(**sealer.open(&place("certificate/web"), &moved).unwrap(), *CANARY);
    assert!(sealer.open(&place("certificate/www"), &moved).is_err());
}

#[test]
fn a_damaged_or_truncated_seal_never_opens() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let sealed = seal(&sealer, "certificate/www");
    let www = place("certificate/www");
    for length in 0..sealed.armored.trim_end().len() {
        let cut = SealedKey { armored: sealed.armored[..length].to_owned(), ..sealed.clone() };
        assert!(sealer.open(&www, &cut).is_err(), "{length}");
    }
    for position in 0..sealed.armored.len() {
        let mut bytes = sealed.armored.clone().into_bytes();
        bytes[position] ^= 1;
        if let Ok(armored) = String::from_utf8(bytes) {
            let opened = sealer.open(&www, &SealedKey { armored, ..sealed.clone() });
            assert!(opened.map_or(true, |key| **key == *CANARY), "octet {position}");
        }
    }
}

#[test]
fn a_sealed_text_is_bound_to_its_subject() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let text = "{\"password\": \"\\u0000 ü\"}";
    let sealed = sealer.seal_text("lineage-1", "providers/x/y.json", text).unwrap();
    assert_eq!(**sealer.open_text("lineage-1", "providers/x/y.json", &sealed).unwrap(), *text);
    assert!(sealer.open_text("lineage-1", "providers/x/z.json", &sealed).is_err());
    assert!(sealer.open_text("lineage-2", "providers/x/y.json", &sealed).is_err());
}

#[test]
fn no_secret_is_in_any_debug_display_or_error() {
    let file = generate_identity();
    let secret = file.text.expose_secret().lines().last().unwrap().to_owned();
    let identities = Identities::from_texts([file.text.expose_secret()]).unwrap();
    let sealer = sealer(&[&file.recipient], &[], identities.clone());
    let sealed = seal(&sealer, "certificate/www");
    let other =
        Sealer::for_opening(Identities::from_texts([generate_identity().text.expose_secret()]).unwrap());
    let mut texts = vec![
        format!("{file:?} {identities:?} {sealer:?} {sealed:?} {other:?}"),
        format!("{:?}", Binding { place: &place("account/le"), operation: None, spki: sealed.spki }),
    ];
    // A file that holds the secrets where they do not belong.
    let plaintext = String::from_utf8(CANARY.to_vec()).unwrap();
    let wrong = sealer.encrypt(&sealer.recipients, plaintext.as_bytes()).unwrap();
    let wrong = SealedKey { armored: wrong, ..sealed.clone() };
    let misconfigured = Encryption { recipients: vec![secret.clone()], keys: vec![] };
    let mut errors = vec![
        sealer.open(&place("certificate/www"), &wrong).unwrap_err(),
        sealer.open(&place("certificate/api"), &sealed).unwrap_err(),
        other.open(&place("certificate/www"), &sealed).unwrap_err(),
        Sealer::new(&misconfigured, identities).unwrap_err(),
        Identities::from_texts([&secret[..secret.len() - 1]]).unwrap_err(),
        Identities::from_texts([&*format!("{secret} # mine")]).unwrap_err(),
    ];
    let misconfigured = Encryption { recipients: vec![secret.to_lowercase()], keys: vec![] };
    errors.extend(Sealer::new(&misconfigured, Identities::default()).err());
    for error in errors {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        texts.push(format!("{error:?}"));
        while let Some(this) = cause {
            texts.push(this.to_string());
            cause = this.source();
        }
    }
    for text in texts {
        let upper = text.to_uppercase();
        assert!(!text.contains("CANARY-PRIVATE"), "{text}");
        assert!(!upper.contains(&secret[..30].to_uppercase()), "{text}");
    }
}

#[test]
fn what_cannot_be_sealed_to_is_said_at_once() {
    let (identities, recipient) = identity();
    let new = |recipients: &[&str], keys: &[&str]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let encryption = Encryption { recipients: texts(recipients), keys: texts(keys) };
        Sealer::new(&encryption, identities.clone()).map(drop)
    };
    assert!(matches!(new(&[], &[]), Err(SealError::NoRecipients)));
    assert!(matches!(new(&["ssh-ed25519 AAAA"], &[]), Err(SealError::Recipient { secret: false, .. })));
    assert!(matches!(new(&[&recipient], &["nonsense\u{1b}"]), Err(SealError::Recipient { .. })));
    let secret = generate_identity();
    let line = secret.text.expose_secret().lines().last().unwrap();
    assert!(matches!(new(&[line], &[]), Err(SealError::Recipient { secret: true, .. })));
    // Post-quantum recipients do not mix with others, and that is not found out while a key waits to be sealed.
    new(&[&recipient, &recipient], &[]).unwrap();
}

#[test]
fn a_plugin_is_started_only_where_that_is_allowed() {
    let plugin = plugin::Identity::default_for_plugin("certplan-test-missing").unwrap().to_string();
    let identities = Identities::from_texts([&*plugin]).unwrap();
    assert!(!identities.is_empty());
    assert_eq!(identities.recipients(), Vec::<String>::new());
    let (_, recipient) = identity();
    let sealed = seal(&sealer(&[&recipient], &[], Identities::default()), "certificate/www");
    let error = Sealer::for_opening(identities.clone()).open(&place("certificate/www"), &sealed).unwrap_err();
    assert!(error.to_string().contains("not started here"), "{error}");
    let allowed = Sealer::for_opening(identities.allow_plugins(true));
    let error = allowed.open(&place("certificate/www"), &sealed).unwrap_err();
    assert!(matches!(error, SealError::NoPlugin { .. }), "{error}");
}

#[test]
fn identities_are_found_where_the_documentation_says() {
    let home = tempfile::tempdir().unwrap();
    let (a, b, c) = (generate_identity(), generate_identity(), generate_identity());
    let folder = home.path().join(".config/certplan");
    let load = |variables: &[(&str, &str)]| {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let env = move |name: &str| {
            variables.iter().find(|(key, _)| key == name).map(|(_, value)| std::ffi::OsString::from(value))
        };
        Identities::load(&env, Some(home.path()))
    };
    assert!(load(&[]).unwrap().is_empty(), "no file is no error");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("identity.txt"), a.text.expose_secret()).unwrap();
    std::fs::write(home.path().join("b"), b.text.expose_secret()).unwrap();
    let file = home.path().join("b").display().to_string();
    assert_eq!(load(&[]).unwrap().recipients(), std::slice::from_ref(&a.recipient));
    assert_eq!(load(&[("CERTPLAN_AGE_KEY", "")]).unwrap().recipients(), [a.recipient]);
    let key = ("CERTPLAN_AGE_KEY", c.text.expose_secret());
    assert_eq!(load(&[key]).unwrap().recipients(), std::slice::from_ref(&c.recipient));
    let both = load(&[key, ("CERTPLAN_AGE_KEY_FILE", &file)]).unwrap();
    assert_eq!(both.recipients(), [c.recipient, b.recipient]);
    let missing = load(&[("CERTPLAN_AGE_KEY_FILE", "/nonexistent/identity")]).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/identity"), "{missing}");
    std::fs::write(folder.join("identity.txt"), "# comment\n\nAGE-SECRET-KEY-1WRONG\n").unwrap();
    let error = load(&[]).unwrap_err().to_string();
    assert!(
        error.contains("line 3") && error.contains("identity.txt") && !error.contains("WRONG"),
        "{error}"
    );
}

#[test]
fn names_with_every_allowed_letter_survive_sealing() {
    let (identities, recipient) = identity();
    let sealer = sealer(&[&recipient], &[], identities);
    let longest = Name::new(&"a-9".repeat(21)).unwrap();
    let place = Place { lineage: "l".to_owned(), address: Address::Deployment(longest.clone(), longest) };
    let sealed = sealer.seal_certificate_key(&place, KeyType::Rsa4096, sha256(b"x"), &[0xff; 2_400]).unwrap();
    assert_eq!(**sealer.open(&place, &sealed).unwrap(), [0xff; 2_400]);
}

#[test]
#[ignore = "a measurement: run it with --release"]
fn measure_sealing_and_opening() {
    let ((identities, recipient), (_, second)) = (identity(), identity());
    let sealer = sealer(&[&recipient, &second], &[], identities);
    let start = std::time::Instant::now();
    let sealed: Vec<SealedKey> = (0..500).map(|_| seal(&sealer, "certificate/www")).collect();
    let sealing = start.elapsed();
    for key in &sealed {
        sealer.open(&place("certificate/www"), key).unwrap();
    }
    println!("500 keys for two recipients: sealed in {sealing:?}, opened in {:?}", start.elapsed() - sealing);
}
