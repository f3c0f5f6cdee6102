//! The DNS server as `dig`, `nsupdate` and `knsupdate` see it.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan::model::sha256;
use certplan::sandbox::DnsUpdate;
use certplan::sandbox::Event;
use certplan::sandbox::Faults;
use certplan::sandbox::RecordValue;
use certplan::sandbox::Sandbox;
use certplan::sandbox::TsigAlgorithm;
use certplan::sandbox::TsigKey;
use certplan::sandbox::ZoneRecord;
use certplan_test_support::peer;
use serde_json::json;

use crate::client::Client;
use crate::client::StillClock;
use crate::client::challenge;
use crate::client::sandbox;

const ALGORITHMS: [TsigAlgorithm; 3] =
    [TsigAlgorithm::HmacSha256, TsigAlgorithm::HmacSha384, TsigAlgorithm::HmacSha512];

fn key(algorithm: TsigAlgorithm) -> TsigKey {
    TsigKey {
        name: format!("key-{algorithm}").parse().unwrap(),
        algorithm,
        secret: STANDARD.encode([algorithm.as_str().len() as u8; 32]),
    }
}

async fn with_keys() -> Sandbox {
    sandbox(|options| options.tsig_keys = ALGORITHMS.map(key).to_vec()).await
}

/// Runs a program with a script on its input; whether it succeeded, and what it printed.
async fn run(program: &Path, arguments: &[String], input: &str) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    })
    .await
    .unwrap()
}

fn key_argument(key: &TsigKey) -> Vec<String> {
    vec!["-y".to_owned(), format!("{}:{}:{}", key.algorithm, key.name, key.secret)]
}

async fn dig(program: &Path, sandbox: &Sandbox, question: &str) -> String {
    let port = sandbox.dns_address().port();
    let mut arguments = vec!["@127.0.0.1".to_owned(), "-p".to_owned(), port.to_string()];
    arguments.extend(["+time=2", "+tries=1"].map(str::to_owned));
    arguments.extend(question.split(' ').map(str::to_owned));
    let (_, text) = run(program, &arguments, "").await;
    text
}

fn script(sandbox: &Sandbox, lines: &str) -> String {
    let port = sandbox.dns_address().port();
    format!("server 127.0.0.1 {port}\nzone example.test\n{lines}\nsend\n")
}

fn updates(sandbox: &Sandbox) -> Vec<DnsUpdate> {
    let update = |entry: certplan::sandbox::Entry| match entry.event {
        Event::DnsUpdate(update) => Some(update),
        _ => None,
    };
    sandbox.ledger().entries().into_iter().filter_map(update).collect()
}

fn codes(sandbox: &Sandbox) -> Vec<(String, Option<String>)> {
    updates(sandbox).into_iter().map(|update| (update.rcode, update.tsig_error)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nsupdate_and_knsupdate_change_single_values_with_every_algorithm() {
    let (Some(dig_program), Some(nsupdate), Some(knsupdate)) =
        (peer("dig"), peer("nsupdate"), peer("knsupdate"))
    else {
        return;
    };
    let sandbox = with_keys().await;
    let foreign = ZoneRecord::new("t.example.test", RecordValue::Txt("foreign".into()));
    sandbox.insert_record(&foreign).unwrap();
    for program in [&nsupdate, &knsupdate] {
        for algorithm in ALGORITHMS {
            for transport in [None, Some("-v")] {
                let mut arguments = key_argument(&key(algorithm));
                arguments.extend(transport.map(str::to_owned));
                let add = script(&sandbox, "update add t.example.test. 60 TXT \"ours\"");
                let (good, text) = run(program, &arguments, &add).await;
                assert!(good, "{program:?} {algorithm} {transport:?}: {text}");
                let answer = dig(&dig_program, &sandbox, "+short t.example.test TXT").await;
                assert_eq!(answer, "\"foreign\"\n\"ours\"\n");
                let remove = script(&sandbox, "update delete t.example.test. TXT \"ours\"");
                let (good, text) = run(program, &arguments, &remove).await;
                assert!(good, "{program:?} {algorithm} {transport:?}: {text}");
                let answer = dig(&dig_program, &sandbox, "+short t.example.test TXT").await;
                assert_eq!(answer, "\"foreign\"\n");
            }
        }
    }
    let entries = updates(&sandbox);
    assert_eq!(entries.len(), 24);
    assert!(
        entries
            .iter()
            .all(|update| update.rcode == "NOERROR" && update.added.len() + update.removed.len() == 1)
    );
    let serials: Vec<u32> = entries.iter().map(|update| update.serial.unwrap()).collect();
    assert!(serials.is_sorted_by(|one, two| one < two), "{serials:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_by_a_stranger_changes_nothing_and_says_why() {
    let Some(nsupdate) = peer("nsupdate") else { return };
    let sandbox = with_keys().await;
    let add = script(&sandbox, "update add t.example.test. 60 TXT \"ours\"");
    let (good, text) = run(&nsupdate, &[], &add).await;
    assert!(!good && text.contains("REFUSED"), "{text}");
    let wrong_secret = TsigKey { secret: STANDARD.encode([9; 32]), ..key(TsigAlgorithm::HmacSha256) };
    let (good, text) = run(&nsupdate, &key_argument(&wrong_secret), &add).await;
    assert!(!good && text.contains("NOTAUTH(BADSIG)"), "{text}");
    let unknown = TsigKey { name: "nobody".parse().unwrap(), ..key(TsigAlgorithm::HmacSha256) };
    let (good, text) = run(&nsupdate, &key_argument(&unknown), &add).await;
    assert!(!good && text.contains("NOTAUTH(BADKEY)"), "{text}");
    let other_algorithm =
        TsigKey { name: key(TsigAlgorithm::HmacSha256).name, ..key(TsigAlgorithm::HmacSha512) };
    let (good, text) = run(&nsupdate, &key_argument(&other_algorithm), &add).await;
    assert!(!good && text.contains("NOTAUTH(BADKEY)"), "{text}");
    let known = key_argument(&key(TsigAlgorithm::HmacSha256));
    let elsewhere =
        add.replace("zone example.test", "zone other.test").replace("t.example.test", "t.other.test");
    let (good, text) = run(&nsupdate, &known, &elsewhere).await;
    assert!(!good && text.contains("NOTAUTH"), "{text}");
    let both = script(&sandbox, "prereq nxdomain example.test.\nupdate add t.example.test. 60 TXT \"ours\"");
    let (good, text) = run(&nsupdate, &known, &both).await;
    assert!(!good && text.contains("YXDOMAIN"), "{text}");
    let expected = [
        ("REFUSED", None),
        ("NOTAUTH", Some("BADSIG")),
        ("NOTAUTH", Some("BADKEY")),
        ("NOTAUTH", Some("BADKEY")),
        ("NOTAUTH", None),
        ("YXDOMAIN", None),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(code, error)| ((*code).to_owned(), error.map(str::to_owned))).collect();
    assert_eq!(codes(&sandbox), expected);
    assert!(updates(&sandbox).iter().all(|update| update.added.is_empty()));
    assert!(!sandbox.records().iter().any(|record| record.name == "t.example.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_signed_at_another_time_is_told_the_time() {
    let Some(nsupdate) = peer("nsupdate") else { return };
    let time = StillClock::new();
    let sandbox = sandbox(|options| {
        options.clock = time.clock();
        options.tsig_keys = vec![key(TsigAlgorithm::HmacSha256)];
    })
    .await;
    let add = script(&sandbox, "update add t.example.test. 60 TXT \"ours\"");
    let (good, text) = run(&nsupdate, &key_argument(&key(TsigAlgorithm::HmacSha256)), &add).await;
    assert!(!good && text.contains("NOTAUTH(BADTIME)"), "{text}");
    assert_eq!(codes(&sandbox), [("NOTAUTH".to_owned(), Some("BADTIME".to_owned()))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_an_authoritative_server() {
    let Some(program) = peer("dig") else { return };
    let sandbox = with_keys().await;
    let soa = dig(&program, &sandbox, "example.test SOA").await;
    assert!(soa.contains("status: NOERROR") && soa.contains("flags: qr aa rd;"), "{soa}");
    let absent = dig(&program, &sandbox, "absent.example.test TXT").await;
    assert!(absent.contains("status: NXDOMAIN") && absent.contains("SOA"), "{absent}");
    let empty = dig(&program, &sandbox, "example.test TXT").await;
    assert!(empty.contains("status: NOERROR") && empty.contains("ANSWER: 0"), "{empty}");
    let foreign = dig(&program, &sandbox, "example.org A").await;
    assert!(foreign.contains("status: REFUSED"), "{foreign}");
    let transfer = dig(&program, &sandbox, "example.test AXFR").await;
    assert!(transfer.contains("Transfer failed"), "{transfer}");
    let signed = format!(
        "-y {}:{}:{} example.test SOA",
        "hmac-sha384",
        "key-hmac-sha384",
        key(TsigAlgorithm::HmacSha384).secret
    );
    let signed = dig(&program, &sandbox, &signed).await;
    assert!(signed.contains("status: NOERROR") && !signed.contains("verify failure"), "{signed}");
    let mut faults = Faults::default();
    faults.dns.servfail.insert("broken.example.test".parse().unwrap());
    sandbox.set_faults(faults);
    let broken = dig(&program, &sandbox, "_acme-challenge.broken.example.test TXT").await;
    assert!(broken.contains("status: SERVFAIL"), "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_hundred_values_come_in_one_update_and_out_over_tcp() {
    let (Some(dig_program), Some(nsupdate)) = (peer("dig"), peer("nsupdate")) else { return };
    let sandbox = with_keys().await;
    let lines: Vec<String> =
        (0..700).map(|index| format!("update add t.example.test. 60 TXT \"{index:043}\"")).collect();
    let arguments = key_argument(&key(TsigAlgorithm::HmacSha256));
    let (good, text) = run(&nsupdate, &arguments, &script(&sandbox, &lines.join("\n"))).await;
    assert!(good, "{text}");
    assert_eq!(updates(&sandbox).len(), 1);
    let answer = dig(&dig_program, &sandbox, "+short t.example.test TXT").await;
    assert_eq!(answer.lines().count(), 700, "over TCP after a truncated answer");
    let delete = script(&sandbox, "update delete t.example.test. TXT");
    let (good, text) = run(&nsupdate, &arguments, &delete).await;
    assert!(good, "{text}");
    assert_eq!(updates(&sandbox)[1].removed.len(), 700);
    assert_eq!(dig(&dig_program, &sandbox, "+short t.example.test TXT").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_answer_is_lost_was_carried_out() {
    let Some(nsupdate) = peer("nsupdate") else { return };
    let sandbox = with_keys().await;
    let mut faults = Faults::default();
    faults.dns.drop_after_commit_percent = 100;
    sandbox.set_faults(faults);
    let mut arguments = key_argument(&key(TsigAlgorithm::HmacSha256));
    arguments.extend(["-v", "-t", "2", "-r", "0"].map(str::to_owned));
    let add = script(&sandbox, "update add t.example.test. 60 TXT \"ours\"");
    let (good, text) = run(&nsupdate, &arguments, &add).await;
    assert!(!good, "{text}");
    let entries = updates(&sandbox);
    assert!(entries[0].dropped);
    assert_eq!(entries[0].added.len(), 1);
    assert!(sandbox.records().iter().any(|record| record.name == "t.example.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_after_the_lag_and_not_before() {
    let (Some(dig_program), Some(nsupdate)) = (peer("dig"), peer("nsupdate")) else { return };
    let sandbox = with_keys().await;
    let arguments = key_argument(&key(TsigAlgorithm::HmacSha256));
    let lag = |seconds| {
        let mut faults = Faults::default();
        faults.dns.lag = Duration::from_secs(seconds);
        faults
    };
    sandbox.set_faults(lag(3_600));
    let (good, text) =
        run(&nsupdate, &arguments, &script(&sandbox, "update add late.example.test. 60 TXT \"ours\"")).await;
    assert!(good, "{text}");
    assert!(sandbox.records().iter().any(|record| record.name == "late.example.test"));
    let unseen = dig(&dig_program, &sandbox, "late.example.test TXT").await;
    assert!(unseen.contains("status: NXDOMAIN"), "{unseen}");
    // Validation asks as everyone does.
    let client = Client::registered(&sandbox).await;
    let order = client.order(&["a.example.test"]).await;
    let url = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = client.get(&url).await.json();
    let challenge = challenge(&authorization, "dns-01");
    let digest = sha256(client.key_authorization(challenge["token"].as_str().unwrap()).as_bytes());
    let value = URL_SAFE_NO_PAD.encode(digest.as_bytes());
    let add = format!("update add _acme-challenge.a.example.test. 60 TXT \"{value}\"");
    assert!(run(&nsupdate, &arguments, &script(&sandbox, &add)).await.0);
    client.post(challenge["url"].as_str().unwrap(), json!({})).await.expect(200);
    let end = client.poll(&url, |authorization| authorization["status"] != "pending").await;
    assert_eq!(end["status"], "invalid");

    sandbox.set_faults(lag(1));
    let start = Instant::now();
    let add = script(&sandbox, "update add soon.example.test. 60 TXT \"ours\"");
    assert!(run(&nsupdate, &arguments, &add).await.0);
    while dig(&dig_program, &sandbox, "+short soon.example.test TXT").await != "\"ours\"\n" {
        assert!(start.elapsed() < Duration::from_secs(20), "not seen in 20 s");
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}
