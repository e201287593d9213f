//! Two machines, one history: at most one writer gets a position, the other is told so (P4).

use bottomless_e2e::{Host, Session, World};

/// A second machine: another folder, filled from the bucket.
fn elsewhere(world: &World, name: &str) -> Session {
    let folder = world.folder().join(name);
    std::fs::create_dir(&folder).unwrap();
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("file:{}?vfs=bottomless", folder.join(world.id()).display())).unwrap();
    session
}

fn two_machines(mode: &str) -> (World, Session, Session) {
    let world = World::new("fence");
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

/// Both send their commit at the same moment, many times: never two winners, and the bucket is what a winner holds.
#[test]
fn of_simultaneous_commits_one_wins() {
    for round in 0..12 {
        let (world, mut a, mut b) = two_machines(if round % 2 == 0 { "WAL" } else { "DELETE" });
        // The first commit of a machine proves the bucket; without that the two meet more often.
        let last = world.last();
        world.proxy.clear();
        a.send_sql(0, "INSERT INTO t VALUES('a')");
        b.send_sql(0, "INSERT INTO t VALUES('b')");
        let results = [a.answer(), b.answer()];
        let winners = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        assert_eq!(world.last(), last + 1);
        let key = world.log_key(last + 1);
        let puts: Vec<_> =
            world.proxy.requests().into_iter().filter(|r| r.method == "PUT" && r.target.contains(&key)).collect();
        assert!(puts.len() >= 2, "they must have met: {puts:#?}");
        let mut elsewhere = elsewhere(&world, "c");
        let who = if results[0].is_ok() { "a" } else { "b" };
        assert_eq!(elsewhere.sql("SELECT who FROM t"), [["before"], [who]]);
    }
}
