//! How much is asked for, and how much of it at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bottomless_history::MergeOptions;

use crate::store::OddStore;
use crate::support::*;
use crate::world::*;

#[tokio::test]
async fn many_small_objects_are_read_side_by_side() {
    let append = |n| if n == 0 { 300 } else { 0 };
    let changes: Vec<_> =
        (0..300).map(|n| Change::Write { places: vec![n], append: append(n), seed: n as u8 }).collect();
    let timeline = Timeline::new(512, &changes);
    let (store, history) = OddStore::history();
    put_log(&history, &timeline).await;
    let before = history.bucket().counters();
    let merged = merge(&history, name(1, 1, 300), &options()).await.unwrap();
    let after = history.bucket().counters();
    let most = store.most_gets.load(Ordering::Relaxed);
    assert!((8..=16).contains(&most), "{most} requests at once");
    // One each, and for the new object one that looks and one that reads it back.
    assert_eq!((after.get - before.get, after.put - before.put, after.list - before.list), (302, 1, 1));
    let total: u64 = history.list(None).await.unwrap().log().iter().map(|entry| entry.size).sum();
    assert_eq!(merged.downloaded, total);
}

#[tokio::test]
async fn memory_does_not_grow_with_the_objects() {
    let timeline = writes(3, 3000);
    let (store, history) = OddStore::history();
    put_log(&history, &timeline).await;
    let size = history.list(None).await.unwrap().log().iter().map(|entry| entry.size).max().unwrap();
    let options = MergeOptions { requests: 4, whole_length: 20_000, run_length: 20_000, ..options() };
    merge(&history, name(9, 1, 3), &options).await.unwrap();
    let most = store.most_bytes.load(Ordering::Relaxed);
    assert!(get(&history, name(9, 1, 3)).await == timeline.object(1, 3));
    // A guess at the tail of a large object comes in one piece.
    let tail = 64 * 1024 + size / 128 + 100;
    assert!(size > 8 * tail, "{size} bytes are not large");
    assert!(most >= 4 * 10_000 && most <= tail.max(4 * 20_000), "{most} bytes at once");
}

#[tokio::test]
async fn of_what_is_older_than_a_whole_database_only_the_checksum_before_counts() {
    let mut changes: Vec<_> = (0..6).map(|seed| Change::Write { places: vec![], append: 3, seed }).collect();
    changes.push(Change::Rewrite { page_size: 1024, pages: 3, seed: 9 });
    changes.push(Change::Write { places: vec![2], append: 1, seed: 10 });
    let timeline = Timeline::new(512, &changes);
    for (min, reads) in [(1, 2), (2, 3)] {
        let history = history("test.db");
        put_stamped_log(&history, &timeline).await;
        // Even damaged it does no harm.
        put(&history, &name(0, 4, 4).key(history.id()), vec![1, 2, 3]).await;
        let options = MergeOptions { requests: 1, ..options() };
        let before = history.bucket().counters();
        merge(&history, name(1, min, 8), &options).await.unwrap();
        assert_eq!(history.bucket().counters().get - before.get, reads + 2);
        assert!(get(&history, name(1, min, 8)).await == object(&timeline, min, 8));
    }
    // The first is verified for it.
    let history = history("test.db");
    put_stamped_log(&history, &timeline).await;
    let mut damaged = object(&timeline, 2, 2);
    damaged[90] ^= 1;
    put(&history, &name(0, 2, 2).key(history.id()), damaged).await;
    let error = merge(&history, name(1, 2, 8), &options()).await.unwrap_err();
    assert!(error.to_string().contains(&name(0, 2, 2).key(history.id())), "{error}");
}

#[tokio::test]
async fn progress_ends_at_the_total() {
    let mut changes: Vec<_> = (0..10).map(|seed| Change::Write { places: vec![], append: 3, seed }).collect();
    for rewrite in [false, true] {
        if rewrite {
            changes.push(Change::Rewrite { page_size: 512, pages: 3, seed: 9 });
        }
        let timeline = Timeline::new(512, &changes);
        for whole_length in [0, u64::MAX] {
            let history = history("test.db");
            put_log(&history, &timeline).await;
            let seen = Arc::new(Mutex::new(Vec::new()));
            let progress = Arc::clone(&seen);
            let options = MergeOptions {
                whole_length,
                progress: Some(Arc::new(move |done, total| progress.lock().unwrap().push((done, total)))),
                ..options()
            };
            merge(&history, name(1, 1, timeline.last()), &options).await.unwrap();
            let total: u64 = history.list(None).await.unwrap().log().iter().map(|entry| entry.size).sum();
            let seen = seen.lock().unwrap();
            assert_eq!(seen.last(), Some(&(total, total)));
            assert!(seen.is_sorted_by_key(|(done, _)| *done), "{seen:?}");
        }
    }
}
