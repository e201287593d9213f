//! The cumulative checksum of a WAL ("Checksum Algorithm" in the SQLite file-format page).

use super::{FRAME_HEADER, WAL_HEADER, be32};

/// The checksum up to some place in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunningSum {
    big_endian: bool,
    s0: u32,
    s1: u32,
}

impl RunningSum {
    /// Nothing summed up; the lowest bit of the magic says in which byte order words are read.
    pub(super) fn new(magic: u32) -> Self {
        Self { big_endian: magic & 1 == 1, s0: 0, s1: 0 }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let word = |b: &[u8]| {
            let b = b.try_into().unwrap_or_default();
            if self.big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
        };
        let (mut s0, mut s1) = (self.s0, self.s1);
        for pair in bytes.chunks_exact(8) {
            s0 = s0.wrapping_add(word(&pair[..4])).wrapping_add(s1);
            s1 = s1.wrapping_add(word(&pair[4..])).wrapping_add(s0);
        }
        (self.s0, self.s1) = (s0, s1);
    }

    /// As it stands in a header, whatever the byte order of the words.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.s0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.s1.to_be_bytes());
        bytes
    }

    pub(super) fn matches(&self, header: &[u8], at: usize) -> bool {
        header.get(at..at + 8) == Some(&self.to_bytes()[..])
    }

    /// Page number and size of the next frame, if it belongs to this WAL and is whole.
    pub(super) fn accept(&mut self, header: &[u8; WAL_HEADER], frame: &[u8]) -> Option<(u32, u32)> {
        if frame[8..16] != header[16..24] {
            return None;
        }
        self.add(&frame[..8]);
        self.add(&frame[FRAME_HEADER..]);
        let page = be32(frame, 0).filter(|page| *page != 0)?;
        self.matches(frame, 16).then_some((page, be32(frame, 4)?))
    }
}
