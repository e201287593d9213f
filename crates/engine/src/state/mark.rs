//! The mark: what the local files looked like when we last wrote them.
//!
//! A program without the extension changes size, time or WAL; then every page is compared. A mark that does not fit
//! costs that comparison and nothing else, so it is written without a lock.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::record::take;
use super::{BLOCK, Block};

fn nanoseconds(seconds: i64, more: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(more)
}

/// Size and times of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    size: u64,
    modified_ns: i64,
    /// Of its content or of anything else about it: no program can set this one back.
    changed_ns: i64,
    inode: u64,
}

impl FileStamp {
    /// None for a file that does not exist or is empty.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from(&metadata)).filter(|stamp| stamp.size > 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

/// The main file and its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    main: Option<FileStamp>,
    wal: Option<FileStamp>,
}

impl Stamp {
    pub(crate) fn has_wal(&self) -> bool {
        self.wal.is_some()
    }

    pub(crate) fn of(main: &Path, wal: &Path) -> io::Result<Self> {
        Ok(Self { main: FileStamp::of(main)?, wal: FileStamp::of(wal)? })
    }
}

/// What the local files looked like, in which boot, and whether they were left in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) boot_id: [u8; 16],
    /// Nothing was written since the files were made durable.
    pub(crate) clean: bool,
    /// None: something changed that was not ours.
    pub(crate) stamp: Option<Stamp>,
}

impl Mark {
    pub(super) fn encode(&self) -> Block {
        let mut block = [0; BLOCK];
        block[..16].copy_from_slice(&self.boot_id);
        block[16] = u8::from(self.clean);
        block[17] = u8::from(self.stamp.is_some());
        let stamp = self.stamp.unwrap_or(Stamp { main: None, wal: None });
        for (file, at) in [(stamp.main, 24), (stamp.wal, 64)] {
            let Some(file) = file else { continue };
            block[at] = 1;
            block[at + 8..at + 16].copy_from_slice(&file.size.to_le_bytes());
            block[at + 16..at + 24].copy_from_slice(&file.modified_ns.to_le_bytes());
            block[at + 24..at + 32].copy_from_slice(&file.changed_ns.to_le_bytes());
            block[at + 32..at + 40].copy_from_slice(&file.inode.to_le_bytes());
        }
        block
    }

    pub(super) fn decode(block: &Block) -> Self {
        let file = |at: usize| {
            let mut rest = &block[at + 8..];
            let size = u64::from_le_bytes(take(&mut rest)?);
            let modified_ns = i64::from_le_bytes(take(&mut rest)?);
            let changed_ns = i64::from_le_bytes(take(&mut rest)?);
            let inode = u64::from_le_bytes(take(&mut rest)?);
            Some(FileStamp { size, modified_ns, changed_ns, inode }).filter(|_| block[at] == 1)
        };
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(&block[..16]);
        let stamp = Stamp { main: file(24), wal: file(64) };
        Self { boot_id, clean: block[16] == 1, stamp: Some(stamp).filter(|_| block[17] == 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back() {
        let file = |size| Some(FileStamp { size, modified_ns: -5, changed_ns: -4, inode: 9 });
        for stamp in [None, Some(Stamp { main: file(1), wal: None }), Some(Stamp { main: file(2), wal: file(3) })] {
            let mark = Mark { boot_id: [3; 16], clean: stamp.is_none(), stamp };
            assert_eq!(Mark::decode(&mark.encode()), mark);
        }
    }
}
