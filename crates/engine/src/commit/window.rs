//! The fence window: a writer that was away for long makes sure that nobody has taken over, before it writes and after.
//!
//! A claimed transaction id can become free again: its object is deleted once it is compacted and older than the window
//! W. So a position counts for W/2 from the sending of the request that confirmed it. A writer that has seen N not to
//! exist, and creates N within W of that, is the only one: nobody's N is removed within W.

use std::time::{Duration, Instant};

use bottomless_history::{Entry, Level, Listing, ObjectName};
use bottomless_ltx::{Header, Txid};

use super::draft::Draft;
use super::publish::find_ends;
use crate::config::Fencing;
use crate::contact::Contact;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::state::Record;

/// What a listing says of an object of ours in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the transaction of that id: whatever follows is built on it.
    Stands,
    /// Another's transaction had this id before, was compacted and deleted: ours is no part of the history.
    Lost,
    /// Others have gone on, and nothing tells on what.
    Unclear,
}

impl Database {
    /// Before a commit: if the last contact is too old, asks where the bucket is, and whether it is still ours to go on.
    pub(super) fn validate_before(&self, record: &Record, left: Duration) -> Result<()> {
        if self.config().fencing == Fencing::Off || !self.contacts().are_old() {
            return Ok(());
        }
        let position = record.position.txid;
        let after = Some(position.prev()).filter(|txid| *txid > Txid::ZERO);
        let asked = Instant::now();
        let listing = self.list_within(after, left)?;
        let left = left.saturating_sub(asked.elapsed());
        let last = listing.last_txid();
        if last < position {
            return Err(self.cut_off(last, position));
        }
        if last == position {
            return Ok(());
        }
        // What is behind the position may be ours, and not settled.
        let ours = record.intent.filter(|intent| last <= intent.txid && has_log(&listing, last));
        if ours.is_some() {
            let ends = self.within(left, find_ends(self.history(), ObjectName::log(last)))?;
            let Some(ends) = ends else {
                return Err(self.taken_over(last));
            };
            // Whose it is, settling finds out.
            if self.standing(&listing, &ends.header)? == Standing::Stands {
                return Ok(());
            }
        }
        Err(self.taken_over(last))
    }

    /// After the PUT of a commit: if the last contact was too old by then, finds out whether the object that was created
    /// is a part of the history. If it is not, it is removed.
    pub(super) fn validate_after(&self, draft: &Draft, sent: Contact, left: Duration) -> Result<()> {
        if self.config().fencing == Fencing::Off {
            return Ok(());
        }
        if !self.contacts().are_old() {
            self.contacts().heard(sent);
            return Ok(());
        }
        let txid = draft.position.txid;
        let after = Some(txid.prev()).filter(|txid| *txid > Txid::ZERO);
        let listing = self.list_within(after, left)?;
        if !has_log(&listing, txid) {
            return Err(self.taken_over(listing.last_txid()));
        }
        match self.standing(&listing, &draft.header)? {
            Standing::Stands => Ok(()),
            Standing::Lost => {
                self.remove_orphan(txid);
                Err(self.taken_over(listing.last_txid()))
            }
            Standing::Unclear => Err(self.taken_over(listing.last_txid())),
        }
    }

    /// What becomes of `ours`, an object of the log that is in the listing.
    pub(crate) fn standing(&self, listing: &Listing, ours: &Header) -> Result<Standing> {
        let txid = ours.max_txid;
        let Some(database) = ours.database else {
            return Ok(Standing::Unclear);
        };
        let merged =
            |entry: &&Entry| entry.name.level != Level::LOG && entry.name.min <= txid && txid <= entry.name.max;
        let covering: Vec<&Entry> = listing.entries().iter().filter(merged).collect();
        let mut stands = false;
        for entry in covering.iter().filter(|entry| entry.name.max == txid) {
            match self.header_of(entry)?.and_then(|header| header.database) {
                Some(theirs) if theirs.after != database.after => return Ok(Standing::Lost),
                Some(_) => stands = true,
                None => {}
            }
        }
        let next = ObjectName::log(txid.next());
        if let Some(next) = listing.entries().iter().find(|entry| entry.name == next) {
            match self.header_of(next)?.and_then(|header| header.database) {
                Some(theirs) if theirs.before != database.after => return Ok(Standing::Lost),
                Some(_) => stands = true,
                None => {}
            }
        }
        if stands || (covering.is_empty() && listing.last_txid() == txid) {
            return Ok(Standing::Stands);
        }
        let created = listing.log().iter().find(|entry| entry.name.max == txid).map(|entry| entry.modified);
        // What was merged before ours was created is not ours.
        let is_older = |entry: &&Entry| created.is_some_and(|created| entry.modified < created);
        Ok(if covering.iter().any(is_older) { Standing::Lost } else { Standing::Unclear })
    }

    fn header_of(&self, entry: &Entry) -> Result<Option<Header>> {
        let ends = self.within(self.config().timeout, find_ends(self.history(), entry.name))?;
        Ok(ends.map(|ends| ends.header))
    }

    /// Deletes an object of ours that is no part of the history.
    pub(crate) fn remove_orphan(&self, txid: Txid) {
        let key = ObjectName::log(txid).key(self.history().id());
        let deleted =
            self.block_on(async { tokio::time::timeout(self.config().timeout, self.bucket().delete(&key)).await });
        match deleted {
            Ok(Ok(())) => tracing::warn!(
                database = %self.name(),
                key,
                "this object was created after another writer had taken over, and was removed"
            ),
            Ok(Err(error)) => tracing::warn!(
                database = %self.name(),
                key,
                %error,
                "this object was created after another writer had taken over, and can't be removed; delete it by hand"
            ),
            Err(_) => tracing::warn!(
                database = %self.name(),
                key,
                "this object was created after another writer had taken over, and the store did not answer when it was \
                 to be removed; delete it by hand"
            ),
        }
    }

    fn cut_off(&self, last: Txid, position: Txid) -> Error {
        let text = format!(
            "{}: {}/{} ends at transaction {last}, before the local database's {position}: objects were deleted there. \
             Nothing was written; bring them back, or move the bucket's rest away and open the database again to publish \
             the local file as a whole",
            self.name(),
            self.bucket().location(),
            self.config().database_id,
        );
        Error::new(ErrorKind::Damaged, text)
    }
}

fn has_log(listing: &Listing, txid: Txid) -> bool {
    listing.log().iter().any(|entry| entry.name.max == txid)
}
