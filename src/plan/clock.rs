//! Whose clock says what is due.
//!
//! A CA dates its certificates and tells the time with its directory, wherever that is asked for. When its clock and this
//! machine's are apart nobody knows which is wrong, so that what is due by either of them is due: that may renew early,
//! which the limits and the guard against loops bound, and it does not renew too late for a clock that the CA told of.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::Unit;

use crate::model::Address;
use crate::model::Issued;
use crate::model::Name;

use super::planner::Planner;
use super::text::moment;
use super::text::span;

/// How far clocks may be apart before anybody hears of it.
const TOLERATED: Duration = Duration::from_secs(5 * 60);

/// How far in the future something noted may be before it was noted by another clock than this one. A certificate that begins
/// minutes from now is taken from the CA, and of two runners each may have some minutes of its own.
pub(super) const OFF: SignedDuration = SignedDuration::from_hours(1);

/// How far in the future something may be noted that holds a certificate back for a while: what is noted later than that was
/// noted by a clock that was wrong, and would hold it back until then.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Whether something was noted by a clock that was far ahead of this one.
pub(super) fn noted_wrongly(noted: Timestamp, now: Timestamp) -> bool {
    noted.duration_since(now) > DAY
}

impl<'a> Planner<'a> {
    /// The time by which certificates of an issuer are judged: the later one, by this machine's clock and the CA's.
    pub(super) fn now_at(&self, issuer: &Name) -> Timestamp {
        let now = self.input.now;
        match self.apart(issuer) {
            Some(ahead) => now.checked_sub(ahead).map_or(now, |theirs| theirs.max(now)),
            None => now,
        }
    }

    /// How far this machine's clock is ahead of the CA's, if that is too far.
    pub(super) fn apart(&self, issuer: &Name) -> Option<SignedDuration> {
        self.input.observed.clocks.get(issuer).copied().filter(|ahead| ahead.unsigned_abs() > TOLERATED)
    }

    /// Notes a certificate that would begin in the future, by this machine's clock and the CA's.
    pub(super) fn check_beginning(&mut self, name: &'a Name, issuer: &'a Name, current: &Issued) {
        let begins = current.facts.not_before;
        if begins.duration_since(self.now_at(issuer)) > OFF {
            self.not_begun.entry(issuer).or_default().push((begins, name));
        }
    }

    /// Warns of clocks that are apart, once for each issuer.
    pub(super) fn summarise_clocks(&mut self) {
        for issuer in self.input.observed.clocks.keys() {
            let Some(ahead) = self.apart(issuer) else { continue };
            // To the minute, for the date of an answer is of whole seconds and may be older by some.
            let seconds = ahead.round(Unit::Minute).unwrap_or(ahead).as_secs();
            self.warn(
                Address::Account(issuer.clone()),
                format!(
                    "this machine's clock is {} {} that of the CA: what is due by either is due",
                    span(seconds),
                    if seconds < 0 { "behind" } else { "ahead of" }
                ),
                Some("set the clock that is wrong"),
            );
        }
        for (issuer, not_begun) in std::mem::take(&mut self.not_begun) {
            let Some((begins, name)) = not_begun.iter().max() else { continue };
            let others = match not_begun.len() - 1 {
                0 => String::new(),
                others => format!(", and {others} more later than now"),
            };
            self.fail(
                Some(Address::Account(issuer.clone())),
                format!(
                    "this machine's clock says {}, and certificate/{name} begins to be valid on {}{others}: what is due \
                     cannot be judged",
                    moment(self.input.now),
                    moment(*begins)
                ),
                "set this machine's clock".to_owned(),
            );
        }
    }
}
