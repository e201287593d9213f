//! Telling a fold to come to its end.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends a fold early, from any thread. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// From now on the fold sends no page, no deletion and no marker. What is under way has its outcome, and the claim is given
    /// up. For good: whoever folds again takes another value.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was told to.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// What comes of work that may be dropped anywhere; `None` if it was stopped before.
    pub(super) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut told = self.0.subscribe();
        tokio::select! {
            biased;
            // The sender is this value's own: there is always one.
            _ = told.wait_for(|is_stopped| *is_stopped) => None,
            done = work => Some(done),
        }
    }
}
