//! Whose clock says what is due.
//!
//! The CA dates certificates, so where it was asked and its clock is not this machine's, its own decides: a machine that
//! is a day ahead renews nothing too early, and one that is behind nothing too late.

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
const TOLERATED: SignedDuration = SignedDuration::from_mins(5);

/// How long before a certificate begins a clock may say that it is. One that begins minutes from now is taken from the CA,
/// and of two runners each may have some minutes of its own.
const BEGINS: SignedDuration = SignedDuration::from_hours(1);

impl<'a> Planner<'a> {
    /// The time by which certificates of an issuer are judged.
    pub(super) fn now_at(&self, issuer: &Name) -> Timestamp {
        match self.apart(issuer) {
            Some(ahead) => self.input.now.checked_sub(ahead).unwrap_or(self.input.now),
            None => self.input.now,
        }
    }

    /// How far this machine's clock is ahead of the CA's, if that is too far.
    fn apart(&self, issuer: &Name) -> Option<SignedDuration> {
        self.input.observed.clocks.get(issuer).copied().filter(|ahead| ahead.abs() > TOLERATED)
    }

    /// Notes a certificate that would begin in the future.
    pub(super) fn check_beginning(&mut self, name: &'a Name, issuer: &Name, current: &Issued) {
        let begins = current.facts.not_before;
        if begins.duration_since(self.now_at(issuer)) > BEGINS {
            self.not_begun.push((begins, name));
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
                    "this machine's clock is {} {} that of the CA: what is due is judged by the CA's",
                    span(seconds),
                    if seconds < 0 { "behind" } else { "ahead of" }
                ),
                Some("set this machine's clock; with `--refresh=false` the CA is not asked, and this clock counts"),
            );
        }
        let Some((begins, name)) = self.not_begun.iter().max().copied() else { return };
        let others = match self.not_begun.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more"),
        };
        self.fail(
            None,
            format!(
                "this machine's clock says {}, and certificate/{name} begins to be valid on {}{others}: what is due \
                 cannot be judged",
                moment(self.input.now),
                moment(begins)
            ),
            "set this machine's clock".to_owned(),
        );
    }
}
