//! What may be deleted.
//!
//! An object goes when another one holds its transactions, both have been there for longer than the fence window, and all that
//! is younger than the retention stays restorable by what is left. In the order of [`Listing::replaced`] the latter is so
//! after each single deletion: of what can be restored at all, a larger set of objects restores no less.
//!
//! Only one thing depends on the order. An object of the log that came too late (see `late`) is known by what merged its
//! transaction before it was created; so that goes only when the late one is gone, or its replacement shows it as well.
//!
//! Two machines may do this at once, each by a listing that is older than what the other has deleted meanwhile. The pairs of
//! rules that need each other's objects: a position within a run, of which one machine deletes the log because smaller runs lead
//! there, the other these because the log does. A run counts as a replacement of smaller ones only when it is older than the
//! fence window, and a listing is used for a quarter of that: so the first machine has seen the larger run, and leaves the
//! log alone until all of that run may go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bottomless_ltx::Txid;

use crate::listing::LogPart;
use crate::{Entry, Level, Listing, Policy};

/// Machines of a store differ in their clocks, or count in whole seconds. Objects that really come too late are younger by the
/// fence window than what merges their transactions.
const SKEW: Duration = Duration::from_secs(5);

/// Objects that may be deleted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What holds all their transactions.
    pub by: Entry,
    /// In the order in which they must go.
    pub objects: Vec<Entry>,
}

/// What may go by a listing.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// All of the log first.
    pub(super) replaced: Vec<Replaced>,
    /// When these are gone, there is more.
    pub(super) more: bool,
}

/// Transactions that are held by the same objects above the log.
struct Segment {
    txids: Range<Txid>,
    /// Of the compacted runs the one of the highest level, by its place among the levels.
    best: Option<usize>,
    /// When the first object above the log held them.
    merged: SystemTime,
}

struct Judge<'a> {
    listing: &'a Listing,
    now: SystemTime,
    window: Duration,
    retention: Duration,
    segments: Vec<Segment>,
}

impl Listing {
    /// What may be deleted, in the order in which it must go, and by what it is replaced: each of these must be read back before.
    ///
    /// `window` is the fence window that counts for deletion ([`crate::Settings::deletion_window`]); `now` the time by the
    /// store's clock when the listing was asked for, or earlier. It holds for a quarter of the window. Nothing, where only
    /// the end of the log is listed.
    #[must_use]
    pub fn replaced(&self, policy: &Policy, window: Duration, now: SystemTime) -> Vec<Replaced> {
        self.verdict(policy, window, now).replaced
    }

    pub(super) fn verdict(&self, policy: &Policy, window: Duration, now: SystemTime) -> Verdict {
        if self.log_part() == LogPart::Behind {
            return Verdict::default();
        }
        let retention = policy.retention.max(window);
        Judge { listing: self, now, window, retention, segments: self.segments() }.judge()
    }

    /// Cuts the transactions at the ends of the objects above the log; without those that none of them holds.
    fn segments(&self) -> Vec<Segment> {
        let levels = self.merged();
        let mut cuts: Vec<Txid> = levels.iter().flat_map(|e| [e.name.min, e.name.max.next()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let segment = |(&from, &to): (&Txid, &Txid)| {
            let holding = || levels.iter().enumerate().filter(move |(_, entry)| entry.merges(from));
            let runs = holding().filter(|(_, entry)| entry.name.level < Level::SNAPSHOT);
            let best = runs.max_by_key(|(_, entry)| rank(entry)).map(|(at, _)| at);
            let merged = holding().map(|(_, entry)| entry.modified).min()?;
            Some(Segment { txids: from..to, best, merged })
        };
        cuts.iter().zip(cuts.iter().skip(1)).filter_map(segment).collect()
    }
}

/// Of several objects that hold the same, the largest counts.
fn rank(entry: &Entry) -> (Level, Txid, std::cmp::Reverse<Txid>) {
    (entry.name.level, entry.name.max, std::cmp::Reverse(entry.name.min))
}

fn covers(by: &Entry, entry: &Entry) -> bool {
    by.name.min <= entry.name.min && entry.name.max <= by.name.max
}

impl<'a> Judge<'a> {
    fn judge(&self) -> Verdict {
        let base = self.base();
        let mut log = Groups::default();
        for (by, entry) in self.log(base) {
            log.push(by, entry);
        }
        let mut merged = Groups::default();
        let mut more = false;
        for entry in self.listing.merged() {
            if let Some(by) = self.replacement(entry, base) {
                if self.shows_late(entry, by) {
                    more = true;
                } else {
                    merged.push(by, entry);
                }
            }
        }
        let replaced: Vec<Replaced> = log.0.into_values().chain(merged.0.into_values()).collect();
        // What is late goes with the log, if it is old enough.
        Verdict { more: more && !replaced.is_empty(), replaced }
    }

    fn is_older(&self, entry: &Entry, than: Duration) -> bool {
        entry.modified.checked_add(than).is_some_and(|until| until < self.now)
    }

    fn is_old(&self, entry: &Entry) -> bool {
        self.is_older(entry, self.retention)
    }

    fn is_settled(&self, entry: &Entry) -> bool {
        self.is_older(entry, self.window)
    }

    /// The newest marker, or the newest snapshot that is older than the retention: nobody needs what is before it. Where there
    /// is a marker, nothing before it can be restored, since the page objects are those of then or later.
    fn base(&self) -> Option<&'a Entry> {
        if let Some(marker) = self.listing.marker() {
            return Some(marker);
        }
        let bases =
            self.listing.merged().iter().filter(|e| e.name.level == Level::SNAPSHOT && e.name.min == Txid::FIRST);
        bases.filter(|entry| self.is_old(entry)).max_by_key(|entry| entry.name.max)
    }

    /// What goes of the log: what the base holds, and where all that a run holds is old enough.
    ///
    /// Never a part of a run only, as long as some of it is young: the positions within it are reached by the log alone, or by
    /// smaller runs, which the larger one replaces.
    fn log(&self, base: Option<&'a Entry>) -> impl Iterator<Item = (&'a Entry, &'a Entry)> {
        let mut goes: BTreeMap<usize, bool> = BTreeMap::new();
        let mut replaced = Vec::new();
        for segment in &self.segments {
            let log = self.log_of(segment.txids.clone());
            let old = || log.iter().filter(|entry| self.is_old(entry));
            if let Some(base) = base.filter(|base| base.name.max >= segment.txids.start) {
                replaced.extend(old().map(|entry| (base, entry)));
            } else if let Some((at, by)) = segment.best.and_then(|at| Some((at, self.listing.merged().get(at)?)))
                && *goes.entry(at).or_insert_with(|| self.is_settled(by) && self.is_past(by))
            {
                replaced.extend(old().map(|entry| (by, entry)));
            }
        }
        replaced.into_iter()
    }

    /// What an object above the log is replaced by, if it may go.
    fn replacement(&self, entry: &'a Entry, base: Option<&'a Entry>) -> Option<&'a Entry> {
        if !self.is_settled(entry) {
            return None;
        }
        if let Some(base) = base.filter(|base| covers(base, entry)) {
            return Some(base).filter(|base| base.name != entry.name);
        }
        let least = match entry.name.level.get() {
            1 => 2,
            2 if self.is_old(entry) => 3,
            _ => return None,
        };
        let runs =
            self.listing.merged().iter().filter(|by| by.name.level.get() >= least && by.name.level < Level::SNAPSHOT);
        let runs = runs.filter(|by| covers(by, entry) && self.is_settled(by));
        runs.filter(|by| self.ends_elsewhere(entry, by) && (self.is_past(by) || self.has_log(by)))
            .max_by_key(|e| rank(e))
    }

    /// Whether the position after an object is the end of another one as well, or nobody needs it. (It is in the log, unless
    /// another program has deleted it there.)
    fn ends_elsewhere(&self, entry: &Entry, by: &Entry) -> bool {
        let max = entry.name.max;
        let is_logged = || self.is_known(max) && !self.log_of(max..max.next()).is_empty() || self.is_young(max);
        self.is_old(entry) || by.name.max == max || is_logged()
    }

    /// Whether an object of the log, in the transactions of `entry`, is known as late by `entry` and not by `by`.
    fn shows_late(&self, entry: &Entry, by: &Entry) -> bool {
        let log = self.log_of(entry.name.min..entry.name.max.next());
        log.iter().any(|logged| self.is_after(logged, entry.modified) && !self.is_after(logged, by.modified))
    }

    /// Whether an object of the log was created after others merged its transaction, at `merged`.
    fn is_after(&self, logged: &Entry, merged: SystemTime) -> bool {
        merged.checked_add(SKEW.min(self.window / 4)).is_some_and(|merged| merged < logged.modified)
    }

    /// The objects of the log that hold these transactions.
    fn log_of(&self, txids: Range<Txid>) -> &'a [Entry] {
        let log = self.listing.log();
        let at = |txid: Txid| log.partition_point(|entry| entry.name.min < txid);
        log.get(at(txids.start)..at(txids.end)).unwrap_or_default()
    }

    /// Whether the listing tells if a transaction is in the log.
    fn is_known(&self, txid: Txid) -> bool {
        match self.listing.log_part() {
            LogPart::Whole => true,
            LogPart::Behind => false,
            LogPart::UpTo { last, .. } => txid <= last,
        }
    }

    /// Whether a transaction is not listed because it is too young to be deleted.
    fn is_young(&self, txid: Txid) -> bool {
        matches!(self.listing.log_part(), LogPart::UpTo { last, rest_is_young: true } if last < txid)
    }

    /// Whether all that is in the log of the transactions of a run is older than the retention.
    fn is_past(&self, run: &Entry) -> bool {
        let is_past = || self.log_of(run.name.min..run.name.max.next()).iter().all(|entry| self.is_old(entry));
        self.is_old(run) || self.is_known(run.name.max) && is_past()
    }

    /// Whether the log has all transactions of a run.
    fn has_log(&self, run: &Entry) -> bool {
        let (min, max) = (run.name.min, run.name.max);
        let end = match self.listing.log_part() {
            LogPart::UpTo { last, rest_is_young: true } => last.min(max),
            _ => max,
        };
        if end < min {
            return true;
        }
        let log = self.log_of(min..end.next());
        log.len() as u64 == end.get() - min.get() + 1 && !log.iter().any(|entry| self.is_late(entry))
    }

    /// As [`Listing::is_late`], for many.
    fn is_late(&self, entry: &Entry) -> bool {
        let txid = entry.name.max;
        let at = self.segments.partition_point(|segment| segment.txids.end <= txid);
        self.segments.get(at).is_some_and(|s| s.txids.contains(&txid) && self.is_after(entry, s.merged))
    }
}

/// By what replaces them.
#[derive(Default)]
struct Groups(BTreeMap<(Txid, Txid, Level), Replaced>);

impl Groups {
    fn push(&mut self, by: &Entry, entry: &Entry) {
        let key = (by.name.min, by.name.max, by.name.level);
        let group = self.0.entry(key).or_insert_with(|| Replaced { by: by.clone(), objects: Vec::new() });
        group.objects.push(entry.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{DatabaseId, ObjectName};

    const NOW: u64 = 100_000;

    /// Of (level, min, max, seconds ago).
    fn replaced(objects: &[(u8, u64, u64, u64)], part: LogPart) -> Vec<(u8, u64, u64)> {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let entry = |&(level, min, max, age)| {
            let name = ObjectName { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
            Entry { name, size: 1, modified: at(NOW - age), e_tag: None }
        };
        let listing = Listing::of(DatabaseId::new("d").unwrap(), objects.iter().map(entry).collect(), None);
        let policy = Policy { retention: Duration::from_secs(1000), ..Policy::default() };
        let replaced = listing.with_log(part).replaced(&policy, Duration::from_secs(100), at(NOW));
        let names = replaced.iter().flat_map(|replaced| &replaced.objects).map(|entry| entry.name);
        names.map(|name| (name.level.get(), name.min.get(), name.max.get())).collect()
    }

    #[test]
    fn only_the_end_of_a_log_tells_nothing() {
        let objects = [(1, 1, 1, 2000), (2, 1, 2, 2000), (0, 3, 3, 10)];
        assert_eq!(replaced(&objects, LogPart::Whole), [(1, 1, 1)]);
        assert_eq!(replaced(&objects, LogPart::Behind), []);
    }

    /// As Litestream leaves it, which deletes the log after minutes: the ends of the runs are positions as well.
    #[test]
    fn positions_that_another_program_has_taken_from_the_log_stay_in_its_runs() {
        let runs = [(1, 1, 5, 990), (1, 6, 10, 500), (1, 11, 15, 490), (2, 1, 15, 480)];
        assert_eq!(replaced(&runs, LogPart::Whole), [(1, 11, 15)], "its end is that of the larger one");
        let older = runs.map(|(level, min, max, age)| (level, min, max, age + 505));
        assert_eq!(replaced(&older, LogPart::Whole), [(1, 1, 5), (1, 6, 10), (1, 11, 15)][..].to_vec());
    }

    /// An object that came too late does not stand for the one that is gone from the log.
    #[test]
    fn a_late_object_is_no_part_of_the_log() {
        let log = [(0, 1, 1, 900), (0, 2, 2, 900), (0, 3, 3, 900)];
        let runs = [(1, 1, 2, 890), (1, 3, 3, 890), (2, 1, 3, 880)];
        let with = |third: (u8, u64, u64, u64)| [log[0], log[1], third, runs[0], runs[1], runs[2]];
        assert_eq!(replaced(&with(log[2]), LogPart::Whole), [(1, 1, 2), (1, 3, 3)]);
        // As old as what merged it, in a store that counts in whole seconds or whose machines' clocks differ.
        assert_eq!(replaced(&with((0, 3, 3, 885)), LogPart::Whole), [(1, 1, 2), (1, 3, 3)]);
        assert_eq!(replaced(&with((0, 3, 3, 200)), LogPart::Whole), []);
    }

    /// What shows that an object came too late stays as long as that one, if its replacement is younger than both.
    #[test]
    fn what_shows_a_late_object_goes_after_it() {
        let objects = [(0, 2, 2, 1500), (1, 1, 2, 2000), (2, 1, 2, 1100)];
        assert_eq!(replaced(&objects, LogPart::Whole), [(0, 2, 2)]);
        assert_eq!(replaced(&objects[1..], LogPart::Whole), [(1, 1, 2)]);
        let base = [(0, 2, 2, 1500), (1, 1, 2, 2000), (9, 1, 2, 1100)];
        assert_eq!(replaced(&base, LogPart::Whole), [(0, 2, 2)]);
        let shown = [(0, 2, 2, 1500), (1, 1, 2, 2000), (2, 1, 2, 1600)];
        assert_eq!(replaced(&shown, LogPart::Whole), [(0, 2, 2), (1, 1, 2)]);
    }

    /// A marker is as good as it is on the first day, and replaces what the window does not protect.
    #[test]
    fn a_marker_is_a_base_whatever_its_age() {
        let objects = [(0, 1, 1, 1500), (0, 2, 2, 1001), (0, 3, 3, 1000), (0, 4, 4, 1500), (10, 1, 3, 1)];
        assert_eq!(replaced(&objects, LogPart::Whole), [(0, 1, 1), (0, 2, 2)]);
        // What was there before it, and older markers, go when they are older than the window.
        let levels = [(1, 1, 2, 101), (9, 1, 2, 100), (9, 1, 3, 3000), (10, 1, 2, 101), (10, 1, 3, 1)];
        assert_eq!(replaced(&levels, LogPart::Whole), [(1, 1, 2), (9, 1, 3), (10, 1, 2)]);
    }

    #[test]
    fn both_are_older_than_the_window() {
        assert_eq!(replaced(&[(1, 1, 2, 101), (2, 1, 2, 101)], LogPart::Whole), [(1, 1, 2)]);
        assert_eq!(replaced(&[(1, 1, 2, 101), (2, 1, 2, 100)], LogPart::Whole), []);
        assert_eq!(replaced(&[(1, 1, 2, 100), (2, 1, 2, 101)], LogPart::Whole), []);
    }

    #[test]
    fn what_is_not_listed_is_there_if_it_is_young_and_else_unknown() {
        let objects = [(0, 1, 1, 900), (0, 2, 2, 900), (1, 1, 2, 890), (1, 3, 4, 880), (2, 1, 4, 880)];
        let up_to = |rest_is_young| LogPart::UpTo { last: Txid::new(2), rest_is_young };
        assert_eq!(replaced(&objects, LogPart::Whole), []);
        assert_eq!(replaced(&objects, up_to(true)), [(1, 1, 2), (1, 3, 4)]);
        assert_eq!(replaced(&objects, up_to(false)), []);
    }
}
