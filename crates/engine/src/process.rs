//! What one process shares between its databases: the runtime, the connections, and which databases are open.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use bottomless_store::Transport;
use tokio::runtime::{Builder, Runtime};

use crate::background::Background;
use crate::database::Database;
use crate::error::{Error, Result};

/// Threads that read, decompress and checksum at restore.
const BLOCKING_THREADS: usize = 8;

/// Where the open database of one path is found; locked while it is being opened.
pub(crate) type Slot = Arc<Mutex<Weak<Database>>>;

/// One process. After a `fork()` the child makes its own: it has none of the parent's threads, and must not wait for a
/// lock that one of them held.
pub(crate) struct Process {
    id: u32,
    runtime: Runtime,
    transport: Transport,
    slots: Mutex<HashMap<PathBuf, Slot>>,
    background: Background,
}

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

impl Process {
    /// This process; made with the first database, since loading the extension must start no thread.
    pub(crate) fn current() -> Result<Arc<Self>> {
        let id = std::process::id();
        let found = CURRENT.load_full();
        if let Some(process) = found.as_ref().filter(|process| process.id == id) {
            return Ok(Arc::clone(process));
        }
        // A runtime whose threads are in another process can't be dropped.
        std::mem::forget(found.clone());
        let made = Self::new(id).map_err(|error| Error::disk("network requests can't be made by this process", &error));
        let made = Arc::new(made?);
        let before = CURRENT.compare_and_swap(&found, Some(Arc::clone(&made)));
        match before.as_ref().filter(|process| process.id == id) {
            // Another thread was first.
            Some(process) => Ok(Arc::clone(process)),
            None => Ok(made),
        }
    }

    fn new(id: u32) -> io::Result<Self> {
        spare_descriptors()?;
        // The calling thread drives its request and the connections itself: a commit waits for no other thread to wake
        // up. Where several threads wait, one of them drives the connections of all.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("bottomless")
            .enable_all()
            .build()?;
        Ok(Self {
            id,
            runtime,
            transport: Transport::new()?,
            slots: Mutex::default(),
            background: Background::default(),
        })
    }

    /// True unless this value was inherited through a `fork()`.
    pub(crate) fn is_current(&self) -> bool {
        self.id == std::process::id()
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn background(&self) -> &Background {
        &self.background
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(async {
            // Between two requests nobody drives the connections. The first pause hears of those that the service has
            // closed meanwhile, the second lets them go, before the request takes one.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            future.await
        })
    }

    pub(crate) fn slot(&self, path: &Path) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= 64 {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !is_closed(slot));
        }
        Arc::clone(slots.entry(path.to_owned()).or_default())
    }

    /// The database at `path`, if it is open in this process. Starts nothing.
    pub(crate) fn find(path: &Path) -> Option<Arc<Database>> {
        let process = CURRENT.load_full().filter(|process| process.is_current())?;
        let slot = process.slots.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()?;
        slot.try_lock().ok()?.upgrade()
    }
}

/// Makes sure that there are descriptors for a runtime: tokio panics where it finds none for its signals.
pub(crate) fn spare_descriptors() -> io::Result<()> {
    /// More than the six that it opens.
    const PAIRS: usize = 4;
    let pairs: io::Result<Vec<_>> = (0..PAIRS).map(|_| UnixStream::pair()).collect();
    pairs.map(drop)
}

fn is_closed(slot: &Slot) -> bool {
    slot.try_lock().is_ok_and(|database| database.strong_count() == 0)
}
