//! Reading databases whose base is page objects.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

mod audit;
mod damage;
mod declared;
mod names;
mod removal;
mod restore;
mod snapshot;
#[path = "../support/mod.rs"]
mod support;
mod unfold;
