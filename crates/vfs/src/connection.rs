//! What one connection is doing to its database, and what follows from it.
//!
//! SQLite serialises all calls for the files of a connection, and holds its own write lock where it writes.

use std::ffi::c_int;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottomless_engine::wal::{FrameNumber, Observed, WAL_HEADER, WalTracker};
use bottomless_engine::{Change, Database, Error, ErrorKind, Landed, Outcome, Untouched, WalEnd, shape};
use bottomless_ltx::{Checksum, PageNumber};
use libsqlite3_sys as ffi;
use roaring::RoaringBitmap;

use crate::dirty::Dirty;
use crate::real::{RealFile, io_error};
use crate::report::commit_failed;
use crate::source::{MainChange, MainSource, WalSource};
use crate::undo::Undo;

/// Bytes of the database header.
const HEADER: usize = 100;

/// A transaction that is in the bucket and not yet committed by SQLite.
#[derive(Debug)]
struct Pending {
    landed: Landed,
    /// Its commit frame, in a WAL.
    frame: Option<CommitFrame>,
}

/// A commit frame: its number, its page and the checksum of that page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CommitFrame {
    number: FrameNumber,
    page: PageNumber,
    checksum: Checksum,
}

impl CommitFrame {
    /// With power-safe overwrite off, SQLite repeats the commit frame to fill a sector: no transaction of its own.
    fn is_repeated_by(&self, other: &Self) -> bool {
        other.number > self.number && (other.page, other.checksum) == (self.page, self.checksum)
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    database: Arc<Database>,
    main: RealFile,
    journal: PathBuf,
    /// A transaction outside of a WAL is under way.
    begun: bool,
    /// What it has written.
    dirty: Dirty,
    /// It has written since it was uploaded.
    written_since: bool,
    /// Every page may differ: an earlier transaction was left in the middle.
    unsettled: bool,
    undo: Option<Undo>,
    wal: WalTracker,
    /// Where the WAL ended when the write lock was taken, and whether we had left it there.
    wal_end: Option<WalEnd>,
    wal_is_ours: bool,
    pending: Option<Pending>,
    /// A change of the local files that is under way.
    change: Option<Untouched>,
    /// Between CKPT_START and CKPT_DONE.
    checkpoint: Option<Untouched>,
    wrote: bool,
}

/// The code of a failed operation, when there is one.
type Failed = Result<(), c_int>;

fn checked(code: c_int) -> Failed {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
}

/// True if there is a journal that is in use; one that PERSIST left behind begins with zeros.
fn has_journal(path: &Path) -> bool {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut journal| journal.read_exact(&mut start)).is_ok() && start == MAGIC
}

impl Connection {
    pub(crate) fn new(database: Arc<Database>, main: RealFile) -> Self {
        let mut journal = database.path().as_os_str().to_owned();
        journal.push("-journal");
        Self {
            database,
            main,
            journal: journal.into(),
            begun: false,
            dirty: Dirty::default(),
            written_since: false,
            unsettled: false,
            undo: None,
            wal: WalTracker::default(),
            wal_end: None,
            wal_is_ours: true,
            pending: None,
            change: None,
            checkpoint: None,
            wrote: false,
        }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    fn failed(&self, error: &Error) -> c_int {
        commit_failed(&self.database, error)
    }

    fn disk_failed(&self, what: &str, error: &std::io::Error) -> c_int {
        self.failed(&Error::disk(format_args!("{}: {what}", self.database.path().display()), error))
    }

    // The main file.

    /// SQLite writes to the main file.
    pub(crate) fn write_main(&mut self, data: &[u8], offset: u64) -> Failed {
        self.wrote = true;
        // A checkpoint writes what was committed before.
        if self.checkpoint.is_none() {
            self.begin_writing()?;
            self.keep(offset, data.len() as u64)?;
            self.dirty.add(offset, data.len());
            self.written_since = true;
        }
        checked(self.main.write(data, offset))
    }

    /// SQLite is about to let the main file grow, before the first write of a transaction.
    pub(crate) fn hint_size(&mut self) -> Failed {
        if self.checkpoint.is_none() { self.begin_writing() } else { Ok(()) }
    }

    /// Before the first write of a transaction outside of a WAL.
    fn begin_writing(&mut self) -> Failed {
        if self.begun {
            return Ok(());
        }
        self.refuse_if_forked()?;
        // With a journal on the disk SQLite rolls back by itself; with MEMORY it does too, but only with OFF it must
        // not be relied on, and the two can't be told apart here.
        let journaled = has_journal(&self.journal);
        let page_one = self.database.page_size().map(|page_size| {
            let mut content = vec![0; page_size.bytes()];
            self.main.read(&mut content, 0);
            content
        });
        let begun = self.database.begin_writing(page_one.as_deref(), journaled).map_err(|e| self.failed(&e))?;
        self.change = Some(begun.untouched);
        self.unsettled |= begun.unsettled;
        if !journaled && self.undo.is_none() {
            let folder = self.journal.parent().unwrap_or_else(|| Path::new("."));
            let undo = Undo::begin(self.main, folder);
            self.undo = Some(undo.map_err(|error| self.disk_failed("the rollback of a transaction", &error))?);
        }
        self.begun = true;
        Ok(())
    }

    /// The transaction outside of a WAL is over.
    fn end_writing(&mut self) {
        self.begun = false;
        self.dirty.clear();
        self.written_since = false;
        self.unsettled = false;
        self.undo = None;
    }

    /// A connection belongs to the process that opened it; in a child of it, it has no threads and shares its locks.
    fn refuse_if_forked(&self) -> Failed {
        if self.database.is_of_this_process() {
            return Ok(());
        }
        let text = format!(
            "{}: the connection was opened before a fork(), and can't be used in the child; open another",
            self.database.path().display()
        );
        tracing::error!("{text}");
        Err(ffi::SQLITE_MISUSE)
    }

    fn keep(&mut self, offset: u64, length: u64) -> Failed {
        match &mut self.undo {
            Some(undo) => undo
                .keep(self.main, &self.dirty, offset, length)
                .map_err(|error| self.disk_failed("the rollback of a transaction", &error)),
            None => Ok(()),
        }
    }

    /// SQLite cuts the main file off.
    pub(crate) fn truncate_main(&mut self, size: u64) -> Failed {
        self.wrote = true;
        if self.is_changing() {
            let end = self.main.file_size()?;
            self.keep(size, end.saturating_sub(size))?;
            return checked(self.main.truncate(size));
        }
        self.bracketed(|this| checked(this.main.truncate(size)))
    }

    fn is_changing(&self) -> bool {
        self.begun || self.pending.is_some() || self.checkpoint.is_some()
    }

    /// A change of the local files that is no transaction.
    fn bracketed(&mut self, work: impl FnOnce(&mut Self) -> Failed) -> Failed {
        let untouched = self.database.begin_change().unwrap_or(Untouched::UNKNOWN);
        work(self)?;
        self.database.end_change(untouched);
        Ok(())
    }

    /// `SQLITE_FCNTL_SYNC`: all pages of a transaction are in the main file, and SQLite asks whether it may commit. An
    /// error rolls back. The playback of a journal asks too.
    pub(crate) fn sync_main(&mut self) -> Failed {
        if self.dirty.is_empty() || (self.pending.is_some() && !self.written_since) {
            return Ok(());
        }
        self.refuse_if_forked()?;
        self.abandon();
        match self.commit_main() {
            Ok(Outcome::Landed(landed)) => {
                self.pending = Some(Pending { landed, frame: None });
                self.written_since = false;
                self.unsettled = false;
                Ok(())
            }
            Ok(Outcome::Unchanged) => {
                self.end_writing();
                self.end_change();
                Ok(())
            }
            Err(error) => {
                let code = self.failed(&error);
                self.undo_main()?;
                Err(code)
            }
        }
    }

    fn commit_main(&self) -> bottomless_engine::Result<Outcome> {
        let Some(mut change) = self.change_of_main()? else {
            // The playback of the journal of a first transaction leaves an empty file.
            return Ok(Outcome::Unchanged);
        };
        if self.main.has_moved() {
            // The playback of a journal must not fail, or the journal stays and is played onto the new file.
            if self.database.is_unchanged(&mut change.as_change()) {
                return Ok(Outcome::Unchanged);
            }
            self.refuse_if_moved()?;
        }
        self.database.commit(&mut change.as_change())
    }

    /// What the transaction outside of a WAL has changed; None if it left an empty file.
    fn change_of_main(&self) -> bottomless_engine::Result<Option<MainChange>> {
        let disk = |code| Error::disk(self.database.path().display(), &io_error(code));
        let file_size = self.main.file_size().map_err(disk)?;
        let mut header = [0; HEADER];
        match self.main.read(&mut header, 0) {
            ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => {}
            code => return Err(disk(code)),
        }
        let Some((page_size, size_in_pages)) = shape(&header, file_size) else {
            if file_size == 0 {
                return Ok(None);
            }
            let text = format!("{}: page 1 is not that of a database", self.database.path().display());
            return Err(Error::new(ErrorKind::Damaged, text));
        };
        let mut written = self.dirty.pages(page_size);
        if self.unsettled {
            self.warn_of_foreign();
            written.insert_range(1..=size_in_pages);
        }
        let source = MainSource { main: self.main, page_size };
        Ok(Some(MainChange { page_size, size_in_pages, written, source }))
    }

    fn warn_of_foreign(&self) {
        tracing::warn!(
            database = %self.database.path().display(),
            "another program may have written to the database, or a transaction was cut off: all pages are compared, and \
             what differs is published with this transaction"
        );
    }

    fn refuse_if_moved(&self) -> bottomless_engine::Result<()> {
        if !self.main.has_moved() {
            return Ok(());
        }
        let text = format!(
            "{}: the file was removed or replaced while it was open; close the connection and open it again",
            self.database.path().display()
        );
        Err(Error::new(ErrorKind::Moved, text))
    }

    /// Puts back what a transaction without a journal has written.
    fn undo_main(&mut self) -> Failed {
        let Some(mut undo) = self.undo.take() else {
            return Ok(());
        };
        undo.restore(self.main).map_err(|error| self.disk_failed("a transaction could not be rolled back", &error))?;
        self.end_writing();
        self.database.undone().map_err(|error| self.failed(&error))?;
        self.end_change();
        Ok(())
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: SQLite has committed.
    pub(crate) fn committed(&mut self) {
        if self.begun {
            self.confirm(Some(WalEnd::EMPTY));
        } else {
            // In a WAL without shared memory nobody else can tell where it ends.
            self.confirm(None);
        }
        self.end_writing();
        self.end_change();
    }

    fn confirm(&mut self, wal: Option<WalEnd>) {
        if let Some(Pending { landed, .. }) = self.pending.take() {
            let untouched = self.change.take().unwrap_or(Untouched::UNKNOWN);
            self.database.confirm(landed, untouched, wal);
        }
    }

    fn abandon(&mut self) {
        if let Some(Pending { landed, .. }) = self.pending.take() {
            self.database.abandon(landed);
        }
    }

    fn end_change(&mut self) {
        if let Some(untouched) = self.change.take() {
            self.database.end_change(untouched);
        }
    }

    /// SQLite gives up a lock on the main file.
    pub(crate) fn unlock_main(&mut self, level: c_int) -> Failed {
        let mut result = Ok(());
        if level <= ffi::SQLITE_LOCK_SHARED && self.begun && self.database.is_of_this_process() {
            self.abandon();
            // With a journal mode of OFF SQLite leaves what was written as it is.
            result = self.undo_main();
            if self.begun {
                // A playback that failed: whoever finds the journal finishes it.
                self.end_writing();
                self.change = None;
                self.database.end_change(Untouched::UNKNOWN);
            }
        }
        result.and(checked(self.main.unlock(level)))
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        self.checkpoint = Some(self.database.begin_change().unwrap_or(Untouched::UNKNOWN));
    }

    pub(crate) fn end_checkpoint(&mut self) {
        if let Some(untouched) = self.checkpoint.take() {
            self.database.end_change(untouched);
        }
    }

    // The WAL.

    /// The WAL was opened: it may be another one than before, with another page size.
    pub(crate) fn wal_opened(&mut self) {
        self.wal = WalTracker::default();
    }

    /// SQLite writes to the WAL.
    pub(crate) fn write_wal(&mut self, wal: RealFile, data: &[u8], offset: u64) -> Failed {
        self.wrote = true;
        if self.wal.page_size().is_none() && offset != 0 {
            let mut header = [0; WAL_HEADER];
            checked(wal.read(&mut header, 0))?;
            self.wal.adopt_header(&header);
        }
        let result = self.observe_wal(wal, data, offset).and_then(|()| checked(wal.write(data, offset)));
        if result.is_err() {
            // SQLite rolls back, and its next transaction begins where this one did.
            self.abandon();
            self.wal.begin();
        }
        result
    }

    fn observe_wal(&mut self, wal: RealFile, data: &[u8], offset: u64) -> Failed {
        match self.wal.observe(offset, data) {
            Observed::Other => Ok(()),
            Observed::Misplaced => {
                let text = format!("{}: a write to the WAL is not understood", self.database.path().display());
                Err(self.failed(&Error::new(ErrorKind::Damaged, text)))
            }
            Observed::Begin { frame } => {
                if self.pending.as_ref().and_then(|p| p.frame).is_some_and(|before| frame <= before.number) {
                    self.abandon();
                }
                self.begin_wal()
            }
            Observed::Commit { frame, page, size_in_pages } => {
                let this = CommitFrame { number: frame, page, checksum: Checksum::of_page(page, data) };
                if self.pending.as_ref().and_then(|p| p.frame).is_some_and(|before| before.is_repeated_by(&this)) {
                    return Ok(());
                }
                self.abandon();
                self.begin_wal()?;
                match self.commit_wal(wal, (page, data), size_in_pages) {
                    Ok(Outcome::Landed(landed)) => {
                        self.pending = Some(Pending { landed, frame: Some(this) });
                        Ok(())
                    }
                    Ok(Outcome::Unchanged) => Ok(()),
                    Err(error) => Err(self.failed(&error)),
                }
            }
        }
    }

    fn begin_wal(&mut self) -> Failed {
        if self.change.is_none() {
            self.refuse_if_forked()?;
            self.change = Some(self.database.begin_change().map_err(|error| self.failed(&error))?);
        }
        Ok(())
    }

    fn commit_wal(
        &self,
        wal: RealFile,
        last: (PageNumber, &[u8]),
        size_in_pages: u32,
    ) -> bottomless_engine::Result<Outcome> {
        self.refuse_if_moved()?;
        let Some(page_size) = self.wal.page_size() else {
            let text = format!("{}: the WAL has no header", self.database.path().display());
            return Err(Error::new(ErrorKind::Damaged, text));
        };
        let frames = self.wal.frames();
        let mut written: RoaringBitmap = frames.iter().map(|(page, _)| page.get()).collect();
        if !self.wal_is_ours {
            self.warn_of_foreign();
            written.insert_range(1..=size_in_pages);
        }
        let mut source = WalSource {
            database: &self.database,
            tracker: &self.wal,
            page_size,
            frames: &frames,
            wal,
            main: self.main,
            last,
            before: None,
        };
        self.database.commit(&mut Change { page_size, size_in_pages, written, source: &mut source })
    }

    /// SQLite cuts the WAL off.
    pub(crate) fn truncate_wal(&mut self, wal: RealFile, size: u64) -> Failed {
        self.bracketed(|_| checked(wal.truncate(size)))
    }

    /// A writer has taken the WAL's write lock.
    pub(crate) fn wal_locked(&mut self) {
        self.wal.begin();
        self.wal_end = self.main.wal_end();
        self.wal_is_ours = self.wal_end.is_none_or(|end| self.database.is_wal_ours(end));
    }

    /// A writer is about to give the WAL's write lock up. What SQLite has committed is in the WAL index by now.
    pub(crate) fn wal_unlocking(&mut self) {
        let end = self.main.wal_end();
        match self.pending.as_ref().and_then(|pending| pending.frame) {
            Some(frame) if end.is_some_and(|end| end.frames >= frame.number) => {
                self.confirm(end);
                self.wal_is_ours = true;
            }
            Some(_) => self.abandon(),
            // A checkpoint, or a transaction that was rolled back, has begun the WAL anew.
            None if self.wal_is_ours && end != self.wal_end => end.into_iter().for_each(|e| self.database.note_wal(e)),
            None => {}
        }
        self.wal_end = end;
        self.end_change();
    }

    /// The connection is being closed.
    pub(crate) fn close(&mut self) {
        if !self.database.is_of_this_process() {
            return;
        }
        self.abandon();
        if let Err(code) = self.undo_main() {
            tracing::warn!(code, "a transaction without a journal could not be rolled back");
        }
        // With synchronous=OFF nobody else does, and the local state is about to call the file complete.
        if self.wrote {
            self.main.sync(ffi::SQLITE_SYNC_NORMAL);
        }
    }
}
