//! From objects to a database file.
//!
//! Objects are applied from the newest to the oldest, and of each page the first version that comes is written: so
//! every page is written once, and nothing older than an object that holds every page is downloaded. Small objects are
//! downloaded ahead, some at a time; the runs of a large one are downloaded, expanded and written in parallel.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bottomless_ltx::{Checksum, DecodeError, PageSize, Position, RunningChecksum, Txid, decode_frames};
use bottomless_points::{Point, reach};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::chain::{Chain, Link};
use crate::object::{Opened, Run};
use crate::pages::{Marker, Outcome, Torn};
use crate::target::{Target, Writer};
use crate::time::from_milliseconds;
use crate::{Damage, Entry, History, HistoryError, Plan, PlanError};

/// Called with the bytes that are done and the bytes of the whole plan; must return at once. It may be called from
/// several tasks in turn, and the last call has both equal.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// What the target file holds already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The position of the file.
    pub position: Position,
    /// Its page size.
    pub page_size: PageSize,
    /// The checksums of its pages, page 1 first; `None` for the lock page.
    pub page_checksums: Vec<Option<Checksum>>,
}

/// How to restore.
#[derive(Clone)]
pub struct RestoreOptions {
    /// What the target holds already: only what came later is applied.
    pub base: Option<Base>,
    /// Whom to tell how far it is.
    pub progress: Option<Progress>,
    /// Requests at the same time.
    pub requests: usize,
    /// Objects up to this many bytes are downloaded with one request.
    pub whole_length: u64,
    /// So many bytes of such objects are downloaded ahead of their turn, with up to `requests` requests.
    pub ahead_length: u64,
    /// Larger ones are downloaded in runs of about this many bytes. Up to half of `requests` of them are in memory.
    pub run_length: u64,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            base: None,
            progress: None,
            requests: 16,
            whole_length: 4 << 20,
            ahead_length: 16 << 20,
            run_length: 4 << 20,
        }
    }
}

impl fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreOptions")
            .field("base", &self.base.as_ref().map(|base| base.position))
            .field("requests", &self.requests)
            .field("whole_length", &self.whole_length)
            .field("ahead_length", &self.ahead_length)
            .field("run_length", &self.run_length)
            .finish_non_exhaustive()
    }
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the file is now.
    pub position: Position,
    /// When that transaction was made, as the newest object that was applied says; `None` when the base was there
    /// already.
    pub time: Option<SystemTime>,
    /// Its page size.
    pub page_size: PageSize,
    /// Its pages, the lock page among them.
    pub size_in_pages: u32,
    /// The checksums of its pages, page 1 first; `None` for the lock page.
    pub page_checksums: Vec<Option<Checksum>>,
    /// The newest object that was applied; `None` when the base was there already.
    pub last_object: Option<Entry>,
    /// That object does not say which database checksum it leaves: another program wrote it.
    pub is_foreign: bool,
    /// Bytes that were downloaded.
    pub bytes: u64,
}

/// How an object is applied.
pub(crate) struct Worker<'a> {
    pub(crate) history: &'a History,
    pub(crate) options: &'a RestoreOptions,
    done: AtomicU64,
    total: u64,
}

impl History {
    /// Makes `into` the database at the end of the plan, and verifies it.
    ///
    /// The file gets its final length first; its lock page stays a hole. It is not synced. After an error, and when
    /// the future is dropped, the file holds a mixture: throw it away, also when it held a base. (A blocking
    /// write that is under way may then still end a moment later.)
    ///
    /// The handle is shared, and never duplicated: on Unix, closing a duplicate would release the locks that
    /// this process has on the file.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] names the object that is wrong; when an object has vanished since it was listed
    /// ([`HistoryError::is_vanished`]), list, plan and restore again. Where the plan begins with a marker, a fold that goes on
    /// meanwhile looks as damage: [`History::restore_around`] tells one from the other.
    pub async fn restore(
        &self,
        plan: &Plan,
        into: Arc<File>,
        options: &RestoreOptions,
    ) -> Result<Restored, HistoryError> {
        match self.try_restore(plan, Some(into), options).await? {
            Outcome::Whole(restored) => Ok(restored),
            Outcome::Torn(torn) => Err(torn.error),
        }
    }

    /// As [`History::restore`]. Without a file all is read and verified, and nothing written.
    pub(crate) async fn try_restore(
        &self,
        plan: &Plan,
        into: Option<Arc<File>>,
        options: &RestoreOptions,
    ) -> Result<Outcome, HistoryError> {
        if let Some(gap) = gap_behind_base(plan, options.base.as_ref()) {
            return Err(gap.into());
        }
        let Some(last) = plan.objects.last() else {
            return restored_already(plan, options.base.as_ref()).map(Outcome::Whole);
        };
        let history = &Self::new(self.bucket().reusing_buffers(), self.id().clone());
        let (marker, entries) = plan.split_marker();
        // First: it tells how much there is to do.
        let marker = match marker {
            Some(entry) => Some(history.marker(entry).await?),
            None => None,
        };
        let total = plan.bytes() + marker.as_ref().map_or(0, Marker::bytes);
        let worker = Worker { history, options, done: AtomicU64::new(0), total };
        let room = Room { plan, base: options.base.as_ref(), marker: marker.as_ref().map(Marker::size_in_pages) };
        let ahead = Ahead::new(options);
        let mut objects = futures::stream::iter(entries.iter().rev())
            .then(|entry| ahead.make_room(entry))
            .map_ok(|(entry, room)| async move {
                let whole = history.fetch_whole(entry, options.whole_length).await?;
                Ok((entry, whole, room))
            })
            .try_buffered(options.requests.max(1))
            // What a large one begins with is there when the one before it is done. No more: its index may be large.
            .map_ok(|(entry, whole, room)| async move { Ok((entry, history.open(entry, whole).await?, room)) })
            .try_buffered(options.requests.clamp(1, 2))
            .boxed();

        let mut newest: Option<Newest> = None;
        let mut limit = u32::MAX;
        let mut chain = Chain::default();
        let mut complete = false;
        while let Some((entry, object, _room)) = objects.try_next().await? {
            let link = Link::of(entry, &object);
            limit = limit.min(object.header.size_in_pages);
            complete = object.holds_every_page();
            let target = match &newest {
                Some(newest) => Arc::clone(&newest.target),
                None => {
                    let first = Newest::prepare(&object, into.clone(), &room).await?;
                    let target = Arc::clone(&first.target);
                    newest = Some(first);
                    target
                }
            };
            worker.apply(object, target, limit).await?;
            reach(Point::RestoreApplied);
            // Only now: both are known to be whole, so that a contradiction is one between what was written.
            chain.precede(link)?;
            if complete {
                break;
            }
        }
        drop(objects);
        let mut laid = None;
        if let Some(marker) = marker.filter(|_| !complete) {
            let newest = match &newest {
                Some(newest) => newest,
                None => newest.insert(Newest::prepare(&marker.object, into, &room).await?),
            };
            laid = Some(worker.lay_marker(marker, newest, limit, &mut chain).await?);
            complete = true;
        }
        let Some(newest) = newest else {
            return restored_already(plan, options.base.as_ref()).map(Outcome::Whole);
        };
        let base = options.base.as_ref();
        if !complete {
            chain.begin_at(base.map_or(Position::EMPTY, |base| base.position))?;
        }
        let bytes = worker.finish();
        let base = base.filter(|base| base.page_size == newest.target.page_size());
        let base_pages = base.map_or(&[][..], |base| &base.page_checksums);
        let base_pages = base_pages.get(..limit as usize).unwrap_or(base_pages);
        newest.finish(plan.up_to, last, base_pages, bytes, laid)
    }
}

/// The room for what is downloaded ahead.
struct Ahead<'a> {
    options: &'a RestoreOptions,
    /// In KiB.
    free: Semaphore,
    size: u32,
}

impl<'a> Ahead<'a> {
    fn new(options: &'a RestoreOptions) -> Self {
        let size = kibibytes(options.ahead_length).max(1);
        Self { options, free: Semaphore::new(size as usize), size }
    }

    /// Whoever asks in the order of the objects gets it: it is held by objects only whose turn comes first.
    async fn make_room<'e>(&self, entry: &'e Entry) -> Result<(&'e Entry, Option<SemaphorePermit<'_>>), HistoryError> {
        if entry.size > self.options.whole_length {
            return Ok((entry, None));
        }
        let room = self.free.acquire_many(kibibytes(entry.size).min(self.size)).await;
        room.map(|room| (entry, Some(room))).map_err(|error| HistoryError::Interrupted(error.to_string()))
    }
}

/// Rounded up.
fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

impl History {
    /// Downloads an object and verifies all of it. Of what it says, nothing is held against other objects.
    pub(crate) async fn verify(&self, entry: &Entry, options: &RestoreOptions) -> Result<(), HistoryError> {
        let options = RestoreOptions { progress: None, ..options.clone() };
        let worker = Worker { history: self, options: &options, done: AtomicU64::new(0), total: 0 };
        let whole = self.fetch_whole(entry, options.whole_length).await?;
        worker.check(self.open(entry, whole).await?).await
    }
}

/// The newest object, and the file as it makes it.
struct Newest {
    key: String,
    target: Arc<Target>,
    time: SystemTime,
    /// The database checksum after it, where it names one.
    expected: Option<Checksum>,
    /// LTX's own, in objects of others.
    ltx: Option<Checksum>,
    /// It does not name ours.
    is_foreign: bool,
}

impl Newest {
    /// Gives the file its final length.
    async fn prepare(object: &Opened, file: Option<Arc<File>>, room: &Room<'_>) -> Result<Self, HistoryError> {
        let header = &object.header;
        let (page_size, size_in_pages) = (header.page_size, header.size_in_pages);
        let at_most = room.pages_at_most(page_size);
        if u64::from(size_in_pages) > at_most {
            return Err(HistoryError::damaged(&object.key, Damage::TooLarge { size_in_pages, at_most }));
        }
        let keep = room.base.is_some_and(|base| base.page_size == page_size);
        let length = u64::from(size_in_pages) * u64::from(page_size.get());
        let target = Arc::new(Target::new(file.clone(), page_size, size_in_pages));
        blocking(move || {
            let Some(file) = file else { return Ok(()) };
            if !keep {
                file.set_len(0)?;
            }
            file.set_len(length)
        })
        .await?
        .map_err(HistoryError::Disk)?;
        let expected = header.database.map(|database| database.after);
        let ltx = object.tail.trailer.post_apply_checksum;
        let (time, is_foreign) = (from_milliseconds(header.timestamp_ms), header.database.is_none());
        Ok(Self { key: object.key.clone(), target, time, expected, ltx, is_foreign })
    }

    /// Whether every page is there, and whether together they are the database that was there.
    fn finish(
        self,
        txid: Txid,
        last: &Entry,
        base: &[Option<Checksum>],
        bytes: u64,
        laid: Option<Laid>,
    ) -> Result<Outcome, HistoryError> {
        let Self { key, target, time, expected, ltx, is_foreign } = self;
        // Every worker has ended, so this is the only handle.
        let target =
            Arc::into_inner(target).ok_or_else(|| HistoryError::Interrupted("a worker is still running".into()))?;
        let (page_size, size_in_pages) = (target.page_size(), target.size_in_pages());
        let lock_page = page_size.lock_page().index();
        let page_checksums = target.into_checksums(base);
        let missing = page_checksums.iter().enumerate().find(|(page, sum)| sum.is_none() && *page != lock_page);
        let have = page_checksums.iter().flatten().fold(Checksum::EMPTY, |sum, &page| sum.toggle_page(page));
        if let Some(laid) = laid {
            let Some(need) = expected else { return Err(HistoryError::damaged(key, Damage::NoChecksum)) };
            if missing.is_some() || have != need {
                let damage = laid.unfit.unwrap_or(Damage::PageObjects { have, need });
                let base = Base { position: Position { txid, checksum: need }, page_size, page_checksums };
                let error = HistoryError::damaged(laid.key, damage);
                return Ok(Outcome::Torn(Box::new(Torn { base, error, bytes })));
            }
        }
        if let Some((page, _)) = missing {
            let page = u32::try_from(page + 1).unwrap_or(u32::MAX);
            return Err(HistoryError::damaged(key, Damage::MissingPage { page, size_in_pages }));
        }
        if let Some(need) = expected.filter(|&expected| expected != have) {
            return Err(HistoryError::damaged(key, Damage::Database { have, need }));
        }
        if let Some(need) = ltx {
            let have = page_checksums.iter().flatten().copied().fold(Checksum::EMPTY, Checksum::join);
            if have != need {
                return Err(HistoryError::damaged(key, Damage::Database { have, need }));
            }
        }
        Ok(Outcome::Whole(Restored {
            position: Position { txid, checksum: have },
            time: Some(time),
            page_size,
            size_in_pages,
            page_checksums,
            last_object: Some(last.clone()),
            is_foreign,
            bytes,
        }))
    }
}

/// What came of the page objects.
struct Laid {
    /// The marker's key.
    key: String,
    /// What is wrong with the first that can't be a page.
    unfit: Option<Damage>,
}

impl Worker<'_> {
    /// Fetches the pages of a marker that nothing newer brings.
    async fn lay_marker(
        &self,
        marker: Marker<'_>,
        newest: &Newest,
        limit: u32,
        chain: &mut Chain,
    ) -> Result<Laid, HistoryError> {
        let Marker { entry, object } = marker;
        chain.precede(Link::of(entry, &object))?;
        let (have, need) = (object.header.page_size, newest.target.page_size());
        if have != need {
            return Err(HistoryError::damaged(object.key, Damage::PageSize { have, need }));
        }
        self.advance(object.frame);
        let unfit = self.lay(&newest.target, limit.min(object.header.size_in_pages)).await?;
        Ok(Laid { key: object.key, unfit })
    }

    /// Writes what `object` brings, and verifies all of it.
    async fn apply(&self, object: Opened, target: Arc<Target>, limit: u32) -> Result<(), HistoryError> {
        let (have, need) = (object.header.page_size, target.page_size());
        if have != need {
            // Whether it is whole comes first: then its header says what was written.
            let key = object.key.clone();
            self.check(object).await?;
            return Err(HistoryError::damaged(key, Damage::PageSize { have, need }));
        }
        self.take(object, Some(target), limit).await
    }

    /// Verifies all of `object`.
    async fn check(&self, object: Opened) -> Result<(), HistoryError> {
        self.take(object, None, 0).await
    }

    /// Reads and verifies all of `object`, and writes it, where there is a target.
    async fn take(&self, object: Opened, target: Option<Arc<Target>>, limit: u32) -> Result<(), HistoryError> {
        self.advance(object.frame);
        let mut checksum = object.checksum;
        let runs = object.runs(self.options.run_length);
        let object = Arc::new(object);
        let mut parts = futures::stream::iter(runs)
            .map(|run| self.run(Arc::clone(&object), run, target.clone(), limit))
            .buffered((self.options.requests / 2).max(1))
            .boxed();
        while let Some(part) = parts.try_next().await? {
            checksum.push(part);
        }
        drop(parts);
        checksum.verify(&object.tail).map_err(|error| HistoryError::damaged(&object.key, Damage::Decode(error)))
    }

    /// Reads a run of frames, and writes what it brings.
    async fn run(
        &self,
        object: Arc<Opened>,
        run: Run,
        target: Option<Arc<Target>>,
        limit: u32,
    ) -> Result<RunningChecksum, HistoryError> {
        let length = run.bytes.end - run.bytes.start;
        let bytes = match &object.whole {
            Some(whole) => slice(whole, &run),
            None => self.history.bucket().get_range(&object.key, run.bytes.clone()).await?,
        };
        let key = object.key.clone();
        let decoded = blocking(move || {
            let frames = object.tail.frames.get(run.frames).unwrap_or_default();
            let mut writer = target.as_ref().map(|target| target.writer(limit));
            let page_size = object.header.page_size;
            let part = decode_frames(&bytes, frames, page_size, &mut Vec::new(), |page, content| match &mut writer {
                Some(writer) => writer.page(page, content).map_err(ApplyError::Disk),
                None => Ok(()),
            })?;
            writer.map_or(Ok(()), Writer::finish).map_err(ApplyError::Disk)?;
            Ok(part)
        })
        .await?;
        self.advance(length);
        decoded.map_err(|error| match error {
            ApplyError::Decode(error) => HistoryError::damaged(key, Damage::Decode(error)),
            ApplyError::Disk(error) => HistoryError::Disk(error),
        })
    }

    pub(crate) fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.options.progress {
            progress(done.min(self.total), self.total);
        }
    }

    /// All is done, even when not all was needed; returns what was downloaded.
    fn finish(&self) -> u64 {
        let done = self.done.load(Ordering::Relaxed);
        if let Some(progress) = self.options.progress.as_ref().filter(|_| done < self.total) {
            progress(self.total, self.total);
        }
        done
    }
}

enum ApplyError {
    Decode(DecodeError),
    Disk(io::Error),
}

impl From<DecodeError> for ApplyError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// The bytes of a run in an object that is in memory. They are within it: the index was held against its length.
pub(crate) fn slice(whole: &Bytes, run: &Run) -> Bytes {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
    whole.slice(place(run.bytes.start)..place(run.bytes.end))
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HistoryError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| HistoryError::Interrupted(error.to_string()))
}

/// The plan may begin before the base, but not behind it.
fn gap_behind_base(plan: &Plan, base: Option<&Base>) -> Option<PlanError> {
    let at = base.map_or(Txid::ZERO, |base| base.position.txid);
    (plan.from > at).then(|| PlanError::Gap {
        id: plan.id.clone(),
        first: at.next(),
        last: plan.from,
        up_to: plan.up_to,
    })
}

/// How large the database can be.
struct Room<'a> {
    plan: &'a Plan,
    base: Option<&'a Base>,
    /// The pages of the marker, which is verified.
    marker: Option<u32>,
}

impl Room<'_> {
    /// How many pages the objects, the base and the page objects can hold, the lock page among them. The header that names a
    /// size is not verified yet when memory is reserved by it.
    fn pages_at_most(&self, page_size: PageSize) -> u64 {
        /// LZ4 makes no more than 255 bytes of one.
        const BEST_RATIO: u64 = 255;
        let shortest_frame = 10 + u64::from(page_size.get()) / BEST_RATIO;
        let base = self.base.map_or(0, |base| base.page_checksums.len() as u64);
        self.plan.bytes() / shortest_frame + base + self.marker.map_or(0, u64::from) + 1
    }
}

/// The answer when there is nothing to apply.
fn restored_already(plan: &Plan, base: Option<&Base>) -> Result<Restored, HistoryError> {
    let Some(base) = base.cloned() else {
        return Err(PlanError::Empty(plan.id.clone()).into());
    };
    Ok(Restored {
        position: base.position,
        time: None,
        page_size: base.page_size,
        size_in_pages: u32::try_from(base.page_checksums.len()).unwrap_or(u32::MAX),
        page_checksums: base.page_checksums,
        last_object: None,
        is_foreign: false,
        bytes: 0,
    })
}
