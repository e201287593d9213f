//! Removing a database: what is left after each step.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::time::Duration;

use bottomless_history::{RemoveOptions, RestoreOptions, Settings};
use support::recorder::Recorder;
use support::{Change, Timeline, put, put_object, restore};

fn timeline() -> Timeline {
    let change = |seed| Change::Write { places: vec![usize::from(seed), 3], append: 1, seed };
    Timeline::new(1024, &(0..8).map(change).collect::<Vec<_>>())
}

#[tokio::test]
async fn no_step_of_a_removal_leaves_an_older_database() {
    let timeline = timeline();
    let options = RemoveOptions { machine: 0xab, force: false, timeout: Duration::from_secs(30), progress: None };
    // What else is there beside the log from `first` on.
    for (first, merged) in [
        (1, &[][..]),
        (1, &[(9, 1, 8), (9, 1, 3)]),
        (4, &[(9, 1, 3), (9, 1, 5), (1, 1, 2), (2, 1, 4)]),
        (9, &[(9, 1, 4), (3, 1, 6), (1, 5, 8), (2, 7, 8)]),
        (9, &[(9, 1, 4), (9, 1, 8)]),
        (9, &[(9, 1, 4), (1, 1, 8)]),
    ] {
        let store = Recorder::default();
        let history = store.history("a.db");
        for txid in first..=8 {
            put_object(&history, &timeline, 0, txid, txid).await;
        }
        for &(level, min, max) in merged {
            put_object(&history, &timeline, level, min, max).await;
        }
        put(&history, &Settings::key(history.id()), b"{}".to_vec()).await;
        put(&history, "a.db/probe-0123456789abcdef", b"x".to_vec()).await;
        put(&history, "a.db/notes", b"x".to_vec()).await;
        put(&history, "a.db/x/0000/0000000000000001-0000000000000001.ltx", b"x".to_vec()).await;
        put(&history, "a.db2/0000/0000000000000001-0000000000000001.ltx", b"x".to_vec()).await;
        let whole = restore(&history, None, None, RestoreOptions::default()).await.unwrap();
        store.states("a.db");

        let removal = history.removal().await.unwrap();
        assert_eq!(removal.foreign, ["a.db/notes", "a.db/x/0000/0000000000000001-0000000000000001.ltx"]);
        assert_eq!(removal.count(), merged.len() + (9 - first) as usize + 2);
        let before = history.bucket().counters();
        history.remove(&removal, &options).await.unwrap();
        let sent = history.bucket().counters();
        let sent = (sent.put - before.put, sent.list - before.list, sent.delete - before.delete);
        assert_eq!(sent, (0, 0, removal.count() as u64), "without page objects there is no claim");
        let states = store.states("a.db");
        assert_eq!(states.len(), removal.count());
        for (step, left) in states.iter().enumerate() {
            let listing = left.list(None).await.unwrap();
            let is_last = step + 1 == states.len();
            assert_eq!(listing.settings().is_none(), is_last, "the fence window holds to the end");
            if listing.is_empty() {
                continue;
            }
            if let Ok(found) = restore(left, None, None, RestoreOptions::default()).await {
                assert!(
                    (found.0.position, &found.1) == (whole.0.position, &whole.1),
                    "step {step} of {merged:?} leaves TXID {}",
                    found.0.position.txid
                );
            }
        }
        let keys: Vec<_> = history.bucket().list("a.db", None).await.unwrap().into_iter().map(|o| o.key).collect();
        assert_eq!(keys, removal.foreign);
        assert_eq!(history.bucket().list("a.db2", None).await.unwrap().len(), 1, "another database");
        assert!(history.removal().await.unwrap().is_empty());
    }
}
