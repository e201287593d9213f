//! Plays in which two machines, or one and its past, meet at the worst moment.

use std::future::Future;
use std::pin::Pin;

use super::net::{Fate, Port};
use super::support::{Change, Timeline, run};
use super::world::*;

fn write(places: &[usize], append: usize, seed: u8) -> Change {
    Change::Write { places: places.to_vec(), append, seed }
}

type Fold = Pin<Box<dyn Future<Output = Result<crate::Folded, crate::HistoryError>>>>;

/// Polls a fold, and lets the requests of its machine arrive, until one is on its way whose name has this part.
async fn until(fold: &mut Fold, port: &Port, machine: usize, part: &str) -> bool {
    loop {
        let done = futures::poll!(fold.as_mut());
        if done.is_ready() {
            return false;
        }
        {
            let mut state = port.state();
            let at = state.waiting.iter().position(|message| message.from == machine);
            if let Some(at) = at {
                let what = state.waiting[at].what.clone();
                if what.contains(part) {
                    return true;
                }
                state.deliver(at, Fate::Arrives);
                continue;
            }
        }
        // Files are read and written by other threads.
        tokio::task::yield_now().await;
    }
}

fn start(port: &Port, machine: usize) -> Fold {
    let port = port.of(machine);
    Box::pin(async move {
        let mut options = options(machine);
        options.merge.requests = 1;
        history(&port).fold(&options).await
    })
}

/// Two machines, one of which has listed before the other began, and claims between the other's last look and its marker.
#[test]
fn who_comes_before_a_marker_writes_no_page() {
    let timeline = Timeline::new(512, &[write(&[], 10, 1), write(&[3], 0, 2), write(&[3], 0, 3)]);
    run(|_| async {
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        fold(&port, 1).await.unwrap();
        assert_folded(&port, &timeline, 1);
        commit(&port, &timeline, 2..=2);
        port.state().is_slow = true;
        let mut other = start(&port, 2);
        assert!(until(&mut other, &port, 2, "PUT test.db/pages/claim").await, "it has listed up to 2");
        commit(&port, &timeline, 3..=3);
        let mut one = start(&port, 1);
        assert!(until(&mut one, &port, 1, "PUT test.db/pages/0").await, "it is about to make its marker");
        assert!(!until(&mut other, &port, 2, "PUT test.db-").await, "it writes a page");
        until(&mut one, &port, 1, "nothing").await;
        port.state().is_slow = false;
        // The log goes when it is old enough.
        port.state().now += WINDOW * 3;
        fold(&port, 2).await.unwrap();
        assert_eq!(wrong(&port.state(), &timeline, 3), None);
        assert_folded(&port, &timeline, 3);
    });
}

/// A fold that takes longer than half a window.
#[test]
fn a_long_fold_ends_some_day() {
    let timeline = Timeline::new(512, &[write(&[], 60, 1)]);
    run(|_| async {
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        // Forty requests in half a window.
        port.state().tick = WINDOW / 80;
        for _ in 0..30 {
            let mut options = options(1);
            options.merge.requests = 1;
            history(&port.of(1)).fold(&options).await.unwrap();
            let state = port.state();
            if marker(&state) == 1 {
                return;
            }
        }
        panic!("never");
    });
}

/// Page objects that were deleted by others replace nothing.
#[test]
fn without_its_page_objects_a_marker_replaces_nothing() {
    let timeline = Timeline::new(512, &[write(&[], 10, 1), write(&[3], 0, 2)]);
    run(|_| async {
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        fold(&port, 1).await.unwrap();
        port.state().objects.remove("test.db-000000000007").unwrap();
        commit(&port, &timeline, 2..=2);
        port.state().now += WINDOW * 3;
        let folded = fold(&port, 1).await.unwrap();
        assert_eq!((folded.txid.get(), folded.shortened.deleted), (2, 0));
        let refused = folded.shortened.refused.unwrap().to_string();
        assert!(refused.contains("test.db-000000000007"), "{refused}");
        let log = port.state().objects.keys().filter(|key| key.contains("/0000/")).count();
        assert_eq!(log, 2, "from which the database is restored");
    });
}
