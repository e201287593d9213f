//! The one table from errors to SQLite's extended codes.

use std::ffi::c_int;

use bottomless_engine::ErrorKind;
use libsqlite3_sys as ffi;

/// What COMMIT, or the statement that had to write, returns.
///
/// Never `SQLITE_BUSY`: COMMIT would leave the transaction open, and a program would try again, for ever where only opening
/// the database anew helps.
pub(crate) fn of_commit(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Damaged => ffi::SQLITE_IOERR_FSYNC,
        ErrorKind::Refused => ffi::SQLITE_AUTH,
        ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Unfenceable | ErrorKind::Configuration => {
            ffi::SQLITE_READONLY
        }
        ErrorKind::TooLarge => ffi::SQLITE_TOOBIG,
        ErrorKind::DiskFull => ffi::SQLITE_FULL,
        ErrorKind::Disk => ffi::SQLITE_IOERR_WRITE,
        ErrorKind::Busy => ffi::SQLITE_IOERR_LOCK,
        ErrorKind::Moved => ffi::SQLITE_READONLY_DBMOVED,
    }
}

/// What opening the database returns.
pub(crate) fn of_open(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::Busy => ffi::SQLITE_BUSY,
        ErrorKind::DiskFull => ffi::SQLITE_FULL,
        ErrorKind::Unavailable
        | ErrorKind::Damaged
        | ErrorKind::Refused
        | ErrorKind::Fenced
        | ErrorKind::Conflict
        | ErrorKind::Unfenceable
        | ErrorKind::Configuration
        | ErrorKind::TooLarge
        | ErrorKind::Disk
        | ErrorKind::Moved => ffi::SQLITE_CANTOPEN,
    }
}
