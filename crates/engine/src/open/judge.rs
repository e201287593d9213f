//! The one process that has the database: it compares the local file with the bucket and brings them together.

use bottomless_history::{HistoryError, Listing, ObjectName};
use bottomless_ltx::{Checksum, Header, PageNumber, PageSize, Position, Txid};
use bottomless_points::{Point, reach};
use roaring::RoaringBitmap;
use std::time::Instant;

use crate::commit::publish::find_ends;
use crate::commit::window::Standing;
use crate::commit::{Change, Outcome};
use crate::config::InitialReplication;
use crate::database::{Database, Untouched};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{Host, LocalReader, PageSource, change_counter};
use crate::open::lineage::{Lineage, ending_at};
use crate::open::{EarlyListing, before};
use crate::state::{Intent, Record, WalEnd};
use crate::wal::WalReader;

/// What the local file holds.
pub(super) struct Local {
    checksums: Vec<Option<Checksum>>,
    total: Checksum,
    change_counter: u32,
    /// Pages that the database does not use, and whose content does not matter.
    free: RoaringBitmap,
}

impl Local {
    pub(super) fn read(reader: &mut LocalReader<'_>) -> std::io::Result<Self> {
        let (checksums, total) = reader.checksums()?;
        let mut page_one = vec![0; reader.page_size().bytes()];
        reader.read_page(PageNumber::FIRST, &mut page_one)?;
        let free = reader.free_pages(&page_one)?;
        Ok(Self { checksums, total, change_counter: change_counter(&page_one), free })
    }
}

/// The object of an intent that is in the bucket and ours.
struct Found {
    header: Header,
    /// The program was told that it failed.
    refused: bool,
}

/// What became of an intent.
enum Landed {
    Nothing,
    Ours(Found),
    /// It is there, and no part of the history.
    Orphan(Txid),
}

/// What is to be done about a local file that is not empty.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is what the bucket holds, at this position.
    Same(Position),
    /// These pages were changed by a program without the extension.
    Changed(RoaringBitmap),
    /// Pages were changed by such a program after a crash that left the page checksums in the middle.
    ChangedSomewhere,
    /// It is at an earlier position.
    Behind(Position),
    /// It lost writes in a crash: the bucket has the whole of it, at its end or at this transaction.
    Torn(Option<Txid>),
    /// It is at an earlier position, but for pages that it does not use: SQLite puts no content of theirs back when it
    /// rolls a transaction back that had used them.
    BehindButFree(Position),
    /// It is at this position, which the bucket has merged with later ones.
    Merged(Position),
    /// The bucket holds this transaction of ours, and it is no part of the history.
    Orphan(Txid),
    /// The bucket is empty.
    OnlyLocal,
    /// It is no position of this history.
    Conflict,
    /// Only a part of the history was listed, and none of its positions.
    Unlisted,
}

/// What is left to do after the write lock is released.
enum Then {
    Nothing,
    CatchUp(Position),
    /// A crash has torn it.
    Refill(Option<Txid>),
    /// Nothing proves that the bucket goes on from it.
    Anew,
    /// A crash has torn the first transaction.
    StartOver,
    /// As that, where the local file holds nothing that is not in the bucket.
    Replace,
    /// The playback of a journal has emptied the local file.
    Empty,
    /// The bucket was changed: compare again.
    Again,
    /// Compare again, with all of the history.
    List,
}

impl Database {
    /// Gives the end of the WAL with which the local file was compared; None if it was not.
    pub(super) fn synchronize_alone(&self, host: &dyn Host, early: Option<EarlyListing>) -> Result<Option<WalEnd>> {
        let record = self.find_record()?;
        if self.local_size()? == 0 {
            return self.synchronize_empty(host, record.as_ref(), early).map(|()| None);
        }
        let known = self.trusted(record.clone())?;
        let after = known.as_ref().and_then(|record| before(record.position.txid));
        // Another process may have committed since it was asked for, and have closed.
        let position = known.as_ref().map_or(Txid::ZERO, |record| record.position.txid);
        let early = early.filter(|early| early.listing.last_txid() >= position);
        let listing = self.list_again(early, after)?;
        let found = self.wal_end()?;
        if let Some(record) = known.as_ref().filter(|record| record.is_settled())
            && record.wal.is_none_or(|wal| found.holds_frames_of(wal))
            && self.is_untouched()?
            && self.is_page_one_known(host, found)?
            && listing.last_txid() == record.position.txid
            && self.lineage(record, &listing)? == Lineage::Part
        {
            if record.foreign {
                self.refuse_in_use(host, &listing)?;
            }
            return Ok(Some(found));
        }
        // Again, with what leads to its end, now that nobody else of this machine moves on.
        let mut listing = self.list_about(record.as_ref())?;
        if !known.as_ref().is_some_and(|record| record.is_ours_at_end(&listing)) && self.ends_foreign(&listing)? {
            self.refuse_in_use(host, &listing)?;
        }
        let (mut then, mut compared) = self.compare(host, known.as_ref(), &listing)?;
        if matches!(then, Then::List) {
            // Not under the lock: this takes a request for every thousand objects.
            listing = self.list(None)?;
            (then, compared) = self.compare(host, known.as_ref(), &listing)?;
        }
        match then {
            Then::Nothing => {
                self.try_end_change(Untouched::default()).map_err(|error| self.state_error(&error))?;
                return Ok(compared);
            }
            Then::CatchUp(from) => self.catch_up(host, &listing, from)?,
            Then::Replace => self.replace_free(host, &listing)?,
            Then::Refill(upto) => self.refill(host, &listing, upto)?,
            Then::Anew => self.restore_anew(host, &listing, None)?,
            Then::StartOver => {
                self.start_over(host)?;
                self.synchronize_empty(host, record.as_ref(), None)?;
            }
            Then::Empty => self.synchronize_empty(host, record.as_ref(), None)?,
            Then::Again | Then::List => return self.synchronize_alone(host, None),
        }
        Ok(None)
    }

    /// Compares the local file with the bucket under SQLite's write lock. Gives what is left to do, and the end of the WAL.
    fn compare(&self, host: &dyn Host, known: Option<&Record>, listing: &Listing) -> Result<(Then, Option<WalEnd>)> {
        let (mut then, mut compared) = (Then::Nothing, None);
        let mut recovered = false;
        let locked = host.with_write_lock(&mut |main| {
            recovered = true;
            let disk = |e: std::io::Error| Error::disk(self.name(), &e);
            compared = Some(self.wal_end()?);
            then = if main.size().map_err(disk)? == 0 {
                Then::Empty
            } else {
                let reader = LocalReader::open(main, self.wal_path()).map_err(disk)?;
                self.bring_together(known.cloned(), listing, reader.ok_or_else(|| self.no_database())?)?
            };
            Ok(())
        });
        if let Err(error) = locked {
            // What a crash has left of it may be nothing that SQLite could recover.
            let unreadable = !recovered && error.kind() == ErrorKind::Conflict;
            let lost = if unreadable { self.lost_in_a_crash(listing)? } else { None };
            then = lost.ok_or(error)?;
        }
        Ok((then, compared))
    }

    fn wal_end(&self) -> Result<WalEnd> {
        WalReader::end_of(self.wal_path()).map_err(|e| Error::disk(self.wal_path().display(), &e))
    }

    /// Outside of a WAL every transaction changes page 1: that tells also of one that left the size and the time, in
    /// the steps that the file system counts in, as they were.
    fn is_page_one_known(&self, host: &dyn Host, wal: WalEnd) -> Result<bool> {
        let Some(record) = self.find_record()?.filter(|_| wal.frames == 0) else {
            return Ok(wal.frames > 0);
        };
        let mut content = vec![0; record.page_size.map_or(0, PageSize::bytes)];
        host.read_main(&mut content)?;
        let known = self.page_checksums().get(PageNumber::FIRST).map_err(|error| self.state_error(&error))?;
        Ok(known == Some(Checksum::of_page(PageNumber::FIRST, &content)))
    }

    /// The record of a local file that is not empty, if its page checksums are whole. A commit that was cut off may have
    /// left them in the middle; then all pages are compared.
    fn trusted(&self, record: Option<Record>) -> Result<Option<Record>> {
        let Some(record) = record.filter(|record| record.page_size.is_some()) else {
            return Ok(None);
        };
        let is_whole = record.intent.is_some() || record.owes_all || self.adds_up(&record)?;
        Ok(Some(record).filter(|_| is_whole))
    }

    fn synchronize_empty(&self, host: &dyn Host, record: Option<&Record>, early: Option<EarlyListing>) -> Result<()> {
        let listing = self.list_again(early, None)?;
        // A first transaction whose outcome is open: it may still arrive. One that was reported as failed stays away.
        let first = record.filter(|record| record.position.txid == Txid::ZERO && record.intent.is_some());
        let kept = match first {
            Some(_) if listing.is_empty() => first,
            Some(record) => {
                let landed = match self.landed(record, &listing)? {
                    Landed::Ours(found) => Some(found),
                    Landed::Orphan(txid) => {
                        self.remove_orphan(txid);
                        self.write_record(&Record::fresh(self.identity()))?;
                        return self.synchronize_empty(host, None, None);
                    }
                    Landed::Nothing => None,
                };
                let refused = self.ends_with_ours(record, landed.as_ref(), listing.last_txid())?;
                first.filter(|_| refused)
            }
            None => None,
        };
        if kept.is_none() && !listing.is_empty() {
            return self.fill(host, &listing);
        }
        self.page_checksums().truncate(0).map_err(|error| self.state_error(&error))?;
        let (intent, proven) = (kept.and_then(|record| record.intent), kept.is_some_and(|record| record.proven));
        self.write_record(&Record { intent, proven, ..Record::fresh(self.identity()) })?;
        self.try_end_change(Untouched::default()).map_err(|error| self.state_error(&error))
    }

    /// Decides, and does what can be done under SQLite's write lock.
    fn bring_together(&self, known: Option<Record>, listing: &Listing, mut reader: LocalReader<'_>) -> Result<Then> {
        let local = Local::read(&mut reader).map_err(|e| Error::disk(self.name(), &e))?;
        let verdict = self.judge(known.as_ref(), listing, &local)?;
        tracing::debug!(database = %self.name(), ?verdict, "compared with the bucket");
        if known.is_none()
            && matches!(verdict, Verdict::Conflict | Verdict::OnlyLocal)
            && let Some(then) = self.lost_in_a_crash(listing)?
        {
            return Ok(then);
        }
        reach(Point::OpenJudged);
        let last = listing.last_txid();
        match verdict {
            Verdict::Same(position) => {
                let intent = known.as_ref().and_then(|record| record.intent);
                let intent = intent.filter(|intent| intent.may_follow(position.txid, last));
                self.adopt(known, &reader, &local, position, intent)?;
                Ok(Then::Nothing)
            }
            Verdict::Behind(position) => {
                self.adopt(known, &reader, &local, position, None)?;
                Ok(Then::CatchUp(position))
            }
            Verdict::Torn(upto) => Ok(Then::Refill(upto)),
            Verdict::BehindButFree(position) => {
                tracing::info!(
                    database = %self.name(),
                    from = %position.txid,
                    to = %last,
                    "catching up, from the bucket alone: free pages of the local file hold other content"
                );
                Ok(Then::Replace)
            }
            Verdict::Merged(position) => {
                tracing::warn!(
                    database = %self.name(),
                    "the local file is at transaction {}, which the bucket has merged with later ones: nothing proves that \
                     they continue it; it is restored from the bucket, at transaction {last}",
                    position.txid
                );
                Ok(Then::Anew)
            }
            Verdict::Changed(pages) => {
                tracing::warn!(
                    database = %self.name(),
                    "{} pages were changed by a program without the bottomless extension; they are published as the \
                     next transaction",
                    pages.len()
                );
                self.publish_local(&mut reader, pages)?;
                Ok(Then::Nothing)
            }
            Verdict::Orphan(txid) => {
                self.remove_orphan(txid);
                self.write_record(&Record { intent: None, ..self.record()? })?;
                Ok(Then::Again)
            }
            Verdict::ChangedSomewhere => {
                tracing::warn!(
                    database = %self.name(),
                    "the database was changed by a program without the bottomless extension after a crash; all of it is \
                     published as the next transaction"
                );
                self.claim_all(known.as_ref(), &local, &reader, listing)?;
                self.publish_local(&mut reader, RoaringBitmap::new())?;
                Ok(Then::Nothing)
            }
            Verdict::OnlyLocal => {
                self.claim_all(known.as_ref(), &local, &reader, listing)?;
                if self.config().initial_replication != InitialReplication::Skip {
                    self.publish_local(&mut reader, RoaringBitmap::new())?;
                }
                Ok(Then::Nothing)
            }
            Verdict::Unlisted => Ok(Then::List),
            Verdict::Conflict => {
                self.refuse_gap(listing)?;
                match self.config().initial_replication {
                    InitialReplication::Error => return Err(self.conflict(known.as_ref(), &local, &reader, listing)),
                    InitialReplication::Force => {
                        self.claim_all(known.as_ref(), &local, &reader, listing)?;
                        self.publish_local(&mut reader, RoaringBitmap::new())?;
                    }
                    InitialReplication::Skip => self.claim_all(known.as_ref(), &local, &reader, listing)?,
                }
                Ok(Then::Nothing)
            }
        }
    }

    /// Call it with [`Database::about`] the record, or all of the history.
    pub(super) fn judge(&self, known: Option<&Record>, listing: &Listing, local: &Local) -> Result<Verdict> {
        if listing.is_empty() {
            return Ok(Verdict::OnlyLocal);
        }
        let last = listing.last_txid();
        let Some(record) = known.filter(|record| record.position.txid <= last && !record.owes_all) else {
            return self.look_up(local, listing);
        };
        let lineage = self.lineage(record, listing)?;
        if lineage == Lineage::Other {
            return self.look_up(local, listing);
        }
        let landed = match self.landed(record, listing)? {
            Landed::Ours(found) => Some(found),
            Landed::Orphan(txid) => return Ok(Verdict::Orphan(txid)),
            Landed::Nothing => None,
        };
        let after = |landed: &Found| landed.header.database.is_some_and(|database| database.after == local.total);
        if let Some(landed) = landed.as_ref().filter(|landed| after(landed)) {
            // SQLite has committed it, or it changed nothing.
            let position = Position { txid: landed.header.max_txid, checksum: local.total };
            return Ok(if position.txid >= last { Verdict::Same(position) } else { Verdict::Behind(position) });
        }
        let position = record.position;
        let ends_with_ours = self.ends_with_ours(record, landed.as_ref(), last)?;
        let at_end = position.txid == last || ends_with_ours;
        // Not by page checksums: a crash may have left them further than the record.
        if local.total == position.checksum {
            return Ok(match lineage {
                _ if at_end => Verdict::Same(position),
                Lineage::Part => Verdict::Behind(position),
                Lineage::Merged | Lineage::Other => Verdict::Merged(position),
            });
        }
        let upto = Some(position.txid).filter(|_| ends_with_ours);
        match self.look_up(local, listing)? {
            Verdict::Conflict
                if !at_end
                    && lineage == Lineage::Part
                    && self.adds_up(record)?
                    && self.changed_pages(record, local)?.is_subset(&local.free) =>
            {
                Ok(Verdict::BehindButFree(position))
            }
            // Another file was put in the place of ours.
            Verdict::Conflict if record.main_inode != 0 && record.main_inode != self.note_inode() => {
                Ok(Verdict::Conflict)
            }
            Verdict::Conflict if self.may_be_torn(record)? => Ok(Verdict::Torn(upto)),
            // Another's content was copied into ours: no program has made this of ours.
            Verdict::Conflict if local.change_counter < record.change_counter => Ok(Verdict::Conflict),
            Verdict::Conflict if at_end => Ok(match record.intent {
                Some(_) if !self.adds_up(record)? => Verdict::ChangedSomewhere,
                _ => Verdict::Changed(self.changed_pages(record, local)?),
            }),
            // One of ours that landed and was never confirmed, before the one that was reported as failed.
            Verdict::Behind(found) if at_end && found.txid > position.txid => Ok(Verdict::Same(found)),
            verdict => Ok(verdict),
        }
    }

    /// The object of a commit that was cut off, or whose outcome was not known, if it is there and ours.
    fn landed(&self, record: &Record, listing: &Listing) -> Result<Landed> {
        let Some(intent) = record.intent.filter(|intent| intent.txid > record.position.txid) else {
            return Ok(Landed::Nothing);
        };
        let ends = self.within(self.config().timeout, find_ends(self.history(), ObjectName::log(intent.txid)))?;
        let deadline = Instant::now() + self.config().timeout;
        let (header, is_last_try) = match ends.filter(|ends| ends.header.writer == intent.writer) {
            Some(ends) => match self.standing(listing, &ends.header, deadline)? {
                Standing::Stands => (ends.header, ends.trailer.file_checksum == intent.file_checksum),
                Standing::Lost => return Ok(Landed::Orphan(intent.txid)),
                Standing::Unclear => return Ok(Landed::Nothing),
            },
            // Compacted since, and deleted.
            None => match self.merged_by(listing, intent.txid, Some(intent.writer), deadline)? {
                Some(header) => {
                    let is_last_try = header.database.is_some_and(|database| database.after == intent.after);
                    (header, is_last_try)
                }
                None => return Ok(Landed::Nothing),
            },
        };
        // Of several tries to write a transaction, all but the last were reported as failed. After a crash of the operating
        // system the record may be older than a try that was acknowledged.
        let refused = if is_last_try { intent.refused } else { !self.is_other_boot()? };
        Ok(Landed::Ours(Found { header, refused }))
    }

    /// True if the bucket ends with transactions of ours that SQLite has not committed and that were reported as failed,
    /// or of which nobody has heard: the local file is without them, and the next commit takes them back. `landed` is
    /// the object of the intent.
    fn ends_with_ours(&self, record: &Record, landed: Option<&Found>, last: Txid) -> Result<bool> {
        Ok(match (record.intent, landed) {
            (Some(intent), Some(landed)) => landed.refused && last == intent.txid,
            // An intent further ahead stands on transactions of ours that are known to have landed, and of which SQLite
            // did not say that it had committed them. After a crash of the operating system the record may be older.
            (Some(intent), None) => last.next() == intent.txid && (intent.refused || !self.is_other_boot()?),
            (None, _) => false,
        })
    }

    /// What is to be done about a local file that is no position of the history, if a crash explains that; whatever
    /// became of the page checksums.
    fn lost_in_a_crash(&self, listing: &Listing) -> Result<Option<Then>> {
        let Some(record) = self.find_record()?.filter(|record| !record.owes_all) else {
            return Ok(None);
        };
        let is_replaced = record.main_inode != 0 && record.main_inode != self.note_inode();
        // Without a page size the file was empty before its first transaction.
        let is_first = record.page_size.is_none();
        let is_torn = self.may_be_torn(&record)? && (!is_first || record.writing);
        if is_replaced || !is_torn || record.position.txid > listing.last_txid() {
            return Ok(None);
        }
        if listing.is_empty() {
            return Ok(is_first.then_some(Then::StartOver));
        }
        if !is_first && self.lineage(&record, listing)? == Lineage::Other {
            return Ok(None);
        }
        let landed = match self.landed(&record, listing)? {
            Landed::Ours(found) => Some(found),
            Landed::Orphan(_) | Landed::Nothing => None,
        };
        let ends_with_ours = self.ends_with_ours(&record, landed.as_ref(), listing.last_txid())?;
        Ok(Some(match (ends_with_ours, is_first) {
            (true, true) => Then::StartOver,
            (true, false) => Then::Refill(Some(record.position.txid)),
            (false, _) => Then::Refill(None),
        }))
    }

    /// The position whose database checksum the local file has. One header is read for each position, newest first;
    /// where no header says what the end is, that is restored.
    fn look_up(&self, local: &Local, listing: &Listing) -> Result<Verdict> {
        Ok(match self.block_on(self.history().find_position(listing, local.total))? {
            Some(position) if position.txid == listing.last_txid() => Verdict::Same(position),
            Some(position) => Verdict::Behind(position),
            None => match self.foreign_position(listing)?.filter(|end| end.checksum == local.total) {
                Some(end) => {
                    self.warn_of_foreign(end);
                    Verdict::Same(end)
                }
                None if listing.is_partial() => Verdict::Unlisted,
                None => Verdict::Conflict,
            },
        })
    }

    /// True if writes may be missing that the file once had: after a crash of the operating system, or of a transaction
    /// without a journal.
    fn may_be_torn(&self, record: &Record) -> Result<bool> {
        Ok(record.unjournaled || self.is_other_boot()?)
    }

    /// The machine was restarted since the files were last written, and they were not left in order.
    fn is_other_boot(&self) -> Result<bool> {
        let mark = self.state().read_mark().map_err(|error| self.state_error(&error))?;
        Ok(mark.is_some_and(|mark| !mark.clean && mark.boot_id != crate::clock::boot_id()))
    }

    fn changed_pages(&self, record: &Record, local: &Local) -> Result<RoaringBitmap> {
        let mut known = self.page_checksums();
        let mut changed = RoaringBitmap::new();
        for (page, checksum) in (1..).filter_map(PageNumber::new).zip(&local.checksums) {
            let before = known.get(page).map_err(|error| self.state_error(&error))?;
            if *checksum != before.filter(|_| page.get() <= record.size_in_pages) {
                changed.insert(page.get());
            }
        }
        if local.checksums.len() != record.size_in_pages as usize {
            changed.insert(PageNumber::FIRST.get());
        }
        Ok(changed)
    }

    /// The local file is at this position.
    pub(super) fn adopt(
        &self,
        known: Option<Record>,
        reader: &LocalReader<'_>,
        local: &Local,
        position: Position,
        intent: Option<Intent>,
    ) -> Result<()> {
        let known = known.unwrap_or_else(|| Record::fresh(self.identity()));
        let same = known.position == position;
        self.write_pages(local)?;
        self.write_record(&Record {
            position,
            page_size: Some(reader.page_size()),
            size_in_pages: reader.size_in_pages(),
            change_counter: local.change_counter,
            e_tag: known.e_tag.filter(|_| same),
            foreign: (same && known.foreign) || self.is_foreign_end(position),
            proven: known.proven,
            intent,
            ..Record::fresh(self.identity())
        })?;
        reach(Point::OpenAdopted);
        Ok(())
    }

    fn write_pages(&self, local: &Local) -> Result<()> {
        let numbered = (1..).filter_map(PageNumber::new).zip(&local.checksums);
        let updates: Vec<_> = numbered.filter_map(|(page, sum)| sum.map(|sum| (page, sum))).collect();
        let size = u32::try_from(local.checksums.len()).unwrap_or(u32::MAX);
        let mut pages = self.page_checksums();
        pages
            .truncate(0)
            .and_then(|()| pages.update(&updates))
            .and_then(|()| pages.truncate(size))
            .map_err(|error| self.state_error(&error))?;
        reach(Point::OpenPages);
        Ok(())
    }

    /// The next transaction, behind the bucket's last, is to carry the whole local file.
    fn claim_all(
        &self,
        known: Option<&Record>,
        local: &Local,
        reader: &LocalReader<'_>,
        listing: &Listing,
    ) -> Result<()> {
        let last = listing.last_txid();
        let header = match ending_at(listing, last) {
            Some(entry) => self.block_on(find_ends(self.history(), entry.name))?.map(|ends| ends.header),
            None => None,
        };
        let after = match header.as_ref().and_then(|header| header.database) {
            Some(database) => database.after,
            None => self.foreign_position(listing)?.map_or(Checksum::EMPTY, |end| end.checksum),
        };
        self.write_pages(local)?;
        self.write_record(&Record {
            position: Position { txid: last, checksum: after },
            page_size: header.map(|header| header.page_size),
            size_in_pages: reader.size_in_pages(),
            change_counter: local.change_counter,
            owes_all: true,
            proven: known.is_some_and(|record| record.proven),
            // One of ours that may still arrive.
            intent: known.and_then(|record| record.intent).filter(|intent| intent.txid == last.next()),
            ..Record::fresh(self.identity())
        })?;
        reach(Point::OpenAdopted);
        Ok(())
    }

    /// Publishes what differs from the record (all of it, if the record owes that) as the next transaction.
    fn publish_local(&self, reader: &mut LocalReader<'_>, written: RoaringBitmap) -> Result<()> {
        let (page_size, size_in_pages) = (reader.page_size(), reader.size_in_pages());
        match self.publish(&mut Change { page_size, size_in_pages, written, source: reader })? {
            Outcome::Unchanged => Ok(()),
            Outcome::Landed(landed) => {
                reach(Point::OpenPublished);
                self.take_over(&landed, None).map_err(|error| self.state_error(&error))
            }
        }
    }

    /// A transaction behind a gap could never be restored, so that nothing may be published there.
    fn refuse_gap(&self, listing: &Listing) -> Result<()> {
        match listing.plan(Txid::ZERO, None) {
            Ok(_) => Ok(()),
            Err(gap) => Err(Error::from(HistoryError::from(gap)).context("nothing can be published behind a gap")),
        }
    }

    fn no_database(&self) -> Error {
        Error::new(ErrorKind::Conflict, format!("{}: the file is not a SQLite database", self.name()))
    }

    fn conflict(&self, known: Option<&Record>, local: &Local, reader: &LocalReader<'_>, listing: &Listing) -> Error {
        let here = known.map_or_else(
            || "at no known transaction".to_owned(),
            |record| format!("last known at transaction {}", record.position.txid),
        );
        let foreign = self.foreign_end().as_ref().map_or("", |_| {
            "; another program has written that one: if it is litestream, and was cut off before it had copied the last \
             commits, let it do that (litestream replicate -once) and open the database again"
        });
        Error::new(
            ErrorKind::Conflict,
            format!(
                "the local database ({} pages, checksum {}, {here}) is not a part of the bucket's history, which ends \
                 at transaction {}{foreign}. Move the local file away to get the bucket's content, or set \
                 LIBSQL_BOTTOMLESS_INITIAL_REPLICATION=force to publish the local content as the next transaction \
                 (earlier history stays restorable), or =skip to do so with the first commit",
                reader.size_in_pages(),
                local.total,
                listing.last_txid(),
            ),
        )
    }
}

impl Record {
    /// Nothing is open: no commit under way, no page written but not settled.
    fn is_settled(&self) -> bool {
        self.intent.is_none() && !self.writing && !self.owes_all
    }

    /// The history ends with the very object that is known to be ours: that needs no look at its header.
    fn is_ours_at_end(&self, listing: &Listing) -> bool {
        let last = listing.last_txid();
        let mut ending = listing.entries().iter().filter(|entry| entry.name.max == last);
        let is_ours = self.e_tag.is_some() && !self.foreign;
        is_ours && self.position.txid == last && ending.any(|entry| entry.e_tag == self.e_tag)
    }
}
