//! A process is killed at each point between the steps of commit, open, restore, catch-up and checkpoint.
//!
//! A play runs once to its end, which shows the points that it comes to and how often; then again for each of them,
//! and dies there.

mod random;
mod scenarios;
mod stage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use bottomless_e2e::Layout;
use bottomless_points::Point;
use scenarios::Scenario;
use stage::{Restores, Stage};

/// The trace of a play, made by whoever needs it first.
type Once = Arc<OnceLock<Trace>>;

const THREADS: usize = 4;

/// The times at which a play comes to each point.
type Trace = BTreeMap<&'static str, RangeInclusive<u64>>;

fn scenario(name: &str) -> (usize, &'static Scenario) {
    scenarios::ALL.iter().enumerate().find(|(_, scenario)| scenario.name == name).expect("a scenario")
}

fn run(scenario: &Scenario, layout: Layout, order: Option<String>, restores: Restores) -> Trace {
    let what = format!("{} in {layout:?} {}", scenario.name, order.as_deref().unwrap_or("to its end"));
    let mut stage = Stage::new("crash", scenario.host, layout, order.clone());
    let played = (scenario.play)(&mut stage);
    assert_eq!(played.is_err(), order.is_some(), "{what}: it dies where it was to, and nowhere else");
    let trace = stage.trace();
    stage.verify(&played, restores, &what);
    trace
}

/// The points of a play, from one run to its end.
fn trace(scenario: &Scenario, layout: Layout) -> Trace {
    static TRACES: LazyLock<Mutex<HashMap<(&str, Layout), Once>>> = LazyLock::new(Mutex::default);
    let cell = {
        let mut traces = TRACES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(traces.entry((scenario.name, layout)).or_default())
    };
    cell.get_or_init(|| run(scenario, layout, None, scenario.restores(Restores::Litestream))).clone()
}

/// The layouts in which a play is of interest.
fn layouts(scenario: &Scenario) -> &'static [Layout] {
    match scenario.name {
        "compaction" => &[Layout::Ltx],
        name if name.starts_with("folding") => &[Layout::Pages],
        _ => &Layout::ALL,
    }
}

/// That in which a play is played in each run of the tests.
fn layout(scenario: &Scenario, number: usize) -> Layout {
    match layouts(scenario) {
        [layout] => *layout,
        _ => Layout::of(number),
    }
}

/// The first, the second, one in the middle and the last time.
fn times(times: &RangeInclusive<u64>) -> [u64; 4] {
    let (first, last) = (*times.start(), *times.end());
    [first, last.min(first + 1), u64::midpoint(first, last), last]
}

/// Points that nearly every play comes to.
const COMMON: [&str; 9] =
    ["commit.", "confirm.", "writing.", "journal.", "wal.", "checkpoint.", "open.", "compact.", "fold."];

/// Plays that are about points that are common otherwise.
const ABOUT: [(&str, &str); 2] = [("compaction", "compact."), ("folding", "fold.")];

/// Plays of which every point is killed at.
const IN_FULL: [&str; 2] = ["commits_in_mode_delete", "commits_in_mode_wal"];

/// Points of their families that few plays come to.
const SELDOM: [Point; 2] = [Point::Undone, Point::CommitFailed];

/// Plays whose every run takes seconds.
const WAITING: [&str; 4] = ["lost_replies", "silence", "a_fenced", "an_unconfirmed"];

/// Of the common points some in each play, and all others: which ones, which time is taken, and which restores are made,
/// goes round with the points and the plays.
fn plan(name: &str) -> Vec<(&'static str, u64, Restores)> {
    let (number, scenario) = scenario(name);
    let every = match name {
        _ if IN_FULL.contains(&name) => 1,
        // Each waits for the end of a commit's time, or for several proofs of the bucket.
        _ if WAITING.iter().any(|start| name.starts_with(start)) => 8,
        _ if name.starts_with("commits_") => 5,
        _ => 4,
    };
    let about = ABOUT.iter().find(|(start, _)| name.starts_with(start)).map(|(_, family)| *family);
    let kills = trace(scenario, layout(scenario, number)).into_iter().filter_map(|(point, all)| {
        let turn = number + Point::ALL.iter().position(|known| known.name() == point).expect("a point");
        let is_common = COMMON.iter().any(|family| point.starts_with(family))
            && !SELDOM.iter().any(|seldom| seldom.name() == point)
            && !about.is_some_and(|family| point.starts_with(family));
        let restores = match turn / every % 6 {
            0 => Restores::Litestream,
            3 => Restores::Both,
            _ => Restores::Last,
        };
        let kill = (point, times(&all)[turn / every % 4], scenario.restores(restores));
        // What compaction is killed at does not depend on what the commits beside it come to.
        let is_elsewhere = about.is_some() && is_common;
        (!is_common || turn.is_multiple_of(every)).then_some(kill).filter(|_| !is_elsewhere)
    });
    kills.collect()
}

fn kill_at_points(name: &str) {
    let (number, scenario) = scenario(name);
    let layout = layout(scenario, number);
    let kill = |(point, time, restores)| run(scenario, layout, Some(format!("{point}=kill@{time}")), restores);
    if !ABOUT.iter().any(|(start, _)| name.starts_with(start)) {
        return plan(name).into_iter().for_each(|planned| drop(kill(planned)));
    }
    // Most of its time it waits until something is old enough.
    std::thread::scope(|scope| {
        for planned in plan(name) {
            scope.spawn(move || kill(planned));
        }
    });
}

/// `BOTTOMLESS_PLAY` is a part of the names of the plays to take; all without it.
#[test]
#[ignore = "half an hour"]
fn soak_kills_at_each_point_first_second_midway_and_last() {
    let play = std::env::var("BOTTOMLESS_PLAY").unwrap_or_default();
    let kills: Vec<_> = scenarios::ALL
        .iter()
        .filter(|scenario| scenario.name.contains(&play))
        .flat_map(|scenario| layouts(scenario).iter().map(move |layout| (scenario, *layout)))
        .flat_map(|play| trace(play.0, play.1).into_iter().map(move |(point, all)| (play, point, times(&all))))
        .flat_map(|(play, point, times)| BTreeSet::from(times).into_iter().map(move |time| (play, point, time)))
        .collect();
    println!("{} kills", kills.len());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(((scenario, layout), point, time)) = kills.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(
                        scenario,
                        *layout,
                        Some(format!("{point}=kill@{time}")),
                        scenario.restores(Restores::Litestream),
                    );
                }
            });
        }
    });
}

#[test]
fn no_point_is_left_out() {
    let mut killed: BTreeSet<&str> = BTreeSet::new();
    for scenario in scenarios::ALL {
        killed.extend(plan(scenario.name).into_iter().map(|(point, _, _)| point));
    }
    let left = Point::ALL.iter().map(|point| point.name()).filter(|name| !killed.contains(name));
    // `alone.rs` kills at those of catching up with the database open.
    let left: Vec<_> = left.filter(|name| !name.starts_with("again.")).collect();
    assert!(left.is_empty(), "no play dies at {left:?}");
}
