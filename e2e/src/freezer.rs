//! Freezing a process, and waiting for what is seen only by looking: a process that stands still, a clock.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::session::Session;

/// How long a test waits for a process to stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

impl Session {
    /// Freezes the process (SIGSTOP), with all its threads.
    ///
    /// # Panics
    /// If it can't be frozen.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        self.wait_until_frozen();
    }

    /// Lets a frozen process go on (SIGCONT).
    ///
    /// # Panics
    /// If it is gone.
    #[track_caller]
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until the process stands still with all its threads.
    ///
    /// # Panics
    /// If it doesn't.
    #[track_caller]
    pub fn wait_until_frozen(&self) {
        let tasks = Path::new("/proc").join(self.id().to_string()).join("task");
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_dir(&tasks).expect("its threads").all(|task| is_stopped(&task.expect("a thread").path())) {
            assert!(Instant::now() < deadline, "the process still runs\n{}", self.stderr());
            std::thread::park_timeout(LOOK);
        }
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("send a signal");
    }
}

/// The state of a thread stands behind its name, which is in parentheses.
fn is_stopped(task: &Path) -> bool {
    // A thread that has just ended is as good.
    std::fs::read_to_string(task.join("stat"))
        .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// Waits until so much has passed since then, by this machine's clock, which is also that of the store.
pub fn wait_until_passed(since: SystemTime, duration: Duration) {
    while let Some(left) = duration.checked_sub(since.elapsed().unwrap_or_default()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
