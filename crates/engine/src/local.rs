//! What the engine needs of the local database, and of the SQLite that serves it. The shim provides it.

use std::fmt;
use std::io;
use std::path::Path;

use bottomless_ltx::{Checksum, PageNumber, PageSize};
use roaring::RoaringBitmap;

use crate::error::Result;
use crate::wal::{WalReader, be32};

/// Content of pages, as a transaction leaves it.
pub trait PageSource {
    /// Reads one page; `content` has the size of a page.
    ///
    /// # Errors
    /// When it can't be read.
    fn read_page(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<()>;
}

/// The main database file, as SQLite's VFS opens it.
///
/// Never opened by the engine itself: closing any descriptor of that file drops all POSIX locks that SQLite holds on it
/// in this process.
pub trait MainFile {
    /// Bytes in the file.
    ///
    /// # Errors
    /// When the file can't be asked.
    fn size(&mut self) -> io::Result<u64>;

    /// Reads at an offset; behind the end there are zeros.
    ///
    /// # Errors
    /// When the file can't be read.
    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Opens the main file once more, for reading by another thread and without any lock: what is read may be torn.
///
/// It must be opened by the SQLite that has it open, for the reason that [`MainFile`] names.
pub trait OpenMain: fmt::Debug + Send + Sync {
    /// Opens it; it is closed when it is dropped.
    ///
    /// # Errors
    /// When it can't be opened.
    fn open(&self) -> io::Result<Box<dyn MainFile + Send>>;
}

/// Work on the main file under a lock.
pub type Locked<'a> = &'a mut dyn FnMut(&mut dyn MainFile) -> Result<()>;

/// The SQLite in whose process we are.
pub trait Host {
    /// Lets SQLite recover the database (hot journal, WAL), and does the work while no other can write.
    ///
    /// # Errors
    /// When the lock can't be had in time, when SQLite can't recover, and what the work fails with.
    fn with_write_lock(&self, work: Locked<'_>) -> Result<()>;

    /// Does the work while no other can read or write the main file. SQLite is not involved: nothing is recovered.
    ///
    /// # Errors
    /// When the lock can't be had in time, and what the work fails with.
    fn with_exclusive_lock(&self, work: Locked<'_>) -> Result<()>;

    /// True if no other connection has the local file in use now: in a WAL from its first read to its end, else for a
    /// transaction.
    ///
    /// # Errors
    /// When that can't be found out.
    fn is_alone(&self) -> Result<bool>;

    /// Reads the beginning of the main file, without a lock; behind the end there are zeros.
    ///
    /// # Errors
    /// When it can't be read.
    fn read_main(&self, bytes: &mut [u8]) -> Result<()>;

    /// Lets SQLite recover the database and copy the WAL into the main file, as far as other connections allow.
    ///
    /// # Errors
    /// When SQLite can't.
    fn checkpoint(&self) -> Result<()>;
}

/// The database as SQLite would read it: the WAL over the main file.
pub struct LocalReader<'a> {
    main: &'a mut dyn MainFile,
    wal: Option<WalReader>,
    page_size: PageSize,
    size_in_pages: u32,
}

/// Offsets in the database header (section 1.3 of the SQLite file-format page).
const PAGE_SIZE_AT: usize = 16;
const CHANGE_COUNTER_AT: usize = 24;
const SIZE_AT: usize = 28;
const VERSION_VALID_FOR_AT: usize = 92;
const FREELIST_AT: usize = 32;
const HEADER_LENGTH: usize = 100;

/// Page size and size in pages, from the first page of a database of `file_size` bytes; None if it is none.
#[must_use]
pub fn shape(header: &[u8], file_size: u64) -> Option<(PageSize, u32)> {
    if !header.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let bytes: [u8; 2] = header.get(PAGE_SIZE_AT..PAGE_SIZE_AT + 2)?.try_into().ok()?;
    let page_size = match u16::from_be_bytes(bytes) {
        1 => PageSize::new(65536).ok()?,
        bytes => PageSize::new(bytes.into()).ok()?,
    };
    let field = |at: usize| header.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap_or_default()));
    let stored = field(SIZE_AT)?;
    // Versions before 3.7.0 did not write the size.
    if stored != 0 && field(CHANGE_COUNTER_AT)? == field(VERSION_VALID_FOR_AT)? {
        return Some((page_size, stored));
    }
    Some((page_size, u32::try_from(file_size / u64::from(page_size.get())).ok()?))
}

/// The change counter in a page 1, which no transaction lowers. In a WAL it may stay as it is.
pub(crate) fn change_counter(page_one: &[u8]) -> u32 {
    let bytes = page_one.get(CHANGE_COUNTER_AT..CHANGE_COUNTER_AT + 4);
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

impl<'a> LocalReader<'a> {
    /// Reads the shape of the database; None for a file that is empty or not a database.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn open(main: &'a mut dyn MainFile, wal: &Path) -> io::Result<Option<Self>> {
        let wal = WalReader::open(wal)?;
        let file_size = main.size()?;
        let mut header = [0; HEADER_LENGTH];
        main.read_at(&mut header, 0)?;
        let shape = match &wal {
            Some(wal) => Some((wal.page_size(), wal.size_in_pages())),
            None => shape(&header, file_size),
        };
        Ok(shape.map(|(page_size, size_in_pages)| Self { main, wal, page_size, size_in_pages }))
    }

    /// The page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages in the database.
    #[must_use]
    pub fn size_in_pages(&self) -> u32 {
        self.size_in_pages
    }

    /// The leaves of the freelist ("The Freelist" in the SQLite file-format page): nobody reads what they hold.
    ///
    /// # Errors
    /// When the files can't be read.
    pub(crate) fn free_pages(&mut self, page_one: &[u8]) -> io::Result<RoaringBitmap> {
        let mut free = RoaringBitmap::new();
        let mut trunk = be32(page_one, FREELIST_AT).and_then(PageNumber::new);
        let mut content = vec![0; self.page_size.bytes()];
        let mut left = self.size_in_pages;
        while let Some(page) = trunk.filter(|page| page.get() <= self.size_in_pages && left > 0) {
            // A damaged list may be a circle.
            left -= 1;
            self.read_page(page, &mut content)?;
            let leaves = be32(&content, 4).unwrap_or_default() as usize;
            free.extend((0..leaves).map_while(|leaf| be32(&content, 8 + 4 * leaf)));
            trunk = be32(&content, 0).and_then(PageNumber::new);
        }
        Ok(free)
    }

    /// The checksums of all pages (None for the lock page), and the database checksum.
    ///
    /// # Errors
    /// When the files can't be read.
    pub(crate) fn checksums(&mut self) -> io::Result<(Vec<Option<Checksum>>, Checksum)> {
        let mut content = vec![0; self.page_size.bytes()];
        let mut all = Vec::with_capacity(self.size_in_pages as usize);
        let mut total = Checksum::EMPTY;
        for page in (1..=self.size_in_pages).filter_map(PageNumber::new) {
            if page == self.page_size.lock_page() {
                all.push(None);
                continue;
            }
            self.read_page(page, &mut content)?;
            let checksum = Checksum::of_page(page, &content);
            total = total.toggle_page(checksum);
            all.push(Some(checksum));
        }
        Ok((all, total))
    }
}

impl PageSource for LocalReader<'_> {
    fn read_page(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        if let Some(wal) = &self.wal
            && wal.read_page(page, content)?
        {
            return Ok(());
        }
        self.main.read_at(content, self.page_size.offset_of(page))
    }
}
