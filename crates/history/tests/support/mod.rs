//! A database in memory, its history as objects in a store in memory, and the file that a restore makes.
#![allow(dead_code, unreachable_pub)]

pub mod aged;
pub mod between;
pub mod laid;
pub mod recorder;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bottomless_history::{Base, DatabaseId, History, HistoryError, Listing, ObjectName, RestoreOptions, Restored};
use bottomless_ltx::{
    Checksum, DatabaseChecksums, Encoder, HEADER_LENGTH, Header, PageNumber, PageSize, Position, Txid, WriterId,
};
use bottomless_store::{Body, Bucket, CreateOutcome, Location};
use object_store::memory::InMemory;

/// When transactions are made, in milliseconds, unless a test says otherwise.
pub const TIME: i64 = 1_700_000_000_000;

/// The pages of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub page_size: PageSize,
    pub pages: Vec<Vec<u8>>,
}

pub fn page_number(index: usize) -> PageNumber {
    PageNumber::new(u32::try_from(index + 1).unwrap()).unwrap()
}

impl Database {
    pub fn empty(page_size: u32) -> Self {
        Self { page_size: PageSize::new(page_size).unwrap(), pages: Vec::new() }
    }

    pub fn page_checksums(&self) -> Vec<Option<Checksum>> {
        self.pages.iter().enumerate().map(|(i, page)| Some(Checksum::of_page(page_number(i), page))).collect()
    }

    pub fn checksum(&self) -> Checksum {
        self.page_checksums().into_iter().flatten().fold(Checksum::EMPTY, Checksum::toggle_page)
    }

    pub fn base(&self, txid: u64) -> Base {
        Base {
            position: Position { txid: Txid::new(txid), checksum: self.checksum() },
            page_size: self.page_size,
            page_checksums: self.page_checksums(),
        }
    }
}

/// What one transaction does.
#[derive(Clone, Debug)]
pub enum Change {
    /// Overwrites pages (by place, modulo the size) and appends some.
    Write { places: Vec<usize>, append: usize, seed: u8 },
    /// Cuts the file to so many pages (modulo the size), and changes page 1.
    Shrink { to: usize, seed: u8 },
    /// Another page size, or a VACUUM: every page is new.
    Rewrite { page_size: u32, pages: usize, seed: u8 },
}

/// Every state of a database, and the pages that each transaction wrote.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// By TXID; the first is the empty database.
    pub states: Vec<Database>,
    /// When each transaction was made, by TXID, in milliseconds.
    pub times: Vec<i64>,
    written: Vec<Vec<usize>>,
}

fn content(page_size: PageSize, seed: u8, place: usize) -> Vec<u8> {
    // Half of it compresses.
    let noise = (0..page_size.bytes() / 2).map(|i| ((i * (place + 3) * usize::from(seed | 1)) >> 3) as u8);
    noise.chain(std::iter::repeat_n(seed, page_size.bytes() - page_size.bytes() / 2)).collect()
}

impl Timeline {
    pub fn new(page_size: u32, changes: &[Change]) -> Self {
        let mut timeline =
            Self { states: vec![Database::empty(page_size)], times: vec![TIME], written: vec![Vec::new()] };
        for change in changes {
            let mut database = timeline.states.last().unwrap().clone();
            let size = database.pages.len();
            let mut written = Vec::new();
            match change {
                Change::Write { places, append, seed } => {
                    written.extend(places.iter().filter(|_| size > 0).map(|place| place % size));
                    // The first transaction makes page 1 at least.
                    written.extend(size..size + append + usize::from(size == 0));
                    written.push(0);
                    written.sort_unstable();
                    written.dedup();
                    for &place in &written {
                        let page = content(database.page_size, seed.wrapping_add(place as u8), place);
                        match database.pages.get_mut(place) {
                            Some(old) => *old = page,
                            None => database.pages.push(page),
                        }
                    }
                }
                Change::Shrink { to, seed } => {
                    database.pages.truncate(1 + to % size.max(1));
                    written.push(0);
                    database.pages.resize(database.pages.len().max(1), Vec::new());
                    database.pages[0] = content(database.page_size, *seed, 0);
                }
                Change::Rewrite { page_size, pages, seed } => {
                    database.page_size = PageSize::new(*page_size).unwrap();
                    written.extend(0..1 + pages);
                    database.pages = written.iter().map(|&i| content(database.page_size, *seed, i)).collect();
                }
            }
            timeline.states.push(database);
            timeline.times.push(TIME);
            timeline.written.push(written);
        }
        timeline
    }

    pub fn last(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn state(&self, txid: u64) -> &Database {
        &self.states[usize::try_from(txid).unwrap()]
    }

    /// The pages that a transaction wrote, by their places.
    pub fn written(&self, txid: u64) -> &[usize] {
        &self.written[usize::try_from(txid).unwrap()]
    }

    /// The object that holds the transactions `min` to `max`.
    pub fn object(&self, min: u64, max: u64) -> Vec<u8> {
        let checksums = DatabaseChecksums { before: self.state(min - 1).checksum(), after: self.state(max).checksum() };
        self.object_with(min, max, Some(checksums))
    }

    /// The same, with these checksums or none.
    pub fn object_with(&self, min: u64, max: u64, checksums: Option<DatabaseChecksums>) -> Vec<u8> {
        let last = self.state(max);
        let mut pages: BTreeMap<usize, &[u8]> = BTreeMap::new();
        for txid in min..=max {
            let state = self.state(txid);
            if state.page_size != last.page_size {
                pages.clear();
                continue;
            }
            for &place in &self.written[usize::try_from(txid).unwrap()] {
                pages.insert(place, state.pages[place].as_slice());
            }
            pages.split_off(&state.pages.len());
        }
        let time = self.times[usize::try_from(max).unwrap()];
        encode_at(time, last.page_size, last.pages.len(), (min, max), checksums, pages)
    }

    /// As [`Self::object`], without our checksums.
    pub fn foreign_object(&self, max: u64) -> Vec<u8> {
        let last = self.state(max);
        let pages = last.pages.iter().map(Vec::as_slice).enumerate().collect();
        encode(last.page_size, last.pages.len(), (1, max), None, pages)
    }
}

/// What was logged as a warning.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl std::io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `test` on one thread, and collects what it warns of.
pub fn run<F: Future>(test: impl FnOnce(Warnings) -> F) -> F::Output {
    let warnings = Warnings::default();
    let writer = warnings.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test(warnings))
}

pub fn encode(
    page_size: PageSize,
    size_in_pages: usize,
    txids: (u64, u64),
    database: Option<DatabaseChecksums>,
    pages: BTreeMap<usize, &[u8]>,
) -> Vec<u8> {
    encode_at(TIME, page_size, size_in_pages, txids, database, pages)
}

pub fn encode_at(
    time: i64,
    page_size: PageSize,
    size_in_pages: usize,
    (min, max): (u64, u64),
    database: Option<DatabaseChecksums>,
    pages: BTreeMap<usize, &[u8]>,
) -> Vec<u8> {
    let mut header = Header::new(
        page_size,
        u32::try_from(size_in_pages).unwrap(),
        (Txid::new(min), Txid::new(max)),
        time,
        WriterId(7),
        DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::EMPTY },
    );
    header.database = database;
    let mut bytes = vec![0; HEADER_LENGTH];
    let mut encoder = Encoder::new(page_size);
    for (place, content) in pages {
        encoder.encode_page(page_number(place), content, &mut bytes).unwrap();
    }
    let finished = encoder.finish(&header, &mut bytes).unwrap();
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    bytes
}

/// A history in a store in memory.
pub fn history(id: &str) -> History {
    let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
    let bucket = Bucket::from_object_store(Arc::new(InMemory::new()), location);
    History::new(bucket, DatabaseId::new(id).unwrap())
}

pub async fn put(history: &History, key: &str, bytes: Vec<u8>) {
    let body = Body::Memory(bytes.into());
    let outcome = history.bucket().overwrite(key, &body, SystemTime::UNIX_EPOCH, Duration::from_secs(5)).await;
    assert!(matches!(outcome.unwrap(), CreateOutcome::Created { .. }));
}

pub fn name(level: u8, min: u64, max: u64) -> ObjectName {
    let level = bottomless_history::Level::new(level).unwrap();
    ObjectName { level, min: Txid::new(min), max: Txid::new(max) }
}

pub async fn put_object(history: &History, timeline: &Timeline, level: u8, min: u64, max: u64) {
    put(history, &name(level, min, max).key(history.id()), timeline.object(min, max)).await;
}

pub async fn put_log(history: &History, timeline: &Timeline) {
    for txid in 1..=timeline.last() {
        put_object(history, timeline, 0, txid, txid).await;
    }
}

/// Restores `up_to` into a temporary file, on top of `base`.
pub async fn restore(
    history: &History,
    up_to: Option<u64>,
    base: Option<(u64, &Database)>,
    options: RestoreOptions,
) -> Result<(Restored, Vec<u8>), HistoryError> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    if let Some((_, database)) = base {
        file.write_all_at(&database.pages.concat(), 0).unwrap();
    } else {
        // Whatever was there must be gone.
        file.write_all_at(&[0xee; 5000], 0).unwrap();
    }
    let from = base.map_or(Txid::ZERO, |(txid, _)| Txid::new(txid));
    let plan = history.list(None).await?.plan(from, up_to.map(Txid::new))?;
    let options = RestoreOptions { base: base.map(|(txid, database)| database.base(txid)), ..options };
    let restored = history.restore(&plan, Arc::clone(&file), &options).await?;
    Ok((restored, read(&file)))
}

/// As [`restore`], around damage; `listing` is what was listed before.
pub async fn restore_around(
    history: &History,
    listing: Listing,
    up_to: Option<u64>,
    base: Option<(u64, &Database)>,
    options: RestoreOptions,
) -> Result<(Restored, Vec<u8>), HistoryError> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let from = base.map_or(Txid::ZERO, |(txid, _)| Txid::new(txid));
    let prepare = || {
        if let Some((_, database)) = base {
            file.set_len(0).unwrap();
            file.write_all_at(&database.pages.concat(), 0).unwrap();
        }
        Ok::<_, HistoryError>(base.map(|(txid, database)| database.base(txid)))
    };
    let way = (from, up_to.map(Txid::new));
    let restored = history.restore_around(listing, way, &file, &options, prepare).await?;
    Ok((restored, read(&file)))
}

pub fn read(file: &File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

/// That `restored` is `database` at `txid`.
pub fn assert_is(restored: &(Restored, Vec<u8>), database: &Database, txid: u64) {
    let (restored, content) = restored;
    assert!(*content == database.pages.concat(), "TXID {txid}: another content");
    assert_eq!(restored.position, Position { txid: Txid::new(txid), checksum: database.checksum() });
    assert_eq!(restored.page_size, database.page_size);
    assert_eq!(restored.size_in_pages as usize, database.pages.len());
    assert_eq!(restored.page_checksums, database.page_checksums());
}
