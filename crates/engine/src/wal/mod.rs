//! SQLite's write-ahead log, as far as a VFS must understand it ("The Write-Ahead Log Format" in the SQLite
//! file-format page): which pages a transaction wrote, and what a committed page contains.

mod reader;
mod sum;
mod tracker;
mod writer;

pub use reader::WalReader;
pub use tracker::{Observed, WalTracker};
pub(crate) use writer::WalWriter;

use bottomless_ltx::PageSize;

/// Bytes of the header of the file.
pub const WAL_HEADER: usize = 32;
/// Bytes of the header of a frame; the page follows.
pub const FRAME_HEADER: usize = 24;

/// The number of a frame in the file, from 1, as SQLite counts them.
pub type FrameNumber = u32;

/// Where frames are in a WAL of this page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry(PageSize);

impl Geometry {
    fn frame_length(self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.0.get())
    }

    /// Where the header of a frame begins.
    pub(crate) fn frame(self, number: FrameNumber) -> u64 {
        WAL_HEADER as u64 + u64::from(number - 1) * self.frame_length()
    }

    /// Where the page of a frame begins.
    pub(crate) fn page(self, number: FrameNumber) -> u64 {
        self.frame(number) + FRAME_HEADER as u64
    }

    /// The frame that holds this offset, and the offset within it.
    pub(crate) fn locate(self, offset: u64) -> Option<(FrameNumber, u64)> {
        let after = offset.checked_sub(WAL_HEADER as u64)?;
        let number = u32::try_from(after / self.frame_length()).ok()?.checked_add(1)?;
        Some((number, after % self.frame_length()))
    }
}

/// The page size in a WAL header, if it is one.
pub(crate) fn page_size_of(header: &[u8]) -> Option<PageSize> {
    let magic = be32(header, 0)?;
    // The lowest bit says in which byte order checksums are computed.
    if magic & !1 != 0x377f_0682 {
        return None;
    }
    // Unlike in the database's header, 65536 is written as such: recovery takes no 1 for it.
    PageSize::new(be32(header, 8)?).ok()
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_those_that_recovery_takes() {
        let header = |bytes: u32| [0x377f_0682, 3_007_000, bytes].map(u32::to_be_bytes).concat();
        for bytes in [512, 4096, 65536] {
            assert_eq!(page_size_of(&header(bytes)).map(PageSize::get), Some(bytes));
        }
        for bytes in [0, 1, 256, 768, 131_072] {
            assert_eq!(page_size_of(&header(bytes)), None);
        }
    }
}
