//! Uploads that are too large for one PUT.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutPayload};

use crate::bucket::unquoted;
use crate::meter::Operation;
use crate::{Body, Bucket, CreateOutcome, StoreError, StoreErrorKind};

/// S3 takes no more parts of one object.
const MOST_PARTS: u64 = 10_000;

const OP: &str = "PUT";

impl Bucket {
    /// Creates an object in parts; it appears when all of them are there. Each part is sent again by itself when the service
    /// can't take it just now. One part at a time is in memory: `part_length` bytes, or more where 10,000 parts would not be
    /// enough.
    ///
    /// The upload has no condition: whether the object exists is looked up just before it would appear. One that another
    /// creates at that moment is replaced.
    ///
    /// `time` becomes the metadata `litestream-timestamp`, where the store keeps metadata.
    ///
    /// # Errors
    /// See [`StoreErrorKind`]; a part that is not answered within `timeout` is [`StoreErrorKind::Interrupted`]. The parts
    /// are given up then, as far as the service can be reached. When the caller drops the future they stay, until a
    /// lifecycle rule of the bucket removes them.
    pub async fn create_parts(
        &self,
        key: &str,
        body: &Body,
        time: SystemTime,
        part_length: u64,
        timeout: Duration,
    ) -> Result<CreateOutcome, StoreError> {
        let part_length = part_length.max(body.len().div_ceil(MOST_PARTS)).max(1);
        let path = self.path(OP, key)?;
        let options = PutMultipartOptions { attributes: self.attributes(time), ..PutMultipartOptions::default() };
        self.count(Operation::Put, 0);
        let begin = self.reader().put_multipart_opts(&path, options);
        let mut upload = self.answer(key, timeout, begin).await?;
        let sent = self.send_parts(key, body, part_length, timeout, &mut *upload).await;
        if !matches!(sent, Ok(CreateOutcome::Created { .. })) {
            let abort = self.answer(key, timeout, upload.abort()).await;
            if let Err(error) = abort {
                tracing::warn!(%error, "the parts of an upload that was given up stay in the bucket until a lifecycle rule removes them");
            }
        }
        sent
    }

    async fn send_parts(
        &self,
        key: &str,
        body: &Body,
        part_length: u64,
        timeout: Duration,
        upload: &mut dyn MultipartUpload,
    ) -> Result<CreateOutcome, StoreError> {
        let mut offset = 0;
        while offset < body.len() {
            let length = part_length.min(body.len() - offset);
            let part = self.part(key, body, offset, length).await?;
            self.count(Operation::Put, length);
            self.answer(key, timeout, upload.put_part(PutPayload::from_bytes(part))).await?;
            offset += length;
        }
        if self.exists(key, timeout).await? {
            return Ok(CreateOutcome::Exists);
        }
        let done = self.answer(key, timeout, upload.complete()).await?;
        Ok(CreateOutcome::Created { e_tag: done.e_tag.map(unquoted) })
    }

    async fn exists(&self, key: &str, timeout: Duration) -> Result<bool, StoreError> {
        let path = self.path(OP, key)?;
        self.count(Operation::Head, 0);
        match self.answer(key, timeout, self.reader().head(&path)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn part(&self, key: &str, body: &Body, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let disk = |e: &dyn std::fmt::Display| self.error(StoreErrorKind::Disk, OP, key, e.to_string());
        let body = body.clone();
        let read = move || body.read(offset..offset + length);
        tokio::task::spawn_blocking(read).await.map_err(|e| disk(&e))?.map_err(|e| disk(&e))
    }

    async fn answer<T>(
        &self,
        key: &str,
        timeout: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        match tokio::time::timeout(timeout, request).await {
            Ok(result) => self.checked(OP, key, None, result),
            Err(_) => Err(self.given_up(OP, key, asked, timeout)),
        }
    }
}
