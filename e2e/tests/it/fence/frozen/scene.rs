//! Two machines, of which one is frozen at some place while the other does something.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use bottomless_e2e::freezer::wait_until_passed;
use bottomless_e2e::proxy::{Answer, Fault, Request};
use bottomless_e2e::{Host, Machine, SqlError, World, compactor, compare, litestream};

/// `W`. Some stores count the time of an object in seconds: with a second, what is deleted is never as old as what
/// comes after it.
pub const WINDOW: Duration = Duration::from_secs(1);

/// Where a writer is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between two transactions.
    Idle,
    /// The same, and what became of the first is not known.
    Unsettled {
        /// It is in the bucket.
        landed: bool,
    },
    /// The object is encoded, and what the writer knows of the bucket is not looked at yet.
    Drafted,
    /// It is looked at, and nothing is sent.
    Intended,
    /// The PUT is sent, and reaches the store when the other machine is done.
    Sent,
    /// The store has created the object, and its reply is under way.
    Stored,
    /// The reply is there.
    Landed,
}

use Place::{Drafted, Idle, Intended, Landed, Sent, Stored, Unsettled};

impl Place {
    /// The object is in the bucket before the other machine goes on.
    fn is_stored(self) -> bool {
        matches!(self, Stored | Landed)
    }

    /// In a transaction, not between two.
    fn is_within(self) -> bool {
        !matches!(self, Idle | Unsettled { .. })
    }

    /// In the second transaction of the process.
    fn point(self) -> Option<(&'static str, String)> {
        let point = match self {
            Drafted => "commit.drafted",
            Intended => "commit.intended",
            Landed => "commit.landed",
            Idle | Unsettled { .. } | Sent | Stored => return None,
        };
        Some(("BOTTOMLESS_TEST_POINT", format!("{point}=stop@2")))
    }
}

/// What the other machine does while the writer is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    /// It commits so often.
    Commits(u32),
    /// And merges everything and deletes all of the log.
    Merges(u32),
    /// And commits once more.
    GoesOn(u32),
    /// It commits while its own compaction merges and deletes, until the frozen writer's transaction is deleted.
    Compacts,
}

use Meanwhile::{Commits, Compacts, GoesOn, Merges, Nothing};

/// Two machines with the same database.
pub struct Scene {
    pub world: World,
    /// The one that is frozen.
    pub a: Machine,
    b: Machine,
    /// All of the history: the row of each transaction; empty if a later one took it back.
    history: BTreeMap<u64, String>,
    rows: u32,
    /// Of `a`, when it began the transaction in which it is frozen.
    requests: usize,
}

impl Scene {
    pub fn new(mode: &str) -> Self {
        let mut world = World::new("frozen");
        // No try is given up while it is held.
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 600);
        set_window(&world, WINDOW);
        let mut first = world.open(Host::Newest);
        first.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(row)"));
        first.close(0).unwrap();
        let [a, b] = ["a", "b"].map(|name| Machine::new(&world, name));
        let mut scene = Self { world, a, b, history: BTreeMap::new(), rows: 0, requests: 0 };
        scene.settle("at first");
        scene
    }

    fn row(&mut self, who: &str) -> String {
        self.rows += 1;
        format!("{who} {}", self.rows)
    }

    #[track_caller]
    fn note(&mut self, txid: u64, row: String, what: &str) {
        let before = self.history.insert(txid, row);
        assert_eq!(before, None, "{what}: two were told OK for position {txid}");
    }

    #[track_caller]
    fn a_commits(&mut self, what: &str) {
        let row = self.row("a");
        self.a.session.sql(&insert(&row));
        let txid = self.a.txid();
        self.note(txid, row, what);
    }

    #[track_caller]
    fn b_commits(&mut self, what: &str) {
        let row = self.row("b");
        self.b.session.sql(&insert(&row));
        let txid = self.b.txid();
        self.note(txid, row, what);
    }

    /// `a` begins a transaction, and is frozen there. The row, and since when.
    pub fn freeze(&mut self, place: Place, what: &str) -> (String, SystemTime) {
        self.a.session.close(0).unwrap();
        self.a.restart(&self.world, place.point());
        self.a_commits(what);
        if let Unsettled { landed } = place {
            self.fail(landed, what);
        }
        let row = self.row("a");
        self.requests = self.a.proxy.requests().len();
        let (session, gate) = (&mut self.a.session, self.a.proxy.gate());
        if matches!(place, Sent | Stored) {
            gate.hold("PUT", "/0000/");
        }
        if place.is_within() {
            session.send_sql(0, &insert(&row));
        }
        match place {
            Idle | Unsettled { .. } => session.freeze(),
            Drafted | Intended | Landed => session.wait_until_frozen(),
            Sent => {
                gate.wait_for_request();
                session.freeze();
            }
            Stored => {
                gate.let_request();
                session.freeze();
            }
        }
        if place.is_stored() {
            let txid = self.last() + 1;
            self.note(txid, row.clone(), what);
        }
        (row, SystemTime::now())
    }

    /// A transaction of `a` of which nobody can tell what becomes.
    fn fail(&mut self, landed: bool, what: &str) {
        let proxy = &self.a.proxy;
        proxy.fail_once(Some("PUT"), "/0000/", if landed { Fault::LoseReply } else { Fault::Close });
        proxy.fail_only(Some("PUT"), "/0000/", Fault::Answer(Answer::new(403, "AccessDenied")));
        let row = self.row("unsettled a");
        self.a.session.sql_fails(&insert(&row));
        assert_eq!(self.a.session.status()["unsettled"], true, "{what}");
        self.a.proxy.heal();
        if landed {
            let txid = self.last() + 1;
            self.note(txid, row, what);
        }
    }

    /// What `b` does, which first catches up.
    pub fn happens(&mut self, meanwhile: Meanwhile, what: &str) {
        if meanwhile == Compacts {
            return self.compacts(what);
        }
        let (Commits(commits) | Merges(commits) | GoesOn(commits)) = meanwhile else { return };
        self.b.reopen();
        for _ in 0..commits {
            self.b_commits(what);
        }
        if let Merges(_) | GoesOn(_) = meanwhile {
            self.b.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            compactor::snapshot(&self.world, self.b.db(), self.last());
            wait_until_passed(SystemTime::now(), WINDOW);
            compactor::delete_log(&self.world, self.last());
            assert_eq!(self.world.last(), 0, "{what}: all of the log is deleted");
        }
        if let GoesOn(_) = meanwhile {
            self.b_commits(what);
        }
    }

    fn compacts(&mut self, what: &str) {
        let claimed = self.last() + 1;
        let never = 24 * 3600 * 1000;
        self.world.compact([100, 300, never], never, 1000);
        self.b.restart(&self.world, None);
        let deadline = Instant::now() + Duration::from_secs(60);
        // The first of all stays until there is a snapshot.
        while self.world.log().iter().any(|txid| (2..=claimed).contains(txid)) || self.last() < claimed {
            assert!(Instant::now() < deadline, "{what}: nothing is deleted: {:?}", self.world.history());
            self.b_commits(what);
        }
        // What is there then stays there.
        self.world.compact_nothing();
        self.b.restart(&self.world, None);
    }

    /// `a` goes on, and is told what became of its transaction.
    pub fn thaw(&mut self, place: Place, row: &str) -> Result<(), SqlError> {
        let (session, gate) = (&mut self.a.session, self.a.proxy.gate());
        if place == Sent {
            gate.let_request();
        }
        session.thaw();
        gate.open();
        if !place.is_within() {
            session.send_sql(0, &insert(row));
        }
        session.answer().map(drop)
    }

    /// What `a` asked for since it began the transaction in which it was frozen.
    fn asked(&self) -> Vec<Request> {
        self.a.proxy.requests().split_off(self.requests)
    }

    /// What the table holds.
    fn rows(&self) -> Vec<String> {
        self.history.values().filter(|row| !row.is_empty()).cloned().collect()
    }

    /// The last transaction.
    pub fn last(&self) -> u64 {
        self.history.keys().last().copied().unwrap_or(0)
    }

    /// A whole course. With one machine frozen and the other not, nothing is lost that was acknowledged, and what was
    /// not acknowledged is not there.
    fn play(&mut self, place: Place, meanwhile: Meanwhile) {
        let what = &format!("{place:?}, {meanwhile:?}");
        let (row, since) = self.freeze(place, what);
        let claimed = self.last() + u64::from(!place.is_stored());
        self.happens(meanwhile, what);
        wait_until_passed(since, WINDOW);
        let before = self.world.objects();
        let told = self.thaw(place, &row);
        match meanwhile {
            Nothing | Merges(0) => {
                assert_eq!(told, Ok(()), "{what}: {}", self.a.session.stderr());
                assert_eq!(self.a.txid(), claimed, "{what}");
                if place == (Unsettled { landed: true }) {
                    self.history.insert(claimed - 1, String::new());
                }
                if !place.is_stored() {
                    self.note(claimed, row, what);
                }
            }
            Commits(_) | Merges(_) | GoesOn(_) | Compacts if place.is_stored() => {
                assert_eq!(self.world.objects(), before, "{what}: nothing of it is added or removed");
                if let Err(error) = told {
                    self.assert_fenced(&error, what);
                }
            }
            Commits(_) | Merges(_) | GoesOn(_) | Compacts => {
                self.assert_fenced(&told.expect_err(what), what);
                assert_eq!(self.world.objects(), before, "{what}: nothing of it is there");
                let there = self.a.session.sql(&format!("SELECT row FROM t WHERE row = '{row}'"));
                assert!(there.is_empty(), "{what}: the transaction is still there");
                self.assert_met(place, meanwhile, claimed, what);
            }
        }
        self.settle(what);
    }

    /// The position was taken, or its object was created and removed.
    fn assert_met(&self, place: Place, meanwhile: Meanwhile, claimed: u64, what: &str) {
        let asked = self.asked();
        let key = self.world.log_key(claimed);
        let of = |method: &str| {
            let of_key = asked.iter().filter(|r| r.method == method && r.target.contains(&key));
            of_key.map(|r| r.status.unwrap()).collect::<Vec<_>>()
        };
        match (place, meanwhile) {
            (Idle | Unsettled { .. } | Drafted, _) => {
                assert!(asked.iter().all(|r| r.method == "GET"), "{what}: it only asks: {asked:#?}")
            }
            (_, Commits(_)) => assert_eq!((of("PUT"), of("DELETE")), (vec![412], vec![]), "{what}"),
            _ => assert_eq!((of("PUT"), of("DELETE")), (vec![200], vec![204]), "{what}"),
        }
    }

    #[track_caller]
    pub fn assert_fenced(&self, error: &SqlError, what: &str) {
        // SQLITE_OK, SQLITE_BUSY and SQLITE_LOCKED would ask for another try of COMMIT.
        assert!(![0, 5, 6].contains(&error.primary()), "{what}: {error:?}");
        let stderr = self.a.session.stderr();
        assert!(stderr.contains("another writer has taken over"), "{what}: {error:?}\n{stderr}");
    }

    /// All of these courses, one after the other.
    pub fn play_all(&mut self, place: Place, courses: &[Meanwhile]) {
        for meanwhile in courses {
            self.play(place, *meanwhile);
        }
        self.assert_restores();
    }

    /// Both catch up and commit; then both folders hold the history.
    #[track_caller]
    pub fn settle(&mut self, what: &str) {
        self.a.reopen();
        self.a_commits(what);
        self.b.reopen();
        self.b_commits(what);
        self.a.reopen();
        let positions: Vec<_> = self.history.keys().copied().collect();
        let line: Vec<_> = (positions[0]..).take(positions.len()).collect();
        assert_eq!(positions, line, "{what}: one line");
        let expected = self.rows();
        for machine in [&mut self.a, &mut self.b] {
            assert_eq!(rows(machine), expected, "{what}: {}", machine.name);
            assert_eq!(machine.session.value("PRAGMA integrity_check"), "ok", "{what}: {}", machine.name);
            machine.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        compare::assert_same_pages(self.a.db(), self.b.db());
    }

    /// Another machine, which is now at the last position, and has the database closed.
    pub fn third(&self) -> Machine {
        let mut third = Machine::new(&self.world, "third");
        third.session.close(0).unwrap();
        third
    }

    /// A machine that was at the position before the orphan opens it again: the orphan leads on from there.
    #[track_caller]
    pub fn assert_catches_up(&self, mut third: Machine, what: &str) {
        third.session.open(0, &third.uri()).unwrap();
        assert_eq!(rows(&mut third), self.rows(), "{what}");
        third.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        compare::assert_same_pages(self.b.db(), third.db());
    }

    /// What is restored anywhere is what `b` has.
    #[track_caller]
    pub fn assert_restores(&mut self) {
        self.b.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        let restored = self.world.restore_elsewhere();
        compare::assert_same_pages(self.b.db(), &restored);
        compare::assert_same_pages(self.b.db(), &litestream::restore(&self.world, None));
        std::fs::remove_dir_all(restored.parent().unwrap()).unwrap();
    }
}

fn insert(row: &str) -> String {
    format!("INSERT INTO t VALUES('{row}')")
}

fn rows(machine: &mut Machine) -> Vec<String> {
    let rows = machine.session.sql("SELECT row FROM t ORDER BY rowid");
    rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

/// All users of the database share it, from their next listing on.
pub fn set_window(world: &World, window: Duration) {
    let content = serde_json::json!({
        "fence_window_seconds": window.as_secs_f64(),
        "fence_window_before_seconds": window.as_secs_f64(),
    });
    world.bucket.put(&format!("{}/bottomless.json", world.id()), content.to_string().as_bytes());
}
