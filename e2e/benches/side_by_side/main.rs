//! What a commit and a read cost, each next to its floor, measured in turn in one run against SeaweedFS on this machine.
//!
//! - A commit of one row: ours; the bare conditional PUT of such an object's bytes over one kept-alive connection; the
//!   same commit with stock SQLite. Ours can't be faster than the latter two together. Neither signs its requests.
//! - Reads of a local database: ours; stock SQLite.
//! - Restoring a database with a history of many small commits: ours; `litestream restore` from the same bucket; the bare
//!   parallel download of the objects that it takes; writing a file of that size.
//! - The two layouts: requests, objects and times of the same work.
//!
//! `make bench` runs it with the release build of the extension. Nothing here asserts a time.
#![allow(missing_docs, reason = "a benchmark has no users")]

mod layouts;
mod restore;

use std::path::Path;
use std::time::{Duration, Instant};

use bottomless_e2e::bucket::Bucket;
use bottomless_e2e::seaweed::Seaweed;
use bottomless_e2e::tools;
use rusqlite::{Connection, OpenFlags};

const WARM_UP: usize = 50;
const COMMITS: usize = 500;
const ROWS: u64 = 200_000;
const READ_ROUNDS: usize = 15;
const READS_PER_ROUND: u64 = 50_000;

const WORDS: [&str; 16] = [
    "copper", "meadow", "lantern", "harbour", "thistle", "granite", "willow", "ember", "falcon", "orchard", "pebble",
    "saddle", "timber", "velvet", "winter", "yonder",
];

/// A sequence that is the same for ours and for stock.
struct Words(fastrand::Rng);

impl Words {
    fn new() -> Self {
        Self(fastrand::Rng::with_seed(7))
    }

    fn text(&mut self) -> String {
        (0..14).map(|_| WORDS[self.0.usize(..WORDS.len())]).collect::<Vec<_>>().join(" ")
    }
}

fn main() {
    // cargo passes --bench; a name as argument runs only that part.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    prepare();
    println!("extension: {}", tools::extension().display());
    println!("SQLite {} in this process, SeaweedFS on the loopback interface\n", rusqlite::version());
    for mode in ["delete", "wal"] {
        if wanted("commit") {
            commits(mode);
        }
    }
    if wanted("read") {
        reads();
    }
    if wanted("layouts") {
        layouts::layouts();
    }
    if wanted("restore") {
        restore::restores();
    }
}

/// Loads the extension, for a server that is running.
fn prepare() {
    let server = Seaweed::shared();
    let bucket = Bucket::new(server.address(), "bench");
    bucket.create();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"] {
        remove_variable(name);
    }
    for (name, value) in [
        ("LIBSQL_BOTTOMLESS_ENDPOINT", format!("http://{}", server.address())),
        ("LIBSQL_BOTTOMLESS_BUCKET", "bench".to_owned()),
        // No credentials: the bare PUT is not signed, and what the server does with a signature would be counted as ours.
        ("HOME", "/nonexistent".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ] {
        set_variable(name, &value);
    }
    let loader = Connection::open_in_memory().expect("a connection");
    load(&loader, &tools::extension()).expect("the extension loads");
}

#[allow(unsafe_code, reason = "no other thread runs yet")]
fn set_variable(name: &str, value: &str) {
    // SAFETY: no other thread of this process reads the environment at this time.
    unsafe { std::env::set_var(name, value) };
}

#[allow(unsafe_code, reason = "no other thread runs yet")]
fn remove_variable(name: &str) {
    // SAFETY: as in `set_variable`.
    unsafe { std::env::remove_var(name) };
}

#[allow(unsafe_code, reason = "loading an extension runs its code")]
fn load(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    // SAFETY: the extension is ours.
    unsafe {
        connection.load_extension_enable()?;
        connection.load_extension(path, None::<&str>)?;
    }
    connection.load_extension_disable()
}

/// A database, stock or ours, with a table and an index.
fn database(folder: &Path, name: &str, mode: &str, ours: bool) -> Connection {
    let vfs = if ours { "?vfs=bottomless" } else { "" };
    let uri = format!("file:{}{vfs}", folder.join(name).display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).expect("open");
    connection.pragma_update(None, "journal_mode", mode).expect("journal mode");
    connection
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER); CREATE INDEX i ON t(b)")
        .expect("the schema");
    connection
}

fn insert(connection: &Connection, words: &mut Words) -> Duration {
    let (text, number) = (words.text(), words.0.i64(..));
    let mut statement = connection.prepare_cached("INSERT INTO t(a, b) VALUES (?1, ?2)").expect("prepare");
    timed(|| {
        statement.execute((text, number)).expect("insert");
    })
}

fn timed(what: impl FnOnce()) -> Duration {
    let start = Instant::now();
    what();
    start.elapsed()
}

/// The bare PUT over one connection that is kept alive.
struct BarePut {
    agent: ureq::Agent,
    url: String,
    count: usize,
}

impl BarePut {
    fn new(mode: &str) -> Self {
        let url = format!("http://{}/bench/bare-{mode}", Seaweed::shared().address());
        let config = ureq::Agent::config_builder().http_status_as_error(true).build();
        Self { agent: config.into(), url, count: 0 }
    }

    fn put(&mut self, content: &[u8]) -> Duration {
        self.count += 1;
        let url = format!("{}/{:016x}.ltx", self.url, self.count);
        timed(|| drop(self.agent.put(url).header("if-none-match", "*").send(content).expect("put")))
    }
}

fn commits(mode: &str) {
    let folder = tempfile::Builder::new().prefix("bottomless-bench-").tempdir().expect("a folder");
    let name = format!("commits-{mode}.db");
    let stock = database(folder.path(), "stock.db", mode, false);
    let ours = database(folder.path(), &name, mode, true);
    let bucket = Bucket::new(Seaweed::shared().address(), "bench");
    let (mut for_stock, mut for_ours) = (Words::new(), Words::new());
    let mut bare = BarePut::new(mode);
    let (mut stock_times, mut put_times, mut our_times) = (Vec::new(), Vec::new(), Vec::new());
    let mut last_txid: u64 = txid(&ours);
    let mut order = fastrand::Rng::with_seed(11);
    for round in 0..WARM_UP + COMMITS {
        // The object of the commit before: what the bare PUT sends.
        let object = bucket.get(&format!("{name}/0000/{last_txid:016x}-{last_txid:016x}.ltx"));
        // Whoever comes first finds the server and the disk in another state than whoever comes last.
        let mut turns = [0, 1, 2];
        order.shuffle(&mut turns);
        for turn in turns {
            let (time, times) = match turn {
                0 => (insert(&stock, &mut for_stock), &mut stock_times),
                1 => (insert(&ours, &mut for_ours), &mut our_times),
                _ => (bare.put(&object), &mut put_times),
            };
            if round >= WARM_UP {
                times.push(time);
            }
        }
        last_txid += 1;
    }
    assert_eq!(txid(&ours), last_txid, "one transaction, one object");
    let floor: Vec<Duration> = stock_times.iter().zip(&put_times).map(|(a, b)| *a + *b).collect();
    println!("commit of 1 row, journal_mode={mode}, {COMMITS} of each, in turn");
    for (name, times) in [
        ("stock SQLite", &stock_times),
        ("bare conditional PUT of the same bytes", &put_times),
        ("the two together", &floor),
        ("bottomless", &our_times),
    ] {
        println!("  {name:<40} p50 {:>9.1} µs   p99 {:>9.1} µs", at(times, 50), at(times, 99));
    }
    println!(
        "  bottomless / the two together             p50 {:>9.2}      p99 {:>9.2}\n",
        at(&our_times, 50) / at(&floor, 50),
        at(&our_times, 99) / at(&floor, 99)
    );
}

fn txid(connection: &Connection) -> u64 {
    let status: String = connection.query_row("PRAGMA bottomless_status", [], |row| row.get(0)).expect("status");
    serde_json::from_str::<serde_json::Value>(&status).expect("JSON")["txid"].as_u64().expect("a txid")
}

fn reads() {
    let folder = tempfile::Builder::new().prefix("bottomless-bench-").tempdir().expect("a folder");
    let connections = [("stock.db", false), ("reads.db", true)].map(|(name, ours)| {
        let connection = database(folder.path(), name, "wal", ours);
        let mut words = Words::new();
        connection.execute_batch("BEGIN").expect("begin");
        for _ in 0..ROWS {
            insert(&connection, &mut words);
        }
        connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").expect("commit");
        // A small cache, so that the reads reach the VFS.
        connection.pragma_update(None, "cache_size", -512).expect("cache size");
        connection
    });
    println!("reads of a local database of {ROWS} rows with a cache of 512 KiB, {READ_ROUNDS} rounds of each, in turn");
    for (name, run) in [("50000 rows by key", point_reads as fn(&Connection) -> Duration), ("a full scan", scan)] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..READ_ROUNDS + 2 {
            for (connection, times) in connections.iter().zip(&mut times) {
                let time = run(connection);
                if round >= 2 {
                    times.push(time);
                }
            }
        }
        let [stock, ours] = &times;
        println!(
            "  {name:<20} stock SQLite p50 {:>10.1} µs   bottomless p50 {:>10.1} µs   ratio {:.3}",
            at(stock, 50),
            at(ours, 50),
            at(ours, 50) / at(stock, 50)
        );
    }
}

fn point_reads(connection: &Connection) -> Duration {
    let mut random = fastrand::Rng::with_seed(3);
    let mut statement = connection.prepare_cached("SELECT b FROM t WHERE id = ?1").expect("prepare");
    timed(|| {
        for _ in 0..READS_PER_ROUND {
            let id = i64::try_from(random.u64(1..=ROWS)).expect("small");
            let _: i64 = statement.query_row([id], |row| row.get(0)).expect("a row");
        }
    })
}

fn scan(connection: &Connection) -> Duration {
    timed(|| {
        let sum: i64 = connection.query_row("SELECT sum(length(a)) FROM t", [], |row| row.get(0)).expect("a sum");
        assert!(sum > 0);
    })
}

/// A percentile, in microseconds.
fn at(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}
