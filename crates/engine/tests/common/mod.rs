//! A database of the model: plain files in the place of SQLite, a store in memory with faults, and what must hold
//! between them at any time.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod host;
pub mod image;
pub mod oracle;
pub mod random;
pub mod session;
pub mod store;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use image::{Edit, Image};
pub use random::Random;
pub use session::{End, Session, Told};
pub use store::{Conduct, Fault, FaultStore, Operation, Plan};

/// Runs many cases at a time: most of their time is waiting for a deadline. All that fail are named.
pub fn in_parallel<T: Sync + std::fmt::Debug>(cases: &[T], run: impl Fn(&T) + Sync) {
    const THREADS: usize = 24;
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(case))) {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into());
                        failures.lock().unwrap().push(format!("{case:?}: {text}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
