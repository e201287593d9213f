//! A database file that others may be using, as one of its readers sees it: at one commit, while they go on.
//!
//! SQLite itself is not in this program, since it can't be linked into the workspace of the extension. So this does what
//! SQLite's readers do (`pagerSharedLock` in `pager.c`, `walTryBeginRead` in `wal.c`): it takes their locks, and reads what
//! they keep in place.
//!
//! - SHARED on the main file: in rollback mode nobody writes to it; in WAL mode the WAL and its index are not removed.
//! - In WAL mode the lock of a read mark: the frames up to the last commit stay where they are, and of the main file only
//!   pages change that are in these frames.
//! - A WAL that nobody has open, left by a crash: nobody may open it meanwhile.

mod index;
mod lock;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use bottomless_engine::shape;
use bottomless_engine::wal::WalReader;
use bottomless_ltx::{PageNumber, PageSize};

use index::Index;

/// The database at one commit. The locks are held until it is dropped.
#[derive(Debug)]
pub(crate) struct Snapshot {
    main: File,
    /// The locks are on it.
    _index: Option<File>,
    wal: Option<WalReader>,
    page_size: PageSize,
    size_in_pages: u32,
    path: PathBuf,
    /// Nobody has written while this does not exist.
    absent_wal: Option<PathBuf>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    /// Others hold locks that exclude it just now: try again.
    #[error(
        "{0} is locked by another program; close it there, or end its transaction, and try again (a program with \
         PRAGMA locking_mode=EXCLUSIVE keeps its lock until it closes)"
    )]
    Busy(PathBuf),
    /// What was read is not of one commit.
    #[error(
        "{0} was changed by another program each time that it was read: its first WAL was made, or another file was put in \
         its place; try again when it is at rest"
    )]
    Changed(PathBuf),
    /// It can't be a database.
    #[error("{0} {1}")]
    NotOne(PathBuf, String),
    /// A crash has left it in the middle of a transaction.
    #[error(
        "{0} was left in the middle of a transaction by a crash: its journal must be rolled back first; open it once with \
         SQLite so that it can write to it (sqlite3 FILE 'select count(*) from sqlite_schema'), and try again"
    )]
    HotJournal(PathBuf),
    /// The WAL can't be protected from others.
    #[error(
        "{0} has a WAL, which must be locked while it is read, and its -shm file can't be opened or created ({1}); run this as a \
         user who may write to its folder, or checkpoint it there first (sqlite3 FILE 'pragma wal_checkpoint(truncate)')"
    )]
    NoIndex(PathBuf, io::Error),
    /// It can't be read.
    #[error("{0} can't be read: {1}")]
    Disk(PathBuf, io::Error),
}

impl Snapshot {
    /// Takes one now, without waiting.
    pub(crate) fn take(path: &Path) -> Result<Self, LiveError> {
        let disk = |error| LiveError::Disk(path.to_owned(), error);
        let busy = || LiveError::Busy(path.to_owned());
        let not_one = |what: &str| LiveError::NotOne(path.to_owned(), what.to_owned());
        let main = File::open(path).map_err(disk)?;
        let metadata = main.metadata().map_err(disk)?;
        if !metadata.is_file() {
            return Err(not_one("is no file"));
        }
        if !lock::share(&main).map_err(disk)? {
            return Err(busy());
        }
        let wal = with_suffix(path, "-wal");
        if metadata.len() == 0 && !exists(&wal).map_err(disk)? {
            return Err(not_one("is empty: there is nothing to import; a new database needs no import"));
        }
        if is_hot(&main, &with_suffix(path, "-journal")).map_err(disk)? {
            return Err(LiveError::HotJournal(path.to_owned()));
        }
        if exists(&wal).map_err(disk)? {
            return Self::of_wal(path, main, &wal);
        }
        Self::of_main(path, main, None, None, Some(wal))
    }

    /// All of it is in the main file.
    fn of_main(
        path: &Path,
        main: File,
        index: Option<File>,
        size_in_pages: Option<u32>,
        wal: Option<PathBuf>,
    ) -> Result<Self, LiveError> {
        let disk = |error| LiveError::Disk(path.to_owned(), error);
        let not_one = |what: String| LiveError::NotOne(path.to_owned(), what);
        let length = main.metadata().map_err(disk)?.len();
        let mut header = [0; 100];
        match main.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(not_one("is no SQLite database".into()));
            }
            read => read.map_err(disk)?,
        }
        let Some((page_size, shaped)) = shape(&header, length) else {
            return Err(not_one("is no SQLite database (or an encrypted one, which can't be imported)".into()));
        };
        let size_in_pages = size_in_pages.unwrap_or(shaped);
        if size_in_pages == 0 || u64::from(size_in_pages) * u64::from(page_size.get()) > length {
            return Err(not_one(format!(
                "is damaged: it should have {size_in_pages} pages of {} bytes, and has {length} bytes",
                page_size.get()
            )));
        }
        // In WAL mode whoever writes makes a WAL first, which stays while the lock on the main file is held.
        let is_wal_mode = header.get(18) == Some(&2);
        let absent_wal = wal.filter(|_| is_wal_mode);
        let path = path.to_owned();
        Ok(Self { main, _index: index, wal: None, page_size, size_in_pages, path, absent_wal })
    }

    fn of_wal(path: &Path, main: File, wal: &Path) -> Result<Self, LiveError> {
        let disk = |error| LiveError::Disk(path.to_owned(), error);
        let busy = || LiveError::Busy(path.to_owned());
        let shm = with_suffix(path, "-shm");
        let attached = match File::open(&shm) {
            Ok(index) => Some(index).filter(|index| lock::is_attached(index).unwrap_or(false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LiveError::NoIndex(path.to_owned(), error)),
        };
        let Some(index) = attached else {
            return Self::of_left_wal(path, main, wal, &shm);
        };
        if !lock::attach(&index).map_err(disk)? {
            return Err(busy());
        }
        let Some(before) = Index::read(&index).map_err(disk)? else { return Err(busy()) };
        let end = before.end();
        let is_all_in_main = end.frames == before.backfilled;
        let marks = before.marks.iter().enumerate().skip(1).filter(|&(_, &mark)| mark <= end.frames);
        let mark = match marks.max_by_key(|&(_, &mark)| mark) {
            _ if is_all_in_main => 0,
            Some((number, _)) => number,
            None => return Err(busy()),
        };
        if !lock::mark(&index, mark).map_err(disk)? {
            return Err(busy());
        }
        // What was read of it before the lock counts only if it is still so.
        let after = Index::read(&index).map_err(disk)?;
        let is_same = |after: &Index| after.is_at(&before) && after.marks.get(mark) == before.marks.get(mark);
        if !after.as_ref().is_some_and(is_same) {
            return Err(busy());
        }
        if mark == 0 {
            return Self::of_main(path, main, Some(index), Some(before.size_in_pages()), None);
        }
        match WalReader::open_until(wal, end).map_err(disk)? {
            Some(reader) if reader.size_in_pages() == before.size_in_pages() => {
                Ok(Self::with_wal(path, main, Some(index), reader))
            }
            _ => Err(busy()),
        }
    }

    /// A WAL that nobody has open.
    fn of_left_wal(path: &Path, main: File, wal: &Path, shm: &Path) -> Result<Self, LiveError> {
        let disk = |error| LiveError::Disk(path.to_owned(), error);
        let index = open_index(&main, shm).map_err(|error| LiveError::NoIndex(path.to_owned(), error))?;
        if !lock::attach_alone(&index).map_err(disk)? {
            return Err(LiveError::Busy(path.to_owned()));
        }
        match WalReader::open(wal).map_err(disk)? {
            Some(reader) => Ok(Self::with_wal(path, main, Some(index), reader)),
            None => Self::of_main(path, main, Some(index), None, None),
        }
    }

    fn with_wal(path: &Path, main: File, index: Option<File>, wal: WalReader) -> Self {
        let (page_size, size_in_pages) = (wal.page_size(), wal.size_in_pages());
        let path = path.to_owned();
        Self { main, _index: index, wal: Some(wal), page_size, size_in_pages, path, absent_wal: None }
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn size_in_pages(&self) -> u32 {
        self.size_in_pages
    }

    /// Reads a page.
    pub(crate) fn read_page(&self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        if let Some(wal) = &self.wal
            && wal.read_page(page, content)?
        {
            return Ok(());
        }
        self.main.read_exact_at(content, self.page_size.offset_of(page))
    }

    /// Whether what was read since is of one commit. Asked when all is read.
    pub(crate) fn holds(&self) -> io::Result<bool> {
        // Another file in its place has another WAL.
        let (here, there) = (self.main.metadata()?, fs::metadata(&self.path)?);
        let is_in_place = (here.dev(), here.ino()) == (there.dev(), there.ino());
        let is_untouched = match &self.absent_wal {
            Some(wal) => !exists(wal)?,
            None => true,
        };
        Ok(is_in_place && is_untouched)
    }
}

/// Whether a journal is that of a transaction that a crash has cut off (`hasHotJournal` in `pager.c`). The order counts: who
/// ends a transaction ends its journal first.
fn is_hot(main: &File, journal: &Path) -> io::Result<bool> {
    if !exists(journal)? || lock::is_reserved(main)? {
        return Ok(false);
    }
    let mut first = [0];
    match File::open(journal).and_then(|journal| journal.read_exact_at(&mut first, 0)) {
        Ok(()) => Ok(first != [0]),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the index, or makes one as SQLite would: with the rights and the owner of the main file. It is never removed:
/// another process may be about to lock it.
fn open_index(main: &File, path: &Path) -> io::Result<File> {
    let options = || File::options().read(true).write(true).clone();
    match options().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let index = options().create(true).truncate(false).open(path)?;
    let owner = main.metadata()?;
    index.set_permissions(fs::Permissions::from_mode(owner.mode() & 0o777))?;
    if index.metadata()?.uid() != owner.uid() {
        // Only root makes a file that is another's.
        fchown(&index, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(index)
}

fn exists(path: &Path) -> io::Result<bool> {
    path.try_exists()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
