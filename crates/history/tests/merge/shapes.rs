//! What a merged object holds.

use bottomless_history::MergeOptions;
use bottomless_ltx::{Checksum, DatabaseChecksums, PageSize};
use proptest::prelude::*;

use crate::support::*;
use crate::world::*;

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let write = (prop::collection::vec(0..40_usize, 0..5), 0..5_usize, any::<u8>())
        .prop_map(|(places, append, seed)| Change::Write { places, append, seed });
    let shrink = (any::<usize>(), any::<u8>()).prop_map(|(to, seed)| Change::Shrink { to, seed });
    let page_size = prop_oneof![Just(512_u32), Just(1024)];
    let rewrite = (page_size, 0..8_usize, any::<u8>()).prop_map(|(page_size, pages, seed)| Change::Rewrite {
        page_size,
        pages,
        seed,
    });
    prop_oneof![6 => write, 2 => shrink, 1 => rewrite]
}

fn small_or_large() -> impl Strategy<Value = MergeOptions> {
    let whole = prop_oneof![Just(0_u64), Just(1500), Just(1 << 20)];
    let put = prop_oneof![Just(1000_u64), Just(5 << 30)];
    (1..5_usize, whole, 1..4000_u64, put).prop_map(|(requests, whole_length, run_length, put_length)| MergeOptions {
        requests,
        whole_length,
        run_length,
        put_length,
        part_length: 700,
        ..options()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// In one step or in several, from whatever objects: a merged object is what our encoder makes of the pages of its
    /// transactions.
    #[test]
    fn what_is_merged_does_not_depend_on_the_way(
        changes in prop::collection::vec(change(), 2..14),
        cuts in prop::collection::vec(1..14_u64, 0..8),
        upper in prop::collection::vec(any::<bool>(), 14),
        earlier in prop::option::of(1..14_u64),
        options in small_or_large(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let timeline = Timeline::new(512, &changes);
            let last = timeline.last();
            let history = history("test.db");
            put_stamped_log(&history, &timeline).await;

            // Level 1 in pieces, level 2 over some of them, level 3 over all, and snapshots beside.
            let mut ends: Vec<u64> = cuts.into_iter().filter(|&cut| cut < last).chain([last]).collect();
            ends.sort_unstable();
            ends.dedup();
            let mut runs = Vec::new();
            let mut from = 1;
            for end in ends {
                runs.push((1, from, end));
                from = end + 1;
            }
            let mut second: Vec<(u8, u64, u64)> = Vec::new();
            for (&(_, min, max), joined) in runs.iter().zip(upper) {
                match second.last_mut() {
                    Some(run) if joined => run.2 = max,
                    _ => second.push((2, min, max)),
                }
            }
            let mut names = runs;
            names.extend(second);
            names.extend(earlier.filter(|&at| at < last).map(|at| (9, 1, at)));
            names.extend([(3, 1, last), (9, 1, last)]);
            for (level, min, max) in names {
                let merging = name(level, min, max);
                // An earlier snapshot ends where some run ends, or can't be made.
                let listing = history.list(None).await.unwrap();
                if listing.inputs(merging).is_err() {
                    assert_eq!((level, max == last), (9, false));
                    continue;
                }
                let merged = history.merge(&listing, merging, &options).await.unwrap();
                let expected = object(&timeline, min, max);
                assert!(get(&history, merging).await == expected, "{merging}");
                assert!(merged.created);
                assert_eq!(merged.entry.size, expected.len() as u64);
                let listing = history.list(None).await.unwrap();
                let listed = listing.entries().iter().find(|entry| entry.name == merging);
                assert_eq!(listed, Some(&merged.entry));
            }
            // In one step.
            let direct = crate::support::history("test.db");
            put_stamped_log(&direct, &timeline).await;
            merge(&direct, name(1, 1, last), &options).await.unwrap();
            assert!(get(&direct, name(1, 1, last)).await == get(&history, name(3, 1, last)).await);
        });
    }
}

/// A transaction that leaves no page, and one behind it.
#[tokio::test]
async fn a_database_that_was_emptied() {
    let timeline = writes(3, 5);
    let (size, empty) = (timeline.state(1).page_size, Database::empty(512));
    let sums = |before: &Database, after: &Database| {
        Some(DatabaseChecksums { before: before.checksum(), after: after.checksum() })
    };
    let history = history("test.db");
    put_stamped_log(&history, &timeline).await;
    let emptied = encode(size, 0, (4, 4), sums(timeline.state(3), &empty), [].into());
    put(&history, &name(0, 4, 4).key(history.id()), emptied).await;
    merge(&history, name(1, 2, 4), &options()).await.unwrap();
    let expected = encode(size, 0, (2, 4), sums(timeline.state(1), &empty), [].into());
    assert!(get(&history, name(1, 2, 4)).await == expected);

    let again = Database { page_size: size, pages: vec![vec![5; 512]] };
    let pages = || [(0, &again.pages[0][..])].into();
    put(&history, &name(0, 5, 5).key(history.id()), encode(size, 1, (5, 5), sums(&empty, &again), pages())).await;
    put(&history, &name(1, 1, 1).key(history.id()), object(&timeline, 1, 1)).await;
    merge(&history, name(2, 2, 5), &options()).await.unwrap();
    let expected = encode(size, 1, (2, 5), sums(timeline.state(1), &again), pages());
    assert!(get(&history, name(2, 2, 5)).await == expected);
    merge(&history, name(9, 1, 5), &options()).await.unwrap();
    let expected = encode(size, 1, (1, 5), sums(&empty, &again), pages());
    assert!(get(&history, name(9, 1, 5)).await == expected);
}

/// Objects of others name no checksums: a run that ends with one has none, a snapshot knows its own.
#[tokio::test]
async fn objects_of_others() {
    let timeline = writes(4, 5);
    let history = history("test.db");
    for txid in 1..=4 {
        let bytes = if txid == 4 { timeline.object(txid, txid) } else { timeline.object_with(txid, txid, None) };
        put(&history, &name(0, txid, txid).key(history.id()), bytes).await;
    }
    merge(&history, name(1, 1, 3), &options()).await.unwrap();
    let checksums =
        |max: u64| Some(DatabaseChecksums { before: Checksum::EMPTY, after: timeline.state(max).checksum() });
    assert!(get(&history, name(1, 1, 3)).await == timeline.object_with(1, 3, checksums(3)));
    merge(&history, name(1, 4, 4), &options()).await.unwrap();
    assert!(get(&history, name(1, 4, 4)).await == timeline.object(4, 4));
    merge(&history, name(9, 1, 4), &options()).await.unwrap();
    assert!(get(&history, name(9, 1, 4)).await == timeline.object_with(1, 4, checksums(4)));

    let direct = crate::support::history("test.db");
    for txid in 2..=3 {
        let bytes = timeline.object_with(txid, txid, None);
        put(&direct, &name(0, txid, txid).key(direct.id()), bytes).await;
    }
    put_object(&direct, &timeline, 0, 4, 4).await;
    merge(&direct, name(1, 2, 4), &options()).await.unwrap();
    assert!(get(&direct, name(1, 2, 4)).await == timeline.object_with(2, 4, None));
}

/// Pages behind a hole in the file, which the table of frames must not be as large as.
#[tokio::test]
async fn the_lock_page_is_none_that_is_missing() {
    let page_size = PageSize::MAX;
    let lock_page = page_size.lock_page();
    let content = vec![0x77; page_size.bytes()];
    let size = lock_page.get() as usize + 1;
    let sums = |before, after| {
        let [before, after] = [before, after].map(Checksum::from_crc);
        Some(DatabaseChecksums { before, after })
    };
    let history = history("test.db");
    let small = encode(page_size, lock_page.get() as usize - 1, (2, 2), sums(1, 2), [(0, &content[..])].into());
    let grown = encode(page_size, size, (3, 3), sums(2, 3), [(size - 1, &content[..])].into());
    put(&history, &name(0, 2, 2).key(history.id()), small).await;
    put(&history, &name(0, 3, 3).key(history.id()), grown).await;
    merge(&history, name(1, 2, 3), &options()).await.unwrap();
    let pages = [(0, &content[..]), (size - 1, &content[..])].into();
    assert!(get(&history, name(1, 2, 3)).await == encode(page_size, size, (2, 3), sums(1, 3), pages));
}
