//! Databases whose names begin or end alike.

use bottomless_history::{DatabaseId, History, PageKey, RestoreOptions};
use bottomless_ltx::PageNumber;

use super::restore::timeline;
use crate::support::laid::put_laid;
use crate::support::{Timeline, assert_is, history, put, restore};

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
