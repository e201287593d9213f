//! `compact` and `snapshot`

use std::io::{self, Write};
use std::time::Duration;

use bottomless_engine::config;
use bottomless_history::{
    Compacted, DatabaseId, Folded, History, InvalidInterval, Layout, MergeOptions, Merged, PlanError, Policy, Scope,
    parse_interval,
};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::folding::{self, FoldedPages};
use super::{OnCancel, Place, connect, kind};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report};

/// What `compact` and `snapshot` need.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Keep every transaction restorable for this long, like 24h or 7d [default: $LIBSQL_BOTTOMLESS_RETENTION, else 24h]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    retention: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, InvalidInterval> {
    parse_interval(text)
}

/// As the extension would have it, by the variables of this environment.
pub(super) fn policy(retention: Option<Duration>) -> Result<Policy, Error> {
    let policy = config::policy(&config::Environment).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(Policy { retention: retention.unwrap_or(policy.retention), ..policy })
}

pub(crate) async fn run(common: &Common, options: &Options, scope: Scope, output: Output) -> Result<(), Error> {
    let policy = policy(options.retention)?;
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let listing = history.list(None).await?;
    if listing.is_empty() {
        return Err(Error::Failed(PlanError::Empty(history.id().clone()).to_string()));
    }
    if folding::layout_of(&listing)? == Layout::Pages {
        match scope {
            Scope::Snapshot => {
                return Err(Error::Failed(format!(
                    "{0} has layout pages: its page objects are what a snapshot would hold, and none is made beside them. Write \
                 it into a file (bottomless-cli restore), or give it the other layout (bottomless-cli convert -d {0} --to \
                 ltx)",
                    history.id()
                )));
            }
            _ => {
                if let Some(done) = fold(Place::from(&location), &history).await? {
                    return Ok(output.print(&done)?);
                }
            }
        }
    }
    let bar = Bar::start();
    let merging = MergeOptions { progress: Some(bar.progress()), ..MergeOptions::new(std::env::temp_dir()) };
    let left = OnCancel::new(|| "what was merged stays; nothing is lost, and the same command goes on".to_owned());
    let compacted = history.compact(&policy, scope, &merging).await;
    left.disarm();
    drop(bar);
    let compacted = compacted?;
    if let Some(refused) = &compacted.shortened.refused {
        super::warn(&format!("not everything that may go could be deleted: {refused}"));
    }
    Ok(output.print(&Done::new(Place::from(&location), history.id(), &compacted))?)
}

/// None where it was converted to the other layout meanwhile.
async fn fold(place: Place, history: &History) -> Result<Option<Done>, Error> {
    let machine = folding::Machine::take(history, "fold")?;
    let left = OnCancel::new(|| "what was folded stays; nothing is lost, and the same command goes on".to_owned());
    let folded = folding::fold(history, &machine, false).await;
    left.disarm();
    let folded = folded?;
    if folded.layout == Layout::Ltx {
        return Ok(None);
    }
    if let Some(refused) = &folded.shortened.refused {
        super::warn(&format!("not everything that may go could be deleted: {refused}"));
    }
    Ok(Some(Done::of_fold(place, history.id(), &folded)))
}

#[derive(Debug, Serialize)]
struct Done {
    #[serde(flatten)]
    place: Place,
    database: String,
    layout: String,
    folded: Option<FoldedPages>,
    made: Vec<Made>,
    deleted_objects: usize,
    deleted_bytes: u64,
    not_deleted: Option<String>,
}

#[derive(Debug, Serialize)]
struct Made {
    key: String,
    level: u8,
    kind: &'static str,
    min_txid: String,
    max_txid: String,
    bytes: u64,
    pages: u32,
    downloaded_bytes: u64,
}

impl Made {
    fn new(id: &DatabaseId, merged: &Merged) -> Self {
        let name = merged.entry.name;
        Self {
            key: name.key(id),
            level: name.level.get(),
            kind: kind(name.level),
            min_txid: name.min.to_string(),
            max_txid: name.max.to_string(),
            bytes: merged.entry.size,
            pages: merged.pages,
            downloaded_bytes: merged.downloaded,
        }
    }
}

impl Done {
    fn new(place: Place, id: &DatabaseId, compacted: &Compacted) -> Self {
        Self {
            place,
            database: id.to_string(),
            layout: Layout::Ltx.to_string(),
            folded: None,
            // What another has made in the same moment is not ours to tell of.
            made: compacted.made.iter().filter(|merged| merged.created).map(|merged| Made::new(id, merged)).collect(),
            deleted_objects: compacted.shortened.deleted,
            deleted_bytes: compacted.shortened.bytes,
            not_deleted: compacted.shortened.refused.as_ref().map(ToString::to_string),
        }
    }

    fn of_fold(place: Place, id: &DatabaseId, folded: &Folded) -> Self {
        Self {
            place,
            database: id.to_string(),
            layout: Layout::Pages.to_string(),
            folded: Some(FoldedPages::from(folded)),
            made: Vec::new(),
            deleted_objects: folded.shortened.deleted,
            deleted_bytes: folded.shortened.bytes,
            not_deleted: folded.shortened.refused.as_ref().map(ToString::to_string),
        }
    }
}

impl Report for Done {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        for made in &self.made {
            let Made { key, pages, .. } = made;
            writeln!(to, "Made {key}: {pages} pages, {}.", BinaryBytes(made.bytes))?;
        }
        if let Some(folded) = &self.folded {
            folded.write_text(to)?;
        } else if self.made.is_empty() {
            writeln!(to, "There was nothing to merge.")?;
        }
        match self.deleted_objects {
            0 => writeln!(to, "Nothing was deleted: what is replaced stays for the retention and the fence window."),
            count => writeln!(to, "Deleted {count} objects that are replaced, {}.", BinaryBytes(self.deleted_bytes)),
        }
    }
}
