//! `doctor`
//!
//! The checks build on one another: after the first that fails the others are skipped.

mod measure;

use std::io::{self, Write};

use bottomless_history::DatabaseId;
use bottomless_store::probe::{self, Proof, WRITERS};
use bottomless_store::{Bucket, Location, StoreError, StoreErrorKind, Transport};
use serde::Serialize;

use super::Place;
use crate::args::Common;
use crate::error::Error;
use crate::output::{Output, Report};
use measure::{Measured, TIMEOUT};

/// Where test objects lie when no database is named. With one, they lie below its prefix: credentials may be good for
/// that alone.
const PREFIX: &str = "bottomless-doctor";

/// A larger difference of the clocks is worth a word.
const GREATEST_SKEW_SECONDS: f64 = 60.0;

pub(crate) async fn run(common: &Common, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let database = common.database()?;
    let prefix = database.as_ref().map_or(PREFIX, DatabaseId::as_str);
    // Read by hand, not by the engine: it is the only setting of a database that matters here.
    let fencing = std::env::var("LIBSQL_BOTTOMLESS_FENCING").ok().as_deref() != Some("off");
    let mut diagnosis = Diagnosis::new(&location);
    examine(&mut diagnosis, &location, prefix, fencing).await?;
    diagnosis.skip_the_rest();
    output.print(&diagnosis)?;
    if diagnosis.healthy { Ok(()) } else { Err(Error::Reported) }
}

/// Runs the checks until one fails.
async fn examine(diagnosis: &mut Diagnosis, location: &Location, prefix: &str, fencing: bool) -> Result<(), io::Error> {
    let transport = Transport::new()?;
    let listed = match Bucket::connect(location, &transport).await {
        Ok(bucket) => bucket.list(prefix, None).await.map(|_| bucket),
        Err(error) => Err(error),
    };
    let bucket = match listed {
        Ok(bucket) => bucket,
        Err(error) => {
            diagnosis.blame(location, &error);
            return Ok(());
        }
    };
    diagnosis.reached(location);
    diagnosis.ok(Check::Credentials, "accepted: the bucket may be listed".into());
    diagnosis.ok(Check::Bucket, format!("{} is there", location.bucket));

    match probe::conditional_create(&bucket, prefix, TIMEOUT).await {
        Ok(proof) => diagnosis.conditional_writes(&proof, fencing),
        Err(error) => diagnosis.add(Check::ConditionalWrites, Status::Failed, error.to_string()),
    }
    if diagnosis.healthy {
        match measure::measure(&bucket, prefix).await {
            Ok(measured) => diagnosis.measured(&measured),
            Err(error) => diagnosis.add(Check::RoundTrip, Status::Failed, error.to_string()),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Check {
    Endpoint,
    Credentials,
    Bucket,
    ConditionalWrites,
    RoundTrip,
    Clock,
}

const CHECKS: [Check; 6] =
    [Check::Endpoint, Check::Credentials, Check::Bucket, Check::ConditionalWrites, Check::RoundTrip, Check::Clock];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Credentials => "credentials",
            Self::Bucket => "bucket",
            Self::ConditionalWrites => "conditional writes",
            Self::RoundTrip => "round trip",
            Self::Clock => "clock",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Failed,
    Skipped,
}

#[derive(Debug, Serialize)]
struct Line {
    check: Check,
    status: Status,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    #[serde(flatten)]
    place: Place,
    healthy: bool,
    round_trip_ms: Option<f64>,
    clock_skew_seconds: Option<f64>,
    checks: Vec<Line>,
}

impl Diagnosis {
    fn new(location: &Location) -> Self {
        Self {
            place: Place::from(location),
            healthy: true,
            round_trip_ms: None,
            clock_skew_seconds: None,
            checks: Vec::new(),
        }
    }

    fn add(&mut self, check: Check, status: Status, detail: String) {
        self.healthy &= status != Status::Failed;
        self.checks.push(Line { check, status, detail });
    }

    fn ok(&mut self, check: Check, detail: String) {
        self.add(check, Status::Ok, detail);
    }

    fn reached(&mut self, location: &Location) {
        self.ok(Check::Endpoint, format!("{} answers", location.endpoint));
    }

    fn skip_the_rest(&mut self) {
        for check in CHECKS.into_iter().skip(self.checks.len()) {
            self.add(check, Status::Skipped, "not checked, since an earlier check failed".into());
        }
    }

    /// Puts the failure of the first request where it belongs.
    fn blame(&mut self, location: &Location, error: &StoreError) {
        let check = match error.kind() {
            StoreErrorKind::NoSuchBucket => Check::Bucket,
            StoreErrorKind::NoCredentials | StoreErrorKind::Denied => Check::Credentials,
            _ => Check::Endpoint,
        };
        if check != Check::Endpoint && error.kind() != StoreErrorKind::NoCredentials {
            self.reached(location);
        }
        if error.kind() == StoreErrorKind::NoCredentials {
            self.add(Check::Endpoint, Status::Skipped, "not asked: there is nothing to sign a request with".into());
        }
        if check == Check::Bucket {
            self.ok(Check::Credentials, "accepted".into());
        }
        self.add(check, Status::Failed, error.to_string());
    }

    fn conditional_writes(&mut self, proof: &Proof, fencing: bool) {
        match proof {
            Proof::Proven => {
                self.ok(Check::ConditionalWrites, format!("of {WRITERS} simultaneous creators of one key one succeeded"));
            }
            Proof::Refuted(what) if fencing => self.add(
                Check::ConditionalWrites,
                Status::Failed,
                format!(
                    "this store can't keep two writers apart: {what}; use another store or a newer version of it, or set \
                     LIBSQL_BOTTOMLESS_FENCING=off and make sure yourself that there is only one writer"
                ),
            ),
            Proof::Refuted(what) => self.add(
                Check::ConditionalWrites,
                Status::Warning,
                format!("{what}; LIBSQL_BOTTOMLESS_FENCING=off: you promise that there is only one writer"),
            ),
        }
    }

    fn measured(&mut self, measured: &Measured) {
        let Measured { round_trip, skew_seconds } = *measured;
        let milliseconds = (round_trip.as_secs_f64() * 1e6).round() / 1e3;
        self.round_trip_ms = Some(milliseconds);
        self.ok(Check::RoundTrip, format!("{milliseconds:.1} ms for a small PUT: the least that a COMMIT takes"));
        let skew = (skew_seconds * 10.0).round() / 10.0;
        self.clock_skew_seconds = Some(skew);
        if skew.abs() <= GREATEST_SKEW_SECONDS {
            self.ok(Check::Clock, format!("{:.1} s apart from the store's", skew.abs()));
        } else {
            let side = if skew > 0.0 { "behind" } else { "ahead of" };
            let detail = format!(
                "this machine is {:.0} s {side} the store: set its clock (for example with NTP); stores refuse requests \
                 that are more than 15 minutes off",
                skew.abs()
            );
            self.add(Check::Clock, Status::Warning, detail);
        }
    }
}

impl Report for Diagnosis {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        for Line { check, status, detail } in &self.checks {
            let status = match status {
                Status::Ok => "ok",
                Status::Warning => "WARNING",
                Status::Failed => "FAILED",
                Status::Skipped => "skipped",
            };
            writeln!(to, "{status:<7}  {:<18}  {detail}", check.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn location() -> Location {
        Location::new("http://localhost:9000".parse().unwrap(), "libsql").unwrap()
    }

    fn text(diagnosis: &Diagnosis) -> String {
        let mut text = Vec::new();
        diagnosis.write_text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_healthy_store() {
        let mut diagnosis = Diagnosis::new(&location());
        diagnosis.reached(&location());
        diagnosis.ok(Check::Credentials, "c".into());
        diagnosis.ok(Check::Bucket, "b".into());
        diagnosis.conditional_writes(&Proof::Proven, true);
        diagnosis.measured(&Measured { round_trip: Duration::from_micros(1234), skew_seconds: -0.26 });
        diagnosis.skip_the_rest();
        let line = |check, detail| json!({"check": check, "status": "ok", "detail": detail});
        let expected = json!({
            "endpoint": "http://localhost:9000", "bucket": "libsql", "healthy": true, "round_trip_ms": 1.234,
            "clock_skew_seconds": -0.3,
            "checks": [
                line("endpoint", "http://localhost:9000 answers"),
                line("credentials", "c"),
                line("bucket", "b"),
                line("conditional_writes", "of 8 simultaneous creators of one key one succeeded"),
                line("round_trip", "1.2 ms for a small PUT: the least that a COMMIT takes"),
                line("clock", "0.3 s apart from the store's"),
            ],
        });
        assert_eq!(serde_json::to_value(&diagnosis).unwrap(), expected);
        assert!(text(&diagnosis).starts_with("ok       endpoint            http://localhost:9000 answers\n"));
    }

    #[test]
    fn a_store_that_lets_two_win_fails_unless_the_user_promised_one_writer() {
        let refuted = Proof::Refuted("it let 2 of 8 win".into());
        let mut diagnosis = Diagnosis::new(&location());
        diagnosis.conditional_writes(&refuted, false);
        assert!(diagnosis.healthy && text(&diagnosis).starts_with("WARNING"));
        diagnosis.conditional_writes(&refuted, true);
        assert!(!diagnosis.healthy && text(&diagnosis).contains("LIBSQL_BOTTOMLESS_FENCING=off"));
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_side() {
        for (skew, words) in [(90.0, "90 s behind the store"), (-90.0, "90 s ahead of the store")] {
            let mut diagnosis = Diagnosis::new(&location());
            diagnosis.measured(&Measured { round_trip: Duration::ZERO, skew_seconds: skew });
            assert!(diagnosis.healthy && text(&diagnosis).contains(words), "{}", text(&diagnosis));
        }
    }
}
