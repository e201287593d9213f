//! Whether the objects, from the newest to the oldest, continue each other.

use bottomless_ltx::{Checksum, DatabaseChecksums, Position, Txid};

use crate::object::Opened;
use crate::{Damage, Entry, HistoryError};

/// The objects that were seen so far, by the oldest of them.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    oldest: Option<Link>,
}

/// What an object says of the states before and after it.
#[derive(Debug)]
pub(crate) struct Link {
    key: String,
    min: Txid,
    max: Txid,
    database: Option<DatabaseChecksums>,
}

impl Link {
    pub(crate) fn of(entry: &Entry, object: &Opened) -> Self {
        let (min, max) = (entry.name.min, entry.name.max);
        Self { key: object.key.clone(), min, max, database: object.header.database }
    }
}

impl Chain {
    /// Puts an object before those that were seen. Its checksum after is held against the next one's checksum before,
    /// where both name one and no transaction is in both.
    pub(crate) fn precede(&mut self, link: Link) -> Result<(), HistoryError> {
        if let Some(database) = link.database {
            self.check(link.max, database.after, || link.key.clone())?;
        }
        self.oldest = Some(link);
        Ok(())
    }

    /// Whether the oldest object continues the local database, or nothing.
    pub(crate) fn begin_at(&self, position: Position) -> Result<(), HistoryError> {
        self.check(position.txid, position.checksum, || format!("the local database at TXID {}", position.txid))
    }

    fn check(&self, txid: Txid, after: Checksum, previous: impl FnOnce() -> String) -> Result<(), HistoryError> {
        match &self.oldest {
            Some(Link { key, min, database: Some(DatabaseChecksums { before, .. }), .. })
                if min.prev() == txid && *before != after =>
            {
                let damage = Damage::Chain { before: *before, previous: previous(), after };
                Err(HistoryError::damaged(key, damage))
            }
            _ => Ok(()),
        }
    }
}
