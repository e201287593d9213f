//! The layout with an object for each page, as a program and whoever reads its bucket see it.

use std::path::PathBuf;

use bottomless_e2e::proxy::{Answer, Fault};
use bottomless_e2e::{Host, Layout, Session, World, compactor};

/// A world whose programs fold.
fn world(name: &str) -> World {
    World::new(name).laid_out(Layout::Pages)
}

/// The page objects one behind the other, as a file: what any S3 tool makes of them.
#[track_caller]
fn concatenated(world: &World) -> PathBuf {
    let path = world.folder().join("concatenated.db");
    std::fs::write(&path, world.concatenated()).unwrap();
    path
}

/// The page objects are the database file, byte for byte, and SQLite finds it good.
#[track_caller]
fn assert_pages_are_the_file(world: &World) {
    let path = concatenated(world);
    let is_same = std::fs::read(&path).unwrap() == std::fs::read(world.db()).unwrap();
    assert!(is_same, "{} bytes of page objects", path.metadata().unwrap().len());
    let mut stock = world.stock(Host::Newest);
    stock.open(0, &path.display().to_string()).unwrap();
    assert_eq!(stock.value("PRAGMA integrity_check"), "ok");
}

#[track_caller]
fn flush(session: &mut Session) {
    assert_eq!(session.value("PRAGMA bottomless_flush"), "ok", "{}", session.stderr());
}

/// Flushes, and compares with the main file.
#[track_caller]
fn flushes(world: &World, session: &mut Session) {
    flush(session);
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_pages_are_the_file(world);
}

#[test]
fn page_n_of_the_file_is_object_n_after_a_flush_and_after_a_close() {
    let mut world = world("pages");
    for (round, mode, host) in [(1, "DELETE", Host::Newest), (2, "WAL", Host::Python)] {
        world.set("LIBSQL_BOTTOMLESS_LAYOUT", "pages");
        let mut session = world.open(host);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)"));
        session.sql(
            "INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             SELECT hex(randomblob(1000)) FROM n",
        );
        assert_eq!(session.status()["layout"], "pages");
        flushes(&world, &mut session);
        let pages = world.bucket.list(&format!("{}-", world.id())).len();
        session.sql("UPDATE t SET v = 'again' WHERE id % 7 = 3");
        session.close(0).unwrap();
        assert_pages_are_the_file(&world);

        session.open(0, &world.uri()).unwrap();
        session.sql("DELETE FROM t WHERE id > 20 AND length(v) > 20");
        session.sql("VACUUM");
        flushes(&world, &mut session);
        assert!(world.bucket.list(&format!("{}-", world.id())).len() < pages / 2, "{mode}");
        // Behind the marker.
        session.sql("INSERT INTO t(v) VALUES('in the log')");
        session.kill();

        world.unset("LIBSQL_BOTTOMLESS_LAYOUT");
        world.lose_local_files();
        let mut session = world.open(Host::Newest);
        assert_eq!(session.status()["layout"], "pages", "that of the bucket");
        assert_eq!(session.number("SELECT count(*) FROM t WHERE v = 'in the log'"), round);
        assert_eq!(session.value("PRAGMA integrity_check"), "ok");
        session.sql("INSERT INTO t(v) VALUES('behind it')");
        session.close(0).unwrap();
        assert_pages_are_the_file(&world);
        assert_eq!(session.stderr(), "", "{mode}");
    }
}

#[test]
fn a_flush_within_a_transaction_folds_what_was_committed_before() {
    let mut world = world("pagesflush");
    world.compact_nothing();
    let mut session = world.open(Host::Newest);
    session.sql("PRAGMA cache_size = 5; CREATE TABLE t(v)");
    for (before, mode) in [(0, "DELETE"), (50, "WAL")] {
        session.sql(&format!("PRAGMA journal_mode = {mode}"));
        session.sql("BEGIN IMMEDIATE");
        session.sql(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
             SELECT hex(randomblob(1000)) FROM n",
        );
        flush(&mut session);
        let mut stock = world.stock(Host::Newest);
        stock.open(0, &concatenated(&world).display().to_string()).unwrap();
        assert_eq!(stock.number("SELECT count(*) FROM t"), before, "{mode}");
        session.sql("COMMIT; BEGIN; SELECT count(*) FROM t");
        flush(&mut session);
        session.sql("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)");
        assert_pages_are_the_file(&world);
        assert_eq!(session.stderr(), "", "{mode}");
    }
}

#[test]
fn a_flush_says_why_it_fails_and_a_close_goes_on() {
    let world = world("pagesaway");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    world.proxy.fail_only(Some("PUT"), "/pages/claim-", Fault::Answer(Answer::new(403, "AccessDenied")));
    let error = session.sql_fails("PRAGMA bottomless_flush");
    assert_eq!(error.primary(), 1, "{error:?}");
    assert!(error.message.contains(world.id()) && error.message.contains("AccessDenied"), "{error:?}");
    session.close(0).unwrap();
    let warnings: Vec<_> = session.stderr().lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("page objects"), "{warnings:?}");
    world.proxy.heal();
    let mut session = world.open(Host::Newest);
    flushes(&world, &mut session);
    session.open(1, &format!("{}&txid={:016x}", world.uri(), 1)).unwrap();
    let error = session.exec(1, "PRAGMA bottomless_flush").unwrap_err();
    assert!(error.message.contains("read only"), "{error:?}");
    let error = session.sql_fails("PRAGMA bottomless_flash");
    assert!(error.message.contains("bottomless_flush"), "{error:?}");
}

#[test]
fn a_layout_that_the_bucket_does_not_have_opens_nothing() {
    #[track_caller]
    fn refuses(world: &World, to: &str) {
        let Err((error, session)) = world.try_open(Host::Newest) else { panic!("{to}: must not open") };
        assert_eq!(error.primary(), 14, "{error:?}");
        let advice = format!("bottomless-cli convert -d {} --to {to}", world.id());
        assert!(session.stderr().contains(&advice), "{}", session.stderr());
    }
    let mut pages = world("pagesonly");
    let mut session = pages.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    session.close(0).unwrap();
    pages.set("LIBSQL_BOTTOMLESS_LAYOUT", "ltx");
    refuses(&pages, "ltx");

    let mut ltx = World::new("ltxonly");
    let mut session = ltx.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    session.close(0).unwrap();
    compactor::snapshot(&ltx, &ltx.db(), ltx.last());
    ltx.set("LIBSQL_BOTTOMLESS_LAYOUT", "pages");
    refuses(&ltx, "pages");
    ltx.unset("LIBSQL_BOTTOMLESS_LAYOUT");
    let mut session = ltx.open(Host::Newest);
    flush(&mut session);
    assert_eq!(session.status()["layout"], "ltx");
}
