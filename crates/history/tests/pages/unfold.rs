//! From page objects back to objects that hold many pages.

use std::time::Duration;

use bottomless_history::{
    FoldOptions, Folded, History, HistoryError, Layout, MergeOptions, PageKey, Removing, RestoreOptions, Settings,
    Stop, UnfoldOptions, Unfolded,
};
use bottomless_ltx::PageNumber;

use super::restore::timeline;
use crate::support::aged::{Aged, Deletions};
use crate::support::between::{Between, Step};
use crate::support::laid::{logging, make, marker, marker_name, put_laid};
use crate::support::recorder::Recorder;
use crate::support::{Timeline, assert_is, history, name, put, put_object, restore_around, run};

const MACHINE: u64 = 0xab;
const MINUTE: Duration = Duration::from_secs(60);

fn options(force: bool) -> UnfoldOptions {
    UnfoldOptions {
        merge: MergeOptions::new(std::env::temp_dir()),
        restore: RestoreOptions::default(),
        removing: Removing::default(),
        machine: MACHINE,
        force,
    }
}

async fn unfold(history: &History) -> Unfolded {
    history.unfold(&options(false)).await.unwrap()
}

/// Keys below the prefix of the database, and how many page objects there are.
async fn there(history: &History) -> (Vec<String>, usize) {
    let objects = history.bucket().list(history.id().as_str(), None).await.unwrap();
    let pages = history.page_objects(PageNumber::FIRST).all().await.unwrap();
    (objects.into_iter().map(|object| object.key).collect(), pages.len())
}

async fn assert_ends(history: &History, timeline: &Timeline, end: u64) {
    let listing = history.list(None).await.unwrap();
    let restored = restore_around(history, listing, None, None, RestoreOptions::default()).await.unwrap();
    assert_is(&restored, timeline.state(end), end);
}

fn claim(history: &History, machine: u64) -> String {
    format!("{}/pages/claim-{machine:016x}-0000000000000001", history.id())
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_page_objects() {
    let timeline = timeline();
    for (marker, end) in [(1, 1), (2, 7), (5, 5), (7, 7)] {
        let history = history("team/a.db");
        put_laid(&history, &timeline, marker, end).await;
        let size = timeline.state(marker).pages.len();
        let unfolded = unfold(&history).await;
        assert_eq!((unfolded.txid.get(), unfolded.markers, unfolded.pages), (end, 1, size as u64));
        assert_eq!(unfolded.snapshot.unwrap().name, name(9, 1, end));
        assert_ends(&history, &timeline, end).await;
        let (keys, pages) = there(&history).await;
        let log = (marker + 1..=end).map(|txid| name(0, txid, txid).key(history.id()));
        assert_eq!(keys, log.chain([name(9, 1, end).key(history.id())]).collect::<Vec<_>>());
        assert_eq!(pages, 0);
        // There is nothing left to do.
        let again = unfold(&history).await;
        assert_eq!((again.markers, again.pages, again.snapshot), (0, 0, None));
    }
}

#[tokio::test]
async fn each_step_leaves_the_database_whole_and_the_same_call_goes_on() {
    let timeline = timeline();
    for (marker, end, declared) in [(4, 7, 0), (6, 6, 1)] {
        let store = Recorder::default();
        let history = store.history("a.db");
        put_laid(&history, &timeline, marker, end).await;
        if declared > 0 {
            history.declare_pages(MINUTE).await.unwrap();
        }
        store.states("a.db");
        unfold(&history).await;
        let states = store.states("a.db");
        // The claim comes and goes; the snapshot, the declaration, the marker.
        assert_eq!(states.len(), timeline.state(marker).pages.len() + 4 + declared);
        for (step, left) in states.iter().enumerate() {
            assert_ends(left, &timeline, end).await;
            unfold(left).await;
            assert_ends(left, &timeline, end).await;
            let (keys, pages) = there(left).await;
            assert!(
                keys.iter().all(|key| !key.contains("/pages/")) && pages == 0,
                "step {step}: {keys:?}, {pages} pages"
            );
        }
    }
}

#[tokio::test]
async fn a_request_that_fails_leaves_the_database_whole() {
    let timeline = timeline();
    let mut failures = 0;
    for left in 0.. {
        let store = Aged::default();
        let history = store.history("a.db");
        put_laid(&history, &timeline, 4, 7).await;
        store.deletions(Deletions::Left(left));
        let done = history.unfold(&options(false)).await;
        store.deletions(Deletions::Pass);
        assert_ends(&history, &timeline, 7).await;
        if done.is_ok() {
            break;
        }
        failures += 1;
        unfold(&history).await;
        assert_ends(&history, &timeline, 7).await;
        assert_eq!(there(&history).await.1, 0);
    }
    assert!(failures > timeline.state(4).pages.len(), "{failures}");
}

#[tokio::test]
async fn nothing_is_touched_while_another_folds() {
    let timeline = timeline();
    let store = Aged::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    put(&history, &claim(&history, 0xcd), Vec::new()).await;
    let before = there(&history).await;
    let error = history.unfold(&options(false)).await.unwrap_err();
    assert!(matches!(&error, HistoryError::Claimed { key, .. } if *key == claim(&history, 0xcd)), "{error}");
    assert_eq!(there(&history).await, before);

    // A fence window later it is the claim of one that is gone.
    store.pass(61 * MINUTE).await;
    unfold(&history).await;
    assert_eq!(there(&history).await.1, 0);
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/pages/")));
    assert_ends(&history, &timeline, 7).await;
}

#[tokio::test]
async fn force_takes_the_others_for_gone_but_not_one_that_comes() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    put(&history, &claim(&history, 0xcd), Vec::new()).await;
    history.unfold(&options(true)).await.unwrap();
    assert_eq!(there(&history).await.1, 0);
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/pages/")));
    assert_ends(&history, &timeline, 7).await;

    // Between the listing and the claim, while the settings are read.
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
    let before = there(&history).await;
    store.after(0, Step::from([(claim(&history, 0xcd), Some(Vec::new()))]));
    let error = history.unfold(&options(true)).await.unwrap_err();
    assert!(matches!(error, HistoryError::Claimed { .. }), "{error}");
    store.make(Step::from([(claim(&history, 0xcd), None)])).await;
    assert_eq!(there(&history).await, before, "its own claim is gone");
}

#[tokio::test]
async fn a_claim_of_a_call_that_was_killed_is_no_hindrance() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    put(&history, &claim(&history, MACHINE), Vec::new()).await;
    unfold(&history).await;
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/pages/")));
    // Only that is left.
    put(&history, &claim(&history, MACHINE), Vec::new()).await;
    unfold(&history).await;
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/pages/")));
}

#[tokio::test]
async fn page_objects_without_a_marker_are_left_overs() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 4, 4).await;
    make(&history, logging(history.id(), &timeline, 1, 7)).await;
    history.bucket().delete(&marker_name(4).key(history.id())).await.unwrap();
    put(&history, "a.db-0-000000000001", vec![1]).await;
    let unfolded = unfold(&history).await;
    assert_eq!((unfolded.markers, unfolded.snapshot), (0, None));
    assert_eq!(there(&history).await.1, 0);
    assert_ends(&history, &timeline, 7).await;
    assert_eq!(history.bucket().get("a.db-0-000000000001").await.unwrap().as_ref(), [1], "it is of another database");
}

#[tokio::test]
async fn a_snapshot_that_others_may_be_deleting_is_made_again() {
    let timeline = timeline();
    for (end, is_made) in [(6, true), (7, false)] {
        let store = Aged::default();
        let history = store.history("a.db");
        put_laid(&history, &timeline, 6, end).await;
        put(
            &history,
            &Settings::key(history.id()),
            br#"{"fence_window_seconds": 2, "fence_window_before_seconds": 2}"#.to_vec(),
        )
        .await;
        put_object(&history, &timeline, 9, 1, end).await;
        store.pass(MINUTE).await;
        let unfolded = unfold(&history).await;
        // What holds more than the marker is not replaced by it.
        assert_eq!(unfolded.snapshot.is_some(), is_made);
        assert_ends(&history, &timeline, end).await;
    }
}

#[tokio::test]
async fn a_damaged_snapshot_takes_the_place_of_nothing() {
    let timeline = timeline();
    let store = Aged::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 6, 7).await;
    put_object(&history, &timeline, 9, 1, 7).await;
    store.flip(&name(9, 1, 7).key(history.id())).await;
    let error = history.unfold(&options(false)).await.unwrap_err();
    assert!(matches!(error, HistoryError::Damaged { .. }), "{error}");
    assert_eq!(history.list(None).await.unwrap().layout(), Layout::Pages);
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/claim-")), "nobody waits for it");
    history.bucket().delete(&name(9, 1, 7).key(history.id())).await.unwrap();
    unfold(&history).await;
    assert_ends(&history, &timeline, 7).await;
}

#[test]
fn a_restore_goes_on_with_the_snapshot() {
    run(|_| async {
        let timeline = timeline();
        // Whenever it happens while it is read.
        for gets in 0.. {
            let store = Between::default();
            let history = store.history("a.db");
            put_laid(&history, &timeline, 6, 7).await;
            let listing = history.list(None).await.unwrap();
            let pages = (1..).take(timeline.state(6).pages.len()).filter_map(PageNumber::new);
            let mut step: Step = pages.map(|page| (PageKey(page).key(history.id()), None)).collect();
            step.insert(marker_name(6).key(history.id()), None);
            step.insert(name(9, 1, 7).key(history.id()), Some(timeline.object(1, 7)));
            store.after(gets, step);
            let restored = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
            if !store.is_done() {
                assert!(gets > 6, "{gets}");
                break;
            }
            assert_is(&restored.unwrap_or_else(|error| panic!("{gets}: {error}")), timeline.state(7), 7);
        }
    });
}

/// As a program of another machine.
async fn fold(history: &History) -> Folded {
    fold_with(history, false).await
}

async fn fold_with(history: &History, converts: bool) -> Folded {
    let merge = MergeOptions::new(std::env::temp_dir());
    history.fold(&FoldOptions { merge, machine: 0xcd, is_fenced: true, converts, stop: Stop::default() }).await.unwrap()
}

#[tokio::test]
async fn a_fold_that_has_listed_the_marker_before_begins_anew() {
    let timeline = timeline();
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 6, 7).await;
    put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
    let pages = (1..).take(timeline.state(6).pages.len()).filter_map(PageNumber::new);
    let mut step: Step = pages.map(|page| (PageKey(page).key(history.id()), None)).collect();
    step.insert(marker_name(6).key(history.id()), None);
    step.insert(name(9, 1, 7).key(history.id()), Some(timeline.object(1, 7)));
    // The settings are read behind the listing, before the claim.
    store.after(0, step);
    let folded = fold(&history).await;
    assert!(store.is_done());
    assert_eq!((folded.written, folded.wait), (0, Some(Duration::ZERO)));
    assert_eq!(history.list(None).await.unwrap().layout(), Layout::Ltx);
    assert_ends(&history, &timeline, 7).await;
    // It has had no say in that.
    let folded = fold(&history).await;
    assert_eq!((folded.layout, folded.txid.get(), folded.written, folded.wait), (Layout::Ltx, 0, 0, None));
    assert_eq!(there(&history).await.1, 0);
    // Told to convert it, it makes all of them.
    let folded = fold_with(&history, true).await;
    assert_eq!((folded.txid.get(), folded.written), (7, timeline.state(7).pages.len() as u64));
    history.bucket().delete(&name(9, 1, 7).key(history.id())).await.unwrap();
    assert_ends(&history, &timeline, 7).await;
}

#[tokio::test]
async fn a_marker_is_made_under_the_claim() {
    let timeline = timeline();
    let store = Recorder::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    store.states("a.db");
    assert_eq!(fold(&history).await.txid.get(), 7);
    let mut listings = Vec::new();
    for state in store.states("a.db") {
        listings.push(state.list(None).await.unwrap());
    }
    let marked = listings.iter().find(|listing| listing.marker().is_some_and(|marker| marker.name == marker_name(7)));
    assert_eq!(marked.unwrap().claims().len(), 1);
    assert_eq!(listings.last().unwrap().claims().len(), 0);
}

#[tokio::test]
async fn there_and_back_while_transactions_come() {
    let timeline = timeline();
    let history = history("a.db");
    make(&history, logging(history.id(), &timeline, 1, 3)).await;
    for end in 4..=timeline.last() {
        assert_eq!(fold_with(&history, true).await.txid.get(), end - 1);
        make(&history, logging(history.id(), &timeline, end, end)).await;
        assert_ends(&history, &timeline, end).await;
        if end % 2 == 0 {
            unfold(&history).await;
            assert_ends(&history, &timeline, end).await;
        }
    }
}

#[tokio::test]
async fn a_marker_that_comes_back_is_deleted_again() {
    let timeline = timeline();
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 6, 7).await;
    let gets = {
        let probe = Between::default();
        let probing = probe.history("a.db");
        put_laid(&probing, &timeline, 6, 7).await;
        let before = probe.gets();
        unfold(&probing).await;
        probe.gets() - before
    };
    // With the last download, which comes behind the deletion of the marker.
    store.after(gets - 1, Step::from([(marker_name(6).key(history.id()), Some(marker(&timeline, 6)))]));
    let unfolded = unfold(&history).await;
    assert!(store.is_done());
    assert_eq!(unfolded.markers, 2);
    assert_ends(&history, &timeline, 7).await;
    assert!(there(&history).await.0.iter().all(|key| !key.contains("/pages/")));
}
