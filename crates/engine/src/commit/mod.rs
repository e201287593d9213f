//! The commit: under SQLite's write lock, one transaction becomes one object, created once, before SQLite is allowed
//! to finish.

mod draft;
pub(crate) mod publish;
mod settle;
mod spool;
pub(crate) mod window;

use bottomless_ltx::{Checksum, PageNumber, PageSize, Position};
use bottomless_points::{Point, reach};
use roaring::RoaringBitmap;

use crate::database::{Database, Untouched};
use crate::error::Result;
use crate::local::PageSource;
use crate::state::WalEnd;

/// What a transaction is about to change.
pub struct Change<'a> {
    /// Of the database after the transaction.
    pub page_size: PageSize,
    /// Of the database after the transaction.
    pub size_in_pages: u32,
    /// The pages that were written; more than those that differ does no harm.
    pub written: RoaringBitmap,
    /// All pages as they are after the transaction.
    pub source: &'a mut dyn PageSource,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing differs from the last transaction: a rollback, or padding. Nothing was sent.
    Unchanged,
    /// The transaction is in the bucket. SQLite may still fail: say [`Database::confirm`] or [`Database::abandon`].
    Landed(Landed),
}

/// A transaction that is in the bucket, and of which SQLite has yet to say that it is committed.
#[derive(Debug)]
#[must_use = "the position moves only when SQLite has committed"]
pub struct Landed {
    /// The position with it.
    pub(crate) position: Position,
    pub(crate) page_size: PageSize,
    pub(crate) size_in_pages: u32,
    pub(crate) e_tag: Option<String>,
    /// None if page 1 is not in it.
    pub(crate) change_counter: Option<u32>,
    /// The pages in the object and their checksums, in ascending order.
    pub(crate) pages: Vec<(PageNumber, Checksum)>,
}

impl Database {
    /// Puts a transaction into the bucket. Call it under SQLite's write lock, where SQLite can still roll back.
    ///
    /// # Errors
    /// The transaction is not in the bucket, or nobody can know; either way SQLite must roll back.
    pub fn commit(&self, change: &mut Change<'_>) -> Result<Outcome> {
        let result = match self.is_playback(change) {
            Ok(true) => Ok(Outcome::Unchanged),
            Ok(false) => self.try_commit(change),
            Err(error) => Err(error),
        };
        self.noted(result)
    }

    /// As [`Database::commit`], where no journal can be played back: what the record owes is published.
    pub(crate) fn publish(&self, change: &mut Change<'_>) -> Result<Outcome> {
        self.noted(self.try_commit(change))
    }

    fn noted(&self, result: Result<Outcome>) -> Result<Outcome> {
        if let Err(error) = &result {
            reach(Point::CommitFailed);
            self.note_error(error);
        }
        result
    }

    /// True if the change puts back what was there before.
    #[must_use]
    pub fn is_unchanged(&self, change: &mut Change<'_>) -> bool {
        self.record().and_then(|record| self.differs(&record, change)).is_ok_and(|differs| !differs)
    }

    /// SQLite has committed the transaction. `wal` is where its WAL ends, if that is known.
    ///
    /// What fails here costs a look at the bucket at the next commit, never the transaction: the intent stays.
    pub fn confirm(&self, landed: Landed, untouched: Untouched, wal: Option<WalEnd>) {
        reach(Point::ConfirmBegun);
        if let Err(error) = self.take_over(&landed, wal).and_then(|()| self.try_end_change(untouched)) {
            let text = format!("{}: the local state could not be written: {error}", self.state_path().display());
            tracing::warn!("{text}; the next commit will ask the bucket where it is");
        }
        reach(Point::ConfirmMarked);
    }

    /// SQLite did not commit the transaction, though it is in the bucket: the next one takes it back.
    pub fn abandon(&self, landed: Landed) {
        tracing::warn!(
            database = %self.name(),
            txid = %landed.position.txid,
            "SQLite failed after the transaction was uploaded; the next commit takes it back"
        );
        if let Err(error) = self.refuse_intent() {
            tracing::warn!("{}: the local state could not be written: {error}", self.state_path().display());
        }
        reach(Point::Abandoned);
    }
}
