//! Folds in a store in memory that gives ETags as S3 does, and in which time passes when a test says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    dead_code
)]

mod cut;
mod faults;
mod net;
mod plain;
mod removed;
mod simulation;
mod stopped;
#[path = "../../../../tests/support/mod.rs"]
mod support;
mod world;
mod worst;
