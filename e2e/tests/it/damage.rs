//! Damage in the bucket: what opening and `bottomless-cli restore` say and do, each object in turn.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bottomless_e2e::{Host, Layout, World, compare, shell, tools};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Deleted,
    Truncated,
    Empty,
    Header,
    Body,
    Trailer,
    Others,
    Older,
}

use Damage::{Body, Deleted, Empty, Header, Older, Others, Trailer, Truncated};

const ALL: [Damage; 8] = [Deleted, Truncated, Empty, Header, Body, Trailer, Others, Older];

impl Damage {
    fn apply(self, world: &World, key: &str, others: &[u8], older: &[u8]) {
        let whole = world.bucket.get(key);
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x04;
            bytes
        };
        let bytes = match self {
            Deleted => return world.bucket.delete(key),
            Truncated => whole[..whole.len() / 2].to_vec(),
            Empty => Vec::new(),
            Header => flipped(60),
            Body => flipped(whole.len() / 2),
            Trailer => flipped(whole.len() - 3),
            Others => others.to_vec(),
            Older => older.to_vec(),
        };
        assert_ne!(bytes, whole, "{self:?} of {key} is no damage");
        world.bucket.put(key, &bytes);
    }
}

/// A database whose page size changed at TXID 5: then the extension also writes a snapshot, so that two ways lead there.
fn history() -> (World, Vec<Vec<u8>>) {
    let world = World::new("damage");
    let mut session = world.open(Host::Newest);
    session.sql("PRAGMA page_size = 1024; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for _ in 2..=4 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(9000))");
    }
    session.sql("PRAGMA page_size = 4096; VACUUM");
    for _ in 6..=8 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(9000))");
    }
    session.close(0).unwrap();
    assert_eq!(world.last(), 8);
    let log = (1..=8).map(|txid| world.bucket.get(&world.log_key(txid))).collect();
    (world, log)
}

fn snapshot_key(world: &World) -> String {
    format!("{}/0009/{:016x}-{:016x}.ltx", world.id(), 1, 5)
}

fn cli(world: &World, output: &Path, more: &[&str]) -> Output {
    Command::new(tools::extension().with_file_name("bottomless-cli"))
        .args(["restore", "-d", world.id(), "-o"])
        .arg(output)
        .args(more)
        .env_clear()
        .envs(&world.environment)
        .output()
        .expect("run bottomless-cli")
}

fn fresh(world: &World, name: &str) -> PathBuf {
    let path = world.folder().join(name);
    let _ = std::fs::remove_file(&path);
    path
}

/// Opens into an empty folder, in a process of its own: whether it opened, and what standard error says.
fn open_elsewhere(world: &World, expected: Option<&Path>) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(world.id());
    let mut session = world.host(Host::Newest);
    let uri = format!("file:{}?vfs=bottomless", path.display());
    let opened = session.open(0, &uri).and_then(|()| session.exec(0, "SELECT count(*) FROM t"));
    let is_open = opened.is_ok();
    match expected.filter(|_| is_open) {
        Some(expected) => {
            session.close(0).unwrap();
            compare::assert_same_pages(expected, &path);
        }
        None => assert_eq!(std::fs::metadata(&path).map_or(0, |file| file.len()), 0, "no database is put in place"),
    }
    (is_open, session.stderr())
}

/// An object that nothing replaces: both say which, what is wrong and what to do, and touch nothing.
#[test]
fn damage_that_nothing_replaces_is_named() {
    let (world, log) = history();
    let (_other, others) = history();
    let (last, local) = (world.last(), std::fs::read(world.db()).unwrap());
    for (txid, kinds) in [(6, &ALL[..]), (7, &[Truncated, Others, Body]), (8, &[Header, Older])] {
        for &kind in kinds {
            let key = world.log_key(txid);
            let older = &log[txid as usize - 2];
            kind.apply(&world, &key, &others[txid as usize - 1], older);
            let damaged = world.objects();
            let file = fresh(&world, "restored.db");
            let output = cli(&world, &file, &[]);
            let (opened, log_of_open) = open_elsewhere(&world, None);
            assert!(!opened && !output.status.success(), "{kind:?} of {key}");
            assert_eq!(shell::text(&output), "", "standard output is data only");
            assert!(!file.exists(), "{kind:?} of {key}");
            for text in [shell::errors(&output), log_of_open] {
                let (named, advice) = match kind {
                    Deleted => (format!("TXIDs {txid:016x} to {txid:016x}"), "bring them back"),
                    _ => (key.clone(), "bring the object back"),
                };
                assert!(text.contains(&named) && text.contains(advice), "{kind:?} of {key}: {text}");
                assert!(kind == Deleted || text.contains("can't be restored"), "{kind:?} of {key}: {text}");
            }
            // What the message says can still be had, is.
            if kind != Deleted {
                let text = shell::errors(&output);
                let advised = text.split("--txid ").nth(1).expect("an earlier TXID").get(..16).unwrap();
                let output = cli(&world, &file, &["--txid", advised]);
                assert!(output.status.success(), "{kind:?} of {key}: {advised}: {}", shell::errors(&output));
            }
            assert_eq!(world.objects(), damaged, "the damaged object is left as it is");
            world.bucket.put(&key, &log[txid as usize - 1]);
        }
    }
    assert_eq!((world.last(), std::fs::read(world.db()).unwrap()), (last, local), "the local database is untouched");
    assert!(open_elsewhere(&world, Some(&world.db())).0);
}

/// A damaged snapshot that the log replaces: the same pages, with a warning that names it.
#[test]
fn a_damaged_snapshot_is_restored_around() {
    let (world, log) = history();
    let (other, _) = history();
    let key = snapshot_key(&world);
    let whole = world.bucket.get(&key);
    let others = other.bucket.get(&snapshot_key(&other));
    for kind in ALL {
        kind.apply(&world, &key, &others, &log[0]);
        let damaged = world.objects();
        let file = fresh(&world, "restored.db");
        let output = cli(&world, &file, &["--json"]);
        assert!(output.status.success(), "{kind:?}: {}", shell::errors(&output));
        compare::assert_same_pages(&world.db(), &file);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON text and nothing else");
        assert_eq!(json["txid"], "0000000000000008");
        let (opened, log_of_open) = open_elsewhere(&world, Some(&world.db()));
        assert!(opened, "{kind:?}: {log_of_open}");
        for text in [shell::errors(&output), log_of_open] {
            if kind == Deleted {
                assert_eq!(text, "", "what was never listed is not missed");
            } else {
                assert!(text.contains("WARN") && text.contains(&key), "{kind:?}: {text}");
                assert!(text.contains(world.bucket.name()), "{kind:?}: {text}");
            }
        }
        assert_eq!(world.objects(), damaged, "the damaged object is left as it is");
        world.bucket.put(&key, &whole);
    }
}

/// The other way round: a snapshot that covers damaged transactions. What it covers is not even read.
#[test]
fn damage_behind_a_snapshot_does_no_harm() {
    let (world, log) = history();
    for txid in 1..=5 {
        world.bucket.put(&world.log_key(txid), &log[txid as usize - 1][..50]);
    }
    let (opened, log_of_open) = open_elsewhere(&world, Some(&world.db()));
    assert!(opened && log_of_open.is_empty(), "{log_of_open}");
    // Copied to the level of snapshots, the first transaction is one: it holds every page.
    world.bucket.put(&format!("{}/0009/{:016x}-{:016x}.ltx", world.id(), 1, 1), &log[0]);
    let output = cli(&world, &fresh(&world, "first.db"), &["--txid", "0000000000000001"]);
    assert!(output.status.success(), "{}", shell::errors(&output));
    assert!(shell::errors(&output).contains(&world.log_key(1)), "{}", shell::errors(&output));
}

/// Who has the database open does not read old objects; and damage does not keep a commit from being stored.
#[test]
fn an_open_writer_goes_on_while_an_old_object_is_damaged() {
    let (world, log) = history();
    let mut session = world.open(Host::Newest);
    world.bucket.put(&world.log_key(7), &log[6][..80]);
    for _ in 0..3 {
        session.sql("INSERT INTO t(v) VALUES('on')");
    }
    assert_eq!(world.last(), 11);
    session.close(0).unwrap();
    // And opens again: it is where the bucket is.
    let mut session = world.open(Host::Newest);
    session.sql("INSERT INTO t(v) VALUES('again')");
    assert_eq!(world.last(), 12);
    world.bucket.put(&world.log_key(7), &log[6]);
    world.assert_restores_equal(&mut session);
}

/// A machine that is behind is caught up around the damage, or told of it; its file is not touched then.
#[test]
fn a_local_file_that_is_behind_is_caught_up_or_left() {
    let world = World::new("behind");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES(randomblob(5000))");
    session.close(0).unwrap();
    let old = std::fs::read(world.db()).unwrap();
    let mut session = world.open(Host::Newest);
    session.sql("INSERT INTO t VALUES('third')");
    session.close(0).unwrap();
    let new = std::fs::read(world.db()).unwrap();
    world.lose_local_files();
    std::fs::write(world.db(), &old).unwrap();

    let key = world.log_key(3);
    let whole = world.bucket.get(&key);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    world.bucket.put(&key, &flipped);
    let Err((_, session)) = world.try_open(Host::Newest) else { panic!("opened with damage") };
    assert!(session.stderr().contains(&key) && session.stderr().contains("bring the object back"));
    drop(session);
    assert_eq!(std::fs::read(world.db()).unwrap(), old);

    // The same transaction once more, as a compacted run.
    world.bucket.put(&key.replace("/0000/", "/0001/"), &whole);
    let session = world.open(Host::Newest);
    assert!(session.stderr().contains(&key), "{}", session.stderr());
    assert!(std::fs::read(world.db()).unwrap() == new);
}

/// A page object, or the marker, is damaged: as long as the log is there it leads around, with a warning that names the object;
/// without the log both programs say which object it is, and touch nothing.
#[test]
fn a_damaged_page_object_is_restored_around_or_named() {
    let world = World::new("damagedpages").laid_out(Layout::Pages);
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    for _ in 2..=4 {
        session.sql("INSERT INTO t(v) VALUES(randomblob(9000))");
    }
    world.fold(&mut session, "whole");
    session.sql("INSERT INTO t(v) VALUES('behind the marker')");
    session.kill();
    drop(world.open(Host::Newest));
    let whole = world.restore_elsewhere();
    let page = |number: u32| format!("{}-{number:012}", world.id());
    let marker = world.key_of((World::MARKER, 1, world.marker()));
    // Not the first and the third: what follows the marker has them.
    let (page, other) = (page(5), world.bucket.get(&page(6)));
    let log: Vec<_> = world.log().into_iter().map(|txid| (txid, world.bucket.get(&world.log_key(txid)))).collect();
    for has_log in [true, false] {
        for (txid, _) in log.iter().filter(|(txid, _)| !has_log && *txid <= world.marker()) {
            world.bucket.delete(&world.log_key(*txid));
        }
        for (key, kinds) in
            [(&page, &[Deleted, Truncated, Empty, Body, Others][..]), (&marker, &[Truncated, Empty, Header])]
        {
            let content = world.bucket.get(key);
            for &kind in kinds {
                kind.apply(&world, key, &other, &[]);
                let objects = (world.objects(), world.page_objects());
                let file = fresh(&world, "restored.db");
                let output = cli(&world, &file, &[]);
                let (opened, log_of_open) = open_elsewhere(&world, Some(&whole).filter(|_| has_log).map(|v| &**v));
                let what = format!("{kind:?} of {key}, with the log: {has_log}");
                assert_eq!((output.status.success(), opened), (has_log, has_log), "{what}: {}", shell::errors(&output));
                if has_log {
                    compare::assert_same_pages(&whole, &file);
                } else {
                    assert!(!file.exists(), "{what}");
                }
                // Which of the pages is another one, only their checksum as a whole can tell: that is the marker's.
                let named = if [Body, Others].contains(&kind) { &marker } else { key };
                for text in [shell::errors(&output), log_of_open] {
                    assert!(text.contains(named), "{what}: {text}");
                }
                assert_eq!(
                    (world.objects(), world.page_objects()),
                    objects,
                    "{what}: the damaged object is left as it is"
                );
                world.bucket.put(key, &content);
            }
        }
    }
    assert!(open_elsewhere(&world, Some(&whole)).0);
}
