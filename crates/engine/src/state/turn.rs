//! Whose turn it is to open a database: one process of the machine at a time.
//!
//! The lock of the state file says who has the database open. Whoever opens it must find out whether somebody has, and
//! those who only wait must not look as if they had: so they wait here, for a file of its own that is there no longer
//! than somebody opens.

use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::database::with_suffix;
use crate::lock_file::LockFile;

/// What is added to the database's file name.
const SUFFIX: &str = "-bottomless-open";

/// The turn; ends when it is dropped, and when the process dies.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: LockFile,
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
        let taken = LockFile::take(&with_suffix(database, SUFFIX), |file| flock(file, operation))?;
        Ok(taken.map(|lock| Self { _lock: lock }))
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
