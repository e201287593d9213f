//! What verifying and comparing say of page objects.

use std::sync::Arc;

use bottomless_history::{Audit, AuditOptions, History, HistoryError, RestoreOptions, Severity};
use bottomless_ltx::Txid;

use super::restore::timeline;
use crate::support::laid::{folding, logging, make, marker_name, page_key, put_laid};
use crate::support::{history, put, put_object};

async fn audit(history: &History, quick: bool, with_file: bool) -> Audit {
    let restore_into = with_file.then(|| Arc::new(tempfile::tempfile().unwrap()));
    history.audit(&AuditOptions { quick, restore_into, ..AuditOptions::default() }).await.unwrap()
}

const WAYS: [(bool, bool); 3] = [(true, false), (false, false), (false, true)];

#[tokio::test]
async fn what_is_right_has_no_problem() {
    let timeline = timeline();
    for (marker, end) in [(1, 1), (2, 4), (4, 5), (3, 7), (7, 7)] {
        // Also where a fold is on its way.
        for (to, portion) in (marker..=end).flat_map(|to| [(to, 4), (to, usize::MAX)]) {
            let history = history("a.db");
            put_laid(&history, &timeline, marker, end).await;
            let step = folding(history.id(), timeline.state(marker), timeline.state(to));
            make(&history, step.into_iter().take(portion).collect()).await;
            for (quick, with_file) in WAYS {
                let audit = audit(&history, quick, with_file).await;
                assert_eq!(audit.problems, [], "{marker} {to} {end}");
                assert_eq!(audit.restored.is_some(), with_file);
                assert_eq!(audit.restorable, [Txid::new(marker)..=Txid::new(end)]);
            }
        }
    }
}

#[tokio::test]
async fn wrong_page_objects_are_named() {
    let timeline = timeline();
    // Of TXID 2, and not changed behind it.
    let size = timeline.state(2).pages.len();
    for (damage, quickly, is_error) in [
        ("missing", true, true),
        ("the last is missing", true, true),
        ("short", true, true),
        ("flipped", false, true),
        ("a stray", true, false),
    ] {
        for other_way in [false, true] {
            let history = history("a.db");
            put_laid(&history, &timeline, 2, 2).await;
            if other_way {
                put_object(&history, &timeline, 9, 1, 1).await;
                make(&history, logging(history.id(), &timeline, 2, 2)).await;
            }
            let mut page = timeline.state(2).pages[2].clone();
            let mut key = page_key(history.id(), 3);
            match damage {
                "missing" => history.bucket().delete(&key).await.unwrap(),
                "the last is missing" => {
                    key = page_key(history.id(), size);
                    history.bucket().delete(&key).await.unwrap();
                }
                "short" => put(&history, &key, page[1..].to_vec()).await,
                "flipped" => {
                    page[77] ^= 1;
                    put(&history, &key, page).await;
                    key = marker_name(2).key(history.id());
                }
                _ => {
                    key = page_key(history.id(), size + 1);
                    put(&history, &key, page).await;
                }
            }
            for (quick, with_file) in WAYS {
                let audit = audit(&history, quick, with_file).await;
                let found = audit.problems.iter().find(|problem| problem.key.as_deref() == Some(&key));
                assert_eq!(found.is_some(), !quick || quickly, "{damage}: {:?}", audit.problems);
                if let Some(problem) = found {
                    assert_eq!(problem.severity == Severity::Error, is_error, "{problem}");
                }
                assert_eq!(audit.is_ok(), !is_error || quick && !quickly, "{damage}: {:?}", audit.problems);
                assert_eq!(audit.restored.is_some(), with_file && (other_way || !is_error), "{damage}");
            }
        }
    }
}

#[tokio::test]
async fn points_are_compared_through_page_objects() {
    let timeline = timeline();
    let history = history("a.db");
    put_laid(&history, &timeline, 1, 4).await;
    for (from, to) in [(1, 2), (1, 4), (2, 3), (4, 1), (3, 3), (0, 1)] {
        let diff = history.diff(Txid::new(from), Txid::new(to), &RestoreOptions::default()).await.unwrap();
        let (old, new) = (&timeline.state(from).pages, &timeline.state(to).pages);
        let changed = (0..old.len().min(new.len())).filter(|&place| old[place] != new[place]);
        let found: Vec<usize> = diff.changed.iter().map(|page| page.index()).collect();
        assert_eq!(found, changed.collect::<Vec<_>>(), "{from} {to}");
        assert_eq!((diff.from.size_in_pages as usize, diff.to.size_in_pages as usize), (old.len(), new.len()));
    }
    // What a fold has changed is the page objects of no marker.
    make(&history, folding(history.id(), timeline.state(1), timeline.state(2))).await;
    let diff = async |from, to| history.diff(Txid::new(from), Txid::new(to), &RestoreOptions::default()).await;
    assert!(matches!(diff(1, 2).await, Err(HistoryError::Folded(_))));
    diff(2, 4).await.unwrap();
}
