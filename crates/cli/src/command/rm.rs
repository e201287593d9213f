//! `rm`

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bottomless_history::{
    DatabaseId, History, HistoryError, MergeOptions, PlanError, Progress, Removal, RemoveOptions, Unremoved,
};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::folding::Machine;
use super::{OnCancel, Place, Shelf, connect, rm_older};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report};

/// What `rm` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Do it; without this, only what would be done is shown
    #[arg(long)]
    yes: bool,

    /// Only what transactions of this age or younger don't need, like 30d, or 2026-11-22T14:02:00Z: the database stays
    #[arg(long, value_name = "TIME", value_parser = rm_older::age)]
    older_than: Option<Duration>,

    /// Take it that no program folds this database at this moment, whatever the bucket says: others that were cut off need
    /// not be waited for
    #[arg(long, conflicts_with = "older_than")]
    force: bool,
}

/// A compaction that was under way may have made an object meanwhile.
const ROUNDS: usize = 3;

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    if let Some(age) = options.older_than {
        return rm_older::run(common, age, options.yes, output).await;
    }
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let mut removal = history.removal().await?;
    if removal.is_empty() {
        return Err(Error::Failed(PlanError::Empty(history.id().clone()).to_string()));
    }
    let mut removed = Removed::new(Place::from(&location), history.id(), &removal);
    if !options.yes {
        return Ok(output.print(&removed)?);
    }
    let mut machine = None;
    for _ in 0..ROUNDS {
        if removal.is_paged() && machine.is_none() {
            machine = Some(Machine::take(&history, "remove")?);
        }
        let machine = machine.as_ref().map_or(0, |machine| machine.id);
        remove(&history, &removal, machine, options.force).await?;
        removal = history.removal().await?;
        if removal.is_empty() {
            removed.done = true;
            return Ok(output.print(&removed)?);
        }
    }
    Err(Error::Failed(format!(
        "{} objects of {} came to be there while it was removed: a program has it open and writes to it, or compacts \
         it in the background; close it, and remove it again",
        removal.count(),
        history.id()
    )))
}

async fn remove(history: &History, removal: &Removal, machine: u64, force: bool) -> Result<(), Error> {
    let bar = Bar::counting("objects");
    let drawn = bar.progress();
    let deleted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&deleted);
    let progress: Progress = Arc::new(move |done, total| {
        count.store(done, Ordering::Relaxed);
        drawn(done, total);
    });
    let left = OnCancel::new(|| {
        let (deleted, total) = (deleted.load(Ordering::Relaxed), removal.count());
        format!(
            "{deleted} of {total} objects of {} were deleted: what is left is no whole database; the same command goes on",
            history.id()
        )
    });
    let timeout = MergeOptions::new(std::env::temp_dir()).timeout;
    let result = history.remove(removal, &RemoveOptions { machine, force, timeout, progress: Some(progress) }).await;
    left.disarm();
    result.map_err(|error| match error {
        Unremoved::Whole(HistoryError::Claimed { .. }) if !force => Error::Failed(format!(
            "{error}; with --force it would be removed at once, which is right only if no such program runs any more"
        )),
        _ => Error::Failed(error.to_string()),
    })
}

#[derive(Debug, Serialize)]
struct Removed {
    #[serde(flatten)]
    place: Place,
    database: String,
    done: bool,
    objects: usize,
    bytes: u64,
    page_objects: u64,
    levels: Vec<Shelf>,
    foreign_objects: Vec<String>,
}

impl Removed {
    fn new(place: Place, id: &DatabaseId, removal: &Removal) -> Self {
        let mut entries = removal.objects.clone();
        entries.sort_by_key(|entry| entry.name);
        Self {
            place,
            database: id.to_string(),
            done: false,
            objects: removal.count(),
            bytes: removal.bytes(),
            page_objects: removal.pages.count,
            levels: Shelf::of_all(&entries),
            foreign_objects: removal.foreign.clone(),
        }
    }
}

impl Report for Removed {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        /// More keys than this are only counted.
        const SHOWN: usize = 10;
        let Self { database, objects, .. } = self;
        let bytes = BinaryBytes(self.bytes);
        Shelf::write_all(&self.levels, to)?;
        match self.done {
            true => writeln!(to, "Removed {database}: {objects} objects, {bytes}.")?,
            false => {
                writeln!(
                    to,
                    "This would remove {database}: {objects} objects, {bytes}. Nothing of it could be restored."
                )?;
            }
        }
        if self.page_objects > 0 {
            writeln!(to, "{} of them are page objects.", self.page_objects)?;
        }
        if !self.foreign_objects.is_empty() {
            let count = self.foreign_objects.len();
            writeln!(to, "{count} other objects lie below {database}/, and stay:")?;
            for key in self.foreign_objects.iter().take(SHOWN) {
                writeln!(to, "  {key}")?;
            }
            if count > SHOWN {
                writeln!(to, "  …")?;
            }
        }
        match self.done {
            true => Ok(()),
            false => writeln!(
                to,
                "Nothing was done. Close every program that has it open (they also compact it in the background), and do it with \
                 --yes."
            ),
        }
    }
}
