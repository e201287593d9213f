//! What is wrong in a bucket is found, and the message names the object.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use bottomless_history::{Damage, History, HistoryError, PlanError, RestoreOptions};
use bottomless_ltx::{Checksum, DatabaseChecksums, DecodeError, Txid};
use proptest::prelude::*;
use support::*;

fn timeline() -> Timeline {
    let changes: Vec<Change> =
        (0..6).map(|seed| Change::Write { places: vec![usize::from(seed)], append: 2, seed }).collect();
    Timeline::new(512, &changes)
}

async fn filled() -> (History, Timeline) {
    let (history, timeline) = (history("test.db"), timeline());
    put_log(&history, &timeline).await;
    (history, timeline)
}

fn key(history: &History, txid: u64) -> String {
    name(0, txid, txid).key(history.id())
}

/// The damage that a restore finds, in the object of this TXID.
async fn damage(history: &History, txid: u64, options: RestoreOptions) -> Damage {
    let error = restore(history, None, None, options).await.unwrap_err();
    let message = error.to_string();
    match error {
        HistoryError::Damaged { key: found, damage } => {
            assert_eq!(found, key(history, txid), "{message}");
            assert!(message.starts_with(&format!("{found}: ")), "{message}");
            *damage
        }
        other => panic!("{other}"),
    }
}

fn both() -> [RestoreOptions; 2] {
    let default = RestoreOptions::default();
    [default.clone(), RestoreOptions { whole_length: 0, run_length: 600, ..default }]
}

#[tokio::test]
async fn a_missing_object() {
    let (history, _) = filled().await;
    history.bucket().delete(&key(&history, 3)).await.unwrap();
    let error = restore(&history, None, None, RestoreOptions::default()).await.unwrap_err();
    let HistoryError::Plan(PlanError::Gap { first, last, .. }) = &error else { panic!("{error}") };
    assert_eq!((*first, *last), (Txid::new(3), Txid::new(3)));
}

#[tokio::test]
async fn an_object_that_vanishes_after_the_listing() {
    let (history, _) = filled().await;
    let plan = history.list(None).await.unwrap().plan(Txid::ZERO, None).unwrap();
    history.bucket().delete(&key(&history, 3)).await.unwrap();
    for options in both() {
        let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
        let error = history.restore(&plan, file, &options).await.unwrap_err();
        assert!(error.is_vanished(), "{error}");
        assert!(error.to_string().contains(&key(&history, 3)), "{error}");
    }
}

#[tokio::test]
async fn an_object_that_changes_its_size_after_the_listing() {
    let (history, timeline) = filled().await;
    let plan = history.list(None).await.unwrap().plan(Txid::ZERO, None).unwrap();
    put(&history, &key(&history, 3), timeline.object(2, 3)).await;
    for options in both() {
        let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
        let error = history.restore(&plan, file, &options).await.unwrap_err();
        assert!(matches!(error, HistoryError::Damaged { damage, .. } if matches!(*damage, Damage::Size { .. })));
    }
}

#[tokio::test]
async fn another_transaction_under_the_name() {
    let (history, timeline) = filled().await;
    put(&history, &key(&history, 3), timeline.object(2, 2)).await;
    for options in both() {
        assert_eq!(damage(&history, 3, options).await, Damage::Name { min: Txid::new(2), max: Txid::new(2) });
    }
}

#[tokio::test]
async fn another_databases_object_under_the_name() {
    let (history, timeline) = filled().await;
    let mut others = timeline.clone();
    for state in &mut others.states {
        for page in &mut state.pages {
            page[0] ^= 0xff;
        }
    }
    for txid in 1..=6 {
        put(&history, &key(&history, txid), others.object(txid, txid)).await;
        for options in both() {
            // The one that follows does not continue it; or it, the newest, does not continue the one before.
            let named = if txid == 6 { 6 } else { txid + 1 };
            let found = damage(&history, named, options).await;
            assert!(matches!(found, Damage::Chain { .. }), "TXID {txid}: {found}");
        }
        put(&history, &key(&history, txid), timeline.object(txid, txid)).await;
    }
}

#[tokio::test]
async fn a_base_of_another_history() {
    let (history, timeline) = filled().await;
    let mut other = timeline.state(4).clone();
    other.pages[1][9] ^= 1;
    let error = restore(&history, None, Some((4, &other)), RestoreOptions::default()).await.unwrap_err();
    let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
    assert_eq!(*found, key(&history, 5));
    assert!(matches!(**damage, Damage::Chain { .. }), "{error}");
    assert!(error.to_string().contains("the local database at TXID 0000000000000004"), "{error}");
}

/// A wrong checksum where no neighbour contradicts it.
#[tokio::test]
async fn a_database_that_is_not_the_one_that_was_there() {
    let timeline = timeline();
    let history = history("test.db");
    let state = timeline.state(6);
    let checksums = DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::from_crc(1) };
    let pages = state.pages.iter().map(Vec::as_slice).enumerate().collect();
    let object = encode(state.page_size, state.pages.len(), (1, 6), Some(checksums), pages);
    put(&history, &name(9, 1, 6).key(history.id()), object).await;
    let error = restore(&history, None, None, RestoreOptions::default()).await.unwrap_err();
    let HistoryError::Damaged { key, damage } = &error else { panic!("{error}") };
    assert_eq!(*key, name(9, 1, 6).key(history.id()));
    assert_eq!(**damage, Damage::Database { have: state.checksum(), need: Checksum::from_crc(1) });
}

/// A writer that forgets a page that it added, in a history without checksums.
#[tokio::test]
async fn a_page_that_no_object_holds() {
    let timeline = timeline();
    let history = history("test.db");
    put(&history, &name(9, 1, 2).key(history.id()), timeline.foreign_object(2)).await;
    let state = timeline.state(3);
    let pages = [(0, state.pages[0].as_slice())].into();
    put(&history, &key(&history, 3), encode(state.page_size, state.pages.len(), (3, 3), None, pages)).await;
    let missing = timeline.state(2).pages.len() as u32 + 1;
    for options in both() {
        let found = damage(&history, 3, options).await;
        assert_eq!(found, Damage::MissingPage { page: missing, size_in_pages: missing + 1 });
    }
}

/// Pages that were cut off once and are not written again when the database grows: their old versions must not
/// come back, neither from an older object nor from the local file.
#[tokio::test]
async fn a_page_that_was_cut_off_does_not_come_back() {
    let changes = [
        Change::Write { places: vec![], append: 9, seed: 1 },
        Change::Shrink { to: 3, seed: 2 },
        Change::Write { places: vec![], append: 6, seed: 3 },
    ];
    let timeline = Timeline::new(512, &changes);
    let history = history("test.db");
    put(&history, &name(9, 1, 1).key(history.id()), timeline.foreign_object(1)).await;
    put_object(&history, &timeline, 0, 2, 2).await;
    let state = timeline.state(3);
    let grown = (0..state.pages.len()).filter(|place| *place != 6).map(|place| (place, &state.pages[place][..]));
    put(&history, &key(&history, 3), encode(state.page_size, 10, (3, 3), None, grown.collect())).await;
    for base in [None, Some((1, timeline.state(1)))] {
        let error = restore(&history, None, base, RestoreOptions::default()).await.unwrap_err();
        let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
        assert_eq!(*found, key(&history, 3));
        assert_eq!(**damage, Damage::MissingPage { page: 7, size_in_pages: 10 }, "{base:?}");
    }
}

/// The pages are held against the header before anything is made of them.
#[tokio::test]
async fn a_header_that_does_not_fit_the_pages() {
    let (history, timeline) = filled().await;
    let mut object = timeline.object(6, 6);
    object[15] -= 1;
    put(&history, &key(&history, 6), object).await;
    for options in both() {
        let found = damage(&history, 6, options).await;
        assert!(matches!(found, Damage::Decode(DecodeError::Index { .. })), "{found}");
    }
}

/// A writer that changes the page size without writing every page.
#[tokio::test]
async fn a_page_size_that_changes_halfway() {
    let timeline = timeline();
    let history = history("test.db");
    put_object(&history, &timeline, 0, 1, 1).await;
    let page = vec![0; 1024];
    let page_size = 1024.try_into().unwrap();
    put(&history, &key(&history, 2), encode(page_size, 2, (2, 2), None, [(0, &page[..])].into())).await;
    for options in both() {
        let found = damage(&history, 1, options).await;
        assert!(matches!(found, Damage::PageSize { .. }), "{found}");
    }
    // Nor do the pages of a local file fill in.
    let error = restore(&history, None, Some((1, timeline.state(1))), RestoreOptions::default()).await.unwrap_err();
    let HistoryError::Damaged { damage, .. } = &error else { panic!("{error}") };
    assert_eq!(**damage, Damage::MissingPage { page: 2, size_in_pages: 2 });
}

#[tokio::test]
async fn a_truncated_object() {
    let (history, timeline) = filled().await;
    let whole = timeline.object(4, 4);
    for length in 0..whole.len() {
        put(&history, &key(&history, 4), whole[..length].to_vec()).await;
        for options in both() {
            let found = damage(&history, 4, options).await;
            assert!(matches!(found, Damage::Decode(_)), "{length}: {found}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// It is found; or the byte says the same in another way, as LZ4 allows, and the restored database is right.
    #[test]
    fn a_flipped_byte(txid in 1..=6_u64, at: prop::sample::Index, flip in 1..=255_u8, large: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (history, timeline) = filled().await;
            let mut object = timeline.object(txid, txid);
            let at = at.index(object.len());
            object[at] ^= flip;
            put(&history, &key(&history, txid), object).await;
            let [small, runs] = both();
            match restore(&history, None, None, if large { runs } else { small }).await {
                Ok(restored) => assert_is(&restored, timeline.state(6), 6),
                Err(HistoryError::Damaged { key: found, damage }) => {
                    // The checksum before is held against the neighbour before the file checksum is known.
                    let neighbour = matches!(*damage, Damage::Chain { .. }) && found == key(&history, txid + 1);
                    prop_assert!(found == key(&history, txid) || neighbour, "{}: {}", found, damage);
                }
                Err(other) => panic!("{other}"),
            }
            Ok(())
        })?;
    }
}

/// A size that no object could fill must not be believed: what is kept for each page would fill the memory.
#[tokio::test]
async fn a_header_with_an_impossible_size() {
    let (history, timeline) = filled().await;
    let mut object = timeline.object(6, 6);
    object[12] = 0xff;
    put(&history, &key(&history, 6), object).await;
    for options in both() {
        let found = damage(&history, 6, options).await;
        assert!(matches!(found, Damage::TooLarge { size_in_pages: 0xff00_0000.., .. }), "{found}");
    }
}

#[tokio::test]
async fn the_older_page_format() {
    let (history, timeline) = filled().await;
    let mut object = timeline.object(5, 5);
    object[105] = 0;
    put(&history, &key(&history, 5), object).await;
    let found = damage(&history, 5, RestoreOptions::default()).await;
    assert!(matches!(found, Damage::Decode(DecodeError::OldPageFormat { page: 1, .. })), "{found}");
}
