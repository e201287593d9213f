//! The history of one database in a bucket: which objects there are, which of them make a position, and how these
//! become a database file again.
//!
//! - [`History::list`] tells what is there, in one request for every thousand objects, and [`History::list_briefly`] what
//!   leads to the end, in one to three; [`Listing::last_txid`] where the history ends.
//! - [`History::ends`] reads who wrote an object and which checksums it names; [`History::find_position`] looks for the
//!   position that a database checksum belongs to.
//! - [`History::locate`] finds the transaction of a point in time, and [`History::oldest_point`] the oldest one that can be
//!   restored.
//! - [`Listing::plan`] chooses the objects that lead to a position; [`History::restore`] downloads, verifies and
//!   applies them; [`History::restore_around`] does both, and takes another way where one is damaged.
//! - [`History::merge`] makes one object of many; [`History::read_back`] tells whether an object is whole.
//! - [`History::fold`] brings the page objects of [`Layout::Pages`] up to the end of the log.
//! - [`History::audit`] reads everything and says what is wrong; [`History::diff`] tells which pages differ between two
//!   transactions.
//!
//! Keys and bytes are described in `docs/format.md`.

// What tests share speaks of the crate by its name.
#[cfg(test)]
extern crate self as bottomless_history;

mod audit;
mod branch;
mod brief;
mod chain;
mod compact;
mod diff;
mod error;
mod history;
mod id;
mod late;
mod listing;
mod locate;
mod moment;
mod name;
mod object;
mod pages;
mod plan;
mod point;
mod remove;
mod restore;
mod route;
mod settings;
mod target;
mod time;

pub use audit::{Audit, AuditOptions, Problem, Severity};
pub use branch::{BranchError, Branched, Holds};
pub use compact::{
    Compacted, Copies, InvalidInterval, LocalPages, MergeOptions, Merged, Policy, Replaced, Scope, Shortened,
    parse_interval,
};
pub use diff::{Diff, DiffSide};
pub use error::{Damage, HistoryError, NoWay};
pub use history::{Ends, History};
pub use id::{DatabaseId, InvalidDatabaseId};
pub use listing::{Entry, Listing};
pub use locate::Goal;
pub use moment::Moment;
pub use name::{InvalidLevel, Level, ObjectName};
pub use pages::{
    FoldOptions, Folded, FoldedAway, Layout, PageCount, PageKey, PageObjects, Removing, Stop, UnfoldOptions, Unfolded,
};
pub use plan::{Plan, PlanError};
pub use point::{Asked, NoPoint, RestorePoint};
pub use remove::{Removal, RemoveOptions, Unremoved};
pub use restore::{Base, Progress, RestoreOptions, Restored};
pub use settings::{InvalidSettings, Settings};
pub use time::{InvalidTime, parse_time};
