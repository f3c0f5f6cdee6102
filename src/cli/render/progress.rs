//! How a run is told while it works: moving lines on a terminal, plain lines in CI, or one JSON event a line.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use jiff::Timestamp;
use serde::Serialize;

use crate::apply::Event;
use crate::apply::Reporter;
use crate::cli::error::CliError;
use crate::cli::ui::Ui;
use crate::cli::ui::escape;
use crate::model::Address;
use crate::model::Name;
use crate::plan::DiagnosticDocument;
use crate::plan::Plan;
use crate::plan::PlanDocument;
use crate::plan::Severity;
use crate::plan::text::moment;

use super::waiting::SILENCE;
use super::waiting::Waiting;

/// More certificates than this are counted, not listed: a terminal shows so many lines.
const LISTED: usize = 20;

/// Plain lines on stderr, one for each certificate that begins, changes something for the world, or ends; and one for what is
/// waited for, when there is no other for a while.
#[derive(Debug)]
pub(crate) struct Lines {
    ui: Ui,
    steps: bool,
    told: Told,
    waiting: Mutex<Waiting>,
}

impl Lines {
    /// Lines through `ui` for a run over `certificates`: with every step, unless there are many.
    pub(crate) fn new(ui: Ui, certificates: usize) -> Self {
        let waiting = Mutex::new(Waiting::new(Instant::now()));
        Self { ui, steps: certificates <= LISTED, told: Told::default(), waiting }
    }

    /// Says what is waited for whenever nothing else was said for a while; never ends.
    pub(crate) async fn keep_talking(&self) -> Infallible {
        loop {
            tokio::time::sleep(SILENCE / 6).await;
            let line = self.waiting().line(Instant::now());
            if let Some(line) = line {
                self.ui.say(&line);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Lines {
    fn report(&self, event: Event) {
        let line = self.told.line(&event);
        let is_step = matches!(event, Event::ApplyProgress { .. } | Event::ApplyStart { .. });
        // What an account has to say is its one step.
        let is_silent = matches!(&event, Event::ApplyStart { address: Address::Account(_), .. })
            || is_step && !self.steps;
        self.waiting().note(&event, !is_silent, Instant::now());
        match event {
            Event::ApplyErrored { .. }
            | Event::ApplyOvertaken { .. }
            | Event::DnsRetry { .. }
            | Event::Warning { .. } => {
                self.ui.alert(&line);
            }
            _ if is_silent => {}
            _ => self.ui.say(&line),
        }
    }
}

/// What deployments failed with, by certificate: a certificate that fails for that alone need not say it again.
#[derive(Debug, Default)]
struct Told(Mutex<BTreeMap<Name, String>>);

impl Told {
    fn line(&self, event: &Event) -> String {
        if let Event::ApplyErrored { address, message, .. } = event {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match address {
                Address::Deployment(name, _) => {
                    told.insert(name.clone(), message.clone());
                }
                Address::Certificate(name) if told.get(name) == Some(message) => {
                    return format!("{address}: error: it could not be deployed, as said above");
                }
                Address::Account(_) | Address::Certificate(_) => {}
            }
        }
        line(event)
    }
}

fn line(event: &Event) -> String {
    match event {
        Event::ApplyStart { address, resumed: true } => format!("{address}: resuming"),
        Event::ApplyStart { address, resumed: false } => format!("{address}: starting"),
        Event::ApplyProgress { address, step } => format!("{address}: {}", step.describe()),
        Event::ApplyComplete { address, not_after: Some(not_after), .. } => {
            format!("{address}: done, valid until {}", moment(*not_after))
        }
        Event::ApplyComplete { address, .. } => format!("{address}: done"),
        Event::ApplyErrored { address, message, help } => {
            let mut line = format!("{address}: error: {}", escape(message));
            if let Some(help) = help {
                line.push_str("\n  hint: ");
                line.push_str(&escape(help));
            }
            line
        }
        Event::ApplyOvertaken { address, message } => format!("{address}: overtaken: {}", escape(message)),
        Event::DnsRetry { message, .. } => format!("warning: {}", escape(message)),
        Event::Warning { address, message } => format!("{address}: warning: {}", escape(message)),
    }
}

/// One JSON object a line on stdout, the first of which tells the format's version.
#[derive(Debug)]
pub(crate) struct JsonLines {
    ui: Ui,
    clock: fn() -> Timestamp,
}

impl JsonLines {
    /// JSON lines through `ui`; says its version at once.
    pub(crate) fn new(ui: Ui, clock: fn() -> Timestamp) -> Self {
        let lines = Self { ui, clock };
        lines.write(
            serde_json::json!({ "type": "version", "certplan": env!("CARGO_PKG_VERSION"), "ui": "1.0" }),
        );
        lines
    }

    /// What the plan has that no event tells: its errors, warnings, and what waits.
    pub(crate) fn plan(&self, plan: &Plan) {
        let document = PlanDocument::from(plan);
        for diagnostic in &document.diagnostics {
            self.write(typed("diagnostic", diagnostic));
        }
        for deferral in &document.deferred {
            self.write(typed("deferred", deferral));
        }
    }

    /// What a command failed with before or beside all that.
    pub(crate) fn error(&self, error: &CliError) {
        for problem in error.problems() {
            self.write(typed("diagnostic", problem));
        }
        let diagnostic = DiagnosticDocument {
            severity: Severity::Error,
            address: None,
            summary: error.to_string(),
            detail: error.help().map(str::to_owned),
            refused: false,
        };
        self.write(typed("diagnostic", &diagnostic));
    }

    /// What became of it all, by number.
    pub(crate) fn summary(&self, tally: &impl Serialize) {
        self.write(typed("apply_summary", tally));
    }

    /// Writes one object, with the moment as its first member.
    pub(crate) fn write(&self, mut object: serde_json::Value) {
        if let Some(members) = object.as_object_mut() {
            members.shift_insert(0, "@timestamp".to_owned(), (self.clock)().to_string().into());
        }
        // A reader that went away must not stop a run in the middle.
        let _ = self.ui.data(&format!("{object}\n"));
    }
}

fn typed(kind: &str, content: &impl Serialize) -> serde_json::Value {
    let mut object = serde_json::to_value(content).unwrap_or_default();
    if let Some(members) = object.as_object_mut() {
        members.shift_insert(0, "type".to_owned(), kind.into());
    }
    object
}

impl Reporter for JsonLines {
    fn report(&self, event: Event) {
        if let Ok(object) = serde_json::to_value(&event) {
            self.write(object);
        }
    }
}

/// Moving lines on a terminal: one for each certificate with its step, and a total when there are many.
pub(crate) struct Live {
    bars: MultiProgress,
    /// How many are done, where that is more than one line tells.
    total: Option<ProgressBar>,
    open: Mutex<BTreeMap<Address, ProgressBar>>,
    told: Told,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Live {
    /// Lines for a run over `certificates`.
    pub(crate) fn new(certificates: usize) -> Self {
        let bars = MultiProgress::new();
        let total = (certificates > 1).then(|| {
            let total = bars.add(ProgressBar::new(certificates as u64));
            let style = ProgressStyle::with_template("{pos}/{len} certificates {wide_bar} {elapsed}");
            total.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            total
        });
        Self { bars, total, open: Mutex::new(BTreeMap::new()), told: Told::default() }
    }

    /// Ends the moving lines.
    pub(crate) fn finish(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        // An account has no end of its own.
        for bar in open.values().chain(&self.total) {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, address: &Address) -> Option<ProgressBar> {
        let certificate = match address.certificate() {
            Some(name) => Address::Certificate(name.clone()),
            None => address.clone(),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = open.get(&certificate) {
            return Some(bar.clone());
        }
        if open.len() >= LISTED {
            return None;
        }
        let bar = ProgressBar::new_spinner();
        let bar = match &self.total {
            Some(total) => self.bars.insert_before(total, bar),
            None => self.bars.add(bar),
        };
        let style = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(certificate.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        open.insert(certificate, bar.clone());
        Some(bar)
    }

    fn close(&self, address: &Address, last_line: &str) {
        let bar = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        // A terminal that cannot be written to is no reason to stop.
        let _ = self.bars.println(last_line);
        if let (Address::Certificate(_), Some(total)) = (address, &self.total) {
            total.inc(1);
        }
    }
}

impl Reporter for Live {
    fn report(&self, event: Event) {
        match &event {
            Event::ApplyStart { address, .. } => {
                if let Some(bar) = self.bar(address) {
                    bar.set_message("starting");
                }
            }
            Event::ApplyProgress { address, step } => {
                if let Some(bar) = self.bar(address) {
                    bar.set_message(step.describe());
                }
            }
            Event::ApplyComplete { address, .. }
            | Event::ApplyErrored { address, .. }
            | Event::ApplyOvertaken { address, .. } => {
                self.close(address, &self.told.line(&event));
            }
            Event::DnsRetry { .. } | Event::Warning { .. } => {
                let _ = self.bars.println(line(&event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Step;

    #[test]
    fn what_a_deployment_failed_with_is_said_once() {
        let told = Told::default();
        let failed = |address: &str, message: &str| {
            told.line(&Event::ApplyErrored {
                address: address.parse().unwrap(),
                message: message.to_owned(),
                help: Some("look".to_owned()),
            })
        };
        assert_eq!(failed("deployment/a/web", "no"), "deployment/a/web: error: no\n  hint: look");
        assert_eq!(
            failed("certificate/a", "no"),
            "certificate/a: error: it could not be deployed, as said above"
        );
        assert_eq!(failed("certificate/b", "no"), "certificate/b: error: no\n  hint: look");
        assert_eq!(failed("certificate/a", "other"), "certificate/a: error: other\n  hint: look");
    }

    #[test]
    fn moving_lines_are_there_for_one_certificate_and_for_many() {
        for certificates in [0, 1, 2, LISTED + 5] {
            let live = Live::new(certificates);
            for index in 0..certificates.max(1) {
                let address: Address = format!("certificate/c{index}").parse().unwrap();
                live.report(Event::ApplyStart { address: address.clone(), resumed: false });
                live.report(Event::ApplyProgress { address: address.clone(), step: Step::Leased });
                live.report(Event::ApplyComplete { address, fingerprint: None, not_after: None });
            }
            live.report(Event::ApplyProgress {
                address: "account/ca".parse().unwrap(),
                step: Step::AccountReady,
            });
            live.finish();
            assert!(live.open.lock().unwrap().is_empty(), "no line is left behind");
        }
    }
}
