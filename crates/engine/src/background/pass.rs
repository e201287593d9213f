//! One pass over one database.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_history::{FoldOptions, History, Layout, Level, MergeOptions, Scope};
use bottomless_ltx::Txid;
use bottomless_store::Bucket;

use super::lock::CompactionLock;
use super::upkeep::Upkeep;
use crate::clock::milliseconds;
use crate::copies::LocalCopies;
use crate::error::{Error, Result};
use crate::state::{Glance, PassNote, machine_number};

/// Requests at the same time: the program's own must have room.
const REQUESTS: usize = 8;

/// How a pass ended.
pub(super) enum Passed {
    Done(Done),
    /// Another process has just looked after it: look again after this time.
    Wait(Duration),
    /// Another process does so now: look again after this time.
    Busy(Duration),
}

/// What a pass has done.
pub(super) struct Done {
    pub(super) note: PassNote,
    /// After this time something is due of what is there; none: as far as is known, nothing.
    pub(super) due_after: Option<Duration>,
    /// Why what is replaced could not be deleted.
    pub(super) refused: Option<Error>,
    /// Up to which transaction the page objects are, where there are any.
    pub(super) folded_to: Option<Txid>,
    /// After this time there is something to fold that could not be folded now.
    pub(super) wait: Option<Duration>,
}

/// Why a pass is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Somebody waits for it.
    pub(super) is_urgent: bool,
    /// The note that this process has left of its last pass.
    pub(super) own_last: Option<PassNote>,
}

/// Does what is due.
pub(super) async fn pass(upkeep: &Upkeep, bucket: Bucket, turn: Turn) -> Result<Passed> {
    let path = &upkeep.path;
    let disk = |error: std::io::Error| Error::disk(format_args!("{}: compaction", path.display()), &error);
    let level1 = upkeep.policy.levels[0];
    let Some(_lock) = CompactionLock::try_take(path).map_err(disk)? else {
        return Ok(Passed::Busy(level1));
    };
    let glance = Glance::take(path, upkeep.identity).map_err(disk)?;
    let position = glance.map_or(Txid::ZERO, |glance| glance.position);
    let now_ms = milliseconds(SystemTime::now());
    let last =
        glance.and_then(|glance| glance.last_pass).filter(|last| Some(*last) != turn.own_last && !turn.is_urgent);
    if let Some(last) = last {
        // Another process's. A time that is still to come is of a clock that was set back.
        let age = u64::try_from(now_ms - last.at_ms).map(Duration::from_millis);
        let left = age.map_or(Duration::ZERO, |age| level1.saturating_sub(age));
        if !left.is_zero() {
            return Ok(Passed::Wait(left));
        }
    }
    let history = History::new(bucket.with_patience(upkeep.patience), upkeep.id.clone());
    let copies = Arc::new(LocalCopies::new(path, upkeep.identity));
    let mut options = MergeOptions::new(path.parent().unwrap_or_else(|| Path::new(".")));
    options.requests = REQUESTS;
    options.timeout = upkeep.patience;
    if !upkeep.is_fenced {
        // An upload in parts has no condition. Whoever makes the object makes the same.
        options.put_length = 0;
    }
    options.copies = Some(Arc::clone(&copies) as _);
    options.pages = upkeep.pages();
    let work = Work {
        upkeep,
        history,
        copies,
        options,
        note: PassNote { identity: upkeep.identity, at_ms: now_ms, txid: position },
    };
    // As the bucket has it now: whoever converts it asks nobody.
    loop {
        let done = match upkeep.layout() {
            Layout::Ltx => work.compact().await?,
            Layout::Pages => work.fold(machine_number(path, upkeep.identity).map_err(disk)?).await?,
        };
        if let Some(done) = done {
            return Ok(Passed::Done(done));
        }
        if upkeep.stop.is_stopped() {
            return Ok(Passed::Wait(Duration::ZERO));
        }
    }
}

/// A pass with all that it needs.
struct Work<'a> {
    upkeep: &'a Upkeep,
    history: History,
    copies: Arc<LocalCopies>,
    options: MergeOptions,
    note: PassNote,
}

impl Work<'_> {
    /// None where it is in the layout of pages now.
    async fn compact(&self) -> Result<Option<Done>> {
        let compacted = self.history.compact(&self.upkeep.policy, Scope::Due, &self.options).await?;
        self.upkeep.saw_layout(compacted.layout);
        if compacted.layout == Layout::Pages {
            return Ok(None);
        }
        self.leave_note();
        let made = || compacted.made.iter().map(|merged| merged.entry.name);
        let above =
            |level| made().filter(move |name| name.level > level).map(|name| name.max).max().unwrap_or_default();
        self.copies.release(above);
        self.upkeep.passed(above(Level::LOG));
        let refused = compacted.shortened.refused.map(Error::from);
        // The store's clock may not be ours: when the thread looks too early, it looks again.
        let due_after = compacted.next.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        Ok(Some(Done { note: self.note, due_after, refused, folded_to: None, wait: None }))
    }

    /// None where it is in the other layout now, or the database was closed before it was done.
    async fn fold(&self, machine: u64) -> Result<Option<Done>> {
        let _folding = self.upkeep.begin_fold();
        let (is_fenced, stop) = (self.upkeep.is_fenced, self.upkeep.stop.clone());
        let options = FoldOptions { merge: self.options.clone(), machine, is_fenced, converts: false, stop };
        let mut folded = self.history.fold(&options).await?;
        // Of a long log it does a part.
        while folded.wait.is_some_and(|wait| wait.is_zero()) && !options.stop.is_stopped() {
            let before = folded.to;
            folded = self.history.fold(&options).await?;
            if folded.to <= before {
                break;
            }
        }
        if folded.wait.is_some() && options.stop.is_stopped() {
            return Ok(None);
        }
        self.upkeep.saw_layout(folded.layout);
        if folded.layout == Layout::Ltx {
            return Ok(None);
        }
        self.leave_note();
        // What is folded and has no marker yet is read once more.
        self.copies.release(|_| folded.txid);
        self.upkeep.passed(folded.txid);
        self.upkeep.folded(folded.to);
        tracing::debug!(
            database = %self.upkeep.path.display(),
            to = %folded.to,
            marker = %folded.txid,
            "{} page objects written, {} equal, {} removed",
            folded.written,
            folded.equal,
            folded.removed
        );
        let refused = folded.shortened.refused.map(Error::from);
        Ok(Some(Done { note: self.note, due_after: None, refused, folded_to: Some(folded.to), wait: folded.wait }))
    }

    fn leave_note(&self) {
        let path = &self.upkeep.path;
        if let Err(error) = self.note.leave(path) {
            tracing::debug!(database = %path.display(), "the local state could not be written: {error}");
        }
    }
}
