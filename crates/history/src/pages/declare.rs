//! The declaration: an object that says the layout of a database before there is anything to fold.

use std::time::{Duration, Instant, SystemTime};

use bottomless_store::Body;
use bytes::Bytes;

use crate::name::PAGES;
use crate::{DatabaseId, History, HistoryError};

/// What it says, to whom finds it.
const CONTENT: &[u8] = b"the database is kept as an object for each page (layout=pages)\n";

/// A request that is not answered is sent again after this part of the time.
const TRIES: u32 = 4;

const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// `<database id>/pages/layout`
pub(crate) fn declaration_key(id: &DatabaseId) -> String {
    format!("{id}/{PAGES}/layout")
}

impl History {
    /// Declares that the database is in [`crate::Layout::Pages`]: for whoever creates it, before its first transaction. Until
    /// the first marker nothing else in the bucket tells.
    ///
    /// One PUT; what fails for reasons that pass is tried again until `timeout` has passed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn declare_pages(&self, timeout: Duration) -> Result<(), HistoryError> {
        let deadline = Instant::now() + timeout;
        let (key, body) = (declaration_key(self.id()), Body::Memory(Bytes::from_static(CONTENT)));
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = (left / TRIES).max(FIRST_PAUSE);
            // Whoever writes it writes the same.
            match self.bucket().overwrite(&key, &body, SystemTime::now(), attempt).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let next = error.retry_after().unwrap_or(pause);
                    if !error.kind().is_transient() || deadline.saturating_duration_since(Instant::now()) <= next {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, "the declaration of the layout is sent again");
                    tokio::time::sleep(next).await;
                    pause *= 2;
                }
            }
        }
    }
}
