//! Access to the local file for the engine, through the SQLite that loaded us.

use std::ffi::{CStr, CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bottomless_engine::{Error, ErrorKind, Host, Locked, MainFile, Result};
use libsqlite3_sys as ffi;

use crate::api::PlainConnection;
use crate::real::RealFile;

/// How long another connection may keep a lock that opening needs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_PAUSE_US: c_int = 5_000;

/// The SQLite that loaded us, for one database.
#[derive(Debug)]
pub(crate) struct SqliteHost {
    path: CString,
    /// How long another connection may keep a lock.
    patience: Duration,
    real_vfs: *mut ffi::sqlite3_vfs,
}

// SAFETY: SQLite's VFSs are used by all threads of a process.
unsafe impl Send for SqliteHost {}

impl SqliteHost {
    /// # Safety
    /// `real_vfs` is the VFS below ours.
    pub(crate) unsafe fn new(path: &Path, real_vfs: *mut ffi::sqlite3_vfs) -> Self {
        Self { path: CString::new(path.as_os_str().as_bytes()).unwrap_or_default(), patience: LOCK_TIMEOUT, real_vfs }
    }

    /// As this, but that it waits for no lock.
    pub(crate) fn impatient(self) -> Self {
        Self { patience: Duration::ZERO, ..self }
    }

    fn connect(&self) -> Result<PlainConnection> {
        // SAFETY: the VFS is registered.
        let name = unsafe { (*self.real_vfs).zName };
        // SAFETY: its name lives as long as it.
        let name = unsafe { CStr::from_ptr(name) };
        let timeout = c_int::try_from(self.patience.as_millis()).unwrap_or(c_int::MAX);
        PlainConnection::open(&self.path, name, timeout).map_err(|error| self.error("can't be opened", error))
    }

    fn execute(&self, connection: &PlainConnection, sql: &CStr) -> Result<()> {
        connection.execute(sql).map_err(|error| self.error("SQLite can't lock or recover it", error))
    }

    fn error(&self, what: &str, (code, message): (c_int, String)) -> Error {
        let kind = match code & 0xff {
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => ErrorKind::Busy,
            ffi::SQLITE_FULL => ErrorKind::DiskFull,
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => ErrorKind::Conflict,
            _ => ErrorKind::Disk,
        };
        Error::new(kind, format!("{}: {what}: {message}", self.path.to_string_lossy()))
    }

    fn sleep(&self) {
        // SAFETY: the VFS is registered.
        if let Some(sleep) = unsafe { (*self.real_vfs).xSleep } {
            // SAFETY: the signature is that of the method, and the VFS is its own.
            unsafe { sleep(self.real_vfs, LOCK_PAUSE_US) };
        }
    }

    fn lock_exclusive(&self, file: RealFile) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            match try_lock_exclusive(file) {
                ffi::SQLITE_OK => return Ok(()),
                code if code & 0xff != ffi::SQLITE_BUSY || Instant::now() >= deadline => {
                    return Err(self.error("another connection uses it", (code, format!("no exclusive lock ({code})"))));
                }
                _ => self.sleep(),
            }
        }
    }
}

/// One attempt; SQLite's code for what became of it.
fn try_lock_exclusive(file: RealFile) -> c_int {
    let levels = [ffi::SQLITE_LOCK_SHARED, ffi::SQLITE_LOCK_RESERVED, ffi::SQLITE_LOCK_EXCLUSIVE];
    let refused = levels.into_iter().map(|level| file.lock(level)).find(|code| *code != ffi::SQLITE_OK);
    if refused.is_some() {
        file.unlock(ffi::SQLITE_LOCK_NONE);
    }
    refused.unwrap_or(ffi::SQLITE_OK)
}

impl Host for SqliteHost {
    fn with_write_lock(&self, work: Locked<'_>) -> Result<()> {
        let connection = self.connect()?;
        self.execute(&connection, c"BEGIN IMMEDIATE")?;
        // SAFETY: the connection outlives the work.
        let mut file = unsafe { RealFile::new(connection.file()) };
        let result = work(&mut file);
        let ended = self.execute(&connection, c"ROLLBACK");
        result.and(ended)
    }

    fn with_exclusive_lock(&self, work: Locked<'_>) -> Result<()> {
        // Without a statement, this connection neither locks nor recovers anything by itself.
        let connection = self.connect()?;
        // SAFETY: the connection outlives the work.
        let mut file = unsafe { RealFile::new(connection.file()) };
        self.lock_exclusive(file)?;
        let result = work(&mut file);
        file.unlock(ffi::SQLITE_LOCK_NONE);
        result
    }

    fn is_alone(&self) -> Result<bool> {
        let connection = self.connect()?;
        // SAFETY: the connection outlives the looking.
        let file = unsafe { RealFile::new(connection.file()) };
        match try_lock_exclusive(file) {
            ffi::SQLITE_OK => {
                file.unlock(ffi::SQLITE_LOCK_NONE);
                Ok(true)
            }
            code if code & 0xff == ffi::SQLITE_BUSY => Ok(false),
            code => Err(self.error("it can't be locked", (code, format!("no exclusive lock ({code})")))),
        }
    }

    fn read_main(&self, bytes: &mut [u8]) -> Result<()> {
        let connection = self.connect()?;
        // SAFETY: the connection outlives the reading.
        let mut file = unsafe { RealFile::new(connection.file()) };
        file.read_at(bytes, 0).map_err(|error| Error::disk(self.path.to_string_lossy(), &error))
    }

    fn checkpoint(&self) -> Result<()> {
        let connection = self.connect()?;
        self.execute(&connection, c"PRAGMA wal_checkpoint(TRUNCATE)")
    }
}
