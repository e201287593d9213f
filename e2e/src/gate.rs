//! Holds requests and their replies one by one, until a test lets each of them through.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a test waits for a request or a reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often somebody who waits looks whether anybody is left.
const LOOK: Duration = Duration::from_millis(5);

/// One of the two ways through the gate.
#[derive(Debug, Default)]
struct Way {
    arrived: u64,
    let_through: u64,
}

#[derive(Debug, Default)]
struct State {
    /// What is held: a method, and a part of the target. `None`: nothing.
    held: Option<(String, String)>,
    requests: Way,
    replies: Way,
}

/// Requests on their way to the server, and replies on their way back, wait here.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

type Side = fn(&mut State) -> &mut Way;
const REQUESTS: Side = |state| &mut state.requests;
const REPLIES: Side = |state| &mut state.replies;

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on such requests and their replies wait until they are let through.
    pub fn hold(&self, method: &str, contains: &str) {
        *self.state() = State { held: Some((method.to_owned(), contains.to_owned())), ..State::default() };
    }

    /// Lets through what is held, and holds nothing from now on.
    pub fn open(&self) {
        self.state().held = None;
        self.changed.notify_all();
    }

    /// Waits until a request is held.
    #[track_caller]
    pub fn wait_for_request(&self) {
        self.wait_for(REQUESTS, "request");
    }

    /// Waits until a request is held, or until nobody is left who would send one: `false`.
    #[track_caller]
    pub fn wait_for_request_unless(&self, mut gone: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while state.requests.arrived <= state.requests.let_through {
            if gone() {
                return false;
            }
            assert!(Instant::now() < deadline, "no request came to the gate in {PATIENCE:?}");
            // Nobody tells when a process ends.
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until a reply is held: the request has taken its effect.
    #[track_caller]
    pub fn wait_for_reply(&self) {
        self.wait_for(REPLIES, "reply");
    }

    /// Waits for the next request and lets it through, as far as to its reply, which is held then.
    #[track_caller]
    pub fn let_request(&self) {
        self.wait_for_request();
        self.state().requests.let_through += 1;
        self.changed.notify_all();
        self.wait_for_reply();
    }

    /// Waits for the next reply and lets it through.
    #[track_caller]
    pub fn let_reply(&self) {
        self.wait_for_reply();
        self.state().replies.let_through += 1;
        self.changed.notify_all();
    }

    #[track_caller]
    fn wait_for(&self, side: Side, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        loop {
            let way = side(&mut state);
            if way.arrived > way.let_through {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} came to the gate in {PATIENCE:?}");
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether this request, and its reply, go through here.
    pub(crate) fn takes(&self, method: &str, target: &str) -> bool {
        self.state().held.as_ref().is_some_and(|(m, part)| m == method && target.contains(part))
    }

    pub(crate) fn request(&self) {
        self.pass(REQUESTS);
    }

    pub(crate) fn reply(&self) {
        self.pass(REPLIES);
    }

    fn pass(&self, side: Side) {
        let mut state = self.state();
        side(&mut state).arrived += 1;
        let ticket = side(&mut state).arrived;
        self.changed.notify_all();
        while state.held.is_some() && side(&mut state).let_through < ticket {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
