//! `verify`

use std::io::{self, Write};
use std::sync::Arc;

use bottomless_history::{Audit, AuditOptions, History, Problem, Severity};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::{Place, Run, connect};
use crate::args::Common;
use crate::bar::Bar;
use crate::error::Error;
use crate::output::{Output, Report};

/// What `verify` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Check names, sizes, headers and trailers only: two small requests for each object
    #[arg(long)]
    quick: bool,
}

pub(crate) async fn run(common: &Common, options: &Options, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let history = History::new(connect(&location).await?, common.one_database()?);
    let bar = Bar::start();
    let restore_into = match options.quick {
        true => None,
        // Without a name: whatever ends this process, nothing is left of it.
        false => Some(Arc::new(tempfile::tempfile()?)),
    };
    let audit =
        AuditOptions { quick: options.quick, restore_into, progress: Some(bar.progress()), ..AuditOptions::default() };
    let audit = history.audit(&audit).await?;
    drop(bar);
    output.print(&Verified::new(Place::from(&location), options.quick, &audit))?;
    if audit.is_ok() { Ok(()) } else { Err(Error::Reported) }
}

#[derive(Debug, Serialize)]
struct Verified {
    #[serde(flatten)]
    place: Place,
    database: String,
    ok: bool,
    quick: bool,
    objects: usize,
    bytes: u64,
    last_txid: String,
    restorable: Vec<Run>,
    restored: Option<Restored>,
    errors: usize,
    warnings: usize,
    problems: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Restored {
    txid: String,
    database_checksum: String,
    page_size: u32,
    pages: u32,
}

#[derive(Debug, Serialize)]
struct Found {
    key: Option<String>,
    severity: &'static str,
    problem: String,
    advice: String,
}

impl Verified {
    fn new(place: Place, quick: bool, audit: &Audit) -> Self {
        let count = |severity| audit.problems.iter().filter(|problem| problem.severity == severity).count();
        Self {
            place,
            database: audit.listing.id().to_string(),
            ok: audit.is_ok(),
            quick,
            objects: audit.listing.entries().len(),
            bytes: audit.listing.entries().iter().map(|entry| entry.size).sum(),
            last_txid: audit.listing.last_txid().to_string(),
            restorable: audit.restorable.iter().map(Run::from).collect(),
            restored: audit.restored.as_ref().map(|restored| Restored {
                txid: restored.position.txid.to_string(),
                database_checksum: restored.position.checksum.to_string(),
                page_size: restored.page_size.get(),
                pages: restored.size_in_pages,
            }),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            problems: audit.problems.iter().map(Found::from).collect(),
        }
    }
}

impl From<&Problem> for Found {
    fn from(found: &Problem) -> Self {
        let severity = match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        Self { key: found.key.clone(), severity, problem: found.problem.clone(), advice: found.advice.clone() }
    }
}

impl Report for Verified {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        for Found { key, severity, problem, advice } in &self.problems {
            let key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
            writeln!(to, "{severity}: {key}{problem}; {advice}")?;
        }
        writeln!(
            to,
            "{}: {} objects, {}, up to TXID {}: {} errors, {} warnings.",
            self.database,
            self.objects,
            BinaryBytes(self.bytes),
            self.last_txid,
            self.errors,
            self.warnings
        )?;
        let points: Vec<String> = self.restorable.iter().rev().take(5).map(Run::to_string).collect();
        let more = self.restorable.len() - points.len();
        if !points.is_empty() {
            let more = if more > 0 { format!(", and {more} earlier points") } else { String::new() };
            writeln!(to, "What can be restored: {}{more}.", points.join(", "))?;
        }
        match &self.restored {
            Some(restored) => writeln!(
                to,
                "TXID {} was restored: {} pages, database checksum {}.",
                restored.txid, restored.pages, restored.database_checksum
            ),
            None if self.quick => writeln!(to, "The pages were not read, and nothing was restored (--quick)."),
            None => Ok(()),
        }
    }
}
