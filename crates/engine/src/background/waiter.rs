//! Whoever waits for a pass.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bottomless_ltx::Txid;

use super::pass::Done;
use crate::error::{Error, ErrorKind, Result};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The open of a database with a long log.
    Open,
    /// The close of the last connection.
    Close,
    /// `PRAGMA bottomless_flush`.
    Flush,
}

/// Where the thread answers to one who waits. Who drops it answers that it is over.
#[derive(Debug)]
pub(super) struct Waiter {
    purpose: Purpose,
    /// In the layout of pages: up to which transaction the page objects must be.
    at_least: Txid,
    /// How long another process of this machine is waited for.
    until: Instant,
    answer: mpsc::Sender<Result<()>>,
}

/// What comes of it.
#[derive(Debug)]
pub(super) struct Answer(mpsc::Receiver<Result<()>>);

impl Waiter {
    pub(super) fn new(purpose: Purpose, at_least: Txid, patience: Duration) -> (Self, Answer) {
        let (answer, receiver) = mpsc::channel();
        (Self { purpose, at_least, until: Instant::now() + patience, answer }, Answer(receiver))
    }

    /// Nobody may be there any more: false then.
    fn answer(self, result: Result<()>) -> bool {
        self.answer.send(result).is_ok()
    }

    pub(super) fn done(self, done: &Done) {
        let result = match done.folded_to.filter(|to| *to < self.at_least).and(done.wait) {
            None => Ok(()),
            Some(wait) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the page objects are not up to date: another machine is folding the log into them, or was cut off while \
                     it did. Nothing is missing in the bucket, since the log holds it. Try again, or leave it to a program \
                     that has the database open: it can be done in {} seconds at the latest",
                    wait.as_secs() + 1
                ),
            )),
        };
        self.answer(result);
    }

    /// False if nobody waits for it any more.
    pub(super) fn failed(self, error: &Error) -> bool {
        self.answer(Err(error.clone()))
    }

    /// Another process of this machine is at work. Gives back the one who goes on waiting.
    pub(super) fn stay(self) -> Option<Self> {
        match self.purpose {
            Purpose::Open => None,
            _ if Instant::now() < self.until => Some(self),
            _ => {
                let text = "another process of this machine has been merging or folding the log of the database for longer than \
                            the timeout; nothing is missing in the bucket";
                self.failed(&Error::new(ErrorKind::Busy, text));
                None
            }
        }
    }

    /// Whether it is enough to know that the store is away: a close does not wait for its return.
    pub(super) fn gives_up_early(&self) -> bool {
        self.purpose == Purpose::Close
    }
}

impl Answer {
    /// What was answered.
    ///
    /// # Errors
    /// That of the pass, or that nobody makes one any more.
    pub(super) fn recv(self) -> Result<()> {
        self.0.recv().unwrap_or_else(|_| Err(is_over()))
    }

    /// None if it takes longer.
    pub(super) fn recv_timeout(&self, limit: Duration) -> Option<Result<()>> {
        match self.0.recv_timeout(limit) {
            Ok(answer) => Some(answer),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Err(is_over())),
        }
    }
}

fn is_over() -> Error {
    Error::new(ErrorKind::Busy, "the thread that merges and folds has ended; open the database again")
}
