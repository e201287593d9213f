//! `rm --older-than`

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use bottomless_history::{
    DatabaseId, Entry, History, Layout, Listing, MergeOptions, PlanError, Policy, RestorePoint, Shortened,
    parse_interval, parse_time,
};
use bottomless_store::Object;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::{OnCancel, Place, Shelf, compact, connect};
use crate::args::Common;
use crate::error::Error;
use crate::output::{Output, Report, as_rfc3339, rfc3339_seconds};

/// How old a transaction is that need not be restorable: a time like `30d`, or a point in time.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let now = SystemTime::now();
    if let Ok(age) = parse_interval(text) {
        return Ok(age);
    }
    let expected = "a time like 24h or 30d, or a point in time like 2026-11-22T14:02:00Z, is expected";
    let time = parse_time(text, now).map_err(|_| expected.to_owned())?;
    now.duration_since(time).map_err(|_| "this point in time has not come yet".to_owned())
}

pub(super) async fn run(common: &Common, age: Duration, yes: bool, output: Output) -> Result<(), Error> {
    let policy = Policy { retention: age, ..compact::policy(None)? };
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let listing = history.list(None).await?;
    if listing.is_empty() {
        return Err(Error::Failed(PlanError::Empty(history.id().clone()).to_string()));
    }
    let going: Vec<Entry> =
        history.replaced(&policy).await?.into_iter().flat_map(|replaced| replaced.objects).collect();
    let oldest = oldest_without(&history, &listing, &going).await?;
    let mut shown = Older::new(Place::from(&location), (history.id(), listing.layout()), &going, oldest);
    if yes && !going.is_empty() {
        let left = OnCancel::new(|| "what is deleted is replaced by others; the same command goes on".to_owned());
        let shortened = history.shorten(&policy, &MergeOptions::new(std::env::temp_dir())).await;
        left.disarm();
        let Shortened { deleted, bytes, refused, .. } = shortened?;
        if let Some(refused) = &refused {
            super::warn(&format!("not everything that may go could be deleted: {refused}"));
        }
        (shown.done, shown.objects, shown.bytes) = (true, deleted, bytes);
        shown.not_deleted = refused.map(|refused| refused.to_string());
    }
    Ok(output.print(&shown)?)
}

/// The oldest point that can be restored when these objects are gone.
async fn oldest_without(history: &History, listing: &Listing, going: &[Entry]) -> Result<Option<RestorePoint>, Error> {
    let going: BTreeSet<_> = going.iter().map(|entry| entry.name).collect();
    let staying = listing.entries().iter().filter(|entry| !going.contains(&entry.name)).map(|entry| Object {
        key: entry.name.key(listing.id()),
        size: entry.size,
        modified: entry.modified,
        e_tag: entry.e_tag.clone(),
    });
    Ok(history.oldest_point(&Listing::new(listing.id().clone(), staying)).await?)
}

#[derive(Debug, Serialize)]
struct Older {
    #[serde(flatten)]
    place: Place,
    database: String,
    layout: String,
    done: bool,
    objects: usize,
    bytes: u64,
    levels: Vec<Shelf>,
    oldest_restorable: Option<Point>,
    not_deleted: Option<String>,
}

#[derive(Debug, Serialize)]
struct Point {
    txid: String,
    #[serde(serialize_with = "as_rfc3339")]
    timestamp: SystemTime,
}

impl Older {
    fn new(place: Place, (id, layout): (&DatabaseId, Layout), going: &[Entry], oldest: Option<RestorePoint>) -> Self {
        let mut entries = going.to_vec();
        entries.sort_by_key(|entry| entry.name);
        Self {
            place,
            database: id.to_string(),
            layout: layout.to_string(),
            done: false,
            objects: going.len(),
            bytes: going.iter().map(|entry| entry.size).sum(),
            levels: Shelf::of_all(&entries),
            oldest_restorable: oldest.map(|point| Point { txid: point.txid.to_string(), timestamp: point.time }),
            not_deleted: None,
        }
    }
}

impl Report for Older {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let Self { database, objects, .. } = self;
        if *objects == 0 && !self.done && self.layout == "pages" {
            return writeln!(
                to,
                "Nothing of {database} can go: it has layout pages, where page objects stand for all that is folded into them. What \
                 they replace goes when it is older than the fence window, and what is not folded yet stays \
                 (bottomless-cli compact folds it)."
            );
        }
        if *objects == 0 && !self.done {
            return writeln!(
                to,
                "Nothing of {database} can go: what is so old is still needed for what is younger, or the fence window protects \
                 it. The log goes when it is merged (bottomless-cli compact), and what lies before a snapshot when the snapshot \
                 itself is so old (bottomless-cli snapshot makes one)."
            );
        }
        let bytes = BinaryBytes(self.bytes);
        if !self.done {
            Shelf::write_all(&self.levels, to)?;
        }
        match self.done {
            true => writeln!(to, "Deleted {objects} objects of {database}, {bytes}.")?,
            false => writeln!(to, "This would delete {objects} objects of {database}, {bytes}, which others replace.")?,
        }
        if let Some(Point { txid, timestamp }) = &self.oldest_restorable {
            let then = rfc3339_seconds(*timestamp);
            writeln!(to, "What was committed since stays restorable; the oldest point is then TXID {txid} of {then}.")?;
        }
        match self.done {
            true => Ok(()),
            false => writeln!(to, "Nothing was done. Do it with --yes."),
        }
    }
}
