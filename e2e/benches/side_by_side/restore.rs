//! Restoring a database with a history of many small commits.
//!
//! The history is made by committing through the extension while it compacts by itself, with all intervals shortened by
//! the factor by which the commits come faster than ten a second: so the bucket holds what it would hold then, after
//! 2.8 hours. Like Litestream's own, its log is then cut where it is compacted (ours would be kept for a day).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bottomless_e2e::bucket::{Bucket, Object};
use bottomless_e2e::seaweed::Seaweed;
use bottomless_e2e::{litestream, tools};
use rusqlite::{Connection, OpenFlags};

use crate::{Words, at, timed};

const DATABASE_BYTES: u64 = 256 << 20;
const COMMITS: u64 = 100_000;
/// What the intervals are for.
const COMMITS_PER_SECOND: f64 = 10.0;
/// Seconds between objects of level 1, 2 and 3, and between snapshots, by default.
const INTERVALS: [(&str, f64); 4] = [
    ("level1_interval", 30.0),
    ("level2_interval", 300.0),
    ("level3_interval", 3600.0),
    ("snapshot_interval", 86_400.0),
];
const ROUNDS: usize = 5;
/// Requests at the same time, and bytes each, of the bare download: as many as ours makes.
const PARALLEL: usize = 16;
const RUN_BYTES: u64 = 2 << 20;
const ID: &str = "restore.db";

pub(crate) fn restores() {
    let folder = tempfile::Builder::new().prefix("bottomless-bench-").tempdir().expect("a folder");
    let bucket = Bucket::new(Seaweed::shared().address(), "bench");
    let local = folder.path().join(ID);
    println!("restore of a database with {COMMITS} small commits; its history is made first, which takes minutes");
    make_history(&local);
    let listed = bucket.list(&format!("{ID}/"));
    let log = |object: &&Object| level(object) == 0;
    let compacted = listed.iter().filter(|o| level(o) > 0).map(|o| txids(o).1).max().expect("a compacted object");
    println!(
        "  {} objects in the log, {} in level 1, {} in level 2, {} in level 3; {} transactions are not compacted yet",
        listed.iter().filter(log).count(),
        listed.iter().filter(|o| level(o) == 1).count(),
        listed.iter().filter(|o| level(o) == 2).count(),
        listed.iter().filter(|o| level(o) == 3).count(),
        listed.iter().filter(|o| level(o) == 0 && txids(o).0 > compacted).count(),
    );
    let whole_log = in_turn(&folder.path().join("whole"), &bucket, &listed, &local);
    report("with the whole log", &whole_log);
    cut_log(&bucket, &listed, compacted);
    let cut = in_turn(&folder.path().join("cut"), &bucket, &bucket.list(&format!("{ID}/")), &local);
    report("with the log cut where it is compacted", &cut);
}

fn make_history(path: &Path) {
    // The speed of this machine, which the intervals are shortened by.
    let probe = open(&path.with_file_name("speed.db"), "compaction=off");
    probe
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, b INTEGER); INSERT INTO t(b) VALUES (1)")
        .expect("a row");
    let took = timed(|| {
        for _ in 0..500 {
            probe.execute("UPDATE t SET b = b + 1", ()).expect("commit");
        }
    });
    let faster = 500.0 / took.as_secs_f64() / COMMITS_PER_SECOND;
    let intervals: Vec<String> = INTERVALS.iter().map(|(name, s)| format!("{name}={:.3}", s / faster)).collect();
    let connection = open(path, &format!("compaction=on&{}", intervals.join("&")));
    connection
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER); CREATE INDEX i ON t(b); BEGIN")
        .expect("the schema");
    let mut words = Words::new();
    let mut rows = 0_u64;
    while !rows.is_multiple_of(1000) || bytes(&connection) < DATABASE_BYTES {
        let text = (0..10).map(|_| words.text()).collect::<Vec<_>>().join("\n");
        let mut statement = connection.prepare_cached("INSERT INTO t(a, b) VALUES (?1, ?2)").expect("prepare");
        statement.execute((text, words.0.i64(..))).expect("insert");
        rows += 1;
    }
    connection.execute_batch("COMMIT").expect("commit");
    for _ in 0..COMMITS {
        let mut statement = connection.prepare_cached("UPDATE t SET b = ?1 WHERE id = ?2").expect("prepare");
        let row = i64::try_from(words.0.u64(1..=rows)).expect("small");
        statement.execute((words.0.i64(..), row)).expect("update");
    }
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
}

fn open(path: &Path, parameters: &str) -> Connection {
    let uri = format!("file:{}?vfs=bottomless&{parameters}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).expect("open");
    connection.pragma_update(None, "journal_mode", "wal").expect("journal mode");
    connection
}

fn bytes(connection: &Connection) -> u64 {
    let pages: u32 = connection.query_row("PRAGMA page_count", (), |row| row.get(0)).expect("a number");
    u64::from(pages) * 4096
}

/// `<id>/<level>/<min>-<max>.ltx`
fn level(object: &Object) -> u8 {
    object.key.split('/').nth(1).and_then(|level| level.parse().ok()).unwrap_or(u8::MAX)
}

fn txids(object: &Object) -> (u64, u64) {
    let name = object.key.rsplit('/').next().and_then(|name| name.strip_suffix(".ltx")).expect("an object's name");
    let (min, max) = name.split_once('-').expect("two TXIDs");
    let hex = |text| u64::from_str_radix(text, 16).expect("a TXID");
    (hex(min), hex(max))
}

/// The objects that lead to the end, each as far as possible.
fn needed(listed: &[Object]) -> Vec<&Object> {
    let mut objects: Vec<&Object> = Vec::new();
    let mut at = 0;
    let reaching = |at| move |object: &&Object| level(object) < 10 && txids(object).0 <= at + 1 && txids(object).1 > at;
    while let Some(next) = listed.iter().filter(reaching(at)).max_by_key(|object| txids(object).1) {
        at = txids(next).1;
        objects.push(next);
    }
    objects
}

fn cut_log(bucket: &Bucket, listed: &[Object], up_to: u64) {
    // The first transaction is in no compacted object before the first snapshot.
    let keys = listed.iter().filter(|o| level(o) == 0 && (2..=up_to).contains(&txids(o).0)).map(|o| o.key.clone());
    let queue = Mutex::new(keys.collect::<Vec<_>>());
    let next = || queue.lock().expect("no panic").pop();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(key) = next() {
                    bucket.delete(&key);
                }
            });
        }
    });
}

#[derive(Default)]
struct Times {
    ours: Vec<Duration>,
    litestream: Vec<Duration>,
    download: Vec<Duration>,
    write: Vec<Duration>,
    bytes: u64,
    objects: usize,
}

fn in_turn(folder: &Path, bucket: &Bucket, listed: &[Object], local: &Path) -> Times {
    std::fs::create_dir(folder).expect("a folder");
    let needed = needed(listed);
    let mut times = Times { bytes: needed.iter().map(|o| o.size).sum(), objects: needed.len(), ..Times::default() };
    let content = std::fs::read(local).expect("the local file");
    let mut order = fastrand::Rng::with_seed(11);
    for round in 0..ROUNDS {
        let mut turns = [0, 1, 2, 3];
        order.shuffle(&mut turns);
        for turn in turns {
            let output = folder.join(format!("{turn}-{round}.db"));
            match turn {
                0 => times.ours.push(timed(|| ours(&output))),
                1 => times.litestream.push(timed(|| litestream(folder, &output))),
                2 => times.download.push(timed(|| download(bucket, &needed))),
                _ => times.write.push(timed(|| write(&content, &output))),
            }
            if turn < 2 {
                assert!(std::fs::read(&output).expect("the restored file") == content, "{} differs", output.display());
            }
            // The next one is not to wait for what this one left to be written.
            rustix::fs::sync();
            let _ = std::fs::remove_file(output);
        }
    }
    times
}

fn ours(output: &Path) {
    let cli = tools::extension().with_file_name("bottomless-cli");
    let mut command = Command::new(cli);
    command.args(["restore", "-d", ID, "-o"]).arg(output).stdout(Stdio::null());
    assert!(command.status().expect("run bottomless-cli").success());
}

fn litestream(folder: &Path, output: &Path) {
    let mut command = litestream::command_in(&tools::tool("litestream"), folder);
    command.args(["restore", "-o"]).arg(output).arg(litestream::url_of("bench", ID));
    let result = command.output().expect("run litestream");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
}

/// All bytes of the objects, in parallel, and thrown away.
fn download(bucket: &Bucket, objects: &[&Object]) {
    let pieces = objects.iter().flat_map(|object| {
        let starts = (0..object.size).step_by(usize::try_from(RUN_BYTES).expect("small"));
        starts.map(move |start| (&object.key, start, object.size.min(start + RUN_BYTES) - 1))
    });
    let queue = Mutex::new(pieces.collect::<VecDeque<_>>());
    let next = || queue.lock().expect("no panic").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                while let Some((key, first, last)) = next() {
                    let mut body = bucket.get_part(key, first, last);
                    while body.read(&mut buffer).expect("a reply") > 0 {}
                }
            });
        }
    });
}

/// A file of the database's size, durable as a restored one is.
fn write(content: &[u8], output: &Path) {
    let mut file = File::create(output).expect("a file");
    for piece in content.chunks(1 << 20) {
        file.write_all(piece).expect("write");
    }
    file.sync_all().expect("sync");
}

fn report(what: &str, times: &Times) {
    let ms = |times: &[Duration]| at(times, 50) / 1e3;
    let Times { bytes, objects, .. } = times;
    println!("\n  {what}: {objects} objects, {:.1} MiB, {ROUNDS} of each, in turn", *bytes as f64 / f64::from(1 << 20));
    for (name, times) in [
        ("bare parallel download of these", &times.download),
        ("writing a file of the database's size", &times.write),
        ("bottomless-cli restore", &times.ours),
        ("litestream restore", &times.litestream),
    ] {
        println!("  {name:<40} p50 {:>9.1} ms   slowest {:>9.1} ms", ms(times), at(times, 100) / 1e3);
    }
    let floor = ms(&times.download).max(ms(&times.write));
    println!("  bottomless / the slower of the first two  {:.2}", ms(&times.ours) / floor);
    println!("  litestream / the same                     {:.2}", ms(&times.litestream) / floor);
    println!("  litestream / bottomless                   {:.2}\n", ms(&times.litestream) / ms(&times.ours));
}
