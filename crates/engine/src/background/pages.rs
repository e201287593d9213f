//! The pages that this machine has, for its snapshots.
//!
//! They are read while programs write, and without any lock of SQLite's: neither does a writer wait for a snapshot, nor
//! does a checkpoint. So what is read counts only by its checksum, which the local state has of every page as the last
//! transaction left it that is in the bucket. A page that was just changed, or is torn, is downloaded.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use bottomless_history::LocalPages;
use bottomless_ltx::{Checksum, PageNumber, PageSize, Position};

use crate::local::{MainFile, OpenMain};
use crate::state::{Peek, Record};
use crate::wal::WalReader;

/// The longest WAL that is looked through. What is in a longer one is downloaded.
const LONGEST_WAL: u64 = 256 << 20;

/// See the module. The files are open from the first question on.
pub(super) struct MachinePages {
    database: PathBuf,
    identity: u64,
    main: Arc<dyn OpenMain>,
    files: Mutex<Option<Files>>,
}

impl fmt::Debug for MachinePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachinePages").field("database", &self.database).finish_non_exhaustive()
    }
}

struct Files {
    state: Peek,
    main: Box<dyn MainFile + Send>,
    page_size: PageSize,
    wal: Wal,
}

/// Pages that no checkpoint has copied yet. The WAL itself is no file that SQLite locks.
enum Wal {
    Unread(PathBuf),
    Read(Option<WalReader>),
}

impl MachinePages {
    pub(super) fn new(database: PathBuf, identity: u64, main: Arc<dyn OpenMain>) -> Self {
        Self { database, identity, main, files: Mutex::default() }
    }

    fn open(&self) -> io::Result<Option<(Files, Position)>> {
        let Some(state) = Peek::open(&self.database)? else { return Ok(None) };
        // With another's content behind the position, the pages are of no transaction that is in the bucket. An intent does
        // no harm: it takes effect on the pages when its transaction is there.
        let record = state.record(self.identity)?.filter(|record| !record.owes_all);
        let Some(Record { position, page_size: Some(page_size), .. }) = record else { return Ok(None) };
        let main = self.main.open()?;
        let wal = Wal::Unread(crate::database::with_suffix(&self.database, "-wal"));
        Ok(Some((Files { state, main, page_size, wal }, position)))
    }
}

impl LocalPages for MachinePages {
    fn position(&self) -> Option<Position> {
        let opened = self.open().unwrap_or_else(|error| {
            tracing::debug!(database = %self.database.display(), "{error}; the pages of a snapshot are downloaded");
            None
        });
        let (files, position) = opened.unzip();
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        position
    }

    fn read(&self, page: PageNumber, content: &mut Vec<u8>) -> bool {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.as_mut().is_some_and(|files| files.read(page, content).unwrap_or(false))
    }
}

impl Files {
    fn read(&mut self, page: PageNumber, content: &mut Vec<u8>) -> io::Result<bool> {
        let start = content.len();
        content.resize(start + self.page_size.bytes(), 0);
        let content = &mut content[start..];
        self.main.read_at(content, self.page_size.offset_of(page))?;
        if self.is_right(page, content)? {
            return Ok(true);
        }
        Ok(self.read_wal(page, content)? && self.is_right(page, content)?)
    }

    fn is_right(&self, page: PageNumber, content: &[u8]) -> io::Result<bool> {
        Ok(self.state.checksum(page)? == Some(Checksum::of_page(page, content)))
    }

    fn read_wal(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<bool> {
        if let Wal::Unread(path) = &self.wal {
            let is_short = std::fs::metadata(path).is_ok_and(|wal| wal.len() <= LONGEST_WAL);
            let wal = if is_short { WalReader::open(path).unwrap_or_default() } else { None };
            self.wal = Wal::Read(wal.filter(|wal| wal.page_size() == self.page_size));
        }
        match &self.wal {
            Wal::Read(Some(wal)) => wal.read_page(page, content),
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use bottomless_ltx::Txid;

    use super::*;
    use crate::state::StateFile;
    use crate::wal::WalWriter;

    #[derive(Debug)]
    struct Content(Vec<u8>);

    impl OpenMain for Content {
        fn open(&self) -> io::Result<Box<dyn MainFile + Send>> {
            Ok(Box::new(Self(self.0.clone())))
        }
    }

    impl MainFile for Content {
        fn size(&mut self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            bytes.copy_from_slice(&self.0[usize::try_from(offset).unwrap()..][..bytes.len()]);
            Ok(())
        }
    }

    const IDENTITY: u64 = 7;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    /// Four pages, of which the state knows the second as one of the WAL and the third as one of nowhere.
    fn machine(folder: &std::path::Path, change: impl FnOnce(&mut Record)) -> MachinePages {
        let database = folder.join("test.db");
        let page_size = PageSize::new(512).unwrap();
        let state = StateFile::open(&database).unwrap();
        let position = Position { txid: Txid::new(5), checksum: Checksum::from_crc(9) };
        let mut record = Record { position, page_size: Some(page_size), ..Record::fresh(IDENTITY) };
        change(&mut record);
        state.write(&record).unwrap();
        let sum = |number: u32, byte| (page(number), Checksum::of_page(page(number), &[byte; 512]));
        state.pages().update(&[sum(1, 1), sum(2, 12), sum(3, 99), sum(4, 4)]).unwrap();
        let wal = folder.join("test.db-wal");
        File::create(&wal).unwrap();
        let mut wal = WalWriter::begin(&wal, page_size, [3; 8]).unwrap();
        // The state has not heard of the last one.
        for (number, byte, size) in [(2, 12, 0), (3, 13, 0), (4, 14, 4)] {
            wal.frame(page(number), size, &[byte; 512]).unwrap();
        }
        wal.finish().unwrap();
        let main: Vec<u8> = [1, 2, 3, 4].into_iter().flat_map(|byte| [byte; 512]).collect();
        MachinePages::new(database, IDENTITY, Arc::new(Content(main)))
    }

    fn read(pages: &MachinePages, number: u32) -> Option<u8> {
        let mut content = Vec::new();
        pages.read(page(number), &mut content).then(|| {
            assert_eq!(content, [content[0]; 512]);
            content[0]
        })
    }

    #[test]
    fn what_the_state_knows_is_found_in_the_file_or_in_the_wal() {
        let folder = tempfile::tempdir().unwrap();
        let pages = machine(folder.path(), |_| ());
        assert_eq!(read(&pages, 1), None, "nothing is open before the position was asked for");
        assert_eq!(pages.position().unwrap().txid, Txid::new(5));
        assert_eq!([1, 2, 3, 4].map(|number| read(&pages, number)), [Some(1), Some(12), None, Some(4)]);
        // What the state says is asked for each page anew.
        let state = StateFile::open(&folder.path().join("test.db")).unwrap();
        state.pages().update(&[(page(4), Checksum::of_page(page(4), &[14; 512]))]).unwrap();
        assert_eq!(read(&pages, 4), Some(14));
        state.pages().truncate(3).unwrap();
        assert_eq!(read(&pages, 4), None, "cut off");
    }

    #[test]
    fn without_a_state_that_tells_there_are_no_pages() {
        let none = |change: fn(&mut Record)| {
            let folder = tempfile::tempdir().unwrap();
            let pages = machine(folder.path(), change);
            assert_eq!(pages.position(), None);
            assert_eq!(read(&pages, 1), None);
        };
        none(|record| record.owes_all = true);
        none(|record| record.identity = 8);
        none(|record| record.page_size = None);
        let folder = tempfile::tempdir().unwrap();
        let pages = machine(folder.path(), |_| ());
        fs::remove_file(folder.path().join("test.db-bottomless")).unwrap();
        assert_eq!(pages.position(), None);
    }
}
