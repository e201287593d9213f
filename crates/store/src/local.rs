//! The part of a `file://` bucket that `object_store` has no call for: an object created from a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
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
}
