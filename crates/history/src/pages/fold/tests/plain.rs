//! Folds that nothing disturbs.

use super::net::Port;
use super::support::{Change, Timeline, run};
use super::world::*;

fn write(places: &[usize], append: usize, seed: u8) -> Change {
    Change::Write { places: places.to_vec(), append, seed }
}

#[test]
fn page_objects_are_the_database() {
    let changes = [
        write(&[], 40, 1),
        write(&[3, 7], 2, 2),
        Change::Shrink { to: 9, seed: 3 },
        write(&[4], 30, 4),
        Change::Rewrite { page_size: 1024, pages: 20, seed: 5 },
        write(&[1, 2, 19], 0, 6),
        Change::Rewrite { page_size: 512, pages: 60, seed: 7 },
    ];
    let timeline = Timeline::new(512, &changes);
    // Each alone, some at a time, all at once.
    for step in [1, 2, 3, 7] {
        run(|_| async {
            let port = Port::new(1);
            let mut last = 0;
            while last < timeline.last() {
                let to = (last + step).min(timeline.last());
                commit(&port, &timeline, last + 1..=to);
                let folded = fold(&port, 1).await.unwrap();
                assert_eq!((folded.txid.get(), folded.to.get(), folded.wait), (to, to, None));
                assert_folded(&port, &timeline, to);
                last = to;
            }
            let before = port.state().requests.len();
            let folded = fold(&port, 1).await.unwrap();
            assert_eq!((folded.txid.get(), folded.written), (last, 0));
            assert!(port.state().requests[before..].iter().all(|what| what.starts_with("LIST")));
        });
    }
}
