//! Every unknown outcome at every request of a session, over real HTTP: P1 to P4 hold after each, and the history is one
//! line.

mod script;
mod throttle;
mod writers;

use std::sync::atomic::{AtomicUsize, Ordering};

use bottomless_e2e::Layout;
use bottomless_e2e::proxy::{Answer, Fault, When};
use script::{Place, Story};

const ANSWERS: [Answer; 5] = [
    Answer::new(412, "PreconditionFailed"),
    Answer::new(409, "ConditionalRequestConflict"),
    Answer::new(500, "InternalError"),
    Answer { retry_after_seconds: Some(1), ..Answer::new(503, "SlowDown") },
    Answer::new(429, "TooManyRequests"),
];

/// Everything that can happen to one request.
fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault::Close,
        Fault::Reset,
        Fault::Hang,
        Fault::LoseReply,
        Fault::LoseReplyReset,
        Fault::LoseReplySilent,
        Fault::CutReply,
    ];
    for when in [When::BeforeRetry, When::AfterRetry, When::Told] {
        faults.extend([Fault::Late(when), Fault::LateSilent(when)]);
    }
    for answer in ANSWERS {
        faults.extend([Fault::Answer(answer), Fault::Answer(answer.forwarded())]);
    }
    faults
}

/// A request that reads and is never answered is given up after the client's 30 seconds.
fn is_slow(fault: Fault) -> bool {
    matches!(fault, Fault::Hang | Fault::LoseReplySilent | Fault::LateSilent(_))
}

/// All pairs of a request of the session and a fault.
fn all(place: &Place) -> Vec<(usize, Fault)> {
    let pair = |request| faults().into_iter().map(move |fault| (request, fault));
    (1..=place.requests().len()).flat_map(pair).collect()
}

/// Some pairs, in which every request and every fault is; the slow ones only where they are quick.
fn stride(place: &Place) -> Vec<(usize, Fault)> {
    let (requests, faults) = (place.requests(), faults());
    let mut pairs: Vec<_> =
        (0..requests.len().max(faults.len())).map(|n| (n % requests.len() + 1, faults[n % faults.len()])).collect();
    let reads = |number: usize| requests[number - 1].method == "GET" && !requests[number - 1].is_list();
    for n in 0..pairs.len() {
        if is_slow(pairs[n].1) && reads(pairs[n].0) {
            // An exchange of two faults keeps each request and each fault.
            let other = (0..pairs.len()).find(|m| !is_slow(pairs[*m].1) && !reads(pairs[*m].0)).unwrap();
            (pairs[n].1, pairs[other].1) = (pairs[other].1, pairs[n].1);
        }
    }
    // The largest transaction has all of the time for one try: that fails, and another transaction comes after it.
    let largest = (1..=requests.len()).max_by_key(|number| requests[number - 1].body_bytes).unwrap();
    pairs.extend(faults.iter().filter(|fault| is_slow(**fault)).map(|fault| (largest, *fault)));
    let quick = |pair: &(usize, Fault)| !is_slow(pair.1) && place.story() != Story::First;
    pairs.extend(all(place).into_iter().filter(quick).step_by(3));
    let met = |number| pairs.iter().any(|pair| pair.0 == number);
    assert!((1..=requests.len()).all(met), "every request has a fault");
    assert!(faults.iter().all(|fault| pairs.iter().any(|pair| pair.1 == *fault)), "every fault has a request");
    pairs
}

/// All pairs of a request of a fold and a fault.
fn all_of_folds(place: &Place) -> Vec<(usize, Fault)> {
    let requests = place.requests();
    let of_folds = (1..=requests.len()).filter(|number| place.is_of_a_fold(&requests[number - 1]));
    of_folds.flat_map(|request| faults().into_iter().map(move |fault| (request, fault))).collect()
}

/// Some of them, in which every request and every fault is.
fn some_of_folds(place: &Place) -> Vec<(usize, Fault)> {
    let requests = place.requests();
    let of_folds: Vec<_> = (1..=requests.len()).filter(|number| place.is_of_a_fold(&requests[number - 1])).collect();
    let reads =
        |number: usize| matches!(&*requests[number - 1].method, "GET" | "HEAD") && !requests[number - 1].is_list();
    let pair = |n: usize| (of_folds[n % of_folds.len()], faults()[n % faults().len()]);
    (0..of_folds.len().max(faults().len()))
        .map(pair)
        .filter(|(number, fault)| !is_slow(*fault) || !reads(*number))
        .collect()
}

/// Plays the story once with each pair, in several processes at once.
fn play(story: Story, processes: usize, pairs: impl Fn(&Place) -> Vec<(usize, Fault)>) {
    play_in(story, Layout::Ltx, processes, pairs);
}

fn play_in(story: Story, layout: Layout, processes: usize, pairs: impl Fn(&Place) -> Vec<(usize, Fault)>) {
    let mut first = Place::new(story, layout);
    let pairs = pairs(&first);
    let next = AtomicUsize::new(0);
    let work = |place: &mut Place| {
        while let Some((request, fault)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            place.play(*request, *fault);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..processes {
            scope.spawn(|| work(&mut Place::new(story, layout)));
        }
        work(&mut first);
    });
    println!("{story:?}, {layout:?}: {} requests, {} sessions", first.requests().len(), pairs.len());
}

#[test]
fn some_outcomes_with_a_rollback_journal() {
    play(Story::Rollback, 2, stride);
}

#[test]
fn some_outcomes_with_a_wal() {
    play(Story::Wal, 2, stride);
}

#[test]
fn some_outcomes_of_the_first_session_on_a_machine() {
    play(Story::First, 4, stride);
}

#[test]
fn some_outcomes_of_folds_with_a_rollback_journal() {
    play_in(Story::Rollback, Layout::Pages, 2, some_of_folds);
}

#[test]
fn some_outcomes_of_folds_with_a_wal() {
    play_in(Story::Wal, Layout::Pages, 2, some_of_folds);
}

#[test]
#[ignore = "minutes"]
fn soak_all_outcomes_of_folds() {
    play_in(Story::Rollback, Layout::Pages, 4, all_of_folds);
    play_in(Story::Wal, Layout::Pages, 4, all_of_folds);
}

#[test]
#[ignore = "minutes"]
fn soak_all_outcomes_with_a_rollback_journal() {
    play(Story::Rollback, 4, all);
}

#[test]
#[ignore = "minutes"]
fn soak_all_outcomes_with_a_wal() {
    play(Story::Wal, 4, all);
}

#[test]
#[ignore = "minutes"]
fn soak_all_outcomes_of_the_first_session_on_a_machine() {
    play(Story::First, 8, all);
}
