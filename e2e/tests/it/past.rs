//! A database opened as of a point in the past, read only: what was lost comes back, and the present knows nothing of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bottomless_e2e::{Host, Session, World, compare};
use serde_json::Value;

const CANTOPEN: i64 = 14;
const READONLY: i64 = 8;

/// Large enough that every story has pages that change and pages that do not.
const SCHEMA: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 200)
        INSERT INTO t SELECT i, 'row ' || i || hex(zeroblob(200)) FROM c;";

fn at(world: &World, txid: u64) -> String {
    format!("{}&txid={txid:016x}", world.uri())
}

/// Everything beside the database and itself: content, size, time, inode.
fn files(world: &World) -> BTreeMap<String, (Vec<u8>, i64, i64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(world.folder()).unwrap() {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name().into_string().unwrap())).unwrap();
        if name.starts_with(world.id()) {
            let of = fs::metadata(&entry).unwrap();
            found.insert(name, (fs::read(&entry).unwrap(), of.mtime(), of.mtime_nsec(), of.ino()));
        }
    }
    found
}

/// The files that hold points in the past.
fn caches(world: &World) -> Vec<PathBuf> {
    let prefix = format!("{}-bottomless-at-", world.id());
    let entries = fs::read_dir(world.folder()).unwrap().map(|entry| entry.unwrap());
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}

/// A closed database with `SCHEMA` at transaction 2, the table dropped at 3, and another row at 4.
fn dropped(name: &str, mode: &str) -> World {
    let world = World::new(name);
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}"));
    session.sql(&format!("BEGIN; {SCHEMA} COMMIT"));
    let before = world.last();
    session.sql("DROP TABLE t");
    session.sql("CREATE TABLE log(n)");
    assert_eq!(world.last(), before + 2);
    session.close(0).unwrap();
    world
}

/// The transaction before the table was dropped, in a world of [`dropped`].
fn before(world: &World) -> u64 {
    world.last() - 2
}

fn only_reads(world: &World) {
    let others: Vec<_> = world.proxy.requests().into_iter().filter(|request| request.method != "GET").collect();
    assert!(others.is_empty(), "nothing is written to the bucket: {others:?}");
}

/// The table that was dropped is copied out of the past, beside the present that is open and being written to.
#[test]
fn a_dropped_table_comes_back() {
    for (mode, hosts) in [("DELETE", &[Host::Python][..]), ("WAL", &[Host::Newest, Host::Libsql])] {
        let world = dropped("dropped", mode);
        for host in hosts {
            let what = format!("{host:?}, {mode}");
            let mut session = world.host(*host);
            session.open(0, &world.uri()).unwrap();
            session.open(1, &world.uri()).unwrap();
            // In a WAL, what is new is not in the main file: the past must not be shown it.
            session.sql("INSERT INTO log VALUES(1)");
            let last = world.last();
            session.sql(&format!("ATTACH '{}' AS back", at(&world, last - 3)));
            assert_eq!(caches(&world).len(), 1, "{what}: one file beside: {:?}", caches(&world));
            assert_eq!(session.number("SELECT count(*) FROM back.t"), 200, "{what}");

            session.exec(1, "INSERT INTO log VALUES(2)").unwrap();
            session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
            session.sql("INSERT INTO main.t SELECT * FROM back.t");
            assert_eq!(world.last(), last + 3, "{what}: one object a transaction");
            assert_eq!(session.number("SELECT count(*) FROM (SELECT * FROM back.t EXCEPT SELECT * FROM main.t)"), 0);
            assert_eq!(session.number("SELECT count(*) FROM back.t JOIN main.t USING(id, v)"), 200);
            assert_eq!(
                session.number("SELECT (SELECT count(*) FROM log) - (SELECT count(*) FROM back.sqlite_schema)"),
                1
            );
            session.sql("DETACH back");
            assert!(caches(&world).is_empty(), "{what}: {:?}", caches(&world));
            session.close(1).unwrap();
            if host != hosts.last().unwrap() {
                session.sql("DROP TABLE log; DROP TABLE t; CREATE TABLE log(n)");
                session.close(0).unwrap();
                continue;
            }
            world.assert_restores_equal(&mut session);
        }
    }
}

/// In either mode a point is, page by page, what the database was; by its TXID, and by its time.
#[test]
fn a_point_is_what_the_database_was() {
    let world = World::new("points");
    let mut session = world.open(Host::Newest);
    session.sql(SCHEMA);
    let mut states = Vec::new();
    let counted = "SELECT count(*), total(id), (SELECT count(*) FROM sqlite_schema) FROM t";
    for change in
        ["DELETE FROM t WHERE id % 3 = 0", "PRAGMA journal_mode = WAL; CREATE INDEX i ON t(v)", "DROP INDEX i; VACUUM"]
    {
        session.sql(change);
        states.push((world.last(), session.sql(counted), session.status()));
    }
    let mut past = world.host(Host::Python);
    for (txid, state, status) in &states {
        past.open(0, &at(&world, *txid)).unwrap();
        assert_eq!(past.sql(counted), *state, "{txid}");
        assert_eq!(past.value("PRAGMA integrity_check"), "ok");
        let shown = past.status();
        for field in ["txid", "txid_hex", "database_checksum", "page_size", "size_in_pages", "database_id"] {
            assert_eq!(shown[field], status[field], "{field} of {txid}");
        }
        assert_eq!(status["past"], Value::Null);
        let time = shown["past"]["time"].as_str().unwrap().to_owned();
        past.close(0).unwrap();
        past.open(0, &format!("{}&timestamp={time}", world.uri())).unwrap();
        // Two transactions may be of the same millisecond: then it is the second.
        assert_eq!(past.status()["past"]["time"], time);
        past.close(0).unwrap();
    }
    past.open(0, &format!("{}&timestamp=0%20seconds%20ago", world.uri())).unwrap();
    assert_eq!(past.status()["txid"], world.last());
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    compare::assert_same_pages(&world.db(), &caches(&world)[0]);
}

/// Which files of the database a process has open.
fn open_files(world: &World, session: &Session) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{}/fd", session.id())).unwrap();
    let open = open.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.display().to_string()));
    open.filter(|path| path.starts_with(&world.db().display().to_string())).collect()
}

/// Looks at a point in every way that might touch the present, which stays byte for byte and inode for inode.
fn looks_and_touches_nothing(world: &World, past: &mut Session, point: u64, what: &str) {
    let (files_before, objects) = (files(world), world.objects());
    world.proxy.clear();
    past.open(0, &at(world, point)).unwrap();
    assert_eq!(past.number("SELECT count(*) FROM t WHERE v LIKE 'row %'"), 200, "{what}");
    for pragma in ["journal_mode = WAL", "journal_mode = PERSIST", "journal_mode = DELETE", "journal_mode = OFF"] {
        // Whatever SQLite says to it.
        let _ = past.exec(0, &format!("PRAGMA {pragma}"));
    }
    let _ = past.exec(0, "PRAGMA locking_mode = NORMAL; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
    past.sql("PRAGMA mmap_size = 1000000; SELECT * FROM t");
    let (open, cache) = (open_files(world, past), format!("{}-bottomless-at-", world.db().display()));
    assert!(!open.is_empty() && open.iter().all(|path| path.starts_with(&cache)), "{what}: {open:?}");
    past.close(0).unwrap();
    assert!(files(world) == files_before, "{what}: {:?}", files(world).keys());
    only_reads(world);
    assert_eq!(world.objects(), objects, "{what}");
}

/// What a program that only looks at the past does to the present: nothing, whether that is closed, in the middle of a
/// transaction, left there by a crash, or gone.
#[test]
fn the_present_is_not_touched() {
    for mode in ["DELETE", "WAL"] {
        let world = dropped("untouched", mode);
        let point = before(&world);
        let mut hosts = [Host::Newest, Host::Python, Host::Libsql].map(|host| world.host(host));
        let [newest, python, libsql] = &mut hosts;
        looks_and_touches_nothing(&world, newest, point, &format!("{mode}, closed"));

        let mut writer = world.open(Host::Newest);
        writer.sql(&format!("{SCHEMA} PRAGMA cache_size = 2; BEGIN"));
        // More than the cache: the files have pages of a transaction that is not committed.
        writer.sql("UPDATE t SET v = 'changed' || v");
        looks_and_touches_nothing(&world, python, point, &format!("{mode}, in a transaction"));
        writer.kill();
        assert!(world.beside(if mode == "WAL" { "wal" } else { "journal" }).exists());
        looks_and_touches_nothing(&world, libsql, point, &format!("{mode}, after a crash"));
        looks_and_touches_nothing(&world, newest, point, &format!("{mode}, after a crash"));
        let mut session = world.open(Host::Newest);
        assert_eq!(session.number("SELECT count(*) FROM t WHERE v LIKE 'row %'"), 200, "{mode}");
        assert_eq!(session.value("PRAGMA integrity_check"), "ok");
        session.close(0).unwrap();

        world.lose_local_files();
        looks_and_touches_nothing(&world, python, point, &format!("{mode}, gone"));
    }
}

#[test]
fn writing_to_the_past_is_refused_and_the_way_to_write_is_said() {
    let mut world = dropped("readonly", "WAL");
    world.set("RUST_LOG", "info");
    let (point, objects) = (before(&world), world.objects());
    let all = ["", "&mode=ro", "&mode=rw", "&mode=rwc", "&immutable=1", "&nolock=1&psow=0"];
    for (host, parameters) in [(Host::Newest, &all[..]), (Host::Python, &all[..1]), (Host::Libsql, &all[..1])] {
        let mut past = world.host(host);
        for parameters in parameters {
            past.open(0, &format!("{}{parameters}", at(&world, point))).unwrap();
            for statement in [
                "INSERT INTO t VALUES(1000, 1)",
                "CREATE TABLE x(a)",
                "DROP TABLE t",
                "PRAGMA user_version = 7",
                "VACUUM",
            ] {
                let error = past.sql_fails(statement);
                assert_eq!(error.primary() & !1, READONLY & !1, "{host:?}, {parameters}, {statement}: {error:?}");
                let _ = past.exec(0, "ROLLBACK");
            }
            let status = past.status();
            let advice = status["past"]["read_only"].as_str().unwrap();
            assert!(advice.contains(&format!("{point:016x}")) && advice.contains("without txid"), "{advice}");
            assert!(past.stderr().contains(advice), "{}", past.stderr());
            assert_eq!(status["requests"]["put"], 0);
            assert_eq!(past.number("SELECT count(*) FROM t"), 200);
            past.close(0).unwrap();
        }
    }
    assert_eq!(world.objects(), objects);
}

/// Many processes at once cost one download, and the last of them takes the file away, even where some were killed.
#[test]
fn one_downloads_for_all() {
    let world = dropped("crowd", "DELETE");
    let point = before(&world);
    world.proxy.clear();
    let mut sessions: Vec<Session> = (0..4).map(|_| world.host(Host::Newest)).collect();
    for session in &mut sessions {
        session.send(&serde_json::json!({"op": "open", "conn": 0, "name": at(&world, point)}));
    }
    for session in &mut sessions {
        session.answer().unwrap();
        assert_eq!(session.number("SELECT count(*) FROM t"), 200);
    }
    let lists = world.proxy.requests().iter().filter(|request| request.is_list()).count();
    assert_eq!(lists, 1, "{:?}", world.proxy.requests());
    only_reads(&world);
    let asked: Vec<u64> =
        sessions.iter_mut().map(|session| session.status()["requests"]["list"].as_u64().unwrap()).collect();
    assert_eq!(asked.iter().sum::<u64>(), 1, "{asked:?}");

    // The store may go away: who comes now still shares the file.
    world.proxy.refuse();
    let mut late = world.host(Host::Python);
    late.open(0, &at(&world, point)).unwrap();
    assert_eq!(late.number("SELECT count(*) FROM t"), 200);
    world.proxy.heal();

    for mut killed in sessions.drain(2..) {
        killed.kill();
    }
    for session in &mut sessions {
        session.close(0).unwrap();
    }
    assert_eq!(caches(&world).len(), 1);
    late.close(0).unwrap();
    assert!(caches(&world).is_empty(), "{:?}", caches(&world));
}

/// A process that is killed while it fills, or while it has a point open: the next one is not misled, and cleans up.
#[test]
fn what_a_killed_process_left_is_cleared() {
    let mut world = dropped("killed", "DELETE");
    let point = before(&world);
    let mut open = world.host(Host::Newest);
    open.open(0, &at(&world, point)).unwrap();
    world.set("BOTTOMLESS_TEST_POINT", "restore.applied=kill");
    let mut filling = world.host(Host::Newest);
    assert!(filling.attempt_open(0, &at(&world, point + 1)).is_none(), "it dies while it fills");
    world.unset("BOTTOMLESS_TEST_POINT");
    open.kill();
    let left = caches(&world);
    assert_eq!(left.len(), 3, "the whole file, the half one, and the turn: {left:?}");
    // As a program that does not know better might.
    for path in &left {
        fs::remove_file(path).unwrap();
        fs::write(path, b"not a database").unwrap();
    }

    let mut session = world.host(Host::Newest);
    session.open(0, &at(&world, point)).unwrap();
    assert_eq!(session.number("SELECT count(*) FROM t"), 200);
    assert_eq!(caches(&world).len(), 1, "{:?}", caches(&world));
    session.close(0).unwrap();
    assert!(caches(&world).is_empty(), "{:?}", caches(&world));
}

/// In the same process, so that it costs no start.
#[track_caller]
fn refuses(session: &mut Session, uri: &str, words: &[&str]) {
    let said = session.stderr().len();
    let error = session.open(0, uri).expect_err(uri);
    assert_eq!(error.primary(), CANTOPEN, "{uri}: {error:?}");
    let errors = session.stderr().split_off(said);
    for word in words {
        assert!(errors.contains(word), "{uri}: the message must name {word}: {errors}");
    }
}

#[test]
fn a_point_that_is_none_is_refused_by_its_reason() {
    let mut world = dropped("refused", "DELETE");
    let (files_before, last) = (files(&world), world.last());
    let uri = world.uri();
    let mut host = world.host(Host::Newest);
    let hex = |txid: u64| format!("{txid:016x}");
    refuses(&mut host, &at(&world, last + 1), &["can't be opened as of", &hex(last), &hex(last + 1)]);
    refuses(&mut host, &at(&world, 0), &["URI parameter txid", "0000000000000001"]);
    for wrong in ["", "7", "000000000000000C", "later"] {
        refuses(&mut host, &format!("{uri}&txid={wrong}"), &["URI parameter txid", "16 hexadecimal digits"]);
    }
    refuses(
        &mut host,
        &format!("{}&timestamp=2026-01-01T00:00:00Z", at(&world, 1)),
        &["txid and timestamp", "together"],
    );
    refuses(
        &mut host,
        &format!("{uri}&timestamp=2000-01-01T00:00:00Z"),
        &["2000-01-01", "begins with TXID 0000000000000001"],
    );
    refuses(&mut host, &format!("{uri}&timestamp=yesterday"), &["URI parameter timestamp", "yesterday"]);
    refuses(&mut host, &format!("{}&cache=shared", at(&world, 1)), &["cache=shared"]);
    refuses(&mut host, &format!("{}&bucket=not-there", at(&world, 1)), &["not-there"]);
    refuses(&mut host, &format!("{}&database_id=none", at(&world, 1)), &["holds no database none"]);

    world.bucket.delete(&world.log_key(2));
    refuses(&mut host, &at(&world, last), &["gap", &hex(2)]);

    world.proxy.refuse();
    let hasty = format!("{}&timeout=0.2", at(&world, 1));
    refuses(&mut host, &hasty, &["can't be opened as of", &world.proxy.endpoint()]);
    world.proxy.heal();

    // As a variable it would turn every database of a program into one of the past.
    world.set("LIBSQL_BOTTOMLESS_TXID", hex(1));
    refuses(&mut world.host(Host::Python), &uri, &["LIBSQL_BOTTOMLESS_TXID"]);
    assert!(files(&world) == files_before, "{:?}", files(&world).keys());
}
