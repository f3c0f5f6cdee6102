//! Taking the TXT values of an operation away again: exactly those that its journal lists.

use std::collections::BTreeMap;

use certplan_provider::TxtRecord;
use certplan_provider::Zone;
use certplan_provider::message_of;
use futures::future::try_join_all;

use crate::dns01;
use crate::dns01::Claim;
use crate::dns01::NotOurs;
use crate::model::Address;
use crate::model::DesiredCertificate;
use crate::model::JournaledTxt;
use crate::model::Name;
use crate::model::Operation;
use crate::plan::CertificateWork;
use crate::state::Revise;

use super::Apply;
use super::error::ApplyError;
use super::event::Event;
use super::event::Step;
use super::guard::guarded;
use super::in_use::Released;
use super::journal::Journal;

/// TXT values to be removed, by provider and zone.
type Removals = BTreeMap<(Name, Zone), Vec<TxtRecord>>;

impl Apply {
    /// Removes exactly the TXT values that the journal lists, where nobody else needs them, and empties the list.
    pub(super) async fn remove_txt(&self, journal: &mut Journal) -> Result<(), ApplyError> {
        if let Some(operation) = &journal.record().operation {
            self.remove_values(journal.name(), operation).await?;
        }
        self.removed(journal);
        Ok(())
    }

    /// Removes the TXT values of an issued certificate while it is deployed: the zone's writer waits for those of other
    /// certificates, and deployments do not, nor for a DNS server that does not answer.
    ///
    /// Values that cannot be removed now hold nothing up: the journal lists them, and the operation stays open until they
    /// are gone. What was done is persisted here where the operation is not about to be closed.
    pub(super) async fn remove_txt_beside(
        &self,
        desired: &DesiredCertificate,
        work: &CertificateWork,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let operation = journal.record().operation.clone();
        let removed = guarded(async {
            match &operation {
                Some(operation) => self.remove_values(&work.name, operation).await,
                None => Ok(()),
            }
        });
        let (removed, deployed) = futures::join!(removed, self.deploy(desired, work, journal));
        let outcome = match removed {
            Ok(()) => {
                self.removed(journal);
                deployed
            }
            Err(error) if error.ends_certificate() || self.context.cancel.is_cancelled() => {
                deployed.and(Err(error))
            }
            Err(error) => {
                self.reporter.report(Event::Warning {
                    address: Address::Certificate(journal.name().clone()),
                    message: format!("TXT records could not be removed yet: {}", message_of(&error)),
                });
                deployed
            }
        };
        if outcome.is_err()
            && journal.record().operation.is_some()
            && let Err(unsaved) = journal.persist(Revise::Bump).await
        {
            // The first failure is told, and the next run does again what it does not know of.
            tracing::warn!(error = %unsaved, certificate = %work.name, "what was done is not noted");
        }
        outcome
    }

    async fn remove_values(&self, certificate: &Name, operation: &Operation) -> Result<(), ApplyError> {
        self.write_removals(self.removals(certificate, operation).await?).await
    }

    /// Gives the operation's TXT values back, and returns those that are to be removed because nobody else needs them.
    async fn removals(&self, certificate: &Name, operation: &Operation) -> Result<Removals, ApplyError> {
        let mut by_zone = Removals::new();
        if operation.txt.is_empty() {
            return Ok(by_zone);
        }
        // From here on it needs none of them, so that of two operations that share a value the last one removes it.
        self.in_use.done(&operation.id);
        for value in &operation.txt {
            let released = self.in_use.release(&operation.id, value);
            // Whoever can write state could have forged it: what does not look like ours is not touched.
            if let Err(foreign) = self.check_ours(operation, value).await? {
                self.reporter.report(Event::Warning {
                    address: Address::Certificate(certificate.clone()),
                    message: format!("a TXT value in the journal is left alone: {foreign}"),
                });
                continue;
            }
            let record = TxtRecord { name: value.name.clone(), value: value.value.clone() };
            match released {
                Released::Last => {
                    by_zone.entry((value.provider.clone(), value.zone.clone())).or_default().push(record);
                }
                // The writer counts who holds a value as well, and keeps it for as long as somebody does.
                Released::Shared => self.writers.abandon(&value.provider, &value.zone, &[record]),
                Released::NotHeld => {}
            }
        }
        Ok(by_zone)
    }

    async fn write_removals(&self, by_zone: Removals) -> Result<(), ApplyError> {
        let removals = by_zone.into_iter().map(|((provider, zone), records)| async move {
            self.writers.remove(&provider, &zone, records).await
        });
        try_join_all(removals).await?;
        Ok(())
    }

    /// Empties the list of the operation's TXT values, which the next write persists.
    fn removed(&self, journal: &mut Journal) {
        let Some(operation) = journal.record_mut().operation.as_mut().filter(|open| !open.txt.is_empty())
        else {
            return;
        };
        operation.txt.clear();
        self.step(Address::Certificate(journal.name().clone()), Step::CleanedUp);
    }

    async fn check_ours(
        &self,
        operation: &Operation,
        entry: &JournaledTxt,
    ) -> Result<Result<(), NotOurs>, ApplyError> {
        let zones = match self.providers.get(&entry.provider) {
            Some(configured) => configured
                .zones_for(&self.context, &entry.name)
                .await
                .map_err(|source| ApplyError::Dns { provider: entry.provider.clone(), source })?,
            None => Vec::new(),
        };
        let others: Vec<JournaledTxt> = self
            .journaled
            .iter()
            .filter(|(id, _)| !self.in_use.is_done(id))
            .flat_map(|(_, values)| values.iter().cloned())
            .collect();
        let claim = Claim {
            entry,
            names: &operation.names,
            delegations: &operation.delegations,
            zones: &zones,
            others: &others,
        };
        Ok(dns01::ours(&claim, &self.providers))
    }

    /// Tells the zones' writers that the operation's values will not be removed by this run's happy path.
    pub(super) fn release_zones(&self, journal: &Journal) {
        let Some(operation) = &journal.record().operation else { return };
        for value in &operation.txt {
            let record = TxtRecord { name: value.name.clone(), value: value.value.clone() };
            self.writers.abandon(&value.provider, &value.zone, &[record]);
        }
    }
}
