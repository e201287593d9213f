//! Where a machine is: the intent, the phases of a commit and of an open.

use crate::evidence::Standing;
use crate::store::{Content, Object, Tick, Txid, Writer};

/// Nothing is known of the bucket.
pub(crate) const NEVER: Tick = Tick::MIN;

/// What the program writes in one transaction: a version into a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Change {
    pub(crate) page: usize,
    pub(crate) version: u8,
}

/// As in the engine's record; `after` stands for the file checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Intent {
    pub(crate) txid: Txid,
    pub(crate) writer: Writer,
    pub(crate) after: Content,
    pub(crate) refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Position {
    pub(crate) txid: Txid,
    pub(crate) checksum: Content,
}

/// A transaction on its way into the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Commit {
    pub(crate) txid: Txid,
    pub(crate) object: Object,
    pub(crate) first_sent: Tick,
    /// The try that is waited for.
    pub(crate) sent: Tick,
    pub(crate) tries: u8,
    pub(crate) may_have_landed: bool,
    /// The intent before this one.
    pub(crate) before: Option<Intent>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Answer {
    Created,
    Exists,
}

/// What a LIST before a commit has shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Contact {
    /// Nothing behind our position.
    Alone,
    /// The intent's transaction id is taken, and nothing is behind it.
    Intent(Seen),
    /// Transactions of others.
    Others,
}

/// What a LIST has shown at the transaction id of an intent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Seen {
    pub(crate) sent: Tick,
    /// In the log: its e-tag, which tells it from any other.
    pub(crate) logged: Option<Object>,
    /// A run ends there, and its last transaction is ours.
    pub(crate) compacted: bool,
}

/// What an open has decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Verdict {
    /// The local file is at this position; `fresh` if the bucket ends there too.
    Same {
        position: Position,
        fresh: bool,
    },
    Behind {
        end: Position,
    },
    Conflict,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    /// No process has the database open.
    Closed,
    /// The open has failed: the user has to decide.
    Refused,
    /// A LIST of the open is answered.
    Opening {
        sent: Tick,
        verdict: Verdict,
    },
    Idle,
    /// A LIST before the PUT is answered.
    Listed {
        sent: Tick,
        found: Contact,
    },
    /// The object of the intent is asked for. `listed` if a LIST has just shown it.
    Settling {
        listed: Option<Seen>,
    },
    /// The PUT is under way.
    Putting {
        commit: Commit,
        answer: Option<Answer>,
    },
    /// The PUT was answered with 412: the object that is there is asked for.
    Looking {
        commit: Commit,
    },
    /// A LIST after the PUT is answered.
    Validating {
        commit: Commit,
        sent: Tick,
        standing: Standing,
    },
    /// In the bucket; SQLite has not committed.
    Landed {
        commit: Commit,
        contact: Tick,
        behind: bool,
    },
}

/// More than `than` ticks have passed since.
pub(crate) fn is_older(tick: Tick, now: Tick, than: Tick) -> bool {
    tick == NEVER || now - tick > than
}
