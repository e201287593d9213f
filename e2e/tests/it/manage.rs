//! Databases that are made by `bottomless-cli`: branches, and files that were there before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bottomless_e2e::session::Session;
use bottomless_e2e::{Host, World, compare, litestream, tools};

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(tools::extension().with_file_name("bottomless-cli"));
    command.args(arguments).env_clear().envs(&world.environment);
    command
}

fn cli(world: &World, arguments: &[&str]) -> Output {
    command(world, arguments).output().expect("run bottomless-cli")
}

#[track_caller]
fn done(world: &World, arguments: &[&str]) {
    let output = cli(world, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn restored(world: &World, id: &str, name: &str) -> PathBuf {
    let path = world.folder().join(name);
    done(world, &["restore", "-f", "-d", id, "-o", path.to_str().unwrap()]);
    path
}

fn import(world: &World, id: &str) -> Output {
    cli(world, &["import", "-d", id, world.db().to_str().unwrap()])
}

/// A value of a file, as SQLite without the extension reads it.
fn value(world: &World, file: &Path, sql: &str) -> i64 {
    let mut session = world.stock(Host::Newest);
    session.open(0, file.to_str().unwrap()).unwrap();
    assert_eq!(session.value("PRAGMA integrity_check"), "ok");
    session.number(sql)
}

#[test]
fn a_branch_and_its_source_take_writes_of_their_own() {
    let (source, branch) = (World::new("branch-source"), World::new("branch"));
    let mut ours = source.open(Host::Newest);
    ours.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(randomblob(50000))");
    for _ in 0..4 {
        ours.sql("INSERT INTO t(v) VALUES(randomblob(3000)); UPDATE t SET v = randomblob(900) WHERE id = 2");
    }
    let point = source.last() - 1;
    done(&source, &["branch", source.id(), branch.id(), "--txid", &format!("{point:016x}")]);
    assert_eq!(branch.last(), point);

    let mut theirs = branch.open(Host::Newest);
    compare::assert_same_pages(&litestream::restore(&source, Some(point)), &restored(&branch, branch.id(), "begin.db"));
    for count in 0..3 {
        ours.sql(&format!("INSERT INTO t(v) VALUES('ours {count}')"));
        theirs.sql(&format!("DELETE FROM t WHERE id = 1; INSERT INTO t(v) VALUES('theirs {count}')"));
    }
    assert_eq!(ours.number("SELECT count(*) FROM t WHERE v LIKE 'theirs%'"), 0);
    assert_eq!(theirs.number("SELECT count(*) FROM t WHERE v LIKE 'ours%'"), 0);
    for (world, session) in [(&source, &mut ours), (&branch, &mut theirs)] {
        world.assert_restores_equal(session);
        compare::assert_same_pages(&world.db(), &litestream::restore(world, None));
    }
    // The one is gone, the other is whole.
    ours.close(0).unwrap();
    done(&source, &["rm", "-d", source.id(), "--yes"]);
    assert!(source.objects().is_empty());
    branch.assert_restores_equal(&mut theirs);
}

#[test]
fn compaction_by_hand_beside_a_writer_changes_nothing_that_is_restored() {
    let mut world = World::new("by-hand");
    world.set("LIBSQL_BOTTOMLESS_COMPACTION", "off");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for (command, level) in [("compact", "/0001/"), ("snapshot", "/0009/")] {
        for _ in 0..8 {
            session.sql("INSERT INTO t(v) VALUES(randomblob(5000)); UPDATE t SET v = randomblob(700) WHERE id % 3 = 0");
        }
        done(&world, &[command, "-d", world.id()]);
        assert!(world.objects().iter().any(|object| object.key.contains(level)), "{command}");
        world.assert_restores_equal(&mut session);
        compare::assert_same_pages(&world.db(), &litestream::restore(&world, None));
        session.sql("DELETE FROM t WHERE id % 5 = 0");
        world.assert_restores_equal(&mut session);
    }
}

/// Commits that each take from one half of the rows what they give to the other, all over the file.
fn commits(count: usize) -> String {
    let commit = "BEGIN; UPDATE n SET n = n + 1; \
        UPDATE t SET x = x + 1 WHERE id IN (SELECT id FROM t WHERE id <= 3000 ORDER BY random() LIMIT 20); \
        UPDATE t SET x = x - 1 WHERE id IN (SELECT id FROM t WHERE id > 3000 ORDER BY random() LIMIT 20); COMMIT;";
    commit.repeat(count)
}

#[test]
fn a_file_is_imported_as_of_one_commit_while_others_write_to_it() {
    for mode in ["WAL", "DELETE"] {
        let world = World::new("import-live");
        let mut writer = world.stock(Host::Newest);
        writer.open(0, world.db().to_str().unwrap()).unwrap();
        writer.sql(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA wal_autocheckpoint = 40; PRAGMA synchronous = OFF; PRAGMA busy_timeout = 20000; \
             CREATE TABLE n(n); INSERT INTO n VALUES(0); CREATE TABLE t(id INTEGER PRIMARY KEY, x, pad); \
             WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 6000) \
             INSERT INTO t SELECT i, 0, randomblob(3000) FROM i"
        ));
        let mut seen = BTreeSet::new();
        for round in 0..2 {
            let before = writer.number("SELECT n FROM n");
            let id = format!("{}-{round}", world.id());
            let mut import = command(&world, &["import", "-d", &id, world.db().to_str().unwrap()]);
            let mut import = import.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("run bottomless-cli");
            // Without a pause, from before it begins to after its end.
            while import.try_wait().unwrap().is_none() {
                writer.sql(&commits(5));
            }
            writer.sql(&commits(1));
            let output = import.wait_with_output().unwrap();
            assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
            let after = writer.number("SELECT n FROM n");
            let file = restored(&world, &id, "restored.db");
            let found = value(&world, &file, "SELECT n FROM n WHERE (SELECT sum(x) FROM t) = 0");
            assert!((before..=after).contains(&found), "{mode}: {before} <= {found} <= {after}");
            if before < found && found < after {
                seen.insert(found);
            }
        }
        assert!(!seen.is_empty(), "{mode}: no import met a writer at work");
    }
}

/// Through the extension the file goes on from what was imported.
#[track_caller]
fn goes_on(world: &World, rows: i64) {
    let mut session = world.open(Host::Newest);
    assert_eq!(world.last(), 1, "adopted as it is: {}", session.stderr());
    assert_eq!(session.number("SELECT count(*) FROM t"), rows);
    session.sql("INSERT INTO t(v) VALUES('through the extension')");
    assert_eq!(world.last(), 2);
    world.assert_restores_equal(&mut session);
    compare::assert_same_pages(&world.db(), &litestream::restore(world, None));
}

fn filled(world: &World, mode: &str) -> Session {
    let mut session = world.stock(Host::Newest);
    session.open(0, world.db().to_str().unwrap()).unwrap();
    session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"));
    session.sql("PRAGMA wal_autocheckpoint = 0");
    for _ in 0..5 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(9000))");
    }
    session
}

#[test]
fn an_imported_file_is_adopted_and_its_next_commit_is_the_second() {
    for mode in ["WAL", "DELETE"] {
        let world = World::new("import-adopt");
        filled(&world, mode).close(0).unwrap();
        let content = std::fs::read(world.db()).unwrap();
        let output = import(&world, world.id());
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::read(world.db()).unwrap() == content, "the file is as it was");
        goes_on(&world, 5);
    }
}

#[test]
fn a_wal_that_a_crash_has_left_is_imported() {
    let world = World::new("import-crash");
    let mut session = filled(&world, "WAL");
    session.kill();
    assert!(std::fs::metadata(world.beside("wal")).unwrap().len() > 40_000);
    // As after a crash of the machine, and of the process alone.
    std::fs::remove_file(world.beside("shm")).unwrap();
    for id in [world.id().to_owned(), format!("{}-2", world.id())] {
        let output = import(&world, &id);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    goes_on(&world, 5);
}
