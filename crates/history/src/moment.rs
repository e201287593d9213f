//! When something was, by clocks that go on while the machine sleeps.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment, of which it is asked later how long ago it was.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the machine was started, the time that it slept included (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
    /// By the wall clock: a virtual machine that was frozen may not know it otherwise.
    pub wall: SystemTime,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default());
        let since_boot = seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or_default());
        let moment = Self { since_boot, wall: SystemTime::now() };
        #[cfg(test)]
        let moment = pretend::later(moment);
        moment
    }

    /// How long ago, by the clock that says more.
    #[must_use]
    pub fn age(self) -> Duration {
        let now = Self::now();
        let by_wall = now.wall.duration_since(self.wall).unwrap_or_default();
        now.since_boot.saturating_sub(self.since_boot).max(by_wall)
    }
}

/// Time that has passed only for the machine that a test plays.
#[cfg(test)]
pub(crate) mod pretend {
    use std::cell::Cell;
    use std::time::Duration;

    use super::Moment;

    thread_local! {
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// From here on this thread plays a machine for which so much time has passed.
    pub(crate) fn set(passed: Duration) {
        PASSED.set(passed);
    }

    pub(super) fn later(moment: Moment) -> Moment {
        let passed = PASSED.get();
        Moment { since_boot: moment.since_boot + passed, wall: moment.wall + passed }
    }
}
