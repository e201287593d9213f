//! The layout that keeps each page as an object of its own.
//!
//! A commit is one object of the log here, too. What the log has changed is *folded* into the page objects after it, and a
//! marker says up to which transaction. Whoever reads the page objects, and after that lists the log and applies what is behind
//! the marker, has the database at the end of the log: a fold changes only pages that the log behind the marker changes.

mod claim;
mod key;
mod marker;

pub(crate) use claim::Claim;
pub use key::PageKey;
pub(crate) use marker::check_marker;
#[allow(unused_imports)] // Until something folds.
pub(crate) use marker::encode_marker;

use std::fmt;

use crate::{Level, Listing};

/// How the base of a database is kept in the bucket: what a restore begins with. The log is the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Objects that hold many pages: snapshots and compacted runs.
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
    /// The layout of the database: that of pages begins with its first marker.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let is_marker = |level: Level| level == Level::PAGES;
        if self.entries().iter().any(|entry| is_marker(entry.name.level)) { Layout::Pages } else { Layout::Ltx }
    }
}
