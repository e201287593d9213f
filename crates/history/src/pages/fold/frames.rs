//! Reading pages back from an object that was put together.

use std::io;

use bottomless_ltx::{
    DecodeError, Frame, HEADER_LENGTH, PageNumber, PageSize, TAIL_MIN_LENGTH, Tail, TailProgress, decode_frames,
};
use bottomless_store::Body;
use bytes::Bytes;
use md5::{Digest, Md5};

/// A page, and the ETag that stores give to an object of this content.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) frame: Frame,
    pub(super) content: Bytes,
    pub(super) e_tag: String,
}

impl Page {
    pub(super) fn number(&self) -> PageNumber {
        self.frame.page
    }
}

/// Why a page can't be read back.
#[derive(Debug)]
pub(super) struct Unread(pub(super) io::Error);

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<DecodeError> for Unread {
    fn from(error: DecodeError) -> Self {
        Self(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Where the pages are.
pub(super) fn frames(body: &Body) -> Result<Vec<Frame>, Unread> {
    let length = body.len();
    let mut have = TAIL_MIN_LENGTH as u64;
    loop {
        let start = length.saturating_sub(have).max(HEADER_LENGTH as u64);
        match Tail::parse(length, &body.read(start..length)?)? {
            TailProgress::Complete(tail) => return Ok(tail.frames),
            TailProgress::NeedMore { bytes } => have += bytes,
        }
    }
}

/// Cuts frames into portions of up to `count` that lie behind each other.
pub(super) fn portions(frames: &[Frame], count: usize) -> impl Iterator<Item = &[Frame]> {
    frames.chunk_by(|one, other| one.end() == other.offset).flat_map(move |run| run.chunks(count.max(1)))
}

/// The pages of a portion.
pub(super) fn read(body: &Body, frames: &[Frame], page_size: PageSize) -> Result<Vec<Page>, Unread> {
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
    let bytes = body.read(first.offset..last.end())?;
    let mut pages = Vec::with_capacity(frames.len());
    let mut places = frames.iter();
    decode_frames(&bytes, frames, page_size, &mut Vec::new(), |_, content| {
        if let Some(&frame) = places.next() {
            pages.push(Page { frame, content: Bytes::copy_from_slice(content), e_tag: e_tag(content) });
        }
        Ok::<_, DecodeError>(())
    })?;
    Ok(pages)
}

/// The ETag that stores give to an object that was sent with one PUT, unless they keep it encrypted: its MD5.
pub(super) fn e_tag(content: &[u8]) -> String {
    Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
