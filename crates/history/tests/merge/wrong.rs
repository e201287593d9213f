//! Of what is wrong, nothing is made; and the message names the object.

use bottomless_history::{Damage, History, HistoryError, MergeOptions, PlanError};
use bottomless_ltx::{Checksum, DatabaseChecksums, DecodeError, Txid, decode_file};
use proptest::prelude::*;

use crate::support::*;
use crate::world::*;

fn timeline() -> Timeline {
    writes(6, 12)
}

async fn filled() -> (History, Timeline) {
    let (history, timeline) = (history("test.db"), timeline());
    put_stamped_log(&history, &timeline).await;
    (history, timeline)
}

fn key(history: &History, txid: u64) -> String {
    name(0, txid, txid).key(history.id())
}

/// Objects read whole, and by runs.
fn both() -> [MergeOptions; 2] {
    [options(), MergeOptions { whole_length: 0, run_length: 600, ..options() }]
}

/// The damage that the merges of 2 to 6 and 1 to 6 find, which create nothing.
async fn damages(history: &History) -> Vec<(String, Damage)> {
    let mut found = Vec::new();
    for options in both() {
        for merging in [name(1, 2, 6), name(9, 1, 6)] {
            let error = merge(history, merging, &options).await.unwrap_err();
            assert!(!exists(history, merging).await);
            assert!(!error.is_outdated(), "{error}");
            match error {
                HistoryError::Damaged { key, damage } => found.push((key, *damage)),
                other => panic!("{other}"),
            }
        }
    }
    found
}

/// The same, when it is always in the object of this TXID.
async fn damage_of(history: &History, txid: u64) -> Damage {
    let found = damages(history).await;
    assert!(found.iter().all(|(found, _)| *found == key(history, txid)), "{found:?}");
    found.into_iter().next().unwrap().1
}

#[tokio::test]
async fn a_missing_object() {
    let (history, _) = filled().await;
    delete(&history, name(0, 4, 4)).await;
    let error = merge(&history, name(1, 2, 6), &options()).await.unwrap_err();
    assert!(matches!(error, HistoryError::Plan(PlanError::Gap { first, .. }) if first == Txid::new(4)), "{error}");
}

#[tokio::test]
async fn an_object_that_vanishes_or_is_replaced_after_the_listing() {
    for options in both() {
        let (history, timeline) = filled().await;
        let listing = history.list(None).await.unwrap();
        // The same bytes, but another object.
        put_stamped(&history, &timeline, 0, 4, 4).await;
        let error = history.merge(&listing, name(1, 2, 6), &options).await.unwrap_err();
        assert!(error.is_outdated(), "{error}");
        let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
        assert_eq!(*found, key(&history, 4));
        assert!(matches!(**damage, Damage::Replaced { .. }), "{error}");

        put(&history, &key(&history, 4), object(&timeline, 3, 4)).await;
        let error = history.merge(&listing, name(1, 2, 6), &options).await.unwrap_err();
        assert!(error.is_outdated() && error.to_string().contains("was listed with"), "{error}");

        delete(&history, name(0, 4, 4)).await;
        let error = history.merge(&listing, name(1, 2, 6), &options).await.unwrap_err();
        assert!(error.is_outdated() && error.is_vanished(), "{error}");
        assert!(!exists(&history, name(1, 2, 6)).await);
    }
}

/// Between its header and its frames.
#[tokio::test]
async fn a_large_object_that_is_replaced_while_it_is_read() {
    let (store, history) = crate::store::OddStore::history();
    let timeline = writes(2, 40);
    put_stamped_log(&history, &timeline).await;
    let options = MergeOptions { whole_length: 0, run_length: 600, requests: 1, ..options() };
    let listing = history.list(None).await.unwrap();
    let replacing = async {
        // The object of TXID 2 takes three requests; then comes the header of that of TXID 1.
        while history.bucket().counters().get < 6 {
            tokio::task::yield_now().await;
        }
        put_stamped(&history, &timeline, 0, 1, 1).await;
    };
    let (merged, ()) = futures::join!(history.merge(&listing, name(9, 1, 2), &options), replacing);
    let error = merged.unwrap_err();
    assert!(error.is_outdated() && error.to_string().contains(&key(&history, 1)), "{error}");
    drop(store);
}

#[tokio::test]
async fn another_transaction_under_the_name() {
    let (history, timeline) = filled().await;
    put(&history, &key(&history, 3), object(&timeline, 2, 2)).await;
    assert_eq!(damage_of(&history, 3).await, Damage::Name { min: Txid::new(2), max: Txid::new(2) });
}

#[tokio::test]
async fn another_historys_object_in_the_chain() {
    let (history, timeline) = filled().await;
    let mut others = timeline.clone();
    for page in others.states.iter_mut().filter_map(|state| state.pages.first_mut()) {
        page[0] ^= 0xff;
    }
    for txid in 2..=6 {
        put_stamped(&history, &others, 0, txid, txid).await;
        // The one that follows does not continue it; or it, the newest, does not continue the one before.
        let found = damage_of(&history, if txid == 6 { 6 } else { txid + 1 }).await;
        assert!(matches!(found, Damage::Chain { .. }), "TXID {txid}: {found}");
        put_stamped(&history, &timeline, 0, txid, txid).await;
    }
}

/// Its checksums are those of the history, its pages are not: the database that a snapshot holds tells.
#[tokio::test]
async fn pages_that_are_not_those_of_the_checksum() {
    let (history, timeline) = filled().await;
    let mut others = timeline.clone();
    others.states[4].pages[0][0] ^= 0xff;
    // The last version of page 1 is of a later transaction; that of the page it adds is not.
    others.states[4].pages.last_mut().unwrap()[0] ^= 0xff;
    let checksums = DatabaseChecksums { before: timeline.state(3).checksum(), after: timeline.state(4).checksum() };
    put(&history, &key(&history, 4), stamped(others.object_with(4, 4, Some(checksums)))).await;
    for options in both() {
        let error = merge(&history, name(9, 1, 6), &options).await.unwrap_err();
        let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
        assert_eq!(*found, key(&history, 6));
        assert!(matches!(**damage, Damage::Database { need, .. } if need == timeline.state(6).checksum()), "{error}");
        assert!(!exists(&history, name(9, 1, 6)).await);
    }
}

/// An older version must not take the place of a page that a growing database left out.
#[tokio::test]
async fn a_page_that_was_cut_off_does_not_come_back() {
    let changes = [
        Change::Write { places: vec![], append: 0, seed: 0 },
        Change::Write { places: vec![], append: 9, seed: 1 },
        Change::Shrink { to: 3, seed: 2 },
        Change::Write { places: vec![], append: 6, seed: 3 },
    ];
    let timeline = Timeline::new(512, &changes);
    let history = history("test.db");
    put_stamped_log(&history, &timeline).await;
    let state = timeline.state(4);
    let grown = (0..state.pages.len()).filter(|place| *place != 6).map(|place| (place, &state.pages[place][..]));
    let checksums = DatabaseChecksums { before: timeline.state(3).checksum(), after: state.checksum() };
    put(&history, &key(&history, 4), encode(state.page_size, 10, (4, 4), Some(checksums), grown.collect())).await;
    for options in both() {
        for merging in [name(1, 2, 4), name(1, 3, 4), name(9, 1, 4)] {
            let error = merge(&history, merging, &options).await.unwrap_err();
            let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
            assert_eq!(*found, key(&history, 4));
            assert_eq!(**damage, Damage::MissingPage { page: 7, size_in_pages: 10 });
        }
    }
}

/// A writer that changes the page size without writing every page.
#[tokio::test]
async fn a_page_size_that_changes_halfway() {
    let (history, timeline) = filled().await;
    let page = vec![0; 1024];
    let checksums = DatabaseChecksums { before: timeline.state(3).checksum(), after: timeline.state(4).checksum() };
    let object = encode(1024.try_into().unwrap(), 2, (4, 4), Some(checksums), [(0, &page[..])].into());
    put(&history, &key(&history, 4), object).await;
    for txid in 5..=6 {
        delete(&history, name(0, txid, txid)).await;
    }
    for options in both() {
        let error = merge(&history, name(1, 2, 4), &options).await.unwrap_err();
        let HistoryError::Damaged { key: found, damage } = &error else { panic!("{error}") };
        assert_eq!(*found, key(&history, 3));
        assert!(matches!(**damage, Damage::PageSize { .. }), "{error}");
    }
}

/// A size that no object could fill.
#[tokio::test]
async fn a_header_with_an_impossible_size() {
    let (history, timeline) = filled().await;
    let object = changed(timeline.object(6, 6), |header| header.size_in_pages = 0xffff_ffff);
    put(&history, &key(&history, 6), object).await;
    let found = damage_of(&history, 6).await;
    assert!(matches!(found, Damage::MissingPage { size_in_pages: 0xffff_ffff, .. }), "{found}");
}

#[tokio::test]
async fn a_truncated_object_and_the_older_page_format() {
    let (history, timeline) = filled().await;
    let whole = object(&timeline, 4, 4);
    for length in [0, 50, 100, 150, whole.len() - 1] {
        put(&history, &key(&history, 4), whole[..length].to_vec()).await;
        let found = damage_of(&history, 4).await;
        assert!(matches!(found, Damage::Decode(_)), "{length}: {found}");
    }
    let mut old = whole;
    old[105] = 0;
    put(&history, &key(&history, 4), old).await;
    let found = damage_of(&history, 4).await;
    assert!(matches!(found, Damage::Decode(DecodeError::OldPageFormat { page: 1, .. })), "{found}");
}

/// The pages in an object, whatever their packing.
fn pages(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut pages = Vec::new();
    decode_file(bytes, &mut Vec::new(), |_, page, content| {
        pages.push((page.get(), content.to_vec()));
        Ok::<_, DecodeError>(())
    })
    .unwrap();
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// It is found, and nothing is created; or the byte says the same in another way, as LZ4 allows.
    #[test]
    fn a_flipped_byte(txid in 1..=6_u64, at: prop::sample::Index, flip in 1..=255_u8, large: bool, snapshot: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (history, timeline) = filled().await;
            let mut damaged = object(&timeline, txid, txid);
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            put(&history, &key(&history, txid), damaged).await;
            let [small, runs] = both();
            let merging = if snapshot { name(9, 1, 6) } else { name(1, 1, 6) };
            match merge(&history, merging, if large { &runs } else { &small }).await {
                Ok(_) => prop_assert!(pages(&get(&history, merging).await) == pages(&object(&timeline, 1, 6))),
                Err(HistoryError::Damaged { key: found, .. }) => {
                    prop_assert_eq!(found, key(&history, txid));
                    prop_assert!(!exists(&history, merging).await);
                }
                Err(other) => panic!("{other}"),
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn reading_back_finds_what_is_wrong() {
    let (history, timeline) = filled().await;
    for options in both() {
        let snapshot = object(&timeline, 1, 6);
        let key = name(9, 1, 6).key(history.id());
        let check = async |bytes: Vec<u8>| {
            put(&history, &key, bytes).await;
            let listing = history.list(None).await.unwrap();
            let entry = listing.entries().iter().find(|entry| entry.name == name(9, 1, 6)).unwrap().clone();
            (history.read_back(&entry, &options).await, entry)
        };
        assert!(check(snapshot.clone()).await.0.is_ok());
        for at in [40, 120, snapshot.len() / 2, snapshot.len() - 3] {
            let mut damaged = snapshot.clone();
            damaged[at] ^= 4;
            let (result, _) = check(damaged).await;
            assert!(matches!(result, Err(HistoryError::Damaged { .. })), "byte {at}: {result:?}");
        }
        // All is whole, but it is another database than it says.
        let checksums = DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::from_crc(1) };
        let (result, _) = check(timeline.object_with(1, 6, Some(checksums))).await;
        let Err(HistoryError::Damaged { damage, .. }) = &result else { panic!("{result:?}") };
        assert!(matches!(**damage, Damage::Pages { .. }), "{result:?}");
        let (result, entry) = check(timeline.object_with(1, 6, None)).await;
        assert!(result.is_ok(), "{result:?}");
        put(&history, &key, snapshot.clone()).await;
        assert!(history.read_back(&entry, &options).await.unwrap_err().is_outdated());
        delete(&history, name(9, 1, 6)).await;
        assert!(history.read_back(&entry, &options).await.unwrap_err().is_vanished());
    }
}
