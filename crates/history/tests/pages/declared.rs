//! The layout that is declared before there is anything to fold.

use std::time::Duration;

use bottomless_history::{
    FoldOptions, Folded, History, Layout, MergeOptions, Policy, Removing, RestoreOptions, Scope, Settings, Stop,
    UnfoldOptions, Unfolded,
};
use bottomless_ltx::PageNumber;

use super::restore::timeline;
use crate::support::between::{Between, Step};
use crate::support::laid::{logging, make, marker_name};
use crate::support::{Timeline, assert_is, history, name, put, put_object, restore_around};

const MINUTE: Duration = Duration::from_secs(60);

fn merging() -> MergeOptions {
    MergeOptions::new(std::env::temp_dir())
}

async fn fold(history: &History, converts: bool) -> Folded {
    history
        .fold(&FoldOptions { merge: merging(), machine: 0xcd, is_fenced: true, converts, stop: Stop::default() })
        .await
        .unwrap()
}

async fn unfold(history: &History) -> Unfolded {
    let (restore, removing) = (RestoreOptions::default(), Removing::default());
    let options = UnfoldOptions { merge: merging(), restore, removing, machine: 0xab, force: false };
    history.unfold(&options).await.unwrap()
}

async fn keys(history: &History) -> Vec<String> {
    let objects = history.bucket().list(history.id().as_str(), None).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

async fn pages(history: &History) -> usize {
    history.page_objects(PageNumber::FIRST).all().await.unwrap().len()
}

async fn layout(history: &History) -> Layout {
    history.list(None).await.unwrap().layout()
}

async fn assert_ends(history: &History, timeline: &Timeline, end: u64) {
    let listing = history.list(None).await.unwrap();
    let restored = restore_around(history, listing, None, None, RestoreOptions::default()).await.unwrap();
    assert_is(&restored, timeline.state(end), end);
}

/// A log, and the declaration before it.
async fn declared(history: &History, timeline: &Timeline, end: u64) {
    history.declare_pages(MINUTE).await.unwrap();
    make(history, logging(history.id(), timeline, 1, end)).await;
}

#[tokio::test]
async fn a_declaration_is_a_layout_and_no_database() {
    let history = history("team/a.db");
    assert_eq!(layout(&history).await, Layout::Ltx);
    for _ in 0..2 {
        history.declare_pages(MINUTE).await.unwrap();
    }
    assert_eq!(keys(&history).await, ["team/a.db/pages/layout"]);
    for key in ["team/a.db/pages/layout2", "team/a.db/layout", "team/a.db/pages/layout/x"] {
        put(&history, key, b"x".to_vec()).await;
    }
    for listing in [history.list(None).await, history.list_briefly(None).await] {
        let listing = listing.unwrap();
        assert!(listing.is_empty() && listing.declaration().is_some());
        assert_eq!((listing.layout(), listing.foreign()), (Layout::Pages, 3));
    }
    let folded = fold(&history, false).await;
    assert_eq!((folded.layout, folded.txid.get(), pages(&history).await), (Layout::Pages, 0, 0));
    let removal = history.removal().await.unwrap();
    assert_eq!((removal.count(), removal.foreign.len()), (1, 3));
    history.remove(&removal, &super::removal::removing(0xab)).await.unwrap();
    assert_eq!(layout(&history).await, Layout::Ltx);
}

#[tokio::test]
async fn whoever_compacts_a_declared_log_makes_nothing_but_page_objects() {
    let timeline = timeline();
    let history = history("a.db");
    declared(&history, &timeline, 7).await;
    for scope in [Scope::Due, Scope::Now, Scope::Snapshot] {
        let policy = Policy { levels: [Duration::ZERO; 3], snapshot: Duration::ZERO, retention: Duration::ZERO };
        let compacted = history.compact(&policy, scope, &merging()).await.unwrap();
        assert_eq!((compacted.layout, compacted.made.len()), (Layout::Pages, 0));
    }
    let folded = fold(&history, false).await;
    assert_eq!((folded.layout, folded.txid.get()), (Layout::Pages, 7));
    assert_eq!(pages(&history).await, timeline.state(7).pages.len());
    assert!(history.list(None).await.unwrap().declaration().is_some(), "it stays");
    assert_ends(&history, &timeline, 7).await;
}

#[tokio::test]
async fn a_declared_log_is_given_up_by_the_declaration_alone() {
    let timeline = timeline();
    for end in [0, 1, 7] {
        let history = history("a.db");
        declared(&history, &timeline, end).await;
        let unfolded = unfold(&history).await;
        assert_eq!((unfolded.declaration, unfolded.markers, unfolded.pages), (true, 0, 0));
        assert_eq!(unfolded.snapshot, None);
        let log: Vec<String> = (1..=end).map(|txid| name(0, txid, txid).key(history.id())).collect();
        assert_eq!(keys(&history).await, log);
        assert_eq!(unfold(&history).await, Unfolded { txid: unfolded.txid, ..Unfolded::default() });
    }
}

#[tokio::test]
async fn a_fold_that_has_listed_the_declaration_before_begins_anew() {
    let timeline = timeline();
    let store = Between::default();
    let history = store.history("a.db");
    declared(&history, &timeline, 7).await;
    put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
    // The settings are read behind the listing, before the claim.
    let step: Step =
        [("a.db/pages/layout".to_owned(), None), (name(9, 1, 7).key(history.id()), Some(timeline.object(1, 7)))].into();
    store.after(0, step);
    let folded = fold(&history, false).await;
    assert!(store.is_done());
    assert_eq!((folded.written, folded.wait), (0, Some(Duration::ZERO)));
    let folded = fold(&history, false).await;
    assert_eq!((folded.layout, folded.written, folded.wait), (Layout::Ltx, 0, None));
    assert!(keys(&history).await.iter().all(|key| !key.contains("/pages/")));
}

#[tokio::test]
async fn only_who_converts_makes_page_objects_beside_others() {
    let timeline = timeline();
    for (level, min, max) in [(9, 1, 5), (1, 1, 7), (2, 3, 4)] {
        let history = history("a.db");
        make(&history, logging(history.id(), &timeline, 1, 7)).await;
        put_object(&history, &timeline, level, min, max).await;
        let before = keys(&history).await;
        let folded = fold(&history, false).await;
        assert_eq!((folded.layout, folded.txid.get(), folded.to.get(), folded.wait), (Layout::Ltx, 0, 0, None));
        assert_eq!((keys(&history).await, pages(&history).await), (before, 0));
        let folded = fold(&history, true).await;
        assert_eq!((folded.layout, folded.txid.get()), (Layout::Pages, 7));
        assert!(keys(&history).await.contains(&marker_name(7).key(history.id())));
        assert_ends(&history, &timeline, 7).await;
    }
    // A log alone is of either layout.
    let history = history("a.db");
    make(&history, logging(history.id(), &timeline, 1, 7)).await;
    let folded = fold(&history, false).await;
    assert_eq!((folded.layout, folded.txid.get()), (Layout::Pages, 7));
}
