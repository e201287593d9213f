//! What a small PUT takes, and how far the store's clock is from ours.

use std::time::{Duration, Instant, SystemTime};

use bottomless_store::{Body, Bucket, StoreError};
use bytes::Bytes;

/// For one request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// An odd number, for the median.
const PUTS: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The median.
    pub(super) round_trip: Duration,
    /// Positive: the store's clock is ahead of ours.
    pub(super) skew_seconds: f64,
}

/// Creates some small objects below `prefix`, one after another, looks at the time that the store gave to the last,
/// and deletes them.
pub(super) async fn measure(bucket: &Bucket, prefix: &str) -> Result<Measured, StoreError> {
    // Nobody else's key, and were it: the create fails, and nothing is lost.
    let unique = getrandom::u64().unwrap_or_default();
    let folder = format!("{prefix}/doctor-{unique:016x}");
    let measured = put_some(bucket, &folder).await;
    for number in 0..PUTS {
        let deleted = bucket.delete(&format!("{folder}/{number}")).await;
        if measured.is_ok() {
            deleted?;
        }
    }
    measured
}

async fn put_some(bucket: &Bucket, folder: &str) -> Result<Measured, StoreError> {
    let body = Body::Memory(Bytes::from_static(b"bottomless-cli doctor"));
    let mut times = Vec::new();
    let mut middle = SystemTime::now();
    for number in 0..PUTS {
        let (started, wall) = (Instant::now(), SystemTime::now());
        bucket.create(&format!("{folder}/{number}"), &body, wall, TIMEOUT).await?;
        let taken = started.elapsed();
        times.push(taken);
        middle = wall + taken / 2;
    }
    times.sort_unstable();
    let round_trip = times.get(PUTS / 2).copied().unwrap_or_default();
    let modified = bucket.list(folder, None).await?.last().map_or(middle, |object| object.modified);
    Ok(Measured { round_trip, skew_seconds: skew_seconds(modified, middle) })
}

/// How far `theirs` is ahead. Many stores tell whole seconds only: the fraction that they cut off is no skew.
fn skew_seconds(theirs: SystemTime, ours: SystemTime) -> f64 {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (theirs, ours) = (seconds(theirs), seconds(ours));
    if theirs.fract() == 0.0 && theirs == ours.floor() { 0.0 } else { theirs - ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_that_was_cut_off_is_no_skew() {
        let at = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        assert_eq!(skew_seconds(at(5_000), at(5_900)), 0.0);
        assert_eq!(skew_seconds(at(5_250), at(5_500)), -0.25);
        assert_eq!(skew_seconds(at(65_000), at(5_500)), 59.5);
    }
}
