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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bottomless_engine::ErrorKind;
use bottomless_history::{Layout, Settings};

pub use image::{Edit, Image};
pub use random::Random;
pub use session::{End, Session, Told};
pub use store::{Conduct, Fault, FaultStore, Operation, Plan};

/// Both.
pub const LAYOUTS: [Layout; 2] = [Layout::Ltx, Layout::Pages];

/// A writer that was away for longer than W: each of its commits is.
pub const PASSED: Settings = Settings::of_window(Duration::from_nanos(1));

pub fn commit(session: &mut Session, edit: Edit) {
    let told = session.transaction(edit, End::Commit);
    assert!(matches!(told, Told::Committed), "{told:?}");
}

#[track_caller]
pub fn fenced(told: Told) {
    match told {
        Told::Failed(error) => {
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            assert!(error.to_string().contains("another writer has taken over"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// Waits until a request of this kind for this transaction has come to the store.
pub fn wait_for(store: &FaultStore, from: usize, operation: Operation, txid: u64) {
    let part = format!("/0000/{txid:016x}-");
    while !store.requests()[from..].iter().any(|(o, key)| *o == operation && key.contains(&part)) {
        std::thread::yield_now();
    }
}

/// A commit during which this happens, once its request of this kind for the next transaction has come to the store.
pub fn while_frozen(mut a: Session, at: Operation, happens: impl FnOnce(&FaultStore)) -> (Session, Told) {
    let (next, from) = (a.txid() + 1, a.store.requests().len());
    let store = Arc::clone(&a.store);
    std::thread::scope(|scope| {
        let frozen = scope.spawn(|| {
            a.settled = false;
            let told = a.transaction_unchecked(Edit::Overwrite, End::Commit);
            (a, told)
        });
        wait_for(&store, from, at, next);
        happens(&store);
        frozen.join().unwrap()
    })
}

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
