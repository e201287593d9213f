//! A claim that is held while page objects are removed: nobody folds meanwhile.

use std::time::{Duration, SystemTime};

use bottomless_store::{Body, StoreErrorKind};

use super::Claim;
use crate::{History, HistoryError, Listing, Moment};

/// One's own claim. After an error it is given up where nothing was deleted under it, and else left to its age: a request that
/// was not answered may come late.
pub(crate) struct Hold<'a> {
    history: &'a History,
    claim: Claim,
    /// Before it was created.
    since: Moment,
    pub(crate) window: Duration,
    timeout: Duration,
}

/// How long what is done under a claim may be begun.
#[derive(Clone, Copy)]
pub(crate) struct Term {
    since: Moment,
    limit: Duration,
}

impl<'a> Hold<'a> {
    /// Claims, unless another has. With `force`, the claims of the listing count for nothing.
    ///
    /// # Errors
    /// [`HistoryError::Claimed`], and those of the store.
    pub(crate) async fn take(
        history: &'a History,
        listing: &Listing,
        (machine, force): (u64, bool),
        timeout: Duration,
    ) -> Result<Self, HistoryError> {
        let now = history.time(listing).await;
        let (settings, modified) = history.dated_settings(listing).await?;
        let window = settings.deletion_window(modified, now);
        if !force && let Some(error) = claimed(listing, machine, now, window) {
            return Err(error);
        }
        let claim = Claim { machine, random: random()? };
        let hold = Self { history, claim, since: Moment::now(), window, timeout };
        hold.create(claim).await?;
        let seen = history.list(Some(bottomless_ltx::Txid::MAX)).await;
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                hold.release().await?;
                return Err(error);
            }
        };
        let is_known = |key: &str| force && listing.claims().iter().any(|claim| claim.key == key);
        let others = seen.claims().iter().filter(|object| !is_known(&object.key)).cloned();
        match claimed(&Listing::new(history.id().clone(), others), machine, now, window) {
            Some(error) => {
                hold.release().await?;
                Err(error)
            }
            None => Ok(hold),
        }
    }

    async fn create(&self, claim: Claim) -> Result<(), HistoryError> {
        let (key, body) = (claim.key(self.history.id()), Body::Memory(bytes::Bytes::new()));
        let (bucket, now) = (self.history.bucket(), SystemTime::now());
        match bucket.create(&key, &body, now, self.timeout).await {
            // Its name is nobody else's.
            Err(error) if error.kind() == StoreErrorKind::Unsupported => {
                bucket.overwrite(&key, &body, now, self.timeout).await?;
            }
            created => {
                created?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_own(&self, key: &str) -> bool {
        Claim::parse(self.history.id(), key).is_some_and(|claim| claim.machine == self.claim.machine)
    }

    pub(crate) fn term(&self) -> Term {
        Term { since: self.since, limit: self.window / 2 }
    }

    /// Does something that takes long, and keeps the claim young meanwhile.
    pub(crate) async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, HistoryError>>,
    ) -> Result<T, HistoryError> {
        let mut work = std::pin::pin!(work);
        loop {
            let left = (self.window / 4).saturating_sub(self.since.age());
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(left) => self.renew().await?,
            }
        }
    }

    /// Makes the claim young again, where it is not.
    pub(crate) async fn keep(&mut self) -> Result<(), HistoryError> {
        if self.since.age() < self.window / 4 { Ok(()) } else { self.renew().await }
    }

    async fn renew(&mut self) -> Result<(), HistoryError> {
        // One that is too old protects from nobody any more.
        self.term().check()?;
        let (old, since) = (self.claim, Moment::now());
        let claim = Claim { random: random()?, ..old };
        self.create(claim).await?;
        (self.claim, self.since) = (claim, since);
        self.history.bucket().delete(&old.key(self.history.id())).await?;
        Ok(())
    }

    pub(crate) async fn release(self) -> Result<(), HistoryError> {
        self.history.bucket().delete(&self.claim.key(self.history.id())).await?;
        Ok(())
    }
}

impl Term {
    pub(crate) fn check(self) -> Result<(), HistoryError> {
        if self.since.age() < self.limit {
            return Ok(());
        }
        let why = "the machine or the store stood still for so long that the claim to the page objects is too old";
        Err(HistoryError::Interrupted(why.to_owned()))
    }
}

/// The claim of another machine that is younger than the fence window.
fn claimed(listing: &Listing, machine: u64, now: SystemTime, window: Duration) -> Option<HistoryError> {
    let young = listing.claims().iter().filter_map(|object| {
        let claim = Claim::parse(listing.id(), &object.key)?;
        let until = object.modified.checked_add(window)?;
        (claim.machine != machine && until > now).then_some((until, &object.key))
    });
    young.max().map(|(until, key)| HistoryError::Claimed { key: key.clone(), until })
}

fn random() -> Result<u64, HistoryError> {
    getrandom::u64().map_err(|error| HistoryError::Interrupted(error.to_string()))
}
