//! What stands behind the page frames: end marker, page index, trailer.

use crate::{
    Checksum, DecodeError, END_MARKER_LENGTH, FRAME_HEADER_LENGTH, HEADER_LENGTH, Header, PageNumber, PageSize,
    RunningChecksum, varint,
};

/// Bytes of the trailer.
pub const TRAILER_LENGTH: usize = 16;

/// Bytes of the field behind the index that says how long the index is.
const INDEX_LENGTH_LENGTH: usize = 8;

/// Bytes of the tail of a file without pages, the shortest that there is: as many are needed to tell how long a
/// tail is.
pub const TAIL_MIN_LENGTH: usize = END_MARKER_LENGTH + 1 + INDEX_LENGTH_LENGTH + TRAILER_LENGTH;

/// The most bytes that an entry of the index takes: a page number, an offset and a length as varints.
const ENTRY_MAX_LENGTH: u64 = 5 + 10 + 5;

/// The last 16 bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The LTX database checksum after the last transaction; only in files of others.
    pub post_apply_checksum: Option<Checksum>,
    /// The checksum of the file.
    pub file_checksum: Checksum,
}

impl Trailer {
    /// Reads the trailer from the last 16 bytes of a file that is `file_length` bytes long.
    ///
    /// # Errors
    /// When there are fewer bytes, or a checksum has not the form of one.
    pub fn decode(file_length: u64, bytes: &[u8]) -> Result<Self, DecodeError> {
        let offset = file_length.saturating_sub(TRAILER_LENGTH as u64);
        let Some(bytes) = bytes.last_chunk::<TRAILER_LENGTH>() else {
            return Err(DecodeError::TooShort {
                what: "the trailer",
                offset,
                need: TRAILER_LENGTH as u64,
                have: bytes.len() as u64,
            });
        };
        let (post_apply, file) = bytes.split_at(TRAILER_LENGTH / 2);
        let checksum =
            |value: u64, offset, field| Checksum::new(value).ok_or(DecodeError::Trailer { offset, field, value });
        let post_apply_checksum = match big_endian(post_apply) {
            0 => None,
            value => Some(checksum(value, offset, "post-apply checksum")?),
        };
        Ok(Self { post_apply_checksum, file_checksum: checksum(big_endian(file), offset + 8, "file checksum")? })
    }
}

/// Where a page's frame is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The page.
    pub page: PageNumber,
    /// Length of the frame with its header, in bytes.
    pub length: u32,
    /// Where the frame begins, in bytes from the start of the file.
    pub offset: u64,
}

impl Frame {
    /// Where the frame ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

/// The end of a file: the index of its frames and its trailer.
///
/// The frames are in ascending page order, and one begins where the one before it ends: the first at offset 100,
/// the last ends where the tail begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where the tail begins, in bytes from the start of the file.
    pub offset: u64,
    /// The frames, in the order of the file.
    pub frames: Vec<Frame>,
    /// The trailer.
    pub trailer: Trailer,
    /// Over the tail's bytes, up to the file checksum.
    pub(crate) checksum: RunningChecksum,
}

/// How far the last bytes of a file went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailProgress {
    /// The tail is complete.
    Complete(Tail),
    /// The tail is longer than the bytes that were given.
    NeedMore {
        /// This many bytes are missing in front of them.
        bytes: u64,
    },
}

impl Tail {
    /// Reads the tail from the last bytes of a file that is `file_length` bytes long. More bytes than the tail has
    /// do no harm.
    ///
    /// # Errors
    /// When the file can't hold a tail, or when the index or the trailer are damaged. The caller has still to hold
    /// the index against the header, with [`Tail::check`].
    pub fn parse(file_length: u64, last_bytes: &[u8]) -> Result<TailProgress, DecodeError> {
        let shortest = (HEADER_LENGTH + TAIL_MIN_LENGTH) as u64;
        if file_length < shortest {
            return Err(DecodeError::TooShort {
                what: "the shortest file",
                offset: 0,
                need: shortest,
                have: file_length,
            });
        }
        let have = last_bytes.len() as u64;
        if have < TAIL_MIN_LENGTH as u64 {
            return Ok(TailProgress::NeedMore { bytes: TAIL_MIN_LENGTH as u64 - have });
        }
        let trailer = Trailer::decode(file_length, last_bytes)?;
        let (front, _) = last_bytes.split_at(last_bytes.len() - TRAILER_LENGTH);
        let index_length_offset = file_length - (TRAILER_LENGTH + INDEX_LENGTH_LENGTH) as u64;
        let (front, index_length) = front.split_at(front.len() - INDEX_LENGTH_LENGTH);
        let index_length = big_endian(index_length);
        // Shared by the frames and their index.
        let room = index_length_offset - (HEADER_LENGTH + END_MARKER_LENGTH) as u64;
        let each = ENTRY_MAX_LENGTH + FRAME_HEADER_LENGTH as u64 + 1;
        let room = room.min((room / each + 1) * ENTRY_MAX_LENGTH);
        if index_length == 0 || index_length > room {
            return Err(DecodeError::Index {
                offset: index_length_offset,
                problem: format!("its length is {index_length} bytes, but it must be from 1 to {room}"),
            });
        }
        let length = TAIL_MIN_LENGTH as u64 - 1 + index_length;
        if have < length {
            return Ok(TailProgress::NeedMore { bytes: length - have });
        }
        let offset = file_length - length;
        // It fits: the tail is not longer than the slice.
        let (_, tail) = last_bytes.split_at(last_bytes.len() - usize::try_from(length).unwrap_or(0));
        let (hashed, _) = tail.split_at(tail.len() - TRAILER_LENGTH / 2);
        let index_start = front.len() - usize::try_from(index_length).unwrap_or(0);
        let (front, index) = front.split_at(index_start);
        if !front.ends_with(&[0; END_MARKER_LENGTH]) {
            return Err(DecodeError::Frame { offset, problem: "the end marker, six zero bytes, is missing".into() });
        }
        Ok(TailProgress::Complete(Self {
            offset,
            frames: parse_index(index, offset)?,
            trailer,
            checksum: RunningChecksum::of(hashed),
        }))
    }

    /// The most bytes that a tail takes in a file with this header.
    #[must_use]
    pub fn longest(header: &Header) -> u64 {
        TAIL_MIN_LENGTH as u64 + ENTRY_MAX_LENGTH * u64::from(header.size_in_pages)
    }

    /// Whether the index fits the header: no page behind the end of the database, no lock page, and in a file that
    /// begins with TXID 1 every page.
    ///
    /// # Errors
    /// Names the first page that does not fit.
    pub fn check(&self, header: &Header) -> Result<(), DecodeError> {
        let problem = |offset, problem| Err(DecodeError::Index { offset, problem });
        let lock_page = header.page_size.lock_page();
        let longest = longest_frame(header.page_size);
        for frame in &self.frames {
            let page = frame.page;
            if page.get() > header.size_in_pages {
                let pages = header.size_in_pages;
                return problem(
                    frame.offset,
                    format!("page {page} lies behind the end of the database, which has {pages} pages"),
                );
            }
            if page == lock_page {
                return problem(frame.offset, format!("page {page} is the lock page, which is never stored"));
            }
            if frame.length as usize > longest {
                let length = frame.length;
                return problem(
                    frame.offset,
                    format!("the frame of page {page} has {length} bytes, but at most {longest} make sense"),
                );
            }
        }
        let every = header.page_size.stored_pages(header.size_in_pages) as usize;
        if header.is_snapshot() && self.frames.len() != every {
            let have = self.frames.len();
            return problem(
                self.offset,
                format!("the file begins with the first transaction, but holds {have} of {every} pages"),
            );
        }
        Ok(())
    }

    /// Cuts the frames into runs of about `target_length` bytes, at least one frame each, for fetching them in
    /// parallel.
    pub fn runs(&self, target_length: u64) -> impl Iterator<Item = &[Frame]> {
        let mut rest = &self.frames[..];
        std::iter::from_fn(move || {
            let start = rest.first()?.offset;
            let count = rest.partition_point(|frame| frame.end() - start <= target_length);
            let (run, behind) = rest.split_at(count.max(1));
            rest = behind;
            Some(run)
        })
    }
}

/// The longest frame that a page of this size makes: its header and LZ4's worst case.
pub(crate) fn longest_frame(page_size: PageSize) -> usize {
    FRAME_HEADER_LENGTH + lz4_flex::block::get_maximum_output_size(page_size.bytes())
}

/// A number of eight bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// Reads the index, which ends where `index` ends; the tail begins at `tail_offset`.
fn parse_index(index: &[u8], tail_offset: u64) -> Result<Vec<Frame>, DecodeError> {
    let index_offset = tail_offset + END_MARKER_LENGTH as u64;
    let mut rest = index;
    // An entry takes three bytes at least, in fact about seven.
    let mut frames: Vec<Frame> = Vec::with_capacity(index.len() / 7);
    let mut expected_offset = HEADER_LENGTH as u64;
    loop {
        let offset = index_offset + (index.len() - rest.len()) as u64;
        let wrong = |problem| DecodeError::Index { offset, problem };
        let mut next = |name| {
            varint::take(&mut rest).ok_or_else(|| wrong(format!("the {name} is cut off, or is more than 64 bits")))
        };
        let number = next("page number")?;
        if number == 0 {
            break;
        }
        let frame_offset = next("frame offset")?;
        let frame_length = next("frame length")?;
        let Some(page) = u32::try_from(number).ok().and_then(PageNumber::new) else {
            return Err(wrong(format!("{number} is not a page number")));
        };
        if let Some(previous) = frames.last().filter(|previous| previous.page >= page) {
            let previous = previous.page;
            return Err(wrong(format!("page {page} comes after page {previous}: pages must ascend")));
        }
        if frame_offset != expected_offset {
            return Err(wrong(format!(
                "the frame of page {page} is said to begin at offset {frame_offset}, but the one before it ends at \
                 {expected_offset}"
            )));
        }
        let length = match u32::try_from(frame_length) {
            Ok(length) if length as usize > FRAME_HEADER_LENGTH && frame_length <= tail_offset - frame_offset => length,
            _ => {
                return Err(wrong(format!("the frame of page {page} is said to have {frame_length} bytes")));
            }
        };
        expected_offset += frame_length;
        frames.push(Frame { page, length, offset: frame_offset });
    }
    let offset = index_offset + (index.len() - rest.len()) as u64;
    if !rest.is_empty() {
        let problem = format!("{} bytes follow its end", rest.len());
        return Err(DecodeError::Index { offset, problem });
    }
    if expected_offset != tail_offset {
        let problem =
            format!("its last frame ends at offset {expected_offset}, but the end marker is at {tail_offset}");
        return Err(DecodeError::Index { offset, problem });
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The end of a file with an index of this length.
    fn ends_with(index_length: u64) -> Vec<u8> {
        let mut bytes = vec![0; TAIL_MIN_LENGTH];
        let at = bytes.len() - TRAILER_LENGTH - INDEX_LENGTH_LENGTH;
        bytes.splice(at..at + INDEX_LENGTH_LENGTH, index_length.to_be_bytes());
        let at = bytes.len() - 8;
        bytes.splice(at.., Checksum::EMPTY.get().to_be_bytes());
        bytes
    }

    #[test]
    fn an_index_is_no_longer_than_that_of_the_shortest_frames() {
        const GB: u64 = 1 << 30;
        let parse = |length| Tail::parse(10 * GB, &ends_with(length));
        assert!(matches!(parse(6 * GB), Ok(TailProgress::NeedMore { .. })));
        assert!(matches!(parse(7 * GB), Err(DecodeError::Index { .. })));
        // As many of the shortest frames as there are, each with the longest entry.
        for frames in 0..200_u64 {
            let length = (HEADER_LENGTH + TAIL_MIN_LENGTH) as u64 + frames * (ENTRY_MAX_LENGTH + 11);
            Tail::parse(length, &ends_with(1 + frames * ENTRY_MAX_LENGTH)).map(drop).or_else(expect_marker).unwrap();
        }
    }

    fn expect_marker(error: DecodeError) -> Result<(), DecodeError> {
        if matches!(error, DecodeError::Index { .. }) { Err(error) } else { Ok(()) }
    }
}
