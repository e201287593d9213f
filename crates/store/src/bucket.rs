//! A bucket: list, get, create, copy, delete.

mod below;
mod copy;
mod replace;

pub use replace::{Expected, Replaced};

pub use below::{Below, Next, Start};

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig,
};

use crate::buffers::Buffers;
use crate::credentials::{Chain, ForObjectStore};
use crate::meter::{Meter, Operation};
use crate::s3::Requests;
use crate::transport::{Clock, Metered, Refusal, Seen};
use crate::{Body, Counters, Endpoint, Location, StoreError, StoreErrorKind, Transport, local};

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When the store created it, by the store's clock.
    pub modified: SystemTime,
    /// The ETag without its quotes.
    pub e_tag: Option<String>,
}

/// How a conditional create ended, where the store gave a clear answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The object is there, and is ours.
    Created {
        /// The ETag without its quotes.
        e_tag: Option<String>,
    },
    /// The store refused since an object of this name exists or is being created: by another, or by an earlier try.
    Exists,
}

/// The metadata name under which Litestream keeps a transaction's time (RFC 3339).
const TIMESTAMP: &str = "litestream-timestamp";

/// A handle to a bucket. Clones share connections and counters.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
    patience: Duration,
    buffers: Option<Arc<Buffers>>,
}

/// How long a page of a listing may take, unless [`Bucket::with_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// Objects in the reply to one LIST.
const LISTED_AT_ONCE: usize = 1000;

/// Keys that are replaced more often than this during one request are no use.
const RENEWALS: usize = 3;

struct Inner {
    location: Location,
    /// For reads: tries again by itself.
    reader: Arc<dyn ObjectStore>,
    /// The same, where listing goes reply by reply: for S3 only.
    lister: Option<Arc<dyn PaginatedListStore>>,
    /// For writes: every call is one request, so that its outcome is known.
    writer: Arc<dyn ObjectStore>,
    /// Present for S3 only.
    requests: Option<Requests>,
    chain: Option<Arc<Chain>>,
    meter: Meter,
    /// The wire counts for S3; elsewhere there is none, and the calls are counted.
    count_calls: bool,
    /// The bucket's folder, where it is one. A folder keeps no metadata of objects.
    folder: Option<PathBuf>,
    /// The service is known to heed `If-Match`.
    replaces: OnceLock<()>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.inner.location.to_string()).finish()
    }
}

impl Bucket {
    /// Prepares a handle; nothing is sent to the store yet, but the source of credentials may be asked.
    ///
    /// # Errors
    /// When there are no credentials for a service that is not on this machine, or the folder of a `file://` bucket
    /// does not exist.
    pub async fn connect(location: &Location, transport: &Transport) -> Result<Self, StoreError> {
        match &location.endpoint {
            Endpoint::Http(url) => Self::s3(location, url, transport).await,
            Endpoint::Folder(_) => Self::folder(location),
        }
    }

    async fn s3(location: &Location, url: &url::Url, transport: &Transport) -> Result<Self, StoreError> {
        let meter = Meter::default();
        let wire = Metered {
            transport: transport.clone(),
            meter: meter.clone(),
            refusal: Refusal::default(),
            clock: Clock::default(),
        };
        let chain = Arc::new(Chain::new(location.endpoint.is_local()).await);
        let signed = chain.any().await.map_err(|error| {
            StoreError::new(StoreErrorKind::NoCredentials, "sign a request", "", location, error.to_string())
        })?;
        if !signed {
            tracing::info!(%location, "no AWS credentials were found: requests go unsigned to this local service");
        }
        let builder = |retry: RetryConfig| {
            AmazonS3Builder::new()
                .with_endpoint(url.as_str().trim_end_matches('/'))
                .with_allow_http(url.scheme() == "http")
                .with_bucket_name(&location.bucket)
                .with_region(chain.region())
                .with_virtual_hosted_style_request(false)
                // One DELETE for one object: a policy or a store may lack the request that deletes several.
                .with_disable_bulk_delete(true)
                .with_credentials(Arc::new(ForObjectStore(Arc::clone(&chain))))
                .with_skip_signature(!signed)
                .with_http_connector(wire.clone())
                .with_retry(retry)
                .build()
                .map_err(|e| StoreError::from_object_store(&e, None, "configure", "", location))
        };
        let requests = Requests {
            wire: wire.clone(),
            location: location.clone(),
            endpoint: url.clone(),
            region: chain.region().to_owned(),
            chain: signed.then(|| Arc::clone(&chain)),
        };
        let reader = Arc::new(builder(retry_reads())?);
        Ok(Self {
            patience: PATIENCE,
            buffers: None,
            inner: Arc::new(Inner {
                location: location.clone(),
                lister: Some(Arc::clone(&reader) as Arc<dyn PaginatedListStore>),
                reader,
                writer: Arc::new(builder(RetryConfig { max_retries: 0, ..RetryConfig::default() })?),
                requests: Some(requests),
                chain: signed.then_some(chain),
                meter,
                count_calls: false,
                folder: None,
                replaces: OnceLock::new(),
            }),
        })
    }

    fn folder(location: &Location) -> Result<Self, StoreError> {
        let folder = location.folder().unwrap_or_default();
        if !folder.is_dir() {
            let cause = format!("{} is no folder", folder.display());
            return Err(StoreError::new(StoreErrorKind::NoSuchBucket, "open", "", location, cause));
        }
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|e| StoreError::from_object_store(&e, None, "open", "", location))?
            .with_fsync(true);
        let mut bucket = Self::from_object_store(Arc::new(store), location.clone());
        if let Some(inner) = Arc::get_mut(&mut bucket.inner) {
            inner.folder = Some(folder);
        }
        Ok(bucket)
    }

    /// A bucket over any `object_store`, for tests with its in-memory store and for stores that this crate does not
    /// configure itself. A [`Body::File`] is read into memory there, unless the location is a folder.
    #[must_use]
    pub fn from_object_store(store: Arc<dyn ObjectStore>, location: Location) -> Self {
        Self {
            patience: PATIENCE,
            buffers: None,
            inner: Arc::new(Inner {
                location,
                reader: Arc::clone(&store),
                lister: None,
                writer: store,
                requests: None,
                chain: None,
                meter: Meter::default(),
                count_calls: true,
                folder: None,
                replaces: OnceLock::new(),
            }),
        }
    }

    /// The same, for many large replies: their memory is used again, and given back with the last of them and this handle.
    #[must_use]
    pub fn reusing_buffers(&self) -> Self {
        Self { buffers: Some(Arc::default()), ..self.clone() }
    }

    /// The same bucket, where each page of a listing may take this long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Where the bucket is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.inner.location
    }

    /// What this handle and its clones have sent and received so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.meter.read()
    }

    /// The time by the clock that gives objects their [`Object::modified`], or earlier by a moment: that of a service as
    /// its last reply told it; that of the file system where the bucket is a folder, which may be another machine's; that of
    /// this machine where it is in memory. `None`: no reply has told it, or the folder can't be written.
    pub async fn now(&self) -> Option<SystemTime> {
        if let Some(requests) = &self.inner.requests {
            return requests.wire.clock.now();
        }
        let Some(folder) = self.inner.folder.clone() else { return Some(SystemTime::now()) };
        let time = tokio::task::spawn_blocking(move || local::time(&folder)).await.map_err(std::io::Error::other);
        match time.flatten() {
            Ok(time) => Some(time),
            Err(error) => {
                tracing::debug!(location = %self.inner.location, %error, "the file system does not tell its time");
                None
            }
        }
    }

    /// True if `key` can be an object's key here.
    #[must_use]
    pub fn is_key(key: &str) -> bool {
        Path::parse(key).is_ok_and(|path| path.as_ref() == key)
    }

    /// Whether a listing comes in the order of the keys, so that one that is cut off costs less. A folder on a disk is read
    /// whole.
    #[must_use]
    pub fn lists_in_order(&self) -> bool {
        self.inner.folder.is_none()
    }

    /// Lists the objects below the folder `prefix` (given without a trailing slash; "" for the bucket itself), in the order of their keys; with
    /// `after`, only those whose key is greater.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Object>, StoreError> {
        self.list_while(prefix, after, usize::MAX, |_| true).await
    }

    /// The first objects of that listing: at least `enough` of them, or all when there are fewer. What follows the page
    /// that has them is not asked for.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        enough: usize,
    ) -> Result<Vec<Object>, StoreError> {
        // A folder on a disk is not listed in order.
        let limit = if self.lists_in_order() { enough } else { usize::MAX };
        self.list_while(prefix, after, limit, |_| true).await
    }

    /// As [`Bucket::list`], up to and with the first object for which `goes_on` is false, and at most `limit` objects: what is
    /// behind them is not asked for.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn list_while(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        goes_on: impl Fn(&Object) -> bool + Sync,
    ) -> Result<Vec<Object>, StoreError> {
        self.renewing(|| self.list_once(prefix, after, limit, &goes_on)).await
    }

    async fn list_once(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        goes_on: &(impl Fn(&Object) -> bool + Sync),
    ) -> Result<Vec<Object>, StoreError> {
        let op = "LIST";
        let path = self.path(op, prefix)?;
        let path = Some(&path).filter(|_| !prefix.is_empty());
        self.count(Operation::List, 0);
        let mut stream = match after {
            Some(after) => self.inner.reader.list_with_offset(path, &self.path(op, after)?),
            None => self.inner.reader.list(path),
        };
        let mut objects = Vec::new();
        loop {
            let asked = Instant::now();
            let Ok(next) = tokio::time::timeout(self.patience, stream.try_next()).await else {
                return Err(self.given_up(op, prefix, asked, self.patience));
            };
            match self.checked(op, prefix, None, next)? {
                Some(meta) => {
                    // As many requests as a service would take.
                    if !objects.is_empty() && objects.len().is_multiple_of(LISTED_AT_ONCE) {
                        self.count(Operation::List, 0);
                    }
                    objects.push(object(meta));
                }
                None => break,
            }
            // S3 lists in order; a folder on a disk does not.
            if self.lists_in_order() && (objects.len() >= limit || objects.last().is_some_and(|last| !goes_on(last))) {
                break;
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.truncate(objects.iter().position(|object| !goes_on(object)).map_or(limit, |last| limit.min(last + 1)));
        Ok(objects)
    }

    /// A whole object.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        Ok(self.read(key, None).await?.0)
    }

    /// Bytes `range` of an object; fewer if it ends earlier.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.read(key, Some(GetRange::Bounded(range))).await?.0)
    }

    /// The last `length` bytes of an object (all of it, if it is shorter), and what the store says of it.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn get_end(&self, key: &str, length: u64) -> Result<(Bytes, Object), StoreError> {
        self.read(key, Some(GetRange::Suffix(length))).await
    }

    /// Bytes `range` of an object, or all of it, and what the store says of it: so the parts of an object are known to be
    /// of the same one.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn fetch(&self, key: &str, range: Option<Range<u64>>) -> Result<(Bytes, Object), StoreError> {
        self.read(key, range.map(GetRange::Bounded)).await
    }

    async fn read(&self, key: &str, range: Option<GetRange>) -> Result<(Bytes, Object), StoreError> {
        self.renewing(|| self.read_once(key, range.clone())).await
    }

    async fn read_once(&self, key: &str, range: Option<GetRange>) -> Result<(Bytes, Object), StoreError> {
        let op = "GET";
        let path = self.path(op, key)?;
        self.count(Operation::Get, 0);
        let options = GetOptions { range, ..GetOptions::default() };
        let result = async {
            let reply = self.inner.reader.get_opts(&path, options).await?;
            let meta = object(reply.meta.clone());
            let bytes = match &self.buffers {
                Some(buffers) => buffers.receive(reply).await?,
                None => reply.bytes().await?,
            };
            Ok((bytes, meta))
        };
        let (bytes, meta) = self.checked(op, key, None, result.await)?;
        if self.inner.count_calls {
            self.inner.meter.received(bytes.len() as u64);
        }
        Ok((bytes, meta))
    }

    /// Creates an object with `If-None-Match: *`: one request, sent again by itself only when the service refused the
    /// credentials and there are others.
    ///
    /// `time` becomes the metadata `litestream-timestamp`, where the store keeps metadata.
    ///
    /// # Errors
    /// Anything but a clear answer; see [`StoreErrorKind::may_have_landed`]. An attempt that is not answered within
    /// `timeout` is [`StoreErrorKind::Interrupted`].
    pub async fn create(
        &self,
        key: &str,
        body: &Body,
        time: SystemTime,
        timeout: Duration,
    ) -> Result<CreateOutcome, StoreError> {
        self.put(key, body, PutMode::Create, time, timeout).await
    }

    /// Writes an object whether or not it exists: for stores without conditional writes.
    ///
    /// # Errors
    /// As [`Bucket::create`].
    pub async fn overwrite(
        &self,
        key: &str,
        body: &Body,
        time: SystemTime,
        timeout: Duration,
    ) -> Result<CreateOutcome, StoreError> {
        self.put(key, body, PutMode::Overwrite, time, timeout).await
    }

    async fn put(
        &self,
        key: &str,
        body: &Body,
        mode: PutMode,
        time: SystemTime,
        timeout: Duration,
    ) -> Result<CreateOutcome, StoreError> {
        let sending = self.renewing(|| self.put_once(key, body, mode.clone(), time));
        let asked = Instant::now();
        match tokio::time::timeout(timeout, sending).await {
            Ok(result) => result,
            Err(_) => Err(self.given_up("PUT", key, asked, timeout)),
        }
    }

    async fn put_once(
        &self,
        key: &str,
        body: &Body,
        mode: PutMode,
        time: SystemTime,
    ) -> Result<CreateOutcome, StoreError> {
        match body {
            Body::Memory(bytes) => self.put_memory(key, bytes.clone(), mode, time).await,
            Body::File { .. } => self.put_file(key, body, mode, time).await,
        }
    }

    async fn put_memory(
        &self,
        key: &str,
        bytes: Bytes,
        mode: PutMode,
        time: SystemTime,
    ) -> Result<CreateOutcome, StoreError> {
        let op = "PUT";
        let path = self.path(op, key)?;
        self.count(Operation::Put, bytes.len() as u64);
        let seen = Seen::default();
        let mut options = PutOptions { mode, attributes: self.attributes(time), ..PutOptions::default() };
        options.extensions.insert(seen.clone());
        match self.inner.writer.put_opts(&path, PutPayload::from_bytes(bytes), options).await {
            Ok(done) => Ok(CreateOutcome::Created { e_tag: done.e_tag.map(unquoted) }),
            // 409 is what AWS answers while another creation of the same key is under way.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(CreateOutcome::Exists),
            Err(_) if seen.reply().status.is_some_and(is_exists) => Ok(CreateOutcome::Exists),
            result => self.checked(op, key, Some(&seen), result.map(|_| CreateOutcome::Exists)),
        }
    }

    async fn put_file(
        &self,
        key: &str,
        body: &Body,
        mode: PutMode,
        time: SystemTime,
    ) -> Result<CreateOutcome, StoreError> {
        let Body::File { file, length } = body else {
            return Err(self.error(StoreErrorKind::Disk, "PUT", key, "not a file"));
        };
        if let Some(requests) = &self.inner.requests {
            let timestamp = rfc3339(time);
            let mut headers = vec![("x-amz-meta-litestream-timestamp", timestamp.as_str())];
            if mode == PutMode::Create {
                headers.push(("if-none-match", "*"));
            }
            let reply = requests.put(key, body, &headers).await?;
            return match reply.status {
                status if status.is_success() => Ok(CreateOutcome::Created { e_tag: reply.e_tag.map(unquoted) }),
                status if mode == PutMode::Create && is_exists(status) => Ok(CreateOutcome::Exists),
                _ => Err(requests.refused(key, &reply)),
            };
        }
        let (file, length) = (Arc::clone(file), *length);
        let disk = |e: &dyn fmt::Display| self.error(StoreErrorKind::Disk, "PUT", key, e.to_string());
        let Some(folder) = self.inner.folder.clone().filter(|_| mode == PutMode::Create) else {
            let read = move || crate::body::read_chunk(&file, 0, usize::try_from(length).unwrap_or(usize::MAX));
            let bytes = tokio::task::spawn_blocking(read).await.map_err(|e| disk(&e))?.map_err(|e| disk(&e))?;
            return self.put_memory(key, bytes, mode, time).await;
        };
        self.path("PUT", key)?;
        self.count(Operation::Put, length);
        let unique = crate::probe::random().map_err(|e| disk(&e))?;
        let target = folder.join(key);
        let created = tokio::task::spawn_blocking(move || local::create(&file, length, &target, unique))
            .await
            .map_err(|e| disk(&e))?;
        match created {
            Ok(()) => Ok(CreateOutcome::Created { e_tag: None }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(CreateOutcome::Exists),
            Err(e) => Err(disk(&e)),
        }
    }

    /// Deletes an object; that it does not exist is a success.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let op = "DELETE";
        let path = self.path(op, key)?;
        self.count(Operation::Delete, 0);
        let delete = || async {
            match self.inner.reader.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                result => self.checked(op, key, None, result),
            }
        };
        self.renewing(delete).await
    }

    /// Creates the bucket itself; that it exists is a success.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn create_bucket(location: &Location, transport: &Transport) -> Result<(), StoreError> {
        match location.folder() {
            Some(folder) => std::fs::create_dir_all(&folder)
                .map_err(|e| StoreError::new(StoreErrorKind::Disk, "create the bucket", "", location, e.to_string())),
            None => {
                let bucket = Self::connect(location, transport).await?;
                match &bucket.inner.requests {
                    Some(requests) => requests.create_bucket().await,
                    None => Ok(()),
                }
            }
        }
    }

    /// For what may be sent again by itself.
    pub(crate) fn reader(&self) -> &dyn ObjectStore {
        &*self.inner.reader
    }

    /// The metadata of an object, where the store keeps some.
    pub(crate) fn attributes(&self, time: SystemTime) -> Attributes {
        let mut attributes = Attributes::new();
        if self.inner.folder.is_none() {
            attributes.insert(Attribute::Metadata(TIMESTAMP.into()), rfc3339(time).into());
        }
        attributes
    }

    pub(crate) fn path(&self, operation: &'static str, key: &str) -> Result<Path, StoreError> {
        // A share that is not mounted must not be taken for an empty bucket, nor be written beside.
        if let Some(folder) = self.inner.folder.as_ref().filter(|folder| !folder.is_dir()) {
            let cause = format!("{} is no folder", folder.display());
            return Err(self.error(StoreErrorKind::NoSuchBucket, operation, key, cause));
        }
        Path::parse(key)
            .ok()
            .filter(|path| path.as_ref() == key)
            .ok_or_else(|| self.error(StoreErrorKind::Rejected, operation, key, "the key is not valid"))
    }

    pub(crate) fn count(&self, operation: Operation, bytes: u64) {
        if self.inner.count_calls {
            self.inner.meter.sent(operation, bytes);
        }
    }

    /// An error of this bucket that a layer above has found: an answer that took too long, or a local disk that failed
    /// under an upload.
    #[must_use]
    pub fn failure(
        &self,
        kind: StoreErrorKind,
        operation: &'static str,
        key: &str,
        cause: impl Into<String>,
    ) -> StoreError {
        self.error(kind, operation, key, cause)
    }

    /// The error of a caller that has waited `limit` since `asked`, and waits no longer: what the service answered
    /// meanwhile, if it did. A read that is refused for now is tried again until somebody gives up.
    #[must_use]
    pub fn given_up(&self, operation: &'static str, key: &str, asked: Instant, limit: Duration) -> StoreError {
        let limit = limit.as_secs_f32();
        match self.inner.requests.as_ref().and_then(|requests| requests.wire.refusal.after(asked)) {
            Some(status) => {
                let cause = format!("answered {status}, tried again for {limit:.1} s");
                self.error(StoreErrorKind::Busy, operation, key, cause)
            }
            None => {
                let cause = format!("not answered within {limit:.1} s");
                self.error(StoreErrorKind::Interrupted, operation, key, cause)
            }
        }
    }

    pub(crate) fn error(
        &self,
        kind: StoreErrorKind,
        operation: &'static str,
        key: &str,
        cause: impl Into<String>,
    ) -> StoreError {
        StoreError::new(kind, operation, key, &self.inner.location, cause)
    }

    pub(crate) fn checked<T>(
        &self,
        operation: &'static str,
        key: &str,
        seen: Option<&Seen>,
        result: object_store::Result<T>,
    ) -> Result<T, StoreError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                let reply = seen.map(Seen::reply).unwrap_or_default();
                let location = &self.inner.location;
                let error = StoreError::from_object_store(&error, reply.status, operation, key, location);
                Err(error.with_retry_after(reply.retry_after))
            }
        }
    }

    /// Sends a request, and sends it again when the service refused the credentials and the chain has others: keys are
    /// rotated while a database is open.
    async fn renewing<T, R>(&self, request: impl Fn() -> R) -> Result<T, StoreError>
    where
        R: Future<Output = Result<T, StoreError>>,
    {
        let Some(chain) = &self.inner.chain else { return request().await };
        for _ in 0..RENEWALS {
            // What the request is signed with, or what another request has just replaced: then it is sent once too often.
            let used = chain.credential().await.ok();
            match (request().await, used) {
                (Err(error), Some(used)) if error.kind() == StoreErrorKind::Denied => {
                    if !chain.replaces(&used).await {
                        return Err(error);
                    }
                }
                (result, _) => return result,
            }
        }
        request().await
    }
}

/// 412 says that the object exists; 409 that another creation is under way.
fn is_exists(status: http::StatusCode) -> bool {
    status == http::StatusCode::PRECONDITION_FAILED || status == http::StatusCode::CONFLICT
}

/// A store that can't be reached must make an open fail within seconds.
fn retry_reads() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 3.0,
        },
        max_retries: 4,
        retry_timeout: Duration::from_secs(30),
    }
}

fn object(meta: ObjectMeta) -> Object {
    Object {
        key: meta.location.to_string(),
        size: meta.size,
        modified: meta.last_modified.into(),
        e_tag: meta.e_tag.map(unquoted),
    }
}

/// Some services quote ETags in one reply and not in another.
pub(crate) fn unquoted(e_tag: String) -> String {
    e_tag.trim_matches('"').to_owned()
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}
