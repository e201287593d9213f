//! Which pages differ between two points of a history.
//!
//! What may differ is what the objects between the two hold; what does is told by the checksums of these pages at both
//! points, since a page may be written again as it was. Of large objects only the frames that are needed are read.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_ltx::{Checksum, DecodeError, Frame, Header, PageNumber, PageSize, Txid, decode_frames};
use futures::{StreamExt, TryStreamExt};

use crate::object::{Opened, Run};
use crate::pages::Outcome;
use crate::restore::{blocking, slice};
use crate::time::from_milliseconds;
use crate::{Damage, Entry, History, HistoryError, Listing, Plan, PlanError, RestoreOptions};

/// Frames that are not needed are read along when they are not more than this many bytes between two that are: it costs
/// less than another request.
const BETWEEN: u64 = 64 * 1024;

/// Objects may be compacted away between the listing and the reading: so often it is listed anew.
const LISTINGS: usize = 4;

/// What differs between two points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// The first point.
    pub from: DiffSide,
    /// The second.
    pub to: DiffSide,
    /// The pages that both have, and that are not the same, ascending. All of them where the page size differs.
    pub changed: Vec<PageNumber>,
}

/// One of two points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffSide {
    /// The transaction; [`Txid::ZERO`] is the empty database.
    pub txid: Txid,
    /// When it was made, by its writer's clock.
    pub time: Option<SystemTime>,
    /// The page size; none in the empty database.
    pub page_size: Option<PageSize>,
    /// Pages, the lock page among them.
    pub size_in_pages: u32,
}

impl Diff {
    /// The pages that only the second point has.
    #[must_use]
    pub fn added(&self) -> RangeInclusive<u32> {
        self.from.size_in_pages.saturating_add(1)..=self.to.size_in_pages
    }

    /// The pages that only the first point has.
    #[must_use]
    pub fn removed(&self) -> RangeInclusive<u32> {
        self.to.size_in_pages.saturating_add(1)..=self.from.size_in_pages
    }
}

/// The newest versions of pages.
type Versions = BTreeMap<PageNumber, Checksum>;

impl History {
    /// Compares the database at two transactions, in either order. Memory takes some 50 bytes for each page that may
    /// differ. `options` says how much is read at once, and whom to tell how far it is.
    ///
    /// # Errors
    /// [`HistoryError::NoPoint`] and [`HistoryError::Plan`] when the objects do not lead to one of the two, those of the
    /// store, and [`HistoryError::Damaged`] names an object on the way that is damaged.
    pub async fn diff(&self, from: Txid, to: Txid, options: &RestoreOptions) -> Result<Diff, HistoryError> {
        let mut listings = 1;
        loop {
            let listing = self.list(None).await?;
            match self.diff_in(&listing, from, to, options).await {
                Err(error) if error.is_outdated() && listings < LISTINGS => listings += 1,
                result => return result,
            }
        }
    }

    async fn diff_in(
        &self,
        listing: &Listing,
        from: Txid,
        to: Txid,
        options: &RestoreOptions,
    ) -> Result<Diff, HistoryError> {
        let (older, newer) = (from.min(to), from.max(to));
        let to_older = self.plan_to(listing, older).await?;
        let to_newer = self.plan_to(listing, newer).await?;
        let (old, new) = futures::try_join!(self.side(&to_older, older), self.side(&to_newer, newer))?;
        let both = old.size_in_pages.min(new.size_in_pages);
        let changed = if older == newer {
            Vec::new()
        } else if old.page_size != new.page_size {
            (1..=both).filter_map(PageNumber::new).collect()
        } else {
            self.changed(listing, (&to_older, old), (&to_newer, new), options).await?
        };
        let (from, to) = if from <= to { (old, new) } else { (new, old) };
        Ok(Diff { from, to, changed })
    }

    /// How the database at a transaction comes about; `None` for the empty one.
    async fn plan_to(&self, listing: &Listing, txid: Txid) -> Result<Option<Plan>, HistoryError> {
        if txid == Txid::ZERO {
            return if listing.is_empty() { Err(PlanError::Empty(self.id().clone()).into()) } else { Ok(None) };
        }
        match listing.plans(Txid::ZERO, txid) {
            Ok(plans) => Ok(plans.into_iter().next()),
            Err(error) => Err(self.with_times(listing, error).await),
        }
    }

    async fn side(&self, plan: &Option<Plan>, txid: Txid) -> Result<DiffSide, HistoryError> {
        let Some(last) = plan.as_ref().and_then(|plan| plan.objects.last()) else {
            return Ok(DiffSide { txid, time: None, page_size: None, size_in_pages: 0 });
        };
        let Header { timestamp_ms, page_size, size_in_pages, .. } = self.header_of(last).await?;
        let time = Some(from_milliseconds(timestamp_ms));
        Ok(DiffSide { txid, time, page_size: Some(page_size), size_in_pages })
    }

    /// The pages of both that are not the same.
    async fn changed(
        &self,
        listing: &Listing,
        (to_older, old): (&Option<Plan>, DiffSide),
        (to_newer, new): (&Option<Plan>, DiffSide),
        options: &RestoreOptions,
    ) -> Result<Vec<PageNumber>, HistoryError> {
        let (Some(to_older), Some(to_newer)) = (to_older, to_newer) else { return Ok(Vec::new()) };
        // Where the objects between the two are merged with older ones, they hold more than what differs.
        let between = listing.plans(old.txid, new.txid)?.into_iter().next();
        let between = between.as_ref().unwrap_or(to_newer);
        let both = old.size_in_pages.min(new.size_in_pages);
        let mut reading = Reading { history: self, options, done: 0, total: between.bytes() + to_older.bytes() };
        let newer = reading.versions(between, |page| page.get() <= both, usize::MAX).await?;
        let older = reading.versions(to_older, |page| newer.contains_key(&page), newer.len()).await?;
        reading.finish();
        let mut changed = Vec::new();
        for (page, after) in newer {
            match older.get(&page) {
                Some(before) if *before == after => {}
                Some(_) => changed.push(page),
                None => {
                    let key = to_older.objects.last().map(|entry| entry.name.key(self.id())).unwrap_or_default();
                    let damage = Damage::MissingPage { page: page.get(), size_in_pages: old.size_in_pages };
                    return Err(HistoryError::damaged(key, damage));
                }
            }
        }
        Ok(changed)
    }
}

/// Objects that are read for their pages' checksums.
struct Reading<'a> {
    history: &'a History,
    options: &'a RestoreOptions,
    done: u64,
    total: u64,
}

impl Reading<'_> {
    /// The checksums of those pages that are wanted and that a plan's objects bring, in their newest versions. It ends when
    /// there are `enough`.
    async fn versions(
        &mut self,
        plan: &Plan,
        is_wanted: impl Fn(PageNumber) -> bool,
        enough: usize,
    ) -> Result<Versions, HistoryError> {
        if plan.split_marker().0.is_some() {
            return self.verified_versions(plan, is_wanted).await;
        }
        let (history, whole_length) = (self.history, self.options.whole_length);
        let mut objects = futures::stream::iter(plan.objects.iter().rev())
            .map(|entry| async move {
                let whole = match entry.size <= whole_length {
                    true => Some(history.fetch_listed(entry, None).await?),
                    false => None,
                };
                Ok::<_, HistoryError>((entry, whole))
            })
            .buffered(self.options.requests.max(1))
            .boxed();
        let mut versions = Versions::new();
        let mut limit = u32::MAX;
        let mut page_size = None;
        while versions.len() < enough
            && let Some((entry, whole)) = objects.try_next().await?
        {
            let object = Arc::new(history.open_listed(entry, whole).await?);
            let header = &object.header;
            limit = limit.min(header.size_in_pages);
            if *page_size.get_or_insert(header.page_size) != header.page_size {
                break;
            }
            let is_complete = object.holds_every_page();
            let is_new = |page: PageNumber| page.get() <= limit && is_wanted(page) && !versions.contains_key(&page);
            let found = self.pages(entry, &object, is_new).await?;
            versions.extend(found);
            self.advance(entry.size);
            if is_complete {
                break;
            }
        }
        Ok(versions)
    }

    /// The same through page objects, which may be of a later transaction: so all of them are read, and the database's checksum
    /// tells. Memory takes 16 bytes for each page then.
    async fn verified_versions(
        &mut self,
        plan: &Plan,
        is_wanted: impl Fn(PageNumber) -> bool,
    ) -> Result<Versions, HistoryError> {
        let options = RestoreOptions { progress: None, base: None, ..self.options.clone() };
        let restored = match self.history.try_restore(plan, None, &options).await? {
            Outcome::Whole(restored) => restored,
            Outcome::Torn(torn) => self.history.mend(*torn, Some(plan.up_to), None, &options).await?,
        };
        self.advance(plan.bytes());
        let pages = (1..).filter_map(PageNumber::new).zip(restored.page_checksums);
        Ok(pages.filter_map(|(page, sum)| Some((page, sum?))).filter(|(page, _)| is_wanted(*page)).collect())
    }

    /// The checksums of pages of one object. A small one is verified by the way.
    async fn pages(
        &self,
        entry: &Entry,
        object: &Arc<Opened>,
        is_needed: impl Fn(PageNumber) -> bool,
    ) -> Result<Vec<(PageNumber, Checksum)>, HistoryError> {
        let is_small = object.whole.is_some();
        let runs = match is_small {
            true => object.runs(self.options.run_length),
            false => runs_of(&object.tail.frames, &is_needed, self.options.run_length),
        };
        let mut parts = futures::stream::iter(runs)
            .map(|run| self.run(entry, Arc::clone(object), run))
            .buffered(self.options.requests.max(1))
            .boxed();
        let mut checksum = object.checksum;
        let mut found = Vec::new();
        while let Some((part, pages)) = parts.try_next().await? {
            checksum.push(part);
            found.extend(pages.into_iter().filter(|(page, _)| is_needed(*page)));
        }
        drop(parts);
        if is_small {
            let damaged = |error| HistoryError::damaged(&object.key, Damage::Decode(error));
            checksum.verify(&object.tail).map_err(damaged)?;
        }
        Ok(found)
    }

    async fn run(
        &self,
        entry: &Entry,
        object: Arc<Opened>,
        run: Run,
    ) -> Result<(bottomless_ltx::RunningChecksum, Vec<(PageNumber, Checksum)>), HistoryError> {
        let bytes = match &object.whole {
            Some(whole) => slice(whole, &run),
            None => self.history.fetch_listed(entry, Some(run.bytes.clone())).await?,
        };
        let key = object.key.clone();
        let decoded = blocking(move || {
            let frames = object.tail.frames.get(run.frames).unwrap_or_default();
            let mut pages = Vec::with_capacity(frames.len());
            let part = decode_frames(&bytes, frames, object.header.page_size, &mut Vec::new(), |page, content| {
                pages.push((page, Checksum::of_page(page, content)));
                Ok::<_, DecodeError>(())
            })?;
            Ok::<_, DecodeError>((part, pages))
        })
        .await?;
        decoded.map_err(|error| HistoryError::damaged(key, Damage::Decode(error)))
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(progress) = &self.options.progress {
            progress(self.done, self.total);
        }
    }

    /// All is done, even when not all was needed.
    fn finish(&mut self) {
        self.advance(self.total - self.done);
    }
}

/// Runs of at most about `length` bytes, or one frame, that have all frames of the pages that are needed.
fn runs_of(frames: &[Frame], is_needed: impl Fn(PageNumber) -> bool, length: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (place, frame) in frames.iter().enumerate().filter(|(_, frame)| is_needed(frame.page)) {
        match runs.last_mut() {
            Some(run) if frame.offset - run.bytes.end <= BETWEEN && frame.end() - run.bytes.start <= length => {
                run.frames.end = place + 1;
                run.bytes.end = frame.end();
            }
            _ => runs.push(Run { frames: place..place + 1, bytes: frame.offset..frame.end() }),
        }
    }
    runs
}
