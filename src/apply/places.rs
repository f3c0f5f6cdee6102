//! Which places in targets are wanted: what serves there is never taken down.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use certplan_provider::DeployTarget;
use tokio::sync::OnceCell;

use crate::model::Name;
use crate::model::Slot;

use super::Apply;

/// The identities of the places that the configuration deploys to, by kind of target.
///
/// They are asked for once in a run, for what is to be removed may be much. A folder that a link leads to may come to be in
/// this very run, and its identity with it: so each deployment adds its own.
#[derive(Debug, Default)]
pub(super) struct Places {
    configured: BTreeMap<String, OnceCell<BTreeSet<String>>>,
    deployed: Mutex<BTreeSet<(String, String)>>,
}

impl Places {
    /// Knows nothing yet of the places of these kinds.
    pub(super) fn of_kinds(kinds: impl IntoIterator<Item = String>) -> Self {
        let configured = kinds.into_iter().map(|kind| (kind, OnceCell::new())).collect();
        Self { configured, deployed: Mutex::default() }
    }
}

impl Apply {
    /// Notes that this run has deployed to a place.
    pub(super) async fn note_place(&self, target: &dyn DeployTarget, name: &Name, slot: &Slot) {
        let place = (self.kind(name).to_owned(), target.identity(slot).await);
        self.places.deployed.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    }

    /// Whether the configuration wants this very place, under whatever target's or certificate's name, by whatever path.
    pub(super) async fn is_wanted(&self, target: &dyn DeployTarget, name: &Name, slot: &Slot) -> bool {
        let kind = self.kind(name);
        let identity = target.identity(slot).await;
        if let Some(configured) = self.places.configured.get(kind)
            && configured.get_or_init(|| self.configured_places(kind)).await.contains(&identity)
        {
            return true;
        }
        let place = (kind.to_owned(), identity);
        self.places.deployed.lock().unwrap_or_else(PoisonError::into_inner).contains(&place)
    }

    /// The identities of all places that the configuration deploys to with targets of a kind.
    async fn configured_places(&self, kind: &str) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        for certificate in self.desired.certificates.values() {
            for deployment in &certificate.deploy {
                let target = self.targets.get(&deployment.target);
                let Some(target) = target.filter(|_| self.kind(&deployment.target) == kind) else { continue };
                if let Ok(slot) = target.slot(certificate.name.as_str(), &deployment.parameters) {
                    places.insert(target.identity(&slot).await);
                }
            }
        }
        places
    }

    fn kind(&self, target: &Name) -> &str {
        self.desired.targets.get(target).map(|target| target.kind.as_str()).unwrap_or_default()
    }
}
