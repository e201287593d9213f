//! Programs without the extension that write to the local file while it is open, or put another in its place.

use bottomless_e2e::{Host, Layout, World, shell};

fn stock(world: &World, sql: &str) {
    let output = shell::run_stock(world, &format!(".open {}\n.timeout 20000\n{sql}", world.id()));
    assert!(output.status.success(), "{}", shell::errors(&output));
}

/// The next commit carries what the other program wrote, so that the bucket never holds a mixture.
fn written_while_open(mode: &str) {
    let world = World::new("foreign");
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}"));
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES('ours')");
    stock(&world, "CREATE TABLE u(v); INSERT INTO u VALUES('theirs'); INSERT INTO t VALUES('theirs too');");

    session.sql("INSERT INTO t VALUES('ours again')");
    // Seen in the bucket now, with the database still open.
    let restored = world.restore_elsewhere();
    let output = shell::run_stock(
        &world,
        &format!(".open {}\nPRAGMA integrity_check; SELECT v FROM u; SELECT v FROM t;", restored.display()),
    );
    assert_eq!(shell::text(&output), "ok\ntheirs\nours\ntheirs too\nours again\n", "{mode}");
    assert!(session.stderr().contains("another program"), "{mode}: the log says so: {}", session.stderr());
    world.assert_restores_equal(&mut session);
}

#[test]
fn what_another_program_writes_meanwhile_goes_along_with_the_next_commit() {
    written_while_open("DELETE");
    written_while_open("TRUNCATE");
    written_while_open("WAL");
}

/// What another program wrote and the bucket does not hold must not hold up the rollback of a commit that the store refused.
#[test]
fn reads_go_on_without_the_store_after_another_program_has_written() {
    for mode in ["DELETE", "PERSIST", "MEMORY", "WAL"] {
        let mut world = World::new("foreign-outage").laid_out(Layout::of_mode(mode));
        // The proof of the bucket may take longer than what is to fail below.
        world.open(Host::Newest).sql("CREATE TABLE t(v)");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 1);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}"));
        session.sql("INSERT INTO t VALUES('ours')");
        stock(&world, "INSERT INTO t VALUES('theirs');");
        world.proxy.refuse();
        session.sql_fails("INSERT INTO t VALUES('refused')");
        assert_eq!(session.sql("SELECT v FROM t"), [["ours"], ["theirs"]], "{mode}");
        let output = shell::run_stock(&world, &format!(".open {}\nSELECT v FROM t;", world.id()));
        assert_eq!(shell::text(&output), "ours\ntheirs\n", "{mode}: and for the stock shell");
        world.proxy.heal();
        session.sql("INSERT INTO t VALUES('ours again')");
        assert_eq!(session.sql("SELECT v FROM t"), [["ours"], ["theirs"], ["ours again"]], "{mode}");
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn our_own_connections_are_not_taken_for_another_program() {
    let world = World::new("ours").laid_out(Layout::Pages);
    let mut sessions = [Host::Newest, Host::Newest, Host::Python].map(|host| world.open(host));
    sessions[0].sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v)");
    for round in 0..5 {
        for session in &mut sessions {
            session.sql(&format!("INSERT INTO t VALUES({round})"));
            session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        for session in &mut sessions {
            session.sql("BEGIN; INSERT INTO t VALUES('rolled back'); ROLLBACK");
        }
    }
    for session in &sessions {
        assert!(!session.stderr().contains("another program"), "{}", session.stderr());
    }
    let [mut session, ..] = sessions;
    world.assert_restores_equal(&mut session);
}

#[test]
fn a_file_put_in_place_of_the_open_one_is_a_conflict() {
    let world = World::new("replaced");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES('ours')");
    stock(&world, ".open other.db\nCREATE TABLE x(y); INSERT INTO x VALUES('other');");
    let other = world.folder().join("other.db");
    let other = if other.exists() { other } else { std::env::current_dir().expect("a folder").join("other.db") };
    std::fs::rename(other, world.db()).expect("replace");
    let known = world.last();

    // The open connection has lost its file, and a new one finds another.
    session.sql_fails("INSERT INTO t VALUES('lost')");
    let error = session.open(1, &world.uri()).and_then(|()| session.exec(1, "SELECT * FROM x"));
    assert!(error.is_err(), "nothing is opened on top of another history");
    assert_eq!(world.last(), known, "nothing of it is uploaded");
    session.kill();
    let output = shell::run_stock(&world, &format!(".open {}\nPRAGMA integrity_check; SELECT y FROM x;", world.id()));
    assert_eq!(
        shell::text(&output),
        "ok\nother\n",
        "the file is as its owner put it there: {}",
        shell::errors(&output)
    );
}

/// How a transaction of another program gets from its WAL into the main file before our next commit.
#[derive(Clone, Copy, Debug)]
enum Moved {
    /// By a checkpoint of the other program, which leaves the WAL empty.
    Truncated,
    /// By a checkpoint of the other program, after which the next writer begins the WAL anew.
    Restarted,
    /// By a checkpoint of ours.
    ByUs,
    /// Because the other program was the only one that had the WAL open.
    Closed,
}

/// An update that leaves page 1, the size of the file and the free list alone.
const UNSUSPICIOUS: &str = "UPDATE t SET v = 'theirs' WHERE v = 'a row';";

fn moved_out_of_the_wal(layout: Layout, moved: Moved, next: &str) {
    let world = World::new("moved").laid_out(layout);
    let mut session = world.open(Host::Newest);
    session.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES('ours'), ('a row')");
    match moved {
        Moved::Truncated => stock(&world, &format!("{UNSUSPICIOUS} PRAGMA wal_checkpoint(TRUNCATE);")),
        Moved::Restarted => stock(&world, &format!("{UNSUSPICIOUS} PRAGMA wal_checkpoint(RESTART);")),
        Moved::ByUs => {
            stock(&world, UNSUSPICIOUS);
            session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        Moved::Closed => {
            // Opened, and not read: this connection has no part in the WAL yet.
            session.close(0).unwrap();
            session.open(0, &world.uri()).unwrap();
            stock(&world, UNSUSPICIOUS);
        }
    }
    session.sql(next);
    let what = format!("{moved:?}, {next}: {}", session.stderr());
    assert!(session.stderr().contains("another program"), "{what}");
    let restored = world.restore_elsewhere();
    let output = shell::run_stock(&world, &format!(".open {}\nSELECT v FROM t;", restored.display()));
    assert!(shell::text(&output).starts_with("ours\ntheirs\n"), "{what}");
    // The next one is an ordinary commit again, on a state that is the bucket's.
    session.sql("INSERT INTO t VALUES('after')");
    world.assert_restores_equal(&mut session);
}

#[test]
fn what_left_the_wal_before_our_commit_goes_along_with_it() {
    for (number, moved) in [Moved::Truncated, Moved::Restarted, Moved::ByUs, Moved::Closed].into_iter().enumerate() {
        let next = "INSERT INTO t VALUES('ours again')";
        moved_out_of_the_wal(Layout::of(number), moved, next);
        moved_out_of_the_wal(Layout::of(number + 1), moved, &format!("PRAGMA journal_mode = DELETE; {next}"));
    }
}
