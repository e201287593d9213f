//! Page numbers and page sizes.

use std::fmt;
use std::num::NonZeroU32;

/// SQLite's PENDING_BYTE: the page that holds it carries the file locks and never data.
const PENDING_BYTE: u32 = 0x4000_0000;

/// The number of a page, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(NonZeroU32);

impl PageNumber {
    /// Page 1, which holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The page with this number, or `None` for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The place in an array that holds a value for each page: page 1 is at 0.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a database's pages in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

/// Not a page size of SQLite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page size is a power of two from 512 to 65536, not {0}")]
pub struct InvalidPageSize(pub u32);

impl PageSize {
    /// The smallest.
    pub const MIN: Self = Self(512);
    /// The largest.
    pub const MAX: Self = Self(65536);

    /// The page size of this many bytes.
    ///
    /// # Errors
    /// When it is not a power of two from 512 to 65536.
    pub const fn new(bytes: u32) -> Result<Self, InvalidPageSize> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Ok(Self(bytes))
        } else {
            Err(InvalidPageSize(bytes))
        }
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes in a page, for slices.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds byte 0x40000000 of the file. It is never stored, and reads as zeros.
    #[must_use]
    pub const fn lock_page(self) -> PageNumber {
        match PageNumber::new(PENDING_BYTE / self.0 + 1) {
            Some(page) => page,
            None => PageNumber::FIRST, // one more than a quotient is never zero
        }
    }

    /// Where a page begins in the database file, in bytes.
    #[must_use]
    pub const fn offset_of(self, page: PageNumber) -> u64 {
        (page.get() as u64 - 1) * self.0 as u64
    }

    /// The pages that a database of `size_in_pages` pages stores: all but the lock page.
    #[must_use]
    pub const fn stored_pages(self, size_in_pages: u32) -> u32 {
        if size_in_pages >= self.lock_page().get() { size_in_pages - 1 } else { size_in_pages }
    }
}

impl TryFrom<u32> for PageSize {
    type Error = InvalidPageSize;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn page_sizes_are_those_of_sqlite() {
        let sizes: Vec<u32> = (0..=70_000).filter(|&s| PageSize::new(s).is_ok()).collect();
        assert_eq!(sizes, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
    }

    #[test]
    fn the_lock_page_holds_the_pending_byte() {
        for (size, page) in [(512, 2_097_153), (4096, 262_145), (65536, 16_385)] {
            let size = PageSize::new(size).unwrap();
            assert_eq!(size.lock_page().get(), page);
            assert_eq!(size.offset_of(size.lock_page()), 0x4000_0000);
            assert_eq!(size.stored_pages(page - 1), page - 1);
            assert_eq!(size.stored_pages(page), page - 1);
            assert_eq!(size.stored_pages(page + 1), page);
        }
    }
}
