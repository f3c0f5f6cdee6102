use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use super::error::AcmeError;
use super::order::Authorization;
use super::order::AuthorizationStatus;
use super::order::Order;
use super::order::OrderStatus;
use super::session::Session;

/// The pause after the first look when the CA does not say how long to wait. Each further pause is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Waiting for the CA. `patience` bounds the waiting of this run: where the CA asks for more, the answer is
/// [`AcmeError::Timeout`] at once, with the time after which to look again.
impl Session {
    /// Looks at an authorization until it is no longer pending.
    pub async fn wait_for_authorization(
        &self,
        url: &str,
        patience: Duration,
    ) -> Result<Authorization, AcmeError> {
        self.wait("the validation", patience, || async {
            let authorization = self.authorization(url).await?;
            let pending = matches!(
                authorization.status,
                AuthorizationStatus::Pending | AuthorizationStatus::Unknown(_)
            );
            Ok((authorization.retry_after, (!pending).then_some(authorization)))
        })
        .await
    }

    /// Looks at an order until its authorizations are decided: it is no longer `pending` then.
    pub async fn wait_until_ready(&self, order_url: &str, patience: Duration) -> Result<Order, AcmeError> {
        self.wait_for_order("the validation", order_url, patience, |status| {
            !matches!(status, OrderStatus::Pending | OrderStatus::Unknown(_))
        })
        .await
    }

    /// Looks at a finalized order until it is `valid` or `invalid`.
    pub async fn wait_until_issued(&self, order_url: &str, patience: Duration) -> Result<Order, AcmeError> {
        self.wait_for_order("the issuance", order_url, patience, |status| {
            matches!(status, OrderStatus::Valid | OrderStatus::Invalid)
        })
        .await
    }

    async fn wait_for_order(
        &self,
        what: &str,
        url: &str,
        patience: Duration,
        done: fn(&OrderStatus) -> bool,
    ) -> Result<Order, AcmeError> {
        self.wait(what, patience, || async {
            let order = self.order(url).await?;
            Ok((order.retry_after, done(&order.status).then_some(order)))
        })
        .await
    }

    /// Asks until there is an answer. The last question is asked when the patience ends, not before.
    async fn wait<T, F>(
        &self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<(Option<Duration>, Option<T>), AcmeError>>,
    {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (retry_after, done) = ask().await?;
            if let Some(done) = done {
                return Ok(done);
            }
            let left = patience.saturating_sub(started.elapsed());
            let asked = retry_after.filter(|asked| !asked.is_zero());
            if left.is_zero() || asked.is_some_and(|asked| asked > left) {
                return Err(AcmeError::Timeout { what: what.to_owned(), retry_after });
            }
            let next = asked.unwrap_or(pause).min(left);
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            self.inner.transport.pause(next).await?;
        }
    }
}
