//! Many processes and threads with one database at the same time, one of them killed now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, Layout, Session, World};
use fastrand::Rng;
use serde_json::json;

/// The database with which all begin.
const SCHEMA: &str = "
    CREATE TABLE account(id INTEGER PRIMARY KEY, balance);
    WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < 7) INSERT INTO account SELECT i, 1000 FROM c;
    CREATE TABLE work(id, n, size, origin, target, amount, value, padding, PRIMARY KEY(id, n));";

struct Plan {
    processes: u64,
    threads: u64,
    steps: u64,
    kills: u64,
}

/// What the log of a process says about one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Tried, and nothing was heard: the process was killed.
    Unknown,
    Acknowledged,
    Refused,
}

/// Transactions of one process by their id, with the rows of each.
fn read_log(path: &Path, fates: &mut BTreeMap<i64, (Fate, i64)>) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap_or_else(|e| panic!("{line}: {e}"));
        match words[0] {
            "try" => assert_eq!(fates.insert(number(1), (Fate::Unknown, number(2))), None, "{line}"),
            "ok" => fates.get_mut(&number(1)).expect("tried before").0 = Fate::Acknowledged,
            "err" => fates.get_mut(&number(1)).expect("tried before").0 = Fate::Refused,
            "back" => assert_eq!(fates.insert(number(1), (Fate::Refused, 0)), None, "{line}"),
            "read" => {}
            _ => panic!("{}: {line}", path.display()),
        }
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

struct Crowd<'a> {
    world: &'a World,
    plan: Plan,
    seed: u64,
    started: u64,
}

impl Crowd<'_> {
    fn log(&self, process: u64) -> std::path::PathBuf {
        self.world.folder().join(format!("log-{}-{process}", self.seed))
    }

    fn start(&mut self) -> (u64, Session) {
        self.started += 1;
        let mut session = self.world.host(Host::Newest);
        session.send(&json!({
            "op": "crowd", "name": self.world.uri(), "log": self.log(self.started), "seed": self.seed,
            "process": self.started, "threads": self.plan.threads, "steps": self.plan.steps,
        }));
        (self.started, session)
    }

    /// Lets all work, and kills; what all of them tried.
    fn run(&mut self, rng: &mut Rng) -> BTreeMap<i64, (Fate, i64)> {
        let mut running: Vec<_> = (0..self.plan.processes).map(|_| self.start()).collect();
        for _ in 0..self.plan.kills {
            let victim = rng.usize(..running.len());
            let (process, mut session) = running.swap_remove(victim);
            // By its progress, not by time; it has more to do than this.
            let enough = rng.usize(1..usize::try_from(self.plan.threads * self.plan.steps / 3).unwrap());
            let log = self.log(process);
            while lines(&log) < enough {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            session.kill();
            running.push(self.start());
        }
        for (_, session) in &mut running {
            session.answer().expect("all of its work");
        }
        for (_, session) in running {
            let (code, errors) = session.end();
            assert_eq!(code, Some(0), "{errors}");
        }
        let mut fates = BTreeMap::new();
        (1..=self.started).for_each(|process| read_log(&self.log(process), &mut fates));
        fates
    }
}

fn crowd(mode: &str, layout: Layout, seed: u64, plan: Plan) {
    let world = World::new("crowd").laid_out(layout);
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}; {SCHEMA}"));
    session.close(0).unwrap();
    let before = world.last();
    let kills = plan.kills;
    let mut crowd = Crowd { world: &world, plan, seed, started: 0 };
    let fates = crowd.run(&mut Rng::with_seed(seed));

    let mut session = world.open(Host::Newest);
    let what = format!("{mode}, {layout:?}, seed {seed}");
    assert_eq!(session.value("PRAGMA integrity_check"), "ok", "{what}");
    let mut found = BTreeSet::new();
    for row in session.sql("SELECT id, count(*), max(size), count(DISTINCT n) FROM work GROUP BY id") {
        let [id, rows, size, numbers] = [0, 1, 2, 3].map(|i| row[i].as_i64().unwrap());
        assert!(rows == size && numbers == size, "{what}: half a transaction: {row:?}");
        let Some((fate, tried)) = fates.get(&id) else { panic!("{what}: nobody tried {id}") };
        assert!(*fate != Fate::Refused && size == *tried, "{what}: {id} is there, and was {fate:?}");
        found.insert(id);
    }
    let of = |fate: Fate| fates.iter().filter(move |(_, (is, _))| *is == fate).map(|(id, _)| *id);
    let lost: Vec<_> = of(Fate::Acknowledged).filter(|id| !found.contains(id)).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
    assert_eq!(session.number("SELECT sum(balance) FROM account"), 8000, "{what}");

    // One object for each transaction, and none but of transactions that somebody tried.
    let log = world.log();
    assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "{what}");
    let acknowledged = of(Fate::Acknowledged).count() as u64;
    let tried = fates.values().filter(|(_, size)| *size > 0).count() as u64;
    let published = log.len() as u64 - before;
    assert!(acknowledged > 0 && published >= acknowledged, "{what}: {published} objects, {acknowledged} acknowledged");
    // After a kill, pages of a transaction that was cut off may be taken back by one of their own.
    assert!(published <= tried + kills, "{what}: {published} objects, {tried} tried");
    assert_eq!(session.status()["txid"], log.len(), "{what}");
    assert_eq!(session.status()["unsettled"], false, "{what}");
    world.assert_restores_equal(&mut session);
    println!(
        "{what}: {acknowledged} acknowledged, {tried} tried, {} unknown, {kills} killed",
        of(Fate::Unknown).count()
    );
}

#[test]
fn many_processes_and_threads_in_wal_mode() {
    crowd("WAL", Layout::Pages, Workload::seed(), Plan { processes: 3, threads: 3, steps: 40, kills: 3 });
}

#[test]
fn many_processes_and_threads_in_rollback_mode() {
    crowd("DELETE", Layout::Ltx, Workload::seed(), Plan { processes: 3, threads: 3, steps: 40, kills: 3 });
}

#[test]
#[ignore = "many rounds, some minutes: make soak"]
fn soak_processes() {
    for round in 0..20 {
        for mode in ["WAL", "DELETE", "PERSIST"] {
            let seed = Workload::seed() + round;
            for layout in Layout::ALL {
                crowd(mode, layout, seed, Plan { processes: 4, threads: 4, steps: 60, kills: 6 });
            }
        }
    }
}
