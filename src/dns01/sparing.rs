use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use async_trait::async_trait;
use certplan_provider::Patience;

use super::client::Answer;
use super::client::Exchange;
use super::client::Query;
use super::client::QueryError;
use super::providers::domain_of;
use crate::model::Fqdn;

/// Spares servers that do not answer: who was silent many times in a row is not asked for ten seconds, so that ten
/// thousand names in the zone of such a server do not wait for it one after the other.
///
/// A server that asks others is silent about a domain whose own servers are: that says nothing about other domains.
#[derive(Debug)]
pub struct Sparing<E> {
    exchange: E,
    patience: Mutex<BTreeMap<Subject, Arc<Patience<QueryError>>>>,
}

/// A server, and the domain that it is asked about when it has to ask others.
type Subject = (SocketAddr, Option<Fqdn>);

impl<E: Exchange> Sparing<E> {
    /// Asks through `exchange`.
    pub const fn new(exchange: E) -> Self {
        Self { exchange, patience: Mutex::new(BTreeMap::new()) }
    }
}

#[async_trait]
impl<E: Exchange> Exchange for Sparing<E> {
    async fn ask(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
        let domain = if query.recursion_desired { domain_of(&query.name) } else { None };
        let patience = {
            let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(patience.entry((server, domain)).or_default())
        };
        let is_silence = |error: &QueryError| matches!(error, QueryError::Silent { .. });
        patience.ask(is_silence, self.exchange.ask(server, query)).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use futures::stream;
    use hickory_proto::rr::RecordType;
    use tokio::time;
    use tokio::time::Instant;

    use super::*;
    use crate::dns01::Authorities;
    use crate::dns01::Lookup;
    use crate::dns01::Path;
    use crate::dns01::Resolver;
    use crate::dns01::testing::FakeNet;
    use crate::dns01::testing::name;

    const RESOLVER: &str = "9.9.9.9:53";
    const SERVER: &str = "192.0.2.1:53";

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_spared_and_its_neighbour_is_not() {
        let mut net = FakeNet::default();
        let silent = net.server(SERVER);
        net.server(RESOLVER);
        silent.lock().unwrap().silent = true;
        let sparing = Sparing::new(net);
        let ask = async |server: &str| {
            let query = Query::authoritative(&name("example.test"), RecordType::SOA);
            sparing.ask(server.parse().unwrap(), &query).await
        };
        for _ in 0..20 {
            assert!(matches!(ask(SERVER).await, Err(QueryError::Silent { .. })));
            assert!(ask(RESOLVER).await.is_ok());
        }
        silent.lock().unwrap().silent = false;
        assert!(ask(SERVER).await.is_err(), "it is believed to be silent for a while");
        time::advance(Duration::from_secs(10)).await;
        assert!(ask(SERVER).await.is_ok());
    }

    /// A resolver that waits for the servers of one domain in vain.
    #[derive(Debug)]
    struct DeadDomain(FakeNet);

    #[async_trait]
    impl Exchange for DeadDomain {
        async fn ask(&self, server: SocketAddr, query: &Query) -> Result<Answer, QueryError> {
            if query.name.is_within(&name("dead.test")) {
                return Err(QueryError::Silent { server, waited: Duration::from_secs(6) });
            }
            self.0.ask(server, query).await
        }
    }

    #[tokio::test]
    async fn a_resolver_that_is_silent_about_one_domain_is_asked_about_another() {
        let mut net = FakeNet::default();
        net.server(RESOLVER);
        let sparing = Sparing::new(DeadDomain(net));
        let resolver = RESOLVER.parse().unwrap();
        let ask =
            async |text: &str| sparing.ask(resolver, &Query::recursive(&name(text), RecordType::CNAME)).await;
        for number in 0..100 {
            assert!(ask(&format!("_acme-challenge.h{number}.dead.test")).await.is_err());
        }
        assert!(ask("_acme-challenge.www.example.test").await.is_ok());
    }

    /// A plan of ten thousand names with DNS down ends within minutes, not days.
    #[tokio::test(start_paused = true)]
    async fn ten_thousand_names_do_not_wait_for_the_same_silent_server() {
        for down in [SERVER, RESOLVER] {
            let mut net = FakeNet::default();
            net.server(down).lock().unwrap().silent = true;
            let resolver = net.server(RESOLVER);
            resolver.lock().unwrap().add("example.test", "NS", "ns.example.test");
            resolver.lock().unwrap().add("ns.example.test", "A", "192.0.2.1");
            net.server(SERVER);
            let exchange = Arc::new(Sparing::new(net));
            let surveyor = Arc::new(Authorities::new(Arc::clone(&exchange) as _));
            let lookup = Resolver::new(exchange, surveyor, vec![RESOLVER.parse().unwrap()]);
            let zone = name("example.test");
            let start = Instant::now();
            let failed = stream::iter(0..10_000)
                .map(|number| {
                    let (lookup, zone) = (&lookup, &zone);
                    async move {
                        let name = name(&format!("_acme-challenge.h{number}.example.test"));
                        let path = Path::Authoritative { zone, allow_private: true };
                        lookup.alias(&name, path).await.is_err()
                    }
                })
                .buffer_unordered(64)
                .filter(|failed| std::future::ready(*failed))
                .count()
                .await;
            assert_eq!(failed, 10_000);
            assert!(start.elapsed() < Duration::from_secs(60), "{down}: {:?}", start.elapsed());
        }
    }
}
