//! Snapshots and branches of databases whose base is page objects.

use std::sync::Arc;

use bottomless_history::{DatabaseId, Goal, History, MergeOptions, RestoreOptions};
use bottomless_ltx::Txid;

use super::restore::timeline;
use crate::support::between::Between;
use crate::support::laid::{folding, logging, put_laid};
use crate::support::{assert_is, history, name, put_log, restore};

#[tokio::test]
async fn a_snapshot_of_a_file_is_the_one_that_is_merged() {
    let timeline = timeline();
    for in_memory in [0, 1 << 20] {
        for end in 2..=timeline.last() {
            let (laid, log) = (history("a.db"), history("b.db"));
            put_laid(&laid, &timeline, 2, end).await;
            put_log(&log, &timeline).await;
            let options = MergeOptions { whole_length: in_memory, ..MergeOptions::new(std::env::temp_dir()) };
            let snapshot = name(9, 1, end);
            log.merge(&log.list(None).await.unwrap(), snapshot, &options).await.unwrap();
            let file = Arc::new(tempfile::tempfile().unwrap());
            let plan = laid.list(None).await.unwrap().plan(Txid::ZERO, None).unwrap();
            let restored = laid.restore(&plan, Arc::clone(&file), &RestoreOptions::default()).await.unwrap();
            for _ in 0..2 {
                let entry = laid.snapshot_of(&restored, Arc::clone(&file), &laid, &options).await.unwrap();
                assert_eq!(entry.name, snapshot);
            }
            let get = async |history: &History| history.bucket().get(&snapshot.key(history.id())).await.unwrap();
            assert!(get(&laid).await == get(&log).await, "{end}");
            file.set_len(512).unwrap();
            laid.snapshot_of(&restored, file, &laid, &options).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn a_branch_is_one_snapshot() {
    let timeline = timeline();
    let options = MergeOptions::new(std::env::temp_dir());
    for (goal, txid) in [(Goal::End, 4), (Goal::Txid(Txid::new(3)), 3), (Goal::Txid(Txid::new(2)), 2)] {
        for is_folded_meanwhile in [false, true] {
            let store = Between::default();
            let history = store.history("a.db");
            put_laid(&history, &timeline, 2, 4).await;
            let mut end = txid;
            if is_folded_meanwhile && goal == Goal::End {
                end = 7;
                let mut step = logging(history.id(), &timeline, 5, 7);
                step.extend(folding(history.id(), timeline.state(2), timeline.state(7)));
                store.after(4, step);
            }
            let to = DatabaseId::new("b.db").unwrap();
            let branched = history.branch(&to, goal, &options).await.unwrap();
            assert!(store.is_done());
            assert_eq!((branched.txid.get(), branched.objects), (end, 1));
            let branch = History::new(history.bucket().clone(), to.clone());
            let restored = restore(&branch, None, None, RestoreOptions::default()).await.unwrap();
            assert_is(&restored, timeline.state(end), end);
            assert_eq!(branch.count_pages().await.unwrap().count, 0);
            if end == txid {
                assert_eq!(history.branch(&to, goal, &options).await.unwrap().found, 1);
            }
        }
    }
}
