use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use certplan_provider::TxtRecord;
use futures::FutureExt;
use futures::StreamExt;
use futures::future;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time;
use tokio::time::Instant;

use super::PollerOptions;
use crate::dns01::client::Answer;
use crate::dns01::client::Exchange;
use crate::dns01::client::Query;
use crate::dns01::client::QueryError;
use crate::model::Fqdn;

/// What a server answered last about a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// It does not have the value.
    Absent {
        /// Other TXT values at the name.
        others: usize,
        /// How long resolvers remember that there is nothing, when the server said so.
        negative_ttl: Option<Duration>,
        /// Since when it is known to be so.
        since: Instant,
    },
    /// It was not asked yet.
    NotAsked,
    /// It gives no usable answer.
    Trouble {
        /// Whether it cannot be reached at all, rather than answering wrongly.
        silent: bool,
        /// What happened last.
        reason: String,
        /// Since when.
        since: Instant,
    },
    /// It has the value.
    Visible,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { others, negative_ttl, since } => {
                match others {
                    0 => write!(f, "no TXT value there for {:.0?}", since.elapsed())?,
                    others => write!(f, "{others} other TXT values there for {:.0?}", since.elapsed())?,
                }
                match negative_ttl {
                    Some(ttl) if *others == 0 => {
                        write!(f, ", and resolvers may remember that for {} s (SOA minimum)", ttl.as_secs())
                    }
                    _ => Ok(()),
                }
            }
            Self::NotAsked => f.write_str("not asked"),
            Self::Trouble { reason, since, .. } => write!(f, "{reason}, for {:.0?}", since.elapsed()),
            Self::Visible => f.write_str("visible"),
        }
    }
}

/// Where a waiter is told: the server's address, the waiter's own index of the value, and what was seen.
pub(super) type Report = mpsc::UnboundedSender<(SocketAddr, usize, Seen)>;

/// The one poller of one server.
#[derive(Debug)]
pub(super) struct Station {
    server: SocketAddr,
    recursive: bool,
    exchange: Arc<dyn Exchange>,
    options: PollerOptions,
    state: Mutex<State>,
    joined: Notify,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<Fqdn, Watched>,
    /// When each name that is not being asked for is due.
    schedule: BTreeSet<(Instant, Fqdn)>,
    /// Since when the server cannot be reached, and how it is seen that it cannot.
    down: Option<(Instant, String)>,
    running: bool,
}

/// A name that somebody waits for.
#[derive(Debug)]
struct Watched {
    wants: Vec<Want>,
    interval: Duration,
    /// Since when the server has given the same kind of answer: none, or a useless one.
    absent_since: Option<Instant>,
    trouble_since: Option<Instant>,
}

#[derive(Debug)]
struct Want {
    value: String,
    index: usize,
    report: Report,
}

impl Station {
    pub(super) fn new(
        server: SocketAddr,
        recursive: bool,
        exchange: Arc<dyn Exchange>,
        options: PollerOptions,
    ) -> Self {
        Self { server, recursive, exchange, options, state: Mutex::default(), joined: Notify::new() }
    }

    /// Watches for a value until it was seen or the receiver is gone.
    pub(super) fn want(self: &Arc<Self>, record: &TxtRecord, index: usize, report: Report) {
        let mut state = self.state();
        if let Some((since, reason)) = &state.down {
            let seen = Seen::Trouble { silent: true, reason: reason.clone(), since: *since };
            let _ = report.send((self.server, index, seen));
        }
        let want = Want { value: record.value.clone(), index, report };
        match state.names.get_mut(&record.name) {
            Some(watched) => watched.wants.push(want),
            None => {
                let watched = Watched {
                    wants: vec![want],
                    interval: self.options.interval,
                    absent_since: None,
                    trouble_since: None,
                };
                state.names.insert(record.name.clone(), watched);
                state.schedule.insert((Instant::now(), record.name.clone()));
            }
        }
        if !std::mem::replace(&mut state.running, true) {
            tokio::spawn(Arc::clone(self).work());
        } else {
            self.joined.notify_one();
        }
    }

    /// Asks as long as somebody waits. After a panic in here those who wait are let go, and the next one begins anew.
    async fn work(self: Arc<Self>) {
        if AssertUnwindSafe(Arc::clone(&self).run()).catch_unwind().await.is_err() {
            *self.state() = State::default();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut asked = FuturesUnordered::new();
        loop {
            let next = loop {
                match self.next(asked.len()) {
                    Next::Ask(name) => asked.push(self.ask(name)),
                    Next::At(at) => break Some(at),
                    Next::Later => break None,
                    Next::Done => return,
                }
            };
            let due = async {
                match next {
                    Some(at) => time::sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                Some((name, outcome)) = asked.next(), if !asked.is_empty() => self.deliver(&name, outcome),
                () = due => {}
                () = self.joined.notified() => {}
            }
        }
    }

    fn next(&self, asked: usize) -> Next {
        let mut state = self.state();
        if state.names.is_empty() && asked == 0 {
            state.running = false;
            return Next::Done;
        }
        // A server that does not answer is tried with one question at a time.
        let limit = if state.down.is_some() { 1 } else { self.options.concurrency.max(1) };
        if asked >= limit {
            return Next::Later;
        }
        loop {
            let Some((due, name)) = state.schedule.first().cloned() else { return Next::Later };
            let wanted = state.names.get_mut(&name).is_some_and(|watched| {
                watched.wants.retain(|want| !want.report.is_closed());
                !watched.wants.is_empty()
            });
            if !wanted {
                state.schedule.pop_first();
                state.names.remove(&name);
                if state.names.is_empty() && asked == 0 {
                    state.running = false;
                    return Next::Done;
                }
            } else if due > Instant::now() {
                return Next::At(due);
            } else {
                state.schedule.pop_first();
                return Next::Ask(name);
            }
        }
    }

    async fn ask(&self, name: Fqdn) -> (Fqdn, Result<Answer, QueryError>) {
        let query =
            Query { recursion_desired: self.recursive, ..Query::authoritative(&name, RecordType::TXT) };
        // A panic is the failure of this one question: nobody waits for a poller that is gone.
        let outcome = AssertUnwindSafe(self.exchange.ask(self.server, &query)).catch_unwind().await;
        let stumbled = |_| {
            let reason = "something that certplan stumbles over".to_owned();
            Err(QueryError::Malformed { server: self.server, reason })
        };
        (name, outcome.unwrap_or_else(stumbled))
    }

    fn deliver(&self, name: &Fqdn, outcome: Result<Answer, QueryError>) {
        let now = Instant::now();
        let mut state = self.state();
        let answer = match outcome {
            Ok(answer) => {
                state.down = None;
                answer
            }
            Err(error) => {
                // What keeps one question from being answered keeps them all.
                let since = state.down.as_ref().map_or(now, |(since, _)| *since);
                let reason = error.to_string();
                let seen = Seen::Trouble { silent: true, reason: reason.clone(), since };
                state.down = Some((since, reason));
                for want in state.names.values().flat_map(|watched| &watched.wants) {
                    let _ = want.report.send((self.server, want.index, seen.clone()));
                }
                self.reschedule(&mut state, name, now);
                return;
            }
        };
        if let Some(watched) = state.names.get_mut(name) {
            match self.read(name, &answer) {
                Ok(values) => {
                    watched.trouble_since = None;
                    let since = *watched.absent_since.get_or_insert(now);
                    watched.wants.retain(|want| {
                        let seen = if values.contains(&want.value) {
                            Seen::Visible
                        } else {
                            let negative_ttl = answer.negative_ttl();
                            Seen::Absent { others: values.len(), negative_ttl, since }
                        };
                        let visible = seen == Seen::Visible;
                        let _ = want.report.send((self.server, want.index, seen));
                        !visible
                    });
                }
                Err(reason) => {
                    let since = *watched.trouble_since.get_or_insert(now);
                    let seen = Seen::Trouble { silent: false, reason, since };
                    for want in &watched.wants {
                        let _ = want.report.send((self.server, want.index, seen.clone()));
                    }
                }
            }
        }
        self.reschedule(&mut state, name, now);
    }

    /// The values that the server has at a name, or why its answer says nothing.
    fn read(&self, name: &Fqdn, answer: &Answer) -> Result<Vec<String>, String> {
        match answer.code() {
            ResponseCode::NoError | ResponseCode::NXDomain if self.recursive => Ok(answer.any_txt()),
            ResponseCode::NoError | ResponseCode::NXDomain if answer.is_authoritative() => {
                Ok(answer.txt(name))
            }
            ResponseCode::NoError | ResponseCode::NXDomain => Err(match answer.referral() {
                Some(zone) => format!("it refers to the servers of `{zone}`"),
                None => {
                    "its answer is not authoritative; something between may answer in its place".to_owned()
                }
            }),
            code => Err(format!("it answers {code}")),
        }
    }

    fn reschedule(&self, state: &mut State, name: &Fqdn, now: Instant) {
        let Some(watched) = state.names.get_mut(name) else { return };
        if watched.wants.is_empty() {
            state.names.remove(name);
            return;
        }
        let due = now + watched.interval;
        watched.interval = (watched.interval * 2).min(self.options.interval_limit);
        state.schedule.insert((due, name.clone()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a station does next.
enum Next {
    Ask(Fqdn),
    At(Instant),
    Done,
    Later,
}
