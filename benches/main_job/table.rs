use std::fmt;
use std::fs;
use std::time::Duration;

/// What was claimed, and what was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    claim: String,
    limit: String,
    measured: String,
    load: String,
    holds: bool,
}

impl Table {
    /// Adds a claim, and says it on stderr at once.
    pub(crate) fn add(&mut self, claim: &str, limit: &str, measured: String, holds: bool) {
        let load = load_average();
        eprintln!("{claim}: {measured} (limit: {limit}, load {load}){}", if holds { "" } else { " FAILS" });
        self.rows.push(Row { claim: claim.to_owned(), limit: limit.to_owned(), measured, load, holds });
    }

    /// Adds what was measured without a limit to it.
    pub(crate) fn tell(&mut self, what: &str, measured: String) {
        self.add(what, "none", measured, true);
    }

    /// Whether every claim holds.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.holds)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| claim | limit | measured | load | holds |\n|---|---|---|---|---|")?;
        for Row { claim, limit, measured, load, holds } in &self.rows {
            let holds = if *holds { "yes" } else { "**no**" };
            writeln!(f, "| {claim} | {limit} | {measured} | {load} | {holds} |")?;
        }
        Ok(())
    }
}

/// The load average of the last minute: others may share the machine.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// The middle of some measurements.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A time for people: `0.123 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
