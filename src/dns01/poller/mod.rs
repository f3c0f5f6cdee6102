mod station;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use certplan_provider::Context;
use certplan_provider::TxtRecord;
use tokio::sync::mpsc;
use tokio::time;
use tokio::time::Instant;

pub use self::station::Seen;
use self::station::Station;
use self::verdict::Table;
use self::verdict::Target;
use super::authority::ServersError;
use super::authority::Surveyor;
use super::client::Exchange;
use super::providers::Providers;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Propagation;
use crate::model::Zone;

/// How a [`Poller`] waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollerOptions {
    /// How soon a server is asked again for a value that it lacks; it doubles each time.
    pub interval: Duration,
    /// How far that grows.
    pub interval_limit: Duration,
    /// How many questions one server gets at a time.
    pub concurrency: usize,
    /// After this long without one answer, a server is left out, with a warning, if others have the values.
    pub silent_after: Duration,
    /// How long is waited when the context has no deadline.
    pub give_up: Duration,
}

impl Default for PollerOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            interval_limit: Duration::from_secs(2),
            concurrency: 32,
            silent_after: Duration::from_secs(20),
            give_up: Duration::from_secs(600),
        }
    }
}

/// Waits until TXT values can be seen by a CA, as each provider's [`Propagation`] says.
///
/// Servers are asked directly, never through a cache, and only after the provider confirmed the write. All callers
/// that wait for one server share its poller, so that a name that several wait for is asked for once.
///
/// # When values count as visible
///
/// Every server of the zone has to answer with every value, on all its addresses. Two things are a [`Warning`] only:
///
/// - One address family of a server cannot be reached from here, and all addresses of the other have the values.
/// - A server has given no usable answer at all for [`PollerOptions::silent_after`], and another has the values. Such
///   a server (lame, or down) does not serve the CA either, whose resolver goes on to the next.
#[derive(Debug)]
pub struct Poller {
    providers: Arc<Providers>,
    exchange: Arc<dyn Exchange>,
    surveyor: Arc<dyn Surveyor>,
    system: Vec<SocketAddr>,
    options: PollerOptions,
    stations: Mutex<BTreeMap<(SocketAddr, bool), Arc<Station>>>,
}

impl Poller {
    /// A poller that finds zones' servers by the system's resolvers.
    pub fn new(
        providers: Arc<Providers>,
        exchange: Arc<dyn Exchange>,
        surveyor: Arc<dyn Surveyor>,
        system: Vec<SocketAddr>,
    ) -> Self {
        Self::with_options(providers, exchange, surveyor, system, PollerOptions::default())
    }

    /// The same with other waiting times.
    pub fn with_options(
        providers: Arc<Providers>,
        exchange: Arc<dyn Exchange>,
        surveyor: Arc<dyn Surveyor>,
        system: Vec<SocketAddr>,
        options: PollerOptions,
    ) -> Self {
        Self { providers, exchange, surveyor, system, options, stations: Mutex::default() }
    }

    /// Returns when the values, which the provider has confirmed, can be seen.
    ///
    /// It gives up at the context's deadline, or after [`PollerOptions::give_up`]. A fixed wait begins with the call:
    /// all whose values were in one change wait at the same time.
    pub async fn wait_visible(
        &self,
        context: &Context,
        provider: &Name,
        zone: &Zone,
        records: &[TxtRecord],
    ) -> Result<Vec<Warning>, PropagationError> {
        let configured = self
            .providers
            .get(provider)
            .ok_or_else(|| PropagationError::UnknownProvider { provider: provider.clone() })?;
        let deadline = Instant::now() + context.remaining().unwrap_or(self.options.give_up);
        let waiting = async {
            match &configured.propagation {
                Propagation::Provider => Ok(Vec::new()),
                Propagation::Wait(duration) => {
                    time::sleep(*duration).await;
                    Ok(Vec::new())
                }
                Propagation::Resolvers(resolvers) => {
                    let targets = resolvers.iter().copied().map(Target::resolver).collect();
                    self.watch(&zone.name, targets, records, true, deadline).await
                }
                Propagation::Authoritative => {
                    let servers = self.survey(&zone.name, deadline).await?;
                    let targets = servers
                        .permitted(configured.allow_private_servers)?
                        .into_iter()
                        .map(Target::server)
                        .collect();
                    self.watch(&zone.name, targets, records, false, deadline).await
                }
            }
        };
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(PropagationError::Cancelled { zone: zone.name.clone() }),
            outcome = waiting => outcome,
        }
    }

    /// Finds the zone's servers, again while resolvers fail.
    async fn survey(
        &self,
        zone: &Fqdn,
        deadline: Instant,
    ) -> Result<Arc<super::ZoneServers>, PropagationError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.surveyor.servers(zone, &self.system).await {
                Err(ServersError::Resolvers { .. })
                    if attempts < SURVEYS && Instant::now() + self.options.interval_limit < deadline =>
                {
                    time::sleep(self.options.interval_limit).await;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn watch(
        &self,
        zone: &Fqdn,
        targets: Vec<Target>,
        records: &[TxtRecord],
        recursive: bool,
        deadline: Instant,
    ) -> Result<Vec<Warning>, PropagationError> {
        let started = Instant::now();
        let (report, mut reports) = mpsc::unbounded_channel();
        for address in targets.iter().flat_map(|target| &target.addresses) {
            let station = self.station(*address, recursive);
            for (index, record) in records.iter().enumerate() {
                station.want(record, index, report.clone());
            }
        }
        // With nobody left who could report anything, waiting is over.
        drop(report);
        let mut polled = true;
        let mut table = Table::new(targets, records);
        loop {
            let now = Instant::now();
            if let Some(warnings) = table.verdict(now, self.options.silent_after) {
                return Ok(warnings);
            }
            if now >= deadline || !polled {
                return Err(PropagationError::NotVisible {
                    zone: zone.clone(),
                    waited: now - started,
                    lacking: table.lacking(),
                });
            }
            // A silent server may become one to leave out without saying anything.
            let wake = table.patience_ends(now, self.options.silent_after);
            tokio::select! {
                report = reports.recv() => match report {
                    Some((address, index, seen)) => table.enter(address, index, seen),
                    None => polled = false,
                },
                () = time::sleep_until(wake.unwrap_or(deadline).min(deadline)) => {}
            }
            while let Ok((address, index, seen)) = reports.try_recv() {
                table.enter(address, index, seen);
            }
        }
    }

    fn station(&self, server: SocketAddr, recursive: bool) -> Arc<Station> {
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(stations.entry((server, recursive)).or_insert_with(|| {
            Arc::new(Station::new(server, recursive, Arc::clone(&self.exchange), self.options))
        }))
    }
}

/// How often resolvers are asked for a zone's servers before that is an error.
const SURVEYS: u32 = 3;

/// What was not as it should be although the values can be seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Warning {
    /// One address family of a server cannot be reached from here.
    FamilyUnreachable {
        /// The server.
        server: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What happened.
        reason: String,
    },
    /// A server gave no usable answer.
    ServerSilent {
        /// The server.
        server: String,
        /// What happened.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FamilyUnreachable { server, family, reason } => {
                write!(f, "name server `{server}` cannot be asked over {family} from here: {reason}")
            }
            Self::ServerSilent { server, reason } => {
                write!(f, "name server `{server}` does not answer for the zone and is left out: {reason}")
            }
        }
    }
}

/// A value that a server did not have at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// The server's name.
    pub server: String,
    /// Its address.
    pub address: SocketAddr,
    /// The value that it lacks.
    pub record: TxtRecord,
    /// What it answered last.
    pub seen: Seen,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, address, record, seen } = self;
        write!(
            f,
            "`{server}` ({address}) lacks `{}` at `{}`: {seen}",
            record.value.escape_debug(),
            record.name
        )
    }
}

/// Why values cannot be seen.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PropagationError {
    /// The run is to end.
    #[error("the run was cancelled while the values in `{zone}` were not yet seen everywhere")]
    Cancelled {
        /// The zone.
        zone: Fqdn,
    },
    /// Some servers did not get the values in time.
    #[error("after {waited:.0?} not every name server of `{zone}` has the values: {}", some_of(lacking))]
    NotVisible {
        /// The zone.
        zone: Fqdn,
        /// How long was waited.
        waited: Duration,
        /// What is lacking where.
        lacking: Vec<Lacking>,
    },
    /// The zone's servers are not known.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// No such provider is configured.
    #[error("DNS provider `{provider}` is not in the configuration")]
    UnknownProvider {
        /// Its name.
        provider: Name,
    },
}

/// How many lacking values an error lists.
const LACKING_IN_MESSAGE: usize = 4;

fn some_of(lacking: &[Lacking]) -> String {
    let mut text =
        lacking.iter().take(LACKING_IN_MESSAGE).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if lacking.len() > LACKING_IN_MESSAGE {
        text.push_str(&format!("; and {} more", lacking.len() - LACKING_IN_MESSAGE));
    }
    text
}

#[cfg(test)]
mod tests;
