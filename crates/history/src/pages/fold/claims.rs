//! The claim of a fold: who may send pages, and for how long.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bottomless_ltx::Txid;
use bottomless_store::{Expected, Object, StoreError};
use bytes::Bytes;

use super::{FoldOptions, Start};
use crate::name::PAGES;
use crate::pages::Claim;
use crate::{Entry, History, HistoryError, Level, Listing, Moment};

/// How often a request is sent that fails for reasons that pass.
const TRIES: u32 = 4;

/// How long after the first try the second is made; three times as long after each other one.
const PAUSE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(200) };

/// What a claim says, to whom finds it.
const CONTENT: &[u8] = b"a machine is folding the log into page objects\n";

/// What came of the attempt to claim.
pub(super) enum Taken<'a> {
    Held(Box<Held<'a>>),
    /// Another machine is folding.
    Wait(Duration),
}

/// Our claim, and what is known of the fold under it.
pub(super) struct Held<'a> {
    history: &'a History,
    options: &'a FoldOptions,
    claim: Claim,
    /// Before anything was listed.
    since: Moment,
    /// The fence window.
    window: Duration,
    /// The transaction of the marker.
    from: Txid,
    /// The claims that were there when ours was, ours among them.
    known: HashSet<String>,
    /// Requests of an earlier fold of this machine may still arrive.
    is_contested: bool,
    /// Requests of this one may.
    is_uncertain: AtomicBool,
    is_stopped: AtomicBool,
    seen: Mutex<Seen>,
}

/// What is in the folder of the markers.
#[derive(Clone, Debug, Default)]
struct Seen {
    markers: Vec<Entry>,
    claims: Vec<Object>,
    is_declared: bool,
    now: Option<SystemTime>,
}

impl Seen {
    /// By the first listing.
    async fn of(history: &History, start: &Start) -> Self {
        let now = Some(history.time(&start.listing).await);
        Self { claims: start.listing.claims().to_vec(), now, ..Self::default() }
    }

    /// The transaction of the newest marker. Where there was one and is none, the page objects have been given up.
    fn marker(&self) -> Txid {
        self.markers.iter().map(|marker| marker.name.max).max().unwrap_or_default()
    }

    fn age(&self, claim: &Object) -> Duration {
        self.now.and_then(|now| now.duration_since(claim.modified).ok()).unwrap_or_default()
    }

    /// The keys of claims of which nothing can arrive any more.
    fn old(&self, window: Duration) -> impl Iterator<Item = String> {
        self.claims.iter().filter(move |claim| self.age(claim) > window).map(|claim| claim.key.clone())
    }

    /// Claims that may still be acted upon.
    fn young(&self, window: Duration) -> impl Iterator<Item = &Object> {
        self.claims.iter().filter(move |claim| self.age(claim) <= window)
    }
}

impl<'a> Held<'a> {
    /// Claims that this machine folds, unless another does.
    pub(super) async fn take(
        history: &'a History,
        options: &'a FoldOptions,
        start: &Start,
    ) -> Result<Taken<'a>, HistoryError> {
        let window = start.window;
        let listed = Seen::of(history, start).await;
        let is_other = |object: &Object| {
            Claim::parse(history.id(), &object.key).is_none_or(|claim| claim.machine != options.machine)
        };
        if let Some(wait) = wait(&listed, window, is_other) {
            return Ok(Taken::Wait(wait));
        }
        let random = getrandom::u64().map_err(|error| HistoryError::Interrupted(error.to_string()))?;
        let claim = Claim { machine: options.machine, random };
        let key = claim.key(history.id());
        let mut held = Held {
            history,
            options,
            claim,
            since: start.since,
            window,
            from: start.from,
            known: HashSet::new(),
            is_contested: false,
            is_uncertain: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            seen: Mutex::default(),
        };
        let claimed = held.claim(&key).await;
        let seen = match claimed {
            Ok(()) => held.look().await,
            Err(error) => Err(error),
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                held.release().await;
                return Err(error);
            }
        };
        if let Some(wait) = wait(&seen, window, is_other) {
            held.release().await;
            return Ok(Taken::Wait(wait));
        }
        let is_listed = seen.claims.iter().any(|other| other.key == key);
        // It has been given up meanwhile.
        let was_declared = start.listing.declaration().is_some() && !seen.is_declared;
        if !is_listed || was_declared || seen.marker() != start.from {
            // Others have been here since the first listing.
            held.release().await;
            return Ok(Taken::Wait(Duration::ZERO));
        }
        held.is_contested = seen.young(window).any(|other| other.key != key);
        held.known = seen.claims.iter().map(|claim| claim.key.clone()).collect();
        Ok(Taken::Held(Box::new(held)))
    }

    async fn claim(&self, key: &str) -> Result<(), HistoryError> {
        let bucket = self.history.bucket();
        let timeout = self.options.merge.timeout;
        let expected = if self.options.is_fenced { Expected::Absent } else { Expected::Any };
        let content = Bytes::from_static(CONTENT);
        // No other has this name: one that is there is ours.
        self.again(|| bucket.replace(key, content.clone(), &expected, timeout)).await?;
        if self.options.is_fenced && !bucket.is_folder() {
            bucket.check_replaces(key, timeout).await?;
        }
        Ok(())
    }

    /// Sends a request, and sends it again if it fails for reasons that pass. That an earlier try may have had an effect, or may
    /// have it later, is not noted.
    pub(super) async fn again<T, R: Future<Output = Result<T, StoreError>>>(
        &self,
        request: impl Fn() -> R,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            match request().await {
                Err(error) if error.kind().is_transient() && tries < TRIES => pause(tries, &error).await,
                result => return result,
            }
            tries += 1;
        }
    }

    /// As [`Held::again`], while the fold goes on; `None` if it does not. An unclear outcome is noted.
    pub(super) async fn send<T, R: Future<Output = Result<T, StoreError>>>(
        &self,
        request: impl Fn() -> R,
    ) -> Result<Option<T>, StoreError> {
        let mut tries = 1;
        loop {
            if !self.goes_on() {
                return Ok(None);
            }
            let result = request().await;
            let Err(error) = result else { return result.map(Some) };
            if error.kind().may_have_landed() {
                self.is_uncertain.store(true, Ordering::Relaxed);
            }
            if !error.kind().is_transient() || tries == TRIES {
                self.stop();
                return Err(error);
            }
            pause(tries, &error).await;
            tries += 1;
        }
    }

    /// Whether more may be sent: nobody else folds, as far as is known, the claim is young, and nobody wants the end.
    pub(super) fn goes_on(&self) -> bool {
        !self.options.stop.is_stopped()
            && !self.is_stopped.load(Ordering::Relaxed)
            && self.since.age() < self.window / 2
    }

    /// Nothing more is sent.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether no other claim is there: no other fold has been cut off.
    pub(super) fn is_first(&self) -> bool {
        self.known.len() == 1
    }

    pub(super) fn is_contested(&self) -> bool {
        self.is_contested
    }

    pub(super) fn is_uncertain(&self) -> bool {
        self.is_uncertain.load(Ordering::Relaxed)
    }

    /// Looks whether anybody else has begun to fold, or has done it: then the fold stops.
    pub(super) async fn check(&self) -> Result<(), HistoryError> {
        let seen = self.look().await?;
        let is_known = |claim: &Object| self.known.contains(&claim.key);
        let has_ours = seen.claims.iter().any(|claim| claim.key == self.claim.key(self.history.id()));
        let is_moved = seen.marker() != self.from;
        if !has_ours || is_moved || !seen.claims.iter().all(is_known) {
            tracing::info!(id = %self.history.id(), "another machine folds the log: this one stops");
            self.stop();
        }
        Ok(())
    }

    async fn look(&self) -> Result<Seen, HistoryError> {
        let history = self.history;
        let objects = history.bucket().list(&format!("{}/{PAGES}", history.id()), None).await?;
        let listing = Listing::new(history.id().clone(), objects);
        let ours = self.claim.key(history.id());
        let claimed = listing.claims().iter().find(|claim| claim.key == ours).map(|claim| claim.modified);
        let now = history.bucket().now().await.max(claimed);
        let markers = listing.entries().iter().filter(|entry| entry.name.level == Level::PAGES).cloned().collect();
        let is_declared = listing.declaration().is_some();
        let seen = Seen { markers, claims: listing.claims().to_vec(), is_declared, now };
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&seen);
        Ok(seen)
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How long until nothing can arrive any more of what is claimed now.
    pub(super) fn wait(&self) -> Duration {
        let seen = self.seen();
        let ours = self.claim.key(self.history.id());
        let is_left = |claim: &Object| claim.key != ours || self.is_uncertain();
        wait(&seen, self.window, is_left).unwrap_or_default()
    }

    /// Gives up the claim, if nothing is under way.
    pub(super) async fn release(&self) {
        if self.is_uncertain() {
            return;
        }
        let key = self.claim.key(self.history.id());
        if let Err(error) = self.history.bucket().delete(&key).await {
            tracing::warn!(%error, "the claim of a fold can't be deleted; until it is old, others wait");
        }
    }

    /// Deletes the markers before this one, and claims of which nothing can arrive any more.
    pub(super) async fn clean(&self, newest: Txid) {
        let seen = self.seen();
        let markers = seen.markers.iter().filter(|marker| marker.name.max < newest);
        let mut keys: Vec<String> = markers.map(|marker| marker.name.key(self.history.id())).collect();
        keys.extend(seen.old(self.window));
        delete(self.history, keys).await;
    }
}

/// Deletes claims of which nothing can arrive any more, where there is nothing to fold.
pub(super) async fn forget(history: &History, start: &Start) {
    let seen = Seen::of(history, start).await;
    delete(history, seen.old(start.window)).await;
}

async fn delete(history: &History, keys: impl IntoIterator<Item = String>) {
    for key in keys {
        if let Err(error) = history.bucket().delete(&key).await {
            tracing::warn!(%error, "what a fold has replaced can't be deleted");
            return;
        }
    }
}

/// How long until the youngest of these claims counts for nothing; `None` if none counts.
fn wait(seen: &Seen, window: Duration, counts: impl Fn(&Object) -> bool) -> Option<Duration> {
    // Stores may count in whole seconds.
    let left = |claim: &Object| window.saturating_sub(seen.age(claim)) + Duration::from_secs(1);
    seen.young(window).filter(|claim| counts(claim)).map(left).max()
}

async fn pause(tries: u32, error: &StoreError) {
    tracing::debug!(%error, tries, "a request of a fold is sent again");
    if !PAUSE.is_zero() {
        tokio::time::sleep(PAUSE * 3_u32.pow(tries - 1)).await;
    }
}
