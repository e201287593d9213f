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

mod lock;
mod pages;
mod pass;
mod schedule;
mod thread;
mod upkeep;

use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use upkeep::Orders;
pub(crate) use upkeep::{Origin, Upkeep};

/// With more transactions than this that no object above the log holds, an open waits for their compaction: programs that
/// live shorter than the interval of level 1 would never come to it. A listing shows a thousand objects in one request, and
/// as many are merged into one.
pub const LONG_LOG: u64 = 1000;

/// And waits no longer than this. What is done by then stays done; the rest goes on in the background.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What the thread is told.
enum Order {
    /// Serve this database from now on.
    Serve(std::sync::Arc<Upkeep>),
    /// There is something new.
    News(u64),
    /// Look now, whatever the time is. The sender is dropped when that is done.
    Now(u64, mpsc::Sender<()>),
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
        if !upkeep.begin(Orders(orders)) {
            return;
        }
        let left = upkeep.left_to_compact();
        if left <= long {
            return;
        }
        let database = upkeep.path.display();
        tracing::info!(%database, "{left} transactions are compacted before the database is opened");
        if !upkeep.now_within(LONGEST_WAIT) {
            tracing::info!(%database, "compaction goes on in the background");
        }
    }
}
