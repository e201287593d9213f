//! The beginning of a transaction: there a connection that is behind another writer catches up, if it is alone.

use std::ffi::c_int;

use libsqlite3_sys as ffi;

use super::{Connection, Failed};
use crate::lone::Lone;

/// Length and offset of the read by which SQLite tells, with a lock on the main file taken anew, whether the pages that
/// it has kept are those of the file (`sqlite3PagerSharedLock`).
pub(crate) const VERSION_CHECK: (c_int, i64) = (16, 24);

impl Connection {
    /// SQLite is about to lock the main file, and has read nothing.
    pub(crate) fn begin_transaction(&mut self) -> Failed {
        if self.level == ffi::SQLITE_LOCK_NONE { self.catch_up(false) } else { Ok(()) }
    }

    /// SQLite is about to lock a snapshot in the WAL. Then it looks whether the WAL index is as it was before.
    pub(crate) fn begin_wal_transaction(&mut self) -> Failed {
        // A writer that begins the WAL anew takes another snapshot in the middle.
        if self.shm_locks == 0 { self.catch_up(true) } else { Ok(()) }
    }

    fn catch_up(&mut self, wal: bool) -> Failed {
        if !self.database.is_to_catch_up() || !self.database.is_of_this_process() || self.main.has_moved() {
            return Ok(());
        }
        let mut file = Lone { main: self.main, wal };
        let result = self.database.catch_up_alone(&self.host, &mut file);
        // In a WAL the index tells SQLite; outside of it another writer may have left the change counter as it was.
        self.stale |= !wal;
        result.map_err(|_| ffi::SQLITE_IOERR)
    }

    /// SQLite has read what tells it whether its pages are those of the file. If they are not, the answer must be one
    /// that it can't know: the inverse has a size that no database has.
    pub(crate) fn checked_version(&mut self, answer: &mut [u8]) {
        if std::mem::take(&mut self.stale) {
            answer.iter_mut().for_each(|byte| *byte = !*byte);
        }
    }

    /// SQLite has taken locks in the WAL index, or given them up.
    pub(crate) fn locked_shm(&mut self, offset: c_int, count: c_int, taken: bool) {
        let mask = (offset..offset + count).fold(0, |mask, lock| mask | 1 << lock);
        if taken { self.shm_locks |= mask } else { self.shm_locks &= !mask }
    }
}
