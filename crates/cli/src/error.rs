//! Why a command ended early.

use std::fmt;
use std::process::ExitCode;

use bottomless_history::HistoryError;
use bottomless_store::StoreError;

/// What went wrong, in the words that the user sees.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line or a variable is wrong: exit code 2.
    Usage(String),
    /// It could not be done: exit code 1.
    Failed(String),
    /// It could not be done, and the output has said why: exit code 1.
    Reported,
}

impl Error {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Reported => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Reported => f.write_str("failed, see above"),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<HistoryError> for Error {
    fn from(error: HistoryError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
