//! The main file of a connection that catches up with the bucket.

use std::ffi::c_int;
use std::io;

use bottomless_engine::{LoneFile, MainFile};
use libsqlite3_sys as ffi;

use crate::methods::WRITE_LOCK;
use crate::real::{RealFile, io_error};

/// The main file at the beginning of a transaction.
pub(crate) struct Lone {
    pub(crate) main: RealFile,
    /// SQLite has a WAL open, so that it keeps a lock on the main file.
    pub(crate) wal: bool,
}

fn checked(code: c_int) -> io::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(io_error(code)) }
}

impl MainFile for Lone {
    fn size(&mut self) -> io::Result<u64> {
        self.main.size()
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.main.read_at(bytes, offset)
    }
}

impl LoneFile for Lone {
    fn is_wal(&self) -> bool {
        self.wal
    }

    fn lock(&mut self) -> io::Result<bool> {
        let code = if self.wal {
            self.main.shm_lock(WRITE_LOCK, 1, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE)
        } else {
            let levels = [ffi::SQLITE_LOCK_SHARED, ffi::SQLITE_LOCK_RESERVED, ffi::SQLITE_LOCK_EXCLUSIVE];
            let refused = levels.into_iter().map(|level| self.main.lock(level)).find(|code| *code != ffi::SQLITE_OK);
            if refused.is_some() {
                self.unlock();
            }
            refused.unwrap_or(ffi::SQLITE_OK)
        };
        match code & 0xff {
            ffi::SQLITE_BUSY => Ok(false),
            _ => checked(code).map(|()| true),
        }
    }

    fn unlock(&mut self) {
        if self.wal {
            self.main.shm_lock(WRITE_LOCK, 1, ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE);
        } else {
            self.main.unlock(ffi::SQLITE_LOCK_NONE);
        }
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        checked(self.main.write(bytes, offset))
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        checked(self.main.truncate(size))
    }

    fn sync(&mut self) -> io::Result<()> {
        checked(self.main.sync(ffi::SQLITE_SYNC_NORMAL))
    }

    fn forget_wal_index(&mut self) -> io::Result<()> {
        checked(self.main.forget_wal_index())
    }
}
