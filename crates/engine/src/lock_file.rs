//! A lock on a file that is there no longer than somebody has it: it ends when it is dropped, and when the process dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A lock on the file at a path, which is removed with it.
#[derive(Debug)]
pub(crate) struct LockFile {
    /// Holds the lock.
    _file: File,
    path: PathBuf,
}

impl LockFile {
    /// Takes the lock in the way of `lock`; `None` if that says [`Errno::WOULDBLOCK`]: somebody else has it.
    pub(crate) fn take(path: &Path, lock: impl Fn(&File) -> rustix::io::Result<()>) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            match lock(&file) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // The one before has removed its file: who waited for that has a lock that nobody looks at.
            match std::fs::metadata(path) {
                Ok(found) if found.ino() == file.metadata()?.ino() => {
                    return Ok(Some(Self { _file: file, path: path.to_owned() }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed. One that stays is only a file.
        let _ = std::fs::remove_file(&self.path);
    }
}
