//! What the main file held before a transaction without a journal on the disk (journal mode MEMORY or OFF).
//!
//! With OFF, SQLite can't roll back: a commit that the store refuses would stay in the local file. So the shim keeps
//! what is overwritten, in memory while it is little and then in a file without a name beside the database.

use std::ffi::c_int;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use libsqlite3_sys as ffi;
use tempfile::SpooledTempFile;

use crate::dirty::Dirty;
use crate::real::{RealFile, io_error};

/// Up to here what was overwritten stays in memory.
const MEMORY: usize = 4 << 20;

/// What is read and kept at a time, in bytes.
const PIECE: u64 = 1 << 20;

/// A part of a file in pieces of bounded length.
fn pieces((offset, length): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(PIECE)).map(move |i| (offset + i * PIECE, PIECE.min(length - i * PIECE)))
}

/// The content from before a transaction.
#[derive(Debug)]
pub(crate) struct Undo {
    size: u64,
    /// Offset and length of each piece in `content`, in order.
    pieces: Vec<(u64, u64)>,
    content: SpooledTempFile,
}

impl Undo {
    /// Begins before the first write of a transaction.
    pub(crate) fn begin(file: RealFile, folder: &Path) -> io::Result<Self> {
        let size = file.file_size().map_err(io_error)?;
        Ok(Self { size, pieces: Vec::new(), content: tempfile::spooled_tempfile_in(MEMORY, folder) })
    }

    /// Keeps what a write is about to replace, unless an earlier write of the transaction did.
    pub(crate) fn keep(&mut self, file: RealFile, dirty: &Dirty, offset: u64, length: u64) -> io::Result<()> {
        let end = (offset + length).min(self.size);
        if offset >= end {
            return Ok(());
        }
        for (offset, length) in dirty.clean_parts(offset, end - offset).into_iter().flat_map(pieces) {
            let length = length.min(self.size - offset);
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            match file.read(&mut piece, offset) {
                ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => {}
                code => return Err(io_error(code)),
            }
            self.content.write_all(&piece)?;
            self.pieces.push((offset, length));
        }
        Ok(())
    }

    /// Puts everything back.
    pub(crate) fn restore(&mut self, file: RealFile) -> io::Result<()> {
        let checked = |code: c_int| if code == ffi::SQLITE_OK { Ok(()) } else { Err(io_error(code)) };
        self.content.seek(SeekFrom::Start(0))?;
        for (offset, length) in &self.pieces {
            let mut piece = vec![0; usize::try_from(*length).map_err(io::Error::other)?];
            self.content.read_exact(&mut piece)?;
            checked(file.write(&piece, *offset))?;
        }
        checked(file.truncate(self.size))
    }
}
