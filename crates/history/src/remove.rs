//! Deleting a whole database, in an order in which no part of it is ever taken for an older database.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bottomless_ltx::{PageNumber, Txid};
use bottomless_store::Object;
use futures::TryStreamExt;

use crate::pages::{Hold, PageCount, Term};
use crate::{Entry, History, HistoryError, Level, Listing, ObjectName, Progress};

/// Deletions at the same time.
const PARALLEL: usize = 16;

/// Deletions between two looks at the age of the claim.
const PORTION: usize = 1000;

/// What a store keeps below the prefix of a database, sorted for its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The objects of the history, in the order in which they are deleted.
    pub objects: Vec<Entry>,
    /// The page objects, which are deleted behind all that: without a marker they are no database. They are listed again then.
    pub pages: PageCount,
    /// What else is ours: a probe of conditional writes that was left behind, the declaration of the layout, and last the
    /// settings.
    pub others: Vec<Object>,
    /// Claims of those who fold, or remove: the last of all.
    pub claims: Vec<Object>,
    /// The keys of what is not ours, and stays.
    pub foreign: Vec<String>,
    is_declared: bool,
}

/// How a database is removed.
#[derive(Clone)]
pub struct RemoveOptions {
    /// Whose claim it is, where there are page objects. Its earlier claims were for nothing else.
    pub machine: u64,
    /// Claims of others are taken for those of programs that are gone.
    pub force: bool,
    /// For the request that claims.
    pub timeout: Duration,
    /// Told in objects.
    pub progress: Option<Progress>,
}

impl fmt::Debug for RemoveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, force, timeout, progress } = self;
        let mut debug = f.debug_struct("RemoveOptions");
        debug.field("machine", machine).field("force", force).field("timeout", timeout);
        debug.field("progress", &progress.is_some()).finish()
    }
}

/// A removal that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unremoved {
    /// It was not begun.
    #[error("{0}. Nothing was deleted")]
    Whole(#[source] HistoryError),
    /// It was cut off.
    #[error(
        "{cause}. {deleted} of {total} objects were deleted: the database can't be restored any more; the same command goes on"
    )]
    Part {
        /// How many objects were deleted.
        deleted: u64,
        /// How many there were.
        total: u64,
        /// What came in between.
        #[source]
        cause: HistoryError,
    },
}

/// The order in which objects are deleted so that what is left is never an older database: first what begins with the
/// first transaction, and of that what reaches furthest last.
pub(crate) fn removal_order(name: ObjectName) -> (bool, Txid, ObjectName) {
    (name.min != Txid::FIRST, name.max, name)
}

impl Removal {
    fn of(listing: &Listing, pages: PageCount) -> Self {
        let mut objects = listing.entries().to_vec();
        objects.sort_by_key(|entry| removal_order(entry.name));
        let mut others = listing.probes().to_vec();
        let is_declared = listing.declaration().is_some();
        others.extend(listing.declaration().cloned());
        others.extend(listing.settings().cloned());
        let (claims, foreign) = (listing.claims().to_vec(), listing.foreign_keys().to_vec());
        Self { objects, pages, others, claims, foreign, is_declared }
    }

    /// How many objects are deleted.
    #[must_use]
    pub fn count(&self) -> usize {
        let pages = usize::try_from(self.pages.count).unwrap_or(usize::MAX);
        self.objects.len() + self.others.len() + self.claims.len() + pages
    }

    /// Bytes of what is deleted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let objects = self.objects.iter().map(|entry| entry.size);
        let others = self.others.iter().chain(&self.claims).map(|object| object.size);
        objects.chain(others).chain([self.pages.bytes]).sum()
    }

    /// Whether there is anything by which page objects are known, or made: it is removed under a claim.
    #[must_use]
    pub fn is_paged(&self) -> bool {
        let is_marker = |entry: &Entry| entry.name.level == Level::PAGES;
        self.is_declared || self.pages.count > 0 || !self.claims.is_empty() || self.objects.iter().any(is_marker)
    }

    /// Whether there is nothing of ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The objects that everything else stands on, one after the other; the one that reaches furthest last. As long as that
    /// one is there the rest leads to where it always led, or nowhere.
    fn bases(&self) -> &[Entry] {
        let end = self.objects.partition_point(|entry| entry.name.min == Txid::FIRST);
        self.objects.get(..end).unwrap_or_default()
    }
}

impl History {
    /// Looks at what a removal of the whole database would delete, and what it would leave. Page objects are counted whether or
    /// not there is a marker: a removal that was cut off leaves them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn removal(&self) -> Result<Removal, HistoryError> {
        let listing = self.list(None).await?;
        Ok(Removal::of(&listing, self.count_pages().await?))
    }

    /// Deletes what [`History::removal`] has found. Nothing can bring it back. A program that has the database open goes on
    /// writing to it: nobody can know of that.
    ///
    /// Where there are page objects it is done under a claim, which goes last: a fold that is under way would make its marker in
    /// the database that comes next. Cut off, the claim stays, and the same machine goes on at once, others in a fence window.
    /// What has come since the removal was looked at goes, too, then.
    ///
    /// # Errors
    /// [`HistoryError::Claimed`] while another folds, before anything is deleted, and those of the store, with how far it came.
    pub async fn remove(&self, removal: &Removal, options: &RemoveOptions) -> Result<(), Unremoved> {
        let mut removing = Deleting::new(self, options.progress.as_ref());
        if !removal.is_paged() {
            return removing.all(removal, None).await;
        }
        let listing = self.list(Some(Txid::MAX)).await.map_err(Unremoved::Whole)?;
        let whose = (options.machine, options.force);
        let mut hold = Hold::take(self, &listing, whose, options.timeout).await.map_err(Unremoved::Whole)?;
        // A fold may have come to its end between the look and the claim.
        let listed = match self.list(None).await {
            Ok(listed) => listed,
            Err(error) => {
                hold.release().await.map_err(Unremoved::Whole)?;
                return Err(Unremoved::Whole(error));
            }
        };
        let mut removal = Removal::of(&listed, removal.pages);
        // Those that have come since are given up by whoever made them, or count.
        let is_known = |object: &Object| listing.claims().iter().any(|claim| claim.key == object.key);
        removal.claims.retain(is_known);
        removing.all(&removal, Some(&mut hold)).await?;
        hold.release().await.map_err(|cause| removing.cut_off(cause))
    }
}

/// Deletes, and counts.
struct Deleting<'a> {
    history: &'a History,
    progress: Option<&'a Progress>,
    total: u64,
    deleted: AtomicU64,
}

impl<'a> Deleting<'a> {
    fn new(history: &'a History, progress: Option<&'a Progress>) -> Self {
        Self { history, progress, total: 0, deleted: AtomicU64::new(0) }
    }

    async fn all(&mut self, removal: &Removal, hold: Option<&mut Hold<'_>>) -> Result<(), Unremoved> {
        self.total = removal.count() as u64;
        self.in_order(removal, hold).await.map_err(|cause| self.cut_off(cause))
    }

    fn cut_off(&self, cause: HistoryError) -> Unremoved {
        Unremoved::Part { deleted: self.deleted.load(Ordering::Relaxed), total: self.total, cause }
    }

    async fn in_order(&self, removal: &Removal, mut hold: Option<&mut Hold<'_>>) -> Result<(), HistoryError> {
        let id = self.history.id();
        let bases = removal.bases();
        for entry in bases {
            self.portion([entry.name.key(id)], &mut hold).await?;
        }
        for entries in removal.objects.get(bases.len()..).unwrap_or_default().chunks(PORTION) {
            self.portion(entries.iter().map(|entry| entry.name.key(id)), &mut hold).await?;
        }
        if removal.is_paged() {
            let mut pages = self.history.page_objects(PageNumber::FIRST);
            while let Some(some) = pages.next().await? {
                self.portion(some.into_iter().map(|(_, object)| object.key), &mut hold).await?;
            }
        }
        for object in removal.others.iter().chain(&removal.claims) {
            self.portion([object.key.clone()], &mut hold).await?;
        }
        Ok(())
    }

    async fn portion(
        &self,
        keys: impl IntoIterator<Item = String>,
        hold: &mut Option<&mut Hold<'_>>,
    ) -> Result<(), HistoryError> {
        let term = match hold {
            Some(hold) => {
                hold.keep().await?;
                Some(hold.term())
            }
            None => None,
        };
        let keys = futures::stream::iter(keys.into_iter().map(Ok));
        keys.try_for_each_concurrent(PARALLEL, |key| self.delete(key, term)).await
    }

    async fn delete(&self, key: String, term: Option<Term>) -> Result<(), HistoryError> {
        term.map_or(Ok(()), Term::check)?;
        self.history.bucket().delete(&key).await?;
        let done = self.deleted.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(progress) = self.progress {
            progress(done.min(self.total), self.total);
        }
        Ok(())
    }
}
