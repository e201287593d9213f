//! Where errors go, besides the code: standard error, SQLite's error log, `PRAGMA bottomless_status`.

use std::ffi::c_int;
use std::io::{self, IsTerminal};

use bottomless_engine::{Database, Error, Past};
use libsqlite3_sys as ffi;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::{api, codes};

/// Logs to standard error as `RUST_LOG` says, `warn` by default. Ours is a subscriber of this library only: a host
/// that is written in Rust keeps its own.
pub(crate) fn start_logging() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // Already set when the library was loaded before.
    let _ = subscriber.try_init();
}

/// Reports a failed commit, and gives its code.
pub(crate) fn commit_failed(database: &Database, error: &Error) -> c_int {
    database.note_error(error);
    report(codes::of_commit(error.kind()), error)
}

/// Reports a failed open, and gives its code.
pub(crate) fn open_failed(error: &Error) -> c_int {
    report(codes::of_open(error.kind()), error)
}

/// Says that a connection shows the past: SQLite refuses writes by itself, and its message does not say why.
pub(crate) fn opened_past(past: &Past) {
    let advice = past.advice();
    tracing::info!("{advice}");
    api::log(ffi::SQLITE_NOTICE, &format!("bottomless: {advice}"));
}

fn report(code: c_int, error: &Error) -> c_int {
    tracing::error!("{error}");
    api::log(code, &format!("bottomless: {error}"));
    code
}
