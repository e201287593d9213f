//! Many databases in one process: what it holds of the system is bounded.

use bottomless_e2e::{Host, Session, World};

const DATABASES: usize = 100;

/// Threads and file descriptors of a process.
fn held(session: &Session) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", session.id())).expect(what).count();
    (count("task"), count("fd"))
}

fn open_and_commit(world: &World, session: &mut Session, numbers: std::ops::Range<usize>, parameters: &str) {
    for n in numbers {
        let connection = u32::try_from(n).unwrap();
        let path = world.folder().join(format!("{n}-{}", world.id()));
        session.open(connection, &format!("file:{}?vfs=bottomless{parameters}", path.display())).unwrap();
        let sql = format!("PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES({n})");
        session.exec(connection, &sql).unwrap_or_else(|e| panic!("{n}: {e:?}\n{}", session.stderr()));
    }
}

#[test]
fn a_hundred_databases_of_one_process_share_threads_and_connections() {
    let world = World::new("many");
    // One with the proof of the bucket, which makes simultaneous requests; the proof of each would take minutes.
    let mut session = world.host(Host::Newest);
    open_and_commit(&world, &mut session, 0..1, "");
    let one = held(&session);
    open_and_commit(&world, &mut session, 1..DATABASES, "&fencing=off");
    let all = held(&session);
    println!("threads and file descriptors: {one:?} with one database, {all:?} with {DATABASES}");
    for n in 0..DATABASES {
        let connection = u32::try_from(n).unwrap();
        session.exec(connection, "INSERT INTO t VALUES('again')").unwrap();
        assert_eq!(session.exec(connection, "SELECT v FROM t").unwrap()[0][0], n);
        let objects = world.bucket.list(&format!("{n}-{}/", world.id()));
        assert!(objects.len() >= 3, "{n}: {objects:?}");
    }
    let after = held(&session);
    println!("and after another commit of each: {after:?}");
    for n in 0..DATABASES {
        session.close(u32::try_from(n).unwrap()).unwrap();
    }
    let closed = held(&session);
    println!("and with all closed: {closed:?}");
    for (threads, _) in [all, after] {
        assert!(threads <= one.0.max(9), "threads don't grow with the databases: {one:?}, {all:?}, {after:?}");
    }
    // SQLite's own: the file, its WAL and its shared memory; ours: the local state.
    for (_, descriptors) in [all, after] {
        assert!(descriptors <= one.1 + DATABASES * 4, "{one:?}, {all:?}, {after:?}");
    }
    assert!(closed.1 <= one.1, "nothing stays open: {one:?}, {closed:?}");
}
