//! Listings that hold what no program of ours writes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use bottomless_history::{HistoryError, Listing, PlanError, RestoreOptions};
use bottomless_ltx::Txid;
use support::*;

fn timeline() -> Timeline {
    let changes: Vec<Change> = (0..5).map(|seed| Change::Write { places: vec![1], append: 3, seed }).collect();
    Timeline::new(512, &changes)
}

/// Keys that look nearly like ours are counted, and neither read nor taken for ours.
#[test]
fn keys_that_look_nearly_like_ours_are_left_alone() {
    run(async |warnings| {
        let (history, timeline) = (history("test.db"), timeline());
        put_log(&history, &timeline).await;
        let foreign = [
            "test.db/0000/0000000000000006-0000000000000006.LTX",
            "test.db/0000/000000000000000A-000000000000000A.ltx",
            "test.db/0000/0000000000000006-0000000000000006.ltx.tmp",
            "test.db/0000/0000000000000006-0000000000000007.ltx",
            "test.db/0000/0000000000000000-0000000000000000.ltx",
            "test.db/0001/0000000000000007-0000000000000006.ltx",
            "test.db/0001/0000000000000000-0000000000000006.ltx",
            "test.db/000a/0000000000000006-0000000000000006.ltx",
            "test.db/0010/0000000000000006-0000000000000006.ltx",
            "test.db/000/0000000000000006-0000000000000006.ltx",
            "test.db/0000/10000000000000006-10000000000000006.ltx",
            "test.db/0000/+000000000000006-+000000000000006.ltx",
            "test.db/0000/0000000000000006-0000000000000006.ltx/x",
            "test.db/0000/x/0000000000000006-0000000000000006.ltx",
            "test.db/0000/%30000000000000006-0000000000000006.ltx",
            "test.db/0000%2F0000000000000006-0000000000000006.ltx",
            "test.db/0000/0000000000000006\u{2013}0000000000000006.ltx",
            "test.db/0000/０000000000000006-０000000000000006.ltx",
            "test.db/0000/ 0000000000000006-0000000000000006.ltx",
            "test.db/generations/0123/wal",
        ];
        for key in foreign {
            put(&history, key, vec![1, 2, 3]).await;
        }
        // Beside the prefix, not below it.
        for key in ["test.db", "test.db-000000000001", "test.db2/0000/0000000000000006-0000000000000006.ltx"] {
            put(&history, key, vec![1]).await;
        }
        let listing = history.list(None).await.unwrap();
        assert_eq!((listing.foreign(), listing.last_txid()), (foreign.len(), Txid::new(5)));
        let restored = restore_around(&history, listing, None, None, RestoreOptions::default()).await.unwrap();
        assert_is(&restored, timeline.state(5), 5);
        assert_eq!(warnings.take(), "");
    });
}

/// What has one of our names is found out when it is read.
#[test]
fn huge_txids_neither_overflow_nor_are_continued_silently() {
    run(async |_| {
        for huge in [1 << 63, u64::MAX - 1, u64::MAX] {
            let (history, timeline) = (history("test.db"), timeline());
            put_log(&history, &timeline).await;
            put(&history, &name(0, huge, huge).key(history.id()), timeline.object(5, 5)).await;
            for base in [None, Some((5, timeline.state(5)))] {
                let listing = history.list(None).await.unwrap();
                assert_eq!(listing.last_txid(), Txid::new(huge));
                let result = restore_around(&history, listing, None, base, RestoreOptions::default()).await;
                let error = result.unwrap_err();
                let HistoryError::Plan(PlanError::Gap { first, last, .. }) = &error else { panic!("{error}") };
                assert_eq!((*first, *last), (Txid::new(6), Txid::new(huge - 1)));
            }
            // What is before the gap can still be had.
            let listing = history.list(None).await.unwrap();
            let restored = restore_around(&history, listing, Some(5), None, RestoreOptions::default()).await.unwrap();
            assert_is(&restored, timeline.state(5), 5);
            assert!(history.list(Some(Txid::new(huge))).await.unwrap().log().is_empty());
        }
    });
}

#[test]
fn a_snapshot_that_claims_everything_is_found_out() {
    run(async |_| {
        let (history, timeline) = (history("test.db"), timeline());
        put_log(&history, &timeline).await;
        let key = name(9, 1, u64::MAX).key(history.id());
        for bytes in [Vec::new(), timeline.object(1, 5)] {
            put(&history, &key, bytes).await;
            let listing = history.list(None).await.unwrap();
            let result = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
            let text = result.unwrap_err().to_string();
            assert!(text.contains(&key) && text.contains("--txid 0000000000000005"), "{text}");
            let listing = history.list(None).await.unwrap();
            let restored = restore_around(&history, listing, Some(5), None, RestoreOptions::default()).await.unwrap();
            assert_is(&restored, timeline.state(5), 5);
        }
    });
}

#[test]
fn a_listing_of_nothing_but_foreign_keys_is_empty() {
    run(async |_| {
        let history = history("test.db");
        put(&history, "test.db/0000/x", vec![1]).await;
        let listing: Listing = history.list(None).await.unwrap();
        assert!(listing.is_empty());
        let result = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
        assert!(matches!(result.unwrap_err(), HistoryError::Plan(PlanError::Empty(_))));
    });
}
