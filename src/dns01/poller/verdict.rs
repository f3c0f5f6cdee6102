use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use certplan_provider::TxtRecord;
use tokio::time::Instant;

use super::Lacking;
use super::Warning;
use super::station::Seen;
use crate::dns01::authority::NameServer;

/// A server whose every address has to have the values.
#[derive(Debug, Clone)]
pub(super) struct Target {
    label: String,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Target {
    pub(super) fn server(server: NameServer) -> Self {
        Self { label: server.name.to_string(), addresses: server.addresses }
    }

    pub(super) fn resolver(address: SocketAddr) -> Self {
        Self { label: address.ip().to_string(), addresses: vec![address] }
    }

    fn family(&self, v6: bool) -> impl Iterator<Item = &SocketAddr> {
        self.addresses.iter().filter(move |address| address.is_ipv6() == v6)
    }
}

/// What one caller knows about its values at every address.
#[derive(Debug)]
pub(super) struct Table<'a> {
    targets: Vec<Target>,
    records: &'a [TxtRecord],
    seen: BTreeMap<SocketAddr, Vec<Seen>>,
}

/// What is known about one address, or one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// There is none.
    Nothing,
    /// It answers, and some value is not there yet.
    Lacking,
    /// It gives no usable answer.
    Trouble { silent: bool, reason: String, since: Instant },
    /// All values are there.
    Visible,
}

impl<'a> Table<'a> {
    pub(super) fn new(targets: Vec<Target>, records: &'a [TxtRecord]) -> Self {
        let seen = targets
            .iter()
            .flat_map(|target| &target.addresses)
            .map(|address| (*address, vec![Seen::NotAsked; records.len()]))
            .collect();
        Self { targets, records, seen }
    }

    pub(super) fn enter(&mut self, address: SocketAddr, index: usize, seen: Seen) {
        if let Some(slot) = self.seen.get_mut(&address).and_then(|row| row.get_mut(index)) {
            *slot = seen;
        }
    }

    /// Returns the warnings when the values can be seen.
    pub(super) fn verdict(&self, now: Instant, silent_after: Duration) -> Option<Vec<Warning>> {
        let mut warnings = Vec::new();
        let mut visible = self.records.is_empty();
        for target in &self.targets {
            let (v4, v6) = (self.family(target, false), self.family(target, true));
            match (v4, v6) {
                (State::Lacking, _) | (_, State::Lacking) => return None,
                (State::Visible, State::Visible | State::Nothing) | (State::Nothing, State::Visible) => {
                    visible = true;
                }
                (State::Visible, State::Trouble { silent, reason, since }) => {
                    (silent || now >= since + silent_after).then_some(())?;
                    visible = true;
                    let server = target.label.clone();
                    warnings.push(Warning::FamilyUnreachable { server, family: "IPv6", reason });
                }
                (State::Trouble { silent, reason, since }, State::Visible) => {
                    (silent || now >= since + silent_after).then_some(())?;
                    visible = true;
                    let server = target.label.clone();
                    warnings.push(Warning::FamilyUnreachable { server, family: "IPv4", reason });
                }
                (State::Trouble { reason, since, .. }, _)
                | (State::Nothing, State::Trouble { reason, since, .. }) => {
                    (now >= since + silent_after).then_some(())?;
                    warnings.push(Warning::ServerSilent { server: target.label.clone(), reason });
                }
                (State::Nothing, State::Nothing) => {}
            }
        }
        visible.then_some(warnings)
    }

    /// When the next server that is in trouble will have been so for long enough.
    pub(super) fn patience_ends(&self, now: Instant, silent_after: Duration) -> Option<Instant> {
        self.seen
            .keys()
            .filter_map(|address| match self.address(address) {
                State::Trouble { since, .. } => Some(since + silent_after),
                _ => None,
            })
            .filter(|at| *at > now)
            .min()
    }

    /// What is lacking where.
    pub(super) fn lacking(&self) -> Vec<Lacking> {
        let mut lacking = Vec::new();
        for target in &self.targets {
            for address in &target.addresses {
                let row = self.seen.get(address).into_iter().flatten();
                lacking.extend(row.zip(self.records).filter(|(seen, _)| **seen != Seen::Visible).map(
                    |(seen, record)| Lacking {
                        server: target.label.clone(),
                        address: *address,
                        record: record.clone(),
                        seen: seen.clone(),
                    },
                ));
            }
        }
        lacking
    }

    fn family(&self, target: &Target, v6: bool) -> State {
        let mut state = State::Nothing;
        for address in target.family(v6) {
            state = match (state, self.address(address)) {
                (State::Lacking, _) | (_, State::Lacking) => State::Lacking,
                (trouble @ State::Trouble { .. }, State::Visible) => trouble,
                (_, next) => next,
            };
        }
        state
    }

    fn address(&self, address: &SocketAddr) -> State {
        let mut state = State::Visible;
        for seen in self.seen.get(address).into_iter().flatten() {
            match seen {
                Seen::Absent { .. } | Seen::NotAsked => return State::Lacking,
                Seen::Trouble { silent, reason, since } => {
                    state = State::Trouble { silent: *silent, reason: reason.clone(), since: *since };
                }
                Seen::Visible => {}
            }
        }
        state
    }
}
