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
    /// It could not be done, or something wrong was found, and the output has said what: exit code 1.
    Reported,
    /// A signal came: exit code 128 and its number, as a shell has it for a program that the signal ended.
    Interrupted(Signal),
}

/// What ends the program early.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Error {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Reported => ExitCode::FAILURE,
            Self::Interrupted(Signal::Interrupt) => ExitCode::from(130),
            Self::Interrupted(Signal::Terminate) => ExitCode::from(143),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Reported => f.write_str("failed, see above"),
            Self::Interrupted(Signal::Interrupt) => f.write_str("interrupted"),
            Self::Interrupted(Signal::Terminate) => f.write_str("terminated"),
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
