//! Page objects and markers that are not what they should be.

use std::collections::BTreeMap;

use bottomless_history::{Damage, HistoryError, Level, RestoreOptions};
use bottomless_ltx::{Checksum, DatabaseChecksums};

use super::restore::timeline;
use crate::support::laid::{logging, make, marker, marker_name, page_key, put_laid};
use crate::support::{assert_is, encode, history, put, put_object, restore, restore_around, run};

#[test]
fn damaged_page_objects_are_named_or_gone_around() {
    run(|warnings| async move {
        let timeline = timeline();
        for (number, damage) in ["missing", "short", "long", "flipped", "exchanged"].into_iter().enumerate() {
            let history = history("a.db");
            put_laid(&history, &timeline, 2, 3).await;
            let key = page_key(history.id(), 3);
            let mut page = timeline.state(2).pages[2].clone();
            match damage {
                "missing" => history.bucket().delete(&key).await.unwrap(),
                "short" => put(&history, &key, page[1..].to_vec()).await,
                "long" => put(&history, &key, [page, vec![0]].concat()).await,
                "flipped" => {
                    page[100] ^= 8;
                    put(&history, &key, page).await;
                }
                _ => put(&history, &key, timeline.state(2).pages[4].clone()).await,
            }
            let listing = history.list(None).await.unwrap();
            let around = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
            for (error, is_direct) in [
                (around.unwrap_err(), false),
                (restore(&history, None, None, RestoreOptions::default()).await.unwrap_err(), true),
            ] {
                let text = error.to_string();
                assert!(text.contains(&marker_name(2).key(history.id())), "{damage}: {text}");
                assert!(text.contains("page objects of the database don't agree with it"), "{damage}: {text}");
                assert_eq!(text.contains(&key), number < 3, "{damage}: {text}");
                assert_eq!(matches!(error, HistoryError::Damaged { .. }), is_direct);
            }
            // An older snapshot and the log, or the log alone.
            for whole in ["snapshot", "log"] {
                match whole {
                    "snapshot" => {
                        put_object(&history, &timeline, 9, 1, 1).await;
                        put_object(&history, &timeline, 0, 2, 2).await;
                    }
                    _ => {
                        history.bucket().delete("a.db/0009/0000000000000001-0000000000000001.ltx").await.unwrap();
                        make(&history, logging(history.id(), &timeline, 1, 1)).await;
                    }
                }
                let listing = history.list(None).await.unwrap();
                warnings.take();
                let restored = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
                assert_is(&restored.unwrap(), timeline.state(3), 3);
                assert!(warnings.take().contains("don't agree with it"), "{damage} {whole}");
            }
        }
    });
}

#[tokio::test]
async fn damaged_markers_are_found() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 2, 3).await;
    let key = marker_name(2).key(history.id());
    let whole = marker(&timeline, 2);
    let state = timeline.state(2);
    let sums = DatabaseChecksums { before: Checksum::EMPTY, after: state.checksum() };
    let pages: BTreeMap<usize, &[u8]> = state.pages.iter().map(Vec::as_slice).enumerate().collect();
    let size = pages.len();
    let with_pages = encode(state.page_size, size, (1, 2), Some(sums), pages);
    let nameless = encode(state.page_size, 0, (1, 2), None, BTreeMap::new());
    let mut damaged: Vec<Vec<u8>> = vec![with_pages, nameless, Vec::new(), whole[..60].to_vec(), marker(&timeline, 3)];
    damaged.extend((0..whole.len()).step_by(5).map(|at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        flipped
    }));
    for bytes in damaged {
        put(&history, &key, bytes).await;
        let error = restore(&history, None, None, RestoreOptions::default()).await.unwrap_err();
        let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error:?}") };
        assert_eq!(*found, key);
        assert!(matches!(**damage, Damage::Decode(_) | Damage::Name { .. }), "{damage:?}");
    }
    put(&history, &key, whole).await;
    assert_is(&restore(&history, None, None, RestoreOptions::default()).await.unwrap(), timeline.state(3), 3);
    let listing = history.list(None).await.unwrap();
    assert_eq!(listing.marker().unwrap().name.level, Level::PAGES);
}

#[tokio::test]
async fn an_object_without_checksum_can_not_follow_page_objects() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 2, 2).await;
    put(&history, "a.db/0000/0000000000000003-0000000000000003.ltx", timeline.object_with(3, 3, None)).await;
    let error = restore(&history, None, None, RestoreOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("0000/0000000000000003") && error.contains("names no database checksum"), "{error}");
}
