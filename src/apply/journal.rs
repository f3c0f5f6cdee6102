//! The write-ahead journal of one certificate: its object in state, under its lease.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::CertificateRecord;
use crate::model::Name;
use crate::model::Operation;
use crate::state::Lease;
use crate::state::Revise;
use crate::state::State;
use crate::state::Stored;

use super::error::ApplyError;

/// What a lease must still have for a write or a single request to start: their longest timeout.
pub(super) const EFFECT: Duration = Duration::from_secs(35);

/// A certificate's record with everything that is needed to write it.
#[derive(Debug)]
pub(super) struct Journal {
    state: Arc<State>,
    name: Name,
    stored: Stored<CertificateRecord>,
    lease: Lease,
}

impl Journal {
    /// Reads the record under a lease that is already held.
    pub(super) async fn open(state: Arc<State>, name: Name, lease: Lease) -> Result<Self, ApplyError> {
        match read(&state, &name).await {
            Ok(stored) => Ok(Self { state, name, stored, lease }),
            Err(error) => {
                give_back(lease, &name).await;
                Err(error)
            }
        }
    }

    /// Forgets what was changed and not persisted.
    pub(super) async fn reload(&mut self) -> Result<(), ApplyError> {
        self.stored = read(&self.state, &self.name).await?;
        Ok(())
    }

    /// The certificate's name.
    pub(super) const fn name(&self) -> &Name {
        &self.name
    }

    /// The record.
    pub(super) const fn record(&self) -> &CertificateRecord {
        &self.stored.content
    }

    /// The record, to be changed and then [persisted](Self::persist).
    pub(super) const fn record_mut(&mut self) -> &mut CertificateRecord {
        &mut self.stored.content
    }

    /// The open operation.
    pub(super) fn operation(&self) -> Result<&Operation, ApplyError> {
        self.stored.content.operation.as_deref().ok_or(ApplyError::JournalClosed)
    }

    /// The open operation, to be changed.
    pub(super) fn operation_mut(&mut self) -> Result<&mut Operation, ApplyError> {
        self.stored.content.operation.as_deref_mut().ok_or(ApplyError::JournalClosed)
    }

    /// The revision that plans bind to; 0 for a record that does not exist yet.
    pub(super) fn revision(&self) -> u64 {
        self.stored.revision()
    }

    /// Fails unless the lease lasts for one more effect: to be asked before each.
    pub(super) fn check_lease(&self) -> Result<(), ApplyError> {
        Ok(self.lease.check(EFFECT)?)
    }

    /// Writes the record by compare-and-swap.
    pub(super) async fn persist(&mut self, revise: Revise) -> Result<(), ApplyError> {
        self.check_lease()?;
        Ok(self.state.save_certificate(&self.name, &mut self.stored, revise).await?)
    }

    /// Moves the record to the archive; the journal is empty then.
    pub(super) async fn archive(&mut self, now: Timestamp) -> Result<(), ApplyError> {
        self.check_lease()?;
        let stored = std::mem::replace(&mut self.stored, Stored::new(CertificateRecord::default()));
        Ok(self.state.archive_certificate(&self.name, stored, now).await?)
    }

    /// Ends the work: gives the lease back and returns the record.
    pub(super) async fn close(self) -> Stored<CertificateRecord> {
        give_back(self.lease, &self.name).await;
        self.stored
    }
}

async fn read(state: &State, name: &Name) -> Result<Stored<CertificateRecord>, ApplyError> {
    let stored = state.certificate(name).await?;
    Ok(stored.unwrap_or_else(|| Stored::new(CertificateRecord::default())))
}

/// A lease that cannot be given back goes stale by itself: the work is done, so that is no failure.
async fn give_back(lease: Lease, name: &Name) {
    if let Err(error) = lease.release().await {
        tracing::debug!(%error, certificate = %name, "lease not released");
    }
}
