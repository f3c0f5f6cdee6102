//! Failures in a row, remembered over runs: a schedule that runs often must not defeat backing off.

use certplan_provider::message_of;
use jiff::SignedDuration;
use jiff::Timestamp;

use crate::model::Failures;
use crate::plan::LONGEST_WAIT;

use super::error::ApplyError;

/// The waits after the first, second, third and every further failure, as Let's Encrypt's integration guide asks.
const WAITS: [SignedDuration; 4] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(100),
    SignedDuration::from_hours(24),
];

/// The shortest wait that nearing expiry makes of a longer one.
const HASTE: SignedDuration = SignedDuration::from_mins(10);

/// Adds a failure to those before it. However long the CA or the failures so far ask to wait, it is tried again before
/// half of the time until `expiry`, that of the certificate in use, is over.
pub(super) fn after(
    before: Option<&Failures>,
    error: &ApplyError,
    now: Timestamp,
    expiry: Option<Timestamp>,
) -> Failures {
    let count = before.map_or(0, |failures| failures.count).saturating_add(1);
    let wait = match error.retry_after() {
        Some(asked) => SignedDuration::try_from(asked).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT),
        None => WAITS[(count as usize - 1).min(WAITS.len() - 1)],
    };
    let wait = match expiry.map(|expiry| expiry.duration_since(now)) {
        Some(left) if left.is_positive() => wait.min((left / 2).max(HASTE)),
        _ => wait,
    };
    Failures {
        count,
        last: now,
        retry_after: now.checked_add(wait).unwrap_or(Timestamp::MAX),
        message: message_of(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::acme::AcmeError;

    #[test]
    fn waits_grow_and_stay_at_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let error = ApplyError::JournalClosed;
        let mut failures = after(None, &error, now, None);
        let mut waits = vec![failures.retry_after.duration_since(now)];
        for _ in 0..4 {
            failures = after(Some(&failures), &error, now, None);
            waits.push(failures.retry_after.duration_since(now));
        }
        assert_eq!(waits.iter().map(|wait| wait.as_mins()).collect::<Vec<_>>(), [1, 10, 100, 1440, 1440]);
    }

    #[test]
    fn no_wait_outlasts_the_certificate() {
        let now = Timestamp::UNIX_EPOCH;
        let wait = |asked_hours: u64, left: SignedDuration| {
            let error = ApplyError::Acme(AcmeError::RateLimited {
                message: String::new(),
                retry_after: Some(Duration::from_secs(asked_hours * 3600)),
            });
            after(None, &error, now, Some(now + left)).retry_after.duration_since(now)
        };
        // A week that a CA asks for is believed while the certificate lasts for more than two.
        assert_eq!(wait(168, SignedDuration::from_hours(24 * 30)).as_hours(), 168);
        assert_eq!(wait(168, SignedDuration::from_hours(48)).as_hours(), 24);
        assert_eq!(wait(168, SignedDuration::from_mins(4)).as_mins(), 10);
        // What has expired has nothing left to lose by waiting.
        assert_eq!(wait(168, SignedDuration::from_hours(-1)).as_hours(), 168);
        // 999 years.
        assert_eq!(wait(24 * 365 * 999, SignedDuration::from_hours(24 * 90)).as_hours(), 192);
    }
}
