//! What is not a committed change uploads nothing.

use bottomless_e2e::{Host, Session, World};

use crate::commit::{MODES, commits_once};

/// No request at all, not only no PUT.
#[track_caller]
fn silent(world: &World, session: &mut Session, sql: &str) {
    world.proxy.clear();
    let _ = session.exec(0, sql);
    let requests = world.proxy.requests();
    assert!(requests.is_empty(), "{sql}: no request, not {requests:#?}");
}

fn filled(name: &str, mode: &str, host: Host) -> (World, Session) {
    let world = World::new(name);
    let mut session = world.open(host);
    session.sql(&format!(
        "PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO t(v) SELECT randomblob(500) FROM n"
    ));
    (world, session)
}

#[test]
fn rollbacks_failures_and_reads_upload_nothing() {
    for host in [Host::Newest, Host::Python] {
        for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL"] {
            let (world, mut session) = filled("nothing", mode, host);
            // The first may analyse what it finds.
            session.sql("PRAGMA optimize");
            for sql in [
                "BEGIN; INSERT INTO t(v) VALUES(1); ROLLBACK",
                "BEGIN; UPDATE t SET v = randomblob(400); ROLLBACK",
                "BEGIN IMMEDIATE; COMMIT",
                "BEGIN EXCLUSIVE; COMMIT",
                "BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a",
                "ROLLBACK",
                "BEGIN; SAVEPOINT a; INSERT INTO t(v) VALUES(7); ROLLBACK TO a; RELEASE a; ROLLBACK",
                "INSERT INTO t(v) SELECT v FROM t",
                "INSERT INTO t(id, v) VALUES(100000, 'x'), (1, 'y')",
                "SELECT count(*), sum(length(v)) FROM t",
                "PRAGMA integrity_check",
                "PRAGMA optimize",
                "DELETE FROM t WHERE id = -1",
                "CREATE TABLE IF NOT EXISTS t(x)",
                "PRAGMA bottomless_status",
                "CREATE TEMP TABLE u(a); INSERT INTO u SELECT v FROM t; DROP TABLE u",
                "VACUUM INTO ''",
                "ATTACH ':memory:' AS m; CREATE TABLE m.t AS SELECT * FROM t; DETACH m",
            ] {
                // VACUUM INTO '' and the like may fail: what counts is that they upload nothing.
                silent(&world, &mut session, sql);
            }
            assert_eq!(session.number("SELECT count(*) FROM t"), 200, "{mode}");
            commits_once(&world, &mut session, "INSERT INTO t(v) VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

/// SQLite commits what `ROLLBACK TO` left of a transaction: page 1 with its change counter, which the local file then
/// has too.
#[test]
fn a_commit_after_rollback_to_has_no_more_than_the_change_counter() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL"] {
        let (world, mut session) = filled("rollback-to", mode, Host::Newest);
        world.proxy.clear();
        session.sql("BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; COMMIT");
        let requests = world.proxy.requests();
        assert!(requests.len() <= 1, "{mode}: {requests:#?}");
        assert!(requests.iter().all(|r| r.body_bytes < 2048), "{mode}: one page: {requests:#?}");
        assert_eq!(session.number("SELECT count(*) FROM t"), 200);
        world.assert_restores_equal(&mut session);
    }
}

/// The cache spills: pages of a transaction that never commits reach the file or the WAL.
#[test]
fn a_spilled_transaction_that_is_rolled_back_uploads_nothing() {
    for mode in MODES {
        let (world, mut session) = filled("spilled", mode, Host::Newest);
        session.sql("PRAGMA cache_size = 5");
        let rows = session.sql("SELECT id, hex(v) FROM t");
        let content = std::fs::read(world.db()).unwrap();
        let file = if mode == "WAL" { world.beside("wal") } else { world.db() };
        let size = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
        let before = size(&file);
        silent(
            &world,
            &mut session,
            "BEGIN; UPDATE t SET v = randomblob(3000); DELETE FROM t WHERE id % 2; INSERT INTO t(v) SELECT randomblob(9000) FROM t",
        );
        assert!(size(&file) > before, "{mode}: the cache must have spilled for this test to show anything");
        // In mode OFF SQLite leaves what it wrote: the shim takes it back.
        silent(&world, &mut session, "ROLLBACK");
        assert!(session.sql("SELECT id, hex(v) FROM t") == rows, "{mode}: the rows are not those of before");
        assert_eq!(session.value("PRAGMA integrity_check"), "ok", "{mode}");
        assert!(std::fs::read(world.db()).unwrap() == content, "{mode}: the file is not what it was");
        commits_once(&world, &mut session, "INSERT INTO t(v) VALUES('after')");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn checkpoints_upload_nothing() {
    for host in [Host::Newest, Host::Python] {
        for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            let (world, mut session) = filled("checkpoint", "WAL", host);
            commits_once(&world, &mut session, "UPDATE t SET v = randomblob(300)");
            silent(&world, &mut session, &format!("PRAGMA wal_checkpoint({kind})"));
            // The WAL starts again from its beginning.
            commits_once(&world, &mut session, "UPDATE t SET v = randomblob(200) WHERE id < 50");
            commits_once(&world, &mut session, "UPDATE t SET v = randomblob(200) WHERE id < 20");
            silent(&world, &mut session, &format!("PRAGMA wal_checkpoint({kind})"));
            world.assert_restores_equal(&mut session);
        }
    }
}

/// A commit that triggers an automatic checkpoint is still one request.
#[test]
fn an_automatic_checkpoint_uploads_nothing() {
    let (world, mut session) = filled("autocheckpoint", "WAL", Host::Newest);
    session.sql("PRAGMA wal_autocheckpoint = 20");
    for _ in 0..10 {
        commits_once(&world, &mut session, "UPDATE t SET v = randomblob(300) WHERE id % 7 = 0");
    }
    world.assert_restores_equal(&mut session);
}

#[test]
fn opening_and_closing_uploads_nothing() {
    for mode in ["DELETE", "PERSIST", "WAL"] {
        let (world, mut session) = filled("reopen", mode, Host::Newest);
        let objects = world.objects();
        assert!(objects.len() >= 2, "{mode}: {objects:?}");
        world.proxy.clear();
        session.close(0).unwrap();
        assert!(world.proxy.requests().is_empty(), "{mode}, close: {:#?}", world.proxy.requests());
        for host in [Host::Newest, Host::Python] {
            let mut again = world.open(host);
            assert_eq!(again.number("SELECT count(*) FROM t"), 200);
            again.close(0).unwrap();
        }
        let requests = world.proxy.requests();
        assert!(requests.iter().all(|r| r.is_list() || r.method == "HEAD"), "{mode}, open: {requests:#?}");
        assert_eq!(world.objects(), objects, "{mode}");
    }
}

/// Without power-safe overwrite the commit frame is repeated up to the end of the sector.
#[test]
fn the_repeated_commit_frame_is_no_second_transaction() {
    let world = World::new("psow");
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("{}&psow=0", world.uri())).unwrap();
    session.sql("PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t(v)");
    for n in 0..20 {
        let wal = std::fs::metadata(world.beside("wal")).unwrap().len();
        commits_once(&world, &mut session, &format!("INSERT INTO t VALUES({n})"));
        let grown = std::fs::metadata(world.beside("wal")).unwrap().len() - wal;
        assert!(grown == 0 || grown > 536, "the frame must be repeated for this test to show anything: {grown}");
    }
    world.assert_restores_equal(&mut session);
}

/// SQLite plays the journal of a dead process back when the next one opens: no change, no object.
#[test]
fn the_playback_of_a_hot_journal_uploads_nothing() {
    let (world, mut session) = filled("hot", "DELETE", Host::Newest);
    session.sql("PRAGMA cache_size = 5; BEGIN; UPDATE t SET v = randomblob(3000)");
    session.kill();
    assert!(world.beside("journal").exists(), "a hot journal must be there for this test to show anything");
    let objects = world.objects();
    let mut again = world.open(Host::Newest);
    assert_eq!(again.number("SELECT count(*) FROM t WHERE length(v) = 500"), 200);
    assert_eq!(world.objects(), objects);
    again.sql("INSERT INTO t(v) VALUES('after')");
    commits_once(&world, &mut again, "INSERT INTO t(v) VALUES('and on')");
    world.assert_restores_equal(&mut again);
}
