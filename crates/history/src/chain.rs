//! Whether the objects, from the newest to the oldest, continue each other.

use bottomless_ltx::{Checksum, Position, Txid};

use crate::object::Opened;
use crate::{Damage, Entry, HistoryError};

/// The objects that were seen so far, by the oldest of them.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    oldest: Option<Link>,
}

#[derive(Debug)]
struct Link {
    key: String,
    min: Txid,
    /// The database checksum before it, where it names one.
    before: Option<Checksum>,
}

impl Chain {
    /// Puts an object before those that were seen. Its checksum after is held against the next one's checksum before,
    /// where both name one and no transaction is in both.
    pub(crate) fn precede(&mut self, entry: &Entry, object: &Opened) -> Result<(), HistoryError> {
        let database = object.header.database;
        if let Some(database) = database {
            self.check(entry.name.max, database.after, || object.key.clone())?;
        }
        let before = database.map(|database| database.before);
        self.oldest = Some(Link { key: object.key.clone(), min: entry.name.min, before });
        Ok(())
    }

    /// Whether the oldest object continues the local database, or nothing.
    pub(crate) fn begin_at(&self, position: Position) -> Result<(), HistoryError> {
        self.check(position.txid, position.checksum, || format!("the local database at TXID {}", position.txid))
    }

    fn check(&self, txid: Txid, after: Checksum, previous: impl FnOnce() -> String) -> Result<(), HistoryError> {
        match &self.oldest {
            Some(Link { key, min, before: Some(before) }) if min.prev() == txid && *before != after => {
                let damage = Damage::Chain { before: *before, previous: previous(), after };
                Err(HistoryError::damaged(key, damage))
            }
            _ => Ok(()),
        }
    }
}
