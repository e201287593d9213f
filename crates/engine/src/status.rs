//! What `PRAGMA bottomless_status` answers.

use serde::Serialize;

use crate::config::Fencing;
use crate::database::Database;
use crate::error::Result;

/// The status of a database, as JSON. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    path: String,
    endpoint: String,
    bucket: &'a str,
    database_id: &'a str,
    layout: &'static str,
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
}

#[derive(Debug, Serialize)]
struct Requests {
    put: u64,
    get: u64,
    list: u64,
    head: u64,
    delete: u64,
}

impl Database {
    /// The status as a JSON object.
    ///
    /// # Errors
    /// When the local state can't be read.
    pub fn status(&self) -> Result<String> {
        let record = self.record()?;
        let counters = self.bucket().counters();
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            path: self.name(),
            endpoint: self.config().location.endpoint.to_string(),
            bucket: &self.config().location.bucket,
            database_id: self.config().database_id.as_str(),
            layout: "ltx",
            fencing: match self.config().fencing {
                Fencing::On => "on",
                Fencing::Off => "off",
            },
            txid: record.position.txid.get(),
            txid_hex: record.position.txid.to_string(),
            database_checksum: record.position.checksum.to_string(),
            page_size: record.page_size.map_or(0, bottomless_ltx::PageSize::get),
            size_in_pages: record.size_in_pages,
            fenced: self.is_fenced(),
            unsettled: record.intent.is_some(),
            requests: Requests {
                put: counters.put,
                get: counters.get,
                list: counters.list,
                head: counters.head,
                delete: counters.delete,
            },
            bytes_up: counters.bytes_up,
            bytes_down: counters.bytes_down,
            last_error: self.last_error(),
        };
        Ok(serde_json::to_string(&status).unwrap_or_default())
    }
}
