//! The SQLites that people have, libSQL among them.

use bottomless_e2e::{Host, World};

use crate::commit::commits_once;

/// libSQL's own driver: load the extension, open by URI, commit, lose the machine, read back.
#[test]
fn libsql_commits_and_reads_back() {
    let world = World::new("libsql");
    let mut session = world.host(Host::Libsql);
    session.open(0, &world.uri()).unwrap();
    session.sql("CREATE TABLE t(v)");
    commits_once(&world, &mut session, "INSERT INTO t VALUES(42), (zeroblob(8193)), ('hey')");
    session.sql("PRAGMA journal_mode = WAL");
    commits_once(&world, &mut session, "INSERT INTO t VALUES('from the wal')");
    assert_eq!(session.end().0, Some(0));
    world.lose_local_files();
    let mut again = world.host(Host::Libsql);
    again.open(0, &world.uri()).unwrap();
    let rows = again.sql("SELECT typeof(v), length(v) FROM t");
    assert_eq!(serde_json::to_string(&rows).unwrap(), r#"[["integer",2],["blob",8193],["text",3],["text",12]]"#);
}

/// A database written by one host continues in the next.
#[test]
fn hosts_take_over_from_each_other() {
    let world = World::new("relay");
    let hosts = [Host::Newest, Host::Python, Host::Libsql, Host::Newest, Host::Python];
    for (n, host) in hosts.into_iter().enumerate() {
        let mut session = world.host(host);
        session.open(0, &world.uri()).unwrap();
        session.sql("CREATE TABLE IF NOT EXISTS t(n)");
        session.sql(&format!("INSERT INTO t VALUES({n})"));
        assert_eq!(session.number("SELECT count(*) FROM t"), n as i64 + 1);
        assert_eq!(session.end().0, Some(0), "{host:?} ends well");
        if n % 2 == 1 {
            world.lose_local_files();
        }
    }
}

/// The program ends without closing, as many do: nothing hangs, nothing is lost.
#[test]
fn a_program_that_ends_without_closing_loses_nothing() {
    for host in [Host::Newest, Host::Python] {
        for mode in ["DELETE", "WAL"] {
            let world = World::new("exit");
            let mut session = world.open(host);
            session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES(1)"));
            let (code, errors) = session.end();
            assert_eq!(code, Some(0), "{host:?}, {mode}: {errors}");
            let mut again = world.open(host);
            assert_eq!(again.number("SELECT count(*) FROM t"), 1);
            again.sql("INSERT INTO t VALUES(2)");
            commits_once(&world, &mut again, "INSERT INTO t VALUES(3)");
            world.assert_restores_equal(&mut again);
        }
    }
}

/// Killed right after COMMIT returned, again and again: the bucket has what was committed.
#[test]
fn a_killed_program_loses_no_commit() {
    for mode in ["DELETE", "WAL", "PERSIST"] {
        let world = World::new("killed");
        world.open(Host::Newest).sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(n)"));
        for n in 0..8 {
            let mut session = world.open(Host::Newest);
            session.sql(&format!("INSERT INTO t VALUES({n})"));
            session.kill();
        }
        let mut session = world.open(Host::Newest);
        assert_eq!(session.number("SELECT count(*) FROM t"), 8, "{mode}");
        world.assert_restores_equal(&mut session);
    }
}
