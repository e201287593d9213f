//! PutObject, CopyObject and DeleteObjects.

use std::io::{self, Write as _};

use futures::TryStreamExt as _;
use s3s::dto::*;
use s3s::{S3Error, S3Result, s3_error};
use tempfile::NamedTempFile;

use super::Protocol;
use crate::digest::{Digest, Expected, hex};
use crate::object_file::Attributes;
use crate::storage::Condition;

/// A body that has arrived whole.
pub(super) struct Received {
    pub(super) content: NamedTempFile,
    pub(super) content_bytes: u64,
    pub(super) md5: [u8; 16],
    pub(super) checksums: Checksum,
}

impl Protocol {
    /// Reads a body to its end into a file of its own, also when the write can't succeed: the answer reaches
    /// only a client that could send everything.
    pub(super) async fn receive(&self, body: Option<StreamingBlob>, expected: Expected) -> S3Result<Received> {
        let mut content = self.storage.upload().map_err(S3Error::internal_error)?;
        let mut digest = Digest::new(expected);
        let mut content_bytes = 0;
        if let Some(mut body) = body {
            while let Some(piece) = body
                .try_next()
                .await
                .map_err(|source| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, source))?
            {
                digest.update(&piece);
                content.write_all(&piece).map_err(S3Error::internal_error)?;
                content_bytes += piece.len() as u64;
            }
        }
        let (md5, checksums) = digest.finish()?;
        Ok(Received { content, content_bytes, md5, checksums })
    }

    pub(super) async fn put(&self, mut input: PutObjectInput) -> S3Result<PutObjectOutput> {
        let attributes = Attributes::from(&mut input);
        let expected = Expected {
            md5: input.content_md5,
            crc32: input.checksum_crc32,
            crc32c: input.checksum_crc32c,
            crc64nvme: input.checksum_crc64nvme,
            sha1: input.checksum_sha1,
            sha256: input.checksum_sha256,
        };
        let received = self.receive(input.body, expected).await?;
        let condition = Condition { if_match: input.if_match, if_none_match: input.if_none_match };
        let etag = hex(&received.md5);
        let object =
            self.storage.bucket(&input.bucket)?.publish(&input.key, received.content, etag, attributes, &condition)?;
        Ok(PutObjectOutput {
            e_tag: Some(object.etag()),
            checksum_crc32: received.checksums.checksum_crc32,
            checksum_crc32c: received.checksums.checksum_crc32c,
            checksum_crc64nvme: received.checksums.checksum_crc64nvme,
            checksum_sha1: received.checksums.checksum_sha1,
            checksum_sha256: received.checksums.checksum_sha256,
            ..PutObjectOutput::default()
        })
    }

    pub(super) fn copy(&self, mut input: CopyObjectInput, condition: &Condition) -> S3Result<CopyObjectOutput> {
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented, "copies come from a bucket only"));
        };
        let (source, file) = self.storage.bucket(bucket)?.open(key)?;
        let replace =
            input.metadata_directive.as_ref().map(MetadataDirective::as_str) == Some(MetadataDirective::REPLACE);
        let attributes = match replace {
            true => Attributes::from(&mut input),
            false => source.about.attributes.clone(),
        };
        let mut content = self.storage.upload().map_err(S3Error::internal_error)?;
        let mut source_content = io::Read::take(file, source.content_bytes);
        io::copy(&mut source_content, &mut content).map_err(S3Error::internal_error)?;
        let object = self.storage.bucket(&input.bucket)?.publish(
            &input.key,
            content,
            source.about.etag.clone(),
            attributes,
            condition,
        )?;
        Ok(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(object.etag()),
                last_modified: Some(object.about.modified().into()),
                ..CopyObjectResult::default()
            }),
            ..CopyObjectOutput::default()
        })
    }

    pub(super) fn delete_many(&self, input: DeleteObjectsInput) -> S3Result<DeleteObjectsOutput> {
        let bucket = self.storage.bucket(&input.bucket)?;
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for object in input.delete.objects {
            match bucket.delete(&object.key, &Condition::default()) {
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(error) => errors.push(s3s::dto::Error {
                    key: Some(object.key),
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    ..s3s::dto::Error::default()
                }),
            }
        }
        if input.delete.quiet == Some(true) {
            deleted.clear();
        }
        Ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..DeleteObjectsOutput::default() })
    }
}
