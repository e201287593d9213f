//! The harness of the end-to-end tests.
//!
//! A test is a [`World`]: a folder, a bucket name and a proxy of its own in front of one SeaweedFS server that all
//! tests of the run share. In it, [`Session`]s are processes that link some SQLite and execute what they are told, so
//! that a test can give each its own environment, kill it, and look at its memory.

pub mod bucket;
pub mod compactor;
pub mod compare;
pub mod faults;
pub mod freezer;
pub mod gate;
pub mod layout;
pub mod litestream;
pub mod machine;
pub mod odd_store;
pub mod proxy;
pub mod rclone;
pub mod rights;
pub mod seaweed;
pub mod session;
pub mod shell;
pub mod tools;
pub mod whole;
pub mod workload;
pub mod world;

pub use layout::Layout;
pub use machine::Machine;
pub use session::{Host, Session, SqlError};
pub use world::World;
