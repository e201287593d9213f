//! Compaction in the background: the thread, what it downloads, a long log at open, closing under it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottomless_engine::Database;
use bottomless_history::{Level, Policy};
use common::session::PATIENT;
use common::*;

/// Nothing happens by itself within a test.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn policy(levels: [u64; 3]) -> Policy {
    Policy { levels: levels.map(Duration::from_millis), snapshot: NEVER, retention: NEVER }
}

fn session(store: &Arc<FaultStore>, levels: [u64; 3], seed: u64) -> Session {
    let mut session = Session::new(store, PATIENT, seed);
    session.config.compaction = Some(policy(levels));
    session
}

fn store() -> Arc<FaultStore> {
    FaultStore::new(Plan::Never, Conduct::Honest)
}

/// How many objects there are of a level, and up to which transaction they go.
fn level(session: &Session, level: u8) -> (usize, u64) {
    let listing = session.oracle.listing();
    let of_level = || listing.entries().iter().filter(|entry| entry.name.level == Level::new(level).unwrap());
    (of_level().count(), of_level().map(|entry| entry.name.max.get()).max().unwrap_or(0))
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 seconds");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// GETs by key, from a request on.
fn gets(store: &FaultStore, from: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, key) in store.requests().into_iter().skip(from).filter(|(operation, _)| *operation == Operation::Get) {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[test]
fn what_is_committed_is_merged_and_nothing_of_it_downloaded_but_what_is_read_back() {
    let store = store();
    let mut session = session(&store, [20, 60, 180], 1);
    session.open().unwrap();
    session.db().compact_in_background(1000);
    let from = store.requests().len();
    let mut commits = 0;
    wait_until("two objects of level 3", || {
        commit(&mut session, [Edit::Overwrite, Edit::Grow, Edit::Shrink][commits % 3]);
        commits += 1;
        level(&session, 3).0 >= 2
    });
    session.check_acknowledged();
    let last = session.txid();
    wait_until("the last commit is merged", || level(&session, 1).1 == last);
    let gets = gets(&store, from);
    // Whatever reads one back.
    let once = gets.iter().find(|(key, _)| key.contains("/0001/")).map_or(0, |(_, count)| *count);
    assert!((1..=3).contains(&once), "{gets:?}");
    for (key, count) in &gets {
        assert!(!key.contains("/0000/"), "{key} was written here: {gets:?}");
        assert!(key.ends_with("bottomless.json") || *count <= once, "{key}: {count} times: {gets:?}");
    }
    session.finish();
}

#[test]
fn a_long_log_is_compacted_before_the_database_is_opened() {
    let store = store();
    let mut session = session(&store, [24 * 3_600_000; 3], 2);
    session.config.compaction = None;
    session.open().unwrap();
    for _ in 0..30 {
        commit(&mut session, Edit::Overwrite);
    }
    session.close();
    session.config.compaction = Some(policy([1, 3_600_000, 3_600_000]));
    session.open().unwrap();
    // Without the first, which stays in the log until there is a snapshot.
    session.db().compact_in_background(29);
    assert_eq!(level(&session, 1), (0, 0), "not longer than that");
    session.close();
    session.open().unwrap();
    session.db().compact_in_background(28);
    assert_eq!(level(&session, 1), (1, 30), "when it returns, that is done");
    session.finish();
}

#[test]
fn programs_that_live_shorter_than_any_interval_keep_their_log_short() {
    const LONG: u64 = 20;
    let store = store();
    // Longer than a run takes, and shorter than so many.
    let mut session = session(&store, [20, 3_600_000, 3_600_000], 3);
    for run in 1..=70 {
        session.open().unwrap();
        session.db().compact_in_background(LONG);
        let left = session.oracle.last().saturating_sub(level(&session, 1).1.max(1));
        assert!(left <= LONG, "run {run}: {left}");
        commit(&mut session, Edit::Overwrite);
        session.close();
    }
    session.finish();
}

#[test]
fn closing_under_a_pass_waits_for_nothing_and_leaves_nothing() {
    let store = store();
    let mut session = session(&store, [10, 3_600_000, 3_600_000], 4);
    session.open().unwrap();
    for _ in 0..5 {
        commit(&mut session, Edit::Overwrite);
    }
    // Reading back takes longer than the test.
    store.read_time(NEVER);
    session.db().compact_in_background(1000);
    let lock = session.folder.path().join("test.db-bottomless-compact");
    wait_until("it is created and being read back", || level(&session, 1).0 == 1 && lock.exists());
    commit(&mut session, Edit::Overwrite);
    session.close();
    wait_until("the lock is given back", || !lock.exists());
    store.read_time(Duration::ZERO);
    session.open().unwrap();
    session.db().compact_in_background(1000);
    commit(&mut session, Edit::Overwrite);
    let last = session.txid();
    wait_until("the next goes on from there", || level(&session, 1).1 == last);
    session.finish();
}

#[test]
fn who_only_reads_starts_nothing_and_with_compaction_off_nothing_is_copied() {
    let store = store();
    let mut session = session(&store, [10; 3], 5);
    let file = |session: &Session, suffix: &str| session.folder.path().join(format!("test.db-bottomless-{suffix}"));
    session.open().unwrap();
    commit(&mut session, Edit::Overwrite);
    assert!(file(&session, "log").exists());
    session.close();
    fs::remove_file(file(&session, "log")).unwrap();
    session.config.compaction = None;
    session.open().unwrap();
    session.db().compact_in_background(0);
    commit(&mut session, Edit::Overwrite);
    assert!(!file(&session, "log").exists());
    assert_eq!(status(session.db())["compaction"], "off");
    session.close();
    assert_eq!(level(&session, 1), (0, 0));
}

fn status(database: &Database) -> serde_json::Value {
    serde_json::from_str(&database.status().unwrap()).unwrap()
}

#[test]
fn the_status_says_how_compaction_goes_on() {
    let store = store();
    let mut session = session(&store, [10, 3_600_000, 3_600_000], 6);
    session.open().unwrap();
    session.db().compact_in_background(1000);
    assert_eq!(status(session.db())["compaction"], "on");
    assert_eq!(status(session.db())["compacted_txid"], 0);
    // The first stays in the log until there is a snapshot.
    commit(&mut session, Edit::Overwrite);
    commit(&mut session, Edit::Overwrite);
    wait_until("it is merged", || status(session.db())["compacted_txid"] == 2);
    assert!(status(session.db())["last_compaction"].as_str().unwrap().starts_with("20"));
    store.fail(Plan::From(1, Fault::Denied));
    // By then the pass has nothing that it could list.
    let told = session.transaction(Edit::Overwrite, End::Commit);
    assert!(matches!(told, Told::Failed(_)), "{told:?}");
    store.heal();
    session.finish();
}
