//! Opening a database: where it stands, where the bucket stands, and how the two come together.

pub(crate) mod again;
mod fill;
pub(crate) mod foreign;
mod join;
mod journal;
mod judge;
mod layout;
mod lineage;

use std::path::Path;
use std::sync::{Arc, PoisonError};

use bottomless_history::{DatabaseId, History, HistoryError, Listing, Moment, PlanError};
use bottomless_ltx::Txid;
use bottomless_points::{Point, reach};
use bottomless_store::Bucket;

use crate::background::Origin;
use crate::config::Config;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::local::Host;
use crate::process::Process;
use crate::state::{Record, StateFile, Turn, WalEnd};

impl Database {
    /// Opens the database at `path`, or returns it if this process has it open already.
    ///
    /// An empty or missing local file is filled from the bucket; one that is behind is caught up; one that was changed
    /// by a program without the extension is published.
    ///
    /// # Errors
    /// When the store can't be reached, the bucket's content is damaged, or the local file and the bucket hold different
    /// histories and the configuration does not say which one counts. Nothing is overwritten then.
    pub fn open(path: &Path, config: Config, host: &dyn Host) -> Result<Arc<Self>> {
        Self::open_in(path, config, host, |process, config| {
            let bucket = process.block_on(Bucket::connect(&config.location, process.transport()))?;
            Ok((bucket, Origin::Location(config.location.clone())))
        })
    }

    /// As [`Database::open`], in a bucket that the caller has, whatever the configuration says of the location.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_in_bucket(path: &Path, config: Config, host: &dyn Host, bucket: Bucket) -> Result<Arc<Self>> {
        Self::open_in(path, config, host, |_, _| Ok((bucket.clone(), Origin::Given(bucket))))
    }

    fn open_in(
        path: &Path,
        config: Config,
        host: &dyn Host,
        connect: impl FnOnce(&Process, &Config) -> Result<(Bucket, Origin)>,
    ) -> Result<Arc<Self>> {
        let process = Process::current()?;
        let slot = process.slot(path);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.upgrade().filter(|found| !found.is_fenced() && found.is_in_place()) {
            return if *found.config() == config { Ok(found) } else { Err(other_configuration(&found, &config)) };
        }
        let bucket = connect(&process, &config)?;
        let database = Self::prepare(path, config, bucket, &process)?;
        database.synchronize(host).map_err(|error| {
            let (name, location, id) = (database.name(), database.bucket().location(), &database.config().database_id);
            error.context(format_args!("{name} can't be opened with {location}/{id}"))
        })?;
        let database = Arc::new(database);
        *open = Arc::downgrade(&database);
        Ok(database)
    }

    /// The database at `path`, if this process has it open.
    #[must_use]
    pub fn find(path: &Path) -> Option<Arc<Self>> {
        Process::find(path)
    }

    fn prepare(
        path: &Path,
        config: Config,
        (bucket, origin): (Bucket, Origin),
        process: &Arc<Process>,
    ) -> Result<Self> {
        let history = History::new(bucket.with_patience(config.timeout), config.database_id.clone());
        let state = StateFile::open(path)
            .map_err(|error| Error::disk(format_args!("{}{}", path.display(), crate::state::SUFFIX), &error))?;
        Ok(Self::assemble(path, config, state, (history, origin), Arc::clone(process)))
    }

    fn synchronize(&self, host: &dyn Host) -> Result<()> {
        let disk = |error: std::io::Error| self.state_error(&error);
        // Before all locks: nobody is to wait for this request.
        let early = self.list_early()?;
        let (turn, early) = match Turn::try_take(self.path()).map_err(disk)? {
            Some(turn) => (turn, Some(early)),
            // While this waits, the bucket goes on.
            None => (Turn::take(self.path()).map_err(disk)?, None),
        };
        let mut alone = self.state().try_lock_exclusive().map_err(disk)?;
        if !alone {
            // Another process has it open; or had, and is closing it; or is alone and catches up: this waits for both.
            self.state().lock_shared().map_err(disk)?;
            alone = self.state().try_lock_exclusive().map_err(disk)?;
        }
        if !alone {
            self.state().lock_shared().map_err(disk)?;
            drop(turn);
            return self.join_others(host, early);
        }
        reach(Point::OpenLocked);
        let compared = self.synchronize_alone(host, early)?;
        // A WAL that is gone by now was copied into the main file by a connection that was the last.
        let wal = if self.has_wal() { compared } else { Some(WalEnd::EMPTY) };
        let record = self.record()?;
        let e_tag = self.foreign_tag(record.position).or_else(|| record.e_tag.clone());
        let opened = Record { wal, main_inode: self.note_inode(), e_tag, ..record.clone() };
        if opened != record {
            self.write_record(&opened)?;
        }
        reach(Point::OpenDone);
        // From here on other processes know that this one has the database open.
        self.state().lock_shared().map_err(disk)
    }

    /// Lists the bucket from where the local file seems to be.
    fn list_early(&self) -> Result<EarlyListing> {
        let record = self.find_record()?.filter(|record| record.page_size.is_some());
        let record = if self.local_size()? > 0 { record } else { None };
        let after = record.and_then(|record| before(record.position.txid));
        Ok(EarlyListing { after, listing: self.list_briefly(after)? })
    }

    /// The early listing, if it shows what is behind `after`, and where the history ends; else another.
    fn list_again(&self, early: Option<EarlyListing>, after: Option<Txid>) -> Result<Listing> {
        match early {
            Some(early) if early.after == after => Ok(early.listing),
            // None comes before all others.
            Some(early) if early.after < after && after.is_some_and(|txid| early.listing.has_log_behind(txid)) => {
                Ok(early.listing)
            }
            _ => self.list_briefly(after),
        }
    }

    /// What the bucket holds, or what it holds from `after` on: all of it.
    fn list(&self, after: Option<Txid>) -> Result<Listing> {
        self.note(after, self.history().list(after))
    }

    /// The same, mostly by one LIST: of a long log, the middle is passed over.
    fn list_briefly(&self, after: Option<Txid>) -> Result<Listing> {
        self.note(after, self.history().list_briefly(after))
    }

    /// The same, with all that tells of what this record says.
    fn list_about(&self, record: Option<&Record>) -> Result<Listing> {
        self.note(None, self.about(record))
    }

    /// See [`Database::list_about`].
    async fn about(&self, record: Option<&Record>) -> std::result::Result<Listing, HistoryError> {
        let Some(record) = record else { return self.history().list_briefly(None).await };
        let position = record.position.txid;
        let last = record.intent.map_or(position, |intent| intent.txid.max(position));
        self.history().list_around(position, last.next()).await
    }

    fn note(
        &self,
        after: Option<Txid>,
        listing: impl Future<Output = std::result::Result<Listing, HistoryError>>,
    ) -> Result<Listing> {
        let sent = Moment::now();
        let listing = self.block_on(listing)?;
        self.listed(&listing, sent, self.config().timeout)?;
        reach(Point::OpenListed);
        if listing.is_old_litestream() {
            // Behind a transaction that is not there any more, or there is no history.
            return if after.is_some() { self.list(None) } else { Err(old_litestream(&listing)) };
        }
        self.refuse_other_layout(&listing)?;
        if listing.foreign() > 0 {
            tracing::warn!(
                database = %self.name(),
                prefix = %self.config().database_id,
                "{} objects below the database's prefix are not ours; they are left alone",
                listing.foreign()
            );
        }
        Ok(listing)
    }

    /// Bytes in the local file; 0 if there is none.
    fn local_size(&self) -> Result<u64> {
        match std::fs::metadata(self.path()) {
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::disk(self.name(), &error)),
        }
    }
}

/// The bucket as it was before this process had its turn to open.
struct EarlyListing {
    /// The log is listed behind this transaction.
    after: Option<Txid>,
    listing: Listing,
}

/// Listing behind this transaction shows what ends at `position`, and what follows.
pub(crate) fn before(position: Txid) -> Option<Txid> {
    Some(position.prev()).filter(|txid| *txid > Txid::ZERO)
}

fn old_litestream(listing: &Listing) -> Error {
    Error::new(ErrorKind::Conflict, PlanError::OldLitestream(listing.id().clone()).to_string())
}

fn other_configuration(found: &Database, config: &Config) -> Error {
    let place = |config: &Config| -> (String, DatabaseId) { (config.location.to_string(), config.database_id.clone()) };
    let ((here, id), (there, other)) = (place(found.config()), place(config));
    Error::new(
        ErrorKind::Configuration,
        format!(
            "{} is open in this process with {here}/{id} and can't be opened with {there}/{other} or other settings at \
             the same time; use the same parameters, or close it first",
            found.name()
        ),
    )
}
