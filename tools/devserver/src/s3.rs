//! The operations of S3, on [`Storage`].

mod attributes;
mod listing;
mod multipart;
mod read;
mod write;

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::storage::{Condition, Storage};
use multipart::Uploads;

/// s3s's view of the server. Each operation is a method in one of the modules here.
#[derive(Debug)]
pub(crate) struct Protocol {
    storage: Arc<Storage>,
    uploads: Uploads,
}

impl Protocol {
    pub(crate) fn new(storage: Storage) -> Self {
        Self { storage: Arc::new(storage), uploads: Uploads::default() }
    }
}

type Request<T> = S3Request<T>;
type Reply<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Protocol {
    async fn create_bucket(&self, req: Request<CreateBucketInput>) -> Reply<CreateBucketOutput> {
        self.storage.create_bucket(&req.input.bucket)?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", req.input.bucket)) }))
    }

    async fn delete_bucket(&self, req: Request<DeleteBucketInput>) -> Reply<DeleteBucketOutput> {
        self.storage.delete_bucket(&req.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(&self, req: Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.storage.bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(&self, req: Request<GetBucketLocationInput>) -> Reply<GetBucketLocationOutput> {
        self.storage.bucket(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(&self, _: Request<ListBucketsInput>) -> Reply<ListBucketsOutput> {
        Ok(S3Response::new(self.list_all_buckets()))
    }

    async fn list_objects_v2(&self, req: Request<ListObjectsV2Input>) -> Reply<ListObjectsV2Output> {
        Ok(S3Response::new(self.list_page(req.input)?))
    }

    async fn head_object(&self, req: Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        Ok(S3Response::new(self.describe(req.input)?))
    }

    async fn get_object(&self, req: Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        Ok(S3Response::new(self.read(req.input)?))
    }

    async fn put_object(&self, req: Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        Ok(S3Response::new(self.put(req.input).await?))
    }

    async fn copy_object(&self, req: Request<CopyObjectInput>) -> Reply<CopyObjectOutput> {
        // A condition on the copy itself, which s3s does not read.
        let is_new = req.headers.get("if-none-match").is_some_and(|value| value == "*");
        let condition = Condition { if_match: None, if_none_match: is_new.then_some(ETagCondition::Any) };
        Ok(S3Response::new(self.copy(req.input, &condition)?))
    }

    async fn delete_object(&self, req: Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let condition = Condition { if_match: req.input.if_match, if_none_match: None };
        let bucket = self.storage.bucket(&req.input.bucket)?;
        bucket.delete(&req.input.key, &condition)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: Request<DeleteObjectsInput>) -> Reply<DeleteObjectsOutput> {
        Ok(S3Response::new(self.delete_many(req.input)?))
    }

    async fn create_multipart_upload(
        &self,
        req: Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        Ok(S3Response::new(self.begin_upload(req.input)?))
    }

    async fn upload_part(&self, req: Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        Ok(S3Response::new(self.receive_part(req.input).await?))
    }

    async fn complete_multipart_upload(
        &self,
        req: Request<CompleteMultipartUploadInput>,
    ) -> Reply<CompleteMultipartUploadOutput> {
        Ok(S3Response::new(self.complete_upload(req.input).await?))
    }

    async fn abort_multipart_upload(
        &self,
        req: Request<AbortMultipartUploadInput>,
    ) -> Reply<AbortMultipartUploadOutput> {
        self.abort_upload(&req.input)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
