//! What an open database and the thread share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bottomless_history::{DatabaseId, Layout, Level, Listing, LocalPages, Policy, Stop};
use bottomless_ltx::Txid;
use bottomless_store::{Bucket, Location};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::Order;
use super::pages::MachinePages;
use super::{Purpose, Waiter};
use crate::config::{Config, Fencing};
use crate::error::Error;
use crate::local::OpenMain;

/// Who closes a database is told when that takes longer than this.
const UNNOTICED: Duration = Duration::from_secs(2);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where the thread finds the bucket: it has connections of its own.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Location(Location),
    Given(Bucket),
}

/// One open database, as far as the thread needs to know it. It holds nothing of the database itself: neither is a close
/// held up, nor the local state kept in use.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// Of this value.
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) identity: u64,
    pub(super) id: DatabaseId,
    pub(super) origin: Origin,
    pub(super) policy: Policy,
    /// False if the store knows no conditional writes.
    pub(super) is_fenced: bool,
    /// How long a request may take.
    pub(super) patience: Duration,
    /// Opens the main file, where that may be done.
    main: OnceLock<Arc<dyn OpenMain>>,
    /// The layout that the configuration names.
    wanted: Option<Layout>,
    /// Set when the thread serves it.
    orders: OnceLock<Orders>,
    served: Mutex<Served>,
    /// The last transaction that this process has committed.
    committed: AtomicU64,
    /// Up to which the page objects are, as far as this process knows.
    folded: AtomicU64,
    /// The thread knows that there is something new, and has not looked yet.
    news: AtomicBool,
    /// Told to a fold that is under way when the database is closed.
    pub(super) stop: Stop,
    /// A fold is under way.
    is_folding: Mutex<bool>,
    fold_ended: Condvar,
    closed: watch::Sender<bool>,
    seen: Mutex<Seen>,
    progress: Mutex<Progress>,
}

/// How the thread serves a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Served {
    Not,
    /// It looks when it is told to look now.
    OnDemand,
    /// And by itself, when something can be due.
    InBackground,
}

/// What the database's own listings have shown.
#[derive(Debug, Clone, Copy)]
struct Seen {
    layout: Layout,
    /// Transactions that no object above the log holds.
    left: u64,
    /// When something is due; None if nothing is to do.
    due_after: Option<Duration>,
}

/// How compaction goes on, for `PRAGMA bottomless_status`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// When this process last came to an end with a pass.
    pub(crate) last: Option<SystemTime>,
    /// Up to which transaction all are merged, as far as this process has seen.
    pub(crate) txid: Txid,
    pub(crate) last_error: Option<String>,
}

impl Progress {
    fn saw(&mut self, merged: Txid) {
        self.txid = self.txid.max(merged);
    }
}

pub(super) struct Orders(pub(super) UnboundedSender<Order>);

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Orders")
    }
}

impl Upkeep {
    /// Of the database at that path with that identity.
    pub(crate) fn new((path, identity): (PathBuf, u64), origin: Origin, config: &Config) -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            path,
            identity,
            id: config.database_id.clone(),
            origin,
            policy: config.policy,
            is_fenced: config.fencing == Fencing::On,
            patience: config.timeout,
            main: OnceLock::new(),
            wanted: config.layout,
            orders: OnceLock::new(),
            served: Mutex::new(Served::Not),
            committed: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            news: AtomicBool::new(false),
            stop: Stop::default(),
            is_folding: Mutex::new(false),
            fold_ended: Condvar::new(),
            closed: watch::Sender::new(false),
            seen: Mutex::new(Seen { layout: config.layout.unwrap_or(Layout::Ltx), left: 0, due_after: None }),
            progress: Mutex::default(),
        }
    }

    /// Lets the thread read the main file. The first word counts: all connections open it alike.
    pub(crate) fn read_pages_of(&self, main: Option<Arc<dyn OpenMain>>) {
        if let Some(main) = main {
            let _ = self.main.set(main);
        }
    }

    /// The pages that this machine has, for one pass.
    pub(super) fn pages(&self) -> Option<Arc<dyn LocalPages>> {
        let main = Arc::clone(self.main.get()?);
        Some(Arc::new(MachinePages::new(self.path.clone(), self.identity, main)))
    }

    /// False if the thread serves it already in this way.
    pub(super) fn begin(self: &Arc<Self>, orders: Orders, served: Served) -> bool {
        let mut now = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if *now >= served || self.orders.get_or_init(|| orders).0.send(Order::Serve(Arc::clone(self), served)).is_err()
        {
            return false;
        }
        *now = served;
        // What was published at open had nobody to tell.
        if self.news.load(Ordering::Acquire) {
            self.tell(Order::News(self.number));
        }
        true
    }

    fn tell(&self, order: Order) -> bool {
        self.orders.get().is_some_and(|orders| orders.0.send(order).is_ok())
    }

    /// Something was committed. For the commit path: two atomic operations, but for the first time after each pass.
    pub(crate) fn committed(&self, txid: Txid) {
        self.committed.store(txid.get(), Ordering::Release);
        if !self.news.swap(true, Ordering::AcqRel) {
            self.tell(Order::News(self.number));
        }
    }

    /// The thread is about to look: what comes from here on is news again.
    pub(super) fn forget_news(&self) {
        self.news.store(false, Ordering::Release);
    }

    /// Takes note of what a listing says of the history. The log may be listed from the database's position on only.
    pub(crate) fn listed(&self, listing: &Listing) {
        let above = || listing.entries().iter().filter(|entry| entry.name.level != Level::LOG);
        let merged = above().map(|entry| entry.name.max).max().unwrap_or_default();
        // The first transaction stays in the log until there is a snapshot, or a marker of page objects.
        let left = listing.last_txid().get().saturating_sub(merged.max(Txid::FIRST).get());
        let level1 = self.policy.levels[0];
        let made = above().map(|entry| entry.modified).max();
        // Both by the store's clock and by ours: that it is due shows when the thread looks.
        let age = |at: SystemTime| SystemTime::now().duration_since(at).unwrap_or_default();
        let of_log = (left > 0).then(|| made.map_or(level1, |made| level1.saturating_sub(age(made))));
        let layout = self.layout_of(listing);
        let next = if layout == Layout::Pages { None } else { listing.due_at(&self.policy) };
        let of_runs = next.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        self.progress_mut().saw(merged);
        *self.seen() = Seen { layout, left, due_after: of_log.into_iter().chain(of_runs).min() };
    }

    /// That of the bucket; where it has nothing but a log, that of the configuration.
    fn layout_of(&self, listing: &Listing) -> Layout {
        let is_open = listing.layout() == Layout::Ltx && listing.merged().is_empty();
        self.wanted.filter(|_| is_open).unwrap_or(listing.layout())
    }

    /// How the bucket has the database, or will have it, by the last listing.
    pub(crate) fn layout(&self) -> Layout {
        self.seen().layout
    }

    pub(super) fn saw_layout(&self, layout: Layout) {
        self.seen().layout = layout;
    }

    /// The page objects are up to this transaction, at least.
    pub(super) fn folded(&self, to: Txid) {
        self.folded.fetch_max(to.get(), Ordering::AcqRel);
    }

    pub(super) fn left_to_compact(&self) -> u64 {
        self.seen().left
    }

    pub(super) fn due_after(&self) -> Option<Duration> {
        self.seen().due_after
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread look now, and answer.
    pub(super) fn look_now(&self, waiter: Waiter) {
        self.tell(Order::Now(self.number, waiter));
    }

    /// The last connection of the process is closed: where page objects are behind what it has committed, waits until they
    /// are not. What fails is warned of, and left to the next who has the database open.
    pub(crate) fn finish(&self) {
        let committed = self.committed.load(Ordering::Acquire);
        let is_behind = self.folded.load(Ordering::Acquire) < committed;
        let is_served = *self.served.lock().unwrap_or_else(PoisonError::into_inner) == Served::InBackground;
        if !is_behind || !is_served || self.layout() != Layout::Pages {
            return;
        }
        let database = self.path.display();
        let (waiter, answer) = Waiter::new(Purpose::Close, Txid::new(committed), self.patience);
        self.look_now(waiter);
        let mut result = answer.recv_timeout(UNNOTICED);
        if result.is_none() {
            tracing::info!(%database, "closing waits until the page objects hold what was committed; it is in the log");
            result = Some(answer.recv());
        }
        if let Some(Err(error)) = result {
            tracing::warn!(
                %database,
                "the page objects do not hold yet what was committed last, which is in the log; the next to open the database \
                 sees to it: {error}"
            );
        }
    }

    /// A fold begins, and ends when what is returned is dropped.
    pub(super) fn begin_fold(&self) -> Folding<'_> {
        *self.is_folding() = true;
        Folding(self)
    }

    fn is_folding(&self) -> MutexGuard<'_, bool> {
        self.is_folding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a fold that is under way, and waits until it has given up its claim: one that is left in the bucket holds up other
    /// machines, and the marker. False if that takes longer than the limit.
    fn ends_fold(&self, limit: Duration) -> bool {
        self.stop.stop();
        let ended = self.fold_ended.wait_timeout_while(self.is_folding(), limit, |is_folding| *is_folding);
        !*ended.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The database is closed. Whatever is under way stops at its next pause.
    pub(crate) fn close(&self) {
        let unnoticed = UNNOTICED.min(self.patience);
        if !self.ends_fold(unnoticed) {
            let database = self.path.display();
            tracing::info!(%database, "closing waits for the requests that a fold in the background has under way");
            if !self.ends_fold(self.patience - unnoticed) {
                tracing::info!(%database, "the fold is cut off; others wait until its claim is old");
            }
        }
        self.closed.send_replace(true);
        self.tell(Order::Closed(self.number));
    }

    pub(super) async fn until_closed(&self) {
        // The sender is this value's own: there is always one.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn progress_mut(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress_mut().clone()
    }

    pub(super) fn passed(&self, txid: Txid) {
        let mut progress = self.progress_mut();
        progress.last = Some(SystemTime::now());
        progress.saw(txid);
        progress.last_error = None;
    }

    pub(super) fn failed(&self, error: &Error) {
        self.progress_mut().last_error = Some(error.to_string());
    }
}

/// A fold that is under way.
pub(super) struct Folding<'a>(&'a Upkeep);

impl Drop for Folding<'_> {
    fn drop(&mut self) {
        *self.0.is_folding() = false;
        self.0.fold_ended.notify_all();
    }
}
