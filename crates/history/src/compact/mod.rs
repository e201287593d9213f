//! Keeping a history small: what is merged when, what may be deleted, and doing it.
//!
//! Level 0, the log, is the truth: level 1 to 3 and the snapshots are made from it and may be made again by anybody. So
//! whoever compacts needs no lease: the worst that two at once do is the same work twice.

mod create;
mod inputs;
mod local;
mod merge;
mod pass;
mod policy;
mod read;
mod retention;
mod schedule;
#[cfg(test)]
mod simulation;
mod spool;

pub use local::LocalPages;
pub(crate) use merge::Draft;
pub use merge::{Copies, MergeOptions, Merged};
pub use pass::{Compacted, Scope, Shortened};
pub(crate) use pass::{LISTINGS, longest_use};
pub use policy::{InvalidInterval, Policy, parse_interval};
pub use retention::Replaced;
