//! The frames that a merged object is to hold, in a temporary file, and the object that is put together from them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::{
    Checksum, DecodeError, EncodeError, Encoder, Finished, Frame, FrameChecksum, FrameEncoder, HEADER_LENGTH, Header,
    PageNumber, PageSize, WholeFrame, decode_frames,
};
use bottomless_store::Body;
use roaring::RoaringBitmap;

/// Frames are read and written together, up to about this many bytes.
const CHUNK: usize = 256 * 1024;

/// Where a frame is in the spool. Kept for every page of the merged object: 24 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    place: u64,
    checksum: FrameChecksum,
    page: PageNumber,
    length: u32,
}

/// The frames of several objects, in the order in which they came.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    end: Arc<AtomicU64>,
    slots: Vec<Slot>,
    /// The pages that are in, or were when they were picked.
    seen: Arc<RoaringBitmap>,
    /// The XOR of the pages' checksums, where they are added up.
    sum: Checksum,
}

/// Which frames of one object are wanted, and where they go.
#[derive(Debug)]
pub(super) struct Pickup {
    file: Arc<File>,
    end: Arc<AtomicU64>,
    seen: Arc<RoaringBitmap>,
    limit: u32,
    add_up: bool,
}

/// What was taken of a run.
#[derive(Debug)]
pub(super) struct Picked {
    slots: Vec<Slot>,
    sum: Checksum,
}

/// Takes the wanted frames of one run.
pub(super) struct Writer<'a> {
    pickup: &'a Pickup,
    place: u64,
    picked: Picked,
}

impl Spool {
    /// An empty one, in an unnamed file of this folder.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile_in(folder)?);
        let end = Arc::new(AtomicU64::new(0));
        Ok(Self { file, end, slots: Vec::new(), seen: Arc::new(RoaringBitmap::new()), sum: Checksum::EMPTY })
    }

    /// Where the next frame goes.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Forgets the frames from there on, of which none was kept. Nobody may be writing any more.
    pub(super) fn cut(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// For the next older object: of the pages up to `limit` those that are not in yet. The checksums of pages are worth
    /// adding up when every page of a database is to be here.
    pub(super) fn pickup(&self, limit: u32, add_up: bool) -> Pickup {
        let (file, end, seen) = (Arc::clone(&self.file), Arc::clone(&self.end), Arc::clone(&self.seen));
        Pickup { file, end, seen, limit, add_up }
    }

    /// For pages that come from elsewhere.
    pub(super) fn filler(&self, page_size: PageSize) -> Filler {
        let (file, end) = (Arc::clone(&self.file), Arc::clone(&self.end));
        Filler { file, end, page_size, encoder: FrameEncoder::new(page_size) }
    }

    /// The pages 1 to `last` that are not in, the lock page aside.
    pub(super) fn wanted(&self, page_size: PageSize, last: u32) -> RoaringBitmap {
        let mut wanted = RoaringBitmap::new();
        wanted.insert_range(1..=last);
        wanted.remove(page_size.lock_page().get());
        wanted - &*self.seen
    }

    /// What was picked of a whole object, which is verified.
    pub(super) fn keep(&mut self, picked: Vec<Picked>) {
        let seen = Arc::make_mut(&mut self.seen);
        self.slots.reserve(picked.iter().map(|part| part.slots.len()).sum());
        for part in picked {
            seen.extend(part.slots.iter().map(|slot| slot.page.get()));
            self.slots.extend(part.slots);
            self.sum = self.sum.join(part.sum);
        }
    }

    /// The first of the pages `behind` + 1 to `last` that is not in, the lock page aside.
    pub(super) fn missing(&self, page_size: PageSize, behind: u32, last: u32) -> Option<u32> {
        let lock_page = page_size.lock_page().get();
        let first = behind.checked_add(1).filter(|&first| first <= last)?;
        let lock_pages = u64::from((first..=last).contains(&lock_page));
        let all = u64::from(last - behind) - lock_pages;
        if self.seen.range_cardinality(first..=last) == all {
            return None;
        }
        (first..=last).find(|&page| page != lock_page && !self.seen.contains(page))
    }

    /// The XOR of the checksums of the pages that are in, of those whose checksums were added up.
    pub(super) fn sum(&self) -> Checksum {
        self.sum
    }

    /// Puts the object together: in memory, if that takes no more than `memory` bytes, else in another unnamed file of
    /// the folder.
    pub(super) fn assemble(
        mut self,
        header: &Header,
        memory: u64,
        folder: &Path,
    ) -> Result<(Body, Finished), AssembleError> {
        self.slots.sort_unstable_by_key(|slot| slot.page);
        // The index takes no more than 20 bytes for a page.
        let about = self.end() + 20 * self.slots.len() as u64;
        let mut out = Output { bytes: vec![0; HEADER_LENGTH], flushed: 0, file: None };
        if about > memory {
            out.file = Some(tempfile::tempfile_in(folder)?);
        }
        let mut encoder = Encoder::new(header.page_size);
        let mut frames = Vec::new();
        let mut rest = self.slots.as_slice();
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(neighbours(rest));
            rest = behind;
            let length = run.iter().map(|slot| slot.length as usize).sum();
            frames.resize(length, 0);
            self.file.read_exact_at(&mut frames, run.first().map_or(0, |slot| slot.place))?;
            let mut bytes = frames.as_slice();
            for slot in run {
                let (frame, behind) = bytes.split_at(slot.length as usize);
                bytes = behind;
                encoder.copy_frame(slot.page, frame, slot.checksum, &mut out.bytes)?;
            }
            out.flush_some()?;
        }
        let finished = encoder.finish(header, &mut out.bytes)?;
        Ok((out.finish(&finished)?, finished))
    }
}

/// Puts pages into the spool that come from elsewhere than from an object.
#[derive(Debug)]
pub(super) struct Filler {
    file: Arc<File>,
    end: Arc<AtomicU64>,
    page_size: PageSize,
    encoder: FrameEncoder,
}

impl Filler {
    /// Puts the pages into the spool that `read` has; a content of another length is none.
    pub(super) fn fill(
        &mut self,
        pages: &[u32],
        read: impl Fn(PageNumber, &mut Vec<u8>) -> bool,
    ) -> io::Result<Picked> {
        let mut picked = Picked { slots: Vec::with_capacity(pages.len()), sum: Checksum::EMPTY };
        let mut frames = Vec::new();
        let mut content = Vec::new();
        for page in pages.iter().copied().filter_map(PageNumber::new) {
            let start = frames.len();
            content.clear();
            if !read(page, &mut content) {
                continue;
            }
            let Ok(checksum) = self.encoder.encode(page, &content, &mut frames) else { continue };
            let length = u32::try_from(frames.len() - start).unwrap_or(u32::MAX);
            picked.slots.push(Slot { place: start as u64, checksum, page, length });
            picked.sum = picked.sum.toggle_page(Checksum::of_page(page, &content));
        }
        let place = self.end.fetch_add(frames.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(&frames, place)?;
        picked.slots.iter_mut().for_each(|slot| slot.place += place);
        Ok(picked)
    }

    /// Takes these pages out of what was picked.
    pub(super) fn take_out(&self, picked: &mut Picked, pages: &RoaringBitmap) -> io::Result<()> {
        let mut frame = Vec::new();
        for slot in picked.slots.extract_if(.., |slot| pages.contains(slot.page.get())) {
            frame.resize(slot.length as usize, 0);
            self.file.read_exact_at(&mut frame, slot.place)?;
            let place = Frame { page: slot.page, length: slot.length, offset: 0 };
            decode_frames(&frame, &[place], self.page_size, &mut Vec::new(), |page, content| {
                picked.sum = picked.sum.toggle_page(Checksum::of_page(page, content));
                Ok::<_, DecodeError>(())
            })
            .map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Picked {
    /// The pages that were taken.
    pub(super) fn pages(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|slot| slot.page.get())
    }

    /// The XOR of their checksums, where they were added up.
    pub(super) fn sum(&self) -> Checksum {
        self.sum
    }
}

impl Pickup {
    /// The same, where these pages are in already.
    pub(super) fn without(mut self, pages: &RoaringBitmap) -> Self {
        *Arc::make_mut(&mut self.seen) |= pages;
        self
    }
}

/// How many slots from the first on are neighbours in the spool, for reading them together.
fn neighbours(slots: &[Slot]) -> usize {
    let mut end = slots.first().map_or(0, |slot| slot.place);
    let start = end;
    let count = slots.iter().take_while(|slot| {
        let fits = slot.place == end && (end == start || end - start < CHUNK as u64);
        end += u64::from(slot.length);
        fits
    });
    count.count()
}

/// Why an object could not be put together.
#[derive(Debug)]
pub(super) enum AssembleError {
    Spool(io::Error),
    Encode(EncodeError),
}

impl From<io::Error> for AssembleError {
    fn from(error: io::Error) -> Self {
        Self::Spool(error)
    }
}

impl From<EncodeError> for AssembleError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// The object as it grows.
struct Output {
    bytes: Vec<u8>,
    /// Bytes that are in the file already.
    flushed: u64,
    file: Option<File>,
}

impl Output {
    fn flush_some(&mut self) -> io::Result<()> {
        if self.bytes.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.bytes, self.flushed)?;
            self.flushed += self.bytes.len() as u64;
            self.bytes.clear();
        }
        Ok(())
    }

    fn finish(mut self, finished: &Finished) -> io::Result<Body> {
        self.flush()?;
        match self.file {
            Some(file) => {
                file.write_all_at(&finished.header, 0)?;
                Ok(Body::File { file: Arc::new(file), length: finished.length })
            }
            None => {
                if let Some(start) = self.bytes.first_chunk_mut() {
                    *start = finished.header;
                }
                Ok(Body::Memory(self.bytes.into()))
            }
        }
    }
}

impl Pickup {
    fn wants(&self, page: PageNumber) -> bool {
        page.get() <= self.limit && !self.seen.contains(page.get())
    }

    /// Reserves the space for what is wanted of these frames.
    pub(super) fn writer(&self, frames: &[Frame]) -> Writer<'_> {
        let wanted = frames.iter().filter(|frame| self.wants(frame.page));
        let (count, length) =
            wanted.fold((0, 0), |(count, length), frame| (count + 1, length + u64::from(frame.length)));
        let place = self.end.fetch_add(length, Ordering::Relaxed);
        Writer { pickup: self, place, picked: Picked { slots: Vec::with_capacity(count), sum: Checksum::EMPTY } }
    }
}

impl Writer<'_> {
    /// Notes a frame, if it is wanted.
    pub(super) fn take(&mut self, whole: &WholeFrame<'_>) -> io::Result<()> {
        let &Frame { page, length, .. } = whole.frame;
        if !self.pickup.wants(page) {
            return Ok(());
        }
        if self.pickup.add_up {
            self.picked.sum = self.picked.sum.toggle_page(Checksum::of_page(page, whole.content));
        }
        self.pickup.file.write_all_at(whole.bytes, self.place)?;
        self.picked.slots.push(Slot { place: self.place, checksum: whole.checksum, page, length });
        self.place += u64::from(length);
        Ok(())
    }

    pub(super) fn finish(self) -> Picked {
        self.picked
    }
}
