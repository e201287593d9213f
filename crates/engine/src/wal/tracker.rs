//! Follows the writes to a WAL, and tells when one of them commits a transaction.
//!
//! A frame is two writes: its header, then its page. A transaction that spilled overwrites pages of its own earlier
//! frames in place, and rewrites headers after the commit frame; a ROLLBACK TO lets later frames take the place of
//! earlier ones; a rolled back transaction leaves frames that the next one overwrites from the same place. With
//! power-safe overwrite off, SQLite repeats the commit frame to fill a sector.

use bottomless_ltx::{PageNumber, PageSize};

use super::{FRAME_HEADER, FrameNumber, Geometry, WAL_HEADER, be32, page_size_of};

/// What a write to a WAL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Nothing that concerns a commit.
    Other,
    /// The file's header, or the first frame of a transaction.
    Begin {
        /// The number of that frame; 0 for the header.
        frame: FrameNumber,
    },
    /// A write that is neither a header nor a page of a frame, where one of these must be.
    Misplaced,
    /// The page of a commit frame: when this write is done, SQLite takes the transaction for written.
    Commit {
        /// The number of the commit frame.
        frame: FrameNumber,
        /// The page in it.
        page: PageNumber,
        /// Pages in the database after the transaction.
        size_in_pages: u32,
    },
}

/// The frames of the transaction that is being written.
#[derive(Debug, Default)]
pub struct WalTracker {
    geometry: Option<Geometry>,
    /// The number of the first frame, and the pages of it and of those behind it.
    first: FrameNumber,
    pages: Vec<PageNumber>,
    /// The database's size from the header of the last frame; not zero makes it a commit frame.
    size_in_pages: u32,
    /// The commit frame was written: what follows is padding, or another transaction.
    committed: bool,
    /// A header that was written again behind the commit frame. If a whole page follows it, it may begin another
    /// transaction: the one before it was rolled back after all, or has the same only page.
    rewritten: Option<(FrameNumber, PageNumber, u32)>,
}

impl WalTracker {
    /// Forgets the transaction: a writer has taken the lock anew, and nothing of an earlier one counts.
    pub fn begin(&mut self) {
        self.pages.clear();
        self.pages.shrink_to(1024);
        self.committed = false;
        self.rewritten = None;
        self.size_in_pages = 0;
    }

    /// The page size, once it is known.
    #[must_use]
    pub fn page_size(&self) -> Option<PageSize> {
        self.geometry.map(|geometry| geometry.0)
    }

    /// Takes the header of a WAL that exists already.
    pub fn adopt_header(&mut self, header: &[u8]) {
        self.geometry = page_size_of(header).map(Geometry);
        self.begin();
    }

    /// The pages of the transaction and the last frame of each, in ascending order of pages.
    #[must_use]
    pub fn frames(&self) -> Vec<(PageNumber, FrameNumber)> {
        let mut frames: Vec<_> = self.pages.iter().copied().zip(self.first..).collect();
        // Of the frames of one page the last counts.
        frames.sort_unstable_by_key(|(page, frame)| (*page, std::cmp::Reverse(*frame)));
        frames.dedup_by_key(|(page, _)| *page);
        frames
    }

    /// Where in the file the page of a frame is.
    #[must_use]
    pub fn page_offset(&self, frame: FrameNumber) -> Option<u64> {
        Some(self.geometry?.page(frame))
    }

    /// Takes note of a write before it is done.
    pub fn observe(&mut self, offset: u64, data: &[u8]) -> Observed {
        if offset == 0 && data.len() >= WAL_HEADER {
            self.adopt_header(data);
            return Observed::Begin { frame: 0 };
        }
        let Some(geometry) = self.geometry else {
            return Observed::Misplaced;
        };
        match geometry.locate(offset) {
            Some((frame, 0)) if data.len() == FRAME_HEADER => self.observe_header(frame, data),
            Some((frame, at)) if at == FRAME_HEADER as u64 && data.len() == geometry.0.bytes() => {
                self.observe_page(frame)
            }
            // Padding is written in pieces, up to the end of a sector.
            _ if self.committed => Observed::Other,
            _ => Observed::Misplaced,
        }
    }

    fn observe_header(&mut self, frame: FrameNumber, header: &[u8]) -> Observed {
        let (Some(page), Some(size)) = (be32(header, 0).and_then(PageNumber::new), be32(header, 4)) else {
            return Observed::Misplaced;
        };
        if self.committed {
            // Behind the commit frame SQLite rewrites the checksums in headers up to it; and it repeats that frame as
            // padding, the last time in pieces.
            let repeats = (self.pages.last(), self.size_in_pages) == (Some(&page), size);
            if frame <= self.last() || repeats {
                self.rewritten = Some((frame, page, size));
                return Observed::Other;
            }
            self.begin();
        }
        let known = self.pages.len();
        match frame.checked_sub(self.first).map(|i| i as usize).filter(|i| known > 0 && *i <= known) {
            Some(index) => self.pages.truncate(index),
            None => self.pages.clear(),
        }
        if self.pages.is_empty() {
            self.first = frame;
        }
        self.pages.push(page);
        self.size_in_pages = size;
        if self.pages.len() == 1 { Observed::Begin { frame } } else { Observed::Other }
    }

    fn observe_page(&mut self, frame: FrameNumber) -> Observed {
        let mut begins = false;
        if let Some((_, page, size)) = self.rewritten.take().filter(|(rewritten, ..)| *rewritten == frame) {
            self.begin();
            self.first = frame;
            self.pages.push(page);
            self.size_in_pages = size;
            begins = true;
        }
        let is_commit = !self.committed && self.size_in_pages != 0 && frame == self.last();
        match self.pages.last().filter(|_| is_commit) {
            Some(&page) => {
                self.committed = true;
                Observed::Commit { frame, page, size_in_pages: self.size_in_pages }
            }
            None if begins => Observed::Begin { frame },
            None => Observed::Other,
        }
    }

    /// The number of the last frame; meaningless without one.
    fn last(&self) -> FrameNumber {
        let behind = u32::try_from(self.pages.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_add(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;

    struct Writer {
        tracker: WalTracker,
        geometry: Geometry,
    }

    impl Writer {
        fn new() -> Self {
            let mut tracker = WalTracker::default();
            let mut header = [0; WAL_HEADER];
            header[..4].copy_from_slice(&0x377f_0683_u32.to_be_bytes());
            header[8..12].copy_from_slice(&512_u32.to_be_bytes());
            assert_eq!(tracker.observe(0, &header), Observed::Begin { frame: 0 });
            Self { tracker, geometry: Geometry(PageSize::new(512).unwrap()) }
        }

        fn header(&mut self, frame: u32, page: u32, size: u32) -> Observed {
            let mut header = [0; FRAME_HEADER];
            header[..4].copy_from_slice(&page.to_be_bytes());
            header[4..8].copy_from_slice(&size.to_be_bytes());
            self.tracker.observe(self.geometry.frame(frame), &header)
        }

        fn page(&mut self, frame: u32) -> Observed {
            self.tracker.observe(self.geometry.page(frame), &[0; PAGE])
        }

        fn frame(&mut self, frame: u32, page: u32, size: u32) -> Observed {
            self.header(frame, page, size);
            self.page(frame)
        }

        fn frames(&self) -> Vec<(u32, u32)> {
            self.tracker.frames().iter().map(|(page, frame)| (page.get(), *frame)).collect()
        }
    }

    fn commit(frame: u32, page: u32, size: u32) -> Observed {
        Observed::Commit { frame, page: PageNumber::new(page).unwrap(), size_in_pages: size }
    }

    #[test]
    fn a_commit_is_seen_at_the_page_of_its_last_frame() {
        let mut wal = Writer::new();
        assert_eq!(wal.header(1, 3, 0), Observed::Begin { frame: 1 });
        assert_eq!(wal.page(1), Observed::Other);
        assert_eq!(wal.header(2, 1, 7), Observed::Other);
        assert_eq!(wal.page(2), commit(2, 1, 7));
        assert_eq!(wal.frames(), [(1, 2), (3, 1)]);
    }

    #[test]
    fn the_next_transaction_begins_behind_the_commit_frame() {
        let mut wal = Writer::new();
        wal.frame(1, 1, 5);
        assert_eq!(wal.frame(2, 2, 5), commit(2, 2, 5));
        assert_eq!(wal.frames(), [(2, 2)]);
    }

    #[test]
    fn pages_overwritten_in_place_and_rewritten_headers_are_no_commit() {
        let mut wal = Writer::new();
        wal.frame(1, 3, 0);
        wal.frame(2, 4, 0);
        assert_eq!(wal.page(1), Observed::Other);
        assert_eq!(wal.frame(3, 1, 9), commit(3, 1, 9));
        // The checksums are rewritten from the first frame to the commit frame.
        for (frame, page, size) in [(1, 3, 0), (2, 4, 0), (3, 1, 9)] {
            assert_eq!(wal.header(frame, page, size), Observed::Other);
        }
        assert_eq!(wal.frames(), [(1, 3), (3, 1), (4, 2)]);
    }

    #[test]
    fn after_a_rollback_the_frames_are_overwritten_from_the_start() {
        let mut wal = Writer::new();
        wal.frame(1, 1, 4);
        for frame in 2..6 {
            wal.frame(frame, frame, 0);
        }
        assert_eq!(wal.frame(2, 9, 9), commit(2, 9, 9));
        assert_eq!(wal.frames(), [(9, 2)]);
    }

    #[test]
    fn after_a_rollback_to_a_savepoint_the_earlier_frames_count() {
        let mut wal = Writer::new();
        for frame in 1..6 {
            wal.frame(frame, frame + 10, 0);
        }
        wal.frame(3, 20, 0);
        assert_eq!(wal.frame(4, 21, 30), commit(4, 21, 30));
        assert_eq!(wal.frames(), [(11, 1), (12, 2), (20, 3), (21, 4)]);
    }

    #[test]
    fn a_writer_that_takes_the_lock_begins_anew() {
        let mut wal = Writer::new();
        wal.frame(1, 1, 0);
        wal.tracker.begin();
        // Another process has committed frames 1 to 6 in between.
        assert_eq!(wal.frame(7, 2, 3), commit(7, 2, 3));
        assert_eq!(wal.frames(), [(2, 7)]);
    }

    #[test]
    fn a_transaction_that_was_rolled_back_at_its_commit_is_overwritten_by_the_next() {
        let mut wal = Writer::new();
        wal.frame(1, 1, 4);
        wal.frame(2, 5, 0);
        assert_eq!(wal.frame(3, 6, 9), commit(3, 6, 9));
        // The store has refused it. With locking_mode=EXCLUSIVE no lock is taken anew.
        assert_eq!(wal.header(2, 7, 0), Observed::Other);
        assert_eq!(wal.page(2), Observed::Begin { frame: 2 });
        assert_eq!(wal.frame(3, 8, 9), commit(3, 8, 9));
        assert_eq!(wal.frames(), [(7, 2), (8, 3)]);
        // And as a transaction of one frame.
        assert_eq!(wal.frame(2, 9, 9), commit(2, 9, 9));
        assert_eq!(wal.frames(), [(9, 2)]);
    }

    #[test]
    fn padding_may_come_in_pieces() {
        let mut wal = Writer::new();
        wal.frame(1, 4, 0);
        wal.frame(2, 5, 6);
        // The header whole, the page in two.
        wal.header(3, 5, 6);
        let page = wal.geometry.page(3);
        assert_eq!(wal.tracker.observe(page, &[0; 100]), Observed::Other);
        assert_eq!(wal.tracker.observe(page + 100, &[0; PAGE - 100]), Observed::Other);
        // The next transaction begins behind it.
        assert_eq!(wal.frame(4, 7, 8), commit(4, 7, 8));
        assert_eq!(wal.frames(), [(7, 4)]);

        // The header in two.
        let mut wal = Writer::new();
        wal.frame(1, 5, 6);
        let frame = wal.geometry.frame(2);
        assert_eq!(wal.tracker.observe(frame, &[0; 8]), Observed::Other);
        assert_eq!(wal.tracker.observe(frame + 8, &[0; FRAME_HEADER - 8]), Observed::Other);
        assert_eq!(wal.page(2), Observed::Other);
        assert_eq!(wal.frame(3, 7, 8), commit(3, 7, 8));
    }

    #[test]
    fn a_write_that_fits_no_frame_is_told() {
        let mut wal = Writer::new();
        let misplaced = wal.tracker.observe(wal.geometry.page(2) + 8, &[0; PAGE]);
        assert_eq!(misplaced, Observed::Misplaced);
        assert_eq!(WalTracker::default().observe(32, &[0; FRAME_HEADER]), Observed::Misplaced);
    }

    #[test]
    fn of_several_frames_of_a_page_the_last_counts() {
        let mut wal = Writer::new();
        wal.frame(1, 5, 0);
        wal.frame(2, 6, 0);
        wal.frame(3, 5, 6);
        assert_eq!(wal.frames(), [(5, 3), (6, 2)]);
    }

    #[test]
    fn padding_repeats_the_commit_frame_as_a_transaction_of_one_page() {
        let mut wal = Writer::new();
        wal.frame(1, 5, 6);
        // It is told from a transaction by its content, which does not differ.
        assert_eq!(wal.frame(2, 5, 6), commit(2, 5, 6));
        assert_eq!(wal.frames(), [(5, 2)]);
    }
}
