//! Writing a file, in one pass.

use std::fmt;

use crc_fast::{CrcAlgorithm::Crc64GoIso, Digest};
use lz4_flex::block::{CompressTable, compress_into_with_table};

use crate::tail::longest_frame;
use crate::{
    Checksum, END_MARKER_LENGTH, EncodeError, FRAME_FLAG_SIZE, FRAME_HEADER_LENGTH, FrameChecksum, HEADER_LENGTH,
    Header, PageNumber, PageSize, RunningChecksum, varint,
};

/// Writes the pages of one file, in ascending order, and then what stands around them.
///
/// The header is known last (the database checksum after the transaction is in it), so the caller leaves
/// [`HEADER_LENGTH`] bytes free at the start of the file and puts [`Finished::header`] there at the end. Between
/// calls the caller may move what was appended to its buffer elsewhere, to a file for instance. The encoder itself
/// keeps some eight bytes for each page.
pub struct Encoder {
    page_size: PageSize,
    /// Over the frames up to those that `digest` has.
    checksum: RunningChecksum,
    /// Over the frames that were encoded since the last one that was copied.
    digest: Digest,
    /// The index so far, as it will be written.
    index: Vec<u8>,
    /// Where the next frame begins.
    offset: u64,
    last: Option<PageNumber>,
    pages: u32,
    /// The first page that was left out, the lock page aside.
    missing: Option<u32>,
    table: CompressTable,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("page_size", &self.page_size)
            .field("pages", &self.pages)
            .field("last", &self.last)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// A file whose frames, index and trailer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The first bytes of the file.
    pub header: [u8; HEADER_LENGTH],
    /// The file's checksum, which is also its last eight bytes.
    pub file_checksum: Checksum,
    /// Of what follows the header: the same pages can be put under another header without reading them again.
    pub after_header: RunningChecksum,
    /// How many pages it holds.
    pub pages: u32,
    /// Its length with the header, in bytes.
    pub length: u64,
}

impl Encoder {
    /// An encoder for pages of this size.
    #[must_use]
    pub fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            checksum: RunningChecksum::EMPTY,
            digest: Digest::new(Crc64GoIso),
            index: Vec::new(),
            offset: HEADER_LENGTH as u64,
            last: None,
            pages: 0,
            missing: None,
            // Fits blocks of up to 64 KiB, and no page is larger.
            table: CompressTable::small(),
        }
    }

    /// Bytes of the file so far, with the header: what is to be compared with the limit of one PUT.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.offset
    }

    /// How many pages were encoded.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Appends the frame of a page to `out`.
    ///
    /// # Errors
    /// When the page does not come after the one before, is the lock page, or has not the length of a page. Nothing
    /// is appended then, and other pages may still be encoded.
    pub fn encode_page(&mut self, page: PageNumber, content: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.check_next(page)?;
        let start = out.len();
        let length = pack(self.page_size, page, content, &mut self.table, out)?;
        let (_, frame) = out.split_at(start);
        let (head, _) = frame.split_at(FRAME_HEADER_LENGTH);
        self.digest.update(head);
        self.digest.update(content);
        self.append(page, length);
        Ok(())
    }

    /// Appends a frame as another file has it, as [`crate::decode_whole_frames`] hands it out with its checksum. The
    /// page is not expanded: that the checksum is the frame's is the caller's business.
    ///
    /// # Errors
    /// As [`Encoder::encode_page`], and when the bytes are not a frame of the page.
    pub fn copy_frame(
        &mut self,
        page: PageNumber,
        frame: &[u8],
        checksum: FrameChecksum,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.check_next(page)?;
        let length = frame.len();
        let fits = length > FRAME_HEADER_LENGTH && length <= longest_frame(self.page_size);
        let head = u32::try_from(length.saturating_sub(FRAME_HEADER_LENGTH)).map(|block| frame_header(page, block));
        if !(fits && head.is_ok_and(|head| frame.starts_with(&head))) {
            return Err(EncodeError::NotAFrame { page, length });
        }
        let encoded = std::mem::replace(&mut self.digest, Digest::new(Crc64GoIso));
        let frames = self.checksum.then(RunningChecksum::from(&encoded));
        self.checksum = frames.then(checksum.running(self.page_size));
        out.extend_from_slice(frame);
        self.append(page, length);
        Ok(())
    }

    /// Whether this page may come next.
    fn check_next(&self, page: PageNumber) -> Result<(), EncodeError> {
        if let Some(previous) = self.last.filter(|&previous| previous >= page) {
            return Err(EncodeError::Order { page, previous });
        }
        if page == self.page_size.lock_page() {
            return Err(EncodeError::LockPage(page));
        }
        Ok(())
    }

    /// Notes the frame of a page behind those before it.
    fn append(&mut self, page: PageNumber, length: usize) {
        varint::append(&mut self.index, page.get().into());
        varint::append(&mut self.index, self.offset);
        varint::append(&mut self.index, length as u64);
        self.offset += length as u64;
        self.note_missing(page.get());
        self.last = Some(page);
        self.pages += 1;
    }

    /// Remembers the first page that is left out between the last one and `next`.
    fn note_missing(&mut self, next: u32) {
        let lock_page = self.page_size.lock_page().get();
        let mut expected = self.last.map_or(0, PageNumber::get).saturating_add(1);
        if expected == lock_page {
            expected += 1;
        }
        if self.missing.is_none() && expected < next {
            self.missing = Some(expected);
        }
    }

    /// Appends the end marker, the index and the trailer to `out`, and returns the header's bytes.
    ///
    /// # Errors
    /// When the header does not fit the pages, or its fields don't fit each other. Nothing is appended then.
    pub fn finish(mut self, header: &Header, out: &mut Vec<u8>) -> Result<Finished, EncodeError> {
        self.check(header)?;
        varint::append(&mut self.index, 0);
        let header = header.encode();
        let start = out.len();
        out.extend_from_slice(&[0; END_MARKER_LENGTH]);
        out.extend_from_slice(&self.index);
        out.extend_from_slice(&(self.index.len() as u64).to_be_bytes());
        // The post-apply checksum, which we leave out.
        out.extend_from_slice(&[0; 8]);
        let (_, tail) = out.split_at(start);
        let length = self.offset + tail.len() as u64 + 8;
        let frames = self.checksum.then(RunningChecksum::from(&self.digest));
        let after_header = frames.then(RunningChecksum::of(tail));
        let file_checksum = RunningChecksum::of(&header).then(after_header).finish();
        out.extend_from_slice(&file_checksum.get().to_be_bytes());
        Ok(Finished { header, file_checksum, after_header, pages: self.pages, length })
    }

    fn check(&mut self, header: &Header) -> Result<(), EncodeError> {
        header.check()?;
        if !header.no_checksum {
            return Err(EncodeError::LtxChecksums);
        }
        if header.page_size != self.page_size {
            return Err(EncodeError::PageSize { header: header.page_size.get(), pages: self.page_size.get() });
        }
        let size_in_pages = header.size_in_pages;
        if let Some(page) = self.last.filter(|last| last.get() > size_in_pages) {
            return Err(EncodeError::BehindEnd { page, size_in_pages });
        }
        if header.is_snapshot() {
            self.note_missing(size_in_pages.saturating_add(1));
            if let Some(page) = self.missing {
                return Err(EncodeError::MissingPage(page));
            }
        }
        Ok(())
    }
}

/// Makes single frames, in any order, for [`Encoder::copy_frame`].
pub struct FrameEncoder {
    page_size: PageSize,
    table: CompressTable,
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameEncoder").field("page_size", &self.page_size).finish_non_exhaustive()
    }
}

impl FrameEncoder {
    /// An encoder for pages of this size.
    #[must_use]
    pub fn new(page_size: PageSize) -> Self {
        Self { page_size, table: CompressTable::small() }
    }

    /// Appends the frame of a page to `out`.
    ///
    /// # Errors
    /// When the content has not the length of a page, or LZ4 fails. Nothing is appended then.
    pub fn encode(
        &mut self,
        page: PageNumber,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<FrameChecksum, EncodeError> {
        let length = pack(self.page_size, page, content, &mut self.table, out)?;
        let block_length = u32::try_from(length - FRAME_HEADER_LENGTH).unwrap_or(u32::MAX);
        Ok(FrameChecksum::of(&frame_header(page, block_length), content))
    }
}

/// Appends the frame of a page to `out`, and returns its length.
fn pack(
    page_size: PageSize,
    page: PageNumber,
    content: &[u8],
    table: &mut CompressTable,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let (have, need) = (content.len(), page_size.bytes());
    if have != need {
        return Err(EncodeError::PageLength { page, have, need });
    }
    let start = out.len();
    out.resize(start + longest_frame(page_size), 0);
    let (_, frame) = out.split_at_mut(start);
    let (head, block) = frame.split_at_mut(FRAME_HEADER_LENGTH);
    let length = match compress_into_with_table(content, block, table) {
        Ok(length) => length,
        Err(error) => {
            out.truncate(start);
            let problem = error.to_string();
            return Err(EncodeError::Compress { page, problem });
        }
    };
    // A page has at most 64 KiB, and LZ4 makes it hardly longer.
    head.copy_from_slice(&frame_header(page, u32::try_from(length).unwrap_or(u32::MAX)));
    let length = FRAME_HEADER_LENGTH + length;
    out.truncate(start + length);
    Ok(length)
}

/// What stands before the LZ4 block of a page.
fn frame_header(page: PageNumber, block_length: u32) -> [u8; FRAME_HEADER_LENGTH] {
    let [n0, n1, n2, n3] = page.get().to_be_bytes();
    let [f0, f1] = FRAME_FLAG_SIZE.to_be_bytes();
    let [s0, s1, s2, s3] = block_length.to_be_bytes();
    [n0, n1, n2, n3, f0, f1, s0, s1, s2, s3]
}
