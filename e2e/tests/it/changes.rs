//! Changes of mode and form: whatever SQLite does to a file, the restored one is equal to the page.

use bottomless_e2e::{Host, World, compare, shell};

use crate::commit::{MODES, commits_once};

const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
                    INSERT INTO t(v) SELECT randomblob(1 + i * 7 % 4000) FROM n";

#[test]
fn journal_modes_change_both_ways() {
    for host in [Host::Newest, Host::Python] {
        let world = World::new("modes");
        let mut session = world.open(host);
        session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        for (from, to) in MODES.iter().flat_map(|a| MODES.iter().map(move |b| (a, b))) {
            session.sql(&format!("PRAGMA journal_mode = {from}"));
            let last = world.last();
            session.sql("INSERT INTO t(v) VALUES(randomblob(5000))");
            assert_eq!(world.last(), last + 1, "{from}");
            let set = session.value(&format!("PRAGMA journal_mode = {to}"));
            assert_eq!(set.as_str().map(str::to_uppercase).as_deref(), Some(*to));
            let last = world.last();
            session.sql("UPDATE t SET v = randomblob(10) WHERE id = 1");
            assert_eq!(world.last(), last + 1, "{from} to {to}");
        }
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn vacuum_in_every_mode() {
    for mode in MODES {
        let world = World::new("vacuum");
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"));
        session.sql("DELETE FROM t WHERE id % 3");
        let pages = session.number("PRAGMA page_count");
        commits_once(&world, &mut session, "VACUUM");
        assert!(session.number("PRAGMA page_count") < pages, "{mode}: must shrink");
        world.assert_restores_equal(&mut session);
        commits_once(&world, &mut session, FILL);
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn vacuum_into_a_plain_file_and_into_another_database() {
    let world = World::new("into");
    let mut session = world.open(Host::Newest);
    session.sql(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"));
    world.proxy.clear();
    let plain = world.folder().join("plain.db");
    // Without vfs= the connection's own VFS serves the copy: it is a database of ours.
    session.sql(&format!("VACUUM INTO 'file:{}?vfs=unix'", plain.display()));
    assert!(world.proxy.requests().is_empty(), "{:#?}", world.proxy.requests());
    assert_eq!(std::fs::read(&plain).unwrap()[..16], *b"SQLite format 3\0");

    let copy = World::new("copy");
    session.sql(&format!("VACUUM INTO 'file:{}?vfs=bottomless&bucket=e2e'", copy.db().display()));
    let mut other = copy.open(Host::Newest);
    assert_eq!(other.number("SELECT count(*) FROM t"), 300);
    copy.assert_restores_equal(&mut other);
    world.assert_restores_equal(&mut session);
}

#[test]
fn auto_vacuum_full_and_incremental() {
    for mode in MODES {
        for kind in ["FULL", "INCREMENTAL"] {
            let world = World::new("autovacuum");
            let mut session = world.open(Host::Newest);
            session.sql(&format!(
                "PRAGMA auto_vacuum = {kind}; PRAGMA journal_mode = {mode};
                 CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"
            ));
            commits_once(&world, &mut session, "DELETE FROM t WHERE id % 2");
            commits_once(&world, &mut session, "UPDATE t SET v = zeroblob(20000) WHERE id % 4 = 0");
            commits_once(&world, &mut session, "DELETE FROM t WHERE id > 100");
            if kind == "INCREMENTAL" {
                let pages = session.number("PRAGMA page_count");
                session.sql("PRAGMA incremental_vacuum(10)");
                assert_eq!(session.number("PRAGMA page_count"), pages - 10);
                session.sql("PRAGMA incremental_vacuum");
            }
            world.assert_restores_equal(&mut session);
        }
    }
}

#[test]
fn vacuum_changes_the_page_size() {
    let world = World::new("pagesize");
    let mut session = world.open(Host::Newest);
    session.sql(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"));
    for size in [512, 65536, 1024, 8192, 4096] {
        let last = world.last();
        session.sql(&format!("PRAGMA page_size = {size}; VACUUM"));
        assert_eq!(session.number("PRAGMA page_size"), size);
        assert_eq!(world.last(), last + 1, "{size}");
        session.sql("UPDATE t SET v = randomblob(100) WHERE id = 5");
        assert_eq!(world.last(), last + 2, "{size}");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn backup_into_and_out_of_such_a_database() {
    for (host, mode) in
        [(Host::Newest, "DELETE"), (Host::Newest, "WAL"), (Host::Python, "WAL"), (Host::Python, "DELETE")]
    {
        let world = World::new("backup");
        let mut session = world.open(host);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE old(a)"));
        let plain = world.folder().join("plain.db");
        session.open(1, &format!("file:{}", plain.display())).unwrap();
        session.exec(1, &format!("CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}")).unwrap();
        let last = world.last();
        session.backup(1, 0, 20).unwrap();
        assert_eq!(world.last(), last + 1, "{mode}: one backup is one transaction");
        assert_eq!(session.number("SELECT count(*) FROM t"), 300);
        commits_once(&world, &mut session, "DELETE FROM t WHERE id > 290");
        world.assert_restores_equal(&mut session);

        world.proxy.clear();
        session.backup(0, 1, 7).unwrap();
        assert!(world.proxy.requests().is_empty(), "reading uploads nothing: {:#?}", world.proxy.requests());
        assert_eq!(session.exec(1, "SELECT count(*) FROM t").unwrap()[0][0], 290);
    }
}

/// Each attached database has its own history; one without the extension's VFS stays out of it.
#[test]
fn attached_databases_have_their_own_histories() {
    for mode in ["DELETE", "WAL"] {
        let (world, other) = (World::new("main"), World::new("attached"));
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        session.sql(&format!("ATTACH '{}' AS o; PRAGMA o.journal_mode = {mode}; CREATE TABLE o.t(v)", other.uri()));
        session.sql(&format!(
            "ATTACH 'file:{}?vfs=unix' AS p; CREATE TABLE p.t(v)",
            world.folder().join("p.db").display()
        ));
        let (a, b) = (world.last(), other.last());
        session.sql("INSERT INTO o.t VALUES(1)");
        assert_eq!((world.last(), other.last()), (a, b + 1));
        session.sql("BEGIN; INSERT INTO t VALUES(1); INSERT INTO o.t VALUES(2); INSERT INTO p.t VALUES(3); COMMIT");
        assert_eq!((world.last(), other.last()), (a + 1, b + 2));
        session.sql("INSERT INTO p.t VALUES(4)");
        assert_eq!((world.last(), other.last()), (a + 1, b + 2));
        session.sql("PRAGMA o.wal_checkpoint(TRUNCATE); DETACH o");
        world.assert_restores_equal(&mut session);
        compare::assert_same_pages(&other.db(), &other.restore_elsewhere());
    }
}

#[test]
fn blobs_through_the_incremental_interface() {
    for (host, mode) in [(Host::Newest, "DELETE"), (Host::Newest, "WAL"), (Host::Python, "WAL")] {
        let world = World::new("blob");
        let mut session = world.open(host);
        session.sql(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
             INSERT INTO t VALUES(1, zeroblob(100000))"
        ));
        let last = world.last();
        session.blob_write(0, "t", "v", 1, 50_000, b"in the middle").unwrap();
        assert_eq!(world.last(), last + 1, "{mode}");
        assert_eq!(session.value("SELECT CAST(substr(v, 50001, 13) AS TEXT) FROM t"), "in the middle");
        session.sql("BEGIN");
        session.blob_write(0, "t", "v", 1, 0, b"first").unwrap();
        session.blob_write(0, "t", "v", 1, 99_995, b"final").unwrap();
        assert_eq!(world.last(), last + 1, "{mode}");
        commits_once(&world, &mut session, "COMMIT");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn databases_that_shrink_and_grow_again() {
    for mode in MODES {
        let world = World::new("shrink");
        let mut session = world.open(Host::Newest);
        session.sql(&format!(
            "PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
        ));
        for round in 0..4 {
            session.sql(FILL);
            let large = session.number("PRAGMA page_count");
            commits_once(&world, &mut session, "DELETE FROM t");
            assert!(session.number("PRAGMA page_count") < large / 2, "{mode}, {round}");
            commits_once(&world, &mut session, "INSERT INTO t(v) VALUES(zeroblob(40000)), (randomblob(9))");
            world.assert_restores_equal(&mut session);
        }
    }
}

/// Pages that a transaction allocated and freed are never written, yet the file has them.
#[test]
fn pages_that_are_freed_before_they_are_written() {
    for mode in MODES {
        let world = World::new("holes");
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"));
        let sql =
            format!("BEGIN; CREATE TABLE u(v); INSERT INTO u VALUES(zeroblob(200000)); {FILL}; DROP TABLE u; COMMIT");
        commits_once(&world, &mut session, &sql);
        world.assert_restores_equal(&mut session);
        // The last page of the file is one of them.
        let sql = "BEGIN; CREATE TABLE u(v); INSERT INTO u VALUES(randomblob(3000000)); DROP TABLE u; COMMIT";
        commits_once(&world, &mut session, sql);
        world.assert_restores_equal(&mut session);
        commits_once(&world, &mut session, FILL);
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn schema_changes() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("schema");
        let mut session = world.open(Host::Python);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"));
        for sql in [
            "ALTER TABLE t ADD COLUMN w DEFAULT 7",
            "ALTER TABLE t RENAME COLUMN w TO x",
            "CREATE INDEX i ON t(v, x)",
            "CREATE VIEW q AS SELECT x FROM t",
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET x = 1 WHERE id = new.id; END",
            "INSERT INTO t(v) VALUES('by the trigger')",
            "ALTER TABLE t RENAME TO s",
            "REINDEX",
            "ANALYZE",
            "PRAGMA user_version = 12",
            "PRAGMA application_id = 77",
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "INSERT INTO f VALUES('words in a text')",
            "DROP TABLE f",
            "DROP INDEX i",
            "ALTER TABLE s DROP COLUMN v",
            "DROP TABLE s",
        ] {
            // Not all are one commit: REINDEX and the virtual tables may be several.
            let last = world.last();
            session.sql(sql);
            assert!(world.last() > last, "{mode}: {sql}");
        }
        world.assert_restores_equal(&mut session);
    }
}

/// Plain SQLite opens the file at any time (P5), also between two of our commits.
#[test]
fn the_local_file_is_a_plain_database() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("plain");
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v); {FILL}"));
        let script = format!(".open {}\nPRAGMA integrity_check; SELECT count(*) FROM t;", world.id());
        let output = shell::run_stock(&world, &script);
        assert_eq!(shell::text(&output), "ok\n300\n", "{}", shell::errors(&output));
        commits_once(&world, &mut session, "DELETE FROM t WHERE id = 1");
        session.kill();
        let output = shell::run_stock(&world, &script);
        assert_eq!(shell::text(&output), "ok\n299\n", "{}", shell::errors(&output));
    }
}
