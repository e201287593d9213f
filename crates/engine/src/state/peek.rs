//! What others than the database itself may know of its local state while it changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bottomless_ltx::{Checksum, PageNumber};

use super::{PageChecksums, Record, SUFFIX, StateFile};
use crate::database::with_suffix;

/// The state file, open for reading and without its lock.
///
/// Opened for it: whoever keeps the database's own open says that the database is.
#[derive(Debug)]
pub(crate) struct Peek(StateFile);

impl Peek {
    /// None if there is no state.
    pub(crate) fn open(database: &Path) -> io::Result<Option<Self>> {
        let path = with_suffix(database, SUFFIX);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let inode = file.metadata()?.ino();
        Ok(Some(Self(StateFile { file, path, inode })))
    }

    /// The record of that bucket and database, as it is now.
    pub(crate) fn record(&self, identity: u64) -> io::Result<Option<Record>> {
        Ok(self.0.read()?.filter(|record| record.identity == identity))
    }

    /// The checksum of a page as it is now; None for one that is not there.
    pub(crate) fn checksum(&self, page: PageNumber) -> io::Result<Option<Checksum>> {
        PageChecksums::of_one(&self.0.file, page)
    }
}
