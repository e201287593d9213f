//! `info`

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use bottomless_history::{DatabaseId, History, HistoryError, Level, Listing, PlanError, RestorePoint, Settings};
use bottomless_ltx::{Header, PageNumber, Txid};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;

use super::{Place, Shelf, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report, as_rfc3339, rfc3339_seconds};

pub(crate) async fn run(common: &Common, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let state = super::as_listed(|| look(&history)).await?;
    Ok(output.print(&Info::new(Place::from(&location), history.id(), state, SystemTime::now()))?)
}

/// What is asked of the store: one listing, the header of the end and that of the oldest point, and the settings where
/// there are some.
struct State {
    listing: Listing,
    settings: Settings,
    last: Header,
    oldest: Option<RestorePoint>,
    pages: Option<Pages>,
}

/// The page objects of a database that has some.
#[derive(Debug, Serialize)]
struct Pages {
    txid: String,
    unfolded_transactions: u64,
    objects: u64,
    bytes: u64,
}

async fn look(history: &History) -> Result<State, HistoryError> {
    let listing = history.list(None).await?;
    if listing.is_empty() {
        return Err(PlanError::Empty(listing.id().clone()).into());
    }
    let (settings, last, oldest) =
        futures::try_join!(history.settings(&listing), last_header(history, &listing), history.oldest_point(&listing))?;
    let pages = match listing.marker() {
        Some(marker) => Some(count(history, marker.name.max, &last).await?),
        None => None,
    };
    Ok(State { listing, settings, last, oldest, pages })
}

/// Lists the page objects: a request for every thousand.
async fn count(history: &History, marker: Txid, last: &Header) -> Result<Pages, HistoryError> {
    let bar = Bar::counting("page objects");
    let progress = bar.progress();
    let (mut objects, mut bytes) = (0, 0);
    let mut listed = history.page_objects(PageNumber::FIRST);
    while let Some(some) = listed.next().await? {
        objects += some.len() as u64;
        bytes += some.iter().map(|(_, object)| object.size).sum::<u64>();
        progress(objects, u64::from(last.size_in_pages).max(objects));
    }
    let unfolded_transactions = last.max_txid.get().saturating_sub(marker.get());
    Ok(Pages { txid: marker.to_string(), unfolded_transactions, objects, bytes })
}

/// The header of an object that ends with the last transaction: of that in the log, if it is there.
async fn last_header(history: &History, listing: &Listing) -> Result<Header, HistoryError> {
    let end = listing.last_txid();
    match listing.entries().iter().find(|entry| entry.name.max == end) {
        Some(entry) => history.header(entry.name).await,
        None => Err(PlanError::Empty(history.id().clone()).into()),
    }
}

#[derive(Debug, Serialize)]
struct Info {
    #[serde(flatten)]
    place: Place,
    database: String,
    layout: String,
    txid: String,
    database_checksum: Option<String>,
    #[serde(serialize_with = "as_rfc3339")]
    timestamp: SystemTime,
    since_last_commit_seconds: f64,
    page_size: u32,
    pages: u32,
    database_bytes: u64,
    objects: usize,
    bytes: u64,
    levels: Vec<Shelf>,
    foreign_objects: usize,
    unmerged_transactions: u64,
    page_objects: Option<Pages>,
    claims: usize,
    oldest_restorable: Option<Point>,
    fence_window_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Point {
    txid: String,
    #[serde(serialize_with = "as_rfc3339")]
    timestamp: SystemTime,
}

impl Info {
    fn new(place: Place, id: &DatabaseId, state: State, now: SystemTime) -> Self {
        let State { listing, settings, last, oldest, pages } = state;
        let entries = listing.entries();
        let time = time_of(&last);
        let merged = entries.iter().filter(|entry| entry.name.level != Level::LOG).map(|entry| entry.name.max);
        Self {
            place,
            database: id.to_string(),
            layout: listing.layout().to_string(),
            txid: last.max_txid.to_string(),
            database_checksum: last.database.map(|database| database.after.to_string()),
            timestamp: time,
            since_last_commit_seconds: now.duration_since(time).unwrap_or_default().as_secs_f64(),
            page_size: last.page_size.get(),
            pages: last.size_in_pages,
            database_bytes: u64::from(last.page_size.get()) * u64::from(last.size_in_pages),
            objects: entries.len(),
            bytes: entries.iter().map(|entry| entry.size).sum(),
            levels: Shelf::of_all(entries),
            foreign_objects: listing.foreign(),
            unmerged_transactions: last.max_txid.get() - merged.max().unwrap_or_default().get(),
            page_objects: pages,
            claims: listing.claims().len(),
            oldest_restorable: oldest
                .as_ref()
                .map(|point| Point { txid: point.txid.to_string(), timestamp: point.time }),
            fence_window_seconds: settings.fence_window.as_secs_f64(),
        }
    }
}

/// When the last transaction of an object was committed, by the writer's clock.
fn time_of(header: &Header) -> SystemTime {
    let time = Duration::from_millis(header.timestamp_ms.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if header.timestamp_ms < 0 { epoch.checked_sub(time) } else { epoch.checked_add(time) };
    time.unwrap_or(epoch)
}

impl Report for Info {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let ago = |seconds: f64| HumanDuration(Duration::from_secs_f64(seconds.floor()));
        let mut lines = vec![
            ("Database", format!("{} in {}/{}", self.database, self.place.endpoint, self.place.bucket)),
            (
                "Size",
                format!("{} ({} pages of {} bytes)", BinaryBytes(self.database_bytes), self.pages, self.page_size),
            ),
            ("Layout", self.layout.clone()),
            ("Position", format!("TXID {}", self.txid)),
            ("Checksum", self.database_checksum.clone().unwrap_or_else(|| "none in the last object".into())),
            (
                "Last commit",
                format!("{} ({} ago)", rfc3339_seconds(self.timestamp), ago(self.since_last_commit_seconds)),
            ),
            (
                "Restorable",
                match &self.oldest_restorable {
                    Some(point) => format!("from TXID {}, {}", point.txid, rfc3339_seconds(point.timestamp)),
                    None => "nothing: objects are missing (bottomless-cli verify --quick says which)".into(),
                },
            ),
            match &self.page_objects {
                None => ("Not merged", format!("{} transactions", self.unmerged_transactions)),
                Some(pages) => ("Not folded", format!("{} transactions", pages.unfolded_transactions)),
            },
            ("Fence window", format!("{:#}", HumanDuration(Duration::from_secs_f64(self.fence_window_seconds)))),
            ("In the bucket", format!("{} objects, {}", self.objects, BinaryBytes(self.bytes))),
        ];
        if let Some(Pages { txid, objects, bytes, .. }) = &self.page_objects {
            lines.push(("Page objects", format!("{objects}, {}, as of TXID {txid}", BinaryBytes(*bytes))));
        }
        if self.claims > 0 {
            let count = self.claims;
            lines.push(("Folding", format!("{count} claims: a program is at work, or was cut off and waits to go on")));
        }
        if self.foreign_objects > 0 {
            lines.push((
                "Others",
                format!("{} objects below the prefix are none of this history", self.foreign_objects),
            ));
        }
        for (name, value) in lines {
            writeln!(to, "{name:<14} {value}")?;
        }
        writeln!(to)?;
        Shelf::write_all(&self.levels, to)
    }
}
