//! A panic is the failure of the part that it happens in.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use super::error::ApplyError;

/// Does a part of the work; a panic in it, of a provider or of certplan itself, becomes its failure.
///
/// What the part was changing in memory is half changed then: whoever calls this reads it anew, or leaves it be.
pub(super) async fn guarded<T>(part: impl Future<Output = Result<T, ApplyError>>) -> Result<T, ApplyError> {
    AssertUnwindSafe(part).catch_unwind().await.unwrap_or(Err(ApplyError::Panicked))
}
