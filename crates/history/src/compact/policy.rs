//! How often is merged, and what is kept for how long.

use std::time::Duration;

/// When objects of each level are made, and how long every transaction stays restorable.
///
/// The defaults are those of Litestream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often objects of level 1, 2 and 3 are made, while there is something to merge.
    pub levels: [Duration; 3],
    /// How often a snapshot is made, while there are transactions behind the last one.
    pub snapshot: Duration,
    /// Every transaction stays restorable for this long, by the store's clock, and at least for the fence window. What is
    /// older may be deleted, as long as what is younger stays restorable.
    pub retention: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        Self {
            levels: [30, 5 * MINUTE, HOUR].map(Duration::from_secs),
            snapshot: Duration::from_secs(24 * HOUR),
            retention: Duration::from_secs(24 * HOUR),
        }
    }
}

/// Not an interval.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time like 30s, 5m, 1h, 24h or 7d is expected, or a number of seconds, greater than zero")]
pub struct InvalidInterval;

/// Reads `30`, `0.5` (seconds), `30s`, `5m`, `1h 30m`, `24h` or `7d`, where a day has 24 hours.
///
/// # Errors
/// Anything else, zero included.
pub fn parse_interval(text: &str) -> Result<Duration, InvalidInterval> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or(InvalidInterval);
    }
    let span: jiff::Span = text.parse().map_err(|_| InvalidInterval)?;
    let time = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| InvalidInterval)?;
    Duration::try_from(time).ok().filter(|time| !time.is_zero()).ok_or(InvalidInterval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_as_people_write_them() {
        for (text, seconds) in [
            ("30", 30.0),
            ("0.5", 0.5),
            ("30s", 30.0),
            ("5m", 300.0),
            ("1h 30m", 5400.0),
            ("24h", 86_400.0),
            ("7d", 604_800.0),
        ] {
            assert_eq!(parse_interval(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "x", "0", "-1", "-5m", "0s", "1 fortnight", "NaN", "inf", "5m ago"] {
            assert_eq!(parse_interval(text), Err(InvalidInterval), "{text}");
        }
    }
}
