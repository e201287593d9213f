//! Two points of a history compared, against the states themselves.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::sync::{Arc, Mutex};

use bottomless_history::{Diff, History, HistoryError, PlanError, RestoreOptions};
use bottomless_ltx::Txid;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::*;

fn expected(timeline: &Timeline, from: u64, to: u64) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let (a, b) = (timeline.state(from), timeline.state(to));
    let (a_size, b_size) = (a.pages.len() as u32, b.pages.len() as u32);
    let is_same = |page: &u32| a.page_size == b.page_size && a.pages[*page as usize - 1] == b.pages[*page as usize - 1];
    let changed = (1..=a_size.min(b_size)).filter(|page| !is_same(page)).collect();
    (changed, (a_size + 1..=b_size).collect(), (b_size + 1..=a_size).collect())
}

fn found(diff: &Diff) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    (diff.changed.iter().map(|page| page.get()).collect(), diff.added().collect(), diff.removed().collect())
}

async fn diff(history: &History, from: u64, to: u64, options: &RestoreOptions) -> Result<Diff, HistoryError> {
    history.diff(Txid::new(from), Txid::new(to), options).await
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        // The same seed writes the same content.
        6 => (prop::collection::vec(0..30_usize, 0..5), 0..4_usize, 0..3_u8)
            .prop_map(|(places, append, seed)| Change::Write { places, append, seed }),
        2 => (0..20_usize, 0..3_u8).prop_map(|(to, seed)| Change::Shrink { to, seed }),
        1 => (prop_oneof![Just(512_u32), Just(1024)], 0..8_usize, 0..3_u8)
            .prop_map(|(page_size, pages, seed)| Change::Rewrite { page_size, pages, seed }),
    ]
}

fn config() -> ProptestConfig {
    let seed = std::env::var("BOTTOMLESS_SEED").ok().and_then(|seed| seed.parse().ok());
    ProptestConfig { cases: 64, rng_seed: seed.map_or(RngSeed::Random, RngSeed::Fixed), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Any two points that can be restored, with the log, with merged objects and snapshots in place of some of it.
    #[test]
    fn what_differs_is_what_the_states_say(
        changes in prop::collection::vec(change(), 1..10),
        merged in prop::collection::vec((1..10_u64, 1..6_u64), 0..4),
        gone in 0..8_u64,
        in_pieces in any::<bool>(),
    ) {
        run(async |_| {
            let timeline = Timeline::new(512, &changes);
            let last = timeline.last();
            let history = history("test.db");
            put_log(&history, &timeline).await;
            for (min, more) in merged {
                if min + more <= last {
                    put_object(&history, &timeline, if min == 1 { 9 } else { 1 }, min, min + more).await;
                }
            }
            for txid in 1..=gone.min(last) {
                if history.list(None).await.unwrap().entries().iter().any(|entry| entry.merges(Txid::new(txid))) {
                    history.bucket().delete(&name(0, txid, txid).key(history.id())).await.unwrap();
                }
            }
            let options = match in_pieces {
                true => RestoreOptions { whole_length: 0, run_length: 700, requests: 2, ..RestoreOptions::default() },
                false => RestoreOptions::default(),
            };
            let restorable: Vec<u64> =
                history.list(None).await.unwrap().positions().into_iter().map(Txid::get).collect();
            for from in 0..=last {
                for to in 0..=last {
                    let can = [from, to].into_iter().all(|txid| txid == 0 || restorable.contains(&txid));
                    match diff(&history, from, to, &options).await {
                        Ok(diff) => {
                            assert!(can);
                            assert_eq!(found(&diff), expected(&timeline, from, to), "{from} to {to}");
                            assert_eq!((diff.from.txid, diff.to.txid), (Txid::new(from), Txid::new(to)));
                            assert_eq!(diff.to.size_in_pages as usize, timeline.state(to).pages.len());
                        }
                        Err(error) => assert!(!can, "{from} to {to}: {error}"),
                    }
                }
            }
        });
    }
}

#[test]
fn what_is_not_there_can_not_be_compared() {
    run(async |_| {
        let options = RestoreOptions::default();
        let empty = diff(&history("none.db"), 0, 0, &options).await.unwrap_err();
        assert!(matches!(empty, HistoryError::Plan(PlanError::Empty(_))), "{empty}");
        let timeline = Timeline::new(512, &[Change::Write { places: vec![], append: 3, seed: 1 }]);
        let history = history("test.db");
        put_log(&history, &timeline).await;
        let behind = diff(&history, 1, 2, &options).await.unwrap_err();
        assert!(matches!(behind, HistoryError::Plan(PlanError::BehindEnd { .. })), "{behind}");
    });
}

#[test]
fn only_what_may_differ_is_read() {
    run(async |_| {
        let write = |places: Vec<usize>, append, seed| Change::Write { places, append, seed };
        let timeline = Timeline::new(4096, &[write(vec![], 400, 1), write(vec![300], 0, 2), write(vec![10], 0, 3)]);
        let history = history("test.db");
        put_log(&history, &timeline).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let progress = {
            let told = Arc::clone(&told);
            Arc::new(move |done, total| told.lock().unwrap().push((done, total)))
        };
        // The first object is a large one.
        let options = RestoreOptions { whole_length: 64 * 1024, progress: Some(progress), ..RestoreOptions::default() };
        let size = history.list(None).await.unwrap().entries()[0].size;
        let read = |history: &History| history.bucket().counters().bytes_down;
        let before = read(&history);
        let diff = diff(&history, 1, 3, &options).await.unwrap();
        assert_eq!(found(&diff), expected(&timeline, 1, 3));
        assert_eq!(diff.changed.len(), 3);
        let read = read(&history) - before;
        assert!(size > 400_000 && read < size / 3, "{read} bytes for three pages of an object of {size}");
        let told = told.lock().unwrap();
        assert!(told.last().is_some_and(|(done, total)| done == total) && told.is_sorted());
    });
}

#[test]
fn a_damaged_object_on_the_way_is_named() {
    run(async |_| {
        let write = |seed| Change::Write { places: vec![1], append: 3, seed };
        let timeline = Timeline::new(512, &[write(1), write(2), write(3)]);
        let history = history("test.db");
        put_log(&history, &timeline).await;
        for txid in 1..=3 {
            let key = name(0, txid, txid).key(history.id());
            let whole = timeline.object(txid, txid);
            let mut bytes = whole.clone();
            bytes[140] ^= 1;
            put(&history, &key, bytes).await;
            let error = diff(&history, 1, 3, &RestoreOptions::default()).await.unwrap_err();
            assert!(error.to_string().contains(&key), "{error}");
            put(&history, &key, whole).await;
        }
    });
}
