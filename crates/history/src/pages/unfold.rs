//! From page objects back to objects that hold many pages.
//!
//! What is done stands in an order in which the database can be restored after each step: a snapshot of all that the marker
//! holds, the declaration of the layout, the markers, the page objects. All of it happens under a claim, so that nobody
//! folds meanwhile. Whoever deletes what the marker replaces may be about to do so by a listing that is a quarter of the
//! fence window old: so a snapshot that holds no more than the marker counts only while it is young.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bottomless_ltx::{PageNumber, Txid};
use futures::{StreamExt, TryStreamExt};

use super::Hold;
use crate::compact::longest_use;
use crate::{Entry, History, HistoryError, Layout, Level, Listing, MergeOptions, ObjectName, Progress, RestoreOptions};

/// What others do may take what was listed away: so often it is looked at again.
const ROUNDS: usize = 4;

/// Deletions at the same time.
const PARALLEL: usize = 16;

/// How page objects are given up.
#[derive(Clone, Debug)]
pub struct UnfoldOptions {
    /// How the snapshot is made. The temporary file, which is as large as the database, is made in its folder.
    pub merge: MergeOptions,
    /// How the database is restored before.
    pub restore: RestoreOptions,
    /// Told in page objects while they are deleted.
    pub removing: Removing,
    /// Whose claim it is. Its earlier claims were for nothing else.
    pub machine: u64,
    /// Claims of others are taken for those of programs that are gone.
    pub force: bool,
}

/// Whom to tell how many page objects are deleted.
#[derive(Clone, Default)]
pub struct Removing(pub Option<Progress>);

impl std::fmt::Debug for Removing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Removing").field(&self.0.is_some()).finish()
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfolded {
    /// The end of the history.
    pub txid: Txid,
    /// The snapshot, if it was made now.
    pub snapshot: Option<Entry>,
    /// Whether a declaration of the layout was deleted.
    pub declaration: bool,
    /// Markers that were deleted.
    pub markers: u64,
    /// Page objects that were deleted.
    pub pages: u64,
}

impl History {
    /// Makes a database in [`crate::Layout::Pages`] one in [`crate::Layout::Ltx`]: with a snapshot in place of its page objects. Where
    /// it has neither declaration nor marker nor page objects, nothing is done. Cut off anywhere, it leaves a whole history,
    /// and the next call goes on.
    ///
    /// Programs may go on committing. One that has folded finds with its next fold that there is nothing to fold any more.
    /// But where the log is all there is, it may be folded by one that is told to use page objects.
    ///
    /// # Errors
    /// [`HistoryError::Claimed`] while another folds, those of restoring and of making a snapshot, and those of the store.
    pub async fn unfold(&self, options: &UnfoldOptions) -> Result<Unfolded, HistoryError> {
        let mut done = Unfolded::default();
        for round in 0..ROUNDS {
            let listing = self.list(None).await?;
            done.txid = listing.last_txid();
            let is_due = match round {
                0 => is_paged(&listing) || self.has_left_overs(&listing, options.machine).await?,
                _ => is_paged(&listing),
            };
            if !is_due {
                return Ok(done);
            }
            let timeout = options.merge.timeout;
            let mut hold = Hold::take(self, &listing, (options.machine, options.force), timeout).await?;
            let whole = self.put_snapshot(&mut hold, options, &mut done).await;
            if let Err(error) = whole {
                hold.release().await?;
                return Err(error);
            }
            self.remove_declaration(&hold, &mut done).await?;
            self.remove_markers(&hold, &mut done).await?;
            self.remove_pages(&mut hold, options, &mut done).await?;
            self.remove_claims(&hold, &listing, options.force).await?;
            hold.release().await?;
        }
        let listing = self.list(Some(Txid::MAX)).await?;
        let marker = listing.marker().map(|marker| marker.name.key(self.id()));
        match marker.or_else(|| listing.declaration().map(|declaration| declaration.key.clone())) {
            None => Ok(done),
            Some(key) => Err(HistoryError::Refolded { key }),
        }
    }

    /// Whether there is something of a call that was cut off, or of a first fold.
    async fn has_left_overs(&self, listing: &Listing, machine: u64) -> Result<bool, HistoryError> {
        let is_own = |key: &str| super::Claim::parse(self.id(), key).is_some_and(|claim| claim.machine == machine);
        Ok(listing.claims().iter().any(|claim| is_own(&claim.key))
            || self.page_objects(PageNumber::FIRST).next().await?.is_some())
    }

    /// Makes sure of a snapshot that holds what the marker does, and that nobody is about to delete.
    async fn put_snapshot(
        &self,
        hold: &mut Hold<'_>,
        options: &UnfoldOptions,
        done: &mut Unfolded,
    ) -> Result<(), HistoryError> {
        let mut whole: Option<Entry> = None;
        // To make it, to read it back and to look whether it counts; and once more where it did not.
        for _ in 0..2 * ROUNDS {
            let listing = self.list(None).await?;
            let Some(marker) = listing.marker() else { return Ok(()) };
            let now = self.time(&listing).await;
            match listing.stand_in(marker.name.max, now, hold.window / 4) {
                Some(snapshot) if whole.as_ref().is_some_and(|whole| is_same(whole, snapshot)) => return Ok(()),
                Some(snapshot) => {
                    hold.during(self.read_back(snapshot, &options.merge)).await?;
                    whole = Some(snapshot.clone());
                }
                None => whole = Some(self.make_snapshot(hold, listing, options, done).await?),
            }
        }
        Err(HistoryError::Interrupted("the history has changed each time that its snapshot was made".into()))
    }

    async fn make_snapshot(
        &self,
        hold: &mut Hold<'_>,
        listing: Listing,
        options: &UnfoldOptions,
        done: &mut Unfolded,
    ) -> Result<Entry, HistoryError> {
        let file = tempfile::tempfile_in(&options.merge.folder).map_err(|error| options.merge.spool_error(error))?;
        let file = Arc::new(file);
        let ends = (Txid::ZERO, None);
        let restoring = self.restore_around(listing.clone(), ends, &file, &options.restore, || Ok(None));
        let restored = hold.during(restoring).await?;
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: restored.position.txid };
        if listing.entries().iter().any(|entry| entry.name == name) {
            // Somebody may be about to delete it, since the marker holds the same: one that is made now must outlive that.
            hold.term().check()?;
            self.bucket().delete(&name.key(self.id())).await?;
            let wait = longest_use(hold.window);
            hold.during(async {
                tokio::time::sleep(wait).await;
                Ok(())
            })
            .await?;
        }
        let made = hold.during(self.snapshot_of(&restored, file, self, &options.merge)).await?;
        done.snapshot = Some(made.clone());
        Ok(made)
    }

    /// Before the markers: they alone say what the page objects are.
    async fn remove_declaration(&self, hold: &Hold<'_>, done: &mut Unfolded) -> Result<(), HistoryError> {
        let listing = self.list(Some(Txid::MAX)).await?;
        if let Some(declaration) = listing.declaration() {
            hold.term().check()?;
            self.bucket().delete(&declaration.key).await?;
            done.declaration = true;
        }
        Ok(())
    }

    /// The newest last: an older one says nothing of the page objects.
    async fn remove_markers(&self, hold: &Hold<'_>, done: &mut Unfolded) -> Result<(), HistoryError> {
        let listing = self.list(Some(Txid::MAX)).await?;
        for entry in listing.entries().iter().filter(|entry| entry.name.level == Level::PAGES) {
            hold.term().check()?;
            self.bucket().delete(&entry.name.key(self.id())).await?;
            done.markers += 1;
        }
        Ok(())
    }

    async fn remove_pages(
        &self,
        hold: &mut Hold<'_>,
        options: &UnfoldOptions,
        done: &mut Unfolded,
    ) -> Result<(), HistoryError> {
        let listing = self.list(Some(Txid::MAX)).await?;
        let snapshot = listing.entries().iter().max_by_key(|entry| entry.name.max);
        let total = match snapshot {
            Some(entry) => u64::from(self.header(entry.name).await?.size_in_pages),
            None => 0,
        };
        let deleted = AtomicU64::new(done.pages);
        let mut pages = self.page_objects(PageNumber::FIRST);
        loop {
            hold.keep().await?;
            let Some(some) = pages.next().await? else { break };
            let term = hold.term();
            let delete = async |key: String| {
                term.check()?;
                self.bucket().delete(&key).await?;
                let done = deleted.fetch_add(1, Ordering::Relaxed) + 1;
                if let Some(progress) = &options.removing.0 {
                    progress(done, total.max(done));
                }
                Ok::<_, HistoryError>(())
            };
            let keys = futures::stream::iter(some.into_iter().map(|(_, object)| Ok(object.key)));
            keys.boxed().try_for_each_concurrent(PARALLEL, delete).await?;
        }
        done.pages = deleted.into_inner();
        Ok(())
    }

    /// Those of earlier calls, and those that are older than the fence window.
    async fn remove_claims(&self, hold: &Hold<'_>, before: &Listing, force: bool) -> Result<(), HistoryError> {
        let now = self.time(before).await;
        for object in before.claims() {
            let is_old = object.modified.checked_add(hold.window).is_some_and(|until| until <= now);
            if is_old || force || hold.is_own(&object.key) {
                hold.term().check()?;
                self.bucket().delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

fn is_paged(listing: &Listing) -> bool {
    listing.layout() == Layout::Pages
}

/// Replies to a listing and to others may tell times of another precision.
fn is_same(one: &Entry, other: &Entry) -> bool {
    (one.name, one.size, &one.e_tag) == (other.name, other.size, &other.e_tag)
}

impl Listing {
    /// A snapshot that holds all that a marker does, and leads to the end without it: the one that reaches furthest. One that
    /// reaches no further than the marker counts while it is young.
    fn stand_in(&self, marker: Txid, now: SystemTime, young: Duration) -> Option<&Entry> {
        let stands = |entry: &&Entry| {
            let is_young = || entry.modified.checked_add(young).is_some_and(|until| now < until);
            entry.name.level == Level::SNAPSHOT
                && entry.name.min == Txid::FIRST
                && (entry.name.max > marker || entry.name.max == marker && is_young())
                && self.leads_to_end(entry.name)
        };
        self.entries().iter().filter(stands).max_by_key(|entry| entry.name.max)
    }

    fn leads_to_end(&self, snapshot: ObjectName) -> bool {
        let is_other_base = |name: &ObjectName| name.min == Txid::FIRST && *name != snapshot;
        self.without(is_other_base).plan(Txid::ZERO, None).is_ok_and(|plan| plan.up_to == self.last_txid())
    }
}
