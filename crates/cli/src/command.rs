//! The subcommands, one module each.
//!
//! What each prints, as text and with `--json`, is promised in `docs/cli.md`.

pub(crate) mod branch;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod create_bucket;
pub(crate) mod diff;
pub(crate) mod doctor;
mod folding;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod restore;
pub(crate) mod rm;
mod rm_older;
mod shelf;
pub(crate) mod verify;

use std::fmt;
use std::io::Write as _;
use std::ops::RangeInclusive;

use bottomless_history::{HistoryError, Level, Scope};
use bottomless_ltx::Txid;
use bottomless_store::{Bucket, Location, Transport};
use clap::Subcommand;
use serde::Serialize;

use crate::args::Common;
use crate::bar::Stderr;
use crate::error::Error;
use crate::output::Output;

use shelf::Shelf;

/// What to do. Each command has its module, with its options and what it prints.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the databases of the bucket, or with -d the objects of one
    Ls,
    /// Show one database: size, position, objects by level, oldest restorable point
    Info,
    /// Write a database of the bucket into a file
    Restore(restore::Options),
    /// Download and check every object of a database, how they fit together, and that its end can be restored
    ///
    /// The end is restored into a temporary file (in $TMPDIR), which becomes as large as the database. Exit code 1 when
    /// something is wrong; each problem is one line that names the object and what to do.
    Verify(verify::Options),
    /// Show which pages differ between two points of a database's history
    Diff(diff::Options),
    /// Make a new database of any point of another, by copies within the bucket
    ///
    /// Each goes its own way from there. Cut off anywhere, the new one is not taken for a database by any program; the same
    /// command goes on with it.
    Branch(branch::Options),
    /// Put an existing SQLite file into the bucket, as the first transaction of a new database
    ///
    /// The file is read as of one commit, while other programs may go on with it, and is not changed. Without -d, the
    /// database has the file's name.
    Import(import::Options),
    /// Merge what there is to merge at once, and delete what is replaced and older than the retention
    ///
    /// As programs that have the database open do it by and by, in the background; they may go on meanwhile. Takes as much
    /// room in $TMPDIR as what is merged.
    Compact(compact::Options),
    /// Make a snapshot, which holds every page: what lies before it can go when it is older than the retention
    ///
    /// Also merges and deletes, as compact does.
    Snapshot(compact::Options),
    /// Give a database the other layout in place: objects that hold many pages (ltx), or an object for each page (pages)
    ///
    /// Programs may go on committing. Cut off anywhere, the database can be restored as before, and the same command goes on.
    Convert(convert::Options),
    /// Remove a database from the bucket, or what lies before an age; shows what it would do, and does it with --yes
    ///
    /// Nothing brings it back. Close every program that has the database open before, on every machine: that can't be seen
    /// from here. Such a program would go on writing, and its compaction in the background would leave objects behind.
    Rm(rm::Options),
    /// Check the store: reachable, credentials, bucket, conditional writes, round trip, clock
    ///
    /// Writes a few small objects and deletes them again.
    Doctor,
    /// Create the bucket; that it exists already is fine
    CreateBucket,
    /// Print what makes a shell complete the commands and options
    Completions(completions::Options),
    /// Print the manual page, or write it and those of all commands into a folder
    Man(man::Options),
}

impl Command {
    /// Does it. When it is interrupted, the future is dropped: what is unfinished must go away with it.
    pub(crate) async fn run(&self, common: &Common, output: Output) -> Result<(), Error> {
        match self {
            Self::Ls => ls::run(common, output).await,
            Self::Info => info::run(common, output).await,
            Self::Restore(options) => restore::run(common, options, output).await,
            Self::Verify(options) => verify::run(common, options, output).await,
            Self::Diff(options) => diff::run(common, options, output).await,
            Self::Branch(options) => branch::run(common, options, output).await,
            Self::Import(options) => import::run(common, options, output).await,
            Self::Compact(options) => compact::run(common, options, Scope::Now, output).await,
            Self::Snapshot(options) => compact::run(common, options, Scope::Snapshot, output).await,
            Self::Convert(options) => convert::run(common, options, output).await,
            Self::Rm(options) => rm::run(common, options, output).await,
            Self::Doctor => doctor::run(common, output).await,
            Self::CreateBucket => create_bucket::run(common, output).await,
            Self::Completions(options) => completions::run(options, output),
            Self::Man(options) => man::run(options, output),
        }
    }
}

/// The fields with which every report begins.
#[derive(Debug, Serialize)]
struct Place {
    endpoint: String,
    bucket: String,
}

impl From<&Location> for Place {
    fn from(location: &Location) -> Self {
        Self { endpoint: location.endpoint.to_string(), bucket: location.bucket.clone() }
    }
}

/// Consecutive transactions.
#[derive(Debug, Serialize)]
struct Run {
    first_txid: String,
    last_txid: String,
}

impl From<&RangeInclusive<Txid>> for Run {
    fn from(run: &RangeInclusive<Txid>) -> Self {
        Self { first_txid: run.start().to_string(), last_txid: run.end().to_string() }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first_txid == self.last_txid {
            true => f.write_str(&self.first_txid),
            false => write!(f, "{} to {}", self.first_txid, self.last_txid),
        }
    }
}

/// What objects of a level are.
fn kind(level: Level) -> &'static str {
    match level {
        Level::LOG => "log",
        Level::SNAPSHOT => "snapshot",
        Level::PAGES => "marker",
        _ => "compacted",
    }
}

/// Objects may be compacted away between the listing and what is asked of them: so often it is all done anew.
const LISTINGS: usize = 4;

/// Does what begins with a listing, and begins again while the bucket is not any more as it was listed.
async fn as_listed<T>(work: impl AsyncFn() -> Result<T, HistoryError>) -> Result<T, HistoryError> {
    for _ in 1..LISTINGS {
        match work().await {
            Err(error) if error.is_outdated() => {}
            done => return done,
        }
    }
    work().await
}

async fn connect(location: &Location) -> Result<Bucket, Error> {
    Ok(Bucket::connect(location, &Transport::new()?).await?)
}

/// Says what is left when the command is interrupted: when its future is dropped, and this with it.
struct OnCancel<F: Fn() -> String>(Option<F>);

impl<F: Fn() -> String> OnCancel<F> {
    fn new(says: F) -> Self {
        Self(Some(says))
    }

    /// It came to its end, well or not.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl<F: Fn() -> String> Drop for OnCancel<F> {
    fn drop(&mut self) {
        if let Some(says) = &self.0 {
            warn(&says());
        }
    }
}

/// Says something on standard error.
fn warn(text: &str) {
    // When it can't be written there is nobody to tell.
    let _ = writeln!(Stderr, "bottomless-cli: {text}");
}
