//! What an open does: the table of the design, row by row, and the initial replication policy.

use bottomless_e2e::litestream;
use bottomless_e2e::{Host, Layout, Session, World, shell};

use crate::commit::commits_once;

const CANTOPEN: i64 = 14;

fn stock_sql(world: &World, sql: &str) {
    let output = shell::run_stock(world, &format!(".bail on\n.open {}\n{sql}", world.id()));
    assert!(output.status.success() && output.stderr.is_empty(), "{sql}: {}", shell::errors(&output));
}

/// A database with a history in the bucket, closed. Each journal mode is in one layout.
fn with_history(name: &str, mode: &str) -> World {
    let world = World::new(name).laid_out(Layout::of_mode(mode));
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('in the bucket')"));
    session.close(0).unwrap();
    world
}

#[track_caller]
fn rows(session: &mut Session) -> Vec<String> {
    session.sql("SELECT v FROM t").into_iter().map(|r| r[0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_here_and_nothing_there_is_a_fresh_database() {
    for create_empty_file in [false, true] {
        let world = World::new("fresh").laid_out(Layout::of(usize::from(create_empty_file)));
        if create_empty_file {
            std::fs::write(world.db(), b"").unwrap();
        }
        let mut session = world.open(Host::Newest);
        assert_eq!(session.number("SELECT count(*) FROM sqlite_schema"), 0);
        assert!(world.log().is_empty());
        session.sql("CREATE TABLE t(v)");
        assert_eq!(world.log(), [1]);
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn an_empty_or_missing_file_is_filled_from_the_bucket() {
    for mode in ["DELETE", "WAL"] {
        for (host, empty) in [(Host::Newest, false), (Host::Python, true), (Host::Python, false)] {
            let world = with_history("fill", mode);
            let objects = world.objects();
            world.lose_local_files();
            if empty {
                std::fs::write(world.db(), b"").unwrap();
            }
            let mut session = world.open(host);
            assert_eq!(rows(&mut session), ["in the bucket"]);
            assert_eq!(world.objects(), objects, "a restore writes nothing to the bucket");
            // The first commit with a new local state proves the bucket.
            session.sql("INSERT INTO t VALUES('proof')");
            commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

#[test]
fn a_plain_database_becomes_transaction_one() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("initial").laid_out(Layout::of_mode(mode));
        stock_sql(&world, &format!("PRAGMA journal_mode = {mode};\nCREATE TABLE t(v); INSERT INTO t VALUES('here');"));
        let mut session = world.open(Host::Newest);
        assert_eq!(world.last(), 1, "published at open");
        assert_eq!(rows(&mut session), ["here"]);
        commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
        world.assert_restores_equal(&mut session);
    }
}

/// The plain database is in WAL mode, its program died, and the rows are only in the WAL.
#[test]
fn a_plain_database_with_an_unfinished_wal_is_published_whole() {
    let world = World::new("initial-wal").laid_out(Layout::Pages);
    let mut stock = world.stock(Host::Newest);
    stock.open(0, &world.db().display().to_string()).unwrap();
    stock.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES('in the wal')");
    stock.kill();
    assert!(std::fs::metadata(world.beside("wal")).unwrap().len() > 0);
    let mut session = world.open(Host::Newest);
    assert_eq!(rows(&mut session), ["in the wal"]);
    commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
    world.assert_restores_equal(&mut session);
}

#[test]
fn a_database_at_the_buckets_position_is_no_conflict_whatever_the_policy() {
    for mode in ["DELETE", "WAL"] {
        for policy in ["", "error", "force", "skip"] {
            let mut world = with_history("same", mode);
            if policy.is_empty() {
                world.unset("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION");
            } else {
                world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", policy);
            }
            let objects = world.objects();
            world.proxy.clear();
            let mut session = world.open(Host::Newest);
            assert_eq!(rows(&mut session), ["in the bucket"]);
            assert!(world.proxy.requests().iter().all(|r| r.method != "PUT"), "{policy}: nothing to upload");
            assert_eq!(world.objects(), objects, "{policy}");
            session.sql("INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

/// Somebody else's machine went on; this one comes back with an older position of the same history.
#[test]
fn an_older_position_is_caught_up() {
    for mode in ["DELETE", "WAL"] {
        for keep_state in [true, false] {
            let world = with_history("older", mode);
            let old = [world.db(), world.beside("bottomless")].map(|p| (p.clone(), std::fs::read(&p).ok()));
            let mut session = world.open(Host::Newest);
            session.sql("INSERT INTO t VALUES('later'); CREATE TABLE u AS SELECT zeroblob(9000)");
            session.close(0).unwrap();
            world.lose_local_files();
            for (path, content) in old {
                if keep_state || path == world.db() {
                    std::fs::write(path, content.expect("the local state is beside the database")).unwrap();
                }
            }
            let objects = world.objects();
            let mut session = world.open(Host::Newest);
            assert_eq!(rows(&mut session), ["in the bucket", "later"], "{mode}, state {keep_state}");
            assert_eq!(world.objects(), objects);
            session.sql("INSERT INTO t VALUES('proof')");
            commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

#[test]
fn changes_made_without_the_extension_are_published() {
    for mode in ["DELETE", "WAL"] {
        for policy in ["error", "force", "skip"] {
            let mut world = with_history("changed", mode);
            world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", policy);
            let last = world.last();
            stock_sql(&world, "INSERT INTO t VALUES('without'); CREATE INDEX i ON t(v);");
            let mut session = world.open(Host::Newest);
            assert_eq!(world.last(), last + 1, "{mode}, {policy}: one transaction at open");
            assert_eq!(rows(&mut session), ["in the bucket", "without"]);
            commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

#[test]
fn changes_made_without_the_extension_and_left_in_the_wal_are_published() {
    let world = with_history("changed-wal", "WAL");
    let mut stock = world.stock(Host::Newest);
    stock.open(0, &world.db().display().to_string()).unwrap();
    stock.sql("INSERT INTO t VALUES('without')");
    stock.kill();
    let mut session = world.open(Host::Newest);
    assert_eq!(rows(&mut session), ["in the bucket", "without"]);
    commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
    world.assert_restores_equal(&mut session);
}

/// VACUUM without the extension changes every page and no row.
#[test]
fn a_vacuum_without_the_extension_is_published() {
    let world = with_history("vacuumed", "DELETE");
    stock_sql(&world, "PRAGMA page_size = 1024; VACUUM;");
    let mut session = world.open(Host::Newest);
    assert_eq!(session.number("PRAGMA page_size"), 1024);
    assert_eq!(rows(&mut session), ["in the bucket"]);
    commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
    world.assert_restores_equal(&mut session);
}

/// The local state is a cache: without it the position is found again by the checksum.
#[test]
fn a_database_without_local_state_is_adopted() {
    for mode in ["DELETE", "WAL"] {
        for policy in ["error", "force", "skip"] {
            let mut world = with_history("adopt", mode);
            world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", policy);
            let objects = world.objects();
            std::fs::remove_file(world.beside("bottomless")).expect("the local state");
            let mut session = world.open(Host::Newest);
            assert_eq!(world.objects(), objects, "{mode}, {policy}");
            assert_eq!(rows(&mut session), ["in the bucket"]);
            session.sql("INSERT INTO t VALUES('after')");
            world.assert_restores_equal(&mut session);
        }
    }
}

/// Damaged local state is rebuilt; it is never an error.
fn rebuilt(damage: impl Fn(&mut Vec<u8>)) {
    for mode in ["DELETE", "WAL"] {
        let world = with_history("state", mode);
        let objects = world.objects();
        let path = world.beside("bottomless");
        let whole = std::fs::read(&path).unwrap();
        let mut state = whole.clone();
        damage(&mut state);
        assert!(state != whole, "no damage was done: this shows nothing");
        std::fs::write(&path, state).unwrap();
        let mut session = world.open(Host::Newest);
        assert_eq!(rows(&mut session), ["in the bucket"], "{mode}");
        assert_eq!(world.objects(), objects, "{mode}: nothing has changed");
        session.sql("INSERT INTO t VALUES('proof')");
        commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn local_state_that_was_emptied_is_rebuilt() {
    rebuilt(Vec::clear);
}

#[test]
fn local_state_that_was_cut_off_is_rebuilt() {
    // In the record, in the mark, before the page checksums, in them.
    rebuilt(|state| state.truncate(100));
    rebuilt(|state| state.truncate(700));
    rebuilt(|state| state.truncate(state.len() / 2));
    rebuilt(|state| state.truncate(state.len() - 4));
}

#[test]
fn local_state_with_flipped_bits_is_rebuilt() {
    let flip = |state: &mut Vec<u8>, from: usize, to: usize| {
        for byte in state[from..to].iter_mut().step_by(97) {
            *byte ^= 0x55;
        }
    };
    rebuilt(|state| flip(state, 0, state.len()));
    // The record alone; the mark alone; the page checksums alone, behind a record that is whole.
    rebuilt(|state| flip(state, 8, 512));
    rebuilt(|state| flip(state, 520, 1024));
    rebuilt(|state| flip(state, 4096, state.len()));
}

#[test]
fn foreign_local_state_is_rebuilt() {
    rebuilt(|state| *state = b"this is no local state".repeat(1000));
    // That of another database, which is whole in itself.
    let other = with_history("other-state", "DELETE");
    let content = std::fs::read(other.beside("bottomless")).unwrap();
    rebuilt(|state| state.clone_from(&content));
}

/// Another database of the same name here, one with a history there.
fn conflict(mode: &str) -> World {
    let world = with_history("conflict", mode);
    world.lose_local_files();
    stock_sql(&world, "CREATE TABLE t(v); CREATE TABLE mine(a); INSERT INTO t VALUES('local');");
    world
}

#[test]
fn a_conflict_is_an_error_by_default() {
    for policy in [None, Some("error")] {
        let mut world = conflict("DELETE");
        if let Some(policy) = policy {
            world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", policy);
        }
        let (objects, file) = (world.objects(), std::fs::read(world.db()).unwrap());
        let Err((error, session)) = world.try_open(Host::Newest) else { panic!("{policy:?}: must not open") };
        assert_eq!(error.primary(), CANTOPEN, "{error:?}");
        let log = session.stderr();
        for word in ["force", "skip", "LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", world.id()] {
            assert!(log.contains(word), "the message must name {word}: {log}");
        }
        assert_eq!(world.objects(), objects, "the bucket is untouched");
        assert_eq!(std::fs::read(world.db()).unwrap(), file, "the local file is untouched");
    }
}

#[test]
fn force_makes_the_local_database_the_next_transaction() {
    for mode in ["DELETE", "WAL"] {
        let mut world = conflict(mode);
        let last = world.last();
        world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "force");
        let mut session = world.open(Host::Newest);
        assert_eq!(world.last(), last + 1, "published at open");
        assert_eq!(rows(&mut session), ["local"]);
        commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
        world.assert_restores_equal(&mut session);
        // The earlier history stays restorable.
        let mut old = world.stock(Host::Newest);
        old.open(0, &litestream::restore(&world, Some(last)).display().to_string()).unwrap();
        assert_eq!(rows(&mut old), ["in the bucket"]);
        // A second open with `force` has nothing to force.
        session.close(0).unwrap();
        let objects = world.objects();
        world.open(Host::Newest);
        assert_eq!(world.objects(), objects);
    }
}

#[test]
fn skip_publishes_with_the_first_commit() {
    for mode in ["DELETE", "WAL"] {
        let mut world = conflict(mode);
        let (last, objects) = (world.last(), world.objects());
        world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "skip");
        let mut session = world.open(Host::Newest);
        assert_eq!(rows(&mut session), ["local"]);
        assert_eq!(world.objects(), objects, "nothing is uploaded at open");
        session.close(0).unwrap();
        let mut session = world.open(Host::Newest);
        assert_eq!(world.objects(), objects, "nor by closing and opening again");
        session.sql("INSERT INTO t VALUES('after')");
        assert!(world.last() > last);
        assert_eq!(rows(&mut session), ["local", "after"]);
        world.assert_restores_equal(&mut session);
        commits_once(&world, &mut session, "INSERT INTO t VALUES('and on')");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn skip_publishes_nothing_of_a_plain_database_before_the_first_commit() {
    let mut world = World::new("skip-plain");
    stock_sql(&world, "CREATE TABLE t(v); INSERT INTO t VALUES('local');");
    world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "skip");
    let mut session = world.open(Host::Newest);
    session.sql("INSERT INTO t VALUES('after')");
    assert_eq!(rows(&mut session), ["local", "after"]);
    world.assert_restores_equal(&mut session);
}

#[test]
fn another_policy_is_an_error() {
    let mut world = with_history("policy", "DELETE");
    world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "yes please");
    let Err((error, session)) = world.try_open(Host::Newest) else { panic!("must not open") };
    assert_eq!(error.primary(), CANTOPEN, "{error:?}");
    let log = session.stderr();
    assert!(log.contains("yes please") && log.contains("force") && log.contains("skip"), "{log}");
}

/// The URI parameter wins over the variable.
#[test]
fn the_policy_can_be_a_uri_parameter() {
    let mut world = conflict("DELETE");
    world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "error");
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("{}&initial_replication=force", world.uri())).unwrap();
    assert_eq!(rows(&mut session), ["local"]);
    world.assert_restores_equal(&mut session);
}

/// A file that is no database at all is not published as one.
#[test]
fn a_file_that_is_no_database_is_not_published() {
    let world = World::new("garbage");
    std::fs::write(world.db(), b"this is not a database ".repeat(1000)).unwrap();
    let Err((error, _)) = world.try_open(Host::Newest) else { panic!("must not open") };
    assert!([14, 26].contains(&error.primary()), "SQLITE_CANTOPEN or SQLITE_NOTADB: {error:?}");
    assert!(world.log().is_empty());
    assert!(std::fs::read(world.db()).unwrap().starts_with(b"this is not"), "and is left alone");
}

/// Read-only opens read, and neither need nor leave anything.
#[test]
fn a_read_only_connection_reads() {
    let world = with_history("readonly", "DELETE");
    let objects = world.objects();
    assert_eq!(world.log(), [1, 2]);
    let mut session = world.host(Host::Python);
    session.open(0, &format!("{}&mode=ro", world.uri())).unwrap();
    assert_eq!(rows(&mut session), ["in the bucket"]);
    assert_eq!(session.sql_fails("INSERT INTO t VALUES(1)").primary(), 8);
    assert_eq!(world.objects(), objects);
}
