//! The checksums of the pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bottomless_ltx::{Checksum, PageNumber};

use super::PAGES_OFFSET;

/// Pages in a block that is read at a time.
const BLOCK_PAGES: u32 = 512;

/// The page checksums of the state file, read by blocks.
#[derive(Debug)]
pub(crate) struct PageChecksums<'a> {
    file: &'a File,
    /// The number of the block in memory, and its bytes.
    block: Option<(u32, Vec<u8>)>,
}

fn offset(page: u32) -> u64 {
    PAGES_OFFSET + u64::from(page - 1) * 8
}

impl<'a> PageChecksums<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, block: None }
    }

    /// The checksum of a page; None for one that is not there.
    pub(crate) fn get(&mut self, page: PageNumber) -> io::Result<Option<Checksum>> {
        let index = page.get() - 1;
        let (number, within) = (index / BLOCK_PAGES, (index % BLOCK_PAGES) as usize * 8);
        let block = match &mut self.block {
            Some((loaded, block)) if *loaded == number => block,
            other => {
                let block = read_some(self.file, offset(number * BLOCK_PAGES + 1), BLOCK_PAGES as usize * 8)?;
                &mut other.insert((number, block)).1
            }
        };
        let bytes = block.get(within..within + 8).and_then(|b| b.try_into().ok()).unwrap_or_default();
        Ok(Checksum::new(u64::from_le_bytes(bytes)))
    }

    /// The checksum of one page, read at this moment.
    pub(super) fn of_one(file: &File, page: PageNumber) -> io::Result<Option<Checksum>> {
        let bytes = read_some(file, offset(page.get()), 8)?.try_into().unwrap_or_default();
        Ok(Checksum::new(u64::from_le_bytes(bytes)))
    }

    /// Writes the checksums of some pages, given in ascending order.
    pub(crate) fn update(&mut self, updates: &[(PageNumber, Checksum)]) -> io::Result<()> {
        self.block = None;
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        for (i, (page, checksum)) in updates.iter().enumerate() {
            if run.is_empty() {
                start = page.get();
            }
            run.extend_from_slice(&checksum.get().to_le_bytes());
            let ends = updates.get(i + 1).is_none_or(|(next, _)| next.get() != page.get() + 1);
            if ends || run.len() >= 1 << 16 {
                self.file.write_all_at(&run, offset(start))?;
                run.clear();
            }
        }
        Ok(())
    }

    /// Forgets all pages after the first `size` ones.
    pub(crate) fn truncate(&mut self, size: u32) -> io::Result<()> {
        self.block = None;
        let end = PAGES_OFFSET + u64::from(size) * 8;
        if self.file.metadata()?.len() > end {
            self.file.set_len(end)?;
        }
        Ok(())
    }
}

/// Reads up to `length` bytes; fewer at the end of the file.
fn read_some(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_updated_and_forgotten() {
        let file = tempfile::tempfile().unwrap();
        let page = |n| PageNumber::new(n).unwrap();
        let sum = |n: u32| Checksum::from_crc(u64::from(n));
        let mut pages = PageChecksums::new(&file);
        let updates: Vec<_> = [1, 2, 3, 600, 601, 5000].map(|n| (page(n), sum(n))).to_vec();
        pages.update(&updates).unwrap();
        for n in [1, 2, 3, 600, 601, 5000] {
            assert_eq!(pages.get(page(n)).unwrap(), Some(sum(n)), "{n}");
        }
        for n in [4, 599, 602, 4999, 5001, u32::MAX] {
            assert_eq!(pages.get(page(n)).unwrap(), None, "{n}");
        }
        pages.truncate(600).unwrap();
        assert_eq!(pages.get(page(600)).unwrap(), Some(sum(600)));
        assert_eq!(pages.get(page(601)).unwrap(), None);
    }
}
