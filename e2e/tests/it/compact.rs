//! Compaction in the background, as a program and its bucket see it.

use std::time::{Duration, Instant};

use bottomless_e2e::proxy::{Answer, Fault, Request};
use bottomless_e2e::{Host, Machine, Session, World, compare, litestream};

/// Nothing of it comes within a test.
const NEVER: u32 = 24 * 3600 * 1000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks into the bucket.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until the bucket or a process is as it should be.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(LOOK);
    }
}

/// All users of the database share it, from their next listing on; it never was longer.
fn set_window(world: &World, seconds: f64) {
    let content = serde_json::json!({ "fence_window_seconds": seconds, "fence_window_before_seconds": seconds });
    world.bucket.put(&format!("{}/bottomless.json", world.id()), content.to_string().as_bytes());
}

/// Up to which transaction a level goes; 0 without an object.
fn reaches(world: &World, level: u8) -> u64 {
    world.history().into_iter().filter(|(of, _, _)| *of == level).map(|(_, _, max)| max).max().unwrap_or(0)
}

fn created(session: &mut Session, mode: &str) {
    session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"));
}

fn insert(session: &mut Session) {
    session.sql("INSERT INTO t(v) VALUES(hex(randomblob(900)))");
}

/// While a program commits, all levels come to be, and at any time the bucket restores what the local file holds.
fn levels_appear(mode: &str) {
    let mut world = World::new("levels");
    world.compact([100, 400, 1200], 1500, NEVER);
    let mut session = world.open(Host::Newest);
    created(&mut session, mode);
    for level in [1, 2, 3, 9] {
        wait_until(&format!("level {level}"), || {
            insert(&mut session);
            session.sql("UPDATE t SET v = 'again' WHERE id % 7 = 3; DELETE FROM t WHERE id % 5 = 0");
            reaches(&world, level) > 0
        });
        world.assert_restores_equal(&mut session);
    }
    let restored = litestream::restore(&world, None);
    compare::assert_same_pages(&world.db(), &restored);
    assert_eq!(session.status()["compaction_error"], serde_json::Value::Null, "{}", session.stderr());
    assert!(!session.stderr().contains("WARN"), "{}", session.stderr());
}

#[test]
fn levels_and_snapshots_appear_while_a_program_commits_in_mode_delete() {
    levels_appear("DELETE");
}

#[test]
fn levels_and_snapshots_appear_while_a_program_commits_in_mode_wal() {
    levels_appear("WAL");
}

/// What a program has is not downloaded again for the next snapshot, whether a checkpoint has copied it or not. And the
/// thread that reads the program's file takes no lock away from it.
#[test]
fn a_snapshot_is_made_of_what_the_program_has_and_its_locks_stay() {
    for mode in ["DELETE", "WAL"] {
        let mut world = World::new("pages");
        world.compact([100, NEVER, NEVER], 500, NEVER);
        let mut session = world.open(Host::Newest);
        created(&mut session, mode);
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)";
        session.sql(&format!("{rows} INSERT INTO t(v) SELECT randomblob(3900) FROM n"));
        let last = world.end();
        let at_rest = || reaches(&world, 9) == world.end() && !world.beside("bottomless-compact").exists();
        wait_until("the first snapshot", at_rest);
        let base = world.objects().into_iter().find(|object| object.key.contains("/0009/")).expect("a snapshot");
        assert!(base.size > 1_000_000, "{base:?}");
        world.proxy.clear();
        insert(&mut session);
        session.sql("BEGIN IMMEDIATE; DELETE FROM t WHERE id = 1");
        wait_until("the second snapshot", at_rest);
        assert_eq!(reaches(&world, 9), last + 1);
        let mut other = world.stock(Host::Newest);
        other.open(0, &world.db().display().to_string()).unwrap();
        let error = other.sql_fails("PRAGMA busy_timeout = 0; BEGIN IMMEDIATE");
        assert_eq!(error.primary(), 5, "the program has the lock: {error:?}");
        other.close(0).unwrap();
        session.sql("COMMIT");
        let of_base = |request: &Request| request.method == "GET" && request.target.contains(&base.key);
        let read: u64 = world.proxy.requests().iter().filter(|request| of_base(request)).map(asked_for).sum();
        assert!(read > 0 && read < 200_000, "{mode}: {read} bytes of {base:?}");
        world.assert_restores_equal(&mut session);
        assert!(!session.stderr().contains("WARN"), "{}", session.stderr());
    }
}

/// Bytes that a request asks for, by its range.
fn asked_for(request: &Request) -> u64 {
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    let (first, last) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => last + 1 - first,
        (Err(_), Ok(length)) => length,
        _ => u64::MAX / 2,
    }
}

/// What compaction asks for is held back: commits go on, and the process ends without waiting for it.
#[test]
fn a_commit_waits_for_no_compaction_and_neither_does_a_close() {
    for mode in ["DELETE", "WAL"] {
        let mut world = World::new("apart");
        world.compact([100, NEVER, NEVER], NEVER, NEVER);
        let mut session = world.open(Host::Newest);
        created(&mut session, mode);
        world.proxy.gate().hold("PUT", "/0001/");
        insert(&mut session);
        world.proxy.gate().wait_for_request();
        let held = world.end();
        for _ in 0..10 {
            insert(&mut session);
        }
        assert_eq!((world.end(), reaches(&world, 1)), (held + 10, 0), "{mode}");
        session.close(0).unwrap();
        let (status, stderr) = session.end();
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{mode}");
        world.proxy.gate().open();
        let mut session = world.open(Host::Newest);
        insert(&mut session);
        let last = world.end();
        wait_until("it is picked up", || reaches(&world, 1) == last);
        world.assert_restores_equal(&mut session);
    }
}

/// Of two processes with one database, one compacts at a time; when it dies, the other goes on.
#[test]
fn when_the_process_that_compacts_dies_another_takes_over() {
    let mut world = World::new("takeover");
    world.compact([100, NEVER, NEVER], NEVER, NEVER);
    let mut first = world.open(Host::Newest);
    created(&mut first, "WAL");
    world.proxy.gate().hold("PUT", "/0001/");
    insert(&mut first);
    world.proxy.gate().wait_for_request();
    let lock = world.beside("bottomless-compact");
    assert!(lock.exists());
    let mut second = world.open(Host::Newest);
    insert(&mut second);
    first.kill();
    world.proxy.gate().open();
    insert(&mut second);
    let last = world.end();
    wait_until("the other takes over", || reaches(&world, 1) == last);
    wait_until("the lock is given back", || !lock.exists());
    world.assert_restores_equal(&mut second);
}

/// A policy without DeleteObject: one warning, and all else goes on.
#[test]
fn where_nothing_may_be_deleted_it_warns_once_and_goes_on() {
    let mut world = World::new("nodelete");
    world.compact([100, 300, NEVER], NEVER, 2000);
    set_window(&world, 2.0);
    let mut session = world.open(Host::Newest);
    created(&mut session, "DELETE");
    world.proxy.fail_only(Some("DELETE"), "/000", Fault::Answer(Answer::new(403, "AccessDenied")));
    wait_until("it has tried several times", || {
        insert(&mut session);
        world.proxy.hits() >= 3
    });
    let before = reaches(&world, 2);
    wait_until("it goes on", || {
        insert(&mut session);
        reaches(&world, 2) > before
    });
    let warnings = session.stderr().lines().filter(|line| line.contains("WARN") && line.contains("delete")).count();
    assert_eq!(warnings, 1, "{}", session.stderr());
    assert_eq!(world.log().get(1), Some(&2), "nothing is deleted");
    world.proxy.heal();
    // The first is left to a snapshot.
    wait_until("with the permission it deletes", || {
        insert(&mut session);
        world.log().get(1) != Some(&2)
    });
    world.assert_restores_equal(&mut session);
}

/// Two machines make the same object at once: one creates it, and both find it good.
#[test]
fn two_machines_compact_the_same_database_at_once() {
    let mut world = World::new("both");
    let mut first = world.open(Host::Newest);
    created(&mut first, "DELETE");
    for _ in 0..4 {
        insert(&mut first);
    }
    first.close(0).unwrap();
    world.compact([100, NEVER, NEVER], NEVER, NEVER);
    let mut other = Machine::new(&world, "other");
    other.session.close(0).unwrap();
    let last = world.end();
    for machine in [&world.proxy, &other.proxy] {
        machine.gate().hold("PUT", "/0001/");
    }
    first = world.open(Host::Newest);
    other.session.open(0, &other.uri()).unwrap();
    other.session.sql("SELECT count(*) FROM t");
    for machine in [&world.proxy, &other.proxy] {
        machine.gate().wait_for_request();
    }
    for machine in [&world.proxy, &other.proxy] {
        machine.gate().open();
    }
    let puts = |machine: &bottomless_e2e::proxy::Proxy| {
        let requests = machine.requests().into_iter();
        requests.filter(|r| r.method == "PUT" && r.target.contains("/0001/")).find_map(|r| r.status)
    };
    wait_until("both are answered", || puts(&world.proxy).is_some() && puts(&other.proxy).is_some());
    let mut answers = [puts(&world.proxy), puts(&other.proxy)];
    answers.sort();
    assert_eq!(answers, [Some(200), Some(412)]);
    let done = |session: &mut Session| session.status()["compacted_txid"] == last;
    wait_until("both are content", || done(&mut first) && done(&mut other.session));
    for session in [&first, &other.session] {
        assert!(!session.stderr().contains("WARN"), "{}", session.stderr());
    }
    world.assert_restores_equal(&mut first);
}

/// No store for a while: nothing is said of it, and what was missed is made up for.
#[test]
fn a_store_that_is_away_is_no_matter() {
    let mut world = World::new("away");
    world.compact([100, NEVER, NEVER], NEVER, NEVER);
    let mut session = world.open(Host::Newest);
    created(&mut session, "WAL");
    // Compaction alone does not reach it.
    world.proxy.fail_only(None, "/0001/", Fault::Close);
    insert(&mut session);
    wait_until("it has failed", || {
        insert(&mut session);
        session.status()["compaction_error"].is_string()
    });
    assert!(!session.stderr().contains("WARN"), "{}", session.stderr());
    world.proxy.heal();
    let last = world.end();
    wait_until("it goes on", || reaches(&world, 1) >= last);
    wait_until("and says so", || session.status()["compaction_error"].is_null());
    world.assert_restores_equal(&mut session);
}

/// A program that opens read only has no thread, and lists only to open.
#[test]
fn who_opens_to_read_compacts_nothing() {
    let mut world = World::new("reader");
    let mut session = world.open(Host::Newest);
    created(&mut session, "DELETE");
    insert(&mut session);
    session.close(0).unwrap();
    world.compact([1, 1, 1], NEVER, NEVER);
    let mut reader = world.host(Host::Newest);
    let threads = |session: &Session| std::fs::read_dir(format!("/proc/{}/task", session.id())).unwrap().count();
    reader.open(0, &format!("{}&mode=ro", world.uri())).unwrap();
    reader.sql("SELECT count(*) FROM t");
    let before = threads(&reader);
    reader.open(1, &world.uri()).unwrap();
    reader.exec(1, "SELECT count(*) FROM t").unwrap();
    assert!(threads(&reader) > before, "a writer's has one");
}
