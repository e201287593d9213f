//! What may become of the PUT, and of the object after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bottomless_history::{Damage, History, HistoryError, MergeOptions};
use bottomless_ltx::DatabaseChecksums;
use object_store::Attribute;
use tokio::sync::Barrier;

use crate::store::{Fault, OddStore};
use crate::support::*;
use crate::world::*;

async fn filled() -> (Arc<OddStore>, History, Timeline) {
    let (store, history) = OddStore::history();
    let timeline = writes(6, 12);
    put_stamped_log(&history, &timeline).await;
    (store, history, timeline)
}

/// In one PUT, and in parts.
fn both() -> [MergeOptions; 2] {
    let brief = MergeOptions { timeout: Duration::from_millis(200), ..options() };
    [brief.clone(), MergeOptions { put_length: 0, part_length: 300, ..brief }]
}

#[tokio::test]
async fn the_object_has_the_time_of_its_last_transaction() {
    for options in both() {
        let (store, history, _) = filled().await;
        merge(&history, name(1, 2, 5), &options).await.unwrap();
        let attributes = store.attributes(&name(1, 2, 5).key(history.id())).await;
        let time = attributes.get(&Attribute::Metadata("litestream-timestamp".into())).unwrap();
        // 1,700,000,000 s and five.
        assert_eq!(time.as_ref(), "2023-11-14T22:13:25.000Z");
    }
}

#[tokio::test]
async fn what_exists_is_only_read_back() {
    let (store, history, timeline) = filled().await;
    let merged = merge(&history, name(1, 1, 6), &options()).await.unwrap();
    assert!(merged.created && merged.downloaded > 0);
    let again = merge(&history, name(1, 1, 6), &options()).await.unwrap();
    assert!(!again.created && again.downloaded == 0);
    assert_eq!((again.entry, again.pages), (merged.entry, merged.pages));
    assert_eq!(merged.pages as usize, timeline.state(6).pages.len());
    assert_eq!(store.creates.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn simultaneous_mergers_make_one_object() {
    const MERGERS: usize = 5;
    let (store, history, timeline) = filled().await;
    let listing = history.list(None).await.unwrap();
    *store.meeting.lock().unwrap() = Some(Arc::new(Barrier::new(MERGERS)));
    let options = options();
    let merging = (0..MERGERS).map(|_| history.merge(&listing, name(9, 1, 6), &options));
    let merged: Vec<_> = futures::future::try_join_all(merging).await.unwrap();
    assert_eq!(store.creates.load(Ordering::Relaxed), MERGERS, "all of them met");
    assert_eq!(merged.iter().filter(|merged| merged.created).count(), 1);
    assert!(merged.iter().all(|one| one.entry == merged[0].entry));
    assert!(get(&history, name(9, 1, 6)).await == object(&timeline, 1, 6));
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_looking() {
    for fault in [Fault::Lost, Fault::Silent] {
        let (store, history, timeline) = filled().await;
        store.fail(&[fault]);
        let [options, _] = both();
        let merged = merge(&history, name(1, 2, 6), &options).await.unwrap();
        assert!(merged.created);
        assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
    }
}

#[tokio::test]
async fn a_put_that_fails_is_an_error_and_the_next_one_succeeds() {
    for fault in [Fault::Failed, Fault::Denied] {
        let (store, history, timeline) = filled().await;
        store.fail(&[fault]);
        let error = merge(&history, name(1, 2, 6), &options()).await.unwrap_err();
        assert!(matches!(&error, HistoryError::Store(_)) && !error.is_outdated(), "{error}");
        assert!(error.to_string().contains(&name(1, 2, 6).key(history.id())), "{error}");
        assert!(!exists(&history, name(1, 2, 6)).await);
        merge(&history, name(1, 2, 6), &options()).await.unwrap();
        assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
    }
}

#[tokio::test]
async fn a_store_without_conditional_writes_is_written_all_the_same() {
    let (store, history, timeline) = filled().await;
    let before = store.overwrites.load(Ordering::Relaxed);
    store.fail(&[Fault::Unknown]);
    assert!(merge(&history, name(1, 2, 6), &options()).await.unwrap().created);
    assert_eq!(store.overwrites.load(Ordering::Relaxed), before + 1);
    assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
}

#[tokio::test]
async fn an_object_that_arrives_damaged_is_removed_again() {
    let (store, history, timeline) = filled().await;
    for large in [false, true] {
        let whole_length = if large { 0 } else { 1 << 20 };
        let options = MergeOptions { whole_length, ..options() };
        store.fail(&[Fault::Garbled]);
        let error = merge(&history, name(1, 2, 6), &options).await.unwrap_err();
        let HistoryError::ReadBack { key, removed: true, .. } = &error else { panic!("{error}") };
        assert_eq!(*key, name(1, 2, 6).key(history.id()));
        assert!(!exists(&history, name(1, 2, 6)).await);
    }
    merge(&history, name(1, 2, 6), &options()).await.unwrap();
    assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
}

/// What is read back is damaged on the way once: it is read again.
#[tokio::test]
async fn an_object_that_is_damaged_on_the_way_back_stays() {
    let (store, history, timeline) = filled().await;
    let garble_when_created = async {
        while store.creates.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        store.garbled_reads.store(1, Ordering::Relaxed);
    };
    let options = options();
    let (merged, ()) = futures::join!(merge(&history, name(1, 2, 6), &options), garble_when_created);
    assert!(merged.unwrap().created);
    assert_eq!(store.garbled_reads.load(Ordering::Relaxed), 0, "it was read garbled");
    assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
}

/// Of an object that another has made, only the error tells: somebody may know better.
#[tokio::test]
async fn anothers_damaged_object_is_left_alone() {
    let (_store, history, timeline) = filled().await;
    let listing = history.list(None).await.unwrap();
    let mut damaged = object(&timeline, 2, 6);
    damaged[300] ^= 1;
    put(&history, &name(1, 2, 6).key(history.id()), damaged).await;
    for listing in [listing, history.list(None).await.unwrap()] {
        let error = history.merge(&listing, name(1, 2, 6), &options()).await.unwrap_err();
        let HistoryError::Damaged { key, .. } = &error else { panic!("{error}") };
        assert_eq!(*key, name(1, 2, 6).key(history.id()));
        assert!(exists(&history, name(1, 2, 6)).await);
    }
}

/// It is whole, but leads elsewhere.
#[tokio::test]
async fn anothers_object_of_another_history_is_told() {
    let (_store, history, timeline) = filled().await;
    let listing = history.list(None).await.unwrap();
    let (before, after) = (timeline.state(1).checksum(), timeline.state(6).checksum());
    let other = timeline.state(3).checksum();
    for (before, after) in [(before, other), (other, after)] {
        let object = timeline.object_with(2, 6, Some(DatabaseChecksums { before, after }));
        put(&history, &name(1, 2, 6).key(history.id()), object).await;
        let error = history.merge(&listing, name(1, 2, 6), &options()).await.unwrap_err();
        let HistoryError::Damaged { damage, .. } = &error else { panic!("{error}") };
        assert!(matches!(**damage, Damage::Contradicted { .. } | Damage::Chain { .. }), "{error}");
    }
    // One that names none may be another program's.
    put(&history, &name(1, 2, 6).key(history.id()), timeline.object_with(2, 6, None)).await;
    assert!(!history.merge(&listing, name(1, 2, 6), &options()).await.unwrap().created);
}

#[tokio::test]
async fn an_object_in_parts() {
    for whole_length in [0, 1 << 20] {
        let (store, history, timeline) = filled().await;
        let [_, options] = both();
        let merged = merge(&history, name(1, 2, 6), &MergeOptions { whole_length, ..options }).await.unwrap();
        let expected = object(&timeline, 2, 6);
        assert!(merged.created && get(&history, name(1, 2, 6)).await == expected);
        assert_eq!(store.parts.load(Ordering::Relaxed), expected.len().div_ceil(300));
        assert_eq!((store.creates.load(Ordering::Relaxed), store.aborted.load(Ordering::Relaxed)), (0, 0));
    }
}

/// Another machine was faster, by the time that the parts are there: with a good object, or a damaged one.
#[tokio::test]
async fn parts_do_not_take_anothers_place() {
    for damaged in [false, true] {
        let (store, history, timeline) = filled().await;
        let key = name(1, 2, 6).key(history.id());
        let listing = history.list(None).await.unwrap();
        let mut other = object(&timeline, 2, 6);
        let middle = other.len() / 2;
        other[middle] ^= u8::from(damaged);
        put(&history, &key, other.clone()).await;
        let [_, options] = both();
        let made = history.merge(&listing, name(1, 2, 6), &options).await;
        assert_eq!(made.map(|merged| merged.created).ok(), (!damaged).then_some(false));
        assert!(get(&history, name(1, 2, 6)).await == other);
        assert_eq!(store.aborted.load(Ordering::Relaxed), 1);
    }
}

/// It was written without a condition: what is there now may be another's, which has mended it meanwhile.
#[tokio::test]
async fn what_was_written_without_a_condition_is_not_removed_again() {
    let [_, parts] = both();
    for (fault, options) in [(Fault::Garbled, parts), (Fault::UnknownAndGarbled, options())] {
        let (store, history, _) = filled().await;
        store.fail(&[fault]);
        let error = merge(&history, name(1, 2, 6), &options).await.unwrap_err();
        let HistoryError::ReadBack { key, removed: false, .. } = &error else { panic!("{error}") };
        assert_eq!(*key, name(1, 2, 6).key(history.id()));
        assert!(error.to_string().contains("bottomless-cli verify"), "{error}");
        assert!(exists(&history, name(1, 2, 6)).await);
    }
}

#[tokio::test]
async fn parts_that_fail_are_given_up() {
    for fault in [Fault::Failed, Fault::Silent] {
        let (store, history, timeline) = filled().await;
        let [_, options] = both();
        store.fail(&[fault]);
        let error = merge(&history, name(1, 2, 6), &options).await.unwrap_err();
        assert!(matches!(error, HistoryError::Store(_)), "{error}");
        assert_eq!((store.parts.load(Ordering::Relaxed), store.aborted.load(Ordering::Relaxed)), (1, 1));
        assert!(!exists(&history, name(1, 2, 6)).await);
        merge(&history, name(1, 2, 6), &options).await.unwrap();
        assert!(get(&history, name(1, 2, 6)).await == object(&timeline, 2, 6));
    }
}
