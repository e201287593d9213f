//! The course of a commit, and what becomes of an earlier one whose outcome is open.

use std::time::{Duration, Instant};

use bottomless_history::{Layout, Moment, ObjectName};
use bottomless_ltx::{Checksum, Header, PageNumber, Position, Txid, WriterId};
use bottomless_points::{Point, reach};
use bottomless_store::probe::{self, Proof};
use roaring::RoaringBitmap;

use super::draft::{Base, Draft};
use super::publish::{Found, Published, find_ends, look, publish, publish_snapshot, whose};
use super::window::Unsettled;
use super::{Change, Landed, Outcome};
use crate::config::Fencing;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Intent, Record};

/// An attempt may find that an earlier one has arrived after all; each such find moves on by one transaction.
const ROUNDS: usize = 6;

impl Database {
    /// True if the change puts back what was there: the playback of a journal writes pages too. It must not need the
    /// network, and neither a fence nor an open outcome may hold it up. Without these, that nothing differs shows by
    /// itself.
    pub(super) fn is_playback(&self, change: &mut Change<'_>) -> Result<bool> {
        let mut record = self.record()?;
        let is_open = record.intent.is_some() || record.owes_all || self.is_fenced();
        // A WAL knows no playback. What equals the record there may undo a transaction that SQLite has committed and
        // nobody has confirmed; outside of a WAL the change counter tells the two apart.
        if !is_open || self.has_wal() || self.differs(&record, change)? {
            return Ok(false);
        }
        self.settle_writing(&mut record)?;
        Ok(true)
    }

    pub(crate) fn has_wal(&self) -> bool {
        std::fs::metadata(self.wal_path()).is_ok_and(|wal| wal.len() > 0)
    }

    pub(super) fn try_commit(&self, change: &mut Change<'_>) -> Result<Outcome> {
        reach(Point::CommitBegun);
        self.refuse_if_fenced()?;
        let deadline = Instant::now() + self.config().timeout;
        let mut record = self.record()?;
        let mut base = Base::of(&record, change);
        // What the next transaction stands on was looked at just now, however short the fence window is.
        let mut is_sure = false;
        if let Some(intent) = record.intent {
            (base, is_sure) = self.settle(&record, &intent, base, deadline)?;
            reach(Point::CommitSettled);
        }
        for _ in 0..ROUNDS {
            let writer = match record.intent.filter(|intent| intent.txid == base.position.txid.next()) {
                Some(intent) => intent.writer,
                None => WriterId(self.random()?),
            };
            let Some(draft) = self.draft(&record, change, &base, writer)? else {
                self.settle_writing(&mut record)?;
                return Ok(Outcome::Unchanged);
            };
            reach(Point::CommitDrafted);
            // Not before: what changes nothing must not need the network.
            if !is_sure && self.must_ask(draft.position.txid) {
                if let Some(intent) = record.intent.filter(|_| base.position.txid > record.position.txid) {
                    // What it stands on was seen too long ago to be sure of it.
                    (base, is_sure) = self.settle(&record, &intent, Base::of(&record, change), deadline)?;
                    continue;
                }
                self.validate_before(draft.position.txid, left(deadline))?;
            }
            self.prove(&mut record, left(deadline))?;
            self.declare(draft.position.txid, left(deadline))?;
            reach(Point::CommitProven);
            let intent = Intent {
                txid: draft.position.txid,
                writer,
                file_checksum: draft.file_checksum,
                after: draft.position.checksum,
                refused: false,
            };
            let before = record.intent.replace(intent);
            self.write_record(&record)?;
            reach(Point::CommitIntended);
            let sent = Moment::now();
            let published = self.block_on(publish(self.history(), &draft, self.config().fencing, left(deadline)));
            match published {
                Published::Done { e_tag } => {
                    reach(Point::CommitLanded);
                    if let Err(error) = self.validate_after(&draft, sent, deadline) {
                        self.refuse_intent().map_err(|e| self.state_error(&e))?;
                        let is_known = error.kind() == ErrorKind::Fenced;
                        return Err(if is_known {
                            error
                        } else {
                            self.rolled_back(error).context("the outcome is not known")
                        });
                    }
                    self.keep_copy(draft.position.txid, e_tag.as_deref(), &draft.body);
                    // Page objects are read by nobody else, and with a snapshot among them the layout would be the other.
                    let is_read_by_others = self.layout() == Layout::Ltx;
                    if is_read_by_others && record.page_size.is_some_and(|old| old != change.page_size) {
                        self.also_as_snapshot(&draft, left(deadline));
                    }
                    return Ok(Outcome::Landed(Landed {
                        position: draft.position,
                        page_size: change.page_size,
                        size_in_pages: change.size_in_pages,
                        e_tag,
                        change_counter: draft.change_counter,
                        pages: draft.pages,
                    }));
                }
                Published::Earlier(header) => {
                    // What is there is a transaction that was reported as failed, whatever becomes of this one.
                    record.intent = record.intent.map(|intent| Intent { refused: true, ..intent });
                    self.write_record(&record)?;
                    base = self.base_on(&header, base, deadline)?;
                    is_sure = false;
                }
                Published::Fenced(header) => return Err(self.fence(&header)),
                Published::Refused(error) => {
                    // Surely not stored; an earlier try that is still open stays open.
                    record.intent = before.map(|intent| Intent { refused: true, ..intent });
                    self.write_record(&record)?;
                    return Err(self.rolled_back(error.into()));
                }
                Published::Unknown(error) => {
                    self.refuse_intent().map_err(|e| self.state_error(&e))?;
                    return Err(self.rolled_back(Error::from(error)).context("the outcome is not known"));
                }
                Published::Unreadable(error) => {
                    self.refuse_intent().map_err(|e| self.state_error(&e))?;
                    return Err(self.rolled_back(error.into()));
                }
            }
        }
        let text = format!("{}: earlier commits keep arriving late at {}", self.name(), self.bucket().location());
        Err(self.rolled_back(Error::new(ErrorKind::Unavailable, text)))
    }

    /// Finds out what became of a commit whose outcome is open; and whether what that says needs no look at the listing
    /// any more.
    fn settle(&self, record: &Record, intent: &Intent, base: Base, deadline: Instant) -> Result<(Base, bool)> {
        let mut base = base;
        let seen = self.validate_unsettled(record, deadline)?;
        if let Some(Unsettled::Merged(header)) = &seen {
            // Which pages it touched is not known any more.
            return Ok((Base { position: end_of(header), all: true, recount: true, ..base }, true));
        }
        // An intent further ahead stands on transactions of ours that are known to have landed.
        while base.position.txid.next() < intent.txid {
            let name = ObjectName::log(base.position.txid.next());
            let ends = self.within(left(deadline), find_ends(self.history(), name))?;
            let header = ends.ok_or_else(|| self.missing(name))?.header;
            base = self.base_on(&header, base, deadline)?;
        }
        if intent.txid <= record.position.txid {
            return Ok((base, false));
        }
        let listed = match &seen {
            Some(Unsettled::Log(ends)) => Some(ends.header.max_txid),
            _ => None,
        };
        let found = match seen {
            // Looked at already; another object of ours may come into its place at any time.
            Some(Unsettled::Log(ends)) if ends.header.max_txid == intent.txid => whose(ends, intent.writer),
            _ => self.within(left(deadline), look(self.history(), intent.txid, intent.writer))?,
        };
        match found {
            // It may still arrive; the create of the same transaction id decides.
            Found::Nothing => {}
            Found::Ours { header, .. } => base = self.base_on(&header, base, deadline)?,
            Found::Others(header) => return Err(self.fence(&header)),
        }
        let is_sure = listed == Some(base.position.txid);
        Ok((base, is_sure))
    }

    /// The next transaction stands on one of ours that SQLite has not committed, or not surely: it carries all pages
    /// that that one touched, with their local content.
    fn base_on(&self, header: &Header, base: Base, deadline: Instant) -> Result<Base> {
        let name = ObjectName::log(header.max_txid);
        let pages = self.within(left(deadline), self.history().pages(name))?;
        let mut forced: RoaringBitmap = pages.into_iter().map(PageNumber::get).collect();
        forced |= &base.forced;
        // What it cut off was in the bucket's pages before it, and is not there after it.
        if let Some(first_cut) = header.size_in_pages.checked_add(1) {
            forced.insert_range(first_cut..=self.record()?.size_in_pages.max(header.size_in_pages));
        }
        Ok(Base { position: end_of(header), forced, all: base.all || header.database.is_none(), recount: true })
    }

    /// Lets the store prove, once for a local state, that it honours conditional creates.
    fn prove(&self, record: &mut Record, timeout: Duration) -> Result<()> {
        if record.proven || self.config().fencing == Fencing::Off {
            return Ok(());
        }
        let bucket = self.bucket();
        let proof = self.block_on(probe::conditional_create(bucket, self.config().database_id.as_str(), timeout));
        match proof.map_err(|error| self.rolled_back(error.into()))? {
            Proof::Proven => record.proven = true,
            Proof::Refuted(why) => {
                let text = format!(
                    "{}: {} can't keep two writers apart: {why}. Use a store that honours If-None-Match, or set \
                     LIBSQL_BOTTOMLESS_FENCING=off and make sure that only one machine writes",
                    self.name(),
                    bucket.location()
                );
                return Err(Error::new(ErrorKind::Unfenceable, text));
            }
        }
        Ok(())
    }

    /// Says the layout where nothing in the bucket does yet: whoever else has the database open, or merges it, goes by that.
    fn declare(&self, txid: Txid, timeout: Duration) -> Result<()> {
        if txid != Txid::FIRST || self.config().layout != Some(Layout::Pages) {
            return Ok(());
        }
        let declared = self.block_on(self.history().declare_pages(timeout));
        declared.map_err(|error| self.rolled_back(error.into()))
    }

    /// A reader that can't follow a change of the page size (`litestream restore`) begins at a snapshot.
    fn also_as_snapshot(&self, draft: &Draft, timeout: Duration) {
        if let Err(error) = self.block_on(publish_snapshot(self.history(), draft, timeout)) {
            tracing::warn!(
                database = %self.name(),
                %error,
                "the transaction is stored, but no snapshot with its new page size: bottomless restores it, \
                 litestream restore does not until there is one"
            );
        }
    }

    fn missing(&self, name: ObjectName) -> Error {
        let key = name.key(self.history().id());
        let text = format!(
            "{key} in {}: the object that our last commits stand on is gone; close all \
             connections to the database and open it again",
            self.bucket().location()
        );
        Error::new(ErrorKind::Damaged, text)
    }

    fn rolled_back(&self, error: Error) -> Error {
        error.context(format_args!("{}: the transaction was rolled back", self.name()))
    }
}

/// The position after an object.
fn end_of(header: &Header) -> Position {
    let checksum = header.database.map_or(Checksum::EMPTY, |database| database.after);
    Position { txid: header.max_txid, checksum }
}

pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
