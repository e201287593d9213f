//! A database as it was at a point of its history, read only.
//!
//! It is restored into a file of its own ([`cache`]), which every connection to the same point shares. The database's
//! own files are not looked at: it may be open, be written to, or not be there at all. Nothing is written to the bucket.

mod as_of;
mod cache;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_history::{Goal, History, Layout, Listing, RestoreOptions};
use bottomless_ltx::{PageSize, Position, Txid};
use bottomless_store::Bucket;

pub use as_of::AsOf;
use cache::{Cache, Filled, Place};

use crate::config::Config;
use crate::database::identity;
use crate::error::{Error, ErrorKind, Result};
use crate::local::shape;
use crate::process::Process;

/// A database as it was at a point. The last one of a point that is dropped on the machine removes the file.
#[derive(Debug)]
pub struct Past {
    path: PathBuf,
    config: Config,
    cache: Cache,
    page_size: PageSize,
    size_in_pages: u32,
    /// None if nothing had to be asked.
    bucket: Option<Bucket>,
    layout: Option<Layout>,
}

impl Past {
    /// Opens the database at `path` as it was. Where the file of that point is open already on this machine, a TXID costs
    /// no request.
    ///
    /// # Errors
    /// When the store can't be reached or its content is damaged, when the history does not lead to the point (the
    /// message names the nearest to which it does), and when the file can't be written beside the database.
    pub fn open(path: &Path, config: Config, as_of: AsOf) -> Result<Self> {
        Self::open_in(path, config, as_of, |process, config| {
            Ok(process.block_on(Bucket::connect(&config.location, process.transport()))?)
        })
    }

    /// As [`Past::open`], in a bucket that the caller has, whatever the configuration says of the location.
    ///
    /// # Errors
    /// As [`Past::open`].
    pub fn open_in_bucket(path: &Path, config: Config, as_of: AsOf, bucket: Bucket) -> Result<Self> {
        Self::open_in(path, config, as_of, |_, _| Ok(bucket))
    }

    fn open_in(
        path: &Path,
        config: Config,
        as_of: AsOf,
        connect: impl FnOnce(&Process, &Config) -> Result<Bucket>,
    ) -> Result<Self> {
        let process = Process::current()?;
        let (location, id) = (config.location.to_string(), config.database_id.clone());
        let opened = (|| {
            let (mut bucket, mut layout) = (None, None);
            let located = |goal| {
                let connected = connect(&process, &config)?.with_patience(config.timeout);
                let history = History::new(bucket.insert(connected).clone(), id.clone());
                let (listing, txid) = process.block_on(history.locate(goal))?;
                layout = Some(listing.layout());
                Ok::<_, Error>((history, listing, txid))
            };
            let cache = match as_of {
                // Which transaction it is only the bucket knows.
                AsOf::Time(time) => {
                    let (history, listing, txid) = located(Goal::Time(time))?;
                    let txid = txid.unwrap_or_else(|| listing.last_txid());
                    let place = Place { database: path, identity: identity(&config), txid };
                    Cache::open(place, |file| fill(&process, &history, listing, txid, file))?
                }
                AsOf::Txid(txid) => {
                    let place = Place { database: path, identity: identity(&config), txid };
                    Cache::open(place, |file| {
                        let (history, listing, _) = located(Goal::Txid(txid))?;
                        fill(&process, &history, listing, txid, file)
                    })?
                }
            };
            let (page_size, size_in_pages) = shape_of(&cache)?;
            Ok(Self { path: path.to_owned(), config: config.clone(), cache, page_size, size_in_pages, bucket, layout })
        })();
        opened.map_err(|error: Error| {
            error.context(format_args!("{} can't be opened as of {as_of} with {location}/{id}", path.display()))
        })
    }

    /// The file that holds it: a SQLite database that nobody changes.
    #[must_use]
    pub fn file(&self) -> &Path {
        self.cache.path()
    }

    /// Which point it is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.cache.position()
    }

    /// When the last transaction of it was committed, by the clock of its writer.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.cache.time()
    }

    /// What it is and what can't be done with it, for people.
    #[must_use]
    pub fn advice(&self) -> String {
        let txid = self.position().txid;
        format!(
            "{} as it was after TXID {txid} is read only: to write, open it without txid and timestamp; to get something \
             back, ATTACH this beside it and copy, or write the whole of it to another file with bottomless-cli restore \
             --txid {txid}",
            self.path.display()
        )
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn shape(&self) -> (PageSize, u32) {
        (self.page_size, self.size_in_pages)
    }

    pub(crate) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// As the bucket has the database, if it had to be asked, or as the configuration says.
    pub(crate) fn layout(&self) -> Option<Layout> {
        self.layout.or(self.config.layout)
    }
}

/// Restores into the file.
fn fill(process: &Process, history: &History, listing: Listing, txid: Txid, file: &Arc<File>) -> Result<Filled> {
    let options = RestoreOptions::default();
    let goal = (Txid::ZERO, Some(txid));
    let restored = process.block_on(history.restore_around::<Error>(listing, goal, file, &options, || Ok(None)))?;
    tracing::info!(database = %history.id(), %txid, "restored a point in the past from the bucket");
    Ok(Filled { checksum: restored.position.checksum, time: restored.time.unwrap_or(SystemTime::UNIX_EPOCH) })
}

fn shape_of(cache: &Cache) -> Result<(PageSize, u32)> {
    let mut header = [0; 100];
    let read = cache.file().read_exact_at(&mut header, 0).and_then(|()| cache.file().metadata());
    let length = read.map_err(|error| Error::disk(cache.path().display(), &error))?.len();
    shape(&header, length).ok_or_else(|| {
        let text = format!("{}: page 1 is not that of a database", cache.path().display());
        Error::new(ErrorKind::Damaged, text)
    })
}
