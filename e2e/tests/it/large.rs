//! Large transactions and databases: memory stays bounded, and the lock page at 1 GiB is nobody's.
//!
//! Heavy: these run with `make test-heavy` and in `.ci/run`.

use bottomless_e2e::{Host, World};

use crate::commit::commits_once;

const MIB_KIB: u64 = 1024;

/// Random pages, so that nothing compresses: 1 GiB and a bit.
fn gigabyte() -> String {
    let rows = (1_100 << 20) / 262_144;
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t(v) SELECT randomblob(262000) FROM n"
    )
}

fn peak_of_stock(world: &World, mode: &str) -> u64 {
    let mut stock = world.stock(Host::Newest);
    let path = world.folder().join("stock.db");
    stock.open(0, &path.display().to_string()).unwrap();
    stock.sql(&format!(
        "PRAGMA page_size = 65536; PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
    ));
    stock.sql(&gigabyte());
    let peak = stock.peak_memory_kib();
    stock.end();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.folder().join(format!("stock.db{suffix}")));
    }
    peak
}

fn a_gigabyte(mode: &str) {
    let mut world = World::new("gigabyte");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 300);
    let stock = peak_of_stock(&world, mode);
    let mut session = world.open(Host::Newest);
    session.sql(&format!(
        "PRAGMA page_size = 65536; PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
    ));
    commits_once(&world, &mut session, &gigabyte());
    let ours = session.peak_memory_kib();
    println!("{mode}: peak of stock {stock} KiB, ours {ours} KiB");
    assert!(ours < stock + 128 * MIB_KIB, "{mode}: stock {stock} KiB, ours {ours} KiB");
    assert!(session.number("PRAGMA page_count") > 16_384, "it must cross the lock page");
    commits_once(&world, &mut session, "UPDATE t SET v = randomblob(262000) WHERE id % 500 = 0");
    session.close(0).unwrap();

    let folder = world.folder().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join(world.id());
    let mut other = world.host(Host::Newest);
    other.open(0, &format!("file:{}?vfs=bottomless", path.display())).unwrap();
    assert!(other.number("SELECT count(*) FROM t") > 4000);
    let peak = other.peak_memory_kib();
    println!("{mode}: peak of the restore {peak} KiB");
    assert!(peak < 200 * MIB_KIB, "{mode}: the restore took {peak} KiB");
    assert_eq!(other.value("PRAGMA quick_check"), "ok");
    other.close(0).unwrap();
    bottomless_e2e::compare::assert_same_pages(&world.db(), &path);
}

#[test]
#[ignore = "heavy"]
fn a_transaction_of_a_gigabyte_in_mode_wal() {
    a_gigabyte("WAL");
}

#[test]
#[ignore = "heavy"]
fn a_transaction_of_a_gigabyte_in_mode_delete() {
    a_gigabyte("DELETE");
}

/// The page that holds byte 1,073,741,824 is never stored; the pages around it are.
#[test]
#[ignore = "heavy"]
fn a_database_crosses_the_lock_page() {
    let mut world = World::new("lockpage");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 120);
    let mut session = world.open(Host::Newest);
    session.sql("PRAGMA page_size = 65536; PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    session.sql("INSERT INTO t(v) VALUES(zeroblob(536000000)), (zeroblob(536000000))");
    let pages = session.number("PRAGMA page_count");
    assert!((16_000..16_384).contains(&pages), "just before the lock page: {pages}");
    for _ in 0..4 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(6000000))");
    }
    assert!(session.number("PRAGMA page_count") > 16_500);
    world.assert_restores_equal(&mut session);
    commits_once(&world, &mut session, "DELETE FROM t WHERE id IN (3, 4)");
    commits_once(&world, &mut session, "INSERT INTO t(v) VALUES('after')");
    world.assert_restores_equal(&mut session);
    let restored = bottomless_e2e::litestream::restore(&world, None);
    bottomless_e2e::compare::assert_same_pages(&world.db(), &restored);
}
