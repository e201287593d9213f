//! Folds that are told to come to their end.

use super::net::{Fate, Port};
use super::support::{Change, Timeline, run};
use super::world::*;
use crate::{Folded, HistoryError};

/// Lets the requests of a fold arrive, and stops it when so many have; what is then under way arrives as well. What comes of
/// it, and whether it was stopped before its end.
async fn fold_until(port: &Port, count: usize) -> (Result<Folded, HistoryError>, bool) {
    port.state().is_slow = true;
    let options = options(1);
    let stop = options.stop.clone();
    let history = history(port);
    let mut fold = std::pin::pin!(history.fold(&options));
    let mut arrived = 0;
    let result = loop {
        if let std::task::Poll::Ready(result) = futures::poll!(fold.as_mut()) {
            break result;
        }
        let is_waiting = !port.state().waiting.is_empty();
        if is_waiting {
            if arrived == count {
                stop.stop();
            }
            arrived += 1;
            port.state().deliver(0, Fate::Arrives);
        }
        // Files are read in other threads.
        tokio::task::yield_now().await;
    };
    assert!(port.state().waiting.iter().all(|message| !message.is_write), "something was left under way");
    port.state().waiting.clear();
    port.state().is_slow = false;
    (result, stop.is_stopped())
}

#[test]
fn a_fold_that_is_stopped_anywhere_leaves_no_claim() {
    let changes = [
        Change::Write { places: vec![], append: 40, seed: 1 },
        Change::Write { places: vec![3, 7], append: 2, seed: 2 },
        Change::Shrink { to: 20, seed: 3 },
    ];
    let timeline = Timeline::new(512, &changes);
    run(|_| async {
        let mut unfinished = 0;
        for count in 0.. {
            let port = Port::new(1);
            commit(&port, &timeline, 1..=1);
            fold(&port, 1).await.unwrap();
            commit(&port, &timeline, 2..=3);
            let (folded, is_stopped) = fold_until(&port, count).await;
            let folded = folded.unwrap();
            assert_eq!(claims(&port.state()), 0, "{count}");
            assert_eq!(wrong(&port.state(), &timeline, 3), None, "{count}");
            if !is_stopped {
                break;
            }
            unfinished += usize::from(folded.wait.is_some());
            // Nobody waits for it.
            let next = fold(&port, 2).await.unwrap();
            assert_eq!(next.wait, None, "{count}");
            assert_folded(&port, &timeline, 3);
        }
        assert!(unfinished > 30, "{unfinished}");
    });
}

#[test]
fn what_is_stopped_before_it_begins_asks_for_nothing() {
    run(|_| async {
        let port = Port::new(1);
        let options = options(1);
        options.stop.stop();
        let folded = history(&port).fold(&options).await.unwrap();
        assert_eq!((folded.wait, port.state().requests.len()), (Some(std::time::Duration::ZERO), 0));
    });
}
