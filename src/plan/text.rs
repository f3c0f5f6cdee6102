//! Times in words, for messages and for the rendered plan.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time in words, in the largest unit of which there are at least two: `29 days`, `36 hours`, `90 seconds`.
pub(crate) fn span(seconds: i64) -> String {
    let (count, unit) = match seconds.unsigned_abs() {
        n if n >= 2 * DAY => (n / DAY, "day"),
        n if n >= 2 * HOUR => (n / HOUR, "hour"),
        n if n >= 2 * MINUTE => (n / MINUTE, "minute"),
        n => (n, "second"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// A moment relative to another: `in 29 days`, `3 hours ago`, `now`.
pub(crate) fn relative(moment: Timestamp, now: Timestamp) -> String {
    match moment.as_second().saturating_sub(now.as_second()) {
        0 => "now".to_owned(),
        ahead if ahead > 0 => format!("in {}", span(ahead)),
        ago => format!("{} ago", span(ago)),
    }
}

/// A moment to the minute, in UTC: `2026-11-01 00:00 UTC`.
pub(crate) fn moment(moment: Timestamp) -> String {
    moment.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_people_would_use() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (2 * 3_600 - 1, "119 minutes"),
            (36 * 3_600, "36 hours"),
            (2 * 86_400, "2 days"),
            (-30 * 86_400, "30 days"),
            (i64::MIN, "106751991167300 days"),
        ] {
            assert_eq!(span(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn moments_are_said_in_utc_and_relative_to_the_plan() {
        let now = Timestamp::from_second(1_793_491_200).unwrap();
        assert_eq!(moment(now), "2026-11-01 00:00 UTC");
        assert_eq!(relative(now, now), "now");
        assert_eq!(relative(Timestamp::from_second(1_793_491_200 + 29 * 86_400).unwrap(), now), "in 29 days");
        assert_eq!(relative(Timestamp::from_second(1_793_491_200 - 3 * 3_600).unwrap(), now), "3 hours ago");
    }
}
