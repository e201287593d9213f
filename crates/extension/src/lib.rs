//! The loadable extension: `libbottomless.so`, whose entry point is that of the shim.

pub use bottomless_vfs::sqlite3_bottomless_init;
