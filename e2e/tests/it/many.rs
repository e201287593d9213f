//! Many databases in one process: what it holds of the system is bounded.
//!
//! The bounds are stated here, next to what is measured: threads and sockets do not grow with the databases, file
//! descriptors and memory do by a known amount each.

use bottomless_e2e::{Host, Layout, Session, World, compare};
use serde_json::Value;

use crate::disk::shortage::limit_descriptors;

/// Connections that commit at the same time, each from a thread of its own.
const WRITERS: usize = 4;

/// Of one open database in WAL mode: SQLite's file, WAL and shared memory, and our local state.
const DESCRIPTORS_EACH: usize = 4;
/// Resident memory of one open database in KiB, SQLite's page cache and the debug build included; measured some 100.
const MEMORY_EACH_KIB: u64 = 300;
/// Resident memory in KiB that folds leave behind in the allocator, of however many databases; measured some 12,000.
const MEMORY_OF_FOLDS_KIB: u64 = 32_000;
/// Threads of the process beside its own and the one that compacts: none of ours stays but the pools for blocking work, of
/// 8 and of 2.
const THREADS: usize = 10;
/// Databases that are compacted at the same time; with a request each, since there are copies of what is merged.
const COMPACTED: usize = 4;
/// One for each request that can be under way at a time, and one more that is being replaced.
const SOCKETS: usize = (WRITERS + COMPACTED) * 2;

/// What a process holds of the system.
#[derive(Clone, Copy, Debug)]
struct Held {
    threads: usize,
    descriptors: usize,
    sockets: usize,
    memory_kib: u64,
}

impl Held {
    fn by(session: &Session) -> Self {
        let process = format!("/proc/{}", session.id());
        let list = |what: &str| std::fs::read_dir(format!("{process}/{what}")).expect("the process is there");
        let links = list("fd").filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let status = std::fs::read_to_string(format!("{process}/status")).expect("its status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        Self {
            threads: list("task").count(),
            descriptors: list("fd").count(),
            sockets: links.filter(|link| link.to_string_lossy().starts_with("socket:")).count(),
            memory_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number of KiB"),
        }
    }
}

#[track_caller]
fn must<T, E: std::fmt::Debug>(session: &Session, n: u32, result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{n}: {e:?}\n{}", session.stderr()))
}

fn name(world: &World, n: u32) -> String {
    format!("{n}-{}", world.id())
}

fn open(world: &World, session: &mut Session, n: u32) {
    // The proof of the bucket for each would take minutes, and is shown elsewhere.
    let path = world.folder().join(name(world, n));
    let opened = session.open(n, &format!("file:{}?vfs=bottomless&fencing=off", path.display()));
    must(session, n, opened);
}

#[test]
fn five_hundred_databases_of_one_process_share_threads_and_connections() {
    many(Layout::Ltx, 500);
}

/// Each is folded, and waits for that when it is closed.
#[test]
fn many_databases_of_one_process_that_fold_share_threads_and_connections() {
    many(Layout::Pages, 40);
}

fn many(layout: Layout, databases: u32) {
    let mut world = World::new("many").laid_out(layout);
    // Often enough that all come to it, and seldom enough that few wait for it at a time.
    let never = 24 * 3600 * 1000;
    world.compact([2000, never, never], never, never);
    let mut session = world.host(Host::Newest);
    // The default on many systems is 1024.
    limit_descriptors(&session, 4096);
    let make = |session: &mut Session, n: u32| {
        open(&world, session, n);
        let sql = format!("PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES({n})");
        let made = session.exec(n, &sql);
        must(session, n, made);
    };
    make(&mut session, 0);
    let one = Held::by(&session);
    (1..databases).for_each(|n| make(&mut session, n));
    let all = Held::by(&session);

    // Threads that commit to different databases at the same time.
    let sql = "INSERT INTO t VALUES('again')";
    let connections: Vec<_> = (0..databases).collect();
    let committed = session.exec_all(&connections, WRITERS, sql);
    must(&session, databases, committed);
    let busy = Held::by(&session);

    for n in 0..databases {
        let closed = session.close(n);
        must(&session, n, closed);
    }
    let closed = Held::by(&session);
    if layout == Layout::Pages {
        for n in 0..databases {
            let file = std::fs::read(world.folder().join(name(&world, n))).unwrap();
            assert!(world.concatenated_of(&name(&world, n)) == file, "{n}");
        }
    }
    for n in 0..databases {
        open(&world, &mut session, n);
        let read = session.exec(n, "SELECT v FROM t");
        assert_eq!(must(&session, n, read), [[Value::from(n)], [Value::from("again")]]);
    }
    let again = Held::by(&session);
    println!("with one database {one:?}\nwith {databases} {all:?}\nafter {WRITERS} threads {busy:?}");
    println!("all closed {closed:?}\nall open again {again:?}");

    // One of them in full, in another folder.
    let n = databases / 2;
    let checkpointed = session.exec(n, "PRAGMA wal_checkpoint(TRUNCATE)");
    must(&session, n, checkpointed);
    let folder = world.folder().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let restored = folder.join(name(&world, n));
    let opened = session.open(databases, &format!("file:{}?vfs=bottomless&fencing=off", restored.display()));
    must(&session, n, opened);
    let sound = session.exec(databases, "PRAGMA integrity_check");
    assert_eq!(must(&session, n, sound), [["ok"]]);
    let ended = session.close(databases);
    must(&session, n, ended);
    compare::assert_same_pages(&world.folder().join(name(&world, n)), &restored);

    let count = usize::try_from(databases).unwrap();
    for held in [all, busy, again] {
        assert!(held.threads <= one.threads + THREADS, "{one:?}, {held:?}");
        assert!(held.sockets <= one.sockets + SOCKETS, "{one:?}, {held:?}");
        assert!(held.descriptors <= one.descriptors + SOCKETS + count * DESCRIPTORS_EACH, "{one:?}, {held:?}");
        let memory = held.memory_kib.saturating_sub(one.memory_kib);
        let of_folds = if layout == Layout::Pages { MEMORY_OF_FOLDS_KIB } else { 0 };
        assert!(memory <= u64::from(databases) * MEMORY_EACH_KIB + of_folds, "{one:?}, {held:?}");
    }
    assert!(closed.descriptors <= one.descriptors + SOCKETS, "nothing stays open: {one:?}, {closed:?}");
}
