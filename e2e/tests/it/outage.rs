//! The store refuses or is away: an error, the transaction gone, the connection usable, and on with it later (P3).

use std::time::{Duration, Instant};

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, Machine, Session, World, shell, whole};

use crate::commit::{MODES, commits_once};

/// What the configured timeout is in these tests, and how much later an answer is still in time on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(2);

/// An answer after which nothing is tried again.
const REFUSAL: Fault = Fault::Status(403);

#[derive(Clone, Copy, Debug)]
enum Outage {
    Refused,
    Fault(Fault),
}

impl Outage {
    fn begin(self, world: &World) {
        match self {
            Self::Refused => world.proxy.refuse(),
            Self::Fault(fault) => world.proxy.fail(fault),
        }
    }
}

fn filled(name: &str, mode: &str, host: Host) -> (World, Session) {
    let mut world = World::new(name);
    // The proof before the first commit takes SeaweedFS seconds at times: it makes simultaneous creators wait.
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
    let mut first = world.open(host);
    first.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('before')"));
    first.close(0).unwrap();
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", TIMEOUT.as_secs());
    let mut session = world.open(host);
    session.sql(&format!("PRAGMA journal_mode = {mode}"));
    (world, session)
}

/// The whole story for one kind of outage in one journal mode.
fn outage(outage: Outage, mode: &str, host: Host) {
    let (world, mut session) = filled("outage", mode, host);
    let what = format!("{outage:?}, {mode}, {host:?}");
    outage.begin(&world);
    for explicit in [false, true] {
        let started = Instant::now();
        let error = if explicit {
            session.sql("BEGIN; INSERT INTO t VALUES('lost'); CREATE TABLE lost(a)");
            session.sql_fails("COMMIT")
        } else {
            session.sql_fails("INSERT INTO t VALUES('lost')")
        };
        let took = started.elapsed();
        assert!(took < TIMEOUT + GRACE, "{what}: took {took:?}");
        // SQLITE_IOERR, SQLITE_FULL …: an error that rolls back, not one that asks for a retry of COMMIT.
        assert!(![0, 5, 6, 11].contains(&error.primary()), "{what}: {error:?}");
        // In mode OFF SQLite can't take anything back: the shim does.
        assert_eq!(session.sql("SELECT v FROM t"), [["before"]], "{what}");
        assert_eq!(session.number("SELECT count(*) FROM sqlite_schema"), 1, "{what}");
    }
    let output = shell::run_stock(&world, &format!(".open {}\nSELECT v FROM t;", world.id()));
    assert_eq!(shell::text(&output), "before\n", "{what}: {}", shell::errors(&output));
    assert!(!session.stderr().is_empty(), "{what}: the log says why");

    world.proxy.heal();
    session.sql("INSERT INTO t VALUES('after')");
    session.sql("BEGIN; INSERT INTO t VALUES('and on'); COMMIT");
    assert_eq!(session.sql("SELECT v FROM t"), [["before"], ["after"], ["and on"]], "{what}");
    commits_once(&world, &mut session, "INSERT INTO t VALUES('as ever')");
    world.assert_restores_equal(&mut session);
}

#[test]
fn the_store_refuses_connections() {
    for mode in MODES {
        outage(Outage::Refused, mode, Host::Newest);
    }
    outage(Outage::Refused, "WAL", Host::Python);
}

#[test]
fn the_store_closes_connections() {
    for mode in ["DELETE", "WAL"] {
        outage(Outage::Fault(Fault::Close), mode, Host::Newest);
    }
}

#[test]
fn the_store_answers_503() {
    for mode in ["DELETE", "WAL", "PERSIST"] {
        outage(Outage::Fault(Fault::Status(503)), mode, Host::Newest);
    }
    outage(Outage::Fault(Fault::Status(503)), "DELETE", Host::Python);
}

#[test]
fn the_store_answers_403() {
    for mode in ["DELETE", "WAL"] {
        outage(Outage::Fault(Fault::Status(403)), mode, Host::Newest);
    }
}

#[test]
fn the_store_is_silent() {
    for mode in ["DELETE", "WAL", "TRUNCATE", "MEMORY", "OFF"] {
        outage(Outage::Fault(Fault::Hang), mode, Host::Newest);
    }
}

/// The object lands, and no reply ever says so: the outcome is unknown, and whoever commits next settles it.
#[test]
fn the_store_takes_the_object_and_never_answers() {
    for mode in ["DELETE", "WAL", "PERSIST", "MEMORY", "OFF"] {
        outage(Outage::Fault(Fault::LoseReply), mode, Host::Newest);
    }
    outage(Outage::Fault(Fault::LoseReply), "WAL", Host::Python);
}

/// The same, settled by another process.
#[test]
fn another_process_settles_an_unknown_outcome() {
    for mode in ["DELETE", "WAL"] {
        let (world, mut session) = filled("unknown", mode, Host::Newest);
        let last = world.last();
        world.proxy.fail(Fault::LoseReply);
        session.sql_fails("INSERT INTO t VALUES('lost')");
        assert_eq!(world.last(), last + 1, "{mode}: it landed");
        world.proxy.heal();
        session.end();
        let mut other = world.open(Host::Python);
        other.sql("INSERT INTO t VALUES('after')");
        assert_eq!(other.sql("SELECT v FROM t"), [["before"], ["after"]], "{mode}");
        world.assert_restores_equal(&mut other);
    }
}

/// One lost reply is no error: the retry finds the object to be ours.
#[test]
fn a_lost_reply_is_no_error() {
    for mode in ["DELETE", "WAL"] {
        let (world, mut session) = filled("lost-reply", mode, Host::Newest);
        let last = world.last();
        world.proxy.clear();
        world.proxy.fail(Fault::LoseReply);
        session.send_sql(0, "INSERT INTO t VALUES('landed')");
        world.proxy.wait_for(|r| r.method == "PUT" && r.status.is_some());
        world.proxy.heal();
        session.answer().unwrap_or_else(|e| panic!("{mode}: {e:?}\n{}", session.stderr()));
        assert_eq!(world.last(), last + 1, "{mode}");
        assert!(world.proxy.requests().len() > 1, "{mode}: a retry must have happened");
        commits_once(&world, &mut session, "INSERT INTO t VALUES('next')");
        world.assert_restores_equal(&mut session);
    }
}

/// A short outage within the timeout is waited out.
#[test]
fn a_short_outage_is_waited_out() {
    for fault in [Fault::Status(503), Fault::Close] {
        let mut world = World::new("short");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 20);
        let mut session = world.open(Host::Newest);
        session.sql("CREATE TABLE t(v)");
        world.proxy.clear();
        world.proxy.fail(fault);
        session.send_sql(0, "INSERT INTO t VALUES(1)");
        world.proxy.wait_for(|r| r.method == "PUT");
        world.proxy.heal();
        session.answer().unwrap_or_else(|e| panic!("{fault:?}: {e:?}\n{}", session.stderr()));
        world.assert_restores_equal(&mut session);
    }
}

/// Readers of the local database don't notice an outage.
#[test]
fn reads_go_on_without_the_store() {
    for mode in ["DELETE", "WAL"] {
        let (world, mut session) = filled("reads", mode, Host::Newest);
        assert!(world.last() >= 2);
        world.proxy.refuse();
        for _ in 0..5 {
            assert_eq!(session.sql("SELECT v FROM t"), [["before"]]);
        }
        session.close(0).unwrap();
    }
}

/// Statements that the store refuses at their end leave the rows and, outside of a WAL, every byte as they were.
#[track_caller]
fn taken_back(world: &World, session: &mut Session, mode: &str, begin: &str, end: &str) {
    let what = format!("{mode}, {begin}, {end}");
    let file = if mode == "WAL" { world.beside("wal") } else { world.db() };
    let (rows, before) = (session.sql("SELECT hex(v) FROM t"), std::fs::read(&file).unwrap());
    world.proxy.fail(REFUSAL);
    if !begin.is_empty() {
        session.sql(begin);
        assert!(std::fs::read(&file).unwrap() != before, "{what}: nothing spilled, so this shows nothing");
    }
    session.sql_fails(end);
    assert!(session.sql("SELECT hex(v) FROM t") == rows, "{what}: the rows are not those of before");
    assert_eq!(session.value("PRAGMA integrity_check"), "ok", "{what}");
    assert!(mode == "WAL" || std::fs::read(&file).unwrap() == before, "{what}: the file is not what it was");
    world.proxy.heal();
}

/// Large transactions that spilled: one that grows the file, one that overwrites, one that frees pages.
#[test]
fn a_spilled_transaction_is_taken_back() {
    for mode in MODES {
        let (world, mut session) = filled("spilled", mode, Host::Newest);
        session.sql("PRAGMA cache_size = 5; INSERT INTO t SELECT zeroblob(200000)");
        for sql in [
            "INSERT INTO t SELECT randomblob(400000)",
            "UPDATE t SET v = randomblob(300000)",
            "UPDATE t SET v = randomblob(190000) WHERE length(v) > 6; DELETE FROM t",
        ] {
            taken_back(&world, &mut session, mode, &format!("BEGIN; {sql}"), "COMMIT");
        }
        session.sql("DELETE FROM t WHERE v = 'before'");
        commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
        world.assert_restores_equal(&mut session);
    }
}

/// The playback of a journal leaves what was written to free pages: SQLite does not journal these. They are published
/// with the next transaction; and where another machine comes first, the file catches up all the same.
#[test]
fn a_refused_transaction_in_free_pages_is_taken_back() {
    for mode in MODES {
        let (mut world, mut session) = filled("free-pages", mode, Host::Newest);
        session.sql("INSERT INTO t VALUES(zeroblob(300000)); DELETE FROM t WHERE length(v) > 6");
        world.proxy.fail(REFUSAL);
        session.sql_fails("INSERT INTO t VALUES(randomblob(200000))");
        world.proxy.heal();
        session.sql("INSERT INTO t VALUES('after')");
        whole::assert_whole(&world, &mut session, mode);

        world.proxy.fail(REFUSAL);
        session.sql_fails("INSERT INTO t VALUES(randomblob(200000))");
        world.proxy.heal();
        session.end();
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        Machine::new(&world, "elsewhere").session.sql("INSERT INTO t VALUES('elsewhere')");
        let mut session = world.open(Host::Newest);
        assert_eq!(session.sql("SELECT v FROM t"), [["before"], ["after"], ["elsewhere"]], "{mode}");
        session.sql("INSERT INTO t VALUES('and on')");
        whole::assert_whole(&world, &mut session, mode);
    }
}

/// Transactions that make the file smaller, which SQLite does after the commit.
#[test]
fn a_transaction_that_shrinks_the_file_is_taken_back() {
    for mode in MODES {
        let mut world = World::new("shrink");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        session.sql("INSERT INTO t VALUES(zeroblob(300000)), (zeroblob(200000)), ('before'); PRAGMA cache_size = 5");
        taken_back(&world, &mut session, mode, "", "DELETE FROM t WHERE length(v) > 200000");
        session.sql("PRAGMA auto_vacuum = NONE; VACUUM; DELETE FROM t WHERE length(v) > 200000");
        taken_back(&world, &mut session, mode, "", "VACUUM");
        session.sql("INSERT INTO t VALUES('after'); VACUUM");
        commits_once(&world, &mut session, "INSERT INTO t VALUES('and on')");
        world.assert_restores_equal(&mut session);
    }
}

/// `PRAGMA bottomless_status` and the log tell what went wrong, and where.
#[test]
fn the_status_names_the_last_error() {
    let (world, mut session) = filled("status", "WAL", Host::Newest);
    world.proxy.refuse();
    session.sql_fails("INSERT INTO t VALUES('lost')");
    let error = session.status()["last_error"].to_string();
    let port = world.proxy.endpoint();
    assert!(error.contains(&port) || session.stderr().contains(&port), "{error}\n{}", session.stderr());
    assert!(error.len() > 20, "{error}");
    world.proxy.heal();
    session.sql("INSERT INTO t VALUES('after')");
}
