//! Removing a whole database, in an order in which no part of it is ever taken for an older database.

use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::{PageNumber, Txid};
use bottomless_store::Object;
use futures::TryStreamExt;

use crate::pages::PageCount;
use crate::{Entry, History, HistoryError, ObjectName, Progress};

/// Deletions at the same time.
const PARALLEL: usize = 16;

/// What a store keeps below the prefix of a database, sorted for its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The objects of the history, in the order in which they are deleted.
    pub objects: Vec<Entry>,
    /// What else is ours: claims of those who fold, a probe of conditional writes that was left behind, the declaration of the
    /// layout, and last the settings.
    pub others: Vec<Object>,
    /// The page objects, which are deleted behind all that: without a marker they are no database. They are listed again then.
    pub pages: PageCount,
    /// The keys of what is not ours, and stays.
    pub foreign: Vec<String>,
}

/// A removal that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error(
    "{cause}. {deleted} of {total} objects were deleted: the database can't be restored any more; the same command goes on"
)]
pub struct Unremoved {
    /// How many objects were deleted.
    pub deleted: u64,
    /// How many there were.
    pub total: u64,
    /// What came in between.
    #[source]
    pub cause: HistoryError,
}

/// The order in which objects are deleted so that what is left is never an older database: first what begins with the
/// first transaction, and of that what reaches furthest last.
pub(crate) fn removal_order(name: ObjectName) -> (bool, Txid, ObjectName) {
    (name.min != Txid::FIRST, name.max, name)
}

impl Removal {
    /// How many objects are deleted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.objects.len() + self.others.len() + usize::try_from(self.pages.count).unwrap_or(usize::MAX)
    }

    /// Bytes of what is deleted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let objects = self.objects.iter().map(|entry| entry.size);
        let others = self.others.iter().map(|object| object.size);
        objects.chain(others).chain([self.pages.bytes]).sum()
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
        let mut objects = listing.entries().to_vec();
        objects.sort_by_key(|entry| removal_order(entry.name));
        let mut others = [listing.claims(), listing.probes()].concat();
        others.extend(listing.declaration().cloned());
        others.extend(listing.settings().cloned());
        let pages = self.count_pages().await?;
        Ok(Removal { objects, others, pages, foreign: listing.foreign_keys().to_vec() })
    }

    /// Deletes what [`History::removal`] has found. Nothing can bring it back. A program that has the database open goes on
    /// writing to it: nobody can know of that.
    ///
    /// Progress is told in objects.
    ///
    /// # Errors
    /// Those of the store, with how far it came.
    pub async fn remove(&self, removal: &Removal, progress: Option<&Progress>) -> Result<(), Unremoved> {
        let total = removal.count() as u64;
        let deleted = AtomicU64::new(0);
        let delete = async |key: String| {
            self.bucket().delete(&key).await?;
            let done = deleted.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(progress) = progress {
                progress(done.min(total), total);
            }
            Ok::<_, HistoryError>(())
        };
        let result = async {
            let bases = removal.bases();
            for entry in bases {
                delete(entry.name.key(self.id())).await?;
            }
            let rest = removal.objects.get(bases.len()..).unwrap_or_default();
            let rest = rest.iter().map(|entry| Ok(entry.name.key(self.id())));
            futures::stream::iter(rest).try_for_each_concurrent(PARALLEL, &delete).await?;
            for other in &removal.others {
                delete(other.key.clone()).await?;
            }
            let mut pages = self.page_objects(PageNumber::FIRST);
            while let Some(some) = pages.next().await? {
                let keys = some.into_iter().map(|(_, object)| Ok(object.key));
                futures::stream::iter(keys).try_for_each_concurrent(PARALLEL, &delete).await?;
            }
            Ok(())
        };
        result.await.map_err(|cause| Unremoved { deleted: deleted.load(Ordering::Relaxed), total, cause })
    }
}
