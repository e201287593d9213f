//! One scene under one fault, and what must be true after it.

use std::path::{Path, PathBuf};

use bottomless_e2e::faults::{Call, Faults, Plan, Target};
use bottomless_e2e::{Session, SqlError, World, compare};

use super::scenes::{Before, Scene, Step};

/// SQLite's primary codes that a program may get from a failing disk: READONLY, IOERR, FULL, CANTOPEN. Not BUSY, which
/// would ask for a retry; not CORRUPT or NOTADB, for nothing is; not ERROR or INTERNAL, which say nothing.
const HONEST: [i64; 4] = [8, 10, 13, 14];
const FULL: i64 = 13;
/// What SQLite itself makes of EIO at a read (`SQLITE_IOERR_CORRUPTFS` in its unix VFS).
const CORRUPT: i64 = 11;

/// How a round ended.
pub struct End {
    /// The steps that failed.
    pub refused: Vec<(String, SqlError)>,
    /// The first call that failed.
    pub failed: Option<(Call, Target)>,
    pub counts: Vec<((Call, Target), u64)>,
    /// The connection could not go on when there was room again, and another could.
    pub reopened: bool,
}

/// One database in a folder and a bucket of its own.
pub struct Round<'a> {
    session: &'a mut Session,
    faults: &'a Faults,
    scene: &'a Scene,
    folder: PathBuf,
    what: String,
    /// The markers of the transactions whose COMMIT returned OK.
    acknowledged: Vec<i64>,
    /// Those of which SQLite itself says that they failed, and keeps them: see [`Round::is_kept_by_sqlite`].
    kept: Vec<i64>,
    refused: Vec<(String, SqlError)>,
    next: i64,
    second: bool,
    open: bool,
}

impl<'a> Round<'a> {
    pub fn new(world: &World, session: &'a mut Session, faults: &'a Faults, scene: &'a Scene, number: usize) -> Self {
        let folder = world.folder().join(format!("round-{number}"));
        std::fs::create_dir_all(folder.join("bucket/b")).unwrap();
        Self {
            session,
            faults,
            scene,
            folder,
            what: scene.name.to_owned(),
            acknowledged: Vec::new(),
            kept: Vec::new(),
            refused: Vec::new(),
            next: 1,
            second: false,
            open: false,
        }
    }

    fn db(&self) -> PathBuf {
        self.folder.join("local/test.db")
    }

    fn uri(&self, path: &Path) -> String {
        let bucket = self.folder.join("bucket");
        format!("file:{}?vfs=bottomless&endpoint=file://{}&bucket=b", path.display(), bucket.display())
    }

    pub fn play(mut self, plan: &Plan) -> End {
        self.what = format!("{}, {plan:?}", self.scene.name);
        std::fs::create_dir(self.folder.join("local")).unwrap();
        self.prepare();
        let told = self.session.stderr().len();
        self.faults.watch(&self.db());
        self.faults.arm(plan);
        for step in self.scene.steps.clone() {
            self.step(&step);
        }
        self.faults.heal();
        let (failed, counts) = (self.faults.failed(), self.faults.counts());
        let stderr = self.session.stderr().split_off(told);
        self.check_errors(plan, failed, &stderr);
        let reopened = self.go_on();
        self.check_state();
        std::fs::remove_dir_all(&self.folder).unwrap();
        End { refused: self.refused, failed, counts, reopened }
    }

    #[track_caller]
    fn fail(&self, text: &str) -> ! {
        let stderr = self.session.stderr();
        let tail = &stderr[stderr.len().saturating_sub(6000)..];
        panic!("{}: {text}\nrefused: {:?}\nstandard error:\n{tail}", self.what, self.refused)
    }

    #[track_caller]
    fn must<T>(&self, what: &str, result: Result<T, SqlError>) -> T {
        result.unwrap_or_else(|e| self.fail(&format!("{what}: {e:?}")))
    }

    fn prepare(&mut self) {
        if self.scene.before == Before::Nothing {
            return;
        }
        let uri = self.uri(&self.db());
        let opened = self.session.open(0, &uri);
        self.must("prepare", opened);
        let made = self.session.exec(
            0,
            "CREATE TABLE log(tag); CREATE TABLE t(id INTEGER PRIMARY KEY, tag, v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             INSERT INTO t(tag, v) SELECT 0, randomblob(600) FROM n",
        );
        self.must("prepare", made);
        let set = self.session.exec(0, self.scene.pragmas);
        self.must("prepare", set);
        self.open = true;
        self.step(&Step::Commit(String::new()));
        match self.scene.before {
            Before::Nothing | Before::Open => {}
            Before::OnlyBucket => {
                self.step(&Step::Close);
                std::fs::remove_dir_all(self.folder.join("local")).unwrap();
                std::fs::create_dir(self.folder.join("local")).unwrap();
            }
            Before::Behind => {
                self.step(&Step::Close);
                let elsewhere = self.folder.join("elsewhere");
                std::fs::create_dir(&elsewhere).unwrap();
                let uri = self.uri(&elsewhere.join("test.db"));
                let opened = self.session.open(0, &uri);
                self.must("elsewhere", opened);
                self.open = true;
                self.step(&Step::Commit("UPDATE t SET v = randomblob(500) WHERE id % 3 = 0".to_owned()));
                self.step(&Step::Commit("INSERT INTO t(v) VALUES(randomblob(5000))".to_owned()));
                self.step(&Step::Close);
            }
            Before::Foreign => {
                self.step(&Step::Close);
                let opened = self.session.open(0, &self.db().display().to_string());
                self.must("without the extension", opened);
                self.open = true;
                self.step(&Step::Commit("UPDATE t SET v = randomblob(500) WHERE id % 3 = 0".to_owned()));
                self.step(&Step::Close);
            }
        }
        assert!(self.refused.is_empty(), "{}: {:?}", self.what, self.refused);
    }

    fn step(&mut self, step: &Step) {
        let uri = self.uri(&self.db());
        let result = match step {
            Step::Open => {
                let opened = self.session.open(0, &uri);
                // A connection that can't read now may be able to later.
                self.open = opened.is_ok();
                opened.and_then(|()| self.read())
            }
            Step::OpenSecond => {
                self.second = true;
                self.session.open(1, &uri)
            }
            Step::Other(sql) => {
                let done = self.session.exec(0, sql).map(|_| ());
                if done.is_err() {
                    let _ = self.session.exec(0, "ROLLBACK");
                }
                done
            }
            Step::Close => {
                self.open = false;
                self.session.close(0)
            }
            Step::Commit(sql) => {
                let tag = self.next;
                self.next += 1;
                let connection = u32::from(self.second && tag % 2 == 0);
                let sql =
                    format!("BEGIN IMMEDIATE; {sql}; INSERT INTO log VALUES({tag}); UPDATE t SET tag = {tag}; COMMIT");
                let done = self.session.exec(connection, &sql).map(|_| ());
                match &done {
                    Ok(()) => self.acknowledged.push(tag),
                    // What a program does after an error; it fails where SQLite has rolled back by itself.
                    Err(_) => {
                        let _ = self.session.exec(connection, "ROLLBACK");
                        if self.is_kept_by_sqlite() {
                            self.kept.push(tag);
                        }
                    }
                }
                done
            }
        };
        if let Err(error) = result {
            // A connection that could not be opened is no connection.
            if error.message == "no such connection" {
                return;
            }
            self.refused.push((format!("{step:?}"), error));
        }
    }

    /// With `journal_mode` PERSIST and TRUNCATE SQLite commits by overwriting or cutting off the journal, and then syncs
    /// it: when that sync fails, COMMIT fails, and the transaction stays. `sqlite_keeps_a_transaction_…` shows it.
    fn is_kept_by_sqlite(&self) -> bool {
        self.faults.failed() == Some((Call::Sync, Target::Journal))
    }

    /// Without a journal, what can't be rolled back stays until the database is opened again.
    fn may_be_torn(&self) -> bool {
        self.scene.pragmas.contains("journal_mode = OFF")
    }

    fn read(&mut self) -> Result<(), SqlError> {
        self.session.exec(0, "SELECT count(*) FROM sqlite_schema").map(|_| ())
    }

    /// What the program and the log were told.
    fn check_errors(&self, plan: &Plan, failed: Option<(Call, Target)>, stderr: &str) {
        for (step, error) in &self.refused {
            if failed.is_none() {
                self.fail(&format!("{step} failed and no call did: {error:?}"));
            }
            // No table, since the transaction that makes it was refused; a closed connection's.
            let follows = error.primary() == 1 && error.message.starts_with("no such table");
            let unreadable = (self.may_be_torn() || plan.calls.contains(&Call::Read)) && error.primary() == CORRUPT;
            if !HONEST.contains(&error.primary()) && !follows && !unreadable {
                self.fail(&format!("{step}: a code that misleads: {error:?}"));
            }
        }
        let (Some((call, target)), Some((_, error))) = (failed, self.refused.first()) else { return };
        if !target.is_ours() {
            return;
        }
        let folder = self.folder.join("local").display().to_string();
        if !stderr.contains(&folder) {
            self.fail(&format!("{error:?}: the log does not name the file"));
        }
        if plan.errno.is_full() && (!stderr.contains("make room") || (call != Call::Read && error.primary() != FULL)) {
            self.fail(&format!("{error:?}: there is no room, and neither code nor log says so:\n{stderr}"));
        }
    }

    /// There is room again. True if a new connection was needed.
    fn go_on(&mut self) -> bool {
        if self.second {
            let _ = self.session.close(1);
            self.second = false;
        }
        let before = self.refused.len();
        self.commit_again();
        let reopened = self.open && self.refused.len() > before;
        if reopened || !self.open {
            self.refused.truncate(before);
            let _ = self.session.close(0);
            self.step(&Step::Open);
            self.commit_again();
            if self.refused.len() > before {
                self.fail("does not go on, with a new connection either");
            }
        }
        reopened
    }

    fn commit_again(&mut self) {
        let tables =
            "CREATE TABLE IF NOT EXISTS log(tag); CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, tag, v)";
        self.step(&Step::Commit(tables.to_owned()));
    }

    /// Every transaction that was acknowledged, and no other, in the local file and in the bucket.
    fn check_state(&mut self) {
        let tags = self.session.exec(0, "SELECT tag FROM log ORDER BY tag");
        let tags: Vec<_> = self.must("read", tags).iter().map(|row| row[0].as_i64().unwrap()).collect();
        let known: Vec<_> = tags.iter().filter(|tag| !self.kept.contains(tag)).copied().collect();
        if known != self.acknowledged {
            self.fail(&format!("acknowledged: {:?}, local: {tags:?}", self.acknowledged));
        }
        let last = self.acknowledged.last().unwrap();
        let whole = self.session.exec(0, &format!("SELECT count(*) FROM t WHERE tag IS NOT {last}"));
        if self.must("read", whole)[0][0] != 0 {
            self.fail("a part of a transaction");
        }
        let sound = self.session.exec(0, "PRAGMA integrity_check");
        if self.must("read", sound) != [["ok"]] {
            self.fail("the local file is damaged");
        }
        let _ = self.session.exec(0, "PRAGMA wal_checkpoint(TRUNCATE)");
        let pages = self.session.exec(0, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size");
        let length = self.must("read", pages)[0][0].as_u64().unwrap();
        let closed = self.session.close(0);
        self.must("close", closed);
        self.open = false;
        if self.may_be_torn() {
            // Behind the end of the database there may be what could not be cut off: no part of it.
            std::fs::File::options().write(true).open(self.db()).unwrap().set_len(length).unwrap();
        }

        let mut log: Vec<_> = std::fs::read_dir(self.folder.join("bucket/b/test.db/0000"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        log.sort();
        let line: Vec<_> = (1..=log.len()).map(|txid| format!("{txid:016x}-{txid:016x}.ltx")).collect();
        if log != line {
            self.fail(&format!("the history is no line: {log:?}"));
        }
        let restored = self.folder.join("restored");
        std::fs::create_dir(&restored).unwrap();
        let restored = restored.join("test.db");
        let uri = self.uri(&restored);
        let opened = self.session.open(0, &uri);
        self.must("restore", opened);
        let sound = self.session.exec(0, "PRAGMA integrity_check");
        if self.must("restore", sound) != [["ok"]] {
            self.fail("what was restored is damaged");
        }
        let closed = self.session.close(0);
        self.must("close", closed);
        let same = std::panic::catch_unwind(|| compare::assert_same_pages(&self.db(), &restored));
        if same.is_err() {
            self.fail("the bucket does not hold what the local file does");
        }
        let left = std::fs::read_dir(self.folder.join("local")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        if left.iter().any(|name| name.ends_with("-wal") || name.ends_with("-fill") || name.starts_with('.')) {
            self.fail(&format!("something was left behind: {left:?}"));
        }
    }
}
