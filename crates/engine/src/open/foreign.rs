//! A history that ends with what another program wrote, as Litestream does: no object there says what the database was
//! after it. That is found out by restoring it.

use std::fs;

use bottomless_history::{Entry, Listing};
use bottomless_ltx::Position;

use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::local::Host;
use crate::open::lineage::ending_at;

/// The end of such a history, as it was restored.
#[derive(Debug)]
pub(crate) struct ForeignEnd {
    /// An object that ends there.
    entry: Entry,
    position: Position,
    /// Of the object that led there.
    e_tag: Option<String>,
}

impl Database {
    /// True if no object that ends where the history does says which database checksum it leaves.
    pub(super) fn ends_foreign(&self, listing: &Listing) -> Result<bool> {
        let last = listing.last_txid();
        for entry in listing.entries().iter().filter(|entry| entry.name.max == last) {
            if self.checksums_of(entry)?.is_some() {
                return Ok(false);
            }
        }
        Ok(!listing.is_empty())
    }

    /// The end of the history, if another program wrote it. All of it is downloaded, once.
    pub(super) fn foreign_position(&self, listing: &Listing) -> Result<Option<Position>> {
        let Some(entry) = ending_at(listing, listing.last_txid()) else { return Ok(None) };
        if let Some(known) = self.foreign_end().as_ref().filter(|known| known.entry == *entry) {
            return Ok(Some(known.position));
        }
        if !self.ends_foreign(listing)? {
            return Ok(None);
        }
        // The one that is asked about may be only that of the last transactions.
        let whole = self.list_briefly(None)?;
        let (path, restored) = self.restore(&whole, None, None)?;
        fs::remove_file(&path).map_err(|error| Error::disk(path.display(), &error))?;
        let position = restored.position;
        if position.txid != listing.last_txid() || !restored.is_foreign {
            // It went on meanwhile.
            return Ok(None);
        }
        let e_tag = restored.last_object.and_then(|object| object.e_tag);
        *self.foreign_end() = Some(ForeignEnd { entry: entry.clone(), position, e_tag });
        Ok(Some(position))
    }

    /// True if this position was found to be the end of what another program wrote.
    pub(super) fn is_foreign_end(&self, position: Position) -> bool {
        self.foreign_end().as_ref().is_some_and(|known| known.position == position)
    }

    /// The ETag of the object that was found to lead to this position.
    pub(super) fn foreign_tag(&self, position: Position) -> Option<String> {
        self.foreign_end().as_ref().filter(|known| known.position == position)?.e_tag.clone()
    }

    /// Refuses a local file that another program has open, where another program has written the history's end: it may be
    /// the one that writes both.
    pub(super) fn refuse_in_use(&self, host: &dyn Host, listing: &Listing) -> Result<()> {
        if host.is_alone()? {
            return Ok(());
        }
        let text = format!(
            "the history up to transaction {} was written by another program, as litestream is one, and another \
             program has the local file open; stop litestream and all programs that use the database, and open it again",
            listing.last_txid()
        );
        Err(Error::new(ErrorKind::Busy, text))
    }

    /// Says once that the history was another program's.
    pub(super) fn warn_of_foreign(&self, position: Position) {
        tracing::warn!(
            database = %self.name(),
            prefix = %self.config().database_id,
            "the history up to transaction {} was written by another program, as litestream is one, and is continued \
             here; nothing but bottomless may write to this prefix from now on: litestream would replace transactions \
             that were acknowledged here",
            position.txid
        );
    }
}
