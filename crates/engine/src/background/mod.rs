//! Compaction in the background: one thread a process, for all its databases.
//!
//! A commit never waits for it. They share no lock, no runtime and no connection: a commit leaves word that there is
//! something new, once for each time that the thread looks, and that is all. Of the processes of a machine one at a time
//! works on a database, which a lock on a file decides ([`lock`]); what two machines do at once is the same work twice, and
//! harmless.
//!
//! The thread sleeps until something can be due. It lists a bucket only if this machine has committed since the last pass
//! over that database, when the listing of an open has shown that something is left to do, or at the times at which what
//! was committed last comes to the higher levels.
//!
//! Where each page is an object of its own, a pass folds the log into them. Then the close of the last connection of a process
//! waits for a pass, and so does `PRAGMA bottomless_flush`, in whatever layout ([`Waiter`]).

mod lock;
mod pages;
mod pass;
mod schedule;
mod thread;
mod upkeep;
mod waiter;

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bottomless_ltx::Txid;
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{Error, Result};
use upkeep::{Orders, Served};
pub(crate) use upkeep::{Origin, Upkeep};
use waiter::{Purpose, Waiter};

/// With more transactions than this that no object above the log holds, an open waits for their compaction: programs that
/// live shorter than the interval of level 1 would never come to it. A listing shows a thousand objects in one request, and
/// as many are merged into one.
pub const LONG_LOG: u64 = 1000;

/// And waits no longer than this. What is done by then stays done; the rest goes on in the background.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What the thread is told.
enum Order {
    /// Serve this database from now on, in this way.
    Serve(std::sync::Arc<Upkeep>, Served),
    /// There is something new.
    News(u64),
    /// Look now, whatever the time is.
    Now(u64, Waiter),
    /// It is closed.
    Closed(u64),
}

/// The thread of a process; none before it is needed.
#[derive(Default)]
pub(crate) struct Background(Mutex<Option<UnboundedSender<Order>>>);

impl Background {
    /// The way to the thread, which is started if there is none.
    fn orders(&self) -> io::Result<UnboundedSender<Order>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match running.as_ref().filter(|orders| !orders.is_closed()) {
            Some(orders) => Ok(orders.clone()),
            None => Ok(running.insert(thread::start()?).clone()),
        }
    }

    /// Serves a database from now on, and waits for its compaction if more than `long` transactions are left to compact.
    pub(crate) fn serve(&self, upkeep: &std::sync::Arc<Upkeep>, long: u64) {
        let orders = match self.orders() {
            Ok(orders) => orders,
            Err(error) => {
                tracing::warn!(
                    database = %upkeep.path.display(),
                    "no thread for compaction can be started: {error}; the history grows until one can, or until \
                     bottomless-cli compact"
                );
                return;
            }
        };
        if !upkeep.begin(Orders(orders), Served::InBackground) {
            return;
        }
        let left = upkeep.left_to_compact();
        if left <= long {
            return;
        }
        let database = upkeep.path.display();
        tracing::info!(%database, "{left} transactions are compacted before the database is opened");
        let (waiter, answer) = Waiter::new(Purpose::Open, Txid::ZERO, upkeep.patience);
        upkeep.look_now(waiter);
        match answer.recv_timeout(LONGEST_WAIT) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%database, "compaction has failed, and is tried again: {error}"),
            None => tracing::info!(%database, "compaction goes on in the background"),
        }
    }

    /// Waits for a pass over the database, which must come as far as the transaction `at_least`.
    ///
    /// # Errors
    /// When the pass fails, or can't be made.
    pub(crate) fn flush(&self, upkeep: &std::sync::Arc<Upkeep>, at_least: Txid) -> Result<()> {
        let database = upkeep.path.display();
        let orders = self.orders();
        let orders =
            orders.map_err(|error| Error::disk(format_args!("{database}: no thread can be started"), &error))?;
        upkeep.begin(Orders(orders), Served::OnDemand);
        let (waiter, answer) = Waiter::new(Purpose::Flush, at_least, upkeep.patience);
        upkeep.look_now(waiter);
        answer.recv().map_err(|error| error.context(database))
    }
}
