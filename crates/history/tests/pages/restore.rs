//! Restoring, also while a fold goes on.

use std::sync::{Arc, Mutex};

use bottomless_history::{Goal, HistoryError, Layout, PlanError, RestoreOptions};
use bottomless_ltx::{PageSize, Txid};
use proptest::prelude::*;

use crate::support::between::{Between, Step};
use crate::support::laid::{folding, logging, make, marker_name, marking, put_laid};
use crate::support::{Change, Timeline, assert_is, history, restore, restore_around, run};

/// Grows, shrinks, and has another page size in between.
pub(crate) fn timeline() -> Timeline {
    let write = |seed: u8, append| Change::Write { places: vec![usize::from(seed), 3], append, seed };
    Timeline::new(
        512,
        &[
            write(1, 6),
            write(2, 4),
            Change::Shrink { to: 5, seed: 3 },
            write(4, 3),
            Change::Rewrite { page_size: 1024, pages: 4, seed: 5 },
            write(6, 2),
            write(7, 0),
        ],
    )
}

#[tokio::test]
async fn page_objects_and_the_log_behind_make_every_state() {
    let timeline = timeline();
    for marker in 1..=timeline.last() {
        for end in marker..=timeline.last() {
            let history = history("team/a.db");
            put_laid(&history, &timeline, marker, end).await;
            let listing = history.list(None).await.unwrap();
            assert_eq!((listing.layout(), listing.foreign()), (Layout::Pages, 0));
            for options in [RestoreOptions::default(), RestoreOptions { requests: 1, ..RestoreOptions::default() }] {
                let restored = restore(&history, None, None, options).await.unwrap();
                assert_is(&restored, timeline.state(end), end);
            }
            // What can be asked for is what lies between the two.
            for txid in 1..=end {
                let restored =
                    restore_around(&history, listing.clone(), Some(txid), None, RestoreOptions::default()).await;
                match restored {
                    Ok(restored) => assert_is(&restored, timeline.state(txid), txid),
                    Err(HistoryError::Plan(PlanError::Merged { after, .. })) => {
                        assert!(txid < marker);
                        assert_eq!(after, Txid::new(marker));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            // A local file of before needs the page objects, one of later does not.
            for from in 1..end {
                let base = Some((from, timeline.state(from)));
                let restored = restore(&history, None, base, RestoreOptions::default()).await.unwrap();
                assert_is(&restored, timeline.state(end), end);
                let plan = listing.plan(Txid::new(from), None).unwrap();
                assert_eq!(plan.objects()[0].name == marker_name(marker), from < marker);
            }
        }
    }
}

#[tokio::test]
async fn who_has_a_database_takes_the_log_as_long_as_it_is_there() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 3, 5).await;
    make(&history, logging(history.id(), &timeline, 1, 3)).await;
    let listing = history.list(None).await.unwrap();
    for (from, is_laid) in [(0, true), (1, false), (2, false), (3, false)] {
        let plan = listing.plan(Txid::new(from), None).unwrap();
        assert_eq!(plan.objects()[0].name == marker_name(3), is_laid, "{from}");
    }
}

#[tokio::test]
async fn a_marker_alone_makes_room_for_its_pages() {
    let timeline = Timeline::new(512, &[Change::Write { places: Vec::new(), append: 300, seed: 1 }]);
    let history = history("a.db");
    put_laid(&history, &timeline, 1, 1).await;
    assert_is(&restore(&history, None, None, RestoreOptions::default()).await.unwrap(), timeline.state(1), 1);
}

#[tokio::test]
async fn progress_counts_the_page_objects() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 2, 4).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let progress: bottomless_history::Progress = Arc::new(move |done, total| tell.lock().unwrap().push((done, total)));
    let options = RestoreOptions { progress: Some(progress), ..RestoreOptions::default() };
    let restored = restore(&history, None, None, options).await.unwrap();
    assert_is(&restored, timeline.state(4), 4);
    let told = told.lock().unwrap().clone();
    let (done, total) = *told.last().unwrap();
    assert_eq!(done, total);
    let pages = timeline.state(2).pages.len() as u64;
    let log = history.list(None).await.unwrap().plan(Txid::ZERO, None).unwrap().bytes();
    assert_eq!(total, log + 512 * pages);
    assert!(told.iter().any(|&(done, _)| done > log && done < total), "{told:?}");
    assert!(restored.0.bytes > log && restored.0.bytes < total, "pages that the log has are not fetched");
}

/// Page objects are changed to those of `to`, as far as `picks` says, before the restore begins.
#[tokio::test]
async fn the_pages_of_a_fold_that_is_not_done_do_no_harm() {
    let timeline = timeline();
    let mut random = 7_u64;
    for (marker, to, end) in [(1, 2, 2), (1, 3, 4), (2, 4, 7), (3, 5, 5), (1, 6, 7), (4, 7, 7)] {
        for _ in 0..12 {
            let history = history("a.db");
            put_laid(&history, &timeline, marker, end).await;
            let step = folding(history.id(), timeline.state(marker), timeline.state(to));
            let step = step.into_iter().filter(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random >> 63 == 1
            });
            make(&history, step.collect()).await;
            let restored = restore(&history, None, None, RestoreOptions::default()).await.unwrap();
            assert_is(&restored, timeline.state(end), end);
        }
    }
}

/// What a machine does that commits up to `end`, and folds up to `to`.
fn going_on(
    history: &bottomless_history::History,
    timeline: &Timeline,
    from: (u64, u64),
    to: u64,
    end: u64,
) -> Vec<Step> {
    let id = history.id();
    let (marker, listed) = from;
    let mut steps: Vec<Step> = vec![logging(id, timeline, listed + 1, end)];
    if to == marker {
        return steps;
    }
    let pages = folding(id, timeline.state(marker), timeline.state(to));
    steps.extend(pages.into_iter().map(|page| Step::from([page])));
    let [deleted, made] =
        <[_; 2]>::try_from(marking(id, timeline, marker, to).into_iter().collect::<Vec<_>>()).unwrap();
    // The new one before the old one goes.
    let (old, new) = if deleted.1.is_none() { (deleted, made) } else { (made, deleted) };
    steps.extend([Step::from([new]), Step::from([old])]);
    // And the log that it has.
    steps.extend(
        (1..=to).map(|txid| Step::from([(bottomless_history::ObjectName::log(Txid::new(txid)).key(id), None)])),
    );
    steps
}

/// The steps happen one behind the other from the `first` GET on, `together` at a time. Returns whether any did.
async fn restore_meanwhile(
    timeline: &Timeline,
    (marker, listed, to, end): (u64, u64, u64, u64),
    first: usize,
    together: usize,
) -> bool {
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, timeline, marker, listed).await;
    let listing = history.list(None).await.unwrap();
    for (place, step) in going_on(&history, timeline, (marker, listed), to, end).into_iter().enumerate() {
        store.after(first + place / together, step);
    }
    let before = store.gets();
    let restored =
        restore_around(&history, listing, None, None, RestoreOptions { requests: 2, ..RestoreOptions::default() })
            .await
            .unwrap_or_else(|error| panic!("{marker} {listed} {to} {end}, {first} {together}: {error}"));
    let txid = restored.0.position.txid.get();
    assert!((listed..=end).contains(&txid));
    assert_is(&restored, timeline.state(txid), txid);
    store.gets() > before + first
}

#[tokio::test]
async fn a_fold_between_any_two_reads_does_no_harm() {
    let timeline = timeline();
    for (marker, listed, to, end) in
        [(1, 1, 2, 2), (1, 1, 3, 3), (2, 2, 3, 4), (2, 3, 4, 5), (1, 2, 5, 6), (4, 4, 5, 5), (5, 5, 7, 7), (3, 4, 7, 7)]
    {
        for together in [1, 3, 100] {
            let mut first = 0;
            while restore_meanwhile(&timeline, (marker, listed, to, end), first, together).await {
                first += 1;
            }
            assert!(first > 3);
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (prop::collection::vec(0..20_usize, 0..4), 0..5_usize, any::<u8>())
            .prop_map(|(places, append, seed)| Change::Write { places, append, seed }),
        1 => (0..20_usize, any::<u8>()).prop_map(|(to, seed)| Change::Shrink { to, seed }),
        1 => (prop_oneof![Just(512_u32), Just(1024)], 1..8_usize, any::<u8>())
            .prop_map(|(page_size, pages, seed)| Change::Rewrite { page_size, pages, seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fold_at_any_moment(
        changes in prop::collection::vec(change(), 2..9),
        places in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        first in 0..12_usize,
        together in 1..6_usize,
    ) {
        let timeline = Timeline::new(512, &changes);
        let mut at: Vec<u64> = [places.0, places.1, places.2, places.3]
            .iter()
            .map(|place| 1 + place.index(timeline.last() as usize) as u64)
            .collect();
        at.sort_unstable();
        run(|_| async { restore_meanwhile(&timeline, (at[0], at[1], at[2], at[3]), first, together).await });
    }
}

#[tokio::test]
async fn what_was_asked_for_is_said_to_be_folded() {
    let timeline = timeline();
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 1, 2).await;
    let (listing, txid) = history.locate(Goal::Txid(Txid::FIRST)).await.unwrap();
    assert_eq!(txid, Some(Txid::FIRST));
    make(&history, folding(history.id(), timeline.state(1), timeline.state(2))).await;
    let asked = |listing| restore_around(&history, listing, Some(1), None, RestoreOptions::default());
    let error = asked(listing.clone()).await.unwrap_err();
    assert!(matches!(error, HistoryError::Folded(_)), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("TXID 0000000000000001 of a.db can't be restored any more"), "{error}");
    assert!(error.contains("restore TXID 0000000000000002 instead"), "{error}");
    // Where the log is there still, it is taken.
    make(&history, logging(history.id(), &timeline, 1, 1)).await;
    let listing = history.list(None).await.unwrap();
    assert_is(&asked(listing).await.unwrap(), timeline.state(1), 1);
    assert_eq!(timeline.state(1).page_size, PageSize::new(512).unwrap());
}
