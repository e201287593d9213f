//! Restoring to a point in time: which transaction that is, in every state of compaction.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::time::{Duration, SystemTime};

use bottomless_history::{Asked, History, HistoryError, NoPoint, PlanError, RestoreOptions, RestorePoint};
use bottomless_ltx::{Checksum, DatabaseChecksums, Txid};
use proptest::prelude::*;
use support::aged::Aged;
use support::*;

fn at(milliseconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap())
}

/// One transaction for each of the times.
fn timeline(times: &[i64]) -> Timeline {
    let write = |seed| Change::Write { places: vec![usize::from(seed)], append: usize::from(seed < 3), seed };
    let changes: Vec<Change> = (0..times.len()).map(|seed| write(u8::try_from(seed % 200).unwrap())).collect();
    let mut timeline = Timeline::new(512, &changes);
    timeline.times = [TIME].into_iter().chain(times.iter().copied()).collect();
    timeline
}

async fn filled(times: &[i64]) -> (History, Timeline) {
    let (history, timeline) = (history("test.db"), timeline(times));
    put_log(&history, &timeline).await;
    (history, timeline)
}

async fn position_at(history: &History, milliseconds: i64) -> Result<RestorePoint, HistoryError> {
    history.position_at(&history.list(None).await.unwrap(), at(milliseconds)).await
}

async fn found(history: &History, milliseconds: i64) -> u64 {
    position_at(history, milliseconds).await.unwrap().txid.get()
}

fn no_point(result: Result<RestorePoint, HistoryError>) -> NoPoint {
    match result {
        Err(HistoryError::NoPoint(error)) => *error,
        other => panic!("{other:?}"),
    }
}

async fn delete(history: &History, txids: impl IntoIterator<Item = u64>) {
    for txid in txids {
        history.bucket().delete(&name(0, txid, txid).key(history.id())).await.unwrap();
    }
}

#[tokio::test]
async fn a_time_is_that_of_the_last_transaction_before_it() {
    let (history, timeline) = filled(&[1000, 2000, 2000, 3000]).await;
    for (milliseconds, txid) in [(1000, 1), (1001, 1), (1999, 1), (2000, 3), (2999, 3), (3000, 4), (1_000_000, 4)] {
        let point = position_at(&history, milliseconds).await.unwrap();
        assert_eq!(point.txid, Txid::new(txid), "{milliseconds}");
        assert_eq!(point.time, at(timeline.times[usize::try_from(txid).unwrap()]));
        let restored = restore(&history, Some(txid), None, RestoreOptions::default()).await.unwrap();
        assert_is(&restored, timeline.state(txid), txid);
    }
    let parts = history.position_at(&history.list(None).await.unwrap(), at(2000) - Duration::from_nanos(1)).await;
    assert_eq!(parts.unwrap().txid, Txid::new(1));
    let error = position_at(&history, 999).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "test.db has no state as of 1970-01-01T00:00:00.999Z: its history begins with TXID 0000000000000001 of \
         1970-01-01T00:00:01.000Z"
    );
}

#[tokio::test]
async fn what_was_merged_away_is_never_another_state() {
    let (history, timeline) = filled(&[1000, 2000, 3000, 4000, 5000, 6000, 7000]).await;
    put_object(&history, &timeline, 9, 1, 2).await;
    put_object(&history, &timeline, 1, 3, 5).await;
    assert_eq!(found(&history, 3500).await, 3, "the log still has it");
    delete(&history, 1..=5).await;
    assert_eq!(found(&history, 2000).await, 2);
    assert_eq!(found(&history, 5000).await, 5);
    assert_eq!(found(&history, 5999).await, 5);
    assert_eq!(found(&history, 6000).await, 6);
    for milliseconds in [2001, 3000, 3500, 4000, 4999] {
        let error = no_point(position_at(&history, milliseconds).await);
        let point = |txid, time| RestorePoint { txid: Txid::new(txid), time: at(time), is_exact: true };
        let id = history.id().clone();
        let (before, after) = (Some(point(2, 2000)), point(5, 5000));
        assert_eq!(error, NoPoint { id, asked: Asked::Time(at(milliseconds)), before, after });
    }
    assert_eq!(
        position_at(&history, 4000).await.unwrap_err().to_string(),
        "test.db can't be restored as of 1970-01-01T00:00:04.000Z: what was committed between TXID 0000000000000002 of \
         1970-01-01T00:00:02.000Z, and TXID 0000000000000005 of 1970-01-01T00:00:05.000Z, was merged, and only these two \
         points are kept; name one of these TXIDs instead"
    );
    assert_eq!(
        position_at(&history, 1999).await.unwrap_err().to_string(),
        "test.db can't be restored as of 1970-01-01T00:00:01.999Z: the oldest point that is kept is TXID \
         0000000000000002 of 1970-01-01T00:00:02.000Z"
    );
    let oldest = history.oldest_point(&history.list(None).await.unwrap()).await.unwrap().unwrap();
    assert_eq!((oldest.txid, oldest.time), (Txid::new(2), at(2000)));
}

#[tokio::test]
async fn an_empty_history_has_no_points() {
    let history = history("test.db");
    let listing = history.list(None).await.unwrap();
    assert_eq!(history.oldest_point(&listing).await.unwrap(), None);
    assert!(matches!(position_at(&history, 1).await, Err(HistoryError::Plan(PlanError::Empty(_)))));
}

#[tokio::test]
async fn a_time_behind_a_gap_is_an_error() {
    let (history, _) = filled(&[1000, 2000, 3000, 4000, 5000]).await;
    delete(&history, [3]).await;
    assert_eq!(found(&history, 1500).await, 1);
    assert_eq!(found(&history, 2000).await, 2);
    for milliseconds in [2001, 4500, 9000] {
        let error = position_at(&history, milliseconds).await;
        assert!(matches!(error, Err(HistoryError::Plan(PlanError::Gap { .. }))), "{error:?}");
    }
}

/// A round reads 16 headers, and one more for the end.
#[tokio::test]
async fn the_search_reads_few_headers() {
    let times: Vec<i64> = (1..=1000).map(|n| n * 1000).collect();
    let (history, _) = filled(&times).await;
    let listing = history.list(None).await.unwrap();
    for milliseconds in [999, 1000, 123_456, 500_000, 999_999, 1_000_000, 2_000_000] {
        let before = history.bucket().counters();
        let _ = history.position_at(&listing, at(milliseconds)).await;
        let after = history.bucket().counters();
        assert!(after.get - before.get <= 3 * 16 + 1, "{milliseconds}: {} headers", after.get - before.get);
        assert_eq!(after.list, before.list);
    }
}

#[tokio::test]
async fn a_header_that_can_not_be_read_matters_where_the_answer_is() {
    let (history, timeline) = filled(&[1000, 2000, 3000, 4000, 5000]).await;
    put(&history, &name(0, 3, 3).key(history.id()), vec![7; 50]).await;
    for (milliseconds, txid) in [(1000, 1), (1999, 1), (4000, 4), (9000, 5)] {
        assert_eq!(found(&history, milliseconds).await, txid);
    }
    for milliseconds in [2000, 3000, 3999] {
        let error = position_at(&history, milliseconds).await;
        assert!(matches!(error, Err(HistoryError::Damaged { .. })), "{milliseconds}: {error:?}");
    }
    // Another object that ends there says it, too.
    put_object(&history, &timeline, 1, 1, 3).await;
    for (milliseconds, txid) in [(2000, 2), (2999, 2), (3000, 3), (3999, 3)] {
        assert_eq!(found(&history, milliseconds).await, txid);
    }
}

/// Litestream's merged objects bear the time of the first transaction, and its snapshots that of their making.
#[tokio::test]
async fn of_what_others_merged_the_time_is_not_trusted() {
    let (history, mut timeline) = filled(&[1000, 2000, 3000, 4000, 5000]).await;
    delete(&history, 1..=3).await;
    timeline.times[3] = 1000;
    put(&history, &name(1, 1, 3).key(history.id()), timeline.foreign_object(3)).await;
    // In memory, objects are of now: later than all that is asked for.
    for milliseconds in [1500, 3000] {
        let error = no_point(position_at(&history, milliseconds).await);
        assert_eq!((error.before, error.after.txid), (None, Txid::new(3)));
        assert!(!error.after.is_exact && error.after.time > at(1_700_000_000_000));
        assert!(error.to_string().contains("of at the latest"), "{error}");
    }
    assert_eq!(found(&history, 4000).await, 4);
    assert_eq!(found(&history, 9000).await, 5);
}

/// A writer that was away for long has created an object whose transaction was merged and deleted meanwhile.
#[tokio::test]
async fn an_object_that_came_too_late_does_not_mislead() {
    let store = Aged::default();
    let (history, timeline) = (store.history("test.db"), timeline(&[1000, 2000, 3000, 4000, 5000, 6000]));
    put_log(&history, &timeline).await;
    put_object(&history, &timeline, 9, 1, 3).await;
    put_object(&history, &timeline, 1, 4, 5).await;
    delete(&history, 1..=5).await;
    store.pass(Duration::from_secs(1)).await;
    let of = |txid: u64| DatabaseChecksums { before: timeline.state(txid).checksum(), after: Checksum::from_crc(9) };
    // Of the same time as the transaction that it is not.
    put(&history, &name(0, 4, 4).key(history.id()), timeline.object_with(4, 4, Some(of(3)))).await;
    for milliseconds in [3500, 4000, 4500] {
        let error = no_point(position_at(&history, milliseconds).await);
        assert_eq!((error.before.unwrap().txid, error.after.txid), (Txid::new(3), Txid::new(5)), "{milliseconds}");
    }
    for (milliseconds, txid) in [(3000, 3), (5000, 5), (5500, 5), (6000, 6)] {
        assert_eq!(found(&history, milliseconds).await, txid);
    }
}

/// A store that counts in whole seconds, or one whose machines differ, lists the last of what was merged as if it were
/// too late. What continues it shows that it is not.
#[tokio::test]
async fn what_only_seems_late_is_a_point() {
    let (history, timeline) = (history("test.db"), timeline(&[1000, 2000, 3000, 4000, 5000]));
    put_object(&history, &timeline, 9, 1, 5).await;
    put_log(&history, &timeline).await;
    for txid in 1..=5 {
        assert_eq!(found(&history, i64::try_from(txid).unwrap() * 1000 + 500).await, txid);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Against looking at all transactions, the merged ones included.
    #[test]
    fn every_time_is_the_right_transaction_or_an_error_with_the_nearest(
        steps in prop::collection::vec(0..3_i64, 1..60),
        merged in prop::collection::vec((1..9_u8, 1..60_u64, 0..12_u64), 0..8),
        snapshots in prop::collection::vec(1..60_u64, 0..3),
        kept in prop::collection::vec(1..60_u64, 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let times: Vec<i64> = steps.iter().scan(10, |time, step| { *time += step; Some(*time) }).collect();
            let (history, timeline) = filled(&times).await;
            let last = timeline.last();
            let runs = merged.into_iter().map(|(level, min, more)| (level, min.min(last), (min + more).min(last)));
            let runs: Vec<_> = runs.chain(snapshots.into_iter().map(|max| (9, 1, max.min(last)))).collect();
            for &(level, min, max) in &runs {
                put_object(&history, &timeline, level, min, max).await;
            }
            let is_merged = |txid: &u64| runs.iter().any(|(_, min, max)| (min..=max).contains(&txid));
            delete(&history, (1..last).filter(is_merged).filter(|txid| !kept.contains(txid))).await;
            let listing = history.list(None).await.unwrap();
            let can: Vec<u64> = (1..=last).filter(|&txid| listing.plan(Txid::ZERO, Some(Txid::new(txid))).is_ok()).collect();
            prop_assert_eq!(can.last(), Some(&last));
            let oldest = history.oldest_point(&listing).await.unwrap().unwrap();
            prop_assert_eq!(oldest.txid.get(), can[0]);
            let time_of = |txid: u64| timeline.times[usize::try_from(txid).unwrap()];
            for asked in times[0] - 2..=times[times.len() - 1] + 2 {
                let right = (1..=last).rfind(|&txid| time_of(txid) <= asked);
                match history.position_at(&listing, at(asked)).await {
                    Ok(point) => {
                        let txid = point.txid.get();
                        prop_assert_eq!(point.time, at(time_of(txid)));
                        prop_assert!(can.contains(&txid));
                        let in_between = can.iter().any(|&other| Some(other) <= right && other > txid);
                        prop_assert!(Some(txid) == right || (time_of(txid) == asked && !in_between), "{} at {}", txid, asked);
                    }
                    Err(HistoryError::NoPoint(error)) => {
                        // Of a transaction that follows and was merged the time is not known.
                        let is_known = |right: u64| can.contains(&right) && can.contains(&(right + 1));
                        prop_assert!(!right.is_some_and(is_known), "{:?} at {}: {}", right, asked, error);
                        let before = can.iter().copied().rfind(|&txid| Some(txid) <= right);
                        let after = can.iter().copied().find(|&txid| Some(txid) > right);
                        prop_assert_eq!(error.before.map(|point| point.txid.get()), before);
                        prop_assert_eq!(Some(error.after.txid.get()), after);
                        for point in error.before.iter().chain([&error.after]) {
                            prop_assert_eq!(point.time, at(time_of(point.txid.get())));
                        }
                    }
                    Err(error) => prop_assert!(false, "{}: {}", asked, error),
                }
            }
            Ok(())
        })?;
    }

    /// Where clocks jump, it is a transaction whose time has come while that of the next has not; the same one each time.
    #[test]
    fn clocks_that_jump_never_make_an_error(
        times in prop::collection::vec(0..40_i64, 1..60),
        asked in 0..45_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (history, timeline) = filled(&times).await;
            let time_of = |txid: u64| timeline.times[usize::try_from(txid).unwrap()];
            let mut answers = Vec::new();
            for _ in 0..2 {
                answers.push(match position_at(&history, asked).await {
                    Ok(point) => {
                        let txid = point.txid.get();
                        prop_assert!(time_of(txid) <= asked);
                        prop_assert!(txid == timeline.last() || time_of(txid + 1) > asked);
                        Some(txid)
                    }
                    Err(HistoryError::NoPoint(error)) => {
                        prop_assert_eq!((error.before, error.after.txid), (None, Txid::FIRST));
                        prop_assert!(time_of(1) > asked);
                        None
                    }
                    Err(error) => { prop_assert!(false, "{}", error); None }
                });
            }
            prop_assert_eq!(answers[0], answers[1]);
            if time_of(timeline.last()) <= asked {
                prop_assert_eq!(answers[0], Some(timeline.last()));
            }
            Ok(())
        })?;
    }
}
