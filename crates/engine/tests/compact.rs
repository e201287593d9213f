//! Compaction in the background: the thread, what it downloads, a long log at open, closing under it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottomless_engine::{Database, OpenMain};
use bottomless_history::{Level, Policy};
use common::host::MainPath;
use common::session::PATIENT;
use common::*;

/// Nothing happens by itself within a test.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn policy(levels: [u64; 3]) -> Policy {
    Policy { levels: levels.map(Duration::from_millis), snapshot: NEVER, retention: NEVER }
}

fn session(store: &Arc<FaultStore>, levels: [u64; 3], seed: u64) -> Session {
    let mut session = Session::new(store, PATIENT, seed);
    (session.config.compaction, session.config.policy) = (true, policy(levels));
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
    session.db().compact_in_background(1000, None);
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
    session.config.compaction = false;
    session.open().unwrap();
    for _ in 0..30 {
        commit(&mut session, Edit::Overwrite);
    }
    session.close();
    (session.config.compaction, session.config.policy) = (true, policy([1, 3_600_000, 3_600_000]));
    session.open().unwrap();
    // Without the first, which stays in the log until there is a snapshot.
    session.db().compact_in_background(29, None);
    assert_eq!(level(&session, 1), (0, 0), "not longer than that");
    session.close();
    session.open().unwrap();
    session.db().compact_in_background(28, None);
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
        session.db().compact_in_background(LONG, None);
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
    session.db().compact_in_background(1000, None);
    let lock = session.folder.path().join("test.db-bottomless-compact");
    wait_until("it is created and being read back", || level(&session, 1).0 == 1 && lock.exists());
    commit(&mut session, Edit::Overwrite);
    session.close();
    wait_until("the lock is given back", || !lock.exists());
    store.read_time(Duration::ZERO);
    session.open().unwrap();
    session.db().compact_in_background(1000, None);
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
    session.config.compaction = false;
    session.open().unwrap();
    session.db().compact_in_background(0, None);
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
    session.db().compact_in_background(1000, None);
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

/// Bytes of a snapshot of 3,000 pages, and how many of them the next one downloads, with the main file to read or without
/// it, where this becomes of the local file before.
fn downloaded(seed: u64, reads_main: bool, damage: impl FnOnce(&Session)) -> (u64, u64) {
    const SHORT: Duration = Duration::from_millis(1);
    let store = store();
    let mut session = session(&store, [1; 3], seed);
    session.config.compaction = true;
    session.config.policy = Policy { levels: [SHORT; 3], snapshot: SHORT, retention: NEVER };
    session.open().unwrap();
    let first = Image::first(&mut session.random, 3000);
    assert!(matches!(session.write(first, End::Commit), Told::Committed));
    commit(&mut session, Edit::Overwrite);
    session.oracle.snapshot(2);
    let base = session.oracle.listing().merged()[0].clone();
    for edit in [Edit::Overwrite, Edit::Shrink, Edit::Grow, Edit::Overwrite] {
        commit(&mut session, edit);
    }
    damage(&session);
    let main = reads_main.then(|| Arc::new(MainPath(session.path.clone())) as Arc<dyn OpenMain>);
    session.db().compact_in_background(1000, main);
    wait_until("the next snapshot", || level(&session, 9) == (2, 6));
    session.check_acknowledged();
    // Another machine gets it from there.
    session.oracle.delete_log(6);
    assert_eq!(session.oracle.at(6), session.local);
    session.close();
    (base.size, store.bytes_read(&base.name.key(&session.config.database_id)))
}

#[test]
fn a_snapshot_does_not_download_what_this_machine_has() {
    let (size, without) = downloaded(7, false, |_| ());
    assert!(without >= size, "{without} of {size} bytes");
    let (size, with) = downloaded(7, true, |_| ());
    assert!(with > 0 && with < size / 20, "{with} of {size} bytes");
    // A page is not what it was, and the file is cut off behind others.
    let damage = |session: &Session| {
        let file = fs::File::options().write(true).open(&session.path).unwrap();
        file.write_all_at(&[session.local.0[512 * 1500] ^ 1], 512 * 1500).unwrap();
        file.set_len(512 * 2900).unwrap();
    };
    let (_, damaged) = downloaded(7, true, damage);
    assert!(damaged > with + 90 * 512 && damaged < size / 5, "{damaged} of {size} bytes");
    let (_, gone) = downloaded(7, true, |session| fs::remove_file(&session.path).unwrap());
    assert!(gone >= size, "{gone} of {size} bytes");
}
