//! What one connection is doing to its database, and what follows from it.
//!
//! SQLite serialises all calls for the files of a connection, and holds its own write lock where it writes.

mod again;
mod main_file;
mod wal;

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;

use bottomless_engine::wal::{FrameNumber, WalTracker};
use bottomless_engine::{Database, Error, ErrorKind, Landed, Untouched, WalEnd};
use bottomless_ltx::{Checksum, PageNumber};
use libsqlite3_sys as ffi;
use roaring::RoaringBitmap;

use crate::dirty::Dirty;
use crate::host::SqliteHost;
use crate::real::RealFile;
use crate::report::commit_failed;
use crate::undo::Undo;

pub(crate) use again::VERSION_CHECK;

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

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    database: Arc<Database>,
    main: RealFile,
    /// For catching up.
    host: SqliteHost,
    journal: PathBuf,
    /// The lock that SQLite has on the main file.
    level: c_int,
    /// The locks that SQLite has in the WAL index, a bit each.
    shm_locks: u32,
    /// The pages that SQLite has kept may be older than the file.
    stale: bool,
    /// A transaction outside of a WAL is under way.
    begun: bool,
    /// What it has written.
    dirty: Dirty,
    /// It has written since it was uploaded.
    written_since: bool,
    /// Every page may differ: an earlier transaction was left in the middle.
    unsettled: bool,
    /// Of page 1 before the transaction, which changes it; None if there was none.
    page_one: Option<Checksum>,
    /// Its commit failed: SQLite plays its journal back.
    refused: bool,
    /// Pages that playbacks did not put back: the next transaction carries them.
    left: RoaringBitmap,
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

impl Connection {
    pub(crate) fn new(database: Arc<Database>, main: RealFile, host: SqliteHost) -> Self {
        let mut journal = database.path().as_os_str().to_owned();
        journal.push("-journal");
        Self {
            database,
            main,
            host,
            journal: journal.into(),
            level: ffi::SQLITE_LOCK_NONE,
            shm_locks: 0,
            stale: false,
            begun: false,
            dirty: Dirty::default(),
            written_since: false,
            unsettled: false,
            page_one: None,
            refused: false,
            left: RoaringBitmap::new(),
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

    pub(crate) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    fn failed(&self, error: &Error) -> c_int {
        commit_failed(&self.database, error)
    }

    fn disk_failed(&self, what: &str, error: &std::io::Error) -> c_int {
        self.failed(&Error::disk(format_args!("{}: {what}", self.database.path().display()), error))
    }

    /// A change of the local files that is no transaction.
    fn bracketed(&mut self, work: impl FnOnce(&mut Self) -> Failed) -> Failed {
        let untouched = self.database.begin_change().unwrap_or(Untouched::UNKNOWN);
        work(self)?;
        self.database.end_change(untouched);
        Ok(())
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

    fn confirm(&mut self, wal: Option<WalEnd>) {
        if let Some(Pending { landed, .. }) = self.pending.take() {
            let untouched = self.change.take().unwrap_or(Untouched::UNKNOWN);
            self.database.confirm(landed, untouched, wal);
            self.wal_is_ours = true;
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
