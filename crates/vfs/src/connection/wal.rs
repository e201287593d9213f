//! The WAL: transactions by the writes to it.

use bottomless_engine::wal::{Observed, WAL_HEADER, WalTracker};
use bottomless_engine::{Change, Error, ErrorKind, Outcome};
use bottomless_ltx::{Checksum, PageNumber};
use bottomless_points::{Point, reach};
use roaring::RoaringBitmap;

use super::{CommitFrame, Connection, Failed, Pending, checked};
use crate::real::RealFile;
use crate::source::WalSource;

impl CommitFrame {
    /// With power-safe overwrite off, SQLite repeats the commit frame to fill a sector: no transaction of its own.
    fn is_repeated_by(&self, other: &Self) -> bool {
        other.number > self.number && (other.page, other.checksum) == (self.page, self.checksum)
    }
}

impl Connection {
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
        let commits = self.pending.is_none();
        let result = self.observe_wal(wal, data, offset).and_then(|()| {
            let commits = commits && self.pending.is_some();
            if commits {
                reach(Point::FrameWriting);
            }
            checked(wal.write(data, offset))?;
            if commits {
                reach(Point::FrameWritten);
            }
            Ok(())
        });
        if result.is_err() {
            self.wal_failed();
        }
        result
    }

    /// SQLite could not write a transaction: it rolls back, and its next one begins where this one did.
    pub(crate) fn wal_failed(&mut self) {
        self.abandon();
        self.wal.begin();
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
            reach(Point::FramesBegun);
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
        self.bracketed(|_| checked(wal.truncate(size)))?;
        reach(Point::WalTruncated);
        Ok(())
    }

    /// A writer has taken the WAL's write lock.
    pub(crate) fn wal_locked(&mut self) {
        self.wal.begin();
        self.wal_end = self.main.wal_end();
        self.wal_is_ours = self.wal_end.is_none_or(|end| self.database.is_wal_ours(end));
    }

    /// A writer is about to give the WAL's write lock up. What SQLite has committed is in the WAL index by now.
    pub(crate) fn wal_unlocking(&mut self) {
        if self.change.is_some() {
            reach(Point::WalUnlocking);
        }
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
}
