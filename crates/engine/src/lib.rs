//! The engine of bottomless: the commit protocol, and the local state of a database.
//!
//! The engine knows no SQLite C type. The shim above it tells what SQLite is about to do ([`Database::commit`],
//! [`Database::confirm`], [`Database::begin_writing`]) and gives access to the local file under SQLite's locks
//! ([`Host`]); the history below it stores and restores.
//!
//! - [`config`]: variables and URI parameters.
//! - [`Database::open`]: the local file and the bucket come together.
//! - [`Past::open`]: the database as it was, from the bucket alone, read only.
//! - [`Database::commit`]: one transaction, one object.
//! - [`Database::compact_in_background`]: the history stays small.
//! - [`wal`]: which pages a transaction wrote, from the writes to a WAL.

mod background;
mod clock;
mod commit;
pub mod config;
mod contact;
mod copies;
mod database;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing {
    //! What the fuzz targets need of what is not public.
    pub use crate::state::fuzzing::local_state;
}
mod local;
mod lock_file;
mod open;
mod past;
mod process;
mod state;
mod status;
pub mod wal;

pub use background::LONG_LOG;
pub use commit::{Change, Landed, Outcome};
pub use database::{Begun, Database, Untouched};
pub use error::{Error, ErrorKind, Result};
pub use local::{Host, LocalReader, Locked, MainFile, OpenMain, PageSource, shape};
pub use open::again::LoneFile;
pub use past::{AsOf, Past};
pub use state::WalEnd;
