//! Many machines that commit as fast as they can, each catching up when it was too late.

use std::collections::BTreeMap;

use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, Layout, Machine, World, compare};
use fastrand::Rng;
use serde_json::Value;

const MACHINES: usize = 4;
const ROUNDS: u32 = 25;

/// With page objects each of them folds whenever it catches up.
#[test]
fn of_many_hammering_machines_the_history_holds_what_was_acknowledged_and_nothing_else() {
    let seed = Workload::seed();
    hammer(Layout::of(usize::try_from(seed % 2).unwrap()), seed);
}

fn hammer(layout: Layout, seed: u64) {
    println!("BOTTOMLESS_SEED={seed}, {layout:?}");
    let mut rng = Rng::with_seed(seed);
    let world = World::new("hammer").laid_out(layout);
    let mut first = world.open(Host::Newest);
    first.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(row, filler)");
    first.close(0).unwrap();
    let last = world.last();
    let mut machines: Vec<_> = (0..MACHINES).map(|n| Machine::new(&world, &format!("m{n}"))).collect();
    let mut acknowledged: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut fenced = [0; MACHINES];
    for round in 0..ROUNDS {
        // All work at once: each has its commands in its input before the first answer is read.
        let mut sent: Vec<Vec<Vec<String>>> = Vec::new();
        for machine in &mut machines {
            let transactions = (0..rng.u32(1..4)).map(|number| {
                let name = |row| format!("{} {round} {number} {row}", machine.name);
                (0..rng.u32(1..5)).map(name).collect::<Vec<_>>()
            });
            sent.push(transactions.collect());
        }
        for (machine, transactions) in machines.iter_mut().zip(&sent) {
            for rows in transactions {
                let values: Vec<_> =
                    rows.iter().map(|row| format!("('{row}', zeroblob({}))", rng.u32(..9000))).collect();
                let insert = format!("INSERT INTO t VALUES{}", values.join(", "));
                machine.session.send_sql(0, &format!("BEGIN; {insert}"));
                machine.session.send_sql(0, "COMMIT; PRAGMA bottomless_status");
            }
        }
        for ((machine, transactions), fenced) in machines.iter_mut().zip(sent).zip(&mut fenced) {
            let mut too_late = false;
            for rows in transactions {
                let what = format!("{rows:?}");
                let begun = machine.session.answer();
                match machine.session.answer() {
                    Ok(status) => {
                        let status: Value = serde_json::from_str(status[0][0].as_str().unwrap()).unwrap();
                        let before = acknowledged.insert(status["txid"].as_u64().unwrap(), rows);
                        assert_eq!(before, None, "{what}: two were told OK for one position");
                    }
                    Err(error) => {
                        assert!(![0, 5, 6].contains(&error.primary()), "{what}: {begun:?} {error:?}");
                        too_late = true;
                    }
                }
            }
            if too_late {
                *fenced += 1;
                assert!(machine.session.stderr().contains("another writer has taken over"));
                machine.reopen();
            }
        }
    }
    println!("{} commits; rounds in which a machine was fenced: {fenced:?}", acknowledged.len());
    assert!(fenced.iter().all(|rounds| *rounds > 0), "they must have met");
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), (last + 1..=world.last()).collect::<Vec<_>>());

    let expected: Vec<_> = acknowledged.values().flatten().collect();
    let restored = world.restore_elsewhere();
    for machine in &mut machines {
        machine.reopen();
        let rows = machine.session.sql("SELECT row FROM t ORDER BY rowid");
        let rows: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
        assert_eq!(rows, expected, "{}", machine.name);
        machine.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        compare::assert_same_pages(machine.db(), &restored);
    }
    world.assert_pages_are(&restored, &mut machines[0].session, "all of them");
}
