//! A rollback journal ("The Rollback Journal" in the SQLite file-format page): with it, SQLite itself puts the main file
//! back when it is found half overwritten.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use bottomless_ltx::{PageNumber, PageSize};

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The header is padded to a sector.
const SECTOR: u32 = 512;
const RECORDS_AT: u64 = 8;
const BUFFER: usize = 1 << 18;

/// True if a journal lies there that is in use; SQLite takes the first byte for it.
pub(super) fn is_hot(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => {
            let mut first = [0];
            Ok(file.read_at(&mut first, 0)? == 1 && first != [0])
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct JournalWriter {
    path: PathBuf,
    out: BufWriter<File>,
    nonce: u32,
    records: u32,
}

impl JournalWriter {
    /// Begins the journal of a database of this shape. The nonce is random.
    pub(super) fn begin(
        path: &Path,
        database: &Path,
        (page_size, size_in_pages): (PageSize, u32),
        nonce: u32,
    ) -> io::Result<Self> {
        let file = File::create(path)?;
        // As SQLite does: it holds pages of the database, which others may not be allowed to read, and whoever uses that
        // must be able to play it back.
        let of = fs::metadata(database)?;
        file.set_permissions(of.permissions())?;
        if file.metadata()?.uid() != of.uid() {
            fchown(&file, Some(of.uid()), Some(of.gid()))?;
        }
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let mut header = [0; SECTOR as usize];
        header[..8].copy_from_slice(&MAGIC);
        for (at, field) in [(12, nonce), (16, size_in_pages), (20, SECTOR), (24, page_size.get())] {
            header[at..at + 4].copy_from_slice(&field.to_be_bytes());
        }
        out.write_all(&header)?;
        Ok(Self { path: path.to_owned(), out, nonce, records: 0 })
    }

    /// Adds what a page holds before it is overwritten or cut off.
    pub(super) fn record(&mut self, page: PageNumber, content: &[u8]) -> io::Result<()> {
        // Every 200th byte from the end, but for the first ones.
        let picked = content.iter().rev().skip(199).step_by(200).map(|byte| u32::from(*byte));
        let picked = picked.take((content.len() - 1) / 200);
        let checksum = picked.fold(self.nonce, u32::wrapping_add);
        self.out.write_all(&page.get().to_be_bytes())?;
        self.out.write_all(content)?;
        self.out.write_all(&checksum.to_be_bytes())?;
        self.records += 1;
        Ok(())
    }

    /// Makes it durable. From here on the main file may be overwritten.
    pub(super) fn finish(self) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        // The count last, as SQLite does: until then there is nothing to play back.
        file.sync_all()?;
        file.write_all_at(&self.records.to_be_bytes(), RECORDS_AT)?;
        file.sync_all()?;
        sync_folder(&self.path)
    }
}

/// Deletes a journal: the commit.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}
