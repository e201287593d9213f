//! Going on with a restore when a fold has changed page objects meanwhile.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use bottomless_ltx::Txid;

use super::lay::{Outcome, Torn};
use crate::{Damage, DatabaseId, History, HistoryError, Level, Listing, ObjectName, RestoreOptions, Restored};

/// The log behind is applied so often at most: again only if so much was folded meanwhile that the page objects were needed
/// again.
const ROUNDS: usize = 4;

/// A transaction can't be restored: page objects are of a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldedAway {
    /// The database.
    pub id: DatabaseId,
    /// The transaction that was asked for.
    pub asked: Txid,
    /// The marker that there is now.
    pub marker: Txid,
    /// The end of the history.
    pub last: Txid,
}

impl fmt::Display for FoldedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, asked, marker, last } = self;
        write!(
            f,
            "TXID {asked} of {id} can't be restored any more: the pages of later transactions have been folded into its page \
             objects; "
        )?;
        match marker > asked && marker < last {
            true => write!(f, "restore a TXID from {marker} to {last} instead"),
            false => write!(f, "restore TXID {last} instead, the end of the history"),
        }
    }
}

impl std::error::Error for FoldedAway {}

impl History {
    /// Makes the database at the end of the history of a torn file: what was folded into page objects before they were read is
    /// in the log now. Where another transaction was asked for it can't be had.
    pub(crate) async fn mend(
        &self,
        torn: Torn,
        asked: Option<Txid>,
        into: Option<Arc<File>>,
        options: &RestoreOptions,
    ) -> Result<Restored, HistoryError> {
        let Torn { mut base, error, mut bytes } = torn;
        let marker = error.keys().find_map(|key| ObjectName::parse(self.id(), key));
        for _ in 0..ROUNDS {
            let at = base.position.txid;
            let listing = self.list(Some(at)).await?;
            if let Some(name) = marker.filter(|_| listing.marker().is_none()) {
                // The page objects were given up for a snapshot: that the marker has vanished asks for another listing.
                self.header(name).await?;
            }
            let last = listing.last_txid();
            if last <= at {
                break;
            }
            if let Some(asked) = asked {
                let markers = listing.entries().iter().filter(|entry| entry.name.level == Level::PAGES);
                let marker = markers.map(|entry| entry.name.max).max().unwrap_or_default();
                return Err(HistoryError::Folded(Box::new(FoldedAway { id: self.id().clone(), asked, marker, last })));
            }
            let Some(plan) = listing.plans(at, last)?.into_iter().next() else { break };
            tracing::info!(from = %at, to = %last, "pages were folded meanwhile; the restore goes on with the log behind them");
            let options = RestoreOptions { base: Some(base), ..options.clone() };
            match self.try_restore(&plan, into.clone(), &options).await {
                // Its last object names no checksum of ours: nothing tells whether it is whole.
                Ok(Outcome::Whole(restored)) if restored.is_foreign => break,
                Ok(Outcome::Whole(restored)) => return Ok(Restored { bytes: restored.bytes + bytes, ..restored }),
                Ok(Outcome::Torn(torn)) => {
                    base = torn.base;
                    bytes += torn.bytes;
                }
                // The log does not make it whole: so it was no fold.
                Err(again) if is_torn(&again) => break,
                Err(again) => return Err(again),
            }
        }
        Err(error)
    }
}

/// Objects may be folded away between the listing and the download: so often it is listed anew.
const LISTINGS: usize = 4;

impl History {
    /// Makes the end of the history from the page objects, whatever else leads there; without a file it is only verified.
    /// Nothing without a marker.
    ///
    /// # Errors
    /// As [`History::restore`].
    pub(crate) async fn restore_from_pages(
        &self,
        mut listing: Listing,
        into: Option<Arc<File>>,
        options: &RestoreOptions,
    ) -> Result<Option<Restored>, HistoryError> {
        for again in (0..LISTINGS).rev() {
            let Some(marker) = listing.marker().map(|marker| marker.name) else { return Ok(None) };
            let is_aside = |name: &ObjectName| name.min == Txid::FIRST && *name != marker;
            let plan = listing.without(is_aside).plan(Txid::ZERO, None)?;
            let restored = match self.try_restore(&plan, into.clone(), options).await {
                Ok(Outcome::Whole(restored)) => Ok(restored),
                Ok(Outcome::Torn(torn)) => self.mend(*torn, None, into.clone(), options).await,
                Err(error) => Err(error),
            };
            match restored {
                Err(error) if error.is_outdated() && again > 0 => listing = self.list(None).await?,
                restored => return restored.map(Some),
            }
        }
        Ok(None)
    }
}

fn is_torn(error: &HistoryError) -> bool {
    let HistoryError::Damaged { damage, .. } = error else { return false };
    matches!(**damage, Damage::MissingPage { .. } | Damage::Database { .. })
}
