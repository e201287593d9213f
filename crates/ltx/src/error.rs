//! What can be wrong with a file, or with what is to be written into one.

use crate::{Checksum, PageNumber};

/// Bytes that are not an LTX file, or a damaged one. Offsets count from the start of the file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file ends too early.
    #[error("{what} needs {need} bytes at offset {offset}, but there are {have}")]
    TooShort {
        /// What was to be read.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        need: u64,
        /// What is there of it.
        have: u64,
    },
    /// The first four bytes are not `LTX1`.
    #[error("not an LTX file: the magic at offset 0 is {0:02x?}, not `LTX1`")]
    Magic([u8; 4]),
    /// A field of the header has a value that it can't have.
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    /// The page is an LZ4 frame, as versions of superfly/ltx before the block format wrote it.
    #[error(
        "page {page} at offset {offset} is in the older page format of LTX (LZ4 frames, page flags 0), which is not \
         supported: let the program that wrote it write a new snapshot with a current version"
    )]
    OldPageFormat {
        /// The page.
        page: u32,
        /// Where its frame begins.
        offset: u64,
    },
    /// A page frame is damaged, or is not the one that the index names.
    #[error("page frame at offset {offset}: {problem}")]
    Frame {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The page index is damaged, or does not fit the header.
    #[error("page index at offset {offset}: {problem}")]
    Index {
        /// Where the entry begins, or the field.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The trailer is damaged.
    #[error("trailer at offset {offset}: the {field} is {value:016x}: bit 63 must be set")]
    Trailer {
        /// Where the field begins.
        offset: u64,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The content is not what was written.
    #[error("the file checksum is {stored}, but the content has {computed}: the file is damaged")]
    FileChecksum {
        /// In the trailer.
        stored: Checksum,
        /// Of what was read.
        computed: Checksum,
    },
}

/// A field of the header has a value that it can't have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header field `{field}` at offset {offset}: {problem}")]
pub struct InvalidHeader {
    /// Its name.
    pub field: &'static str,
    /// Where it is in the file.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

/// What can't be written as an LTX file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Pages come in ascending order, each once.
    #[error("page {page} comes after page {previous}: pages must ascend")]
    Order {
        /// The page that was given.
        page: PageNumber,
        /// The one before it.
        previous: PageNumber,
    },
    /// The lock page is never stored.
    #[error("page {0} is the lock page, which is never stored")]
    LockPage(PageNumber),
    /// The content is not a page.
    #[error("page {page} has {have} bytes, but the page size is {need}")]
    PageLength {
        /// The page.
        page: PageNumber,
        /// The bytes given.
        have: usize,
        /// The page size.
        need: usize,
    },
    /// The bytes to be copied are not a frame.
    #[error("the {length} bytes to be copied are not a frame of page {page}")]
    NotAFrame {
        /// The page.
        page: PageNumber,
        /// The bytes given.
        length: usize,
    },
    /// The database ends before the last page that was given.
    #[error("page {page} lies behind the end of the database, which has {size_in_pages} pages")]
    BehindEnd {
        /// The last page that was given.
        page: PageNumber,
        /// The size in the header.
        size_in_pages: u32,
    },
    /// A file that begins with TXID 1 must hold every page.
    #[error("the file begins with the first transaction, so it must hold every page, but page {0} is missing")]
    MissingPage(u32),
    /// The pages were encoded with another page size.
    #[error("the header says page size {header}, but the pages have {pages} bytes")]
    PageSize {
        /// In the header.
        header: u32,
        /// Of the pages.
        pages: u32,
    },
    /// The header asks for LTX database checksums, which this encoder does not write.
    #[error("the header must have the flag that there are no LTX database checksums")]
    LtxChecksums,
    /// The header can't be written.
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    /// LZ4 could not compress the page.
    #[error("page {page} can't be compressed: {problem}")]
    Compress {
        /// The page.
        page: PageNumber,
        /// What LZ4 says.
        problem: String,
    },
}
