//! Which transactions can be restored, and which can't although they should.

use std::ops::RangeInclusive;

use bottomless_ltx::Txid;

use super::{Problem, Severity};
use crate::{Entry, Listing};

/// So many gaps are named one by one.
const NAMED_GAPS: usize = 100;

impl Listing {
    /// The transactions that the objects lead to, in runs of consecutive ones, ascending. Those between were merged with
    /// later ones, or are missing.
    #[must_use]
    pub fn restorable(&self) -> Vec<RangeInclusive<Txid>> {
        let mut runs: Vec<RangeInclusive<Txid>> = Vec::new();
        for txid in self.positions() {
            match runs.last_mut() {
                Some(run) if run.end().next() == txid => *run = *run.start()..=txid,
                _ => runs.push(txid..=txid),
            }
        }
        runs
    }
}

/// The transactions that nothing leads over on the way to the end, and that no later object holds merged.
pub(super) fn gaps(listing: &Listing, last: Txid) -> Vec<RangeInclusive<Txid>> {
    let mut gaps = Vec::new();
    let mut from = Txid::ZERO;
    while from < last && gaps.len() < NAMED_GAPS {
        let (missing, _) = listing.reach(from, last);
        if missing.is_empty() {
            break;
        }
        from = *missing.end();
        gaps.push(missing);
    }
    gaps
}

/// `listing` is what is there, `sound` what is undamaged of it.
pub(super) fn problems(listing: &Listing, sound: &Listing) -> Vec<Problem> {
    let last = listing.last_txid();
    let missing = gaps(listing, last);
    let bring_back = "bring the objects back from a backup or older versions of them in the bucket";
    let mut problems: Vec<Problem> = gaps(sound, last)
        .into_iter()
        .map(|gap| {
            let (first, end) = (gap.start(), gap.end());
            let what = match missing.iter().any(|gap| gap.start() <= first && end <= gap.end()) {
                true => "a gap: no object holds",
                false => "only damaged objects hold",
            };
            Problem {
                key: None,
                severity: Severity::Error,
                problem: format!(
                    "{what} TXIDs {first} to {end}, so that nothing from {first} to {last} can be restored"
                ),
                advice: bring_back.into(),
            }
        })
        .collect();
    problems.extend(stranded(sound).map(|(first, last)| Problem {
        key: None,
        severity: Severity::Warning,
        problem: format!(
            "TXIDs {} to {} can't be restored by themselves: their objects are there, but those before them are missing",
            first.name.max, last.name.max
        ),
        advice: "later ones hold them merged, so that the end can be restored. A compaction that was interrupted leaves \
                 this and is picked up by the next; else another program or a lifecycle rule has deleted objects"
            .into(),
    }));
    problems
}

/// Runs of objects that nothing leads to, behind the oldest transaction that can be restored; the first and the last of
/// each run.
fn stranded(listing: &Listing) -> impl Iterator<Item = (&Entry, &Entry)> {
    let reachable = listing.positions();
    let (oldest, end) = (reachable.first().copied(), reachable.last().copied());
    let is_between = |entry: &&Entry| oldest.is_some_and(|txid| txid < entry.name.max) && end >= Some(entry.name.max);
    let is_stranded = |entry: &&Entry| is_between(entry) && reachable.binary_search(&entry.name.max).is_err();
    let mut entries: Vec<&Entry> = listing.entries().iter().filter(is_stranded).collect();
    entries.sort_by_key(|entry| (entry.name.max, entry.name.min));
    let mut runs: Vec<(&Entry, &Entry)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((_, last)) if entry.name.min <= last.name.max.next() => *last = entry,
            _ => runs.push((entry, entry)),
        }
    }
    runs.into_iter()
}
