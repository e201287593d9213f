//! A writer of a WAL that does what SQLite's `wal.c` does, in the same order, and knows what it commits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a target says no")]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use bottomless_engine::wal::{Observed, WalTracker};

use super::file::{header, sum_of};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// A write was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed;

/// Where the log ends, as the WAL index says.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    frames: u32,
    sum: (u32, u32),
    size_in_pages: u32,
}

/// A savepoint: where the log ended, and which log it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Savepoint(End, u32);

/// A commit frame with its page's content, and the last frame of each page of its transaction.
#[derive(Debug, PartialEq, Eq)]
struct Commit {
    frame: u32,
    page: u32,
    size_in_pages: u32,
    content: Vec<u8>,
    frames: Vec<(u32, u32)>,
}

pub(super) struct Writer {
    image: Vec<u8>,
    page_size: usize,
    big_endian: bool,
    salts: [u32; 2],
    /// Bytes of a sector, when commits are padded to it.
    sector: Option<usize>,
    /// `locking_mode=EXCLUSIVE`: the shim sees no lock being taken.
    exclusive: bool,
    /// What all connections see, and what this one does.
    live: End,
    private: End,
    /// Times that the log was begun anew.
    restarts: u32,
    /// All frames are in the database file: the next writer begins anew.
    checkpointed: bool,
    /// From this frame on checksums are to be computed again.
    recompute_from: Option<u32>,
    tracker: Option<WalTracker>,
    /// The writes are another process's.
    unseen: bool,
    /// The tracker has told that a transaction begins.
    begun: bool,
    expected: Option<Commit>,
    reported: Option<Commit>,
    refuse: bool,
    fail_after: Option<u32>,
    /// Makes each page's content another.
    counter: u64,
    written: usize,
}

impl Writer {
    pub(super) fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let mut writer = Self {
            image: Vec::new(),
            page_size: 512,
            big_endian: input.arbitrary()?,
            salts: input.arbitrary()?,
            sector: *input.choose(&[None, Some(512), Some(4096), Some(1000)])?,
            exclusive: input.arbitrary()?,
            live: End::default(),
            private: End::default(),
            restarts: 0,
            checkpointed: false,
            recompute_from: None,
            tracker: None,
            unseen: false,
            begun: false,
            expected: None,
            reported: None,
            refuse: false,
            fail_after: None,
            counter: 0,
            written: 0,
        };
        writer.open_anew(input)?;
        Ok(writer)
    }

    pub(super) fn image(&self) -> &[u8] {
        &self.image
    }

    pub(super) fn written(&self) -> usize {
        self.written
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    pub(super) fn size_in_pages(&self) -> u32 {
        self.live.size_in_pages
    }

    /// The pages in the log as all connections see them.
    pub(super) fn committed(&self) -> BTreeMap<u32, Vec<u8>> {
        (1..=self.live.frames).map(|frame| (self.page_of(frame), self.content(frame).to_vec())).collect()
    }

    /// A connection opens the log: this one, or after all others have closed it a new one, of another page size.
    pub(super) fn open_anew(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        self.tracker = None;
        let size = 512 << *input.choose(&[0, 0, 0, 1, 3, 7])?;
        if input.arbitrary()? || self.image.is_empty() {
            self.image.clear();
            self.page_size = size;
            self.live = End::default();
            self.checkpointed = false;
        }
        self.reported = None;
        Ok(())
    }

    /// Copies the log into the database file.
    pub(super) fn checkpoint(&mut self, whole: bool) {
        self.checkpointed = whole && self.live.frames > 0;
    }

    pub(super) fn begin(&mut self) {
        if let Some(tracker) = self.tracker.as_mut().filter(|_| !self.exclusive) {
            tracker.begin();
        }
        self.private = self.live;
        self.begun = false;
        self.unseen = false;
    }

    pub(super) fn begin_unseen(&mut self) {
        self.private = self.live;
        self.unseen = true;
    }

    pub(super) fn fail_after(&mut self, writes: u32) {
        self.fail_after = Some(writes);
    }

    /// The shim will answer the page write of the commit frame with an error.
    pub(super) fn refuse_commit(&mut self) {
        self.refuse = true;
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint(self.private, self.restarts)
    }

    /// `sqlite3WalSavepointUndo`
    pub(super) fn rollback_to(&mut self, savepoint: Savepoint) {
        let end = if savepoint.1 == self.restarts { savepoint.0 } else { End { frames: 0, ..savepoint.0 } };
        if end.frames < self.private.frames {
            self.private = end;
            self.recompute_from = self.recompute_from.filter(|&from| from <= end.frames);
        }
    }

    pub(super) fn end_committed(&mut self) {
        self.live = self.private;
        self.end();
    }

    pub(super) fn end_rolled_back(&mut self) {
        self.private = self.live;
        self.end();
    }

    /// The shim has seen the error.
    pub(super) fn end_failed(&mut self) {
        if let Some(tracker) = &mut self.tracker {
            tracker.begin();
        }
        self.end_rolled_back();
    }

    fn end(&mut self) {
        self.recompute_from = None;
        self.refuse = false;
        self.fail_after = None;
        self.expected = None;
        self.unseen = false;
    }

    /// `walFrames`: a part of a transaction that spills, or, with the size of the database, the end of one.
    pub(super) fn write_frames(&mut self, pages: &[u32], commit: Option<u32>) -> std::result::Result<(), Failed> {
        let first = (self.private.frames != self.live.frames).then_some(self.live.frames + 1);
        self.restart();
        if self.private.frames == 0 {
            let bytes = header(self.big_endian, u32::try_from(self.page_size).unwrap(), self.salts);
            self.private.sum = sum_of(self.big_endian, (0, 0), &bytes[..24]);
            self.write(0, &bytes)?;
        }
        for (n, &page) in pages.iter().enumerate() {
            let is_last = n + 1 == pages.len();
            let before = first.and_then(|first| (first..=self.private.frames).rev().find(|&f| self.page_of(f) == page));
            if let Some(frame) = before.filter(|_| !is_last || commit.is_none()) {
                self.recompute_from = Some(self.recompute_from.map_or(frame, |from| from.min(frame)));
                let content = self.new_content();
                self.write(self.frame_offset(frame) + FRAME_HEADER, &content)?;
                continue;
            }
            let content = self.new_content();
            self.append(page, commit.filter(|_| is_last).unwrap_or(0), &content, None)?;
        }
        let Some(size) = commit else { return Ok(()) };
        assert!(self.expected.is_none(), "the tracker has not seen the commit {:?}", self.expected);
        let content = self.content(self.private.frames).to_vec();
        self.private.size_in_pages = size;
        if let Some(from) = self.recompute_from.take() {
            self.recompute(from)?;
        }
        self.pad(*pages.last().expect("a transaction has a page"), size, &content)
    }

    /// `walRestartLog`
    fn restart(&mut self) {
        if !std::mem::take(&mut self.checkpointed) {
            return;
        }
        self.restarts += 1;
        self.salts[0] = self.salts[0].wrapping_add(1);
        self.salts[1] = self.salts[1].wrapping_mul(0x9e37_79b1).wrapping_add(1);
        self.private.frames = 0;
        self.live = self.private;
    }

    /// `walWriteOneFrame`; with `sync_point`, in pieces where SQLite syncs in between.
    fn append(
        &mut self,
        page: u32,
        size: u32,
        content: &[u8],
        sync_point: Option<usize>,
    ) -> std::result::Result<(), Failed> {
        let frame = self.private.frames + 1;
        let head = self.frame_header(page, size, content);
        let offset = self.frame_offset(frame);
        self.write_in_pieces(offset, &head, sync_point)?;
        if size != 0 && sync_point.is_none() && !self.unseen {
            self.expected = Some(Commit {
                frame,
                page,
                size_in_pages: size,
                content: content.to_vec(),
                frames: self.frames_of_transaction(frame),
            });
        }
        self.write_in_pieces(offset + FRAME_HEADER, content, sync_point)?;
        self.private.frames = frame;
        assert!(self.unseen || self.begun, "a frame of a transaction was written before the tracker told of it");
        Ok(())
    }

    /// `walRewriteChecksums`
    fn recompute(&mut self, from: u32) -> std::result::Result<(), Failed> {
        let at = if from == 1 { 24 } else { self.frame_offset(from - 1) + 16 };
        self.private.sum = (self.word(at), self.word(at + 4));
        for frame in from..=self.private.frames {
            let offset = self.frame_offset(frame);
            let (page, size) = (self.word(offset), self.word(offset + 4));
            let content = self.content(frame).to_vec();
            let head = self.frame_header(page, size, &content);
            self.write(offset, &head)?;
        }
        Ok(())
    }

    /// Repeats the commit frame up to the end of a sector.
    fn pad(&mut self, page: u32, size: u32, content: &[u8]) -> std::result::Result<(), Failed> {
        let Some(sector) = self.sector else { return Ok(()) };
        let end = self.frame_offset(self.private.frames + 1).next_multiple_of(sector);
        while self.frame_offset(self.private.frames + 1) < end {
            self.append(page, size, content, Some(end))?;
        }
        Ok(())
    }

    /// `walWriteToLog`
    fn write_in_pieces(
        &mut self,
        offset: usize,
        data: &[u8],
        sync_point: Option<usize>,
    ) -> std::result::Result<(), Failed> {
        match sync_point {
            Some(point) if offset < point && offset + data.len() >= point => {
                let (before, after) = data.split_at(point - offset);
                self.write(offset, before)?;
                if after.is_empty() { Ok(()) } else { self.write(point, after) }
            }
            _ => self.write(offset, data),
        }
    }

    /// One `xWrite`, as the shim sees it.
    fn write(&mut self, offset: usize, data: &[u8]) -> std::result::Result<(), Failed> {
        if !self.unseen {
            self.observe(offset, data)?;
            match &mut self.fail_after {
                Some(0) => return Err(Failed),
                Some(writes) => *writes -= 1,
                None => {}
            }
        }
        if self.image.len() < offset + data.len() {
            self.image.resize(offset + data.len(), 0);
        }
        self.image[offset..offset + data.len()].copy_from_slice(data);
        self.written += data.len();
        Ok(())
    }

    fn observe(&mut self, offset: usize, data: &[u8]) -> std::result::Result<(), Failed> {
        let tracker = self.tracker.get_or_insert_with(WalTracker::default);
        if tracker.page_size().is_none() && offset != 0 {
            tracker.adopt_header(&self.image[..HEADER]);
        }
        match tracker.observe(offset as u64, data) {
            Observed::Other => {}
            Observed::Begin { .. } => self.begun = true,
            Observed::Misplaced => panic!("a write of {} bytes at {offset} is not understood", data.len()),
            Observed::Commit { frame, page, size_in_pages } => {
                self.begun = true;
                let frames = tracker.frames().into_iter().map(|(page, frame)| (page.get(), frame)).collect();
                let seen = Commit { frame, page: page.get(), size_in_pages, content: data.to_vec(), frames };
                assert_eq!(tracker.page_offset(frame), Some(offset as u64));
                return self.committed_as(seen);
            }
        }
        Ok(())
    }

    /// A commit that the tracker tells of is the one that is being written, or its frame repeated as padding.
    fn committed_as(&mut self, seen: Commit) -> std::result::Result<(), Failed> {
        let Some(expected) = self.expected.take() else {
            let before = self.reported.as_ref().expect("a commit that is none");
            let repeats = seen.frame > before.frame && (seen.page, &seen.content) == (before.page, &before.content);
            assert!(repeats, "{}/{} is no commit", seen.frame, seen.page);
            return Ok(());
        };
        assert!(seen == expected, "the tracker saw {:?}, but it is {:?}", seen.frames, expected.frames);
        self.reported = Some(seen);
        if self.refuse { Err(Failed) } else { Ok(()) }
    }

    /// The last frame of each page from the first frame of the transaction to `last`, whose header is written.
    fn frames_of_transaction(&self, last: u32) -> Vec<(u32, u32)> {
        let frames: BTreeMap<u32, u32> = (self.live.frames + 1..=last).map(|f| (self.page_of(f), f)).collect();
        frames.into_iter().collect()
    }

    fn frame_header(&mut self, page: u32, size: u32, content: &[u8]) -> Vec<u8> {
        let mut head: Vec<u8> = [page, size].into_iter().flat_map(u32::to_be_bytes).collect();
        let sum = sum_of(self.big_endian, self.private.sum, &head);
        self.private.sum = sum_of(self.big_endian, sum, content);
        let rest = [self.salts[0], self.salts[1], self.private.sum.0, self.private.sum.1];
        head.extend(rest.into_iter().flat_map(u32::to_be_bytes));
        head
    }

    fn new_content(&mut self) -> Vec<u8> {
        self.counter += 1;
        let mut content = vec![0; self.page_size];
        content[..8].copy_from_slice(&self.counter.to_be_bytes());
        content
    }

    fn frame_offset(&self, frame: u32) -> usize {
        HEADER + (frame as usize - 1) * (FRAME_HEADER + self.page_size)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(*self.image[at..].first_chunk().unwrap())
    }

    fn page_of(&self, frame: u32) -> u32 {
        self.word(self.frame_offset(frame))
    }

    fn content(&self, frame: u32) -> &[u8] {
        let start = self.frame_offset(frame) + FRAME_HEADER;
        &self.image[start..start + self.page_size]
    }
}
