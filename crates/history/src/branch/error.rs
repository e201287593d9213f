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
        "{to} can't be made a branch: the bucket holds {key} already{}; name another database, or remove this one \
         (bottomless-cli rm -d {to})",
        or_the_same(*begun_at)
    )]
    Occupied {
        /// The branch.
        to: DatabaseId,
        /// The first key that is in the way.
        key: String,
        /// Where it would lead, when it seems to be a branch that was cut off.
        begun_at: Option<Txid>,
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

fn or_the_same(begun_at: Option<Txid>) -> String {
    match begun_at {
        Some(txid) => format!(
            ", which does not make a database: if it is a part of this branch, cut off, name the same point again to go on \
             (--txid {txid})"
        ),
        None => String::new(),
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
