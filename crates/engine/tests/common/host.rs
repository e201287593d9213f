//! What SQLite is to the engine, played with plain files: a rollback journal that holds the whole old database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bottomless_engine::{Error, Host, Locked, LoneFile, MainFile, OpenMain, PageSource, Result};
use bottomless_ltx::{PageNumber, PageSize};

pub struct FakeHost {
    pub path: PathBuf,
    /// Another program has the local file open.
    pub is_in_use: bool,
}

struct Main(File);

impl MainFile for Main {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        read_at(&self.0, bytes, offset)
    }
}

/// Reads, with zeros behind the end.
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = file.read_at(bytes, offset)?;
        if count == 0 {
            break;
        }
        offset += count as u64;
        bytes = &mut bytes[count..];
    }
    bytes.fill(0);
    Ok(())
}

/// The pages of a file, as the shim reads them back.
pub struct FileSource {
    file: File,
    page_size: PageSize,
}

impl FileSource {
    pub fn new(path: &Path, page_size: PageSize) -> Self {
        Self { file: File::open(path).unwrap(), page_size }
    }
}

impl PageSource for FileSource {
    fn read_page(&mut self, page: PageNumber, content: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, content, self.page_size.offset_of(page))
    }
}

pub fn journal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    name.into()
}

/// Opens the main file for the thread.
#[derive(Debug)]
pub struct MainPath(pub PathBuf);

impl OpenMain for MainPath {
    fn open(&self) -> io::Result<Box<dyn MainFile + Send>> {
        Ok(Box::new(Main(File::open(&self.0)?)))
    }
}

impl FakeHost {
    fn recover(&self) {
        let journal = journal(&self.path);
        if let Ok(old) = fs::read(&journal) {
            // In place: SQLite does not replace the file either.
            let file = File::options().write(true).open(&self.path).unwrap();
            file.write_all_at(&old, 0).unwrap();
            file.set_len(old.len() as u64).unwrap();
            fs::remove_file(journal).unwrap();
        }
    }

    fn with(&self, work: Locked<'_>) -> Result<()> {
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&self.path);
        work(&mut Main(open.map_err(|e| Error::disk("the main file", &e))?))
    }
}

/// The main file of the only connection, outside of a WAL.
pub struct Lone(pub File);

impl MainFile for Lone {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        read_at(&self.0, bytes, offset)
    }
}

impl LoneFile for Lone {
    fn is_wal(&self) -> bool {
        false
    }

    fn lock(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock(&mut self) {}

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn forget_wal_index(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Host for FakeHost {
    fn with_write_lock(&self, work: Locked<'_>) -> Result<()> {
        self.recover();
        self.with(work)
    }

    fn with_exclusive_lock(&self, work: Locked<'_>) -> Result<()> {
        self.with(work)
    }

    fn is_alone(&self) -> Result<bool> {
        Ok(!self.is_in_use)
    }

    fn read_main(&self, bytes: &mut [u8]) -> Result<()> {
        read_at(&File::open(&self.path).unwrap(), bytes, 0).map_err(|e| Error::disk("the main file", &e))
    }

    fn checkpoint(&self) -> Result<()> {
        self.recover();
        Ok(())
    }
}
