//! No panic crosses into C.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libsqlite3_sys as ffi;

/// Runs what SQLite called, and answers `SQLITE_INTERNAL` if it panics. The panic itself is printed by the panic hook.
pub(crate) fn guard(what: impl FnOnce() -> c_int) -> c_int {
    guard_or(ffi::SQLITE_INTERNAL, what)
}

/// Runs what SQLite called, and answers `otherwise` if it panics.
pub(crate) fn guard_or<T>(otherwise: T, what: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|_| {
        tracing::error!("bottomless has met an error of its own; please report the panic above");
        otherwise
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code() {
        assert_eq!(guard(|| 7), 7);
        assert_eq!(guard(|| std::panic::panic_any("on purpose")), ffi::SQLITE_INTERNAL);
    }
}
