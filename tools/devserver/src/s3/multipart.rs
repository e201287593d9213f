//! Uploads in parts. They are known to the running server only: a restart forgets those not completed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3Error, S3Result, s3_error};
use tempfile::NamedTempFile;

use super::Protocol;
use crate::digest::{Expected, hex};
use crate::object_file::Attributes;
use crate::storage::{Condition, lock};

/// The least that a part may have, unless it is the last.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
const PART_NUMBERS: std::ops::RangeInclusive<i32> = 1..=10_000;

/// Uploads that are neither completed nor aborted.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    by_id: Mutex<HashMap<String, Upload>>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    attributes: Attributes,
    parts: BTreeMap<i32, Arc<Part>>,
}

#[derive(Debug)]
struct Part {
    content: NamedTempFile,
    content_bytes: u64,
    md5: [u8; 16],
}

impl Uploads {
    /// Calls `f` with an upload, if the id is one of this object's.
    fn with<R>(&self, id: &str, bucket: &str, key: &str, f: impl FnOnce(&mut Upload) -> S3Result<R>) -> S3Result<R> {
        let mut uploads = lock(&self.by_id);
        match uploads.get_mut(id) {
            Some(upload) if upload.bucket == bucket && upload.key == key => f(upload),
            _ => Err(s3_error!(NoSuchUpload)),
        }
    }
}

impl Protocol {
    pub(super) fn begin_upload(&self, mut input: CreateMultipartUploadInput) -> S3Result<CreateMultipartUploadOutput> {
        self.storage.bucket(&input.bucket)?;
        let upload = Upload {
            attributes: Attributes::from(&mut input),
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            parts: BTreeMap::new(),
        };
        let id = format!("upload-{}", self.uploads.count.fetch_add(1, Ordering::Relaxed));
        lock(&self.uploads.by_id).insert(id.clone(), upload);
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    pub(super) async fn receive_part(&self, input: UploadPartInput) -> S3Result<UploadPartOutput> {
        let expected = Expected {
            md5: input.content_md5,
            crc32: input.checksum_crc32,
            crc32c: input.checksum_crc32c,
            crc64nvme: input.checksum_crc64nvme,
            sha1: input.checksum_sha1,
            sha256: input.checksum_sha256,
        };
        let received = self.receive(input.body, expected).await?;
        if !PART_NUMBERS.contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000"));
        }
        let part =
            Arc::new(Part { content: received.content, content_bytes: received.content_bytes, md5: received.md5 });
        self.uploads.with(&input.upload_id, &input.bucket, &input.key, |upload| {
            upload.parts.insert(input.part_number, part);
            Ok(())
        })?;
        Ok(UploadPartOutput {
            e_tag: Some(ETag::Strong(hex(&received.md5))),
            checksum_crc32: received.checksums.checksum_crc32,
            checksum_crc32c: received.checksums.checksum_crc32c,
            checksum_crc64nvme: received.checksums.checksum_crc64nvme,
            checksum_sha1: received.checksums.checksum_sha1,
            checksum_sha256: received.checksums.checksum_sha256,
            ..UploadPartOutput::default()
        })
    }

    pub(super) async fn complete_upload(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let wanted = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (parts, attributes) = self.uploads.with(&input.upload_id, &input.bucket, &input.key, |upload| {
            Ok((choose(&upload.parts, &wanted)?, upload.attributes.clone()))
        })?;

        let mut md5 = Md5::new();
        for part in &parts {
            md5.update(&part.md5);
        }
        let etag = format!("{}-{}", hex(&md5.finalize()), parts.len());
        let content = self.storage.upload().map_err(S3Error::internal_error)?;
        let content = tokio::task::spawn_blocking(move || join(&parts, content))
            .await
            .map_err(S3Error::internal_error)?
            .map_err(S3Error::internal_error)?;
        let condition = Condition { if_match: input.if_match, if_none_match: input.if_none_match };
        let object = self.storage.bucket(&input.bucket)?.publish(&input.key, content, etag, attributes, &condition)?;
        lock(&self.uploads.by_id).remove(&input.upload_id);
        Ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(object.etag()),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    pub(super) fn abort_upload(&self, input: &AbortMultipartUploadInput) -> S3Result<()> {
        self.uploads.with(&input.upload_id, &input.bucket, &input.key, |_| Ok(()))?;
        lock(&self.uploads.by_id).remove(&input.upload_id);
        Ok(())
    }
}

/// The parts that the client names, checked as S3 does.
fn choose(parts: &BTreeMap<i32, Arc<Part>>, wanted: &[CompletedPart]) -> S3Result<Vec<Arc<Part>>> {
    if wanted.is_empty() {
        return Err(s3_error!(MalformedXML, "no parts"));
    }
    let mut chosen: Vec<Arc<Part>> = Vec::new();
    let mut previous = 0;
    for wanted in wanted {
        let number = wanted.part_number.unwrap_or_default();
        if number <= previous {
            return Err(s3_error!(InvalidPartOrder));
        }
        previous = number;
        let part = parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
        if wanted.e_tag.as_ref().is_some_and(|etag| etag.value() != hex(&part.md5)) {
            return Err(s3_error!(InvalidPart));
        }
        if chosen.last().is_some_and(|part| part.content_bytes < MIN_PART_BYTES) {
            return Err(s3_error!(EntityTooSmall));
        }
        chosen.push(Arc::clone(part));
    }
    Ok(chosen)
}

fn join(parts: &[Arc<Part>], mut content: NamedTempFile) -> io::Result<NamedTempFile> {
    for part in parts {
        io::copy(&mut part.content.reopen()?, content.as_file_mut())?;
    }
    Ok(content)
}
