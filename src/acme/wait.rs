use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use futures::future::join_all;

use super::error::AcmeError;
use super::order::Authorization;
use super::order::AuthorizationStatus;
use super::order::Order;
use super::order::OrderStatus;
use super::session::Session;

/// The pause after the first look when the CA does not say how long to wait. Each further pause is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of how many looks at an order one is at its authorizations too: the first after two seconds or so.
const LOOKS_PER_THOROUGH_ONE: u32 = 10;

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
    ///
    /// A CA that leaves an order `pending` although a name was refused breaks the protocol
    /// ([RFC 8555, section 7.1.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.6)), and is not waited for: now and
    /// then the authorizations are looked at too, and the order is returned as it is.
    pub async fn wait_until_ready(&self, order_url: &str, patience: Duration) -> Result<Order, AcmeError> {
        let mut looks = 0;
        self.wait("the validation", patience, || {
            looks += 1;
            let thorough = looks % LOOKS_PER_THOROUGH_ONE == 0;
            async move {
                let order = self.order(order_url).await?;
                let undecided = matches!(order.status, OrderStatus::Pending | OrderStatus::Unknown(_));
                let done = !undecided || thorough && self.has_refused_name(&order).await;
                Ok((order.retry_after, done.then_some(order)))
            }
        })
        .await
    }

    /// Whether the CA will not accept an authorization of the order any more. What cannot be looked at is not refused.
    async fn has_refused_name(&self, order: &Order) -> bool {
        let looks = order.authorizations.iter().map(|url| self.authorization(url));
        join_all(looks).await.into_iter().flatten().any(|authorization| {
            !matches!(
                authorization.status,
                AuthorizationStatus::Pending | AuthorizationStatus::Unknown(_) | AuthorizationStatus::Valid
            )
        })
    }

    /// Looks at a finalized order until it is `valid` or `invalid`.
    pub async fn wait_until_issued(&self, order_url: &str, patience: Duration) -> Result<Order, AcmeError> {
        self.wait("the issuance", patience, || async {
            let order = self.order(order_url).await?;
            let done = matches!(order.status, OrderStatus::Valid | OrderStatus::Invalid);
            Ok((order.retry_after, done.then_some(order)))
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
