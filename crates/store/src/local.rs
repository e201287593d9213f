//! The parts of a `file://` bucket that `object_store` has no call for: an object created from a file, and the clock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tempfile::NamedTempFile;

use crate::body::{chunks, read_chunk};

/// Creates `target` with the first `length` bytes of `source`, durably, unless it exists.
///
/// The content is written under another name and linked, so that no reader sees a part of it. `#` and digits at the
/// end of a name are how `object_store` marks an upload in progress; it does not list such files.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when the object exists, and whatever the disk says.
pub(crate) fn create(source: &Arc<File>, length: u64, target: &Path, unique: u64) -> io::Result<()> {
    let folder = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{unique}"));
    let staged = Path::new(&name);
    let result = copy(source, length, staged).and_then(|()| fs::hard_link(staged, target));
    let removed = fs::remove_file(staged);
    result?;
    removed?;
    File::open(folder)?.sync_all()
}

fn copy(source: &File, length: u64, to: &Path) -> io::Result<()> {
    let mut file = File::create_new(to)?;
    for (offset, size) in chunks(length) {
        file.write_all(&read_chunk(source, offset, size)?)?;
    }
    file.sync_all()
}

/// The time by the clock that gives the files of this folder their times: that of the server, where it is a share.
///
/// # Errors
/// Whatever the disk says.
pub(crate) fn time(folder: &Path) -> io::Result<SystemTime> {
    let mut file = clock(folder)?;
    file.write_all(&[0])?;
    // The server of a share may be told of what was written only now.
    file.as_file().sync_all()?;
    file.as_file().metadata()?.modified()
}

/// A file that is gone when dropped. No listing shows it, by the `#` in its name.
fn clock(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".clock-").suffix("#0").tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStore;
    use object_store::local::LocalFileSystem;

    use super::*;

    #[test]
    fn the_first_creator_wins_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let (file, target) = (Arc::new(file), dir.path().join("a/b.ltx"));
        create(&file, 7, &target, 1).unwrap();
        let again = create(&file, 4, &target, 2).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"content");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
    /// The clock of files goes in steps of some milliseconds, so that ours is ahead of it.
    #[test]
    fn the_time_is_that_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: u32| {
            let path = dir.path().join(name.to_string());
            fs::write(&path, "content").unwrap();
            fs::metadata(path).unwrap().modified().unwrap()
        };
        for name in 0..50 {
            let (before, now, after) = (touch(2 * name), time(dir.path()).unwrap(), touch(2 * name + 1));
            assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 100, "nothing of it stays");
    }

    #[tokio::test]
    async fn the_file_that_tells_the_time_is_no_object() {
        let dir = tempfile::tempdir().unwrap();
        let _file = clock(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap(), []);
        assert_eq!(store.list_with_delimiter(None).await.unwrap().objects, []);
    }
}
