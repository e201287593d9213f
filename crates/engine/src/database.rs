//! One open database, shared by all its connections in this process.

use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bottomless_history::{History, HistoryError, Layout, Listing, Moment};
use bottomless_ltx::{Checksum, Header, PageNumber, RunningChecksum, Txid};
use bottomless_points::{Point, reach};
use bottomless_store::{Body, Bucket};

use crate::background::{Origin, Upkeep};
use crate::clock::boot_id;
use crate::commit::Landed;
use crate::config::Config;
use crate::contact::Contacts;
use crate::copies::LogCopies;
use crate::error::{Error, ErrorKind, Result};
use crate::local::OpenMain;
use crate::open::again::Obstacle;
use crate::open::foreign::ForeignEnd;
use crate::process::{Process, Slot};
use crate::state::{Mark, PageChecksums, Record, Stamp, StateFile, WalEnd};

/// An open database: its history in the bucket and its local state.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    wal_path: PathBuf,
    config: Config,
    history: History,
    /// A hash of endpoint, bucket and database id, which the record carries.
    identity: u64,
    state: StateFile,
    process: Arc<Process>,
    live: Mutex<Live>,
    contacts: Mutex<Contacts>,
    /// Which file the main file is, from the time on when there is one.
    inode: OnceLock<u64>,
    foreign_end: Mutex<Option<ForeignEnd>>,
    upkeep: Arc<Upkeep>,
    /// Where compaction is on.
    copies: Option<LogCopies>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

/// What only this process needs to know.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Another writer has taken over; why and what to do.
    pub(crate) fenced: Option<Error>,
    pub(crate) obstacle: Obstacle,
    /// Catching up was cut off by a failure: the local file must not be read before its journal is played back.
    pub(crate) half_written: bool,
    last_error: Option<String>,
}

/// Whether the files looked as we left them before a change of ours began: only then may they be marked as ours after
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Untouched(bool);

impl Untouched {
    /// Nothing is known of the files: compare all pages at the next open.
    pub const UNKNOWN: Self = Self(false);
}

impl Default for Untouched {
    fn default() -> Self {
        Self(true)
    }
}

/// How a transaction that writes to the main file begins.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Begun {
    /// Pass it to the end of the change.
    pub untouched: Untouched,
    /// An earlier one wrote pages and was neither committed nor rolled back: every page may differ.
    pub unsettled: bool,
}

impl Database {
    pub(crate) fn assemble(
        path: &Path,
        config: Config,
        state: StateFile,
        (history, origin): (History, Origin),
        p: Arc<Process>,
    ) -> Self {
        let identity = identity(&config);
        Self {
            path: path.to_owned(),
            wal_path: wal_of(path),
            identity,
            upkeep: Arc::new(Upkeep::new((path.to_owned(), identity), origin, &config)),
            copies: config.compaction.then(|| LogCopies::new(path, identity)),
            config,
            history,
            state,
            process: p,
            live: Mutex::default(),
            contacts: Mutex::default(),
            inode: OnceLock::new(),
            foreign_end: Mutex::default(),
        }
    }

    pub(crate) fn foreign_end(&self) -> MutexGuard<'_, Option<ForeignEnd>> {
        self.foreign_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that was opened is still the one at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        let found = std::fs::metadata(&self.path).ok().map(|file| file.ino());
        match (self.inode.get(), found) {
            (Some(known), found) => found == Some(*known),
            (None, Some(found)) => *self.inode.get_or_init(|| found) == found,
            // SQLite creates it with the first write.
            (None, None) => {
                self.find_record().is_ok_and(|record| record.is_some_and(|r| r.position.txid == Txid::ZERO))
            }
        }
    }

    /// Remembers which file the main file is; 0 while there is none.
    pub(crate) fn note_inode(&self) -> u64 {
        let found = std::fs::metadata(&self.path).ok().map(|file| file.ino());
        match found {
            Some(found) => *self.inode.get_or_init(|| found),
            None => 0,
        }
    }

    /// The main file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its WAL, whether or not there is one.
    #[must_use]
    pub fn wal_path(&self) -> &Path {
        &self.wal_path
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// True if this process opened it, rather than the one it was forked from.
    #[must_use]
    pub fn is_of_this_process(&self) -> bool {
        self.process.is_current()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
    }

    /// The database as messages name it.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        self.history.bucket()
    }

    pub(crate) fn state(&self) -> &StateFile {
        &self.state
    }

    pub(crate) fn state_path(&self) -> &Path {
        self.state.path()
    }

    /// Where this process finds the open database of its path.
    pub(crate) fn slot(&self) -> Slot {
        self.process.slot(&self.path)
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.process.block_on(future)
    }

    /// Runs a request to the history, for no longer than `timeout`.
    pub(crate) fn within<T>(
        &self,
        timeout: Duration,
        request: impl Future<Output = std::result::Result<T, HistoryError>>,
    ) -> Result<T> {
        let asked = Instant::now();
        match self.block_on(async { tokio::time::timeout(timeout, request).await }) {
            Ok(result) => result.map_err(Error::from),
            Err(_) => {
                let error = self.bucket().given_up("GET", self.config.database_id.as_str(), asked, timeout);
                Err(Error::from(error).context(self.name()))
            }
        }
    }

    /// What this process has last heard of the store.
    pub(crate) fn contacts(&self) -> MutexGuard<'_, Contacts> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the history, for no longer than `timeout`.
    pub(crate) fn list_within(
        &self,
        timeout: Duration,
        listing: impl Future<Output = std::result::Result<Listing, HistoryError>>,
    ) -> Result<Listing> {
        let begun = Instant::now();
        let sent = Moment::now();
        let listing = self.within(timeout, listing)?;
        self.listed(&listing, sent, timeout.saturating_sub(begun.elapsed()))?;
        Ok(listing)
    }

    /// Takes note of a listing: of when it was asked for, and of the settings that all users share.
    pub(crate) fn listed(&self, listing: &Listing, sent: Moment, timeout: Duration) -> Result<()> {
        let object = listing.settings();
        let e_tag = object.and_then(|object| object.e_tag.clone());
        if !self.contacts().know_settings(e_tag.as_deref(), object.is_some()) {
            let settings = self.within(timeout, self.history.settings(listing))?;
            self.contacts().learn(settings, object.map(|_| e_tag));
        }
        // Where the end was not listed nothing may be claimed.
        let last = if listing.shows_end() { listing.last_txid() } else { Txid::new(u64::MAX) };
        self.contacts().listed(last, sent);
        self.upkeep.listed(listing);
        Ok(())
    }

    /// Keeps the history small from now on, where compaction is on. Call it when the database is open for writing: who only
    /// reads needs no thread.
    ///
    /// Waits some seconds where more than `long` ([`crate::LONG_LOG`]) transactions are left to compact. What fails is
    /// warned of.
    ///
    /// With `main`, pages of a snapshot that this machine has are not downloaded.
    pub fn compact_in_background(&self, long: u64, main: Option<Arc<dyn OpenMain>>) {
        self.upkeep.read_pages_of(main);
        if self.config.compaction {
            self.process.background().serve(&self.upkeep, long);
        }
    }

    /// Brings the bucket into shape now, and waits for it, also where compaction is off. In the layout of pages, each page
    /// object then holds what it held after the last commit, or a later one; else what is due is merged.
    ///
    /// Takes no lock of SQLite's, and may be called within a transaction, of which it sees nothing.
    ///
    /// # Errors
    /// When the store can't be reached or refuses, and when another machine, or another process of this one, is at work.
    pub fn flush(&self) -> Result<()> {
        if !self.is_of_this_process() {
            let text = format!("{}: the connection was opened before a fork(); open another", self.name());
            return Err(Error::new(ErrorKind::Busy, text));
        }
        self.process.background().flush(&self.upkeep, self.record()?.position.txid)
    }

    pub(crate) fn upkeep(&self) -> &Arc<Upkeep> {
        &self.upkeep
    }

    /// How the bucket has the database, or will have it.
    pub(crate) fn layout(&self) -> Layout {
        self.upkeep.layout()
    }

    /// The object of a transaction is in the bucket: compaction need not download it.
    pub(crate) fn keep_copy(&self, txid: Txid, e_tag: Option<&str>, body: &Body) {
        if let Some(copies) = &self.copies {
            copies.keep(txid, e_tag, body);
        }
    }

    pub(crate) fn random(&self) -> Result<u64> {
        getrandom::u64().map_err(|e| Error::new(ErrorKind::Disk, format!("{}: no random numbers: {e}", self.name())))
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the text of an error for `PRAGMA bottomless_status`.
    pub fn note_error(&self, error: &Error) {
        self.live().last_error = Some(error.to_string());
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.live().last_error.clone()
    }

    /// True if another writer has taken over, so that nothing can be committed until the database has caught up.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.live().fenced.is_some()
    }

    pub(crate) fn refuse_if_fenced(&self) -> Result<()> {
        let mut live = self.live();
        let Some(fenced) = live.fenced.clone() else {
            return Ok(());
        };
        // The program wants to write: its next transaction tries to catch up.
        live.obstacle.retry();
        Err(match &live.obstacle.why {
            Some(why) => Error::new(fenced.kind(), format!("{fenced}. Not caught up yet: {why}")),
            None => fenced,
        })
    }

    /// The bucket has gone on without us.
    pub(crate) fn taken_over(&self, last: Txid) -> Error {
        let error = self.fenced(format_args!("is at transaction {last}, and not by what this machine knows"));
        reach(Point::Fenced);
        error
    }

    /// Another's object is where ours should be.
    pub(crate) fn fence(&self, theirs: &Header) -> Error {
        let error = self.fenced(format_args!(
            "has a transaction {} that is not ours (writer {:016x})",
            theirs.max_txid, theirs.writer.0
        ));
        // Theirs may be an object that is no part of the history: catching up finds out.
        if let Err(error) = self.refuse_intent() {
            tracing::warn!(%error, "the local state could not be written");
        }
        reach(Point::Fenced);
        error
    }

    /// From here on nothing is committed. `found` is what tells so in the bucket.
    fn fenced(&self, found: std::fmt::Arguments<'_>) -> Error {
        let text = format!(
            "{}: another writer has taken over: {}/{} {found}. This transaction was rolled back, and so is every other \
             until the database has caught up with the bucket. A connection that is the only one on this machine does \
             that at the beginning of its next transaction, unless its locking mode is EXCLUSIVE; otherwise close all \
             connections to the database and open it again",
            self.name(),
            self.bucket().location(),
            self.config.database_id,
        );
        let error = Error::new(ErrorKind::Fenced, text);
        let mut live = self.live();
        live.fenced = Some(error.clone());
        live.obstacle = Obstacle::default();
        error
    }

    // The record.

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// The record, if there is a valid one for this database.
    pub(crate) fn find_record(&self) -> Result<Option<Record>> {
        let record = self.state.read().map_err(|error| self.state_error(&error))?;
        Ok(record.filter(|record| record.identity == self.identity()))
    }

    pub(crate) fn record(&self) -> Result<Record> {
        self.find_record()?.ok_or_else(|| self.state_damaged())
    }

    pub(crate) fn state_damaged(&self) -> Error {
        let text = format!(
            "{} was damaged or replaced while the database was open; close all connections to the database and open it \
             again",
            self.state_path().display()
        );
        Error::new(ErrorKind::Moved, text)
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        self.state.write(record).map_err(|error| self.state_error(&error))
    }

    pub(crate) fn state_error(&self, error: &io::Error) -> Error {
        Error::disk(self.state_path().display(), error)
    }

    pub(crate) fn page_checksums(&self) -> PageChecksums<'_> {
        self.state.pages()
    }

    /// Moves the position to a transaction that the bucket and SQLite both hold.
    pub(crate) fn take_over(&self, landed: &Landed, wal: Option<WalEnd>) -> io::Result<()> {
        let mut record =
            self.record().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        // While the page checksums change the intent stands, so that a crash in between is seen.
        let mut pages = self.page_checksums();
        pages.update(&landed.pages)?;
        reach(Point::ConfirmPages);
        pages.truncate(landed.size_in_pages)?;
        reach(Point::ConfirmTruncated);
        record.position = landed.position;
        record.page_size = Some(landed.page_size);
        record.size_in_pages = landed.size_in_pages;
        record.change_counter = landed.change_counter.unwrap_or(record.change_counter);
        record.e_tag = landed.e_tag.clone();
        record.intent = None;
        record.writing = false;
        record.unjournaled = false;
        record.owes_all = false;
        record.foreign = false;
        record.wal = wal;
        record.main_inode = self.note_inode();
        self.state.write(&record)?;
        reach(Point::ConfirmRecorded);
        self.upkeep.committed(landed.position.txid);
        Ok(())
    }

    /// The program was told that the transaction of the intent failed.
    pub(crate) fn refuse_intent(&self) -> io::Result<()> {
        let Some(mut record) = self.state.read()? else {
            return Ok(());
        };
        if let Some(intent) = &mut record.intent {
            intent.refused = true;
            self.state.write(&record)?;
        }
        Ok(())
    }

    // Transactions outside of a WAL.

    /// Pages of the main file are about to be written, outside of a WAL and of a checkpoint. `page_one` is page 1 as it
    /// is, which every transaction changes: if it is not what we know, another program has committed. With a journal
    /// on the disk SQLite rolls back after a crash.
    ///
    /// # Errors
    /// When the local state can't be written, or when the file holds a part of an earlier transaction that nobody can
    /// take back.
    pub fn begin_writing(&self, page_one: Option<&[u8]>, journaled: bool) -> Result<Begun> {
        let untouched = self.begin_change()?;
        let mut record = self.record()?;
        self.refuse_if_torn(&record)?;
        let foreign = match page_one {
            Some(page_one) if record.is_comparable() => {
                let known = self.page_checksums().get(PageNumber::FIRST).map_err(|error| self.state_error(&error))?;
                known != Some(Checksum::of_page(PageNumber::FIRST, page_one))
            }
            _ => false,
        } || (record.is_comparable() && record.wal != Some(WalEnd::EMPTY));
        let unsettled = std::mem::replace(&mut record.writing, true) || foreign;
        record.unjournaled |= !journaled;
        self.write_record(&record)?;
        Ok(Begun { untouched, unsettled })
    }

    /// A transaction without a journal that was neither finished nor rolled back has left a part of itself in the file.
    /// The next one must not carry it into the bucket.
    fn refuse_if_torn(&self, record: &Record) -> Result<()> {
        // What was not refused may be one that is committed, and could not be noted as such.
        let may_be_whole = record.intent.is_some_and(|intent| !intent.refused);
        if !record.writing || !record.unjournaled || may_be_whole {
            return Ok(());
        }
        let text = format!(
            "{}: an earlier transaction without a journal (journal mode OFF or MEMORY) was cut off and could not be \
             rolled back, and the file holds a part of it; close all connections to the database and open it again to \
             restore it from the bucket",
            self.name()
        );
        Err(Error::new(ErrorKind::Disk, text))
    }

    /// The page size, if there has been a transaction.
    #[must_use]
    pub fn page_size(&self) -> Option<bottomless_ltx::PageSize> {
        self.find_record().ok().flatten().and_then(|record| record.page_size)
    }

    // The WAL.

    /// True if the WAL ends where we left it: no other program has committed. Call it under the WAL's write lock.
    #[must_use]
    pub fn is_wal_ours(&self, end: WalEnd) -> bool {
        let Ok(record) = self.record() else {
            return false;
        };
        // Where nobody had the WAL index open meanwhile, a program may have written to the WAL, copied it into the main
        // file and removed it: that shows in the main file only.
        let known = record.wal.and_then(|wal| end.continues(wal));
        known.unwrap_or_else(|| self.is_untouched().unwrap_or(false))
    }

    /// The WAL ends here, after a change that was ours and no transaction.
    pub fn note_wal(&self, end: WalEnd) {
        let noted = self.record().and_then(|record| match record.wal {
            Some(wal) if wal == end => Ok(()),
            _ => self.write_record(&Record { wal: Some(end), ..record }),
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "the local state could not be written; all pages are compared at the next commit");
        }
    }

    /// The WAL was removed, after all in it was copied into the main file. If another program has changed the files
    /// since we did, its transactions are there too.
    pub fn note_no_wal(&self, untouched: Untouched) {
        if untouched == Untouched::UNKNOWN {
            self.forget_wal();
        } else {
            self.note_wal(WalEnd::EMPTY);
        }
    }

    fn forget_wal(&self) {
        let noted = self.record().and_then(|record| self.write_record(&Record { wal: None, ..record }));
        if let Err(error) = noted {
            tracing::warn!(%error, "the local state could not be written");
        }
    }

    /// What was written is as it was before the transaction.
    pub(crate) fn settle_writing(&self, record: &mut Record) -> Result<()> {
        if std::mem::take(&mut record.writing) {
            record.unjournaled = false;
            self.write_record(record)?;
        }
        Ok(())
    }

    /// The pages that were written were put back by the shim.
    ///
    /// # Errors
    /// When the local state can't be written.
    pub fn undone(&self) -> Result<()> {
        self.settle_writing(&mut self.record()?)
    }

    /// SQLite has put back what a transaction had written whose commit failed: page 1 is as it was before. `unsettled` is
    /// what [`Begun`] said. Needs no network, whatever the bucket holds meanwhile.
    ///
    /// # Errors
    /// When the local state can't be written.
    pub fn put_back(&self, unsettled: bool) -> Result<()> {
        if unsettled { Ok(()) } else { self.undone() }
    }

    // The mark.

    fn stamp(&self) -> io::Result<Stamp> {
        Stamp::of(&self.path, &self.wal_path)
    }

    /// The local files are about to be changed by us.
    ///
    /// # Errors
    /// When the local state can't be written.
    pub fn begin_change(&self) -> Result<Untouched> {
        self.try_begin_change().map_err(|error| self.state_error(&error))
    }

    fn try_begin_change(&self) -> io::Result<Untouched> {
        let mark = self.state.read_mark()?;
        if mark.is_none_or(|mark| mark.clean) {
            // Durable before the change, so that after a crash of the operating system nothing stale is trusted.
            let stamp = mark.and_then(|mark| mark.stamp);
            self.state.write_mark(&Mark { boot_id: boot_id(), clean: false, stamp })?;
            self.state.sync()?;
        }
        Ok(Untouched(mark.and_then(|mark| mark.stamp) == Some(self.stamp()?)))
    }

    /// The local files were changed by us, and by no other since `untouched` was given.
    ///
    /// What fails here costs a comparison of all pages at the next open.
    pub fn end_change(&self, untouched: Untouched) {
        if let Err(error) = self.try_end_change(untouched) {
            tracing::warn!("{}: the local state could not be written: {error}", self.state_path().display());
        }
    }

    pub(crate) fn try_end_change(&self, Untouched(untouched): Untouched) -> io::Result<()> {
        let stamp = if untouched { Some(self.stamp()?) } else { None };
        let mark = Mark { boot_id: boot_id(), clean: false, stamp };
        if self.state.read_mark()? == Some(mark) {
            return Ok(());
        }
        self.state.write_mark(&mark)
    }

    /// True if the local files are as we left them.
    pub(crate) fn is_untouched(&self) -> Result<bool> {
        let read = || {
            let Some(mark) = self.state.read_mark()? else {
                return Ok(false);
            };
            Ok((mark.clean || mark.boot_id == boot_id()) && mark.stamp == Some(self.stamp()?))
        };
        read().map_err(|error| self.state_error(&error))
    }
}

impl Drop for Database {
    /// The last connection of this process was closed.
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        let close = || {
            // Another process that has it open will do it.
            if !self.state.try_lock_exclusive()? {
                return Ok(());
            }
            match self.state.read_mark()? {
                // A WAL that stays may not be on the disk yet.
                Some(mark) if !mark.clean && mark.stamp.is_some_and(|stamp| !stamp.has_wal()) => {
                    self.state.sync()?;
                    reach(Point::CloseSynced);
                    self.state.write_mark(&Mark { clean: true, ..mark })?;
                    reach(Point::CloseMarked);
                    Ok(())
                }
                _ => Ok(()),
            }
        };
        if let Err::<(), io::Error>(error) = close() {
            tracing::warn!("{}: the local state could not be written: {error}", self.state_path().display());
        }
        // Others of this machine need not wait for what comes.
        if let Err(error) = self.state.unlock() {
            tracing::warn!("{}: {error}", self.state_path().display());
        }
        self.upkeep.finish();
        self.upkeep.close();
    }
}

/// A hash of endpoint, bucket and database id.
pub(crate) fn identity(config: &Config) -> u64 {
    let text = format!("{}\0{}", config.location, config.database_id);
    RunningChecksum::of(text.as_bytes()).finish().get()
}

/// The WAL of a main file.
pub(crate) fn wal_of(path: &Path) -> PathBuf {
    with_suffix(path, "-wal")
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
