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
            let listing = self.list(None).await?;
            match self.locate_in(&listing, goal).await {
                Err(error) if error.is_vanished() && listings < LISTINGS => listings += 1,
                result => return result.map(|txid| (listing, txid)),
            }
        }
    }

    async fn locate_in(&self, listing: &Listing, goal: Goal) -> Result<Option<Txid>, HistoryError> {
        let txid = match goal {
            Goal::End => None,
            Goal::Txid(txid) => Some(txid),
            Goal::Time(time) => Some(self.position_at(listing, time).await?.txid),
        };
        match listing.plan(Txid::ZERO, txid) {
            Ok(_) => Ok(txid),
            Err(error) => Err(self.with_times(listing, error).await),
        }
    }
}
