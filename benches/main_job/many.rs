//! Five hundred certificates of one zone in one apply: how fast, and with how many writes to DNS.

use std::time::Duration;
use std::time::Instant;

use certplan_test_support::Bind;
use certplan_test_support::TsigKey;
use certplan_test_support::ZoneFile;
use tokio::time::timeout;

use crate::bare::Account;
use crate::bare::Loop;
use crate::program::Folder;
use crate::program::Run;
use crate::runtime;
use crate::single::ZONE;
use crate::single::folder;
use crate::single::pebble;
use crate::single::power_dns;
use crate::single::power_dns_block;
use crate::single::reset;
use crate::table::Table;
use crate::table::seconds;

const CERTIFICATES: usize = 500;

/// Pebble 2.x deadlocks with more clients at once, and now and then with these.
const AT_ONCE: usize = 32;

/// What is given to a run before Pebble counts as deadlocked, and how often all begins anew then.
const PATIENCE: Duration = Duration::from_secs(120);
const TRIES: usize = 4;

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
fn apply(folder: &Folder, count: impl Fn() -> u64) -> Option<(Run, Writes)> {
    reset(folder);
    let mut seen = count();
    let mut writes = Writes::default();
    let run = folder.follow(&["apply", "--auto-approve", "--json"], PATIENCE, |line| {
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
    });
    let run = run.ok()?.expect(0);
    writes.removals += count() - seen;
    let issued = run.stdout.matches("\"apply_complete\"").count();
    assert_eq!(issued, CERTIFICATES, "{}", run.stdout);
    Some((run, writes))
}

fn throughput(table: &mut Table) {
    let Some(dns) = power_dns() else { return };
    let (runtime, names) = (runtime(), names());
    for attempt in 1..=TRIES {
        let Some(pebble) = pebble(dns.port()) else { return };
        let folder =
            folder(&pebble, &power_dns_block(&dns), dns.port(), &names).with("PDNS_API_KEY", dns.api_key());
        let bare = runtime.block_on(async {
            let account = Account::create(&pebble).await;
            let begun = Instant::now();
            let each = Loop::new(&account, &dns, ZONE);
            timeout(PATIENCE, each.issue_each(&names, AT_ONCE)).await.ok()?.ok()?;
            let each = begun.elapsed();
            let begun = Instant::now();
            let together = Loop::new(&account, &dns, ZONE);
            timeout(PATIENCE, together.issue_together(&names, AT_ONCE)).await.ok()?.ok()?;
            Some((each, begun.elapsed()))
        });
        let Some((each, together)) = bare else {
            eprintln!("attempt {attempt}: Pebble hangs under the bare loop");
            continue;
        };
        // The account is made before anything is measured.
        let first = folder.run(&["apply", "--auto-approve", "--address", "certificate/c0"]);
        if first.code != Some(0) {
            eprintln!("attempt {attempt}: {}", first.stderr);
            continue;
        }
        let Some((run, writes)) = apply(&folder, || dns.patches()) else {
            eprintln!("attempt {attempt}: Pebble hangs under the program");
            continue;
        };
        let per_second = |time: Duration| CERTIFICATES as f64 / time.as_secs_f64();
        let share = per_second(run.took) / per_second(each.min(together));
        table.add(
            "500 certificates from order to files, against the faster bare loop at 32 at once",
            "60 % of its throughput",
            format!(
                "{:.0} % ({:.0}/s in {}; bare loop {:.0}/s with a DNS write for each, {:.0}/s with one for all)",
                share * 100.0,
                per_second(run.took),
                seconds(run.took),
                per_second(each),
                per_second(together),
            ),
            share >= 0.6,
        );
        add_writes(table, "PowerDNS (HTTP API)", writes);
        return;
    }
    table.add(
        "500 certificates against a bare loop",
        "60 %",
        "Pebble hung in every attempt".to_owned(),
        false,
    );
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
    for attempt in 1..=TRIES {
        let Some(pebble) = pebble(bind.port()) else { return };
        let folder = folder(&pebble, &block, bind.port(), &names()).with("TSIG_SECRET", &key.secret);
        match apply(&folder, || bind.updates()) {
            Some((_, writes)) => return add_writes(table, "BIND (RFC 2136)", writes),
            None => eprintln!("attempt {attempt}: Pebble hangs under the program"),
        }
    }
    table.add("500 names on BIND", "5 + 5", "Pebble hung in every attempt".to_owned(), false);
}

fn add_writes(table: &mut Table, server: &str, writes: Writes) {
    table.add(
        &format!("DNS writes for 500 names of one zone, counted at {server}"),
        "5 to add, 5 to remove",
        format!("{} + {}", writes.additions, writes.removals),
        writes.additions <= 5 && writes.removals <= 5,
    );
}
