//! The fence window: a writer that was away for long asks before it writes and after, and nothing that another writer
//! compacted and deleted meanwhile is written over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bottomless_engine::ErrorKind;
use bottomless_history::{Layout, Settings};
use common::host::{FakeHost, Lone};
use common::oracle::block_on;
use common::session::{HASTY, PATIENT};
use common::*;
use tokio::sync::Barrier;

/// Two machines at the same position, with such settings.
fn two(settings: Option<Settings>, timeout: Duration, seed: u64) -> (Session, Session) {
    let one = FaultStore::new(Plan::Never, Conduct::Honest);
    let two = FaultStore::over(Arc::clone(&one.inner), Plan::Never, Conduct::Honest);
    let (mut a, mut b) = (Session::new(&one, timeout, seed), Session::new(&two, PATIENT, seed + 1));
    if let Some(settings) = settings {
        a.oracle.set(&settings);
    }
    a.open().unwrap();
    commit(&mut a, Edit::Grow);
    commit(&mut a, Edit::Grow);
    // So that the first commit of either proves nothing any more.
    b.open_anew().unwrap();
    commit(&mut b, Edit::Grow);
    a.close();
    a.open_anew().unwrap();
    (a, b)
}

/// What a machine asks for from here on.
fn operations(session: &Session, from: u64) -> Vec<Operation> {
    session.store.requests().split_off(from as usize - 1).into_iter().map(|(operation, _)| operation).collect()
}

#[test]
fn within_the_window_a_commit_is_one_request_and_behind_it_three() {
    use Operation::{List, Put};
    for (settings, expected) in [(None, vec![Put]), (Some(PASSED), vec![List, Put, List])] {
        let (mut a, _) = two(settings, PATIENT, 1);
        for _ in 0..3 {
            let from = a.store.next_request();
            commit(&mut a, Edit::Overwrite);
            let requests: Vec<_> = operations(&a, from).into_iter().filter(|o| *o != Operation::Get).collect();
            assert_eq!(requests, expected);
        }
        a.finish();
    }
}

/// What the other machine does while this one is frozen.
#[derive(Clone, Copy, Debug)]
struct Meanwhile {
    commits: u64,
    /// It merges all up to this many transactions before its last, into a base of this layout.
    base: Option<(u64, Layout)>,
    /// And deletes the log up to this many transactions before the merged end.
    delete: Option<u64>,
}

impl Meanwhile {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for commits in 1..=3 {
            all.push(Self { commits, base: None, delete: None });
            for (left, layout) in (0..commits).flat_map(|left| LAYOUTS.map(|layout| (left, layout))) {
                let base = Some((left, layout));
                all.push(Self { commits, base, delete: None });
                for delete in 0..commits - left {
                    all.push(Self { commits, base, delete: Some(delete) });
                }
            }
        }
        all
    }

    fn happens(self, b: &mut Session) {
        for _ in 0..self.commits {
            commit(b, Edit::Overwrite);
        }
        let Some((left, layout)) = self.base else { return };
        let merged = b.txid() - left;
        b.oracle.base(layout, merged);
        if let Some(delete) = self.delete {
            b.oracle.delete_log(merged - delete);
        }
    }
}

/// The machine that lost opens anew, and both go on in turn.
fn go_on(mut a: Session, mut b: Session) {
    a.close();
    a.open_anew().unwrap();
    assert_eq!(a.local, b.local, "caught up");
    a.acknowledged.clear();
    commit(&mut a, Edit::Grow);
    fenced(b.transaction(Edit::Grow, End::Commit));
    b.close();
    b.open_anew().unwrap();
    assert_eq!(a.local, b.local);
    b.acknowledged.clear();
    commit(&mut b, Edit::Grow);
    b.close();
    b.open().unwrap();
}

#[test]
fn a_writer_that_was_away_builds_nothing_on_what_it_knew() {
    in_parallel(&Meanwhile::all(), |meanwhile| {
        let (mut a, mut b) = two(Some(PASSED), PATIENT, 2);
        a.close();
        a.open_anew().unwrap();
        meanwhile.happens(&mut b);
        let (before, from) = (b.oracle.listing(), a.store.next_request());
        a.settled = false;
        fenced(a.transaction(Edit::Overwrite, End::Commit));
        assert!(!operations(&a, from).contains(&Operation::Put), "it asks before it writes");
        fenced(a.transaction(Edit::Overwrite, End::Commit));
        assert_eq!(a.oracle.listing(), before, "nothing of it is there");
        go_on(a, b);
    });
}

/// Frozen between the look at the store and the arrival of its request: what it creates is no part of the history, and
/// goes away.
#[test]
fn an_object_that_arrives_behind_the_window_is_removed() {
    in_parallel(&Meanwhile::all(), |meanwhile| {
        let (mut a, mut b) = two(Some(PASSED), PATIENT, 3);
        a.close();
        a.open_anew().unwrap();
        // The PUT waits at the store until the other machine is done.
        let gate = Arc::new(Barrier::new(2));
        a.store.gate(Some(Arc::clone(&gate)));
        let mut before = None;
        let (a, told) = while_frozen(a, Operation::Put, |store| {
            meanwhile.happens(&mut b);
            before = Some(b.oracle.listing());
            store.gate(None);
            block_on(gate.wait());
        });
        fenced(told);
        assert_eq!(Some(a.oracle.listing()), before, "nothing of it is there");
        go_on(a, b);
    });
}

/// A log of several pages is behind the writer that was away: it asks for one of them, and for what is merged.
#[test]
fn who_was_away_for_long_lists_no_more_than_it_needs() {
    let (mut a, b) = two(Some(PASSED), PATIENT, 9);
    b.oracle.go_on(4, 3150);
    b.oracle.snapshot(3100);
    a.settled = false;
    let (from, before) = (a.store.next_request(), a.store.lists());
    fenced(a.transaction(Edit::Overwrite, End::Commit));
    assert_eq!(a.store.lists() - before, 2);
    assert!(!operations(&a, from).contains(&Operation::Put), "it asks before it writes");

    // Its next transaction catches up: after a look, in three.
    let before = a.store.lists();
    let host = FakeHost { path: a.path.clone(), is_in_use: false };
    let file = File::options().read(true).write(true).open(&a.path).unwrap();
    a.database.as_ref().unwrap().catch_up_alone(&host, &mut Lone(file)).unwrap();
    assert_eq!(a.store.lists() - before, 1 + 3);
    a.local = a.file();
    assert_eq!((&a.local, a.txid()), (&a.oracle.newest(), 3150));
    a.acknowledged.clear();
    commit(&mut a, Edit::Overwrite);
    a.finish();
}

#[test]
fn an_orphan_before_a_long_log_is_found_in_two_lists() {
    let (mut a, b) = two(Some(PASSED), PATIENT, 10);
    a.close();
    a.open_anew().unwrap();
    let gate = Arc::new(Barrier::new(2));
    a.store.gate(Some(Arc::clone(&gate)));
    let lists = a.store.lists();
    let (a, told) = while_frozen(a, Operation::Put, |store| {
        b.oracle.go_on(4, 100);
        b.oracle.snapshot(100);
        b.oracle.go_on(101, 2250);
        b.oracle.delete_log(99);
        store.gate(None);
        block_on(gate.wait());
    });
    fenced(told);
    assert_eq!(a.store.lists() - lists, 1 + 2, "before and after");
    assert!(!a.oracle.has_log(4), "it is removed");
}

/// SQLite failed after the object of its transaction was created, and others have gone on from that.
#[test]
fn an_open_outcome_before_a_long_log_is_fenced_in_two_lists() {
    let (mut a, b) = two(Some(PASSED), PATIENT, 11);
    let told = a.transaction(Edit::Overwrite, End::Fail);
    assert!(matches!(told, Told::Failed(_)), "{told:?}");
    b.oracle.go_on(5, 2250);
    let before = a.store.lists();
    fenced(a.transaction(Edit::Overwrite, End::Commit));
    assert_eq!(a.store.lists() - before, 2);
}

#[test]
fn what_others_have_built_on_stands() {
    for merged in [None, Some(Layout::Ltx), Some(Layout::Pages)] {
        let (mut a, mut b) = two(Some(PASSED), PATIENT, 4);
        a.close();
        a.open_anew().unwrap();
        // The store has created it, and says so only when another has gone on from there.
        let told = a.transaction(Edit::Overwrite, End::Unconfirmed);
        assert!(matches!(told, Told::Crashed), "{told:?}");
        b.close();
        b.open_anew().unwrap();
        assert_eq!(a.local, b.local);
        match merged {
            Some(layout) => b.oracle.base(layout, b.txid()),
            None => commit(&mut b, Edit::Overwrite),
        }
        let last = b.oracle.last();
        a.crash();
        a.open_anew().unwrap();
        assert_eq!((a.local.clone(), a.txid()), (b.local.clone(), last));
        assert!(a.oracle.has_log(4), "it is no orphan");
    }
}

#[test]
fn an_unknown_outcome_is_settled_behind_the_window_too() {
    for landed in [false, true] {
        let (mut a, _) = two(Some(PASSED), HASTY, 5);
        let from = a.store.next_request() + 1;
        a.store.fail(Plan::From(from, if landed { Fault::SilentAfterEffect } else { Fault::Silent }));
        let told = a.transaction(Edit::Overwrite, End::Commit);
        assert!(matches!(&told, Told::Failed(error) if error.to_string().contains("not known")), "{told:?}");
        a.store.heal();
        a.config.timeout = PATIENT;
        commit_soon(&mut a);
        assert_eq!(a.txid(), if landed { 5 } else { 4 });
        a.finish();
    }
}

/// The timeout is short for the sake of the failure before: a loaded machine may need a second try.
fn commit_soon(session: &mut Session) {
    session.close();
    session.open().unwrap();
    commit(session, Edit::Overwrite);
}

/// A transaction that was reported as failed arrives when another's is compacted and deleted, and the program starts
/// anew.
#[test]
fn an_orphan_that_arrives_late_is_removed_at_the_next_open() {
    in_parallel(&Meanwhile::all(), |meanwhile| {
        let (mut a, mut b) = two(Some(PASSED), HASTY, 6);
        a.store.hold_late();
        a.store.fail(Plan::From(a.store.next_request(), Fault::Late));
        let told = a.transaction(Edit::Overwrite, End::Commit);
        assert!(matches!(&told, Told::Failed(error) if error.to_string().contains("not known")), "{told:?}");
        a.store.heal();
        meanwhile.happens(&mut b);
        let before = b.oracle.listing();
        block_on(a.store.deliver_all());
        a.close();
        a.config.timeout = PATIENT;
        a.open_anew().unwrap();
        assert_eq!(a.oracle.listing(), before, "nothing of it is there");
        go_on(a, b);
    });
}

#[test]
fn a_bucket_that_was_cut_off_is_not_written_behind() {
    let (mut a, _) = two(Some(PASSED), PATIENT, 7);
    a.settled = false;
    a.oracle.delete_log(u64::MAX);
    a.acknowledged.clear();
    let told = a.transaction(Edit::Overwrite, End::Commit);
    let Told::Failed(error) = told else { panic!("{told:?}") };
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("objects were deleted"), "{error}");
    assert!(a.oracle.listing().is_empty(), "nothing was written");
}

#[test]
fn settings_that_are_not_understood_are_an_error() {
    let store = FaultStore::new(Plan::Never, Conduct::Honest);
    let mut session = Session::new(&store, PATIENT, 8);
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    session.close();
    let key = Settings::key(session.oracle.history().id());
    session.oracle.put(&key, b"an hour".to_vec());
    let error = session.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains(&key), "{error}");
}
