//! The WAL index (the `-shm` file): what its header says ("WAL-Index File Format" in SQLite's documentation).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bottomless_engine::WalEnd;

/// Two copies of the header, and what a checkpoint and readers say of themselves.
const LENGTH: usize = 120;
const COPY: usize = 48;
const VERSION: u32 = 3_007_000;

/// What the index says at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    header: [u8; COPY],
    /// Frames that are in the main file already.
    pub(super) backfilled: u32,
    /// Which frames the readers with each mark look at most; `u32::MAX` for a mark that is not in use.
    pub(super) marks: [u32; 5],
}

impl Index {
    /// None while somebody changes it, or when it must be made anew.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; LENGTH];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut header = [0; COPY];
        let (first, rest) = bytes.split_at(COPY);
        header.copy_from_slice(first);
        let index =
            Self { header, backfilled: word(&bytes, 96), marks: [100, 104, 108, 112, 116].map(|at| word(&bytes, at)) };
        let is_initialized = header.get(12).is_some_and(|&byte| byte != 0);
        let is_whole = rest.starts_with(first) && index.checksum() == [word(&header, 40), word(&header, 44)];
        Ok((is_whole && is_initialized && word(&header, 0) == VERSION).then_some(index))
    }

    /// The last commit.
    pub(super) fn end(&self) -> WalEnd {
        WalEnd { salts: [word(&self.header, 32), word(&self.header, 36)], frames: word(&self.header, 16) }
    }

    /// Pages in the database after it.
    pub(super) fn size_in_pages(&self) -> u32 {
        word(&self.header, 20)
    }

    /// Whether the header is the same.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.header == other.header
    }

    /// Of what precedes the checksum in the header.
    fn checksum(&self) -> [u32; 2] {
        let (mut one, mut two) = (0_u32, 0_u32);
        for at in (0..40).step_by(8) {
            one = one.wrapping_add(word(&self.header, at)).wrapping_add(two);
            two = two.wrapping_add(word(&self.header, at + 4)).wrapping_add(one);
        }
        [one, two]
    }
}

/// A number in the machine's byte order.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes).unwrap_or_default()
}
