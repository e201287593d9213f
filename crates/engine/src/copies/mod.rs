//! Local copies of objects that this machine made, so that compaction need not download them.
//!
//! Two files beside the database: `test.db-bottomless-log` takes each transaction's object after its PUT was confirmed, by
//! whoever holds SQLite's write lock; `test.db-bottomless-runs` what compaction makes of them, by whoever holds the lock of
//! compaction. They are caches: nothing is synced, and a copy counts only if it is the object that the bucket lists, by
//! name, ETag and size, and its bytes have the checksum that they were written with. What is torn, damaged or missing
//! costs a download.
//!
//! | offset | bytes | of the file |
//! | --- | --- | --- |
//! | 0 | 8 | `BtlCopy1` |
//! | 8 | 8 | whose: the hash of endpoint, bucket and database id |
//! | 16 | 8 | the generation: a random number for each time that the file begins anew |
//! | 24 | 8 | the checksum of these |
//! | 32 | 8 | where the copies begin that compaction still needs |
//! | 40 | 8 | the checksum of the generation and that |
//! | 64 | | the copies, each with a header of 56 bytes, its ETag, and the object |

mod file;
mod index;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bottomless_history::{Copies, Entry, Level, ObjectName};
use bottomless_ltx::Txid;
use bottomless_store::Body;
use bytes::Bytes;

use file::CopyFile;
use index::Index;

const MEBIBYTE: u64 = 1 << 20;
/// Ten commits a second of 200 KiB each, for half a minute.
const LOG_LIMIT: u64 = 64 * MEBIBYTE;
const RUNS_LIMIT: u64 = 128 * MEBIBYTE;

/// After a failure nothing is copied for this long: a full disk stays full for a while.
const PAUSE: Duration = Duration::from_secs(60);

/// The copies of the log, as the commits of this process add to them.
#[derive(Debug)]
pub(crate) struct LogCopies {
    file: CopyFile,
    /// Nothing is copied before.
    paused_until: Mutex<Option<Instant>>,
}

impl LogCopies {
    pub(crate) fn new(database: &Path, identity: u64) -> Self {
        Self { file: CopyFile::new(database, "-bottomless-log", identity, LOG_LIMIT), paused_until: Mutex::default() }
    }

    /// Keeps a copy of the object of a transaction. Call it under SQLite's write lock.
    ///
    /// A failure costs a download later, and must not fail the commit.
    pub(crate) fn keep(&self, txid: Txid, e_tag: Option<&str>, body: &Body) {
        let mut paused_until = lock(&self.paused_until);
        if paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        // Without an ETag nothing would tell that it is what the bucket has.
        let Some(e_tag) = e_tag else { return };
        *paused_until = match self.file.append(ObjectName::log(txid), e_tag, body) {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!("{}: {error}; compaction downloads what it has no copy of", self.file.path().display());
                Instant::now().checked_add(PAUSE)
            }
        };
    }
}

/// All copies of one database, for one pass of compaction.
#[derive(Debug)]
pub(crate) struct LocalCopies {
    log: Kept,
    runs: Kept,
}

#[derive(Debug)]
struct Kept {
    file: CopyFile,
    /// What is in it; none where it was not read since it was written.
    index: Mutex<Option<Index>>,
}

impl LocalCopies {
    pub(crate) fn new(database: &Path, identity: u64) -> Self {
        let kept =
            |suffix, limit| Kept { file: CopyFile::new(database, suffix, identity, limit), index: Mutex::default() };
        Self { log: kept("-bottomless-log", LOG_LIMIT), runs: kept("-bottomless-runs", RUNS_LIMIT) }
    }

    /// The room of copies that no later pass needs may be used again: `compacted` says up to which transaction the objects
    /// of a level are merged into those of a higher one.
    pub(crate) fn release(&self, compacted: impl Fn(Level) -> Txid) {
        for kept in [&self.log, &self.runs] {
            let before = lock(&kept.index).take();
            if let Err(error) = kept.file.release(before.as_ref(), |name| name.max > compacted(name.level)) {
                tracing::debug!("{}: {error}", kept.file.path().display());
            }
        }
    }
}

impl Copies for LocalCopies {
    fn find(&self, entry: &Entry) -> Option<Bytes> {
        let kept = if entry.name.level == Level::LOG { &self.log } else { &self.runs };
        let e_tag = entry.e_tag.as_deref()?;
        let mut index = lock(&kept.index);
        // A file that can't be read is an empty one.
        let index = index.get_or_insert_with(|| kept.file.index().unwrap_or_default());
        index.read(entry.name, e_tag, entry.size)
    }

    fn keep(&self, entry: &Entry, body: &Body) {
        // The pages of a snapshot are in the local file too.
        if entry.name.level == Level::SNAPSHOT {
            return;
        }
        let Some(e_tag) = &entry.e_tag else { return };
        let mut index = lock(&self.runs.index);
        *index = None;
        if let Err(error) = self.runs.file.append(entry.name, e_tag, body) {
            tracing::debug!("{}: {error}; it is downloaded when it is merged", self.runs.file.path().display());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;

    const IDENTITY: u64 = 7;

    fn object(txid: u64, size: usize) -> (Entry, Body) {
        let bytes: Vec<u8> = (0..size).map(|i| ((i as u64 * 31 + txid) % 251).try_into().unwrap()).collect();
        let name = ObjectName::log(Txid::new(txid));
        let e_tag = Some(format!("tag-{txid}"));
        (Entry { name, size: size as u64, modified: SystemTime::UNIX_EPOCH, e_tag }, Body::Memory(bytes.into()))
    }

    fn keep(database: &Path, (entry, body): &(Entry, Body)) {
        LogCopies::new(database, IDENTITY).keep(entry.name.max, entry.e_tag.as_deref(), body);
    }

    fn find(database: &Path, entry: &Entry) -> Option<Vec<u8>> {
        LocalCopies::new(database, IDENTITY).find(entry).map(|bytes| bytes.to_vec())
    }

    fn bytes_of(body: &Body) -> Vec<u8> {
        let Body::Memory(bytes) = body else { unreachable!() };
        bytes.to_vec()
    }

    fn size(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("test.db");
        let log = folder.path().join("test.db-bottomless-log");
        (folder, database, log)
    }

    #[test]
    fn a_copy_is_found_if_it_is_what_the_bucket_lists() {
        let (_folder, database, _) = place();
        let objects = [object(1, 100), object(2, 0), object(3, 300_000), object(4, 5000)];
        for object in &objects {
            keep(&database, object);
        }
        for (entry, body) in &objects {
            assert_eq!(find(&database, entry), Some(bytes_of(body)), "{}", entry.name);
            for other in [
                Entry { e_tag: Some("other".into()), ..entry.clone() },
                Entry { e_tag: None, ..entry.clone() },
                Entry { size: entry.size + 1, ..entry.clone() },
                Entry { name: ObjectName::log(Txid::new(9)), ..entry.clone() },
            ] {
                assert_eq!(find(&database, &other), None, "{}", entry.name);
            }
            let of_another = LocalCopies::new(&database, IDENTITY + 1);
            assert_eq!(of_another.find(entry), None, "another database's");
        }
        // A store without ETags, and a file: the one is not kept, the other is.
        LogCopies::new(&database, IDENTITY).keep(Txid::new(5), None, &objects[0].1);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![9; 700_000]).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let (entry, _) = object(6, 700_000);
        keep(&database, &(entry.clone(), Body::File { file: Arc::new(file), length: 700_000 }));
        assert_eq!(find(&database, &entry), Some(vec![9; 700_000]));
    }

    #[test]
    fn damage_anywhere_costs_copies_and_gives_no_wrong_one() {
        let (_folder, database, log) = place();
        let objects: Vec<_> = (1..6).map(|txid| object(txid, 20)).collect();
        objects.iter().for_each(|object| keep(&database, object));
        let good = std::fs::read(&log).unwrap();
        let mut lost = 0;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&log, &bad).unwrap();
            for (entry, body) in &objects {
                match find(&database, entry) {
                    Some(found) => assert_eq!(found, bytes_of(body), "byte {at}"),
                    None => lost += 1,
                }
            }
            std::fs::write(&log, &good[..at]).unwrap();
            for (entry, body) in &objects {
                assert!(find(&database, entry).is_none_or(|found| found == bytes_of(body)), "cut off at {at}");
            }
        }
        assert!(lost > good.len() - 64, "each bit counts");
        // And it is written on.
        std::fs::write(&log, b"nonsense").unwrap();
        keep(&database, &objects[0]);
        assert_eq!(find(&database, &objects[0].0), Some(bytes_of(&objects[0].1)));
    }

    #[test]
    fn room_of_what_is_compacted_is_used_again() {
        let (_folder, database, log) = place();
        let mut largest = 0;
        for round in 0..40 {
            let first = round * 50 + 1;
            for txid in first..first + 50 {
                keep(&database, &object(txid, 10_000));
            }
            largest = largest.max(size(&log));
            let copies = LocalCopies::new(&database, IDENTITY);
            // Some come in while compaction is at work.
            let last = first + 45;
            copies.release(|_| Txid::new(last));
            for txid in last + 1..first + 50 {
                let (entry, body) = object(txid, 10_000);
                assert_eq!(find(&database, &entry), Some(bytes_of(&body)), "{txid} is still needed");
            }
        }
        assert!((500_000..1_500_000).contains(&largest), "{largest}");
    }

    #[test]
    fn what_stands_behind_damage_is_given_up_for_good() {
        let (_folder, database, log) = place();
        for txid in 1..100 {
            keep(&database, &object(txid, 10_000));
        }
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[70_000..90_000].fill(0);
        std::fs::write(&log, &bytes).unwrap();
        let copies = LocalCopies::new(&database, IDENTITY);
        let (first, body) = object(1, 10_000);
        assert_eq!(copies.find(&first).map(|b| b.to_vec()), Some(bytes_of(&body)));
        copies.release(|_| Txid::ZERO);
        keep(&database, &object(100, 10_000));
        assert!(find(&database, &object(100, 10_000).0).is_some());
        assert!(size(&log) < 20_000);
    }

    #[test]
    fn a_full_file_begins_anew() {
        let (_folder, database, log) = place();
        let file = CopyFile::new(&database, "-bottomless-log", IDENTITY, 100_000);
        for txid in 1..50 {
            let (entry, body) = object(txid, 9000);
            file.append(entry.name, "tag", &body).unwrap();
            assert!(size(&log) <= 100_000);
            assert!(file.index().unwrap().read(entry.name, "tag", 9000).is_some());
        }
        let (entry, body) = object(50, 30_000);
        let before = size(&log);
        file.append(entry.name, "tag", &body).unwrap();
        assert_eq!(size(&log), before, "too large to be kept");
    }

    #[test]
    fn a_folder_that_takes_no_file_is_left_alone_for_a_while() {
        let database = Path::new("/nonexistent/test.db");
        let copies = LogCopies::new(database, IDENTITY);
        let (entry, body) = object(1, 10);
        copies.keep(entry.name.max, Some("tag"), &body);
        assert!(copies.paused_until.lock().unwrap().is_some());
        assert_eq!(find(database, &entry), None);
    }
}
