use jiff::Timestamp;

use crate::model::AriRecord;
use crate::model::CertificateFacts;
use crate::model::RenewBefore;
use crate::model::sha256;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// When a certificate is to be renewed, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The moment from which it is due.
    pub at: Timestamp,
    /// It is not renewed before, however due it is: what renews itself in a loop is stopped here.
    pub not_before: Timestamp,
    /// The rule.
    pub basis: Basis,
    /// Set when `renew.before` does not fit the lifetime: what it asked for, in seconds.
    pub clamped: Option<i64>,
}

/// The rule by which a moment was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// The CA's suggested window ([RFC 9773, section 4.2](https://www.rfc-editor.org/rfc/rfc9773#section-4.2)).
    Ari {
        /// The window.
        window: (Timestamp, Timestamp),
        /// Whether it ends well before the usual moment: the CA wants the certificate replaced, as before a revocation.
        early: bool,
    },
    /// `renew.before`.
    Configured,
    /// A third of the lifetime is left, or half when it is under ten days.
    Lifetime,
}

/// Works out when a certificate is to be renewed.
///
/// An early window of the CA comes before everything; then `renew.before`, then any window of the CA, then the
/// lifetime. The moment in a window is a hash of lineage, serial and window: the same in every run, and spread over a
/// fleet. A window that ends before it begins, or begins after the certificate expires, is no answer.
pub fn renewal(
    facts: &CertificateFacts,
    issued_at: Timestamp,
    before: Option<RenewBefore>,
    ari: Option<&AriRecord>,
    lineage: Option<&str>,
) -> Renewal {
    let (start, end) = (facts.not_before.as_second(), facts.not_after.as_second());
    let lifetime = (end - start).max(0);
    let usual = if lifetime < 10 * DAY { lifetime / 2 } else { lifetime - lifetime / 3 };
    let window = ari
        .filter(|ari| ari.fingerprint == facts.fingerprint)
        .and_then(|ari| ari.window)
        .filter(|(from, to)| from < to && from.as_second() < end);
    let early = |(_, to): &(Timestamp, Timestamp)| to.as_second() < start + usual - lifetime / 20;

    let (at, basis, clamped) = match (before, window) {
        (None, Some(window)) => {
            let early = early(&window);
            (moment(facts, window, lineage), Basis::Ari { window, early }, None)
        }
        (Some(_), Some(window)) if early(&window) => {
            (moment(facts, window, lineage), Basis::Ari { window, early: true }, None)
        }
        (Some(before), _) => {
            let asked = seconds_before(before, lifetime);
            // A moment in the first third would renew again and again.
            let fits = lifetime - asked >= lifetime / 3;
            let left = if fits { asked } else { lifetime / 2 };
            (at(end - left), Basis::Configured, (!fits).then_some(asked))
        }
        (None, None) => (at(start + usual), Basis::Lifetime, None),
    };
    let floor = floor(issued_at.as_second(), end, lifetime, matches!(basis, Basis::Ari { .. }));
    Renewal { at: at.min(facts.not_after), not_before: self::at(floor), basis, clamped }
}

/// The earliest second of a renewal: an hour after issuance for the CA's windows, which may be about an incident;
/// else a third of what the certificate had left when it came.
fn floor(issued_at: i64, end: i64, lifetime: i64, ari: bool) -> i64 {
    let wait = if ari {
        HOUR.min(lifetime / 10)
    } else if end > issued_at {
        (end - issued_at) / 3
    } else {
        // It had expired when it came: this clock or the CA's is wrong.
        DAY.min(lifetime / 3)
    };
    issued_at.saturating_add(wait)
}

fn seconds_before(before: RenewBefore, lifetime: i64) -> i64 {
    match before {
        RenewBefore::Duration(duration) => i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4),
        RenewBefore::Fraction(_, 0) => lifetime / 3,
        RenewBefore::Fraction(numerator, denominator) => {
            let seconds = i128::from(lifetime) * i128::from(numerator) / i128::from(denominator);
            i64::try_from(seconds).unwrap_or(i64::MAX / 4)
        }
    }
}

fn moment(facts: &CertificateFacts, (from, to): (Timestamp, Timestamp), lineage: Option<&str>) -> Timestamp {
    let seed = format!(
        "{}\n{}\n{}\n{}",
        lineage.unwrap_or_default(),
        facts.serial,
        from.as_second(),
        to.as_second()
    );
    let digest = sha256(seed.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest.as_bytes()[..8]);
    let span = (to.as_second() - from.as_second()).max(0);
    let offset = (u128::from(u64::from_be_bytes(head)) * span.unsigned_abs() as u128) >> 64;
    at(from.as_second() + i64::try_from(offset).unwrap_or(span))
}

/// The second as a timestamp, kept within what a timestamp holds.
pub(super) fn at(second: i64) -> Timestamp {
    let second = second.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}
