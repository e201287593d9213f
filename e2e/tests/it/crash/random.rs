//! Random work, and a kill at a random place, round after round on the same, growing history.

use bottomless_e2e::{Host, Layout};
use std::time::Duration;

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::workload::Workload;
use bottomless_points::Point;
use fastrand::Rng;

use super::stage::{Played, Restores, Stage};

/// Rounds on one history; then another begins.
const ROUNDS: u64 = 20;
/// The fence window. A quarter of it is the time that deleting has: on a busy machine it must not be short.
const WINDOW: Duration = Duration::from_secs(3);
const MODES: [&str; 6] = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"];
/// So often a random point is one of those that commits come to.
const COMMIT_POINTS: &str = "commit confirm writing journal wal checkpoint";

/// Where the victim is to die.
#[derive(Debug)]
enum Death {
    At(String),
    /// Before or after the request of this number.
    Request(usize, bool),
    /// When it has done its work, with all open.
    Idle,
}

/// A number from 1 to below `end`, of two one of the first: to high ones a short life seldom comes.
fn low(rng: &mut Rng, end: usize) -> usize {
    let end = if rng.bool() { 3 } else { end };
    rng.usize(1..end)
}

fn point(rng: &mut Rng, layout: Layout) -> String {
    let folds = layout == Layout::Pages && rng.u8(..3) == 0;
    let families: Vec<_> = if folds { "fold" } else { COMMIT_POINTS }.split(' ').collect();
    let is_common = |point: &Point| families.iter().any(|family| point.name().starts_with(family));
    let any = rng.u8(..10) == 0;
    let points: Vec<_> = Point::ALL.iter().filter(|point| any || is_common(point)).collect();
    format!("{}=kill@{}", points[rng.usize(..points.len())].name(), low(rng, 9))
}

fn work(stage: &mut Stage, rng: &mut Rng, death: &Death, what: &str) -> Played {
    stage.start()?;
    if let Death::Request(number, after) = death {
        let victim = stage.victim().id();
        stage.world.proxy.fail_at(*number, if *after { Fault::KillAfter(victim) } else { Fault::Kill(victim) });
    }
    let mode = MODES[rng.usize(..MODES.len())];
    // Another mode than WAL while another process has it open: refused, and it stays as it is.
    if stage.other.is_none() {
        stage.journaled = !["MEMORY", "OFF"].contains(&mode);
        stage.pragma(&format!("PRAGMA journal_mode = {mode}"))?;
    }
    stage.pragma(&format!("PRAGMA cache_size = {}", rng.u32(2..60)))?;
    stage.pragma(&format!("PRAGMA wal_autocheckpoint = {}", rng.u32(1..40)))?;
    let mut workload = Workload::new(rng.u64(..));
    for _ in 0..rng.u32(3..14) {
        let sql = workload.statement();
        // Undefined without a journal.
        if mode == "OFF" && sql.starts_with("ROLLBACK TO") {
            continue;
        }
        println!("{what}: {mode}: {}", &sql[..sql.len().min(80)]);
        stage.statement(&sql)?;
    }
    if rng.bool()
        && let Some(sql) = workload.finish()
    {
        stage.statement(sql)?;
    }
    if rng.bool() { stage.close() } else { Ok(()) }
}

fn rounds(seed: u64, layout: Layout, rounds: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut stage = Stage::new("random", Host::Newest, layout, None);
    // What a fold of a machine that lost its local files was about to do is waited for.
    stage.world.set_window(WINDOW);
    let mut killed = 0;
    for round in 0..rounds {
        let death = match rng.u8(..8) {
            0..=4 => Death::At(point(&mut rng, layout)),
            5..=6 => Death::Request(low(&mut rng, 12), rng.bool()),
            _ => Death::Idle,
        };
        let order = if let Death::At(order) = &death { Some(order.clone()) } else { None };
        stage.next_round(order);
        let (lose, two) = (rng.u8(..6) == 0, rng.u8(..4) == 0);
        let what = format!(
            "BOTTOMLESS_SEED={seed}, {layout:?}, round {round}, {death:?}{}{}",
            label(lose, " empty folder"),
            label(two, " two")
        );
        println!("{what}");
        if lose {
            stage.world.lose_local_files();
            stage.may_be_empty();
        }
        if two {
            stage.other = Some(stage.world.open(Host::Newest));
        }
        let played = work(&mut stage, &mut rng, &death, &what);
        killed += u32::from(played.is_err());
        // Who folds deletes the log that Litestream would read.
        let by_litestream = layout == Layout::Ltx && round % 8 == 7;
        let restores = if by_litestream { Restores::Litestream } else { Restores::Both };
        stage.survey(&played, restores, &what);
        stage.local.clear();
    }
    println!("seed {seed}: killed in {killed} of {rounds} rounds");
    assert!(u64::from(killed) * 10 > rounds, "seed {seed}: killed in {killed} of {rounds} rounds only");
}

fn label(set: bool, text: &str) -> &str {
    if set { text } else { "" }
}

#[test]
fn random_kills_one() {
    rounds(Workload::seed(), Layout::Ltx, ROUNDS);
}

#[test]
fn random_kills_two() {
    rounds(Workload::seed().wrapping_add(1), Layout::Pages, ROUNDS);
}

#[test]
#[ignore = "500 rounds"]
fn soak_random_kills() {
    let all = std::env::var("BOTTOMLESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(500);
    for (history, _) in (0..all).step_by(ROUNDS as usize).enumerate() {
        rounds(Workload::seed().wrapping_add(2 + history as u64), Layout::of(history), ROUNDS);
    }
}
