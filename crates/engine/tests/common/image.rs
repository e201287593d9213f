//! The content of a database file, and what a transaction makes of it.

use bottomless_engine::shape;
use bottomless_ltx::{Checksum, PageNumber, PageSize};
use roaring::RoaringBitmap;

use super::random::Random;

/// A database file. Empty before the first transaction.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Image(pub Vec<u8>);

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("Image(empty)");
        }
        let sums: Vec<String> =
            self.pages().map(|(n, page)| Checksum::of_page(n, page).to_string()[12..].into()).collect();
        write!(f, "Image({} pages of {}: {})", self.size(), self.page_size().get(), sums.join(" "))
    }
}

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Some pages.
    Overwrite,
    /// Some pages, and new ones.
    Grow,
    /// New pages, one of which is never written.
    GrowWithHole,
    /// Fewer pages.
    Shrink,
    /// Every page, and another number of them.
    Vacuum,
    /// Another page size.
    PageSize,
}

impl Image {
    /// A first content, of pages of 512 bytes.
    pub fn first(random: &mut Random, pages: usize) -> Self {
        let mut bytes = vec![0; pages * 512];
        random.fill(&mut bytes);
        let mut image = Self(bytes);
        image.stamp(512, 1);
        image
    }

    pub fn page_size(&self) -> PageSize {
        shape(&self.0, self.0.len() as u64).map_or_else(|| PageSize::new(512).unwrap(), |(size, _)| size)
    }

    /// Pages.
    pub fn size(&self) -> u32 {
        (self.0.len() / self.page_size().bytes()) as u32
    }

    pub fn pages(&self) -> impl Iterator<Item = (PageNumber, &[u8])> {
        let bytes = self.page_size().bytes();
        (1..).filter_map(PageNumber::new).zip(self.0.chunks(bytes))
    }

    /// The database checksum.
    pub fn checksum(&self) -> Checksum {
        self.pages().fold(Checksum::EMPTY, |sum, (number, page)| sum.toggle_page(Checksum::of_page(number, page)))
    }

    fn stamp(&mut self, page_size: u32, counter: u32) {
        self.0[..16].copy_from_slice(b"SQLite format 3\0");
        self.0[16..18].copy_from_slice(&u16::try_from(page_size).unwrap().to_be_bytes());
        self.0[24..28].copy_from_slice(&counter.to_be_bytes());
        let size = self.0.len() as u32 / page_size;
        self.0[28..32].copy_from_slice(&size.to_be_bytes());
        self.0[92..96].copy_from_slice(&counter.to_be_bytes());
    }

    pub fn edited(&self, random: &mut Random, edit: Edit) -> Self {
        if self.0.is_empty() {
            let pages = 1 + random.below(6) as usize;
            return Self::first(random, pages);
        }
        let counter = u32::from_be_bytes(self.0[24..28].try_into().unwrap()) + 1;
        let (mut page_size, old) = (self.page_size().get() as usize, self.size() as usize);
        let mut next = self.clone();
        let some = 1 + random.below(3) as usize;
        let resized = |next: &mut Self, pages: usize, page_size: usize, random: &mut Random| {
            next.0 = vec![0; pages * page_size];
            random.fill(&mut next.0);
        };
        match edit {
            Edit::Grow | Edit::GrowWithHole => {
                next.0.resize((old + some + 1) * page_size, 0);
                let written = if edit == Edit::GrowWithHole { old + 1 } else { old };
                random.fill(&mut next.0[written * page_size..]);
            }
            Edit::Shrink => next.0.truncate(1.max(old - some.min(old - 1)) * page_size),
            Edit::Vacuum => resized(&mut next, 1 + random.below(8) as usize, page_size, random),
            Edit::PageSize => {
                page_size = if page_size == 512 { 1024 } else { 512 };
                resized(&mut next, 1 + random.below(8) as usize, page_size, random);
            }
            Edit::Overwrite => {}
        }
        for _ in 0..some {
            let page = random.below(next.0.len() as u64 / page_size as u64) as usize;
            if edit != Edit::GrowWithHole || page < old {
                random.fill(&mut next.0[page * page_size..][..page_size]);
            }
        }
        next.stamp(page_size as u32, counter);
        next
    }

    /// The pages that are to be written to make `next` of this, and one that is written as it was.
    pub fn written(&self, next: &Self, random: &mut Random) -> RoaringBitmap {
        let page_size = next.page_size().bytes();
        let zeros = vec![0; page_size];
        let mut pages = RoaringBitmap::new();
        for (number, page) in next.pages() {
            let at = number.index() * page_size;
            let old = self.0.get(at..at + page_size).unwrap_or(&zeros);
            if page != old || self.page_size() != next.page_size() || random.one_of(8) {
                pages.insert(number.get());
            }
        }
        pages
    }
}
