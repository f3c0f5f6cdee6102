use proptest::prelude::*;

use super::*;
use crate::model::Failures;
use crate::model::KeyType;
use crate::model::SealedKey;
use crate::model::sha256;
use crate::state::snapshot::Snapshot;
use crate::state::testing::Fault;
use crate::state::testing::MemoryStore;
use crate::state::testing::name;
use crate::state::testing::record;
use crate::state::testing::timestamp;

const WWW: &str = "projects/shop/certificates/www.json";

fn state(store: &Arc<MemoryStore>, project: &str, run: &str) -> State {
    State::new(Arc::clone(store) as Arc<dyn Store>, name(project), run.to_owned())
}

async fn begun(store: &Arc<MemoryStore>) -> State {
    let state = state(store, "shop", "run-1");
    state.initialize(timestamp(1)).await.unwrap();
    state
}

async fn with_www(store: &Arc<MemoryStore>) -> (State, Stored<CertificateRecord>) {
    let state = begun(store).await;
    let mut www = Stored::new(record("www", 256));
    state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
    (state, www)
}

/// Reads `www` by a run that has seen nothing yet.
async fn reread(store: &Arc<MemoryStore>) -> Result<Option<Stored<CertificateRecord>>, StateError> {
    let fresh = state(store, "shop", "run-2");
    let single = fresh.certificate(&name("www")).await;
    // The plan's way of reading judges in the same way.
    match fresh.snapshot().await {
        Ok(Snapshot { certificates, .. }) => {
            let many = certificates.get(&name("www"));
            let single = single.as_ref().unwrap().as_ref();
            assert_eq!(many.map(|many| &*many.content), single.map(|single| &single.content));
            let serials = many.map(|many| (many.serial(), many.revision(), many.writer()));
            assert_eq!(serials, single.map(|single| (single.serial(), single.revision(), single.writer())));
        }
        Err(error) => assert_eq!(error.to_string(), single.as_ref().unwrap_err().to_string()),
    }
    single
}

#[tokio::test]
async fn a_new_state_has_no_lineage_and_reading_writes_nothing() {
    let store = MemoryStore::failing([]);
    let fresh = state(&store, "shop", "run-1");
    assert_eq!(fresh.lineage().await.unwrap(), None);
    assert_eq!(fresh.snapshot().await.unwrap().lineage, None);
    assert_eq!(fresh.certificate(&name("www")).await.unwrap(), None);
    assert_eq!(*store.puts.lock().unwrap(), 0);
    let mut www = Stored::new(record("www", 256));
    let saved = fresh.save_certificate(&name("www"), &mut www, Revise::Bump).await;
    assert!(matches!(saved, Err(StateError::Uninitialized)));
}

#[tokio::test]
async fn two_runs_that_begin_a_state_at_once_have_one_lineage() {
    for faults in [vec![], vec![Fault::AnswerLost], vec![Fault::ConflictWithItself], vec![Fault::NotSent]] {
        let store = MemoryStore::failing(faults);
        let (one, two) = (state(&store, "shop", "run-1"), state(&store, "blog", "run-2"));
        let (a, b) = tokio::join!(one.initialize(timestamp(1)), two.initialize(timestamp(2)));
        assert_eq!(a.unwrap(), b.unwrap());
    }
}

#[tokio::test]
async fn serial_counts_writes_and_revision_what_plans_depend_on() {
    let store = MemoryStore::failing([]);
    let (state, mut www) = with_www(&store).await;
    assert_eq!((www.serial(), www.revision()), (1, 1));
    state.save_certificate(&name("www"), &mut www, Revise::Keep).await.unwrap();
    assert_eq!((www.serial(), www.revision()), (2, 1));
    state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
    assert_eq!((www.serial(), www.revision()), (3, 2));
    assert_eq!(reread(&store).await.unwrap(), Some(www));
}

#[tokio::test]
async fn a_zombie_cannot_overwrite_what_was_written_after_it() {
    let store = MemoryStore::failing([]);
    let (zombie, mut old) = with_www(&store).await;
    let successor = state(&store, "shop", "run-2");
    let mut new = successor.certificate(&name("www")).await.unwrap().unwrap();
    successor.save_certificate(&name("www"), &mut new, Revise::Bump).await.unwrap();
    let before = old.clone();
    let error = zombie.save_certificate(&name("www"), &mut old, Revise::Bump).await.unwrap_err();
    assert!(matches!(&error, StateError::Conflict { run, .. } if run == "run-2"), "{error}");
    assert_eq!(old, before);
    let error = zombie.save_certificate(&name("www"), &mut Stored::new(record("x", 64)), Revise::Bump).await;
    assert!(matches!(error, Err(StateError::Conflict { .. })), "creating does not overwrite either");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_and_counted_once() {
    for faults in [
        vec![Fault::AnswerLost],
        vec![Fault::ConflictWithItself],
        vec![Fault::NotSent],
        vec![Fault::NotSent, Fault::NotSent, Fault::AnswerLost],
        vec![Fault::NotSent, Fault::ConflictWithItself],
    ] {
        let store = MemoryStore::failing([]);
        let (state, mut www) = with_www(&store).await;
        store.fail(faults.clone());
        www.failures = None;
        state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
        assert_eq!(www.serial(), 2, "{faults:?}");
        state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
        assert_eq!(reread(&store).await.unwrap(), Some(www), "{faults:?}");
    }
}

#[tokio::test]
async fn a_write_that_failed_changes_nothing_and_can_be_made_again() {
    for fault in [Fault::Full, Fault::Failed, Fault::ReadOnly] {
        let store = MemoryStore::failing([]);
        let (state, mut www) = with_www(&store).await;
        let before = (www.clone(), store.bytes(WWW));
        store.fail([fault]);
        let error = state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap_err();
        assert!(matches!(error, StateError::Store(_)), "{error}");
        assert_eq!((www.clone(), store.bytes(WWW)), before);
        state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
    }
    let store = MemoryStore::failing([]);
    let (state, mut www) = with_www(&store).await;
    store.fail(vec![Fault::NotSent; TRIES as usize]);
    let error = state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap_err();
    assert!(matches!(error, StateError::Store(StoreError::Transient { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_lose_no_write_of_each_other() {
    let store = MemoryStore::failing([]);
    let (_, www) = with_www(&store).await;
    let writers = (0..16).map(|writer| {
        let state = state(&store, "shop", &format!("run-{writer}"));
        tokio::spawn(async move {
            for _ in 0..20 {
                loop {
                    let mut www = state.certificate(&name("www")).await.unwrap().unwrap();
                    let failures = www.failures.get_or_insert_with(|| Failures {
                        count: 0,
                        last: timestamp(1),
                        retry_after: timestamp(2),
                        message: String::new(),
                    });
                    failures.count += 1;
                    match state.save_certificate(&name("www"), &mut www, Revise::Bump).await {
                        Ok(()) => break,
                        Err(StateError::Conflict { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let last = reread(&store).await.unwrap().unwrap();
    assert_eq!(last.failures.as_ref().unwrap().count, 320);
    assert_eq!(last.serial(), www.serial() + 320);
}

#[tokio::test]
async fn an_object_truncated_at_any_octet_halts() {
    let store = MemoryStore::failing([]);
    with_www(&store).await;
    let whole = store.bytes(WWW);
    for length in 0..whole.len() {
        store.overwrite(WWW, whole[..length].to_vec());
        let error = reread(&store).await.expect_err("cut");
        assert!(matches!(error, StateError::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains(WWW), "{error}");
        assert!(error.hint().is_some());
    }
    let state_json = store.bytes("state.json");
    store.overwrite(WWW, whole);
    for length in 0..state_json.len() {
        store.overwrite("state.json", state_json[..length].to_vec());
        assert!(matches!(reread(&store).await, Err(StateError::Damaged { .. })), "{length}");
    }
}

#[tokio::test]
async fn every_flipped_bit_halts() {
    let store = MemoryStore::failing([]);
    with_www(&store).await;
    let whole = store.bytes(WWW);
    let key = ObjectKey::new(WWW).unwrap();
    for position in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << bit;
            let decoded = Envelope::<CertificateRecord>::decode(&bytes, &key, WWW, None);
            assert!(
                matches!(decoded, Err(StateError::Damaged { .. } | StateError::TooNew { .. })),
                "octet {position}, bit {bit}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_object_at_all_halts() {
    let store = MemoryStore::failing([]);
    with_www(&store).await;
    for bytes in ["", "{}", "null", "[]", "\0\0\0\0", "{\"format\":1}", "\u{feff}{}"] {
        store.overwrite(WWW, bytes.as_bytes().to_vec());
        let error = reread(&store).await.expect_err(bytes);
        assert!(matches!(error, StateError::Damaged { .. }), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn swapped_foreign_and_newer_objects_halt_with_their_own_message() {
    let store = MemoryStore::failing([]);
    let (state, _) = with_www(&store).await;
    let mut api = Stored::new(record("api", 256));
    state.save_certificate(&name("api"), &mut api, Revise::Bump).await.unwrap();
    store.overwrite(WWW, store.bytes("projects/shop/certificates/api.json"));
    let error = reread(&store).await.unwrap_err();
    assert!(error.to_string().contains("api.json` in the wrong place"), "{error}");

    let other = MemoryStore::failing([]);
    with_www(&other).await;
    store.overwrite(WWW, other.bytes(WWW));
    assert!(matches!(reread(&store).await.unwrap_err(), StateError::ForeignLineage { .. }));

    store.overwrite(WWW, store.bytes("state.json"));
    let error = reread(&store).await.unwrap_err();
    assert!(error.to_string().contains("of the kind `state`"), "{error}");

    for newer in ["{\"format\": 2, \"checksum\": {\"algorithm\": \"blake3\"}}", "{\"format\":99}"] {
        store.overwrite(WWW, newer.as_bytes().to_vec());
        assert!(matches!(reread(&store).await.unwrap_err(), StateError::TooNew { .. }), "{newer}");
    }
}

#[tokio::test]
async fn a_field_that_a_later_version_added_is_no_obstacle() {
    let store = MemoryStore::failing([]);
    let (_, www) = with_www(&store).await;
    let text = String::from_utf8(store.bytes(WWW)).unwrap();
    store.overwrite(WWW, resealed(&text.replace("\"serial\": 1,", "\"serial\": 1,\n  \"later\": [1],")));
    assert_eq!(reread(&store).await.unwrap().unwrap().content, www.content);
}

/// A forged object: changed, with a checksum that is right.
fn resealed(text: &str) -> Vec<u8> {
    let body = text.splitn(3, '\n').nth(2).unwrap();
    format!("{{\n  \"checksum\": \"sha256:{}\",\n{body}", sha256(body.as_bytes())).into_bytes()
}

#[tokio::test]
async fn forged_content_is_refused_like_input() {
    let store = MemoryStore::failing([]);
    with_www(&store).await;
    let text = String::from_utf8(store.bytes(WWW)).unwrap();
    for (from, to) in [
        ("https://ca.example/directory", "file:///etc/passwd"),
        ("https://ca.example/directory", "https://"),
        ("https://ca.example/directory", "https://ca.example/\\u001b[2J"),
        ("\"issuer\": \"le\"", "\"issuer\": \"../le\""),
        ("www.example.com", "www..example.com"),
        ("00112233445566778899aabbccddeeff", "../../state"),
        ("-----BEGIN CERTIFICATE-----", "nothing"),
        ("\"serial\": 1,", "\"serial\": -1,"),
        ("\"content\": {", "\"contents\": {"),
        ("\"format\": 1,", "\"format\": 0,"),
    ] {
        let forged = resealed(&text.replacen(from, to, 1));
        assert_ne!(forged, text.as_bytes(), "{from}");
        store.overwrite(WWW, forged);
        let error = reread(&store).await.expect_err(to);
        assert!(matches!(error, StateError::Damaged { .. }), "{to}: {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_in_a_record_is_refused() {
    let store = MemoryStore::failing([]);
    let (state, mut www) = with_www(&store).await;
    www.current.as_mut().unwrap().key.spki = sha256(b"another");
    let error = state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap_err();
    assert!(error.to_string().contains("of another certificate"), "{error}");
}

#[tokio::test]
async fn objects_without_their_state_json_are_not_a_new_state() {
    let store = MemoryStore::failing([]);
    with_www(&store).await;
    store.objects.lock().unwrap().remove(&ObjectKey::state());
    assert!(matches!(reread(&store).await, Err(StateError::NoLineage { .. })));
    let again = state(&store, "shop", "run-2").initialize(timestamp(3)).await;
    assert!(matches!(again, Err(StateError::NoLineage { .. })));
}

#[tokio::test]
async fn a_snapshot_names_every_damaged_object_and_forgives_other_projects() {
    let store = MemoryStore::failing([]);
    let (shop, mut www) = with_www(&store).await;
    shop.save_certificate(&name("api"), &mut Stored::new(record("api", 64)), Revise::Bump).await.unwrap();
    let blog = state(&store, "blog", "run-3");
    blog.save_certificate(&name("www"), &mut Stored::new(record("blog", 64)), Revise::Bump).await.unwrap();
    blog.save_certificate(&name("old"), &mut Stored::new(record("old", 64)), Revise::Bump).await.unwrap();
    let snapshot = shop.snapshot().await.unwrap();
    assert_eq!(snapshot.certificates.keys().map(Name::as_str).collect::<Vec<_>>(), ["api", "www"]);
    assert_eq!(snapshot.elsewhere.len(), 2, "issuances of other projects count");

    store.overwrite("projects/blog/certificates/old.json", b"{}".to_vec());
    let snapshot = shop.snapshot().await.unwrap();
    assert_eq!((snapshot.elsewhere.len(), snapshot.unreadable.len()), (1, 1));

    store.overwrite(WWW, b"{}".to_vec());
    store.overwrite("projects/shop/certificates/api.json", Vec::new());
    let error = shop.snapshot().await.unwrap_err();
    assert_eq!(error.each().count(), 2, "{error}");
    // And nothing that was in memory before gets over what is there now.
    assert!(shop.save_certificate(&name("www"), &mut www, Revise::Bump).await.is_err());
}

#[tokio::test]
async fn a_forgotten_name_is_free_and_its_issuances_still_count() {
    let store = MemoryStore::failing([]);
    let (state, www) = with_www(&store).await;
    state.forget_certificate(&name("www"), www).await.unwrap();
    assert_eq!(reread(&store).await.unwrap(), None);
    assert!(!String::from_utf8(store.bytes(WWW)).unwrap().contains("BEGIN"), "no key and no chain stays");
    assert_eq!(state.snapshot().await.unwrap().elsewhere.len(), 1);
    let mut again = Stored::new(record("www", 64));
    state.save_certificate(&name("www"), &mut again, Revise::Bump).await.unwrap();
    assert_eq!((again.serial(), again.revision()), (3, 3), "a serial never comes again");
    assert_eq!(reread(&store).await.unwrap(), Some(again));
}

#[tokio::test]
async fn an_archived_certificate_is_kept_and_archiving_can_be_finished_after_a_crash() {
    let store = MemoryStore::failing([]);
    let (state, www) = with_www(&store).await;
    // The first run dies between its two writes.
    let mut copy = Stored::new(www.content.clone());
    copy.archived = Some(timestamp(5));
    let key = ObjectKey::archived(&name("shop"), &name("www"), 1);
    state.save(&key, &mut copy, Revise::Bump).await.unwrap();
    state.archive_certificate(&name("www"), www.clone(), timestamp(9)).await.unwrap();
    assert_eq!(reread(&store).await.unwrap(), None);
    let kept = state.load::<CertificateRecord>(&key).await.unwrap().unwrap();
    assert_eq!(kept.content, CertificateRecord { archived: Some(timestamp(5)), ..www.content });
}

#[tokio::test]
async fn renaming_is_finished_after_a_crash_and_shows_one_certificate_until_then() {
    let store = MemoryStore::failing([]);
    let (state, www) = with_www(&store).await;
    let before = store.bytes(WWW);
    let renamed = state.rename_certificate(&name("www"), &name("web"), www.clone()).await.unwrap();
    assert_eq!(renamed.content, www.content);
    assert_eq!(reread(&store).await.unwrap(), None);
    // The moment between the two writes.
    store.overwrite(WWW, before);
    let snapshot = state.snapshot().await.unwrap();
    assert_eq!(snapshot.certificates.keys().map(Name::as_str).collect::<Vec<_>>(), ["web"]);
    let original = state.certificate(&name("www")).await.unwrap().unwrap();
    let again = state.rename_certificate(&name("www"), &name("web"), original).await.unwrap();
    assert_eq!(again.content, www.content);
    assert_eq!(state.snapshot().await.unwrap().elsewhere, [], "nothing is counted twice");
}

#[tokio::test]
async fn renaming_onto_another_certificate_is_refused() {
    let store = MemoryStore::failing([]);
    let (state, www) = with_www(&store).await;
    state.save_certificate(&name("api"), &mut Stored::new(record("api", 64)), Revise::Bump).await.unwrap();
    let renamed = state.rename_certificate(&name("www"), &name("api"), www.clone()).await;
    assert!(matches!(renamed, Err(StateError::Conflict { .. })));
    assert_eq!(reread(&store).await.unwrap(), Some(www));
}

#[tokio::test]
async fn a_handoff_is_replaced_found_and_deleted_for_good() {
    let store = MemoryStore::failing([Fault::AnswerLost]);
    let state = state(&store, "shop", "run-1");
    state.put_handoff("op1", b"one".to_vec()).await.unwrap();
    state.put_handoff("op1", b"one".to_vec()).await.unwrap();
    state.put_handoff("op1", b"two".to_vec()).await.unwrap();
    assert_eq!(state.handoff("op1").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(state.handoffs().await.unwrap(), ["op1"]);
    state.delete_handoff("op1").await.unwrap();
    state.delete_handoff("op1").await.unwrap();
    assert!(store.objects.lock().unwrap().is_empty());
    assert!(matches!(state.put_handoff("../x", Vec::new()).await, Err(StateError::Key(_))));
}

#[tokio::test]
async fn accounts_and_provider_memory_come_back_as_they_were() {
    let store = MemoryStore::failing([]);
    let state = begun(&store).await;
    let key = SealedKey {
        key_type: KeyType::EcdsaP256,
        spki: sha256(b"account"),
        recipients: vec![],
        armored: String::new(),
    };
    let account = AccountRecord {
        directory: "https://ca.example/directory".to_owned(),
        url: Some("https://ca.example/acct/1".to_owned()),
        key,
        contact: vec!["ops@example.com".to_owned()],
        key_source: None,
        operation: None,
        retired: Vec::new(),
    };
    let mut stored = Stored::new(account);
    state.save_account(&name("le"), &mut stored, Revise::Bump).await.unwrap();
    assert_eq!(state.account(&name("le")).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(state.snapshot().await.unwrap().accounts[&name("le")].content.as_ref(), &stored.content);
    let mut memory = Stored::new(ProviderMemory { sealed: "armour".to_owned() });
    state.save_provider_memory(&name("acmedns"), "a.example", &mut memory).await.unwrap();
    assert_eq!(state.provider_memory(&name("acmedns"), "a.example").await.unwrap(), Some(memory));
    assert!(matches!(state.provider_memory(&name("acmedns"), "../x").await, Err(StateError::Key(_))));
}

fn any_record() -> impl Strategy<Value = CertificateRecord> {
    let failures = proptest::option::of((any::<u32>(), 0_i64..4_000_000_000, ".{0,80}"));
    ("[a-z0-9]{1,20}", 0_usize..5_000, proptest::bool::ANY, failures, 0_usize..4).prop_map(
        |(label, size, previous, failures, repeat)| {
            let mut record = record(&label, size);
            if previous {
                record.previous = record.current.clone().map(Box::new);
            }
            record.failures = failures.map(|(count, last, message)| Failures {
                count,
                last: timestamp(last),
                retry_after: timestamp(last + 60),
                message,
            });
            record.issuances = vec![record.issuances.remove(0); repeat];
            record
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_comes_back_as_it_was(content in any_record()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::failing([]);
            let state = begun(&store).await;
            let mut www = Stored::new(content);
            state.save_certificate(&name("www"), &mut www, Revise::Bump).await.unwrap();
            assert_eq!(reread(&store).await.unwrap(), Some(www));
        });
    }

    #[test]
    fn no_octets_make_reading_panic_or_pass(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let key = ObjectKey::new(WWW).unwrap();
        prop_assert!(Envelope::<CertificateRecord>::decode(&bytes, &key, WWW, None).is_err());
    }
}
