//! CRC-64/GO-ISO, as LTX uses it: for pages, for databases, for files.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm::Crc64GoIso, Digest};

use crate::{DecodeError, FRAME_HEADER_LENGTH, HEADER_LENGTH, PageNumber, PageSize, Tail};

/// Always set in a checksum, so that zero means "none".
const FLAG: u64 = 1 << 63;

/// A checksum with bit 63 set, as LTX stores it: of a page, of a whole database, or of a file.
///
/// The checksum of a database is the XOR of its pages' mixed checksums (the lock page is not among them), with the bit
/// set again: see [`Checksum::toggle_page`]. Written as 16 hexadecimal digits, lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(NonZeroU64);

impl Checksum {
    /// The checksum of a database without pages.
    pub const EMPTY: Self = Self::from_crc(0);

    /// The checksum with these bits, or `None` when bit 63 is not set.
    #[must_use]
    pub const fn new(bits: u64) -> Option<Self> {
        if bits & FLAG == 0 { None } else { Some(Self::from_crc(bits)) }
    }

    /// The checksum with these bits and bit 63.
    #[must_use]
    pub const fn from_crc(crc: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add((crc | FLAG) - 1))
    }

    /// The bits, with bit 63.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The checksum of a page: over its number, 4 bytes big-endian, and its content.
    #[must_use]
    pub fn of_page(page: PageNumber, content: &[u8]) -> Self {
        let mut digest = Digest::new(Crc64GoIso);
        digest.update(&page.get().to_be_bytes());
        digest.update(content);
        Self::from_crc(digest.finalize())
    }

    /// The checksum of the database with this page added, or removed when it was in.
    ///
    /// A CRC is linear: the same change to two pages changes both checksums alike, and their XOR not at all. Handing a flag
    /// from one row to another can be such a change. So what is added up here are not the checksums as they are, which is
    /// what LTX does ([`Checksum::join`]), but mixed.
    #[must_use]
    pub const fn toggle_page(self, page: Self) -> Self {
        Self::from_crc(self.0.get() ^ mix(page.0.get()))
    }

    /// The checksum of all pages, from those of two parts of them. Of the pages' own checksums it is LTX's checksum of the
    /// database.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self::from_crc(self.0.get() ^ other.0.get())
    }
}

/// The finalizer of MurmurHash3 for 64 bits: one to one, and far from linear.
const fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.get())
    }
}

/// The text is not a checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is 16 hexadecimal digits in lower case, the first from 8 to f, not {0:?}")]
pub struct ParseChecksumError(String);

impl FromStr for Checksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::id::parse_hex(text).and_then(Self::new).ok_or_else(|| ParseChecksumError(text.into()))
    }
}

/// The CRC of a run of bytes, which can be joined with the CRC of the run that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningChecksum {
    crc: u64,
    length: u64,
}

impl RunningChecksum {
    /// The checksum of no bytes.
    pub const EMPTY: Self = Self { crc: 0, length: 0 };

    /// The checksum of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut digest = Digest::new(Crc64GoIso);
        digest.update(bytes);
        Self::from(&digest)
    }

    /// The checksum of these bytes and those of `next` behind them.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let crc = match (self.length, next.length) {
            (_, 0) => self.crc,
            (0, _) => next.crc,
            _ => multiply(x_to_the_bytes(next.length), self.crc) ^ next.crc,
        };
        Self { crc, length: self.length + next.length }
    }

    /// The checksum with bit 63 set, as it is stored.
    #[must_use]
    pub const fn finish(self) -> Checksum {
        Checksum::from_crc(self.crc)
    }
}

/// The CRC of one frame: of its header and of the page as it is expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameChecksum(u64);

impl FrameChecksum {
    pub(crate) fn of(head: &[u8; FRAME_HEADER_LENGTH], content: &[u8]) -> Self {
        let mut digest = Digest::new(Crc64GoIso);
        digest.update(head);
        digest.update(content);
        Self(digest.finalize())
    }

    /// The same as part of a file with pages of this size.
    pub(crate) fn running(self, page_size: PageSize) -> RunningChecksum {
        RunningChecksum { crc: self.0, length: (FRAME_HEADER_LENGTH + page_size.bytes()) as u64 }
    }
}

impl From<&Digest> for RunningChecksum {
    fn from(digest: &Digest) -> Self {
        Self { crc: digest.finalize(), length: digest.get_amount() }
    }
}

/// The CRC's polynomial, x^64 + x^4 + x^3 + x + 1, with the highest power in the lowest bit: so x^0 is bit 63.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

/// The product of two polynomials modulo the CRC's.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = 1 << 63;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    product
}

/// x^(2^n) modulo the CRC's polynomial, for each n up to what 2^63 bytes take.
const SQUARES: [u64; 67] = {
    let mut squares = [1 << 62; 67];
    let mut n = 1;
    while n < squares.len() {
        squares[n] = multiply(squares[n - 1], squares[n - 1]);
        n += 1;
    }
    squares
};

/// x^(8 * `length`): multiplying a CRC with it is what `length` zero bytes behind it do. A microsecond or two, where
/// the function that comes with crc-fast takes a hundred, which a commit would feel.
fn x_to_the_bytes(length: u64) -> u64 {
    let one = 1 << 63;
    SQUARES[3..]
        .iter()
        .enumerate()
        .filter(|(n, _)| length >> n & 1 == 1)
        .fold(one, |product, (_, &square)| multiply(product, square))
}

/// Joins the checksums of a file's pieces, from front to back, and compares the result with the file's own.
#[derive(Clone, Copy, Debug)]
pub struct FileChecksum(RunningChecksum);

impl FileChecksum {
    /// Starts with the header, the first 100 bytes of the file.
    #[must_use]
    pub fn new(header: &[u8; HEADER_LENGTH]) -> Self {
        Self(RunningChecksum::of(header))
    }

    /// Adds the next run of frames, as [`crate::decode_frames`] returns it.
    pub fn push(&mut self, frames: RunningChecksum) {
        self.0 = self.0.then(frames);
    }

    /// Adds the tail and compares.
    ///
    /// # Errors
    /// [`DecodeError::FileChecksum`] when the file is not what was written.
    pub fn verify(self, tail: &Tail) -> Result<(), DecodeError> {
        let computed = self.0.then(tail.checksum).finish();
        let stored = tail.trailer.file_checksum;
        if computed == stored { Ok(()) } else { Err(DecodeError::FileChecksum { stored, computed }) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// CRC-64/GO-ISO bit by bit: polynomial x^64 + x^4 + x^3 + x + 1 reflected, all ones in and out.
    pub(crate) fn crc64_bitwise(bytes: &[u8]) -> u64 {
        let mut crc = u64::MAX;
        for &byte in bytes {
            crc ^= u64::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xd800_0000_0000_0000 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_algorithm_is_crc64_go_iso() {
        assert_eq!(crc_fast::checksum(Crc64GoIso, b"123456789"), 0xb909_56c7_75a4_1001);
        assert_eq!(crc64_bitwise(b"123456789"), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn a_page_checksum_is_over_number_and_content() {
        let content = [7_u8; 512];
        let mut bytes = vec![0, 0, 1, 2];
        bytes.extend_from_slice(&content);
        let page = PageNumber::new(0x102).unwrap();
        assert_eq!(Checksum::of_page(page, &content).get(), crc64_bitwise(&bytes) | 1 << 63);
    }

    #[test]
    fn toggling_a_page_twice_removes_it() {
        let one = Checksum::of_page(PageNumber::FIRST, &[1; 512]);
        let two = Checksum::of_page(PageNumber::FIRST, &[2; 512]);
        assert_ne!(Checksum::EMPTY.toggle_page(one), Checksum::EMPTY);
        assert_eq!(
            Checksum::EMPTY.toggle_page(one).toggle_page(two).toggle_page(one),
            Checksum::EMPTY.toggle_page(two)
        );
        assert_eq!(Checksum::EMPTY.toggle_page(one).toggle_page(one), Checksum::EMPTY);
        let parts = [one, two].map(|page| Checksum::EMPTY.toggle_page(page));
        assert_eq!(parts[0].join(parts[1]), Checksum::EMPTY.toggle_page(one).toggle_page(two));
    }

    #[test]
    fn pages_that_change_alike_change_the_database() {
        let page = |number: u32, flag: u8| {
            let mut content = [u8::try_from(number).unwrap(); 4096];
            content[1234] = flag;
            Checksum::of_page(PageNumber::new(number).unwrap(), &content)
        };
        let ([one, two], [one_after, two_after]) = ([page(7, 0), page(9, 1)], [page(7, 1), page(9, 0)]);
        let sum = |one, two| Checksum::EMPTY.toggle_page(one).toggle_page(two);
        assert_eq!(one.join(two), one_after.join(two_after), "a CRC is linear");
        assert_ne!(sum(one, two), sum(one_after, two_after));
    }

    /// The definition, for who writes a reader of their own.
    #[test]
    fn the_sum_of_a_database_is_as_documented() {
        let page = Checksum::from_crc(0x8123_4567_89ab_cdef);
        assert_eq!(Checksum::EMPTY.toggle_page(page).get(), 0x8caf_1235_4dee_29c1);
    }

    #[test]
    fn a_checksum_has_one_written_form() {
        let checksum = Checksum::from_crc(0x12);
        assert_eq!(checksum.to_string(), "8000000000000012");
        assert_eq!("8000000000000012".parse(), Ok(checksum));
        assert!("0000000000000012".parse::<Checksum>().is_err());
        assert!("800000000000001".parse::<Checksum>().is_err());
        assert_eq!(Checksum::new(0x12), None);
    }

    #[test]
    fn runs_join_at_any_cut() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let whole = RunningChecksum::of(&bytes);
        for cut in [0, 1, 7, 100, 999, 1000] {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(RunningChecksum::of(front).then(RunningChecksum::of(back)), whole, "cut at {cut}");
        }
        assert_eq!(RunningChecksum::of(&[]), RunningChecksum::EMPTY);
    }

    #[test]
    fn runs_of_any_length_join_as_crc_fast_joins_them() {
        for length in [1, 2, 3, 100, 4096, 1 << 22, (1 << 32) + 5, 5 << 30, u64::MAX >> 1] {
            let (front, back) = (RunningChecksum::of(b"front"), RunningChecksum { crc: 0x1234_5678_9abc_def0, length });
            let expected = crc_fast::checksum_combine(Crc64GoIso, front.crc, back.crc, length);
            assert_eq!(front.then(back).crc, expected, "{length}");
        }
    }
}
