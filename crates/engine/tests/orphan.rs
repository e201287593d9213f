//! Objects in the log that are no part of the history: requests that arrived when another's transaction of that id was
//! compacted and deleted. Nobody builds on them, and no reader believes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bottomless_history::{Layout, Settings};
use bottomless_ltx::RunningChecksum;
use common::oracle::block_on;
use common::session::{HASTY, PATIENT};
use common::*;
use tokio::sync::Barrier;

/// Two machines at the same position. The first has no patience.
fn two(settings: Option<Settings>, seed: u64) -> (Session, Session) {
    let one = FaultStore::new(Plan::Never, Conduct::Honest);
    let (mut a, mut b) = (Session::new(&one, PATIENT, seed), another(&one, seed + 1));
    if let Some(settings) = settings {
        a.oracle.set(&settings);
    }
    a.open().unwrap();
    commit(&mut a, Edit::Grow);
    b.open_anew().unwrap();
    commit(&mut b, Edit::Grow);
    a.close();
    a.config.timeout = HASTY;
    a.open_anew().unwrap();
    (a, b)
}

/// Another machine, with a way of its own to the same objects.
fn another(store: &Arc<FaultStore>, seed: u64) -> Session {
    Session::new(&FaultStore::over(Arc::clone(&store.inner), Plan::Never, Conduct::Honest), PATIENT, seed)
}

/// A transaction that is reported as failed, and whose request arrives when the test says so.
fn fails_late(a: &mut Session) {
    a.store.hold_late();
    a.store.fail(Plan::From(a.store.next_request(), Fault::Late));
    let told = a.transaction(Edit::Overwrite, End::Commit);
    assert!(matches!(&told, Told::Failed(error) if error.to_string().contains("not known")), "{told:?}");
    a.store.heal();
}

/// All is merged, and the log deleted.
fn compact(session: &Session, layout: Layout) {
    let last = session.oracle.last();
    session.oracle.base(layout, last);
    session.oracle.delete_log(last);
}

/// The machines that are there, and one that comes anew, all have what was acknowledged, and go on.
fn all_agree(b: &mut Session, others: &mut [Session]) {
    for other in others.iter_mut() {
        if other.database.is_some() {
            other.close();
        }
        other.config.timeout = PATIENT;
        other.open_anew().unwrap();
        assert_eq!(other.local, b.local, "caught up to what was acknowledged");
        other.close();
    }
    let mut fresh = another(&b.store, 99);
    fresh.open_anew().unwrap();
    assert_eq!(fresh.local, b.local);
    b.close();
    b.open().unwrap();
    commit(b, Edit::Overwrite);
}

#[test]
fn an_earlier_try_that_arrives_as_an_orphan_is_not_built_on() {
    in_parallel(&LAYOUTS, |layout| arrives_as_an_orphan(*layout));
}

fn arrives_as_an_orphan(layout: Layout) {
    let (mut a, mut b) = two(Some(PASSED), 11);
    fails_late(&mut a);
    a.close();
    a.config.timeout = PATIENT;
    a.open().unwrap();
    let gate = Arc::new(Barrier::new(2));
    a.store.gate(Some(Arc::clone(&gate)));
    let (mut a, told) = while_frozen(a, Operation::Put, |store| {
        commit(&mut b, Edit::Overwrite);
        compact(&b, layout);
        block_on(store.deliver_all());
        store.gate(None);
        block_on(gate.wait());
    });
    fenced(told);
    a.acknowledged.clear();
    all_agree(&mut b, &mut [a]);
}

#[test]
fn an_orphan_that_arrives_while_its_outcome_is_settled_is_not_built_on() {
    in_parallel(&LAYOUTS, |layout| arrives_while_it_is_settled(*layout));
}

fn arrives_while_it_is_settled(layout: Layout) {
    let (mut a, mut b) = two(Some(PASSED), 23);
    fails_late(&mut a);
    a.close();
    a.config.timeout = PATIENT;
    a.open().unwrap();
    a.store.read_time(Duration::from_millis(1500));
    let (mut a, told) = while_frozen(a, Operation::Get, |store| {
        commit(&mut b, Edit::Overwrite);
        compact(&b, layout);
        block_on(store.deliver_all());
        store.read_time(Duration::ZERO);
    });
    fenced(told);
    a.acknowledged.clear();
    all_agree(&mut b, &mut [a]);
}

#[test]
fn an_orphan_that_nobody_removes_is_not_read() {
    for (settings, layout) in [None, Some(PASSED)].into_iter().flat_map(|s| LAYOUTS.map(|layout| (s, layout))) {
        let (mut a, mut b) = two(settings, 13);
        let mut c = another(&a.store, 14);
        c.open_anew().unwrap();
        c.close();
        // The machine of A is gone for ever, and its request arrives.
        fails_late(&mut a);
        commit(&mut b, Edit::Overwrite);
        compact(&b, layout);
        block_on(a.store.deliver_all());
        assert!(b.oracle.has_log(b.txid()), "it is there");
        all_agree(&mut b, &mut [c]);
    }
}

#[test]
fn an_intent_that_stands_on_a_merged_transaction_is_settled() {
    in_parallel(&LAYOUTS, |layout| stands_on_a_merged_transaction(*layout));
}

fn stands_on_a_merged_transaction(layout: Layout) {
    let (mut a, _) = two(Some(PASSED), 12);
    let told = a.transaction(Edit::Overwrite, End::Fail);
    assert!(matches!(told, Told::Failed(_)), "it landed, and SQLite failed");
    a.store.fail(Plan::From(a.store.next_request(), Fault::Silent));
    let told = a.transaction(Edit::Overwrite, End::Commit);
    assert!(matches!(told, Told::Failed(_)), "{told:?}");
    a.store.heal();
    compact(&a, layout);
    let before = a.local.clone();
    a.close();
    a.config.timeout = PATIENT;
    a.open_anew().unwrap();
    assert_eq!(a.local, before, "what was reported as failed stays away");
    commit(&mut a, Edit::Overwrite);
    assert_eq!(a.oracle.newest(), a.local);
}

#[test]
fn a_failed_try_that_was_merged_does_not_come_back() {
    for merged in [None, Some(Layout::Ltx), Some(Layout::Pages)] {
        let (mut a, _) = two(Some(PASSED), 16);
        let before = a.local.clone();
        let next = a.txid() + 1;
        fails_late(&mut a);
        a.close();
        a.open().unwrap();
        // The second try is on its way when the process dies.
        a.store.fail(Plan::From(a.store.next_request(), Fault::Silent));
        let from = a.store.requests().len();
        let (store, state) = (Arc::clone(&a.store), a.state_path());
        let bytes = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                wait_for(&store, from, Operation::Put, next);
                std::fs::read(&state).unwrap()
            });
            let told = a.transaction(Edit::Overwrite, End::Commit);
            assert!(matches!(told, Told::Failed(_)), "{told:?}");
            watching.join().unwrap()
        });
        a.close();
        std::fs::File::options().write(true).open(&state).unwrap().write_all_at(&bytes, 0).unwrap();
        a.store.heal();
        block_on(a.store.deliver_all());
        if let Some(layout) = merged {
            compact(&a, layout);
        }
        a.config.timeout = PATIENT;
        a.open_anew().unwrap();
        assert_eq!(a.local, before, "merged: {merged:?}");
        commit(&mut a, Edit::Overwrite);
        assert_eq!(a.oracle.newest(), a.local);
    }
}

#[test]
fn a_failed_transaction_stays_away_after_a_crash_of_the_operating_system() {
    let (mut a, _) = two(None, 17);
    let before = a.local.clone();
    let told = a.transaction(Edit::Overwrite, End::Fail);
    assert!(matches!(told, Told::Failed(_)), "it landed, and SQLite failed");
    crash_all(&mut a);
    a.config.timeout = PATIENT;
    a.open_anew().unwrap();
    assert_eq!(a.local, before);
    commit(&mut a, Edit::Overwrite);
    assert_eq!(a.oracle.newest(), a.local);
}

/// There is no way to the transaction before it any more, where the local file has lost it too.
#[test]
fn a_failed_transaction_that_was_folded_is_what_a_torn_file_becomes() {
    for layout in LAYOUTS {
        let (mut a, _) = two(None, 18);
        let before = a.local.clone();
        let told = a.transaction(Edit::Overwrite, End::Fail);
        assert!(matches!(told, Told::Failed(_)), "it landed, and SQLite failed");
        a.oracle.base(layout, a.oracle.last());
        if layout == Layout::Pages {
            a.oracle.delete_log(a.oracle.last());
        }
        crash_all(&mut a);
        std::fs::File::options().write(true).open(&a.path).unwrap().write_all_at(&[7; 300], 700).unwrap();
        a.config.timeout = PATIENT;
        a.open_anew().unwrap();
        match layout {
            Layout::Ltx => assert_eq!(a.local, before),
            Layout::Pages => assert_eq!(a.local, a.oracle.newest()),
        }
        commit(&mut a, Edit::Overwrite);
        assert_eq!(a.oracle.newest(), a.local);
    }
}

/// The operating system dies with the program: the machine has another boot id when it comes back.
fn crash_all(a: &mut Session) {
    // Where the mark is in the state file, and its bytes; the last eight are their checksum.
    const MARK: u64 = 512;
    const LENGTH: usize = 512;
    a.crash();
    let file = std::fs::File::options().read(true).write(true).open(a.state_path()).unwrap();
    let mut mark = [0_u8; LENGTH];
    file.read_exact_at(&mut mark, MARK).unwrap();
    // Another boot id.
    mark[0] ^= 1;
    let sum = RunningChecksum::of(&mark[..LENGTH - 8]).finish().get();
    mark[LENGTH - 8..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&mark, MARK).unwrap();
}
