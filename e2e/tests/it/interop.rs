//! Other programs read what we wrote (P6).

use bottomless_e2e::litestream;
use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, World, compare};

fn read_by_others(mode: &str, page_size: u32) {
    let world = World::new("interop");
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA page_size = {page_size}; PRAGMA journal_mode = {mode}"));
    let mut workload = Workload::new(Workload::seed() + u64::from(page_size));
    for _ in 0..120 {
        let _ = session.exec(0, &workload.statement());
    }
    if let Some(sql) = workload.finish() {
        session.sql(sql);
    }
    session.sql("CREATE TABLE IF NOT EXISTS three(v); INSERT INTO three VALUES(42), (zeroblob(8193)), ('hey')");
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");

    let restored = litestream::restore(&world, None);
    compare::assert_same_pages(&world.db(), &restored);
    let mut other = world.stock(Host::Newest);
    other.open(0, &restored.display().to_string()).unwrap();
    assert_eq!(other.value("PRAGMA integrity_check"), "ok");

    for sql in ["SELECT * FROM three", "SELECT id, a, b FROM t0 ORDER BY id", "SELECT name, sql FROM sqlite_schema"] {
        assert_eq!(other.sql(sql), session.sql(sql), "litestream restore, {mode}, {page_size}: {sql}");
        assert_eq!(litestream::vfs_rows(&world, sql), session.sql(sql), "litestream-vfs, {mode}, {page_size}: {sql}");
    }
}

#[test]
fn litestream_reads_what_was_written_with_a_rollback_journal() {
    read_by_others("DELETE", 4096);
    read_by_others("TRUNCATE", 512);
}

#[test]
fn litestream_reads_what_was_written_with_a_wal() {
    read_by_others("WAL", 4096);
    read_by_others("WAL", 65536);
}

/// Each transaction is a point in time that others restore.
#[test]
fn litestream_restores_every_transaction() {
    let world = World::new("points");
    let mut session = world.open(Host::Newest);
    session.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v)");
    let mut points = Vec::new();
    for n in 1..=6 {
        session.sql(&format!("INSERT INTO t VALUES({n}), (randomblob(10000))"));
        points.push((world.last(), n * 2));
    }
    for (txid, count) in points {
        let mut old = world.stock(Host::Newest);
        old.open(0, &litestream::restore(&world, Some(txid)).display().to_string()).unwrap();
        assert_eq!(old.number("SELECT count(*) FROM t"), count, "at {txid}");
        assert_eq!(old.value("PRAGMA integrity_check"), "ok");
    }
}

/// Databases that shrank, changed their page size, and have pages that no transaction ever wrote.
#[test]
fn litestream_restores_what_changed_its_form() {
    let world = World::new("form");
    let mut session = world.open(Host::Newest);
    let check = |what: &str| {
        let restored = litestream::restore(&world, Some(world.last()));
        compare::assert_same_pages(&world.db(), &restored);
        println!("{what}: equal");
    };
    session.sql("PRAGMA auto_vacuum = FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(randomblob(900000))");
    session.sql("DELETE FROM t");
    check("shrunk");
    session.sql("INSERT INTO t(v) VALUES(randomblob(500000))");
    check("grown again");
    session.sql("BEGIN; CREATE TABLE u(v); INSERT INTO u VALUES(randomblob(3000000)); DROP TABLE u; COMMIT");
    check("freed before it was written");
    session.sql("PRAGMA auto_vacuum = NONE; VACUUM");
    session.sql("BEGIN; CREATE TABLE u(v); INSERT INTO u VALUES(randomblob(3000000)); DROP TABLE u; COMMIT");
    check("holes");
}

/// What happens with another page size in one history is Litestream's to decide: it must not be silently wrong.
#[test]
fn litestream_never_misreads_a_changed_page_size() {
    let world = World::new("sizes");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES(randomblob(50000))");
    session.sql("PRAGMA page_size = 8192; VACUUM");
    session.sql("INSERT INTO t VALUES('after')");
    if let Ok(restored) = litestream::try_restore(&world, None) {
        compare::assert_same_pages(&world.db(), &restored);
    }
    world.assert_restores_equal(&mut session);
}
