//! Two machines, and every order in which their requests can reach the store and their replies can come back.

use std::collections::BTreeMap;

use bottomless_e2e::{Host, Layout, Machine, World, compare};

use super::assert_fenced;

/// What one letter of a word lets through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A PUT and its reply.
    Exchange,
    /// A PUT, or its reply.
    Half,
}

/// All words of two letters, each of which is there as often.
fn words(each: u32) -> Vec<Vec<usize>> {
    let all = (0..1_u32 << (2 * each)).filter(|bits| bits.count_ones() == each);
    all.map(|bits| (0..2 * each).map(|at| usize::from(bits >> at & 1 == 1)).collect()).collect()
}

/// What a machine has under way.
#[derive(Default)]
struct Course {
    begun: u32,
    row: String,
    /// The PUT has passed, and its reply has not.
    replying: bool,
}

/// Two machines that commit against each other, and what each was told.
struct Contest {
    world: World,
    machines: [Machine; 2],
    /// The transactions that were acknowledged: the row of each position.
    acknowledged: BTreeMap<u64, String>,
    rows: u32,
    fenced: u32,
}

impl Contest {
    fn new(mode: &str) -> Self {
        let mut world = World::new("orders").laid_out(Layout::of_mode(mode));
        // No try is given up while it is held.
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 600);
        let mut first = world.open(Host::Newest);
        first.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(row)"));
        first.close(0).unwrap();
        let machines = ["a", "b"].map(|name| Machine::new(&world, name));
        let mut contest = Self { world, machines, acknowledged: BTreeMap::new(), rows: 0, fenced: 0 };
        contest.settle("at first");
        contest
    }

    /// The next transaction of a machine, as far as to its PUT, which is held.
    fn begin(&mut self, who: usize, course: &mut Course) {
        let machine = &mut self.machines[who];
        self.rows += 1;
        course.begun += 1;
        course.row = format!("{} {}", machine.name, self.rows);
        let insert = format!("INSERT INTO t VALUES('{}')", course.row);
        if self.rows.is_multiple_of(2) {
            machine.session.send_sql(0, &insert);
        } else {
            machine.session.sql(&format!("BEGIN; {insert}"));
            machine.session.send_sql(0, "COMMIT");
        }
        machine.proxy.gate().wait_for_request();
    }

    /// What the machine was told; one that was fenced catches up.
    fn end(&mut self, who: usize, course: &Course, what: &str) {
        let machine = &mut self.machines[who];
        match machine.session.answer() {
            Ok(_) => self.acknowledge(who, course.row.clone(), what),
            Err(error) => {
                self.fenced += 1;
                assert_fenced(machine, &error, what);
                let there = machine.session.sql(&format!("SELECT row FROM t WHERE row = '{}'", course.row));
                assert!(there.is_empty(), "{what}: the transaction is still there");
                machine.reopen();
            }
        }
    }

    fn acknowledge(&mut self, who: usize, row: String, what: &str) {
        let txid = self.machines[who].txid();
        let before = self.acknowledged.insert(txid, row);
        assert_eq!(before, None, "{what}: two were told OK for position {txid}");
    }

    /// Lets requests and replies through as the word says; each machine commits as often as `each`.
    fn play(&mut self, word: &[usize], step: Step, each: u32) {
        let what: String = word.iter().map(|who| ["a", "b"][*who]).collect();
        let mut courses = [Course::default(), Course::default()];
        for (who, course) in courses.iter_mut().enumerate() {
            self.machines[who].proxy.gate().hold("PUT", "/0000/");
            self.begin(who, course);
        }
        for &who in word {
            let course = &mut courses[who];
            let gate = self.machines[who].proxy.gate();
            if !std::mem::replace(&mut course.replying, true) {
                gate.let_request();
                if step == Step::Half {
                    continue;
                }
            }
            gate.let_reply();
            course.replying = false;
            self.end(who, course, &what);
            if course.begun < each {
                self.begin(who, course);
            }
        }
        for machine in &self.machines {
            machine.proxy.gate().open();
        }
        self.settle(&what);
    }

    /// Both catch up and commit; then all folders hold what the bucket holds, and that is what was acknowledged.
    fn settle(&mut self, what: &str) {
        for who in 0..2 {
            self.machines[who].reopen();
            self.rows += 1;
            let row = format!("{} {}", self.machines[who].name, self.rows);
            self.machines[who].session.sql(&format!("INSERT INTO t VALUES('{row}')"));
            self.acknowledge(who, row, what);
        }
        self.machines[0].reopen();
        let restored = self.world.restore_elsewhere();
        for machine in &mut self.machines {
            let rows = machine.session.sql("SELECT row FROM t ORDER BY rowid");
            let rows: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
            assert_eq!(rows, self.acknowledged.values().collect::<Vec<_>>(), "{what}");
            machine.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            compare::assert_same_pages(machine.db(), &restored);
        }
        let positions: Vec<_> = self.acknowledged.keys().copied().collect();
        let log = self.world.log();
        assert!(log.ends_with(&positions), "{what}: {positions:?} were acknowledged, the bucket has {log:?}");
        std::fs::remove_dir_all(restored.parent().unwrap()).unwrap();
    }
}

fn contest(mode: &str, step: Step, each: u32) {
    let mut contest = Contest::new(mode);
    let letters = if step == Step::Half { 2 * each } else { each };
    let mut words = words(letters);
    if step == Step::Half {
        // The others are these with the machines' names exchanged.
        words.retain(|word| word[0] == 0);
    }
    for word in &words {
        contest.play(word, step, each);
    }
    let Contest { world, machines: [machine, _], .. } = &mut contest;
    let file = machine.db().clone();
    world.assert_pages_are(&file, &mut machine.session, mode);
    let tries = 2 * each * u32::try_from(words.len()).unwrap();
    println!("{mode}: {} orders, {} of {tries} transactions were fenced", words.len(), contest.fenced);
    assert!(contest.fenced >= words.len() as u32, "in each order the first two meet");
}

#[test]
fn in_whatever_order_puts_arrive_each_position_has_one_winner_in_mode_wal() {
    contest("WAL", Step::Exchange, 3);
}

#[test]
fn in_whatever_order_puts_arrive_each_position_has_one_winner_in_mode_delete() {
    contest("DELETE", Step::Exchange, 3);
}

/// The object is there, and its writer does not know it yet.
#[test]
fn replies_that_come_late_change_nothing_in_mode_wal() {
    contest("WAL", Step::Half, 2);
}

#[test]
fn replies_that_come_late_change_nothing_in_mode_delete() {
    contest("DELETE", Step::Half, 1);
}
