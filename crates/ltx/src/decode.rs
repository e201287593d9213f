//! Page frames, and whole files in memory.

use crc_fast::{CrcAlgorithm::Crc64GoIso, Digest};

use crate::{
    DecodeError, FRAME_FLAG_SIZE, FRAME_HEADER_LENGTH, FileChecksum, Frame, FrameChecksum, HEADER_LENGTH, Header,
    PageNumber, PageSize, RunningChecksum, Tail, TailProgress, Trailer,
};

/// Reads a run of whole frames and hands each page to `visit`, in ascending order.
///
/// `frames` are those that the index names for `bytes`, one behind the other. `scratch` is a buffer for one page,
/// reused between calls. The checksum that comes back is the run's part of the file checksum: until
/// [`FileChecksum::verify`] has said so, the pages are not known to be those that were written.
///
/// # Errors
/// When a frame is damaged or is not the one that the index names; and what `visit` returns.
pub fn decode_frames<E: From<DecodeError>>(
    bytes: &[u8],
    frames: &[Frame],
    page_size: PageSize,
    scratch: &mut Vec<u8>,
    mut visit: impl FnMut(PageNumber, &[u8]) -> Result<(), E>,
) -> Result<RunningChecksum, E> {
    let mut digest = Digest::new(Crc64GoIso);
    each_frame(bytes, frames, page_size, scratch, |frame, _, head, content| {
        digest.update(head);
        digest.update(content);
        visit(frame.page, content)
    })?;
    Ok(RunningChecksum::from(&digest))
}

/// A frame of a run, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct WholeFrame<'a> {
    /// Where it is in the file, and of which page.
    pub frame: &'a Frame,
    /// Its bytes in the file.
    pub bytes: &'a [u8],
    /// Its part of the file checksum.
    pub checksum: FrameChecksum,
    /// The page.
    pub content: &'a [u8],
}

/// As [`decode_frames`], for a reader that copies frames into another file ([`crate::Encoder::copy_frame`]).
///
/// # Errors
/// As [`decode_frames`].
pub fn decode_whole_frames<E: From<DecodeError>>(
    bytes: &[u8],
    frames: &[Frame],
    page_size: PageSize,
    scratch: &mut Vec<u8>,
    mut visit: impl FnMut(WholeFrame<'_>) -> Result<(), E>,
) -> Result<RunningChecksum, E> {
    let mut running = RunningChecksum::EMPTY;
    each_frame(bytes, frames, page_size, scratch, |frame, bytes, head, content| {
        let checksum = FrameChecksum::of(head, content);
        running = running.then(checksum.running(page_size));
        visit(WholeFrame { frame, bytes, checksum, content })
    })?;
    Ok(running)
}

/// Reads a run of whole frames and hands out each: its place in the index, its bytes, its header, its page.
fn each_frame<E: From<DecodeError>>(
    bytes: &[u8],
    frames: &[Frame],
    page_size: PageSize,
    scratch: &mut Vec<u8>,
    mut visit: impl FnMut(&Frame, &[u8], &[u8; FRAME_HEADER_LENGTH], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = bytes;
    scratch.clear();
    scratch.resize(page_size.bytes(), 0);
    for frame in frames {
        let Some((bytes, behind)) = rest.split_at_checked(frame.length as usize) else {
            return Err(DecodeError::TooShort {
                what: "a page frame",
                offset: frame.offset,
                need: frame.length.into(),
                have: rest.len() as u64,
            }
            .into());
        };
        rest = behind;
        let head = decode_frame(bytes, frame, scratch)?;
        visit(frame, bytes, head, scratch)?;
    }
    if !rest.is_empty() {
        let problem = format!("{} bytes follow the last frame", rest.len());
        let offset = frames.last().map_or(HEADER_LENGTH as u64, Frame::end);
        return Err(DecodeError::Frame { offset, problem }.into());
    }
    Ok(())
}

/// Reads one frame into `page`, which has the length of a page; returns the frame's header.
fn decode_frame<'a>(
    bytes: &'a [u8],
    frame: &Frame,
    page: &mut [u8],
) -> Result<&'a [u8; FRAME_HEADER_LENGTH], DecodeError> {
    let offset = frame.offset;
    let wrong = |problem| DecodeError::Frame { offset, problem };
    let Some((head, block)) = bytes.split_first_chunk::<FRAME_HEADER_LENGTH>() else {
        return Err(wrong(format!("{} bytes are too few for a frame", bytes.len())));
    };
    let [n0, n1, n2, n3, f0, f1, s0, s1, s2, s3] = *head;
    let number = u32::from_be_bytes([n0, n1, n2, n3]);
    let flags = u16::from_be_bytes([f0, f1]);
    let block_length = u32::from_be_bytes([s0, s1, s2, s3]);
    if number != frame.page.get() {
        return Err(wrong(format!("it is of page {number}, but the index says page {}", frame.page)));
    }
    if flags == 0 {
        return Err(DecodeError::OldPageFormat { page: number, offset });
    }
    if flags != FRAME_FLAG_SIZE {
        return Err(wrong(format!("the flags {flags:#06x} of page {number} have unknown bits")));
    }
    if block_length as usize != block.len() {
        let room = block.len();
        return Err(wrong(format!("page {number} has {block_length} bytes, but the index leaves {room} for it")));
    }
    match lz4_flex::block::decompress_into(block, page) {
        Ok(length) if length == page.len() => Ok(head),
        Ok(length) => {
            let need = page.len();
            Err(wrong(format!("page {number} expands to {length} bytes, but the page size is {need}")))
        }
        Err(error) => Err(wrong(format!("page {number} can't be expanded: {error}"))),
    }
}

/// What a file says beside its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedFile {
    /// The header.
    pub header: Header,
    /// The trailer.
    pub trailer: Trailer,
    /// How many pages the file holds.
    pub pages: usize,
}

/// Reads a whole file that is in memory, and verifies all of it. Each page is handed to `visit`, in ascending order.
///
/// The file checksum is known to be right only when this returns `Ok`: pages are handed out before.
///
/// # Errors
/// When the bytes are not an LTX file or a damaged one; and what `visit` returns.
pub fn decode_file<E: From<DecodeError>>(
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    mut visit: impl FnMut(&Header, PageNumber, &[u8]) -> Result<(), E>,
) -> Result<DecodedFile, E> {
    let header = Header::decode(bytes)?;
    let file_length = bytes.len() as u64;
    let tail = match Tail::parse(file_length, bytes)? {
        TailProgress::Complete(tail) => tail,
        TailProgress::NeedMore { bytes: more } => {
            return Err(DecodeError::TooShort {
                what: "the file",
                offset: 0,
                need: file_length + more,
                have: file_length,
            }
            .into());
        }
    };
    tail.check(&header)?;
    // The tail lies within the bytes, behind the header: parse has seen to it.
    let (front, _) = bytes.split_at(usize::try_from(tail.offset).unwrap_or(bytes.len()));
    let Some((head, frames)) = front.split_first_chunk::<HEADER_LENGTH>() else {
        return Err(DecodeError::TooShort {
            what: "the header",
            offset: 0,
            need: HEADER_LENGTH as u64,
            have: file_length,
        }
        .into());
    };
    let mut checksum = FileChecksum::new(head);
    checksum.push(decode_frames(frames, &tail.frames, header.page_size, scratch, |page, content| {
        visit(&header, page, content)
    })?);
    checksum.verify(&tail)?;
    Ok(DecodedFile { header, trailer: tail.trailer, pages: tail.frames.len() })
}
