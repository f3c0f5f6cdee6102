use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::ChangeStatus;
use certplan_provider::Context;
use certplan_provider::DnsLimits;
use certplan_provider::DnsProvider;
use certplan_provider::ProviderError;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use tokio::time;

use super::name;
use crate::model::ChangeRef;
use crate::model::Fqdn;
use crate::model::Zone;

/// A DNS provider in memory with a ledger of its calls.
#[derive(Debug)]
pub(in crate::dns01) struct MemoryDns {
    zones: Vec<Zone>,
    pub(in crate::dns01) limits: Mutex<DnsLimits>,
    pub(in crate::dns01) state: Mutex<Memory>,
}

#[derive(Debug, Default)]
pub(in crate::dns01) struct Memory {
    pub(in crate::dns01) values: BTreeSet<(String, TxtRecord)>,
    /// Every change that was asked for, refused ones too: zone id, additions, removals.
    pub(in crate::dns01) changes: Vec<(String, usize, usize)>,
    pub(in crate::dns01) zone_calls: Vec<Fqdn>,
    pub(in crate::dns01) status_calls: usize,
    /// Answers to the next changes, after each of which the change is made when it says so.
    pub(in crate::dns01) failures: VecDeque<(ProviderError, bool)>,
    pub(in crate::dns01) zone_failure: Option<String>,
    /// Names whose changes are refused as invalid, and such that need another credential.
    pub(in crate::dns01) invalid: BTreeSet<Fqdn>,
    pub(in crate::dns01) forbidden: BTreeSet<Fqdn>,
    pub(in crate::dns01) latency: Duration,
    /// How often a change is pending before it is confirmed.
    pub(in crate::dns01) pending: usize,
    pub(in crate::dns01) panics: bool,
    pub(in crate::dns01) running: BTreeSet<String>,
}

impl MemoryDns {
    /// A provider with zones, given as `name` or `name=id`.
    pub(in crate::dns01) fn new(zones: &[&str]) -> Arc<Self> {
        let zone = |text: &&str| {
            let (apex, id) = text.split_once('=').unwrap_or((text, text));
            Zone { id: id.to_owned(), name: name(apex) }
        };
        Arc::new(Self {
            zones: zones.iter().map(zone).collect(),
            limits: Mutex::new(DnsLimits {
                values_per_change: 1000,
                calls_per_second: None,
                minimum_ttl: Duration::ZERO,
                atomic: true,
                compare_and_swap: true,
            }),
            state: Mutex::default(),
        })
    }

    pub(in crate::dns01) fn zone(&self, index: usize) -> Zone {
        self.zones[index].clone()
    }

    pub(in crate::dns01) fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.state.lock().unwrap()
    }

    pub(in crate::dns01) fn additions(&self) -> Vec<usize> {
        self.memory().changes.iter().map(|change| change.1).filter(|count| *count > 0).collect()
    }

    pub(in crate::dns01) fn removals(&self) -> Vec<usize> {
        self.memory().changes.iter().map(|change| change.2).filter(|count| *count > 0).collect()
    }
}

#[async_trait]
impl DnsProvider for MemoryDns {
    fn limits(&self) -> DnsLimits {
        self.limits.lock().unwrap().clone()
    }

    async fn zones_for(&self, _: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        let (failure, latency) = {
            let mut memory = self.memory();
            memory.zone_calls.push(name.clone());
            (memory.zone_failure.clone(), memory.latency)
        };
        if let Some(message) = failure {
            time::sleep(latency).await;
            return Err(ProviderError::auth(message));
        }
        Ok(self.zones.iter().filter(|zone| name.is_within(&zone.name)).cloned().collect())
    }

    async fn txt(&self, _: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        let memory = self.memory();
        let here = memory.values.iter().filter(|(id, record)| *id == zone.id && record.name == *name);
        Ok(here.map(|(_, record)| record.value.clone()).collect())
    }

    async fn change(&self, _: &Context, zone: &Zone, change: &TxtChange) -> Result<ChangeRef, ProviderError> {
        let latency = {
            let mut memory = self.memory();
            assert!(memory.running.insert(zone.id.clone()), "two changes of {} at once", zone.id);
            memory.latency
        };
        assert!(change.len() <= self.limits().values_per_change, "{} values in a change", change.len());
        time::sleep(latency).await;
        let mut memory = self.memory();
        memory.running.remove(&zone.id);
        memory.changes.push((zone.id.clone(), change.additions.len(), change.removals.len()));
        assert!(!memory.panics, "the provider has a defect");
        let apply = |memory: &mut Memory| {
            memory.values.extend(change.additions.iter().map(|record| (zone.id.clone(), record.clone())));
            for record in &change.removals {
                memory.values.remove(&(zone.id.clone(), record.clone()));
            }
        };
        if let Some((error, made)) = memory.failures.pop_front() {
            if made {
                apply(&mut memory);
            }
            return Err(error);
        }
        let names = || change.additions.iter().chain(&change.removals).map(|record| &record.name);
        if names().any(|name| memory.invalid.contains(name)) {
            return Err(ProviderError::invalid("a record is invalid"));
        }
        if names().any(|name| memory.forbidden.contains(name)) {
            return Err(ProviderError::auth("a record is forbidden"));
        }
        apply(&mut memory);
        Ok(ChangeRef(memory.changes.len().to_string()))
    }

    async fn status(&self, _: &Context, _: &Zone, _: &ChangeRef) -> Result<ChangeStatus, ProviderError> {
        let mut memory = self.memory();
        memory.status_calls += 1;
        if memory.pending > 0 {
            memory.pending -= 1;
            return Ok(ChangeStatus::Pending);
        }
        Ok(ChangeStatus::Confirmed)
    }
}
