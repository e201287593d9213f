//! The local disk fails under everything: every call that SQLite and the extension make for the files of a database, in
//! turn, with every errno that fits. What COMMIT said stays true, and on it goes when there is room (P1, P3, P5).

mod round;
mod scenes;
pub mod shortage;

use std::collections::BTreeMap;

use bottomless_e2e::faults::{Call, Errno, Faults, Plan, Target};
use bottomless_e2e::{Host, World};

use round::Round;
use scenes::Scene;

/// How many calls of one sort fail in turn, each in a round of its own.
#[derive(Clone, Copy)]
enum Depth {
    /// First, last, and one between, with errnos by turns.
    Sampled,
    /// All up to this many, evenly spread, with each errno, once and onwards.
    Full(u64),
}

/// What such a call may fail with; the second is whether half of a write takes effect.
fn failures(call: Call) -> &'static [(Errno, bool)] {
    use Errno::*;
    match call {
        Call::Write => &[(ENOSPC, false), (EIO, false), (ENOSPC, true), (EDQUOT, false)],
        Call::Sync | Call::Truncate => &[(EIO, false), (ENOSPC, false)],
        Call::Open => &[(EMFILE, false), (EACCES, false), (ENOSPC, false), (ENFILE, false), (EROFS, false)],
        Call::Rename => &[(EIO, false), (ENOSPC, false), (EROFS, false)],
        Call::Unlink => &[(EIO, false), (EACCES, false)],
        Call::Read => &[(EIO, false)],
        Call::Socket => &[(EMFILE, false), (ENFILE, false)],
    }
}

fn plans(counts: &[((Call, Target), u64)], depth: Depth) -> Vec<Plan> {
    let mut plans = Vec::new();
    for &((call, target), count) in counts {
        let plan = |first, (errno, half), onwards| Plan {
            calls: vec![call],
            targets: vec![target],
            first,
            onwards,
            errno,
            half,
        };
        let failures = failures(call);
        match depth {
            Depth::Sampled => {
                let mut numbers = vec![1, count.div_ceil(2), count];
                numbers.dedup();
                for first in numbers {
                    let turn = plans.len();
                    plans.push(plan(first, failures[turn % failures.len()], (turn / failures.len()).is_multiple_of(2)));
                }
            }
            Depth::Full(most) => {
                let step = count.div_ceil(most);
                for first in (1..=count).step_by(usize::try_from(step).unwrap()) {
                    for failure in failures {
                        plans.extend([false, true].map(|onwards| plan(first, *failure, onwards)));
                    }
                }
            }
        }
    }
    plans
}

/// A scene without a fault, then once for each plan, all in one process that lives through it.
fn play(scene: &Scene, depth: Depth) {
    let mut world = World::new("disk");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 5);
    let faults = Faults::under(&mut world);
    let mut session = world.host(Host::Newest);
    let clean = Round::new(&world, &mut session, &faults, scene, 0).play(&Plan::none());
    assert!(clean.refused.is_empty(), "{}: nothing fails without a fault: {:?}", scene.name, clean.refused);
    for must in scene.must_see {
        assert!(clean.counts.iter().any(|(sort, _)| sort == must), "{}: no {must:?}: {:?}", scene.name, clean.counts);
    }
    let plans = plans(&clean.counts, depth);
    let mut told = BTreeMap::new();
    for (number, plan) in (1..).zip(&plans) {
        let end = Round::new(&world, &mut session, &faults, scene, number).play(plan);
        let sort = (plan.calls[0], plan.targets[0]);
        let entry: &mut [usize; 4] = told.entry(sort).or_default();
        entry[0] += 1;
        entry[1] += usize::from(end.failed.is_some());
        entry[2] += usize::from(!end.refused.is_empty());
        entry[3] += usize::from(end.reopened);
    }
    println!(
        "{}: {} rounds; of each sort of call: rounds, met, with an error, where reopening was needed",
        scene.name,
        plans.len()
    );
    for (sort, told) in &told {
        println!("    {sort:?} {told:?}");
        assert!(told[1] > 0, "{}: no fault was ever met at {sort:?}", scene.name);
    }
    let (_, errors) = session.end();
    assert!(!errors.contains("panicked"), "{}: a panic:\n{errors}", scene.name);
}

macro_rules! scenes {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            play(&scenes::$name(), Depth::Sampled);
        }
    )*};
}

scenes! {
    a_first_session a_restore commits_with_a_journal commits_in_a_wal transactions_that_spill
    spilled_frames_of_a_wal transactions_without_a_journal a_large_transaction a_large_transaction_in_a_wal
    catching_up changes_by_another_program closing two_connections
}

/// Every call, each errno, once and until there is room. `BOTTOMLESS_SCENE` names one of the scenes.
#[test]
#[ignore = "ten minutes"]
fn soak_every_call_in_turn() {
    let only = std::env::var("BOTTOMLESS_SCENE").unwrap_or_default();
    for scene in scenes::all().into_iter().filter(|scene| scene.name.contains(&only)) {
        play(&scene, Depth::Full(60));
    }
}
