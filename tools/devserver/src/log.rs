//! What arrived on the wire, one record a request.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// One HTTP request as the server saw it. In the access log it is one line of JSON with these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The HTTP method, upper case.
    pub method: String,
    /// The path as sent, still percent-encoded: `/bucket/key`.
    pub path: String,
    /// The query as sent, without `?`; empty when there is none.
    pub query: String,
    /// The status that was answered; `None` if the client went away before there was one.
    pub status: Option<u16>,
    /// Bytes of the request's body that were received.
    pub bytes_in: u64,
    /// Bytes of the reply's body, as announced to the client; 0 for HEAD.
    pub bytes_out: u64,
    /// Whether the request carried an `If-None-Match` header.
    pub if_none_match: bool,
}

/// Records in the order in which their replies were ready. A record is there before the first byte of its
/// reply is sent, so that a client that has its answer also finds it here.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<RequestRecord>,
    file: Option<File>,
}

impl RequestLog {
    /// Appends to `file` too, if one is given.
    pub(crate) fn open(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Self { inner: Mutex::new(Inner { records: Vec::new(), file }) })
    }

    pub(crate) fn push(&self, record: RequestRecord) {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file
            && let Ok(mut line) = serde_json::to_vec(&record)
        {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                tracing::error!(%error, "cannot write the access log");
            }
        }
        inner.records.push(record);
    }

    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        self.lock().records.clone()
    }

    pub(crate) fn clear(&self) {
        self.lock().records.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
