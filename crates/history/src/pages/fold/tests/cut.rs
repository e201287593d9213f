//! A fold that is cut off at every single request.

use std::future::poll_fn;
use std::task::Poll;

use super::net::{Fate, Port};
use super::support::{Change, Timeline, run};
use super::world::*;

/// Two pages more, some that change, and fewer than before: every kind of request is in it.
fn timeline() -> Timeline {
    Timeline::new(
        512,
        &[
            write(&[], 8, 1),
            write(&[3], 2, 2),
            Change::Shrink { to: 4, seed: 3 },
            write(&[2], 3, 4),
            write(&[1, 2, 4], 0, 5),
            write(&[2, 6], 2, 6),
        ],
    )
}

/// What becomes of the last request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Last {
    Lost,
    Arrives,
}

/// A fold to 5 from 2, of which `count` requests arrive; whether it was cut off.
async fn cut_off(port: &Port, timeline: &Timeline, count: usize, last: Last) -> bool {
    commit(port, timeline, 1..=2);
    fold(port, 1).await.unwrap();
    commit(port, timeline, 3..=5);
    port.state().left = Some(count);
    let history = history(port);
    let options = options(1);
    let mut folding = Box::pin(history.fold(&options));
    let folded = poll_fn(|context| match folding.as_mut().poll(context) {
        Poll::Ready(folded) => Poll::Ready(Some(folded)),
        Poll::Pending if port.state().waiting.is_empty() => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    let is_cut = folded.await.is_none();
    drop(folding);
    let mut state = port.state();
    state.left = None;
    while !state.waiting.is_empty() {
        state.deliver(0, if last == Last::Arrives { Fate::Arrives } else { Fate::Refused });
    }
    is_cut
}

/// For every number of requests; how many there are.
fn everywhere<F: Future>(check: impl Fn(Port, Timeline) -> F) -> usize {
    for last in [Last::Lost, Last::Arrives] {
        for count in 0.. {
            let is_cut = run(|_| async {
                let (port, timeline) = (Port::new(1), timeline());
                let is_cut = cut_off(&port, &timeline, count, last).await;
                assert_eq!(wrong(&port.state(), &timeline, 5), None, "after {count} requests, {last:?}");
                assert!(restored(&port).await == timeline.state(5).pages.concat(), "another database");
                commit(&port, &timeline, 6..=6);
                check(port.clone(), timeline.clone()).await;
                assert!(restored(&port).await == timeline.state(6).pages.concat(), "another database at the end");
                is_cut
            });
            if !is_cut && last == Last::Lost {
                break;
            }
            if !is_cut {
                return count;
            }
        }
    }
    0
}

#[test]
fn the_same_machine_goes_on() {
    let requests = everywhere(|port, timeline| async move {
        let folded = fold(&port, 1).await.unwrap();
        // The pages are right, whatever is still to be waited for.
        assert!(pages(&port.state()) == timeline.state(6).pages.concat());
        assert_eq!(folded.to.get(), 6);
        if let Some(wait) = folded.wait {
            assert!(folded.txid.get() < 6 && wait <= WINDOW + std::time::Duration::from_secs(1));
            port.state().now += wait;
            let folded = fold(&port, 1).await.unwrap();
            assert_eq!((folded.written, folded.wait), (0, None));
        }
        assert_folded(&port, &timeline, 6);
    });
    assert!(requests > 20, "{requests}");
}

#[test]
fn another_machine_takes_over_when_the_window_has_passed() {
    everywhere(|port, timeline| async move {
        let (before, claims_left) = standing(&port);
        let folded = fold(&port, 2).await.unwrap();
        if claims_left > 0 {
            assert_eq!((folded.txid.get(), folded.written), (before, 0));
            port.state().now += folded.wait.unwrap();
            fold(&port, 2).await.unwrap();
        }
        assert_folded(&port, &timeline, 6);
    });
}
