//! The VFS `bottomless`: a shim over SQLite's default VFS.
//!
//! It forwards everything, and looks at what goes by: which pages a transaction writes, and the moment at which SQLite
//! asks whether it may commit. There the transaction is uploaded, by `bottomless-engine`, which knows no SQLite.
//!
//! Journals, sub-journals, temporary files and databases without a name are opened by the default VFS directly and never
//! seen again. The main file and its WAL are ours ([`methods`]), with the real file behind each.
//!
//! A main file that is opened as of a point in the past is another one than its name says ([`past_file`]).
//!
//! This is the only crate with `unsafe` code. The modules are layered so that little of it is: [`real`] wraps a file of
//! the default VFS, [`api`] the functions of the host, [`methods`] and [`vfs`] are what SQLite calls;
//! [`connection`], where the decisions are made, has none.

mod api;
mod codes;
mod connection;
mod dirty;
#[cfg(test)]
mod edge_test;
#[cfg(test)]
mod fake;
mod guard;
mod host;
mod load;
mod lone;
mod methods;
mod params;
mod past_file;
mod pragma;
mod read_main;
mod real;
mod report;
mod source;
mod undo;
mod vfs;

pub use load::sqlite3_bottomless_init;
