//! Points in time: as transactions bear them, and as people write them.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::{Span, Timestamp, tz::TimeZone};

/// Not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTime {
    /// There is no telling which moment it was.
    #[error(
        "{0:?} says no time zone: add Z for UTC, or an offset, as in 2026-11-22T14:02:00Z and 2026-11-22T14:02:00+01:00"
    )]
    NoZone(String),
    /// How long, but not from when.
    #[error("{0:?} is a time span: write how long ago it was, as in \"10 minutes ago\"")]
    Span(String),
    /// Before all or behind all times.
    #[error("{0:?} is out of range")]
    Range(String),
    /// Anything else.
    #[error("{0:?} is no time: write it as 2026-11-22T14:02:00Z, or as \"10 minutes ago\"")]
    Unknown(String),
}

/// Reads RFC 3339 with `Z` or an offset (`2026-11-22T14:02:00Z`, `2026-11-22 15:02:00.5+01:00`), or how long before
/// `now` it was (`10 minutes ago`, `1h 30m ago`, `2 days ago`; days and what is longer by UTC's calendar).
///
/// # Errors
/// For anything else: a time without a zone above all, which would be another moment on another machine.
pub fn parse_time(text: &str, now: SystemTime) -> Result<SystemTime, InvalidTime> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.into());
    }
    if text.parse::<jiff::civil::DateTime>().is_ok() {
        return Err(InvalidTime::NoZone(text.into()));
    }
    let Ok(span) = text.parse::<Span>() else {
        return Err(InvalidTime::Unknown(text.into()));
    };
    if span.is_positive() {
        return Err(InvalidTime::Span(text.into()));
    }
    let range = |_| InvalidTime::Range(text.into());
    let now = Timestamp::try_from(now).map_err(range)?.to_zoned(TimeZone::UTC);
    Ok(now.checked_add(span).map_err(range)?.timestamp().into())
}

/// Milliseconds since 1970-01-01 UTC, rounded down.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    let clamp = |milliseconds: u128| i64::try_from(milliseconds).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => clamp(since.as_millis()),
        Err(before) => -clamp(before.duration().as_nanos().div_ceil(1_000_000)),
    }
}

/// The time of a header.
pub(crate) fn from_milliseconds(milliseconds: i64) -> SystemTime {
    let distance = Duration::from_millis(milliseconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if milliseconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    time.unwrap_or(epoch)
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = milliseconds(self.0);
        match Timestamp::from_millisecond(milliseconds) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "the impossible time {milliseconds} ms since 1970"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parsed(text: &str) -> Result<String, InvalidTime> {
        let now: Timestamp = "2026-11-22T14:00:00.25Z".parse().unwrap();
        parse_time(text, now.into()).map(|time| Rfc3339(time).to_string())
    }

    #[test]
    fn times_as_people_write_them() {
        for (text, time) in [
            ("2026-11-22T14:02:00Z", "2026-11-22T14:02:00.000Z"),
            (" 2026-11-22 15:02:00.1239+01:00 ", "2026-11-22T14:02:00.123Z"),
            ("2026-11-22T14:02Z", "2026-11-22T14:02:00.000Z"),
            ("10 minutes ago", "2026-11-22T13:50:00.250Z"),
            ("1h 30m ago", "2026-11-22T12:30:00.250Z"),
            ("1 hour, 30 minutes ago", "2026-11-22T12:30:00.250Z"),
            ("-90s", "2026-11-22T13:58:30.250Z"),
            ("2 days ago", "2026-11-20T14:00:00.250Z"),
            ("1 month ago", "2026-10-22T14:00:00.250Z"),
            ("0s ago", "2026-11-22T14:00:00.250Z"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(time), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused_with_advice() {
        for (text, advice) in [
            ("2026-11-22T14:02:00", "add Z"),
            ("2026-11-22 14:02", "add Z"),
            ("2026-11-22", "add Z"),
            ("10 minutes", "10 minutes ago"),
            ("yesterday", "write it as"),
            ("14:02", "write it as"),
            ("", "write it as"),
            ("1795356120", "write it as"),
            ("99999 years ago", "write it as"),
            ("19000 years ago", "out of range"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn milliseconds_are_rounded_down_and_come_back() {
        for milliseconds_ in [0, 1, -1, 1_795_356_120_123, i64::MAX, i64::MIN + 1] {
            assert_eq!(milliseconds(from_milliseconds(milliseconds_)), milliseconds_);
        }
        let micro = Duration::from_micros(1);
        assert_eq!(milliseconds(SystemTime::UNIX_EPOCH + micro), 0);
        assert_eq!(milliseconds(SystemTime::UNIX_EPOCH - micro), -1);
        assert!(Rfc3339(from_milliseconds(i64::MAX)).to_string().contains("impossible"));
    }
}
