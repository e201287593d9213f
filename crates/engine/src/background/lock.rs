//! Which process of the machine compacts a database: the one that has the lock, for the time of one pass.
//!
//! A POSIX record lock: it goes with the process that has it, and a child of a `fork()` does not inherit it. It goes as well
//! when the process closes any descriptor of the file, so nothing else of it ever opens the file; and within a process it
//! keeps nobody apart, so the thread works on one path once at a time. The file is there no longer than a pass takes.

use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::database::with_suffix;
use crate::lock_file::LockFile;

/// What is added to the database's file name.
const SUFFIX: &str = "-bottomless-compact";

/// The lock; ends when it is dropped, and when the process dies.
#[derive(Debug)]
pub(super) struct CompactionLock {
    _lock: LockFile,
}

impl CompactionLock {
    /// None if another process has it.
    pub(super) fn try_take(database: &Path) -> io::Result<Option<Self>> {
        let taken = LockFile::take(&with_suffix(database, SUFFIX), |file| {
            // Record locks have two words for it.
            let busy = |error| if error == Errno::ACCESS { Errno::WOULDBLOCK } else { error };
            fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).map_err(busy)
        })?;
        Ok(taken.map(|lock| Self { _lock: lock }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_taken_again_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("test.db");
        for _ in 0..2 {
            let lock = CompactionLock::try_take(&database).unwrap();
            assert!(lock.is_some());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
