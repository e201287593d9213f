//! What an audit finds, for each kind of damage, and that it finds nothing where nothing is wrong.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bottomless_history::{
    Audit, AuditOptions, DatabaseId, History, HistoryError, ObjectName, PlanError, Problem, RestoreOptions, Severity,
};
use bottomless_ltx::{DatabaseChecksums, TRAILER_LENGTH, Txid};
use bottomless_store::{Bucket, Location};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use support::*;

const LAST: u64 = 12;

/// Grows, shrinks, grows.
fn timeline() -> Timeline {
    let write = |place: usize, append, seed| Change::Write { places: vec![place, place + 3], append, seed };
    let mut changes: Vec<Change> =
        (1..=LAST).map(|txid| write(txid as usize, (txid % 3) as usize, txid as u8)).collect();
    changes[4] = Change::Shrink { to: 3, seed: 5 };
    Timeline::new(512, &changes)
}

/// The same until `txid`, and then something else.
fn diverged(txid: u64) -> Timeline {
    let mut other = timeline();
    for state in other.states.iter_mut().skip(usize::try_from(txid).unwrap()) {
        state.pages[0][100] ^= 1;
    }
    other
}

/// As compaction leaves a history: some of the log, merged runs on all levels, two snapshots.
fn names() -> Vec<ObjectName> {
    let above = [(1, 5, 8), (1, 9, 10), (2, 3, 6), (2, 7, 8), (3, 3, 8), (9, 1, 2), (9, 1, 6)];
    let log = (9..=LAST).map(|txid| name(0, txid, txid));
    log.chain(above.map(|(level, min, max)| name(level, min, max))).collect()
}

struct World {
    history: History,
    timeline: Timeline,
}

impl World {
    async fn new() -> Self {
        let world = Self { history: history("test.db"), timeline: timeline() };
        for name in names() {
            world.put(name, world.whole(name)).await;
        }
        world
    }

    fn whole(&self, name: ObjectName) -> Vec<u8> {
        self.timeline.object(name.min.get(), name.max.get())
    }

    fn key(&self, name: ObjectName) -> String {
        name.key(self.history.id())
    }

    /// What is merged is younger than the log, as it always is.
    async fn put(&self, name: ObjectName, bytes: Vec<u8>) {
        self.put_late(name, bytes).await;
        for entry in self.history.list(None).await.unwrap().entries() {
            if entry.merges(name.max) && name.level.get() == 0 {
                let key = self.key(entry.name);
                put(&self.history, &key, self.history.bucket().get(&key).await.unwrap().into()).await;
            }
        }
    }

    async fn put_late(&self, name: ObjectName, bytes: Vec<u8>) {
        put(&self.history, &self.key(name), bytes).await;
    }

    async fn delete(&self, name: ObjectName) {
        self.history.bucket().delete(&self.key(name)).await.unwrap();
    }

    async fn full(&self) -> Audit {
        self.audit(&AuditOptions { restore_into: Some(file()), ..AuditOptions::default() }).await
    }

    async fn quick(&self) -> Audit {
        self.audit(&AuditOptions { quick: true, ..AuditOptions::default() }).await
    }

    async fn audit(&self, options: &AuditOptions) -> Audit {
        self.history.audit(options).await.unwrap()
    }

    /// That an audit finds this one error at this object, and says this.
    #[track_caller]
    fn found(&self, audit: &Audit, name: ObjectName, says: &str) {
        let [Problem { key: Some(key), severity: Severity::Error, problem, advice }] = &errors(audit)[..] else {
            panic!("{name}: {:#?}", audit.problems)
        };
        assert_eq!(*key, self.key(name));
        assert!(problem.contains(says), "{problem}");
        assert!(!advice.is_empty());
        assert!(!audit.is_ok());
    }
}

fn file() -> Arc<std::fs::File> {
    Arc::new(tempfile::tempfile().unwrap())
}

fn errors(audit: &Audit) -> Vec<&Problem> {
    audit.problems.iter().filter(|problem| problem.severity == Severity::Error).collect()
}

fn restorable(audit: &Audit) -> Vec<(u64, u64)> {
    audit.restorable.iter().map(|run| (run.start().get(), run.end().get())).collect()
}

#[track_caller]
fn nothing_found(audit: &Audit) {
    assert_eq!(audit.problems, []);
    assert!(audit.is_ok());
}

const RESTORABLE: [(u64, u64); 3] = [(2, 2), (6, 6), (8, LAST)];

#[test]
fn an_undamaged_history_is_whole() {
    run(async |warnings| {
        let world = World::new().await;
        let audit = world.full().await;
        nothing_found(&audit);
        assert_eq!(restorable(&audit), RESTORABLE);
        let restored = audit.restored.unwrap();
        assert_eq!(restored.position.txid, Txid::new(LAST));
        assert_eq!(restored.position.checksum, world.timeline.state(LAST).checksum());
        assert_eq!(audit.listing.entries().len(), names().len());

        // In pieces.
        let limits = RestoreOptions { whole_length: 0, run_length: 700, requests: 2, ..RestoreOptions::default() };
        nothing_found(&world.audit(&AuditOptions { limits, ..AuditOptions::default() }).await);

        let before = world.history.bucket().counters();
        let audit = world.quick().await;
        nothing_found(&audit);
        assert!(audit.restored.is_none());
        assert_eq!(restorable(&audit), RESTORABLE);
        let after = world.history.bucket().counters();
        assert_eq!((after.list - before.list, after.get - before.get), (1, 2 * names().len() as u64));
        assert_eq!(warnings.take(), "");
    });
}

#[test]
fn what_others_wrote_without_database_checksums_is_whole() {
    run(async |_| {
        let world = World::new().await;
        for name in names() {
            let (min, max) = (name.min.get(), name.max.get());
            world.put(name, world.timeline.object_with(min, max, None)).await;
        }
        nothing_found(&world.full().await);
        nothing_found(&world.quick().await);
    });
}

#[test]
fn nothing_at_all_is_an_error() {
    run(async |_| {
        let error = history("none.db").audit(&AuditOptions::default()).await.unwrap_err();
        assert!(matches!(error, HistoryError::Plan(PlanError::Empty(_))), "{error}");
    });
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    run(async |_| {
        let world = World::new().await;
        for name in names() {
            let whole = world.whole(name);
            for place in [40, 105, 150, whole.len() - TRAILER_LENGTH - 12, whole.len() - 1] {
                let mut bytes = whole.clone();
                bytes[place] ^= 4;
                world.put(name, bytes).await;
                let audit = world.full().await;
                let keys: Vec<_> = errors(&audit).iter().filter_map(|problem| problem.key.clone()).collect();
                assert_eq!(keys, [world.key(name)], "{name}, byte {place}: {:#?}", audit.problems);
            }
            world.put(name, whole).await;
        }
    });
}

#[test]
fn what_a_damaged_object_costs_is_said() {
    run(async |_| {
        let world = World::new().await;
        let damage = async |name: ObjectName| {
            let mut bytes = world.whole(name);
            bytes[150] ^= 4;
            world.put(name, bytes).await;
        };
        // Another snapshot leads on.
        damage(name(9, 1, 2)).await;
        let audit = world.full().await;
        world.found(&audit, name(9, 1, 2), "the file is damaged");
        assert!(audit.problems[0].advice.contains("lead around it"), "{}", audit.problems[0]);
        assert_eq!(restorable(&audit), RESTORABLE[1..]);
        assert!(audit.restored.is_some());
        assert_eq!(world.quick().await.problems, [], "the quick way reads no frames");
        // Now nothing does.
        damage(name(9, 1, 6)).await;
        let audit = world.full().await;
        let [one, two, three] = &audit.problems[..] else { panic!("{:#?}", audit.problems) };
        assert!(one.advice.starts_with("bring it back") && two.advice.starts_with("bring it back"));
        assert!(
            three.problem.contains("only damaged objects hold TXIDs 0000000000000001 to 0000000000000002"),
            "{three}"
        );
        assert_eq!((restorable(&audit), audit.restored), (vec![], None));
    });
}

#[test]
fn a_truncated_object_is_found() {
    run(async |_| {
        let world = World::new().await;
        for name in names() {
            let whole = world.whole(name);
            for length in [0, 1, 50, 100, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
                world.put(name, whole[..length].to_vec()).await;
                for audit in [world.full().await, world.quick().await] {
                    let keys: Vec<_> = errors(&audit).iter().filter_map(|problem| problem.key.clone()).collect();
                    assert_eq!(keys, [world.key(name)], "{name}, {length} bytes: {:#?}", audit.problems);
                }
            }
            world.put(name, whole).await;
        }
    });
}

#[test]
fn an_object_under_a_wrong_name_is_found() {
    run(async |_| {
        let world = World::new().await;
        for name in names() {
            let other = match name.max.get() {
                10 => world.timeline.object(4, 4),
                _ => world.timeline.object(10, 10),
            };
            world.put(name, other).await;
            for audit in [world.full().await, world.quick().await] {
                let first = errors(&audit)[0];
                assert_eq!(first.key, Some(world.key(name)));
                assert!(first.problem.contains("not those of its name"), "{first}");
            }
            let whole = world.whole(name);
            world.put(name, whole).await;
        }
    });
}

#[test]
fn a_gap_is_found() {
    run(async |_| {
        let world = World::new().await;
        world.delete(name(0, 11, 11)).await;
        for audit in [world.full().await, world.quick().await] {
            let [Problem { key: None, severity: Severity::Error, problem, .. }] = &audit.problems[..] else {
                panic!("{:#?}", audit.problems)
            };
            assert!(problem.contains("no object holds TXIDs 000000000000000b to 000000000000000b"), "{problem}");
            assert!(problem.contains("from 000000000000000b to 000000000000000c"), "{problem}");
            assert_eq!(restorable(&audit), [(2, 2), (6, 6), (8, 10)]);
        }
        // What a merged object holds is no gap.
        let world = World::new().await;
        world.delete(name(0, 9, 9)).await;
        let audit = world.full().await;
        assert_eq!(restorable(&audit), [(2, 2), (6, 6), (8, 8), (10, LAST)]);
        nothing_found(&audit);
        // But an object that nothing leads to is worth a word: transaction 11 can't be restored.
        world.put(name(1, 9, 12), world.timeline.object(9, 12)).await;
        for gone in [name(0, 10, 10), name(1, 9, 10)] {
            world.delete(gone).await;
        }
        let audit = world.full().await;
        let [Problem { key: None, severity: Severity::Warning, problem, .. }] = &audit.problems[..] else {
            panic!("{:#?}", audit.problems)
        };
        assert!(problem.contains("TXIDs 000000000000000b to 000000000000000b"), "{problem}");
        assert_eq!(restorable(&audit), [(2, 2), (6, 6), (8, 8), (12, 12)]);
    });
}

#[test]
fn an_object_of_another_history_is_found() {
    run(async |_| {
        let world = World::new().await;
        for name in names().into_iter().filter(|name| name.min.get() > 1) {
            let (min, max) = (name.min.get(), name.max.get());
            // It begins with the right state and ends with another, which what continues it contradicts.
            if max < LAST {
                world.put(name, diverged(max).object(min, max)).await;
                for audit in [world.full().await, world.quick().await] {
                    // Where one object stands against one, either may be the wrong one; both are named.
                    let problem = errors(&audit)[0];
                    assert!(problem.to_string().contains(&world.key(name)), "{name}: {:#?}", audit.problems);
                    assert!(problem.problem.contains("it says that the database had checksum"), "{problem}");
                }
            }
            // It begins with another.
            world.put(name, diverged(min - 1).object(min, max)).await;
            for audit in [world.full().await, world.quick().await] {
                let keys: Vec<_> = errors(&audit).iter().filter_map(|problem| problem.key.clone()).collect();
                assert!(keys.contains(&world.key(name)), "{name}: {:#?}", audit.problems);
            }
            world.put(name, world.whole(name)).await;
        }
    });
}

#[test]
fn a_snapshot_that_says_what_it_is_not_is_found() {
    run(async |_| {
        let world = World::new().await;
        let state = world.timeline.state(6);
        let mut pages: BTreeMap<usize, &[u8]> = state.pages.iter().map(Vec::as_slice).enumerate().collect();
        let stale = world.timeline.state(4).pages[0].as_slice();
        assert!(pages.insert(0, stale).unwrap() != stale);
        let before = world.timeline.state(0).checksum();
        let database = DatabaseChecksums { before, after: state.checksum() };
        let bytes = encode(state.page_size, state.pages.len(), (1, 6), Some(database), pages);
        world.put(name(9, 1, 6), bytes).await;
        let audit = world.full().await;
        world.found(&audit, name(9, 1, 6), "it holds every page, and together they have checksum");
        assert_eq!(world.quick().await.problems, [], "the quick way reads no pages");
    });
}

#[test]
fn an_orphan_is_told_from_what_was_merged() {
    run(async |_| {
        let world = World::new().await;
        // Late, as after a copy of the bucket; but continued by the rest of the log.
        for txid in 9..=LAST {
            world.put_late(name(0, txid, txid), world.timeline.object(txid, txid)).await;
        }
        nothing_found(&world.full().await);
        // What was merged is brought back: it ends as the merged object does, or is continued by one that does.
        for txid in 3..=8 {
            world.put_late(name(0, txid, txid), world.timeline.object(txid, txid)).await;
        }
        nothing_found(&world.full().await);
        for txid in 3..=8 {
            world.delete(name(0, txid, txid)).await;
        }
        // The same transactions as a writer would have had them that slept.
        for txid in [4, 8] {
            let orphan = name(0, txid, txid);
            world.put_late(orphan, diverged(txid).object(txid, txid)).await;
            for audit in [world.full().await, world.quick().await] {
                let [Problem { key, severity: Severity::Warning, problem, .. }] = &audit.problems[..] else {
                    panic!("{:#?}", audit.problems)
                };
                assert_eq!(*key, Some(world.key(orphan)));
                assert!(problem.contains("an orphan"), "{problem}");
                assert!(audit.is_ok());
                assert_eq!(restorable(&audit), RESTORABLE);
            }
            world.delete(orphan).await;
        }
    });
}

#[test]
fn what_lies_beside_the_history_is_named() {
    run(async |_| {
        let world = World::new().await;
        for number in 0..25 {
            put(&world.history, &format!("test.db/notes/{number:02}"), vec![1]).await;
        }
        let audit = world.full().await;
        assert!(audit.is_ok() && audit.restored.is_some());
        let keys: Vec<_> = audit.problems.iter().filter_map(|problem| problem.key.clone()).collect();
        assert_eq!(keys, (0..20).map(|number| format!("test.db/notes/{number:02}")).collect::<Vec<_>>());
        assert!(audit.problems.iter().any(|problem| problem.problem.starts_with("5 more")));

        let world = World::new().await;
        put(&world.history, "test.db/bottomless.json", b"{".to_vec()).await;
        for audit in [world.full().await, world.quick().await] {
            let [Problem { key: Some(key), severity: Severity::Error, .. }] = &audit.problems[..] else {
                panic!("{:#?}", audit.problems)
            };
            assert_eq!(key, "test.db/bottomless.json");
        }
    });
}

/// A compaction that ends while the objects are read: the ones are gone, the others new.
#[test]
fn what_is_compacted_meanwhile_is_no_problem() {
    run(async |_| {
        let store = Arc::new(InMemory::new());
        let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
        let bucket = Bucket::from_object_store(Arc::clone(&store) as Arc<dyn ObjectStore>, location);
        let history = History::new(bucket, DatabaseId::new("test.db").unwrap());
        let timeline = timeline();
        put_log(&history, &timeline).await;
        let merged =
            [(1, 4), (5, 8)].map(|(min, max)| (name(1, min, max).key(history.id()), timeline.object(min, max)));
        let gone: Vec<String> = (1..=8).map(|txid| name(0, txid, txid).key(history.id())).collect();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let progress = {
            let (store, calls) = (Arc::clone(&store), Arc::clone(&calls));
            Arc::new(move |done, total| {
                let mut calls = calls.lock().unwrap();
                if calls.is_empty() {
                    futures::executor::block_on(async {
                        for (key, bytes) in &merged {
                            store.put(&Path::from(key.as_str()), PutPayload::from(bytes.clone())).await.unwrap();
                        }
                        for key in &gone {
                            store.delete(&Path::from(key.as_str())).await.unwrap();
                        }
                    });
                }
                calls.push((done, total));
            })
        };
        let limits = RestoreOptions { requests: 1, ..RestoreOptions::default() };
        let options = AuditOptions { limits, progress: Some(progress), ..AuditOptions::default() };
        let audit = history.audit(&options).await.unwrap();
        nothing_found(&audit);
        assert_eq!(restorable(&audit), [(4, 4), (8, LAST)]);
        let calls = calls.lock().unwrap();
        assert!(calls.windows(2).any(|pair| pair[1].0 < pair[0].0), "it read again what came in their place");
        assert_eq!(calls.last().map(|(done, total)| done == total), Some(true));
    });
}
