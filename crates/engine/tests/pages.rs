//! The layout with an object for each page: when the log is folded into them, who is told what, and how a local file and such
//! a bucket come together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottomless_engine::ErrorKind;
use bottomless_engine::config::InitialReplication::{self, Error as Fail, Force, Skip};
use bottomless_history::{
    FoldOptions, Layout, Level, MergeOptions, Policy, Removing, RestoreOptions, Stop, UnfoldOptions,
};
use common::oracle::{ID, block_on};
use common::session::{HASTY, PATIENT};
use common::*;
use object_store::ObjectStoreExt;
use tokio::sync::Semaphore;

/// Nothing happens by itself within a test.
const NEVER: Duration = Duration::from_secs(24 * 3600);

const POLICIES: [InitialReplication; 3] = [Fail, Force, Skip];

fn store() -> Arc<FaultStore> {
    FaultStore::new(Plan::Never, Conduct::Honest)
}

/// A program that folds, though not by itself, where the layout is that of pages; it has nothing open.
fn folding(store: &Arc<FaultStore>, layout: Option<Layout>, seed: u64) -> Session {
    let mut session = Session::new(store, PATIENT, seed);
    session.config.layout = layout;
    session.config.compaction = true;
    session.config.policy = Policy { levels: [NEVER; 3], snapshot: NEVER, retention: NEVER };
    session
}

/// Another machine with the same bucket.
fn other(of: &Session, layout: Option<Layout>, seed: u64) -> Session {
    folding(&FaultStore::over(Arc::clone(&of.store.inner), Plan::Never, Conduct::Honest), layout, seed)
}

fn open(session: &mut Session) {
    session.open_anew().unwrap();
    session.db().compact_in_background(1000, None);
}

/// A closed session with three transactions, which are folded.
fn three(seed: u64) -> Session {
    let mut session = folding(&store(), Some(Layout::Pages), seed);
    open(&mut session);
    for edit in [Edit::Grow, Edit::Grow, Edit::Overwrite] {
        commit(&mut session, edit);
    }
    session.close();
    assert_folded(&session, 3);
    session
}

/// The page objects hold the local file, which is the end of the history.
#[track_caller]
fn assert_folded(session: &Session, marker: u64) {
    assert_eq!(session.oracle.markers(), [marker]);
    assert_eq!(session.oracle.concatenated(), session.file());
}

/// Files of the local database that were put aside.
fn kept_aside(session: &Session) -> usize {
    let names = fs::read_dir(session.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains("-bottomless-lost-")).count()
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 seconds");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn when_a_close_returns_the_page_objects_are_the_local_file() {
    let mut session = three(1);
    for (edits, marker) in [(&[Edit::Overwrite][..], 4), (&[Edit::Grow, Edit::Shrink], 6), (&[Edit::PageSize], 7)] {
        open(&mut session);
        assert_eq!(session.status()["layout"], "pages");
        for edit in edits {
            commit(&mut session, *edit);
        }
        session.close();
        assert_folded(&session, marker);
    }
    let above = |level| session.oracle.listing().merged().iter().any(|entry| entry.name.level != level);
    assert!(!above(Level::PAGES), "neither compacted runs nor snapshots");
    // Nobody has committed.
    open(&mut session);
    let before = session.store.next_request();
    session.close();
    assert_eq!(session.store.next_request(), before);
    session.finish();
}

#[test]
fn a_flush_folds_and_a_close_after_it_has_nothing_to_do() {
    let mut session = folding(&store(), Some(Layout::Pages), 2);
    open(&mut session);
    session.db().flush().unwrap();
    assert!(session.oracle.listing().is_empty(), "there is nothing to fold");
    for edit in [Edit::Grow, Edit::Overwrite, Edit::Shrink] {
        commit(&mut session, edit);
        session.db().flush().unwrap();
        assert_folded(&session, session.txid());
    }
    let before = session.store.next_request();
    session.close();
    assert_eq!(session.store.next_request(), before);
    session.finish();
}

#[test]
fn with_compaction_off_a_flush_folds_and_a_close_does_not() {
    let mut session = folding(&store(), Some(Layout::Pages), 3);
    session.config.compaction = false;
    session.open().unwrap();
    commit(&mut session, Edit::Grow);
    session.db().flush().unwrap();
    assert_folded(&session, 1);
    commit(&mut session, Edit::Grow);
    session.close();
    assert_eq!(session.oracle.markers(), [1]);
    session.config.compaction = true;
    open(&mut session);
    // It was on demand: now it is served in the background as well.
    session.db().flush().unwrap();
    commit(&mut session, Edit::Grow);
    session.close();
    assert_folded(&session, 3);
}

#[test]
fn what_is_committed_is_folded_in_the_background() {
    let mut session = folding(&store(), Some(Layout::Pages), 4);
    session.config.policy.levels[0] = Duration::from_millis(20);
    open(&mut session);
    for edit in [Edit::Grow, Edit::Grow, Edit::Shrink] {
        commit(&mut session, edit);
        let last = session.txid();
        wait_until("it is folded", || session.oracle.markers() == [last]);
        assert_folded(&session, last);
    }
    assert_eq!(session.status()["compacted_txid"], session.txid());
    session.finish();
}

#[test]
fn in_the_other_layout_a_flush_merges_what_is_due() {
    for compaction in [true, false] {
        let mut session = folding(&store(), None, 5);
        session.config.compaction = compaction;
        // Due at once, and looked at by nobody: its first pass is an interval away.
        session.config.policy.levels[0] = Duration::from_millis(500);
        session.open().unwrap();
        for _ in 0..3 {
            commit(&mut session, Edit::Overwrite);
        }
        let merged =
            |session: &Session| session.oracle.listing().merged().iter().map(|entry| entry.name.max.get()).max();
        wait_until("a flush merges", || {
            session.db().flush().unwrap();
            merged(&session) == Some(3)
        });
        assert_eq!(session.status()["layout"], "ltx");
        assert_eq!(session.oracle.pages(), []);
        session.finish();
    }
}

#[test]
fn without_the_store_a_flush_fails_and_a_close_gives_up() {
    let mut session = three(6);
    session.config.timeout = HASTY;
    open(&mut session);
    commit(&mut session, Edit::Overwrite);
    session.store.fail(Plan::From(1, Fault::Unreachable));
    let error = session.db().flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(ID), "{error}");
    session.close();
    session.store.heal();
    assert_eq!(session.oracle.markers(), [3]);
    assert_eq!(session.oracle.newest(), session.local, "it is in the log");
    session.config.timeout = PATIENT;
    open(&mut session);
    session.db().flush().unwrap();
    assert_folded(&session, 4);
    session.finish();
}

/// A claim of a machine.
fn claim(machine: u64) -> String {
    format!("{ID}/pages/claim-{machine:016x}-{:016x}", 7)
}

/// A program that only reads, with a fold in the background whose first page is held on its way.
fn folding_behind_a_gate(seed: u64, timeout: Duration) -> (Session, Arc<Semaphore>) {
    let mut session = three(seed);
    session.config.compaction = false;
    open(&mut session);
    commit(&mut session, Edit::Overwrite);
    session.close();
    session.config.compaction = true;
    session.config.policy.levels[0] = Duration::from_millis(20);
    session.config.timeout = timeout;
    let gate = session.store.hold(&format!("{ID}-"));
    let before = session.store.requests().len();
    open(&mut session);
    let is_page = |(operation, key): &(Operation, String)| *operation == Operation::Put && key.starts_with("test.db-");
    wait_until("a page is on its way", || session.store.requests()[before..].iter().any(is_page));
    assert_eq!(session.oracle.listing().claims().len(), 1);
    (session, gate)
}

#[test]
fn a_close_lets_a_fold_give_up_its_claim() {
    let (mut session, gate) = folding_behind_a_gate(30, PATIENT);
    let (closed, close) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // A close that waits for nothing has returned long before; if it is only slow to begin, nothing is shown.
        scope.spawn(move || {
            let _ = close.recv_timeout(Duration::from_millis(100));
            gate.close();
        });
        session.close();
        let claims = session.oracle.listing().claims().len();
        drop(closed);
        assert_eq!(claims, 0);
    });
    // Another machine need not wait.
    let mut other = other(&session, None, 31);
    open(&mut other);
    other.db().flush().unwrap();
    assert_folded(&other, 4);
    other.finish();
}

#[test]
fn a_close_does_not_wait_longer_than_the_timeout_for_a_fold() {
    let (mut session, gate) = folding_behind_a_gate(32, HASTY);
    session.close();
    assert_ne!(session.oracle.listing().claims(), [], "the page may still arrive");
    gate.close();
}

#[test]
fn while_another_machine_folds_a_flush_says_so_and_a_close_leaves_it() {
    let mut session = three(7);
    open(&mut session);
    commit(&mut session, Edit::Overwrite);
    session.oracle.put(&claim(1), Vec::new());
    let error = session.db().flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("another machine is folding"), "{error}");
    session.close();
    assert_eq!(session.oracle.markers(), [3]);
    block_on(session.store.inner.delete(&claim(1).as_str().into())).unwrap();
    open(&mut session);
    session.db().flush().unwrap();
    assert_folded(&session, 4);
    session.finish();
}

/// The number stays with the local state: what this machine has left when it died holds nobody up, though there is no marker
/// before its claim is old.
#[test]
fn what_a_process_of_this_machine_left_behind_does_not_keep_it_from_folding() {
    let mut session = three(8);
    let mut number = [0; 8];
    fs::File::open(session.state_path()).unwrap().read_exact_at(&mut number, 1536 + 40).unwrap();
    session.oracle.put(&claim(u64::from_le_bytes(number)), Vec::new());
    open(&mut session);
    commit(&mut session, Edit::Grow);
    session.db().flush().unwrap();
    assert_eq!(session.oracle.concatenated(), session.local);
    assert_eq!(session.oracle.markers(), [3], "not yet");
    session.close();
    assert_eq!(session.oracle.newest(), session.local);
    let mut filled = other(&session, None, 9);
    open(&mut filled);
    assert_eq!(filled.local, session.local);
}

#[test]
fn two_machines_write_in_turn() {
    let mut a = three(10);
    // The layout is that of the bucket.
    let mut b = other(&a, None, 11);
    for round in 0..3 {
        open(&mut b);
        assert_eq!((&b.local, b.status()["layout"].as_str()), (&a.local, Some("pages")), "{round}");
        commit(&mut b, Edit::Grow);
        b.close();
        assert_folded(&b, 4 + 2 * round);
        open(&mut a);
        assert_eq!(a.local, b.local, "{round}");
        commit(&mut a, Edit::Shrink);
        a.close();
        assert_folded(&a, 5 + 2 * round);
    }
    assert_eq!(kept_aside(&a) + kept_aside(&b), 0);
}

/// A program that had the database open before there was a marker, and was told of no layout.
#[test]
fn who_finds_that_another_machine_has_begun_to_fold_folds() {
    let mut a = folding(&store(), None, 18);
    open(&mut a);
    commit(&mut a, Edit::Grow);
    a.db().flush().unwrap();
    assert_eq!((a.status()["layout"].as_str(), a.oracle.pages()), (Some("ltx"), vec![]));
    commit(&mut a, Edit::Grow);
    a.oracle.fold(1);
    a.db().flush().unwrap();
    assert_folded(&a, 2);
    assert_eq!(a.status()["layout"], "pages");
    commit(&mut a, Edit::Shrink);
    a.close();
    assert_folded(&a, 3);
}

#[test]
fn a_layout_that_the_bucket_does_not_have_is_refused() {
    let folded = three(12);
    let mut merged = folding(&store(), None, 13);
    open(&mut merged);
    commit(&mut merged, Edit::Grow);
    merged.oracle.snapshot(1);
    merged.close();
    for (mut session, has, says) in [(folded, "pages", Layout::Ltx), (merged, "ltx", Layout::Pages)] {
        for policy in POLICIES {
            let mut fresh = other(&session, Some(says), 14);
            session.config.layout = Some(says);
            for session in [&mut session, &mut fresh] {
                session.config.initial_replication = policy;
                let before = session.oracle.listing();
                let error = session.open_anew().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
                let error = error.to_string();
                for part in
                    [ID, &format!("layout {has}"), &format!("layout={says}"), &format!("convert -d {ID} --to {says}")]
                {
                    assert!(error.contains(part), "{part}: {error}");
                }
                assert_eq!(session.oracle.listing(), before);
            }
            assert!(!fresh.path.exists());
        }
    }
}

/// The keys of PUTs, from a request on, but for those of the probe.
fn put_since(session: &Session, before: usize) -> Vec<String> {
    let requests = session.store.requests().split_off(before);
    let puts = requests.into_iter().filter(|(operation, _)| *operation == Operation::Put).map(|(_, key)| key);
    puts.filter(|key| !key.contains("/probe-")).collect()
}

#[test]
fn the_layout_is_declared_before_the_first_transaction() {
    let log = |txid| format!("{ID}/0000/{txid:016x}-{txid:016x}.ltx");
    for layout in [None, Some(Layout::Ltx), Some(Layout::Pages)] {
        for is_empty in [true, false] {
            let mut session = folding(&store(), layout, 50);
            session.config.compaction = false;
            if !is_empty {
                // It is published at open.
                session.foreign(&Image::first(&mut Random::new(51), 5));
                session.local = session.file();
            }
            session.open().unwrap();
            commit(&mut session, Edit::Grow);
            commit(&mut session, Edit::Grow);
            let mut expected: Vec<String> = (1..=session.txid()).map(log).collect();
            if layout == Some(Layout::Pages) {
                expected.insert(0, format!("{ID}/pages/layout"));
            }
            assert_eq!(put_since(&session, 0), expected, "{layout:?} {is_empty}");
            assert_eq!(session.oracle.listing().layout(), layout.unwrap_or(Layout::Ltx));
            session.finish();
        }
    }
}

/// Nobody has folded yet: there is a log, and the declaration.
#[test]
fn another_machine_goes_by_the_declared_layout() {
    let mut a = folding(&store(), Some(Layout::Pages), 52);
    a.config.compaction = false;
    open(&mut a);
    commit(&mut a, Edit::Grow);
    a.close();
    assert!(a.oracle.markers().is_empty());
    let mut refused = other(&a, Some(Layout::Ltx), 53);
    let error = refused.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains(&format!("convert -d {ID} --to ltx")), "{error}");
    let mut b = other(&a, None, 54);
    open(&mut b);
    assert_eq!(b.status()["layout"], "pages");
    commit(&mut b, Edit::Grow);
    b.db().flush().unwrap();
    assert_folded(&b, 2);
    b.finish();
    open(&mut a);
    a.finish();
}

#[test]
fn a_declaration_without_a_transaction_is_no_database() {
    for (layout, is_let) in [(Some(Layout::Pages), true), (None, true), (Some(Layout::Ltx), false)] {
        let mut dead = folding(&store(), Some(Layout::Pages), 55);
        dead.config.timeout = HASTY;
        dead.open().unwrap();
        let before = dead.store.next_request();
        // The probe's requests and the declaration, and nothing behind them.
        let of_probe = {
            let mut other = folding(&store(), None, 55);
            other.open().unwrap();
            let before = other.store.next_request();
            commit(&mut other, Edit::Grow);
            other.store.next_request() - before - 1
        };
        dead.store.fail(Plan::From(before + of_probe + 1, Fault::Unreachable));
        let told = dead.transaction(Edit::Grow, End::Commit);
        assert!(matches!(&told, Told::Failed(error) if error.kind() == ErrorKind::Unavailable), "{told:?}");
        let listing = dead.oracle.listing();
        assert!(listing.is_empty() && listing.declaration().is_some());
        let mut session = other(&dead, layout, 56);
        let opened = session.open();
        assert_eq!(opened.is_ok(), is_let, "{layout:?}");
        if is_let {
            session.db().compact_in_background(1000, None);
            commit(&mut session, Edit::Grow);
            session.close();
            assert_folded(&session, 1);
        }
    }
}

/// As `bottomless-cli convert --to ltx` does.
fn unfold(session: &Session) {
    let options = UnfoldOptions {
        merge: MergeOptions::new(session.folder.path()),
        restore: RestoreOptions::default(),
        removing: Removing::default(),
        machine: 0xc11,
        force: false,
    };
    block_on(session.oracle.history().unfold(&options)).unwrap();
}

#[test]
fn who_has_a_database_open_goes_by_what_it_is_converted_to() {
    for layout in [None, Some(Layout::Pages)] {
        let mut session = three(57);
        session.config.layout = layout;
        open(&mut session);
        commit(&mut session, Edit::Grow);
        session.db().flush().unwrap();
        assert_folded(&session, 4);

        unfold(&session);
        commit(&mut session, Edit::Overwrite);
        session.db().flush().unwrap();
        assert_eq!((session.status()["layout"].as_str(), session.oracle.pages()), (Some("ltx"), vec![]));
        assert_eq!(session.oracle.listing().layout(), Layout::Ltx);
        assert_eq!(session.oracle.newest(), session.local);

        let (merge, machine) = (MergeOptions::new(session.folder.path()), 0xc11);
        let options = FoldOptions { merge, machine, is_fenced: true, converts: true, stop: Stop::default() };
        block_on(session.oracle.history().fold(&options)).unwrap();
        commit(&mut session, Edit::Overwrite);
        session.db().flush().unwrap();
        assert_folded(&session, 6);
        assert_eq!(session.status()["layout"], "pages");

        // And where the close is the first to find it.
        unfold(&session);
        commit(&mut session, Edit::Shrink);
        session.close();
        assert_eq!((session.oracle.markers(), session.oracle.pages()), (vec![], vec![]));
        assert_eq!(session.oracle.newest(), session.local);
    }
}

#[test]
fn a_log_alone_is_of_either_layout() {
    for says in [None, Some(Layout::Ltx), Some(Layout::Pages)] {
        let mut session = folding(&store(), None, 15);
        session.open().unwrap();
        commit(&mut session, Edit::Grow);
        assert_eq!(session.status()["layout"], "ltx");
        session.close();
        assert_eq!(session.oracle.listing().merged(), []);
        session.config.layout = says;
        open(&mut session);
        let layout = says.unwrap_or(Layout::Ltx);
        assert_eq!(session.status()["layout"], layout.to_string());
        commit(&mut session, Edit::Grow);
        session.close();
        match layout {
            Layout::Pages => assert_folded(&session, 2),
            Layout::Ltx => assert_eq!(session.oracle.pages(), []),
        }
        session.finish();
    }
}

#[test]
fn page_objects_without_a_history_are_not_written_over() {
    let strangers =
        ["test.db-0", "test.db-000000000001-000000000001", "test.db-00000000000x", "test.db-000000000001/0000/x"];
    for (policy, is_empty) in POLICIES.into_iter().flat_map(|policy| [true, false].map(|is_empty| (policy, is_empty))) {
        let mut session = folding(&store(), Some(Layout::Pages), 16);
        session.config.initial_replication = policy;
        if !is_empty {
            session.foreign(&Image::first(&mut Random::new(17), 5));
        }
        session.local = session.file();
        for key in strangers {
            session.oracle.put(key, b"of another database".to_vec());
        }
        session.oracle.put("test.db-000000000007", b"a page".to_vec());
        let error = session.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("page objects") && error.to_string().contains(ID), "{error}");
        assert!(session.oracle.listing().is_empty());
        block_on(session.store.inner.delete(&"test.db-000000000007".into())).unwrap();
        open(&mut session);
        commit(&mut session, Edit::Overwrite);
        session.close();
        assert_folded(&session, session.oracle.last());
        for key in strangers {
            let object = block_on(session.store.inner.get(&key.into())).unwrap();
            assert_eq!(&block_on(object.bytes()).unwrap()[..], b"of another database");
        }
    }
}

/// What the bucket has where a machine comes to it that was at transaction 3: the log goes on to 5, and the page objects are
/// at this transaction. Of the log, what is up to this one has gone.
fn went_on(seed: u64, marker: u64, gone: u64) -> (Session, Session) {
    let a = three(seed);
    let mut b = other(&a, None, seed + 1);
    b.config.compaction = false;
    open(&mut b);
    commit(&mut b, Edit::Grow);
    commit(&mut b, Edit::Overwrite);
    b.close();
    if marker > 3 {
        b.oracle.fold(marker);
    }
    b.oracle.delete_log(gone);
    (a, b)
}

/// Where the marker is, and up to where the log has gone.
const BUCKETS: [(u64, u64); 7] = [(3, 0), (3, 3), (4, 0), (4, 3), (5, 0), (5, 4), (5, 5)];

#[test]
fn an_empty_file_is_filled_from_page_objects_and_the_log() {
    for ((marker, gone), policy) in BUCKETS.into_iter().flat_map(|bucket| POLICIES.map(|policy| (bucket, policy))) {
        let (_, b) = went_on(20, marker, gone);
        let mut fresh = other(&b, Some(Layout::Pages), 22);
        fresh.config.initial_replication = policy;
        open(&mut fresh);
        assert_eq!((&fresh.local, fresh.txid()), (&b.local, 5), "{marker} {gone}");
        fresh.close();
        open(&mut fresh);
        commit(&mut fresh, Edit::Overwrite);
        fresh.close();
        assert_folded(&fresh, 6);
    }
}

#[test]
fn a_file_at_an_older_position_is_caught_up_or_restored_anew() {
    for ((marker, gone), policy) in BUCKETS.into_iter().flat_map(|bucket| POLICIES.map(|policy| (bucket, policy))) {
        let (mut a, b) = went_on(24, marker, gone);
        a.config.initial_replication = policy;
        open(&mut a);
        assert_eq!((&a.local, a.txid()), (&b.local, 5), "{marker} {gone}");
        // With the log behind it gone, nothing proves that the bucket continues the local file.
        assert_eq!(kept_aside(&a), usize::from(gone > 3), "{marker} {gone}");
        a.acknowledged.clear();
        commit(&mut a, Edit::Grow);
        a.close();
        assert_folded(&a, 6);
    }
}

#[test]
fn a_file_without_local_state_is_adopted() {
    for (marker, gone) in BUCKETS {
        let (a, b) = went_on(28, marker, gone);
        for (of, txid) in [(&a, 3), (&b, 5)] {
            let is_there = txid == 5 || gone <= 3;
            let mut copy = other(&b, None, 30);
            copy.foreign(&of.local);
            match copy.open_anew() {
                Ok(()) => assert_eq!((&copy.local, copy.txid()), (&b.local, 5), "{marker} {gone}"),
                Err(error) => {
                    assert!(!is_there, "{marker} {gone} {txid}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                }
            }
            assert_eq!(kept_aside(&copy), 0);
        }
    }
}

#[test]
fn another_file_is_a_conflict_that_the_policy_decides() {
    for ((marker, gone), policy) in BUCKETS.into_iter().flat_map(|bucket| POLICIES.map(|policy| (bucket, policy))) {
        let (_, b) = went_on(32, marker, gone);
        let mut stranger = other(&b, None, 34);
        stranger.config.initial_replication = policy;
        stranger.local = Image::first(&mut Random::new(35), 9);
        stranger.foreign(&stranger.local);
        let opened = stranger.open();
        assert_eq!(
            opened.as_ref().map_err(bottomless_engine::Error::kind).err(),
            (policy == Fail).then_some(ErrorKind::Conflict)
        );
        if policy == Fail {
            assert_eq!(stranger.oracle.newest(), b.local);
            continue;
        }
        assert_eq!(stranger.oracle.last(), if policy == Force { 6 } else { 5 }, "{marker} {gone}");
        stranger.db().compact_in_background(1000, None);
        commit(&mut stranger, Edit::Overwrite);
        stranger.close();
        assert_folded(&stranger, stranger.oracle.last());
        assert_eq!(stranger.oracle.newest(), stranger.local);
    }
}

#[test]
fn a_file_that_was_changed_without_the_extension_is_published() {
    for (marker, gone) in BUCKETS {
        let (_, mut b) = went_on(36, marker, gone);
        b.local = b.local.edited(&mut Random::new(37), Edit::Overwrite);
        b.foreign(&b.local);
        b.open().unwrap();
        assert_eq!(b.oracle.last(), 6, "{marker} {gone}");
        b.db().flush().unwrap();
        assert_folded(&b, 6);
    }
}

/// The listing of an open is all that a program needs that comes back to what it has left.
#[test]
fn an_open_at_the_end_is_one_request_as_long_as_the_log_has_it() {
    let mut session = three(40);
    let before = session.store.requests().len();
    session.open().unwrap();
    let sent: Vec<Operation> = session.store.requests()[before..].iter().map(|(operation, _)| *operation).collect();
    assert_eq!(sent, [Operation::List]);
}
