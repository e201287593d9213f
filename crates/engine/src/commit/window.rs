//! The fence window: a writer that was away for long makes sure that nobody has taken over, before it writes and after.
//!
//! A claimed transaction id can become free again: its object is deleted once it is compacted and older than the window
//! W. So what a writer knows counts for W/2 from the sending of the request that told it. A writer that has seen N not to
//! exist, and creates N within W of that, is the only one: nobody's N is removed within W.
//!
//! The rules were searched for counterexamples in `tests/model`; a change is made there first.

use std::time::{Duration, Instant};

use bottomless_history::{Ends, Entry, Listing, Moment, ObjectName};
use bottomless_ltx::{Header, Txid, WriterId};

use super::draft::Draft;
use super::publish::find_ends;
use super::settle::left;
use crate::config::Fencing;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::open::before;
use crate::state::Record;

/// The commit has failed by then: it must not wait for long.
const LONGEST_REMOVAL: Duration = Duration::from_secs(5);

/// What a listing says of an object of ours in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the transaction of that id.
    Stands,
    /// Another's transaction, or an earlier one of ours, had this id, was compacted and deleted: this object is no part of
    /// the history.
    Lost,
    /// Others have gone on, and nothing tells on what.
    Unclear,
}

/// The bucket ends with a transaction of ours that is not settled.
#[derive(Debug)]
pub(super) enum Unsettled {
    /// In the log.
    Log(Ends),
    /// Compacted and deleted there: the object that ends with it.
    Merged(Header),
}

impl Database {
    /// Before an open outcome is settled: where the bucket is, if what is known is too old for claiming what follows the
    /// record's position. `None`: nothing was asked, or nothing is there behind the position.
    pub(super) fn validate_unsettled(&self, record: &Record, deadline: Instant) -> Result<Option<Unsettled>> {
        let position = record.position.txid;
        if !self.must_ask(position.next()) {
            return Ok(None);
        }
        let ours = record.intent.map_or(position, |intent| intent.txid.max(position));
        let listing = self.list_from(position, ours, left(deadline))?;
        let last = listing.last_txid();
        if last < position {
            return Err(self.cut_off(last, position));
        }
        if last == position {
            return Ok(None);
        }
        let Some(intent) = record.intent.filter(|intent| last <= intent.txid) else {
            return Err(self.taken_over(last));
        };
        let Some(entry) = in_log(&listing, last) else {
            // What an intent stands on is known to be ours, whoever merged it.
            let writer = Some(intent.writer).filter(|_| last == intent.txid);
            return match self.merged_by(&listing, last, writer, deadline)? {
                Some(header) => Ok(Some(Unsettled::Merged(header))),
                None => Err(self.taken_over(last)),
            };
        };
        let ends = self.within(left(deadline), find_ends(self.history(), entry.name))?;
        // The very object that was listed, not one that came into its place since.
        let ends = ends.filter(|ends| entry.e_tag.is_none() || ends.e_tag.is_none() || entry.e_tag == ends.e_tag);
        let Some(ends) = ends else {
            return Err(self.taken_over(last));
        };
        // Whose it is, settling finds out.
        match self.standing(&listing, &ends.header, deadline)? {
            Standing::Stands => Ok(Some(Unsettled::Log(ends))),
            Standing::Lost | Standing::Unclear => Err(self.taken_over(last)),
        }
    }

    /// True if this transaction id must not be claimed by what is known.
    pub(super) fn must_ask(&self, txid: Txid) -> bool {
        self.config().fencing == Fencing::On && self.contacts().forbid(txid)
    }

    /// Before a PUT that follows the record's position: makes sure that the bucket still ends there. (An object that is
    /// not settled may be no part of the history though it is the last: [`Database::validate_unsettled`] finds out.)
    pub(super) fn validate_before(&self, txid: Txid, left: Duration) -> Result<()> {
        let before = txid.prev();
        let last = self.list_from(before, before, left)?.last_txid();
        match last.cmp(&before) {
            std::cmp::Ordering::Less => Err(self.cut_off(last, before)),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(self.taken_over(last)),
        }
    }

    /// After a PUT: if what is known was too old by then, finds out whether the object that was created is a part of the
    /// history. If it is not, it is removed.
    pub(super) fn validate_after(&self, draft: &Draft, sent: Moment, deadline: Instant) -> Result<()> {
        let txid = draft.position.txid;
        if !self.must_ask(txid) {
            self.contacts().heard(txid, sent);
            return Ok(());
        }
        // Who was frozen has no time left, and yet must know.
        let deadline = deadline.max(Instant::now() + self.config().timeout / 4);
        let listing = self.list_from(txid.prev(), txid, left(deadline))?;
        let last = listing.last_txid();
        if in_log(&listing, txid).is_none() {
            return Err(self.taken_over(last));
        }
        match self.standing(&listing, &draft.header, deadline)? {
            Standing::Stands => {
                if last > txid {
                    // Acknowledged, and behind: what follows must be caught up with before anything else is claimed.
                    let _ = self.taken_over(last);
                }
                Ok(())
            }
            Standing::Lost => {
                self.remove_orphan(txid);
                Err(self.taken_over(last))
            }
            Standing::Unclear => Err(self.taken_over(last)),
        }
    }

    /// What becomes of `ours`, an object of the log that is in the listing.
    pub(crate) fn standing(&self, listing: &Listing, ours: &Header, deadline: Instant) -> Result<Standing> {
        let txid = ours.max_txid;
        let covering: Vec<&Entry> = listing.entries().iter().filter(|entry| entry.merges(txid)).collect();
        if covering.is_empty() {
            // Nobody's object of this id was ever deleted.
            return Ok(Standing::Stands);
        }
        let mut stands = false;
        for entry in covering.iter().filter(|entry| entry.name.max == txid) {
            // A merged object bears the writer of its last transaction.
            match self.header_of(entry, deadline)? {
                Some(merged) if merged.writer == ours.writer && after(&merged) == after(ours) => stands = true,
                Some(_) => return Ok(Standing::Lost),
                None => {}
            }
        }
        if stands {
            return Ok(Standing::Stands);
        }
        let created = in_log(listing, txid).map(|entry| entry.modified);
        // What was merged before ours was created is not ours. The times may be those of several machines of the store.
        let margin = self.contacts().clock_margin();
        let is_older = |entry: &&Entry| created.is_some_and(|created| entry.modified + margin < created);
        if covering.iter().any(is_older) {
            return Ok(Standing::Lost);
        }
        let next = in_log(listing, txid.next()).map(|entry| self.header_of(entry, deadline)).transpose()?.flatten();
        let before = next.and_then(|header| header.database).map(|database| database.before);
        // The same checksum would prove nothing: equal content is not the same transaction.
        Ok(if before.is_some() && before != after(ours) { Standing::Lost } else { Standing::Unclear })
    }

    /// The header of a merged object that ends with this transaction, if it was this writer's; of any writer without one.
    pub(crate) fn merged_by(
        &self,
        listing: &Listing,
        txid: Txid,
        writer: Option<WriterId>,
        deadline: Instant,
    ) -> Result<Option<Header>> {
        for entry in listing.entries().iter().filter(|entry| entry.merges(txid) && entry.name.max == txid) {
            let header = self.header_of(entry, deadline)?;
            let header = header.filter(|header| writer.is_none_or(|writer| header.writer == writer));
            if header.is_some() {
                return Ok(header);
            }
        }
        Ok(None)
    }

    /// Lists the log from one transaction to the first behind another, if not further, and what is merged. A writer that
    /// was away for a day may have a million behind it, and one tells enough.
    fn list_from(&self, txid: Txid, up_to: Txid, left: Duration) -> Result<Listing> {
        self.list_within(left, self.history().list_up_to(before(txid), up_to))
    }

    fn header_of(&self, entry: &Entry, deadline: Instant) -> Result<Option<Header>> {
        let ends = self.within(left(deadline), find_ends(self.history(), entry.name))?;
        Ok(ends.map(|ends| ends.header))
    }

    /// Deletes an object of ours that is no part of the history.
    pub(crate) fn remove_orphan(&self, txid: Txid) {
        let key = ObjectName::log(txid).key(self.history().id());
        let delete = async { Ok(self.bucket().delete(&key).await?) };
        match self.within(self.config().timeout.min(LONGEST_REMOVAL), delete) {
            Ok(()) => tracing::warn!(
                database = %self.name(),
                key,
                "this object was created after another writer had taken over, and was removed"
            ),
            Err(error) => tracing::warn!(
                database = %self.name(),
                key,
                %error,
                "this object was created after another writer had taken over, and can't be removed; delete it by hand"
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

fn in_log(listing: &Listing, txid: Txid) -> Option<&Entry> {
    listing.log().iter().find(|entry| entry.name.max == txid)
}

fn after(header: &Header) -> Option<bottomless_ltx::Checksum> {
    header.database.map(|database| database.after)
}
