//! Counters of the requests that a bucket's user caused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests sent and bytes moved, as counted on the wire: a retry is a request of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// PUT requests, conditional or not.
    pub put: u64,
    /// GET requests for objects.
    pub get: u64,
    /// GET requests that list.
    pub list: u64,
    /// HEAD requests.
    pub head: u64,
    /// DELETE requests, and POST requests that delete several.
    pub delete: u64,
    /// Bytes of request bodies.
    pub bytes_up: u64,
    /// Bytes of response bodies.
    pub bytes_down: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    List,
    Head,
    Delete,
}

impl Operation {
    /// The operation of a request as S3 speaks it.
    pub(crate) fn of(method: &http::Method, query: Option<&str>) -> Self {
        let has = |name: &str| query.is_some_and(|q| q.split('&').any(|p| p.split('=').next() == Some(name)));
        match *method {
            http::Method::PUT => Self::Put,
            // The first and the last request of an upload in parts.
            http::Method::POST if has("uploads") || has("uploadId") => Self::Put,
            http::Method::HEAD => Self::Head,
            http::Method::DELETE | http::Method::POST => Self::Delete,
            _ if has("list-type") => Self::List,
            _ => Self::Get,
        }
    }
}

#[derive(Debug, Default)]
struct Cells {
    requests: [AtomicU64; 5],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// Shared by all that sends requests for one bucket handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Cells>);

impl Meter {
    pub(crate) fn sent(&self, operation: Operation, bytes: u64) {
        self.0.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
        self.0.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.0.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let requests = |operation: Operation| self.0.requests[operation as usize].load(Ordering::Relaxed);
        Counters {
            put: requests(Operation::Put),
            get: requests(Operation::Get),
            list: requests(Operation::List),
            head: requests(Operation::Head),
            delete: requests(Operation::Delete),
            bytes_up: self.0.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.0.bytes_down.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_told_from_a_download_by_its_query() {
        let of = |m, q| Operation::of(&m, q);
        assert!(matches!(of(http::Method::GET, Some("list-type=2&prefix=a")), Operation::List));
        assert!(matches!(of(http::Method::GET, Some("prefix=list-type=2")), Operation::Get));
        assert!(matches!(of(http::Method::GET, None), Operation::Get));
        assert!(matches!(of(http::Method::PUT, None), Operation::Put));
        assert!(matches!(of(http::Method::POST, Some("uploads")), Operation::Put));
        assert!(matches!(of(http::Method::POST, Some("uploadId=7")), Operation::Put));
        assert!(matches!(of(http::Method::POST, Some("delete")), Operation::Delete));
        assert!(matches!(of(http::Method::DELETE, Some("uploadId=7")), Operation::Delete));
    }
}
