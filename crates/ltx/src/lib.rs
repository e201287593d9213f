//! LTX version 3: bytes to structs and back.
//!
//! One LTX file holds the pages that one transaction, or a run of transactions, left behind. The byte layout is
//! the one of superfly/ltx; `docs/format.md` has it as a table, with what we put into the reserved bytes.
//!
//! This crate does no I/O, reads no clock and never allocates more than a small multiple of the bytes it is given.
//!
//! - Writing: [`Encoder`], one pass, page by page.
//! - Reading a file that is in memory: [`decode_file`].
//! - Reading a large file in pieces, in parallel: [`Header::decode`] on the first [`HEADER_LENGTH`] bytes,
//!   [`Tail::parse`] on the last bytes, [`decode_frames`] on any run of whole frames, and [`FileChecksum`] to join
//!   the checksums of the pieces.
//! - Merging files: [`decode_whole_frames`], and [`Encoder::copy_frame`] for the frames that are wanted.

mod checksum;
mod decode;
mod encode;
mod error;
mod header;
mod id;
mod page;
mod tail;
mod varint;

#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod property_test;

pub use checksum::{Checksum, FileChecksum, FrameChecksum, ParseChecksumError, RunningChecksum};
pub use decode::{DecodedFile, WholeFrame, decode_file, decode_frames, decode_whole_frames};
pub use encode::{Encoder, Finished, FrameEncoder};
pub use error::{DecodeError, EncodeError, InvalidHeader};
pub use header::{DatabaseChecksums, HEADER_LENGTH, Header, WalOrigin};
pub use id::{ParseTxidError, Position, Txid, WriterId};
pub use page::{InvalidPageSize, PageNumber, PageSize};
pub use tail::{Frame, TAIL_MIN_LENGTH, TRAILER_LENGTH, Tail, TailProgress, Trailer};

/// The end marker between the page frames and the index: a page header of zeros.
pub(crate) const END_MARKER_LENGTH: usize = 6;

/// What stands before the LZ4 block of a frame: page number (4 bytes), flags (2), size of the block (4).
pub(crate) const FRAME_HEADER_LENGTH: usize = 10;

/// Frame flag: the size of the LZ4 block follows the page header. Without it the page is an LZ4 *frame*, as
/// versions of superfly/ltx before the block format wrote it.
pub(crate) const FRAME_FLAG_SIZE: u16 = 1;
