//! A server with databases in it, and the program.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod gate;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use bottomless_devserver::{Config, Credentials, Server};
use bottomless_history::{DatabaseId, Level, ObjectName};
use bottomless_ltx::{
    Checksum, DatabaseChecksums, Encoder, HEADER_LENGTH, Header, PageNumber, PageSize, Txid, WriterId,
};
use bottomless_store::{Body, Bucket, Location, Transport};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PAGE_BYTES: usize = 512;

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&["libsql"], None)
    }

    pub(crate) fn with(buckets: &[&str], credentials: Option<Credentials>) -> Self {
        let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
        let server = Server::start(Config { buckets, credentials, ..Config::default() }).unwrap();
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with this server as its endpoint, and nothing else of the environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(self.server.url(), self.folder.path(), arguments)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran(self.command(arguments).output().unwrap())
    }

    /// Puts an object of a history into the bucket `libsql`: the pages from `before` to `after` that differ.
    pub(crate) fn put(&self, id: &str, level: u8, txids: (u64, u64), before: &[u8], after: &[u8]) {
        let object = object(txids, before, after);
        let name = ObjectName { level: Level::new(level).unwrap(), min: Txid::new(txids.0), max: Txid::new(txids.1) };
        let key = name.key(&DatabaseId::new(id).unwrap());
        self.put_bytes(&key, object);
    }

    pub(crate) fn put_bytes(&self, key: &str, bytes: Vec<u8>) {
        let body = Body::Memory(bytes.into());
        self.on_bucket(async |bucket| {
            bucket.create(key, &body, SystemTime::now(), Duration::from_secs(10)).await.unwrap()
        });
    }

    /// Puts it in the place of what is there.
    pub(crate) fn replace_bytes(&self, key: &str, bytes: Vec<u8>) {
        let body = Body::Memory(bytes.into());
        self.on_bucket(async |bucket| {
            bucket.overwrite(key, &body, SystemTime::now(), Duration::from_secs(10)).await.unwrap()
        });
    }

    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        self.on_bucket(async |bucket| bucket.get(key).await.unwrap().into())
    }

    pub(crate) fn delete(&self, key: &str) {
        self.on_bucket(async |bucket| bucket.delete(key).await.unwrap());
    }

    /// The keys below a prefix.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let objects = self.on_bucket(async |bucket| bucket.list(prefix, None).await.unwrap());
        objects.into_iter().map(|object| object.key).collect()
    }

    fn on_bucket<T>(&self, work: impl AsyncFnOnce(Bucket) -> T) -> T {
        let location = Location::new(self.server.url().parse().unwrap(), "libsql").unwrap();
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(async { work(Bucket::connect(&location, &Transport::new().unwrap()).await.unwrap()).await })
    }

    /// Three transactions of `test.db` and their snapshot; the states of the database after each.
    pub(crate) fn three_transactions(&self) -> Vec<Vec<u8>> {
        let states = vec![pages(&[1]), pages(&[2, 3, 4]), pages(&[2, 5])];
        let mut before: &[u8] = &[];
        for (txid, after) in (1..).zip(&states) {
            self.put("test.db", 0, (txid, txid), before, after);
            before = after;
        }
        self.put("test.db", 9, (1, 2), &[], &states[1]);
        states
    }
    /// Eight transactions of `test.db` as compaction leaves them: the last three in the log, what is before merged on each
    /// level, and two snapshots. None of the last three holds every page. The states of the database after each.
    pub(crate) fn levels(&self) -> Vec<Vec<u8>> {
        let states: Vec<Vec<u8>> =
            (1..=8_u8).map(|txid| pages(&[txid, 20, 30 + txid / 4, 40][..2 + usize::from(txid % 3)])).collect();
        let state = |txid: u64| txid.checked_sub(1).map_or(&[][..], |place| &states[usize::try_from(place).unwrap()]);
        for (level, min, max) in
            [(0, 6, 6), (0, 7, 7), (0, 8, 8), (1, 3, 4), (1, 5, 6), (2, 3, 4), (3, 3, 6), (9, 1, 2), (9, 1, 4)]
        {
            self.put("test.db", level, (min, max), state(min - 1), state(max));
        }
        states
    }
}

pub(crate) fn command(url: &str, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bottomless-cli"));
    command.args(arguments).env_clear().env("HOME", home).env("LIBSQL_BOTTOMLESS_ENDPOINT", url).stdin(Stdio::null());
    command
}

/// How the program ended.
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    pub(crate) fn err(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    /// Standard output as JSON, after success.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code(), Some(0), "{}", self.err());
        assert_eq!(self.out().matches('\n').count(), 1, "one line");
        serde_json::from_str(self.out()).unwrap()
    }

    /// Standard error, after a failure without output.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code(), self.out()), (Some(code), ""), "{}", self.err());
        self.err()
    }
}

/// A file with pages that are filled with these bytes.
pub(crate) fn pages(fillings: &[u8]) -> Vec<u8> {
    fillings.iter().flat_map(|filling| [*filling; PAGE_BYTES]).collect()
}

/// The same, behind a header that makes it an SQLite database in rollback mode.
pub(crate) fn sqlite(fillings: &[u8]) -> Vec<u8> {
    let mut file = pages(fillings);
    let count = u32::try_from(fillings.len()).unwrap().to_be_bytes();
    let page_bytes = u16::try_from(PAGE_BYTES).unwrap().to_be_bytes();
    let fields: [(usize, &[u8]); 6] = [
        (0, b"SQLite format 3\0"),
        (16, &page_bytes),
        (18, &[1, 1]),
        (24, &[0, 0, 0, 1]),
        (28, &count),
        (92, &[0, 0, 0, 1]),
    ];
    for (at, bytes) in fields {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

fn object((min, max): (u64, u64), before: &[u8], after: &[u8]) -> Vec<u8> {
    let page_size = PageSize::try_from(u32::try_from(PAGE_BYTES).unwrap()).unwrap();
    let checksum = |file: &[u8]| {
        (1..).zip(file.chunks(PAGE_BYTES)).fold(Checksum::EMPTY, |sum, (number, page)| {
            sum.toggle_page(Checksum::of_page(PageNumber::new(number).unwrap(), page))
        })
    };
    let mut encoder = Encoder::new(page_size);
    let mut bytes = vec![0; HEADER_LENGTH];
    let old = before.chunks(PAGE_BYTES).map(Some).chain(std::iter::repeat(None));
    for ((number, page), old) in (1..).zip(after.chunks(PAGE_BYTES)).zip(old) {
        if old != Some(page) || min == 1 {
            encoder.encode_page(PageNumber::new(number).unwrap(), page, &mut bytes).unwrap();
        }
    }
    let header = Header {
        no_checksum: true,
        page_size,
        size_in_pages: u32::try_from(after.len() / PAGE_BYTES).unwrap(),
        min_txid: Txid::new(min),
        max_txid: Txid::new(max),
        // A transaction a second.
        timestamp_ms: i64::try_from(max).unwrap() * 1000,
        pre_apply_checksum: None,
        wal: Default::default(),
        writer: WriterId(7),
        database: Some(DatabaseChecksums { before: checksum(before), after: checksum(after) }),
    };
    let finished = encoder.finish(&header, &mut bytes).unwrap();
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    bytes
}
