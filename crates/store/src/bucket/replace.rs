//! Objects that are written again: small ones, each on the condition that it is still what it was.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use super::{Bucket, Object, is_exists, object, unquoted};
use crate::meter::Operation;
use crate::transport::Seen;
use crate::{StoreError, StoreErrorKind};

/// What must be there for an object to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// No object of this name (`If-None-Match: *`).
    Absent,
    /// The object with this ETag, given without its quotes (`If-Match`).
    ETag(String),
    /// Whatever is there is replaced.
    Any,
}

/// How a write on a condition ended, where the store gave a clear answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// The object is there, with our content.
    Written {
        /// The ETag without its quotes.
        e_tag: Option<String>,
    },
    /// What is there is not what was expected, or changes at this moment: nothing was written.
    Changed,
}

/// An ETag that no object has.
const NO_ETAG: &str = "00000000000000000000000000000000";

impl Bucket {
    /// Whether the bucket is a folder on a disk. Its ETags tell nothing of the content, and whatever is there is replaced,
    /// unless nothing may be there.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.inner.folder.is_some()
    }

    /// Writes an object, if what is there is what is expected: one request, sent again by itself only when the service
    /// refused the credentials and there are others.
    ///
    /// # Errors
    /// Anything but a clear answer; see [`StoreErrorKind::may_have_landed`]. An attempt that is not answered within
    /// `timeout` is [`StoreErrorKind::Interrupted`].
    pub async fn replace(
        &self,
        key: &str,
        content: Bytes,
        expected: &Expected,
        timeout: Duration,
    ) -> Result<Replaced, StoreError> {
        let asked = Instant::now();
        match tokio::time::timeout(timeout, self.renewing(|| self.replace_once(key, content.clone(), expected))).await {
            Ok(result) => result,
            Err(_) => Err(self.given_up("PUT", key, asked, timeout)),
        }
    }

    async fn replace_once(&self, key: &str, content: Bytes, expected: &Expected) -> Result<Replaced, StoreError> {
        let op = "PUT";
        let path = self.path(op, key)?;
        self.count(Operation::Put, content.len() as u64);
        let mode = match expected {
            Expected::Absent => PutMode::Create,
            Expected::ETag(e_tag) if !self.is_folder() => {
                PutMode::Update(UpdateVersion { e_tag: Some(format!("\"{e_tag}\"")), version: None })
            }
            Expected::ETag(_) | Expected::Any => PutMode::Overwrite,
        };
        let is_conditional = mode != PutMode::Overwrite;
        let seen = Seen::default();
        let mut options = PutOptions { mode, ..PutOptions::default() };
        options.extensions.insert(seen.clone());
        let result = self.inner.writer.put_opts(&path, PutPayload::from_bytes(content), options).await;
        let status = seen.reply().status;
        match result {
            Ok(done) => Ok(Replaced::Written { e_tag: done.e_tag.map(unquoted) }),
            Err(error) if is_conditional && is_changed(&error, status) => Ok(Replaced::Changed),
            result => self.checked(op, key, Some(&seen), result.map(|_| Replaced::Changed)),
        }
    }

    /// What the store says of an object; nothing if it is not there.
    ///
    /// # Errors
    /// See [`StoreErrorKind`].
    pub async fn head(&self, key: &str) -> Result<Option<Object>, StoreError> {
        let op = "HEAD";
        let path = self.path(op, key)?;
        let head = || async {
            self.count(Operation::Head, 0);
            match self.inner.reader.head(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                result => self.checked(op, key, None, result.map(|meta| Some(object(meta)))),
            }
        };
        self.renewing(head).await
    }

    /// Deletes the object with this ETag, given without its quotes, with one request, so that it is known when nothing of it is
    /// under way any more. That the object does not exist is a success; false if another one is there, which stays. Without an
    /// ETag, and in a store without conditional deletes, whatever is there is deleted. (S3 has them since September 2025. A store
    /// that has none may say so, or take no notice of the condition.)
    ///
    /// # Errors
    /// As [`Bucket::replace`].
    pub async fn delete_once(&self, key: &str, e_tag: Option<&str>, timeout: Duration) -> Result<bool, StoreError> {
        let op = "DELETE";
        let path = self.path(op, key)?;
        let delete = || async {
            if let (Some(e_tag), Some(requests)) = (e_tag, &self.inner.requests) {
                self.count(Operation::Delete, 0);
                let reply = requests.delete(key, e_tag).await?;
                match reply.status {
                    StatusCode::PRECONDITION_FAILED => return Ok(false),
                    status if status.is_success() => return Ok(true),
                    StatusCode::NOT_FOUND if !reply.text.contains("NoSuchBucket") => return Ok(true),
                    StatusCode::NOT_IMPLEMENTED => {}
                    _ => return Err(requests.refused(key, &reply).of(op)),
                }
            }
            self.count(Operation::Delete, 0);
            match self.inner.writer.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(true),
                result => self.checked(op, key, None, result.map(|()| true)),
            }
        };
        let asked = Instant::now();
        match tokio::time::timeout(timeout, self.renewing(delete)).await {
            Ok(result) => result,
            Err(_) => Err(self.given_up(op, key, asked, timeout)),
        }
    }

    /// Whether the store heeds `If-Match`, tried once for this handle and its clones on the object `key`, which must exist
    /// and may be overwritten. A folder does not, and a caller must know.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`] when it does not, and those of [`Bucket::replace`].
    pub async fn check_replaces(&self, key: &str, timeout: Duration) -> Result<(), StoreError> {
        if self.inner.replaces.get().is_some() {
            return Ok(());
        }
        let wrong = Expected::ETag(NO_ETAG.to_owned());
        match self.replace(key, Bytes::new(), &wrong, timeout).await? {
            Replaced::Changed => {
                self.inner.replaces.get_or_init(|| ());
                Ok(())
            }
            Replaced::Written { .. } => {
                let cause = "it replaced an object although its ETag was not the one that If-Match asked for";
                Err(self.error(StoreErrorKind::Unsupported, "PUT", key, cause))
            }
        }
    }
}

/// Whether a conditional write was refused because of its condition. An object that is to be replaced and is not there may be
/// answered with 404, as a bucket that is not there is.
fn is_changed(error: &object_store::Error, status: Option<StatusCode>) -> bool {
    match (error, status) {
        (_, Some(StatusCode::NOT_FOUND)) => !crate::error::whole_text(error).contains("NoSuchBucket"),
        (_, Some(status)) => is_exists(status),
        (object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }, None) => true,
        _ => false,
    }
}
