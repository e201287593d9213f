//! A database opened as of a point: what it shows, what it asks the store, and that it leaves the database alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_engine::{AsOf, Error, ErrorKind, Past};
use bottomless_ltx::Txid;
use bottomless_store::Bucket;
use common::oracle::location;
use common::session::{HASTY, PATIENT, config};
use common::*;

fn open_in(session: &Session, as_of: AsOf, timeout: Duration) -> Result<Past, Error> {
    let bucket = Bucket::from_object_store(Arc::clone(&session.store) as _, location());
    Past::open_in_bucket(&session.path, config(timeout), as_of, bucket)
}

fn at(session: &Session, txid: u64) -> Result<Past, Error> {
    open_in(session, AsOf::Txid(Txid::new(txid)), PATIENT)
}

/// A session that is open, with a transaction of each kind, in milliseconds of their own.
fn session(seed: u64) -> Session {
    let store = FaultStore::new(Plan::Never, Conduct::Honest);
    let mut session = Session::new(&store, PATIENT, seed);
    session.open().unwrap();
    let edits = [Edit::Grow, Edit::Overwrite, Edit::GrowWithHole, Edit::Shrink, Edit::PageSize, Edit::Vacuum];
    for edit in edits {
        commit(&mut session, edit);
        next_millisecond();
    }
    session
}

fn next_millisecond() {
    let milliseconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let now = milliseconds();
    while milliseconds() == now {
        std::hint::spin_loop();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_transaction_is_shown_as_it_was_and_the_present_goes_on() {
    let mut session = session(1);
    let beside = names(session.folder.path());
    let last = session.txid();
    for txid in 1..=last {
        let image = session.acknowledged[&txid].clone();
        let past = at(&session, txid).unwrap();
        assert!(fs::read(past.file()).unwrap() == image.0, "{txid}");
        assert_eq!((past.position().txid.get(), past.position().checksum), (txid, image.checksum()));
        // The session checks its own files after every transaction.
        commit(&mut session, Edit::Overwrite);
        assert!(fs::read(past.file()).unwrap() == image.0, "{txid}");
        let status: serde_json::Value = serde_json::from_str(&past.status()).unwrap();
        assert_eq!(status["txid_hex"], format!("{txid:016x}"));
        assert_eq!(status["size_in_pages"], image.size());
        assert_eq!(status["page_size"], image.page_size().get());
        assert!(status["past"]["read_only"].as_str().unwrap().contains("read only"), "{status}");
        let present: serde_json::Value = serde_json::from_str(&session.db().status().unwrap()).unwrap();
        assert!(present["past"].is_null(), "{present}");
    }
    assert_eq!(names(session.folder.path()), beside);
    session.finish();
}

#[test]
fn a_time_is_the_last_transaction_that_was_made_by_then() {
    let session = session(2);
    let mut times = Vec::new();
    for txid in 1..=session.txid() {
        let past = at(&session, txid).unwrap();
        times.push(past.time());
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    for (txid, time) in (1..).zip(&times) {
        for later in [Duration::ZERO, Duration::from_micros(900)] {
            let past = open_in(&session, AsOf::Time(*time + later), PATIENT).unwrap();
            assert_eq!((past.position().txid.get(), past.time()), (txid, *time));
            assert!(fs::read(past.file()).unwrap() == session.acknowledged[&txid].0, "{txid}");
        }
    }
    let now = open_in(&session, AsOf::Time(SystemTime::now() + Duration::from_secs(3600)), PATIENT).unwrap();
    assert_eq!(now.position().txid.get(), session.txid());
    let error = open_in(&session, AsOf::Time(times[0] - Duration::from_millis(1)), PATIENT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    assert!(text.contains("can't be opened as of") && text.contains("begins with TXID 0000000000000001"), "{text}");
}

#[test]
fn it_only_reads_and_asks_once_for_all() {
    let session = session(3);
    let before = session.store.requests().len();
    let first = at(&session, 3).unwrap();
    let asked = session.store.requests();
    let asked = &asked[before..];
    assert_eq!(asked.iter().filter(|(operation, _)| *operation == Operation::List).count(), 1, "{asked:?}");
    assert!(asked.iter().all(|(operation, _)| matches!(operation, Operation::List | Operation::Get)), "{asked:?}");

    // From here on the store is away.
    session.store.fail(Plan::From(session.store.next_request(), Fault::Unreachable));
    let before = session.store.requests().len();
    let second = at(&session, 3).unwrap();
    assert_eq!(session.store.requests().len(), before);
    assert_eq!((second.file(), second.position(), second.time()), (first.file(), first.position(), first.time()));
    drop(first);
    assert!(fs::read(second.file()).unwrap() == session.acknowledged[&3].0);
    let file = second.file().to_owned();
    drop(second);
    assert!(!file.exists());

    for as_of in [AsOf::Txid(Txid::new(3)), AsOf::Time(SystemTime::now())] {
        let beside = names(session.folder.path());
        let error = open_in(&session, as_of, HASTY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(names(session.folder.path()), beside);
    }
    session.store.heal();
    drop(at(&session, 3).unwrap());
}

#[test]
fn a_point_that_was_merged_away_names_the_nearest() {
    let session = session(4);
    session.oracle.snapshot(4);
    session.oracle.delete_log(4);
    let beside = names(session.folder.path());
    let time = at(&session, 4).unwrap().time();
    for as_of in [AsOf::Txid(Txid::new(2)), AsOf::Time(time - Duration::from_millis(1))] {
        let error = open_in(&session, as_of, PATIENT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("0000000000000004"), "{error}");
    }
    let error = at(&session, 99).unwrap_err();
    assert!(error.to_string().contains("ends with TXID 0000000000000006"), "{error}");
    assert_eq!(names(session.folder.path()), beside);
}

/// The local file is gone, and so is all that belongs to it: nothing of it comes back by looking at the past.
#[test]
fn it_needs_no_database() {
    let mut session = session(5);
    session.close();
    for name in names(session.folder.path()) {
        fs::remove_file(session.folder.path().join(name)).unwrap();
    }
    let past = at(&session, 2).unwrap();
    assert!(fs::read(past.file()).unwrap() == session.acknowledged[&2].0);
    assert_eq!(names(session.folder.path()).len(), 1);
    drop(past);
    assert!(names(session.folder.path()).is_empty());
}

/// The same name in another bucket is another history.
#[test]
fn another_buckets_past_is_never_taken_for_it() {
    let here = session(6);
    let mut there = session(7);
    there.path = here.path.clone();
    let past = at(&here, 2).unwrap();
    let mut elsewhere = config(PATIENT);
    elsewhere.location = bottomless_store::Location::new(elsewhere.location.endpoint, "elsewhere").unwrap();
    let bucket = Bucket::from_object_store(Arc::clone(&there.store) as _, elsewhere.location.clone());
    let other = Past::open_in_bucket(&there.path, elsewhere, AsOf::Txid(Txid::new(2)), bucket).unwrap();
    assert_ne!(past.file(), other.file());
    assert!(fs::read(past.file()).unwrap() == here.acknowledged[&2].0);
    assert!(fs::read(other.file()).unwrap() == there.acknowledged[&2].0);
}
