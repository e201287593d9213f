//! The one process that has the database: it compares the local file with the bucket and brings them together.

use bottomless_history::{Entry, Listing, ObjectName};
use bottomless_ltx::{Checksum, PageNumber, Position, Txid};
use roaring::RoaringBitmap;

use crate::commit::publish::find_ends;
use crate::commit::{Change, Outcome};
use crate::config::InitialReplication;
use crate::database::{Database, Untouched};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{Host, LocalReader};
use crate::state::{Intent, Record};

/// What the local file holds.
struct Local {
    checksums: Vec<Option<Checksum>>,
    total: Checksum,
}

/// What is to be done about a local file that is not empty.
#[derive(Debug)]
enum Verdict {
    /// It is what the bucket holds, at this position.
    Same(Position),
    /// These pages were changed by a program without the extension.
    Changed(RoaringBitmap),
    /// It is at an earlier position.
    Behind(Position),
    /// It lost writes in a crash: the bucket has the whole of it.
    Torn,
    /// The bucket is empty.
    OnlyLocal,
    /// It is no position of this history.
    Conflict,
}

/// What is left to do after the write lock is released.
enum Then {
    Nothing,
    CatchUp(Position),
    Refill,
}

impl Database {
    pub(super) fn synchronize_alone(&self, host: &dyn Host) -> Result<()> {
        let record = self.find_record()?;
        if self.local_size()? == 0 {
            return self.synchronize_empty(host);
        }
        let known = record.filter(|record| record.page_size.is_some());
        let after = known.as_ref().map(|record| record.position.txid.prev()).filter(|txid| *txid > Txid::ZERO);
        let listing = self.list(after)?;
        if let Some(record) = known.as_ref().filter(|record| record.is_settled())
            && self.is_untouched()?
            && listing.last_txid() == record.position.txid
            && self.is_in_history(record, &listing)?
        {
            return Ok(());
        }
        // The whole listing, where only its end was asked for and is not enough.
        let listing = if after.is_some() { self.list(None)? } else { listing };
        let mut then = Then::Nothing;
        host.with_write_lock(&mut |main| {
            let disk = |e: std::io::Error| Error::disk(self.name(), &e);
            // The playback of a journal may have emptied it.
            then = if main.size().map_err(disk)? == 0 {
                Then::Refill
            } else {
                let reader = LocalReader::open(main, self.wal_path()).map_err(disk)?;
                self.bring_together(known.clone(), &listing, reader.ok_or_else(|| self.no_database())?)?
            };
            Ok(())
        })?;
        match then {
            Then::Nothing => self.try_end_change(Untouched::default()).map_err(|error| self.state_error(&error)),
            Then::CatchUp(from) => self.catch_up(host, &listing, from),
            Then::Refill if listing.is_empty() => self.synchronize_empty(host),
            Then::Refill => self.refill(host, &listing),
        }
    }

    fn synchronize_empty(&self, host: &dyn Host) -> Result<()> {
        let listing = self.list(None)?;
        if !listing.is_empty() {
            return self.fill(host, &listing);
        }
        self.page_checksums().truncate(0).map_err(|error| self.state_error(&error))?;
        self.write_record(&Record::fresh(self.identity()))?;
        self.try_end_change(Untouched::default()).map_err(|error| self.state_error(&error))
    }

    /// Decides, and does what can be done under SQLite's write lock.
    fn bring_together(&self, known: Option<Record>, listing: &Listing, mut reader: LocalReader<'_>) -> Result<Then> {
        let (checksums, total) = reader.checksums().map_err(|e| Error::disk(self.name(), &e))?;
        let local = Local { checksums, total };
        let verdict = self.judge(known.as_ref(), listing, &local)?;
        tracing::debug!(database = %self.name(), ?verdict, "compared with the bucket");
        let last = listing.last_txid();
        match verdict {
            Verdict::Same(position) => {
                self.adopt(known, &reader, &local, position)?;
                Ok(Then::Nothing)
            }
            Verdict::Behind(position) => {
                self.adopt(known, &reader, &local, position)?;
                Ok(Then::CatchUp(position))
            }
            Verdict::Torn => {
                tracing::warn!(
                    database = %self.name(),
                    "the local file lost writes in a crash; it is restored from the bucket, at transaction {last}"
                );
                Ok(Then::Refill)
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
            Verdict::OnlyLocal => {
                self.claim_all(&local, &reader, listing)?;
                if self.config().initial_replication != InitialReplication::Skip {
                    self.publish_local(&mut reader, RoaringBitmap::new())?;
                }
                Ok(Then::Nothing)
            }
            Verdict::Conflict => {
                match self.config().initial_replication {
                    InitialReplication::Error => return Err(self.conflict(known.as_ref(), &local, &reader, listing)),
                    InitialReplication::Force => {
                        self.claim_all(&local, &reader, listing)?;
                        self.publish_local(&mut reader, RoaringBitmap::new())?;
                    }
                    InitialReplication::Skip => self.claim_all(&local, &reader, listing)?,
                }
                Ok(Then::Nothing)
            }
        }
    }

    fn judge(&self, known: Option<&Record>, listing: &Listing, local: &Local) -> Result<Verdict> {
        if listing.is_empty() {
            return Ok(Verdict::OnlyLocal);
        }
        let last = listing.last_txid();
        let Some(record) = known.filter(|record| record.position.txid <= last && !record.owes_all) else {
            return self.look_up(local, listing);
        };
        if !self.is_in_history(record, listing)? {
            return self.look_up(local, listing);
        }
        let changed = self.changed_pages(record, local)?;
        if let Some(verdict) = self.judge_intent(record, local, &changed, last)? {
            return Ok(verdict);
        }
        let position = record.position;
        if changed.is_empty() {
            return Ok(if position.txid == last { Verdict::Same(position) } else { Verdict::Behind(position) });
        }
        // A file that equals an earlier position lost its tail.
        match self.look_up(local, listing)? {
            Verdict::Conflict if self.may_be_torn(record)? => Ok(Verdict::Torn),
            Verdict::Conflict if position.txid == last => Ok(Verdict::Changed(changed)),
            verdict => Ok(verdict),
        }
    }

    /// A commit was cut off, or its outcome was not known.
    fn judge_intent(
        &self,
        record: &Record,
        local: &Local,
        changed: &RoaringBitmap,
        last: Txid,
    ) -> Result<Option<Verdict>> {
        let Some(intent) = record.intent.filter(|intent| intent.txid > record.position.txid) else {
            return Ok(None);
        };
        let timeout = self.config().timeout;
        let ends = self.within(timeout, find_ends(self.history(), ObjectName::log(intent.txid)))?;
        let Some(header) = ends.map(|ends| ends.header).filter(|header| header.writer == intent.writer) else {
            return Ok(None);
        };
        let Intent { txid, refused, .. } = intent;
        let after = header.database.map(|database| database.after);
        Ok(match (after == Some(local.total), refused) {
            (true, _) if txid == last => Some(Verdict::Same(Position { txid, checksum: local.total })),
            (true, _) => Some(Verdict::Behind(Position { txid, checksum: local.total })),
            // The program was told that it failed, and the local file is without it: the next commit takes it back.
            (false, true) if changed.is_empty() && txid == last => Some(Verdict::Same(record.position)),
            _ => None,
        })
    }

    /// The position whose database checksum the local file has.
    fn look_up(&self, local: &Local, listing: &Listing) -> Result<Verdict> {
        Ok(match self.block_on(self.history().find_position(listing, local.total))? {
            Some(position) if position.txid == listing.last_txid() => Verdict::Same(position),
            Some(position) => Verdict::Behind(position),
            None => Verdict::Conflict,
        })
    }

    /// True if writes may be missing that the file once had: after a crash of the operating system, or of a transaction
    /// without a journal.
    fn may_be_torn(&self, record: &Record) -> Result<bool> {
        let mark = self.state().read_mark().map_err(|error| self.state_error(&error))?;
        let other_boot = mark.is_some_and(|mark| !mark.clean && mark.boot_id != crate::clock::boot_id());
        Ok(other_boot || record.writing)
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

    /// The record's position is one of this very history, not of another that is as long.
    fn is_in_history(&self, record: &Record, listing: &Listing) -> Result<bool> {
        let Some(entry) = ending_at(listing, record.position.txid) else {
            return Ok(false);
        };
        if entry.e_tag.is_some() && entry.e_tag == record.e_tag {
            return Ok(true);
        }
        let ends = self.block_on(find_ends(self.history(), entry.name))?;
        let after = ends.and_then(|ends| ends.header.database).map(|database| database.after);
        Ok(after == Some(record.position.checksum))
    }

    /// The local file is at this position.
    fn adopt(&self, known: Option<Record>, reader: &LocalReader<'_>, local: &Local, position: Position) -> Result<()> {
        let known = known.unwrap_or_else(|| Record::fresh(self.identity()));
        let same = known.position == position;
        self.write_pages(local)?;
        self.write_record(&Record {
            position,
            page_size: Some(reader.page_size()),
            size_in_pages: reader.size_in_pages(),
            e_tag: known.e_tag.filter(|_| same),
            owes_all: false,
            writing: false,
            intent: known.intent.filter(|intent| intent.txid > position.txid),
            ..Record::fresh(self.identity())
        })
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
            .map_err(|error| self.state_error(&error))
    }

    /// The next transaction, behind the bucket's last, is to carry the whole local file.
    fn claim_all(&self, local: &Local, reader: &LocalReader<'_>, listing: &Listing) -> Result<()> {
        let last = listing.last_txid();
        let header = match ending_at(listing, last) {
            Some(entry) => self.block_on(find_ends(self.history(), entry.name))?.map(|ends| ends.header),
            None => None,
        };
        let after = header.as_ref().and_then(|h| h.database).map_or(Checksum::EMPTY, |database| database.after);
        self.write_pages(local)?;
        self.write_record(&Record {
            position: Position { txid: last, checksum: after },
            page_size: header.map(|header| header.page_size),
            size_in_pages: reader.size_in_pages(),
            owes_all: true,
            ..Record::fresh(self.identity())
        })
    }

    /// Publishes what differs from the record (all of it, if the record owes that) as the next transaction.
    fn publish_local(&self, reader: &mut LocalReader<'_>, written: RoaringBitmap) -> Result<()> {
        let (page_size, size_in_pages) = (reader.page_size(), reader.size_in_pages());
        match self.commit(&mut Change { page_size, size_in_pages, written, source: reader })? {
            Outcome::Unchanged => Ok(()),
            Outcome::Landed(landed) => self.take_over(&landed).map_err(|error| self.state_error(&error)),
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
        Error::new(
            ErrorKind::Conflict,
            format!(
                "the local database ({} pages, checksum {}, {here}) is not a part of the bucket's history, which ends \
                 at transaction {}. Move the local file away to get the bucket's content, or set \
                 LIBSQL_BOTTOMLESS_INITIAL_REPLICATION=force to publish the local content as the next transaction \
                 (earlier history stays restorable), or =skip to do so with the first commit",
                reader.size_in_pages(),
                local.total,
                listing.last_txid(),
            ),
        )
    }
}

/// An object that ends at a position; of several, the one of the log.
fn ending_at(listing: &Listing, txid: Txid) -> Option<&Entry> {
    listing.entries().iter().find(|entry| entry.name.max == txid)
}

impl Record {
    /// Nothing is open: no commit under way, no page written but not settled.
    fn is_settled(&self) -> bool {
        self.intent.is_none() && !self.writing && !self.owes_all
    }
}
