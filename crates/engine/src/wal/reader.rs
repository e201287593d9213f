//! Reads the committed content of a WAL file, as SQLite's recovery would find it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bottomless_ltx::{PageNumber, PageSize};

use super::sum::RunningSum;
use super::{FRAME_HEADER, FrameNumber, Geometry, WAL_HEADER, be32, page_size_of};
use crate::state::WalEnd;

/// The committed frames of a WAL.
#[derive(Debug)]
pub struct WalReader {
    file: File,
    geometry: Geometry,
    latest: HashMap<u32, FrameNumber>,
    size_in_pages: u32,
    end: WalEnd,
}

impl WalReader {
    /// Reads the frames of the WAL at `path`; None if there is no WAL, or no committed frame in it. Memory: about 12
    /// bytes for each page in it.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        Ok(Self::read(path, FrameNumber::MAX)?.filter(|reader| reader.size_in_pages != 0))
    }

    /// As [`WalReader::open`], up to the commit that ends at `end`, as a WAL index says it, whatever follows it; None if
    /// there is no such commit in the WAL.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn open_until(path: &Path, end: WalEnd) -> io::Result<Option<Self>> {
        Ok(Self::read(path, end.frames)?.filter(|reader| reader.size_in_pages != 0 && reader.end == end))
    }

    /// As [`WalReader::open`], also of a WAL that has a header and no committed frame; no further than to frame `last`.
    fn read(path: &Path, last: FrameNumber) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut header = [0; WAL_HEADER];
        if !read_whole(&file, &mut header, 0)? {
            return Ok(None);
        }
        let Some((geometry, mut sum)) = start(&header) else {
            return Ok(None);
        };
        // The WAL index copies the bytes of the salts.
        let salt = |at: usize| header[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
        let end = WalEnd { salts: [salt(16), salt(20)], frames: 0 };
        let mut reader = Self { file, geometry, latest: HashMap::new(), size_in_pages: 0, end };
        let mut open: Vec<(u32, FrameNumber)> = Vec::new();
        let mut frame = vec![0; FRAME_HEADER + geometry.0.bytes()];
        for number in 1..=last {
            if !read_whole(&reader.file, &mut frame, geometry.frame(number))? {
                break;
            }
            let Some((page, size)) = sum.accept(&header, &frame) else {
                break;
            };
            open.push((page, number));
            if size != 0 {
                reader.latest.extend(open.drain(..));
                reader.size_in_pages = size;
                reader.end.frames = number;
            }
        }
        Ok(Some(reader))
    }

    /// Where the WAL at `path` ends, as the WAL index will say after SQLite's recovery.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) fn end_of(path: &Path) -> io::Result<WalEnd> {
        Ok(Self::read(path, FrameNumber::MAX)?.map_or(WalEnd::EMPTY, |reader| reader.end))
    }

    /// The page size of the database.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.geometry.0
    }

    /// Pages in the database after the last committed transaction.
    #[must_use]
    pub fn size_in_pages(&self) -> u32 {
        self.size_in_pages
    }

    /// Reads a page if the WAL holds it.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_page(&self, page: PageNumber, content: &mut [u8]) -> io::Result<bool> {
        match self.latest.get(&page.get()) {
            Some(&frame) => self.file.read_exact_at(content, self.geometry.page(frame)).map(|()| true),
            None => Ok(false),
        }
    }
}

/// Fills `bytes`; false at the end of the file.
fn read_whole(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks the file's header.
fn start(header: &[u8; WAL_HEADER]) -> Option<(Geometry, RunningSum)> {
    let geometry = Geometry(page_size_of(header)?);
    let mut sum = RunningSum::new(be32(header, 0)?);
    sum.add(&header[..24]);
    sum.matches(header, 24).then_some((geometry, sum))
}
