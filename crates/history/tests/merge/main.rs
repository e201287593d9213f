//! Objects are made of others: the same whatever the way, and none of what is wrong.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod local;
mod outcomes;
mod reading;
mod shapes;
mod store;
mod world;
mod wrong;
