//! Passes of compaction over a history in memory, in which time passes as a test says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::indexing_slicing, missing_docs)]

mod support;

use std::time::Duration;

use bottomless_history::{
    Compacted, Damage, History, HistoryError, Level, MergeOptions, Policy, RestoreOptions, Scope, Settings,
};
use bottomless_store::StoreErrorKind;
use support::aged::{Aged, Deletions};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// An hour of retention, and of the fence window.
fn policy() -> Policy {
    Policy { levels: [MINUTE, 5 * MINUTE, 20 * MINUTE], snapshot: 2 * HOUR, retention: HOUR }
}

fn timeline(last: usize) -> Timeline {
    let change = |n: usize| match n % 7 {
        6 => Change::Shrink { to: 5, seed: n as u8 },
        _ => Change::Write { places: vec![n, 3 * n], append: n % 3, seed: n as u8 },
    };
    Timeline::new(512, &(0..last).map(change).collect::<Vec<_>>())
}

async fn compact(history: &History, scope: Scope) -> Result<Compacted, HistoryError> {
    let folder = tempfile::tempdir().unwrap();
    history.compact(&policy(), scope, &MergeOptions::new(folder.path())).await
}

/// Transactions a minute each, with a pass each minute.
async fn minutes(store: &Aged, history: &History, timeline: &Timeline, txids: std::ops::RangeInclusive<u64>) {
    for txid in txids {
        put_object(history, timeline, 0, txid, txid).await;
        store.pass(MINUTE).await;
        compact(history, Scope::Due).await.unwrap();
    }
}

/// That these can be restored.
async fn assert_restorable(history: &History, timeline: &Timeline, txids: std::ops::RangeInclusive<u64>) {
    for txid in txids {
        let restored = restore(history, Some(txid), None, RestoreOptions::default()).await;
        assert_is(&restored.unwrap_or_else(|error| panic!("{error}")), timeline.state(txid), txid);
    }
}

async fn count(history: &History, level: u8) -> usize {
    let listing = history.list(None).await.unwrap();
    listing.entries().iter().filter(|entry| entry.name.level == Level::new(level).unwrap()).count()
}

#[test]
fn hours_of_commits_become_a_few_objects_and_the_last_hour_stays() {
    run(async |_| {
        let (store, last) = (Aged::default(), 300);
        let (history, timeline) = (store.history("test.db"), timeline(last));
        let last = last as u64;
        let mut most = 0;
        for txid in 1..=last {
            minutes(&store, &history, &timeline, txid..=txid).await;
            if txid % 25 == 0 {
                assert_restorable(&history, &timeline, txid.saturating_sub(59).max(1)..=txid).await;
                most = most.max(history.list(None).await.unwrap().merged().len());
            }
        }
        // The retention, a run of level 3 that is not past as a whole, and what waits for the next pass.
        assert!(count(&history, 0).await < 60 + 20 + 10, "{:?}", store.keys().await);
        assert!((1..=2).contains(&count(&history, 9).await));
        assert!(most < 100, "{most}");
        // Nothing happens, and in the end one is left of each level at most.
        for _ in 0..6 {
            store.pass(4 * HOUR).await;
            compact(&history, Scope::Due).await.unwrap();
        }
        assert_eq!(store.keys().await.len(), 1, "{:?}", store.keys().await);
        assert_restorable(&history, &timeline, last..=last).await;
    });
}

#[test]
fn cut_off_after_any_deletion_it_harms_nothing_and_is_gone_on_with() {
    run(async |_| {
        let timeline = timeline(100);
        let mut after = 0;
        loop {
            let store = Aged::default();
            let history = store.history("test.db");
            store.deletions(Deletions::Denied);
            minutes(&store, &history, &timeline, 1..=60).await;
            store.pass(50 * MINUTE).await;
            minutes(&store, &history, &timeline, 61..=64).await;
            store.pass(30 * MINUTE).await;
            store.deletions(Deletions::Left(after));
            let passed = compact(&history, Scope::Now).await;
            assert!(passed.is_ok() || store.take_deleted().len() == after);
            assert_restorable(&history, &timeline, 61..=64).await;
            store.deletions(Deletions::Pass);
            let again = compact(&history, Scope::Now).await.unwrap();
            assert_restorable(&history, &timeline, 61..=64).await;
            assert!(again.shortened.refused.is_none());
            if passed.is_ok() {
                assert!(after > 60, "{after}");
                assert_eq!(again.shortened.deleted, 0);
                return;
            }
            assert!(again.shortened.deleted > 0);
            after += 7;
        }
    });
}

#[test]
fn without_permission_to_delete_all_else_goes_on() {
    run(async |_| {
        let (store, timeline) = (Aged::default(), timeline(40));
        let history = store.history("test.db");
        store.deletions(Deletions::Denied);
        minutes(&store, &history, &timeline, 1..=30).await;
        store.pass(2 * HOUR).await;
        put_object(&history, &timeline, 0, 31, 31).await;
        let compacted = compact(&history, Scope::Now).await.unwrap();
        assert!(!compacted.made.is_empty());
        assert_eq!(compacted.shortened.deleted, 0);
        let refused = compacted.shortened.refused.unwrap();
        assert!(matches!(&refused, HistoryError::Store(error) if error.kind() == StoreErrorKind::Denied), "{refused}");
        assert_restorable(&history, &timeline, 1..=31).await;
    });
}

#[test]
fn what_can_not_be_read_back_replaces_nothing() {
    run(async |_| {
        let (store, timeline) = (Aged::default(), timeline(40));
        let history = store.history("test.db");
        store.deletions(Deletions::Denied);
        minutes(&store, &history, &timeline, 1..=30).await;
        compact(&history, Scope::Now).await.unwrap();
        store.pass(2 * HOUR).await;
        store.deletions(Deletions::Pass);
        let listing = history.list(None).await.unwrap();
        let replaced = history.replaced(&policy()).await.unwrap();
        let damaged = replaced.first().unwrap();
        let key = damaged.by.name.key(history.id());
        store.flip(&key).await;
        let folder = tempfile::tempdir().unwrap();
        let shortened = history.shorten(&policy(), &MergeOptions::new(folder.path())).await.unwrap();
        let refused = shortened.refused.unwrap();
        assert!(refused.to_string().contains(&key), "{refused}");
        assert!(matches!(&refused, HistoryError::Damaged { damage, .. } if matches!(**damage, Damage::Decode(_))));
        let left = history.list(None).await.unwrap();
        for entry in listing.entries().iter().filter(|entry| damaged.objects.contains(entry)) {
            assert!(left.entries().contains(entry), "{} is gone", entry.name);
        }
        let restored = restore_around(&history, left, None, None, RestoreOptions::default()).await.unwrap();
        assert_is(&restored, timeline.state(30), 30);
    });
}

/// The new objects have names that were to be deleted.
#[test]
fn a_database_that_is_removed_and_made_anew_meanwhile_is_left_alone() {
    run(async |_| {
        let (store, timeline) = (Aged::default(), timeline(40));
        let history = store.history("test.db");
        store.deletions(Deletions::Denied);
        minutes(&store, &history, &timeline, 1..=30).await;
        compact(&history, Scope::Now).await.unwrap();
        store.pass(2 * HOUR).await;
        store.deletions(Deletions::Pass);
        let first = history.replaced(&policy()).await.unwrap().remove(0);
        let next = first.objects[0].name.max.get();
        assert_eq!(first.objects[0].name, name(0, next, next));
        // Just after it is read back.
        let anew = vec![(name(0, next, next).key(history.id()), timeline.object(next, next))];
        store.make_anew(1, anew.clone());
        let folder = tempfile::tempdir().unwrap();
        let shortened = history.shorten(&policy(), &MergeOptions::new(folder.path())).await.unwrap();
        assert_eq!((shortened.deleted, store.take_deleted()), (0, vec![]));
        assert_eq!(store.keys().await, [anew[0].0.clone()]);
    });
}

/// What another machine plans to read stays for the fence window; what goes behind that costs it another listing.
#[test]
fn a_restore_that_has_begun_ends_with_the_same_bytes() {
    run(async |_| {
        let timeline = timeline(40);
        for after in 0..12 {
            let store = Aged::default();
            let history = store.history("test.db");
            for txid in 1..=30 {
                put_object(&history, &timeline, 0, txid, txid).await;
            }
            // By the log alone, and by level 1.
            store.pass(3 * HOUR).await;
            if after % 2 == 1 {
                compact(&history, Scope::Now).await.unwrap();
                put_object(&history, &timeline, 0, 31, 31).await;
                compact(&history, Scope::Now).await.unwrap();
            }
            let last = if after % 2 == 1 { 31 } else { 30 };
            let listing = history.list(None).await.unwrap();
            store.pass(MINUTE).await;
            compact(&history, Scope::Now).await.unwrap();
            store.pass(HOUR - 2 * MINUTE).await;
            compact(&history, Scope::Now).await.unwrap();
            assert_eq!(store.take_deleted(), Vec::<String>::new());
            store.pass(2 * MINUTE).await;
            let replaced = history.replaced(&policy()).await.unwrap();
            let keys: Vec<_> =
                replaced.iter().flat_map(|r| &r.objects).map(|entry| entry.name.key(history.id())).collect();
            assert!(keys.len() >= 30, "{keys:?}");
            store.vanish(after / 2, keys);
            let options = RestoreOptions::default();
            let restored = restore_around(&history, listing, None, None, options).await.unwrap();
            assert_is(&restored, timeline.state(last), last);
        }
    });
}

#[test]
fn two_machines_at_once() {
    run(async |_| {
        let (store, timeline) = (Aged::default(), timeline(90));
        let history = store.history("test.db");
        for txid in 1..=90 {
            put_object(&history, &timeline, 0, txid, txid).await;
            store.pass(MINUTE).await;
            if txid % 3 == 0 {
                let (one, two) = futures::join!(compact(&history, Scope::Due), compact(&history, Scope::Now));
                one.unwrap();
                two.unwrap();
            }
        }
        assert_restorable(&history, &timeline, 31..=90).await;
        assert!(count(&history, 0).await <= 83);
    });
}

/// The fence window counts for deletion, and a shorter one only once the longer one has passed.
#[test]
fn a_new_fence_window_counts_once_all_writers_know_it() {
    run(async |_| {
        let (store, timeline) = (Aged::default(), timeline(10));
        let history = store.history("test.db");
        let policy = Policy { retention: MINUTE, ..policy() };
        let folder = tempfile::tempdir().unwrap();
        let options = MergeOptions::new(folder.path());
        let shorten = async || history.shorten(&policy, &options).await.unwrap().deleted;
        let settings = Settings { fence_window: 5 * MINUTE, fence_window_before: HOUR };
        put(&history, &Settings::key(history.id()), settings.encode()).await;
        store.pass(50 * MINUTE).await;
        for txid in 1..=10 {
            put_object(&history, &timeline, 0, txid, txid).await;
        }
        compact(&history, Scope::Now).await.unwrap();
        store.pass(4 * MINUTE).await;
        assert_eq!(shorten().await, 0);
        store.pass(4 * MINUTE).await;
        assert_eq!(shorten().await, 0, "old enough for the new one only");
        store.pass(3 * MINUTE).await;
        // The first is left to a snapshot.
        assert_eq!(shorten().await, 9);
        assert_restorable(&history, &timeline, 10..=10).await;
    });
}
