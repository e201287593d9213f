//! What the two layouts cost: requests, objects, time.
//!
//! The same database is loaded in one transaction, brought into its layout (`bottomless-cli compact`: a snapshot, or page
//! objects), changed by many small commits, brought into its layout again, and restored. Once through a proxy that counts the requests,
//! once directly, for the times.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

use bottomless_e2e::bucket::Bucket;
use bottomless_e2e::proxy::{Proxy, Request};
use bottomless_e2e::seaweed::Seaweed;
use bottomless_e2e::tools;
use rusqlite::{Connection, OpenFlags};

use crate::{Words, at, timed};

const DATABASE_BYTES: u64 = 64 << 20;
const COMMITS: u64 = 1000;
const RESTORES: usize = 5;
const LAYOUTS: [&str; 2] = ["ltx", "pages"];

pub(crate) fn layouts() {
    println!(
        "the layouts: a database of {} MiB, loaded in one transaction; then {COMMITS} commits of one row",
        DATABASE_BYTES >> 20
    );
    let direct = format!("http://{}", Seaweed::shared().address());
    let mut timed_plays: Vec<(Play, Vec<Duration>)> = Vec::new();
    for layout in LAYOUTS {
        let proxy = Proxy::start(Seaweed::shared().address());
        let counted = Play::new(layout, "counted", &proxy.endpoint());
        println!("  layout={layout}");
        for (name, step) in STEPS {
            proxy.clear();
            step(&counted);
            println!("    {name:<48} {}", Requests::of(&proxy.requests()));
        }
        let objects = counted.objects();
        println!("    in the bucket then: {} objects, {:.1} MiB", objects.0, objects.1 as f64 / f64::from(1 << 20));
        let play = Play::new(layout, "timed", &direct);
        for (name, step) in STEPS {
            let took = timed(|| step(&play));
            println!("    {name:<48} {:>8.2} s", took.as_secs_f64());
        }
        timed_plays.push((play, Vec::new()));
    }
    for _ in 0..RESTORES {
        for (play, times) in &mut timed_plays {
            times.push(timed(|| play.restore()));
        }
    }
    for (play, times) in &timed_plays {
        println!(
            "  restore of layout={:<6} p50 {:>9.1} ms   slowest {:>9.1} ms",
            play.layout,
            at(times, 50) / 1e3,
            at(times, 100) / 1e3
        );
    }
}

type Step = fn(&Play);

const STEPS: [(&str, Step); 5] = [
    ("loading it, with the COMMIT", Play::load),
    ("bringing it into its layout", Play::settle),
    ("1000 commits of one row", Play::change),
    ("bringing that into its layout", Play::settle),
    ("restoring it", Play::restore),
];

/// One database in one layout.
struct Play {
    layout: &'static str,
    id: String,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Play {
    fn new(layout: &'static str, name: &str, endpoint: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("bottomless-bench-").tempdir().expect("a folder");
        Self { layout, id: format!("layout-{layout}-{name}.db"), endpoint: endpoint.to_owned(), folder }
    }

    fn open(&self) -> Connection {
        let path = self.folder.path().join(&self.id);
        let Self { layout, endpoint, .. } = self;
        let uri = format!("file:{}?vfs=bottomless&compaction=off&layout={layout}&endpoint={endpoint}", path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags).expect("open");
        connection.pragma_update(None, "journal_mode", "wal").expect("journal mode");
        connection
    }

    fn load(&self) {
        let connection = self.open();
        connection
            .execute_batch("BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER); CREATE INDEX i ON t(b)")
            .expect("the schema");
        let mut words = Words::new();
        let mut pages: u32 = 0;
        while u64::from(pages) * 4096 < DATABASE_BYTES {
            for _ in 0..1000 {
                let text = (0..10).map(|_| words.text()).collect::<Vec<_>>().join("\n");
                let mut statement = connection.prepare_cached("INSERT INTO t(a, b) VALUES (?1, ?2)").expect("prepare");
                statement.execute((text, words.0.i64(..))).expect("insert");
            }
            pages = connection.query_row("PRAGMA page_count", (), |row| row.get(0)).expect("a number");
        }
        connection.execute_batch("COMMIT").expect("commit");
    }

    fn change(&self) {
        let connection = self.open();
        let rows: u32 = connection.query_row("SELECT max(id) FROM t", (), |row| row.get(0)).expect("a number");
        let mut words = Words::new();
        for _ in 0..COMMITS {
            let mut statement = connection.prepare_cached("UPDATE t SET b = ?1 WHERE id = ?2").expect("prepare");
            let row = words.0.u32(1..=rows);
            statement.execute((words.0.i64(..), row)).expect("update");
        }
    }

    /// Compaction, or folding.
    fn settle(&self) {
        self.cli(&["compact", "-d", &self.id]);
    }

    fn restore(&self) {
        let output = self.folder.path().join("restored.db");
        self.cli(&["restore", "--force", "-d", &self.id, "-o", &output.display().to_string()]);
        let restored = std::fs::read(output).expect("the restored file");
        let connection = Connection::open(self.folder.path().join(&self.id)).expect("the local file");
        let is_busy: bool =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0)).expect("a checkpoint");
        let local = std::fs::read(self.folder.path().join(&self.id)).expect("the local file");
        assert!(!is_busy && restored == local, "{} was restored wrongly", self.id);
    }

    fn cli(&self, arguments: &[&str]) {
        let cli = tools::extension().with_file_name("bottomless-cli");
        let mut command = Command::new(cli);
        command.args(arguments).args(["--endpoint", &self.endpoint]).stdout(Stdio::null());
        command.env("LIBSQL_BOTTOMLESS_LAYOUT", self.layout);
        assert!(command.status().expect("run bottomless-cli").success(), "{arguments:?}");
    }

    /// Number and bytes of the database's objects.
    fn objects(&self) -> (usize, u64) {
        let objects = Bucket::new(Seaweed::shared().address(), "bench").list(&self.id);
        (objects.len(), objects.iter().map(|object| object.size).sum())
    }
}

/// How often what was asked of the store, and how much was sent to it.
struct Requests {
    counts: BTreeMap<&'static str, usize>,
    sent: u64,
}

impl Requests {
    fn of(requests: &[Request]) -> Self {
        let mut counts = BTreeMap::new();
        for request in requests {
            let kind = match request.method.as_str() {
                "GET" if request.is_list() => "LIST",
                "GET" => "GET",
                "PUT" => "PUT",
                "HEAD" => "HEAD",
                "DELETE" => "DELETE",
                _ => "other",
            };
            *counts.entry(kind).or_default() += 1;
        }
        Self { counts, sent: requests.iter().map(|request| request.body_bytes).sum() }
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.counts {
            write!(f, "{count} {kind}, ")?;
        }
        write!(f, "{:.1} MiB sent", self.sent as f64 / f64::from(1 << 20))
    }
}
