use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use certplan_provider::Context;
use certplan_provider::DnsProvider;
use certplan_provider::Once;
use certplan_provider::Patience;
use certplan_provider::ProviderError;
use certplan_provider::ProviderErrorKind;

use crate::model::Fqdn;
use crate::model::Name;
use crate::model::Propagation;
use crate::model::Zone;

/// The DNS providers of the configuration, by name.
pub type Providers = BTreeMap<Name, ConfiguredDns>;

/// A DNS provider as the configuration wants it used, with what it said about its zones in this run.
#[derive(Debug)]
pub struct ConfiguredDns {
    /// The provider.
    pub provider: Arc<dyn DnsProvider>,
    /// The only zones to use; empty means those that the provider has.
    pub zones: Vec<Fqdn>,
    /// How to find out that a value can be seen.
    pub propagation: Propagation,
    /// Whether the zone's servers may have private, loopback or link-local addresses.
    pub allow_private_servers: bool,
    memory: Mutex<BTreeMap<Fqdn, Asked>>,
    /// By the domain that names are in: what is wrong with one is not said of another.
    patience: Mutex<BTreeMap<Option<Fqdn>, Arc<Patience<ProviderError>>>>,
}

/// One question to the provider and its answer; asked once, however many wait for it.
type Asked = Arc<Once<Vec<Zone>, ProviderError>>;

impl ConfiguredDns {
    /// A provider with its restrictions; it has not been asked anything yet.
    pub fn new(provider: Arc<dyn DnsProvider>, zones: Vec<Fqdn>, propagation: Propagation) -> Self {
        Self {
            provider,
            zones,
            propagation,
            allow_private_servers: false,
            memory: Mutex::default(),
            patience: Mutex::default(),
        }
    }

    /// Allows the zone's servers to have private, loopback and link-local addresses.
    pub fn allow_private_servers(mut self, allow: bool) -> Self {
        self.allow_private_servers = allow;
        self
    }

    /// Returns the zones that contain `name` and may be used, longest first.
    ///
    /// # What is remembered
    ///
    /// An answer about one name says nothing about zones *below* that name, so that it must not be used for a sibling:
    /// a provider may hold `shop.example.com`, or even `_acme-challenge.shop.example.com`, beside `example.com`.
    /// Two things are sound, and are what is done:
    ///
    /// - The answer for a name is remembered for that very name. Certificates that share a name, an apex and its
    ///   wildcard, locating and cleaning up: all ask once.
    /// - With a restriction (`zones:`) only those zones count, and whether the provider has one is asked *at its
    ///   apex*, once per zone: ten thousand names in one such zone cost one call.
    ///
    /// Without a restriction it is one question per name, which a provider that can list its zones answers from its
    /// own list. A failure is believed for some seconds, by all who ask meanwhile, and where it says that the provider
    /// is down or refuses the credential, about all names of the registered domain (`example.com` of
    /// `_acme-challenge.www.example.com`): ten thousand names do not wait for it one after the other.
    pub async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        let mut found = if self.zones.is_empty() {
            self.ask(context, name, domain_of(name)).await?
        } else {
            let mut found = Vec::new();
            for apex in self.zones.iter().filter(|apex| name.is_within(apex)) {
                let zones = self.ask(context, apex, Some(apex.clone())).await?;
                found.extend(zones.into_iter().filter(|zone| zone.name == *apex));
            }
            found
        };
        found.retain(|zone| name.is_within(&zone.name));
        found.sort_by(|a, b| depth(&b.name).cmp(&depth(&a.name)).then_with(|| a.id.cmp(&b.id)));
        found.dedup();
        Ok(found)
    }

    /// Lets what failed be asked again at once.
    pub fn forget_failures(&self) {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for asked in self.memory.lock().unwrap_or_else(PoisonError::into_inner).values() {
            asked.forget_failure();
        }
    }

    /// Asks about a name. What is wrong with one name of `domain` is believed of the others.
    async fn ask(
        &self,
        context: &Context,
        name: &Fqdn,
        domain: Option<Fqdn>,
    ) -> Result<Vec<Zone>, ProviderError> {
        let asked = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(memory.entry(name.clone()).or_default())
        };
        let patience = {
            let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(patience.entry(domain).or_default())
        };
        let zones = asked
            .get_or_try_init(|| patience.ask(is_general, self.provider.zones_for(context, name)))
            .await?;
        Ok(zones.clone())
    }
}

/// Whether the same is to be expected for other names of the domain.
const fn is_general(error: &ProviderError) -> bool {
    matches!(
        error.kind(),
        ProviderErrorKind::Auth | ProviderErrorKind::RateLimited | ProviderErrorKind::Transient
    )
}

/// The domain that somebody registered, which a name is in: names of one are likely to share what is wrong with it.
pub(super) fn domain_of(name: &Fqdn) -> Option<Fqdn> {
    psl::domain_str(name.as_str()).and_then(|domain| Fqdn::new(domain).ok())
}

/// The number of labels.
pub(super) fn depth(name: &Fqdn) -> usize {
    name.labels().count()
}
