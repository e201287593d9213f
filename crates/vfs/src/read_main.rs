//! The main file, opened once more for a thread of the engine's.

use std::ffi::c_int;
use std::io;
use std::path::{Path, PathBuf};

use bottomless_engine::{MainFile, OpenMain};
use libsqlite3_sys as ffi;

use crate::api::{self, FileName};
use crate::real::{RealFile, io_error};

/// Opens the main file through the VFS below ours, past connections and their locks.
///
/// That VFS keeps the descriptor of a file on which the process has a lock when one who has it open closes it: closing it
/// here drops no lock.
#[derive(Debug)]
pub(crate) struct ReadMain {
    path: PathBuf,
    real_vfs: *mut ffi::sqlite3_vfs,
}

// SAFETY: `new` makes none where SQLite's VFS can't be used by all threads of the process.
unsafe impl Send for ReadMain {}
// SAFETY: as above.
unsafe impl Sync for ReadMain {}

impl ReadMain {
    /// None if this SQLite serves one thread only.
    ///
    /// # Safety
    /// `real_vfs` is the VFS below ours.
    pub(crate) unsafe fn new(path: &Path, real_vfs: *mut ffi::sqlite3_vfs) -> Option<Self> {
        api::serves_threads().then(|| Self { path: path.to_owned(), real_vfs })
    }

    fn open_file(&self) -> Result<OpenFile, c_int> {
        let name = FileName::new(&self.path).ok_or(ffi::SQLITE_NOMEM)?;
        // SAFETY: a registered VFS lives as long as the process.
        let vfs = unsafe { &*self.real_vfs };
        let size = usize::try_from(vfs.szOsFile).unwrap_or_default().max(size_of::<ffi::sqlite3_file>());
        let mut memory = vec![0_u64; size.div_ceil(8)];
        let file = memory.as_mut_ptr().cast::<ffi::sqlite3_file>();
        let open = vfs.xOpen.ok_or(ffi::SQLITE_CANTOPEN)?;
        let flags = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB;
        let mut opened: c_int = 0;
        // SAFETY: the memory has the size that the VFS asks for, and the name is one of SQLite's; both live as long as the
        // file.
        let code = unsafe { open(self.real_vfs, name.as_ptr(), file, flags, &raw mut opened) };
        let file = OpenFile { file, _memory: memory, _name: name };
        if code == ffi::SQLITE_OK { Ok(file) } else { Err(code) }
    }
}

impl OpenMain for ReadMain {
    fn open(&self) -> io::Result<Box<dyn MainFile + Send>> {
        Ok(Box::new(self.open_file().map_err(io_error)?))
    }
}

/// A file that is closed when it is dropped.
struct OpenFile {
    /// In the memory below.
    file: *mut ffi::sqlite3_file,
    _memory: Vec<u64>,
    _name: FileName,
}

// SAFETY: one thread at a time uses it, which the VFS allows; see `ReadMain`.
unsafe impl Send for OpenFile {}

impl OpenFile {
    fn real(&self) -> RealFile {
        // SAFETY: it is open as long as this value lives.
        unsafe { RealFile::new(self.file) }
    }
}

impl MainFile for OpenFile {
    fn size(&mut self) -> io::Result<u64> {
        self.real().size()
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.real().read_at(bytes, offset)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: the memory is a file's; the VFS sets the methods, also after a failure, if it is to be closed.
        let methods = unsafe { (*self.file).pMethods };
        if methods.is_null() {
            return;
        }
        // SAFETY: the methods of an open file live as long as its VFS.
        if let Some(close) = unsafe { (*methods).xClose } {
            // SAFETY: it is open, and nobody uses it any more.
            unsafe { close(self.file) };
        }
    }
}
