//! The progress bar, and standard error beside it.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottomless_history::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The one that is drawn.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// What is done within this time needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar on standard error, gone when it is dropped.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// Of bytes. Nothing is drawn yet.
    pub(crate) fn start() -> Self {
        Self::with("{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
    }

    /// Of other things.
    pub(crate) fn counting(things: &str) -> Self {
        Self::with(&format!("{{wide_bar}} {{pos}}/{{len}} {things} {{eta}}"))
    }

    /// Of several things, one after the other.
    pub(crate) fn share() -> Self {
        Self::with("{wide_bar} {percent}% {eta}")
    }

    fn with(template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        *drawn() = Some(bar.clone());
        Self(bar)
    }

    /// Moves it, and draws it when it took long enough: on a terminal only, since in a log file it is noise. A restore that
    /// begins anew moves it back.
    pub(crate) fn progress(&self) -> Progress {
        let bar = self.0.clone();
        let is_terminal = io::stderr().is_terminal();
        let started = Instant::now();
        let is_drawn = AtomicBool::new(false);
        Arc::new(move |done, total| {
            if is_terminal && started.elapsed() >= PATIENCE && !is_drawn.swap(true, Ordering::Relaxed) {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            if bar.length() != Some(total) {
                bar.reset();
                bar.set_length(total);
            }
            bar.set_position(done);
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        *drawn() = None;
        self.0.finish_and_clear();
    }
}

fn drawn() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error, with the bar out of the way of what is written.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bar = drawn().clone();
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
