//! Two machines, one history: at most one writer gets a position, the other is told so (P4).

mod folds;
mod frozen;
mod many;
mod orders;
mod proof;

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, Layout, Machine, Session, SqlError, World};

use crate::commit::commits_once;

/// The error of a commit that came too late, and what the status and the log say of it.
#[track_caller]
fn assert_fenced(machine: &mut Machine, error: &SqlError, what: &str) {
    // SQLITE_OK, SQLITE_BUSY and SQLITE_LOCKED would ask for another try of COMMIT.
    assert!(![0, 5, 6].contains(&error.primary()), "{what}: {error:?}");
    let status = machine.session.status();
    assert_eq!(status["fenced"], true, "{what}: {status}");
    let told = status["last_error"].to_string();
    for words in ["another writer has taken over", "rolled back", "open it again"] {
        assert!(told.contains(words), "{what}: {told}");
        assert!(machine.session.stderr().contains(words), "{what}: {}", machine.session.stderr());
    }
}

/// A second machine: another folder, filled from the bucket.
fn elsewhere(world: &World, name: &str) -> Session {
    let folder = world.folder().join(name);
    std::fs::create_dir(&folder).unwrap();
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("file:{}?vfs=bottomless", folder.join(world.id()).display())).unwrap();
    session
}

/// Each journal mode is in one layout.
fn two_machines(mode: &str) -> (World, Session, Session) {
    let world = World::new("fence").laid_out(Layout::of_mode(mode));
    let mut a = world.open(Host::Newest);
    a.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(who); INSERT INTO t VALUES('before')"));
    let mut b = elsewhere(&world, "b");
    assert_eq!(b.number("SELECT count(*) FROM t"), 1);
    (world, a, b)
}

#[test]
fn the_second_machine_is_fenced_and_stays_so() {
    for mode in ["DELETE", "WAL"] {
        let (world, mut a, mut b) = two_machines(mode);
        // Alone, the connection would catch up at its next transaction.
        let uri = format!("file:{}?vfs=bottomless", world.folder().join("b").join(world.id()).display());
        b.open(1, &uri).unwrap();
        a.sql("INSERT INTO t VALUES('a')");
        let last = world.last();
        for _ in 0..3 {
            let error = b.sql_fails("INSERT INTO t VALUES('b')");
            assert!(![0, 5, 6].contains(&error.primary()), "{mode}: {error:?}");
            assert_eq!(b.sql("SELECT who FROM t"), [["before"]], "{mode}");
        }
        assert_eq!(world.last(), last, "{mode}: nothing was built on the stale state");
        assert!(b.stderr().to_lowercase().contains("another"), "{mode}: the log says why: {}", b.stderr());
        a.sql("INSERT INTO t VALUES('a')");
        world.assert_restores_equal(&mut a);
    }
}

/// Both commits are under way at the same moment: never two winners, and the bucket is what the winner holds.
#[test]
fn of_simultaneous_commits_one_wins() {
    let mut wins = [0, 0];
    for mode in ["WAL", "DELETE"].repeat(3) {
        let (world, mut a, mut b) = two_machines(mode);
        let last = world.last();
        world.proxy.clear();
        let key = world.log_key(last + 1);
        world.proxy.fail_only(Some("PUT"), &key, Fault::Gather(2));
        a.send_sql(0, "INSERT INTO t VALUES('a')");
        b.send_sql(0, "INSERT INTO t VALUES('b')");
        let results = [a.answer(), b.answer()];
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}\n{}\n{}", a.stderr(), b.stderr());
        assert_eq!(world.last(), last + 1);
        let of_key = |r: &bottomless_e2e::proxy::Request| r.method == "PUT" && r.target.contains(&key);
        let mut statuses: Vec<_> = world.proxy.requests().into_iter().filter(of_key).map(|r| r.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses.len(), 2, "they must have met");
        assert_eq!(statuses[1], Some(412));
        let winner = usize::from(results[0].is_err());
        wins[winner] += 1;
        let who = ["a", "b"][winner];
        let mut third = elsewhere(&world, "c");
        assert_eq!(third.sql("SELECT who FROM t"), [["before"], [who]]);
        let (winner, loser) = if winner == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        assert_eq!(loser.sql("SELECT who FROM t"), [["before"], [who]], "the loser's transaction is gone");
        world.proxy.heal();
        winner.sql("INSERT INTO t VALUES('and on')");
        loser.sql_fails("INSERT INTO t VALUES('never')");
    }
    println!("wins of each machine: {wins:?}");
}

/// Many machines at once, each with the same position.
#[test]
fn of_many_simultaneous_commits_one_wins() {
    let (world, a, b) = two_machines("WAL");
    let mut machines = vec![a, b];
    for n in 0..4 {
        machines.push(elsewhere(&world, &format!("machine-{n}")));
    }
    let last = world.last();
    world.proxy.fail_only(Some("PUT"), &world.log_key(last + 1), Fault::Gather(machines.len()));
    for (n, machine) in machines.iter_mut().enumerate() {
        machine.send_sql(0, &format!("INSERT INTO t VALUES({n})"));
    }
    let results: Vec<_> = machines.iter_mut().map(Session::answer).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    assert_eq!(world.last(), last + 1);
}

/// A store that ignores the condition, or doesn't know it, is found out before the first commit.
#[test]
fn a_store_without_conditional_writes_is_refused_unless_the_user_promises_to_be_alone() {
    for fault in [Fault::Unconditional, Fault::Status(501)] {
        let mut world = World::new("unconditional");
        world.proxy.fail_only(Some("PUT"), "", fault);
        let (error, session) = match world.try_open(Host::Newest) {
            Ok(mut session) => (session.sql_fails("CREATE TABLE t(v)"), session),
            Err(failed) => failed,
        };
        assert_ne!(error.primary(), 0);
        assert!(session.stderr().contains("LIBSQL_BOTTOMLESS_FENCING=off"), "{fault:?}: {}", session.stderr());
        assert!(world.log().is_empty(), "{fault:?}");
        drop(session);
        if fault == Fault::Unconditional {
            world.set("LIBSQL_BOTTOMLESS_FENCING", "off");
            let mut session = world.open(Host::Newest);
            session.sql("CREATE TABLE t(v)");
            session.sql("INSERT INTO t VALUES(42)");
            assert_eq!(world.log(), [1, 2]);
            world.assert_restores_equal(&mut session);
        }
    }
}

/// The proof is made once a database and bucket, not at each open, and not again when the database was caught up.
#[test]
fn a_proven_bucket_is_not_probed_again() {
    let (world, mut a, mut b) = two_machines("WAL");
    a.close(0).unwrap();
    let mut again = world.open(Host::Newest);
    commits_once(&world, &mut again, "INSERT INTO t VALUES('one request, from the first commit on')");
    again.close(0).unwrap();
    b.sql_fails("INSERT INTO t VALUES('too late')");
    b.close(0).unwrap();
    b.open(0, &format!("file:{}?vfs=bottomless", world.folder().join("b").join(world.id()).display())).unwrap();
    b.sql("SELECT count(*) FROM t");
    commits_once(&world, &mut b, "INSERT INTO t VALUES('one request')");
}
