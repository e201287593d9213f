//! What a merged object holds.

use bottomless_history::MergeOptions;
use proptest::prelude::*;

use crate::support::*;
use crate::world::*;

fn change() -> impl Strategy<Value = Change> {
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
