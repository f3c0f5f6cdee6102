use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::time;

use super::authority::ServersError;
use super::authority::Surveyor;
use super::authority::first_answer;
use super::client::Answer;
use super::client::Exchange;
use super::client::Query;
use crate::model::Fqdn;

/// Looks for CNAMEs: what [`locate`](super::locate()) knows of DNS.
#[async_trait]
pub trait Lookup: Send + Sync + fmt::Debug {
    /// Returns what stands at a name.
    async fn alias(&self, name: &Fqdn, path: Path<'_>) -> Result<Alias, LookupError>;
}

/// Whom to ask about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path<'a> {
    /// The servers of the zone that the name is in.
    Authoritative {
        /// The zone.
        zone: &'a Fqdn,
        /// Whether they may have private addresses.
        allow_private: bool,
    },
    /// These resolvers; about a name in nobody's zone, also the system's where none of these has an answer.
    Resolvers {
        /// The zone of ours that the name is in, if it is in one.
        zone: Option<&'a Fqdn>,
        /// The resolvers; `None` for those of the system.
        resolvers: Option<&'a [SocketAddr]>,
        /// Whether the zone's servers may have private addresses.
        allow_private: bool,
    },
}

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alias {
    /// The zone's servers refer to those of this zone below it: a value written above it is never seen.
    Delegated(Fqdn),
    /// The name does not exist.
    Missing,
    /// No CNAME.
    None,
    /// A CNAME to this name, as the server wrote it.
    To(String),
}

/// Asks DNS servers.
///
/// A resolver that is asked for a challenge's name before the value is there may remember for hours that the name
/// does not exist, and the CA may use the same resolver. So names in our own zones are asked for at the zone's servers
/// wherever those can be reached, or at a resolver that speaks for the zone itself; only then at a resolver.
#[derive(Debug)]
pub struct Resolver {
    exchange: Arc<dyn Exchange>,
    surveyor: Arc<dyn Surveyor>,
    system: Vec<SocketAddr>,
    memory: Mutex<BTreeMap<Fqdn, Reached>>,
}

/// Which server of a zone answered last, or that a resolver is to be asked.
type Reached = Option<SocketAddr>;

impl Resolver {
    /// A resolver that uses these as the system's resolvers.
    pub fn new(exchange: Arc<dyn Exchange>, surveyor: Arc<dyn Surveyor>, system: Vec<SocketAddr>) -> Self {
        Self { exchange, surveyor, system, memory: Mutex::default() }
    }

    async fn at_servers(
        &self,
        name: &Fqdn,
        zone: &Fqdn,
        via: &[SocketAddr],
        allow_private: bool,
    ) -> Result<Alias, LookupError> {
        let servers = self.surveyor.servers(zone, via).await?.permitted(allow_private)?;
        let mut addresses: Vec<SocketAddr> =
            servers.into_iter().flat_map(|server| server.addresses).collect();
        if let Some(good) = self.reached(zone).flatten() {
            addresses.sort_by_key(|address| *address != good);
        }
        let query = Query::authoritative(name, RecordType::CNAME);
        let outcome = self.race(&addresses, &query).await;
        let reached = outcome.as_ref().ok().map(|(address, _)| *address);
        self.remember(zone, reached);
        outcome.map(|(_, answer)| read(&answer, name, zone)).map_err(|reasons| LookupError::Servers {
            name: name.clone(),
            zone: zone.clone(),
            reasons,
        })
    }

    /// Asks servers one after the other, the next one when one fails or takes long, until one has an answer.
    async fn race(&self, servers: &[SocketAddr], query: &Query) -> Result<(SocketAddr, Answer), Vec<String>> {
        let mut waiting = servers.iter().copied();
        let mut asked = FuturesUnordered::new();
        let mut reasons = Vec::new();
        loop {
            if let Some(server) = waiting.next() {
                asked.push(async move { (server, self.exchange.ask(server, query).await) });
            } else if asked.is_empty() {
                return Err(reasons);
            }
            let patience = if waiting.len() == 0 { Duration::MAX } else { STAGGER };
            match time::timeout(patience, asked.next()).await {
                Ok(Some((server, Ok(answer)))) if speaks(&answer) => return Ok((server, answer)),
                Ok(Some((server, Ok(answer)))) => {
                    reasons.push(format!("{server} answered {} and not for the zone", answer.code()));
                }
                Ok(Some((_, Err(error)))) => reasons.push(error.to_string()),
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn at_resolvers(
        &self,
        name: &Fqdn,
        zone: Option<&Fqdn>,
        via: &[SocketAddr],
        allow_private: bool,
    ) -> Result<Alias, LookupError> {
        if let Some(zone) = zone
            && self.reached(zone) != Some(None)
        {
            if !self.is_served_by(zone, via).await {
                let direct = self.at_servers(name, zone, via, allow_private);
                if let Ok(Ok(alias)) = time::timeout(DIRECT_TIMEOUT, direct).await {
                    return Ok(alias);
                }
            }
            self.remember(zone, None);
        }
        let query = Query::recursive(name, RecordType::CNAME);
        let answer = first_answer(&*self.exchange, via, &query)
            .await
            .map_err(|reasons| LookupError::Resolvers { name: name.clone(), reasons })?;
        Ok(read(&answer, name, name))
    }

    /// Whether the resolvers hold the zone themselves, so that they have nothing to remember about it.
    async fn is_served_by(&self, zone: &Fqdn, resolvers: &[SocketAddr]) -> bool {
        let query = Query::recursive(zone, RecordType::SOA);
        first_answer(&*self.exchange, resolvers, &query)
            .await
            .is_ok_and(|answer| answer.is_authoritative() && !answer.is_negative())
    }

    fn remember(&self, zone: &Fqdn, reached: Reached) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(zone.clone(), reached);
    }

    fn reached(&self, zone: &Fqdn) -> Option<Reached> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(zone).copied()
    }
}

#[async_trait]
impl Lookup for Resolver {
    async fn alias(&self, name: &Fqdn, path: Path<'_>) -> Result<Alias, LookupError> {
        match path {
            Path::Authoritative { zone, allow_private } => {
                self.at_servers(name, zone, &self.system, allow_private).await
            }
            Path::Resolvers { zone: None, resolvers: Some(resolvers), allow_private } => {
                let known = self.system.iter().filter(|system| !resolvers.contains(system));
                let via: Vec<SocketAddr> = resolvers.iter().chain(known).copied().collect();
                self.at_resolvers(name, None, &via, allow_private).await
            }
            Path::Resolvers { zone, resolvers, allow_private } => {
                self.at_resolvers(name, zone, resolvers.unwrap_or(&self.system), allow_private).await
            }
        }
    }
}

/// Whether a server has something to say about its zone: an answer of its own, or a referral.
fn speaks(answer: &Answer) -> bool {
    let settled = matches!(answer.code(), ResponseCode::NoError | ResponseCode::NXDomain);
    settled && (answer.is_authoritative() || answer.referral().is_some())
}

fn read(answer: &Answer, name: &Fqdn, zone: &Fqdn) -> Alias {
    if let Some(target) = answer.cname(name) {
        return Alias::To(target);
    }
    if let Some(child) = answer.referral()
        && !answer.is_authoritative()
        && child != *zone
        && child.is_within(zone)
        && name.is_within(&child)
    {
        return Alias::Delegated(child);
    }
    if answer.code() == ResponseCode::NXDomain { Alias::Missing } else { Alias::None }
}

/// Why it is not known what stands at a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// No resolver gave an answer.
    #[error("no resolver answered for `{name}`: {}", reasons.join("; "))]
    Resolvers {
        /// The name.
        name: Fqdn,
        /// What each resolver did.
        reasons: Vec<String>,
    },
    /// None of the zone's servers gave an answer.
    #[error("no name server of `{zone}` answered for `{name}`: {}", reasons.join("; "))]
    Servers {
        /// The name.
        name: Fqdn,
        /// The zone.
        zone: Fqdn,
        /// What each server did.
        reasons: Vec<String>,
    },
    /// The zone's servers are not known.
    #[error(transparent)]
    Unknown(#[from] ServersError),
}

/// How long one server of a zone is waited for before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(300);

/// How long a zone's servers are tried where a resolver is configured to be asked instead.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
