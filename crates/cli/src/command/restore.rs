//! `restore`

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_history::{DatabaseId, Goal, History, HistoryError, InvalidTime, RestoreOptions, Restored, parse_time};
use bottomless_ltx::Txid;
use indicatif::BinaryBytes;
use serde::Serialize;
use tempfile::{NamedTempFile, TempPath};

use super::{Place, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report, rfc3339};

/// Files beside a database file that belong to it. SQLite would replay a journal or a WAL that it finds beside another
/// file of the same name.
const COMPANIONS: [&str; 6] = ["-wal", "-shm", "-journal", "-bottomless", "-bottomless-log", "-bottomless-runs"];

/// What `restore` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file to write; it appears when it is complete and verified
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Restore the state after this transaction, 16 hexadecimal digits as ls shows them [default: the last]
    #[arg(long, value_name = "TXID")]
    txid: Option<Txid>,

    /// Restore the state as of this time: the last transaction that was made at it or before, by its writer's clock;
    /// RFC 3339 like 2026-11-22T14:02:00Z, or like "10 minutes ago"
    #[arg(long, value_name = "TIME", conflicts_with = "txid", value_parser = time)]
    timestamp: Option<SystemTime>,

    /// Replace FILE if it exists, and what lies beside it of its name: -wal, -shm, -journal, -bottomless and its -log and
    /// -runs; no program may have it open
    #[arg(short, long)]
    force: bool,
}

pub(super) fn time(text: &str) -> Result<SystemTime, InvalidTime> {
    parse_time(text, SystemTime::now())
}

impl Options {
    fn goal(&self) -> Goal {
        match (self.txid, self.timestamp) {
            (Some(txid), _) => Goal::Txid(txid),
            (None, Some(time)) => Goal::Time(time),
            (None, None) => Goal::End,
        }
    }
}

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let id = common.one_database()?;
    let target = Target::new(&options.output, options.force)?;
    let history = History::new(connect(&location).await?, id.clone());
    let temporary = target.temporary()?;
    let (file, path) = temporary.into_parts();
    let file = Arc::new(file);
    let restored = download(&history, options.goal(), &file).await?;
    target.put_in_place(&file, path)?;
    Ok(output.print(&Done::new(Place::from(&location), &id, &options.output, &restored))?)
}

/// Fills `file`.
async fn download(history: &History, goal: Goal, file: &Arc<File>) -> Result<Restored, HistoryError> {
    let (listing, txid) = history.locate(goal).await?;
    let bar = Bar::start();
    let options = RestoreOptions { progress: Some(bar.progress()), ..RestoreOptions::default() };
    history.restore_around(listing, (Txid::ZERO, txid), file, &options, || Ok(None)).await
}

/// The file to be written, and the folder that it is in.
#[derive(Debug)]
struct Target<'a> {
    path: &'a Path,
    folder: &'a Path,
    name: OsString,
    replace: bool,
}

impl<'a> Target<'a> {
    /// Refuses at once what would fail after the download.
    fn new(path: &'a Path, replace: bool) -> Result<Self, Error> {
        let fail = |what: &str| Err(Error::Failed(format!("{} {what}", path.display())));
        let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else {
            return fail("is no name of a file");
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if !folder.is_dir() {
            return fail("can't be written: its folder does not exist");
        }
        if path.is_dir() {
            return fail("is a folder");
        }
        let target = Self { path, folder, name: name.to_owned(), replace };
        target.refuse_what_is_there()?;
        Ok(target)
    }

    /// Unless it may be replaced: the file, and what would be taken for a part of it.
    fn refuse_what_is_there(&self) -> Result<(), Error> {
        let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
        if self.replace {
            return Ok(());
        }
        if is_there(self.path) {
            return Err(Error::Failed(format!(
                "{} exists already; remove it, name another file, or replace it with --force",
                self.path.display()
            )));
        }
        match COMPANIONS.map(|suffix| self.companion(suffix)).into_iter().find(|companion| is_there(companion)) {
            Some(companion) => Err(Error::Failed(format!(
                "{} can't be written: {} is there, which belongs to another database of that name; remove it if that one \
                 is gone, name another file, or remove all that belongs to it with --force",
                self.path.display(),
                companion.display()
            ))),
            None => Ok(()),
        }
    }

    /// A file beside it: a rename works within one file system.
    fn temporary(&self) -> Result<NamedTempFile, Error> {
        let mut prefix = OsString::from(".");
        prefix.push(&self.name);
        prefix.push(".");
        tempfile::Builder::new()
            .prefix(&prefix)
            // As any new file: the umask takes away what it should.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(self.folder)
            .map_err(|error| self.error(&error))
    }

    fn put_in_place(&self, file: &File, temporary: TempPath) -> Result<(), Error> {
        file.sync_all().map_err(|error| self.error(&error))?;
        // A program may have made a database of that name meanwhile. Its own files come after the main file, which is not
        // replaced: so nothing of it is touched.
        self.refuse_what_is_there()?;
        let placed = if self.replace {
            self.remove_companions().map_err(|error| self.error(&error))?;
            temporary.persist(self.path)
        } else {
            temporary.persist_noclobber(self.path)
        };
        placed.map_err(|error| self.error(&error.error))?;
        File::open(self.folder).and_then(|folder| folder.sync_all()).map_err(|error| self.error(&error))
    }

    /// They belong to a database that is about to be replaced, or is gone.
    fn remove_companions(&self) -> io::Result<()> {
        for suffix in COMPANIONS {
            match fs::remove_file(self.companion(suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn companion(&self, suffix: &str) -> PathBuf {
        let mut name = self.name.clone();
        name.push(suffix);
        self.folder.join(name)
    }

    fn error(&self, error: &io::Error) -> Error {
        Error::Failed(format!("{} can't be written: {error}", self.path.display()))
    }
}

#[derive(Debug, Serialize)]
struct Done {
    #[serde(flatten)]
    place: Place,
    database: String,
    file: String,
    txid: String,
    timestamp: Option<String>,
    database_checksum: String,
    page_size: u32,
    pages: u32,
    downloaded_bytes: u64,
}

impl Done {
    fn new(place: Place, id: &DatabaseId, file: &Path, restored: &Restored) -> Self {
        Self {
            place,
            database: id.to_string(),
            file: file.to_string_lossy().into_owned(),
            txid: restored.position.txid.to_string(),
            timestamp: restored.time.map(rfc3339),
            database_checksum: restored.position.checksum.to_string(),
            page_size: restored.page_size.get(),
            pages: restored.size_in_pages,
            downloaded_bytes: restored.bytes,
        }
    }
}

impl Report for Done {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let bytes = u64::from(self.pages) * u64::from(self.page_size);
        writeln!(
            to,
            "Restored {} as of TXID {}{} into {}: {} pages, {} ({} downloaded).",
            self.database,
            self.txid,
            self.timestamp.as_ref().map_or_else(String::new, |time| format!(" of {time}")),
            self.file,
            self.pages,
            BinaryBytes(bytes),
            BinaryBytes(self.downloaded_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use bottomless_ltx::{Checksum, PageSize, Position};
    use bottomless_store::Location;
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transaction_is_named_as_ls_shows_it() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let line = Line::try_parse_from(["restore", "-o", "f", "--txid", "000000000000000c"]).unwrap();
        assert_eq!(line.options.txid, Some(Txid::new(12)));
    }

    #[test]
    fn what_was_restored() {
        let restored = Restored {
            position: Position { txid: Txid::new(12), checksum: Checksum::EMPTY },
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            page_size: PageSize::try_from(4096).unwrap(),
            size_in_pages: 3,
            page_checksums: Vec::new(),
            is_foreign: false,
            last_object: None,
            bytes: 700,
        };
        let place = Place::from(&Location::new("file:///b".parse().unwrap(), "libsql").unwrap());
        let done = Done::new(place, &DatabaseId::new("test.db").unwrap(), Path::new("x/y.db"), &restored);
        let expected = json!({
            "endpoint": "file:///b", "bucket": "libsql", "database": "test.db", "file": "x/y.db",
            "txid": "000000000000000c", "timestamp": "2023-11-14T22:13:20.123Z", "database_checksum": Checksum::EMPTY.to_string(), "page_size": 4096, "pages": 3,
            "downloaded_bytes": 700,
        });
        assert_eq!(serde_json::to_value(&done).unwrap(), expected);
        let mut text = Vec::new();
        done.write_text(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "Restored test.db as of TXID 000000000000000c of 2023-11-14T22:13:20.123Z into x/y.db: 3 pages, 12.00 KiB \
             (700 B downloaded).\n"
        );
    }

    #[test]
    fn what_can_not_be_written_is_refused_before_the_download() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        fs::write(&file, "x").unwrap();
        let refused = |path: &Path, replace| match Target::new(path, replace) {
            Err(Error::Failed(text)) => text,
            other => format!("{other:?}"),
        };
        assert!(refused(&file, false).contains("--force"));
        assert!(Target::new(&file, true).is_ok());
        assert!(refused(folder.path(), true).contains("is a folder"));
        assert!(refused(&folder.path().join("none/a.db"), true).contains("folder does not exist"));
        assert!(refused(Path::new(".."), true).contains("no name"));
        assert!(Target::new(Path::new("no-such-file.db"), false).is_ok());
    }

    #[test]
    fn nothing_of_another_database_is_removed_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        for suffix in COMPANIONS {
            let companion = folder.path().join(format!("a.db{suffix}"));
            // It was there when the command began.
            fs::write(&companion, "precious").unwrap();
            let refused = Target::new(&file, false).unwrap_err().to_string();
            assert!(refused.contains(suffix) && refused.contains("--force"), "{refused}");
            assert_eq!(fs::read(&companion).unwrap(), b"precious");
            let forced = Target::new(&file, true).unwrap();
            let (temporary, path) = forced.temporary().unwrap().into_parts();
            forced.put_in_place(&temporary, path).unwrap();
            assert!(!companion.exists());
            fs::remove_file(&file).unwrap();

            // It came during the download, alone or with its database.
            let target = Target::new(&file, false).unwrap();
            for is_with_main in [false, true] {
                let (temporary, path) = target.temporary().unwrap().into_parts();
                fs::write(&companion, "precious").unwrap();
                if is_with_main {
                    fs::write(&file, "another database").unwrap();
                }
                let refused = target.put_in_place(&temporary, path).unwrap_err().to_string();
                assert!(refused.contains("--force"), "{refused}");
                assert_eq!(fs::read(&companion).unwrap(), b"precious");
                assert_eq!(fs::read(&file).ok(), is_with_main.then(|| b"another database".to_vec()));
            }
            fs::remove_file(&file).unwrap();
            fs::remove_file(&companion).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the temporary files are gone");
    }
}
