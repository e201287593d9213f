//! `PRAGMA bottomless_…`, answered by the VFS on any connection.

use bottomless_engine::Result;

/// The answer to a pragma.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One row with this text.
    Row(String),
    /// An error with this message.
    Error(String),
    /// Not ours.
    NotOurs,
}

const PREFIX: &str = "bottomless_";

/// Answers a pragma by its name, which SQLite does not distinguish by case.
pub(crate) fn answer(name: &str, status: impl FnOnce() -> Result<String>) -> Answer {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix(PREFIX) {
        None => Answer::NotOurs,
        Some("status") => match status() {
            Ok(status) => Answer::Row(status),
            Err(error) => Answer::Error(error.to_string()),
        },
        Some(_) => Answer::Error(format!("there is no pragma {name}; bottomless has bottomless_status")),
    }
}
