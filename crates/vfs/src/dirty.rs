//! Which parts of the main file a transaction has written.
//!
//! Kept in units of the smallest page size, not in pages: a VACUUM that changes the page size writes pages of the old
//! size whose content is of the new.

use bottomless_ltx::PageSize;
use roaring::{RoaringBitmap, RoaringTreemap};

const UNIT: u64 = 512;

/// The written parts of a file.
#[derive(Debug, Default)]
pub(crate) struct Dirty(RoaringTreemap);

impl Dirty {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn add(&mut self, offset: u64, length: usize) {
        self.0.insert_range(offset / UNIT..(offset + length as u64).div_ceil(UNIT));
    }

    /// The parts of a range that were not written yet, as offset and length, in ascending order.
    pub(crate) fn clean_parts(&self, offset: u64, length: u64) -> Vec<(u64, u64)> {
        let mut parts: Vec<(u64, u64)> = Vec::new();
        for unit in offset / UNIT..(offset + length).div_ceil(UNIT) {
            if self.0.contains(unit) {
                continue;
            }
            match parts.last_mut().filter(|(start, length)| start + length == unit * UNIT) {
                Some((_, length)) => *length += UNIT,
                None => parts.push((unit * UNIT, UNIT)),
            }
        }
        parts
    }

    /// The pages that hold written parts.
    pub(crate) fn pages(&self, page_size: PageSize) -> RoaringBitmap {
        let units = u64::from(page_size.get()) / UNIT;
        let mut pages = RoaringBitmap::new();
        for unit in &self.0 {
            // Page numbers end at 2^32 - 2.
            pages.insert(u32::try_from(unit / units + 1).unwrap_or(u32::MAX));
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_another_size_than_was_written_are_found() {
        let mut dirty = Dirty::default();
        dirty.add(1024, 1024);
        let pages = |size| dirty.pages(PageSize::new(size).unwrap()).into_iter().collect::<Vec<_>>();
        assert_eq!(pages(512), [3, 4]);
        assert_eq!(pages(1024), [2]);
        assert_eq!(pages(4096), [1]);
    }

    #[test]
    fn what_was_written_before_is_left_out() {
        let mut dirty = Dirty::default();
        dirty.add(4096, 1024);
        assert_eq!(dirty.clean_parts(3584, 2560), [(3584, 512), (5120, 1024)]);
        assert_eq!(dirty.clean_parts(4096, 1024), []);
    }
}
