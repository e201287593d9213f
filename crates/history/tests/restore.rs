//! Histories of all shapes are restored at every position, and equal the database that was there.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bottomless_history::{PlanError, RestoreOptions};
use bottomless_ltx::{Checksum, DatabaseChecksums, PageSize, Txid};
use proptest::prelude::*;
use support::*;

fn change() -> impl Strategy<Value = Change> {
    let write = (prop::collection::vec(0..40_usize, 0..5), 0..5_usize, any::<u8>())
        .prop_map(|(places, append, seed)| Change::Write { places, append, seed });
    let shrink = (any::<usize>(), any::<u8>()).prop_map(|(to, seed)| Change::Shrink { to, seed });
    let page_size = prop_oneof![Just(512_u32), Just(1024)];
    let rewrite = (page_size, 0..8_usize, any::<u8>()).prop_map(|(page_size, pages, seed)| Change::Rewrite {
        page_size,
        pages,
        seed,
    });
    prop_oneof![6 => write, 2 => shrink, 1 => rewrite]
}

fn options() -> impl Strategy<Value = RestoreOptions> {
    let whole = prop_oneof![Just(0_u64), Just(1500), Just(u64::MAX)];
    (1..5_usize, whole, 1..4000_u64).prop_map(|(requests, whole_length, run_length)| RestoreOptions {
        requests,
        whole_length,
        run_length,
        ..RestoreOptions::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_position_is_restored(
        changes in prop::collection::vec(change(), 1..14),
        merged in prop::collection::vec((1..9_u8, 1..14_u64, 0..8_u64), 0..6),
        snapshots in prop::collection::vec(1..14_u64, 0..3),
        deleted in prop::collection::vec(1..14_u64, 0..4),
        options in options(),
        base in 0..14_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let timeline = Timeline::new(512, &changes);
            let last = timeline.last();
            let history = history("test.db");
            put_log(&history, &timeline).await;
            let mut is_merged = [false; 32];
            for (level, min, more) in merged {
                let (min, max) = (min.min(last), (min + more).min(last));
                put_object(&history, &timeline, level, min, max).await;
                (min..=max).for_each(|txid| is_merged[txid as usize] = true);
            }
            for snapshot in snapshots {
                put_object(&history, &timeline, 9, 1, snapshot.min(last)).await;
                (1..=snapshot).for_each(|txid| is_merged[txid as usize] = true);
            }
            let deleted: Vec<u64> = deleted.into_iter().filter(|&txid| txid < last && is_merged[txid as usize]).collect();
            for &txid in &deleted {
                history.bucket().delete(&name(0, txid, txid).key(history.id())).await.unwrap();
            }
            for up_to in 1..=last {
                match restore(&history, Some(up_to), None, options.clone()).await {
                    Ok(restored) => assert_is(&restored, timeline.state(up_to), up_to),
                    Err(error) => assert!(!deleted.is_empty(), "TXID {up_to}: {error}"),
                }
                let base = base.min(up_to);
                if base > 0 {
                    let from = Some((base, timeline.state(base)));
                    match restore(&history, Some(up_to), from, options.clone()).await {
                        Ok(restored) => assert_is(&restored, timeline.state(up_to), up_to),
                        Err(error) => assert!(!deleted.is_empty(), "TXID {base} to {up_to}: {error}"),
                    }
                }
            }
            // The end is always there: only what was merged is deleted.
            let restored = restore(&history, None, None, options).await.unwrap();
            assert_is(&restored, timeline.state(last), last);
        });
    }
}

/// The first transaction makes many pages, so that no later one holds all of them.
fn writes(count: u8) -> Vec<Change> {
    let append = |seed| if seed == 0 { 50 } else { 1 };
    (0..count).map(|seed| Change::Write { places: vec![usize::from(seed)], append: append(seed), seed }).collect()
}

#[tokio::test]
async fn small_objects_take_one_request_each() {
    let timeline = Timeline::new(512, &writes(40));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    let before = history.bucket().counters();
    let restored = restore(&history, None, None, RestoreOptions::default()).await.unwrap();
    assert_is(&restored, timeline.state(40), 40);
    let after = history.bucket().counters();
    assert_eq!(after.get - before.get, 40);
    assert_eq!(after.list - before.list, 1);
    assert_eq!(after.head - before.head, 0);
    assert_eq!(restored.0.bytes, after.bytes_down - before.bytes_down);
}

#[tokio::test]
async fn what_is_older_than_a_whole_database_is_not_fetched() {
    let mut changes = writes(6);
    changes.push(Change::Rewrite { page_size: 1024, pages: 3, seed: 9 });
    changes.extend(writes(2));
    let timeline = Timeline::new(512, &changes);
    let history = history("test.db");
    put_log(&history, &timeline).await;
    // Even damaged it does no harm.
    put(&history, &name(0, 3, 3).key(history.id()), vec![1, 2, 3]).await;
    let before = history.bucket().counters();
    let options = RestoreOptions { requests: 1, ..RestoreOptions::default() };
    let restored = restore(&history, None, None, options).await.unwrap();
    assert_is(&restored, timeline.state(9), 9);
    assert_eq!(history.bucket().counters().get - before.get, 3);
}

#[tokio::test]
async fn progress_ends_at_the_total() {
    let timeline = Timeline::new(512, &writes(20));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    for whole_length in [0, u64::MAX] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let progress = Arc::clone(&seen);
        let options = RestoreOptions {
            whole_length,
            progress: Some(Arc::new(move |done, total| progress.lock().unwrap().push((done, total)))),
            ..RestoreOptions::default()
        };
        restore(&history, None, None, options).await.unwrap();
        let total: u64 = history.list(None).await.unwrap().entries().iter().map(|entry| entry.size).sum();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.last(), Some(&(total, total)));
        assert!(seen.is_sorted_by_key(|(done, _)| *done) && seen.len() >= 20, "{seen:?}");
    }
}

#[tokio::test]
async fn objects_of_others_are_restored_without_our_checksums() {
    let timeline = Timeline::new(512, &writes(5));
    let history = history("test.db");
    put(&history, &name(9, 1, 5).key(history.id()), timeline.foreign_object(5)).await;
    let restored = restore(&history, None, None, RestoreOptions::default()).await.unwrap();
    assert_is(&restored, timeline.state(5), 5);
}

#[tokio::test]
async fn a_file_that_is_at_the_end_already_is_left_alone() {
    let timeline = Timeline::new(512, &writes(3));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    let before = history.bucket().counters();
    let restored = restore(&history, None, Some((3, timeline.state(3))), RestoreOptions::default()).await.unwrap();
    assert_is(&restored, timeline.state(3), 3);
    assert_eq!(restored.0.last_object, None);
    assert_eq!(history.bucket().counters().get, before.get);
}

/// A database of 1 GiB and 64 KiB: its base is a hole, and one transaction grows it over the lock page.
#[tokio::test]
async fn the_lock_page_stays_a_hole() {
    let page_size = PageSize::MAX;
    let lock_page = page_size.lock_page();
    let zeros = vec![0; page_size.bytes()];
    let mut base = Database { page_size, pages: Vec::new() }.base(1);
    base.page_checksums = (0..lock_page.index()).map(|i| Some(Checksum::of_page(page_number(i), &zeros))).collect();
    base.position.checksum =
        base.page_checksums.iter().flatten().fold(Checksum::EMPTY, |sum, &page| sum.toggle_page(page));
    let before = base.position.checksum;

    let content = vec![0x77; page_size.bytes()];
    let behind = page_number(lock_page.index() + 1);
    let after = before.toggle_page(Checksum::of_page(behind, &content));
    let size = behind.get() as usize;
    let pages = [(behind.index(), content.as_slice())].into();
    let object = encode(page_size, size, (2, 2), Some(DatabaseChecksums { before, after }), pages);
    let history = history("test.db");
    put(&history, &name(0, 2, 2).key(history.id()), object).await;

    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(page_size.offset_of(lock_page)).unwrap();
    let plan = history.list(None).await.unwrap().plan(Txid::new(1), None).unwrap();
    let options = RestoreOptions { base: Some(base), ..RestoreOptions::default() };
    let restored = history.restore(&plan, Arc::clone(&file), &options).await.unwrap();
    assert_eq!(restored.position.checksum, after);
    assert_eq!(restored.page_checksums[lock_page.index()], None);
    assert_eq!(restored.page_checksums.iter().flatten().count(), size - 1);
    assert_eq!(file.metadata().unwrap().len(), size as u64 * u64::from(page_size.get()));
    let mut tail = vec![1; 2 * page_size.bytes()];
    file.read_exact_at(&mut tail, page_size.offset_of(lock_page)).unwrap();
    assert!(tail == [zeros, content].concat());
}

/// The same over a file that has something in the place of the lock page, with other pages than it has now.
#[tokio::test]
async fn what_was_in_the_place_of_the_lock_page_is_gone() {
    let page_size = PageSize::MAX;
    let size = page_size.lock_page().index() + 2;
    let content = vec![0x55; page_size.bytes()];
    let pages = (0..size).filter(|&place| place != page_size.lock_page().index()).map(|place| (place, &content[..]));
    let object = encode(page_size, size, (1, 2), None, pages.collect());
    let history = history("test.db");
    put(&history, &name(9, 1, 2).key(history.id()), object).await;

    let file = Arc::new(tempfile::tempfile().unwrap());
    let place = page_size.offset_of(page_size.lock_page());
    file.write_all_at(&content, place).unwrap();
    let base = Database::empty(512).base(1);
    let plan = history.list(None).await.unwrap().plan(Txid::new(1), None).unwrap();
    let options = RestoreOptions { base: Some(base), ..RestoreOptions::default() };
    let restored = history.restore(&plan, Arc::clone(&file), &options).await.unwrap();
    assert_eq!(restored.size_in_pages as usize, size);
    let mut around = vec![1; 3 * page_size.bytes()];
    file.read_exact_at(&mut around, place - u64::from(page_size.get())).unwrap();
    assert!(around == [content.clone(), vec![0; page_size.bytes()], content].concat());
}

#[tokio::test]
async fn a_restore_can_move_between_threads() {
    let timeline = Timeline::new(512, &writes(3));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    let task = tokio::spawn(async move { restore(&history, None, None, RestoreOptions::default()).await });
    assert_is(&task.await.unwrap().unwrap(), timeline.state(3), 3);
}

#[tokio::test]
async fn a_listing_may_begin_behind_a_transaction() {
    let timeline = Timeline::new(512, &writes(12));
    let history = history("team/test.db");
    put_log(&history, &timeline).await;
    put_object(&history, &timeline, 9, 1, 4).await;
    put(&history, "team/test.db/notes.txt", vec![1]).await;
    put(&history, "team/test.db2/0000/0000000000000001-0000000000000001.ltx", vec![1]).await;
    let listing = history.list(Some(Txid::new(9))).await.unwrap();
    let maxes: Vec<u64> = listing.entries().iter().map(|entry| entry.name.max.get()).collect();
    assert_eq!(maxes, [10, 11, 12, 4]);
    assert_eq!(listing.foreign(), 1);
    assert_eq!(listing.last_txid(), Txid::new(12));
    let behind_the_end = history.list(Some(Txid::new(12))).await.unwrap();
    assert!(behind_the_end.log().is_empty());
}

#[tokio::test]
async fn a_checksum_leads_to_its_newest_position() {
    let mut changes = writes(30);
    changes[0] = Change::Write { places: vec![], append: 0, seed: 0 };
    // Back to the state after TXID 1 (a single page), as a program may do that removes what it added.
    changes.push(Change::Shrink { to: 0, seed: 0 });
    let timeline = Timeline::new(512, &changes);
    let history = history("test.db");
    put_log(&history, &timeline).await;
    put_object(&history, &timeline, 1, 3, 8).await;
    for txid in 3..8 {
        history.bucket().delete(&name(0, txid, txid).key(history.id())).await.unwrap();
    }
    let listing = history.list(None).await.unwrap();
    let find = async |checksum| {
        let position = history.find_position(&listing, checksum).await.unwrap();
        position.map(|position| (position.txid.get(), position.checksum))
    };
    for txid in [2, 8, 9, 30] {
        let checksum = timeline.state(txid).checksum();
        assert_eq!(find(checksum).await, Some((txid, checksum)));
    }
    assert_eq!(timeline.state(1).checksum(), timeline.state(31).checksum());
    assert_eq!(find(timeline.state(1).checksum()).await.map(|(txid, _)| txid), Some(31));
    assert_eq!(find(timeline.state(5).checksum()).await, None, "it is merged");
    assert_eq!(find(Checksum::from_crc(5)).await, None);
}

#[tokio::test]
async fn the_ends_of_an_object_tell_whose_it_is() {
    let timeline = Timeline::new(512, &writes(2));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    let ends = history.ends(name(0, 2, 2)).await.unwrap();
    let bytes = timeline.object(2, 2);
    assert_eq!(ends.header.writer.0, 7);
    assert_eq!(ends.size, bytes.len() as u64);
    assert_eq!(ends.trailer.file_checksum.get().to_be_bytes(), bytes[bytes.len() - 8..]);
    assert!(history.ends(name(0, 3, 3)).await.unwrap_err().is_vanished());
}

#[tokio::test]
async fn an_empty_bucket_is_named_as_such() {
    let history = history("test.db");
    let error = restore(&history, None, None, RestoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, bottomless_history::HistoryError::Plan(PlanError::Empty(_))), "{error}");
}

#[tokio::test]
async fn no_more_is_downloaded_ahead_than_allowed() {
    // Counted at the progress calls: with one request at a time, or room for one, an object is done before the next is begun.
    let timeline = Timeline::new(512, &writes(10));
    let history = history("test.db");
    put_log(&history, &timeline).await;
    let default = RestoreOptions::default();
    for (requests, ahead_length, most) in [(1, default.ahead_length, 1), (default.requests, 1, 1), (4, 1 << 20, 6)] {
        let most_ahead = Arc::new(AtomicU64::new(0));
        let (seen, bucket) = (Arc::clone(&most_ahead), history.bucket().clone());
        let before = bucket.counters().get;
        let calls = AtomicU64::new(0);
        let options = RestoreOptions {
            requests,
            ahead_length,
            progress: Some(Arc::new(move |_, _| {
                // Two calls for each object: when it is opened and when it is applied.
                let applied = calls.fetch_add(1, Ordering::Relaxed) / 2;
                seen.fetch_max(bucket.counters().get - before - applied, Ordering::Relaxed);
            })),
            ..RestoreOptions::default()
        };
        restore(&history, None, None, options).await.unwrap();
        let ahead = most_ahead.load(Ordering::Relaxed);
        assert!((1..=most).contains(&ahead), "{requests} {ahead_length}: {ahead}");
    }
}
