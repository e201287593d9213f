//! Pages of a transaction that is being written to a WAL.

use std::io;

use bottomless_engine::wal::{FrameNumber, WalReader, WalTracker};
use bottomless_engine::{Change, Database, MainFile, PageSource};
use bottomless_ltx::{PageNumber, PageSize};
use libsqlite3_sys as ffi;
use roaring::RoaringBitmap;

use crate::real::{RealFile, io_error};

/// The pages as they are after the transaction: its own frames, then what the WAL held before, then the main file.
pub(crate) struct WalSource<'a> {
    pub(crate) database: &'a Database,
    pub(crate) tracker: &'a WalTracker,
    pub(crate) page_size: PageSize,
    /// The last frame of each page of the transaction, in ascending order of pages.
    pub(crate) frames: &'a [(PageNumber, FrameNumber)],
    pub(crate) wal: RealFile,
    pub(crate) main: RealFile,
    /// The page of the commit frame, which is not written yet.
    pub(crate) last: (PageNumber, &'a [u8]),
    /// What was committed before; read when a page is asked for that the transaction did not write.
    pub(crate) before: Option<Option<WalReader>>,
}

impl PageSource for WalSource<'_> {
    fn read_page(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        if page == self.last.0 {
            content.copy_from_slice(self.last.1);
            return Ok(());
        }
        let found = self.frames.binary_search_by_key(&page, |(page, _)| *page);
        if let Some(offset) = found.ok().and_then(|i| self.tracker.page_offset(self.frames[i].1)) {
            return match self.wal.read(content, offset) {
                ffi::SQLITE_OK => Ok(()),
                code => Err(io_error(code)),
            };
        }
        let before = match &self.before {
            Some(before) => before,
            None => self.before.insert(WalReader::open(self.database.wal_path())?),
        };
        if let Some(before) = before
            && before.read_page(page, content)?
        {
            return Ok(());
        }
        self.main.read_at(content, self.page_size.offset_of(page))
    }
}

/// Pages of a transaction that writes to the main file.
pub(crate) struct MainSource {
    pub(crate) main: RealFile,
    pub(crate) page_size: PageSize,
}

/// What a transaction outside of a WAL has changed.
pub(crate) struct MainChange {
    pub(crate) page_size: PageSize,
    pub(crate) size_in_pages: u32,
    pub(crate) written: RoaringBitmap,
    pub(crate) source: MainSource,
}

impl MainChange {
    pub(crate) fn as_change(&mut self) -> Change<'_> {
        Change {
            page_size: self.page_size,
            size_in_pages: self.size_in_pages,
            written: self.written.clone(),
            source: &mut self.source,
        }
    }
}

impl PageSource for MainSource {
    fn read_page(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        self.main.read_at(content, self.page_size.offset_of(page))
    }
}
