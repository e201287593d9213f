//! How the local file and the bucket come together at open: the table in section 9 of the design, and local states that
//! are gone, damaged or another's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bottomless_engine::ErrorKind;
use bottomless_engine::config::InitialReplication::{self, Error as Fail, Force, Skip};
use bottomless_ltx::{HEADER_LENGTH, Header, Txid};
use common::oracle::block_on;
use common::session::PATIENT;
use common::*;
use object_store::ObjectStoreExt;

const POLICIES: [InitialReplication; 3] = [Fail, Force, Skip];

fn store() -> Arc<FaultStore> {
    FaultStore::new(Plan::Never, Conduct::Honest)
}

fn commit(session: &mut Session, edit: Edit) {
    let told = session.transaction(edit, End::Commit);
    assert!(matches!(told, Told::Committed), "{told:?}");
}

/// A closed session with three transactions.
fn three(seed: u64) -> Session {
    three_in(&store(), seed)
}

/// The store in memory numbers its ETags; those of S3 come from the content.
fn three_with_other_tags(seed: u64) -> Session {
    let store = store();
    for _ in 0..100 {
        block_on(store.inner.put(&"elsewhere/object".into(), "".into())).unwrap();
    }
    three_in(&store, seed)
}

fn three_in(store: &Arc<FaultStore>, seed: u64) -> Session {
    let mut session = Session::new(store, PATIENT, seed);
    session.open().unwrap();
    for edit in [Edit::Grow, Edit::Grow, Edit::Overwrite] {
        commit(&mut session, edit);
    }
    session.close();
    session
}

/// Another machine with the same bucket, and nothing open.
fn other(of: &Session, seed: u64) -> Session {
    Session::new(&FaultStore::over(Arc::clone(&of.store.inner), Plan::Never, Conduct::Honest), PATIENT, seed)
}

/// A local file that no program with the extension has written.
fn stranger(session: &mut Session, seed: u64) {
    session.local = Image::first(&mut Random::new(seed), 5);
    session.foreign(&session.local);
}

fn overwrite_state(session: &Session, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(session.state_path()).unwrap();
    change(&mut bytes);
    let file = File::options().write(true).open(session.state_path()).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
}

#[test]
fn nothing_here_and_nothing_there_is_a_fresh_database() {
    for policy in POLICIES {
        for exists in [false, true] {
            let mut session = Session::new(&store(), PATIENT, 1);
            session.config.initial_replication = policy;
            if exists {
                File::create(&session.path).unwrap();
            }
            session.open().unwrap();
            assert_eq!(session.txid(), 0);
            let sent: Vec<Operation> = session.store.requests().iter().map(|(operation, _)| *operation).collect();
            assert_eq!(sent, [Operation::List], "one LIST tells where the bucket is");
            session.finish();
        }
    }
}

#[test]
fn an_empty_or_missing_file_is_filled() {
    let session = three(2);
    for policy in POLICIES {
        for exists in [false, true] {
            let mut other = other(&session, 3);
            other.config.initial_replication = policy;
            if exists {
                File::create(&other.path).unwrap();
            }
            // Of a database that is gone.
            for suffix in ["-wal", "-shm", "-journal"] {
                fs::write(other.folder.path().join(format!("test.db{suffix}")), b"stale").unwrap();
            }
            other.open_anew().unwrap();
            assert_eq!(other.local, session.local);
            assert_eq!(other.txid(), 3);
            let mut names: Vec<_> = fs::read_dir(other.folder.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, ["test.db", "test.db-bottomless"], "nothing stale stays");
        }
    }
}

#[test]
fn an_empty_file_is_never_opened_without_the_store() {
    let session = three(2);
    for fault in [Fault::Busy, Fault::Denied, Fault::Unreachable, Fault::ReplyLost, Fault::PartialRead] {
        for at in 1..8 {
            let mut other = other(&session, 3);
            other.store.fail(Plan::From(at, fault));
            match other.open_anew() {
                Ok(()) => assert!(other.store.failed().is_empty(), "{fault:?} at {at}"),
                Err(error) => {
                    assert!(error.to_string().contains("can't be opened"), "{error}");
                    assert!(!other.path.exists(), "{fault:?} at {at}");
                    other.store.heal();
                    other.open_anew().unwrap();
                }
            }
            assert_eq!(other.local, session.local);
        }
    }
}

#[test]
fn a_file_and_an_empty_bucket_are_the_initial_replication() {
    for policy in POLICIES {
        let mut session = Session::new(&store(), PATIENT, 4);
        session.config.initial_replication = policy;
        stranger(&mut session, 4);
        session.open().unwrap();
        if policy == Skip {
            assert_eq!(session.oracle.last(), 0, "nothing is uploaded at open");
            commit(&mut session, Edit::Overwrite);
        }
        assert_eq!(session.oracle.last(), 1);
        assert_eq!(session.oracle.newest(), session.local);
        session.finish();
    }
}

#[test]
fn a_file_at_the_buckets_position_needs_one_list() {
    for policy in POLICIES {
        let mut session = three(5);
        session.config.initial_replication = policy;
        let before = session.store.requests().len();
        session.open().unwrap();
        let sent: Vec<Operation> = session.store.requests()[before..].iter().map(|(operation, _)| *operation).collect();
        assert_eq!(sent, [Operation::List]);
        assert_eq!(session.txid(), 3);
        session.finish();
    }
}

/// A page of a listing has 1,000 objects, and the log here more.
#[test]
fn a_long_log_takes_three_lists_to_fill_a_file_and_one_to_open_it_again() {
    let session = three(51);
    session.oracle.go_on(4, 2150);
    session.oracle.snapshot(2100);

    let mut filled = other(&session, 52);
    filled.open_anew().unwrap();
    assert_eq!(filled.store.lists(), 3);
    assert_eq!(filled.local, session.oracle.at(2150));
    commit(&mut filled, Edit::Overwrite);
    filled.close();
    let before = filled.store.lists();
    filled.open().unwrap();
    assert_eq!(filled.store.lists(), before + 1);
    filled.finish();

    let mut behind = session;
    behind.open_anew().unwrap();
    assert_eq!(behind.local, behind.oracle.newest());
}

/// The middle of a long log is listed only where nothing else tells where the local file is.
#[test]
fn a_long_log_is_compared_with_in_few_lists() {
    let first = three(53);
    first.oracle.go_on(4, 2000);
    let mut middle = other(&first, 54);
    middle.open_anew().unwrap();
    middle.close();
    first.oracle.go_on(2001, 6150);
    first.oracle.snapshot(6100);
    let mut last = other(&first, 55);
    last.open_anew().unwrap();
    last.close();
    // By a program that changed nothing, as far as one can see.
    last.foreign(&last.local);

    for (mut session, expected) in [(first, 3 + 3), (middle, 3 + 3 + 3), (last, 1 + 3)] {
        let before = session.store.lists();
        session.open_anew().unwrap();
        assert_eq!(session.store.lists() - before, expected);
        assert_eq!((&session.local, session.txid()), (&session.oracle.newest(), 6150));
        session.close();
        session.open().unwrap();
        session.close();
    }
}

#[test]
fn a_file_without_local_state_is_found_in_the_middle_of_a_long_log() {
    let session = three(56);
    session.oracle.go_on(4, 2150);
    session.oracle.snapshot(2100);
    let mut unknown = other(&session, 57);
    unknown.foreign(&session.oracle.at(1500));
    unknown.open_anew().unwrap();
    assert_eq!((&unknown.local, unknown.txid()), (&session.oracle.at(2150), 2150));
    unknown.close();

    // One that a program without the extension has changed since is behind, too, and so a conflict; at the end it is not.
    let mut image = unknown.local.edited(&mut Random::new(58), Edit::Overwrite);
    unknown.foreign(&image);
    unknown.local = image.clone();
    unknown.open().unwrap();
    assert_eq!((unknown.txid(), &unknown.oracle.newest()), (2151, &image));
    unknown.close();
    let mut behind = session;
    image = behind.local.edited(&mut Random::new(59), Edit::Overwrite);
    behind.foreign(&image);
    assert_eq!(behind.open_anew().unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_file_at_an_older_position_is_caught_up() {
    for policy in POLICIES {
        for edits in [&[Edit::Overwrite][..], &[Edit::Grow, Edit::Shrink], &[Edit::PageSize, Edit::Grow]] {
            let mut behind = three(6);
            behind.config.initial_replication = policy;
            let mut ahead = other(&behind, 7);
            ahead.open_anew().unwrap();
            edits.iter().for_each(|edit| commit(&mut ahead, *edit));
            behind.open_anew().unwrap();
            assert_eq!(behind.local, ahead.local);
            assert_eq!(behind.txid(), ahead.txid());
            commit(&mut behind, Edit::Overwrite);
            behind.finish();
        }
    }
}

#[test]
fn a_change_without_the_extension_is_published() {
    for policy in POLICIES {
        for edit in [Edit::Overwrite, Edit::Grow, Edit::Shrink, Edit::Vacuum, Edit::PageSize] {
            let mut session = three(8);
            session.config.initial_replication = policy;
            session.local = session.local.edited(&mut Random::new(9), edit);
            session.foreign(&session.local);
            session.open().unwrap();
            assert_eq!(session.oracle.last(), 4, "{policy:?} {edit:?}");
            assert_eq!(session.oracle.newest(), session.local);
            session.finish();
        }
    }
}

#[test]
fn a_file_without_local_state_is_adopted_and_caught_up() {
    for policy in POLICIES {
        for txid in 1..=3 {
            let session = three(10);
            let mut other = other(&session, 11);
            other.config.initial_replication = policy;
            other.foreign(&session.acknowledged[&txid]);
            other.open_anew().unwrap();
            assert_eq!(other.local, session.local, "from TXID {txid}");
            assert_eq!(other.oracle.last(), 3, "nothing was published");
            other.finish();
        }
    }
}

#[test]
fn anything_else_is_a_conflict() {
    for policy in POLICIES {
        // With no local state; with one of another history; with a change that both sides made.
        for kind in 0..3 {
            let session = three(12);
            let mut other = other(&session, 13);
            match kind {
                0 => stranger(&mut other, 14),
                1 => {
                    // The same place in another, equally long history.
                    let mut elsewhere = three_with_other_tags(15);
                    elsewhere.store = Arc::clone(&other.store);
                    elsewhere.oracle = other.oracle;
                    elsewhere.acknowledged.clear();
                    other = elsewhere;
                }
                _ => {
                    other.open_anew().unwrap();
                    other.close();
                    let mut ahead = self::other(&session, 16);
                    ahead.open_anew().unwrap();
                    commit(&mut ahead, Edit::Overwrite);
                    other.local = other.local.edited(&mut Random::new(17), Edit::Overwrite);
                    other.foreign(&other.local);
                }
            }
            let last = session.oracle.last();
            other.config.initial_replication = policy;
            let opened = other.open();
            match policy {
                Fail => {
                    let error = opened.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{kind}: {error}");
                    for part in ["force", "skip", &format!("transaction {last:016x}")] {
                        assert!(error.to_string().contains(part), "{part}: {error}");
                    }
                    assert_eq!(other.oracle.last(), last, "nothing was uploaded");
                    assert_eq!(other.file(), other.local, "nothing was overwritten");
                    continue;
                }
                Force => assert_eq!(other.oracle.last(), last + 1),
                Skip => {
                    assert_eq!(other.oracle.last(), last, "nothing is uploaded at open");
                    commit(&mut other, Edit::Overwrite);
                    assert_eq!(other.oracle.last(), last + 1);
                }
            }
            assert_eq!(other.oracle.newest(), other.local, "{policy:?} {kind}");
            // Earlier history stays.
            session.check_acknowledged();
            // It is no conflict any more, whatever the policy.
            other.close();
            other.config.initial_replication = Fail;
            other.open().unwrap();
            other.finish();
        }
    }
}

#[test]
fn skip_commits_nothing_without_the_store() {
    let session = three(18);
    let mut other = other(&session, 19);
    other.config.initial_replication = Skip;
    other.config.timeout = Duration::from_millis(300);
    stranger(&mut other, 20);
    other.open().unwrap();
    for fault in [Fault::Unreachable, Fault::Denied, Fault::ReplyLost, Fault::Late] {
        other.store.fail(Plan::From(other.store.next_request(), fault));
        // The playback of the journal too.
        let told = other.transaction(Edit::Overwrite, End::Commit);
        assert!(matches!(told, Told::Failed(_)), "{told:?}");
    }
    other.finish();
    session.check_acknowledged();
}

#[test]
fn a_lost_or_damaged_local_state_costs_nothing() {
    let length = fs::read(three(21).state_path()).unwrap().len();
    let mut cases: Vec<(Option<usize>, bool)> = (0..length).step_by(97).map(|at| (Some(at), true)).collect();
    // Cut off there; and every byte of what is in use.
    cases.extend((0..length).step_by(173).map(|at| (Some(at), false)));
    cases.extend((4096..length).map(|at| (Some(at), true)));
    cases.extend((4090..length).map(|at| (Some(at), false)));
    cases.push((None, false));
    in_parallel(&cases, |&(at, flip)| {
        let mut session = three(21);
        match at {
            None => fs::remove_file(session.state_path()).unwrap(),
            Some(at) if flip => overwrite_state(&session, |bytes| bytes[at] ^= 1 << (at % 8)),
            Some(at) => overwrite_state(&session, |bytes| bytes.truncate(at)),
        }
        session.open().unwrap();
        assert_eq!(session.oracle.last(), 3, "nothing was published");
        for edit in [Edit::Overwrite, Edit::Grow, Edit::Shrink] {
            commit(&mut session, edit);
        }
        session.finish();
    });
}

#[test]
fn an_older_local_state_in_place_is_seen_through() {
    let mut session = Session::new(&store(), PATIENT, 22);
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    let older = fs::read(session.state_path()).unwrap();
    for edit in [Edit::Grow, Edit::Overwrite] {
        commit(&mut session, edit);
    }
    session.close();
    overwrite_state(&session, |bytes| *bytes = older);
    session.open().unwrap();
    assert_eq!(session.oracle.last(), 3);
    session.finish();
}

#[test]
fn a_copied_folder_is_a_writer_of_its_own() {
    let mut session = three(23);
    let mut copy = other(&session, 24);
    for name in ["test.db", "test.db-bottomless"] {
        fs::copy(session.folder.path().join(name), copy.folder.path().join(name)).unwrap();
    }
    session.open().unwrap();
    commit(&mut session, Edit::Overwrite);
    copy.open_anew().unwrap();
    assert_eq!(copy.local, session.local, "caught up");
    commit(&mut copy, Edit::Grow);
    assert!(matches!(session.transaction(Edit::Grow, End::Commit), Told::Failed(e) if e.kind() == ErrorKind::Fenced));
    copy.finish();
}

#[test]
fn a_copied_folder_does_not_take_over_an_open_outcome() {
    let mut session = three(25);
    session.open().unwrap();
    let told = session.transaction(Edit::Grow, End::Fail);
    assert!(matches!(told, Told::Failed(_)), "{told:?}");
    let mut copy = other(&session, 26);
    for name in ["test.db", "test.db-bottomless"] {
        fs::copy(session.folder.path().join(name), copy.folder.path().join(name)).unwrap();
    }
    // For the copy the bucket's end is the truth.
    copy.open_anew().unwrap();
    assert_eq!(copy.local, copy.oracle.newest());
    commit(&mut copy, Edit::Overwrite);
    assert!(matches!(session.transaction(Edit::Grow, End::Commit), Told::Failed(e) if e.kind() == ErrorKind::Fenced));
    session.close();
    session.open_anew().unwrap();
    assert_eq!(session.local, copy.local);
    copy.finish();
}

#[test]
fn a_crash_between_landing_and_confirmation_is_settled() {
    for committed in [false, true] {
        for edit in [Edit::Overwrite, Edit::Grow, Edit::Shrink, Edit::Vacuum, Edit::PageSize] {
            for empty in [false, true] {
                let mut session = Session::new(&store(), PATIENT, 27);
                session.open().unwrap();
                if !empty {
                    commit(&mut session, Edit::Grow);
                    commit(&mut session, Edit::Grow);
                }
                let told = session.transaction(edit, End::Crash { committed });
                assert!(matches!(told, Told::Crashed), "{told:?}");
                let last = session.oracle.last();
                session.open().unwrap();
                assert_eq!(session.oracle.last(), last, "nothing new was published");
                assert_eq!(session.local, session.oracle.newest(), "{committed} {edit:?} {empty}");
                assert_eq!(session.txid(), last);
                session.finish();
            }
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_the_pages_is_recovered() {
    let mut session = three(28);
    session.open().unwrap();
    let begun = session.db().begin_writing(None, true).unwrap();
    let next = session.local.edited(&mut Random::new(1), Edit::Grow);
    fs::write(common::host::journal(&session.path), &session.local.0).unwrap();
    session.foreign(&next);
    let _ = begun;
    session.crash();
    session.open().unwrap();
    assert_eq!(session.oracle.last(), 3, "nothing was published");
    session.finish();

    // Without a journal the bucket heals it.
    let mut session = three(29);
    session.open().unwrap();
    let _ = session.db().begin_writing(None, false).unwrap();
    let next = session.local.edited(&mut Random::new(1), Edit::Grow);
    session.foreign(&next);
    session.crash();
    session.open().unwrap();
    assert_eq!(session.oracle.last(), 3, "nothing was published");
    session.finish();
}

/// An object far behind the end, as a damaged or hostile bucket may hold: nothing is published behind the gap, and the
/// local file stays what it is.
#[test]
fn a_gap_before_the_end_of_the_bucket_is_named_and_not_continued() {
    for huge in [1_u64 << 63, u64::MAX] {
        for policy in POLICIES {
            for changed in [false, true] {
                let mut session = three(40);
                session.config.initial_replication = policy;
                block_on(async {
                    let third = "test.db/0000/0000000000000003-0000000000000003.ltx";
                    let third = session.store.inner.get(&third.into()).await.unwrap().bytes().await.unwrap();
                    let mut third = third.to_vec();
                    let mut header = Header::decode(&third).unwrap();
                    (header.min_txid, header.max_txid) = (Txid::new(huge), Txid::new(huge));
                    third[..HEADER_LENGTH].copy_from_slice(&header.encode());
                    let stray = format!("test.db/0000/{huge:016x}-{huge:016x}.ltx");
                    session.store.inner.put(&stray.into(), third.into()).await.unwrap();
                });
                let copied = session.oracle.listing().entries().len();
                if changed {
                    let next = session.local.edited(&mut Random::new(41), Edit::Overwrite);
                    session.foreign(&next);
                    session.local = next;
                }
                let before = session.file();
                let error = session.open_anew().unwrap_err();
                let text = error.to_string();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{text}");
                let gap = format!("TXIDs 0000000000000004 to {:016x}", huge - 1);
                assert!(text.contains("gap") && text.contains(&gap), "{policy:?} {changed}: {text}");
                assert_eq!(session.file(), before, "the local file is as it was");
                assert_eq!(session.oracle.listing().entries().len(), copied, "nothing is published");

                let mut other = other(&session, 42);
                assert!(other.open_anew().unwrap_err().to_string().contains(&gap));
                assert!(!other.path.exists());
            }
        }
    }
}
