//! The thread: which database is looked at when.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use bottomless_store::{Bucket, Transport};
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::Order;
use super::pass::{Passed, Turn, pass};
use super::schedule::Schedule;
use super::upkeep::{Origin, Served, Upkeep};
use super::waiter::Waiter;
use crate::error::{Error, ErrorKind, Result};
use crate::process::spare_descriptors;
use crate::state::PassNote;

/// Databases that are compacted at the same time: each waits for the store most of the time.
const AT_ONCE: usize = 4;
/// Threads that read, merge and write for them.
const BLOCKING_THREADS: usize = 2;
/// They are let go when this has passed without work.
const KEPT_ALIVE: Duration = Duration::from_secs(2);
/// What the operating system takes from, where the machine is busy: as `nice` without a number.
const NICENESS: i32 = 10;
/// Another database of the same path, or as many others as are taken at once, is at work.
const SOON: Duration = Duration::from_millis(200);

/// Starts the thread.
pub(super) fn start() -> io::Result<UnboundedSender<Order>> {
    spare_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(KEPT_ALIVE)
        .thread_name("bottomless-work")
        .enable_all()
        .build()?;
    let (sender, orders) = unbounded_channel();
    Builder::new().name("bottomless".into()).spawn(move || {
        // Not more than a courtesy.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let serve = AssertUnwindSafe(|| runtime.block_on(Thread::default().serve(orders)));
        if std::panic::catch_unwind(serve).is_err() {
            // The channel is closed: the next open starts another thread.
            tracing::error!(
                "compaction has failed in a way that nobody expected, and is over until a database is opened"
            );
        }
    })?;
    Ok(sender)
}

/// A database that is served.
struct Place {
    upkeep: Arc<Upkeep>,
    schedule: Schedule,
    /// The note of the last pass.
    own_last: Option<PassNote>,
    /// Whoever waits for the pass that comes.
    waiting: Vec<Waiter>,
    /// And for the one that is under way, if one is.
    running: Option<Vec<Waiter>>,
    warned: HashSet<ErrorKind>,
}

type Running = LocalBoxFuture<'static, (u64, PathBuf, Option<Result<Passed>>)>;

#[derive(Default)]
struct Thread {
    places: HashMap<u64, Place>,
    /// The paths that are worked on.
    busy: HashSet<PathBuf>,
    passes: FuturesUnordered<Running>,
    shop: Rc<Shop>,
}

impl Thread {
    async fn serve(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            let due = self.next_due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                Some((number, path, outcome)) = self.passes.next() => {
                    self.busy.remove(&path);
                    self.finish(number, outcome);
                }
                () = timer => self.begin_what_is_due(),
            }
        }
    }

    /// None while as many are at work as are taken at once.
    fn next_due(&self) -> Option<Instant> {
        let idle = self.places.values().filter(|place| place.running.is_none());
        idle.filter_map(|place| place.schedule.due).min().filter(|_| self.passes.len() < AT_ONCE)
    }

    fn take(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Serve(upkeep, served) => {
                let schedule = match served {
                    Served::InBackground => {
                        let mut schedule = Schedule::new(&upkeep.policy, upkeep.layout());
                        if let Some(due_after) = upkeep.due_after() {
                            schedule.opened(now, due_after);
                        }
                        schedule
                    }
                    Served::OnDemand | Served::Not => Schedule::on_demand(&upkeep.policy, upkeep.layout()),
                };
                match self.places.get_mut(&upkeep.number) {
                    // It was on demand before.
                    Some(place) => {
                        let is_waited_for = !place.waiting.is_empty();
                        place.schedule = schedule;
                        if is_waited_for {
                            place.schedule.now(now);
                        }
                    }
                    None => drop(self.places.insert(upkeep.number, Place::new(schedule, upkeep))),
                }
            }
            Order::News(number) => {
                if let Some(place) = self.places.get_mut(&number) {
                    place.schedule.news(now);
                }
            }
            Order::Now(number, waiter) => {
                if let Some(place) = self.places.get_mut(&number) {
                    place.schedule.now(now);
                    place.waiting.push(waiter);
                }
            }
            // A pass that is under way sees it by itself.
            Order::Closed(number) => drop(self.places.remove(&number)),
        }
    }

    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        for (number, place) in &mut self.places {
            if self.passes.len() >= AT_ONCE {
                return;
            }
            if place.running.is_some() || place.schedule.due.is_none_or(|due| due > now) {
                continue;
            }
            let path = place.upkeep.path.clone();
            if !self.busy.insert(path.clone()) {
                place.schedule.due = Some(now + SOON);
                continue;
            }
            place.upkeep.forget_news();
            place.schedule.begin(now);
            let turn = Turn { is_urgent: !place.waiting.is_empty(), own_last: place.own_last };
            place.running = Some(std::mem::take(&mut place.waiting));
            let (number, upkeep, shop) = (*number, Arc::clone(&place.upkeep), Rc::clone(&self.shop));
            let running = async move {
                let work = async {
                    let bucket = shop.bucket(&upkeep.origin).await?;
                    pass(&upkeep, bucket, turn).await
                };
                let outcome = tokio::select! {
                    biased;
                    () = upkeep.until_closed() => None,
                    outcome = AssertUnwindSafe(work).catch_unwind() => Some(outcome.unwrap_or_else(|_| {
                        Err(Error::new(ErrorKind::Damaged, "compaction has failed in a way that nobody expected"))
                    })),
                };
                (number, path, outcome)
            };
            self.passes.push(running.boxed_local());
        }
    }

    /// None for one that was closed.
    fn finish(&mut self, number: u64, outcome: Option<Result<Passed>>) {
        let now = Instant::now();
        let Some(place) = self.places.get_mut(&number) else { return };
        let waiters = place.running.take().unwrap_or_default();
        match outcome {
            None => {}
            Some(Ok(Passed::Done(done))) => {
                place.own_last = Some(done.note);
                match done.wait {
                    Some(pause) => place.schedule.wait(now, pause),
                    None => place.schedule.done(now, done.due_after),
                }
                waiters.into_iter().for_each(|waiter| waiter.done(&done));
                if let Some(error) = &done.refused {
                    place.tell(error, "what compaction has replaced is not deleted, and takes room in the bucket");
                }
            }
            Some(Ok(Passed::Wait(pause))) => place.schedule.wait(now, pause),
            Some(Ok(Passed::Busy(pause))) => {
                place.waiting.extend(waiters.into_iter().filter_map(Waiter::stay));
                place.schedule.wait(now, pause);
            }
            Some(Err(error)) => {
                place.schedule.failed(now);
                place.upkeep.failed(&error);
                let told: Vec<bool> = waiters.into_iter().map(|waiter| waiter.failed(&error)).collect();
                if error.kind() == ErrorKind::Unavailable {
                    for waiter in place.waiting.extract_if(.., |waiter| waiter.gives_up_early()) {
                        waiter.failed(&error);
                    }
                }
                // Who waits for it tells by itself.
                if !told.contains(&true) {
                    place.tell(&error, "compaction has failed, and is tried again");
                }
            }
        }
        if !place.waiting.is_empty() {
            place.schedule.again(now + SOON);
        }
    }
}

impl Place {
    fn new(schedule: Schedule, upkeep: Arc<Upkeep>) -> Self {
        Self { upkeep, schedule, own_last: None, waiting: Vec::new(), running: None, warned: HashSet::new() }
    }

    /// Warns once of each kind of failure, but not of a store that is away for a while.
    fn tell(&mut self, error: &Error, what: &str) {
        self.upkeep.failed(error);
        let database = self.upkeep.path.display();
        if error.kind() != ErrorKind::Unavailable && self.warned.insert(error.kind()) {
            tracing::warn!(%database, "{what}: {error}");
        } else {
            tracing::debug!(%database, "{what}: {error}");
        }
    }
}

/// The thread's own buckets, one for each location.
#[derive(Default)]
struct Shop {
    transport: RefCell<Option<Transport>>,
    buckets: RefCell<HashMap<String, Bucket>>,
}

impl Shop {
    async fn bucket(&self, origin: &Origin) -> Result<Bucket> {
        let location = match origin {
            Origin::Given(bucket) => return Ok(bucket.clone()),
            Origin::Location(location) => location,
        };
        let name = location.to_string();
        if let Some(bucket) = self.buckets.borrow().get(&name) {
            return Ok(bucket.clone());
        }
        let transport = self.transport()?;
        let bucket = Bucket::connect(location, &transport).await?;
        self.buckets.borrow_mut().insert(name, bucket.clone());
        Ok(bucket)
    }

    fn transport(&self) -> Result<Transport> {
        let mut made = self.transport.borrow_mut();
        if let Some(transport) = made.as_ref() {
            return Ok(transport.clone());
        }
        let error = |error: io::Error| Error::disk("network requests can't be made by this process", &error);
        Ok(made.insert(Transport::new().map_err(error)?).clone())
    }
}
