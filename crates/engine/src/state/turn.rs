//! Whose turn it is to open a database: one process of the machine at a time.
//!
//! The lock of the state file says who has the database open. Whoever opens it must find out whether somebody has, and
//! those who only wait must not look as if they had: so they wait here, for a file of its own that is there no longer
//! than somebody opens.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// What is added to the database's file name.
const SUFFIX: &str = "-bottomless-open";

/// The turn; ends when it is dropped, and when the process dies.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Holds the lock.
    _file: File,
    path: PathBuf,
}

impl Turn {
    /// Takes the turn if it is nobody's.
    pub(crate) fn try_take(database: &Path) -> io::Result<Option<Self>> {
        Self::take_by(database, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until it is nobody's.
    pub(crate) fn take(database: &Path) -> io::Result<Self> {
        loop {
            if let Some(turn) = Self::take_by(database, FlockOperation::LockExclusive)? {
                return Ok(turn);
            }
        }
    }

    fn take_by(database: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        let mut name = database.as_os_str().to_owned();
        name.push(SUFFIX);
        let path = PathBuf::from(name);
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The one before has removed its file: who waited for that has a lock that nobody looks at.
            match std::fs::metadata(&path) {
                Ok(found) if found.ino() == file.metadata()?.ino() => return Ok(Some(Self { _file: file, path })),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed. One that stays is only a file.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        let turn = Turn::try_take(&database).unwrap().unwrap();
        assert!(Turn::try_take(&database).unwrap().is_none());
        drop(turn);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let turn = Turn::take(&database).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
