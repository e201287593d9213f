//! Putting a merged object into the bucket, and reading it back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bottomless_ltx::{Header, TRAILER_LENGTH, Trailer};
use bottomless_points::{Point, reach};
use bottomless_store::{CreateOutcome, StoreError, StoreErrorKind};

use super::MergeOptions;
use super::merge::Draft;
use super::read::Reader;
use crate::restore::blocking;
use crate::{Damage, Entry, History, HistoryError, ObjectName};

/// A PUT of up to this many bytes may take `timeout`.
const TIMED_LENGTH: u64 = 64 << 20;

/// A damaged object that we have created is removed only this soon after: later, others may stand on it.
const REMOVABLE: Duration = Duration::from_secs(60);

/// Whose object it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// We created it.
    Created,
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
        let need = header.database.map(|database| database.after).or(trailer.post_apply_checksum);
        if let Some(need) = need.filter(|&need| object.holds_every_page() && need != have) {
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
            Err(HistoryError::Damaged { .. }) if sent == Sent::Created => self.read_listed(&entry, options).await,
            read => read,
        };
        let read = match read {
            Err(cause @ HistoryError::Damaged { .. }) if sent == Sent::Created && !cause.is_outdated() => {
                return Err(self.take_back(key, cause, since).await);
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
        let sent = if length > options.put_length {
            let timeout = timeout(options.part_length.max(length / 10_000));
            let sent = self.bucket().write_parts(key, body, *time, options.part_length, timeout).await;
            sent.map(|e_tag| CreateOutcome::Created { e_tag })
        } else {
            match self.bucket().create(key, body, *time, timeout(length)).await {
                // Without conditional writes it may take the place of another, with the same content.
                Err(error) if error.kind() == StoreErrorKind::Unsupported => {
                    self.bucket().overwrite(key, body, *time, timeout(length)).await
                }
                sent => sent,
            }
        };
        match sent {
            Ok(CreateOutcome::Created { .. }) => Ok(Sent::Created),
            Ok(CreateOutcome::Exists) => Ok(Sent::Existed),
            Err(error) if error.kind().may_have_landed() => self.settle(name, draft, error).await,
            Err(error) => Err(error.into()),
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
