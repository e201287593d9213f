//! What the bucket really holds, read without faults.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bottomless_history::{DatabaseId, History, Layout, Level, Listing, ObjectName, RestoreOptions, Settings};
use bottomless_ltx::{Checksum, DatabaseChecksums, Encoder, HEADER_LENGTH, Header, RunningChecksum, Txid, WriterId};
use bottomless_store::{Body, Bucket, Location};
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

    /// The last TXID; the log is one line without gaps up to it, from the first on or from where a snapshot ends.
    pub fn last(&self) -> u64 {
        let listing = self.listing();
        let log: Vec<u64> = listing.log().iter().map(|entry| entry.name.max.get()).collect();
        let merged = listing.entries().iter().filter(|entry| entry.name.level != Level::LOG).map(|e| e.name.max.get());
        let merged = merged.max().unwrap_or(0);
        let first = log.first().copied().unwrap_or(1);
        assert!(first <= merged + 1, "a gap before {first}");
        let line: Vec<u64> = (first..first + log.len() as u64).collect();
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

    /// All users of the database share these settings from their next listing on.
    pub fn set(&self, settings: &Settings) {
        self.put(&Settings::key(self.history.id()), settings.encode());
    }

    /// Another machine makes all transactions up to this one what a restore begins with.
    pub fn base(&self, layout: Layout, txid: u64) {
        match layout {
            Layout::Ltx => self.snapshot(txid),
            Layout::Pages => self.fold(txid),
        }
    }

    /// Another machine folds all transactions up to this one into page objects.
    pub fn fold(&self, txid: u64) {
        let (image, header) = self.header_up_to(txid);
        for (page, _) in self.pages() {
            if page > image.size() {
                block_on(self.history.bucket().delete(&page_key(page))).unwrap();
            }
        }
        for (number, content) in image.pages() {
            self.put(&page_key(number.get()), content.to_vec());
        }
        // A marker has no frames. That of an empty database is what the encoder writes.
        let mut bytes = vec![0; HEADER_LENGTH];
        let empty = Header { size_in_pages: 0, ..header.clone() };
        Encoder::new(image.page_size()).finish(&empty, &mut bytes).unwrap();
        bytes[..HEADER_LENGTH].copy_from_slice(&header.encode());
        let end = bytes.len() - 8;
        let checksum = RunningChecksum::of(&bytes[..end]).finish().get();
        bytes[end..].copy_from_slice(&checksum.to_be_bytes());
        let name = ObjectName { level: Level::PAGES, min: Txid::FIRST, max: Txid::new(txid) };
        self.put(&name.key(self.history.id()), bytes);
        for entry in self.listing().merged().iter().filter(|entry| entry.name.level == Level::PAGES) {
            if entry.name != name {
                block_on(self.history.bucket().delete(&entry.name.key(self.history.id()))).unwrap();
            }
        }
    }

    /// The page objects.
    pub fn pages(&self) -> Vec<(u32, Vec<u8>)> {
        let prefix = format!("{ID}-");
        let objects = block_on(self.history.bucket().list("", None)).unwrap();
        let number = |key: &str| key.strip_prefix(&prefix).filter(|digits| digits.len() == 12)?.parse().ok();
        let mut pages: Vec<(u32, Vec<u8>)> = objects
            .iter()
            .filter_map(|object| {
                let number = number(&object.key)?;
                let content = block_on(self.history.bucket().get_range(&object.key, 0..object.size)).unwrap();
                Some((number, content.to_vec()))
            })
            .collect();
        pages.sort();
        pages
    }

    /// The page objects one behind the other, if none is missing.
    pub fn concatenated(&self) -> Image {
        let pages = self.pages();
        let numbers: Vec<u32> = pages.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..).take(pages.len()).collect::<Vec<u32>>());
        Image(pages.into_iter().flat_map(|(_, content)| content).collect())
    }

    /// The transactions of the markers: one, but while a fold goes on.
    pub fn markers(&self) -> Vec<u64> {
        let listing = self.listing();
        let markers = listing.merged().iter().filter(|entry| entry.name.level == Level::PAGES);
        markers.map(|entry| entry.name.max.get()).collect()
    }

    /// The header of an object that holds all transactions up to this one, and the database then.
    fn header_up_to(&self, txid: u64) -> (Image, Header) {
        let image = self.at(txid);
        let before = Checksum::EMPTY;
        // A merged object bears the writer of its last transaction.
        let writer = block_on(self.history.header(ObjectName::log(Txid::new(txid)))).unwrap().writer;
        let header = Header::new(
            image.page_size(),
            image.size(),
            (Txid::FIRST, Txid::new(txid)),
            0,
            writer,
            DatabaseChecksums { before, after: image.checksum() },
        );
        (image, header)
    }

    /// Another machine merges all transactions up to this one into a snapshot.
    pub fn snapshot(&self, txid: u64) {
        let (image, header) = self.header_up_to(txid);
        let mut encoder = Encoder::new(image.page_size());
        let mut bytes = vec![0; HEADER_LENGTH];
        for (number, page) in image.pages() {
            encoder.encode_page(number, page, &mut bytes).unwrap();
        }
        let finished = encoder.finish(&header, &mut bytes).unwrap();
        bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: Txid::new(txid) };
        self.put(&name.key(self.history.id()), bytes);
    }

    /// Another machine commits transactions `from` to `to`, each of which overwrites the last page.
    pub fn go_on(&self, from: u64, to: u64) {
        let mut image = self.at(from - 1);
        let length = image.0.len();
        for txid in from..=to {
            let before = image.checksum();
            image.0[length - 8..].copy_from_slice(&txid.to_be_bytes());
            let database = DatabaseChecksums { before, after: image.checksum() };
            let txids = (Txid::new(txid), Txid::new(txid));
            let header = Header::new(image.page_size(), image.size(), txids, 0, WriterId(7), database);
            let mut bytes = vec![0; HEADER_LENGTH];
            let mut encoder = Encoder::new(image.page_size());
            let (number, page) = image.pages().last().unwrap();
            encoder.encode_page(number, page, &mut bytes).unwrap();
            let finished = encoder.finish(&header, &mut bytes).unwrap();
            bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
            self.put(&ObjectName::log(Txid::new(txid)).key(self.history.id()), bytes);
        }
    }

    /// And deletes the log up to this one.
    pub fn delete_log(&self, up_to: u64) {
        for entry in self.listing().log().iter().filter(|entry| entry.name.max.get() <= up_to) {
            block_on(self.history.bucket().delete(&entry.name.key(self.history.id()))).unwrap();
        }
    }

    /// True if the log holds this transaction.
    pub fn has_log(&self, txid: u64) -> bool {
        self.listing().log().iter().any(|entry| entry.name.max.get() == txid)
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let body = Body::Memory(bytes.into());
        let put = self.history.bucket().overwrite(key, &body, SystemTime::now(), Duration::from_secs(60));
        block_on(put).unwrap();
    }
}

fn page_key(page: u32) -> String {
    format!("{ID}-{page:012}")
}

fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
