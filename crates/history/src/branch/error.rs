//! Why a branch could not be made, and what to do about it.

use bottomless_ltx::Txid;
use bottomless_store::{StoreError, StoreErrorKind};

use crate::{DatabaseId, HistoryError, PlanError};

/// Why a branch could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BranchError {
    /// The history can't be read, or the copies can't be made.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// One prefix lies within the other.
    #[error("{to} can't be a branch of {from}: one lies within the other; name another database")]
    Within {
        /// The source.
        from: DatabaseId,
        /// The branch.
        to: DatabaseId,
    },
    /// There is something already.
    #[error(
        "{to} can't be made a branch: the bucket holds {key} already{}",
        holds.hint(to)
    )]
    Occupied {
        /// The branch.
        to: DatabaseId,
        /// The first key that is in the way.
        key: String,
        /// What that seems to be.
        holds: Holds,
    },
    /// Another program writes there at the same moment.
    #[error(
        "{key} was written by another program while the branch {to} was made: nothing may open {to} before it is \
         whole; close what has it open, and remove it (bottomless-cli rm -d {to} --yes)"
    )]
    Disturbed {
        /// The branch.
        to: DatabaseId,
        /// The key.
        key: String,
    },
    /// A part was made.
    #[error(
        "{cause}. A part of the branch {to} may be there, which no program takes for a database: the same command goes on \
         with it (--txid {up_to}), and bottomless-cli rm -d {to} --yes removes it"
    )]
    Unfinished {
        /// The branch.
        to: DatabaseId,
        /// Where it was to lead.
        up_to: Txid,
        /// What came in between.
        #[source]
        cause: Box<BranchError>,
    },
}

/// What a bucket holds where a branch was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A database, or something else.
    Other,
    /// No whole database. It would lead to where the branch was to lead, but by other objects.
    PartOfIt,
    /// No whole database. It would lead to this transaction.
    PartUpTo(Txid),
}

impl Holds {
    fn hint(self, to: &DatabaseId) -> String {
        match self {
            Self::Other => {
                format!("; name another database, or remove this one (bottomless-cli rm -d {to})")
            }
            Self::PartOfIt => format!(
                ", which does not make a database: if it is a part of this branch, cut off, its source was compacted \
                 or changed since, and it can't go on; remove it (bottomless-cli rm -d {to} --yes), and branch again"
            ),
            Self::PartUpTo(txid) => format!(
                ", which does not make a database: if it is a part of this branch, cut off, name the same point again to go \
                 on (--txid {txid}), or remove it (bottomless-cli rm -d {to} --yes)"
            ),
        }
    }
}

impl BranchError {
    /// Whether an object was compacted away since it was listed.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::History(error) if error.is_outdated())
    }

    /// Whether the store can't copy.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::History(HistoryError::Store(error)) if error.kind() == StoreErrorKind::Unsupported)
    }
}

impl From<StoreError> for BranchError {
    fn from(error: StoreError) -> Self {
        Self::History(error.into())
    }
}

impl From<PlanError> for BranchError {
    fn from(error: PlanError) -> Self {
        Self::History(error.into())
    }
}
