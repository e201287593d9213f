//! A long log is not listed to restore the end of a history, nor a point in its middle.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottomless_history::{Goal, History, HistoryError, RestoreOptions};
use bottomless_ltx::Txid;
use support::*;

/// A transaction a second.
fn timeline(count: u64, pages: usize) -> Timeline {
    let write = |txid: u64| Change::Write {
        places: vec![txid as usize % pages],
        append: if txid == 1 { pages - 1 } else { 0 },
        seed: txid as u8,
    };
    let mut timeline = Timeline::new(512, &(1..=count).map(write).collect::<Vec<_>>());
    timeline.times = (0..=count).map(|txid| i64::try_from(txid).unwrap() * 1000).collect();
    timeline
}

/// The whole log, level 1 over `merged` in runs of 100, and a snapshot in the middle of that.
async fn long(count: u64, merged: u64) -> (History, Timeline) {
    of_pages(7, count, merged).await
}

async fn of_pages(pages: usize, count: u64, merged: u64) -> (History, Timeline) {
    let (history, timeline) = (history("test.db"), timeline(count, pages));
    put_log(&history, &timeline).await;
    for min in (1..merged).step_by(100) {
        put_object(&history, &timeline, 1, min, merged.min(min + 99)).await;
    }
    if merged > 0 {
        put_object(&history, &timeline, 9, 1, merged / 200 * 100).await;
    }
    put(&history, "test.db/bottomless.json", b"{}".to_vec()).await;
    put(&history, "test.db/else", b"{}".to_vec()).await;
    (history, timeline)
}

fn lists(history: &History) -> u64 {
    history.bucket().counters().list
}

/// Restores, and returns the number of LIST requests that it took.
async fn restored(history: &History, timeline: &Timeline, goal: Goal, txid: u64) -> u64 {
    let before = lists(history);
    let (listing, up_to) = history.locate(goal).await.unwrap();
    let up_to = up_to.map(Txid::get);
    let content = restore_around(history, listing, up_to, None, RestoreOptions::default()).await.unwrap();
    assert_is(&content, timeline.state(txid), txid);
    lists(history) - before
}

fn time(milliseconds: u64) -> Goal {
    Goal::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds))
}

#[tokio::test]
async fn the_end_of_a_long_history_takes_three_lists() {
    let (history, timeline) = long(5000, 4400).await;
    assert_eq!(restored(&history, &timeline, Goal::End, 5000).await, 3);
    let listing = history.list_briefly(None).await.unwrap();
    assert!(listing.is_partial());
    assert_eq!(listing.last_txid(), Txid::new(5000));
    assert_eq!(listing.foreign(), 1);
    assert!(listing.settings().is_some());
    assert!(listing.log().len() < 1700, "{}", listing.log().len());

    // The same from a local file of long ago; the merged objects lead on.
    let before = lists(&history);
    let listing = history.list_briefly(Some(Txid::new(1999))).await.unwrap();
    assert_eq!(listing.last_txid(), Txid::new(5000));
    let base = Some((2000, timeline.state(2000)));
    let content = restore_around(&history, listing, None, base, RestoreOptions::default()).await.unwrap();
    assert_is(&content, timeline.state(5000), 5000);
    assert_eq!(lists(&history) - before, 3);
}

/// What is merged is deleted from the log after some time.
#[tokio::test]
async fn points_in_the_middle_take_few_lists_more() {
    let (history, timeline) = long(5000, 4400).await;
    for deleted in [0, 3000] {
        for txid in 1..=deleted {
            history.bucket().delete(&name(0, txid, txid).key(history.id())).await.unwrap();
        }
        for txid in [3050, 4000, 4001, 4150, 4199, 4399, 4400, 4401, 4900, 5000] {
            for goal in [Goal::Txid(Txid::new(txid)), time(txid * 1000), time(txid * 1000 + 999)] {
                let taken = restored(&history, &timeline, goal, txid).await;
                assert!(taken <= 5, "TXID {txid}: {taken} listings");
            }
        }
    }
    // Behind the end: the end.
    assert!(restored(&history, &timeline, time(9_000_000), 5000).await <= 3);
    let (before, after) = (Txid::new(2900), Txid::new(3000));
    for goal in [Goal::Txid(Txid::new(2950)), time(2_950_000)] {
        match history.locate(goal).await {
            Err(HistoryError::NoPoint(error)) => {
                assert_eq!((error.before.unwrap().txid, error.after.txid), (before, after));
            }
            other => panic!("{other:?}"),
        }
    }
    // Others may have listed briefly before.
    let listing = history.list_briefly(None).await.unwrap();
    let point = history.position_at(&listing, SystemTime::UNIX_EPOCH + Duration::from_secs(4250)).await.unwrap();
    assert_eq!(point.txid, Txid::new(4250));
    let content = restore_around(&history, listing, Some(4250), None, RestoreOptions::default()).await.unwrap();
    assert_is(&content, timeline.state(4250), 4250);
}

#[tokio::test]
async fn what_fits_a_page_is_one_list_and_the_whole() {
    // With the merged objects, the settings and the foreign object: 999 in all.
    let (history, timeline) = long(986, 986).await;
    let before = lists(&history);
    let listing = history.list_briefly(None).await.unwrap();
    assert_eq!(lists(&history) - before, 1);
    assert_eq!(listing.entries().len() + 2, 999);
    assert_eq!(listing, history.list(None).await.unwrap());
    assert_eq!(restored(&history, &timeline, Goal::End, 986).await, 1);
}

/// One is full at each of these numbers: the first page within the log, and at its end, and behind it.
#[tokio::test]
async fn nothing_is_passed_over_that_is_not_merged() {
    for (count, merged) in [(2500, 0), (2500, 990), (2500, 1001), (1000, 1000), (999, 999), (995, 500), (987, 987)] {
        let (history, timeline) = long(count, merged).await;
        let listing = history.list_briefly(None).await.unwrap();
        assert_eq!(listing, history.list(None).await.unwrap(), "{count} {merged}");
        assert!(!listing.is_partial());
        restored(&history, &timeline, Goal::End, count).await;
    }
}

#[tokio::test]
async fn a_gap_in_what_is_merged_is_filled_from_the_log() {
    let gone = name(1, 1201, 1300);
    let (history, timeline) = long(1700, 1600).await;
    history.bucket().delete(&gone.key(history.id())).await.unwrap();
    let listing = history.list_briefly(None).await.unwrap();
    assert_eq!(listing, history.list(None).await.unwrap());
    restored(&history, &timeline, Goal::End, 1700).await;
}

#[tokio::test]
async fn damage_is_restored_around_through_what_was_passed_over() {
    // More pages than an object of level 1 holds: all of them are needed.
    let (history, timeline) = of_pages(130, 1700, 1600).await;
    for damaged in [name(1, 1201, 1300), name(9, 1, 800), name(1, 1, 100)] {
        put(&history, &damaged.key(history.id()), vec![0; 300]).await;
    }
    assert!(history.list_briefly(None).await.unwrap().is_partial());
    restored(&history, &timeline, Goal::End, 1700).await;
    restored(&history, &timeline, Goal::Txid(Txid::new(1411)), 1411).await;
    let listing = history.list_briefly(None).await.unwrap();
    let file = Arc::new(tempfile::tempfile().unwrap());
    let way = (Txid::ZERO, Some(Txid::new(1250)));
    let options = RestoreOptions::default();
    let done = history.restore_around(listing, way, &file, &options, || Ok::<_, HistoryError>(None)).await.unwrap();
    assert_eq!(done.position.checksum, timeline.state(1250).checksum());
}
