//! What a program without the extension did to the files while the database was closed: changed, left in the middle,
//! or replaced by others.

use std::fs::{self, File, FileTimes};
use std::path::PathBuf;

use bottomless_e2e::litestream;
use bottomless_e2e::{Host, Layout, Session, World, shell};

use crate::commit::commits_once;

const CANTOPEN: i64 = 14;

/// A database with some history, closed; with three hundred rows of 100 bytes. Each journal mode is in one layout.
fn closed(mode: &str) -> World {
    let world = World::new("closed").laid_out(Layout::of_mode(mode));
    let mut session = world.open(Host::Newest);
    session.sql(&format!(
        "PRAGMA journal_mode = {mode}; CREATE TABLE t(v); CREATE TABLE big(v);
         WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300)
         INSERT INTO big SELECT zeroblob(100) FROM c;
         INSERT INTO t VALUES('first'), ('row');"
    ));
    session.sql("INSERT INTO t VALUES('second')");
    session.close(0).unwrap();
    world
}

/// Debian's shell, and the newest SQLite in a process that is then killed, without and with a WAL left behind.
fn by_the_shell(world: &World, sql: &str) {
    let output = shell::run_stock(world, &format!(".bail on\n.open {}\n{sql}", world.id()));
    assert!(output.status.success() && output.stderr.is_empty(), "{sql}: {}", shell::errors(&output));
}

fn by_the_newest_killed(world: &World, sql: &str) {
    let mut session = world.stock(Host::Newest);
    session.open(0, &world.db().display().to_string()).unwrap();
    session.sql(sql);
    session.kill();
}

/// The rows that the stock shell finds.
fn dump(world: &World) -> String {
    let output = shell::run_stock(
        world,
        &format!(
            ".open {}\nSELECT * FROM t; SELECT count(*), sum(length(v)) FROM big; PRAGMA user_version;",
            world.id()
        ),
    );
    shell::text(&output)
}

/// What was done to the files is one transaction of the bucket after the next open, and is said.
#[track_caller]
fn is_published(world: &World, session: &mut Session, last: u64, what: &str) {
    assert_eq!(world.last(), last + 1, "{what}: one transaction at open\n{}", session.stderr());
    assert!(session.stderr().contains("without the bottomless extension"), "{what}: {}", session.stderr());
    world.assert_restores_equal(session);
    commits_once(world, session, "INSERT INTO t VALUES('after')");
    world.assert_restores_equal(session);
}

#[test]
fn changes_of_every_kind_are_published_at_the_next_open() {
    let changes = [
        ("grown", "INSERT INTO big SELECT zeroblob(5000) FROM big LIMIT 100;"),
        ("shrunk", "DELETE FROM big; VACUUM;"),
        ("vacuumed", "DELETE FROM t WHERE v = 'row'; VACUUM;"),
        ("rewritten in place", "UPDATE t SET v = 'ROW' WHERE v = 'row';"),
        ("the change counter alone", "PRAGMA user_version = 0;"),
        ("another journal mode", "PRAGMA journal_mode = MEMORY; INSERT INTO t VALUES('x');"),
    ];
    for (n, (what, sql)) in changes.into_iter().enumerate() {
        for mode in ["DELETE", "WAL"] {
            // Each kind by both programs, and in both modes.
            let by_the_shell_now = (n + usize::from(mode == "WAL")) % 2 == 0;
            let change: fn(&World, &str) = if by_the_shell_now { by_the_shell } else { by_the_newest_killed };
            let world = closed(mode);
            let last = world.last();
            if sql.contains("journal_mode = MEMORY") && mode == "WAL" {
                change(&world, "PRAGMA journal_mode = DELETE;");
            }
            change(&world, sql);
            let before = dump(&world);
            let mut session = world.open(Host::Newest);
            assert_eq!(dump(&world), before, "{what}, {mode}");
            is_published(&world, &mut session, last, &format!("{what}, {mode}, by the shell: {by_the_shell_now}"));
        }
    }
}

/// A transaction that its program did not end is no transaction: SQLite rolls it back, and nothing is published.
#[test]
fn a_hot_journal_of_another_program_is_played_back_and_not_published() {
    for also_committed in [false, true] {
        let world = closed("DELETE");
        let last = world.last();
        let mut other = world.stock(Host::Newest);
        other.open(0, &world.db().display().to_string()).unwrap();
        if also_committed {
            other.sql("INSERT INTO t VALUES('committed')");
        }
        other.sql("PRAGMA cache_size = 3; BEGIN; UPDATE big SET v = randomblob(100)");
        other.kill();
        assert!(fs::metadata(world.beside("journal")).unwrap().len() > 0);
        let mut session = world.open(Host::Newest);
        assert_eq!(session.number("SELECT count(*) FROM big WHERE v = zeroblob(100)"), 300);
        if also_committed {
            is_published(&world, &mut session, last, "hot journal");
        } else {
            assert_eq!(world.last(), last, "nothing has changed");
            commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

/// The size is the same, and the modification time is set back to what it was.
#[test]
fn a_change_that_hides_its_time_is_found_at_the_next_open() {
    for mode in ["DELETE", "WAL"] {
        let world = closed(mode);
        let last = world.last();
        let before = fs::metadata(world.db()).unwrap();
        by_the_shell(&world, "UPDATE t SET v = 'ROW' WHERE v = 'row';");
        let file = File::options().write(true).open(world.db()).unwrap();
        file.set_times(FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
        let after = fs::metadata(world.db()).unwrap();
        assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
        let mut session = world.open(Host::Newest);
        is_published(&world, &mut session, last, mode);
    }
}

/// How another file comes to the place of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Move,
    CopyOver,
}

/// The ways that are seen for sure. Outside of a WAL every transaction counts the change counter up, so that a lower one is
/// another's; in a WAL it may stay, and what was copied over ours looks like a change of ours.
fn ways(mode: &str) -> &'static [By] {
    if mode == "WAL" { &[By::Move] } else { &[By::Move, By::CopyOver] }
}

fn put_in_place(world: &World, other: PathBuf, by: By) {
    match by {
        By::Move => fs::rename(other, world.db()).unwrap(),
        By::CopyOver => drop(fs::copy(other, world.db()).unwrap()),
    }
}

/// A copy of the database as it is, under another name.
fn copy(world: &World) -> PathBuf {
    let path = world.folder().join("copy.db");
    fs::copy(world.db(), &path).unwrap();
    path
}

#[track_caller]
fn is_a_conflict(world: &World, what: &str) {
    let (objects, file) = (world.objects(), fs::read(world.db()).unwrap());
    let Err((error, session)) = world.try_open(Host::Newest) else { panic!("{what}: must not open") };
    assert_eq!(error.primary(), CANTOPEN, "{what}: {error:?}");
    let log = session.stderr();
    for word in ["force", "skip", "transaction", "pages", world.id()] {
        assert!(log.contains(word), "{what}: the message must name {word}: {log}");
    }
    assert_eq!(world.objects(), objects, "{what}: nothing is uploaded");
    assert!(fs::read(world.db()).unwrap() == file, "{what}: the file is as it was put there");
}

#[test]
fn another_database_in_place_of_a_closed_one_is_a_conflict() {
    for mode in ["DELETE", "WAL"] {
        for &by in ways(mode) {
            let world = closed(mode);
            by_the_shell(&world, ".open other.db\nCREATE TABLE x(y); INSERT INTO x VALUES('other');");
            put_in_place(&world, world.folder().join("other.db"), by);
            is_a_conflict(&world, &format!("{mode}, {by:?}, a small one"));
        }
        // As long as ours, and much like it.
        let world = closed(mode);
        let other = copy(&world);
        by_the_shell(&world, ".open copy.db\nUPDATE t SET v = 'ROW' WHERE v = 'row';");
        assert_eq!(fs::metadata(&other).unwrap().len(), fs::metadata(world.db()).unwrap().len());
        put_in_place(&world, other, By::Move);
        is_a_conflict(&world, &format!("{mode}, one of the same size"));
    }
}

/// An older backup is behind, and is caught up; one that was then changed belongs to another history.
#[test]
fn an_older_backup_is_caught_up_and_a_changed_one_is_a_conflict() {
    for mode in ["DELETE", "WAL"] {
        for by in [By::Move, By::CopyOver] {
            for changed in [false, true].into_iter().filter(|changed| !changed || ways(mode).contains(&by)) {
                let world = closed(mode);
                let backup = copy(&world);
                let mut session = world.open(Host::Newest);
                session.sql("INSERT INTO t VALUES('newer'); INSERT INTO t VALUES('newest')");
                session.close(0).unwrap();
                if changed {
                    by_the_shell(&world, ".open copy.db\nINSERT INTO t VALUES('on the backup');");
                }
                put_in_place(&world, backup, by);
                let what = format!("{mode}, {by:?}");
                if changed {
                    is_a_conflict(&world, &what);
                    continue;
                }
                let objects = world.objects();
                let mut session = world.open(Host::Newest);
                assert_eq!(session.number("SELECT count(*) FROM t WHERE v LIKE 'newe%'"), 2, "{what}");
                assert_eq!(world.objects(), objects, "{what}");
                session.sql("INSERT INTO t VALUES('proof')");
                world.assert_restores_equal(&mut session);
            }
        }
    }
}

/// What can't be told from a change: it is published and said, and what was before stays restorable.
#[test]
fn another_database_copied_over_one_in_wal_mode_leaves_the_earlier_history() {
    let world = closed("WAL");
    let last = world.last();
    by_the_shell(&world, ".open other.db\nCREATE TABLE t(v); INSERT INTO t VALUES('other'); PRAGMA user_version = 7;");
    by_the_shell(&world, ".open other.db\nINSERT INTO t VALUES('and more');\nINSERT INTO t VALUES('and more');");
    put_in_place(&world, world.folder().join("other.db"), By::CopyOver);
    let mut session = world.open(Host::Newest);
    is_published(&world, &mut session, last, "copied over");
    let mut old = world.stock(Host::Newest);
    old.open(0, &litestream::restore(&world, Some(last)).display().to_string()).unwrap();
    assert_eq!(old.sql("SELECT v FROM t"), [["first"], ["row"], ["second"]]);
}
