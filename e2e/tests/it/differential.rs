//! The same random statements on stock SQLite and through the extension: same answers, same file, same after restore.

use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, World, compare, shell};

const STATEMENTS: usize = 250;

fn differential(host: Host, mode: &str, pragmas: &str, seed: u64) {
    let world = World::new("differential");
    let what = format!("{host:?}, {mode}, {pragmas}, BOTTOMLESS_SEED={seed}");
    let stock_path = world.folder().join("stock.db");
    let mut ours = world.open(host);
    let mut stock = world.stock(host);
    stock.open(0, &stock_path.display().to_string()).unwrap();
    for session in [&mut ours, &mut stock] {
        session.sql(&format!("{pragmas}; PRAGMA journal_mode = {mode}"));
    }
    let mut workload = Workload::new(seed);
    let mut done = Vec::new();
    for step in 0..STATEMENTS {
        let sql = workload.statement();
        // Without a journal nothing can be taken back: what SQLite leaves behind is undefined there.
        if mode == "OFF"
            && ["ROLLBACK", "SAVEPOINT", "RELEASE", "SELECT id + 1000", "SELECT a + 1"].iter().any(|w| sql.contains(w))
        {
            workload.undo_bookkeeping(&sql);
            continue;
        }
        let expected = stock.exec(0, &sql);
        let got = ours.exec(0, &sql);
        done.push(sql.chars().take(120).collect::<String>());
        assert_eq!(got, expected, "{what}, step {step}, after\n{}\n{}", done.join("\n"), ours.stderr());
    }
    if let Some(sql) = workload.finish() {
        stock.sql(sql);
        ours.sql(sql);
    }
    assert_eq!(ours.value("PRAGMA integrity_check"), "ok", "{what}");
    stock.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    ours.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    compare::assert_same_pages(&world.db(), &stock_path);
    world.assert_restores_equal(&mut ours);
    let dump = |name: &str| shell::text(&shell::run_stock(&world, &format!(".open {name}\n.sha3sum\n")));
    assert_eq!(dump(world.id()), dump("stock.db"), "{what}");
}

fn rounds(mode: &str) {
    let seed = Workload::seed();
    differential(Host::Newest, mode, "PRAGMA page_size = 4096", seed);
    differential(Host::Python, mode, "PRAGMA page_size = 1024; PRAGMA cache_size = 10", seed + 1);
    differential(Host::Newest, mode, "PRAGMA page_size = 512; PRAGMA auto_vacuum = INCREMENTAL", seed + 2);
    differential(
        Host::Newest,
        mode,
        "PRAGMA page_size = 65536; PRAGMA auto_vacuum = FULL; PRAGMA synchronous = OFF",
        seed + 3,
    );
}

#[test]
fn same_as_stock_in_mode_delete() {
    rounds("DELETE");
}

#[test]
fn same_as_stock_in_mode_truncate() {
    rounds("TRUNCATE");
}

#[test]
fn same_as_stock_in_mode_persist() {
    rounds("PERSIST");
}

#[test]
fn same_as_stock_in_mode_memory() {
    rounds("MEMORY");
}

#[test]
fn same_as_stock_in_mode_off() {
    rounds("OFF");
}

#[test]
fn same_as_stock_in_mode_wal() {
    rounds("WAL");
}
