//! From what somebody wants to the transaction, and to a listing that leads to it.

use std::time::SystemTime;

use bottomless_ltx::Txid;

use crate::{History, HistoryError, Listing};

/// Objects may be compacted away between the listing and the reading: so often it is listed anew.
const LISTINGS: usize = 4;

/// Which state of a database is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The newest.
    End,
    /// After this transaction.
    Txid(Txid),
    /// As of this time ([`History::position_at`] says what that means).
    Time(SystemTime),
}

impl History {
    /// Lists what is needed to restore a state, and finds its transaction; `None` for the newest: both are meant for
    /// [`History::restore_around`].
    ///
    /// # Errors
    /// [`HistoryError::NoPoint`] names the nearest points that can be restored, with their times, when this one can't be
    /// any more; else as [`History::position_at`].
    pub async fn locate(&self, goal: Goal) -> Result<(Listing, Option<Txid>), HistoryError> {
        let mut listings = 1;
        loop {
            let mut listing = self.list_briefly(None).await?;
            match self.locate_in(&mut listing, goal).await {
                Err(error) if error.is_vanished() && listings < LISTINGS => listings += 1,
                result => return result.map(|txid| (listing, txid)),
            }
        }
    }

    async fn locate_in(&self, listing: &mut Listing, goal: Goal) -> Result<Option<Txid>, HistoryError> {
        let txid = match goal {
            Goal::End => None,
            Goal::Txid(txid) => Some(txid),
            Goal::Time(time) => Some(self.point_at(listing, time).await?.txid),
        };
        let plan = listing.plan(Txid::ZERO, txid);
        let plan = match txid.filter(|&txid| plan.is_err() && listing.passes_over(txid, txid)) {
            // What ends with it is in that part of the log; and so is what leads there from the last position before it.
            Some(txid) => {
                let position = listing.positions().into_iter().rfind(|&position| position < txid);
                self.list_between(listing, position.unwrap_or_default().next(), txid.next()).await?;
                listing.plan(Txid::ZERO, Some(txid))
            }
            None => plan,
        };
        match plan {
            Ok(_) => Ok(txid),
            Err(error) => Err(self.with_times(listing, error).await),
        }
    }
}
