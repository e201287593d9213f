//! Removing a database while others fold it, or seem to.

use std::time::Duration;

use bottomless_history::{History, HistoryError, RemoveOptions, RestoreOptions, Settings, Unremoved};

use super::restore::timeline;
use crate::support::aged::{Aged, Deletions};
use crate::support::between::{Between, Step};
use crate::support::laid::{folding, logging, make, marking, put_laid};
use crate::support::recorder::Recorder;
use crate::support::{put, restore_around};

const MACHINE: u64 = 0xab;
const OTHER: u64 = 0xcd;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn removing(machine: u64) -> RemoveOptions {
    RemoveOptions { machine, force: false, timeout: Duration::from_secs(30), progress: None }
}

fn claim(history: &History, machine: u64) -> String {
    format!("{}/pages/claim-{machine:016x}-0000000000000001", history.id())
}

async fn remove(history: &History, options: &RemoveOptions) -> Result<(), Unremoved> {
    let removal = history.removal().await.unwrap();
    history.remove(&removal, options).await
}

fn is_claimed(removed: Result<(), Unremoved>, by: &str) -> bool {
    matches!(removed, Err(Unremoved::Whole(HistoryError::Claimed { key, .. })) if key == by)
}

#[tokio::test]
async fn a_claim_of_another_is_waited_for_or_overridden() {
    let timeline = timeline();
    for (marker, force) in [(4, false), (4, true), (0, false), (0, true)] {
        let store = Aged::default();
        let history = store.history("a.db");
        match marker {
            // The first fold is under way.
            0 => make(&history, logging(history.id(), &timeline, 1, 7)).await,
            _ => put_laid(&history, &timeline, marker, 7).await,
        }
        let claim = claim(&history, OTHER);
        put(&history, &claim, Vec::new()).await;
        let before = store.keys().await;
        assert!(is_claimed(remove(&history, &removing(MACHINE)).await, &claim));
        assert_eq!(store.keys().await, before);
        if !force {
            // It is one that is gone.
            store.pass(61 * MINUTE).await;
        }
        remove(&history, &RemoveOptions { force, ..removing(MACHINE) }).await.unwrap();
        assert_eq!(store.keys().await, [""; 0]);
    }
}

#[tokio::test]
async fn force_does_not_override_a_claim_that_comes() {
    let timeline = timeline();
    let store = Between::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
    let removal = history.removal().await.unwrap();
    let claim = claim(&history, OTHER);
    // Between the listing and the claim, while the settings are read.
    store.after(0, Step::from([(claim.clone(), Some(Vec::new()))]));
    let options = RemoveOptions { force: true, ..removing(MACHINE) };
    assert!(is_claimed(history.remove(&removal, &options).await, &claim));
    store.make(Step::from([(claim, None)])).await;
    assert_eq!(history.removal().await.unwrap(), removal, "its own claim is gone");
}

#[tokio::test]
async fn cut_off_by_any_request_it_goes_on_at_once() {
    let timeline = timeline();
    for left in 0.. {
        let store = Aged::default();
        let history = store.history("a.db");
        put_laid(&history, &timeline, 4, 7).await;
        put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
        let count = history.removal().await.unwrap().count();
        store.deletions(Deletions::Left(left));
        let removed = remove(&history, &removing(MACHINE)).await;
        store.deletions(Deletions::Pass);
        if removed.is_ok() {
            assert_eq!(left, count + 1, "with the claim");
            break;
        }
        let Err(Unremoved::Part { deleted, total, .. }) = removed else { panic!("{removed:?}") };
        assert_eq!((deleted, total), (left as u64, count as u64));
        assert_eq!(history.list(None).await.unwrap().claims().len(), 1, "a request may come late");
        remove(&history, &removing(MACHINE)).await.unwrap();
        assert_eq!(store.keys().await, [""; 0]);
    }
}

/// A marker that was made between the look and the claim is the one that goes last of the bases.
#[tokio::test]
async fn what_came_before_the_claim_goes_in_its_order() {
    let timeline = timeline();
    let store = Recorder::default();
    let history = store.history("a.db");
    put_laid(&history, &timeline, 4, 7).await;
    let removal = history.removal().await.unwrap();
    make(&history, folding(history.id(), timeline.state(4), timeline.state(6))).await;
    make(&history, marking(history.id(), &timeline, 4, 6)).await;
    store.states("a.db");
    history.remove(&removal, &removing(MACHINE)).await.unwrap();
    assert!(history.removal().await.unwrap().is_empty());
    for left in store.states("a.db") {
        let listing = left.list(None).await.unwrap();
        if let Ok(found) = restore_around(&left, listing, None, None, RestoreOptions::default()).await {
            assert_eq!(found.0.position.txid.get(), 7);
        }
    }
}
