//! Who waits for whose network request: nobody, but for SQLite's own locks and for a file that is being filled.
//!
//! Each test has a request hang, and does the rest while it does: what is answered was not held up.

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, Session, World};
use serde_json::json;

const BUSY: i64 = 5;

fn start(session: &mut Session, connection: u32, sql: &str) {
    session.send(&json!({"op": "start", "conn": connection, "sql": sql}));
    session.answer().unwrap();
}

fn finish(session: &mut Session, connection: u32) -> Result<(), bottomless_e2e::SqlError> {
    session.send(&json!({"op": "finish", "conn": connection}));
    session.answer().map(|_| ())
}

/// One process commits, and its PUT hangs; another has the database open.
fn committing(mode: &str) -> (World, Session, Session) {
    let mut world = World::new("waiting");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 120);
    let mut a = world.open(Host::Newest);
    a.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('before')"));
    a.open(1, &world.uri()).unwrap();
    a.exec(1, "SELECT * FROM t").unwrap();
    let mut b = world.open(Host::Newest);
    b.sql("SELECT * FROM t");
    let key = world.log_key(world.last() + 1);
    world.proxy.fail_only(Some("PUT"), &key, Fault::Hang);
    start(&mut a, 0, "INSERT INTO t VALUES('slow')");
    world.proxy.wait_for(|request| request.method == "PUT" && request.target.contains(&key));
    (world, a, b)
}

#[test]
fn a_commit_that_waits_for_the_store_holds_up_no_reader_of_a_wal() {
    let (world, mut a, mut b) = committing("WAL");
    assert_eq!(b.sql("SELECT v FROM t"), [["before"]]);
    b.sql("PRAGMA wal_checkpoint(PASSIVE)");
    // Another connection of the same process, one that is opened now, and a process that starts now.
    assert_eq!(a.exec(1, "SELECT v FROM t").unwrap(), [["before"]]);
    a.open(2, &world.uri()).unwrap();
    assert_eq!(a.exec(2, "SELECT v FROM t").unwrap(), [["before"]]);
    let mut c = world.open(Host::Newest);
    assert_eq!(c.sql("SELECT v FROM t"), [["before"]]);
    // A writer meets SQLite's write lock, and nothing else.
    assert_eq!(b.exec(0, "PRAGMA busy_timeout = 0; INSERT INTO t VALUES('b')").unwrap_err().primary(), BUSY);
    world.proxy.heal();
    finish(&mut a, 0).unwrap();
    b.sql("INSERT INTO t VALUES('b')");
    assert_eq!(c.sql("SELECT v FROM t"), [["before"], ["slow"], ["b"]]);
    world.assert_restores_equal(&mut c);
}

/// Outside of a WAL, SQLite lets nobody read while pages are written to the main file: that is its own lock.
#[test]
fn outside_of_a_wal_readers_meet_sqlites_own_lock_during_a_commit() {
    let (world, mut a, mut b) = committing("DELETE");
    assert_eq!(b.exec(0, "PRAGMA busy_timeout = 0; SELECT v FROM t").unwrap_err().primary(), BUSY);
    // Opening needs no lock of SQLite's.
    let mut c = world.host(Host::Newest);
    c.open(0, &world.uri()).unwrap();
    assert_eq!(c.exec(0, "PRAGMA busy_timeout = 0; SELECT v FROM t").unwrap_err().primary(), BUSY);
    c.sql("PRAGMA busy_timeout = 60000");
    c.send_sql(0, "SELECT v FROM t");
    world.proxy.heal();
    finish(&mut a, 0).unwrap();
    let rows = c.answer().unwrap();
    assert!(rows == [["before"], ["slow"]] || rows == [["before"]], "one state or the other: {rows:?}");
    world.assert_restores_equal(&mut c);
}

/// The threads of one process share a runtime: whoever of them waits drives it, for all.
#[test]
fn a_database_is_not_held_up_by_another_of_the_same_process() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut a, b) = committing(mode);
        let other = format!("file:{}?vfs=bottomless", world.folder().join(format!("{}-other", world.id())).display());
        a.open(5, &other).unwrap();
        a.exec(5, &format!("PRAGMA journal_mode = {mode}; CREATE TABLE o(v); INSERT INTO o VALUES(1)")).unwrap();
        // And one whose opening hangs.
        world.proxy.fail_only(Some("GET"), "-third", Fault::Hang);
        let third = format!("file:{}?vfs=bottomless", world.folder().join(format!("{}-third", world.id())).display());
        let attach = format!("ATTACH '{third}' AS third; SELECT count(*) FROM third.sqlite_schema");
        a.open(6, ":memory:").unwrap();
        start(&mut a, 6, &attach);
        world.proxy.wait_for(|request| request.is_list() && request.target.contains("-third"));
        a.exec(5, "INSERT INTO o VALUES(2)").unwrap();
        assert_eq!(a.exec(5, "SELECT count(*) FROM o").unwrap(), [[2]]);
        drop(b);
        world.proxy.heal();
        finish(&mut a, 0).unwrap();
        finish(&mut a, 6).unwrap();
        assert_eq!(a.exec(1, "SELECT v FROM t").unwrap(), [["before"], ["slow"]]);
    }
}

#[test]
fn an_open_that_waits_for_the_store_holds_up_nobody_who_has_the_database_open() {
    for mode in ["WAL", "DELETE"] {
        let mut world = World::new("opening");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 120);
        let mut a = world.open(Host::Newest);
        a.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        world.proxy.clear();
        world.proxy.fail_only(Some("GET"), "list-type=2", Fault::Hang);
        let mut b = world.host(Host::Newest);
        b.send(&json!({"op": "open", "conn": 0, "name": world.uri()}));
        world.proxy.wait_for(|request| request.is_list());
        a.sql("INSERT INTO t VALUES('while it opens')");
        a.open(1, &world.uri()).unwrap();
        assert_eq!(a.exec(1, "SELECT count(*) FROM t").unwrap(), [[1]]);
        a.close(1).unwrap();
        world.proxy.heal();
        b.answer().unwrap();
        b.sql("INSERT INTO t VALUES('opened')");
        assert_eq!(a.number("SELECT count(*) FROM t"), 2);
        world.assert_restores_equal(&mut b);
    }
}

#[test]
fn an_open_that_waits_for_the_store_holds_up_no_other_open() {
    let mut world = World::new("opening-two");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 120);
    let mut a = world.open(Host::Newest);
    a.sql("CREATE TABLE t(v)");
    // Nobody has it open then: the next is alone.
    drop(a);
    world.proxy.clear();
    world.proxy.fail_once(Some("GET"), "list-type=2", Fault::Hang);
    let mut b = world.host(Host::Newest);
    b.send(&json!({"op": "open", "conn": 0, "name": world.uri()}));
    world.proxy.wait_for(|request| request.is_list());
    let mut c = world.open(Host::Newest);
    c.sql("INSERT INTO t VALUES('while it opens')");
    drop(c);
    world.proxy.heal();
    b.answer().unwrap();
    assert_eq!(b.number("SELECT count(*) FROM t"), 1);
    b.sql("INSERT INTO t VALUES('opened')");
    world.assert_restores_equal(&mut b);
}

/// One fills an empty file and the others wait for it, since there is nothing to read yet. If it dies or fails, the
/// next of them does it.
#[test]
fn who_waits_for_a_file_to_be_filled_goes_on_when_the_one_that_fills_it_is_gone() {
    for killed in [true, false] {
        let mut world = World::new("filling");
        let mut session = world.open(Host::Newest);
        session.sql("CREATE TABLE t(v); INSERT INTO t VALUES(1)");
        drop(session);
        world.lose_local_files();
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 5);
        // Nor is the proof of the fence made, which may take a busy store as long as that.
        world.set("LIBSQL_BOTTOMLESS_FENCING", "off");
        world.proxy.fail_only(Some("GET"), ".ltx", Fault::Hang);
        let mut first = world.host(Host::Newest);
        first.send(&json!({"op": "open", "conn": 0, "name": world.uri()}));
        world.proxy.wait_for(|request| request.method == "GET" && request.target.contains(".ltx"));
        let mut others: Vec<_> = (0..3).map(|_| world.host(Host::Newest)).collect();
        for other in &mut others {
            other.send(&json!({"op": "open", "conn": 0, "name": world.uri()}));
        }
        if killed {
            first.kill();
        }
        world.proxy.heal();
        if !killed {
            first.answer().unwrap();
            assert_eq!(first.number("SELECT v FROM t"), 1);
        }
        for other in &mut others {
            other.answer().unwrap();
            assert_eq!(other.number("SELECT v FROM t"), 1);
            other.sql("INSERT INTO t VALUES(2)");
            other.sql("DELETE FROM t WHERE v = 2");
        }
        world.assert_restores_equal(&mut others[0]);
    }
}
