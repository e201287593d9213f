//! Days of a history in a moment: commits, pauses, and two machines that compact it at once by old listings. Objects are
//! names and times only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use bottomless_ltx::Txid;
use bottomless_store::Object;
use proptest::prelude::*;

use super::pass::{is_listed_for_deletion, longest_use};
use crate::listing::LogPart;
use crate::{DatabaseId, Entry, Level, Listing, ObjectName, Policy, Replaced, Settings};

const START: u64 = 1_000_000;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn id() -> DatabaseId {
    DatabaseId::new("d").unwrap()
}

fn entry(name: ObjectName, created: u64) -> Entry {
    // The cost of a way is no matter here.
    Entry { name, size: 100, modified: time(created), e_tag: None }
}

/// The bucket.
#[derive(Default)]
struct Store {
    now: u64,
    /// When each was created.
    objects: BTreeMap<ObjectName, u64>,
    /// Objects of the log that came too late.
    late: BTreeSet<ObjectName>,
    /// When each transaction was claimed; the first is 1.
    claimed: Vec<u64>,
    /// W, what it was before, and when that changed.
    windows: (u64, u64, u64),
    /// The shortest of all that compact.
    retention: u64,
}

impl Store {
    fn last(&self) -> u64 {
        self.claimed.len() as u64
    }

    fn commit(&mut self) {
        self.claimed.push(self.now);
        self.objects.insert(ObjectName::log(Txid::new(self.last())), self.now);
    }

    fn settings(&self) -> (Settings, Object) {
        let (window, before, modified) = self.windows;
        let (window, before) = (Duration::from_secs(window), Duration::from_secs(before));
        let object = Object { key: Settings::key(&id()), size: 9, modified: time(modified), e_tag: None };
        (Settings { fence_window: window, fence_window_before: before }, object)
    }

    /// W, for those who may not know that it was changed.
    fn window(&self) -> u64 {
        let (window, before, changed) = self.windows;
        if changed + before < self.now { window } else { window.max(before) }
    }

    /// As somebody reads it who has listed then.
    fn deletion_window(&self, now: SystemTime) -> Duration {
        let (settings, object) = self.settings();
        settings.deletion_window(Some(object.modified), now)
    }

    fn listing(&self) -> Listing {
        let entries = self.objects.iter().map(|(&name, &created)| entry(name, created)).collect();
        Listing::of(id(), entries, Some(self.settings().1))
    }

    /// The levels, and the log behind them.
    fn end(&self) -> Listing {
        let listing = self.listing();
        let compacted = listing.last_merged();
        listing.without(|name| name.level == Level::LOG && name.max <= compacted).with_log(LogPart::Behind)
    }

    /// The position of the end, and all that is younger than the retention, can be had without what came too late; and what
    /// did is known by it.
    fn assert_is_restorable(&self, after: &ObjectName) {
        let listing = self.listing();
        for late in &self.late {
            let entry = entry(*late, self.objects[late]);
            assert!(listing.is_late(&entry), "without {after}, nothing shows that {late} came too late");
        }
        let genuine = listing.without(|name| self.late.contains(name));
        assert!(genuine.log().iter().all(|entry| !genuine.is_late(entry)));
        let end = Txid::new(self.last());
        assert_eq!(genuine.last_txid(), end, "without {after}, the end is gone");
        let young = self.claimed.iter().position(|claimed| claimed + self.retention >= self.now);
        let young = young.map_or(self.last(), |at| at as u64 + 1);
        for txid in BTreeSet::from([young, u64::midpoint(young, self.last()), self.last()]) {
            let plan = genuine.plan(Txid::ZERO, Some(Txid::new(txid)));
            assert!(plan.is_ok(), "without {after}: {}\n{self}", plan.unwrap_err());
        }
        // A plan for each, in one go.
        let ends: BTreeSet<Txid> = genuine.positions().into_iter().collect();
        for txid in young..=self.last() {
            assert!(ends.contains(&Txid::new(txid)), "without {after}, nothing leads to TXID {txid}\n{self}");
            let is_young = self.claimed[txid as usize - 1] + self.retention >= self.now;
            let is_logged = self.objects.contains_key(&ObjectName::log(Txid::new(txid)));
            assert!(!is_young || is_logged, "without {after}, TXID {txid} has no object\n{self}");
        }
    }

    fn delete(&mut self, name: &ObjectName, window: u64) {
        let now = self.now;
        if self.objects.contains_key(name) && !self.late.contains(name) {
            // What a reader plans by, and what another writer knows the end by, stays for W. (An object may have been made again
            // since it was listed: it is as little needed as the one before.)
            let covers =
                |other: &ObjectName| other.level > name.level && other.min <= name.min && name.max <= other.max;
            let is_base = |other: &ObjectName| other.level == Level::SNAPSHOT && other.max > name.max;
            let settled =
                |(other, created): (&ObjectName, &u64)| (covers(other) || is_base(other)) && created + window < now;
            assert!(self.objects.iter().any(settled), "{name} goes before its replacement is {window} s old\n{self}");
        }
        if name.level == Level::LOG {
            let claimed = self.claimed[name.max.get() as usize - 1];
            assert!(claimed + window.max(self.retention) < now, "{name} goes too early\n{self}");
        }
        self.objects.remove(name);
        self.late.remove(name);
        self.assert_is_restorable(name);
    }
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "now {}, W {:?}, retention {}, last {}", self.now, self.windows, self.retention, self.last())?;
        for (name, created) in &self.objects {
            let late = if self.late.contains(name) { " late" } else { "" };
            writeln!(f, "{name} {created} ({} ago){late}", self.now - created)?;
        }
        Ok(())
    }
}

/// What a machine is at.
enum Doing {
    Nothing,
    /// It has listed the levels and the end of the log.
    Merging(Listing),
    /// It has read and merged; its PUT is on the way.
    Putting(ObjectName),
    /// It has listed the levels, to delete.
    Listing(Listing, Listed),
    /// It has listed all that it needs.
    Deleting {
        listed: Listed,
        until: u64,
        read: Option<Entry>,
        left: VecDeque<(Entry, Entry)>,
    },
}

/// When that was, and what W was then (one that is made longer meanwhile counts for later listings only).
#[derive(Clone, Copy)]
struct Listed {
    at: u64,
    window: u64,
}

struct Machine {
    policy: Policy,
    doing: Doing,
}

impl Machine {
    /// The next step, whatever has happened since the last one.
    fn step(&mut self, store: &mut Store, wants_to_delete: bool, whole: bool) {
        self.doing = match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing if wants_to_delete => {
                let listed = Listed { at: store.now, window: store.window() };
                Doing::Listing(store.end().without(|name| name.level == Level::LOG), listed)
            }
            Doing::Nothing => Doing::Merging(store.end()),
            Doing::Merging(listing) => match listing.due(&self.policy, time(store.now)) {
                Some(name) if can_merge(&listing, store, name) => Doing::Putting(name),
                _ => Doing::Nothing,
            },
            Doing::Putting(name) => {
                let now = store.now;
                store.objects.entry(name).or_insert(now);
                Doing::Nothing
            }
            Doing::Listing(levels, listed) => {
                let now = time(listed.at);
                let listing = log_for_deletion(store, levels, &self.policy, now, whole);
                let window = store.deletion_window(now);
                let replaced = listing.replaced(&self.policy, window, now).into_iter();
                let pairs = |Replaced { by, objects }| objects.into_iter().map(move |entry| (by.clone(), entry));
                let until = listed.at + longest_use(window).as_secs();
                Doing::Deleting { listed, until, read: None, left: replaced.flat_map(pairs).collect() }
            }
            Doing::Deleting { listed, until, read, mut left } if store.now <= until => match left.pop_front() {
                Some((by, entry)) if read.as_ref() == Some(&by) => {
                    store.delete(&entry.name, listed.window);
                    Doing::Deleting { listed, until, read, left }
                }
                Some((by, entry))
                    if store.objects.get(&by.name).is_some_and(|&created| time(created) == by.modified) =>
                {
                    left.push_front((by.clone(), entry));
                    Doing::Deleting { listed, until, read: Some(by), left }
                }
                _ => Doing::Nothing,
            },
            Doing::Deleting { .. } => Doing::Nothing,
        };
    }
}

/// Whether all inputs are there that were listed.
fn can_merge(listing: &Listing, store: &Store, name: ObjectName) -> bool {
    let inputs: Vec<Entry> = if name.level == Level::SNAPSHOT {
        let mut without_log = listing.without(|name| name.level == Level::LOG);
        if !listing.is_merged(Txid::FIRST) {
            // It is looked up when it is needed.
            let first = ObjectName::log(Txid::FIRST);
            let Some(&created) = store.objects.get(&first) else { return false };
            without_log.insert(entry(first, created));
        }
        let plan = without_log.plan(Txid::ZERO, Some(name.max));
        plan.map(|plan| plan.objects().to_vec()).unwrap_or_default()
    } else {
        let is_input =
            |e: &&Entry| e.name.level.get() + 1 == name.level.get() && name.min <= e.name.min && e.name.max <= name.max;
        listing.entries().iter().filter(is_input).cloned().collect()
    };
    let is_there = |e: &Entry| store.objects.get(&e.name).is_some_and(|&created| time(created) == e.modified);
    !inputs.is_empty() && inputs.iter().all(is_there)
}

/// Adds the log to a listing of the levels.
fn log_for_deletion(store: &Store, levels: Listing, policy: &Policy, now: SystemTime, whole: bool) -> Listing {
    let log = store.listing();
    let window = store.deletion_window(now);
    let mut listing = levels.clone();
    for entry in log.log() {
        listing.insert(entry.clone());
        if !whole && !is_listed_for_deletion(entry, &levels, policy, window, now) {
            return listing.with_log(LogPart::UpTo { last: entry.name.max, rest_is_young: true });
        }
    }
    listing.with_log(LogPart::Whole)
}

#[derive(Clone, Debug)]
enum Step {
    Commits(u64),
    /// So much time passes.
    Wait(u64),
    /// A machine takes some steps.
    Machine {
        which: usize,
        steps: u64,
        delete: bool,
        whole: bool,
    },
    /// A request arrives of a writer that does not know that its transaction was claimed and deleted.
    Late(u64),
    /// W is set.
    Window(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..12_u64).prop_map(Step::Commits),
        3 => (1..100_u64).prop_map(Step::Wait),
        2 => (100..3000_u64).prop_map(Step::Wait),
        1 => (3000..100_000_u64).prop_map(Step::Wait),
        9 => (0..2_usize, 1..9_u64, any::<bool>(), any::<bool>())
            .prop_map(|(which, steps, delete, whole)| Step::Machine { which, steps, delete, whole }),
        1 => any::<u64>().prop_map(Step::Late),
        1 => (40..4000_u64).prop_map(Step::Window),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (1..60_u64, 1..400_u64, 1..4000_u64, 1..20_000_u64, 1..10_000_u64).prop_map(
        |(one, two, three, snapshot, retention)| {
            let seconds = Duration::from_secs;
            Policy {
                levels: [one, two, three].map(seconds),
                snapshot: seconds(snapshot),
                retention: seconds(retention),
            }
        },
    )
}

fn play(policies: [Policy; 2], window: u64, steps: &[Step]) -> (Store, usize) {
    let retention = policies.iter().map(|policy| policy.retention.as_secs()).min().unwrap();
    let mut store = Store { now: START, windows: (window, window, START - 1), retention, ..Store::default() };
    let mut machines = policies.map(|policy| Machine { policy, doing: Doing::Nothing });
    let mut deleted = 0;
    for step in steps {
        let before = store.objects.len();
        match *step {
            Step::Commits(count) => (0..count).for_each(|_| {
                store.now += 1;
                store.commit();
            }),
            Step::Wait(seconds) => store.now += seconds,
            Step::Machine { which, steps, delete, whole } => {
                // A step takes a moment; merging anew goes on until nothing is due.
                (0..steps * 4).for_each(|_| {
                    store.now += 1;
                    machines[which].step(&mut store, delete, whole);
                });
            }
            Step::Late(which) => {
                let gone = (1..=store.last()).map(|txid| ObjectName::log(Txid::new(txid)));
                let gone: Vec<_> = gone.filter(|name| !store.objects.contains_key(name)).collect();
                if !gone.is_empty() {
                    let name = gone[which as usize % gone.len()];
                    store.objects.insert(name, store.now);
                    store.late.insert(name);
                }
            }
            Step::Window(window) => {
                let before = store.window();
                store.windows = (window, before, store.now);
            }
        }
        deleted += before.saturating_sub(store.objects.len());
    }
    (store, deleted)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(400) })]

    /// After every single deletion, whatever else has happened between the listing and it.
    #[test]
    fn deleting_leaves_what_must_be_restorable(
        policies in [policy(), policy()],
        window in 40..4000_u64,
        steps in prop::collection::vec(step(), 10..160),
    ) {
        let (mut store, _) = play(policies, window, &steps);
        // In the end one object is left, if anybody goes on compacting.
        let mut machine = Machine { policy: policies[0], doing: Doing::Nothing };
        store.commit();
        for _ in 0..12 {
            store.now += 200_000;
            for wants_to_delete in [false, true] {
                for _ in 0..5 {
                    machine.step(&mut store, wants_to_delete, false);
                    while !matches!(machine.doing, Doing::Nothing) {
                        machine.step(&mut store, wants_to_delete, false);
                    }
                }
            }
        }
        prop_assert!(store.objects.len() <= 2, "{store}");
    }
}

/// One machine has listed when a smaller run was all that held a part of the log; until it goes on, another has deleted that
/// run, since the log leads to the positions in the larger one.
#[test]
fn an_old_listing_is_not_used() {
    let policy = Policy { retention: Duration::from_secs(1000), ..Policy::default() };
    let mut store = Store { now: START, windows: (100, 100, START - 200), retention: 1000, ..Store::default() };
    let [mut one, mut two] = [policy, policy].map(|policy| Machine { policy, doing: Doing::Nothing });
    let run =
        |level, min, max| ObjectName { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
    store.commit();
    store.objects.insert(run(1, 1, 1), START + 1);
    store.now += 1002;
    // It lists, and reads back.
    for _ in 0..3 {
        one.step(&mut store, true, true);
    }
    assert!(matches!(&one.doing, Doing::Deleting { left, .. } if left.len() == 1));
    store.commit();
    store.commit();
    for created in [run(1, 2, 3), run(2, 1, 3)] {
        store.objects.insert(created, store.now);
    }
    store.now += 101;
    for _ in 0..9 {
        two.step(&mut store, true, true);
    }
    assert!(!store.objects.contains_key(&run(1, 1, 1)), "{store}");
    for _ in 0..3 {
        one.step(&mut store, true, true);
    }
    assert!(store.objects.contains_key(&ObjectName::log(Txid::new(1))));
}

/// Ten commits a second for days, with the defaults: what a listing behind a position shows takes one request, and all there is
/// is bounded by the retention.
#[test]
fn a_steady_state_is_small() {
    const DAY: u64 = 24 * 3600;
    const A_SECOND: u64 = 10;
    let (policy, window) = (Policy::default(), Settings::default().fence_window);
    let mut levels = Listing::of(id(), Vec::new(), None);
    // The log is whole from here on.
    let (mut first, mut last) = (1, 0);
    let logged = |txid: u64| entry(ObjectName::log(Txid::new(txid)), START + (txid - 1) / A_SECOND);
    let (mut most, mut most_logged) = (0, 0);
    let mut replacements = 0;
    for now in (START..START + 5 * DAY / 2).step_by(30) {
        last += 30 * A_SECOND;
        let behind = (levels.last_merged().get() + 1..=last).map(logged);
        let mut end = Listing::of(id(), levels.entries().iter().cloned().chain(behind).collect(), None);
        most = most.max(end.entries().len());
        most_logged = most_logged.max(last + 1 - first);
        while let Some(name) = end.due(&policy, time(now)) {
            let made = entry(name, now);
            replacements += usize::from(name.level.get() > 1);
            end.insert(made.clone());
            levels.insert(made);
        }
        // More seldom than a pass would.
        if replacements > 3 {
            replacements = 0;
            let mut listing = levels.clone();
            let old = (first..=last)
                .take_while(|&txid| is_listed_for_deletion(&logged(txid), &levels, &policy, window, time(now)));
            let up_to = old.last().unwrap_or(first - 1) + 1;
            // Sparsely, as far as it goes: each commit counts the same.
            listing =
                Listing::of(id(), listing.merged().iter().cloned().chain((first..=up_to).map(logged)).collect(), None);
            listing = listing.with_log(LogPart::UpTo { last: Txid::new(up_to), rest_is_young: true });
            for replaced in listing.replaced(&policy, window, time(now)) {
                let of_log =
                    replaced.objects.iter().filter(|entry| entry.name.level == Level::LOG).map(|e| e.name.max.get());
                first = of_log.max().map_or(first, |last| last + 1);
                levels = levels.without(|name| replaced.objects.iter().any(|entry| entry.name == *name));
            }
        }
    }
    assert!(most < 1000, "{most}");
    // The retention, and an hour that is in one run.
    assert!(most_logged < (DAY + 2 * 3600) * A_SECOND, "{most_logged}");
    assert!(levels.entries().iter().any(|entry| entry.name.level == Level::SNAPSHOT));
}
