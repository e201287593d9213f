//! `convert`

use std::io::{self, Write};
use std::time::Duration;

use bottomless_history::{
    Folded, History, Layout, Listing, MergeOptions, PlanError, Policy, Removing, RestoreOptions, Shortened,
    UnfoldOptions, Unfolded,
};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;

use super::folding::{LayoutName, Machine, fold};
use super::{OnCancel, Place, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report};

/// What `convert` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The layout that the database gets
    #[arg(long, value_name = "LAYOUT")]
    to: LayoutName,

    /// Take it that no program folds this database at this moment, whatever the bucket says: others that were cut off need
    /// not be waited for
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let listing = history.list(None).await?;
    // Of a database that was never begun, or is gone, there may be the declaration.
    let is_declared = options.to == LayoutName::Ltx && listing.declaration().is_some();
    if listing.is_empty() && !is_declared {
        return Err(Error::Failed(PlanError::Empty(history.id().clone()).to_string()));
    }
    let left = OnCancel::new(|| format!("{} can be restored as before; the same command goes on", history.id()));
    let converted = match options.to.into() {
        Layout::Pages => to_pages(&history, &listing, options.force).await,
        Layout::Ltx => to_ltx(&history, options.force).await,
    };
    left.disarm();
    let done = Done::new(Place::from(&location), &history, converted?);
    if let Some(refused) = &done.not_deleted {
        super::warn(&format!("not everything that may go could be deleted: {refused}"));
    }
    Ok(output.print(&done)?)
}

/// What was done.
#[derive(Debug)]
enum Converted {
    Pages {
        folded: Folded,
        /// It was in this layout already.
        was: bool,
        /// Objects above the log that are still there.
        left: usize,
    },
    Ltx(Unfolded),
}

async fn to_pages(history: &History, listing: &Listing, force: bool) -> Result<Converted, Error> {
    // Where it was declared only, its page objects are made now.
    let was = listing.marker().is_some();
    let mut folded = Folded::default();
    if was {
        folded.txid = listing.marker().map(|marker| marker.name.max).unwrap_or_default();
        // What an earlier call has found too young.
        let policy = Policy { retention: Duration::ZERO, ..Policy::default() };
        if has_replaced(listing) {
            folded.shortened = history.shorten(&policy, &MergeOptions::new(std::env::temp_dir())).await?;
        }
    } else {
        let machine = Machine::take(history, "fold")?;
        if force {
            for claim in listing.claims() {
                history.bucket().delete(&claim.key).await?;
            }
        }
        let (mut written, mut removed) = (0, 0);
        loop {
            folded = fold(history, &machine, true).await?;
            written += folded.written;
            removed += folded.removed;
            let Some(wait) = folded.wait.filter(|_| folded.txid < listing.last_txid()) else { break };
            if !wait.is_zero() {
                super::warn(&format!(
                    "a program that folds {} is at work, or was cut off less than a fence window ago: this goes on in {}; \
                     with --force it would at once, which is right only if no such program runs any more",
                    history.id(),
                    HumanDuration(wait)
                ));
                tokio::time::sleep(wait).await;
            }
        }
        (folded.written, folded.removed) = (written, removed);
    }
    let left = history.list(None).await?;
    let left = left.entries().iter().filter(|entry| is_above_log(entry)).count();
    Ok(Converted::Pages { folded, was, left })
}

fn is_above_log(entry: &bottomless_history::Entry) -> bool {
    use bottomless_history::Level;
    entry.name.level != Level::LOG && entry.name.level != Level::PAGES
}

fn has_replaced(listing: &Listing) -> bool {
    listing.entries().iter().any(is_above_log)
}

async fn to_ltx(history: &History, force: bool) -> Result<Converted, Error> {
    let machine = Machine::take(history, "unfold")?;
    // Three things one after the other: restoring, making the snapshot, deleting.
    let bar = Bar::share();
    let options = UnfoldOptions {
        merge: MergeOptions { progress: Some(bar.progress()), ..MergeOptions::new(std::env::temp_dir()) },
        restore: RestoreOptions { progress: Some(bar.progress()), ..RestoreOptions::default() },
        removing: Removing(Some(bar.progress())),
        machine: machine.id,
        force,
    };
    Ok(Converted::Ltx(history.unfold(&options).await?))
}

#[derive(Debug, Serialize)]
struct Done {
    #[serde(flatten)]
    place: Place,
    database: String,
    layout: String,
    converted: bool,
    txid: String,
    written_pages: u64,
    equal_pages: u64,
    removed_pages: u64,
    snapshot: Option<String>,
    snapshot_bytes: Option<u64>,
    deleted_objects: usize,
    deleted_bytes: u64,
    replaced_objects: usize,
    not_deleted: Option<String>,
}

impl Done {
    fn new(place: Place, history: &History, converted: Converted) -> Self {
        let mut done = Self {
            place,
            database: history.id().to_string(),
            layout: Layout::Ltx.to_string(),
            converted: true,
            txid: String::new(),
            written_pages: 0,
            equal_pages: 0,
            removed_pages: 0,
            snapshot: None,
            snapshot_bytes: None,
            deleted_objects: 0,
            deleted_bytes: 0,
            replaced_objects: 0,
            not_deleted: None,
        };
        match converted {
            Converted::Pages { folded, was, left } => {
                let Shortened { deleted, bytes, refused, .. } = folded.shortened;
                done.layout = Layout::Pages.to_string();
                done.converted = !was;
                done.txid = folded.txid.to_string();
                (done.written_pages, done.equal_pages) = (folded.written, folded.equal);
                done.removed_pages = folded.removed;
                (done.deleted_objects, done.deleted_bytes) = (deleted, bytes);
                done.replaced_objects = left;
                done.not_deleted = refused.map(|refused| refused.to_string());
            }
            Converted::Ltx(unfolded) => {
                done.converted = unfolded.declaration || unfolded.markers > 0 || unfolded.pages > 0;
                done.txid = unfolded.txid.to_string();
                done.removed_pages = unfolded.pages;
                done.snapshot = unfolded.snapshot.as_ref().map(|entry| entry.name.key(history.id()));
                done.snapshot_bytes = unfolded.snapshot.map(|entry| entry.size);
            }
        }
        done
    }
}

impl Report for Done {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let Self { database, layout, txid, written_pages, equal_pages, removed_pages, .. } = self;
        if !self.converted {
            writeln!(to, "{database} has layout {layout} already.")?;
        } else if layout == "pages" {
            writeln!(
                to,
                "{database} has layout pages, as of TXID {txid}: {} page objects, {written_pages} of them written now.",
                written_pages + equal_pages
            )?;
        } else {
            if let (Some(key), Some(bytes)) = (&self.snapshot, self.snapshot_bytes) {
                writeln!(to, "Made {key}: {}.", BinaryBytes(bytes))?;
            }
            writeln!(to, "{database} has layout ltx: {removed_pages} page objects were deleted.")?;
        }
        if self.deleted_objects > 0 {
            let bytes = BinaryBytes(self.deleted_bytes);
            writeln!(to, "Deleted {} objects that the page objects replace, {bytes}.", self.deleted_objects)?;
        }
        match self.replaced_objects {
            0 => Ok(()),
            count => writeln!(
                to,
                "{count} snapshots and merged runs stay until they are older than the fence window; bottomless-cli compact, or a \
                 program that has the database open, deletes them then. After that no point in time before TXID {txid} can \
                 be restored."
            ),
        }
    }
}
