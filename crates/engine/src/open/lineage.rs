//! Whether the bucket's history goes on from where the local file is.

use bottomless_history::{Entry, Listing};
use bottomless_ltx::{DatabaseChecksums, Txid};

use crate::commit::publish::find_ends;
use crate::database::Database;
use crate::error::Result;
use crate::state::Record;

/// What the record's position is to the bucket's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lineage {
    /// One of its positions.
    Part,
    /// It has that transaction, merged with later ones: nothing tells what the database was after it.
    Merged,
    /// None of its positions: another history, if it is as long.
    Other,
}

/// An object that ends at a position; of several, the one that is merged most: the one of the log may be an orphan.
pub(super) fn ending_at(listing: &Listing, txid: Txid) -> Option<&Entry> {
    listing.entries().iter().rfind(|entry| entry.name.max == txid)
}

impl Database {
    /// Compares database checksums: that of the object that ends at the position, or that which the object behind it
    /// says was before it. Where no object says it, the history is another program's, and its end is restored.
    pub(super) fn lineage(&self, record: &Record, listing: &Listing) -> Result<Lineage> {
        let position = record.position;
        let ending: Vec<_> = listing.entries().iter().filter(|entry| entry.name.max == position.txid).collect();
        if ending.iter().any(|entry| entry.e_tag.is_some() && entry.e_tag == record.e_tag) {
            return Ok(Lineage::Part);
        }
        let mut is_told = false;
        for entry in ending {
            match self.checksums_of(entry)? {
                Some(database) if database.after == position.checksum => return Ok(Lineage::Part),
                told => is_told |= told.is_some(),
            }
        }
        if is_told {
            return Ok(Lineage::Other);
        }
        if position.txid == listing.last_txid() {
            let is_end = self.foreign_position(listing)?.is_some_and(|end| end.checksum == position.checksum);
            return Ok(if is_end { Lineage::Part } else { Lineage::Other });
        }
        let behind = listing.entries().iter().find(|entry| entry.name.min == position.txid.next());
        if let Some(checksums) = behind.map(|entry| self.checksums_of(entry)).transpose()?.flatten() {
            return Ok(if checksums.before == position.checksum { Lineage::Part } else { Lineage::Other });
        }
        let is_merged = listing.entries().iter().any(|entry| entry.merges(position.txid));
        Ok(if is_merged { Lineage::Merged } else { Lineage::Other })
    }

    pub(super) fn checksums_of(&self, entry: &Entry) -> Result<Option<DatabaseChecksums>> {
        let ends = self.block_on(find_ends(self.history(), entry.name))?;
        Ok(ends.and_then(|ends| ends.header.database))
    }
}
