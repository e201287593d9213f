//! Reading objects whole, as they were listed, with nothing unverified.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::{
    Checksum, DecodeError, Frame, PageSize, RunningChecksum, decode_file, decode_frames, decode_whole_frames,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::MergeOptions;
use super::spool::{Picked, Pickup};
use crate::object::{Opened, Run};
use crate::restore::{blocking, slice};
use crate::{Damage, Entry, History, HistoryError};

/// Reads objects and tells how far it is.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    history: &'a History,
    options: &'a MergeOptions,
    downloaded: AtomicU64,
    done: AtomicU64,
    total: u64,
}

/// What came of a run of frames: its part of the file checksum, and what was made of it.
type Part<T> = Result<(RunningChecksum, T), ReadError>;

/// Why a run can't be used.
pub(super) enum ReadError {
    Decode(DecodeError),
    Spool(std::io::Error),
}

impl From<DecodeError> for ReadError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl<'a> Reader<'a> {
    /// A reader that tells its progress, if anybody wants to know, in parts of `total` bytes.
    pub(super) fn new(history: &'a History, options: &'a MergeOptions, total: u64) -> Self {
        Self { history, options, downloaded: AtomicU64::new(0), done: AtomicU64::new(0), total }
    }

    /// Bytes that came from the store so far.
    pub(super) fn downloaded(&self) -> u64 {
        self.downloaded.load(Ordering::Relaxed)
    }

    /// The local copy of a small object, or the object; nothing of a large one.
    pub(super) async fn small(&self, entry: &Entry) -> Result<Option<Bytes>, HistoryError> {
        if entry.size > self.options.whole_length {
            return Ok(None);
        }
        if let Some(copy) = self.copy(entry).await? {
            return Ok(Some(copy));
        }
        self.small_from_store(entry).await
    }

    /// A small object; nothing of a large one.
    pub(super) async fn small_from_store(&self, entry: &Entry) -> Result<Option<Bytes>, HistoryError> {
        if entry.size > self.options.whole_length {
            return Ok(None);
        }
        let bytes = self.history.fetch_listed(entry, None).await?;
        self.downloaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some(bytes))
    }

    /// The local copy, if it is whole and of this object. A wrong one is as good as none.
    async fn copy(&self, entry: &Entry) -> Result<Option<Bytes>, HistoryError> {
        let Some(copies) = self.options.copies.clone() else { return Ok(None) };
        let listed = entry.clone();
        blocking(move || {
            let copy = copies.find(&listed).filter(|copy| copy.len() as u64 == listed.size)?;
            let decoded = decode_file(&copy, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).ok()?;
            let is_same = (decoded.header.min_txid, decoded.header.max_txid) == (listed.name.min, listed.name.max);
            is_same.then_some(copy)
        })
        .await
    }

    /// Reads header and tail, of `whole` or from the store.
    pub(super) async fn open(&self, entry: &Entry, whole: Option<Bytes>) -> Result<Opened, HistoryError> {
        let is_whole = whole.is_some();
        let object = self.history.open_listed(entry, whole).await?;
        if !is_whole {
            self.downloaded.fetch_add(object.frame, Ordering::Relaxed);
        }
        self.advance(object.frame);
        Ok(object)
    }

    /// Verifies all of an object, and puts the frames that are wanted into the spool.
    pub(super) async fn pick(
        &self,
        entry: &Entry,
        object: &Arc<Opened>,
        pickup: Pickup,
    ) -> Result<Vec<Picked>, HistoryError> {
        self.read(entry, object, picking(pickup, object.header.page_size)).await
    }

    /// Reads some runs of an object only, and puts the frames that are wanted into the spool. Nothing but what LZ4 says is
    /// known of them.
    pub(super) async fn pick_runs(
        &self,
        entry: &Entry,
        object: &Arc<Opened>,
        runs: Vec<Run>,
        pickup: Pickup,
    ) -> Result<Vec<Picked>, HistoryError> {
        let parts = self.read_runs(entry, object, runs, picking(pickup, object.header.page_size)).await?;
        Ok(parts.into_iter().map(|(_, picked)| picked).collect())
    }

    /// Verifies all of an object. Returns the XOR of the checksums of its pages: that of the database, if it holds all.
    pub(super) async fn verify(&self, entry: &Entry, object: &Arc<Opened>) -> Result<Checksum, HistoryError> {
        let page_size = object.header.page_size;
        let parts = self.read(entry, object, move |bytes, frames| page_checksums(bytes, frames, page_size)).await?;
        Ok(parts.into_iter().fold(Checksum::EMPTY, Checksum::join))
    }

    /// Reads all frames, `requests` runs at a time, and verifies the file checksum.
    async fn read<T: Send + 'static>(
        &self,
        entry: &Entry,
        object: &Arc<Opened>,
        work: impl Fn(&[u8], &[Frame]) -> Part<T> + Send + Sync + 'static,
    ) -> Result<Vec<T>, HistoryError> {
        let mut checksum = object.checksum;
        let runs = object.runs(self.options.run_length);
        let mut made = Vec::with_capacity(runs.len());
        for (part, what) in self.read_runs(entry, object, runs, work).await? {
            checksum.push(part);
            made.push(what);
        }
        checksum.verify(&object.tail).map_err(|error| HistoryError::damaged(&object.key, Damage::Decode(error)))?;
        Ok(made)
    }

    async fn read_runs<T: Send + 'static>(
        &self,
        entry: &Entry,
        object: &Arc<Opened>,
        runs: Vec<Run>,
        work: impl Fn(&[u8], &[Frame]) -> Part<T> + Send + Sync + 'static,
    ) -> Result<Vec<(RunningChecksum, T)>, HistoryError> {
        let work = Arc::new(work);
        futures::stream::iter(runs)
            .map(|run| self.run(entry, Arc::clone(object), run, Arc::clone(&work)))
            .buffered(self.options.requests.max(1))
            .boxed()
            .try_collect()
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        entry: &Entry,
        object: Arc<Opened>,
        run: Run,
        work: Arc<impl Fn(&[u8], &[Frame]) -> Part<T> + Send + Sync + 'static>,
    ) -> Result<(RunningChecksum, T), HistoryError> {
        let length = run.bytes.end - run.bytes.start;
        let bytes = match &object.whole {
            Some(whole) => slice(whole, &run),
            None => {
                let bytes = self.history.fetch_listed(entry, Some(run.bytes.clone())).await?;
                self.downloaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                bytes
            }
        };
        let key = object.key.clone();
        let part = blocking(move || {
            let frames = object.tail.frames.get(run.frames).unwrap_or_default();
            let part = work(&bytes, frames);
            // Both are held on to until the next run is asked for, else.
            drop((bytes, object, work));
            part
        })
        .await?;
        self.advance(length);
        part.map_err(|error| match error {
            ReadError::Decode(error) => HistoryError::damaged(key, Damage::Decode(error)),
            ReadError::Spool(cause) => self.options.spool_error(cause),
        })
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.options.progress {
            progress(done.min(self.total), self.total);
        }
    }

    /// All is done, even when not all was needed.
    pub(super) fn finish(&self) {
        let done = self.done.load(Ordering::Relaxed);
        if let Some(progress) = self.options.progress.as_ref().filter(|_| done < self.total) {
            progress(self.total, self.total);
        }
    }
}

/// What is done with a run of which the wanted frames are put into the spool.
fn picking(pickup: Pickup, page_size: PageSize) -> impl Fn(&[u8], &[Frame]) -> Part<Picked> + Send + Sync + 'static {
    move |bytes, frames| {
        let mut writer = pickup.writer(frames);
        let part = decode_whole_frames(bytes, frames, page_size, &mut Vec::new(), |frame| {
            writer.take(&frame).map_err(ReadError::Spool)
        })?;
        Ok((part, writer.finish()))
    }
}

fn page_checksums(bytes: &[u8], frames: &[Frame], page_size: PageSize) -> Part<Checksum> {
    let mut sum = Checksum::EMPTY;
    let part = decode_frames(bytes, frames, page_size, &mut Vec::new(), |page, content| {
        sum = sum.toggle_page(Checksum::of_page(page, content));
        Ok::<_, ReadError>(())
    })?;
    Ok((part, sum))
}
