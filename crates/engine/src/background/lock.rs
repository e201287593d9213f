//! Which process of the machine compacts a database: the one that has the lock, for the time of one pass.
//!
//! A POSIX record lock: it goes with the process that has it, and a child of a `fork()` does not inherit it. It goes as well
//! when the process closes any descriptor of the file, so nothing else of it ever opens the file; and within a process it
//! keeps nobody apart, so the thread works on one path once at a time. The file is there no longer than a pass takes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::database::with_suffix;

/// What is added to the database's file name.
const SUFFIX: &str = "-bottomless-compact";

/// The lock; ends when it is dropped, and when the process dies.
#[derive(Debug)]
pub(super) struct CompactionLock {
    /// Holds the lock.
    _file: File,
    path: PathBuf,
}

impl CompactionLock {
    /// None if another process has it.
    pub(super) fn try_take(database: &Path) -> io::Result<Option<Self>> {
        let path = with_suffix(database, SUFFIX);
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The one before has removed its file: a lock on that is one that nobody looks at.
            match std::fs::metadata(&path) {
                Ok(found) if found.ino() == file.metadata()?.ino() => return Ok(Some(Self { _file: file, path })),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for CompactionLock {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed. One that stays is only a file.
        let _ = std::fs::remove_file(&self.path);
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
