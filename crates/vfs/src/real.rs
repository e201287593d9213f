//! A file of the default VFS.

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use bottomless_engine::{MainFile, WalEnd};
use libsqlite3_sys as ffi;

/// An open file of the default VFS, which someone else closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealFile(*mut ffi::sqlite3_file);

// SAFETY: SQLite serialises the use of a connection's files; the pointer itself is only an address.
unsafe impl Send for RealFile {}

/// Calls a method of the file; a file without it answers `SQLITE_IOERR`.
macro_rules! method {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: the file is open, so that its methods are set, and they live as long as the VFS.
        let method = unsafe { (*(*$self.0).pMethods).$method };
        match method {
            // SAFETY: the arguments are those of the method, and the file is open.
            Some(method) => unsafe { method($self.0, $($argument),*) },
            None => ffi::SQLITE_IOERR,
        }
    }};
}

impl RealFile {
    /// # Safety
    /// `file` is open, and stays open and at its place as long as this value is used.
    pub(crate) unsafe fn new(file: *mut ffi::sqlite3_file) -> Self {
        Self(file)
    }

    pub(crate) fn as_ptr(self) -> *mut ffi::sqlite3_file {
        self.0
    }

    /// Reads; what is behind the end of the file becomes zeros, and the answer `SQLITE_IOERR_SHORT_READ`.
    pub(crate) fn read(self, bytes: &mut [u8], offset: u64) -> c_int {
        let (Ok(length), Ok(offset)) = (c_int::try_from(bytes.len()), i64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_READ;
        };
        method!(self.xRead(bytes.as_mut_ptr().cast::<c_void>(), length, offset))
    }

    pub(crate) fn write(self, bytes: &[u8], offset: u64) -> c_int {
        let (Ok(length), Ok(offset)) = (c_int::try_from(bytes.len()), i64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        method!(self.xWrite(bytes.as_ptr().cast::<c_void>(), length, offset))
    }

    pub(crate) fn truncate(self, size: u64) -> c_int {
        match i64::try_from(size) {
            Ok(size) => method!(self.xTruncate(size)),
            Err(_) => ffi::SQLITE_IOERR_TRUNCATE,
        }
    }

    pub(crate) fn sync(self, flags: c_int) -> c_int {
        method!(self.xSync(flags))
    }

    pub(crate) fn file_size(self) -> Result<u64, c_int> {
        let mut size = 0;
        match method!(self.xFileSize(&raw mut size)) {
            ffi::SQLITE_OK => u64::try_from(size).map_err(|_| ffi::SQLITE_IOERR_FSTAT),
            code => Err(code),
        }
    }

    pub(crate) fn lock(self, level: c_int) -> c_int {
        method!(self.xLock(level))
    }

    pub(crate) fn unlock(self, level: c_int) -> c_int {
        method!(self.xUnlock(level))
    }

    /// True if the file is no longer at its path.
    pub(crate) fn has_moved(self) -> bool {
        let mut moved: c_int = 0;
        let code = method!(self.xFileControl(ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast::<c_void>()));
        code == ffi::SQLITE_OK && moved != 0
    }

    /// Takes or gives up a lock of the WAL index.
    pub(crate) fn shm_lock(self, offset: c_int, count: c_int, flags: c_int) -> c_int {
        method!(self.xShmLock(offset, count, flags))
    }

    /// Makes the WAL index invalid, as after a crash: whoever reads it next reads the WAL itself, and recovers. Call it
    /// with the WAL's write lock.
    pub(crate) fn forget_wal_index(self) -> c_int {
        /// Two copies of the header, of 48 bytes each ("WAL-Index Format"); a reader wants both to be whole.
        const WORDS: usize = 2 * 48 / 4;
        let mut region: *mut c_void = ptr::null_mut();
        let code = method!(self.xShmMap(0, Self::REGION, 0, &raw mut region));
        if code != ffi::SQLITE_OK || region.is_null() {
            return ffi::SQLITE_IOERR_SHMMAP;
        }
        for index in 0..WORDS {
            // SAFETY: as in `wal_end`.
            let field = unsafe { region.cast::<u32>().add(index) };
            // SAFETY: as in `wal_end`. Only who has the write lock writes here.
            unsafe { ptr::write_volatile(field, 0) };
        }
        fence(Ordering::SeqCst);
        ffi::SQLITE_OK
    }

    /// Bytes of a region of the WAL index.
    const REGION: c_int = 32 * 1024;

    /// Where the WAL ends, from the header of the WAL index ("WAL-Index Format" in the SQLite documentation: `mxFrame`
    /// at offset 16, in the byte order of the machine; `aSalt` at 32). None if this connection has no shared memory.
    pub(crate) fn wal_end(self) -> Option<WalEnd> {
        const MX_FRAME: usize = 16 / 4;
        const SALTS: [usize; 2] = [32 / 4, 36 / 4];
        let mut region: *mut c_void = ptr::null_mut();
        let code = method!(self.xShmMap(0, Self::REGION, 0, &raw mut region));
        if code != ffi::SQLITE_OK || region.is_null() {
            return None;
        }
        let field = |index: usize| {
            // SAFETY: the region is mapped as long as the file is open, has 32 KiB, and is aligned to a page.
            let field = unsafe { region.cast::<u32>().add(index) };
            // SAFETY: as above. Volatile, since other processes write to this memory; we hold the write lock now.
            unsafe { ptr::read_volatile(field) }
        };
        Some(WalEnd { salts: SALTS.map(field), frames: field(MX_FRAME) })
    }
}

/// A code of SQLite's as an error of the operating system's kind.
pub(crate) fn io_error(code: c_int) -> io::Error {
    match code & 0xff {
        ffi::SQLITE_FULL => io::ErrorKind::StorageFull.into(),
        ffi::SQLITE_NOMEM => io::ErrorKind::OutOfMemory.into(),
        _ => io::Error::other(format!("SQLite's VFS answered {code}")),
    }
}

impl MainFile for RealFile {
    fn size(&mut self) -> io::Result<u64> {
        self.file_size().map_err(io_error)
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read(bytes, offset) {
            ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => Ok(()),
            code => Err(io_error(code)),
        }
    }
}
