//! Five hundred certificates of one zone in one apply: how fast, and with how many writes to DNS.

use std::time::Duration;
use std::time::Instant;

use certplan_test_support::Bind;
use certplan_test_support::PowerDns;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use tokio::time::timeout;

use crate::bare::Account;
use crate::bare::Loop;
use crate::program::Folder;
use crate::program::Run;
use crate::program::TimedOut;
use crate::runtime;
use crate::single::Until;
use crate::single::ZONE;
use crate::single::folder;
use crate::single::pebble;
use crate::single::power_dns;
use crate::single::power_dns_block;
use crate::single::reset;
use crate::table::Table;
use crate::table::seconds;

const CERTIFICATES: usize = 500;

/// How many requests are open at once, attempt by attempt. Pebble 2.x takes a read lock twice in one request, and hangs for good
/// when a writer comes between the two: the more clients the likelier. Then it is started anew, later with fewer.
const AT_ONCE: [usize; 12] = [32, 32, 16, 16, 16, 16, 8, 8, 8, 8, 8, 8];

/// How often both are measured: one pair says little, for the disk and Pebble are not the same from one to the next.
const PAIRS: usize = 3;

/// What is given to a run before Pebble counts as hung: several times what one takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many changes a DNS server saw while a run added values, and while it removed them.
#[derive(Debug, Clone, Copy, Default)]
struct Writes {
    additions: u64,
    removals: u64,
}

pub(crate) fn measure(table: &mut Table) {
    throughput(table);
    updates(table);
}

fn names() -> Vec<String> {
    (0..CERTIFICATES).map(|number| format!("n{number}.{ZONE}")).collect()
}

/// Runs an apply of all certificates and tells by its events which changes were additions.
fn apply(folder: &Folder, at_once: usize, count: impl Fn() -> u64) -> Option<(Run, Writes)> {
    // The account is made before anything is measured.
    let first = folder.run(&["apply", "--auto-approve", "--address", "certificate/c0"]);
    if first.code != Some(0) {
        eprintln!("{}", first.stderr);
        return None;
    }
    reset(folder);
    let parallelism = at_once.to_string();
    let mut seen = count();
    let mut writes = Writes::default();
    let run = folder.follow(
        &["apply", "--auto-approve", "--json", "--parallelism", &parallelism],
        PATIENCE,
        |line| {
            let added = line.contains("\"txt_presented\"");
            if added || line.contains("\"cleaned_up\"") {
                let now = count();
                if added {
                    writes.additions += now - seen;
                } else {
                    writes.removals += now - seen;
                }
                seen = now;
            }
        },
    );
    let run = match run {
        Ok(run) if run.code == Some(0) => run,
        Ok(run) => {
            let failed = run.stdout.lines().filter(|line| line.contains("\"apply_errored\""));
            eprintln!(
                "the program ended with {:?}: {} failed, the first: {:?}",
                run.code,
                failed.clone().count(),
                failed.clone().next()
            );
            return None;
        }
        Err(TimedOut { stdout }) => {
            let reached = |step: &str| stdout.matches(&format!("\"{step}\"")).count();
            let steps =
                ["order_created", "txt_presented", "validated", "issued", "cleaned_up", "apply_complete"];
            let reached: Vec<String> = steps.iter().map(|step| format!("{step} {}", reached(step))).collect();
            eprintln!("killed after {PATIENCE:?}: {}; {writes:?}", reached.join(", "));
            return None;
        }
    };
    writes.removals += count() - seen;
    if let Some(path) = std::env::var_os("CERTPLAN_BENCH_EVENTS") {
        std::fs::write(path, &run.stdout).expect("the path is writable");
    }
    let issued = run.stdout.matches("\"apply_complete\"").count();
    assert_eq!(issued, CERTIFICATES, "{}", run.stdout);
    Some((run, writes))
}

/// One run of the program beside one of the bare loop.
struct Pair {
    share: f64,
    text: String,
    writes: Writes,
}

fn throughput(table: &mut Table) {
    let Some(dns) = power_dns() else { return };
    let names = names();
    let mut left = vec![
        (
            Until::Issued,
            "500 certificates from order to sealed state, against a bare loop with one DNS write for all",
        ),
        (Until::Deployed, "the same and deployed to files, which the bare loop does not do"),
    ];
    let mut pairs = Vec::new();
    for at_once in AT_ONCE {
        while let Some((until, claim)) = left.first() {
            let Some(pair) = pair(&dns, &names, at_once, *until) else { break };
            pairs.push(pair);
            if pairs.len() == PAIRS {
                report(table, *until, claim, &mut pairs);
                left.remove(0);
            }
        }
    }
    for (until, claim) in left {
        if pairs.is_empty() {
            table.add(claim, "60 % of its throughput", "Pebble hung in every attempt".to_owned(), false);
        } else {
            report(table, until, claim, &mut pairs);
        }
    }
}

/// Measured one after the other, for the machine may be busier later; `None` when Pebble hangs.
fn pair(dns: &PowerDns, names: &[String], at_once: usize, until: Until) -> Option<Pair> {
    let bare = bare(dns, names, at_once)?;
    let pebble = pebble(dns.port())?;
    let folder =
        folder(&pebble, &power_dns_block(dns), dns.port(), names, until).with("PDNS_API_KEY", dns.api_key());
    let (run, writes) = apply(&folder, at_once, || dns.patches())?;
    let per_second = |time: Duration| CERTIFICATES as f64 / time.as_secs_f64();
    let share = per_second(run.took) / per_second(bare);
    let text = format!(
        "{:.0} % at {at_once} at once ({:.0}/s in {}, bare loop {:.0}/s)",
        share * 100.0,
        per_second(run.took),
        seconds(run.took),
        per_second(bare),
    );
    eprintln!("{text}");
    Some(Pair { share, text, writes })
}

/// Tells the one in the middle.
fn report(table: &mut Table, until: Until, claim: &str, pairs: &mut Vec<Pair>) {
    pairs.sort_by(|a, b| a.share.total_cmp(&b.share));
    let count = pairs.len();
    let Pair { share, text, writes } = pairs.swap_remove((count - 1) / 2);
    pairs.clear();
    let measured = format!("{text}, the middle of {count}");
    if until == Until::Deployed {
        table.tell(claim, measured);
    } else {
        table.add(claim, "60 % of its throughput", measured, share >= 0.6);
        add_writes(table, "PowerDNS (HTTP API)", writes);
    }
}

/// How long the bare loop takes for all; `None` when Pebble hangs.
fn bare(dns: &PowerDns, names: &[String], at_once: usize) -> Option<Duration> {
    let pebble = pebble(dns.port())?;
    let begun = runtime().block_on(async {
        let account = Account::create(&pebble).await;
        let begun = Instant::now();
        let bare = Loop::new(&account, dns, ZONE);
        matches!(timeout(PATIENCE, bare.issue_together(names, at_once)).await, Ok(Ok(()))).then_some(begun)
    });
    if begun.is_none() {
        eprintln!("Pebble hangs under the bare loop at {at_once} at once");
    }
    begun.map(|begun| begun.elapsed())
}

fn updates(table: &mut Table) {
    let key = TsigKey::new("hmac-sha256");
    let Some(bind) = Bind::start(&[ZoneFile::new(ZONE)], &key) else { return };
    let block = format!(
        "rfc2136: {{ server: \"127.0.0.1:{}\", tsig: {{ name: {}, algorithm: {}, secret: {{ env: TSIG_SECRET }} }} }}",
        bind.port(),
        key.name,
        key.algorithm,
    );
    for at_once in AT_ONCE {
        let Some(pebble) = pebble(bind.port()) else { return };
        let folder =
            folder(&pebble, &block, bind.port(), &names(), Until::Issued).with("TSIG_SECRET", &key.secret);
        if let Some((_, writes)) = apply(&folder, at_once, || bind.updates()) {
            return add_writes(table, "BIND (RFC 2136)", writes);
        }
    }
    let claim = "DNS writes for 500 names of one zone, counted at BIND (RFC 2136)";
    table.add(claim, "5 to add, 5 to remove", "Pebble hung in every attempt".to_owned(), false);
}

fn add_writes(table: &mut Table, server: &str, writes: Writes) {
    table.add(
        &format!("DNS writes for 500 names of one zone, counted at {server}"),
        "5 to add, 5 to remove",
        format!("{} + {}", writes.additions, writes.removals),
        writes.additions <= 5 && writes.removals <= 5,
    );
}
