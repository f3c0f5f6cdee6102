//! One certificate from end to end, against a bare loop and against lego.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use certplan_test_support::Pebble;
use certplan_test_support::PebbleOptions;
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use certplan_test_support::peer;

use crate::bare::Account;
use crate::bare::Loop;
use crate::program::Folder;
use crate::runtime;
use crate::table::Table;
use crate::table::median;
use crate::table::seconds;

pub(crate) const ZONE: &str = "example.test";
const RUNS: usize = 11;
const LEGO_RUNS: usize = 3;

/// A CA that looks at a DNS server, without the sleep before it validates; it refuses nonces as always.
pub(crate) fn pebble(dns_port: u16) -> Option<Pebble> {
    Pebble::start(&PebbleOptions {
        dns_server: Some(format!("127.0.0.1:{dns_port}")),
        ..PebbleOptions::default()
    })
}

pub(crate) fn power_dns() -> Option<PowerDns> {
    PowerDns::start(&[ZoneFile::new(ZONE)], &TsigKey::new("hmac-sha256"))
}

/// Where the program's work on a certificate ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Where a bare loop ends: the certificate is there, sealed in state, and nothing is left in DNS.
    Issued,
    /// In files on this machine.
    Deployed,
}

/// A folder for the program with certificates of one name each; `dns` is the block of the provider.
pub(crate) fn folder(pebble: &Pebble, dns: &str, dns_port: u16, names: &[String], until: Until) -> Folder {
    let folder = Folder::new();
    folder.write("pebble.pem", pebble.ca_bundle());
    let mut text = format!(
        "version: 1\nproject: bench\n\n\
         encryption: {{ recipients: [{}] }}\n\n\
         issuers:\n  pebble: {{ acme: {{ directory: \"{}\", ca_bundle: pebble.pem, agree_tos: true }} }}\n\n\
         dns:\n  local:\n    {dns}\n    zones: [{ZONE}]\n    propagation: {{ resolvers: [\"127.0.0.1:{dns_port}\"] }}\n\n\
         targets:\n  out: {{ files: {{ directory: live }} }}\n\n\
         defaults: {{ issuer: pebble }}\n\n\
         certificates:\n",
        folder.recipient,
        pebble.directory_url(),
    );
    for (number, name) in names.iter().enumerate() {
        let _ = writeln!(text, "  c{number}:\n    names: [{name}]");
        if until == Until::Deployed {
            text.push_str("    deploy: [{ target: out }]\n");
        }
    }
    folder.write("certplan.yaml", &text);
    folder
}

/// The block of a PowerDNS.
pub(crate) fn power_dns_block(dns: &PowerDns) -> String {
    format!("powerdns: {{ url: \"{}\", api_key: {{ env: PDNS_API_KEY }} }}", dns.api_url())
}

/// Forgets every certificate, so that the next run makes them anew; the account stays.
pub(crate) fn reset(folder: &Folder) {
    for part in [".certplan/state/projects", "live"] {
        // Before the first run there is nothing.
        let _ = fs::remove_dir_all(folder.path().join(part));
    }
}

pub(crate) fn measure(table: &mut Table) {
    let demo = Folder::new().run(&["demo", "--directory", "demo"]).expect(0).took;
    table.add("`certplan demo`, with its renewal", "20 s", seconds(demo), demo.as_secs_f64() <= 20.0);
    let Some(dns) = power_dns() else { return };
    let Some(pebble) = pebble(dns.port()) else { return };
    let names = [format!("one.{ZONE}")];
    let folder = folder(&pebble, &power_dns_block(&dns), dns.port(), &names, Until::Deployed)
        .with("PDNS_API_KEY", dns.api_key());
    let runtime = runtime();
    let account = runtime.block_on(Account::create(&pebble));
    folder.run(&["apply", "--auto-approve"]).expect(0);
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        runtime.block_on(async {
            Loop::new(&account, &dns, ZONE).issue(&names[0]).await.expect("the CA issues");
        });
        bare.push(begun.elapsed());
        reset(&folder);
        whole.push(folder.run(&["apply", "--auto-approve"]).expect(0).took);
    }
    let (bare, whole) = (median(bare), median(whole));
    let ratio = whole.as_secs_f64() / bare.as_secs_f64();
    table.add(
        "one certificate from order to files, against a bare loop on the same client",
        "3x",
        format!("{ratio:.2}x ({} / {})", seconds(whole), seconds(bare)),
        ratio <= 3.0,
    );
    let Some(lego) = lego(&pebble, &dns) else { return };
    let ratio = lego.as_secs_f64() / whole.as_secs_f64();
    table.add(
        "the same, against Debian's lego",
        "20x faster",
        format!("{ratio:.0}x ({} / {})", seconds(lego), seconds(whole)),
        ratio >= 20.0,
    );
}

/// How long lego takes for one certificate with an account that is there already.
fn lego(pebble: &Pebble, dns: &PowerDns) -> Option<Duration> {
    let program = peer("lego")?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = folder.path().join("pebble.pem");
    fs::write(&bundle, pebble.ca_bundle()).expect("the folder is writable");
    let run = |name: &str| {
        let begun = Instant::now();
        let status = Command::new(&program)
            .args(["--accept-tos", "--email", "ops@example.test", "--dns", "pdns", "--dns.disable-cp"])
            .args(["--server", pebble.directory_url().as_str(), "--domains", name])
            .args(["--dns.resolvers", &format!("127.0.0.1:{}", dns.port())])
            .arg("--path")
            .arg(folder.path())
            .arg("run")
            .env("LEGO_CA_CERTIFICATES", &bundle)
            .env("PDNS_API_URL", dns.api_url())
            .env("PDNS_API_KEY", dns.api_key())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("lego starts");
        // A refused nonce too many ends it at times.
        status.success().then(|| begun.elapsed())
    };
    let times: Vec<Duration> = (0..3 * LEGO_RUNS)
        .filter_map(|number| run(&format!("lego-{number}.{ZONE}")))
        .take(LEGO_RUNS + 1)
        .collect();
    assert!(times.len() > LEGO_RUNS, "lego issues nothing");
    // The first run made the account.
    Some(median(times[1..].to_vec()))
}
