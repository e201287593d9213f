//! Loading: the entry point of the extension, and the registration of the VFS.

use std::ffi::{c_char, c_int};

use bottomless_engine::config::{self, Environment};
use libsqlite3_sys as ffi;

use crate::guard::guard;
use crate::{api, report, vfs};

/// The entry point, which SQLite finds by the name of the file.
///
/// Registers the VFS `bottomless`, once for a process, and stays loaded: databases may outlive the connection that
/// loaded the extension.
///
/// # Safety
/// For SQLite only: `message` is null or takes a string, `api` is SQLite's table of functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_bottomless_init(
    _db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes its table.
        let installed = unsafe { api::install(api) };
        report::start_logging();
        match installed.and_then(|()| register()) {
            Ok(()) => ffi::SQLITE_OK_LOAD_PERMANENTLY,
            Err(text) => {
                tracing::error!("{text}");
                if !message.is_null() {
                    // SAFETY: SQLite gave a place for the message, and frees it.
                    unsafe { *message = api::allocate_text(&text) };
                }
                ffi::SQLITE_ERROR
            }
        }
    })
}

fn register() -> Result<(), String> {
    let version = api::version();
    if version < api::OLDEST {
        return Err(format!(
            "bottomless needs SQLite {} or newer, and was loaded into {}",
            dotted(api::OLDEST),
            dotted(version)
        ));
    }
    let default = config::default_vfs(&Environment).map_err(|error| error.to_string())?;
    if can_lose_wal_commits(version) {
        tracing::info!(
            "SQLite {} can lose a commit in WAL mode by itself (the WAL-reset bug); 3.51.3 and newer do not",
            dotted(version)
        );
    }
    vfs::register(default)
}

/// Versions with the WAL-reset bug: 3.7.0 to 3.51.2, but for two that have the fix.
fn can_lose_wal_commits(version: c_int) -> bool {
    (3_007_000..=3_051_002).contains(&version) && ![3_050_007, 3_044_006].contains(&version)
}

fn dotted(version: c_int) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_sqlite_writes_them() {
        assert_eq!(dotted(3_040_001), "3.40.1");
        for (version, lossy) in [(3_040_001, true), (3_050_007, false), (3_051_002, true), (3_051_003, false)] {
            assert_eq!(can_lose_wal_commits(version), lossy, "{version}");
        }
    }
}
