//! What `PRAGMA bottomless_status` answers.

use std::path::Path;
use std::time::SystemTime;

use bottomless_ltx::Position;
use bottomless_store::{Bucket, Counters};
use serde::Serialize;

use crate::config::{Config, Fencing};
use crate::database::Database;
use crate::error::Result;
use crate::past::Past;

/// The status of a database, as JSON. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    path: String,
    endpoint: String,
    bucket: &'a str,
    database_id: &'a str,
    /// As the bucket has the database, or will have it; null where a connection to the past did not have to ask.
    layout: Option<String>,
    fencing: &'static str,
    /// The last transaction that both the bucket and the local database hold; 0 before the first.
    txid: u64,
    /// The same as in the names of objects.
    txid_hex: String,
    database_checksum: String,
    page_size: u32,
    size_in_pages: u32,
    /// Another writer has taken over.
    fenced: bool,
    /// A commit is under way, or its outcome is not known.
    unsettled: bool,
    /// Since this process opened the database.
    requests: Requests,
    bytes_up: u64,
    bytes_down: u64,
    last_error: Option<String>,
    /// Whether this process keeps the history small.
    compaction: &'static str,
    /// When this process last had looked at what was due and had done it; RFC 3339.
    last_compaction: Option<String>,
    /// Up to which transaction all are merged, as far as this process has seen.
    compacted_txid: u64,
    /// Why the last try has failed; null after one that has not.
    compaction_error: Option<String>,
    /// The connection shows the past; null on one that shows the present.
    past: Option<AsItWas>,
}

/// What `txid` and the other fields of the position are, on a connection that shows the past.
#[derive(Debug, Serialize)]
struct AsItWas {
    /// When that transaction was committed, by the clock of its writer; RFC 3339.
    time: String,
    /// The local file that holds it while a connection shows it.
    file: String,
    /// That nothing can be written to it, and what to do instead.
    read_only: String,
}

#[derive(Debug, Serialize)]
struct Requests {
    put: u64,
    get: u64,
    list: u64,
    head: u64,
    delete: u64,
}

impl<'a> Status<'a> {
    /// With nothing in it that only a database that is written to has.
    fn new(path: &Path, config: &'a Config, position: Position, counters: Counters) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            path: path.display().to_string(),
            endpoint: config.location.endpoint.to_string(),
            bucket: &config.location.bucket,
            database_id: config.database_id.as_str(),
            layout: None,
            fencing: match config.fencing {
                Fencing::On => "on",
                Fencing::Off => "off",
            },
            txid: position.txid.get(),
            txid_hex: position.txid.to_string(),
            database_checksum: position.checksum.to_string(),
            page_size: 0,
            size_in_pages: 0,
            fenced: false,
            unsettled: false,
            requests: Requests {
                put: counters.put,
                get: counters.get,
                list: counters.list,
                head: counters.head,
                delete: counters.delete,
            },
            bytes_up: counters.bytes_up,
            bytes_down: counters.bytes_down,
            last_error: None,
            compaction: "off",
            last_compaction: None,
            compacted_txid: 0,
            compaction_error: None,
            past: None,
        }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Past {
    /// The status as a JSON object: the fields of a database's status, and the point in `past`.
    #[must_use]
    pub fn status(&self) -> String {
        let (page_size, size_in_pages) = self.shape();
        // Another connection may have asked the bucket.
        let counters = self.bucket().map(Bucket::counters).unwrap_or_default();
        let past =
            AsItWas { time: rfc3339(self.time()), file: self.file().display().to_string(), read_only: self.advice() };
        let status = Status::new(self.path(), self.config(), self.position(), counters);
        let layout = self.layout().map(|layout| layout.to_string());
        Status { layout, page_size: page_size.get(), size_in_pages, past: Some(past), ..status }.to_json()
    }
}

impl Database {
    /// The status as a JSON object.
    ///
    /// # Errors
    /// When the local state can't be read.
    pub fn status(&self) -> Result<String> {
        let record = self.record()?;
        let progress = self.upkeep().progress();
        let status = Status::new(self.path(), self.config(), record.position, self.bucket().counters());
        let status = Status {
            layout: Some(self.layout().to_string()),
            page_size: record.page_size.map_or(0, bottomless_ltx::PageSize::get),
            size_in_pages: record.size_in_pages,
            fenced: self.is_fenced(),
            unsettled: record.intent.is_some(),
            last_error: self.last_error(),
            compaction: if self.config().compaction { "on" } else { "off" },
            last_compaction: progress.last.map(rfc3339),
            compacted_txid: progress.txid.get(),
            compaction_error: progress.last_error,
            ..status
        };
        Ok(status.to_json())
    }
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}
