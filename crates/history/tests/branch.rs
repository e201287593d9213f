//! Branching: what is there after each step, and what a cut-off leaves.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use bottomless_history::{
    BranchError, Branched, DatabaseId, Goal, History, HistoryError, Holds, MergeOptions, RestoreOptions, Settings,
};
use bottomless_ltx::Txid;
use support::recorder::{Compacted, Instead, Recorder};
use support::{Change, Timeline, assert_is, name, put, put_object, restore};

const CHANGES: u64 = 12;

fn timeline() -> Timeline {
    let change = |seed| Change::Write { places: vec![usize::from(seed), 3], append: usize::from(seed % 3), seed };
    Timeline::new(1024, &(0..CHANGES as u8).map(change).collect::<Vec<_>>())
}

/// A snapshot, a compacted run, the log behind it, some of the log that was not deleted yet, and settings.
async fn source(store: &Recorder, timeline: &Timeline) -> History {
    let source = store.history("a.db");
    for txid in 5..=12 {
        put_object(&source, timeline, 0, txid, txid).await;
    }
    put_object(&source, timeline, 1, 6, 9).await;
    put_object(&source, timeline, 9, 1, 5).await;
    put(&source, &Settings::key(source.id()), br#"{"fence_window_seconds": 7}"#.to_vec()).await;
    store.states("b.db");
    source
}

fn target() -> DatabaseId {
    DatabaseId::new("b.db").unwrap()
}

fn options() -> MergeOptions {
    MergeOptions::new(std::env::temp_dir())
}

async fn branch(source: &History, to: &DatabaseId) -> Result<Branched, BranchError> {
    source.branch(to, Goal::End, &options()).await
}

async fn branch_at(source: &History, up_to: u64) -> Result<Branched, BranchError> {
    source.branch(&target(), Goal::Txid(Txid::new(up_to)), &options()).await
}

async fn keys(history: &History) -> Vec<String> {
    let objects = history.bucket().list(history.id().as_str(), None).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

/// What an open or a restore sees: nothing, an error, or a database.
async fn last(history: &History) -> Option<Result<u64, HistoryError>> {
    if history.list(None).await.unwrap().is_empty() {
        return None;
    }
    let restored = restore(history, None, None, RestoreOptions::default()).await;
    Some(restored.map(|(restored, _)| restored.position.txid.get()))
}

#[tokio::test]
async fn a_branch_is_what_its_source_was() {
    let timeline = timeline();
    for up_to in [5, 9, 10, 12] {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        let before = keys(&source).await;
        let branched = branch_at(&source, up_to).await.unwrap();
        let branch = store.history("b.db");
        assert_is(
            &restore(&branch, None, None, RestoreOptions::default()).await.unwrap(),
            timeline.state(up_to),
            up_to,
        );
        assert_eq!(branched.txid, Txid::new(up_to));
        assert_eq!(branched.checksum, Some(timeline.state(up_to).checksum()));
        assert_eq!(branch.list(None).await.unwrap().entries().len(), branched.objects);
        assert_eq!(keys(&source).await, before);
        let settings = branch.bucket().get(&Settings::key(branch.id())).await.unwrap();
        assert_eq!(Settings::decode(&settings).unwrap().fence_window.as_secs(), 7);
        // Each goes its own way.
        put(&branch, &name(0, up_to + 1, up_to + 1).key(branch.id()), vec![1]).await;
        assert_eq!(source.list(None).await.unwrap().last_txid(), Txid::new(12));
    }
}

#[tokio::test]
async fn a_branch_is_a_database_only_with_its_last_copy() {
    let timeline = timeline();
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    branch(&source, &target()).await.unwrap();
    let states = store.states("b.db");
    let (whole, parts) = states.split_last().unwrap();
    assert_eq!(parts.len(), 5, "the settings, the log and the run");
    for (step, part) in parts.iter().enumerate() {
        let seen = last(part).await;
        assert!(!matches!(seen, Some(Ok(_))), "after {step} copies: {seen:?}");
        for up_to in 1..=CHANGES {
            assert!(restore(part, Some(up_to), None, RestoreOptions::default()).await.is_err(), "{step} {up_to}");
        }
        assert!(part.list(None).await.unwrap().settings().is_some(), "the settings come first");
    }
    assert!(matches!(last(whole).await, Some(Ok(12))));
}

#[tokio::test]
async fn what_was_cut_off_anywhere_goes_on() {
    let timeline = timeline();
    for copies in 0..5 {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        store.after(copies, Some(Instead::Fails));
        let error = branch_at(&source, 12).await.unwrap_err();
        assert!(matches!(error, BranchError::Unfinished { .. }), "{error}");
        assert!(error.to_string().contains("rm -d b.db"), "{error}");
        assert!(!matches!(last(&store.history("b.db")).await, Some(Ok(_))));
        store.after(0, None);
        // Another point is another plan.
        let other = branch_at(&source, 9).await;
        if copies > 0 {
            let error = other.unwrap_err().to_string();
            assert!(error.contains("b.db/0000/") && error.contains("--txid 000000000000000c"), "{error}");
            let branched = branch_at(&source, 12).await.unwrap();
            assert_eq!(branched.found, copies);
        }
        let branch = store.history("b.db");
        let up_to = branch.list(None).await.unwrap().last_txid().get();
        assert_is(
            &restore(&branch, None, None, RestoreOptions::default()).await.unwrap(),
            timeline.state(up_to),
            up_to,
        );
    }
}

#[tokio::test]
async fn again_is_nothing_to_do() {
    let timeline = timeline();
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    let first = branch(&source, &target()).await.unwrap();
    store.states("b.db");
    let again = branch(&source, &target()).await.unwrap();
    assert_eq!((again.objects, again.found), (first.objects, first.objects));
    assert!(store.states("b.db").is_empty(), "nothing was written");
}

#[tokio::test]
async fn whatever_is_there_already_stays_as_it_is() {
    let timeline = timeline();
    for key in ["b.db/0000/0000000000000001-0000000000000001.ltx", "b.db/notes", "b.db/bottomless.json"] {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        put(&source, key, b"precious".to_vec()).await;
        store.states("b.db");
        let error = branch(&source, &target()).await.unwrap_err();
        assert!(matches!(&error, BranchError::Occupied { key: found, .. } if found == key), "{error}");
        assert!(store.states("b.db").is_empty(), "nothing was written");
    }
    // The same name, another content.
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    let other = name(0, 12, 12).key(&target());
    let mut content = timeline.object(12, 12);
    *content.last_mut().unwrap() ^= 1;
    put(&source, &other, content).await;
    assert!(branch(&source, &target()).await.is_err());
}

#[tokio::test]
async fn a_database_is_no_branch_of_what_it_lies_in() {
    let store = Recorder::default();
    let source = source(&store, &timeline()).await;
    for id in ["a.db", "a.db/x"] {
        let error = branch(&source, &DatabaseId::new(id).unwrap()).await.unwrap_err();
        assert!(matches!(error, BranchError::Within { .. }), "{error}");
    }
    let below = branch(&store.history("a.db/x"), source.id()).await.unwrap_err();
    assert!(matches!(below, BranchError::Within { .. }), "{below}");
    branch(&source, &DatabaseId::new("a.db2").unwrap()).await.unwrap();
}

#[tokio::test]
async fn late_objects_are_not_copied() {
    let timeline = timeline();
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    // Created after it was merged: an orphan of another writer.
    put(&source, &name(0, 6, 6).key(source.id()), timeline.object(6, 6)).await;
    put(&source, &name(0, 7, 7).key(source.id()), timeline.object(7, 7)).await;
    let error = branch_at(&source, 7).await.unwrap_err();
    assert!(error.to_string().contains("merged"), "{error}");
    assert!(keys(&store.history("b.db")).await.is_empty());
    branch(&source, &target()).await.unwrap();
}

#[tokio::test]
async fn objects_that_are_compacted_away_meanwhile_are_planned_anew() {
    let timeline = timeline();
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    let log = |txid| name(0, txid, txid).key(source.id());
    store.compact(Compacted {
        before: log(10),
        deleted: vec![log(10), log(11), log(12)],
        created: Some((name(1, 10, 12).key(source.id()), timeline.object(10, 12))),
    });
    let branched = branch_at(&source, 12).await.unwrap();
    let branch = store.history("b.db");
    assert_eq!(branch.list(None).await.unwrap().entries().len(), branched.objects, "nothing of the old plan is left");
    assert_is(&restore(&branch, None, None, RestoreOptions::default()).await.unwrap(), timeline.state(12), 12);
}

#[tokio::test]
async fn nothing_is_no_source() {
    let store = Recorder::default();
    let error = branch(&store.history("none.db"), &target()).await.unwrap_err();
    assert!(error.to_string().contains("no database none.db"), "{error}");
}

#[tokio::test]
async fn what_can_not_be_copied_is_one_snapshot() {
    let timeline = timeline();
    for instead in [None, Some(Instead::Unsupported)] {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        store.after(0, instead);
        let limit = if instead.is_none() { 1000 } else { u64::MAX };
        let options = MergeOptions { put_length: limit, part_length: 2000, ..options() };
        for found in [0, 1] {
            let branched = source.branch(&target(), Goal::Txid(Txid::new(10)), &options).await.unwrap();
            assert_eq!((branched.objects, branched.found), (1, found));
            assert_eq!(branched.checksum, Some(timeline.state(10).checksum()));
        }
        let branch = store.history("b.db");
        let names: Vec<_> = branch.list(None).await.unwrap().entries().iter().map(|entry| entry.name).collect();
        assert_eq!(names, [name(9, 1, 10)]);
        assert_is(&restore(&branch, None, None, RestoreOptions::default()).await.unwrap(), timeline.state(10), 10);
        assert!(branch.list(None).await.unwrap().settings().is_some());
    }
}

/// What is at `txid` is what an open finds, or nothing, in each of the states since the last call.
async fn assert_never_another(store: &Recorder, timeline: &Timeline, txid: u64, what: &str) {
    for (step, state) in store.states("b.db").iter().enumerate() {
        if state.list(None).await.unwrap().is_empty() {
            continue;
        }
        if let Ok(restored) = restore(state, None, None, RestoreOptions::default()).await {
            assert_eq!(restored.0.position.txid.get(), txid, "{what}: after write {step}");
            assert_is(&restored, timeline.state(txid), txid);
        }
    }
}

/// The source is compacted while the branch, whole already, is held against it.
#[tokio::test]
async fn a_branch_is_never_an_older_database() {
    let timeline = timeline();
    let log = |id: &DatabaseId| [10, 11, 12].map(|txid| name(0, txid, txid).key(id));
    // All of the plan is replaced, or all but what it begins with.
    for (level, min, goes) in [(9, 1, &[(9, 1, 5), (1, 6, 9)][..]), (2, 6, &[(1, 6, 9)])] {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        let goes = goes.iter().map(|&(level, min, max)| name(level, min, max).key(source.id()));
        store.compact(Compacted {
            before: format!("GET {}", name(9, 1, 5).key(source.id())),
            deleted: goes.chain(log(source.id())).collect(),
            created: Some((name(level, min, 12).key(source.id()), timeline.object(min, 12))),
        });
        let branched = branch_at(&source, 12).await;
        let what = format!("level {level}: {branched:?}");
        assert_never_another(&store, &timeline, 12, &what).await;
        assert_eq!(branched.unwrap().txid, Txid::new(12), "{what}");
        assert!(matches!(last(&store.history("b.db")).await, Some(Ok(12))), "{what}");
    }
}

#[tokio::test]
async fn a_database_that_is_whole_is_not_touched() {
    let timeline = timeline();
    // A branch at another point, of which this one's plan has every object.
    let store = Recorder::default();
    let source_1 = source(&store, &timeline).await;
    branch_at(&source_1, 5).await.unwrap();
    store.states("b.db");
    let error = branch_at(&source_1, 12).await.unwrap_err();
    assert!(matches!(error, BranchError::Occupied { holds: Holds::Other, .. }), "{error}");
    assert!(store.states("b.db").is_empty(), "{error}");

    // The same branch, but its source was compacted since, or is while the two are held against each other.
    for before in [false, true] {
        let store = Recorder::default();
        let source = source(&store, &timeline).await;
        branch_at(&source, 12).await.unwrap();
        let base = name(9, 1, 5).key(source.id());
        store.compact(Compacted {
            before: format!("GET {base}"),
            deleted: vec![base.clone()],
            created: Some((name(9, 1, 12).key(source.id()), timeline.object(1, 12))),
        });
        if before {
            let _ = source.bucket().get(&base).await;
        }
        store.states("b.db");
        let error = branch_at(&source, 12).await.unwrap_err();
        assert!(matches!(error, BranchError::Occupied { holds: Holds::Other, .. }), "{error}");
        assert!(store.states("b.db").is_empty(), "{error}");
    }

    // It is a snapshot, since an object was too large, which is compacted away while the snapshot is made again.
    let store = Recorder::default();
    let source = store.history("a.db");
    for txid in 1..=6 {
        put_object(&source, &timeline, 0, txid, txid).await;
    }
    put_object(&source, &timeline, 1, 1, 6).await;
    let put_length = timeline.object(1, 6).len() as u64 - 1;
    assert!((1..=6).all(|txid| timeline.object(txid, txid).len() as u64 <= put_length));
    let options = MergeOptions { put_length, part_length: 2000, ..options() };
    let to = target();
    let snapshot = || source.branch(&to, Goal::Txid(Txid::new(6)), &options);
    let first = snapshot().await.unwrap();
    let run = name(1, 1, 6).key(source.id());
    store.compact(Compacted { before: format!("GET {run}"), deleted: vec![run], created: None });
    store.states("b.db");
    let again = snapshot().await.unwrap();
    assert_eq!((again.found, again.checksum), (1, first.checksum));
    assert_never_another(&store, &timeline, 6, "again").await;
    assert_eq!(keys(&store.history("b.db")).await, [name(9, 1, 6).key(&target())]);
}

#[tokio::test]
async fn what_can_not_go_on_is_told_how_to_remove() {
    let timeline = timeline();
    let store = Recorder::default();
    let source = source(&store, &timeline).await;
    store.after(3, Some(Instead::Fails));
    branch_at(&source, 12).await.unwrap_err();
    store.after(0, None);
    put_object(&source, &timeline, 9, 1, 12).await;
    for key in keys(&source).await {
        if !key.contains("/0009/0000000000000001-000000000000000c") && key.ends_with(".ltx") {
            source.bucket().delete(&key).await.unwrap();
        }
    }
    store.states("b.db");
    let error = branch_at(&source, 12).await.unwrap_err();
    assert!(matches!(error, BranchError::Occupied { holds: Holds::PartOfIt, .. }), "{error}");
    assert!(error.to_string().contains("rm -d b.db --yes"), "{error}");
    assert!(store.states("b.db").is_empty(), "{error}");
}
