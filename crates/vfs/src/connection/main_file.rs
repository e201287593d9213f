//! The main file: transactions outside of a WAL, and checkpoints.

use std::ffi::c_int;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bottomless_engine::{Error, ErrorKind, Outcome, Untouched, WalEnd, shape};
use bottomless_ltx::{Checksum, PageNumber};
use bottomless_points::{Point, reach};
use libsqlite3_sys as ffi;

use super::{Connection, Failed, Pending, checked};
use crate::real::io_error;
use crate::source::{MainChange, MainSource};
use crate::undo::Undo;

/// Bytes of the database header.
const HEADER: usize = 100;

/// True if there is a journal that is in use; one that PERSIST left behind begins with zeros.
fn has_journal(path: &Path) -> bool {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut journal| journal.read_exact(&mut start)).is_ok() && start == MAGIC
}

impl Connection {
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
        checked(self.main.write(data, offset))?;
        reach(if self.checkpoint.is_none() { Point::PageWritten } else { Point::CheckpointPage });
        Ok(())
    }

    /// SQLite is about to let the main file grow, before the first write of a transaction. A program may say so too,
    /// without a lock.
    pub(crate) fn hint_size(&mut self) -> Failed {
        let writes = self.checkpoint.is_none() && self.level == ffi::SQLITE_LOCK_EXCLUSIVE;
        if writes { self.begin_writing() } else { Ok(()) }
    }

    /// SQLite has a lock on the main file.
    pub(crate) fn locked_main(&mut self, level: c_int) {
        self.level = level;
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
        let page_one = self.page_one();
        let begun = self.database.begin_writing(page_one.as_deref(), journaled).map_err(|e| self.failed(&e))?;
        self.change = Some(begun.untouched);
        self.page_one = page_one.map(|content| Checksum::of_page(PageNumber::FIRST, &content));
        self.unsettled |= begun.unsettled;
        if !journaled && self.undo.is_none() {
            let folder = self.journal.parent().unwrap_or_else(|| Path::new("."));
            let undo = Undo::begin(self.main, folder);
            self.undo = Some(undo.map_err(|error| self.disk_failed("the rollback of a transaction", &error))?);
        }
        self.begun = true;
        reach(Point::WritingBegun);
        Ok(())
    }

    /// Page 1 as it is, if there has been a transaction.
    fn page_one(&self) -> Option<Vec<u8>> {
        let mut content = vec![0; self.database.page_size()?.bytes()];
        self.main.read(&mut content, 0);
        Some(content)
    }

    /// The journal of a transaction whose commit failed was played back. Whether that puts back what the bucket holds is
    /// another question, which must not hold it up: the store may be away.
    fn is_played_back(&self) -> bool {
        let now = self.page_one().map(|content| Checksum::of_page(PageNumber::FIRST, &content));
        self.refused && now.is_some() && now == self.page_one
    }

    /// What free pages held is in no journal: those that the transaction had used keep what it wrote.
    fn note_left(&mut self) {
        if self.unsettled {
            return;
        }
        let Ok(Some(mut change)) = self.change_of_main() else {
            return;
        };
        if !self.database.is_unchanged(&mut change.as_change()) {
            self.left |= change.written;
            // Who opens the database next compares all pages.
            self.change = Some(Untouched::UNKNOWN);
        }
    }

    /// The transaction outside of a WAL is over.
    fn end_writing(&mut self) {
        self.begun = false;
        self.page_one = None;
        self.refused = false;
        self.dirty.clear();
        self.written_since = false;
        self.unsettled = false;
        self.undo = None;
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

    /// `SQLITE_FCNTL_SYNC`: all pages of a transaction are in the main file, and SQLite asks whether it may commit. An
    /// error rolls back. The playback of a journal asks too.
    pub(crate) fn sync_main(&mut self) -> Failed {
        if self.dirty.is_empty() || (self.pending.is_some() && !self.written_since) {
            return Ok(());
        }
        self.refuse_if_forked()?;
        self.abandon();
        if self.is_played_back() {
            self.database.put_back(self.unsettled).map_err(|error| self.failed(&error))?;
            self.note_left();
            self.end_writing();
            self.end_change();
            return Ok(());
        }
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
                self.refused = true;
                self.undo_main()?;
                Err(code)
            }
        }
    }

    fn commit_main(&self) -> bottomless_engine::Result<Outcome> {
        let Some(mut change) = self.change_of_main()? else {
            // The playback of the journal of a first transaction leaves an empty file.
            self.database.undone()?;
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
        written |= &self.left;
        if self.unsettled {
            self.warn_of_foreign();
            written.insert_range(1..=size_in_pages);
        }
        let source = MainSource { main: self.main, page_size };
        Ok(Some(MainChange { page_size, size_in_pages, written, source }))
    }

    /// Puts back what a transaction without a journal has written. If it can't, it can be asked again.
    pub(super) fn undo_main(&mut self) -> Failed {
        let Some(undo) = &mut self.undo else {
            return Ok(());
        };
        let restored = undo.restore(self.main);
        restored.map_err(|error| self.disk_failed("a transaction could not be rolled back", &error))?;
        reach(Point::Undone);
        self.end_writing();
        self.database.undone().map_err(|error| self.failed(&error))?;
        self.end_change();
        Ok(())
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: SQLite has committed.
    pub(crate) fn committed(&mut self) {
        if self.begun {
            if self.pending.is_some() {
                self.left.clear();
            }
            self.confirm(Some(WalEnd::EMPTY));
        } else {
            // In a WAL without shared memory nobody else can tell where it ends.
            self.confirm(None);
        }
        self.end_writing();
        self.end_change();
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
        self.level = level;
        result.and(checked(self.main.unlock(level)))
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        self.checkpoint = Some(self.database.begin_change().unwrap_or(Untouched::UNKNOWN));
        reach(Point::CheckpointBegun);
    }

    pub(crate) fn end_checkpoint(&mut self) {
        if let Some(untouched) = self.checkpoint.take() {
            self.database.end_change(untouched);
        }
        reach(Point::CheckpointDone);
    }

    /// The main file was made durable.
    pub(crate) fn synced_main(&self) {
        if self.begun {
            reach(Point::MainSynced);
        }
    }
}
