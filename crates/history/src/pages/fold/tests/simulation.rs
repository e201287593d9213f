//! Machines that fold one log at once: every request of theirs waits in the network until it arrives, is lost, or arrives
//! late, while they are frozen, are killed and begin anew, and the log grows. After every single change, the page objects and
//! the log behind the newest marker are the database at its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::net::{Fate, GONE, Port};
use super::support::{Change, Timeline, run};
use super::world::*;
use crate::moment::pretend;
use crate::{Folded, History, HistoryError};

/// What may happen.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Pages return to contents that they had.
    toggles: bool,
    /// The database shrinks and grows again.
    shrinks: bool,
    /// Requests arrive at any time, or at last half a fence window after they were sent.
    arrives_ever: bool,
    /// The clocks of frozen machines stop.
    clocks_stop: bool,
    ignores_if_match: bool,
    hides_claims: bool,
}

/// What is promised: half a window for a request, clocks that go on, and whatever else may happen.
const PROMISED: Rules = Rules {
    toggles: true,
    shrinks: true,
    arrives_ever: false,
    clocks_stop: false,
    ignores_if_match: false,
    hides_claims: false,
};

type Running = Pin<Box<dyn Future<Output = Result<Folded, HistoryError>>>>;

struct Machine {
    port: Port,
    history: History,
    fold: Option<Running>,
    is_frozen: bool,
    /// Its clock.
    passed: Duration,
}

/// What happened in all.
#[derive(Debug, Default)]
struct Played {
    commits: u64,
    markers: u64,
    kills: u64,
    late: u64,
    wrong: Option<String>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    fn timeline(&mut self, rules: &Rules, count: usize) -> Timeline {
        let mut changes = vec![Change::Write { places: Vec::new(), append: 3, seed: 0 }];
        for number in 1..count {
            let seed = if rules.toggles { self.below(2) as u8 * 16 } else { number as u8 };
            changes.push(match self.below(12) {
                0 | 1 if rules.shrinks => Change::Shrink { to: self.below(5), seed },
                0..=3 if rules.shrinks => Change::Write { places: Vec::new(), append: 1 + self.below(2), seed },
                0 => Change::Write { places: Vec::new(), append: 1 + self.below(2), seed },
                _ => Change::Write { places: vec![1 + self.below(3), 1 + self.below(3)], append: 0, seed },
            });
        }
        Timeline::new(512, &changes)
    }
}

struct Play {
    rules: Rules,
    random: Random,
    timeline: Timeline,
    /// The last transaction in the log.
    end: u64,
    store: Port,
    machines: Vec<Machine>,
    /// A marker was made: now it is worst to come late.
    is_marked: bool,
    played: Played,
}

impl Play {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let timeline = random.timeline(&rules, 40);
        let store = Port::new(GONE);
        {
            let mut state = store.state();
            state.is_slow = true;
            state.ignores_if_match = rules.ignores_if_match;
            state.hides_claims = rules.hides_claims;
        }
        let machine = |number| {
            let port = store.of(number);
            let history = history(&port);
            Machine { port, history, fold: None, is_frozen: false, passed: Duration::ZERO }
        };
        let machines = (1..=2 + random.below(2)).map(machine).collect();
        Self { rules, random, timeline, end: 0, store, machines, is_marked: false, played: Played::default() }
    }

    async fn step(&mut self) {
        match self.random.below(1000) {
            0..30 => self.commit(),
            30..130 => {
                let at = self.random.below(self.machines.len());
                self.begin(at).await;
            }
            130..950 => self.deliver().await,
            950..970 => {
                let seconds = 1 + self.random.below(60) as u64;
                self.pass(Duration::from_secs(seconds));
            }
            970..975 => self.pass(WINDOW / 3),
            975..980 => self.pass(WINDOW + Duration::from_secs(2)),
            980..988 => self.kill(),
            988..994 => {
                let at = self.at_work();
                self.machines[at].is_frozen = true;
                if self.random.below(2) == 0 {
                    self.pass(WINDOW + Duration::from_secs(2));
                }
            }
            _ => {
                let at = self.random.below(self.machines.len());
                self.machines[at].is_frozen = false;
                self.go_on(at).await;
            }
        }
    }

    fn commit(&mut self) {
        if self.end < self.timeline.last() {
            self.end += 1;
            commit(&self.store, &self.timeline, self.end..=self.end);
            self.played.commits += 1;
            self.look("a commit");
        }
    }

    async fn begin(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.fold.is_none() && !machine.is_frozen {
            let (history, options) = (machine.history.clone(), options(at + 1));
            machine.fold = Some(Box::pin(async move { history.fold(&options).await }));
            self.go_on(at).await;
        }
    }

    /// Lets a machine run until all that it waits for is in the network.
    async fn go_on(&mut self, at: usize) {
        let Machine { port, fold, is_frozen, passed, .. } = &mut self.machines[at];
        if *is_frozen {
            return;
        }
        if !self.rules.clocks_stop {
            *passed = port.state().now;
        }
        let Some(running) = fold else { return };
        let done = poll_fn(|context| {
            pretend::set(*passed);
            match running.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if port.state().waiting.iter().any(|message| message.from == at + 1) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let done = done.await;
        if let Some(Err(error)) = &done {
            assert!(matches!(error, HistoryError::Store(_)), "{error}");
        }
        if done.is_some() {
            *fold = None;
        }
    }

    async fn deliver(&mut self) {
        // What nobody waits for any more takes its time.
        let gone = self.random.below(if self.is_marked { 4 } else { 200 }) == 0;
        let fits = |(_, message): &(usize, &super::net::Message)| (message.from == GONE) == gone;
        let waiting: Vec<usize> =
            self.store.state().waiting.iter().enumerate().filter(fits).map(|(at, _)| at).collect();
        if waiting.is_empty() {
            self.is_marked &= !gone;
            return;
        }
        let at = waiting[self.random.below(waiting.len())];
        let fate = match self.random.below(150) {
            0 => Fate::ReplyLost,
            1 => Fate::Refused,
            2 => Fate::Late,
            _ => Fate::Arrives,
        };
        let (from, what) = {
            let mut state = self.store.state();
            let Some(message) = state.waiting.get(at) else { return };
            let (from, what) = (message.from, message.what.clone());
            let before = marker(&state);
            state.deliver(at, if from == GONE { Fate::Arrives } else { fate });
            let is_marked = marker(&state) > before;
            self.is_marked |= is_marked;
            self.played.markers += u64::from(is_marked);
            self.played.late += u64::from(from == GONE);
            (from, what)
        };
        self.look(&what);
        if from != GONE {
            self.go_on(from - 1).await;
        }
    }

    /// Time passes. What must have arrived by then, arrives or is lost.
    fn pass(&mut self, time: Duration) {
        let now = self.store.state().now + time;
        while !self.rules.arrives_ever {
            let overdue = |message: &super::net::Message| message.is_write && message.sent + WINDOW / 2 < now;
            let Some(at) = self.store.state().waiting.iter().position(overdue) else { break };
            let arrives = self.random.below(2) == 0;
            let what = {
                let mut state = self.store.state();
                let what = state.waiting[at].what.clone();
                state.deliver(at, if arrives { Fate::Arrives } else { Fate::Refused });
                what
            };
            self.look(&what);
        }
        self.store.state().now = now;
        if self.rules.clocks_stop {
            self.machines.iter_mut().filter(|machine| !machine.is_frozen).for_each(|machine| machine.passed += time);
        }
    }

    /// A machine of which a page is on its way, if there is one.
    fn at_work(&mut self) -> usize {
        let is_page = |message: &&super::net::Message| message.what.contains("PUT test.db-") && message.from != GONE;
        let writers: Vec<usize> = self.store.state().waiting.iter().filter(is_page).map(|m| m.from - 1).collect();
        match writers.is_empty() {
            true => self.random.below(self.machines.len()),
            false => writers[self.random.below(writers.len())],
        }
    }

    fn kill(&mut self) {
        let at = self.at_work();
        self.machines[at].fold = None;
        self.machines[at].is_frozen = false;
        self.store.state().waiting.iter_mut().filter(|message| message.from == at + 1).for_each(|m| m.from = GONE);
        self.played.kills += 1;
    }

    fn look(&mut self, what: &str) {
        let wrong = wrong(&self.store.state(), &self.timeline, self.end);
        if let Some(wrong) = wrong {
            self.played.wrong.get_or_insert(format!("after {what}: {wrong}"));
        }
    }

    /// When all is over, one machine brings everything into order.
    async fn end(mut self) -> Played {
        if self.played.wrong.is_some() || self.end == 0 {
            return self.played;
        }
        for machine in &mut self.machines {
            machine.fold = None;
        }
        {
            let mut state = self.store.state();
            state.waiting.clear();
            (state.is_slow, state.hides_claims) = (false, false);
            state.now += 2 * WINDOW;
        }
        pretend::set(self.store.state().now);
        self.commit();
        let folded = fold(&self.store, 1).await.unwrap();
        assert_eq!(folded.wait, None);
        self.played.wrong = unfolded(&self.store, &self.timeline, self.end);
        self.played
    }
}

fn play(seed: u64, rules: Rules) -> Played {
    run(|_| async move {
        let mut play = Play::new(seed, rules);
        for _ in 0..1500 {
            play.step().await;
            if play.played.wrong.is_some() {
                break;
            }
        }
        play.end().await
    })
}

/// The seeds, or the one or the many that are asked for: `5` or `0..1000`.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("BOTTOMLESS_TEST_SEED") else { return 0..count };
    let number = |text: &str| text.parse::<u64>().unwrap();
    asked.split_once("..").map_or_else(|| number(&asked)..number(&asked) + 1, |(from, to)| number(from)..number(to))
}

fn assert_right(rules: Rules, count: u64) {
    let mut all = Played::default();
    for seed in seeds(count) {
        let played = play(seed, rules);
        assert_eq!(played.wrong, None, "BOTTOMLESS_TEST_SEED={seed}");
        all.commits += played.commits;
        all.markers += played.markers;
        all.kills += played.kills;
        all.late += played.late;
    }
    // Something did happen.
    assert!(seeds(count) != (0..count) || all.markers.min(all.late).min(all.kills) > count, "{all:?}");
}

/// That something goes wrong, with this seed or a later one.
fn assert_found(rules: Rules, from: u64) {
    let found = (from..from + 300).find_map(|seed| Some((seed, play(seed, rules).wrong?)));
    assert!(found.is_some(), "nothing goes wrong with {rules:?}");
}

#[test]
fn whatever_happens_the_end_is_there() {
    assert_right(PROMISED, 30);
}

/// Where clocks stop, and requests arrive after days, the conditions hold all the same. (Of deletions there is none: so the
/// database does not shrink. And none tells a page from itself when it returns to what it was.)
#[test]
fn conditions_hold_when_time_does_not() {
    assert_right(Rules { toggles: false, shrinks: false, arrives_ever: true, clocks_stop: true, ..PROMISED }, 20);
}

/// What the simulation is worth: without any one of them, something goes wrong.
#[test]
fn without_conditions_claims_or_time_something_goes_wrong() {
    let any_time = Rules { arrives_ever: true, clocks_stop: true, ..PROMISED };
    assert_found(Rules { toggles: false, shrinks: false, ignores_if_match: true, ..any_time }, 0);
    assert_found(Rules { hides_claims: true, ..PROMISED }, 62);
    assert_found(Rules { shrinks: false, ..any_time }, 0);
    assert_found(Rules { toggles: false, ..any_time }, 97);
}
