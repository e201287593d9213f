//! Writes a WAL of one transaction, as SQLite's recovery takes it in.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bottomless_ltx::{PageNumber, PageSize};

use super::{FRAME_HEADER, FrameNumber, WAL_HEADER, sum::RunningSum};
use crate::state::WalEnd;

/// Words of the checksum in little-endian order.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

const BUFFER: usize = 1 << 18;

/// A WAL that is being written. Nothing in it counts before its last frame, which carries the size of the database.
#[derive(Debug)]
pub(crate) struct WalWriter {
    out: BufWriter<File>,
    salts: [u8; 8],
    sum: RunningSum,
    frames: FrameNumber,
}

impl WalWriter {
    /// Begins in an existing, empty file. The salts are random.
    pub(crate) fn begin(path: &Path, page_size: PageSize, salts: [u8; 8]) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BUFFER, File::options().write(true).open(path)?);
        let mut header = [0; WAL_HEADER];
        header[..4].copy_from_slice(&MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&VERSION.to_be_bytes());
        header[8..12].copy_from_slice(&page_size.get().to_be_bytes());
        header[16..24].copy_from_slice(&salts);
        let mut sum = RunningSum::new(MAGIC);
        sum.add(&header[..24]);
        header[24..].copy_from_slice(&sum.to_bytes());
        out.write_all(&header)?;
        Ok(Self { out, salts, sum, frames: 0 })
    }

    /// Adds a page; the last one with the size of the database in pages, the others with 0.
    pub(crate) fn frame(&mut self, page: PageNumber, size_in_pages: u32, content: &[u8]) -> io::Result<()> {
        let mut header = [0; FRAME_HEADER];
        header[..4].copy_from_slice(&page.get().to_be_bytes());
        header[4..8].copy_from_slice(&size_in_pages.to_be_bytes());
        header[8..16].copy_from_slice(&self.salts);
        self.sum.add(&header[..8]);
        self.sum.add(content);
        header[16..].copy_from_slice(&self.sum.to_bytes());
        self.out.write_all(&header)?;
        self.out.write_all(content)?;
        self.frames += 1;
        Ok(())
    }

    /// Makes it durable, and says where it ends, as the WAL index will.
    pub(crate) fn finish(self) -> io::Result<WalEnd> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let salt = |at: usize| u32::from_ne_bytes(self.salts[at..at + 4].try_into().unwrap_or_default());
        Ok(WalEnd { salts: [salt(0), salt(4)], frames: self.frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::WalReader;

    #[test]
    fn what_was_written_is_read_back_and_nothing_without_the_last_frame() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db-wal");
        std::fs::write(&path, b"").unwrap();
        let page = |n| PageNumber::new(n).unwrap();
        let mut wal = WalWriter::begin(&path, PageSize::new(512).unwrap(), *b"saltsalt").unwrap();
        for n in [1, 3, 9_u8] {
            wal.frame(page(n.into()), if n == 9 { 12 } else { 0 }, &[n; 512]).unwrap();
        }
        assert_eq!(wal.finish().unwrap().frames, 3);
        let reader = WalReader::open(&path).unwrap().unwrap();
        assert_eq!((reader.page_size().get(), reader.size_in_pages()), (512, 12));
        let mut content = [0; 512];
        for n in [1, 3, 9_u8] {
            assert!(reader.read_page(page(n.into()), &mut content).unwrap());
            assert_eq!(content, [n; 512]);
        }
        assert!(!reader.read_page(page(2), &mut content).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for cut in [1, 512, 600] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert!(WalReader::open(&path).unwrap().is_none(), "{cut} bytes less");
        }
    }
}
