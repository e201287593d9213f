//! What is merged next, and when.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bottomless_ltx::Txid;

use crate::{Entry, Layout, Level, Listing, ObjectName, Policy};

/// Objects that are merged into one at most: of the log, as many as a listing shows in one request.
const INPUTS: usize = 1000;

/// What is merged without a snapshot.
pub(super) const RUNS: [u8; 3] = [1, 2, 3];

/// An object that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) name: ObjectName,
    /// How many objects it merges, of the level below; 0 for a snapshot.
    pub(super) inputs: usize,
    /// When it is due.
    pub(super) at: SystemTime,
}

/// Objects of one level that continue each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    min: Txid,
    max: Txid,
    inputs: usize,
    /// When the first was created.
    since: SystemTime,
}

impl Listing {
    /// The next object to make, the lowest level first; `None` when nothing is due. `now` is the time by the store's clock.
    #[must_use]
    pub fn due(&self, policy: &Policy, now: SystemTime) -> Option<ObjectName> {
        self.tasks(policy).find(|task| task.at <= now).map(|task| task.name)
    }

    /// When an object will be due if nothing is committed and made until then, by the store's clock: in the past, if one is
    /// due already; `None` when there is nothing to merge.
    #[must_use]
    pub fn due_at(&self, policy: &Policy) -> Option<SystemTime> {
        self.tasks(policy).map(|task| task.at).min()
    }

    /// The transactions in the log that no object above has merged.
    #[must_use]
    pub fn uncompacted(&self) -> usize {
        self.behind(self.last_merged()).len()
    }

    /// The log behind a transaction.
    fn behind(&self, txid: Txid) -> &[Entry] {
        let log = self.log();
        log.split_at(log.partition_point(|entry| entry.name.max <= txid)).1
    }

    /// The objects of one level.
    fn level(&self, level: Level) -> &[Entry] {
        let from = self.entries().partition_point(|entry| entry.name.level < level);
        let to = self.entries().partition_point(|entry| entry.name.level <= level);
        self.entries().get(from..to).unwrap_or_default()
    }

    /// All objects that can be made of what is there, the lowest level first: none where the log is folded into page objects.
    pub(super) fn tasks(&self, policy: &Policy) -> impl Iterator<Item = Task> {
        let tasks = RUNS.into_iter().map(|level| self.run(policy, level)).chain([self.snapshot(policy)]).flatten();
        tasks.filter(|_| self.layout() == Layout::Ltx)
    }

    /// The object of level 1 to 3 that can be made of the level below.
    pub(super) fn run(&self, policy: &Policy, level: u8) -> Option<Task> {
        let interval = policy.levels.get(usize::from(level).checked_sub(1)?)?;
        let level = Level::new(level).ok()?;
        let Run { min, max, inputs, since } =
            if level.get() == 1 { self.run_of_log() } else { self.run_of_level(level) }?;
        let made = self.level(level).iter().map(|entry| entry.modified).max();
        // Also when nothing was merged for long, the first waits for what comes after it.
        let at = if inputs == INPUTS { since } else { made.map_or(since, |made| made.max(since)) + *interval };
        Some(Task { name: ObjectName { level, min, max }, inputs, at })
    }

    /// What of the log no object above holds, as far as none is missing. Without the first transaction, which may be a whole
    /// database that was published: it would be stored once more at each level, and is left to the first snapshot.
    fn run_of_log(&self) -> Option<Run> {
        let mut last = self.last_merged();
        if last == Txid::ZERO && self.log().first().is_some_and(|entry| entry.name.min == Txid::FIRST) {
            last = Txid::FIRST;
        }
        let log = self.behind(last);
        let mut inputs = 0;
        for entry in log.iter().take(INPUTS) {
            if entry.name.min.prev() != last {
                break;
            }
            (last, inputs) = (entry.name.max, inputs + 1);
        }
        let first = log.first().filter(|_| inputs > 0)?;
        Some(Run { min: first.name.min, max: last, inputs, since: first.modified })
    }

    /// The objects of the level below that no object of this level or above (but snapshots) holds whole, as far as they
    /// continue each other.
    fn run_of_level(&self, level: Level) -> Option<Run> {
        let merged = self.merged().iter().filter(|e| e.name.level >= level && e.name.level < Level::SNAPSHOT);
        let merged = merged.map(|entry| entry.name.max).max().unwrap_or_default();
        let below = self.level(Level::new(level.get().checked_sub(1)?).ok()?);
        let below = || below.iter().filter(|entry| entry.name.max > merged);
        // Two machines may have made objects that overlap: so the one that begins last at or before what is missing. Where
        // only a snapshot holds what is between, the first.
        let start = below().map(|entry| entry.name.min).filter(|&min| min <= merged.next()).max();
        let start = start.or_else(|| below().map(|entry| entry.name.min).min())?;
        // By where it ends. In the order of their beginnings, none continues a later one.
        let mut runs: BTreeMap<Txid, Run> = BTreeMap::new();
        for Entry { name, modified, .. } in below() {
            let run = if name.min == start {
                Run { min: start, max: name.max, inputs: 1, since: *modified }
            } else {
                let before = runs.get(&name.min.prev()).filter(|before| before.inputs < INPUTS);
                let Some(before) = before else { continue };
                Run { max: name.max, inputs: before.inputs + 1, ..*before }
            };
            runs.entry(name.max).or_insert(run);
        }
        runs.pop_last().map(|(_, run)| run)
    }

    /// The snapshot of all that the levels hold.
    pub(super) fn snapshot(&self, policy: &Policy) -> Option<Task> {
        let max = self.merged().iter().filter(|e| e.name.level < Level::SNAPSHOT).map(|e| e.name.max).max()?;
        let last = self.level(Level::SNAPSHOT).iter().max_by_key(|entry| entry.name.max);
        if last.is_some_and(|last| last.name.max >= max) {
            return None;
        }
        let since = match last {
            Some(last) => last.modified,
            None => self.entries().iter().map(|entry| entry.modified).min()?,
        };
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max };
        Some(Task { name, inputs: 0, at: since + policy.snapshot })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::DatabaseId;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn name((level, min, max): (u8, u64, u64)) -> ObjectName {
        ObjectName { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
    }

    /// Of (level, min, max, when it was created).
    fn listing(objects: &[(u8, u64, u64, u64)]) -> Listing {
        let entry = |&(level, min, max, created)| {
            let name = name((level, min, max));
            Entry { name, size: 1, modified: at(created), e_tag: None }
        };
        Listing::of(DatabaseId::new("d").unwrap(), objects.iter().map(entry).collect(), None)
    }

    /// What is due, and from when on.
    fn due(objects: &[(u8, u64, u64, u64)]) -> Option<((u8, u64, u64), u64)> {
        let (listing, policy) = (listing(objects), Policy::default());
        let from = listing.due_at(&policy)?;
        assert_eq!(listing.due(&policy, from - Duration::from_secs(1)), None);
        let name = listing.due(&policy, from).unwrap();
        let from = from.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Some(((name.level.get(), name.min.get(), name.max.get()), from))
    }

    #[test]
    fn the_log_is_merged_when_its_first_object_has_waited() {
        assert_eq!(due(&[]), None);
        assert_eq!(due(&[(0, 1, 1, 90), (0, 2, 2, 100), (0, 3, 3, 110)]), Some(((1, 2, 3), 130)));
        // Not before the last one is as old, nor at once after a long silence.
        assert_eq!(due(&[(1, 1, 1, 105), (0, 1, 1, 100), (0, 2, 2, 101)]), Some(((1, 2, 2), 135)));
        assert_eq!(due(&[(1, 1, 1, 105), (0, 1, 1, 100), (0, 2, 2, 200)]), Some(((1, 2, 2), 230)));
        assert_eq!(listing(&[(1, 1, 1, 105), (0, 1, 1, 100), (0, 2, 2, 200), (0, 3, 3, 201)]).uncompacted(), 2);
    }

    #[test]
    fn nothing_is_due_where_the_log_is_folded() {
        assert_eq!(due(&[(10, 1, 1, 105), (0, 2, 2, 106), (1, 1, 1, 50), (1, 2, 2, 100)]), None);
    }

    #[test]
    fn the_first_transaction_is_left_to_a_snapshot() {
        assert_eq!(due(&[(0, 1, 1, 100)]), None);
        assert_eq!(due(&[(0, 1, 1, 100), (3, 2, 9, 5000)]), Some(((9, 1, 9), 100 + 24 * 3600)));
    }

    #[test]
    fn a_long_log_is_merged_at_once_and_in_parts() {
        let log: Vec<_> = (1..=1500).map(|txid| (0, txid, txid, 100)).collect();
        assert_eq!(due(&log), Some(((1, 2, 1001), 100)));
        let log: Vec<_> = log.into_iter().chain([(1, 2, 1001, 101)]).collect();
        assert_eq!(due(&log), Some(((1, 1002, 1500), 131)));
    }

    #[test]
    fn nothing_is_merged_over_a_gap() {
        assert_eq!(due(&[(0, 2, 2, 100)]), None);
        assert_eq!(due(&[(0, 1, 1, 100), (0, 3, 3, 100)]), None);
        assert_eq!(due(&[(0, 1, 1, 100), (0, 2, 2, 100), (0, 4, 4, 100)]), Some(((1, 2, 2), 130)));
    }

    #[test]
    fn the_lowest_level_comes_first() {
        let objects = [(1, 1, 5, 1000), (1, 6, 9, 1030), (0, 10, 10, 1031)];
        let (listing, policy) = (listing(&objects), Policy::default());
        assert_eq!(listing.due(&policy, at(9000)), Some(name((1, 10, 10))));
        assert_eq!(due(&objects[..2]), Some(((2, 1, 9), 1300)));
        assert_eq!(due(&[(2, 1, 9, 1300)]), Some(((3, 1, 9), 4900)));
        assert_eq!(due(&[(3, 1, 9, 5000)]), Some(((9, 1, 9), 5000 + 24 * 3600)));
        assert_eq!(due(&[(3, 1, 9, 5000), (9, 1, 9, 6000)]), None);
        assert_eq!(due(&[(3, 1, 9, 5000), (9, 1, 8, 6000)]), Some(((9, 1, 9), 6000 + 24 * 3600)));
    }

    #[test]
    fn what_two_machines_made_at_once_is_merged_as_far_as_it_continues() {
        // One by another listing than the other.
        let both = [(1, 1, 10, 100), (1, 1, 15, 101), (1, 16, 20, 102)];
        assert_eq!(due(&both), Some(((2, 1, 20), 401)));
        assert_eq!(due(&[(1, 1, 10, 100), (1, 1, 15, 101), (1, 11, 20, 102)]), Some(((2, 1, 20), 400)));
        // Nothing continues 15 any more, and what holds 16 begins earlier.
        let crossed = [(2, 1, 15, 50), (1, 11, 20, 102), (1, 21, 25, 103)];
        assert_eq!(due(&crossed), Some(((2, 11, 25), 402)));
        // What another program has merged, and only a snapshot holds.
        assert_eq!(due(&[(9, 1, 7, 100), (1, 8, 9, 101), (1, 10, 10, 102)]), Some(((2, 8, 10), 401)));
    }
}
