//! The local state: one file beside the database, `test.db-bottomless`, shared by all processes of the machine.
//!
//! It is a cache: the position, the intent of a commit that is under way, and a checksum for each page, so that the
//! database checksum after a commit is known without reading the database. Losing it costs time, never data.
//!
//! Read and written with positioned reads and writes only, so that processes share it through the page cache and a
//! truncated file is an error rather than a signal. The record is written under SQLite's write lock.
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 512 | the [`Record`] |
//! | 512 | 512 | the [`Mark`] |
//! | 1024 | 512 | the [`PassNote`] |
//! | 1536 | 512 | the number of the machine ([`machine_number`]) |
//! | 4096 | 8 a page | the page checksums; 0 for a page that is not there |

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod machine;
mod mark;
mod pages;
mod pass;
mod peek;
mod record;
mod turn;

pub(crate) use machine::machine_number;
pub(crate) use mark::{Mark, Stamp};
pub(crate) use pages::PageChecksums;
pub(crate) use pass::{Glance, PassNote};
pub(crate) use peek::Peek;
pub use record::WalEnd;
pub(crate) use record::{Intent, Record};
pub(crate) use turn::Turn;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bottomless_ltx::RunningChecksum;
use rustix::fs::{FlockOperation, flock};

/// What is added to the database's file name.
pub(crate) const SUFFIX: &str = "-bottomless";

const BLOCK: usize = 512;
const MARK_OFFSET: u64 = 512;
const PAGES_OFFSET: u64 = 4096;

/// A block with its own checksum in its last eight bytes.
type Block = [u8; BLOCK];

fn seal(block: &mut Block) {
    let (content, checksum) = block.split_at_mut(BLOCK - 8);
    checksum.copy_from_slice(&RunningChecksum::of(content).finish().get().to_le_bytes());
}

fn is_sealed(block: &Block) -> bool {
    let (content, checksum) = block.split_at(BLOCK - 8);
    checksum == RunningChecksum::of(content).finish().get().to_le_bytes()
}

/// The open local state of one database.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: File,
    path: PathBuf,
    /// Which file it is. A copy of it, made with the folder, has another, and does not count.
    inode: u64,
}

impl StateFile {
    /// Opens or creates the state beside the database at `database`.
    pub(crate) fn open(database: &Path) -> io::Result<Self> {
        let mut name = database.as_os_str().to_owned();
        name.push(SUFFIX);
        let path = PathBuf::from(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, path, inode })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the state for this process alone, if no other process has it open.
    pub(crate) fn try_lock_exclusive(&self) -> io::Result<bool> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that this process has the database open; waits for a process that has the state for itself.
    pub(crate) fn lock_shared(&self) -> io::Result<()> {
        loop {
            match flock(&self.file, FlockOperation::LockShared) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Says that this process does not have the database open any more.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        Ok(flock(&self.file, FlockOperation::Unlock)?)
    }

    /// The record, if there is a valid one in this very file.
    pub(crate) fn read(&self) -> io::Result<Option<Record>> {
        // Another process may be writing it just now.
        const TRIES: usize = 8;
        let mut block = None;
        for _ in 0..TRIES {
            block = self.read_block(0)?;
            if block.is_some() {
                break;
            }
        }
        Ok(block.and_then(|block| Record::decode(&block)).filter(|record| record.inode == self.inode))
    }

    /// Replaces the record, in one write.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let mut block = record.encode(self.inode);
        seal(&mut block);
        self.file.write_all_at(&block, 0)
    }

    pub(crate) fn read_mark(&self) -> io::Result<Option<Mark>> {
        Ok(self.read_block(MARK_OFFSET)?.map(|block| Mark::decode(&block)))
    }

    pub(crate) fn write_mark(&self, mark: &Mark) -> io::Result<()> {
        let mut block = mark.encode();
        seal(&mut block);
        self.file.write_all_at(&block, MARK_OFFSET)
    }

    pub(crate) fn pages(&self) -> PageChecksums<'_> {
        PageChecksums::new(&self.file)
    }

    /// Makes all of it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_block(&self, offset: u64) -> io::Result<Option<Block>> {
        let mut block = [0; BLOCK];
        match self.file.read_exact_at(&mut block, offset) {
            Ok(()) => Ok(Some(block).filter(is_sealed)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use bottomless_ltx::{Checksum, PageSize, Position, Txid, WriterId};

    use super::*;

    fn record() -> Record {
        Record {
            inode: 0,
            identity: 7,
            main_inode: 8,
            position: Position { txid: Txid::new(12), checksum: Checksum::from_crc(99) },
            page_size: PageSize::new(4096).ok(),
            size_in_pages: 3,
            change_counter: 10,
            e_tag: Some("abc".into()),
            proven: true,
            owes_all: false,
            foreign: true,
            writing: true,
            unjournaled: true,
            wal: Some(WalEnd { salts: [3, 4], frames: 5 }),
            intent: Some(Intent {
                txid: Txid::new(13),
                writer: WriterId(5),
                file_checksum: Checksum::from_crc(6),
                after: Checksum::from_crc(7),
                refused: true,
            }),
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFile::open(&dir.path().join("test.db")).unwrap();
        assert_eq!(state.read().unwrap(), None);
        state.write(&record()).unwrap();
        let read = state.read().unwrap().unwrap();
        assert_eq!(Record { inode: 0, ..read }, record());
    }

    #[test]
    fn any_flipped_bit_makes_it_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFile::open(&dir.path().join("test.db")).unwrap();
        state.write(&record()).unwrap();
        let good = std::fs::read(state.path()).unwrap();
        for byte in 0..BLOCK {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            std::fs::write(state.path(), &bad).unwrap();
            assert_eq!(state.read().unwrap(), None, "byte {byte}");
        }
    }

    #[test]
    fn a_copy_of_the_file_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFile::open(&dir.path().join("a.db")).unwrap();
        state.write(&record()).unwrap();
        std::fs::copy(state.path(), dir.path().join("b.db-bottomless")).unwrap();
        let copy = StateFile::open(&dir.path().join("b.db")).unwrap();
        assert_eq!(copy.read().unwrap(), None);
    }

    #[test]
    fn only_one_process_has_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let (a, b) = (StateFile::open(&path).unwrap(), StateFile::open(&path).unwrap());
        assert!(a.try_lock_exclusive().unwrap());
        assert!(!b.try_lock_exclusive().unwrap());
        a.lock_shared().unwrap();
        b.lock_shared().unwrap();
        assert!(!a.try_lock_exclusive().unwrap());
    }
}
