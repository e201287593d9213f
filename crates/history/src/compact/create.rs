//! Putting a merged object into the bucket, and reading it back.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bottomless_ltx::{
    Checksum, DecodeError, FileChecksum, HEADER_LENGTH, Header, TAIL_MIN_LENGTH, TRAILER_LENGTH, Tail, TailProgress,
    Trailer, decode_frames,
};
use bottomless_points::{Point, reach};
use bottomless_store::{Body, CreateOutcome, StoreError, StoreErrorKind};

use super::MergeOptions;
use super::merge::Draft;
use super::read::Reader;
use crate::restore::blocking;
use crate::{Damage, Entry, History, HistoryError, Level, ObjectName};

/// A PUT of up to this many bytes may take `timeout`.
const TIMED_LENGTH: u64 = 64 << 20;

/// A damaged object that we have created is removed only this soon after: later, others may stand on it.
const REMOVABLE: Duration = Duration::from_secs(60);

/// Whose object it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// We created it.
    Created,
    /// We wrote it without a condition: it may stand in another's place, or another in its.
    Written,
    /// It is what we sent, but the reply to that was lost.
    Landed,
    /// It existed.
    Existed,
}

/// A whole object.
pub(crate) struct ReadBack {
    pub(crate) header: Header,
    /// How many pages it holds.
    pub(super) pages: u32,
    pub(crate) trailer: Trailer,
}

impl Sent {
    /// Whether we were told that it is written.
    fn is_new(self) -> bool {
        matches!(self, Self::Created | Self::Written)
    }
}

impl History {
    /// Downloads an object whole and verifies all of it: that it is the one that was listed, its name, its file checksum,
    /// and if it holds every page and names a database checksum, that its pages make that one.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] when it is not what it should be, [`HistoryError::is_outdated`] when it is not there any
    /// more as it was listed, and those of the store.
    pub async fn read_back(&self, entry: &Entry, options: &MergeOptions) -> Result<(), HistoryError> {
        self.read_listed(entry, options).await.map(|_| ())
    }

    pub(super) async fn read_listed(&self, entry: &Entry, options: &MergeOptions) -> Result<ReadBack, HistoryError> {
        self.read_telling(entry, &MergeOptions { progress: None, copies: None, ..options.clone() }).await
    }

    /// As [`History::read_back`]; what the object says at its two ends. The progress is that of this object.
    pub(crate) async fn read_telling(&self, entry: &Entry, options: &MergeOptions) -> Result<ReadBack, HistoryError> {
        let reader = Reader::new(self, options, entry.size);
        let whole = reader.small_from_store(entry).await?;
        let object = Arc::new(reader.open(entry, whole).await?);
        let have = reader.verify(entry, &object).await?;
        let header = object.header.clone();
        let trailer = object.tail.trailer;
        let need = header.database.map(|database| database.after);
        // The pages of a marker are elsewhere.
        let holds_every_page = entry.name.level != Level::PAGES && object.holds_every_page();
        if let Some(need) = need.filter(|&need| holds_every_page && need != have) {
            return Err(HistoryError::damaged(&object.key, Damage::Pages { have, need }));
        }
        let pages = u32::try_from(object.tail.frames.len()).unwrap_or(u32::MAX);
        Ok(ReadBack { header, pages, trailer })
    }

    /// Creates the object and reads it back: what is there then, whether this call created it, and its pages.
    pub(super) async fn create_merged(
        &self,
        name: ObjectName,
        draft: Draft,
        options: &MergeOptions,
    ) -> Result<(Entry, bool, u32), HistoryError> {
        let key = name.key(self.id());
        let sent = self.send(&key, name, &draft, options).await?;
        let since = (Instant::now(), SystemTime::now());
        reach(Point::CompactCreated);
        let entry = self.look(&key, name).await?;
        let read = match self.read_listed(&entry, options).await {
            // Was it the way here?
            Err(HistoryError::Damaged { .. }) if sent.is_new() => self.read_listed(&entry, options).await,
            read => read,
        };
        let read = match read {
            Err(cause @ HistoryError::Damaged { .. }) if sent.is_new() && !cause.is_outdated() => {
                return Err(match sent {
                    Sent::Created => self.take_back(key, cause, since).await,
                    _ => HistoryError::ReadBack { key, cause: Box::new(cause), removed: false },
                });
            }
            read => read?,
        };
        self.check_agreed(&key, &draft, &read)?;
        reach(Point::CompactReadBack);
        let is_ours = sent != Sent::Existed;
        if let Some(copies) = options.copies.clone()
            && is_ours
            && read.trailer.file_checksum == draft.finished.file_checksum
            && entry.size == draft.finished.length
        {
            let (entry, body) = (entry.clone(), draft.body);
            blocking(move || copies.keep(&entry, &body)).await?;
        }
        Ok((entry, is_ours, read.pages))
    }

    async fn send(
        &self,
        key: &str,
        name: ObjectName,
        draft: &Draft,
        options: &MergeOptions,
    ) -> Result<Sent, HistoryError> {
        let Draft { body, time, .. } = draft;
        let timeout = |length: u64| {
            let times = u32::try_from(length.div_ceil(TIMED_LENGTH)).unwrap_or(u32::MAX).max(1);
            options.timeout.saturating_mul(times)
        };
        let length = body.len();
        let (sent, created) = if length > options.put_length {
            self.check_draft(key, draft, options).await?;
            let timeout = timeout(options.part_length.max(length / 10_000));
            let sent = self.bucket().create_parts(key, body, *time, options.part_length, timeout).await;
            (sent, Sent::Written)
        } else {
            match self.bucket().create(key, body, *time, timeout(length)).await {
                // Without conditional writes it may take the place of another, with the same content.
                Err(error) if error.kind() == StoreErrorKind::Unsupported => {
                    self.check_draft(key, draft, options).await?;
                    (self.bucket().overwrite(key, body, *time, timeout(length)).await, Sent::Written)
                }
                sent => (sent, Sent::Created),
            }
        };
        match sent {
            Ok(CreateOutcome::Created { .. }) => Ok(created),
            Ok(CreateOutcome::Exists) => Ok(Sent::Existed),
            Err(error) if error.kind().may_have_landed() => self.settle(name, draft, error).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the body is what was put together, before it is sent to where it can't be taken back.
    async fn check_draft(&self, key: &str, draft: &Draft, options: &MergeOptions) -> Result<(), HistoryError> {
        let (body, need, run_length) = (draft.body.clone(), draft.finished.file_checksum, options.run_length);
        match blocking(move || verify_body(&body, need, run_length)).await? {
            Ok(()) => Ok(()),
            Err(BodyError::Disk(cause)) => Err(options.spool_error(cause)),
            Err(BodyError::Decode(error)) => {
                let what = format!("what was put together for {key} has changed on the disk or in memory: {error}");
                Err(options.spool_error(io::Error::new(io::ErrorKind::InvalidData, what)))
            }
        }
    }

    /// Whether an object is there whose PUT was not answered.
    async fn settle(&self, name: ObjectName, draft: &Draft, error: StoreError) -> Result<Sent, HistoryError> {
        match self.ends(name).await {
            Ok(ends) if ends.header == draft.header && ends.trailer.file_checksum == draft.finished.file_checksum => {
                Ok(Sent::Landed)
            }
            Ok(_) => Ok(Sent::Existed),
            Err(_) => Err(error.into()),
        }
    }

    /// What the store says of an object.
    async fn look(&self, key: &str, name: ObjectName) -> Result<Entry, HistoryError> {
        let (_, object) = self.bucket().get_end(key, TRAILER_LENGTH as u64).await?;
        Ok(Entry { name, size: object.size, modified: object.modified, e_tag: object.e_tag })
    }

    /// Whether an object that another may have made leads from the same state to the same state.
    fn check_agreed(&self, key: &str, draft: &Draft, read: &ReadBack) -> Result<(), HistoryError> {
        let (Some(ours), Some(theirs)) = (draft.header.database, read.header.database) else { return Ok(()) };
        let damage = if ours.after != theirs.after {
            Damage::Contradicted { have: theirs.after, witness: draft.newest.clone(), need: ours.after }
        } else if ours.before != theirs.before {
            let previous = "what stands before it".to_owned();
            Damage::Chain { before: theirs.before, previous, after: ours.before }
        } else {
            return Ok(());
        };
        Err(HistoryError::damaged(key, damage))
    }

    /// Removes a damaged object that we have just created, so that nobody reads it.
    async fn take_back(&self, key: String, cause: HistoryError, since: (Instant, SystemTime)) -> HistoryError {
        // One of the clocks goes on while the machine sleeps.
        let age = since.0.elapsed().max(since.1.elapsed().unwrap_or(Duration::MAX));
        let removed = age < REMOVABLE && self.bucket().delete(&key).await.is_ok();
        HistoryError::ReadBack { key, cause: Box::new(cause), removed }
    }
}

/// Why a body can't be sent.
#[derive(Debug)]
enum BodyError {
    Disk(io::Error),
    Decode(DecodeError),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<DecodeError> for BodyError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Reads an object that is to be sent, in runs of about `run_length` bytes, and holds it against its file checksum.
fn verify_body(body: &Body, need: Checksum, run_length: u64) -> Result<(), BodyError> {
    let length = body.len();
    let head = body.read(0..length.min(HEADER_LENGTH as u64))?;
    let header = Header::decode(&head)?;
    let mut have = TAIL_MIN_LENGTH as u64;
    let tail = loop {
        match Tail::parse(length, &body.read(length.saturating_sub(have)..length)?)? {
            TailProgress::Complete(tail) => break tail,
            TailProgress::NeedMore { bytes } => have += bytes,
        }
    };
    tail.check(&header)?;
    let mut checksum =
        FileChecksum::new(head.first_chunk().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
    let mut scratch = Vec::new();
    for run in tail.runs(run_length) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let frames = body.read(first.offset..last.end())?;
        checksum.push(decode_frames(&frames, run, header.page_size, &mut scratch, |_, _| Ok::<_, DecodeError>(()))?);
    }
    checksum.verify(&tail)?;
    let stored = tail.trailer.file_checksum;
    if stored == need { Ok(()) } else { Err(DecodeError::FileChecksum { stored, computed: need }.into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::fs::FileExt;

    use bottomless_ltx::{DatabaseChecksums, Encoder, PageNumber, PageSize, Txid, WriterId};

    use super::*;

    fn object() -> (Vec<u8>, Checksum) {
        let page_size = PageSize::new(512).unwrap();
        let mut encoder = Encoder::new(page_size);
        let mut bytes = vec![0; HEADER_LENGTH];
        // Nothing repeats: packed pages whose bytes differ may be the same.
        let mut random = 1_u32;
        let mut byte = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        };
        for page in (1..=40).filter_map(PageNumber::new) {
            let content: Vec<u8> = (0..512).map(|_| byte()).collect();
            encoder.encode_page(page, &content, &mut bytes).unwrap();
        }
        let unknown = DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::EMPTY };
        let header = Header::new(page_size, 40, (Txid::new(2), Txid::new(3)), 0, WriterId(1), unknown);
        let finished = encoder.finish(&header, &mut bytes).unwrap();
        bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
        (bytes, finished.file_checksum)
    }

    #[test]
    fn a_body_that_changes_before_it_is_sent_is_found() {
        let (bytes, sum) = object();
        for run_length in [0, 100, 1 << 20] {
            verify_body(&Body::Memory(bytes.clone().into()), sum, run_length).unwrap();
        }
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        let body = Body::File { file: Arc::clone(&file), length: bytes.len() as u64 };
        verify_body(&body, sum, 100).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            file.write_all_at(&[byte ^ 0x10], at as u64).unwrap();
            assert!(verify_body(&body, sum, 100).is_err(), "byte {at} of {}", bytes.len());
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
        file.set_len(bytes.len() as u64 - 1).unwrap();
        assert!(matches!(verify_body(&body, sum, 100), Err(BodyError::Disk(_))));
    }
}
