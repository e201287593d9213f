//! A store in memory in which something happens between two reads.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bottomless_history::{DatabaseId, History};
use bottomless_store::{Bucket, Location};
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What objects become: `None` is none.
pub type Step = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Debug, Default)]
struct State {
    inner: InMemory,
    gets: AtomicUsize,
    /// By the number of the GET that comes behind them.
    steps: Mutex<BTreeMap<usize, Vec<Step>>>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Between(Arc<State>);

impl Between {
    pub fn history(&self, id: &str) -> History {
        let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
        History::new(Bucket::from_object_store(Arc::new(self.clone()), location), DatabaseId::new(id).unwrap())
    }

    /// Before so many more GETs are answered, this happens.
    pub fn after(&self, gets: usize, step: Step) {
        let at = self.gets() + gets;
        self.0.steps.lock().unwrap().entry(at).or_default().push(step);
    }

    /// Whether all has happened.
    pub fn is_done(&self) -> bool {
        self.0.steps.lock().unwrap().is_empty()
    }

    pub fn gets(&self) -> usize {
        self.0.gets.load(Ordering::Relaxed)
    }

    pub async fn make(&self, step: Step) {
        for (key, content) in step {
            match content {
                Some(content) => drop(self.0.inner.put(&Path::from(key), content.into()).await.unwrap()),
                None => self.0.inner.delete(&Path::from(key)).await.unwrap_or_default(),
            }
        }
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("between")
    }
}

#[async_trait]
impl ObjectStore for Between {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(path, o).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let number = self.0.gets.fetch_add(1, Ordering::Relaxed);
        let steps = self.0.steps.lock().unwrap().remove(&number);
        for step in steps.into_iter().flatten() {
            self.make(step).await;
        }
        self.0.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner.copy_opts(from, to, options).await
    }
}
