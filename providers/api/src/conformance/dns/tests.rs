use super::*;
use crate::conformance::Call;
use crate::conformance::Fault;
use crate::conformance::FaultPoint;
use crate::conformance::MemoryDns;
use crate::dns::DnsLimits;
use crate::error::ProviderErrorKind;

struct Memory(Arc<MemoryDns>);

#[async_trait]
impl Harness for Memory {
    fn provider(&self) -> Arc<dyn DnsProvider> {
        self.0.clone()
    }

    fn outer(&self) -> Fqdn {
        fqdn("example.test")
    }

    fn inner(&self) -> Fqdn {
        fqdn("a.b.example.test")
    }

    fn without_access(&self) -> Arc<dyn DnsProvider> {
        let refused = MemoryDns::new([self.outer(), self.inner()]);
        for point in [FaultPoint::BeforeCommit, FaultPoint::ZonesFor, FaultPoint::Txt] {
            refused.inject(Fault::new(point, ProviderErrorKind::Auth));
        }
        Arc::new(refused)
    }

    async fn look(&self, name: &Fqdn) -> Vec<String> {
        self.0.values(name)
    }

    async fn plant(&self, name: &str, value: &str) {
        self.0.insert(&fqdn(name), value);
    }
}

fn fqdn(name: &str) -> Fqdn {
    Fqdn::new(name).unwrap()
}

fn memory() -> MemoryDns {
    MemoryDns::new([fqdn("example.test"), fqdn("a.b.example.test")])
}

fn addition(name: &str, value: &str) -> TxtChange {
    TxtChange { additions: vec![record(&fqdn(name), value)], ttl: TTL, ..TxtChange::default() }
}

#[tokio::test]
async fn the_reference_conforms() {
    let memory = Arc::new(memory());
    memory.confirm_after(2);
    all(&Memory(memory)).await;
}

#[tokio::test]
async fn the_reference_conforms_without_compare_and_swap() {
    let limits = DnsLimits { compare_and_swap: false, ..memory().limits() };
    let memory = memory().with_limits(limits);
    memory.set_latency(Duration::from_micros(100));
    all(&Memory(Arc::new(memory))).await;
}

#[tokio::test]
async fn without_compare_and_swap_and_without_a_lease_an_update_is_lost() {
    let limits = DnsLimits { compare_and_swap: false, ..memory().limits() };
    let memory = memory().with_limits(limits);
    let zone = memory.zones().remove(1);
    let (one, two) = (addition("x.example.test", "one"), addition("x.example.test", "two"));
    let context = context();
    let (first, second) =
        tokio::join!(memory.change(&context, &zone, &one), memory.change(&context, &zone, &two));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(memory.values(&fqdn("x.example.test")).len(), 1);
}

#[tokio::test]
async fn faults_strike_once_before_or_after_the_commit() {
    let memory = memory();
    let zone = memory.zones().remove(1);
    let change = addition("x.example.test", "value");
    memory.inject(
        Fault::new(FaultPoint::BeforeCommit, ProviderErrorKind::RateLimited)
            .retry_after(Duration::from_secs(7)),
    );
    memory.inject(Fault::new(FaultPoint::AfterCommit, ProviderErrorKind::Transient));
    memory
        .inject(Fault::new(FaultPoint::BeforeCommit, ProviderErrorKind::Invalid).at(fqdn("y.example.test")));
    let error = memory.change(&context(), &zone, &change).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 7)
    );
    assert!(memory.all_values().is_empty());
    let error = memory.change(&context(), &zone, &change).await.unwrap_err();
    assert_eq!(error.kind(), ProviderErrorKind::Transient);
    assert_eq!(memory.values(&fqdn("x.example.test")), ["value"], "it happened all the same");
    memory.change(&context(), &zone, &change).await.unwrap();
    let other = addition("y.example.test", "value");
    assert!(memory.change(&context(), &zone, &other).await.is_err());
    let seen: Vec<_> = memory
        .ledger()
        .into_iter()
        .map(|call| match call {
            Call::Change { committed, error, .. } => (committed, error),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (false, Some(ProviderErrorKind::RateLimited)),
        (true, Some(ProviderErrorKind::Transient)),
        (true, None),
        (false, Some(ProviderErrorKind::Invalid)),
    ];
    assert_eq!(seen, expected);
    assert_eq!(memory.changes(), 4);
}

#[tokio::test]
async fn changes_above_the_limit_and_doubled_records_are_refused() {
    let limits = DnsLimits { values_per_change: 2, ..memory().limits() };
    let memory = memory().with_limits(limits);
    let zone = memory.zones().remove(1);
    let name = fqdn("x.example.test");
    for values in [&["a", "b", "c"][..], &["a", "a"], &[""], &["x".repeat(256).as_str()]] {
        let additions = values.iter().map(|value| record(&name, value)).collect();
        let change = TxtChange { additions, ttl: TTL, ..TxtChange::default() };
        let error = memory.change(&context(), &zone, &change).await.unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Invalid, "{values:?}");
    }
    assert!(memory.all_values().is_empty());
}

#[tokio::test]
async fn twins_are_two_candidates() {
    let memory = memory();
    memory.add_zone("twin", fqdn("example.test"));
    let zones = memory.zones_for(&context(), &fqdn("x.example.test")).await.unwrap();
    assert_eq!(zones.iter().map(|zone| zone.id.as_str()).collect::<Vec<_>>(), ["twin", "zone-example.test"]);
}

/// A provider that gets one thing wrong.
#[derive(Debug)]
struct Mutant {
    right: Arc<MemoryDns>,
    wrong: Wrong,
}

#[derive(Debug, Clone, Copy)]
enum Wrong {
    AbsentIsAnError,
    AlwaysPending,
    AnyZone,
    IgnoresCancellation,
    KeepsRemovals,
    RemovesPrefixes,
    RemovesTheName,
    ReplacesTheName,
    ShortestZoneFirst,
    SuffixWithoutBoundary,
    TrimsValues,
}

#[async_trait]
impl DnsProvider for Mutant {
    fn limits(&self) -> DnsLimits {
        self.right.limits()
    }

    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        let mut zones = self.right.zones_for(context, name).await?;
        match self.wrong {
            Wrong::ShortestZoneFirst => zones.reverse(),
            Wrong::SuffixWithoutBoundary => {
                zones = self.right.zones();
                zones.retain(|zone| name.as_str().ends_with(zone.name.as_str()));
            }
            _ => {}
        }
        Ok(zones)
    }

    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        let values = self.right.txt(context, zone, name).await?;
        match self.wrong {
            Wrong::AbsentIsAnError if values.is_empty() => Err(ProviderError::not_found("nothing")),
            Wrong::TrimsValues => Ok(values.iter().map(|value| value.trim().to_owned()).collect()),
            _ => Ok(values),
        }
    }

    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError> {
        let mut change = change.clone();
        let mut context = context.clone();
        let mut zone = zone.clone();
        match self.wrong {
            Wrong::AnyZone if self.right.zones().iter().all(|known| known.id != zone.id) => {
                zone = self.right.zones().pop().unwrap();
                change = TxtChange::default();
            }
            Wrong::IgnoresCancellation => context.cancel = CancellationToken::new(),
            Wrong::KeepsRemovals => change.removals.clear(),
            Wrong::RemovesPrefixes | Wrong::RemovesTheName => {
                for removal in change.removals.clone() {
                    for value in self.right.values(&removal.name) {
                        let starts = value.starts_with(&removal.value);
                        let also = record(&removal.name, &value);
                        if (starts || matches!(self.wrong, Wrong::RemovesTheName))
                            && !change.removals.contains(&also)
                            && !change.additions.contains(&also)
                        {
                            change.removals.push(also);
                        }
                    }
                }
            }
            Wrong::ReplacesTheName => {
                for addition in change.additions.clone() {
                    for value in self.right.values(&addition.name) {
                        let old = record(&addition.name, &value);
                        if !change.additions.contains(&old) && !change.removals.contains(&old) {
                            change.removals.push(old);
                        }
                    }
                }
            }
            _ => {}
        }
        self.right.change(&context, &zone, &change).await
    }

    async fn status(
        &self,
        context: &Context,
        zone: &Zone,
        change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError> {
        match self.wrong {
            Wrong::AlwaysPending => Ok(ChangeStatus::Pending),
            _ => self.right.status(context, zone, change).await,
        }
    }
}

struct MutantHarness(Wrong, Memory);

#[async_trait]
impl Harness for MutantHarness {
    fn provider(&self) -> Arc<dyn DnsProvider> {
        Arc::new(Mutant { right: Arc::clone(&self.1.0), wrong: self.0 })
    }

    fn outer(&self) -> Fqdn {
        self.1.outer()
    }

    fn inner(&self) -> Fqdn {
        self.1.inner()
    }

    fn without_access(&self) -> Arc<dyn DnsProvider> {
        self.1.without_access()
    }

    async fn look(&self, name: &Fqdn) -> Vec<String> {
        self.1.look(name).await
    }

    async fn plant(&self, name: &str, value: &str) {
        self.1.plant(name, value).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_gets_one_thing_wrong_is_found_out() {
    for wrong in [
        Wrong::AbsentIsAnError,
        Wrong::AlwaysPending,
        Wrong::AnyZone,
        Wrong::IgnoresCancellation,
        Wrong::KeepsRemovals,
        Wrong::RemovesPrefixes,
        Wrong::RemovesTheName,
        Wrong::ReplacesTheName,
        Wrong::ShortestZoneFirst,
        Wrong::SuffixWithoutBoundary,
        Wrong::TrimsValues,
    ] {
        let run = async move { all(&MutantHarness(wrong, Memory(Arc::new(memory())))).await };
        let result = tokio::spawn(run).await;
        assert!(result.is_err_and(|error| error.is_panic()), "{wrong:?} passes");
    }
}
