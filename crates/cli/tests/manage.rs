//! Commands that make and remove databases: `branch`, `import` and `rm`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_WRLCK, SEEK_SET, flock};
use serde_json::json;
use support::{World, pages, sqlite};

fn restored(world: &World, id: &str, more: &[&str]) -> Vec<u8> {
    let file = world.path("restored");
    let ran = world.run(&[&["restore", "-f", "-d", id, "-o", file.to_str().unwrap()], more].concat());
    assert_eq!(ran.code(), Some(0), "{}", ran.err());
    fs::read(file).unwrap()
}

#[test]
fn a_branch_begins_at_any_point_and_goes_its_own_way() {
    let world = World::new();
    let states = world.three_transactions();
    let json = world.run(&["branch", "test.db", "b.db", "--txid", "0000000000000002", "--json"]).json();
    assert_eq!((&json["branch"], &json["txid"]), (&json!("b.db"), &json!("0000000000000002")));
    world.put("b.db", 0, (3, 3), &states[1], &pages(&[9, 9]));
    assert!(restored(&world, "b.db", &[]) == pages(&[9, 9]));
    assert!(restored(&world, "test.db", &[]) == states[2]);

    let at_a_time = world.run(&["branch", "test.db", "c.db", "--timestamp", "1 minute ago"]);
    assert_eq!(at_a_time.code(), Some(0), "{}", at_a_time.err());
    assert!(restored(&world, "c.db", &[]) == states[2]);

    let occupied = world.run(&["branch", "test.db", "b.db"]);
    assert!(occupied.failed(1).contains("rm -d b.db"), "{}", occupied.err());
    assert!(world.run(&["branch", "test.db", "test.db/x"]).failed(1).contains("within"));
    assert!(world.run(&["branch", "none.db", "d.db"]).failed(1).contains("no database none.db"));
    assert!(
        world.run(&["branch", "test.db", "d.db", "--txid", "00000000000000ff"]).failed(1).contains("ends with TXID")
    );
    for usage in [&["branch", "test.db"][..], &["branch", "test.db", "/"], &["branch", "a", "b", "--timestamp", "soon"]]
    {
        world.run(usage).failed(2);
    }
    assert!(world.keys("d.db").is_empty());
}

#[test]
fn a_folder_of_buckets_can_be_branched() {
    let world = World::new();
    let endpoint = format!("file://{}", world.folder.path().display());
    let run = |arguments: &[&str]| world.run(&[&["-e", &endpoint], arguments].concat());
    assert_eq!(run(&["create-bucket"]).code(), Some(0));
    fs::write(world.path("a.db"), sqlite(&[1, 2])).unwrap();
    assert_eq!(run(&["import", world.path("a.db").to_str().unwrap()]).code(), Some(0));
    assert_eq!(run(&["branch", "a.db", "b.db"]).code(), Some(0));
    assert_eq!(run(&["rm", "-d", "a.db", "--yes"]).code(), Some(0));
    let out = world.path("out.db");
    assert_eq!(run(&["restore", "-d", "b.db", "-o", out.to_str().unwrap()]).code(), Some(0));
    assert!(fs::read(out).unwrap() == sqlite(&[1, 2]));
}

#[test]
fn rm_shows_what_it_would_do_and_does_it_when_told() {
    let world = World::new();
    world.three_transactions();
    world.put_bytes("test.db/notes", vec![1]);
    world.put_bytes("test.db2/0000/notes", vec![1]);
    let before = world.keys("test.db");

    world.server.reset_log();
    let shown = world.run(&["rm", "-d", "test.db"]);
    assert_eq!((shown.code(), shown.err()), (Some(0), ""));
    assert!(shown.out().contains("--yes") && shown.out().contains("test.db/notes"), "{}", shown.out());
    let json = world.run(&["rm", "-d", "test.db", "--json"]).json();
    assert_eq!(
        (&json["done"], &json["objects"], &json["foreign_objects"]),
        (&json!(false), &json!(4), &json!(["test.db/notes"]))
    );
    let levels: Vec<_> = json["levels"].as_array().unwrap().iter().map(|l| (&l["level"], &l["objects"])).collect();
    assert_eq!(levels, [(&json!(0), &json!(3)), (&json!(9), &json!(1))]);
    assert!(world.server.requests().iter().all(|request| request.method == "GET"), "only looked at");
    assert_eq!(world.keys("test.db"), before);

    let json = world.run(&["rm", "-d", "test.db", "--yes", "--json"]).json();
    assert_eq!((&json["done"], &json["objects"]), (&json!(true), &json!(4)));
    assert_eq!(world.keys("test.db"), ["test.db/notes"]);
    assert_eq!(world.keys("test.db2"), ["test.db2/0000/notes"]);
    assert!(world.run(&["rm", "-d", "test.db", "--yes"]).failed(1).contains("no database test.db"));
    assert!(world.run(&["rm", "--yes"]).failed(2).contains("-d"));
}

/// Ten transactions in the log.
fn log(world: &World, id: &str) -> Vec<u8> {
    let mut before = Vec::new();
    for txid in 1..=10 {
        let after = pages(&[1, 2, u8::try_from(txid).unwrap()]);
        world.put(id, 0, (txid, txid), &before, &after);
        before = after;
    }
    before
}

#[test]
fn compact_and_snapshot_merge_and_delete_nothing_that_is_protected() {
    let world = World::new();
    let last = log(&world, "test.db");
    let json = world.run(&["compact", "-d", "test.db", "--retention", "1s", "--json"]).json();
    let made = |json: &serde_json::Value| {
        json["made"].as_array().unwrap().iter().map(|made| made["level"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(made(&json).first(), Some(&1), "{json}");
    assert_eq!((&json["deleted_objects"], &json["not_deleted"]), (&json!(0), &json!(null)), "the fence window");
    assert!(restored(&world, "test.db", &[]) == last);

    let after = pages(&[7, 8, 9]);
    world.put("test.db", 0, (11, 11), &last, &after);
    let json = world.run(&["snapshot", "-d", "test.db", "--json"]).json();
    assert!(made(&json).contains(&9), "{json}");
    assert!(world.keys("test.db/0009").iter().any(|key| key.ends_with("0000000000000001-000000000000000b.ltx")));
    assert!(restored(&world, "test.db", &[]) == after);
    let again = world.run(&["snapshot", "-d", "test.db"]);
    assert!(again.out().contains("nothing to merge"), "{}", again.out());

    for command in ["compact", "snapshot"] {
        assert!(world.run(&[command, "-d", "none.db"]).failed(1).contains("no database none.db"));
        assert!(world.run(&[command, "-d", "test.db", "--retention", "soon"]).failed(2).contains("24h"));
        let mut wrong = world.command(&[command, "-d", "test.db"]);
        let ran = support::Ran(wrong.env("LIBSQL_BOTTOMLESS_RETENTION", "soon").output().unwrap());
        assert!(ran.failed(2).contains("LIBSQL_BOTTOMLESS_RETENTION"), "{}", ran.err());
    }
}

#[test]
fn rm_older_than_deletes_what_is_replaced_and_nothing_else() {
    let world = World::new();
    world.put_bytes(
        "test.db/bottomless.json",
        br#"{"fence_window_seconds": 0.2, "fence_window_before_seconds": 0.2}"#.to_vec(),
    );
    let last = log(&world, "test.db");
    let rm = |more: &[&str]| world.run(&[&["rm", "-d", "test.db", "--older-than"], more].concat());
    assert!(rm(&["1s"]).out().contains("bottomless-cli compact"), "{}", rm(&["1s"]).err());
    assert_eq!(world.run(&["snapshot", "-d", "test.db", "--retention", "30d"]).code(), Some(0));
    let before = world.keys("test.db");
    assert!(rm(&["30d", "--yes"]).out().contains("Nothing of test.db can go"));
    // The store's clock goes on.
    let began = Instant::now();
    let shown = loop {
        let json = rm(&["0.2", "--json"]).json();
        if json["objects"].as_u64() >= Some(10) {
            break json;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{json}");
    };
    assert_eq!((&shown["done"], &shown["oldest_restorable"]["txid"]), (&json!(false), &json!("000000000000000a")));
    assert_eq!(world.keys("test.db"), before, "only shown");
    let json = rm(&["0.2", "--yes", "--json"]).json();
    assert_eq!(
        (&json["done"], &json["objects"], &json["not_deleted"]),
        (&json!(true), &shown["objects"], &json!(null))
    );
    assert_eq!(
        world.keys("test.db"),
        ["test.db/0009/0000000000000001-000000000000000a.ltx", "test.db/bottomless.json"]
    );
    assert!(restored(&world, "test.db", &[]) == last);
    for wrong in ["soon", "0", "2999-01-01T00:00:00Z"] {
        assert_eq!(world.run(&["rm", "-d", "test.db", &format!("--older-than={wrong}")]).code(), Some(2), "{wrong}");
    }
}

#[test]
fn import_makes_a_file_the_first_transaction() {
    let world = World::new();
    let file = world.path("app.db");
    let content = sqlite(&[1, 2, 3]);
    fs::write(&file, &content).unwrap();
    let ran = world.run(&["import", file.to_str().unwrap(), "--json"]);
    let json = ran.json();
    assert_eq!(
        (&json["database"], &json["txid"], &json["pages"]),
        (&json!("app.db"), &json!("0000000000000001"), &json!(3))
    );
    assert_eq!(world.keys("app.db"), ["app.db/0000/0000000000000001-0000000000000001.ltx"]);
    assert!(restored(&world, "app.db", &[]) == content);
    assert!(fs::read(&file).unwrap() == content);
    let names: Vec<_> = fs::read_dir(world.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside it: {names:?}");

    let again = world.run(&["import", file.to_str().unwrap()]);
    assert!(again.failed(1).contains("already"), "{}", again.err());
    let other = world.run(&["import", "-d", "team/app.db", file.to_str().unwrap()]);
    assert_eq!(other.code(), Some(0), "{}", other.err());
    assert!(restored(&world, "team/app.db", &[]) == content);
}

#[test]
fn import_refuses_what_is_no_whole_database() {
    let world = World::new();
    let import = |name: &str, content: &[u8], journal: Option<&[u8]>| {
        let file = world.path(name);
        fs::write(&file, content).unwrap();
        if let Some(journal) = journal {
            fs::write(world.path(&format!("{name}-journal")), journal).unwrap();
        }
        world.run(&["import", file.to_str().unwrap()])
    };
    let whole = sqlite(&[1, 2]);
    assert!(import("empty", b"", None).failed(1).contains("is empty"));
    assert!(import("text", &[b'x'; 4096], None).failed(1).contains("no SQLite database"));
    assert!(import("short", b"SQLite format 3\0", None).failed(1).contains("no SQLite database"));
    assert!(import("cut", whole.split_at(700).0, None).failed(1).contains("damaged"));
    assert!(import("hot", &whole, Some(b"\xd9\xd5\x05\xf9")).failed(1).contains("rolled back"));
    assert!(world.run(&["import", "none.db"]).failed(1).contains("none.db can't be read"));
    assert!(world.run(&["import", world.folder.path().to_str().unwrap()]).failed(1).contains("no file"));
    for name in ["empty", "text", "short", "cut", "hot"] {
        assert!(world.keys(name).is_empty(), "{name}");
    }
    // Journals that have ended.
    for (name, journal) in [("truncated", &b""[..]), ("persistent", &[0; 28])] {
        assert_eq!(import(name, &whole, Some(journal)).code(), Some(0), "{name}");
    }
}

fn lock(file: &File, kind: i32, at: i64) {
    let [kind, whence] = [kind, SEEK_SET].map(|value| i16::try_from(value).unwrap());
    let lock = flock { l_type: kind, l_whence: whence, l_start: at, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_SETLK(&lock)).unwrap();
}

#[test]
fn import_respects_the_locks_of_others() {
    let world = World::new();
    let path = world.path("app.db");
    fs::write(&path, sqlite(&[1, 2])).unwrap();
    let import = || world.run(&["import", "--wait", "0", path.to_str().unwrap()]);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // A writer that is about to commit, and one that has.
    for at in [0x4000_0000, 0x4000_0002] {
        lock(&file, F_WRLCK, at);
        let ran = import();
        assert!(ran.failed(1).contains("locked by another program"), "{}", ran.err());
        lock(&file, nix::libc::F_UNLCK, at);
    }
    // A journal of somebody who is at work is not hot: what is in the file is whole.
    fs::write(world.path("app.db-journal"), b"\xd9\xd5\x05\xf9").unwrap();
    lock(&file, F_WRLCK, 0x4000_0001);
    lock(&file, F_RDLCK, 0x4000_0002);
    assert_eq!(import().code(), Some(0));
}

#[test]
fn a_wal_in_a_folder_that_can_not_be_written_is_refused() {
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Root may write everywhere: the next best thing that can't be opened.
        let world = World::new();
        fs::write(world.path("app.db"), sqlite(&[1])).unwrap();
        fs::write(world.path("app.db-wal"), b"").unwrap();
        fs::create_dir(world.path("app.db-shm")).unwrap();
        let ran = world.run(&["import", world.path("app.db").to_str().unwrap()]);
        assert!(ran.failed(1).contains("-shm"), "{}", ran.err());
        return;
    }
    let world = World::new();
    fs::create_dir(world.path("f")).unwrap();
    fs::write(world.path("f/app.db"), sqlite(&[1])).unwrap();
    fs::write(world.path("f/app.db-wal"), b"").unwrap();
    fs::set_permissions(world.path("f"), fs::Permissions::from_mode(0o555)).unwrap();
    let ran = world.run(&["import", world.path("f/app.db").to_str().unwrap()]);
    fs::set_permissions(world.path("f"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(ran.failed(1).contains("-shm"), "{}", ran.err());
}
