//! Catching up with the database open, after another writer has taken over.
//!
//! A connection that is alone does so before its next transaction reads anything. The new content goes into the local
//! file as a transaction of SQLite's own kind: outside of a WAL behind a rollback journal, else as frames in the WAL. So a
//! crash at any step leaves the old content or the new one, to every program that opens the file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use bottomless_history::{Listing, Restored};
use bottomless_ltx::{Checksum, PageNumber, PageSize, Position, Txid};
use bottomless_points::{Point, reach};
use roaring::RoaringBitmap;

use super::journal::{self, JournalWriter};
use super::judge::{Local, Verdict};
use crate::database::{Database, Untouched, with_suffix};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{Host, LocalReader, MainFile, change_counter, shape};
use crate::state::{Record, Turn, WalEnd};
use crate::wal::WalWriter;

/// How long a transaction waits to hear whether the store is there.
const LOOK: Duration = Duration::from_secs(1);
/// After a look that failed, this many times its duration passes before the next, so that readers are not held up for
/// long by a store that is away.
const PAUSES: u32 = 9;

/// The main file of a connection that is at the beginning of a transaction, and has read nothing of it.
pub trait LoneFile: MainFile {
    /// True if transactions go to a WAL.
    fn is_wal(&self) -> bool;

    /// Locks everybody else out of writing and, outside of a WAL, of reading; false if that takes waiting.
    ///
    /// # Errors
    /// When it can't be locked.
    fn lock(&mut self) -> io::Result<bool>;

    /// Ends that.
    fn unlock(&mut self);

    /// Writes to the main file.
    ///
    /// # Errors
    /// When it can't be written.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the size of the main file.
    ///
    /// # Errors
    /// When it can't be set.
    fn resize(&mut self, size: u64) -> io::Result<()>;

    /// Makes the main file durable.
    ///
    /// # Errors
    /// When it can't.
    fn sync(&mut self) -> io::Result<()>;

    /// The WAL holds other frames than its index says: whoever uses it next is to read it anew.
    ///
    /// # Errors
    /// When there is no index in shared memory.
    fn forget_wal_index(&mut self) -> io::Result<()>;
}

/// What keeps a fenced database from catching up, and until when not to try again.
#[derive(Debug, Default)]
pub(crate) struct Obstacle {
    pub(crate) why: Option<String>,
    until: Option<Instant>,
}

impl Obstacle {
    /// The next transaction tries again, however short the time is since that failed.
    pub(crate) fn retry(&mut self) {
        self.until = None;
    }
}

impl Database {
    /// True if the database is behind another writer, and the next transaction is to try to catch up.
    #[must_use]
    pub fn is_to_catch_up(&self) -> bool {
        let live = self.live();
        live.half_written || (live.fenced.is_some() && live.obstacle.until.is_none_or(|until| until <= Instant::now()))
    }

    /// Catches up with the bucket, if the connection of `file` is the only one on this machine. Whatever comes of it, the
    /// content of the local file may have changed.
    ///
    /// What fails here is logged, and told by the next commit, which is refused as before.
    ///
    /// # Errors
    /// When the local file holds a part of the new content, and SQLite can't put it back now: nobody may read it.
    pub fn catch_up_alone(self: &Arc<Self>, host: &dyn Host, file: &mut dyn LoneFile) -> Result<()> {
        if self.live().half_written {
            self.play_back(host)?;
        }
        if !file.is_wal() && self.is_for_wal(file)? {
            // SQLite opens the WAL next, and its first lock there is the beginning.
            return Ok(());
        }
        let begun = Instant::now();
        match self.try_alone(host, file) {
            Ok(position) => {
                let mut live = self.live();
                live.fenced = None;
                live.obstacle = Obstacle::default();
                tracing::warn!(
                    database = %self.name(),
                    "caught up to transaction {} after another writer had taken over",
                    position.txid
                );
            }
            Err(error) => {
                let why = Some(error.to_string());
                let mut live = self.live();
                if live.obstacle.why != why {
                    tracing::warn!(database = %self.name(), "not caught up with the bucket: {error}");
                }
                live.obstacle = Obstacle { why, until: Some(Instant::now() + begun.elapsed() * PAUSES) };
                if live.half_written {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn try_alone(self: &Arc<Self>, host: &dyn Host, file: &mut dyn LoneFile) -> Result<Position> {
        // Nobody in this process opens it meanwhile. Who does just now may be waiting for us.
        let slot = self.slot();
        let _held = match slot.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(not_alone()),
        };
        if Arc::strong_count(self) > 1 {
            return Err(not_alone());
        }
        let disk = |error: io::Error| self.state_error(&error);
        // Nor does another process: the attempt alone may give our shared lock up.
        let Some(turn) = Turn::try_take(self.path()).map_err(disk)? else {
            return Err(not_alone());
        };
        let result = match self.state().try_lock_exclusive().map_err(disk) {
            Ok(true) => {
                drop(turn);
                self.bring_up(host, file)
            }
            Ok(false) => Err(not_alone()),
            Err(error) => Err(error),
        };
        self.state().lock_shared().map_err(disk)?;
        result
    }

    fn bring_up(&self, host: &dyn Host, file: &mut dyn LoneFile) -> Result<Position> {
        let record = self.record()?;
        // A short look first, for one page: nobody who reads waits for long where the store is away.
        let look = async { Ok(self.bucket().list_first(self.history().id().as_str(), None, 1).await?) };
        self.within(LOOK.min(self.config().timeout), look)?;
        let mut listing = self.list_within(self.config().timeout, self.about(Some(&record)))?;
        let from = match self.file_size(file)? {
            0 if record.position.txid == Txid::ZERO && !listing.is_empty() => None,
            0 => return Err(reopen("the local file is empty")),
            _ => {
                if file.is_wal() {
                    host.checkpoint()?;
                }
                let mut verdict = self.stand(host, &record, &listing)?;
                if matches!(verdict, Verdict::Unlisted) {
                    listing = self.list_within(self.config().timeout, self.history().list(None))?;
                    verdict = self.stand(host, &record, &listing)?;
                }
                match verdict {
                    Verdict::Same(position) => {
                        // Another program may have committed to the WAL since: then the next commit compares all pages.
                        let untouched = if file.is_wal() { Untouched::UNKNOWN } else { Untouched::default() };
                        self.note_compared(file.is_wal(), untouched)?;
                        return Ok(position);
                    }
                    Verdict::Behind(position) => {
                        self.note_compared(file.is_wal(), Untouched::default())?;
                        Some(position)
                    }
                    Verdict::BehindButFree(_) if !file.is_wal() => None,
                    Verdict::BehindButFree(_) => return Err(reopen("free pages of the local file hold other content")),
                    Verdict::Orphan(txid) => {
                        self.remove_orphan(txid);
                        self.write_record(&Record { intent: None, ..record })?;
                        return self.bring_up(host, file);
                    }
                    Verdict::Merged(_) => {
                        return Err(reopen(
                            "the bucket has merged the local file's transaction with later ones, and nothing proves that \
                             they continue it",
                        ));
                    }
                    Verdict::Changed(_)
                    | Verdict::ChangedSomewhere
                    | Verdict::Torn(_)
                    | Verdict::OnlyLocal
                    | Verdict::Unlisted
                    | Verdict::Conflict => {
                        return Err(reopen("the local file is not a part of the bucket's history"));
                    }
                }
            }
        };
        if !file.lock().map_err(|e| self.disk_error(&e))? {
            return Err(Error::new(ErrorKind::Busy, "another program uses the local file"));
        }
        let result = self.replace(file, &record, &listing, from);
        file.unlock();
        if result.is_err() && !file.is_wal() {
            self.play_back(host)?;
        }
        result
    }

    /// Lets SQLite play the journal back that a failure has left, if it has. The program's own connection would not with
    /// journal mode OFF.
    fn play_back(&self, host: &dyn Host) -> Result<()> {
        let is_left = journal::is_hot(&self.journal_path()).map_err(|e| self.disk_error(&e));
        let played = is_left.and_then(|left| if left { host.with_write_lock(&mut |_| Ok(())) } else { Ok(()) });
        self.live().half_written = played.is_err();
        played.inspect_err(|error| {
            self.note_error(error);
            tracing::error!(
                database = %self.name(),
                "catching up failed in the middle, and what was written can't be put back yet: {error}"
            );
        })
    }

    fn is_for_wal(&self, file: &mut dyn LoneFile) -> Result<bool> {
        let mut header = [0; 100];
        file.read_at(&mut header, 0).map_err(|e| self.disk_error(&e))?;
        Ok(Shape::of(&header, self.file_size(file)?).is_some_and(|shape| shape.for_wal))
    }

    fn journal_path(&self) -> PathBuf {
        with_suffix(self.path(), "-journal")
    }

    /// All pages were compared: what follows is ours.
    fn note_compared(&self, in_wal: bool, untouched: Untouched) -> Result<()> {
        // The index of a WAL that was emptied goes on counting.
        let wal = if in_wal || self.has_wal() { None } else { Some(WalEnd::EMPTY) };
        self.write_record(&Record { wal, main_inode: self.note_inode(), ..self.record()? })?;
        self.end_change(untouched);
        Ok(())
    }

    /// Where the local file stands, after SQLite's own recovery; the local state says so, too.
    fn stand(&self, host: &dyn Host, record: &Record, listing: &Listing) -> Result<Verdict> {
        let mut verdict = Verdict::Conflict;
        host.with_write_lock(&mut |main| {
            let reader = LocalReader::open(main, self.wal_path()).map_err(|e| self.disk_error(&e))?;
            let mut reader = reader.ok_or_else(|| reopen("the local file is not a database"))?;
            let local = Local::read(&mut reader).map_err(|e| self.disk_error(&e))?;
            let known = Some(record).filter(|record| record.page_size.is_some());
            verdict = self.judge(known, listing, &local)?;
            match verdict {
                Verdict::Same(position) => {
                    let intent = record.intent.filter(|intent| intent.may_follow(position.txid, listing.last_txid()));
                    self.adopt(Some(record.clone()), &reader, &local, position, intent)?;
                }
                Verdict::Behind(position) => self.adopt(Some(record.clone()), &reader, &local, position, None)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(verdict)
    }

    /// Puts the bucket's content into the local file. Call it with the file locked.
    fn replace(
        &self,
        file: &mut dyn LoneFile,
        record: &Record,
        listing: &Listing,
        from: Option<Position>,
    ) -> Result<Position> {
        let disk = |e: io::Error| self.disk_error(&e);
        // With a position to start from, the restoring compares all pages.
        if self.has_wal() || (from.is_none() && !self.is_page_one_of(record, file)?) {
            return Err(Error::new(ErrorKind::Busy, "another program has written to the local file"));
        }
        let base = from.map(|position| (position, &mut *file as &mut dyn MainFile));
        let (path, restored) = self.restore(listing, base, None)?;
        let temporary = Temporary(path);
        let plan = Plan::new(file, &temporary.0, &restored).map_err(disk)?;
        plan.check(file.is_wal())?;
        let proven = self.record()?.proven;
        let _ = self.begin_change()?;
        let done = if file.is_wal() { self.append(file, &plan) } else { self.overwrite(file, &plan) };
        let wal = done.map_err(disk)?;
        self.note_restored(&restored, &plan, proven, wal).map_err(|e| self.state_error(&e))?;
        self.end_change(Untouched::default());
        Ok(restored.position)
    }

    /// The new content as a transaction in the WAL, which is empty. Returns where the WAL ends.
    fn append(&self, file: &mut dyn LoneFile, plan: &Plan) -> io::Result<WalEnd> {
        let Some(last) = plan.differing.max() else {
            return Ok(WalEnd::EMPTY);
        };
        let salts = getrandom::u64().map_err(io::Error::other)?.to_ne_bytes();
        let written = (|| {
            let mut wal = WalWriter::begin(self.wal_path(), plan.page_size, salts)?;
            let mut content = vec![0; plan.page_size.bytes()];
            for number in &plan.differing {
                let Some(page) = PageNumber::new(number) else { continue };
                plan.read(page, &mut content)?;
                let size = if number == last { plan.size_in_pages } else { 0 };
                wal.frame(page, size, &content)?;
            }
            let end = wal.finish()?;
            reach(Point::AgainWritten);
            file.forget_wal_index()?;
            Ok(end)
        })();
        if written.is_err() {
            // The index says that there is nothing, so that it would be overwritten; better still that it is gone.
            let _ = File::options().write(true).open(self.wal_path()).and_then(|wal| wal.set_len(0));
        }
        written
    }

    /// The new content in place, behind a rollback journal. What fails leaves the journal to be played back.
    fn overwrite(&self, file: &mut dyn LoneFile, plan: &Plan) -> io::Result<WalEnd> {
        let path = self.journal_path();
        if journal::is_hot(&path)? {
            return Err(io::Error::other("another program was cut off while it wrote to the database"));
        }
        let mut content = Vec::new();
        if let Some(old) = &plan.old {
            let nonce = getrandom::u32().map_err(io::Error::other)?;
            let mut journal = JournalWriter::begin(&path, self.path(), (old.page_size, old.size_in_pages), nonce)?;
            content.resize(old.page_size.bytes(), 0);
            for page in plan.lost().iter().filter_map(PageNumber::new) {
                file.read_at(&mut content, old.page_size.offset_of(page))?;
                journal.record(page, &content)?;
            }
            journal.finish()?;
        } else {
            JournalWriter::begin(&path, self.path(), (plan.page_size, 0), 0)?.finish()?;
        }
        reach(Point::AgainJournaled);
        content.resize(plan.page_size.bytes(), 0);
        for page in plan.differing.iter().filter_map(PageNumber::new) {
            plan.read(page, &mut content)?;
            file.write_at(&content, plan.page_size.offset_of(page))?;
            reach(Point::AgainPage);
        }
        file.resize(plan.size_in_bytes())?;
        file.sync()?;
        reach(Point::AgainWritten);
        journal::delete(&path)?;
        Ok(WalEnd::EMPTY)
    }

    /// The local state stands for the new content.
    fn note_restored(&self, restored: &Restored, plan: &Plan, proven: bool, wal: WalEnd) -> io::Result<()> {
        reach(Point::AgainCommitted);
        self.write_restored_pages(restored)?;
        let intent = self.state().read()?.and_then(|record| record.intent);
        self.state().write(&Record {
            position: restored.position,
            page_size: Some(restored.page_size),
            size_in_pages: restored.size_in_pages,
            change_counter: plan.change_counter,
            e_tag: restored.last_object.as_ref().and_then(|object| object.e_tag.clone()),
            foreign: restored.is_foreign,
            proven,
            wal: Some(wal),
            main_inode: self.note_inode(),
            intent: intent.filter(|intent| intent.txid > restored.position.txid),
            ..Record::fresh(self.identity())
        })
    }

    /// True if page 1, which every transaction outside of a WAL changes, is that of the record; or if both are empty.
    fn is_page_one_of(&self, record: &Record, file: &mut dyn LoneFile) -> Result<bool> {
        let Some(page_size) = record.page_size else {
            return Ok(self.file_size(file)? == 0);
        };
        let mut content = vec![0; page_size.bytes()];
        file.read_at(&mut content, 0).map_err(|e| self.disk_error(&e))?;
        let known = self.page_checksums().get(PageNumber::FIRST).map_err(|e| self.state_error(&e))?;
        Ok(known == Some(Checksum::of_page(PageNumber::FIRST, &content)))
    }

    fn file_size(&self, file: &mut dyn LoneFile) -> Result<u64> {
        file.size().map_err(|e| self.disk_error(&e))
    }

    fn disk_error(&self, error: &io::Error) -> Error {
        Error::disk(self.name(), error)
    }
}

fn not_alone() -> Error {
    let text = "another connection or process of this machine has the database open; close it there, or close all and \
                open the database again";
    Error::new(ErrorKind::Busy, text)
}

fn reopen(why: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{why}; close all connections to the database and open it again"))
}

/// A file that is removed when it is done with.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left of it is overwritten by the next.
        let _ = fs::remove_file(&self.0);
    }
}

/// The shape of the local file, and whether it is one for a WAL.
struct Shape {
    page_size: PageSize,
    size_in_pages: u32,
    for_wal: bool,
}

impl Shape {
    fn of(header: &[u8; 100], file_size: u64) -> Option<Self> {
        let (page_size, size_in_pages) = shape(header, file_size)?;
        // "File format version numbers": 1 for a rollback journal, 2 for a WAL.
        Some(Self { page_size, size_in_pages, for_wal: header[18..20] == [2, 2] })
    }
}

/// From the local file to the restored one.
struct Plan {
    /// None if the local file is empty.
    old: Option<Shape>,
    new: File,
    page_size: PageSize,
    size_in_pages: u32,
    for_wal: bool,
    /// Of the new content.
    change_counter: u32,
    /// Pages of the new content that the local file doesn't hold at their place.
    differing: RoaringBitmap,
}

impl Plan {
    fn new(file: &mut dyn LoneFile, path: &Path, restored: &Restored) -> io::Result<Self> {
        let mut header = [0; 100];
        file.read_at(&mut header, 0)?;
        let old = Shape::of(&header, file.size()?);
        let new = File::open(path)?;
        new.read_exact_at(&mut header, 0)?;
        let (page_size, size_in_pages) = (restored.page_size, restored.size_in_pages);
        let for_wal = Shape::of(&header, new.metadata()?.len()).is_some_and(|shape| shape.for_wal);
        let change_counter = change_counter(&header);
        let differing = RoaringBitmap::new();
        let mut plan = Self { old, new, page_size, size_in_pages, for_wal, change_counter, differing };
        let same_size = plan.old.as_ref().filter(|old| old.page_size == page_size).map_or(0, |old| old.size_in_pages);
        let (mut before, mut after) = (vec![0; page_size.bytes()], vec![0; page_size.bytes()]);
        for page in (1..=size_in_pages).filter_map(PageNumber::new) {
            if page == page_size.lock_page() {
                continue;
            }
            if page.get() <= same_size {
                file.read_at(&mut before, page_size.offset_of(page))?;
                plan.read(page, &mut after)?;
                if before == after {
                    continue;
                }
            }
            plan.differing.insert(page.get());
        }
        Ok(plan)
    }

    /// What can't be changed below an open connection.
    fn check(&self, in_wal: bool) -> Result<()> {
        let Some(old) = self.old.as_ref().filter(|old| in_wal || old.for_wal) else {
            return Ok(());
        };
        if !in_wal {
            return Err(Error::new(ErrorKind::Busy, "another program has changed the journal mode of the local file"));
        }
        if !self.for_wal {
            return Err(reopen("the other writer has left the journal mode WAL"));
        }
        if old.page_size != self.page_size {
            return Err(reopen("the other writer has changed the page size, which a WAL can't follow"));
        }
        Ok(())
    }

    fn read(&self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        self.new.read_exact_at(content, self.page_size.offset_of(page))
    }

    fn size_in_bytes(&self) -> u64 {
        u64::from(self.size_in_pages) * u64::from(self.page_size.get())
    }

    /// Pages of the local file that don't stay as they are.
    fn lost(&self) -> RoaringBitmap {
        let Some(old) = &self.old else {
            return RoaringBitmap::new();
        };
        let mut lost = RoaringBitmap::new();
        if old.page_size == self.page_size {
            lost |= &self.differing;
            if let Some(first_cut) = self.size_in_pages.checked_add(1) {
                lost.insert_range(first_cut..=old.size_in_pages.max(self.size_in_pages));
            }
        } else {
            lost.insert_range(1..=old.size_in_pages);
        }
        if let Some(behind) = old.size_in_pages.checked_add(1) {
            lost.remove_range(behind..);
        }
        lost.remove(old.page_size.lock_page().get());
        lost
    }
}
