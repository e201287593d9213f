//! A play in which one process dies at a point, what it had acknowledged until then, and what must be found after it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottomless_e2e::session::Rows;
use bottomless_e2e::{Host, Layout, Machine, Session, SqlError, World, compare, litestream, shell, whole};
use bottomless_points::{Point, TRACE_VARIABLE, VARIABLE};

/// The process has died where it was to.
#[derive(Debug)]
pub(super) struct Dead;

pub(super) type Played = Result<(), Dead>;

/// Which restores are made, after the death and after what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restores {
    /// Into an empty folder after what follows it.
    Last,
    /// Into an empty folder.
    Both,
    /// Into an empty folder, and by Litestream.
    Litestream,
}

/// What a play is about: the database `world.db()`, and the process that is to die while it has it open.
pub(super) struct Stage {
    pub(super) world: World,
    host: Host,
    /// Where the victim is to die: `<point>=kill@<n>`.
    order: Option<String>,
    victim: Option<Session>,
    /// Another process of this machine that has the database open, and survives.
    pub(super) other: Option<Session>,
    /// Another machine that has the database, and survives.
    pub(super) machine: Option<Machine>,
    /// Stock SQLite, which executes what was acknowledged: connection 0 writes, connection 1 reads.
    oracle: Session,
    /// What the database may hold in the end, when the victim is dead.
    finals: Vec<String>,
    /// What the bucket may show besides, as long as nothing has been committed after it.
    pub(super) transient: Vec<String>,
    /// What the local file may hold besides, until it is opened again.
    pub(super) local: Vec<String>,
    /// A plain database lies there whatever happens, and after SQLite's own recovery it is whole. Not so where SQLite
    /// itself promises nothing: without a journal on the disk.
    pub(super) journaled: bool,
    /// Undoes what the play has done to the folder.
    pub(super) repair: Option<fn(&World)>,
    /// How often each point was reached before the part that counts, and up to its end.
    before: BTreeMap<&'static str, u64>,
    upto: Option<BTreeMap<&'static str, u64>>,
    /// What was restored last.
    restored: Option<PathBuf>,
    after: i64,
}

impl Stage {
    pub(super) fn new(name: &str, host: Host, layout: Layout, order: Option<String>) -> Self {
        let mut world = World::new(name).laid_out(layout);
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 30);
        let oracle = oracle(&world);
        Self {
            world,
            host,
            order,
            victim: None,
            other: None,
            machine: None,
            oracle,
            finals: Vec::new(),
            transient: Vec::new(),
            local: Vec::new(),
            journaled: true,
            repair: None,
            before: BTreeMap::new(),
            upto: None,
            restored: None,
            after: 0,
        }
    }

    // The oracle.

    fn content(&mut self) -> String {
        whole::content(&mut self.oracle, 1, "zz").expect("the oracle")
    }

    /// What was executed by another, and counts.
    pub(super) fn counts(&mut self, sql: &str) {
        if !sql.starts_with("PRAGMA") {
            self.oracle.sql(sql);
        }
    }

    /// What the oracle holds now may be seen in the bucket until the next commit, and in the local file until it is
    /// opened.
    pub(super) fn may_stay(&mut self) {
        let content = self.content();
        self.transient.push(content.clone());
        self.local.push(content);
    }

    /// The local files were lost.
    pub(super) fn may_be_empty(&mut self) {
        self.local.push(String::new());
    }

    fn died_during(&mut self, sql: &str) -> Dead {
        let before = self.content();
        if !sql.starts_with("PRAGMA") {
            // It may be one that fails.
            let _ = self.oracle.exec(0, sql);
        }
        self.finals = vec![before, self.content()];
        Dead
    }

    // Before the victim starts.

    /// Only one machine writes: then no local state needs the proof of eight simultaneous creates, which takes the
    /// store a second or more.
    pub(super) fn one_writer(&mut self) -> &mut Self {
        self.world.set("LIBSQL_BOTTOMLESS_FENCING", "off");
        self
    }

    /// Statements of a process of this machine that ends well.
    pub(super) fn helper(&mut self, statements: &[&str]) {
        let mut session = self.world.open(Host::Newest);
        for sql in statements {
            session.sql(sql);
            self.counts(sql);
        }
        session.close(0).unwrap();
    }

    /// Statements of a process of this machine that dies, at a point if one is given, during the last of them; else
    /// after it.
    pub(super) fn dying_helper(&mut self, point: Option<&str>, statements: &[&str]) {
        let mut session = self.start_with(Host::Newest, point);
        assert!(session.attempt_open(0, &self.world.uri()).is_some());
        let (last, first) = statements.split_last().unwrap();
        for sql in first {
            session.sql(sql);
            self.counts(sql);
        }
        match (session.attempt(0, last), point) {
            (None, Some(_)) => {}
            (Some(Ok(_)), None) => self.counts(last),
            (answer, _) => panic!("{last}: {answer:?}"),
        }
        session.kill();
    }

    /// Statements of a program without the extension.
    pub(super) fn stock(&mut self, statements: &[&str]) {
        let sql = statements.join(";\n");
        let output = shell::run_stock(&self.world, &format!(".bail on\n.open {}\n{sql};", self.world.id()));
        assert!(output.status.success() && output.stderr.is_empty(), "{sql}: {}", shell::errors(&output));
        for sql in statements {
            self.counts(sql);
        }
    }

    /// Another machine, and statements that it commits.
    pub(super) fn elsewhere(&mut self, statements: &[&str]) {
        if self.machine.is_none() {
            self.machine = Some(Machine::new(&self.world, "elsewhere"));
        }
        for sql in statements {
            self.machine.as_mut().expect("a machine").session.sql(sql);
            self.counts(sql);
        }
    }

    // The victim.

    fn start_with(&self, host: Host, order: Option<&str>) -> Session {
        let mut environment: BTreeMap<_, _> = self.world.environment.clone();
        environment.insert(TRACE_VARIABLE.to_owned(), self.trace_path().display().to_string());
        if let Some(order) = order {
            environment.insert(VARIABLE.to_owned(), order.to_owned());
        }
        let name = format!("stderr-points-{}", environment.len() + self.world.objects().len());
        let mut session = Session::start(host, &environment, &self.world.folder().join(name));
        session.load();
        session
    }

    fn trace_path(&self) -> PathBuf {
        self.world.folder().join("points")
    }

    fn answered<T>(&self, sql: &str, answer: Result<T, SqlError>) -> T {
        let stderr = || self.victim.as_ref().map(Session::stderr).unwrap_or_default();
        answer.unwrap_or_else(|e| panic!("{sql}: {e:?}\nstandard error:\n{}", stderr()))
    }

    pub(super) fn victim(&mut self) -> &mut Session {
        self.victim.as_mut().expect("the victim has started")
    }

    /// The process that is to die starts, and opens the database.
    pub(super) fn start(&mut self) -> Played {
        // What helpers reached is not the victim's.
        let _ = std::fs::remove_file(self.trace_path());
        self.victim = Some(self.start_with(self.host, self.order.as_deref()));
        self.open()
    }

    pub(super) fn open(&mut self) -> Played {
        let uri = self.world.uri();
        let opened = self.victim().attempt_open(0, &uri);
        let opened = match opened {
            // SQLite may open lazily: it is the first read then.
            Some(Ok(_)) => self.victim().attempt(0, "SELECT count(*) FROM sqlite_schema"),
            other => other,
        };
        let Some(answer) = opened else { return Err(self.died_during("PRAGMA opening")) };
        self.answered("open", answer);
        Ok(())
    }

    pub(super) fn close(&mut self) -> Played {
        let Some(answer) = self.victim().attempt_close(0) else { return Err(self.died_during("PRAGMA closing")) };
        self.answered("close", answer);
        Ok(())
    }

    /// One statement that succeeds: acknowledged.
    pub(super) fn sql(&mut self, sql: &str) -> Result<Rows, Dead> {
        let Some(answer) = self.victim().attempt(0, sql) else { return Err(self.died_during(sql)) };
        let rows = self.answered(sql, answer);
        self.counts(sql);
        Ok(rows)
    }

    /// One statement that succeeds or fails as it does in stock SQLite.
    pub(super) fn statement(&mut self, sql: &str) -> Played {
        let Some(answer) = self.victim().attempt(0, sql) else { return Err(self.died_during(sql)) };
        let expected = self.oracle.exec(0, sql);
        let stderr = self.victim().stderr();
        assert_eq!(answer.is_ok(), expected.is_ok(), "{sql}: {answer:?}, the oracle: {expected:?}\n{stderr}");
        Ok(())
    }

    /// A pragma that may fail.
    pub(super) fn pragma(&mut self, sql: &str) -> Played {
        self.victim().attempt(0, sql).map(drop).ok_or_else(|| self.died_during("PRAGMA"))
    }

    pub(super) fn all(&mut self, statements: &[&str]) -> Played {
        for sql in statements {
            self.sql(sql)?;
        }
        Ok(())
    }

    /// The bucket may show this transaction for a while, which does not count. Gives the content with it.
    pub(super) fn may_show(&mut self, sql: &str) -> String {
        self.oracle.sql(&format!("BEGIN; {sql}"));
        let refused = whole::content(&mut self.oracle, 0, "zz").expect("the oracle");
        self.oracle.sql("ROLLBACK");
        self.transient.push(refused.clone());
        refused
    }

    /// One transaction, in one statement, that is refused; the bucket may have it for a while.
    pub(super) fn refused(&mut self, sql: &str) -> Played {
        self.victim().send_sql(0, sql);
        self.refusal(sql)
    }

    /// The same after it was sent.
    pub(super) fn refusal(&mut self, sql: &str) -> Played {
        let before = self.content();
        let refused = self.may_show(sql);
        match self.victim().try_answer() {
            None => {
                self.finals = vec![before, refused];
                Err(Dead)
            }
            Some(Ok(_)) => panic!("{sql}: must be refused"),
            Some(Err(_)) => Ok(()),
        }
    }

    /// One transaction that another machine's precludes.
    pub(super) fn fenced(&mut self, sql: &str) -> Played {
        match self.victim().attempt(0, sql) {
            None => {
                self.finals = vec![self.content()];
                Err(Dead)
            }
            Some(answer) => {
                assert!(answer.is_err(), "{sql}: must be refused");
                Ok(())
            }
        }
    }

    /// Waits until the victim's request is held, or until it is dead.
    pub(super) fn wait_at_the_gate(&mut self) -> bool {
        let victim = self.victim.as_mut().expect("the victim has started");
        self.world.proxy.gate().wait_for_request_unless(|| victim.is_gone())
    }

    /// What has been played so far, other plays show too.
    pub(super) fn begin_here(&mut self) {
        self.before = self.reached();
    }

    /// And what comes after.
    pub(super) fn end_here(&mut self) {
        self.upto = Some(self.reached());
    }

    /// After a survey: the oracle goes on from what was decided.
    pub(super) fn next_round(&mut self, order: Option<String>) {
        self.oracle.kill();
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", oracle_path(&self.world).display()));
        }
        if let Some(restored) = self.restored.take() {
            std::fs::copy(&restored, oracle_path(&self.world)).unwrap();
            std::fs::remove_dir_all(restored.parent().unwrap()).unwrap();
        }
        self.oracle = oracle(&self.world);
        self.order = order;
        self.journaled = true;
        self.finals.clear();
    }

    /// Whether the victim is to die somewhere.
    pub(super) fn is_doomed(&self) -> bool {
        self.order.is_some()
    }

    /// Where the victim is to die, and what it said.
    pub(super) fn doom(&self) -> String {
        let stderr = self.victim.as_ref().map(Session::stderr).unwrap_or_default();
        format!("{:?}, {stderr}", self.order)
    }

    /// Whether the victim has come to every point of this family.
    pub(super) fn has_reached_all(&self, family: &str) -> bool {
        let reached = self.reached();
        let mut points = Point::ALL.iter().map(|point| point.name()).filter(|name| name.starts_with(family));
        points.all(|name| reached.contains_key(name))
    }

    // The end.

    /// The times at which the victim can die at each point, in the part of the play that counts.
    pub(super) fn trace(&self) -> BTreeMap<&'static str, RangeInclusive<u64>> {
        let reached = self.upto.clone().unwrap_or_else(|| self.reached());
        let from = |name: &str| self.before.get(name).copied().unwrap_or(0) + 1;
        let times = reached.into_iter().map(|(name, count)| (name, from(name)..=count));
        times.filter(|(_, times)| !times.is_empty()).collect()
    }

    fn reached(&self) -> BTreeMap<&'static str, u64> {
        let text = std::fs::read_to_string(self.trace_path()).unwrap_or_default();
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let point = Point::ALL.iter().find(|point| point.name() == line).expect("a point");
            *counts.entry(point.name()).or_default() += 1;
        }
        counts
    }

    /// What must hold after the end of the victim, whatever it was.
    pub(super) fn verify(mut self, played: &Played, restores: Restores, what: &str) {
        self.survey(played, restores, what);
    }

    /// The same, and the play goes on. Gives a process that has the database open.
    pub(super) fn survey(&mut self, played: &Played, restores: Restores, what: &str) -> Session {
        if played.is_ok() {
            self.finals = vec![self.content()];
        }
        if let Some(mut victim) = self.victim.take() {
            victim.kill();
        }
        self.world.proxy.heal();
        self.world.proxy.gate().open();
        self.world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 30);
        if let Some(repair) = self.repair.take() {
            repair(&self.world);
        }
        if restores != Restores::Last {
            self.look_at_the_bucket(restores, what);
        }
        self.pick_up_compaction(what);
        if self.journaled {
            self.look_at_the_folder(what);
        }
        let mut decided = None;
        if let Some(mut other) = self.other.take() {
            decided = Some(self.go_on(&mut other, decided, what));
            self.other = Some(other);
        }
        let mut again = self.world.open(self.host);
        let decided = self.go_on(&mut again, decided, what);
        if let Some(mut other) = self.other.take() {
            self.go_on(&mut other, Some(decided.clone()), what);
            other.close(0).unwrap();
            self.go_on(&mut again, Some(decided), what);
        }
        let restored = whole::assert_whole(&self.world, &mut again, what);
        if restores == Restores::Litestream {
            compare::assert_same_pages(&restored, &litestream::restore(&self.world, None));
        }
        self.restored = Some(restored);
        again
    }

    /// Another process goes on where compaction was cut off; what comes then is not to be disturbed by it.
    fn pick_up_compaction(&mut self, what: &str) {
        if self.world.environment["LIBSQL_BOTTOMLESS_COMPACTION"] != "on" {
            return;
        }
        if self.world.layout() == Layout::Pages {
            let mut session = self.world.open(self.host);
            self.world.fold(&mut session, what);
            session.close(0).unwrap();
            // In the background, nothing more.
            return self.world.lay_out(Layout::Pages);
        }
        let mut session = self.world.open(self.host);
        let deadline = Instant::now() + Duration::from_secs(30);
        while session.status()["compacted_txid"] != self.world.end() {
            assert!(Instant::now() < deadline, "{what}: compaction does not go on\n{}", session.stderr());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        session.close(0).unwrap();
        self.world.compact_nothing();
    }

    fn assert_allowed(&self, content: &str, more: &[&Vec<String>], what: &str) {
        let allowed: Vec<_> = self.finals.iter().chain(more.iter().copied().flatten()).collect();
        assert!(allowed.iter().any(|allowed| *allowed == content), "{what}: found\n{content}\nallowed: {allowed:#?}");
    }

    /// As it is right after the death, seen from an empty folder.
    fn look_at_the_bucket(&mut self, restores: Restores, what: &str) {
        let what = format!("{what}: the bucket");
        if whole::assert_no_gap(&self.world, &what) == 0 {
            self.assert_allowed("", &[&self.transient], &what);
            return;
        }
        let restored = self.world.restore_elsewhere();
        let content = self.read(&restored, &what);
        self.assert_allowed(&content, &[&self.transient], &what);
        if restores == Restores::Litestream {
            compare::assert_same_pages(&restored, &litestream::restore(&self.world, None));
        }
    }

    /// What stock SQLite finds when it opens the folder as it lies there; a copy, so that it stays as it is.
    fn look_at_the_folder(&mut self, what: &str) {
        let what = format!("{what}: stock SQLite");
        let folder = self.world.folder().join("copy");
        std::fs::create_dir_all(&folder).unwrap();
        for suffix in ["", "-wal", "-journal"] {
            let name = format!("{}{suffix}", self.world.id());
            if let Ok(content) = std::fs::read(self.world.folder().join(&name)) {
                std::fs::write(folder.join(&name), content).unwrap();
            }
        }
        let content = self.read(&folder.join(self.world.id()), &what);
        std::fs::remove_dir_all(&folder).unwrap();
        self.assert_allowed(&content, &[&self.transient, &self.local], &what);
    }

    fn read(&mut self, path: &Path, what: &str) -> String {
        self.oracle.open(2, &path.display().to_string()).unwrap();
        let check = self.oracle.exec(2, "PRAGMA integrity_check");
        assert_eq!(check.map(|rows| rows[0][0].clone()), Ok("ok".into()), "{what}");
        let content = whole::content(&mut self.oracle, 2, "zz").expect("readable");
        self.oracle.close(2).unwrap();
        content
    }

    /// A process commits after the death, twice. Gives what it found of the victim's work.
    fn go_on(&mut self, session: &mut Session, decided: Option<String>, what: &str) -> String {
        let found = whole::content(session, 0, "zz").unwrap_or_else(|e| panic!("{what}: {e:?}\n{}", session.stderr()));
        match &decided {
            Some(decided) => assert_eq!(&found, decided, "{what}: decided before"),
            None => self.assert_allowed(&found, &[], what),
        }
        session.sql("CREATE TABLE IF NOT EXISTS zz(n)");
        session.sql("INSERT INTO zz SELECT count(*) FROM zz");
        self.after += 1;
        assert_eq!(session.number("SELECT count(*) FROM zz"), self.after, "{what}");
        let left = whole::content(session, 0, "zz").expect("readable");
        assert_eq!(left, found, "{what}: the next commit changes what was there");
        left
    }
}

fn oracle_path(world: &World) -> PathBuf {
    world.folder().join("oracle.db")
}

fn oracle(world: &World) -> Session {
    let mut oracle = world.stock(Host::Newest);
    for connection in [0, 1] {
        oracle.open(connection, &oracle_path(world).display().to_string()).unwrap();
    }
    oracle.sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF");
    oracle
}
