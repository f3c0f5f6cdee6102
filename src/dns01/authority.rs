use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use async_trait::async_trait;
use certplan_provider::Once;
use certplan_provider::is_link_local;
use futures::future;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::client::Answer;
use super::client::Exchange;
use super::client::Query;
use super::resolv_conf::DNS_PORT;
use crate::model::Fqdn;

/// Finds the servers of a zone.
#[async_trait]
pub trait Surveyor: Send + Sync + fmt::Debug {
    /// Returns the zone's authoritative servers with their addresses, as the resolvers know them.
    async fn servers(&self, zone: &Fqdn, resolvers: &[SocketAddr]) -> Result<Arc<ZoneServers>, ServersError>;
}

/// The authoritative servers of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneServers {
    /// The zone's apex.
    pub zone: Fqdn,
    /// The servers, by name.
    pub servers: Vec<NameServer>,
}

/// One authoritative server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameServer {
    /// Its name in the zone's NS records.
    pub name: Fqdn,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<SocketAddr>,
}

impl ZoneServers {
    /// The same servers without private, loopback and link-local addresses, unless those are allowed.
    ///
    /// Who can write a zone's NS records must not be able to make certplan send packets into the network it runs in.
    pub fn permitted(&self, allow_private: bool) -> Result<Vec<NameServer>, ServersError> {
        let servers: Vec<NameServer> = self
            .servers
            .iter()
            .map(|server| NameServer {
                name: server.name.clone(),
                addresses: server
                    .addresses
                    .iter()
                    .filter(|address| allow_private || is_public(address.ip()))
                    .copied()
                    .collect(),
            })
            .collect();
        match servers.iter().zip(&self.servers).find(|(permitted, _)| permitted.addresses.is_empty()) {
            Some((_, server)) => Err(ServersError::Private {
                zone: self.zone.clone(),
                server: server.name.clone(),
                addresses: server.addresses.iter().map(SocketAddr::ip).collect(),
            }),
            None => Ok(servers),
        }
    }
}

/// Finds servers by asking resolvers for a zone's NS records and for the servers' addresses, once per zone.
///
/// Only names of zones and servers are asked about, never the name of a challenge: a resolver that was asked for that
/// too early would remember that it does not exist.
#[derive(Debug)]
pub struct Authorities {
    exchange: Arc<dyn Exchange>,
    port: u16,
    memory: Mutex<BTreeMap<(Fqdn, Vec<SocketAddr>), Found>>,
}

/// One survey, made once however many wait for it.
type Found = Arc<Once<Arc<ZoneServers>, ServersError>>;

impl Authorities {
    /// A surveyor that takes servers to listen on port 53.
    pub fn new(exchange: Arc<dyn Exchange>) -> Self {
        Self::on_port(exchange, DNS_PORT)
    }

    /// A surveyor that takes servers to listen on another port, as a sandbox without privileges has it.
    pub fn on_port(exchange: Arc<dyn Exchange>, port: u16) -> Self {
        Self { exchange, port, memory: Mutex::default() }
    }

    async fn survey(&self, zone: &Fqdn, resolvers: &[SocketAddr]) -> Result<ZoneServers, ServersError> {
        let answer = first_answer(&*self.exchange, resolvers, &Query::recursive(zone, RecordType::NS))
            .await
            .map_err(|reasons| ServersError::Resolvers { name: zone.clone(), zone: zone.clone(), reasons })?;
        let mut names = answer.ns(zone);
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(ServersError::NotDelegated { zone: zone.clone() });
        }
        let servers = future::try_join_all(names.into_iter().map(|name| async move {
            let (v4, v6) = future::join(
                self.addresses(&name, RecordType::A, resolvers),
                self.addresses(&name, RecordType::AAAA, resolvers),
            )
            .await;
            // One family is enough: a resolver that fails for AAAA records is a common defect.
            let addresses = match (v4, v6) {
                (Ok(v4), Ok(v6)) => [v4, v6].concat(),
                (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => found,
                (Err(reasons), _) | (_, Err(reasons)) => {
                    return Err(ServersError::Resolvers { zone: zone.clone(), name, reasons });
                }
            };
            Ok(NameServer { name, addresses })
        }))
        .await?;
        // A server without an address cannot be asked by anybody.
        let servers: Vec<NameServer> =
            servers.into_iter().filter(|server| !server.addresses.is_empty()).collect();
        if servers.is_empty() {
            return Err(ServersError::NoAddress { zone: zone.clone() });
        }
        Ok(ZoneServers { zone: zone.clone(), servers })
    }

    async fn addresses(
        &self,
        host: &Fqdn,
        record_type: RecordType,
        resolvers: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, Vec<String>> {
        let answer = first_answer(&*self.exchange, resolvers, &Query::recursive(host, record_type)).await?;
        let mut addresses: Vec<SocketAddr> =
            answer.addresses().into_iter().map(|address| SocketAddr::new(address, self.port)).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

#[async_trait]
impl Surveyor for Authorities {
    async fn servers(&self, zone: &Fqdn, resolvers: &[SocketAddr]) -> Result<Arc<ZoneServers>, ServersError> {
        let found = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(memory.entry((zone.clone(), resolvers.to_vec())).or_default())
        };
        let servers =
            found.get_or_try_init(|| async { self.survey(zone, resolvers).await.map(Arc::new) }).await?;
        Ok(Arc::clone(servers))
    }
}

/// Why the servers of a zone are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServersError {
    /// The zone's servers have names without addresses.
    #[error("the name servers of `{zone}` have no addresses")]
    NoAddress {
        /// The zone.
        zone: Fqdn,
    },
    /// DNS knows no such zone.
    #[error(
        "`{zone}` has no name servers in DNS: it is not delegated, or only within another network; \
         delegate it at its parent, or set `propagation` for the provider"
    )]
    NotDelegated {
        /// The zone.
        zone: Fqdn,
    },
    /// A server has only addresses that are not to be asked.
    #[error(
        "the name server `{server}` of `{zone}` has only private addresses ({}): allow them with \
         `allow_private_servers: true` at the provider, or set `propagation: {{ resolvers: [...] }}`",
        list(addresses)
    )]
    Private {
        /// The zone.
        zone: Fqdn,
        /// The server.
        server: Fqdn,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// No resolver gave an answer.
    #[error("no resolver answered for `{name}`: {}", reasons.join("; "))]
    Resolvers {
        /// The zone whose servers were looked for.
        zone: Fqdn,
        /// The name that was asked about.
        name: Fqdn,
        /// What each resolver did.
        reasons: Vec<String>,
    },
}

/// Asks resolvers one after the other; the first that gives an answer wins, be it that there is nothing.
pub(super) async fn first_answer(
    exchange: &dyn Exchange,
    resolvers: &[SocketAddr],
    query: &Query,
) -> Result<Answer, Vec<String>> {
    let mut reasons = Vec::new();
    for resolver in resolvers {
        match exchange.ask(*resolver, query).await {
            Ok(answer) if matches!(answer.code(), ResponseCode::NoError | ResponseCode::NXDomain) => {
                return Ok(answer);
            }
            Ok(answer) => reasons.push(format!("{resolver} answered {}", answer.code())),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    if reasons.is_empty() {
        reasons.push("there is none".to_owned());
    }
    Err(reasons)
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether an address may be asked without being allowed: not one of this machine, of a private network or of a link.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || is_link_local(address)
                || v4.is_unspecified()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b)))
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || is_link_local(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns01::testing::DnsServer;
    use crate::dns01::testing::name;
    use crate::dns01::testing::quick_client;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["192.0.32.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "2606:4700::1111"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn servers_are_found_with_all_their_addresses() {
        let server = DnsServer::start().await;
        server.add("example.test", "NS", "ns2.example.test");
        server.add("example.test", "NS", "ns1.example.test");
        server.add("ns1.example.test", "A", "192.0.32.1");
        server.add("ns1.example.test", "AAAA", "2001:db8::1");
        server.add("ns2.example.test", "A", "192.0.32.2");
        let authorities = Authorities::on_port(quick_client(), 5300);
        let found = authorities.servers(&name("example.test"), &[server.address()]).await.unwrap();
        assert_eq!(
            found.servers,
            [
                NameServer {
                    name: name("ns1.example.test"),
                    addresses: vec![
                        "192.0.32.1:5300".parse().unwrap(),
                        "[2001:db8::1]:5300".parse().unwrap()
                    ],
                },
                NameServer {
                    name: name("ns2.example.test"),
                    addresses: vec!["192.0.32.2:5300".parse().unwrap()]
                },
            ]
        );
        let asked = server.questions();
        authorities.servers(&name("example.test"), &[server.address()]).await.unwrap();
        assert_eq!(server.questions(), asked, "a zone is surveyed once");
    }

    #[tokio::test]
    async fn a_zone_that_nobody_delegated_is_said_to_be_so() {
        let server = DnsServer::start().await;
        let authorities = Authorities::new(quick_client());
        let error = authorities.servers(&name("nowhere.test"), &[server.address()]).await.unwrap_err();
        assert_eq!(error, ServersError::NotDelegated { zone: name("nowhere.test") });
    }

    #[tokio::test]
    async fn a_resolver_that_fails_is_followed_by_the_next() {
        let failing = DnsServer::start().await;
        failing.fail(ResponseCode::ServFail);
        let server = DnsServer::start().await;
        server.add("example.test", "NS", "ns.example.test");
        server.add("ns.example.test", "A", "192.0.32.1");
        let authorities = Authorities::new(quick_client());
        let resolvers = [failing.address(), server.address()];
        assert!(authorities.servers(&name("example.test"), &resolvers).await.is_ok());
        let error = authorities.servers(&name("example.test"), &resolvers[..1]).await.unwrap_err();
        assert!(error.to_string().contains("Server Failure"), "{error}");
    }

    #[test]
    fn a_server_with_private_addresses_only_is_refused_unless_allowed() {
        let zone = |address: &str| ZoneServers {
            zone: name("example.test"),
            servers: vec![NameServer {
                name: name("ns.example.test"),
                addresses: vec![address.parse().unwrap(), "[fd00::1]:53".parse().unwrap()],
            }],
        };
        assert_eq!(zone("192.0.32.1:53").permitted(false).unwrap()[0].addresses.len(), 1);
        assert_eq!(zone("10.0.0.1:53").permitted(true).unwrap()[0].addresses.len(), 2);
        let error = zone("10.0.0.1:53").permitted(false).unwrap_err();
        assert!(error.to_string().contains("10.0.0.1, fd00::1"), "{error}");
    }
}
