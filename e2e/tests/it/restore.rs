//! Filling a database from the bucket: once, whole, verified, or not at all.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, World};

use crate::commit::commits_once;

fn with_history(mode: &str) -> World {
    let world = World::new("restore");
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"));
    for _ in 0..10 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(20000)); UPDATE t SET v = randomblob(3000) WHERE id % 3 = 0");
    }
    session.close(0).unwrap();
    world
}

/// Opening must fail, with a message that contains the words, and leave no database.
#[track_caller]
fn refuses(world: &World, words: &[&str]) {
    for host in [Host::Newest, Host::Python] {
        refused_by(world, host, words);
    }
}

#[track_caller]
fn refused_by(world: &World, host: Host, words: &[&str]) {
    let started = Instant::now();
    let Err((error, session)) = world.try_open(host) else { panic!("{words:?}: must not open") };
    assert!(error.primary() != 0, "{error:?}");
    let log = session.stderr();
    let text = format!("{log}\n{}", error.message).to_lowercase();
    for word in words {
        assert!(text.contains(&word.to_lowercase()), "the message must name {word:?}: {log}");
    }
    assert!(started.elapsed() < Duration::from_secs(40), "took {:?}", started.elapsed());
    let left = std::fs::metadata(world.db()).map_or(0, |m| m.len());
    assert_eq!(left, 0, "no database may be left");
}

#[test]
fn several_processes_that_open_at_once_all_get_it_and_one_downloads() {
    for mode in ["DELETE", "WAL"] {
        let world = with_history(mode);
        world.lose_local_files();
        let hosts = [Host::Newest, Host::Python, Host::Newest, Host::Python, Host::Newest, Host::Newest];
        let mut sessions: Vec<_> = hosts.iter().map(|h| world.host(*h)).collect();
        world.proxy.clear();
        for session in &mut sessions {
            session.send(&serde_json::json!({"op": "open", "conn": 0, "name": world.uri()}));
            session.send_sql(0, "SELECT count(*) FROM t");
        }
        for session in &mut sessions {
            session.answer().unwrap_or_else(|e| panic!("{mode}: open: {e:?}\n{}", session.stderr()));
            let rows = session.answer().unwrap_or_else(|e| panic!("{mode}: {e:?}\n{}", session.stderr()));
            assert_eq!(rows, [[10]]);
        }
        let mut seen = HashSet::new();
        for request in world.proxy.requests() {
            if request.method == "GET" && !request.is_list() {
                let part = (request.target.clone(), request.headers.get("range").cloned());
                assert!(seen.insert(part), "{mode}: fetched twice: {request:?}");
            }
        }
        assert!(!seen.is_empty());
        let (first, others) = sessions.split_first_mut().unwrap();
        first.sql("INSERT INTO t(v) VALUES('the proof, with the new local state')");
        commits_once(&world, first, "INSERT INTO t(v) VALUES('first')");
        commits_once(&world, &mut others[0], "INSERT INTO t(v) VALUES('second')");
    }
}

#[test]
fn two_threads_of_nobody_but_two_connections_of_one_process_get_it() {
    let world = with_history("WAL");
    world.lose_local_files();
    let mut session = world.host(Host::Newest);
    for connection in 0..4 {
        session.open(connection, &world.uri()).unwrap();
    }
    for connection in 0..4 {
        assert_eq!(session.exec(connection, "SELECT count(*) FROM t").unwrap(), [[10]]);
    }
}

#[test]
fn a_large_object_is_fetched_in_ranges() {
    let world = World::new("ranges");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    session.sql("INSERT INTO t VALUES(randomblob(60000000))");
    let key = world.log_key(world.last());
    world.proxy.clear();
    world.assert_restores_equal(&mut session);
    let requests = world.proxy.requests();
    let ranges: HashSet<_> = requests
        .iter()
        .filter(|r| r.method == "GET" && r.target.contains(&key))
        .map(|r| r.headers.get("range").cloned())
        .collect();
    assert!(ranges.len() > 3 && !ranges.contains(&None), "{ranges:?}");
}

/// A WAL of a database that is gone must not be replayed onto the restored one.
#[test]
fn stale_files_beside_a_missing_database_are_removed() {
    for (mode, suffix) in [("WAL", "wal"), ("DELETE", "journal")] {
        for empty_main in [false, true] {
            let world = with_history(mode);
            let mut session = world.open(Host::Newest);
            let sum = session.value("SELECT sum(length(v)) || hex(max(v)) FROM t");
            session.close(0).unwrap();
            // A process dies and leaves a WAL with commits, or a hot journal, of the same database without the
            // extension: then the main file is lost.
            let mut stock = world.stock(Host::Newest);
            stock.open(0, &world.db().display().to_string()).unwrap();
            stock.sql("PRAGMA cache_size = 2; UPDATE t SET v = 'stale'; INSERT INTO t(v) VALUES('stale')");
            stock.sql("BEGIN; UPDATE t SET v = zeroblob(40000)");
            stock.kill();
            assert!(std::fs::metadata(world.beside(suffix)).unwrap().len() > 0);
            std::fs::remove_file(world.db()).unwrap();
            if empty_main {
                std::fs::write(world.db(), b"").unwrap();
            }
            let mut session = world.open(Host::Newest);
            assert_eq!(session.number("SELECT count(*) FROM t"), 10, "{mode}");
            assert_eq!(session.value("SELECT sum(length(v)) || hex(max(v)) FROM t"), sum, "{mode}");
            world.assert_restores_equal(&mut session);
        }
    }
}

#[test]
fn an_unreachable_store_is_never_an_empty_database() {
    let mut world = with_history("DELETE");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 2);
    world.lose_local_files();
    world.proxy.refuse();
    let endpoint = world.proxy.endpoint();
    refuses(&world, &[&endpoint]);
    world.proxy.heal();
    let mut session = world.open(Host::Newest);
    assert_eq!(session.number("SELECT count(*) FROM t"), 10);
}

#[test]
fn a_silent_store_is_never_an_empty_database() {
    let mut world = with_history("DELETE");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 2);
    world.lose_local_files();
    world.proxy.fail(Fault::Hang);
    refuses(&world, &[]);
    world.proxy.heal();
    // The tries run out, or the time does.
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
    world.proxy.fail(Fault::Status(503));
    refuses(&world, &["503"]);
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 3);
    for host in [Host::Newest, Host::Python] {
        world.proxy.heal();
        world.proxy.fail_at(1, Fault::Status(503));
        world.proxy.fail(Fault::Hang);
        refused_by(&world, host, &["503", "3.0 s"]);
    }
}

#[test]
fn a_missing_bucket_is_named() {
    let mut world = World::new("nobucket");
    world.set("LIBSQL_BOTTOMLESS_BUCKET", "not-there");
    refuses(&world, &["not-there", "bucket"]);
}

#[test]
fn wrong_credentials_are_named_and_not_shown() {
    let mut world = with_history("DELETE");
    world.lose_local_files();
    world.set("AWS_SECRET_ACCESS_KEY", "the-wrong-secret");
    refuses(&world, &["credential"]);
    let Err((_, session)) = world.try_open(Host::Newest) else { panic!("must not open") };
    assert!(!session.stderr().contains("the-wrong-secret"));
}

/// Without credentials a local service is asked unsigned. When it refuses, the message says what is missing, and no
/// seconds are lost on a metadata service.
#[test]
fn missing_credentials_are_named_at_once() {
    let mut world = with_history("DELETE");
    world.lose_local_files();
    world.unset("AWS_ACCESS_KEY_ID");
    world.unset("AWS_SECRET_ACCESS_KEY");
    world.proxy.fail(Fault::Status(403));
    let started = Instant::now();
    refuses(&world, &["credentials"]);
    assert!(started.elapsed() < Duration::from_secs(8), "two opens took {:?}", started.elapsed());
}

/// Any damage to any object that a restore needs makes the open fail; no damaged database is put in place.
#[test]
fn damaged_objects_are_never_restored() {
    let world = with_history("DELETE");
    world.lose_local_files();
    // The second holds every page, so that the first is not needed; each later one holds a row that no other has.
    let objects: Vec<_> = world.objects().into_iter().skip(1).collect();
    assert!(objects.len() > 10, "{objects:?}");
    for object in objects.iter().step_by(objects.len() / 4) {
        let content = world.bucket.get(&object.key);
        for offset in [0, 5, 60, 110, content.len() / 2, content.len() - 20, content.len() - 3] {
            let mut damaged = content.clone();
            damaged[offset] ^= 0x10;
            world.bucket.put(&object.key, &damaged);
            let Err((_, session)) = world.try_open(Host::Newest) else {
                panic!("{}: damage at {offset} of {} opened", object.key, content.len())
            };
            assert!(session.stderr().contains(".ltx"), "the object is named: {}", session.stderr());
            assert_eq!(std::fs::metadata(world.db()).map_or(0, |m| m.len()), 0);
        }
        world.bucket.put(&object.key, &content[..content.len() / 2]);
        assert!(world.try_open(Host::Newest).is_err(), "{}: cut in half", object.key);
        world.bucket.put(&object.key, &content);
    }
    let mut session = world.open(Host::Newest);
    assert_eq!(session.number("SELECT count(*) FROM t"), 10);
}

#[test]
fn a_gap_in_the_log_is_never_restored_over() {
    let world = with_history("WAL");
    world.lose_local_files();
    let log = world.log();
    for txid in [log[0], log[log.len() / 2]] {
        let content = world.bucket.get(&world.log_key(txid));
        world.bucket.delete(&world.log_key(txid));
        refuses(&world, &[]);
        world.bucket.put(&world.log_key(txid), &content);
    }
    world.open(Host::Newest);
}

/// An object of another database in the place of one of ours is as bad as a damaged one.
#[test]
fn an_object_of_another_history_is_noticed() {
    let (world, other) = (with_history("DELETE"), with_history("DELETE"));
    world.lose_local_files();
    let last = world.last();
    assert_eq!(other.last(), last);
    let content = other.bucket.get(&other.log_key(last));
    world.bucket.put(&world.log_key(last), &content);
    refuses(&world, &[]);
}

/// Killed in the middle of a restore: the next open finds no half database.
#[test]
fn a_restore_that_dies_leaves_nothing() {
    let world = with_history("DELETE");
    world.lose_local_files();
    let key = world.log_key(3);
    world.proxy.fail_only(Some("GET"), &key, Fault::Hang);
    let mut session = world.host(Host::Newest);
    session.send(&serde_json::json!({"op": "open", "conn": 0, "name": world.uri()}));
    session.send_sql(0, "SELECT count(*) FROM t");
    world.proxy.wait_for(|r| r.method == "GET" && r.target.contains(&key));
    session.kill();
    assert_eq!(std::fs::metadata(world.db()).map_or(0, |m| m.len()), 0);
    world.proxy.heal();
    let mut session = world.open(Host::Newest);
    assert_eq!(session.number("SELECT count(*) FROM t"), 10);
    let files: Vec<_> = std::fs::read_dir(world.folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with(world.id()))
        .collect();
    assert!(files.len() <= 3, "no temporary file is left: {files:?}");
    world.assert_restores_equal(&mut session);
}
