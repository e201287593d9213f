//! A history that another program wrote, as Litestream does: its objects name no database checksum of ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs;
use std::sync::Arc;

use bottomless_engine::ErrorKind;
use bottomless_engine::config::InitialReplication::{Error as Fail, Force, Skip};
use bottomless_history::{Level, MergeOptions, ObjectName};
use bottomless_ltx::{Encoder, HEADER_LENGTH, Txid, WriterId};
use common::oracle::block_on;
use common::session::PATIENT;
use common::*;

/// A closed session with four transactions, which the bucket holds as Litestream would: all objects without our checksums,
/// some merged, and of the log only the end.
fn replicated(seed: u64) -> Session {
    let mut session = Session::new(&FaultStore::new(Plan::Never, Conduct::Honest), PATIENT, seed);
    session.open().unwrap();
    for edit in [Edit::Grow, Edit::Grow, Edit::Shrink, Edit::Overwrite] {
        commit(&mut session, edit);
    }
    session.close();
    let merged = |level: u8, min, max| (Level::new(level).unwrap(), min, max);
    // The content of all is taken before anything is replaced.
    let objects = [(Level::SNAPSHOT, 1, 2), merged(1, 3, 4), (Level::LOG, 3, 3), (Level::LOG, 4, 4)];
    let objects: Vec<_> = objects.map(|object| foreign(&session, object)).into();
    session.oracle.delete_log(4);
    for (key, bytes) in objects {
        session.oracle.put(&key, bytes);
    }
    fs::remove_file(session.state_path()).unwrap();
    // Those before can't be restored any more.
    session.acknowledged.retain(|txid, _| *txid == 4);
    session
}

/// An object of that level with these transactions of the log, as Litestream writes it.
fn foreign(session: &Session, (level, min, max): (Level, u64, u64)) -> (String, Vec<u8>) {
    let history = session.oracle.history();
    let image = session.oracle.at(max);
    let mut header = block_on(history.header(ObjectName::log(Txid::new(max)))).unwrap();
    (header.min_txid, header.writer, header.database) = (Txid::new(min), WriterId(0), None);
    let mut encoder = Encoder::new(image.page_size());
    let mut bytes = vec![0; HEADER_LENGTH];
    let touched: Vec<_> =
        (min..=max).flat_map(|txid| block_on(history.pages(ObjectName::log(Txid::new(txid)))).unwrap()).collect();
    for (number, page) in image.pages().filter(|(number, _)| min == 1 || touched.contains(number)) {
        encoder.encode_page(number, page, &mut bytes).unwrap();
    }
    let finished = encoder.finish(&header, &mut bytes).unwrap();
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    let name = ObjectName { level, min: Txid::new(min), max: Txid::new(max) };
    (name.key(history.id()), bytes)
}

/// Another machine with the same bucket, and nothing open.
fn other(of: &Session, seed: u64) -> Session {
    Session::new(&FaultStore::over(Arc::clone(&of.store.inner), Plan::Never, Conduct::Honest), PATIENT, seed)
}

fn gets(session: &Session, from: usize) -> usize {
    session.store.requests()[from..].iter().filter(|(operation, _)| *operation == Operation::Get).count()
}

#[test]
fn an_empty_file_is_filled_and_the_history_goes_on() {
    let old = replicated(1);
    let mut new = other(&old, 2);
    new.open_anew().unwrap();
    assert_eq!((&new.local, new.txid()), (&old.local, 4));
    for edit in [Edit::Overwrite, Edit::Grow] {
        commit(&mut new, edit);
    }
    assert_eq!(new.oracle.last(), 6);
    new.close();
    new.open().unwrap();
    assert_eq!((new.oracle.at(4), new.oracle.at(6)), (old.local, new.local.clone()));
    new.finish();
}

/// The local file that was replicated: found to be the end of the history, and not uploaded again.
#[test]
fn the_local_file_is_found_at_the_end_of_the_history() {
    let mut session = replicated(3);
    session.open().unwrap();
    assert_eq!((session.txid(), session.oracle.last()), (4, 4), "nothing is published");
    session.close();
    // From now on one LIST does again, as long as nothing is committed and when something was.
    for round in 0..2 {
        let from = session.store.requests().len();
        session.open().unwrap();
        assert_eq!(gets(&session, from), 0, "{round}: {:?}", &session.store.requests()[from..]);
        commit(&mut session, Edit::Overwrite);
        assert_eq!(session.oracle.last(), 5 + round);
        session.close();
    }
    session.open().unwrap();
    session.finish();
}

/// Its objects are merged and deleted before anything was committed here: the local file is still at the end.
#[test]
fn the_end_is_found_again_after_its_object_was_merged_away() {
    for with_change in [false, true] {
        let mut session = replicated(4);
        session.open().unwrap();
        session.close();
        session.oracle.delete_log(4);
        // And what merged it is made again: nothing of what this machine knows is there.
        let history = session.oracle.history();
        for entry in session.oracle.listing().entries() {
            let key = entry.name.key(history.id());
            session.oracle.put(&key, block_on(history.bucket().get(&key)).unwrap().into());
        }
        if with_change {
            // By a program without the extension, too.
            let next = session.local.edited(&mut Random::new(5), Edit::Overwrite);
            session.foreign(&next);
            session.local = next;
        }
        session.open().unwrap();
        assert_eq!(session.txid(), if with_change { 5 } else { 4 });
        session.close();
        let from = session.store.requests().len();
        session.open().unwrap();
        assert_eq!(gets(&session, from), 0, "it was downloaded to compare once");
        session.finish();
    }
}

/// The local file is at Litestream's end, and the bucket went on by our rules: the next object tells.
#[test]
fn the_local_file_is_found_behind_a_history_that_went_on() {
    for with_log in [true, false] {
        let mut session = replicated(6);
        let mut new = other(&session, 7);
        new.open_anew().unwrap();
        for edit in [Edit::Grow, Edit::Overwrite] {
            commit(&mut new, edit);
        }
        new.close();
        if !with_log {
            session.oracle.delete_log(4);
        }
        session.open_anew().unwrap();
        assert_eq!((&session.local, session.txid()), (&new.local, 6));
        commit(&mut session, Edit::Overwrite);
        session.finish();
    }
}

/// A local file that is not the end of the history is a conflict, as ever, and the message names the other program.
#[test]
fn another_local_file_is_a_conflict() {
    let mut session = replicated(8);
    let ahead = session.local.edited(&mut Random::new(9), Edit::Overwrite);
    session.foreign(&ahead);
    session.local = ahead.clone();
    let error = session.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    for part in ["litestream replicate -once", "ends at transaction 0000000000000004", "INITIAL_REPLICATION=force"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(session.oracle.last(), 4, "nothing is published");
    let names: Vec<_> = fs::read_dir(session.path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("fill")), "{names:?}");
    for policy in [Force, Skip] {
        session.config.initial_replication = policy;
        session.open().unwrap();
        if policy == Force {
            assert_eq!(session.oracle.newest(), ahead);
        }
        session.close();
    }
    session.open().unwrap();
    commit(&mut session, Edit::Overwrite);
    session.finish();
    // Who was at Litestream's end finds out that this one took its place.
    let mut old = other(&session, 10);
    old.local = session.oracle.at(4);
    old.foreign(&old.local);
    old.open_anew().unwrap();
    assert_eq!(old.local, session.local);
}

/// Compaction merges its objects with ours: the result restores as before, and a local file still finds itself there.
#[test]
fn compaction_merges_its_objects_with_ours() {
    for merged in [(1, 5, 6), (2, 3, 6), (9, 1, 6), (9, 1, 4)] {
        let mut session = replicated(16);
        session.open().unwrap();
        for edit in [Edit::Grow, Edit::Shrink] {
            commit(&mut session, edit);
        }
        session.close();
        let (level, min, max) = merged;
        let name = ObjectName { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
        let options = MergeOptions::new(session.path.parent().unwrap());
        let listing = session.oracle.listing();
        block_on(session.oracle.history().merge(&listing, name, &options)).unwrap();
        session.oracle.delete_log(max);
        session.acknowledged.retain(|txid, _| *txid == max);
        assert_eq!(session.oracle.newest(), session.local, "{merged:?}");
        // Of one that knows where it is, and of one that does not.
        for is_known in [true, false] {
            if !is_known {
                fs::remove_file(session.state_path()).unwrap();
            }
            session.open().unwrap();
            assert_eq!(session.txid(), 6, "{merged:?}");
            session.close();
        }
        session.finish();
    }
}

/// While another program has the local file open it may be the one that replicates it.
#[test]
fn a_local_file_that_is_in_use_is_not_taken_over() {
    let mut session = replicated(11);
    session.is_in_use = true;
    let error = session.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("stop litestream"), "{error}");
    // Nor is one that was opened and filled here, as long as nothing was committed.
    let mut filled = other(&session, 17);
    filled.open_anew().unwrap();
    for session in [&mut session, &mut filled] {
        session.is_in_use = false;
        session.config.initial_replication = Fail;
        if session.database.is_none() {
            session.open().unwrap();
        }
        session.close();
        session.is_in_use = true;
        assert_eq!(session.open().unwrap_err().kind(), ErrorKind::Busy);
    }
    session.is_in_use = false;
    session.open().unwrap();
    commit(&mut session, Edit::Overwrite);
    session.close();
    // What is ours may be used by others, and costs no look at who wrote it.
    session.is_in_use = true;
    let from = session.store.requests().len();
    session.open().unwrap();
    assert_eq!(gets(&session, from), 0);
    session.close();
    session.foreign(&session.local);
    let from = session.store.requests().len();
    session.open().unwrap();
    assert!(session.store.requests()[from..].iter().all(|(_, key)| !key.ends_with("5.ltx")), "nor where it compares");
    session.finish();
}

/// Litestream was started again behind transactions of ours, and still runs.
#[test]
fn a_local_file_that_is_replicated_again_is_not_taken_over() {
    let mut session = replicated(18);
    session.open().unwrap();
    commit(&mut session, Edit::Overwrite);
    session.close();
    let next = session.local.edited(&mut Random::new(19), Edit::Overwrite);
    let mut writer = other(&session, 20);
    writer.open_anew().unwrap();
    let old = writer.local.clone();
    assert_eq!(old, session.local);
    assert!(matches!(writer.write(next.clone(), End::Commit), Told::Committed));
    writer.close();
    let (key, bytes) = foreign(&writer, (Level::LOG, 6, 6));
    session.oracle.put(&key, bytes);
    // The local file is what it has replicated, or what it will replicate next, or the one before.
    let ahead = next.edited(&mut Random::new(21), Edit::Grow);
    for local in [&next, &ahead, &old] {
        session.foreign(local);
        session.local = local.clone();
        session.is_in_use = true;
        let error = session.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("stop litestream"), "{error}");
        assert_eq!(session.oracle.last(), 6, "nothing is published");
    }
    session.is_in_use = false;
    session.open_anew().unwrap();
    assert_eq!((&session.local, session.txid()), (&next, 6));
    session.acknowledged.clear();
    commit(&mut session, Edit::Overwrite);
    session.finish();
}

/// A replica of Litestream 0.3 is no empty place.
#[test]
fn a_replica_of_the_old_format_is_refused() {
    for exists in [false, true] {
        let mut session = Session::new(&FaultStore::new(Plan::Never, Conduct::Honest), PATIENT, 12);
        if exists {
            session.local = Image::first(&mut Random::new(13), 5);
            session.foreign(&session.local);
        }
        let key = format!("{}/generations/93f2bd7b9c1e6a04/snapshots/00000000.snapshot.lz4", common::oracle::ID);
        session.oracle.put(&key, b"old".to_vec());
        for policy in [Force, Skip] {
            session.config.initial_replication = policy;
            let error = session.open().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            for part in ["Litestream 0.3", "litestream restore", "bottomless-cli import"] {
                assert!(error.to_string().contains(part), "{error}");
            }
            assert!(session.oracle.listing().is_empty(), "nothing is published");
        }
    }
    // Beside a history it does no harm.
    let mut session = replicated(14);
    session.oracle.put(&format!("{}/generations/x", common::oracle::ID), b"old".to_vec());
    session.open().unwrap();
    session.close();
    fs::remove_file(session.state_path()).unwrap();
    session.open().unwrap();
    session.finish();
}
