//! When the thread looks at a database again.

use std::time::Duration;

use bottomless_history::{Layout, Policy};
use tokio::time::Instant;

/// A database that is not served because of failures is tried again at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// What the store's clock, the listing and the requests may take off an interval.
const SLACK: Duration = Duration::from_secs(2);
/// And of short ones, this part.
const SLACK_PART: f32 = 10.0;
/// No object of the log goes before this time; see `Settings::fence_window`.
const FENCE_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The times at which something can be due.
#[derive(Debug)]
pub(super) struct Schedule {
    level1: Duration,
    /// When what was committed last comes to the higher levels, and what it replaces can go, counted from the pass that saw
    /// it first. In ascending order.
    later: Vec<Duration>,
    /// Nothing is due but what somebody waits for.
    is_on_demand: bool,
    /// When to look next; none while nothing can be due.
    pub(super) due: Option<Instant>,
    /// When the last pass began that had something new to see.
    last_news: Option<Instant>,
    has_news: bool,
    failures: u32,
}

impl Schedule {
    pub(super) fn new(policy: &Policy, layout: Layout) -> Self {
        let [level1, level2, level3] = policy.levels;
        let kept = policy.retention.max(FENCE_WINDOW);
        let mut later = match layout {
            Layout::Ltx => vec![
                level2,
                level3,
                level3 + FENCE_WINDOW,
                policy.snapshot,
                kept + FENCE_WINDOW,
                policy.snapshot + kept,
                policy.snapshot + kept + FENCE_WINDOW,
            ],
            // What is folded goes when nobody needs it as evidence any more.
            Layout::Pages => vec![FENCE_WINDOW, 2 * FENCE_WINDOW],
        };
        later.sort();
        Self { level1, later, is_on_demand: false, due: None, last_news: None, has_news: false, failures: 0 }
    }

    /// One that looks when it is told to, and not by itself.
    pub(super) fn on_demand(policy: &Policy, layout: Layout) -> Self {
        Self { is_on_demand: true, ..Self::new(policy, layout) }
    }

    /// Something was committed, the first since a pass began: it waits for what comes after it.
    pub(super) fn news(&mut self, now: Instant) {
        self.has_news = true;
        self.sooner(now + self.level1 + self.level1.div_f32(SLACK_PART).min(SLACK));
    }

    /// The listing of the open says that something is due after this time.
    pub(super) fn opened(&mut self, now: Instant, due_after: Duration) {
        self.has_news = true;
        // Who lives shorter than this leaves it to others, and to the open that finds a long log.
        self.sooner(now + due_after.max(SLACK.min(self.level1)));
    }

    pub(super) fn now(&mut self, now: Instant) {
        self.has_news = true;
        self.due = Some(now);
    }

    /// Somebody waits who came meanwhile, or who waits for another process.
    pub(super) fn again(&mut self, due: Instant) {
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    fn sooner(&mut self, due: Instant) {
        if self.is_on_demand {
            return;
        }
        // What failed is not tried sooner because there is more of it.
        self.due = match self.due {
            Some(before) if self.failures > 0 || before <= due => Some(before),
            _ => Some(due),
        };
    }

    /// A pass begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = None;
        if std::mem::take(&mut self.has_news) {
            self.last_news = Some(now);
        }
    }

    /// A pass has come to its end; after `due_after` something will be due of what it has seen.
    pub(super) fn done(&mut self, now: Instant, due_after: Option<Duration>) {
        self.failures = 0;
        if let Some(due_after) = due_after {
            // The store's clock may not be ours, and may not tell more than seconds.
            self.sooner(now + due_after.max(self.level1 / 4));
        }
        let later =
            self.last_news.and_then(|at| self.later.iter().map(|after| at + *after + SLACK).find(|due| *due > now));
        if let Some(due) = later {
            self.sooner(due);
        }
    }

    /// A pass is to begin after this time: another process has just looked, or looks just now.
    pub(super) fn wait(&mut self, now: Instant, pause: Duration) {
        self.has_news = true;
        self.failures = 0;
        // Also where nothing is waited for but that others have done: passes must not follow upon each other.
        self.sooner(now + pause.max(self.level1 / 4));
    }

    /// A pass has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.has_news = true;
        let pause =
            self.level1.saturating_mul(1 << self.failures.min(16)).clamp(self.level1, LONGEST_PAUSE.max(self.level1));
        self.failures += 1;
        self.due = Some(now + pause).filter(|_| !self.is_on_demand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule() -> (Schedule, Instant) {
        (Schedule::new(&Policy::default(), Layout::Ltx), Instant::now())
    }

    #[test]
    fn what_is_new_is_looked_at_once_an_interval() {
        let (mut schedule, begin) = schedule();
        assert_eq!(schedule.due, None);
        schedule.news(begin);
        assert_eq!(schedule.due, Some(begin + 32 * SECOND));
        schedule.news(begin + SECOND);
        assert_eq!(schedule.due, Some(begin + 32 * SECOND), "not put off");
        schedule.begin(begin + 32 * SECOND);
        schedule.news(begin + 33 * SECOND);
        schedule.done(begin + 34 * SECOND, None);
        assert_eq!(schedule.due, Some(begin + 65 * SECOND));
        schedule.begin(begin + 65 * SECOND);
        schedule.done(begin + 66 * SECOND, Some(10 * SECOND));
        assert_eq!(schedule.due, Some(begin + 76 * SECOND), "something was not due yet");
    }

    #[test]
    fn what_was_committed_last_is_followed_for_two_days_and_then_no_more() {
        let (mut schedule, begin) = schedule();
        schedule.news(begin);
        let mut passes = 0;
        let mut now = begin;
        while let Some(due) = schedule.due {
            now = due;
            schedule.begin(now);
            schedule.done(now + SECOND, None);
            passes += 1;
        }
        let hours = (now - begin).as_secs() / 3600;
        assert!((48..52).contains(&hours), "{hours}");
        assert!(passes <= 8, "{passes}");
    }

    #[test]
    fn what_was_folded_last_is_followed_until_it_can_go() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&Policy::default(), Layout::Pages);
        schedule.news(now);
        let mut at = Vec::new();
        while let Some(due) = schedule.due {
            schedule.begin(due);
            schedule.done(due + SECOND, None);
            at.push((due - now).as_secs());
        }
        assert_eq!(at, [32, 32 + 3602, 32 + 7202]);
    }

    #[test]
    fn on_demand_nothing_is_due_but_what_somebody_waits_for() {
        let now = Instant::now();
        let mut schedule = Schedule::on_demand(&Policy::default(), Layout::Pages);
        schedule.news(now);
        assert_eq!(schedule.due, None);
        schedule.now(now);
        assert_eq!(schedule.due, Some(now));
        schedule.begin(now);
        schedule.done(now, Some(SECOND));
        assert_eq!(schedule.due, None);
        schedule.now(now);
        schedule.begin(now);
        schedule.failed(now);
        assert_eq!(schedule.due, None);
        schedule.wait(now, SECOND);
        assert_eq!(schedule.due, None);
    }

    #[test]
    fn failures_are_tried_again_at_longer_and_longer_intervals() {
        let (mut schedule, mut now) = schedule();
        schedule.news(now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            now = schedule.due.unwrap();
            schedule.begin(now);
            schedule.failed(now);
            schedule.news(now + SECOND);
            pauses.push((schedule.due.unwrap() - now).as_secs());
        }
        assert_eq!(pauses[..6], [30, 60, 120, 240, 480, 900]);
        assert!(pauses[6..].iter().all(|pause| *pause == 900));
        schedule.begin(now);
        schedule.done(now, None);
        schedule.news(now + SECOND);
        assert_eq!(schedule.due, Some(now + 33 * SECOND), "all is well again");
    }

    #[test]
    fn passes_that_are_to_be_made_again_do_not_follow_upon_each_other() {
        let (mut schedule, now) = schedule();
        schedule.wait(now, Duration::ZERO);
        assert_eq!(schedule.due, Some(now + 30 * SECOND / 4));
        schedule.begin(now);
        schedule.wait(now, 20 * SECOND);
        assert_eq!(schedule.due, Some(now + 20 * SECOND));
        schedule.again(now);
        assert_eq!(schedule.due, Some(now), "but where somebody waits");
    }

    #[test]
    fn an_open_looks_when_something_is_due_and_not_within_its_first_seconds() {
        let (mut schedule, now) = schedule();
        schedule.opened(now, Duration::ZERO);
        assert_eq!(schedule.due, Some(now + 2 * SECOND));
        schedule.opened(now, 20 * SECOND);
        assert_eq!(schedule.due, Some(now + 2 * SECOND));
    }
}
