//! What an operation on a database can fail with.

use std::fmt;
use std::io;

use bottomless_history::HistoryError;
use bottomless_store::{StoreError, StoreErrorKind};

/// What an error means for the program that met it. The shim has one table from these to SQLite's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A variable or a URI parameter is wrong: fix the configuration.
    Configuration,
    /// The store could not be reached or did not answer in time: try again later.
    Unavailable,
    /// The store refused: credentials, policy, a missing bucket.
    Refused,
    /// The store can't keep two writers apart.
    Unfenceable,
    /// Another writer has taken over: reopen.
    Fenced,
    /// The local database and the bucket hold different histories.
    Conflict,
    /// What the bucket holds is damaged.
    Damaged,
    /// The transaction is larger than one object can be.
    TooLarge,
    /// The local disk is full.
    DiskFull,
    /// The local disk failed.
    Disk,
    /// Another process or connection has the local database locked.
    Busy,
    /// The local file was replaced while it was open.
    Moved,
}

/// A failure: what happened, to which database, and what to do, in one text.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with the text that the user reads.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A failed operation of the local disk; `what` says on which file.
    pub fn disk(what: impl fmt::Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(ErrorKind::DiskFull, format!("{what}: {error}; make room on the disk"))
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::new(
                ErrorKind::Disk,
                format!("{what}: {error}; the folder of the database must be writable, as for SQLite's own journal"),
            ),
            _ if is_out_of_descriptors(error) => Self::new(
                ErrorKind::Disk,
                format!("{what}: {error}; close files or connections, or raise the limit of open files (ulimit -n)"),
            ),
            _ => Self::new(ErrorKind::Disk, format!("{what}: {error}")),
        }
    }

    /// What it means for the program.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, said of something larger.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<HistoryError> for Error {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Store(error) => error.into(),
            HistoryError::Disk(error) => Self::disk("the restored file can't be written", &error),
            HistoryError::Interrupted(_) => Self::new(ErrorKind::Unavailable, error.to_string()),
            HistoryError::Settings { .. } | HistoryError::NoPoint(_) | HistoryError::Folded(_) => {
                Self::new(ErrorKind::Configuration, error.to_string())
            }
            _ => Self::new(ErrorKind::Damaged, error.to_string()),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Unreachable | StoreErrorKind::Interrupted | StoreErrorKind::Busy => ErrorKind::Unavailable,
            StoreErrorKind::NoCredentials
            | StoreErrorKind::Denied
            | StoreErrorKind::NoSuchBucket
            | StoreErrorKind::Rejected => ErrorKind::Refused,
            StoreErrorKind::Unsupported => ErrorKind::Unfenceable,
            StoreErrorKind::NotFound => ErrorKind::Damaged,
            StoreErrorKind::Disk => ErrorKind::Disk,
        };
        Self::new(kind, error.to_string())
    }
}
