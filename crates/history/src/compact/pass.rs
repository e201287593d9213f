//! One pass of compaction: merging what is due, and deleting what is replaced.

use std::time::{Duration, SystemTime};

use bottomless_ltx::Txid;
use bottomless_points::{Point, reach};
use bottomless_store::{Object, StoreErrorKind};
use futures::lock::Mutex;
use futures::{StreamExt, TryStreamExt};

use super::retention::Verdict;
use super::schedule::{RUNS, Task};
use crate::listing::LogPart;
use crate::{
    Entry, History, HistoryError, Layout, Level, Listing, MergeOptions, Merged, Moment, ObjectName, Policy, Replaced,
};

/// Objects may vanish between a listing and what is built on it: so often in a row it is listed anew.
pub(crate) const LISTINGS: usize = 4;

/// Objects that are deleted at the same time.
const PARALLEL: usize = 16;

/// While objects are deleted, what replaces them is looked at again after so long.
const LOOK: Duration = Duration::from_secs(10);

/// Objects of the log that are looked at in one go, to bound memory: at some 150 bytes each.
const LOG_LENGTH: usize = 100_000;

/// A database of so many pages has its page objects listed in a few requests.
const FEW_PAGES: u32 = 10_000;

/// What is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What is due by the policy.
    Due,
    /// All that there is, as deep as several objects of a level can be merged; a snapshot where it is due.
    Now,
    /// The log into level 1, and all into a snapshot.
    Snapshot,
}

/// What a pass has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Compacted {
    /// What was merged, in this order.
    pub made: Vec<Merged>,
    /// What was deleted.
    pub shortened: Shortened,
    /// Where it is [`Layout::Pages`] nothing is merged.
    pub layout: Layout,
    /// When the next object is due if nothing is committed until then, by the store's clock; `None` when there is nothing to
    /// merge.
    pub next: Option<SystemTime>,
}

/// What was deleted.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Shortened {
    /// Objects.
    pub deleted: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Why not all that may go is gone: deleting is not permitted, or what replaces others can't be read back. Nothing
    /// is lost by it.
    pub refused: Option<HistoryError>,
}

/// What was listed to delete by.
struct Listed {
    at: Moment,
    /// The time by the store's clock.
    now: SystemTime,
    window: Duration,
    listing: Listing,
}

/// How long after it was asked for a listing may be used to delete, for a fence window.
pub(crate) fn longest_use(window: Duration) -> Duration {
    (window / 4).min(Duration::from_secs(10 * 60))
}

/// Whether more of the log than this object may be old enough to be deleted: what was claimed later is younger. An object that
/// came too late says nothing of those behind it.
pub(super) fn is_listed_for_deletion(
    entry: &Entry,
    levels: &Listing,
    policy: &Policy,
    window: Duration,
    now: SystemTime,
) -> bool {
    let until = entry.modified.checked_add(policy.retention.max(window));
    until.is_some_and(|until| until < now) || levels.is_late(entry)
}

/// How a round of deletions ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The listing is too old, or the bucket is not as it was listed.
    Outdated,
    Refused,
}

/// What is read back and deleted in one pass.
struct Pass<'a> {
    history: &'a History,
    options: &'a MergeOptions,
    /// What was read back.
    read: Vec<Entry>,
    done: Shortened,
}

impl History {
    /// Merges what `scope` says, and deletes what is replaced and older than the policy and the fence window ask for. Where
    /// objects of level 1 are all that was due, nothing is deleted: they replace what is too young.
    ///
    /// Any number of machines may do this at once. Interrupted anywhere, it leaves a whole history, and the next call goes on.
    ///
    /// # Errors
    /// Those of listing and of [`History::merge`]. That something can't be deleted is none ([`Shortened::refused`]).
    pub async fn compact(
        &self,
        policy: &Policy,
        scope: Scope,
        options: &MergeOptions,
    ) -> Result<Compacted, HistoryError> {
        let (mut listing, mut is_cut) = self.list_end().await?;
        let mut made: Vec<Merged> = Vec::new();
        let mut listings = 1;
        loop {
            let now = self.time(&listing).await;
            let Some(name) = listing.next(policy, scope, now) else {
                if !is_cut || listing.layout() == Layout::Pages {
                    break;
                }
                (listing, is_cut) = self.list_end().await?;
                continue;
            };
            if name.min == Txid::FIRST && !listing.is_merged(Txid::FIRST) {
                // The first transaction is in the log alone until it is in a snapshot.
                let first = self.bucket().list_while(self.id().as_str(), None, 1, |_| true).await?;
                if listing.log().first().is_none_or(|entry| entry.name.min != Txid::FIRST) {
                    listing.add(first);
                }
            }
            match self.merge(&listing, name, options).await {
                Ok(merged) => {
                    listing.insert(merged.entry.clone());
                    made.push(merged);
                    listings = 1;
                }
                Err(error) if error.is_outdated() && listings < LISTINGS => {
                    tracing::info!(%error, "an object changed after it was listed; the bucket is listed anew");
                    listings += 1;
                    (listing, is_cut) = self.list_end().await?;
                }
                Err(error) => return Err(error),
            }
        }
        let replaces = |merged: &Merged| merged.entry.name.level.get() > 1;
        let deletes = scope != Scope::Due || made.is_empty() || made.iter().any(replaces);
        let shortened = if deletes { self.shorten(policy, options).await? } else { Shortened::default() };
        Ok(Compacted { layout: listing.layout(), next: listing.due_at(policy), made, shortened })
    }

    /// Deletes what is replaced and older than the policy and the fence window ask for. Each object that replaces others is
    /// read back before.
    ///
    /// # Errors
    /// Those of the store, but that deleting is not permitted ([`Shortened::refused`]).
    pub async fn shorten(&self, policy: &Policy, options: &MergeOptions) -> Result<Shortened, HistoryError> {
        let mut pass = Pass { history: self, options, read: Vec::new(), done: Shortened::default() };
        let mut listings = 0;
        loop {
            let listed = self.list_for_deletion(policy).await?;
            let Verdict { replaced, more } = listed.listing.verdict(policy, listed.window, listed.now);
            if self.may_wait(&listed, policy, &replaced).await? {
                return Ok(pass.done);
            }
            let before = (pass.done.deleted, pass.read.len());
            let outcome = pass.delete(&listed, &replaced).await?;
            let has_advanced = (pass.done.deleted, pass.read.len()) != before;
            listings = if has_advanced { 0 } else { listings + 1 };
            let goes_on = match outcome {
                Outcome::Done => (more || listed.listing.is_cut()) && has_advanced,
                Outcome::Outdated => listings < LISTINGS,
                Outcome::Refused => false,
            };
            if !goes_on {
                return Ok(pass.done);
            }
        }
    }

    /// Whether what is replaced by page objects is left for later: these are all listed before, and not for each piece of the log
    /// that has come of age where that takes many requests.
    async fn may_wait(&self, listed: &Listed, policy: &Policy, replaced: &[Replaced]) -> Result<bool, HistoryError> {
        let Some(marker) = listed.listing.marker().filter(|_| !replaced.is_empty()) else { return Ok(false) };
        let late = policy.retention.max(listed.window) + listed.window / 4;
        let is_late = |entry: &Entry| entry.modified.checked_add(late).is_some_and(|until| until < listed.now);
        if replaced.iter().flat_map(|replaced| &replaced.objects).any(is_late) {
            return Ok(false);
        }
        Ok(self.header(marker.name).await?.size_in_pages > FEW_PAGES)
    }

    /// What [`History::shorten`] would delete, and by what it is replaced. After that there may be more, where the log is long.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn replaced(&self, policy: &Policy) -> Result<Vec<Replaced>, HistoryError> {
        let listed = self.list_for_deletion(policy).await?;
        Ok(listed.listing.replaced(policy, listed.window, listed.now))
    }

    /// The levels above the log, and the log behind them; and whether there is more of that.
    pub(crate) async fn list_end(&self) -> Result<(Listing, bool), HistoryError> {
        let mut listing = self.list(Some(Txid::MAX)).await?;
        let merged = listing.last_merged();
        let after = Some(ObjectName::log(merged).key(self.id())).filter(|_| merged != Txid::ZERO);
        let objects = self.bucket().list_while(self.id().as_str(), after.as_deref(), LOG_LENGTH, |_| true).await?;
        let is_cut = objects.len() == LOG_LENGTH;
        if !is_cut {
            // This has the levels once more.
            let after = Some(merged).filter(|merged| *merged != Txid::ZERO);
            return Ok((Listing::new(self.id().clone(), objects).passing_over(Txid::FIRST, after), false));
        }
        listing.add(objects);
        Ok((listing, true))
    }

    /// The time by the store's clock, or earlier. A store that does not tell it has seen its newest object.
    pub(crate) async fn time(&self, listing: &Listing) -> SystemTime {
        let newest = || listing.entries().iter().map(|entry| entry.modified).max();
        self.bucket().now().await.or_else(newest).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The levels above the log first, and then of the log what may be old enough to be deleted.
    async fn list_for_deletion(&self, policy: &Policy) -> Result<Listed, HistoryError> {
        let at = Moment::now();
        let mut listing = self.list(Some(Txid::MAX)).await?;
        let now = self.time(&listing).await;
        let (settings, modified) = self.dated_settings(&listing).await?;
        let window = settings.deletion_window(modified, now);
        let goes_on = |object: &Object| {
            let entry = Entry::of(self.id(), object).filter(|entry| entry.name.level == Level::LOG);
            entry.is_none_or(|entry| is_listed_for_deletion(&entry, &listing, policy, window, now))
        };
        let mut objects = self.bucket().list_while(self.id().as_str(), None, LOG_LENGTH, goes_on).await?;
        let rest_is_young = objects.last().is_some_and(|last| !goes_on(last));
        let is_whole = !rest_is_young && objects.len() < LOG_LENGTH;
        objects.retain(|object| Entry::of(self.id(), object).is_some_and(|entry| entry.name.level == Level::LOG));
        listing.add(objects);
        let last = listing.log().last().map(|entry| entry.name.max).unwrap_or_default();
        let part = if is_whole { LogPart::Whole } else { LogPart::UpTo { last, rest_is_young } };
        Ok(Listed { at, now, window, listing: listing.with_log(part) })
    }
}

impl Listing {
    /// What is made next.
    fn next(&self, policy: &Policy, scope: Scope, now: SystemTime) -> Option<ObjectName> {
        let run = |level: u8, least: usize| self.run(policy, level).filter(|task| task.inputs >= least);
        let snapshot = || self.snapshot(policy);
        if self.layout() == Layout::Pages {
            return None;
        }
        let task: Task = match scope {
            Scope::Due => return self.due(policy, now),
            Scope::Now => {
                let [first, others @ ..] = RUNS;
                let run = run(first, 1).or_else(|| others.into_iter().find_map(|level| run(level, 2)));
                run.or_else(|| snapshot().filter(|task| task.at <= now))?
            }
            Scope::Snapshot => run(1, 1).or_else(snapshot)?,
        };
        Some(task.name)
    }

    fn is_cut(&self) -> bool {
        matches!(self.log_part(), LogPart::UpTo { rest_is_young: false, .. })
    }
}

impl Pass<'_> {
    /// Deletes what may go by a listing.
    async fn delete(&mut self, listed: &Listed, replaced: &[Replaced]) -> Result<Outcome, HistoryError> {
        let mut outcome = Outcome::Done;
        for Replaced { by, objects } in replaced {
            match self.read_back(by).await {
                Ok(()) => {}
                Err(error) if error.is_outdated() => return Ok(Outcome::Outdated),
                Err(error @ HistoryError::Damaged { .. }) => {
                    self.done.refused.get_or_insert(error);
                    outcome = Outcome::Refused;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let standing = Standing { history: self.history, by, longest: LOOK, seen: Mutex::default() };
            // Of what one object replaces, and of the log as a whole, any part may be left.
            let delete = |entry| self.history.delete_listed(listed, &standing, entry);
            let deletions = futures::stream::iter(objects).map(delete);
            let mut deletions = deletions.buffer_unordered(PARALLEL);
            loop {
                match deletions.try_next().await {
                    Ok(None) => break,
                    Ok(Some(None)) => return Ok(Outcome::Outdated),
                    Ok(Some(Some(bytes))) => {
                        self.done.deleted += 1;
                        self.done.bytes += bytes;
                    }
                    Err(HistoryError::Store(error)) if is_refusal(error.kind()) => {
                        self.done.refused = Some(error.into());
                        return Ok(Outcome::Refused);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if self.done.deleted > 0 {
            reach(Point::CompactShortened);
        }
        Ok(outcome)
    }

    async fn read_back(&mut self, by: &Entry) -> Result<(), HistoryError> {
        if !self.read.contains(by) {
            self.history.read_back(by, self.options).await?;
            if by.name.level == Level::PAGES {
                self.history.find_page_objects(by).await?;
            }
            self.read.push(by.clone());
            reach(Point::CompactReplaced);
        }
        Ok(())
    }
}

/// An object that replaces others, while these are deleted. The whole history may be removed meanwhile, and another made in its
/// place, with objects of the same names.
struct Standing<'a> {
    history: &'a History,
    by: &'a Entry,
    longest: Duration,
    /// When it was seen last.
    seen: Mutex<Option<Moment>>,
}

impl Standing<'_> {
    /// Whether it is there as it was listed, or was `longest` ago.
    async fn stands(&self) -> Result<bool, HistoryError> {
        let mut seen = self.seen.lock().await;
        if seen.is_some_and(|seen| seen.age() < self.longest) {
            return Ok(true);
        }
        let now = Moment::now();
        match self.history.fetch_listed(self.by, Some(0..1)).await {
            Ok(_) => {
                *seen = Some(now);
                Ok(true)
            }
            Err(error) if error.is_outdated() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl History {
    /// Deletes an object, its size in bytes; `None` if the listing is too old for that, or what replaces the object has gone.
    async fn delete_listed(
        &self,
        listed: &Listed,
        standing: &Standing<'_>,
        entry: &Entry,
    ) -> Result<Option<u64>, HistoryError> {
        if !standing.stands().await? || listed.at.age() > longest_use(listed.window) {
            return Ok(None);
        }
        self.bucket().delete(&entry.name.key(self.id())).await?;
        reach(Point::CompactDeleted);
        Ok(Some(entry.size))
    }
}

/// Whether the store says that it does not delete at all.
fn is_refusal(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Denied | StoreErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use bottomless_store::{Body, Bucket, Location};
    use object_store::memory::InMemory;

    use super::*;
    use crate::DatabaseId;

    #[tokio::test]
    async fn what_replaces_others_is_seen_again_in_time() {
        let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
        let bucket = Bucket::from_object_store(Arc::new(InMemory::new()), location);
        let history = History::new(bucket, DatabaseId::new("test.db").unwrap());
        let name = ObjectName { level: Level::new(1).unwrap(), min: Txid::new(1), max: Txid::new(2) };
        let key = name.key(history.id());
        let create = async |content: &str| {
            let body = Body::Memory(content.to_owned().into());
            history.bucket().create(&key, &body, SystemTime::UNIX_EPOCH, LOOK).await.unwrap();
        };
        create("content").await;
        let by = history.list(None).await.unwrap().entries().first().unwrap().clone();
        let standing = |longest| Standing { history: &history, by: &by, longest, seen: Mutex::default() };
        let (always, once) = (standing(Duration::ZERO), standing(Duration::from_secs(3600)));
        let before = history.bucket().counters().get;
        for _ in 0..3 {
            assert!(always.stands().await.unwrap() && once.stands().await.unwrap());
        }
        assert_eq!(history.bucket().counters().get - before, 4);
        history.bucket().delete(&key).await.unwrap();
        assert!(!always.stands().await.unwrap() && once.stands().await.unwrap());
        // Another of the same size.
        create("CONTENT").await;
        assert!(!always.stands().await.unwrap() && once.stands().await.unwrap());
    }
}
