//! One program with one database: it plays SQLite's rollback mode, and checks after every step what must hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bottomless_engine::config::{Config, Fencing, InitialReplication};
use bottomless_engine::{Change, Database, Error, ErrorKind, Outcome, WalEnd};
use bottomless_history::{DatabaseId, Policy};
use bottomless_store::Bucket;
use tempfile::TempDir;

use super::host::{FakeHost, FileSource, journal};
use super::image::{Edit, Image};
use super::oracle::{ID, Oracle, location};
use super::random::Random;
use super::store::FaultStore;

/// What becomes of a transaction in SQLite once it is in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SQLite commits.
    Commit,
    /// SQLite fails and plays its journal back.
    Fail,
    /// The program dies; SQLite's commit was done, or was not.
    Crash { committed: bool },
    /// SQLite commits, and the process dies before it says so; another has the database open.
    Unconfirmed,
}

/// What the program was told.
#[derive(Debug)]
#[must_use]
pub enum Told {
    Committed,
    Unchanged,
    Failed(Error),
    /// Nothing: it died.
    Crashed,
}

pub struct Session {
    pub folder: TempDir,
    pub path: PathBuf,
    pub config: Config,
    pub store: Arc<FaultStore>,
    pub oracle: Oracle,
    pub random: Random,
    pub database: Option<Arc<Database>>,
    /// The local file as the program knows it.
    pub local: Image,
    /// After a crash it may also be this.
    pub or_else: Option<Image>,
    /// What was acknowledged, by TXID.
    pub acknowledged: BTreeMap<u64, Image>,
    /// SQLite's playback is told as the shim tells it where it saw the commit fail, not found out.
    pub sees_playback: bool,
    /// The last commit returned OK and was confirmed: local file and bucket are the same.
    pub settled: bool,
    /// Another program has the local file open.
    pub is_in_use: bool,
}

pub fn config(timeout: Duration) -> Config {
    Config {
        location: location(),
        database_id: DatabaseId::new(ID).unwrap(),
        initial_replication: InitialReplication::Error,
        fencing: Fencing::On,
        timeout,
        layout: None,
        compaction: false,
        policy: Policy::default(),
    }
}

/// Long enough that no load of the machine makes a commit fail.
pub const PATIENT: Duration = Duration::from_secs(20);
/// For faults that last until the deadline.
pub const HASTY: Duration = Duration::from_millis(300);

/// In memory where there is such a place: thousands of sessions need no durable disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Session {
    /// A program that has not opened its database yet.
    pub fn new(store: &Arc<FaultStore>, timeout: Duration, seed: u64) -> Self {
        let folder = folder();
        Self {
            path: folder.path().join(ID),
            folder,
            config: config(timeout),
            store: Arc::clone(store),
            oracle: Oracle::new(&store.inner),
            random: Random::new(seed),
            database: None,
            local: Image::default(),
            or_else: None,
            acknowledged: BTreeMap::new(),
            sees_playback: false,
            settled: false,
            is_in_use: false,
        }
    }

    pub fn open(&mut self) -> Result<(), Error> {
        assert!(self.database.is_none(), "already open");
        let bucket = Bucket::from_object_store(Arc::clone(&self.store) as _, location());
        let host = FakeHost { path: self.path.clone(), is_in_use: self.is_in_use };
        let opened = Database::open_in_bucket(&self.path, self.config.clone(), &host, bucket);
        let is_hot = journal(&self.path).exists();
        let file = self.file();
        if opened.is_err() && is_hot {
            // Not recovered yet; the next open does it.
            return opened.map(drop);
        }
        if let Some(other) = self.or_else.take_if(|other| *other == file) {
            self.local = other;
        }
        assert_eq!(file, self.local, "opening must not change what the program knows");
        self.database = Some(opened?);
        self.or_else = None;
        self.note();
        self.check();
        Ok(())
    }

    /// Opens where the bucket may hold more than the local file: the program learns what it is.
    pub fn open_anew(&mut self) -> Result<(), Error> {
        let bucket = Bucket::from_object_store(Arc::clone(&self.store) as _, location());
        let host = FakeHost { path: self.path.clone(), is_in_use: self.is_in_use };
        let opened = Database::open_in_bucket(&self.path, self.config.clone(), &host, bucket)?;
        self.database = Some(opened);
        self.local = self.file();
        self.or_else = None;
        self.note();
        self.check();
        Ok(())
    }

    /// At the bucket's end, with nothing open, the local file must be what the bucket ends with.
    fn note(&mut self) {
        let txid = self.txid();
        self.settled = txid > 0 && !self.unsettled() && self.oracle.last() == txid;
        if self.config.initial_replication == InitialReplication::Skip {
            // The local file may be what the first commit will publish.
            self.settled = self.settled && self.oracle.newest() == self.local;
        }
        if self.settled {
            self.acknowledged.insert(txid, self.local.clone());
        }
    }

    pub fn close(&mut self) {
        let database = self.database.take().expect("open");
        assert_eq!(Arc::strong_count(&database), 1);
    }

    /// The program dies: nothing that a close does is done.
    pub fn crash(&mut self) {
        let state = self.state_path();
        let before = fs::read(&state).unwrap();
        self.close();
        // In the same file: it is known by its inode.
        let file = File::options().write(true).open(&state).unwrap();
        file.set_len(before.len() as u64).unwrap();
        file.write_all_at(&before, 0).unwrap();
    }

    pub fn db(&self) -> &Database {
        self.database.as_ref().expect("open")
    }

    pub fn state_path(&self) -> PathBuf {
        self.folder.path().join(format!("{ID}-bottomless"))
    }

    /// The local file as it is.
    pub fn file(&self) -> Image {
        Image(fs::read(&self.path).unwrap_or_default())
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.db().status().unwrap()).unwrap()
    }

    pub fn txid(&self) -> u64 {
        self.status()["txid"].as_u64().unwrap()
    }

    pub fn unsettled(&self) -> bool {
        self.status()["unsettled"].as_bool().unwrap()
    }

    /// One transaction, with SQLite in its rollback mode.
    pub fn transaction(&mut self, edit: Edit, end: End) -> Told {
        let mut random = self.random.clone();
        let next = self.local.edited(&mut random, edit);
        self.random = random;
        self.write(next, end)
    }

    /// As [`Session::transaction`], where another machine is at work between the request and the reply.
    pub fn transaction_unchecked(&mut self, edit: Edit, end: End) -> Told {
        let next = self.local.edited(&mut self.random, edit);
        let old = self.local.clone();
        self.write_unchecked(&old, next, end)
    }

    /// One transaction that makes `next` of the database.
    pub fn write(&mut self, next: Image, end: End) -> Told {
        let old = self.local.clone();
        let told = self.write_unchecked(&old, next, end);
        self.check();
        told
    }

    fn write_unchecked(&mut self, old: &Image, next: Image, end: End) -> Told {
        let database = Arc::clone(self.database.as_ref().expect("open"));
        let page_one = database.page_size().and_then(|size| old.0.get(..size.bytes()));
        let begun = match database.begin_writing(page_one, true) {
            Ok(begun) => begun,
            Err(error) => return Told::Failed(error),
        };
        let mut written = old.written(&next, &mut self.random);
        if begun.unsettled {
            written.insert_range(1..=next.size());
        }
        fs::write(journal(&self.path), &old.0).unwrap();
        let file = File::options().write(true).create(true).truncate(false).open(&self.path).unwrap();
        file.write_all_at(&next.0, 0).unwrap();
        let page_size = next.page_size();
        let mut source = FileSource::new(&self.path, page_size);
        let change =
            &mut Change { page_size, size_in_pages: next.size(), written: written.clone(), source: &mut source };
        let landed = match database.commit(change) {
            Ok(Outcome::Landed(landed)) => landed,
            Ok(Outcome::Unchanged) => {
                assert_eq!(next, *old, "a change must not be taken for none");
                fs::remove_file(journal(&self.path)).unwrap();
                database.end_change(begun.untouched);
                return Told::Unchanged;
            }
            Err(error) => {
                self.settled = false;
                self.play_back(&database, begun.unsettled, old, &next);
                database.end_change(begun.untouched);
                return Told::Failed(error);
            }
        };
        self.settled = false;
        let commit = || {
            file.set_len(next.0.len() as u64).unwrap();
            fs::remove_file(journal(&self.path)).unwrap();
        };
        match end {
            End::Commit => {
                commit();
                database.confirm(landed, begun.untouched, Some(WalEnd::EMPTY));
                self.local = next;
                self.settled = true;
                let txid = self.txid();
                assert!(self.acknowledged.last_key_value().is_none_or(|(last, _)| *last < txid), "TXIDs only grow");
                self.acknowledged.insert(txid, self.local.clone());
                Told::Committed
            }
            End::Fail => {
                database.abandon(landed);
                self.play_back(&database, begun.unsettled, old, &next);
                database.end_change(begun.untouched);
                Told::Failed(Error::new(ErrorKind::Disk, "SQLite failed"))
            }
            End::Unconfirmed => {
                commit();
                self.local = next;
                Told::Crashed
            }
            End::Crash { committed } => {
                if committed {
                    commit();
                    self.local = next;
                } else {
                    // Nobody was told: either is right.
                    self.or_else = Some(next);
                }
                drop((landed, database));
                self.crash();
                Told::Crashed
            }
        }
    }

    /// SQLite puts the old pages back and asks, as for a commit, whether it may end the journal.
    fn play_back(&self, database: &Database, unsettled: bool, old: &Image, next: &Image) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&old.0, 0).unwrap();
        file.set_len(old.0.len() as u64).unwrap();
        // The playback of the first transaction leaves an empty file, and the shim asks nothing.
        if self.sees_playback {
            database.put_back(unsettled).unwrap();
        } else if !old.0.is_empty() {
            let page_size = old.page_size();
            let mut written = next.written(old, &mut self.random.clone());
            written.extend(1..=old.size().min(2));
            let mut source = FileSource::new(&self.path, page_size);
            let change = &mut Change { page_size, size_in_pages: old.size(), written, source: &mut source };
            let before = self.store.next_request();
            match database.commit(change) {
                Ok(Outcome::Unchanged) => {}
                other => panic!("the playback of a journal is no transaction: {other:?}"),
            }
            assert_eq!(self.store.next_request(), before, "the playback of a journal needs no network");
        }
        fs::remove_file(journal(&self.path)).unwrap();
    }

    /// A program without the extension makes `next` of the database.
    pub fn foreign(&self, next: &Image) {
        let file = File::options().write(true).create(true).truncate(false).open(&self.path).unwrap();
        file.write_all_at(&next.0, 0).unwrap();
        file.set_len(next.0.len() as u64).unwrap();
        // Later than all before, whatever the granularity of the file system's clock.
        file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    }

    /// What holds after every step.
    pub fn check(&self) {
        let last = self.oracle.last();
        let acknowledged = self.acknowledged.last_key_value().map_or(0, |(txid, _)| *txid);
        assert!(last >= acknowledged, "the history ends at {last}, but {acknowledged} was acknowledged");
        if self.database.is_none() {
            return;
        }
        assert_eq!(self.file(), self.local, "the local file is what the program was told");
        if self.settled {
            assert_eq!(self.oracle.newest(), self.local, "the bucket ends with the local file");
            assert_eq!(self.txid(), last, "the position is the bucket's end");
            assert_eq!(self.status()["database_checksum"], self.local.checksum().to_string());
            assert!(!self.unsettled());
        }
    }

    /// All that was acknowledged is there as it was.
    pub fn check_acknowledged(&self) {
        for (txid, image) in &self.acknowledged {
            assert_eq!(self.oracle.at(*txid), *image, "TXID {txid}");
        }
    }

    /// The store is well again: the next commit succeeds, without opening anew, and all is as it must be.
    pub fn finish(&mut self) {
        self.store.heal();
        if self.database.is_none() {
            self.open().unwrap();
        }
        self.must_commit(Edit::Overwrite);
        super::oracle::block_on(self.store.deliver_all());
        self.check();
        self.must_commit(Edit::Grow);
        self.check_acknowledged();
        self.close();
        self.open().unwrap();
        self.check_acknowledged();
        self.close();
        // Another machine gets the same.
        let other = self.folder.path().join("other");
        fs::create_dir(&other).unwrap();
        self.path = other.join(ID);
        self.open_filled();
    }

    fn open_filled(&mut self) {
        let bucket = Bucket::from_object_store(Arc::clone(&self.store) as _, location());
        let host = FakeHost { path: self.path.clone(), is_in_use: self.is_in_use };
        let opened = Database::open_in_bucket(&self.path, self.config.clone(), &host, bucket).unwrap();
        assert_eq!(self.file(), self.local, "filled from the bucket");
        drop(opened);
    }

    fn must_commit(&mut self, edit: Edit) {
        for _ in 0..5 {
            let begun = Instant::now();
            match self.transaction(edit, End::Commit) {
                Told::Committed => return,
                // The machine is loaded, not the store at fault.
                Told::Failed(_) if begun.elapsed() >= self.config.timeout => {}
                other => panic!("the store is well, and yet: {other:?}"),
            }
        }
        panic!("the machine is too busy");
    }
}
