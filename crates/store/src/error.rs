//! What can go wrong with a bucket, sorted by what the caller and the user can do about it.

use std::error::Error;
use std::fmt;

use http::StatusCode;
use object_store::client::{HttpError, HttpErrorKind};

use crate::endpoint::Location;

/// What a failed request means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No connection: nothing was sent.
    Unreachable,
    /// Sent, perhaps in part, and no reply: the effect is unknown.
    Interrupted,
    /// The service answered that it can't just now (429 or 5xx): the effect is unknown.
    Busy,
    /// No credentials were found, or their source failed.
    NoCredentials,
    /// The service refused the credentials or the action (401, 403).
    Denied,
    /// The bucket does not exist.
    NoSuchBucket,
    /// The object does not exist.
    NotFound,
    /// The service does not know the operation (501, or a conditional request refused as such).
    Unsupported,
    /// The service refused the request for another reason.
    Rejected,
    /// The machine's own disk, for a `file://` endpoint or an upload's source.
    Disk,
}

impl StoreErrorKind {
    /// True if a later try of the same request may succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Interrupted | Self::Busy)
    }

    /// True if a write that ended so may have taken effect, now or later.
    #[must_use]
    pub fn may_have_landed(self) -> bool {
        // A disk may fail after the object got its name.
        matches!(self, Self::Interrupted | Self::Busy | Self::Disk)
    }
}

/// A failed request: to which bucket, for which key, and why.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    operation: &'static str,
    key: String,
    location: String,
    cause: String,
    retry_after: Option<std::time::Duration>,
}

impl StoreError {
    pub(crate) fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        key: &str,
        location: &Location,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            key: key.to_owned(),
            location: location.to_string(),
            cause: cause.into(),
            retry_after: None,
        }
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<std::time::Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The same error of another operation.
    pub(crate) fn of(mut self, operation: &'static str) -> Self {
        self.operation = operation;
        self
    }

    /// From an error of `object_store`, and the status that was seen on the wire where that is known.
    pub(crate) fn from_object_store(
        error: &object_store::Error,
        status: Option<StatusCode>,
        operation: &'static str,
        key: &str,
        location: &Location,
    ) -> Self {
        let cause = deepest(error);
        let kind = classify(error, status, &cause);
        Self::new(kind, operation, key, location, cause)
    }

    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The object that the request was for; empty if it was for the bucket.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How long the service asked to be left alone (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.retry_after
    }

    fn advice(&self) -> &'static str {
        match self.kind {
            StoreErrorKind::Unreachable => {
                "check that the endpoint is right and that the service runs and can be reached from here"
            }
            StoreErrorKind::Interrupted => {
                "the service did not answer in time; check its health and the network, or raise LIBSQL_BOTTOMLESS_TIMEOUT"
            }
            StoreErrorKind::Busy => "the service is overloaded or failing; try again later",
            StoreErrorKind::NoCredentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is provided"
            }
            StoreErrorKind::Denied if self.cause.contains("RequestTimeTooSkewed") => {
                "the clock of this machine is wrong by more than 15 minutes: set it (for example with NTP)"
            }
            StoreErrorKind::Denied => {
                "check the credentials, the region and the bucket's policy (GetObject, PutObject, DeleteObject, ListBucket)"
            }
            StoreErrorKind::NoSuchBucket => {
                "create it (bottomless-cli create-bucket) or name another with LIBSQL_BOTTOMLESS_BUCKET"
            }
            StoreErrorKind::NotFound => "it may have been deleted by another program or by a lifecycle rule",
            StoreErrorKind::Unsupported => {
                "the service lacks this operation; bottomless needs conditional writes (If-None-Match, and If-Match for \
                 layout=pages) unless LIBSQL_BOTTOMLESS_FENCING=off"
            }
            StoreErrorKind::Rejected => "check the endpoint, the region and the bucket's name",
            StoreErrorKind::Disk => "check the disk's free space and the folder's permissions",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.operation)?;
        if !self.key.is_empty() {
            write!(f, "{} in ", self.key)?;
        }
        let what = match self.kind {
            StoreErrorKind::Unreachable => "can't connect",
            StoreErrorKind::Interrupted => "no reply",
            StoreErrorKind::Busy => "refused for now",
            StoreErrorKind::NoCredentials => "no usable credentials",
            StoreErrorKind::Denied => "access denied",
            StoreErrorKind::NoSuchBucket => "no such bucket",
            StoreErrorKind::NotFound => "no such object",
            StoreErrorKind::Unsupported => "not supported",
            StoreErrorKind::Rejected => "rejected",
            StoreErrorKind::Disk => "disk error",
        };
        write!(f, "{}: {what}", self.location)?;
        if !self.cause.is_empty() {
            write!(f, " ({})", self.cause)?;
        }
        write!(f, "; {}", self.advice())
    }
}

impl Error for StoreError {}

/// The most telling text of an error chain: its end, in one line, without the XML around an S3 code.
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    brief(&last.to_string())
}

/// All that an error of a request says.
pub(crate) fn whole_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut link = error.source();
    while let Some(error) = link {
        text = format!("{text} {error}");
        link = error.source();
    }
    text
}

/// An S3 error document cut down to `Code: Message`.
pub(crate) fn brief(text: &str) -> String {
    let tag = |name: &str| {
        let start = text.find(&format!("<{name}>"))? + name.len() + 2;
        let end = start + text[start..].find(&format!("</{name}>"))?;
        Some(&text[start..end])
    };
    let text = match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// True if the same request may be answered otherwise later. 408 is S3's RequestTimeout: the body did not arrive in time.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..)
}

/// The kind of a reply that is no success.
pub(crate) fn kind_of_status(status: StatusCode, text: &str) -> StoreErrorKind {
    match status.as_u16() {
        // AWS says so of temporary credentials with the status of a malformed request.
        400 if ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].iter().any(|code| text.contains(code)) => {
            StoreErrorKind::Denied
        }
        400 if text.contains("RequestTimeout") => StoreErrorKind::Busy,
        401 | 403 => StoreErrorKind::Denied,
        404 if text.contains("NoSuchBucket") => StoreErrorKind::NoSuchBucket,
        404 => StoreErrorKind::NotFound,
        501 => StoreErrorKind::Unsupported,
        _ if is_busy(status) => StoreErrorKind::Busy,
        _ => StoreErrorKind::Rejected,
    }
}

fn classify(error: &object_store::Error, status: Option<StatusCode>, cause: &str) -> StoreErrorKind {
    let mut link: Option<&dyn Error> = Some(error);
    while let Some(e) = link {
        if e.downcast_ref::<crate::credentials::CredentialsError>().is_some() {
            return StoreErrorKind::NoCredentials;
        }
        if let Some(http) = e.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect => StoreErrorKind::Unreachable,
                _ => StoreErrorKind::Interrupted,
            };
        }
        link = e.source();
    }
    let whole = format!("{cause} {error}");
    if let Some(status) = status {
        return kind_of_status(status, &whole);
    }
    match error {
        _ if whole.contains("NoSuchBucket") => StoreErrorKind::NoSuchBucket,
        object_store::Error::NotFound { .. } => StoreErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            StoreErrorKind::Denied
        }
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            StoreErrorKind::Unsupported
        }
        // The only reads that reach this point carry the status in their text.
        _ => match whole.split("status code: ").nth(1).and_then(|rest| rest.get(..3)?.parse::<StatusCode>().ok()) {
            Some(status) => kind_of_status(status, &whole),
            None => StoreErrorKind::Disk,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_s3_document_is_cut_down_to_code_and_message() {
        let text = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>";
        assert_eq!(brief(text), "SlowDown: Please reduce");
        assert_eq!(brief("a\n  b"), "a b");
        assert!(brief(&"x".repeat(1000)).len() < 400);
    }

    #[test]
    fn a_status_tells_what_to_do() {
        let kind = |s: u16, t: &str| kind_of_status(StatusCode::from_u16(s).unwrap(), t);
        assert_eq!(kind(403, ""), StoreErrorKind::Denied);
        assert_eq!(kind(404, "NoSuchBucket"), StoreErrorKind::NoSuchBucket);
        assert_eq!(kind(404, "NoSuchKey"), StoreErrorKind::NotFound);
        assert_eq!(kind(503, ""), StoreErrorKind::Busy);
        assert_eq!(kind(501, ""), StoreErrorKind::Unsupported);
        assert_eq!(kind(400, ""), StoreErrorKind::Rejected);
        assert_eq!(kind(400, "<Code>ExpiredToken</Code>"), StoreErrorKind::Denied);
        assert_eq!(kind(400, "<Code>RequestTimeout</Code>"), StoreErrorKind::Busy);
        assert!(StoreErrorKind::Busy.may_have_landed() && !StoreErrorKind::Unreachable.may_have_landed());
    }
}
