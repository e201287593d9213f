//! Buckets and objects: an index in memory over a folder, so that a condition is checked and its object put
//! in place under one lock.
//!
//! ```text
//! DIR/.lock             held while a server uses the folder
//! DIR/.uploads/…        what is still being received; emptied at start
//! DIR/BUCKET/NAME       one object, see `object_file`
//! ```
//!
//! An object appears by a rename: a server that is killed leaves whole objects or none. Nothing is
//! synced to the disk: a power cut is not what this server is tested for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use s3s::dto::{ETag, ETagCondition};
use s3s::{S3Error, S3Result, s3_error};
use tempfile::{NamedTempFile, TempDir};

use crate::list;
use crate::object_file::{Attributes, Description, file_name};

/// All buckets of one server.
#[derive(Debug)]
pub(crate) struct Storage {
    root: PathBuf,
    uploads: PathBuf,
    buckets: Mutex<BTreeMap<String, Arc<Bucket>>>,
    _lock: File,
    /// The folder, if it is ours to remove.
    _owned: Option<TempDir>,
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) created: SystemTime,
    folder: PathBuf,
    objects: Mutex<BTreeMap<String, Object>>,
}

/// What is known about an object without opening it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) content_bytes: u64,
    pub(crate) about: Arc<Description>,
}

/// When a write may happen.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

impl Storage {
    /// Uses `folder`, created if it isn't there, or a temporary one that goes away with this value.
    pub(crate) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let (root, owned) = match folder {
            Some(folder) => (folder.to_owned(), None),
            None => {
                let owned = tempfile::Builder::new().prefix("bottomless-devserver-").tempdir()?;
                (owned.path().to_owned(), Some(owned))
            }
        };
        fs::create_dir_all(&root)?;
        let lock = File::options().create(true).truncate(false).write(true).open(root.join(".lock"))?;
        lock.try_lock().map_err(|_| {
            let message = format!("another server uses the folder {}", root.display());
            io::Error::new(io::ErrorKind::AddrInUse, message)
        })?;
        let uploads = root.join(".uploads");
        match fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&uploads)?,
        }
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str()
                && !name.starts_with('.')
                && entry.file_type()?.is_dir()
            {
                buckets.insert(name.to_owned(), Arc::new(Bucket::load(entry.path())?));
            }
        }
        Ok(Self { root, uploads, buckets: Mutex::new(buckets), _lock: lock, _owned: owned })
    }

    /// An empty file to receive content in; it is removed unless it is published.
    pub(crate) fn upload(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(&self.uploads)
    }

    pub(crate) fn create_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = lock(&self.buckets);
        if buckets.contains_key(name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        let folder = self.root.join(name);
        fs::create_dir(&folder).map_err(S3Error::internal_error)?;
        let bucket = Bucket::load(folder).map_err(S3Error::internal_error)?;
        buckets.insert(name.to_owned(), Arc::new(bucket));
        Ok(())
    }

    pub(crate) fn delete_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.get(name).ok_or_else(no_such_bucket)?;
        if !lock(&bucket.objects).is_empty() {
            return Err(s3_error!(BucketNotEmpty));
        }
        fs::remove_dir(&bucket.folder).map_err(S3Error::internal_error)?;
        buckets.remove(name);
        Ok(())
    }

    pub(crate) fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        lock(&self.buckets).get(name).cloned().ok_or_else(no_such_bucket)
    }

    pub(crate) fn buckets(&self) -> Vec<(String, SystemTime)> {
        lock(&self.buckets).iter().map(|(name, bucket)| (name.clone(), bucket.created)).collect()
    }
}

impl Bucket {
    fn load(folder: PathBuf) -> io::Result<Self> {
        let created = fs::metadata(&folder)?.modified()?;
        let mut objects = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            match Description::read_from(&mut File::open(&path)?) {
                Ok((about, content_bytes)) if folder.join(file_name(&about.key)) == path => {
                    let object = Object { content_bytes, about: Arc::new(about) };
                    objects.insert(object.about.key.clone(), object);
                }
                Ok(_) => tracing::warn!(path = %path.display(), "ignored: not its object's name"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "ignored"),
            }
        }
        Ok(Self { created, folder, objects: Mutex::new(objects) })
    }

    /// Makes what was received the object `key`, if the condition holds. Of many that try at once with
    /// `If-None-Match: *` exactly one does.
    pub(crate) fn publish(
        &self,
        key: &str,
        content: NamedTempFile,
        etag: String,
        attributes: Attributes,
        condition: &Condition,
    ) -> S3Result<Object> {
        let content_bytes = content.as_file().metadata().map_err(S3Error::internal_error)?.len();
        let about = Description { key: key.to_owned(), etag, modified_ms: now_ms(), attributes };
        about.write_to(content.as_file()).map_err(S3Error::internal_error)?;
        let object = Object { content_bytes, about: Arc::new(about) };

        let mut objects = lock(&self.objects);
        condition.check(objects.get(key))?;
        content.persist(self.folder.join(file_name(key))).map_err(|error| match error.error.kind() {
            // The bucket was deleted after it was looked up.
            io::ErrorKind::NotFound => no_such_bucket(),
            _ => S3Error::internal_error(error.error),
        })?;
        objects.insert(key.to_owned(), object.clone());
        Ok(object)
    }

    pub(crate) fn head(&self, key: &str) -> S3Result<Object> {
        lock(&self.objects).get(key).cloned().ok_or_else(no_such_key)
    }

    /// The object and its file, the content at the front. A later write or delete doesn't disturb it.
    pub(crate) fn open(&self, key: &str) -> S3Result<(Object, File)> {
        let objects = lock(&self.objects);
        let object = objects.get(key).ok_or_else(no_such_key)?;
        let file = File::open(self.folder.join(file_name(key))).map_err(S3Error::internal_error)?;
        Ok((object.clone(), file))
    }

    /// Deletes; a key that isn't there is no error.
    pub(crate) fn delete(&self, key: &str, condition: &Condition) -> S3Result<()> {
        let mut objects = lock(&self.objects);
        condition.check(objects.get(key))?;
        if objects.contains_key(key) {
            fs::remove_file(self.folder.join(file_name(key))).map_err(S3Error::internal_error)?;
            objects.remove(key);
        }
        Ok(())
    }

    /// One page of a listing, handed to `f` while nothing can change.
    pub(crate) fn list<R>(&self, query: &list::Query, f: impl FnOnce(list::Page<'_, Object>) -> R) -> R {
        f(list::page(&lock(&self.objects), query))
    }
}

impl Object {
    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(self.about.etag.clone())
    }
}

impl Condition {
    fn check(&self, existing: Option<&Object>) -> S3Result<()> {
        let is = |condition: &ETagCondition, object: &Object| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == object.about.etag,
        };
        match (&self.if_none_match, existing) {
            (Some(condition), Some(object)) if is(condition, object) => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        match (&self.if_match, existing) {
            (Some(_), None) => Err(no_such_key()),
            (Some(condition), Some(object)) if !is(condition, object) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist")
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// No code that holds one of these locks leaves its map half changed, so a panic elsewhere is no reason to
/// refuse.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
