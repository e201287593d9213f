//! A connection that was fenced and is alone on its machine catches up at its next transaction, by itself.

use bottomless_e2e::faults::{Call, Errno, Faults, Plan, Target};
use bottomless_e2e::proxy::{Answer, Fault};
use bottomless_e2e::shell::{run_stock, text};
use bottomless_e2e::{Host, Session, World, compare};

use crate::commit::{MODES, commits_once};

/// Two machines with one database.
struct Pair {
    world: World,
    a: Session,
    b: Session,
    mode: String,
}

impl Pair {
    fn new(host: Host, mode: &str) -> Self {
        Self::with(host, mode, "PRAGMA user_version = 0")
    }

    /// `first` goes before the first table.
    fn with(host: Host, mode: &str, first: &str) -> Self {
        let mut world = World::new("alone");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let mut a = world.open(host);
        a.sql(&format!("{first}; PRAGMA journal_mode = {mode}"));
        a.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, who, v); INSERT INTO t(who) VALUES('first')");
        let folder = world.folder().join("b");
        std::fs::create_dir(&folder).unwrap();
        let mut b = world.host(Host::Newest);
        b.open(0, &format!("file:{}?vfs=bottomless", folder.join(world.id()).display())).unwrap();
        b.sql(&format!("PRAGMA journal_mode = {mode}"));
        Self { world, a, b, mode: mode.to_owned() }
    }

    fn uri_of_b(&self) -> String {
        format!("file:{}?vfs=bottomless", self.world.folder().join("b").join(self.world.id()).display())
    }

    /// A finds out that B has committed.
    #[track_caller]
    fn fence_a(&mut self) {
        let before = self.a.sql("SELECT * FROM t");
        let last = self.world.last();
        let error = self.a.sql_fails("INSERT INTO t(who) VALUES('lost')");
        assert!(![0, 5, 6, 11].contains(&error.primary()), "{}: {error:?}", self.mode);
        assert_eq!(self.world.last(), last, "{}", self.mode);
        let stderr = self.a.stderr();
        assert!(stderr.contains("another writer has taken over"), "{}: {stderr}", self.mode);
        assert!(before != [[""]], "the rows before can be read");
    }

    /// Everything is as if nobody had ever been fenced.
    #[track_caller]
    fn check(&mut self) {
        let mode = &self.mode;
        let status = self.a.status();
        assert_eq!(status["fenced"], false, "{mode}");
        assert_eq!(status["txid"], self.world.last(), "{mode}");
        assert_eq!(self.a.value("PRAGMA integrity_check"), "ok", "{mode}");
        commits_once(&self.world, &mut self.a, "INSERT INTO t(who) VALUES('as ever')");
        let log = self.world.log();
        assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "{mode}: no gap");
        self.world.assert_restores_equal(&mut self.a);
        let stderr = self.a.stderr();
        assert!(!stderr.contains("another program"), "{mode}: {stderr}");
    }
}

fn who(session: &mut Session) -> Vec<String> {
    let rows = session.sql("SELECT who FROM t ORDER BY k");
    rows.into_iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_same_transaction_succeeds_when_it_is_tried_again() {
    for (host, mode) in
        MODES.iter().map(|mode| (Host::Newest, *mode)).chain([(Host::Python, "DELETE"), (Host::Python, "WAL")])
    {
        let mut pair = Pair::new(host, mode);
        let mut expected = vec!["first".to_owned()];
        for round in 0..3 {
            pair.b
                .exec(0, "INSERT INTO t(who) VALUES('b')")
                .or_else(|_| pair.b.exec(0, "INSERT INTO t(who) VALUES('b')"))
                .unwrap();
            pair.fence_a();
            pair.a.sql("BEGIN; INSERT INTO t(who) VALUES('a'); COMMIT");
            expected.extend(["b".to_owned(), "a".to_owned()]);
            assert_eq!(who(&mut pair.a), expected, "{mode}, {round}");
        }
        let stderr = pair.a.stderr();
        assert!(stderr.contains("caught up to transaction"), "{mode}: {stderr}");
        pair.check();
    }
}

/// A transaction that only reads sees the new content, too, and `BEGIN` alone does nothing.
#[test]
fn a_reader_sees_the_new_content() {
    for mode in ["DELETE", "WAL"] {
        for begin in ["BEGIN", "BEGIN IMMEDIATE"] {
            let mut pair = Pair::new(Host::Newest, mode);
            pair.b.sql("INSERT INTO t(who) VALUES('b')");
            pair.fence_a();
            pair.a.sql(begin);
            assert_eq!(who(&mut pair.a), ["first", "b"], "{mode}, {begin}");
            pair.a.sql("INSERT INTO t(who) VALUES('a'); COMMIT");
            pair.check();
        }
    }
}

/// Pages that SQLite has kept or mapped, and statements that it has prepared.
#[test]
fn nothing_old_is_left_in_memory() {
    for mode in ["DELETE", "WAL"] {
        for first in ["PRAGMA cache_size = 2000", "PRAGMA cache_size = 2000; PRAGMA mmap_size = 100000000"] {
            let mut pair = Pair::with(Host::Python, mode, first);
            pair.a.sql("INSERT INTO t(who, v) SELECT 'filler', zeroblob(3000) FROM sqlite_schema, json_each('[1,2,3,4,5,6,7,8,9]')");
            for n in 0..40 {
                pair.a.sql(&format!("CREATE TABLE filler{n}(v); INSERT INTO filler{n} VALUES(zeroblob(5000))"));
            }
            pair.b.close(0).unwrap();
            pair.b.open(0, &pair.uri_of_b()).unwrap();
            let read = "SELECT count(*), sum(length(v)), max(who) FROM t";
            let before = pair.a.sql(read);
            for n in 0..40 {
                pair.a.sql(&format!("SELECT hex(v) FROM filler{n}"));
            }
            // One row; then the schema, to which the prepared statement does not fit any more.
            pair.b.sql("UPDATE t SET who = 'z' WHERE k = 3");
            pair.fence_a();
            let after = pair.a.sql(read);
            assert_eq!((&after[0][0], &after[0][1]), (&before[0][0], &before[0][1]), "{mode}");
            assert_eq!(after[0][2], "z", "{mode}");
            pair.b.sql(
                "ALTER TABLE t RENAME COLUMN v TO w; ALTER TABLE t ADD COLUMN v DEFAULT 'new'; DROP TABLE filler7",
            );
            pair.fence_a();
            assert_eq!(pair.a.sql(read)[0][1], before[0][0].as_i64().unwrap() * 3, "{mode}: the column is another");
            pair.a.sql_fails("SELECT * FROM filler7");
            for n in 0..7 {
                assert_eq!(pair.a.sql(&format!("SELECT length(hex(v)) FROM filler{n}")), [[10000]], "{mode}");
            }
            pair.check();
        }
    }
}

#[test]
fn the_database_shrinks_and_grows() {
    for mode in ["DELETE", "WAL"] {
        let mut pair = Pair::with(Host::Newest, mode, "PRAGMA auto_vacuum = NONE");
        pair.b.sql("INSERT INTO t(who, v) VALUES('big', randomblob(400000))");
        pair.fence_a();
        assert_eq!(pair.a.number("SELECT max(length(v)) FROM t"), 400_000, "{mode}");
        pair.b.sql("DELETE FROM t WHERE who = 'big'; VACUUM");
        pair.fence_a();
        assert_eq!(who(&mut pair.a), ["first"], "{mode}");
        let pages = pair.a.number("PRAGMA page_count");
        assert!(pages < 10, "{mode}: {pages}");
        pair.check();
    }
}

/// Outside of a WAL the new page size is taken over; a WAL can't follow, and says so.
#[test]
fn the_page_size_changes() {
    for mode in ["DELETE", "WAL"] {
        let mut pair = Pair::new(Host::Newest, mode);
        pair.b.sql("INSERT INTO t(who, v) VALUES('b', randomblob(50000))");
        pair.b.sql("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM");
        pair.b.sql(&format!("PRAGMA journal_mode = {mode}"));
        pair.fence_a();
        if mode == "WAL" {
            assert_eq!(who(&mut pair.a), ["first"]);
            pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
            let error = pair.a.status()["last_error"].to_string();
            assert!(error.contains("page size") && error.contains("open it again"), "{error}");
            pair.a.close(0).unwrap();
            pair.a.open(0, &pair.world.uri()).unwrap();
        }
        assert_eq!(who(&mut pair.a), ["first", "b"], "{mode}");
        assert_eq!(pair.a.number("PRAGMA page_size"), 1024, "{mode}");
        pair.a.sql("INSERT INTO t(who) VALUES('a')");
        pair.check();
    }
}

/// The journal mode is in the header of the database, as far as it is WAL or not.
#[test]
fn the_journal_mode_changes() {
    let mut pair = Pair::new(Host::Newest, "DELETE");
    pair.b.sql("PRAGMA journal_mode = WAL; INSERT INTO t(who) VALUES('b')");
    pair.fence_a();
    assert_eq!(who(&mut pair.a), ["first", "b"]);
    assert_eq!(pair.a.value("PRAGMA journal_mode"), "wal");
    pair.check();

    let mut pair = Pair::new(Host::Newest, "WAL");
    pair.b.sql("PRAGMA journal_mode = DELETE; INSERT INTO t(who) VALUES('b')");
    pair.fence_a();
    assert_eq!(who(&mut pair.a), ["first"]);
    pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
    let error = pair.a.status()["last_error"].to_string();
    assert!(error.contains("journal mode") && error.contains("open it again"), "{error}");
    pair.a.close(0).unwrap();
    pair.a.open(0, &pair.world.uri()).unwrap();
    assert_eq!(who(&mut pair.a), ["first", "b"]);
    pair.a.sql("INSERT INTO t(who) VALUES('a')");
    pair.check();
}

/// Never in the middle of a transaction: an open statement reads on what it began with.
#[test]
fn an_open_statement_keeps_what_it_reads() {
    for mode in ["DELETE", "WAL"] {
        let mut pair = Pair::new(Host::Python, mode);
        pair.a.sql("INSERT INTO t(who) VALUES('second'), ('third')");
        pair.b.close(0).unwrap();
        pair.b.open(0, &pair.uri_of_b()).unwrap();
        pair.b.sql("DELETE FROM t WHERE who = 'third'; INSERT INTO t(who) VALUES('b')");
        pair.fence_a();
        pair.world.proxy.refuse();
        assert_eq!(pair.a.cursor(0, "SELECT who FROM t ORDER BY k").unwrap(), [["first"]], "{mode}");
        pair.world.proxy.heal();
        // Another statement of the same connection belongs to the same transaction.
        assert_eq!(who(&mut pair.a), ["first", "second", "third"], "{mode}");
        pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
        // SQLite may have ended the statement with the transaction that was rolled back.
        if let Ok(rows) = pair.a.fetch(0) {
            assert_eq!(rows, [["second"], ["third"]], "{mode}");
        }
        assert_eq!(who(&mut pair.a), ["first", "second", "b"], "{mode}");
        pair.check();
    }
}

#[test]
fn a_connection_that_is_not_alone_says_so_and_waits() {
    for mode in ["DELETE", "WAL"] {
        for other_process in [false, true] {
            let mut pair = Pair::new(Host::Newest, mode);
            let mut other = pair.world.host(Host::Newest);
            let uri = pair.world.uri();
            let holder = |pair: &mut Pair, other: &mut Session, open: bool| {
                let (session, number) = if other_process { (other, 0) } else { (&mut pair.a, 1) };
                if open { session.open(number, &uri).unwrap() } else { session.close(number).unwrap() }
            };
            holder(&mut pair, &mut other, true);
            pair.b.sql("INSERT INTO t(who) VALUES('b')");
            pair.fence_a();
            for _ in 0..2 {
                assert_eq!(who(&mut pair.a), ["first"], "{mode}");
                pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
            }
            let error = pair.a.status()["last_error"].to_string();
            assert!(error.contains("has the database open; close it"), "{mode}: {error}");
            assert_eq!(pair.a.status()["fenced"], true);
            holder(&mut pair, &mut other, false);
            pair.a.sql("INSERT INTO t(who) VALUES('a')");
            assert_eq!(who(&mut pair.a), ["first", "b", "a"], "{mode}");
            pair.check();
        }
    }
}

#[test]
fn a_store_that_is_away_is_asked_again_later() {
    for mode in ["DELETE", "WAL"] {
        for hang in [false, true] {
            let mut pair = Pair::new(Host::Newest, mode);
            pair.b.sql("INSERT INTO t(who) VALUES('b')");
            pair.fence_a();
            if hang {
                pair.world.proxy.fail(Fault::Hang)
            } else {
                pair.world.proxy.refuse()
            }
            for _ in 0..2 {
                assert_eq!(who(&mut pair.a), ["first"], "{mode}");
                pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
                assert_eq!(pair.a.status()["fenced"], true);
            }
            // Readers are not held up by each transaction of theirs.
            pair.world.proxy.clear();
            for _ in 0..50 {
                who(&mut pair.a);
            }
            assert!(pair.world.proxy.requests().len() < 5, "{mode}: {}", pair.world.proxy.requests().len());
            pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
            pair.world.proxy.heal();
            // Who wants to write makes the next transaction try.
            assert_eq!(who(&mut pair.a), ["first", "b"], "{mode}");
            pair.a.sql("INSERT INTO t(who) VALUES('a')");
            pair.check();
        }
    }
}

/// With EXCLUSIVE no lock is taken anew, so there is no beginning to catch up at.
#[test]
fn an_exclusive_connection_must_be_opened_again() {
    for mode in ["DELETE", "WAL"] {
        let mut pair = Pair::new(Host::Newest, mode);
        pair.a.sql("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t(who) VALUES('exclusive')");
        pair.b.close(0).unwrap();
        pair.b.open(0, &pair.uri_of_b()).unwrap();
        pair.b.sql("INSERT INTO t(who) VALUES('b')");
        pair.fence_a();
        let error = pair.a.sql_fails("INSERT INTO t(who) VALUES('never')");
        let text = pair.a.status()["last_error"].to_string();
        assert!(text.contains("EXCLUSIVE") && text.contains("open it again"), "{error:?}: {text}");
        assert_eq!(who(&mut pair.a), ["first", "exclusive"], "{mode}");
        pair.a.close(0).unwrap();
        pair.a.open(0, &pair.world.uri()).unwrap();
        assert_eq!(who(&mut pair.a), ["first", "exclusive", "b"], "{mode}");
        pair.a.sql("INSERT INTO t(who) VALUES('a')");
        pair.check();
    }
}

/// A first transaction that another machine was faster with: the local file is empty.
#[test]
fn an_empty_database_is_filled() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("alone-empty");
        let mut a = world.open(Host::Newest);
        let folder = world.folder().join("b");
        std::fs::create_dir(&folder).unwrap();
        let mut b = world.host(Host::Newest);
        b.open(0, &format!("file:{}?vfs=bottomless", folder.join(world.id()).display())).unwrap();
        b.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(k INTEGER PRIMARY KEY, who, v); INSERT INTO t(who) VALUES('b')"));
        a.sql_fails("CREATE TABLE t(other)");
        assert_eq!(who(&mut a), ["b"], "{mode}");
        let mut pair = Pair { world, a, b, mode: mode.to_owned() };
        pair.a.sql("INSERT INTO t(who) VALUES('a')");
        pair.check();
    }
}

/// Killed at each step: the file is a database to stock SQLite, and opening it does what was left.
#[test]
fn a_kill_in_the_middle_loses_nothing() {
    let of_both = ["open.adopted", "fill.restored", "again.written", "again.committed"];
    let of_journal = ["again.journaled", "again.page", "again.page=kill@3"];
    let cases = of_both.iter().flat_map(|point| [("DELETE", *point), ("WAL", *point)]);
    for (mode, point) in cases.chain(of_journal.iter().map(|point| ("TRUNCATE", *point))) {
        let mut pair = Pair::new(Host::Newest, mode);
        pair.a.end();
        let point = if point.contains('=') { point.to_owned() } else { format!("{point}=kill") };
        // Opening reaches some of the points, too: it finds the file to be as it was left, and does not judge.
        pair.world.set("BOTTOMLESS_TEST_POINT", &point);
        pair.a = pair.world.open(Host::Newest);
        pair.world.unset("BOTTOMLESS_TEST_POINT");
        pair.a.sql(&format!("PRAGMA journal_mode = {mode}"));
        pair.b.sql("INSERT INTO t(who, v) VALUES('b', randomblob(30000))");
        pair.fence_a();
        pair.a.send_sql(0, "SELECT count(*) FROM t");
        let status = pair.a.wait();
        assert_eq!(status, None, "{mode}, {point}: killed");
        let output = run_stock(&pair.world, &format!(".open {}\nPRAGMA integrity_check;", pair.world.id()));
        assert_eq!(text(&output), "ok\n", "{mode}, {point}");
        pair.a = pair.world.open(Host::Newest);
        assert_eq!(who(&mut pair.a), ["first", "b"], "{mode}, {point}");
        pair.a.sql("INSERT INTO t(who) VALUES('a')");
        pair.check();
    }
}

/// The store hangs while it is read, and the process is killed.
#[test]
fn a_kill_during_a_request_loses_nothing() {
    for mode in ["DELETE", "WAL"] {
        let mut pair = Pair::new(Host::Newest, mode);
        pair.b.sql("INSERT INTO t(who) VALUES('b')");
        let key = pair.world.log_key(pair.world.last());
        pair.fence_a();
        pair.world.proxy.clear();
        pair.world.proxy.fail_only(Some("GET"), &key, Fault::Hang);
        pair.a.send_sql(0, "SELECT count(*) FROM t");
        pair.world.proxy.wait_for(|request| request.target.contains(&key));
        pair.a.kill();
        pair.world.proxy.heal();
        pair.a = pair.world.open(Host::Newest);
        assert_eq!(who(&mut pair.a), ["first", "b"], "{mode}");
        pair.a.sql("INSERT INTO t(who) VALUES('a')");
        pair.check();
    }
}

/// Both are fenced in turn, many times; every row that was acknowledged is there once.
#[test]
fn two_machines_take_turns() {
    for (mode_a, mode_b) in [("DELETE", "DELETE"), ("WAL", "WAL"), ("WAL", "PERSIST"), ("OFF", "TRUNCATE")] {
        let mut pair = Pair::new(Host::Newest, mode_a);
        let same = (mode_a == "WAL") == (mode_b == "WAL");
        if same {
            pair.b.sql(&format!("PRAGMA journal_mode = {mode_b}"));
        }
        let mut random = fastrand::Rng::with_seed(7);
        let mut acknowledged = Vec::new();
        let rounds = if same { 6 } else { 4 };
        let mut fences = 0;
        for round in 0..rounds {
            for name in ["a", "b"] {
                let session = if name == "a" { &mut pair.a } else { &mut pair.b };
                for part in 0..random.u32(1..4) {
                    let row = format!("{name}{round}.{part}");
                    let sql = format!("INSERT INTO t(who, v) VALUES('{row}', randomblob({}))", random.u32(0..9000));
                    let mut tries = 0;
                    while session.exec(0, &sql).is_err() {
                        tries += 1;
                        fences += 1;
                        assert!(tries < 2, "{mode_a}/{mode_b}, {row}: {}", session.stderr());
                    }
                    acknowledged.push(row);
                }
                if random.bool() {
                    session
                        .exec(0, "DELETE FROM t WHERE who = 'first'; PRAGMA incremental_vacuum; PRAGMA wal_checkpoint")
                        .unwrap();
                }
            }
        }
        assert!(fences > rounds, "{fences}");
        pair.a.exec(0, "INSERT INTO t(who) VALUES('last')").unwrap_err();
        let mut found = who(&mut pair.a);
        found.retain(|who| who != "first");
        assert_eq!(found, acknowledged, "{mode_a}/{mode_b}");
        pair.check();
        pair.b.exec(0, "INSERT INTO t(who) VALUES('last')").unwrap_err();
        pair.b.sql("SELECT count(*) FROM t; PRAGMA wal_checkpoint(TRUNCATE)");
        let b = pair.world.folder().join("b").join(pair.world.id());
        compare::assert_same_pages(&pair.world.db(), &b);
    }
}

/// Local calls fail in the middle: a reader sees the old content or the new one, never a mixture, and when there is room
/// again the next transaction succeeds.
#[test]
fn a_failing_disk_leaves_the_old_content_or_the_new_one() {
    // With OFF, SQLite plays no journal back.
    for (mode, written) in [("OFF", Target::Main), ("WAL", Target::Wal)] {
        let mut pair = Pair::new(Host::Newest, mode);
        pair.a.end();
        pair.b.sql("INSERT INTO t(k, who, v) VALUES(2, 0, zeroblob(3000)), (3, 0, zeroblob(9000)), (4, 0, NULL)");
        let faults = Faults::under(&mut pair.world);
        pair.a = pair.world.open(Host::Newest);
        pair.a.sql(&format!("PRAGMA journal_mode = {mode}"));
        pair.fail_once(&faults, &Plan::none(), 1);
        let all = faults.counts();
        assert!(all.iter().any(|((call, target), _)| (*call, *target) == (Call::Write, written)), "{mode}: {all:?}");
        let (mut new, mut refused) = (1, 0);
        for ((call, target), count) in all.into_iter().filter(|((call, _), _)| *call != Call::Read) {
            let first = Plan::all(&[call], &[target], Errno::EIO);
            let last = Plan { first: count, onwards: false, half: true, ..first.clone() };
            for plan in [first, last] {
                new += 1;
                refused += u32::from(pair.fail_once(&faults, &plan, new));
            }
        }
        assert_eq!(refused > 0, mode == "OFF", "{mode}: what can't be put back is not read");
        pair.world.unset("LD_PRELOAD");
        pair.a.end();
        pair.a = pair.world.open(Host::Newest);
        pair.check();
    }
}

impl Pair {
    /// A catches up while calls fail. True if the transaction was refused.
    fn fail_once(&mut self, faults: &Faults, plan: &Plan, new: i64) -> bool {
        let what = format!("{}, {plan:?}", self.mode);
        // More pages, and fewer that are used.
        let size = [1000, 20_000][usize::from(new % 3 == 1)];
        let sql = format!("BEGIN; UPDATE t SET who = {new}; UPDATE t SET v = randomblob({size}) WHERE k = 4; COMMIT");
        let tried = self.b.exec(0, &sql);
        if tried.is_err() {
            self.b.sql(&sql);
        }
        self.fence_a();
        faults.arm(plan);
        let seen = self.a.exec(0, "SELECT min(who), max(who) FROM t");
        faults.heal();
        if let Ok(rows) = &seen {
            assert!(rows[0][0] == rows[0][1] && (rows[0][0] == new || rows[0][0] == new - 1), "{what}: {rows:?}");
        }
        let sql = "PRAGMA integrity_check; SELECT count(DISTINCT who) FROM t;";
        let stock = run_stock(&self.world, &format!(".open {}\n{sql}", self.world.id()));
        assert_eq!(text(&stock), "ok\n1\n", "{what}");
        // Who wants to write makes the next transaction try.
        let write = "UPDATE t SET v = randomblob(9) WHERE k = 1";
        let _ = self.a.exec(0, write);
        self.a.sql(write);
        assert_eq!(self.a.number("SELECT max(who) FROM t"), new, "{what}");
        assert_eq!(self.a.status()["fenced"], false, "{what}");
        seen.is_err()
    }
}

/// What SQLite rolls back keeps its content in pages that were free before: no journal holds what they had.
#[test]
fn free_pages_that_a_rollback_left_hold_nothing_up() {
    for ending in ["alone", "reopened", "killed", "published"] {
        let mut pair = Pair::new(Host::Newest, "DELETE");
        pair.a.sql("INSERT INTO t(k, v) VALUES(90, zeroblob(60000)); DELETE FROM t WHERE k = 90");
        pair.b.close(0).unwrap();
        pair.b.open(0, &pair.uri_of_b()).unwrap();
        let write = "INSERT INTO t(who, v) VALUES('a', randomblob(30000))";
        if ending == "published" {
            pair.world.proxy.fail(Fault::Answer(Answer::new(403, "AccessDenied")));
            pair.a.sql_fails(write);
            pair.world.proxy.heal();
            pair.a.sql("INSERT INTO t(who) VALUES('b')");
            pair.check();
            continue;
        }
        pair.b.sql("INSERT INTO t(who) VALUES('b')");
        pair.a.sql_fails(write);
        match ending {
            "alone" => {}
            "reopened" => {
                pair.a.close(0).unwrap();
                pair.a.open(0, &pair.world.uri()).unwrap();
            }
            _ => {
                pair.a.kill();
                pair.a = pair.world.open(Host::Newest);
            }
        }
        assert_eq!(who(&mut pair.a), ["first", "b"], "{ending}");
        pair.a.sql(write);
        pair.check();
    }
}
