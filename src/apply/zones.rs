use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::message_of;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::event::Reporter;
use crate::dns01::Repeat;
use crate::dns01::WriteError;
use crate::dns01::WriteWatch;
use crate::dns01::ZoneGuard;
use crate::model::Name;
use crate::model::Zone;
use crate::state::Lease;
use crate::state::LeaseKey;
use crate::state::Leases;

/// Guards zones of providers that cannot compare and swap with a lease in state, so that two runs cannot lose each
/// other's values.
#[derive(Debug)]
pub struct LeasedZones {
    leases: Arc<Leases>,
    wait: Duration,
    cancel: CancellationToken,
}

impl LeasedZones {
    /// Guards through these leases. A change takes seconds, so that another run's is waited for at least a minute, and
    /// that of one that may be dead until it is stale.
    /// An interrupted run waits for none.
    pub fn new(leases: Arc<Leases>, wait: Duration, cancel: CancellationToken) -> Self {
        Self { leases, wait: wait.max(Duration::from_secs(60)), cancel }
    }
}

#[async_trait]
impl ZoneGuard for LeasedZones {
    async fn lock(&self, provider: &Name, zone: &Zone) -> Result<Box<dyn Send>, WriteError> {
        let key = LeaseKey::for_zone(provider, &zone.id);
        match self.leases.acquire_or_outwait(&key, self.wait, &self.cancel, |_| {}).await {
            Ok(lease) => Ok(Box::new(Held(Some(lease)))),
            Err(error) => Err(WriteError::Locked {
                provider: provider.clone(),
                zone: zone.name.clone(),
                reason: message_of(&error),
            }),
        }
    }
}

/// Reports trouble with zones as events of the run.
#[derive(Debug)]
pub struct ReportedZones(pub Arc<dyn Reporter>);

impl WriteWatch for ReportedZones {
    fn repeating(&self, repeat: Repeat) {
        self.0.report(Event::DnsRetry {
            message: repeat.to_string(),
            next_try_seconds: repeat.wait.as_secs_f64(),
            provider: repeat.provider,
            zone: repeat.zone,
        });
    }
}

/// A lease that is given back when it is dropped.
struct Held(Option<Lease>);

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(lease), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = lease.release().await {
                    tracing::debug!(%error, "zone lease not released");
                }
            });
        }
    }
}
