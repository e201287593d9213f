//! Every commit is one object, created before COMMIT returns, with one request (P1, P2).

use bottomless_e2e::{Host, Session, World};

pub const MODES: [&str; 6] = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"];

/// Executes a commit and looks at the bucket and the wire: exactly one conditional PUT of the next TXID.
#[track_caller]
pub fn commits_once(world: &World, session: &mut Session, sql: &str) {
    let last = world.last();
    world.proxy.clear();
    session.sql(sql);
    let requests = world.proxy.requests();
    assert_eq!(requests.len(), 1, "{sql}: one request, not {requests:#?}");
    let put = &requests[0];
    let key = format!("/{}/{}", world.bucket.name(), world.log_key(last + 1));
    assert_eq!(put.method, "PUT", "{sql}");
    assert_eq!(put.target.split('?').next(), Some(key.as_str()), "{sql}");
    assert_eq!(put.headers.get("if-none-match").map(String::as_str), Some("*"), "{sql}");
    assert!(matches!(put.status, Some(200 | 201)), "{sql}: {put:?}");
    assert!(put.headers.contains_key("x-amz-meta-litestream-timestamp"), "{sql}: {put:?}");
    assert_eq!(world.last(), last + 1, "{sql}");
}

/// All combinations for one journal mode: page sizes, `synchronous`, `locking_mode`.
fn matrix(mode: &str, host: Host) {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let world = World::new(&format!("matrix-{}-{page_size}", mode.to_lowercase()));
        let mut session = world.open(host);
        session.sql(&format!("PRAGMA page_size = {page_size}"));
        let set = session.value(&format!("PRAGMA journal_mode = {mode}"));
        assert_eq!(set.as_str().map(str::to_uppercase).as_deref(), Some(mode));
        session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        for locking in ["NORMAL", "EXCLUSIVE"] {
            for synchronous in ["OFF", "NORMAL", "FULL", "EXTRA"] {
                session.sql(&format!("PRAGMA locking_mode = {locking}; PRAGMA synchronous = {synchronous}"));
                commits_once(&world, &mut session, "INSERT INTO t(v) VALUES(randomblob(100))");
                commits_once(
                    &world,
                    &mut session,
                    "BEGIN; INSERT INTO t(v) VALUES(randomblob(3 * 65536)); UPDATE t SET v = v || 'x'; COMMIT",
                );
                commits_once(&world, &mut session, "DELETE FROM t WHERE id = (SELECT min(id) FROM t)");
            }
        }
        session.sql("PRAGMA locking_mode = NORMAL; SELECT count(*) FROM t");
        assert_eq!(session.number("PRAGMA page_size"), page_size);
        let log = world.log();
        assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "one line of transactions");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn every_commit_is_one_object_in_mode_delete() {
    matrix("DELETE", Host::Newest);
}

#[test]
fn every_commit_is_one_object_in_mode_truncate() {
    matrix("TRUNCATE", Host::Python);
}

#[test]
fn every_commit_is_one_object_in_mode_persist() {
    matrix("PERSIST", Host::Newest);
}

#[test]
fn every_commit_is_one_object_in_mode_memory() {
    matrix("MEMORY", Host::Newest);
}

#[test]
fn every_commit_is_one_object_in_mode_off() {
    matrix("OFF", Host::Python);
}

#[test]
fn every_commit_is_one_object_in_mode_wal() {
    matrix("WAL", Host::Newest);
}

#[test]
fn every_commit_is_one_object_in_mode_wal_on_the_stock_version() {
    matrix("WAL", Host::Python);
}

/// Exclusive from the first access on, WAL works without shared memory.
#[test]
fn wal_without_shared_memory_commits() {
    for host in [Host::Newest, Host::Python] {
        let world = World::new("wal-exclusive");
        let mut session = world.host(host);
        session.open(0, &world.uri()).unwrap();
        session.sql("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE t(v)");
        assert!(!world.beside("shm").exists(), "no shared memory in this mode");
        commits_once(&world, &mut session, "INSERT INTO t VALUES(1)");
        commits_once(&world, &mut session, "INSERT INTO t VALUES(2)");
        world.assert_restores_equal(&mut session);
    }
}

/// The first commit of a new database: the probe and the listing come before it, the object is TXID 1.
#[test]
fn the_first_commit_is_transaction_one() {
    for mode in MODES {
        let world = World::new("first");
        let mut session = world.host(Host::Newest);
        session.open(0, &world.uri()).unwrap();
        session.sql(&format!("PRAGMA journal_mode = {mode}"));
        let before = world.last();
        session.sql("CREATE TABLE t(v)");
        assert_eq!(world.last(), before + 1, "{mode}");
        assert_eq!(world.log()[0], 1, "{mode}");
    }
}

/// A transaction larger than the page cache writes to the file early, and is still one object.
#[test]
fn a_spilled_transaction_is_one_object() {
    for mode in MODES {
        let world = World::new("spill");
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"));
        session.sql("PRAGMA cache_size = 10");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                    INSERT INTO t(v) SELECT randomblob(2000) FROM n";
        let sql = format!("BEGIN; {many}; UPDATE t SET v = randomblob(1500) WHERE id % 3 = 0; COMMIT");
        commits_once(&world, &mut session, &sql);
        commits_once(&world, &mut session, many);
        // Savepoints that are rolled back rewrite frames in place.
        if mode != "OFF" {
            let sql = "BEGIN; SAVEPOINT a; UPDATE t SET v = randomblob(1000); ROLLBACK TO a;
                       UPDATE t SET v = randomblob(900) WHERE id % 5 = 0; RELEASE a; COMMIT";
            commits_once(&world, &mut session, sql);
        }
        world.assert_restores_equal(&mut session);
    }
}

/// Several connections and processes write in turn into one history.
#[test]
fn processes_and_connections_share_one_history() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("share");
        let mut first = world.open(Host::Newest);
        first.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(who, n)"));
        let mut second = world.open(Host::Python);
        second.open(1, &world.uri()).unwrap();
        for n in 0..10 {
            commits_once(&world, &mut first, &format!("INSERT INTO t VALUES('first', {n})"));
            commits_once(&world, &mut second, &format!("INSERT INTO t VALUES('second', {n})"));
            second.exec(1, &format!("INSERT INTO t VALUES('third', {n})")).unwrap();
        }
        assert_eq!(first.number("SELECT count(*) FROM t"), 30);
        second.close(0).unwrap();
        second.close(1).unwrap();
        world.assert_restores_equal(&mut first);
    }
}

/// Writers that meet: each waits for SQLite's own lock, and every commit is in the bucket.
#[test]
fn simultaneous_writers_of_one_machine_queue_up() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("queue");
        let mut first = world.open(Host::Newest);
        first.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(who, n)"));
        let mut others: Vec<_> = (0..3).map(|_| world.open(Host::Newest)).collect();
        let before = world.last();
        for n in 0..15 {
            for (i, session) in others.iter_mut().enumerate() {
                session.send_sql(0, &format!("INSERT INTO t VALUES({i}, {n})"));
            }
        }
        for session in &mut others {
            for _ in 0..15 {
                session.answer().unwrap();
            }
        }
        assert_eq!(world.last(), before + 45, "{mode}");
        assert_eq!(first.number("SELECT count(DISTINCT who || '-' || n) FROM t"), 45);
        drop(others);
        world.assert_restores_equal(&mut first);
    }
}

/// A commit that SQLite itself refuses after its work was done uploads nothing, or nothing that stays.
#[test]
fn a_deferred_constraint_that_fails_at_commit_is_no_commit() {
    let world = World::new("deferred");
    let mut session = world.open(Host::Newest);
    session.sql(
        "PRAGMA foreign_keys = ON; CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES(1)",
    );
    world.proxy.clear();
    session.sql("BEGIN; INSERT INTO c VALUES(99)");
    assert_eq!(session.sql_fails("COMMIT").primary(), 19);
    assert!(world.proxy.requests().is_empty(), "{:#?}", world.proxy.requests());
    session.sql("INSERT INTO p VALUES(99)");
    commits_once(&world, &mut session, "COMMIT");
    world.assert_restores_equal(&mut session);
}
