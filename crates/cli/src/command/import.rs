//! `import`

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bottomless_history::{DatabaseId, Folded, History, HistoryError, Layout, ObjectName, Progress};
use bottomless_ltx::{
    Checksum, DatabaseChecksums, EncodeError, Encoder, HEADER_LENGTH, Header, PageNumber, Txid, WriterId,
};
use bottomless_store::{Body, CreateOutcome, StoreError};
use clap::ValueEnum as _;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::folding::{FoldedPages, LayoutName, Machine, fold};
use super::{OnCancel, Place, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::live::{LiveError, Snapshot};
use crate::output::{Output, Report};

/// What `import` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The SQLite file; programs may be using it, in any journal mode
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// How long to wait for a program that has the file locked
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,

    /// The layout that the database gets
    #[arg(long, value_name = "LAYOUT", env = "LIBSQL_BOTTOMLESS_LAYOUT", hide_env_values = true, value_parser = layout)]
    layout: Option<LayoutName>,
}

/// An empty variable is an unset one.
fn layout(text: &str) -> Result<LayoutName, String> {
    if text.is_empty() { Ok(LayoutName::Ltx) } else { LayoutName::from_str(text, false) }
}

/// The limit of one PUT.
const LARGEST_OBJECT: u64 = 5 << 30;
/// So often the file is read until it was not changed meanwhile. Where a program has made the WAL, the next time holds.
const READINGS: usize = 3;
/// Between tries to lock the file.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of pages that are read at a time: so long an interruption waits.
const STEP: usize = 8 << 20;
/// An object of up to this many bytes has this time for one try of its upload; a larger one more, in proportion.
const TIMED_LENGTH: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of the upload.
const TRIES: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let id = match common.database()? {
        Some(id) => id,
        None => DatabaseId::new(options.file.file_name().unwrap_or_default().to_string_lossy())
            .map_err(|error| Error::Usage(error.to_string()))?,
    };
    // As SQLite does: the WAL is beside what a link leads to.
    let file = options.file.canonicalize().map_err(|error| disk(&options.file, &error))?;
    let history = History::new(connect(&location).await?, id);
    refuse_existing(&history).await?;
    let is_paged = options.layout == Some(LayoutName::Pages);
    let machine = is_paged.then(|| Machine::take(&history, "fold")).transpose()?;
    let bar = Bar::start();
    let image = read(&file, Duration::from_secs(options.wait), &bar.progress()).await?;
    upload(&history, &image).await?;
    drop(bar);
    let folded = match machine {
        Some(machine) => Some(fold_imported(&history, &machine).await?),
        None => None,
    };
    Ok(output.print(&Imported::new(Place::from(&location), history.id(), &options.file, &image, folded.as_ref()))?)
}

/// What is interrupted in here is imported; its page objects come with the next fold.
async fn fold_imported(history: &History, machine: &Machine) -> Result<Folded, Error> {
    let id = history.id();
    let how = || {
        format!("{id} is imported, but its page objects are not there yet: bottomless-cli convert -d {id} --to pages")
    };
    let left = OnCancel::new(how);
    let folded = fold(history, machine, true).await;
    left.disarm();
    let folded = folded.map_err(|error| Error::Failed(format!("{error}. {}", how())))?;
    if folded.txid == Txid::ZERO {
        super::warn(&how());
    }
    Ok(folded)
}

async fn refuse_existing(history: &History) -> Result<(), Error> {
    let listing = history.list(None).await?;
    let id = history.id();
    if listing.is_empty() {
        return match history.page_objects(PageNumber::FIRST).next().await? {
            None => Ok(()),
            Some(_) => Err(Error::Failed(format!(
                "the bucket holds page objects of a database {id}, but neither marker nor log of it: bring these back, import \
                 under another name (-d), or remove what is there (bottomless-cli rm -d {id})"
            ))),
        };
    }
    Err(Error::Failed(format!(
        "the bucket holds a database {id} already, up to TXID {}; import under another name (-d), or remove that one \
         (bottomless-cli rm -d {id})",
        listing.last_txid()
    )))
}

/// The object of the first transaction.
struct Image {
    header: Header,
    body: Body,
    file_checksum: Checksum,
    time: SystemTime,
}

/// The object as it grows.
struct Reading {
    snapshot: Snapshot,
    encoder: Encoder,
    spool: File,
    length: u64,
    checksum: Checksum,
    next: Option<PageNumber>,
}

/// Why the file could not be turned into an object.
enum ReadError {
    Disk(io::Error),
    Spool(io::Error),
    Encode(EncodeError),
    TooLarge,
}

/// Reads all of the database as of one commit. What others do to it meanwhile is not in it.
async fn read(path: &Path, wait: Duration, progress: &Progress) -> Result<Image, Error> {
    for _ in 0..READINGS {
        if let Some(image) = encode(path, take(path, wait).await?, progress).await? {
            return Ok(image);
        }
    }
    Err(Error::Failed(LiveError::Changed(path.to_owned()).to_string()))
}

/// Waits for those that have it locked.
async fn take(path: &Path, wait: Duration) -> Result<Snapshot, Error> {
    let deadline = Instant::now() + wait;
    loop {
        match Snapshot::take(path) {
            Ok(snapshot) => return Ok(snapshot),
            Err(LiveError::Busy(_)) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(Error::Failed(error.to_string())),
        }
    }
}

/// None if it did not hold to the end.
async fn encode(path: &Path, snapshot: Snapshot, progress: &Progress) -> Result<Option<Image>, Error> {
    let (page_size, pages) = (snapshot.page_size(), snapshot.size_in_pages());
    let failed = |error: ReadError| match error {
        ReadError::Disk(error) => disk(path, &error),
        ReadError::Spool(error) => Error::Failed(format!(
            "the temporary file in {} can't be written: {error}; it takes as much as the object: free some space, or name \
             another folder with TMPDIR",
            std::env::temp_dir().display()
        )),
        ReadError::Encode(error) => Error::Failed(format!("{} can't be imported: {error}", path.display())),
        ReadError::TooLarge => Error::Failed(format!(
            "{} takes more than 5 GiB as one object, compressed, which is the most that can be created at once",
            path.display()
        )),
    };
    let spool = tempfile::tempfile().map_err(|error| failed(ReadError::Spool(error)))?;
    let mut reading = Reading {
        snapshot,
        encoder: Encoder::new(page_size),
        spool,
        length: HEADER_LENGTH as u64,
        checksum: Checksum::EMPTY,
        next: Some(PageNumber::FIRST),
    };
    let total = u64::from(pages) * u64::from(page_size.get());
    while let Some(next) = reading.next {
        progress(page_size.offset_of(next), total);
        reading = blocking(move || reading.step()).await?.map_err(failed)?;
    }
    progress(total, total);
    if !reading.snapshot.holds().map_err(|error| disk(path, &error))? {
        return Ok(None);
    }
    let writer = WriterId(getrandom::u64().map_err(|error| Error::Failed(error.to_string()))?);
    let time = SystemTime::now();
    blocking(move || reading.finish(writer, time)).await?.map(Some).map_err(failed)
}

impl Reading {
    /// Takes some more pages.
    fn step(mut self) -> Result<Self, ReadError> {
        let page_size = self.snapshot.page_size();
        let mut content = vec![0; page_size.bytes()];
        let mut out = Vec::new();
        let end =
            self.next.map_or(0, PageNumber::get).saturating_add(u32::try_from(STEP / page_size.bytes()).unwrap_or(1));
        while let Some(page) = self.next.filter(|page| page.get() < end) {
            let is_last = page.get() >= self.snapshot.size_in_pages();
            self.next = PageNumber::new(page.get().saturating_add(1)).filter(|_| !is_last);
            if page == page_size.lock_page() {
                continue;
            }
            self.snapshot.read_page(page, &mut content).map_err(ReadError::Disk)?;
            self.checksum = self.checksum.toggle_page(Checksum::of_page(page, &content));
            self.encoder.encode_page(page, &content, &mut out).map_err(ReadError::Encode)?;
            if self.encoder.length() > LARGEST_OBJECT {
                return Err(ReadError::TooLarge);
            }
        }
        self.append(&out)?;
        Ok(self)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        self.spool.write_all_at(bytes, self.length).map_err(ReadError::Spool)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self, writer: WriterId, time: SystemTime) -> Result<Image, ReadError> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let header = Header::new(
            self.snapshot.page_size(),
            self.snapshot.size_in_pages(),
            (Txid::FIRST, Txid::FIRST),
            milliseconds,
            writer,
            DatabaseChecksums { before: Checksum::EMPTY, after: self.checksum },
        );
        let mut out = Vec::new();
        let encoder = std::mem::replace(&mut self.encoder, Encoder::new(header.page_size));
        let finished = encoder.finish(&header, &mut out).map_err(ReadError::Encode)?;
        self.append(&out)?;
        if finished.length > LARGEST_OBJECT {
            return Err(ReadError::TooLarge);
        }
        self.spool.write_all_at(&finished.header, 0).map_err(ReadError::Spool)?;
        let body = Body::File { file: Arc::new(self.spool), length: finished.length };
        Ok(Image { header, body, file_checksum: finished.file_checksum, time })
    }
}

/// Creates the object of the first transaction, unless there is one.
async fn upload(history: &History, image: &Image) -> Result<(), Error> {
    let name = ObjectName::log(Txid::FIRST);
    let key = name.key(history.id());
    let times = u32::try_from(image.body.len().div_ceil(TIMED_LENGTH)).unwrap_or(u32::MAX).max(1);
    let timeout = TIMEOUT.saturating_mul(times);
    let mut pause = FIRST_PAUSE;
    let mut unknown: Option<StoreError> = None;
    for _ in 0..TRIES {
        let error = match history.bucket().create(&key, &image.body, image.time, timeout).await {
            Ok(CreateOutcome::Created { .. }) => return Ok(()),
            Ok(CreateOutcome::Exists) => match history.ends(name).await {
                // An earlier try that was not answered.
                Ok(ends) if (&ends.header, ends.trailer.file_checksum) == (&image.header, image.file_checksum) => {
                    return Ok(());
                }
                Ok(_) => {
                    return Err(Error::Failed(format!(
                        "another program has just begun the database {} in the bucket; nothing was imported",
                        history.id()
                    )));
                }
                // 409: another creation was under way, and has failed.
                Err(error) if error.is_vanished() => None,
                Err(error) => return Err(unsettled(history, error)),
            },
            Err(error) if error.kind().is_transient() => Some(error),
            Err(error) if unknown.is_some() => return Err(unsettled(history, error.into())),
            Err(error) => return Err(error.into()),
        };
        let asked = error.as_ref().and_then(StoreError::retry_after);
        unknown = error.or(unknown);
        tokio::time::sleep(asked.unwrap_or(pause)).await;
        pause *= 2;
    }
    let error = unknown.unwrap_or_else(|| history.bucket().given_up("PUT", &key, Instant::now(), timeout));
    Err(unsettled(history, error.into()))
}

fn unsettled(history: &History, error: HistoryError) -> Error {
    let id = history.id();
    Error::Failed(format!(
        "{error}. Whether the database was imported is not known: bottomless-cli ls -d {id} shows it when it was; otherwise \
         import it again"
    ))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Failed(error.to_string()))
}

fn disk(path: &Path, error: &io::Error) -> Error {
    Error::Failed(format!("{} can't be read: {error}", path.display()))
}

#[derive(Debug, Serialize)]
struct Imported {
    #[serde(flatten)]
    place: Place,
    database: String,
    file: String,
    txid: String,
    database_checksum: Option<String>,
    page_size: u32,
    pages: u32,
    uploaded_bytes: u64,
    layout: String,
    folded: Option<FoldedPages>,
}

impl Imported {
    fn new(place: Place, id: &DatabaseId, file: &Path, image: &Image, folded: Option<&Folded>) -> Self {
        let is_paged = folded.is_some_and(|folded| folded.txid > Txid::ZERO);
        Self {
            place,
            database: id.to_string(),
            file: file.to_string_lossy().into_owned(),
            txid: image.header.max_txid.to_string(),
            database_checksum: image.header.database.map(|database| database.after.to_string()),
            page_size: image.header.page_size.get(),
            pages: image.header.size_in_pages,
            uploaded_bytes: image.body.len(),
            layout: if is_paged { Layout::Pages } else { Layout::Ltx }.to_string(),
            folded: folded.map(FoldedPages::from),
        }
    }
}

impl Report for Imported {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let bytes = u64::from(self.pages) * u64::from(self.page_size);
        writeln!(
            to,
            "Imported {} as {}, TXID {}: {} pages, {} ({} uploaded).",
            self.file,
            self.database,
            self.txid,
            self.pages,
            BinaryBytes(bytes),
            BinaryBytes(self.uploaded_bytes)
        )?;
        if let Some(folded) = &self.folded {
            folded.write_text(to)?;
        }
        writeln!(to, "From now on open the file through the extension: what others write to it is not in the bucket.")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PAGE: usize = 512;

    /// A database in WAL mode, without a WAL.
    fn database() -> Vec<u8> {
        let mut file = vec![7; 2 * PAGE];
        let fields: [(usize, &[u8]); 6] = [
            (0, b"SQLite format 3\0"),
            (16, &[2, 0]),
            (18, &[2, 2]),
            (24, &[0, 0, 0, 1]),
            (28, &[0, 0, 0, 2]),
            (92, &[0, 0, 0, 1]),
        ];
        for (at, bytes) in fields {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    /// Reads it without waiting for anybody, where `meanwhile` happens at the beginning of each reading. How often that was.
    fn read_while(path: &Path, meanwhile: impl Fn(usize) + Send + Sync + 'static) -> (Result<Image, Error>, usize) {
        let readings = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&readings);
        let progress: Progress = Arc::new(move |done, _| {
            if done == 0 {
                meanwhile(count.fetch_add(1, Ordering::Relaxed));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let image = runtime.block_on(read(path, Duration::ZERO, &progress));
        (image, readings.load(Ordering::Relaxed))
    }

    #[test]
    fn a_wal_made_while_the_file_is_read_takes_another_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        fs::write(&path, database()).unwrap();
        let wal = folder.path().join("a.db-wal");
        let (image, readings) = read_while(&path, move |_| fs::write(&wal, "").unwrap());
        assert_eq!(image.map(|image| image.header.size_in_pages).unwrap(), 2);
        assert_eq!(readings, 2);
    }

    #[test]
    fn a_file_that_changes_each_time_is_not_called_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        fs::write(&path, database()).unwrap();
        let (place, next) = (path.clone(), folder.path().join("next.db"));
        let (image, readings) = read_while(&path, move |_| {
            fs::write(&next, database()).unwrap();
            fs::rename(&next, &place).unwrap();
        });
        let error = image.err().unwrap().to_string();
        assert!(error.contains("was changed by another program") && !error.contains("locked"), "{error}");
        assert_eq!(readings, READINGS);
    }
}
