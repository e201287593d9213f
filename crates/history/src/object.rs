//! Downloading one object: small ones whole, large ones by their ends and then in runs of frames.

use std::ops::Range;

use bottomless_ltx::{
    DecodeError, FileChecksum, HEADER_LENGTH, Header, PageNumber, TAIL_MIN_LENGTH, Tail, TailProgress,
};
use bottomless_store::Object;
use bytes::{Bytes, BytesMut};

use crate::pages::check_marker;
use crate::{Damage, Entry, History, HistoryError, Level, ObjectName};

/// Enough for the index of an object of some thousand pages, in bytes.
const INDEX_GUESS: u64 = 64 * 1024;

/// A guess at the length of a large object's tail, in bytes: the index takes some eight bytes for each page, and a
/// page that compresses well some 1,000.
fn guessed_tail_length(size: u64) -> u64 {
    (64 * 1024 + size / 128).min(size)
}

/// An object of which the header, the index and the trailer are known and fit each other.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) key: String,
    pub(crate) level: Level,
    pub(crate) header: Header,
    pub(crate) tail: Tail,
    /// Of the header, so far.
    pub(crate) checksum: FileChecksum,
    /// The whole object, if it is small.
    pub(crate) whole: Option<Bytes>,
    /// Bytes of header and tail.
    pub(crate) frame: u64,
}

/// Consecutive frames, by their places in the index, and where they are in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) frames: Range<usize>,
    pub(crate) bytes: Range<u64>,
}

impl Opened {
    /// The frames in runs of about `length` bytes; in one, when the object is small.
    pub(crate) fn runs(&self, length: u64) -> Vec<Run> {
        let length = if self.whole.is_some() { u64::MAX } else { length };
        let mut count = 0;
        self.tail
            .runs(length)
            .filter_map(|run| {
                let start = count;
                count += run.len();
                let bytes = run.first()?.offset..run.last()?.end();
                Some(Run { frames: start..count, bytes })
            })
            .collect()
    }

    /// Whether it is a marker: the pages that it stands for are objects of their own.
    pub(crate) fn is_marker(&self) -> bool {
        self.level == Level::PAGES
    }

    /// Whether the object holds every page that the database had after it, or stands for them.
    pub(crate) fn holds_every_page(&self) -> bool {
        let pages = self.header.page_size.stored_pages(self.header.size_in_pages);
        self.is_marker() || self.tail.frames.len() == pages as usize
    }
}

impl History {
    /// The whole object when it is not larger than `limit`, else nothing.
    pub(crate) async fn fetch_whole(&self, entry: &Entry, limit: u64) -> Result<Option<Bytes>, HistoryError> {
        if entry.size > limit {
            return Ok(None);
        }
        let key = entry.name.key(self.id());
        let bytes = self.bucket().get(&key).await?;
        check_size(&key, entry, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    /// Reads bytes of an object, or all of it; they are of the object that was listed, as far as ETags tell.
    pub(crate) async fn fetch_listed(&self, entry: &Entry, range: Option<Range<u64>>) -> Result<Bytes, HistoryError> {
        let key = entry.name.key(self.id());
        let (bytes, object) = self.bucket().fetch(&key, range).await?;
        check_listed(&key, entry, &object)?;
        Ok(bytes)
    }

    /// Reads header and tail, of `whole` or from the store.
    pub(crate) async fn open(&self, entry: &Entry, whole: Option<Bytes>) -> Result<Opened, HistoryError> {
        self.open_as(entry, whole, |key, entry, object| check_size(key, entry, object.size)).await
    }

    /// As [`History::open`], of the object that was listed, as far as ETags tell.
    pub(crate) async fn open_listed(&self, entry: &Entry, whole: Option<Bytes>) -> Result<Opened, HistoryError> {
        self.open_as(entry, whole, check_listed).await
    }

    async fn open_as(
        &self,
        entry: &Entry,
        whole: Option<Bytes>,
        check: impl Fn(&str, &Entry, &Object) -> Result<(), HistoryError>,
    ) -> Result<Opened, HistoryError> {
        let key = entry.name.key(self.id());
        let (head, end) = match &whole {
            Some(bytes) => (bytes.clone(), bytes.clone()),
            None => {
                let ((head, first), (end, last)) = futures::try_join!(
                    self.bucket().fetch(&key, Some(0..HEADER_LENGTH as u64)),
                    self.bucket().get_end(&key, guessed_tail_length(entry.size)),
                )?;
                check(&key, entry, &first)?;
                check(&key, entry, &last)?;
                (head, end)
            }
        };
        let damaged = |error: DecodeError| HistoryError::damaged(&key, Damage::Decode(error));
        let header = self.check_name(entry.name, Header::decode(&head).map_err(damaged)?)?;
        let tail = self.tail(&key, entry.size, Tail::longest(&header), end).await?;
        let level = entry.name.level;
        let checked = if level == Level::PAGES { check_marker(&header, &tail) } else { tail.check(&header) };
        checked.map_err(damaged)?;
        let Some(first_bytes) = head.first_chunk() else {
            let have = head.len() as u64;
            let error = DecodeError::TooShort { what: "the header", offset: 0, need: HEADER_LENGTH as u64, have };
            return Err(damaged(error));
        };
        let checksum = FileChecksum::new(first_bytes);
        let frame = HEADER_LENGTH as u64 + entry.size - tail.offset;
        Ok(Opened { key, level, header, tail, checksum, whole, frame })
    }

    /// The pages that an object holds, from its index.
    ///
    /// # Errors
    /// As [`History::ends`].
    pub async fn pages(&self, name: ObjectName) -> Result<Vec<PageNumber>, HistoryError> {
        let key = name.key(self.id());
        let (end, object) = self.bucket().get_end(&key, INDEX_GUESS).await?;
        let tail = self.tail(&key, object.size, u64::MAX, end).await?;
        Ok(tail.frames.iter().map(|frame| frame.page).collect())
    }

    /// Reads the tail from the last bytes of the object, and fetches more of them until it is complete; a damaged one may
    /// say that it is longer than the `longest` that there can be.
    async fn tail(&self, key: &str, size: u64, longest: u64, mut end: Bytes) -> Result<Tail, HistoryError> {
        loop {
            match Tail::parse(size, &end).map_err(|error| HistoryError::damaged(key, Damage::Decode(error)))? {
                TailProgress::Complete(tail) => return Ok(tail),
                TailProgress::NeedMore { bytes } => {
                    let have = end.len() as u64;
                    let until = size - have;
                    if have.saturating_add(bytes) > longest {
                        let problem = format!(
                            "with it the file ends with {} bytes, but at most {longest} make sense",
                            have + bytes
                        );
                        let error = DecodeError::Index { offset: size.saturating_sub(TAIL_MIN_LENGTH as u64), problem };
                        return Err(HistoryError::damaged(key, Damage::Decode(error)));
                    }
                    let front = self.bucket().get_range(key, until.saturating_sub(bytes)..until).await?;
                    if front.is_empty() {
                        let have = have + front.len() as u64;
                        return Err(HistoryError::damaged(key, Damage::Size { listed: size, have }));
                    }
                    let mut joined = BytesMut::with_capacity(front.len() + end.len());
                    joined.extend_from_slice(&front);
                    joined.extend_from_slice(&end);
                    end = joined.freeze();
                }
            }
        }
    }
}

fn check_size(key: &str, entry: &Entry, have: u64) -> Result<(), HistoryError> {
    let listed = entry.size;
    if have == listed { Ok(()) } else { Err(HistoryError::damaged(key, Damage::Size { listed, have })) }
}

/// Whether a reply is of the object that was listed. Of an object whose ETag one of the two does not tell, only the size
/// is known.
fn check_listed(key: &str, entry: &Entry, object: &Object) -> Result<(), HistoryError> {
    check_size(key, entry, object.size)?;
    match (&entry.e_tag, &object.e_tag) {
        (Some(listed), Some(have)) if listed != have => {
            Err(HistoryError::damaged(key, Damage::Replaced { listed: listed.clone(), have: have.clone() }))
        }
        _ => Ok(()),
    }
}
