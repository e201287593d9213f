//! Databases whose names begin or end alike.

use bottomless_history::{DatabaseId, History, HistoryError, PageKey, RestoreOptions, Settings, Unremoved};
use bottomless_ltx::PageNumber;

use super::removal::removing;
use super::restore::timeline;
use crate::support::laid::{logging, make, put_laid};
use crate::support::recorder::Recorder;
use crate::support::{Timeline, assert_is, history, put, put_object, restore, restore_around};

const NAMES: [&str; 7] = [
    "a.db",
    "a.db-0",
    "a.db-000000000001",
    "a.db-000000000001-000000000001",
    "a.db-000000000000",
    "a.db-00000000000",
    "folder/a.db-000000000002",
];

/// All of them, each with another marker, in one bucket.
async fn all(timeline: &Timeline) -> Vec<History> {
    let first = history(NAMES[0]);
    let histories: Vec<History> =
        NAMES.iter().map(|name| History::new(first.bucket().clone(), DatabaseId::new(*name).unwrap())).collect();
    for (number, history) in histories.iter().enumerate() {
        put_laid(history, timeline, 1 + number as u64, timeline.last()).await;
    }
    histories
}

#[tokio::test]
async fn names_that_are_prefixes_of_one_another_do_not_mix() {
    let timeline = timeline();
    let histories = all(&timeline).await;
    for (number, history) in histories.iter().enumerate() {
        let marker = 1 + number as u64;
        let objects = history.page_objects(PageNumber::FIRST).all().await.unwrap();
        let numbers: Vec<u32> = objects.iter().map(|(page, _)| page.get()).collect();
        let size = timeline.state(marker).pages.len() as u32;
        assert_eq!(numbers, (1..=size).collect::<Vec<_>>(), "{}", history.id());
        assert!(objects.iter().all(|(page, object)| object.key == PageKey(*page).key(history.id())));
        let from = PageNumber::new(size).unwrap();
        assert_eq!(history.page_objects(from).all().await.unwrap(), objects[size as usize - 1..]);
        let restored = restore(history, None, None, RestoreOptions::default()).await.unwrap();
        assert_is(&restored, timeline.state(timeline.last()), timeline.last());
        assert_eq!(history.list(None).await.unwrap().foreign(), 0);
    }
}

#[tokio::test]
async fn page_objects_are_listed_some_at_a_time() {
    let history = history("a.db");
    // Another database lies between pages 1 and 2.
    for txid in 1..=1500_u32 {
        put(&history, &format!("a.db-000000000001/0000/{txid:016x}-{txid:016x}.ltx"), Vec::new()).await;
    }
    for page in (1..=2500).filter_map(PageNumber::new) {
        put(&history, &PageKey(page).key(history.id()), vec![1]).await;
    }
    put(&history, "a.dc", Vec::new()).await;
    let mut objects = history.page_objects(PageNumber::FIRST);
    let (mut numbers, mut portions) = (Vec::new(), 0);
    while let Some(portion) = objects.next().await.unwrap() {
        assert!((1..=1000).contains(&portion.len()));
        portions += 1;
        numbers.extend(portion.into_iter().map(|(page, _)| page.get()));
    }
    assert_eq!(numbers, (1..=2500).collect::<Vec<_>>());
    assert!((3..=5).contains(&portions), "{portions}");
    let lists = history.bucket().counters();
    let rest = history.page_objects(PageNumber::new(2000).unwrap()).all().await.unwrap();
    assert_eq!(rest.len(), 501);
    assert_eq!(history.bucket().counters().list - lists.list, 1);
}

/// The keys that are left of all databases.
async fn keys(history: &History) -> Vec<String> {
    history.bucket().list("", None).await.unwrap().into_iter().map(|object| object.key).collect()
}

#[tokio::test]
async fn a_removal_takes_what_is_of_this_database() {
    let timeline = timeline();
    let count = all(&timeline).await.len();
    for number in 0..count {
        let histories = all(&timeline).await;
        let history = &histories[number];
        put(history, &format!("{}/pages/claim-00000000000000ab-0000000000000001", history.id()), Vec::new()).await;
        put(history, &format!("{}/probe-0123456789abcdef", history.id()), b"x".to_vec()).await;
        let before = history.bucket().list("", None).await.unwrap();
        let removal = history.removal().await.unwrap();
        assert!(removal.foreign.is_empty(), "{:?}", removal.foreign);
        history.remove(&removal, &removing(0xab)).await.unwrap();
        let left = keys(history).await;
        let gone: Vec<_> = before.into_iter().filter(|object| !left.contains(&object.key)).collect();
        assert_eq!(gone.len(), removal.count());
        assert_eq!(gone.iter().map(|object| object.size).sum::<u64>(), removal.bytes());
        for object in &gone {
            let page = PageKey::parse(history.id(), &object.key);
            assert!(page.is_some() || object.key.starts_with(&format!("{}/", history.id())), "{}", object.key);
        }
        assert!(history.removal().await.unwrap().is_empty());
        for (other, marker) in histories.iter().zip(1..).filter(|(other, _)| other.id() != history.id()) {
            let size = timeline.state(marker).pages.len() as u64;
            assert_eq!(other.count_pages().await.unwrap().count, size, "{}", other.id());
            let restored = restore(other, None, None, RestoreOptions::default()).await.unwrap();
            assert_is(&restored, timeline.state(timeline.last()), timeline.last());
        }
    }
}

#[tokio::test]
async fn no_step_of_a_removal_leaves_an_older_database() {
    let timeline = timeline();
    for (marker, first, others) in [(3, 1, &[][..]), (4, 5, &[(9, 1, 2), (1, 1, 4)]), (4, 2, &[(9, 1, 3), (1, 3, 4)])] {
        let store = Recorder::default();
        let history = store.history("a.db");
        put_laid(&history, &timeline, marker, 7).await;
        make(&history, logging(history.id(), &timeline, first, marker)).await;
        for &(level, min, max) in others {
            put_object(&history, &timeline, level, min, max).await;
        }
        put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
        store.states("a.db");
        let removal = history.removal().await.unwrap();
        history.remove(&removal, &removing(0xab)).await.unwrap();
        let states = store.states("a.db");
        // And the claim comes, and goes last.
        let (count, pages) = (removal.count(), removal.pages.count);
        assert_eq!(states.len(), count + 2);
        for (step, left) in states.iter().enumerate() {
            let listing = left.list(None).await.unwrap();
            let pages_left = left.count_pages().await.unwrap().count;
            assert!(pages_left == pages || listing.is_empty(), "the pages come last");
            assert_eq!(listing.settings().is_none(), step >= count, "the fence window holds to the end");
            assert_eq!(listing.claims().is_empty(), step == count + 1, "nobody folds");
            if let Ok(found) = restore_around(left, listing, None, None, RestoreOptions::default()).await {
                assert_eq!(found.0.position.txid.get(), 7, "step {step}");
            }
            // What a removal that was cut off leaves is found by the next, whose machine goes on.
            let removal = left.removal().await.unwrap();
            assert_eq!(removal.count(), count + 1 - step);
            if !removal.is_empty() {
                let other = left.remove(&removal, &removing(0xcd)).await.unwrap_err();
                assert!(matches!(other, Unremoved::Whole(HistoryError::Claimed { .. })), "{other}");
                assert_eq!(left.removal().await.unwrap(), removal);
                left.remove(&removal, &removing(0xab)).await.unwrap();
                assert_eq!(keys(left).await, [""; 0]);
            }
        }
        assert_eq!(keys(&history).await, [""; 0]);
    }
}
