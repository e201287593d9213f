//! A store in memory that misbehaves when told, and notes what it is asked for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bottomless_history::{DatabaseId, History};
use bottomless_store::{Bucket, Location};
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::Barrier;

/// What becomes of a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is stored, and the reply is an error that does not tell.
    Lost,
    /// It is stored, and there is no reply.
    Silent,
    /// It is not stored, and the reply is an error that does not tell.
    Failed,
    /// It is refused.
    Denied,
    /// Another byte is stored in the middle.
    Garbled,
    /// Conditional writes are not known.
    Unknown,
    /// Nor are they; and of the next other write another byte is stored.
    UnknownAndGarbled,
}

#[derive(Debug, Default)]
pub(crate) struct OddStore {
    inner: InMemory,
    /// For the next PUTs, or the next requests of uploads in parts.
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    /// So many GETs of more than a few bytes reply with another byte in the middle.
    pub(crate) garbled_reads: AtomicUsize,
    garbles_overwrite: AtomicBool,
    /// All writers meet here before they create.
    pub(crate) meeting: Mutex<Option<Arc<Barrier>>>,
    /// PUTs that were sent: conditional, others, parts.
    pub(crate) creates: AtomicUsize,
    pub(crate) overwrites: AtomicUsize,
    pub(crate) parts: Arc<AtomicUsize>,
    pub(crate) aborted: Arc<AtomicUsize>,
    /// GETs that are under way, and their bytes; and the most there were.
    gets: AtomicU64,
    bytes: AtomicU64,
    pub(crate) most_gets: AtomicU64,
    pub(crate) most_bytes: AtomicU64,
}

impl OddStore {
    /// A history in such a store.
    pub(crate) fn history() -> (Arc<Self>, History) {
        let store = Arc::new(Self::default());
        let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
        let bucket = Bucket::from_object_store(store.clone(), location);
        (store, History::new(bucket, DatabaseId::new("test.db").unwrap()))
    }

    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn next_fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap().pop_front()
    }

    pub(crate) async fn attributes(&self, key: &str) -> object_store::Attributes {
        self.inner.get_opts(&Path::from(key), GetOptions::default()).await.unwrap().attributes
    }
}

impl fmt::Display for OddStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OddStore")
    }
}

pub(crate) fn unclear() -> Error {
    Error::Generic { store: "a test", source: "the connection was cut".into() }
}

fn garbled(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    bytes.into()
}

#[async_trait]
impl ObjectStore for OddStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Create {
            self.overwrites.fetch_add(1, Ordering::Relaxed);
            if self.garbles_overwrite.swap(false, Ordering::Relaxed) {
                let bytes = garbled(&payload.into());
                return self.inner.put_opts(path, PutPayload::from_bytes(bytes), options).await;
            }
            return self.inner.put_opts(path, payload, options).await;
        }
        self.creates.fetch_add(1, Ordering::Relaxed);
        let meeting = self.meeting.lock().unwrap().clone();
        if let Some(meeting) = meeting {
            meeting.wait().await;
        }
        match self.next_fault() {
            None => self.inner.put_opts(path, payload, options).await,
            Some(Fault::Lost) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(unclear())
            }
            Some(Fault::Silent) => {
                self.inner.put_opts(path, payload, options).await?;
                std::future::pending().await
            }
            Some(Fault::Failed) => Err(unclear()),
            Some(Fault::Denied) => Err(Error::PermissionDenied { path: path.to_string(), source: "403".into() }),
            Some(Fault::Garbled) => {
                let bytes = garbled(&payload.into());
                self.inner.put_opts(path, PutPayload::from_bytes(bytes), options).await
            }
            Some(fault @ (Fault::Unknown | Fault::UnknownAndGarbled)) => {
                self.garbles_overwrite.store(fault == Fault::UnknownAndGarbled, Ordering::Relaxed);
                Err(Error::NotImplemented { operation: "If-None-Match".into(), implementer: "a test".into() })
            }
        }
    }

    async fn put_multipart_opts(&self, path: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, o).await?;
        let faults = std::mem::take(&mut *self.faults.lock().unwrap());
        let (parts, aborted) = (Arc::clone(&self.parts), Arc::clone(&self.aborted));
        Ok(Box::new(OddUpload { inner, faults, parts, aborted }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let length = match &options.range {
            Some(GetRange::Bounded(range)) => range.end - range.start,
            Some(GetRange::Suffix(length)) => *length,
            _ => self.inner.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await?.meta.size,
        };
        let gets = self.gets.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(length, Ordering::Relaxed) + length;
        self.most_gets.fetch_max(gets, Ordering::Relaxed);
        self.most_bytes.fetch_max(bytes, Ordering::Relaxed);
        // All that is asked for at once is under way before any of it is answered.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.gets.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        let reply = self.inner.get_opts(path, options).await?;
        let left = |left: usize| left.checked_sub(1);
        if length < 100 || self.garbled_reads.try_update(Ordering::Relaxed, Ordering::Relaxed, left).is_err() {
            return Ok(reply);
        }
        let (meta, range, attributes) = (reply.meta.clone(), reply.range.clone(), reply.attributes.clone());
        let extensions = reply.extensions.clone();
        let bytes = garbled(&reply.bytes().await?);
        let payload = GetResultPayload::Stream(Box::pin(futures::stream::once(async { Ok(bytes) })));
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct OddUpload {
    inner: Box<dyn MultipartUpload>,
    faults: VecDeque<Fault>,
    parts: Arc<AtomicUsize>,
    aborted: Arc<AtomicUsize>,
}

#[async_trait]
impl MultipartUpload for OddUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.fetch_add(1, Ordering::Relaxed);
        match self.faults.pop_front() {
            Some(Fault::Silent) => Box::pin(std::future::pending()),
            Some(Fault::Garbled) => self.inner.put_part(PutPayload::from_bytes(garbled(&data.into()))),
            Some(_) => Box::pin(async { Err(unclear()) }),
            None => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.inner.complete().await?;
        // A fault that no part took.
        if self.faults.pop_front().is_some() { Err(unclear()) } else { Ok(completed) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.aborted.fetch_add(1, Ordering::Relaxed);
        self.inner.abort().await
    }
}
