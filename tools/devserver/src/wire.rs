//! HTTP in front of the S3 protocol: the request log, and servers that ask for no credentials.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, IF_NONE_MATCH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::dto::StreamingBlob;
use s3s::service::S3Service;
use s3s::{Body, HttpError};

use crate::chunked;
use crate::log::{RequestLog, RequestRecord};

/// Answers requests.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) s3: S3Service,
    pub(crate) log: Arc<RequestLog>,
    /// Whether `s3` has credentials to check signatures with.
    pub(crate) checks_signatures: bool,
}

impl Wire {
    pub(crate) async fn call(self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let (mut parts, incoming) = request.into_parts();
        let pending = Pending::new(&parts, self.log);
        let mut body = Body::http_body(Counted { inner: incoming, received: Arc::clone(&pending.received) });
        if !self.checks_signatures {
            body = accept_anyone(&mut parts, body);
        }
        let response = self.s3.call(Request::from_parts(parts, body)).await?;
        pending.answered(&response);
        Ok(response)
    }
}

/// A request that is not answered yet. Dropped unanswered, it is logged without a status.
struct Pending {
    log: Arc<RequestLog>,
    record: Option<RequestRecord>,
    received: Arc<AtomicU64>,
}

impl Pending {
    fn new(parts: &Parts, log: Arc<RequestLog>) -> Self {
        let record = RequestRecord {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            if_none_match: parts.headers.contains_key(IF_NONE_MATCH),
        };
        Self { log, record: Some(record), received: Arc::default() }
    }

    fn answered(mut self, response: &Response<Body>) {
        if let Some(record) = &mut self.record {
            record.status = Some(response.status().as_u16());
            if record.method != Method::HEAD.as_str() {
                let announced =
                    response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                record.bytes_out = announced.unwrap_or(response.body().size_hint().lower());
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.bytes_in = self.received.load(Ordering::Relaxed);
            self.log.push(record);
        }
    }
}

/// Counts what arrives.
struct Counted {
    inner: Incoming,
    received: Arc<AtomicU64>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Takes the signature off a request. s3s answers 501 to signed requests when it has no credentials, and it
/// takes the framing of a signed stream off only together with checking it.
fn accept_anyone(parts: &mut Parts, body: Body) -> Body {
    parts.headers.remove(AUTHORIZATION);
    if let Some(uri) = without_signature(&parts.uri) {
        parts.uri = uri;
    }
    let framed = header(&parts.headers, "x-amz-content-sha256").is_some_and(|value| value.starts_with("STREAMING-"));
    parts.headers.remove("x-amz-content-sha256");
    if !framed {
        return body;
    }
    match parts.headers.get("x-amz-decoded-content-length").cloned() {
        Some(length) => parts.headers.insert(CONTENT_LENGTH, length),
        None => parts.headers.remove(CONTENT_LENGTH),
    };
    Body::from(StreamingBlob::wrap(chunked::content(body)))
}

/// The same address without the parameters of a presigned one, if it has some.
fn without_signature(uri: &Uri) -> Option<Uri> {
    const SIGNED_WITH: [&str; 11] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Amz-Content-Sha256",
        "AWSAccessKeyId",
        "Signature",
        "Expires",
    ];
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let pairs: Vec<&str> = uri.query()?.split('&').collect();
    if !pairs.iter().any(|pair| matches!(name(pair).as_str(), "X-Amz-Signature" | "Signature")) {
        return None;
    }
    let kept: Vec<&str> = pairs.into_iter().filter(|pair| !SIGNED_WITH.contains(&name(pair).as_str())).collect();
    let path_and_query = match kept.as_slice() {
        [] => uri.path().to_owned(),
        kept => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
