//! `diff`

use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::SystemTime;

use bottomless_history::{Diff, DiffSide, Goal, History, HistoryError, RestoreOptions, parse_time};
use bottomless_ltx::{PageNumber, Txid};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::{Place, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report, rfc3339};

/// What `diff` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A transaction, 16 hexadecimal digits as ls shows them (0000000000000000: the empty database), or a time like
    /// 2026-11-22T14:02:00Z or "10 minutes ago"
    #[arg(value_name = "FROM", value_parser = point)]
    from: Goal,

    /// The same [default: the last transaction]
    #[arg(value_name = "TO", value_parser = point)]
    to: Option<Goal>,
}

fn point(text: &str) -> Result<Goal, String> {
    if let Ok(txid) = Txid::from_str(text) {
        return Ok(Goal::Txid(txid));
    }
    parse_time(text, SystemTime::now())
        .map(Goal::Time)
        .map_err(|error| format!("neither a transaction (16 hexadecimal digits in lower case) nor a time: {error}"))
}

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let from = txid(&history, options.from).await?;
    let to = txid(&history, options.to.unwrap_or(Goal::End)).await?;
    let bar = Bar::start();
    let reading = RestoreOptions { progress: Some(bar.progress()), ..RestoreOptions::default() };
    let diff = history.diff(from, to, &reading).await?;
    drop(bar);
    Ok(output.print(&Differences::new(Place::from(&location), history.id().to_string(), &diff))?)
}

async fn txid(history: &History, goal: Goal) -> Result<Txid, HistoryError> {
    match goal {
        Goal::Txid(txid) => Ok(txid),
        goal => {
            let (listing, txid) = history.locate(goal).await?;
            Ok(txid.unwrap_or(listing.last_txid()))
        }
    }
}

#[derive(Debug, Serialize)]
struct Differences {
    #[serde(flatten)]
    place: Place,
    database: String,
    from: Side,
    to: Side,
    changed_pages: usize,
    added_pages: usize,
    removed_pages: usize,
    changed: Vec<u32>,
    added: Vec<u32>,
    removed: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Side {
    txid: String,
    timestamp: Option<String>,
    page_size: Option<u32>,
    pages: u32,
}

impl From<&DiffSide> for Side {
    fn from(side: &DiffSide) -> Self {
        Self {
            txid: side.txid.to_string(),
            timestamp: side.time.map(rfc3339),
            page_size: side.page_size.map(|size| size.get()),
            pages: side.size_in_pages,
        }
    }
}

impl Differences {
    fn new(place: Place, database: String, diff: &Diff) -> Self {
        let changed: Vec<u32> = diff.changed.iter().copied().map(PageNumber::get).collect();
        let (added, removed): (Vec<u32>, Vec<u32>) = (diff.added().collect(), diff.removed().collect());
        Self {
            place,
            database,
            from: Side::from(&diff.from),
            to: Side::from(&diff.to),
            changed_pages: changed.len(),
            added_pages: added.len(),
            removed_pages: removed.len(),
            changed,
            added,
            removed,
        }
    }
}

/// Ascending numbers for people: `1, 5-9, 12`.
fn ranges(numbers: &[u32]) -> String {
    let mut text = String::new();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        let separator = if text.is_empty() { "" } else { ", " };
        // A text takes whatever is written.
        let _ = match run {
            [first, .., last] => write!(text, "{separator}{first}-{last}"),
            [one] => write!(text, "{separator}{one}"),
            [] => Ok(()),
        };
    }
    text
}

impl Report for Differences {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        for (name, side) in [("From", &self.from), ("To", &self.to)] {
            let bytes = u64::from(side.pages) * u64::from(side.page_size.unwrap_or_default());
            let time = side.timestamp.as_ref().map(|time| format!(" of {time}")).unwrap_or_default();
            writeln!(to, "{name:<8} TXID {}{time}: {} pages, {}", side.txid, side.pages, BinaryBytes(bytes))?;
        }
        let lists = [("Changed", &self.changed), ("Added", &self.added), ("Removed", &self.removed)];
        for (name, pages) in lists.into_iter().filter(|(_, pages)| !pages.is_empty()) {
            let ranges = ranges(pages);
            let word = if pages.len() == 1 { "page" } else { "pages" };
            writeln!(to, "{name:<8} {} {word}: {ranges}", pages.len())?;
        }
        match (self.from.page_size, self.to.page_size) {
            (Some(from), Some(to_size)) if from != to_size => {
                writeln!(to, "The page size differs ({from} and {to_size} bytes), and with it every page.")
            }
            _ if self.changed_pages + self.added_pages + self.removed_pages == 0 => writeln!(to, "No page differs."),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shown_in_ranges() {
        assert_eq!(ranges(&[1, 5, 6, 7, 9, 11, 12]), "1, 5-7, 9, 11-12");
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[]), "");
    }
}
