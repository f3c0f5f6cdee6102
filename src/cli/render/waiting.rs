//! What a run still waits for, when nothing was said for a while: a log that stands still looks like a run that hangs.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::apply::Event;
use crate::apply::Step;
use crate::model::Address;

/// How long nothing is said before this is.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Where the open certificates of a run are, and when something was said last.
#[derive(Debug)]
pub(super) struct Waiting {
    said: Instant,
    open: BTreeMap<Address, At>,
}

/// The last step that is known of a certificate.
#[derive(Debug)]
struct At {
    step: &'static str,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(now: Instant) -> Self {
        Self { said: now, open: BTreeMap::new() }
    }

    /// Takes an event in; `said` is whether a line was printed for it.
    pub(super) fn note(&mut self, event: &Event, said: bool, now: Instant) {
        if said {
            self.said = now;
        }
        match event {
            Event::ApplyStart { address, .. } => {
                self.open.insert(address.clone(), At { step: "starting", since: now });
            }
            Event::ApplyProgress { address, step } => {
                let address = match address.certificate() {
                    Some(name) => Address::Certificate(name.clone()),
                    None => address.clone(),
                };
                // An account is done with its first step.
                if matches!(step, Step::AccountReady | Step::AccountUpdated) {
                    self.open.remove(&address);
                }
                if let Some(at) = self.open.get_mut(&address) {
                    *at = At { step: step.describe(), since: now };
                }
            }
            Event::ApplyComplete { address, .. }
            | Event::ApplyErrored { address, .. }
            | Event::ApplyOvertaken { address, .. } => {
                self.open.remove(address);
            }
            _ => {}
        }
    }

    /// The line to be said now; `None` when something was said a short while ago, or nothing is open.
    pub(super) fn line(&mut self, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.said) < SILENCE || self.open.is_empty() {
            return None;
        }
        self.said = now;
        let mut by_step: BTreeMap<&str, Vec<(&Address, Instant)>> = BTreeMap::new();
        for (address, at) in &self.open {
            by_step.entry(at.step).or_default().push((address, at.since));
        }
        let mut parts: Vec<(Instant, String)> = Vec::new();
        for (step, waiting) in by_step {
            let Some(since) = waiting.iter().map(|(_, since)| *since).min() else { continue };
            let ago = now.saturating_duration_since(since).as_secs();
            let who = match waiting.as_slice() {
                [(address, _)] => address.to_string(),
                // Accounts are few, and certificates may be thousands.
                several => {
                    let accounts = several.iter().filter(|(address, _)| address.certificate().is_none());
                    let mut who: Vec<String> = accounts.map(|(address, _)| address.to_string()).collect();
                    match several.len() - who.len() {
                        0 => {}
                        1 => who.push("1 certificate".to_owned()),
                        count => who.push(format!("{count} certificates")),
                    }
                    who.join(" and ")
                }
            };
            parts.push((since, format!("{who} since \"{step}\" {ago} s ago")));
        }
        parts.sort();
        let parts: Vec<String> = parts.into_iter().map(|(_, part)| part).collect();
        Some(format!("still waiting: {}", parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Address {
        Address::Certificate(name.parse().unwrap())
    }

    #[test]
    fn a_silent_run_says_what_it_waits_for_and_for_how_long() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut waiting = Waiting::new(begun);
        assert_eq!(waiting.line(at(60)), None, "nothing is open");
        for name in ["a", "b", "c"] {
            waiting.note(&Event::ApplyStart { address: certificate(name), resumed: false }, true, at(1));
        }
        let step = |name, step| Event::ApplyProgress { address: certificate(name), step };
        waiting.note(&step("a", Step::Propagated), true, at(2));
        waiting.note(&step("b", Step::Propagated), true, at(5));
        waiting.note(&step("c", Step::Finalizing), true, at(7));
        assert_eq!(waiting.line(at(20)), None, "something was said a short while ago");
        assert_eq!(
            waiting.line(at(40)).unwrap(),
            "still waiting: 2 certificates since \"TXT records visible\" 38 s ago, \
             certificate/c since \"finalizing\" 33 s ago"
        );
        assert_eq!(waiting.line(at(60)), None, "not at every look");
        let done = Event::ApplyComplete { address: certificate("a"), fingerprint: None, not_after: None };
        waiting.note(&done, false, at(61));
        let line = waiting.line(at(71)).unwrap();
        assert!(line.contains("certificate/b since") && !line.contains("certificate/a"), "{line}");
    }

    #[test]
    fn an_account_that_a_ca_never_answers_for_is_named() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut waiting = Waiting::new(begun);
        let account: Address = "account/ca".parse().unwrap();
        waiting.note(&Event::ApplyStart { address: account.clone(), resumed: false }, false, begun);
        assert_eq!(waiting.line(at(31)).unwrap(), "still waiting: account/ca since \"starting\" 31 s ago");
        let other: Address = "account/other".parse().unwrap();
        waiting.note(&Event::ApplyStart { address: other.clone(), resumed: false }, false, begun);
        assert_eq!(
            waiting.line(at(62)).unwrap(),
            "still waiting: account/ca and account/other since \"starting\" 62 s ago"
        );
        for address in [account, other] {
            waiting.note(&Event::ApplyProgress { address, step: Step::AccountReady }, true, at(70));
        }
        assert_eq!(waiting.line(at(110)), None);
    }

    #[test]
    fn a_deployment_counts_as_its_certificate() {
        let begun = Instant::now();
        let mut waiting = Waiting::new(begun);
        waiting.note(&Event::ApplyStart { address: certificate("a"), resumed: true }, true, begun);
        let address = Address::Deployment("a".parse().unwrap(), "edge".parse().unwrap());
        waiting.note(&Event::ApplyProgress { address, step: Step::Deployed }, true, begun);
        let line = waiting.line(begun + Duration::from_secs(31)).unwrap();
        assert_eq!(line, "still waiting: certificate/a since \"deployed\" 31 s ago");
    }
}
