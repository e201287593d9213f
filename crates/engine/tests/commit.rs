//! The commit protocol under faults: each kind at each request of a session, for one request and until the commit has
//! failed, and sessions at random.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::time::Duration;

use common::session::{HASTY, PATIENT};
use common::*;

/// What the program does, one step after the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    Transaction(Edit, End),
    /// Pages are written as they were.
    NoChange,
    Reopen,
    Crash,
}

use Step::*;

const SCRIPT: [Step; 16] = [
    Transaction(Edit::Grow, End::Commit),
    Transaction(Edit::Overwrite, End::Commit),
    Transaction(Edit::Grow, End::Commit),
    NoChange,
    Transaction(Edit::Shrink, End::Commit),
    Transaction(Edit::Grow, End::Fail),
    Transaction(Edit::Overwrite, End::Commit),
    Transaction(Edit::GrowWithHole, End::Commit),
    Transaction(Edit::Shrink, End::Fail),
    Reopen,
    Transaction(Edit::Grow, End::Commit),
    Transaction(Edit::Vacuum, End::Commit),
    Transaction(Edit::Overwrite, End::Crash { committed: true }),
    Transaction(Edit::Shrink, End::Commit),
    Transaction(Edit::Overwrite, End::Crash { committed: false }),
    Transaction(Edit::PageSize, End::Commit),
];

/// Plays a script; returns the errors that the program saw.
fn play(session: &mut Session, steps: &[Step], after_failure: impl Fn(&Session)) -> Vec<String> {
    let mut failures = Vec::new();
    for step in steps {
        // Until it opens: a program that can't open tries again.
        for tries in 0.. {
            if session.database.is_some() {
                break;
            }
            if let Err(error) = session.open() {
                assert!(tries < 50, "never opens: {error}");
                failures.push(error.to_string());
                after_failure(session);
            }
        }
        let told = match *step {
            Transaction(edit, end) => session.transaction(edit, end),
            NoChange => session.write(session.local.clone(), End::Commit),
            Reopen => {
                session.close();
                continue;
            }
            Crash => {
                session.crash();
                continue;
            }
        };
        if let Told::Failed(error) = told {
            failures.push(error.to_string());
            after_failure(session);
        }
        assert!(session.database.is_none() || !session.db().is_fenced(), "no other writer is there");
    }
    failures
}

/// Each fault at each request of the script, where it makes sense.
fn every_fault() -> Vec<(u64, Fault)> {
    let mut session = Session::new(&FaultStore::new(Plan::Never, Conduct::Honest), PATIENT, 1);
    let failures = play(&mut session, &SCRIPT, |_| {});
    assert_eq!(failures, ["SQLite failed", "SQLite failed"]);
    let requests = session.store.requests();
    session.finish();
    assert!(requests.len() > 30, "{requests:?}");
    let numbered = (1..).zip(requests);
    let of = |(at, (operation, _))| Fault::ALL.map(|fault| fault.applies(operation).then_some((at, fault)));
    numbered.flat_map(of).flatten().collect()
}

#[test]
fn a_commit_is_one_request() {
    let store = FaultStore::new(Plan::Never, Conduct::Honest);
    let mut session = Session::new(&store, PATIENT, 3);
    session.open().unwrap();
    assert!(matches!(session.transaction(Edit::Grow, End::Commit), Told::Committed));
    for edit in [Edit::Overwrite, Edit::Grow, Edit::GrowWithHole, Edit::Shrink, Edit::Vacuum, Edit::Overwrite] {
        let before = store.requests().len();
        assert!(matches!(session.transaction(edit, End::Commit), Told::Committed));
        let sent: Vec<Operation> = store.requests()[before..].iter().map(|(operation, _)| *operation).collect();
        assert_eq!(sent, [Operation::Put], "{edit:?}");
    }
    let before = store.requests().len();
    assert!(matches!(session.write(session.local.clone(), End::Commit), Told::Unchanged));
    assert_eq!(store.requests().len(), before, "nothing is sent for no change");
    session.finish();
}

#[test]
fn one_fault_at_every_request() {
    in_parallel(&every_fault(), |&(at, fault)| {
        let store = FaultStore::new(Plan::Once(at, fault), Conduct::Honest);
        // A request without an answer takes a third of the time.
        let silent = matches!(fault, Fault::Silent | Fault::SilentAfterEffect);
        let mut session = Session::new(&store, if silent { Duration::from_secs(3) } else { PATIENT }, 1);
        let failures = play(&mut session, &SCRIPT, |_| {});
        let hit = store.failed();
        let is_commit = store.requests().get(at as usize - 1).is_some_and(|(_, path)| path.contains("/0000/"));
        if is_commit && matches!(hit[..], [(_, Operation::Put, fault)] if fault.passes()) {
            assert_eq!(failures, ["SQLite failed", "SQLite failed"], "a commit survives {fault:?} in its PUT");
        }
        session.finish();
    });
}

#[test]
fn a_fault_that_lasts_until_the_commit_fails() {
    in_parallel(&every_fault(), |&(at, fault)| {
        let store = FaultStore::new(Plan::From(at, fault), Conduct::Honest);
        let mut session = Session::new(&store, HASTY, at);
        play(&mut session, &SCRIPT, |session| {
            // The last fault but one, again: what settles an outcome fails too.
            if session.store.failed().len() % 2 == 1 {
                session.store.heal();
            }
        });
        session.finish();
    });
}

#[test]
fn sessions_at_random() {
    let seed = std::env::var("BOTTOMLESS_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds: Vec<u64> = seed.map_or_else(
        || {
            let first = u64::from(std::process::id()) * 1_000_003;
            (first..first + 200).collect()
        },
        |seed| vec![seed],
    );
    eprintln!("BOTTOMLESS_SEED from {} on, {} sessions", seeds[0], seeds.len());
    in_parallel(&seeds, |&seed| random_session(seed));
}

fn random_session(seed: u64) {
    let mut random = Random::new(seed);
    let rate = random.pick(&[2, 3, 5, 10, 40]);
    let plan = || Plan::Random(Random::new(seed ^ 0x5eed), rate);
    let store = FaultStore::new(plan(), Conduct::Honest);
    let mut session = Session::new(&store, Duration::from_millis(150), seed);
    let edits = [Edit::Overwrite, Edit::Overwrite, Edit::Grow, Edit::GrowWithHole, Edit::Shrink, Edit::Vacuum];
    let mut steps = Vec::new();
    for _ in 0..20 {
        let edit = if random.one_of(15) { Edit::PageSize } else { random.pick(&edits) };
        let end = match random.below(12) {
            0..2 => End::Fail,
            2 => End::Crash { committed: random.one_of(2) },
            _ => End::Commit,
        };
        steps.push(match random.below(12) {
            0 => Step::Reopen,
            1 => Step::NoChange,
            2 => Step::Crash,
            _ => Step::Transaction(edit, end),
        });
    }
    play(&mut session, &steps, |session| {
        // Now and then the store is well for a while.
        match session.store.failed().len() % 4 {
            0 => session.store.heal(),
            1 => session.store.fail(Plan::Random(Random::new(seed ^ session.store.next_request()), rate)),
            _ => {}
        }
    });
    session.finish();
}
