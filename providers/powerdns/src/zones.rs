use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use certplan_provider::Context;
use certplan_provider::Fqdn;
use certplan_provider::Once;
use certplan_provider::Patience;
use certplan_provider::ProviderError;
use certplan_provider::Zone;
use futures::future;
use tokio::sync::Semaphore;

use crate::api::Api;

/// How many zones are asked for one by one before a list of all is cheaper.
const SINGLE: usize = 32;

/// How many questions are open at a time.
const OPEN: usize = 8;

/// The zones of a server, as far as they were asked for; what was answered is remembered.
///
/// Few names cost one small question for each name above them. Many would cost thousands, and cost one list.
#[derive(Debug)]
pub(crate) struct Zones {
    asked: Mutex<BTreeMap<Fqdn, Arc<Once<Option<Zone>, ProviderError>>>>,
    /// All zones by name; `None` when the server does not give them in one answer.
    all: Once<Option<BTreeMap<Fqdn, Zone>>, ProviderError>,
    open: Semaphore,
    patience: Patience<ProviderError>,
}

impl Zones {
    pub(crate) fn new() -> Self {
        Self {
            asked: Mutex::default(),
            all: Once::new(),
            open: Semaphore::new(OPEN),
            patience: Patience::new(),
        }
    }

    /// The zones that contain a name, the closest first.
    pub(crate) async fn containing(
        &self,
        api: &Api,
        context: &Context,
        name: &Fqdn,
    ) -> Result<Vec<Zone>, ProviderError> {
        let mut names = vec![name.clone()];
        while let Some(parent) = names.last().and_then(Fqdn::parent) {
            names.push(parent);
        }
        let found = future::try_join_all(names.iter().map(|name| self.zone(api, context, name))).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn zone(&self, api: &Api, context: &Context, name: &Fqdn) -> Result<Option<Zone>, ProviderError> {
        let (cell, count) = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let cell = Arc::clone(asked.entry(name.clone()).or_default());
            (cell, asked.len())
        };
        let ask = || async {
            if count > SINGLE
                && let Some(all) = self.all(api, context).await?
            {
                return Ok(all.get(name).cloned());
            }
            let _turn = self.open.acquire().await;
            context.check()?;
            self.patience.ask(ProviderError::is_retryable, api.zone(context, name)).await
        };
        let zone = cell.get_or_try_init(ask).await.cloned();
        // Whose own time is over says nothing of the server.
        if zone.is_err() && context.check().is_err() {
            cell.forget_failure();
            self.all.forget_failure();
        }
        zone
    }

    async fn all(
        &self,
        api: &Api,
        context: &Context,
    ) -> Result<Option<&BTreeMap<Fqdn, Zone>>, ProviderError> {
        let list = || async {
            context.check()?;
            match api.zones(context).await {
                Ok(zones) => Ok(Some(zones.into_iter().map(|zone| (zone.name.clone(), zone)).collect())),
                // Too many for one answer, or not for this key: then one by one.
                Err(error) if !error.is_retryable() => {
                    tracing::debug!(%error, "the server's zones cannot be listed");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        };
        Ok(self.all.get_or_try_init(list).await?.as_ref())
    }
}
