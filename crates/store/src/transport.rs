//! The HTTP client that all buckets of a process share, and the counting in front of it.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, DATE, RETRY_AFTER};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use crate::error::is_busy;
use crate::listing::without_odd_keys;
use crate::meter::{Meter, Operation};

/// Time in which a connection must come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which a reply that has begun must go on.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// An idle connection is closed before the usual servers and load balancers close it (60 s and more).
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// One pool of connections, for all buckets of a process.
///
/// Its connections live on the tokio runtime on which they were opened: after a `fork()`, or for another runtime,
/// make another.
#[derive(Debug, Clone)]
pub struct Transport(reqwest::Client);

impl Transport {
    /// A pool without a connection yet.
    ///
    /// # Errors
    /// When the TLS configuration of the machine can't be loaded.
    pub fn new() -> io::Result<Self> {
        let client = reqwest::Client::builder()
            // One request at a time is in flight on a commit: HTTP/2 adds nothing, and some stores speak it badly.
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("bottomless/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(io::Error::other)?;
        Ok(Self(client))
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.0
    }
}

/// What a request met on the wire, for its sender: put it into the request's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Reply>>);

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reply {
    pub(crate) status: Option<StatusCode>,
    pub(crate) retry_after: Option<Duration>,
}

impl Seen {
    pub(crate) fn reply(&self) -> Reply {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, status: StatusCode, headers: &http::HeaderMap) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Reply { status: Some(status), retry_after: retry_after(headers) };
    }
}

/// `Retry-After` in seconds; S3 services do not use its form with a date.
pub(crate) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The last answer of a service that can't just now, until it answers otherwise: whoever gives up while requests are
/// tried again behind its back knows from here what they met.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<(StatusCode, Instant)>>>);

impl Refusal {
    fn record(&self, status: StatusCode) {
        let refused = is_busy(status).then(|| (status, Instant::now()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// The status, if it was answered after that moment.
    pub(crate) fn after(&self, moment: Instant) -> Option<StatusCode> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, at)| *at >= moment).map(|(status, _)| status)
    }
}

/// The service's clock, as its last reply told it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Option<(SystemTime, Instant)>>>);

impl Clock {
    fn record(&self, headers: &http::HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
            let heard = (SystemTime::from(date.timestamp()), Instant::now());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        }
    }

    /// What it says now, or some time ago: whole seconds are told, and this machine's clock may stand still while it sleeps.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        let (date, heard) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(date + heard.elapsed())
    }
}

/// The shared client, seen by one bucket: it counts what that bucket's requests cost.
#[derive(Debug, Clone)]
pub(crate) struct Metered {
    pub(crate) transport: Transport,
    pub(crate) meter: Meter,
    pub(crate) refusal: Refusal,
    pub(crate) clock: Clock,
}

#[async_trait]
impl HttpService for Metered {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let seen = request.extensions().get::<Seen>().cloned();
        let operation = Operation::of(request.method(), request.uri().query());
        self.meter.sent(operation, request.body().content_length() as u64);
        let response = self.transport.0.call(request).await?;
        self.refusal.record(response.status());
        self.clock.record(response.headers());
        if let Some(seen) = seen {
            seen.record(response.status(), response.headers());
        }
        let (parts, body) = response.into_parts();
        let meter = self.meter.clone();
        let counted = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                meter.received(data.len() as u64);
            }
            frame
        });
        let mut body = HttpResponseBody::new(counted);
        if operation == Operation::List && parts.status.is_success() {
            let bytes = body.bytes().await?;
            body = match std::str::from_utf8(&bytes).map(without_odd_keys) {
                Ok(Cow::Owned(xml)) => Bytes::from(xml).into(),
                _ => bytes.into(),
            };
        }
        Ok(HttpResponse::from_parts(parts, body))
    }
}

impl HttpConnector for Metered {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl Metered {
    /// Sends a signed request whose body may be a stream, which `object_store` has no way to send.
    pub(crate) async fn send(
        &self,
        parts: http::request::Parts,
        body: reqwest::Body,
        length: u64,
    ) -> Result<reqwest::Response, HttpError> {
        self.meter.sent(Operation::of(&parts.method, parts.uri.query()), length);
        let request = self
            .transport
            .client()
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .header(CONTENT_LENGTH, length)
            .body(body)
            .build()
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let response = self.transport.client().execute(request).await.map_err(|e| {
            let kind = if e.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, e.without_url())
        })?;
        self.refusal.record(response.status());
        self.clock.record(response.headers());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_clock_is_that_of_the_last_reply_that_tells_it() {
        let clock = Clock::default();
        let headers = |date: &str| http::HeaderMap::from_iter([(DATE, date.parse().unwrap())]);
        let is_at = |seconds| {
            let since = clock.now().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            (seconds..seconds + 60).contains(&since.as_secs())
        };
        assert_eq!(clock.now(), None);
        clock.record(&http::HeaderMap::new());
        clock.record(&headers("yesterday"));
        assert_eq!(clock.now(), None);
        clock.record(&headers("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(is_at(784_111_777));
        clock.record(&http::HeaderMap::new());
        assert!(is_at(784_111_777));
        clock.record(&headers("Sun, 06 Nov 1994 08:59:37 GMT"));
        assert!(is_at(784_112_377));
    }
}
