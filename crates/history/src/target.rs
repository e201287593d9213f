//! The file that is restored into.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::{Checksum, PageNumber, PageSize};

/// Consecutive pages are written together, up to this many bytes.
const WRITE_LENGTH: usize = 256 * 1024;

/// The file, and the pages that are in it already.
///
/// Objects are applied from the newest to the oldest, so the first version of a page that comes is the one that counts.
#[derive(Debug)]
pub(crate) struct Target {
    /// Without one, only the checksums are kept.
    file: Option<Arc<File>>,
    page_size: PageSize,
    /// The checksums of the pages that are written; 0 for the others.
    checksums: Vec<AtomicU64>,
}

impl Target {
    pub(crate) fn new(file: Option<Arc<File>>, page_size: PageSize, size_in_pages: u32) -> Self {
        let checksums = (0..size_in_pages).map(|_| AtomicU64::new(0)).collect();
        Self { file, page_size, checksums }
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn size_in_pages(&self) -> u32 {
        u32::try_from(self.checksums.len()).unwrap_or(u32::MAX)
    }

    /// The pages up to `limit` that were not written yet, without the lock page.
    pub(crate) fn lacking(&self, limit: u32) -> impl Iterator<Item = PageNumber> + '_ {
        let lock_page = self.page_size.lock_page();
        let is_lacking = move |page: &PageNumber| {
            let slot = self.checksums.get(page.index());
            *page != lock_page && slot.is_some_and(|slot| slot.load(Ordering::Relaxed) == 0)
        };
        (1..=limit.min(self.size_in_pages())).filter_map(PageNumber::new).filter(is_lacking)
    }

    /// Writes pages of one object. Of all pages behind `limit`, nothing is written: a newer object cut them off.
    pub(crate) fn writer(&self, limit: u32) -> Writer<'_> {
        Writer { target: self, limit, start: 0, pending: Vec::new() }
    }

    /// The checksums of the pages, page 1 first; `base` has those of the pages that no object brought.
    pub(crate) fn into_checksums(self, base: &[Option<Checksum>]) -> Vec<Option<Checksum>> {
        let base = base.iter().copied().chain(std::iter::repeat(None));
        self.checksums.into_iter().zip(base).map(|(own, base)| Checksum::new(own.into_inner()).or(base)).collect()
    }
}

/// Collects consecutive pages and writes them together.
pub(crate) struct Writer<'a> {
    target: &'a Target,
    limit: u32,
    /// Where `pending` belongs in the file.
    start: u64,
    pending: Vec<u8>,
}

impl Writer<'_> {
    /// Takes a page, unless a newer version of it is there or it was cut off.
    pub(crate) fn page(&mut self, page: PageNumber, content: &[u8]) -> io::Result<()> {
        let Some(slot) = self.target.checksums.get(page.index()).filter(|_| page.get() <= self.limit) else {
            return Ok(());
        };
        // Within an object each page comes once, and the objects come one behind the other: no two threads meet here.
        if slot.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        slot.store(Checksum::of_page(page, content).get(), Ordering::Relaxed);
        let offset = self.target.page_size.offset_of(page);
        if self.start + self.pending.len() as u64 != offset || self.pending.len() >= WRITE_LENGTH {
            self.flush()?;
            self.start = offset;
        }
        self.pending.extend_from_slice(content);
        Ok(())
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.target.file {
            file.write_all_at(&self.pending, self.start)?;
        }
        self.pending.clear();
        Ok(())
    }
}
