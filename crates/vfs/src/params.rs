//! The URI parameters of a database.

use std::ffi::c_char;

use bottomless_engine::config::{Environment, Source};

use crate::api;

/// The environment, and the URI parameters of one file name.
#[derive(Debug)]
pub(crate) struct NameAndEnvironment {
    name: *const c_char,
}

impl NameAndEnvironment {
    /// # Safety
    /// `name` is a main file's name that SQLite passed to `xOpen`, and outlives this value.
    pub(crate) unsafe fn new(name: *const c_char) -> Self {
        Self { name }
    }

    /// True for a file that its program says nobody changes: nothing of it is to be replicated.
    pub(crate) fn is_immutable(&self) -> bool {
        self.parameter("immutable").is_some_and(|value| value == "1")
    }

    /// Says so if a parameter is neither ours nor SQLite's: it may be a typing error.
    pub(crate) fn warn_of_unknown(&self) {
        const KNOWN: [&str; 22] = [
            "vfs",
            "mode",
            "cache",
            "psow",
            "nolock",
            "immutable",
            "modeof",
            "endpoint",
            "bucket",
            "database_id",
            "initial_replication",
            "layout",
            "fencing",
            "timeout",
            "compaction",
            "level1_interval",
            "level2_interval",
            "level3_interval",
            "snapshot_interval",
            "retention",
            "txid",
            "timestamp",
        ];
        // SAFETY: see `new`.
        for key in unsafe { api::uri_keys(self.name) } {
            // Drivers add parameters of their own that begin with an underscore.
            if !KNOWN.contains(&key.as_str()) && !key.starts_with('_') {
                tracing::warn!(
                    "the URI parameter {key:?} is not one of SQLite's nor of bottomless', and has no effect"
                );
            }
        }
    }
}

impl Source for NameAndEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        Environment.variable(name)
    }

    fn variables(&self) -> Vec<String> {
        Environment.variables()
    }

    fn parameter(&self, name: &str) -> Option<String> {
        // SAFETY: see `new`.
        unsafe { api::uri_parameter(self.name, name) }
    }
}
