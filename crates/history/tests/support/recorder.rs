//! A store in memory that keeps its state after every write, and can be told to fail.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bottomless_history::{DatabaseId, History};
use bottomless_store::{Bucket, Location};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens instead of the next copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// The store fails, and nothing happens.
    Fails,
    /// The store has no copies.
    Unsupported,
}

#[derive(Debug, Default)]
struct State {
    inner: InMemory,
    /// The store after each write.
    states: Mutex<Vec<InMemory>>,
    /// So many copies go well before something else happens.
    left: AtomicUsize,
    instead: Mutex<Option<Instead>>,
    compacted: Mutex<Option<Compacted>>,
}

/// What another machine does just before `before` is copied, or read (`GET ` and the key).
#[derive(Clone, Debug)]
pub struct Compacted {
    pub before: String,
    pub deleted: Vec<String>,
    pub created: Option<(String, Vec<u8>)>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<State>);

impl Recorder {
    pub fn history(&self, id: &str) -> History {
        history_in(Arc::new(self.clone()), id)
    }

    /// The states since the last call, each as a history of this database.
    pub fn states(&self, id: &str) -> Vec<History> {
        let states = std::mem::take(&mut *self.0.states.lock().unwrap());
        states.into_iter().map(|state| history_in(Arc::new(state), id)).collect()
    }

    /// After `count` more copies something else happens.
    pub fn after(&self, count: usize, instead: Option<Instead>) {
        self.0.left.store(count, Ordering::Relaxed);
        *self.0.instead.lock().unwrap() = instead;
    }

    pub fn compact(&self, compacted: Compacted) {
        *self.0.compacted.lock().unwrap() = Some(compacted);
    }

    async fn compact_before(&self, what: &str) -> Result<()> {
        let compacted = self.0.compacted.lock().unwrap().take_if(|compacted| compacted.before == what);
        if let Some(Compacted { deleted, created, .. }) = compacted {
            if let Some((key, bytes)) = created {
                self.0.inner.put(&Path::from(key), bytes.into()).await?;
            }
            for key in deleted {
                self.0.inner.delete(&Path::from(key)).await?;
            }
        }
        Ok(())
    }

    fn keep(&self) {
        self.0.states.lock().unwrap().push(self.0.inner.fork());
    }
}

fn history_in(store: Arc<dyn ObjectStore>, id: &str) -> History {
    let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
    History::new(Bucket::from_object_store(store, location), DatabaseId::new(id).unwrap())
}

impl fmt::Display for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recorder")
    }
}

#[async_trait]
impl ObjectStore for Recorder {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let result = self.0.inner.put_opts(path, payload, options).await;
        self.keep();
        result
    }

    async fn put_multipart_opts(&self, path: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(path, o).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.compact_before(&format!("GET {path}")).await?;
        self.0.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let deleted = self.0.inner.delete_stream(paths);
        deleted.inspect(move |_| this.keep()).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.compact_before(from.as_ref()).await?;
        let instead = *self.0.instead.lock().unwrap();
        let before = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match instead.filter(|_| before.is_err()) {
            Some(Instead::Fails) => return Err(Error::PermissionDenied { path: to.to_string(), source: "403".into() }),
            Some(Instead::Unsupported) => {
                return Err(Error::NotImplemented { operation: "copy".into(), implementer: "a test".into() });
            }
            None => {}
        }
        self.0.inner.copy_opts(from, to, options).await?;
        self.keep();
        Ok(())
    }
}
