//! Folding the log into page objects.
//!
//! A fold writes pages one by one, so that it may be cut off anywhere, and what it has sent may arrive late. It changes only
//! pages that the log behind the marker changes, so that the log makes up for whatever becomes of it; and the marker moves only
//! when nothing can change these pages any more that does not begin after it. For that, a machine claims that it folds, sends for
//! half a fence window at most, and no other begins before the claim is gone or a whole window old. Each page is written on the
//! condition that it is what was there when nobody else was folding: what comes even later takes the place of nothing newer, but
//! where a page has returned to the very bytes that it had.

mod claims;
mod frames;
mod mark;
mod put;
mod stop;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bottomless_ltx::{Header, Txid};
use bottomless_points::{Point, reach};

use self::claims::{Held, Taken};
use self::put::Pages;
pub use self::stop::Stop;
use crate::compact::{Draft, LISTINGS};
use crate::{
    Damage, Entry, History, HistoryError, Layout, Level, Listing, MergeOptions, Moment, ObjectName, Policy, Settings,
    Shortened,
};

/// How to fold.
#[derive(Clone, Debug)]
pub struct FoldOptions {
    /// How to read the log, where temporary files are made, how many requests are sent at the same time, and how long a PUT may
    /// take. The progress is told in bytes of pages.
    pub merge: MergeOptions,
    /// This machine and this copy of the database. Of one machine only one fold may be under way: an earlier claim of it is one
    /// that was abandoned.
    pub machine: u64,
    /// Whether pages are written on condition. If not, there is no other machine that folds.
    pub is_fenced: bool,
    /// Whether what is in [`Layout::Ltx`] gets page objects. If not, it is left alone: that it was not so before was another's
    /// decision.
    pub converts: bool,
    /// Ends the fold early, as if its time were over: nothing of it is left under way, and no claim.
    pub stop: Stop,
}

/// What a fold has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Folded {
    /// That of the database. [`Layout::Ltx`]: there are objects above the log, and no page objects are made.
    pub layout: Layout,
    /// Of the newest marker, now; zero: there is none.
    pub txid: Txid,
    /// Up to which transaction the page objects hold the database, as far as this fold knows: the marker may be behind.
    pub to: Txid,
    /// Page objects that were written.
    pub written: u64,
    /// Page objects that had the right content.
    pub equal: u64,
    /// Page objects behind the end of the database that were deleted.
    pub removed: u64,
    /// What the marker replaces, and was deleted.
    pub shortened: Shortened,
    /// The marker is not at the end of the log: the next fold can move it when so much time has passed.
    pub wait: Option<Duration>,
}

/// What the fold begins with.
struct Start {
    since: Moment,
    window: Duration,
    listing: Listing,
    /// The log is longer.
    is_cut: bool,
    /// The newest marker.
    base: Option<Entry>,
    /// Its transaction.
    from: Txid,
}

impl History {
    /// Brings the page objects up to the end of the log, makes the marker that says so, and deletes what it replaces and is older
    /// than the fence window.
    ///
    /// Cut off anywhere, it leaves a whole history. Another machine that folds, or the remains of a fold whose requests may still
    /// arrive, are no error: [`Folded::wait`].
    ///
    /// # Errors
    /// Those of listing and merging the log; those of the store, where trying again did not help; [`HistoryError::Unfolded`].
    pub async fn fold(&self, options: &FoldOptions) -> Result<Folded, HistoryError> {
        let mut listings = 1;
        loop {
            match self.fold_once(options).await {
                Err(error) if error.is_outdated() && listings < LISTINGS => {
                    tracing::info!(%error, "an object changed after it was listed; the bucket is listed anew");
                    listings += 1;
                }
                result => return result,
            }
        }
    }

    async fn fold_once(&self, options: &FoldOptions) -> Result<Folded, HistoryError> {
        let Some(start) = options.stop.or(self.start()).await else {
            return Ok(Folded { wait: Some(Duration::ZERO), ..Folded::default() });
        };
        let start = start?;
        let mut folded = Folded { txid: start.from, to: start.from, ..Folded::default() };
        if !options.converts && start.listing.layout() == Layout::Ltx && !start.listing.merged().is_empty() {
            return Ok(folded);
        }
        folded.layout = Layout::Pages;
        let to = start.listing.last_txid();
        if to > start.from {
            match Held::take(self, options, &start).await? {
                Taken::Wait(wait) => {
                    folded.wait = Some(wait);
                    return Ok(folded);
                }
                Taken::Held(held) => {
                    reach(Point::FoldClaimed);
                    let done = self.fold_claimed(options, &start, to, &held, &mut folded).await;
                    if folded.txid != to {
                        held.release().await;
                    }
                    done?;
                }
            }
            if start.is_cut {
                folded.wait.get_or_insert(Duration::ZERO);
            }
        } else {
            claims::forget(self, &start).await;
        }
        if folded.txid > Txid::ZERO && folded.wait.is_none_or(|wait| wait.is_zero()) {
            let policy = Policy { retention: Duration::ZERO, ..Policy::default() };
            let shortened = options.stop.or(self.shorten(&policy, &options.merge)).await;
            folded.shortened = shortened.transpose()?.unwrap_or_default();
        }
        Ok(folded)
    }

    async fn start(&self) -> Result<Start, HistoryError> {
        let since = Moment::now();
        let (mut listing, mut is_cut) = self.list_end().await?;
        let base = listing.marker().cloned();
        if base.is_none() && !listing.merged().is_empty() {
            // The first transaction may be in the log alone.
            (listing, is_cut) = (self.list(None).await?, false);
        }
        let now = self.time(&listing).await;
        let (settings, modified) = self.dated_settings(&listing).await?;
        let window = Settings::deletion_window(&settings, modified, now);
        let from = base.as_ref().map(|base| base.name.max).unwrap_or_default();
        Ok(Start { since, window, listing, is_cut, base, from })
    }

    async fn fold_claimed(
        &self,
        options: &FoldOptions,
        start: &Start,
        to: Txid,
        held: &Held<'_>,
        folded: &mut Folded,
    ) -> Result<(), HistoryError> {
        // Nothing is sent before the pages are known.
        let prepared = options.stop.or(async {
            let before = match &start.base {
                Some(base) => Some(self.header(base.name).await?),
                None => None,
            };
            let draft = self.draft_behind(options, start, to, before.as_ref()).await?;
            Ok::<_, HistoryError>((before, draft))
        });
        let Some((before, draft)) = prepared.await.transpose()? else {
            folded.wait = Some(held.wait());
            return Ok(());
        };
        let size = draft.header.size_in_pages;
        let size_before = before.as_ref().map_or(0, |before| before.size_in_pages);
        let pages = Pages::new(self, options, held, size_before).await?;
        let put = pages.put_all(&draft).await;
        (folded.written, folded.equal) = pages.counts();
        put?;
        if !held.goes_on() {
            folded.wait = Some(held.wait());
            return Ok(());
        }
        reach(Point::FoldPages);
        if !self.bucket().is_folder() || size < size_before || held.is_contested() {
            folded.removed = self.remove_behind(size, options, held).await?;
        }
        if before.is_none_or(|before| before.page_size != draft.header.page_size) {
            folded.removed += self.remove_lock_page(&draft.header, options, held).await?;
        }
        held.check().await?;
        if !held.goes_on() {
            folded.wait = Some(held.wait());
            return Ok(());
        }
        folded.to = to;
        if held.is_contested() || held.is_uncertain() {
            folded.wait = Some(held.wait());
            return Ok(());
        }
        // Under the claim: one that came later might come when the page objects have been given up for a snapshot.
        if !self.mark(&draft, to, options, held).await? {
            folded.wait = Some(held.wait());
            return Ok(());
        }
        folded.txid = to;
        reach(Point::FoldMarked);
        held.release().await;
        reach(Point::FoldUnclaimed);
        held.clean(to).await;
        Ok(())
    }

    /// What the pages are to be: an object of what the log behind the marker leads to.
    async fn draft_behind(
        &self,
        options: &FoldOptions,
        start: &Start,
        to: Txid,
        before: Option<&Header>,
    ) -> Result<Draft, HistoryError> {
        let name = ObjectName { level: Level::PAGES, min: start.from.next(), max: to };
        let plan = start.listing.inputs_behind(start.from, to)?;
        let merge = MergeOptions { progress: None, ..options.merge.clone() };
        let draft = self.draft(&plan, name, &merge).await?;
        if draft.after.is_none() {
            let cause = "another program wrote it, so that it does not say which database checksum it leaves; with the next \
                         commit the log can be folded";
            return Err(HistoryError::Unfolded { key: draft.newest, cause: cause.to_owned() });
        }
        let continues = plan.objects().first().is_some_and(|first| first.name.min == name.min);
        let left = before.and_then(|before| before.database).map(|database| database.after);
        if let (Some(after), Some(before), Some(base)) = (left, draft.before, &start.base)
            && continues
            && after != before
        {
            let key = plan.objects().first().map(|first| first.name.key(self.id())).unwrap_or_default();
            let previous = base.name.key(self.id());
            return Err(HistoryError::damaged(key, Damage::Chain { before, previous, after }));
        }
        Ok(draft)
    }
}
