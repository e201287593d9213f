//! What `object_store` has no call for: an upload that streams a file, a conditional copy, and the creation of a bucket. Signed with its
//! [`AwsAuthorizer`], sent over the same connections.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpErrorKind, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::body::{FileBody, chunks, read_chunk};
use crate::credentials::Chain;
use crate::error::{brief, deepest, kind_of_status};
use crate::transport::{Metered, retry_after};
use crate::{Body, Location, StoreError, StoreErrorKind};

/// The bytes that a canonical SigV4 path escapes: all but the unreserved ones and the slash.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A signer and sender of requests to one bucket of an S3 service.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    pub(crate) wire: Metered,
    pub(crate) location: Location,
    pub(crate) endpoint: Url,
    /// None: requests go unsigned.
    pub(crate) chain: Option<Arc<Chain>>,
    pub(crate) region: String,
}

/// A reply: its status, its ETag, and its text where it is no success.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) e_tag: Option<String>,
    pub(crate) retry_after: Option<std::time::Duration>,
    pub(crate) text: String,
}

impl Requests {
    fn uri(&self, key: &str) -> Result<Uri, http::Error> {
        let path = format!("{}/{}", self.location.bucket, utf8_percent_encode(key, &PATH));
        let base = self.endpoint.as_str().trim_end_matches('/');
        Ok(format!("{base}/{path}").trim_end_matches('/').parse::<Uri>()?)
    }

    /// An object of this bucket as the header `x-amz-copy-source` names it.
    pub(crate) fn copy_source(&self, key: &str) -> String {
        format!("/{}/{}", self.location.bucket, utf8_percent_encode(key, &PATH))
    }

    fn error(&self, kind: StoreErrorKind, key: &str, cause: impl ToString) -> StoreError {
        StoreError::new(kind, "PUT", key, &self.location, cause.to_string())
    }

    /// Creates the bucket; that it exists already and is ours is a success.
    pub(crate) async fn create_bucket(&self) -> Result<(), StoreError> {
        // Outside of us-east-1 AWS wants the region named; other services take an empty body as well.
        let aws = self.endpoint.host_str().is_some_and(|host| host.ends_with(".amazonaws.com"));
        let text = if aws && self.region != "us-east-1" {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
                self.region
            )
        } else {
            String::new()
        };
        let reply = self.put("", &Body::Memory(text.into()), &[]).await?;
        let ours = reply.text.contains("BucketAlreadyOwnedByYou");
        if reply.status.is_success() || ours {
            return Ok(());
        }
        Err(self.refused("", &reply))
    }

    /// One PUT of `body`, in memory or streamed, with more headers.
    pub(crate) async fn put(&self, key: &str, body: &Body, headers: &[(&str, &str)]) -> Result<Reply, StoreError> {
        self.send(Method::PUT, key, body, headers).await
    }

    /// One DELETE of the object with this ETag, given without its quotes; of another one the service says 412.
    pub(crate) async fn delete(&self, key: &str, e_tag: &str) -> Result<Reply, StoreError> {
        let nothing = Body::Memory(Bytes::new());
        let sent = self.send(Method::DELETE, key, &nothing, &[("if-match", &format!("\"{e_tag}\""))]).await;
        sent.map_err(|error| error.of("DELETE"))
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        body: &Body,
        headers: &[(&str, &str)],
    ) -> Result<Reply, StoreError> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(self.uri(key).map_err(|e| self.error(StoreErrorKind::Rejected, key, e))?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request =
            request.body(HttpRequestBody::empty()).map_err(|e| self.error(StoreErrorKind::Rejected, key, e))?;
        if let Some(chain) = &self.chain {
            let credential = chain.credential().await.map_err(|e| self.error(StoreErrorKind::NoCredentials, key, e))?;
            self.sign(&mut request, body, &credential).await.map_err(|e| self.error(StoreErrorKind::Disk, key, e))?;
        }
        let stream = match body {
            Body::Memory(bytes) => reqwest::Body::from(bytes.clone()),
            Body::File { file, length } => reqwest::Body::wrap(FileBody::new(Arc::clone(file), *length)),
        };
        let (parts, _) = request.into_parts();
        let response = self.wire.send(parts, stream, body.len()).await.map_err(|e| {
            let kind = match e.kind() {
                HttpErrorKind::Connect => StoreErrorKind::Unreachable,
                _ => StoreErrorKind::Interrupted,
            };
            self.error(kind, key, deepest(&e))
        })?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (e_tag, retry_after) = (header(http::header::ETAG), retry_after(response.headers()));
        // A success whose text breaks off is a success; what an error says is only for its message.
        let text = response.text().await.unwrap_or_default();
        Ok(Reply { status, e_tag, retry_after, text })
    }

    pub(crate) fn refused(&self, key: &str, reply: &Reply) -> StoreError {
        let cause = format!("{} {}", reply.status.as_u16(), brief(&reply.text));
        self.error(kind_of_status(reply.status, &reply.text), key, cause.trim()).with_retry_after(reply.retry_after)
    }

    async fn sign(
        &self,
        request: &mut http::Request<HttpRequestBody>,
        body: &Body,
        credential: &AwsCredential,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let digest = sha256(body.clone()).await?;
        AwsAuthorizer::new(credential, "s3", &self.region).try_authorize(request, Some(digest.as_ref()))?;
        Ok(())
    }
}

/// The digest that SigV4 wants of the body. A file is read for it once more than for the upload, which keeps the
/// service's own check of what arrived.
async fn sha256(body: Body) -> std::io::Result<digest::Digest> {
    match body {
        Body::Memory(bytes) => Ok(digest::digest(&digest::SHA256, &bytes)),
        Body::File { file, length } => {
            let hash = move || {
                let mut context = digest::Context::new(&digest::SHA256);
                for (offset, size) in chunks(length) {
                    context.update(&read_chunk(&file, offset, size)?);
                }
                Ok(context.finish())
            };
            tokio::task::spawn_blocking(hash).await.map_err(std::io::Error::other)?
        }
    }
}
