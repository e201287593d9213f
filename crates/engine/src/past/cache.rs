//! The local file that holds a point in the past, and who uses it.
//!
//! It lies beside the database's file, under a name that says which point of which history it is, and carries no data
//! that is not in the bucket. Everybody who has it open holds a shared lock on it (`flock`); who is the last to close it
//! gets the lock for himself, and removes it. One that is nobody's was left by a process that died: nothing says what
//! became of it since, so that it is removed too, and filled anew where it is needed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_ltx::{Checksum, Position, Txid};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::TempPath;

use crate::error::{Error, Result};
use crate::state::Turn;

/// Behind the name of the database's file: TXID, identity and database checksum follow, 16 hexadecimal digits each.
const INFIX: &str = "-bottomless-at-";

/// In the place of the checksum, while the file is filled.
const FILLING: &str = "fill";

/// Characters of a number in a name.
const DIGITS: usize = 16;

/// Which point of which history, of the database at which path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) database: &'a Path,
    /// Of endpoint, bucket and database id.
    pub(super) identity: u64,
    pub(super) txid: Txid,
}

/// What a cache file was filled with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) checksum: Checksum,
    /// When the transaction was committed.
    pub(super) time: SystemTime,
}

/// A whole cache file that is in use.
#[derive(Debug)]
pub(super) struct Cache {
    /// Holds the shared lock.
    file: Arc<File>,
    path: PathBuf,
    position: Position,
    time: SystemTime,
    process: u32,
}

impl Cache {
    /// Opens the file that another connection or process uses, or fills one: `fill` gets an empty file. Whoever comes
    /// meanwhile waits for that.
    pub(super) fn open(place: Place<'_>, fill: impl FnOnce(&Arc<File>) -> Result<Filled>) -> Result<Self> {
        let stem = place.stem();
        let disk = |error: io::Error| Error::disk(stem.display(), &error);
        clear(place.database).map_err(disk)?;
        let _turn = Turn::take(&stem).map_err(disk)?;
        loop {
            match place.find().map_err(disk)? {
                None => return Self::fill(place, fill),
                Some((path, checksum)) => {
                    let position = Position { txid: place.txid, checksum };
                    if let Some(shared) = Self::share(path, position).map_err(disk)? {
                        return Ok(shared);
                    }
                }
            }
        }
    }

    /// None if the file is nobody's, and not there any more.
    fn share(path: PathBuf, position: Position) -> io::Result<Option<Self>> {
        if remove_if_nobodys(&path)? {
            return Ok(None);
        }
        let Some(file) = open(&path)? else { return Ok(None) };
        lock_shared(&file)?;
        if !is_at(&path, &file)? {
            return Ok(None);
        }
        let time = file.metadata()?.modified()?;
        Ok(Some(Self { file: Arc::new(file), path, position, time, process: std::process::id() }))
    }

    fn fill(place: Place<'_>, fill: impl FnOnce(&Arc<File>) -> Result<Filled>) -> Result<Self> {
        let disk = |error: io::Error| Error::disk(place.name(FILLING).display(), &error);
        // Removed with its handle, unless it comes to its name.
        let (file, filling) = place.create().map_err(disk)?;
        let file = Arc::new(file);
        let Filled { checksum, time } = fill(&file)?;
        file.set_modified(time).map_err(disk)?;
        let path = place.name(&checksum.to_string());
        // From here on it is whole for all who see it.
        filling.persist(&path).map_err(|error| disk(error.error))?;
        let position = Position { txid: place.txid, checksum };
        Ok(Self { file, path, position, time, process: std::process::id() })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn time(&self) -> SystemTime {
        self.time
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // A child that was forked shares the lock, which is its parent's.
        if self.process != std::process::id() {
            return;
        }
        let removed = try_lock_exclusive(&self.file).and_then(|alone| {
            if alone && is_at(&self.path, &self.file)? { fs::remove_file(&self.path) } else { Ok(()) }
        });
        if let Err(error) = removed {
            tracing::warn!("{} could not be removed: {error}", self.path.display());
        }
        // A child that still lives would keep it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Place<'_> {
    fn stem(&self) -> PathBuf {
        let mut name = self.database.as_os_str().to_owned();
        name.push(format!("{INFIX}{}-{:016x}", self.txid, self.identity));
        name.into()
    }

    fn name(&self, end: &str) -> PathBuf {
        let mut name = self.stem().into_os_string();
        name.push(format!("-{end}"));
        name.into()
    }

    /// A new file with a shared lock on it. Its name is random, so that it is nobody's but ours.
    fn create(&self) -> io::Result<(File, TempPath)> {
        let mut prefix = self.name(FILLING).file_name().unwrap_or_default().to_owned();
        prefix.push("-");
        loop {
            let created = tempfile::Builder::new()
                .prefix(&prefix)
                .permissions(permissions(self.database))
                .tempfile_in(folder_of(self.database))?;
            let (file, path) = created.into_parts();
            lock_shared(&file)?;
            // Before it was locked it looked as if a dead process had left it.
            if is_at(&path, &file)? {
                return Ok((file, path));
            }
        }
    }

    /// The file of this point, and the database checksum in its name.
    fn find(&self) -> io::Result<Option<(PathBuf, Checksum)>> {
        let stem = self.stem();
        for path in beside(self.database)? {
            let end = path.as_os_str().as_bytes().strip_prefix(stem.as_os_str().as_bytes());
            let end = end.and_then(|end| std::str::from_utf8(end).ok()?.strip_prefix('-'));
            if let Some(checksum) = end.and_then(|end| Checksum::from_str(end).ok()) {
                return Ok(Some((path, checksum)));
            }
        }
        Ok(None)
    }
}

fn folder_of(database: &Path) -> &Path {
    database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn is_number(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Everything of ours beside the database that belongs to some point.
fn beside(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut prefix = database.file_name().unwrap_or_default().to_owned();
    prefix.push(INFIX);
    let is_ours = |name: &OsStr| {
        let rest = name.as_bytes().strip_prefix(prefix.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
        rest.and_then(|rest| rest.split_at_checked(DIGITS)).is_some_and(|(txid, rest)| {
            let identity = rest.strip_prefix('-').and_then(|rest| rest.get(..DIGITS));
            is_number(txid) && identity.is_some_and(is_number)
        })
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder_of(database))? {
        let name = entry?.file_name();
        if is_ours(&name) {
            found.push(database.with_file_name(name));
        }
    }
    Ok(found)
}

/// Removes what processes that died have left of any point.
fn clear(database: &Path) -> io::Result<()> {
    for path in beside(database)? {
        // Another user's may not be ours to remove.
        match remove_if_nobodys(&path) {
            Ok(true) => tracing::info!("{} was left by a process that died, and was removed", path.display()),
            Ok(false) => {}
            Err(error) => tracing::debug!("{} was left: {error}", path.display()),
        }
    }
    Ok(())
}

/// Removes the file if nobody has a lock on it. Whoever waited for one looks whether the file is still there.
fn remove_if_nobodys(path: &Path) -> io::Result<bool> {
    let Some(file) = open(path)? else { return Ok(false) };
    let removed = try_lock_exclusive(&file)? && is_at(path, &file)?;
    if removed {
        fs::remove_file(path)?;
    }
    Ok(removed)
}

/// As the database's, but that nobody is to write to it.
fn permissions(database: &Path) -> Permissions {
    let mode = fs::metadata(database).map_or(0o644, |found| found.permissions().mode());
    Permissions::from_mode(mode & 0o444)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => {
            let file = file.metadata()?;
            Ok((found.dev(), found.ino()) == (file.dev(), file.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn try_lock_exclusive(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn lock_shared(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockShared) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::error::ErrorKind;

    const CONTENT: &[u8] = b"the past";

    fn place(database: &Path, txid: u64) -> Place<'_> {
        Place { database, identity: 7, txid: Txid::new(txid) }
    }

    fn filled(file: &File) -> Filled {
        let mut file = file;
        file.write_all(CONTENT).unwrap();
        Filled { checksum: Checksum::EMPTY, time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123) }
    }

    fn open(place: Place<'_>) -> Cache {
        Cache::open(place, |file| Ok(filled(file))).unwrap()
    }

    fn shared(place: Place<'_>) -> Cache {
        Cache::open(place, |_| panic!("it is there already")).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_one_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        let first = open(place(&database, 12));
        let second = shared(place(&database, 12));
        let name = format!("test.db-bottomless-at-000000000000000c-0000000000000007-{}", Checksum::EMPTY);
        assert_eq!(names(dir.path()), [name]);
        assert_eq!((first.path(), first.position(), first.time()), (second.path(), second.position(), second.time()));
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o222, 0, "nobody is to write to it");
        drop(first);
        assert_eq!(fs::read(second.path()).unwrap(), CONTENT);
        drop(second);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn one_fills_and_all_others_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        for round in 0..50 {
            let (fills, ready) = (AtomicUsize::new(0), std::sync::Barrier::new(8));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let cache = Cache::open(place(&database, 12), |file| {
                            fills.fetch_add(1, Ordering::SeqCst);
                            Ok(filled(file))
                        });
                        let cache = cache.unwrap();
                        assert_eq!(fs::read(cache.path()).unwrap(), CONTENT);
                        ready.wait();
                    });
                }
            });
            assert_eq!(fills.into_inner(), 1, "in round {round}");
            assert!(names(dir.path()).is_empty());
        }
    }

    /// Opened and closed at the same time in every order: whoever has it open finds it at its place.
    #[test]
    fn whoever_has_it_open_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let database = &database;
                scope.spawn(move || {
                    for _ in 0..300 {
                        let cache = open(place(database, 1 + thread % 2));
                        assert_eq!(fs::read(cache.path()).unwrap(), CONTENT);
                        assert!(is_at(cache.path(), cache.file()).unwrap());
                    }
                });
            }
        });
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn another_history_and_another_point_are_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        let first = open(place(&database, 12));
        let other_point = open(place(&database, 13));
        let other_history = open(Place { identity: 8, ..place(&database, 12) });
        let other_database = open(place(&dir.path().join("test.db-bottomless-at"), 12));
        let paths = [first.path(), other_point.path(), other_history.path(), other_database.path()];
        assert_eq!(names(dir.path()).len(), paths.len(), "{paths:?}");
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        let used = open(place(&database, 3));
        let stem = "test.db-bottomless-at-000000000000000c-0000000000000007";
        let left = [
            format!("{stem}-{}", Checksum::EMPTY),
            format!("{stem}-fill-abc123"),
            format!("{stem}-bottomless-open"),
            format!("test.db-bottomless-at-000000000000000b-0000000000000009-{}", Checksum::EMPTY),
        ];
        let others = [
            "test.db".to_owned(),
            "test.db-wal".to_owned(),
            "test.db-bottomless".to_owned(),
            "test.db-bottomless-at-noon".to_owned(),
            format!("other.db-bottomless-at-000000000000000b-0000000000000009-{}", Checksum::EMPTY),
        ];
        for name in left.iter().chain(&others) {
            fs::write(dir.path().join(name), "other content").unwrap();
        }
        let cache = open(place(&database, 12));
        assert_eq!(fs::read(cache.path()).unwrap(), CONTENT, "nobody knows what became of the one that was left");
        let mut expected = others.to_vec();
        expected.extend([&used, &cache].map(|cache| cache.path().file_name().unwrap().to_str().unwrap().to_owned()));
        expected.sort();
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn what_could_not_be_filled_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        let error = Cache::open(place(&database, 12), |file| {
            filled(file);
            Err(Error::new(ErrorKind::Unavailable, "away"))
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(names(dir.path()).is_empty());
        drop(open(place(&database, 12)));
    }

    #[test]
    fn it_is_as_secret_as_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("test.db");
        fs::write(&database, "").unwrap();
        fs::set_permissions(&database, Permissions::from_mode(0o640)).unwrap();
        let cache = open(place(&database, 12));
        let mode = fs::metadata(cache.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o440, 0, "{mode:o}");
    }
}
