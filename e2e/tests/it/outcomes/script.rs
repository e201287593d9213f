//! The session that is played, and what must be true after it.

use std::path::{Path, PathBuf};

use bottomless_e2e::proxy::{Fault, Request};
use bottomless_e2e::{Host, Layout, Session, World, compare};
use bottomless_ltx::{DecodeError, decode_file};

/// Seconds that a commit may take; a hung small PUT is given up after a third of them.
const TIMEOUT_SECONDS: u32 = 2;
/// The proof before the first commit takes SeaweedFS seconds at times: it makes simultaneous creators wait.
const FIRST_TIMEOUT_SECONDS: u32 = 9;
/// A transaction that fails is tried again. Once is enough, but on a machine that is busy.
const ATTEMPTS: u32 = 6;
/// The mark of what is never committed.
const NEVER: &str = "INSERT INTO marks VALUES('never')";

/// Which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Story {
    /// A machine that is behind catches up, commits, and opens once more; with a rollback journal.
    Rollback,
    /// The same with a WAL.
    Wal,
    /// A machine without the database fills it, and proves the store before it commits.
    First,
}

/// The transactions of the session: the statements before and after the mark that tells which attempt it was.
const TRANSACTIONS: [(&str, &str); 5] = [
    ("INSERT INTO t(v) VALUES('small')", "DELETE FROM t WHERE v = 'nothing'"),
    ("INSERT INTO t(v) VALUES(randomblob(1300000))", "UPDATE t SET v = 'second' WHERE id = 2"),
    (
        "SAVEPOINT a; INSERT INTO t(v) VALUES('kept')",
        "SAVEPOINT b; DELETE FROM t; INSERT INTO marks VALUES('never'); ROLLBACK TO b; RELEASE a",
    ),
    ("DELETE FROM t WHERE length(v) > 1000000", "INSERT INTO t(v) VALUES('after it')"),
    ("UPDATE t SET v = v || 'changed'", "INSERT INTO t(v) VALUES('last')"),
];
/// The connection is opened anew before this one.
const REOPENED: usize = 3;

/// A database that can be put back to where the session begins, and a process for its sessions.
pub(super) struct Place {
    story: Story,
    layout: Layout,
    world: World,
    host: Session,
    /// The local files with which a session begins.
    template: PathBuf,
    /// The keys of the objects with which it begins.
    keys: Vec<String>,
    /// What a session without a fault asks of the store.
    requests: Vec<Request>,
    /// The marks of the transactions that were acknowledged, in their order.
    acknowledged: Vec<String>,
    failures: u32,
}

impl Place {
    /// Makes the history, and plays the session once without a fault.
    pub(super) fn new(story: Story, layout: Layout) -> Self {
        let mut world = World::new("outcomes");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let mode = if story == Story::Rollback { "DELETE" } else { "WAL" };
        let mut host = world.open(Host::Newest);
        host.sql(&format!("PRAGMA journal_mode = {mode}"));
        host.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE marks(mark TEXT UNIQUE)");
        host.sql("INSERT INTO t(v) VALUES('first')");
        host.close(0).unwrap();
        let folder = |name: &str| {
            let folder = world.folder().join(name);
            std::fs::create_dir(&folder).unwrap();
            folder
        };
        let (template, elsewhere) = (folder("template"), folder("elsewhere"));
        copy_files(&world, world.folder(), &template);
        // Another machine goes on: the copy is behind.
        host.open(1, &format!("file:{}?vfs=bottomless", elsewhere.join(world.id()).display())).unwrap();
        host.exec(1, "INSERT INTO marks VALUES('elsewhere'); INSERT INTO t(v) VALUES('second')").unwrap();
        host.close(1).unwrap();
        // The history is a log; with page objects it becomes one that is folded in the session.
        world.lay_out(layout);
        let keys = world.objects().into_iter().map(|object| object.key).collect();
        let (requests, acknowledged) = (Vec::new(), Vec::new());
        let mut place = Self { story, layout, world, host, template, keys, requests, acknowledged, failures: 0 };
        place.session(None);
        place.requests = place.world.proxy.requests();
        assert_eq!(place.failures, 0, "{:#?}\n{}", place.requests, place.host.stderr());
        place.check();
        place
    }

    pub(super) fn story(&self) -> Story {
        self.story
    }

    /// Whether it is a request that a fold alone makes.
    pub(super) fn is_of_a_fold(&self, request: &Request) -> bool {
        ["/pages/", "%2Fpages%2F", "-00000000"].iter().any(|part| request.target.contains(part))
    }

    /// The requests of the session without a fault.
    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Plays the session with this fault at this request, and looks at what is left.
    pub(super) fn play(&mut self, number: usize, fault: Fault) {
        let request = &self.requests[number - 1];
        let said = Said(format!(
            "{:?}, {:?}: {fault:?} at {number}, {} {}",
            self.story, self.layout, request.method, request.target
        ));
        self.session(Some((number, fault)));
        assert_eq!(self.world.proxy.hits(), 1, "{}: the fault was not met", said.0);
        self.world.proxy.heal();
        self.check();
    }

    fn session(&mut self, fault: Option<(usize, Fault)>) {
        self.begin_anew();
        if let Some((number, fault)) = fault {
            self.world.proxy.fail_at(number, fault);
        }
        self.open();
        let mut commits_after = 0;
        for (number, (begin, end)) in TRANSACTIONS.into_iter().enumerate() {
            if self.story == Story::First && ![0, REOPENED].contains(&number) {
                continue;
            }
            if number == REOPENED {
                // With page objects, it folds.
                self.host.close(0).unwrap();
                self.open();
            }
            self.host.sql(&format!("BEGIN; {NEVER}; ROLLBACK"));
            self.commit(number, begin, end);
            commits_after += usize::from(self.world.proxy.hits() > 0);
            // What was kept in the last transaction arrives when another stands on that one.
            if commits_after > 1 {
                self.world.proxy.deliver();
            }
        }
        if self.layout == Layout::Pages {
            self.flush();
        }
        self.world.proxy.deliver();
    }

    /// Folds. What fails is tried again.
    fn flush(&mut self) {
        for _ in 0..ATTEMPTS {
            if self.host.exec(0, "PRAGMA bottomless_flush").is_ok() {
                return;
            }
            self.failures += 1;
        }
        panic!("can't flush:\n{}", self.host.stderr());
    }

    /// The local files and the bucket as before the first session.
    fn begin_anew(&mut self) {
        let _ = self.host.close(0);
        self.world.proxy.heal();
        for object in self.world.objects() {
            if !self.keys.contains(&object.key) {
                self.world.bucket.delete(&object.key);
            }
        }
        for page in self.world.page_objects() {
            self.world.bucket.delete(&page.key);
        }
        if self.story == Story::First {
            self.world.lose_local_files();
        } else {
            // Into the files that are there: the local state knows its own by the inode, and takes no copy for it.
            copy_files(&self.world, &self.template, self.world.folder());
            for suffix in ["wal", "shm", "journal"] {
                let _ = std::fs::remove_file(self.world.beside(suffix));
            }
        }
        self.acknowledged = vec!["elsewhere".to_owned()];
        self.failures = 0;
        self.world.proxy.clear();
    }

    fn open(&mut self) {
        let seconds = match self.story {
            // The session that is counted has all the time that it needs.
            _ if self.requests.is_empty() => 60,
            Story::First => FIRST_TIMEOUT_SECONDS,
            Story::Rollback | Story::Wal => TIMEOUT_SECONDS,
        };
        let pages = match self.layout {
            Layout::Ltx => "",
            Layout::Pages => "&layout=pages&compaction=on&level1_interval=24h",
        };
        let uri = format!("{}&timeout={seconds}{pages}", self.world.uri());
        for _ in 0..ATTEMPTS {
            let opened = self.host.open(0, &uri);
            if opened.and_then(|()| self.host.exec(0, "SELECT count(*) FROM t")).is_ok() {
                return;
            }
            self.failures += 1;
            let _ = self.host.close(0);
        }
        panic!("can't open:\n{}", self.host.stderr());
    }

    fn commit(&mut self, number: usize, begin: &str, end: &str) {
        for attempt in 1..=ATTEMPTS {
            let mark = format!("{number}, attempt {attempt}");
            // With page objects, without those of something large.
            let [begin, end] = [begin, end].map(|sql| match self.layout {
                Layout::Ltx => sql.to_owned(),
                Layout::Pages => sql.replace("00000", "000"),
            });
            self.host.sql(&format!("BEGIN; {begin}; INSERT INTO marks VALUES('{mark}'); {end}"));
            match self.host.exec(0, "COMMIT") {
                Ok(_) => return self.acknowledged.push(mark),
                Err(error) => {
                    self.failures += 1;
                    assert!(![5, 6, 11].contains(&error.primary()), "{error:?}");
                    // SQLite has rolled back: there is no transaction to end.
                    self.host.exec(0, "ROLLBACK").unwrap_err();
                }
            }
        }
        panic!("can't commit:\n{}", self.host.stderr());
    }

    /// Exactly what was acknowledged is there, here and in the bucket, whose history is one line.
    fn check(&mut self) {
        self.host.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        self.holds_the_acknowledged(0);
        let log = self.world.log();
        assert!(log.iter().copied().eq(1..=log.len() as u64), "a gap: {log:?}");
        let status = self.host.status();
        assert_eq!((status["txid"].as_u64(), status["unsettled"].as_bool()), (log.last().copied(), Some(false)));
        self.world.assert_pages_are(&self.world.db(), &mut self.host, "after the session");
        self.host.close(0).unwrap();

        // An object of the proof that arrives late stays, and is of no concern to anybody. A marker has no frames.
        let objects = self.world.objects();
        for object in objects.iter().filter(|object| object.key.ends_with(".ltx") && !object.key.contains("/pages/")) {
            let bytes = self.world.bucket.get(&object.key);
            let decoded = decode_file(&bytes, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(()));
            decoded.unwrap_or_else(|e| panic!("{}: {e}", object.key));
        }
        let empty = self.world.folder().join("restored");
        std::fs::create_dir(&empty).unwrap();
        let restored = empty.join(self.world.id());
        self.host.open(1, &format!("file:{}?vfs=bottomless", restored.display())).unwrap();
        self.holds_the_acknowledged(1);
        self.host.close(1).unwrap();
        compare::assert_same_pages(&self.world.db(), &restored);
        assert_eq!(self.world.log(), log, "a restore adds nothing to the history");
        std::fs::remove_dir_all(&empty).unwrap();
    }

    fn holds_the_acknowledged(&mut self, connection: u32) {
        let mut rows =
            |sql| self.host.exec(connection, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}\n{}", self.host.stderr()));
        assert_eq!(rows("PRAGMA integrity_check"), [["ok"]]);
        let marks: Vec<_> = self.acknowledged.iter().map(|mark| [mark.as_str()]).collect();
        assert_eq!(rows("SELECT mark FROM marks ORDER BY rowid"), marks);
    }
}

fn copy_files(world: &World, from: &Path, to: &Path) {
    for suffix in ["", "-bottomless"] {
        let name = format!("{}{suffix}", world.id());
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// Says which session it was, if it fails.
struct Said(String);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
