//! A store in memory in which time passes when a test says so, and that can be told to refuse or to lose.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// What becomes of deletions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletions {
    #[default]
    Pass,
    /// 403.
    Denied,
    /// So many pass, then the connection is lost.
    Left(usize),
}

/// Keys and contents.
pub type Objects = Vec<(String, Vec<u8>)>;

#[derive(Debug, Default)]
struct State {
    inner: InMemory,
    /// How much older each object is than it is.
    ages: Mutex<HashMap<Path, Duration>>,
    deletions: Mutex<Deletions>,
    deleted: Mutex<Vec<String>>,
    /// After so many downloads, these are gone.
    vanish: Mutex<Option<(usize, Vec<String>)>>,
    /// After so many downloads, all is gone, and this is there instead.
    anew: Mutex<Option<(usize, Objects)>>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Aged(Arc<State>);

impl Aged {
    pub fn history(&self, id: &str) -> History {
        let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
        History::new(Bucket::from_object_store(Arc::new(self.clone()), location), DatabaseId::new(id).unwrap())
    }

    /// All that is there is older now.
    pub async fn pass(&self, time: Duration) {
        let objects: Vec<_> = self.0.inner.list(None).collect().await;
        let mut ages = self.0.ages.lock().unwrap();
        for object in objects {
            *ages.entry(object.unwrap().location).or_default() += time;
        }
    }

    pub fn deletions(&self, deletions: Deletions) {
        *self.0.deletions.lock().unwrap() = deletions;
    }

    /// What was deleted since the last call, in this order.
    pub fn take_deleted(&self) -> Vec<String> {
        std::mem::take(&mut self.0.deleted.lock().unwrap())
    }

    /// Another machine deletes these after so many downloads.
    pub fn vanish(&self, after: usize, keys: Vec<String>) {
        *self.0.vanish.lock().unwrap() = Some((after, keys));
    }

    /// After so many downloads another machine removes the database and makes another one of these objects.
    pub fn make_anew(&self, after: usize, objects: Objects) {
        *self.0.anew.lock().unwrap() = Some((after, objects));
    }

    async fn be_made_anew(&self) -> Result<()> {
        let due = {
            let mut anew = self.0.anew.lock().unwrap();
            if let Some((after, _)) = &mut *anew {
                *after -= 1;
            }
            anew.take_if(|(after, _)| *after == 0)
        };
        let Some((_, objects)) = due else { return Ok(()) };
        for key in self.keys().await {
            self.0.inner.delete(&Path::from(key)).await?;
        }
        for (key, bytes) in objects {
            let path = Path::from(key);
            self.0.ages.lock().unwrap().remove(&path);
            self.0.inner.put(&path, bytes.into()).await?;
        }
        Ok(())
    }

    pub async fn keys(&self) -> Vec<String> {
        self.0.inner.list(None).map(|object| object.unwrap().location.to_string()).collect().await
    }

    pub async fn flip(&self, key: &str) {
        let path = Path::from(key);
        let age = self.0.ages.lock().unwrap().get(&path).copied().unwrap_or_default();
        let mut bytes = self.0.inner.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.0.inner.put(&path, bytes.into()).await.unwrap();
        self.0.ages.lock().unwrap().insert(path, age);
    }

    fn aged(&self, meta: ObjectMeta) -> ObjectMeta {
        let age = self.0.ages.lock().unwrap().get(&meta.location).copied().unwrap_or_default();
        ObjectMeta { last_modified: meta.last_modified - age, ..meta }
    }

    async fn delete_one(&self, path: Path) -> Result<Path> {
        let passes = match &mut *self.0.deletions.lock().unwrap() {
            Deletions::Pass => Ok(()),
            Deletions::Denied => Err(Error::PermissionDenied { path: path.to_string(), source: "403".into() }),
            Deletions::Left(0) => Err(Error::Generic { store: "a test", source: "the connection is lost".into() }),
            Deletions::Left(left) => {
                *left -= 1;
                Ok(())
            }
        };
        passes?;
        self.0.deleted.lock().unwrap().push(path.to_string());
        self.0.inner.delete(&path).await?;
        Ok(path)
    }
}

impl fmt::Display for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aged")
    }
}

#[async_trait]
impl ObjectStore for Aged {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let result = self.0.inner.put_opts(path, payload, options).await?;
        self.0.ages.lock().unwrap().remove(path);
        Ok(result)
    }

    async fn put_multipart_opts(&self, path: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(path, o).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let vanished = {
            let mut vanish = self.0.vanish.lock().unwrap();
            match &mut *vanish {
                Some((0, keys)) => {
                    let keys = std::mem::take(keys);
                    *vanish = None;
                    keys
                }
                Some((after, _)) => {
                    *after -= 1;
                    Vec::new()
                }
                None => Vec::new(),
            }
        };
        for key in vanished {
            self.0.inner.delete(&Path::from(key)).await?;
        }
        let reply = self.0.inner.get_opts(path, options).await?;
        self.be_made_anew().await?;
        Ok(GetResult { meta: self.aged(reply.meta.clone()), ..reply })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        paths
            .then(move |path| {
                let this = this.clone();
                async move { this.delete_one(path?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        self.0.inner.list(prefix).map(move |meta| meta.map(|meta| this.aged(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner.copy_opts(from, to, options).await
    }
}
