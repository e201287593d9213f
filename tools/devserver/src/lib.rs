//! An S3 server in one process, for development, the demo and tests. Not for production: it listens
//! without TLS and keeps its index in memory.
//!
//! What it takes care to do as Amazon's S3 does is what bottomless stands on: conditional writes that are
//! atomic under concurrency, listings in the order of the keys' bytes, one ETag everywhere, whole objects
//! or none. The crate `s3s` speaks the protocol; the storage is our own, because `s3s-fs` writes an object
//! and its metadata in several files, takes keys for paths and lists without ETags.
//!
//! ```no_run
//! use bottomless_devserver::{Config, Server};
//!
//! let server = Server::start(Config { buckets: vec!["libsql".into()], ..Config::default() })?;
//! println!("{}", server.url());
//! assert_eq!(server.requests().len(), 0);
//! server.shutdown();
//! # Ok::<(), std::io::Error>(())
//! ```

mod chunked;
mod digest;
mod list;
mod log;
mod object_file;
mod s3;
mod server;
mod storage;
mod wire;

pub use log::RequestRecord;
pub use server::{Config, Credentials, Server};
