//! Stores that only seem to keep simultaneous creators apart are found out, each in its own words.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bottomless_store::probe::{self, Proof, WRITERS};
use bottomless_store::{Bucket, Location, StoreErrorKind};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::{Barrier, Mutex};

const TIMEOUT: Duration = Duration::from_secs(20);

/// What a store does with a conditional create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    /// It takes all, one over the other.
    Ignores,
    /// It creates only what exists.
    Inverts,
    /// 501.
    NotImplemented,
    /// It looks first and writes then, and in between others look.
    LooksThenWrites,
    /// It keeps the first and tells all that they won.
    OkToAll,
    /// 412 or 409 to all, and nothing is stored.
    RefusesAll,
    /// It stores the first, and answers 412 to all.
    StoresAndRefusesAll,
    /// The first is told that it won, and the others that they lost, yet each overwrites.
    OneWinsAnotherStays,
    /// The first is told that it won, and nothing is stored.
    ForgetsTheWinner,
    /// Honest, behind a proxy that sends the first creation twice: it is told 412 by its own effect.
    RefusesTheFirstByItself,
    /// Honest, and no reply to the first.
    SilentOnce,
}

#[derive(Debug)]
struct OddStore {
    inner: InMemory,
    conduct: Conduct,
    creates: AtomicUsize,
    /// One creation at a time, where looking and writing are one step.
    turn: Mutex<()>,
    looked: Barrier,
}

impl fmt::Display for OddStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.conduct, f)
    }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "412".into() }
}

fn done() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: http::Extensions::default() }
}

#[async_trait]
impl ObjectStore for OddStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let over = PutOptions { mode: PutMode::Overwrite, ..options.clone() };
        let is_there = async || self.inner.head(path).await.is_ok();
        if self.conduct == Conduct::LooksThenWrites {
            let refused = is_there().await;
            self.looked.wait().await;
            return if refused { Err(exists(path)) } else { self.inner.put_opts(path, payload, over).await };
        }
        let _turn = self.turn.lock().await;
        let is_first = self.creates.fetch_add(1, Ordering::Relaxed) == 0;
        match self.conduct {
            Conduct::Ignores => self.inner.put_opts(path, payload, over).await,
            Conduct::Inverts if is_there().await => self.inner.put_opts(path, payload, over).await,
            Conduct::Inverts | Conduct::RefusesAll => Err(exists(path)),
            Conduct::NotImplemented => {
                Err(Error::NotImplemented { operation: "If-None-Match".into(), implementer: "a test".into() })
            }
            Conduct::OkToAll => {
                let _ = self.inner.put_opts(path, payload, options).await;
                Ok(done())
            }
            Conduct::StoresAndRefusesAll => {
                let _ = self.inner.put_opts(path, payload, options).await;
                Err(exists(path))
            }
            Conduct::OneWinsAnotherStays => {
                let stored = self.inner.put_opts(path, payload, over).await;
                if is_first { stored } else { Err(exists(path)) }
            }
            Conduct::ForgetsTheWinner if is_first => Ok(done()),
            Conduct::ForgetsTheWinner => Err(exists(path)),
            Conduct::RefusesTheFirstByItself if is_first => {
                self.inner.put_opts(path, payload, options).await?;
                Err(exists(path))
            }
            Conduct::SilentOnce if is_first => {
                drop(_turn);
                futures::future::pending().await
            }
            _ => self.inner.put_opts(path, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, path: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, o).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
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

fn odd(conduct: Conduct) -> (Arc<OddStore>, Bucket) {
    let store = Arc::new(OddStore {
        inner: InMemory::new(),
        conduct,
        creates: AtomicUsize::new(0),
        turn: Mutex::default(),
        looked: Barrier::new(WRITERS),
    });
    let location = Location::new("http://localhost:1".parse().unwrap(), "libsql").unwrap();
    let object_store: Arc<dyn ObjectStore> = store.clone();
    (store, Bucket::from_object_store(object_store, location))
}

async fn assert_clean(store: &OddStore) {
    let left: Vec<_> = store.inner.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{store}: {left:?}");
}

#[tokio::test]
async fn a_store_that_does_not_keep_creators_apart_is_refuted_and_told_why() {
    for (conduct, why) in [
        (Conduct::Ignores, "8 of 8 simultaneous creators of one key succeed"),
        (Conduct::Inverts, "refused all of 8 creators of a key that did not exist"),
        (Conduct::NotImplemented, "does not support conditional writes"),
        (Conduct::LooksThenWrites, "8 of 8 simultaneous creators of one key succeed"),
        (Conduct::OkToAll, "8 of 8 simultaneous creators of one key succeed"),
        (Conduct::RefusesAll, "refused all of 8 creators of a key that did not exist"),
        (Conduct::StoresAndRefusesAll, "and yet stored an object"),
        (Conduct::OneWinsAnotherStays, "kept another's object"),
        (Conduct::ForgetsTheWinner, "has no such object"),
    ] {
        let (store, bucket) = odd(conduct);
        match probe::conditional_create(&bucket, "db", TIMEOUT).await.unwrap() {
            Proof::Refuted(found) => assert!(found.contains(why), "{conduct:?}: {found}"),
            Proof::Proven => panic!("{conduct:?} was taken for a store that keeps writers apart"),
        }
        assert_clean(&store).await;
    }
}

/// An honest store behind a proxy that sends a request again is none that must be refused.
#[tokio::test]
async fn a_creator_that_is_refused_by_its_own_effect_makes_the_probe_look_again() {
    let (store, bucket) = odd(Conduct::RefusesTheFirstByItself);
    let proof = probe::conditional_create(&bucket, "db", TIMEOUT).await.unwrap();
    assert!(matches!(proof, Proof::Proven), "{proof:?}");
    assert_eq!(store.creates.load(Ordering::Relaxed), 2 * WRITERS, "a second round decided");
    assert_clean(&store).await;
}

#[tokio::test]
async fn no_answer_is_no_proof() {
    let (_, bucket) = odd(Conduct::SilentOnce);
    let error = probe::conditional_create(&bucket, "db", Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Interrupted, "{error}");
}
