//! The subcommands, one module each.
//!
//! # The shapes of `--json`
//!
//! One object in one line. Names are not removed and their meaning does not change; new ones may be added. Every
//! object begins with `endpoint` and `bucket`. TXIDs are strings of 16 hexadecimal digits, times are RFC 3339 in UTC
//! by the store's clock, sizes are in bytes.
//!
//! - `ls`: `databases`, an array of `database`, `last_txid`, `objects` (a count), `bytes`, `modified`.
//! - `ls -d ID`: `database`, `last_txid`, `foreign_objects` (how many others lie below the prefix), and `objects`, an
//!   array of `key`, `level` (0 to 9), `kind` (`log`, `compacted` or `snapshot`), `min_txid`, `max_txid`, `bytes`,
//!   `modified`, `etag` (or null).
//! - `restore`: `database`, `file`, `txid`, `database_checksum`, `page_size`, `pages`, `downloaded_bytes`.
//! - `doctor`: `healthy`, `round_trip_ms` and `clock_skew_seconds` (positive: the store's clock is ahead; both null
//!   if not measured), and `checks`, an array of `check`, `status` (`ok`, `warning`, `failed` or `skipped`), `detail`.
//! - `create-bucket`: nothing more.
//!
//! On an error nothing is printed, except by `doctor`, whose output is the diagnosis.

pub(crate) mod create_bucket;
pub(crate) mod doctor;
pub(crate) mod ls;
pub(crate) mod restore;

use bottomless_store::{Bucket, Location, Transport};
use serde::Serialize;

use crate::error::Error;

/// The fields with which every report begins.
#[derive(Debug, Serialize)]
struct Place {
    endpoint: String,
    bucket: String,
}

impl From<&Location> for Place {
    fn from(location: &Location) -> Self {
        Self { endpoint: location.endpoint.to_string(), bucket: location.bucket.clone() }
    }
}

async fn connect(location: &Location) -> Result<Bucket, Error> {
    Ok(Bucket::connect(location, &Transport::new()?).await?)
}
