//! What a commit makes of each outcome: fenced, unknown and settled later, refused by the probe.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottomless_engine::ErrorKind;
use bottomless_engine::config::Fencing;
use bottomless_history::{Level, ObjectName};
use bottomless_ltx::Txid;
use common::oracle::block_on;
use common::session::{HASTY, PATIENT};
use common::store::Operation;
use common::*;
use object_store::ObjectStore;
use tokio::sync::Barrier;

fn honest(plan: Plan) -> Arc<FaultStore> {
    FaultStore::new(plan, Conduct::Honest)
}

fn refused(told: Told) -> ErrorKind {
    match told {
        Told::Failed(error) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// A session with two transactions.
fn begun(timeout: Duration, seed: u64) -> Session {
    let mut session = Session::new(&honest(Plan::Never), timeout, seed);
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    commit(&mut session, Edit::Grow);
    session
}

#[test]
fn of_two_writers_at_one_position_one_wins() {
    let one = honest(Plan::Never);
    let two = FaultStore::over(Arc::clone(&one.inner), Plan::Never, Conduct::Honest);
    let (mut a, mut b) = (Session::new(&one, PATIENT, 1), Session::new(&two, PATIENT, 2));
    a.open().unwrap();
    commit(&mut a, Edit::Grow);
    b.open_anew().unwrap();
    assert_eq!(b.local, a.local);
    for round in 0..30 {
        let txid = a.txid();
        assert_eq!(txid, b.txid());
        // Both PUTs are under way before one of them is answered.
        let gate = Arc::new(Barrier::new(2));
        one.gate(Some(Arc::clone(&gate)));
        two.gate(Some(gate));
        let (told_a, told_b) = std::thread::scope(|scope| {
            let other = scope.spawn(|| b.transaction(Edit::Overwrite, End::Commit));
            (a.transaction(Edit::Grow, End::Commit), other.join().unwrap())
        });
        one.gate(None);
        two.gate(None);
        let (winner, loser, lost) = match (told_a, told_b) {
            (Told::Committed, Told::Failed(error)) => (&mut a, &mut b, error),
            (Told::Failed(error), Told::Committed) => (&mut b, &mut a, error),
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(lost.kind(), ErrorKind::Fenced, "{lost}");
        assert_eq!(winner.txid(), txid + 1);
        winner.check_acknowledged();
        assert_eq!(winner.acknowledged[&(txid + 1)], winner.oracle.newest());

        // It stays so, without asking the store, until it is opened anew.
        let before = loser.store.next_request();
        assert_eq!(refused(loser.transaction(Edit::Shrink, End::Commit)), ErrorKind::Fenced);
        assert!(loser.db().is_fenced());
        assert_eq!(loser.store.next_request(), before);
        commit(winner, Edit::Overwrite);
        assert_eq!(refused(loser.transaction(Edit::Shrink, End::Commit)), ErrorKind::Fenced);
        loser.close();
        loser.open_anew().unwrap();
        assert!(!loser.db().is_fenced());
        assert_eq!(loser.local, winner.local, "caught up");
        assert_eq!(loser.txid(), winner.txid());
        assert!(!loser.unsettled());
    }
    assert!(a.acknowledged.len() > 2 && b.acknowledged.len() > 2, "both committed at times");
    a.finish();
}

#[test]
fn a_store_that_can_not_keep_writers_apart_is_refused() {
    for conduct in [Conduct::Ignores, Conduct::TwoWin, Conduct::NotImplemented] {
        let store = FaultStore::new(Plan::Never, conduct);
        let mut session = Session::new(&store, PATIENT, 4);
        session.open().unwrap();
        for _ in 0..2 {
            let told = session.transaction(Edit::Grow, End::Commit);
            let Told::Failed(error) = told else { panic!("{conduct:?}: {told:?}") };
            assert_eq!(error.kind(), ErrorKind::Unfenceable, "{conduct:?}: {error}");
            assert!(error.to_string().contains("LIBSQL_BOTTOMLESS_FENCING=off"), "{error}");
            assert_eq!(session.oracle.last(), 0, "nothing was committed");
        }
        let left: Vec<_> = block_on(futures::TryStreamExt::try_collect(store.inner.list(None))).unwrap();
        assert!(left.is_empty(), "{conduct:?}: the probe leaves nothing: {left:?}");
        session.close();
        session.config.fencing = Fencing::Off;
        session.open().unwrap();
        commit(&mut session, Edit::Grow);
        commit(&mut session, Edit::Overwrite);
        session.finish();
    }
}

#[test]
fn an_honest_store_is_proven_once() {
    let mut session = Session::new(&honest(Plan::Never), PATIENT, 4);
    let of_probe = |(op, path): &&(Operation, String)| *op == Operation::Put && path.contains("/probe-");
    let probes = |session: &Session| session.store.requests().iter().filter(of_probe).count();
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    assert_eq!(probes(&session), 8);
    session.close();
    session.open().unwrap();
    // All pages are compared; the proof still counts.
    session.close();
    session.foreign(&session.local);
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    assert_eq!(probes(&session), 8);
}

/// What happens between a transaction whose PUT arrives late and the one that settles it.
#[derive(Clone, Copy, Debug)]
struct Lateness {
    /// The late PUT arrives behind this request of the next commit; 0: before it.
    arrives: u64,
    /// This request of the next commit fails, and how.
    fails: Option<(u64, Fault, bool)>,
    reopen: Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Reopen {
    Not,
    Closed,
    Crashed,
}

#[test]
fn a_late_arrival_is_settled_in_every_order() {
    let mut cases = Vec::new();
    for arrives in 0..8 {
        for reopen in [Reopen::Not, Reopen::Closed, Reopen::Crashed] {
            cases.push(Lateness { arrives, fails: None, reopen });
            for at in 1..8 {
                for fault in [Fault::Denied, Fault::RequestLost, Fault::ReplyLost, Fault::PartialRead] {
                    cases.push(Lateness { arrives, fails: Some((at, fault, true)), reopen });
                    if fault != Fault::PartialRead {
                        cases.push(Lateness { arrives, fails: Some((at, fault, false)), reopen });
                    }
                }
            }
        }
    }
    in_parallel(&cases, |case| {
        let mut session = begun(HASTY, 5);
        let store = Arc::clone(&session.store);
        store.hold_late();
        store.fail(Plan::From(store.next_request(), Fault::Late));
        let told = session.transaction(Edit::Grow, End::Commit);
        assert_eq!(session.oracle.last(), 2, "it has not arrived");
        assert!(matches!(&told, Told::Failed(error) if error.to_string().contains("not known")), "{told:?}");
        assert!(session.unsettled());
        store.heal();
        let now = store.next_request() - 1;
        store.late_behind(now + case.arrives);
        if case.arrives == 0 {
            block_on(store.deliver_all());
        }
        match case.fails {
            Some((at, fault, true)) => store.fail(Plan::From(now + at, fault)),
            Some((at, fault, false)) => store.fail(Plan::Once(now + at, fault)),
            None => {}
        }
        let told = session.transaction(Edit::Overwrite, End::Commit);
        assert!(case.fails.is_some() || matches!(told, Told::Committed), "{told:?}");
        store.heal();
        match case.reopen {
            Reopen::Not => {}
            Reopen::Closed => {
                session.close();
                session.open().unwrap();
            }
            Reopen::Crashed => {
                session.crash();
                session.open().unwrap();
            }
        }
        assert!(!session.db().is_fenced());
        session.finish();
    });
}

#[test]
fn a_first_transaction_that_failed_does_not_come_back() {
    for crash in [false, true] {
        let mut session = Session::new(&honest(Plan::Never), PATIENT, 6);
        session.open().unwrap();
        assert_eq!(refused(session.transaction(Edit::Grow, End::Fail)), ErrorKind::Disk);
        assert_eq!(session.oracle.last(), 1, "it landed");
        if crash {
            session.crash()
        } else {
            session.close()
        }
        session.open().unwrap();
        assert_eq!(session.file(), Image::default());
        commit(&mut session, Edit::Grow);
        assert_eq!(session.txid(), 2);
        session.finish();
    }
}

#[test]
fn a_failed_transaction_stays_away_when_the_next_is_cut_off() {
    let mut session = begun(PATIENT, 12);
    let before = session.local.clone();
    assert_eq!(refused(session.transaction(Edit::Overwrite, End::Fail)), ErrorKind::Disk);
    let failed = session.oracle.last();
    // The program dies with its request to take that back on the way, and the request never arrives.
    let told = session.transaction(Edit::Overwrite, End::Crash { committed: false });
    assert!(matches!(told, Told::Crashed), "{told:?}");
    assert_eq!(session.oracle.last(), failed + 1);
    let history = session.oracle.history();
    block_on(history.bucket().delete(&ObjectName::log(Txid::new(failed + 1)).key(history.id()))).unwrap();
    session.or_else = None;
    session.open().unwrap();
    assert_eq!(session.file(), before);
    commit(&mut session, Edit::Grow);
    assert_eq!(session.txid(), failed + 1);
    session.finish();
}

#[test]
fn undoing_what_nobody_confirmed_is_a_transaction() {
    for wal in [false, true] {
        let mut session = begun(PATIENT, 10);
        let before = session.local.clone();
        let told = session.transaction(Edit::Overwrite, End::Unconfirmed);
        assert!(matches!(told, Told::Crashed), "{told:?}");
        // In a WAL the change counter need not move: the content may be the very same as before.
        let file = session.folder.path().join("test.db-wal");
        let undone = if wal { before.clone() } else { before.edited(&mut Random::new(1), Edit::Shrink) };
        if wal {
            fs::write(&file, b"frames").unwrap();
        }
        let told = session.write(undone, End::Commit);
        assert!(matches!(told, Told::Committed), "{told:?}");
        let _ = fs::remove_file(file);
        session.finish();
    }
}

#[test]
fn a_change_to_a_file_behind_a_failed_transaction_is_published() {
    let mut session = begun(PATIENT, 7);
    assert_eq!(refused(session.transaction(Edit::Grow, End::Fail)), ErrorKind::Disk);
    session.close();
    let next = session.local.edited(&mut Random::new(1), Edit::Overwrite);
    session.foreign(&next);
    session.local = next;
    session.open().unwrap();
    assert_eq!(session.oracle.newest(), session.local);
    session.finish();
}

#[test]
fn no_commit_waits_longer_than_the_timeout() {
    // So long that the load of the machine does not count.
    let timeout = Duration::from_secs(2);
    let cases: Vec<(Fault, bool)> = Fault::ALL.iter().flat_map(|fault| [(*fault, false), (*fault, true)]).collect();
    in_parallel(&cases, |&(fault, settles)| {
        let mut session = begun(timeout, 8);
        if settles {
            assert_eq!(refused(session.transaction(Edit::Grow, End::Fail)), ErrorKind::Disk);
            // Each read alone would be in time.
            session.store.read_time(timeout.mul_f32(0.8));
        }
        session.store.fail(Plan::From(session.store.next_request(), fault));
        let begun = Instant::now();
        let told = session.transaction(Edit::Overwrite, End::Commit);
        let took = begun.elapsed();
        assert!(took < timeout.mul_f32(1.4), "{fault:?}: {took:?}, {told:?}");
        session.store.read_time(Duration::ZERO);
        session.finish();
    });
}

#[test]
fn a_change_of_the_page_size_is_a_snapshot_too() {
    for fails in [false, true] {
        let mut session = begun(PATIENT, 9);
        let put = session.store.next_request();
        if fails {
            session.store.fail(Plan::From(put + 1, Fault::Denied));
        }
        commit(&mut session, Edit::PageSize);
        assert_eq!(session.local.page_size().get(), 1024);
        session.store.heal();
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: Txid::new(3) };
        let listing = session.oracle.listing();
        let found = listing.entries().iter().find(|entry| entry.name.level == Level::SNAPSHOT);
        assert_eq!(found.map(|entry| entry.name), (!fails).then_some(name));
        // The log alone leads there too.
        if !fails {
            block_on(session.oracle.history().bucket().delete(&name.key(session.oracle.history().id()))).unwrap();
        }
        assert_eq!(session.oracle.newest(), session.local);
        session.finish();
    }
}

/// The last transaction that SQLite has committed is in the bucket and was never confirmed; the one behind it was reported
/// as failed, though it landed.
#[test]
fn a_failed_transaction_behind_an_unconfirmed_one_is_not_caught_up_to() {
    for fault in [Fault::Denied, Fault::SilentAfterEffect, Fault::Late] {
        for crash in [false, true] {
            let mut session = begun(HASTY, 11);
            session.sees_playback = true;
            let told = session.transaction(Edit::Overwrite, End::Unconfirmed);
            assert!(matches!(told, Told::Crashed), "{told:?}");
            session.store.hold_late();
            // Settling reads the object before; its own PUT is what fails.
            let put = session.store.next_request() + 3;
            session.store.fail(Plan::From(put, fault));
            refused(session.transaction(Edit::Grow, End::Commit));
            session.store.heal();
            let late = fault == Fault::Late;
            assert_eq!(session.oracle.last(), if fault == Fault::SilentAfterEffect { 4 } else { 3 }, "{fault:?}");
            if crash {
                session.crash();
            } else {
                session.close();
            }
            session.config.timeout = PATIENT;
            session.open().unwrap();
            if late {
                block_on(session.store.deliver_all());
            }
            session.finish();
        }
    }
}
