//! One pass over one database.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_history::{History, Level, MergeOptions, Scope};
use bottomless_ltx::Txid;
use bottomless_store::Bucket;

use super::lock::CompactionLock;
use super::upkeep::Upkeep;
use crate::clock::milliseconds;
use crate::copies::LocalCopies;
use crate::error::{Error, Result};
use crate::state::{Glance, PassNote};

/// Requests at the same time: the program's own must have room.
const REQUESTS: usize = 8;

/// How a pass ended.
pub(super) enum Passed {
    Done {
        note: PassNote,
        /// After this time something is due of what is there; none: as far as is known, nothing.
        due_after: Option<Duration>,
        /// Why what is replaced could not be deleted.
        refused: Option<Error>,
    },
    /// Another process looks after it, or has just done so: look again after this time.
    Wait(Duration),
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
        return Ok(Passed::Wait(level1));
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
    let compacted = history.compact(&upkeep.policy, Scope::Due, &options).await?;
    let note = PassNote { identity: upkeep.identity, at_ms: now_ms, txid: position };
    if let Err(error) = note.leave(path) {
        tracing::debug!(database = %path.display(), "the local state could not be written: {error}");
    }
    let made = || compacted.made.iter().map(|merged| merged.entry.name);
    let above = |level| made().filter(move |name| name.level > level).map(|name| name.max).max().unwrap_or_default();
    copies.release(above);
    upkeep.passed(above(Level::LOG));
    let refused = compacted.shortened.refused.map(Error::from);
    // The store's clock may not be ours: when the thread looks too early, it looks again.
    let due_after = compacted.next.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
    Ok(Passed::Done { note, due_after, refused })
}
