//! What a store may answer.

use super::net::{Fate, Port};
use super::support::{Timeline, run};
use super::world::*;
use crate::{FoldOptions, HistoryError};

/// A database that is folded, and three pages that are not.
async fn world() -> (Port, Timeline) {
    let timeline = Timeline::new(512, &[write(&[], 5, 1), write(&[2, 4], 0, 2), write(&[3], 0, 3)]);
    let port = Port::new(1);
    commit(&port, &timeline, 1..=1);
    fold(&port, 1).await.unwrap();
    commit(&port, &timeline, 2..=2);
    (port, timeline)
}

/// The pages are right, and the marker follows when nothing can arrive any more.
#[test]
fn an_unclear_outcome_is_tried_again_and_waited_for() {
    for fate in [Fate::ReplyLost, Fate::Refused, Fate::Late] {
        run(|_| async {
            let (port, timeline) = world().await;
            port.state().fates.push_back(("PUT test.db-000000000003", fate));
            let folded = fold(&port, 1).await.unwrap();
            assert_eq!((folded.txid.get(), folded.to.get()), (1, 2), "{fate:?}");
            assert!(pages(&port.state()) == timeline.state(2).pages.concat());
            assert_eq!(standing(&port), (1, 1));
            // Others wait, and so does the marker.
            assert_eq!(fold(&port, 2).await.unwrap().txid.get(), 1);
            assert_eq!(fold(&port, 1).await.unwrap().txid.get(), 1);
            port.state().now += folded.wait.unwrap();
            let folded = fold(&port, 1).await.unwrap();
            assert_eq!((folded.written, folded.equal), (0, 3));
            assert_folded(&port, &timeline, 2);
        });
    }
}

#[test]
fn a_store_that_fails_for_long_is_an_error_and_nothing_is_lost() {
    run(|_| async {
        let (port, timeline) = world().await;
        for _ in 0..4 {
            port.state().fates.push_back(("PUT test.db-000000000003", Fate::Refused));
        }
        let error = fold(&port, 1).await.unwrap_err();
        assert!(matches!(error, HistoryError::Store(_)), "{error}");
        assert_eq!(wrong(&port.state(), &timeline, 2), None);
        pass_window(&port);
        fold(&port, 2).await.unwrap();
        assert_folded(&port, &timeline, 2);
    });
}

/// Nothing is under way, so nobody has to wait.
#[test]
fn a_refusal_is_an_error_and_the_next_fold_goes_on_at_once() {
    for part in ["PUT test.db-000000000003", "PUT test.db/pages/claim", "PUT test.db/pages/0"] {
        run(|_| async {
            let (port, timeline) = world().await;
            port.state().fates.push_back((part, Fate::Denied));
            let error = fold(&port, 1).await.unwrap_err().to_string();
            assert!(error.contains(&part[4..]), "{error}");
            assert_eq!(claims(&port.state()), 0);
            assert_eq!(wrong(&port.state(), &timeline, 2), None);
            fold(&port, 2).await.unwrap();
            assert_folded(&port, &timeline, 2);
        });
    }
}

#[test]
fn what_is_stored_otherwise_is_found() {
    for part in ["PUT test.db-000000000003", "PUT test.db/pages/0"] {
        run(|_| async {
            let (port, timeline) = world().await;
            port.state().fates.push_back((part, Fate::Garbled));
            let error = fold(&port, 1).await.unwrap_err();
            assert!(matches!(&error, HistoryError::Unfolded { key, .. } if key.starts_with(&part[4..])), "{error}");
            assert_eq!(standing(&port), (1, 0));
            fold(&port, 2).await.unwrap();
            assert_folded(&port, &timeline, 2);
        });
    }
}

/// As a store does that encrypts what it keeps.
#[test]
fn etags_need_not_tell_the_content() {
    run(|_| async {
        let (port, timeline) = world().await;
        port.state().is_encrypted = true;
        fold(&port, 1).await.unwrap();
        assert_folded(&port, &timeline, 2);
        commit(&port, &timeline, 3..=3);
        port.state().fates.push_back(("PUT test.db-000000000004", Fate::ReplyLost));
        let wait = fold(&port, 1).await.unwrap().wait.unwrap();
        port.state().now += wait;
        fold(&port, 1).await.unwrap();
        assert_folded(&port, &timeline, 3);
    });
}

#[test]
fn a_store_that_ignores_if_match_is_refused_unless_nobody_needs_it() {
    run(|_| async {
        let (port, timeline) = world().await;
        port.state().ignores_all = true;
        let before = port.state().requests.len();
        let error = fold(&port, 1).await.unwrap_err().to_string();
        assert!(error.contains("If-Match") && error.contains("LIBSQL_BOTTOMLESS_FENCING=off"), "{error}");
        assert_eq!(claims(&port.state()), 0);
        assert!(port.state().requests[before..].iter().all(|what| !what.contains("PUT test.db-")));
        let options = FoldOptions { is_fenced: false, ..options(1) };
        let before = port.state().requests.len();
        history(&port).fold(&options).await.unwrap();
        assert_folded(&port, &timeline, 2);
        let puts: Vec<String> = port.state().requests.split_off(before);
        assert!(puts.iter().filter(|what| what.starts_with("PUT")).all(|what| what.ends_with("always")), "{puts:?}");
    });
}

/// What nobody looked for is there after all: copied, brought back, or written by a request that came late.
#[test]
fn pages_that_should_not_be_there_are_replaced() {
    run(|_| async {
        let timeline = Timeline::new(512, &[write(&[], 5, 1)]);
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        for (page, content) in [(2, vec![1; 512]), (3, timeline.state(1).pages[2].clone()), (9, vec![2; 512])] {
            port.state().put(&format!("test.db-{page:012}"), content.into());
        }
        let folded = fold(&port, 1).await.unwrap();
        assert_eq!((folded.written, folded.equal, folded.removed), (5, 1, 1));
        assert_folded(&port, &timeline, 1);
    });
}

/// Names that begin like one another.
#[test]
fn nothing_of_another_database_is_touched() {
    run(|_| async {
        let timeline = Timeline::new(512, &[write(&[], 5, 1)]);
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        let others = [
            "test.db-0",
            "test.db-0-000000000007",
            "test.db-000000000002-000000000001",
            "test.db-000000000009/0000/0000000000000001-0000000000000001.ltx",
            "test.db-0000000000009",
            "test.db2-000000000009",
        ];
        for key in others {
            port.state().put(key, vec![9; 512].into());
        }
        fold(&port, 1).await.unwrap();
        assert_folded(&port, &timeline, 1);
        let state = port.state();
        assert!(others.iter().all(|key| state.objects[*key].content == vec![9; 512]));
    });
}
