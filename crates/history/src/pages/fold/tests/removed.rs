//! A database that is removed while a machine folds it, and another that comes after it.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::net::{Fate, Port};
use super::support::{Change, Timeline, run};
use super::world::*;
use crate::{Folded, HistoryError, RemoveOptions, Unremoved};

fn write(places: &[usize], append: usize, seed: u8) -> Change {
    Change::Write { places: places.to_vec(), append, seed }
}

type Fold = Pin<Box<dyn Future<Output = Result<Folded, HistoryError>>>>;

/// Lets the requests of a fold of this machine arrive until one is on its way whose name has this part; nothing if it ends before.
async fn until(fold: &mut Fold, port: &Port, machine: usize, part: &str) -> Option<()> {
    loop {
        if let Poll::Ready(ended) = futures::poll!(fold.as_mut()) {
            ended.unwrap();
            return None;
        }
        let at = port.state().waiting.iter().position(|message| message.from == machine);
        if let Some(at) = at {
            let mut state = port.state();
            if state.waiting[at].what.contains(part) {
                return Some(());
            }
            state.deliver(at, Fate::Arrives);
            continue;
        }
        tokio::task::yield_now().await;
    }
}

async fn remove(port: &Port, force: bool) -> Result<(), Unremoved> {
    let history = history(&port.of(2));
    let options = RemoveOptions { machine: 2, force, timeout: Duration::from_secs(30), progress: None };
    history.remove(&history.removal().await.unwrap(), &options).await
}

#[test]
fn a_marker_does_not_come_after_a_removal() {
    let old = Timeline::new(512, &[write(&[], 10, 1), write(&[3], 0, 2), write(&[4], 0, 3)]);
    let new = Timeline::new(512, &[write(&[], 5, 101), write(&[3], 0, 102), write(&[2], 3, 103), write(&[1], 0, 104)]);
    // The last request before its marker, and each one from its claim on.
    for part in
        ["PUT test.db-000000000001", "PUT test.db-000000000010", "PUT test.db/pages/0", "DELETE test.db/pages/claim"]
    {
        run(|_| async {
            let port = Port::new(1);
            commit(&port, &old, 1..=3);
            port.state().is_slow = true;
            let one = port.of(1);
            let mut under_way: Fold = Box::pin(async move { history(&one).fold(&options(1)).await });
            until(&mut under_way, &port, 1, part).await.unwrap();
            port.state().is_slow = false;
            let before: Vec<_> = port.state().objects.keys().cloned().collect();
            let refused = remove(&port, false).await.unwrap_err();
            assert!(matches!(refused, Unremoved::Whole(HistoryError::Claimed { .. })), "{refused}");
            assert!(port.state().objects.keys().eq(&before), "{part}: nothing is deleted");
            port.state().is_slow = true;
            assert_eq!(until(&mut under_way, &port, 1, "nothing").await, None);
            port.state().is_slow = false;
            remove(&port, false).await.unwrap();
            assert_eq!(port.state().objects.len(), 0);

            commit(&port, &new, 1..=4);
            fold(&port, 2).await.unwrap();
            assert_folded(&port, &new, 4);
        });
    }
}
