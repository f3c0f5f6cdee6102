use std::time::Duration;
use std::time::Instant;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::error::ProviderError;

/// What every call knows about the run that it is part of.
///
/// `deadline` bounds the call by the monotonic clock; a call gives up with [`ProviderError::Transient`] when it
/// passes. Cancellation asks a call to stop before its next effect: an effect in flight is finished, so that its
/// outcome is known.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context {
    /// The wall clock, for what is written or compared with dates; never for measuring time.
    pub now: Timestamp,
    /// The moment at which the call has to have returned.
    pub deadline: Option<Instant>,
    /// Cancelled when the run is to end.
    pub cancel: CancellationToken,
    /// The operation that the call belongs to: creates that are not idempotent carry it, so that a lost answer is found.
    pub operation: Option<String>,
}

impl Context {
    /// A context without deadline or operation.
    pub fn new(now: Timestamp, cancel: CancellationToken) -> Self {
        Self { now, deadline: None, cancel, operation: None }
    }

    /// The same context with a deadline that lies `timeout` ahead.
    pub fn within(&self, timeout: Duration) -> Self {
        Self { deadline: Some(Instant::now() + timeout), ..self.clone() }
    }

    /// The same context as part of an operation.
    pub fn for_operation(&self, operation: &str) -> Self {
        Self { operation: Some(operation.to_owned()), ..self.clone() }
    }

    /// What is left until the deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Fails when the run is to end: to be asked before each effect.
    pub fn check(&self) -> Result<(), ProviderError> {
        if self.cancel.is_cancelled() {
            return Err(ProviderError::transient("the run was cancelled"));
        }
        Ok(())
    }
}
