//! Snapshots from the pages that this machine has.
//!
//! The oldest input of a snapshot holds every page of the database as it was then, and is much larger than what was merged
//! since. Of its pages, those count that no later input holds: they are the same since, so that a machine that has the
//! database has them too, unless they were changed behind the snapshot's last transaction. What is taken from here is
//! checked twice: each page by the local state's checksum of it, and all pages of the snapshot by the database's.

use std::fmt;
use std::sync::Arc;

use bottomless_ltx::{Checksum, PageNumber, Position, Txid};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringBitmap;

use super::merge::Merge;
use super::spool::Picked;
use crate::chain::Link;
use crate::object::{Opened, Run};
use crate::restore::blocking;
use crate::{Entry, HistoryError, Level, ObjectName};

/// The pages of the database on this machine, which may change at any time.
pub trait LocalPages: Send + Sync + fmt::Debug {
    /// Where the database is, by its local state; `None` when that is not known. All that the state says must be in the
    /// bucket by the time that it says so.
    fn position(&self) -> Option<Position>;

    /// Appends the page, if its content has the checksum that the local state names for it at this moment; else returns
    /// false. May read a disk.
    fn read(&self, page: PageNumber, content: &mut Vec<u8>) -> bool;
}

/// What came of the local pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// They are in.
    Taken,
    /// They do not do.
    Vain,
    /// Neither, and what else was asked for may still be written into the spool.
    Broken,
}

/// Pages are read in portions of about this many bytes, so that a merge that is given up ends soon.
const PORTION: usize = 1 << 20;

/// Frames that are so far apart, in bytes, are still fetched with one request.
const GAP: u64 = 32 << 10;

impl Merge<'_> {
    /// Takes the pages that the oldest input brings from this machine, and only those from the input that are not here.
    /// False: that does not lead to the database that was there, or would spare little; nothing was taken.
    pub(super) async fn add_local(&mut self, entry: &Entry, object: &Arc<Opened>) -> Result<bool, HistoryError> {
        let end = self.spool.end();
        let tried = self.try_local(entry, object).await?;
        if tried == Tried::Vain {
            self.spool.cut(end);
        }
        Ok(tried == Tried::Taken)
    }

    async fn try_local(&mut self, entry: &Entry, object: &Arc<Opened>) -> Result<Tried, HistoryError> {
        let Some((pages, page_size, need)) = self.may_be_local(object) else { return Ok(Tried::Vain) };
        let local = Arc::clone(&pages);
        let position = blocking(move || local.position()).await?;
        let Some(position) = position.filter(|position| position.txid >= self.name.max) else { return Ok(Tried::Vain) };

        let limit = self.limit.min(object.header.size_in_pages);
        let wanted = self.spool.wanted(page_size, limit);
        let mut filler = self.spool.filler(page_size);
        let mut picked: Vec<Picked> = Vec::new();
        let numbers: Vec<u32> = wanted.iter().collect();
        for portion in numbers.chunks((PORTION / page_size.bytes()).max(1)) {
            let (portion, local) = (portion.to_vec(), Arc::clone(&pages));
            let (back, part) = blocking(move || {
                let part = filler.fill(&portion, |page, content| local.read(page, content));
                (filler, part)
            })
            .await?;
            filler = back;
            picked.push(part.map_err(|cause| self.options.spool_error(cause))?);
        }
        drop(numbers);

        // Only now: what was read may be of any transaction that is listed.
        let changed = match self.changed_behind(position, need).await {
            Ok(Some(changed)) => changed,
            Err(error) if !(error.is_outdated() || matches!(error, HistoryError::Damaged { .. })) => return Err(error),
            _ => return Ok(Tried::Vain),
        };
        picked = blocking(move || {
            picked.iter_mut().try_for_each(|part| filler.take_out(part, &changed))?;
            Ok(picked)
        })
        .await?
        .map_err(|cause| self.options.spool_error(cause))?;

        let here: RoaringBitmap = picked.iter().flat_map(Picked::pages).collect();
        let missing = wanted - &here;
        let Some(runs) = self.runs(object, &missing) else { return Ok(Tried::Vain) };
        let pickup = self.spool.pickup(limit, true).without(&here);
        match self.reader.pick_runs(entry, object, runs, pickup).await {
            Ok(fetched) => picked.extend(fetched),
            // It is read whole next, and then it is known what is wrong with it.
            Err(HistoryError::Damaged { .. }) => return Ok(Tried::Broken),
            Err(error) => return Err(error),
        }
        let have = picked.iter().map(Picked::sum).fold(self.spool.sum(), Checksum::join);
        if have != need || self.chain.precede(Link::of(entry, object)).is_err() {
            tracing::debug!(key = object.key, %have, %need, "the local pages do not make the snapshot");
            return Ok(Tried::Vain);
        }
        self.spool.keep(picked);
        self.limit = limit;
        Ok(Tried::Taken)
    }

    /// The local pages, their size, and the checksum of the database that they must make.
    fn may_be_local(
        &self,
        object: &Opened,
    ) -> Option<(Arc<dyn super::LocalPages>, bottomless_ltx::PageSize, Checksum)> {
        let pages = self.options.pages.clone()?;
        let newest = self.newest.as_ref()?;
        let (page_size, size) = (newest.header.page_size, object.header.size_in_pages);
        let fits = self.name.min == Txid::FIRST
            && object.header.min_txid == Txid::FIRST
            && object.whole.is_none()
            && object.header.page_size == page_size
            && self.spool.missing(page_size, size, self.limit).is_none();
        fits.then_some((pages, page_size, newest.after?))
    }

    /// The pages that were changed behind the last transaction of the snapshot; `None` if the bucket does not tell, or the
    /// local position is not one of this history.
    async fn changed_behind(&self, position: Position, need: Checksum) -> Result<Option<RoaringBitmap>, HistoryError> {
        let listing = self.history.list(Some(self.name.max)).await?;
        let mut last = self.name.max;
        for entry in listing.log() {
            if entry.name.min != last.next() {
                return Ok(None);
            }
            last = entry.name.max;
        }
        if listing.entries().iter().any(|entry| entry.name.level != Level::LOG && entry.name.max > last) {
            return Ok(None);
        }
        let is_ours = match position.txid {
            txid if txid == self.name.max => position.checksum == need,
            txid if txid > last => false,
            txid => {
                let header = self.history.header(ObjectName::log(txid)).await?;
                header.database.is_some_and(|database| database.after == position.checksum)
            }
        };
        if !is_ours {
            return Ok(None);
        }
        let pages: Vec<Vec<PageNumber>> = futures::stream::iter(listing.log())
            .map(|entry| self.history.pages(entry.name))
            .buffered(self.options.requests.max(1))
            .boxed()
            .try_collect()
            .await?;
        Ok(Some(pages.into_iter().flatten().map(PageNumber::get).collect()))
    }

    /// The runs of an object that hold these pages; `None` when that is not much less than all of it, or one is not in it.
    fn runs(&self, object: &Opened, missing: &RoaringBitmap) -> Option<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut found = 0;
        let frames = object.tail.frames.iter().enumerate();
        for (at, frame) in frames.filter(|(_, frame)| missing.contains(frame.page.get())) {
            found += 1;
            match runs.last_mut().filter(|run| {
                frame.offset - run.bytes.end <= GAP && frame.end() - run.bytes.start <= self.options.run_length
            }) {
                Some(run) => *run = Run { frames: run.frames.start..at + 1, bytes: run.bytes.start..frame.end() },
                None => runs.push(Run { frames: at..at + 1, bytes: frame.offset..frame.end() }),
            }
        }
        let bytes: u64 = runs.iter().map(|run| run.bytes.end - run.bytes.start).sum();
        (found == missing.len() && bytes <= object.tail.offset / 2).then_some(runs)
    }
}
