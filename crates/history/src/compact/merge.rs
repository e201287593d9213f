//! Making one object of many.
//!
//! The inputs are read from the newest to the oldest, each whole and verified. Of each page the first version that comes
//! is put aside as it is, packed; then the object is put together in the order of the pages. So nothing is packed again,
//! the result depends on the transactions only and not on the way to it, and memory holds some 50 bytes for a page.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_ltx::{Checksum, DatabaseChecksums, Finished, Header, Txid};
use bottomless_points::{Point, reach};
use bottomless_store::Body;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::LocalPages;
use super::read::Reader;
use super::spool::{AssembleError, Spool};
use crate::chain::{Chain, Link};
use crate::object::Opened;
use crate::restore::{Progress, blocking};
use crate::{Damage, Entry, History, HistoryError, Level, Listing, ObjectName, Plan};

/// Local copies of objects.
pub trait Copies: Send + Sync + fmt::Debug {
    /// The bytes of this object, if there is a copy whose ETag and size are the entry's. They are verified by the file
    /// checksum: a wrong copy is as good as none. May read a disk.
    fn find(&self, entry: &Entry) -> Option<Bytes>;

    /// We have created this object: a copy may be kept. May write a disk.
    fn keep(&self, entry: &Entry, body: &Body);
}

/// How to merge.
#[derive(Clone)]
pub struct MergeOptions {
    /// Where temporary files are made. They have no names, so they are gone with the process.
    pub folder: PathBuf,
    /// Requests at the same time.
    pub requests: usize,
    /// Objects up to this many bytes are read with one request, and put together in memory. Up to `requests` of them are in
    /// memory.
    pub whole_length: u64,
    /// Larger ones are read in runs of about this many bytes. Up to `requests` of them are in memory.
    pub run_length: u64,
    /// Objects up to this many bytes are created with one PUT; larger ones in parts, which has no condition: whether the object
    /// exists is looked up before.
    pub put_length: u64,
    /// Bytes of such a part, which is in memory.
    pub part_length: u64,
    /// How long a PUT may take. One of more than 64 MiB may take longer in proportion.
    pub timeout: Duration,
    /// Whom to tell how far it is: in bytes of the inputs.
    pub progress: Option<Progress>,
    /// Where to look for an object before it is downloaded.
    pub copies: Option<Arc<dyn Copies>>,
    /// Pages that a snapshot need not download.
    pub pages: Option<Arc<dyn LocalPages>>,
}

impl MergeOptions {
    /// The defaults, with temporary files in `folder`.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            requests: 16,
            whole_length: 512 << 10,
            run_length: 1 << 20,
            // The limit of S3.
            put_length: 5 << 30,
            part_length: 16 << 20,
            timeout: Duration::from_secs(30),
            progress: None,
            copies: None,
            pages: None,
        }
    }

    pub(crate) fn spool_error(&self, cause: std::io::Error) -> HistoryError {
        HistoryError::Spool { folder: self.folder.clone(), cause }
    }
}

impl fmt::Debug for MergeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergeOptions")
            .field("folder", &self.folder)
            .field("requests", &self.requests)
            .field("whole_length", &self.whole_length)
            .field("run_length", &self.run_length)
            .field("put_length", &self.put_length)
            .field("part_length", &self.part_length)
            .field("timeout", &self.timeout)
            .field("copies", &self.copies)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

/// A merged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// As the store has it now. It was read back.
    pub entry: Entry,
    /// Whether this call created it; else it existed already.
    pub created: bool,
    /// Bytes that were downloaded for it, without those of reading it back.
    pub downloaded: u64,
    /// How many pages it holds.
    pub pages: u32,
}

/// An object that is ready to be sent.
pub(crate) struct Draft {
    pub(crate) header: Header,
    pub(super) finished: Finished,
    pub(crate) body: Body,
    pub(super) time: SystemTime,
    /// The key of the newest object that it is made from.
    pub(crate) newest: String,
    /// The database checksum before and after, each where it is known.
    pub(crate) before: Option<Checksum>,
    pub(crate) after: Option<Checksum>,
}

impl History {
    /// Makes the object `name`, of level 1 or above, from those of lower levels in `listing`
    /// ([`Listing::inputs`]), and reads it back. When it exists already, it is only read back.
    ///
    /// What is read must be what was listed, verified to the last byte, and one must continue the other; else nothing is
    /// created. Any number of machines may do this at once: what they make is the same.
    ///
    /// # Errors
    /// [`HistoryError::is_outdated`]: an input is not any more what was listed: list again. [`HistoryError::Damaged`] names
    /// an input that is wrong, or an object that exists already under this name and is wrong. After an error of the
    /// store the object may be there or not; the next try finds out. [`HistoryError::ReadBack`]: it was created and is
    /// damaged.
    pub async fn merge(
        &self,
        listing: &Listing,
        name: ObjectName,
        options: &MergeOptions,
    ) -> Result<Merged, HistoryError> {
        if let Some(entry) = listing.entries().iter().find(|entry| entry.name == name) {
            let pages = self.read_listed(entry, options).await?.pages;
            return Ok(Merged { entry: entry.clone(), created: false, downloaded: 0, pages });
        }
        let plan = listing.inputs(name)?;
        let reader = Reader::new(self, options, plan.bytes());
        let draft = Merge::new(self, &reader, &plan, name, options).await?.run().await?;
        reader.finish();
        reach(Point::CompactSpooled);
        let (entry, created, pages) = self.create_merged(name, draft, options).await?;
        Ok(Merged { entry, created, downloaded: reader.downloaded(), pages })
    }

    /// Puts together what a plan leads to: an object of that name, which is not sent. It may begin before that name does.
    pub(crate) async fn draft(
        &self,
        plan: &Plan,
        name: ObjectName,
        options: &MergeOptions,
    ) -> Result<Draft, HistoryError> {
        let reader = Reader::new(self, options, plan.bytes());
        let draft = Merge::new(self, &reader, plan, name, options).await?.run().await?;
        reader.finish();
        Ok(draft)
    }

    /// Makes a snapshot of what a plan from nothing leads to, as an object of another history, and reads it back.
    pub(crate) async fn snapshot_into(
        &self,
        target: &Self,
        plan: &Plan,
        options: &MergeOptions,
    ) -> Result<Entry, HistoryError> {
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: plan.up_to };
        let reader = Reader::new(self, options, plan.bytes());
        let draft = Merge::new(self, &reader, plan, name, options).await?.run().await?;
        reader.finish();
        Ok(target.create_merged(name, draft, options).await?.0)
    }
}

/// A merge under way.
pub(super) struct Merge<'a> {
    pub(super) history: &'a History,
    pub(super) reader: &'a Reader<'a>,
    plan: &'a Plan,
    pub(super) name: ObjectName,
    pub(super) options: &'a MergeOptions,
    pub(super) spool: Spool,
    pub(super) chain: Chain,
    pub(super) newest: Option<Newest>,
    /// Pages behind this one were cut off by a later transaction, or never were.
    pub(super) limit: u32,
    /// The key of the object that was read last.
    last_key: String,
}

/// The newest input.
pub(super) struct Newest {
    key: String,
    pub(super) header: Header,
    /// The database checksum after it, where it names one.
    pub(super) after: Option<Checksum>,
}

impl<'a> Merge<'a> {
    async fn new(
        history: &'a History,
        reader: &'a Reader<'a>,
        plan: &'a Plan,
        name: ObjectName,
        options: &'a MergeOptions,
    ) -> Result<Self, HistoryError> {
        let folder = options.folder.clone();
        let spool = blocking(move || Spool::new(&folder)).await?.map_err(|cause| options.spool_error(cause))?;
        let (chain, newest, limit, last_key) = (Chain::default(), None, u32::MAX, String::new());
        Ok(Self { history, reader, plan, name, options, spool, chain, newest, limit, last_key })
    }

    async fn run(mut self) -> Result<Draft, HistoryError> {
        let (plan, reader) = (self.plan, self.reader);
        let mut objects = futures::stream::iter(plan.objects.iter().rev())
            .map(|entry| async move { Ok::<_, HistoryError>((entry, reader.small(entry).await?)) })
            .buffered(self.options.requests.max(1))
            .boxed();
        let mut oldest = None;
        while let Some((entry, whole)) = objects.try_next().await? {
            let object = Arc::new(reader.open(entry, whole).await?);
            if !self.add_local(entry, &object).await? {
                self.add(entry, &object).await?;
            }
            let is_first = plan.objects.first() == Some(entry);
            if is_first {
                oldest = Some(object.header.clone());
            }
            // As an object does that begins with the first transaction.
            if object.holds_every_page() {
                break;
            }
        }
        drop(objects);
        let before = match (oldest, plan.objects.first()) {
            _ if self.is_snapshot() => Some(Checksum::EMPTY),
            (Some(header), _) => header.database.map(|database| database.before),
            (None, Some(first)) => self.before(first).await?,
            (None, None) => None,
        };
        self.finish(before).await
    }

    fn is_snapshot(&self) -> bool {
        self.name.min == Txid::FIRST
    }

    /// Takes what the next older object brings.
    async fn add(&mut self, entry: &Entry, object: &Arc<Opened>) -> Result<(), HistoryError> {
        let have = object.header.page_size;
        let need = self.newest.as_ref().map_or(have, |newest| newest.header.page_size);
        if have != need {
            // Whether it is whole comes first: then its header says what was written.
            self.reader.verify(entry, object).await?;
            return Err(HistoryError::damaged(&object.key, Damage::PageSize { have, need }));
        }
        let size_in_pages = object.header.size_in_pages;
        let limit = self.limit.min(size_in_pages);
        let picked = self.reader.pick(entry, object, self.spool.pickup(limit, self.is_snapshot())).await?;
        // Only now: all that was read is known to be whole, so that a contradiction is one between what was written.
        self.chain.precede(Link::of(entry, object))?;
        if self.newest.is_none() {
            let after = object.header.database.map(|database| database.after);
            self.newest = Some(Newest { key: object.key.clone(), header: object.header.clone(), after });
        } else {
            self.check_grown(size_in_pages)?;
        }
        self.limit = limit;
        self.last_key.clone_from(&object.key);
        self.spool.keep(picked);
        Ok(())
    }

    /// Whether the later objects hold all pages that they added to a database of this size: else an old version would take
    /// the place of one that nobody has.
    fn check_grown(&self, size_in_pages: u32) -> Result<(), HistoryError> {
        let Some(newest) = &self.newest else { return Ok(()) };
        match self.spool.missing(newest.header.page_size, size_in_pages, self.limit) {
            Some(page) => {
                Err(HistoryError::damaged(&self.last_key, Damage::MissingPage { page, size_in_pages: self.limit }))
            }
            None => Ok(()),
        }
    }

    /// The database checksum before the first object, whose pages are not needed. All of it is verified: what it says
    /// counts.
    async fn before(&self, first: &Entry) -> Result<Option<Checksum>, HistoryError> {
        let whole = self.reader.small(first).await?;
        let object = Arc::new(self.reader.open(first, whole).await?);
        self.reader.verify(first, &object).await?;
        Ok(object.header.database.map(|database| database.before))
    }

    async fn finish(self, before: Option<Checksum>) -> Result<Draft, HistoryError> {
        let is_snapshot = self.is_snapshot();
        let Self { history, name, options, spool, newest, .. } = self;
        let Some(Newest { key, header, mut after }) = newest else {
            // A plan has an object at least.
            return Err(HistoryError::Interrupted("there is nothing to merge".into()));
        };
        if is_snapshot {
            let have = spool.sum();
            if let Some(need) = after.filter(|&need| need != have) {
                return Err(HistoryError::damaged(key, Damage::Database { have, need }));
            }
            after = Some(have);
        }
        let database = before.zip(after).map(|(before, after)| DatabaseChecksums { before, after });
        let txids = (name.min, name.max);
        let unknown = DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::EMPTY };
        let (page_size, size) = (header.page_size, header.size_in_pages);
        let merged = Header::new(page_size, size, txids, header.timestamp_ms, header.writer, unknown);
        let merged = Header { database, ..merged };

        let (memory, folder) = (options.whole_length, options.folder.clone());
        let draft = blocking(move || {
            let (body, finished) = spool.assemble(&merged, memory, &folder)?;
            let milliseconds = u64::try_from(merged.timestamp_ms).unwrap_or(0);
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            Ok(Draft { header: merged, finished, body, time, newest: key, before, after })
        })
        .await?;
        draft.map_err(|error| match error {
            AssembleError::Spool(cause) => options.spool_error(cause),
            AssembleError::Encode(cause) => HistoryError::Unmerged { key: name.key(history.id()), cause },
        })
    }
}
