//! Points to which a database can be restored, and their times.
//!
//! A transaction's time is what its writer wrote into the header, in milliseconds. The state as of a time T is that of the
//! last transaction whose time is not behind T. It is found by a binary search over the headers, which takes the times to
//! ascend. Where a clock was set back they do not: then the answer is a transaction whose time is not behind T while that
//! of the next one is, or the end of the history where its time is not behind T. Of several such transactions the search
//! prefers the later ones, and finds the same one in the same listing.
//!
//! Of merged transactions only the last can be restored, and only its time is known. When the answer is one of the
//! others, or might be, it is an error that names the nearest points before and after. (A time that is to the millisecond
//! that of a point means that point, unless the log shows a later transaction of the same millisecond.)

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::SystemTime;

use bottomless_ltx::{Header, Txid};
use futures::{StreamExt, TryStreamExt};

use crate::time::{Rfc3339, from_milliseconds, milliseconds};
use crate::{DatabaseId, Entry, History, HistoryError, Level, Listing, ObjectName, PlanError};

/// Headers that are read at the same time. 1,000,000 transactions take five rounds of them.
const PROBES: usize = 16;

/// A transaction to which a database can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// The transaction.
    pub txid: Txid,
    /// When it was made, by its writer's clock, in milliseconds.
    pub time: SystemTime,
    /// False where the time is not known and this is the latest that it can have been: other programs that merge
    /// transactions don't keep the time of the last one.
    pub is_exact: bool,
}

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.is_exact { "of" } else { "of at the latest" };
        write!(f, "TXID {} {of} {}", self.txid, Rfc3339(self.time))
    }
}

/// The state that was asked for can't be restored; others near it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPoint {
    /// The database.
    pub id: DatabaseId,
    /// The state that was asked for.
    pub asked: Asked,
    /// The last point before it; `None` when it is older than all.
    pub before: Option<RestorePoint>,
    /// The next point behind it.
    pub after: RestorePoint,
}

/// A state of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// After this transaction.
    Txid(Txid),
    /// As of this time.
    Time(SystemTime),
}

impl fmt::Display for NoPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, asked, before, after } = self;
        match (asked, before) {
            (Asked::Time(time), None) if after.txid == Txid::FIRST => {
                write!(f, "{id} has no state as of {}: its history begins with {after}", Rfc3339(*time))
            }
            (Asked::Time(time), None) => {
                write!(f, "{id} can't be restored as of {}: the oldest point that is kept is {after}", Rfc3339(*time))
            }
            (Asked::Txid(txid), None) => {
                write!(f, "TXID {txid} of {id} can't be restored any more: the oldest point that is kept is {after}")
            }
            (Asked::Time(time), Some(before)) => write!(
                f,
                "{id} can't be restored as of {}: what was committed between {before}, and {after}, was merged, and only \
                 these two points are kept; name one of these TXIDs instead",
                Rfc3339(*time)
            ),
            (Asked::Txid(txid), Some(before)) => write!(
                f,
                "TXID {txid} of {id} can't be restored any more: it was merged with later ones; the nearest points that \
                 are kept are {before}, and {after}"
            ),
        }
    }
}

impl std::error::Error for NoPoint {}

/// The objects that end at one restorable position; the log's first, unless it came too late to be what was merged.
type End<'a> = &'a [&'a Entry];

/// What the header of an end says.
#[derive(Clone, Debug)]
struct Known {
    point: RestorePoint,
    header: Header,
    is_late: bool,
}

/// What was read so far. `None`: no object that ends there has a header that can be read.
type Headers = HashMap<Txid, Option<Known>>;

impl History {
    /// The last transaction that was made at `time` or before it, if it can be restored (the module's documentation says
    /// what counts where clocks jumped). Reads some 16 headers for every four binary digits of the number of objects.
    ///
    /// # Errors
    /// [`HistoryError::NoPoint`] names the nearest points when that transaction was merged with later ones, or is older
    /// than all that is kept; those of the store (see [`HistoryError::is_vanished`]); [`HistoryError::Damaged`] where the
    /// header of a transaction that might be it can't be read; [`HistoryError::Plan`] for an empty history and one that
    /// has a gap there.
    pub async fn position_at(&self, listing: &Listing, time: SystemTime) -> Result<RestorePoint, HistoryError> {
        match listing.is_partial() {
            true => self.point_at(&mut listing.clone(), time).await,
            false => {
                let found = self.search(listing, time).await?;
                self.point_between(listing, time, found)
            }
        }
    }

    /// The same; what the listing passes over and this needs is added to it.
    pub(crate) async fn point_at(&self, listing: &mut Listing, time: SystemTime) -> Result<RestorePoint, HistoryError> {
        let mut found = self.search(listing, time).await?;
        let first = found.before.map_or(Txid::FIRST, |before| before.txid.next());
        if let Some(last) = found.after.map(|after| after.txid.prev())
            && listing.passes_over(first, last)
        {
            // With the two that are known and what follows them: they may bear witness.
            self.list_between(listing, first.prev(), last.next().next()).await?;
            found = self.search(listing, time).await?;
        }
        self.point_between(listing, time, found)
    }

    /// The oldest transaction to which the database can be restored; `None` when there is none.
    ///
    /// # Errors
    /// Those of the store (see [`HistoryError::is_vanished`]), and [`HistoryError::Damaged`].
    pub async fn oldest_point(&self, listing: &Listing) -> Result<Option<RestorePoint>, HistoryError> {
        // What is restored from nothing begins with an object that begins with the first transaction.
        let is_first = |entry: &&Entry| entry.name.min == Txid::FIRST && !listing.is_outdated(entry);
        let firsts = listing.entries().iter().filter(is_first);
        match firsts.min_by_key(|entry| (entry.name.max, entry.name.level)) {
            Some(entry) => Ok(Some(point(entry, &self.header_of(entry).await?))),
            None => Ok(None),
        }
    }

    /// The point of a transaction, where an object of the listing ends with it.
    ///
    /// # Errors
    /// Those of the store (see [`HistoryError::is_vanished`]), and [`HistoryError::Damaged`].
    pub async fn point_of(&self, listing: &Listing, txid: Txid) -> Result<Option<RestorePoint>, HistoryError> {
        match listing.entries().iter().find(|entry| entry.name.max == txid) {
            Some(entry) => Ok(Some(point(entry, &self.header_of(entry).await?))),
            None => Ok(None),
        }
    }

    /// The same error, with the times of the nearest points where it is one of a transaction that was merged.
    pub(crate) async fn with_times(&self, listing: &Listing, error: PlanError) -> HistoryError {
        let PlanError::Merged { id, up_to, before, after } = &error else {
            return error.into();
        };
        let points = futures::try_join!(self.point_of(listing, *before), self.point_of(listing, *after));
        match points {
            Ok((before, Some(after))) => {
                HistoryError::no_point(NoPoint { id: id.clone(), asked: Asked::Txid(*up_to), before, after })
            }
            _ => error.into(),
        }
    }

    async fn search(&self, listing: &Listing, time: SystemTime) -> Result<Between, HistoryError> {
        let asked = milliseconds(time);
        let late = listing.late();
        let positions: HashSet<Txid> = listing.positions().into_iter().collect();
        let mut entries: Vec<&Entry> = listing.entries().iter().filter(|e| positions.contains(&e.name.max)).collect();
        entries.sort_by_key(|entry| (entry.name.max, late.contains(&entry.name), entry.name.level));
        let mut ends: Vec<End<'_>> = entries.chunk_by(|a, b| a.name.max == b.name.max).collect();

        let mut headers = Headers::new();
        let mut found = self.bracket(&mut ends, asked, &late, &mut headers).await?;
        if !self.is_sure(listing, &found).await? {
            ends.retain(|end| !end.first().is_some_and(|entry| late.contains(&entry.name)));
            found = self.bracket(&mut ends, asked, &late, &mut headers).await?;
        }
        let Bracket { before, after, damaged } = found;
        if let Some(error) = damaged {
            return Err(error);
        }
        Ok(Between { before: before.map(|known| known.point), after: after.map(|known| known.point) })
    }

    /// The point that was asked for, if it is known to be one.
    fn point_between(&self, listing: &Listing, time: SystemTime, found: Between) -> Result<RestorePoint, HistoryError> {
        let Between { before, after } = found;
        let is_same = |point: &RestorePoint| milliseconds(point.time) == milliseconds(time);
        let Some(after) = after else {
            return match before {
                Some(last) if last.txid == listing.last_txid() || is_same(&last) => Ok(last),
                // Empty, or the end lies behind a gap.
                _ => Err(listing.plan(Txid::ZERO, None).err().unwrap_or(PlanError::Empty(self.id().clone())).into()),
            };
        };
        match before {
            Some(before) if before.txid.next() == after.txid && after.is_exact => Ok(before),
            Some(before) if before.is_exact && is_same(&before) => Ok(before),
            _ => {
                let id = self.id().clone();
                Err(HistoryError::no_point(NoPoint { id, asked: Asked::Time(time), before, after }))
            }
        }
    }

    /// Whether what was found is no object that came too late to be what was merged, or what follows it shows that it is.
    async fn is_sure(&self, listing: &Listing, found: &Bracket) -> Result<bool, HistoryError> {
        for known in [&found.before, &found.after].into_iter().flatten().filter(|known| known.is_late) {
            let next = known.point.txid.next();
            let Some(next) = listing.log().iter().find(|entry| entry.name.max == next) else { return Ok(false) };
            let header = match self.header_of(next).await {
                Err(HistoryError::Damaged { .. }) => return Ok(false),
                header => header?,
            };
            let (Some(late), Some(next)) = (known.header.database, header.database) else { return Ok(false) };
            if late.after != next.before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last of `ends` whose time is not behind `asked`, and the one that follows it. Ends of which no header can be
    /// read are taken out.
    async fn bracket(
        &self,
        ends: &mut Vec<End<'_>>,
        asked: i64,
        late: &HashSet<ObjectName>,
        headers: &mut Headers,
    ) -> Result<Bracket, HistoryError> {
        let mut damaged: Vec<(Txid, HistoryError)> = Vec::new();
        // The first `low` of the ends are not behind the time, as far as is known; `high` is the first that is.
        let (mut low, mut high) = (0, ends.len());
        while low < high {
            let probes = probes(low, high, high == ends.len());
            let missing: Vec<End<'_>> = probes
                .iter()
                .filter_map(|&at| ends.get(at))
                .filter(|end| !headers.contains_key(&txid_of(end)))
                .copied()
                .collect();
            let read: Vec<_> = futures::stream::iter(missing)
                .map(|end| async move { self.known(end, late).await.map(|known| (txid_of(end), known)) })
                .buffered(PROBES + 1)
                .try_collect()
                .await?;
            let mut unreadable = HashSet::new();
            for (txid, known) in read {
                let known = known.map_err(|error| {
                    unreadable.insert(txid);
                    damaged.push((txid, error));
                });
                headers.insert(txid, known.ok());
            }
            if !unreadable.is_empty() {
                ends.retain(|end| !unreadable.contains(&txid_of(end)));
                (low, high) = (0, ends.len());
                continue;
            }
            let is_due = |at: &usize| {
                let known = ends.get(*at).and_then(|end| headers.get(&txid_of(end))?.as_ref());
                known.is_some_and(|known| milliseconds(known.point.time) <= asked)
            };
            let due = probes.iter().rposition(is_due);
            high = probes.get(due.map_or(0, |due| due + 1)).copied().unwrap_or(high);
            low = due.and_then(|due| probes.get(due)).map_or(low, |&at| at + 1);
        }
        let known = |at: usize| headers.get(&txid_of(ends.get(at)?)).cloned().flatten();
        let (before, after) = (low.checked_sub(1).and_then(known), known(low));
        let between = |txid: Txid| {
            before.as_ref().is_none_or(|known| known.point.txid < txid)
                && after.as_ref().is_none_or(|known| txid < known.point.txid)
        };
        let damaged = damaged.into_iter().find(|(txid, _)| between(*txid)).map(|(_, error)| error);
        Ok(Bracket { before, after, damaged })
    }

    /// The first header of an end that can be read.
    async fn known(
        &self,
        end: End<'_>,
        late: &HashSet<ObjectName>,
    ) -> Result<Result<Known, HistoryError>, HistoryError> {
        let mut first = None;
        for entry in end {
            match self.header_of(entry).await {
                Ok(header) => {
                    let point = point(entry, &header);
                    return Ok(Ok(Known { point, header, is_late: late.contains(&entry.name) }));
                }
                Err(error @ HistoryError::Damaged { .. }) => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Err(first.unwrap_or_else(|| PlanError::Empty(self.id().clone()).into())))
    }
}

/// The points around a time, as far as the listing has them.
struct Between {
    before: Option<RestorePoint>,
    after: Option<RestorePoint>,
}

/// Where a time lies between the ends.
struct Bracket {
    before: Option<Known>,
    after: Option<Known>,
    /// Why nothing is known of an end between the two.
    damaged: Option<HistoryError>,
}

/// Places between `low` and `high`, evenly spread; the last one is among them when `with_last` says so.
fn probes(low: usize, high: usize, with_last: bool) -> Vec<usize> {
    let length = high - low;
    let count = length.min(PROBES);
    let mut places: Vec<usize> = (1..=count).map(|n| low + n * (length + 1) / (count + 1) - 1).collect();
    if with_last && places.last() != Some(&(high - 1)) {
        places.push(high - 1);
    }
    places
}

fn txid_of(end: End<'_>) -> Txid {
    end.first().map_or(Txid::ZERO, |entry| entry.name.max)
}

/// The point at the end of an object.
fn point(entry: &Entry, header: &Header) -> RestorePoint {
    let time = from_milliseconds(header.timestamp_ms);
    // Who merges without our checksums keeps the time of the first transaction, or of the merging.
    let is_exact = header.database.is_some() || entry.name.level == Level::LOG || entry.name.min == entry.name.max;
    let time = if is_exact { time } else { time.max(entry.modified) };
    RestorePoint { txid: header.max_txid, time, is_exact }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn probes_narrow_until_nothing_is_left() {
        for (length, rounds) in [(1, 1), (2, 1), (16, 1), (17, 2), (300, 2), (1_000_000, 5)] {
            for target in [0, 1, length / 3, length - 1, length] {
                // The first `target` are not behind the time.
                let (mut low, mut high, mut count) = (0, length, 0);
                while low < high {
                    let places = probes(low, high, high == length);
                    assert!(places.is_sorted() && places.len() <= PROBES + 1);
                    assert!(places.iter().all(|place| (low..high).contains(place)), "{places:?} in {low}..{high}");
                    let due = places.iter().rposition(|&place| place < target);
                    high = places.get(due.map_or(0, |due| due + 1)).copied().unwrap_or(high);
                    low = due.map_or(low, |due| places[due] + 1);
                    count += 1;
                }
                assert_eq!(low, target);
                assert!(count <= rounds, "{count} rounds for {length}");
            }
        }
    }
}
