//! A local file from the bucket: into a temporary file, verified, renamed into place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_history::{Base, Layout, Listing, RestoreOptions, Restored};
use bottomless_ltx::{Checksum, PageNumber, Position, Txid};
use bottomless_points::{Point, reach};

use crate::clock::milliseconds;
use crate::database::{Database, Untouched, with_suffix};
use crate::error::{Error, ErrorKind, Result};
use crate::local::{Host, LocalReader, MainFile, PageSource, change_counter};
use crate::state::Record;

/// What is added to the database's file name while it is filled. Only the process that has the local state for itself
/// writes it, so that one cut off by a crash is overwritten by the next.
const SUFFIX: &str = "-bottomless-fill";

/// Files that belong to a database that is gone when they lie beside an empty or replaced one.
const STALE: [&str; 3] = ["-wal", "-shm", "-journal"];

const COPY_BUFFER: usize = 1 << 20;

impl Database {
    /// Fills an empty or missing local file.
    pub(super) fn fill(&self, host: &dyn Host, listing: &Listing) -> Result<()> {
        let (path, restored) = self.restore(listing, None, None)?;
        let put = || self.put_in_place(&path, &restored);
        if !self.path().exists() {
            return put();
        }
        host.with_exclusive_lock(&mut |main| {
            if main.size().map_err(|e| self.disk(self.path(), &e))? > 0 {
                let text = "another process has written to the database while it was being filled; open it again";
                return Err(Error::new(ErrorKind::Busy, text));
            }
            put()
        })
    }

    /// Replaces a local file whose free pages hold other content: nothing of it is lost.
    pub(super) fn replace_free(&self, host: &dyn Host, listing: &Listing) -> Result<()> {
        let (path, restored) = self.restore(listing, None, None)?;
        host.with_exclusive_lock(&mut |_| self.put_in_place(&path, &restored))
    }

    /// Replaces a local file that lost writes, by the bucket's end or an earlier transaction.
    pub(super) fn refill(&self, host: &dyn Host, listing: &Listing, upto: Option<Txid>) -> Result<()> {
        let last = listing.last_txid();
        // What was reported as failed stays away, unless it is in the page objects: there is no way before them.
        let upto = upto.filter(|txid| listing.layout() == Layout::Ltx || listing.plan(Txid::ZERO, Some(*txid)).is_ok());
        tracing::warn!(
            database = %self.name(),
            "the local file lost writes in a crash; it is restored from the bucket, at transaction {}",
            upto.unwrap_or(last)
        );
        self.restore_anew(host, listing, upto)
    }

    /// Replaces a local file, which is kept aside.
    pub(super) fn restore_anew(&self, host: &dyn Host, listing: &Listing, upto: Option<Txid>) -> Result<()> {
        let (path, restored) = self.restore(listing, None, upto)?;
        host.with_exclusive_lock(&mut |_| {
            self.keep_aside()?;
            self.put_in_place(&path, &restored)
        })
    }

    /// Empties a local file of which no transaction was ever acknowledged.
    pub(super) fn start_over(&self, host: &dyn Host) -> Result<()> {
        tracing::warn!(database = %self.name(), "a crash has torn the first transaction; the database begins anew");
        let path = with_suffix(self.path(), SUFFIX);
        host.with_exclusive_lock(&mut |_| {
            self.keep_aside()?;
            self.clear_stale()?;
            File::create(&path).map_err(|e| self.disk(&path, &e))?;
            fs::rename(&path, self.path()).map_err(|e| self.disk(self.path(), &e))
        })
    }

    /// Gives the local file a second name: what is only in it is not thrown away.
    fn keep_aside(&self) -> Result<()> {
        let time = milliseconds(SystemTime::now());
        for suffix in ["", "-wal"] {
            let (from, kept) = (with_suffix(self.path(), suffix), format!("-bottomless-lost-{time}{suffix}"));
            let kept = with_suffix(self.path(), &kept);
            // Not every file system has links. Without the file, a crash before the next step is an empty file to fill.
            match fs::hard_link(&from, &kept).or_else(|_| fs::rename(&from, &kept)) {
                Ok(()) => tracing::warn!("what the local file held is kept as {}", kept.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.disk(&kept, &error)),
            }
            reach(Point::FillKept);
        }
        Ok(())
    }

    /// Brings a local file that is at an earlier position up to the bucket's.
    pub(super) fn catch_up(&self, host: &dyn Host, listing: &Listing, from: Position) -> Result<()> {
        tracing::info!(database = %self.name(), from = %from.txid, to = %listing.last_txid(), "catching up");
        host.checkpoint()?;
        reach(Point::CatchUpCheckpointed);
        host.with_exclusive_lock(&mut |main| {
            if self.has_wal() {
                let text = "the database is behind the bucket, and a connection on this machine keeps its WAL in use; \
                            close it and open the database again";
                return Err(Error::new(ErrorKind::Busy, text));
            }
            reach(Point::CatchUpLocked);
            let (path, restored) = self.restore(listing, Some((from, main)), None)?;
            self.put_in_place(&path, &restored)
        })
    }

    /// Restores into the temporary file; from the local file on, where one is given with its position.
    pub(super) fn restore(
        &self,
        listing: &Listing,
        base: Option<(Position, &mut dyn MainFile)>,
        upto: Option<Txid>,
    ) -> Result<(PathBuf, Restored)> {
        let path = with_suffix(self.path(), SUFFIX);
        let disk = |e: io::Error| self.disk(&path, &e);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(disk)?;
        let file = Arc::new(file);
        let restored = (|| {
            let from = base.as_ref().map_or(Txid::ZERO, |(position, _)| position.txid);
            let mut base = base;
            let prepare = || match &mut base {
                None => Ok(None),
                Some((position, main)) => self.copy_base(*position, &mut **main, &file).map(Some),
            };
            let options = RestoreOptions::default();
            let restoring =
                self.history().restore_around::<Error>(listing.clone(), (from, upto), &file, &options, prepare);
            let restored = self.block_on(restoring)?;
            if let Ok(metadata) = fs::metadata(self.path()) {
                file.set_permissions(metadata.permissions()).map_err(disk)?;
            }
            file.sync_all().map_err(disk)?;
            reach(Point::FillRestored);
            Ok(restored)
        })();
        match restored {
            Ok(restored) => Ok((path, restored)),
            Err(error) => {
                // What is left of it would only take room; the error that counts is the first.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Copies the local file, and makes sure that it is what the position says.
    fn copy_base(&self, position: Position, main: &mut dyn MainFile, to: &File) -> Result<Base> {
        let disk = |e: io::Error| self.disk(self.path(), &e);
        let mut reader = LocalReader::open(main, self.wal_path()).map_err(disk)?.ok_or_else(changed)?;
        let page_size = reader.page_size();
        let mut content = vec![0; page_size.bytes()];
        let mut total = Checksum::EMPTY;
        let mut page_checksums = Vec::new();
        let mut to = to;
        to.set_len(0).and_then(|()| to.rewind()).map_err(disk)?;
        let mut out = BufWriter::with_capacity(COPY_BUFFER, to);
        for page in (1..=reader.size_in_pages()).filter_map(PageNumber::new) {
            reader.read_page(page, &mut content).map_err(disk)?;
            out.write_all(&content).map_err(disk)?;
            let checksum = Some(page).filter(|page| *page != page_size.lock_page());
            let checksum = checksum.map(|page| Checksum::of_page(page, &content));
            total = checksum.map_or(total, |checksum| total.toggle_page(checksum));
            page_checksums.push(checksum);
        }
        out.flush().map_err(disk)?;
        reach(Point::CatchUpCopied);
        if total == position.checksum { Ok(Base { position, page_size, page_checksums }) } else { Err(changed()) }
    }

    fn clear_stale(&self) -> Result<()> {
        // SQLite would replay them onto the restored database, and no check would notice.
        for suffix in STALE {
            let stale = with_suffix(self.path(), suffix);
            match fs::remove_file(&stale) {
                Ok(()) => {
                    tracing::warn!("{} belonged to a database that is gone, and was removed", stale.display());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.disk(&stale, &error)),
            }
        }
        Ok(())
    }

    fn put_in_place(&self, path: &Path, restored: &Restored) -> Result<()> {
        self.clear_stale()?;
        let mut page_one = vec![0; restored.page_size.bytes()];
        File::open(path).and_then(|file| file.read_exact_at(&mut page_one, 0)).map_err(|e| self.disk(path, &e))?;
        reach(Point::FillCleared);
        fs::rename(path, self.path()).map_err(|e| self.disk(self.path(), &e))?;
        reach(Point::FillRenamed);
        let folder = self.folder();
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|e| self.disk(&folder, &e))?;
        reach(Point::FillSynced);
        self.record_restored(restored, change_counter(&page_one)).map_err(|e| self.state_error(&e))?;
        reach(Point::FillRecorded);
        tracing::info!(database = %self.name(), txid = %restored.position.txid, "restored from the bucket");
        if restored.is_foreign {
            self.warn_of_foreign(restored.position);
        }
        Ok(())
    }

    fn record_restored(&self, restored: &Restored, change_counter: u32) -> io::Result<()> {
        self.write_restored_pages(restored)?;
        reach(Point::FillPages);
        // The proof is the bucket's, whatever becomes of the local file.
        let before = self.state().read()?.filter(|record| record.identity == self.identity());
        self.state().write(&Record {
            position: restored.position,
            proven: before.as_ref().is_some_and(|record| record.proven),
            // What may still arrive, and what was reported as failed.
            intent: before.and_then(|record| record.intent).filter(|intent| intent.txid > restored.position.txid),
            page_size: Some(restored.page_size),
            size_in_pages: restored.size_in_pages,
            change_counter,
            e_tag: restored.last_object.as_ref().and_then(|object| object.e_tag.clone()),
            foreign: restored.is_foreign,
            ..Record::fresh(self.identity())
        })?;
        self.try_end_change(Untouched::default())
    }

    pub(super) fn write_restored_pages(&self, restored: &Restored) -> io::Result<()> {
        let numbered = (1..).filter_map(PageNumber::new).zip(&restored.page_checksums);
        let updates: Vec<_> = numbered.filter_map(|(page, sum)| sum.map(|sum| (page, sum))).collect();
        let mut pages = self.page_checksums();
        pages.truncate(0)?;
        pages.update(&updates)
    }

    fn disk(&self, path: &Path, error: &io::Error) -> Error {
        Error::disk(path.display(), error)
    }
}

fn changed() -> Error {
    Error::new(
        ErrorKind::Busy,
        "the local file was changed by another program while it was being caught up; open it again",
    )
}
