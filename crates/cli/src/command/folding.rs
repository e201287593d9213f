//! Folding the log into page objects, for the commands that do.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher as _;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use bottomless_history::{FoldOptions, Folded, History, Layout, Listing, MergeOptions, Stop};
use clap::ValueEnum;
use indicatif::HumanDuration;
use serde::Serialize;

use crate::bar::Bar;
use crate::error::Error;

/// A layout, as it is named on the command line and in `LIBSQL_BOTTOMLESS_LAYOUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LayoutName {
    /// Objects that hold many pages
    Ltx,
    /// An object for each page
    Pages,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Ltx => Self::Ltx,
            LayoutName::Pages => Self::Pages,
        }
    }
}

/// The layout that a database has or, where only its log is there, gets by the variables of this environment.
pub(super) fn layout_of(listing: &Listing) -> Result<Layout, Error> {
    const VARIABLE: &str = "LIBSQL_BOTTOMLESS_LAYOUT";
    let wanted = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let wanted = wanted.map(|text| LayoutName::from_str(&text, false)).transpose();
    let wanted = wanted.map_err(|_| Error::Usage(format!("{VARIABLE} must be ltx or pages")))?;
    let is_open = listing.merged().is_empty();
    Ok(match wanted {
        Some(LayoutName::Pages) if is_open => Layout::Pages,
        _ => listing.layout(),
    })
}

/// What this program is to others that fold: one on this machine, and the only one. It is that for as long as this is held.
#[derive(Debug)]
pub(super) struct Machine {
    /// The same for all calls for one purpose on this machine, until it is started again; of machines that were made from one
    /// image each has another. It differs between the purposes, since requests of one that is cut off may still arrive.
    ///
    /// Where the kernel does not say which start this is, no two calls have the same: what one leaves is another's to the next.
    pub(super) id: u64,
    _lock: UnixListener,
}

impl Machine {
    pub(super) fn take(history: &History, purpose: &str) -> Result<Self, Error> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let network = fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let machine = (read("/proc/sys/kernel/hostname"), read("/etc/machine-id"), network);
        let database = (history.bucket().location().to_string(), history.id().as_str());
        // Nothing of it stays behind, whatever ends this process.
        let name = format!("bottomless-cli/{:016x}", hash(&(&machine, &database)));
        match SocketAddr::from_abstract_name(&name).and_then(|address| UnixListener::bind_addr(&address)) {
            Ok(lock) => {
                let start = start(Path::new("/proc/sys/kernel/random/boot_id"))?;
                Ok(Self { id: hash(&(&machine, start, &database, purpose)), _lock: lock })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::Failed(format!(
                "another bottomless-cli on this machine folds, converts or removes {} at this moment; wait until it is done",
                history.id()
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

/// Which start of the machine this is: random, so that it is the one thing that copies of a machine don't share.
fn start(boot_id: &Path) -> io::Result<String> {
    match fs::read_to_string(boot_id) {
        Ok(id) if !id.trim().is_empty() => Ok(id),
        _ => Ok(getrandom::u64().map_err(io::Error::other)?.to_string()),
    }
}

fn hash(what: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Folds once, with a progress bar. Whether it `converts` what is in the other layout, see [`FoldOptions::converts`].
pub(super) async fn fold(history: &History, machine: &Machine, converts: bool) -> Result<Folded, Error> {
    let bar = Bar::start();
    let options = FoldOptions {
        merge: MergeOptions { progress: Some(bar.progress()), ..MergeOptions::new(std::env::temp_dir()) },
        machine: machine.id,
        is_fenced: std::env::var("LIBSQL_BOTTOMLESS_FENCING").ok().as_deref() != Some("off"),
        converts,
        stop: Stop::default(),
    };
    Ok(history.fold(&options).await?)
}

/// What a fold has done, in JSON.
#[derive(Debug, Serialize)]
pub(super) struct FoldedPages {
    pub(super) txid: String,
    pub(super) written_pages: u64,
    pub(super) equal_pages: u64,
    pub(super) removed_pages: u64,
    pub(super) wait_seconds: Option<f64>,
}

impl From<&Folded> for FoldedPages {
    fn from(folded: &Folded) -> Self {
        Self {
            txid: folded.txid.to_string(),
            written_pages: folded.written,
            equal_pages: folded.equal,
            removed_pages: folded.removed,
            wait_seconds: folded.wait.map(|wait| wait.as_secs_f64()),
        }
    }
}

impl FoldedPages {
    pub(super) fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let Self { txid, written_pages, equal_pages, removed_pages, wait_seconds } = self;
        writeln!(
            to,
            "Folded up to TXID {txid}: {written_pages} page objects were written, {equal_pages} were right already, and \
             {removed_pages} were deleted."
        )?;
        match wait_seconds.filter(|seconds| *seconds > 0.0) {
            Some(seconds) => writeln!(
                to,
                "Not all of the log is folded: another program folds it, or was cut off. The same command can go on in {}.",
                HumanDuration(Duration::from_secs_f64(seconds.ceil()))
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use bottomless_history::DatabaseId;
    use bottomless_store::{Bucket, Location};
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn one_program_of_a_machine_folds_a_database() {
        let location = Location::new("http://localhost:1".parse().unwrap(), "of-this-test").unwrap();
        let bucket = Bucket::from_object_store(Arc::new(InMemory::new()), location);
        let history = |id| History::new(bucket.clone(), DatabaseId::new(id).unwrap());
        let first = Machine::take(&history("a.db"), "fold").unwrap();
        let refused = Machine::take(&history("a.db"), "unfold").unwrap_err().to_string();
        assert!(refused.contains("another bottomless-cli"), "{refused}");
        assert_ne!(Machine::take(&history("b.db"), "fold").unwrap().id, first.id);
        let id = first.id;
        drop(first);
        assert_eq!(Machine::take(&history("a.db"), "fold").unwrap().id, id, "it is the same the next time");
        assert_ne!(Machine::take(&history("a.db"), "unfold").unwrap().id, id);
    }

    #[test]
    fn copies_of_a_machine_differ_by_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, none] = ["one", "other", "none"].map(|name| folder.path().join(name));
        fs::write(&one, "0d6f1f0c-4f0e-4b3a-8a53-6a1f2d6f2a11\n").unwrap();
        fs::write(&other, "5b8ad1f6-9f3e-4a39-a1a0-2f4a7f0b7c22\n").unwrap();
        assert_eq!(start(&one).unwrap(), start(&one).unwrap());
        assert_ne!(start(&one).unwrap(), start(&other).unwrap());
        assert_ne!(start(&none).unwrap(), start(&none).unwrap(), "each call is another");
        fs::write(&none, "\n").unwrap();
        assert_ne!(start(&none).unwrap(), start(&none).unwrap());
    }
}
