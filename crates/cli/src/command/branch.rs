//! `branch`

use std::io::{self, Write};
use std::time::SystemTime;

use bottomless_history::{Branched, DatabaseId, Goal, History, InvalidDatabaseId, MergeOptions};
use bottomless_ltx::Txid;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::{OnCancel, Place, connect, restore};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report};

/// What `branch` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The database to begin with (-d is not looked at)
    #[arg(value_name = "SRC")]
    source: String,

    /// The new database; nothing may be below its prefix, and no program may have it open
    #[arg(value_name = "DST")]
    target: String,

    /// Begin with the state after this transaction, 16 hexadecimal digits as ls shows them [default: the last]
    #[arg(long, value_name = "TXID")]
    txid: Option<Txid>,

    /// Begin with the state as of this time; RFC 3339 like 2026-11-22T14:02:00Z, or like "10 minutes ago"
    #[arg(long, value_name = "TIME", conflicts_with = "txid", value_parser = restore::time)]
    timestamp: Option<SystemTime>,
}

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let usage = |error: InvalidDatabaseId| Error::Usage(error.to_string());
    let source = DatabaseId::new(options.source.as_str()).map_err(usage)?;
    let target = DatabaseId::new(options.target.as_str()).map_err(usage)?;
    let history = History::new(connect(&location).await?, source);
    let goal = match (options.txid, options.timestamp) {
        (Some(txid), _) => Goal::Txid(txid),
        (None, Some(time)) => Goal::Time(time),
        (None, None) => Goal::End,
    };
    let bar = Bar::start();
    let merging = MergeOptions { progress: Some(bar.progress()), ..MergeOptions::new(std::env::temp_dir()) };
    let left = OnCancel::new(|| {
        format!(
            "a part of the branch {target} may be there, which no program takes for a database: the same command goes on \
             with it, and bottomless-cli rm -d {target} --yes removes it"
        )
    });
    let branched = history.branch(&target, goal, &merging).await;
    left.disarm();
    drop(bar);
    let branched = branched.map_err(|error| Error::Failed(error.to_string()))?;
    Ok(output.print(&Made::new(Place::from(&location), history.id(), &target, &branched))?)
}

#[derive(Debug, Serialize)]
struct Made {
    #[serde(flatten)]
    place: Place,
    database: String,
    branch: String,
    txid: String,
    database_checksum: Option<String>,
    objects: usize,
    bytes: u64,
    found_objects: usize,
}

impl Made {
    fn new(place: Place, source: &DatabaseId, target: &DatabaseId, branched: &Branched) -> Self {
        Self {
            place,
            database: source.to_string(),
            branch: target.to_string(),
            txid: branched.txid.to_string(),
            database_checksum: branched.checksum.map(|checksum| checksum.to_string()),
            objects: branched.objects,
            bytes: branched.bytes,
            found_objects: branched.found,
        }
    }
}

impl Report for Made {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let Self { database, branch, txid, objects, bytes, .. } = self;
        let bytes = BinaryBytes(*bytes);
        if self.found_objects == self.objects {
            return writeln!(
                to,
                "{branch} is a branch of {database} as of TXID {txid} already: {objects} objects, {bytes}."
            );
        }
        writeln!(to, "{branch} is a branch of {database} as of TXID {txid}: {objects} objects, {bytes}.")
    }
}
