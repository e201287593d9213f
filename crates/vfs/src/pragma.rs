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

/// A pragma of ours that gives an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pragma {
    /// How the database stands, as JSON.
    Status,
    /// Brings the bucket into shape now; `ok` when that is done.
    Flush,
}

/// Answers a pragma by its name, which SQLite does not distinguish by case.
pub(crate) fn answer(name: &str, run: impl FnOnce(Pragma) -> Result<String>) -> Answer {
    let name = name.to_ascii_lowercase();
    let pragma = match name.strip_prefix(PREFIX) {
        None => return Answer::NotOurs,
        Some("status") => Pragma::Status,
        Some("flush") => Pragma::Flush,
        Some(_) => {
            let text = format!("there is no pragma {name}; bottomless has bottomless_status and bottomless_flush");
            return Answer::Error(text);
        }
    };
    match run(pragma) {
        Ok(text) => Answer::Row(text),
        Err(error) => Answer::Error(error.to_string()),
    }
}
