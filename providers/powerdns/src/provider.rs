use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use certplan_http::ClientSettings;
use certplan_http::HttpClient;
use certplan_provider::BuildContext;
use certplan_provider::ChangeRef;
use certplan_provider::ChangeStatus;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DnsLimits;
use certplan_provider::DnsProvider;
use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::TxtChange;
use certplan_provider::Zone;
use tokio::sync::OnceCell;
use url::Url;

use crate::api::Api;
use crate::config::PowerDnsConfig;
use crate::edit;
use crate::zones::Zones;

/// How often a change is written before somebody who writes against it is called a conflict.
const ATTEMPTS: u32 = 4;

/// The largest answer: a zone of several hundred thousand records.
const LARGEST_ZONE: usize = 128 << 20;

/// The zones of one server.
#[derive(Debug)]
pub struct PowerDns {
    url: Url,
    api_key: SecretRef,
    ca_bundle: Option<PathBuf>,
    user_agent: String,
    secrets: Arc<dyn SecretResolver>,
    ttl: Option<Duration>,
    api: OnceCell<Api>,
    zones: Zones,
    /// Set when the server refuses single records although its version says otherwise.
    refuses_single_records: AtomicBool,
}

impl PowerDns {
    /// A provider for a block of the configuration. Touches neither the network nor the secret.
    pub fn new(config: &PowerDnsConfig, context: &BuildContext) -> Result<Self, Vec<Complaint>> {
        Ok(Self {
            url: config.check()?,
            api_key: config.api_key.clone(),
            ca_bundle: config.ca_bundle.as_ref().map(|path| context.base.join(path)),
            user_agent: context.user_agent.clone(),
            secrets: Arc::clone(&context.secrets),
            ttl: config.ttl.map(|seconds| Duration::from_secs(seconds.into())),
            api: OnceCell::new(),
            zones: Zones::new(),
            refuses_single_records: AtomicBool::new(false),
        })
    }

    async fn api(&self) -> Result<&Api, ProviderError> {
        self.api.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Api, ProviderError> {
        let key = self.secrets.resolve(&self.api_key).map_err(|error| {
            ProviderError::auth("the API key of the PowerDNS server is missing").with_source(error)
        })?;
        let mut settings = ClientSettings::default();
        settings.user_agent.clone_from(&self.user_agent);
        settings.body_limit = LARGEST_ZONE;
        if let Some(path) = &self.ca_bundle {
            let bundle = tokio::fs::read(path).await.map_err(|error| {
                ProviderError::invalid(format!("cannot read the CA bundle `{}`", path.display()))
                    .with_source(error)
            })?;
            settings.ca_bundle = Some(bundle);
        }
        Ok(Api::new(HttpClient::new(&settings)?, self.url.clone(), key))
    }

    async fn is_granular(&self, context: &Context, api: &Api) -> Result<bool, ProviderError> {
        Ok(!self.refuses_single_records.load(Ordering::Relaxed) && api.is_granular(context).await?)
    }
}

#[async_trait]
impl DnsProvider for PowerDns {
    fn limits(&self) -> DnsLimits {
        DnsLimits {
            // Far below the two megabytes that the server's web server takes in one request.
            values_per_change: 500,
            calls_per_second: None,
            minimum_ttl: Duration::from_secs(1),
            atomic: true,
            compare_and_swap: false,
        }
    }

    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        self.zones.containing(self.api().await?, context, name).await
    }

    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        context.check()?;
        let rrsets = self.api().await?.rrset(context, zone, name).await?;
        Ok(edit::values(&rrsets, name))
    }

    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError> {
        let api = self.api().await?;
        let ttl = self.ttl.unwrap_or(change.ttl).max(self.limits().minimum_ttl);
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32);
        for attempt in 0..=ATTEMPTS {
            let granular = self.is_granular(context, api).await?;
            let existing = api.rrsets(context, zone).await?;
            let edits = edit::edits(&zone.name, &existing, change, ttl, granular)?;
            if edits.is_empty() {
                return Ok(ChangeRef(zone.name.to_string()));
            }
            if attempt == ATTEMPTS {
                break;
            }
            context.check()?;
            match api.patch(context, zone, &edits).await {
                Err(ProviderError::Invalid { message, .. }) if granular => {
                    tracing::debug!(zone = %zone.name, message, "the server refuses single records");
                    self.refuses_single_records.store(true, Ordering::Relaxed);
                }
                result => result?,
            }
        }
        Err(ProviderError::conflict(format!(
            "somebody else writes the zone `{}` at the same time, and undid the change {ATTEMPTS} times",
            zone.name
        )))
    }

    /// The server has written what it acknowledged; how far its secondaries are, only they can tell.
    async fn status(
        &self,
        _context: &Context,
        _zone: &Zone,
        _change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError> {
        Ok(ChangeStatus::Confirmed)
    }
}
