//! What one test has for itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::bucket::{Bucket, Object};
use crate::compare;
use crate::layout::Layout;
use crate::proxy::Proxy;
use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use crate::session::{Host, Session, SqlError};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A folder, a proxy, a database id that nobody else uses, and the environment for processes.
pub struct World {
    folder: TempDir,
    /// The endpoint of this test.
    pub proxy: Proxy,
    /// The bucket, seen directly.
    pub bucket: Bucket,
    /// The environment of every process that this world starts.
    pub environment: BTreeMap<String, String>,
    id: String,
}

impl World {
    /// In the bucket that most tests share.
    pub fn new(name: &str) -> Self {
        static SHARED: OnceLock<Bucket> = OnceLock::new();
        let bucket = SHARED.get_or_init(|| {
            let bucket = Bucket::new(Seaweed::shared().address(), "e2e");
            bucket.create();
            bucket
        });
        Self::in_bucket(name, bucket.clone(), Seaweed::shared().address())
    }

    /// In a bucket of another server.
    pub fn on(name: &str, bucket: Bucket, server: SocketAddr) -> Self {
        Self::in_bucket(name, bucket, server)
    }

    /// In a bucket of its own.
    pub fn with_own_bucket(name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(Seaweed::shared().address(), &format!("own-{number}"));
        bucket.create();
        Self::in_bucket(name, bucket, Seaweed::shared().address())
    }

    fn in_bucket(name: &str, bucket: Bucket, server: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("bottomless-e2e-").tempdir().expect("a folder");
        let proxy = Proxy::start(server);
        let home = folder.path().join("home");
        std::fs::create_dir(&home).expect("a home");
        let id = format!("{name}-{}.db", NEXT.fetch_add(1, Ordering::Relaxed));
        let pairs = [
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("HOME", home.display().to_string()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
            ("LIBSQL_BOTTOMLESS_ENDPOINT", proxy.endpoint()),
            ("LIBSQL_BOTTOMLESS_BUCKET", bucket.name().to_owned()),
            ("LIBSQL_BOTTOMLESS_TIMEOUT", "20".to_owned()),
            // Tests count requests and objects: only those of compaction let it run.
            ("LIBSQL_BOTTOMLESS_COMPACTION", "off".to_owned()),
        ];
        let environment = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Self { folder, proxy, bucket, environment, id }
    }

    /// Sets a variable for the processes that start from now on.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.environment.insert(name.to_owned(), value.to_string());
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// The folder of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The database id: the file name of the database.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The database file.
    pub fn db(&self) -> PathBuf {
        self.folder().join(&self.id)
    }

    /// The file of that kind beside the database: `wal`, `shm`, `journal`, `bottomless`.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        self.folder().join(format!("{}-{suffix}", self.id))
    }

    /// The name with which a program opens the database.
    pub fn uri(&self) -> String {
        format!("file:{}?vfs=bottomless", self.db().display())
    }

    /// A host process without the extension.
    pub fn stock(&self, host: Host) -> Session {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Session::start(host, &self.environment, &self.folder().join(format!("stderr-{number}")))
    }

    /// A host process with the extension loaded.
    pub fn host(&self, host: Host) -> Session {
        let mut session = self.stock(host);
        session.load();
        session
    }

    /// A host process with the database open as connection 0.
    ///
    /// # Errors
    /// Why it can't be opened. SQLite opens lazily: the error may come from the first read.
    pub fn try_open(&self, host: Host) -> Result<Session, (SqlError, Session)> {
        let mut session = self.host(host);
        let opened = session.open(0, &self.uri()).and_then(|()| session.exec(0, "SELECT count(*) FROM sqlite_schema"));
        match opened {
            Ok(_) => Ok(session),
            Err(e) => Err((e, session)),
        }
    }

    /// A host process with the database open as connection 0.
    ///
    /// # Panics
    /// If it can't be opened.
    #[track_caller]
    pub fn open(&self, host: Host) -> Session {
        match self.try_open(host) {
            Ok(session) => session,
            Err((e, session)) => panic!("open: {e:?}\nstandard error:\n{}", session.stderr()),
        }
    }

    /// All objects of the database.
    pub fn objects(&self) -> Vec<Object> {
        self.bucket.list(&format!("{}/", self.id))
    }

    /// The TXIDs of the log: the level-0 objects, one transaction each.
    ///
    /// # Panics
    /// If a key at level 0 isn't what the design says.
    #[track_caller]
    pub fn log(&self) -> Vec<u64> {
        let prefix = format!("{}/0000/", self.id);
        let parse = |object: Object| {
            let name = object.key.strip_prefix(&prefix).and_then(|n| n.strip_suffix(".ltx"));
            let pair = name.and_then(|n| n.split_once('-'));
            let (min, max) = pair.unwrap_or_else(|| panic!("a foreign key in the log: {}", object.key));
            assert_eq!((min, min.len()), (max, 16), "one transaction each: {}", object.key);
            u64::from_str_radix(min, 16).expect("hex")
        };
        self.bucket.list(&prefix).into_iter().map(parse).collect()
    }

    /// The newest transaction in the log, 0 without one.
    #[track_caller]
    pub fn last(&self) -> u64 {
        self.log().last().copied().unwrap_or(0)
    }

    /// The level of the markers of page objects.
    pub const MARKER: u8 = 10;

    /// The objects of the history: level, first and last transaction.
    ///
    /// # Panics
    /// If a key below a level isn't what the design says.
    #[track_caller]
    pub fn history(&self) -> Vec<(u8, u64, u64)> {
        let mut objects = self.bucket.list(&format!("{}/000", self.id));
        if self.layout() == Layout::Pages {
            let of_pages = self.bucket.list(&format!("{}/pages/", self.id));
            // Beside claims, and what says that it is the layout.
            objects.extend(of_pages.into_iter().filter(|object| object.key.ends_with(".ltx")));
        }
        let parse = |object: Object| {
            let name = object.key.strip_prefix(&format!("{}/", self.id)).and_then(|n| n.strip_suffix(".ltx"));
            let parts = name.and_then(|n| n.split_once('/')).and_then(|(level, n)| Some((level, n.split_once('-')?)));
            let (level, (min, max)) = parts.unwrap_or_else(|| panic!("a foreign key: {}", object.key));
            let hex = |text| u64::from_str_radix(text, 16).expect("hex");
            let level = if level == "pages" { Self::MARKER } else { level.parse().expect("a level") };
            (level, hex(min), hex(max))
        };
        objects.into_iter().map(parse).collect()
    }

    /// The key of an object of the history.
    pub fn key_of(&self, (level, min, max): (u8, u64, u64)) -> String {
        let folder = if level == Self::MARKER { "pages".to_owned() } else { format!("{level:04}") };
        format!("{}/{folder}/{min:016x}-{max:016x}.ltx", self.id)
    }

    /// The newest transaction in the log or merged, 0 without one.
    #[track_caller]
    pub fn end(&self) -> u64 {
        self.history().into_iter().map(|(_, _, max)| max).max().unwrap_or(0)
    }

    /// Processes that start from now on keep the history small: with these intervals of level 1 to 3 and of snapshots, and
    /// this retention, in milliseconds.
    pub fn compact(&mut self, levels: [u32; 3], snapshot: u32, retention: u32) {
        self.set("LIBSQL_BOTTOMLESS_COMPACTION", "on");
        let [one, two, three] = levels;
        for (name, milliseconds) in [
            ("LEVEL1_INTERVAL", one),
            ("LEVEL2_INTERVAL", two),
            ("LEVEL3_INTERVAL", three),
            ("SNAPSHOT_INTERVAL", snapshot),
            ("RETENTION", retention),
        ] {
            self.set(&format!("LIBSQL_BOTTOMLESS_{name}"), f64::from(milliseconds) / 1000.0);
        }
    }

    /// No process that starts from now on keeps the history small.
    pub fn compact_nothing(&mut self) {
        self.set("LIBSQL_BOTTOMLESS_COMPACTION", "off");
    }

    /// The key of a transaction in the log.
    pub fn log_key(&self, txid: u64) -> String {
        format!("{}/0000/{txid:016x}-{txid:016x}.ltx", self.id)
    }

    /// Removes the database and everything beside it, as the loss of the machine does.
    ///
    /// # Panics
    /// If a file can't be removed.
    pub fn lose_local_files(&self) {
        for suffix in ["", "-wal", "-shm", "-journal", "-bottomless", "-bottomless-log", "-bottomless-runs"] {
            let path = self.folder().join(format!("{}{suffix}", self.id));
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{}: {e}", path.display()),
                _ => {}
            }
        }
    }

    /// Restores into an empty folder by opening there, and gives the path.
    ///
    /// # Panics
    /// If it can't be restored or is damaged.
    #[track_caller]
    pub fn restore_elsewhere(&self) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder().join(format!("restored-{number}"));
        std::fs::create_dir(&folder).expect("an empty folder");
        let path = folder.join(&self.id);
        let mut session = self.host(Host::Newest);
        let uri = format!("file:{}?vfs=bottomless", path.display());
        let opened = session.open(0, &uri);
        assert!(opened.is_ok(), "restore: {opened:?}\n{}", session.stderr());
        assert_eq!(session.value("PRAGMA integrity_check"), "ok");
        session.close(0).expect("close");
        path
    }

    /// After everything that a test did: what the bucket holds is the local file, page by page.
    ///
    /// # Panics
    /// If it isn't.
    #[track_caller]
    pub fn assert_restores_equal(&self, session: &mut Session) {
        session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        let before = self.end();
        let restored = self.restore_elsewhere();
        compare::assert_same_pages(&self.db(), &restored);
        assert_eq!(self.end(), before, "a restore adds nothing to the history");
        self.assert_pages_are(&self.db(), session, "restored");
    }
}
