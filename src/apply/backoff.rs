//! Failures in a row, remembered over runs: a schedule that runs often must not defeat backing off.

use certplan_provider::message_of;
use jiff::SignedDuration;
use jiff::Timestamp;

use crate::model::Failures;

use super::error::ApplyError;

/// The waits after the first, second, third and every further failure, as Let's Encrypt's integration guide asks.
const WAITS: [SignedDuration; 4] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(100),
    SignedDuration::from_hours(24),
];

/// The longest wait that a CA may ask for: some send a day for an order that is merely slow.
const LONGEST: SignedDuration = SignedDuration::from_hours(8 * 24);

/// Adds a failure to those before it.
pub(super) fn after(before: Option<&Failures>, error: &ApplyError, now: Timestamp) -> Failures {
    let count = before.map_or(0, |failures| failures.count).saturating_add(1);
    let wait = match error.retry_after() {
        Some(asked) => SignedDuration::try_from(asked).unwrap_or(LONGEST).min(LONGEST),
        None => WAITS[(count as usize - 1).min(WAITS.len() - 1)],
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
    use super::*;

    #[test]
    fn waits_grow_and_stay_at_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let error = ApplyError::JournalClosed;
        let mut failures = after(None, &error, now);
        let mut waits = vec![failures.retry_after.duration_since(now)];
        for _ in 0..4 {
            failures = after(Some(&failures), &error, now);
            waits.push(failures.retry_after.duration_since(now));
        }
        assert_eq!(waits.iter().map(|wait| wait.as_mins()).collect::<Vec<_>>(), [1, 10, 100, 1440, 1440]);
    }
}
