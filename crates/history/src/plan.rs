//! Choosing the objects that lead to a position.

use std::ops::RangeInclusive;

use bottomless_ltx::Txid;

use crate::{DatabaseId, Entry, Level, Listing};

/// What a request costs beside its bytes, in bytes: so that one object of a compacted run is preferred to the many
/// small ones of the log.
const REQUEST: u64 = 64 * 1024;

/// What a marker costs to whom has a database already: it stands for all pages, each of which is a request. Whatever else leads
/// there costs less.
const ALL_PAGES: u64 = 1 << 50;

/// The objects that lead from one position to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) id: DatabaseId,
    pub(crate) from: Txid,
    pub(crate) up_to: Txid,
    pub(crate) objects: Vec<Entry>,
}

/// The listing does not lead to the position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing.
    #[error(
        "the bucket holds no database {0}; check the database id and the bucket (bottomless-cli ls lists what is there)"
    )]
    Empty(DatabaseId),
    /// There is a replica that we can't read.
    #[error(
        "{0} holds a replica of Litestream 0.3 ({0}/generations/…), which is not read here; restore it with litestream \
         restore, and give the file another database id, or import it (bottomless-cli import)"
    )]
    OldLitestream(DatabaseId),
    /// The position lies behind the end of the history.
    #[error("the history of {id} ends with TXID {last}, before TXID {asked}")]
    BehindEnd {
        /// The database.
        id: DatabaseId,
        /// Its last transaction.
        last: Txid,
        /// The one that was asked for.
        asked: Txid,
    },
    /// Transactions are missing.
    #[error(
        "the history of {id} has a gap: no object holds TXIDs {first} to {last}, which TXID {up_to} needs; another \
         program or a lifecycle rule may have deleted objects: bring them back, or restore another TXID"
    )]
    Gap {
        /// The database.
        id: DatabaseId,
        /// The first that is missing.
        first: Txid,
        /// The last that is missing.
        last: Txid,
        /// The transaction that was asked for.
        up_to: Txid,
    },
    /// Only merged objects hold the transaction, with later ones in them.
    #[error(
        "TXID {up_to} of {id} can't be restored any more: it was merged with later ones; restore TXID {after}{} instead",
        or_before(*before)
    )]
    Merged {
        /// The database.
        id: DatabaseId,
        /// The transaction that was asked for.
        up_to: Txid,
        /// The last position before it that can be restored; zero for none.
        before: Txid,
        /// The next position that can be restored.
        after: Txid,
    },
    /// A database can't be taken back.
    #[error("a database at TXID {from} can't be taken back to TXID {up_to}: restore into an empty file instead")]
    Backwards {
        /// Where it is.
        from: Txid,
        /// The transaction that was asked for.
        up_to: Txid,
    },
    /// Zero is no transaction.
    #[error("TXID 0 can't be restored: the first transaction is 1")]
    Zero,
}

fn or_before(before: Txid) -> String {
    if before == Txid::ZERO { String::new() } else { format!(" or {before}") }
}

/// A way to a position, as far as it is known.
struct Way {
    /// Where it leads.
    to: Txid,
    cost: u64,
    /// The object that makes the last step, by its place in the listing.
    step: Option<usize>,
    /// The way that this one continues, by its place among the ways.
    before: usize,
}

impl Listing {
    /// The cheapest objects that lead from the transaction `from` ([`Txid::ZERO`]: from nothing) to `up_to` (`None`: to
    /// the end). Each begins at or before the end of the one before it plus one, whatever its level.
    ///
    /// # Errors
    /// Says which transactions are missing.
    pub fn plan(&self, from: Txid, up_to: Option<Txid>) -> Result<Plan, PlanError> {
        let id = self.id().clone();
        let last = self.last_txid();
        let up_to = up_to.unwrap_or(last);
        if self.is_empty() && from == Txid::ZERO {
            return Err(if self.is_old_litestream() { PlanError::OldLitestream(id) } else { PlanError::Empty(id) });
        }
        if up_to == Txid::ZERO {
            return Err(PlanError::Zero);
        }
        let asked = up_to.max(from);
        if asked > last {
            return Err(PlanError::BehindEnd { id, last, asked });
        }
        if up_to < from {
            return Err(PlanError::Backwards { from, up_to });
        }
        let ways = self.ways(from, up_to);
        let reached = ways.last().map_or(from, |way| way.to);
        if reached != up_to {
            return Err(self.no_way(from, reached, up_to));
        }
        let mut objects = Vec::new();
        let mut way = ways.last();
        while let Some((before, step)) = way.and_then(|way| Some((way.before, way.step?))) {
            objects.extend(self.entries().get(step).cloned());
            way = ways.get(before);
        }
        objects.reverse();
        Ok(Plan { id, from, up_to, objects })
    }

    /// All positions that can be reached, in ascending order, each with the cheapest way.
    fn ways(&self, from: Txid, up_to: Txid) -> Vec<Way> {
        let useful = |entry: &&Entry| entry.name.max > from && entry.name.max <= up_to && !self.is_outdated(entry);
        let cost_of = |entry: &Entry| match entry.name.level == Level::PAGES && from != Txid::ZERO {
            true => ALL_PAGES,
            false => entry.size.saturating_add(REQUEST),
        };
        let mut steps: Vec<(usize, &Entry)> = self.entries().iter().enumerate().filter(|(_, e)| useful(e)).collect();
        steps.sort_by_key(|(_, entry)| entry.name.max);

        let mut ways = vec![Way { to: from, cost: 0, step: None, before: 0 }];
        // (to, cost, place) of the ways that no further-reaching one undercuts: both ascend. So of those that reach far
        // enough for a step, the first is the cheapest.
        let mut good = vec![(from, 0, 0)];
        for same_end in steps.chunk_by(|(_, a), (_, b)| a.name.max == b.name.max) {
            let continued = same_end.iter().filter_map(|&(step, entry)| {
                let first = good.partition_point(|&(to, ..)| to < entry.name.min.prev());
                let &(_, cost, before) = good.get(first)?;
                let cost = cost_of(entry).saturating_add(cost);
                Some(Way { to: entry.name.max, cost, step: Some(step), before })
            });
            if let Some(way) = continued.min_by_key(|way| way.cost) {
                while good.last().is_some_and(|&(_, cost, _)| cost >= way.cost) {
                    good.pop();
                }
                good.push((way.to, way.cost, ways.len()));
                ways.push(way);
            }
        }
        ways
    }

    /// The transactions to which a database can be restored from nothing, in ascending order.
    #[must_use]
    pub fn positions(&self) -> Vec<Txid> {
        self.ways(Txid::ZERO, self.last_txid()).into_iter().map(|way| way.to).filter(|to| *to != Txid::ZERO).collect()
    }

    /// The transactions that nothing leads over from `from` towards `up_to`, and the last position that can be reached.
    pub(crate) fn reach(&self, from: Txid, up_to: Txid) -> (RangeInclusive<Txid>, Txid) {
        let reached = self.ways(from, up_to).last().map_or(from, |way| way.to);
        let first = reached.next();
        let beyond = self.entries().iter().map(|entry| entry.name.min).filter(|&min| min > first && min <= up_to);
        (first..=beyond.min().map_or(up_to, Txid::prev), reached)
    }

    /// Why nothing leads from `reached`, the furthest position there is, to `up_to`.
    fn no_way(&self, from: Txid, reached: Txid, up_to: Txid) -> PlanError {
        let id = self.id().clone();
        let beyond = self.ways(from, self.last_txid());
        if let Some(way) = beyond.iter().find(|way| way.to > up_to) {
            return PlanError::Merged { id, up_to, before: reached, after: way.to };
        }
        let (gap, _) = self.reach(from, up_to);
        PlanError::Gap { id, first: *gap.start(), last: *gap.end(), up_to }
    }
}

impl Plan {
    /// The objects, oldest first.
    #[must_use]
    pub fn objects(&self) -> &[Entry] {
        &self.objects
    }

    /// Where the plan begins; [`Txid::ZERO`]: with nothing.
    #[must_use]
    pub fn from(&self) -> Txid {
        self.from
    }

    /// Where the plan leads.
    #[must_use]
    pub fn up_to(&self) -> Txid {
        self.up_to
    }

    /// Bytes of all objects: what is downloaded at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|entry| entry.size).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use bottomless_store::Object;
    use proptest::prelude::*;

    use super::*;

    /// A listing of (level, min, max, size).
    fn listing(objects: &[(u8, u64, u64, u64)]) -> Listing {
        let id = DatabaseId::new("d").unwrap();
        let objects = objects.iter().map(|&(level, min, max, size)| Object {
            key: format!("d/{level:04}/{min:016x}-{max:016x}.ltx"),
            size,
            modified: SystemTime::UNIX_EPOCH,
            e_tag: None,
        });
        let listing = Listing::new(id, objects);
        assert_eq!(listing.foreign(), 0);
        listing
    }

    fn planned(listing: &Listing, from: u64, up_to: Option<u64>) -> Result<Vec<(u8, u64, u64)>, PlanError> {
        let plan = listing.plan(Txid::new(from), up_to.map(Txid::new))?;
        let triple = |e: &Entry| (e.name.level.get(), e.name.min.get(), e.name.max.get());
        Ok(plan.objects().iter().map(triple).collect())
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_snapshot_and_what_follows() {
        let listing = listing(&[(9, 1, 3, 9 * MIB), (1, 4, 6, MIB), (0, 5, 5, 1), (0, 6, 6, 1), (0, 7, 7, 1)]);
        assert_eq!(planned(&listing, 0, None).unwrap(), [(9, 1, 3), (1, 4, 6), (0, 7, 7)]);
        assert_eq!(planned(&listing, 0, Some(3)).unwrap(), [(9, 1, 3)]);
        assert_eq!(planned(&listing, 6, None).unwrap(), [(0, 7, 7)]);
        assert_eq!(planned(&listing, 7, None).unwrap(), []);
    }

    #[test]
    fn catching_up_does_not_fetch_a_snapshot_that_the_log_replaces() {
        let listing = listing(&[(0, 8, 8, 1), (0, 9, 9, 1), (0, 10, 10, 1), (9, 1, 9, 100 * MIB)]);
        assert_eq!(planned(&listing, 7, None).unwrap(), [(0, 8, 8), (0, 9, 9), (0, 10, 10)]);
        assert_eq!(planned(&listing, 0, None).unwrap(), [(9, 1, 9), (0, 10, 10)]);
        assert_eq!(planned(&listing, 5, None).unwrap(), [(9, 1, 9), (0, 10, 10)]);
    }

    #[test]
    fn one_request_is_preferred_to_many_for_a_few_bytes() {
        let listing = listing(&[(0, 1, 1, 100), (0, 2, 2, 100), (0, 3, 3, 100), (1, 1, 3, 1000)]);
        assert_eq!(planned(&listing, 0, None).unwrap(), [(1, 1, 3)]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let listing = listing(&[(0, 1, 1, 1), (0, 2, 2, 1), (0, 6, 6, 1), (1, 7, 9, 1)]);
        let id = listing.id().clone();
        let txid = Txid::new;
        assert_eq!(
            planned(&listing, 0, None),
            Err(PlanError::Gap { id: id.clone(), first: txid(3), last: txid(5), up_to: txid(9) })
        );
        assert_eq!(
            planned(&listing, 0, Some(4)),
            Err(PlanError::Gap { id: id.clone(), first: txid(3), last: txid(4), up_to: txid(4) })
        );
        assert_eq!(
            planned(&listing, 5, Some(8)),
            Err(PlanError::Merged { id: id.clone(), up_to: txid(8), before: txid(6), after: txid(9) })
        );
        assert_eq!(
            planned(&listing, 0, Some(10)),
            Err(PlanError::BehindEnd { id: id.clone(), last: txid(9), asked: txid(10) })
        );
        assert_eq!(
            planned(&listing, 12, None),
            Err(PlanError::BehindEnd { id: id.clone(), last: txid(9), asked: txid(12) })
        );
        assert_eq!(planned(&listing, 9, Some(8)), Err(PlanError::Backwards { from: txid(9), up_to: txid(8) }));
        assert_eq!(planned(&listing, 0, Some(0)), Err(PlanError::Zero));
        assert_eq!(Listing::new(id.clone(), []).plan(Txid::ZERO, None), Err(PlanError::Empty(id)));
    }

    proptest! {
        /// Against trying all: a way is found exactly when there is one, it holds together, and none is cheaper.
        #[test]
        fn the_cheapest_way_is_found(
            objects in prop::collection::vec((1..9_u8, 1..12_u64, 0..6_u64, 0..4 * MIB), 1..14),
            from in 0..6_u64,
        ) {
            let objects: Vec<_> = objects.into_iter().map(|(l, min, more, size)| (l, min, min + more, size)).collect();
            let listing = listing(&objects);
            let up_to = listing.last_txid().get();
            prop_assume!(from <= up_to);
            let cost = |of: &[&(u8, u64, u64, u64)]| of.iter().map(|o| o.3 + REQUEST).sum::<u64>();
            let mut best: std::collections::BTreeMap<u64, u64> = [(from, 0)].into();
            for end in from + 1..=up_to {
                let through = objects.iter().filter(|o| o.2 == end).filter_map(|o| {
                    best.range(o.1 - 1..end).map(|(_, cost)| cost + o.3 + REQUEST).min()
                });
                if let Some(cost) = through.min() {
                    best.insert(end, cost);
                }
            }
            let plan = listing.plan(Txid::new(from), None);
            prop_assert_eq!(plan.is_ok(), best.contains_key(&up_to), "{:?}", plan);
            if let Ok(plan) = plan {
                let mut at = from;
                for entry in plan.objects() {
                    prop_assert!(entry.name.min.get() <= at + 1 && entry.name.max.get() > at);
                    at = entry.name.max.get();
                }
                prop_assert_eq!(at, up_to);
                let found: Vec<(u8, u64, u64, u64)> = plan.objects().iter().map(|e| {
                    (e.name.level.get(), e.name.min.get(), e.name.max.get(), e.size)
                }).collect();
                prop_assert_eq!(cost(&found.iter().collect::<Vec<_>>()), best[&up_to]);
            }
        }
    }
}
