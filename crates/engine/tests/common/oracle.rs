//! What the bucket really holds, read without faults.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use bottomless_history::{DatabaseId, History, Listing, RestoreOptions};
use bottomless_ltx::Txid;
use bottomless_store::{Bucket, Location};
use object_store::memory::InMemory;
use tokio::runtime::Runtime;

use super::image::Image;

pub const ID: &str = "test.db";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

pub fn location() -> Location {
    Location::new("http://localhost:1".parse().unwrap(), "bucket").unwrap()
}

/// A view of the bucket, past all faults.
pub struct Oracle {
    history: History,
}

impl Oracle {
    pub fn new(store: &Arc<InMemory>) -> Self {
        let bucket = Bucket::from_object_store(Arc::clone(store) as _, location());
        Self { history: History::new(bucket, DatabaseId::new(ID).unwrap()) }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn listing(&self) -> Listing {
        block_on(self.history.list(None)).unwrap()
    }

    /// The last TXID; the log is one line without gaps up to it.
    pub fn last(&self) -> u64 {
        let listing = self.listing();
        let log: Vec<u64> = listing.log().iter().map(|entry| entry.name.max.get()).collect();
        let line: Vec<u64> = (1..=log.len() as u64).collect();
        assert_eq!(log, line, "the log is one line without gaps");
        listing.last_txid().get()
    }

    /// The database as it was after a transaction; empty before the first.
    pub fn at(&self, txid: u64) -> Image {
        if txid == 0 {
            return Image::default();
        }
        block_on(async {
            let listing = self.history.list(None).await.unwrap();
            let plan = listing.plan(Txid::ZERO, Some(Txid::new(txid))).unwrap();
            let file = Arc::new(tempfile::tempfile().unwrap());
            let restored = self.history.restore(&plan, Arc::clone(&file), &RestoreOptions::default()).await;
            restored.unwrap_or_else(|error| panic!("TXID {txid} can't be restored: {error}"));
            Image(read_all(&file))
        })
    }

    pub fn newest(&self) -> Image {
        self.at(self.last())
    }
}

fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
