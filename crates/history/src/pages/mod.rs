//! The layout that keeps each page as an object of its own.
//!
//! A commit is one object of the log here, too. What the log has changed is *folded* into the page objects after it, and a
//! marker says up to which transaction. Whoever reads the page objects, and after that lists the log and applies what is behind
//! the marker, has the database at the end of the log: a fold changes only pages that the log behind the marker changes.

mod claim;
mod declare;
mod fold;
mod hold;
mod key;
mod lay;
mod list;
mod marker;
mod mend;
mod snapshot;
mod unfold;

pub(crate) use claim::Claim;
pub(crate) use declare::declaration_key;
pub use fold::{FoldOptions, Folded, Stop};
pub(crate) use hold::{Hold, Term};
pub use key::PageKey;
pub(crate) use lay::{Marker, Outcome, Torn};
pub use list::{PageCount, PageObjects};
pub(crate) use marker::check_marker;
pub(crate) use marker::encode_marker;
pub use mend::FoldedAway;
pub use unfold::{Removing, UnfoldOptions, Unfolded};

use std::fmt;

use crate::{Entry, Level, Listing};

/// How the base of a database is kept in the bucket: what a restore begins with. The log is the same in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Objects that hold many pages: snapshots and compacted runs.
    #[default]
    Ltx,
    /// An object for each page.
    Pages,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ltx => "ltx",
            Self::Pages => "pages",
        })
    }
}

impl Listing {
    /// The layout of the database: that of pages is declared before the first transaction, or begins with the first marker.
    #[must_use]
    pub fn layout(&self) -> Layout {
        if self.marker().is_some() || self.declaration().is_some() { Layout::Pages } else { Layout::Ltx }
    }

    /// The newest marker: the one that counts.
    #[must_use]
    pub fn marker(&self) -> Option<&Entry> {
        // Markers sort behind all others, and all begin with the first transaction.
        self.entries().last().filter(|entry| entry.name.level == Level::PAGES)
    }

    /// Whether it is a marker that a newer one has replaced: the page objects are not those that it stood for.
    pub(crate) fn is_outdated(&self, entry: &Entry) -> bool {
        entry.name.level == Level::PAGES && self.marker().is_some_and(|newest| newest.name != entry.name)
    }
}
