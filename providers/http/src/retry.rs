use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryClass {
    /// Sending it twice is the same as sending it once: it is repeated after failed connections, lost answers, 408,
    /// 429 and 5xx (other than 501 and 505).
    Idempotent,
    /// It is sent once, whatever happens.
    Never,
    /// It is repeated only when it certainly had no effect: after failed connections and 429.
    Unsafe,
}

impl RetryClass {
    pub(crate) const fn after_status(self, status: http::StatusCode) -> bool {
        match self {
            Self::Idempotent => matches!(status.as_u16(), 408 | 429 | 500 | 502..=504 | 506..=599),
            Self::Never => false,
            Self::Unsafe => status.as_u16() == 429,
        }
    }

    pub(crate) const fn after_error(self, error: &crate::HttpError) -> bool {
        match self {
            Self::Idempotent => error.is_transient(),
            Self::Never => false,
            Self::Unsafe => error.is_transient() && error.nothing_sent(),
        }
    }
}

/// How often and how slowly requests are repeated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a request is sent in all, at least once.
    pub attempts: u32,
    /// The pause before the second attempt; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause that is waited out. A `Retry-After` beyond it ends the attempts: its answer is returned.
    pub longest_pause: Duration,
    /// Where the randomness of pauses comes from.
    pub jitter: Jitter,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(20),
            jitter: Jitter::default(),
        }
    }
}

impl RetryPolicy {
    /// The pause after the attempt with this number (from 1): between half of the exponential step and the whole, and
    /// never less than the server asked for. `None` when the attempts are used up or the server asks for too much.
    pub fn pause(&self, attempt: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if attempt >= self.attempts || retry_after.is_some_and(|asked| asked > self.longest_pause) {
            return None;
        }
        let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let step = self.first_pause.saturating_mul(doubled).min(self.longest_pause);
        let drawn = step.mul_f64(0.5 + self.jitter.draw() / 2.0);
        // All clients got the same Retry-After: some jitter on top keeps them apart.
        Some(retry_after.map_or(drawn, |asked| asked + drawn.min(asked / 4).min(Duration::from_secs(1))))
    }
}

/// A source of numbers in `0.0..1.0`.
#[derive(Clone)]
pub struct Jitter(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Jitter {
    /// Takes numbers from a function; tests give a constant.
    pub fn new(draw: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(draw))
    }

    fn draw(&self) -> f64 {
        (self.0)().clamp(0.0, 1.0)
    }
}

impl Default for Jitter {
    fn default() -> Self {
        // The standard library seeds each `RandomState` anew: good enough to spread clients.
        Self::new(|| (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64)
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jitter(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(jitter: f64) -> RetryPolicy {
        RetryPolicy { jitter: Jitter::new(move || jitter), ..RetryPolicy::default() }
    }

    #[test]
    fn pauses_double_and_are_drawn_from_their_upper_half() {
        let pauses = |jitter| (1..=4).map(|n| policy(jitter).pause(n, None)).collect::<Vec<_>>();
        let milliseconds = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses(1.0), [milliseconds(250), milliseconds(500), milliseconds(1000), None]);
        assert_eq!(pauses(0.0), [milliseconds(125), milliseconds(250), milliseconds(500), None]);
    }

    #[test]
    fn the_server_is_never_asked_earlier_than_it_wants() {
        let asked = Duration::from_secs(3);
        assert!(policy(0.0).pause(1, Some(asked)).unwrap() >= asked);
        assert!(policy(1.0).pause(1, Some(asked)).unwrap() <= asked + Duration::from_secs(1));
        assert_eq!(policy(0.5).pause(1, Some(Duration::from_secs(86_400))), None);
    }

    #[test]
    fn drawn_numbers_differ_and_stay_in_range() {
        let jitter = Jitter::default();
        let drawn: Vec<f64> = (0..100).map(|_| jitter.draw()).collect();
        assert!(drawn.iter().all(|number| (0.0..1.0).contains(number)));
        assert!(drawn.iter().any(|number| *number != drawn[0]));
    }
}
