//! Folds that nothing disturbs.

use std::collections::BTreeMap;
use std::time::Duration;

use bottomless_ltx::{Checksum, DatabaseChecksums, Header, PageSize, Txid, WriterId};
use bottomless_store::{Bucket, Location, Transport};
use bytes::Bytes;

use super::net::Port;
use super::support::{Change, Timeline, encode, name, put_object, run};
use super::world::*;
use crate::History;
use crate::pages::encode_marker;

#[test]
fn page_objects_are_the_database() {
    let changes = [
        write(&[], 40, 1),
        write(&[3, 7], 2, 2),
        Change::Shrink { to: 9, seed: 3 },
        write(&[4], 30, 4),
        Change::Rewrite { page_size: 1024, pages: 20, seed: 5 },
        write(&[1, 2, 19], 0, 6),
        Change::Rewrite { page_size: 512, pages: 60, seed: 7 },
    ];
    let timeline = Timeline::new(512, &changes);
    // Each alone, some at a time, all at once.
    for step in [1, 2, 3, 7] {
        run(|_| async {
            let port = Port::new(1);
            let mut last = 0;
            while last < timeline.last() {
                let to = (last + step).min(timeline.last());
                commit(&port, &timeline, last + 1..=to);
                let folded = fold(&port, 1).await.unwrap();
                assert_eq!((folded.txid.get(), folded.to.get(), folded.wait), (to, to, None));
                assert_folded(&port, &timeline, to);
                last = to;
            }
            let before = port.state().requests.len();
            let folded = fold(&port, 1).await.unwrap();
            assert_eq!((folded.txid.get(), folded.written), (last, 0));
            assert!(port.state().requests[before..].iter().all(|what| what.starts_with("LIST")));
        });
    }
}

/// Changes of one page, ten pages here and there, and many side by side.
#[test]
fn a_fold_takes_few_requests() {
    run(|_| async {
        let scattered: Vec<usize> = (1..11).map(|n| n * 1500).collect();
        let dense: Vec<usize> = (0..999).collect();
        let changes = [write(&[], 20_000, 1), write(&[], 0, 2), write(&scattered, 0, 3), write(&dense, 0, 4)];
        let timeline = Timeline::new(512, &changes);
        let port = Port::new(1);
        let history = history(&port);
        let (mut counts, mut gets) = (Vec::new(), Vec::new());
        for txid in 1..=timeline.last() {
            commit(&port, &timeline, txid..=txid);
            let before = port.state().requests.len();
            history.fold(&options(1)).await.unwrap();
            let requests = port.state().requests.split_off(before);
            let count = |part: &str| requests.iter().filter(|what| what.starts_with(part)).count();
            counts.push((count("PUT test.db-"), count("PUT test.db/"), count("HEAD"), count("LIST"), count("DELETE")));
            gets.push(count("GET"));
        }
        assert_folded(&port, &timeline, timeline.last());
        // The pages, the claim (and once another for the proof that it can't be replaced) and the marker; ETags; and of the
        // lists five for the claims and for what is behind the end, before and after, two for the log, two for what may be deleted.
        assert_eq!(counts, [(20_001, 3, 0, 29, 1), (1, 2, 1, 9, 2), (11, 2, 11, 9, 2), (999, 2, 0, 10, 2)]);
        // The log, which is in runs where it is large, and the marker before.
        assert_eq!(gets, [8, 2, 2, 2]);
    });
}

#[test]
fn what_the_marker_holds_goes_when_the_window_has_passed() {
    run(|_| async {
        let timeline = Timeline::new(512, &[write(&[], 5, 1), write(&[1], 0, 2), write(&[2], 0, 3)]);
        let port = Port::new(1);
        commit(&port, &timeline, 1..=2);
        assert_eq!(fold(&port, 1).await.unwrap().shortened.deleted, 0);
        pass_window(&port);
        commit(&port, &timeline, 3..=3);
        assert_eq!(fold(&port, 1).await.unwrap().shortened.deleted, 2);
        assert_folded(&port, &timeline, 3);
        let log: Vec<_> = port.state().objects.keys().filter(|key| key.contains("/0000/")).cloned().collect();
        assert_eq!(log, [name(0, 3, 3).key(&id())]);
        pass_window(&port);
        // Nothing is to be folded, then.
        assert_eq!(fold(&port, 1).await.unwrap().shortened.deleted, 1);
    });
}

#[test]
fn the_lock_page_has_no_object() {
    let page_size = PageSize::new(65536).unwrap();
    let lock_page = page_size.lock_page().get();
    run(|_| async {
        let port = Port::new(1);
        let sum = |seed| Checksum::from_crc(seed);
        let database = DatabaseChecksums { before: Checksum::EMPTY, after: sum(1) };
        let txids = (Txid::FIRST, Txid::FIRST);
        let header = Header::new(page_size, lock_page - 1, txids, 0, WriterId(7), database);
        port.state().put(&name(10, 1, 1).key(&id()), Bytes::from(encode_marker(&header)));
        let content = vec![7; page_size.bytes()];
        let pages = BTreeMap::from([(0, &content[..]), (lock_page as usize, &content[..])]);
        let database = DatabaseChecksums { before: sum(1), after: sum(2) };
        let object = encode(page_size, lock_page as usize + 1, (2, 2), Some(database), pages);
        port.state().put(&name(0, 2, 2).key(&id()), Bytes::from(object));
        assert_eq!(fold(&port, 1).await.unwrap().written, 2);
        let state = port.state();
        let pages: Vec<_> = state.objects.keys().filter(|key| key.starts_with("test.db-")).collect();
        assert_eq!(pages, ["test.db-000000000001", "test.db-000000016386"]);
    });
}

#[test]
fn what_is_read_is_told_in_bytes_of_pages() {
    run(|_| async {
        let timeline = Timeline::new(512, &[write(&[], 5, 1)]);
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = std::sync::Arc::clone(&told);
        let mut options = options(1);
        options.merge.progress = Some(std::sync::Arc::new(move |done, all| tell.lock().unwrap().push((done, all))));
        history(&port).fold(&options).await.unwrap();
        let steps: Vec<(u64, u64)> = (1..=6).map(|page| (page * 512, 6 * 512)).collect();
        assert_eq!(*told.lock().unwrap(), steps);
    });
}

/// Its database checksum is not known, which a marker names.
#[test]
fn a_log_that_another_program_ended_is_not_folded() {
    run(|_| async {
        let timeline = Timeline::new(512, &[write(&[], 5, 1), write(&[1], 0, 2)]);
        let port = Port::new(1);
        commit(&port, &timeline, 1..=1);
        fold(&port, 1).await.unwrap();
        port.state().put(&name(0, 2, 2).key(&id()), Bytes::from(timeline.object_with(2, 2, None)));
        let error = fold(&port, 1).await.unwrap_err().to_string();
        assert!(error.contains("0000000000000002") && error.contains("next commit"), "{error}");
        assert_eq!(standing(&port), (1, 0));
        port.state().now += Duration::from_secs(1);
        // The next one says what it leaves.
        let timeline = Timeline::new(512, &[write(&[], 5, 1), write(&[1], 0, 2), write(&[3], 0, 3)]);
        commit(&port, &timeline, 3..=3);
        fold(&port, 1).await.unwrap();
        assert_folded(&port, &timeline, 3);
    });
}

/// A folder has neither ETags that tell the content nor conditions.
#[test]
fn a_folder_has_page_objects_too() {
    run(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::new(format!("file://{}", folder.path().display()).parse().unwrap(), "bucket").unwrap();
        let transport = Transport::new().unwrap();
        Bucket::create_bucket(&location, &transport).await.unwrap();
        let history = History::new(Bucket::connect(&location, &transport).await.unwrap(), id());
        let timeline = Timeline::new(
            512,
            &[write(&[], 9, 1), write(&[2], 2, 2), Change::Shrink { to: 3, seed: 3 }, write(&[1], 1, 4)],
        );
        for txid in 1..=timeline.last() {
            put_object(&history, &timeline, 0, txid, txid).await;
            let folded = history.fold(&options(1)).await.unwrap();
            assert_eq!((folded.txid.get(), folded.wait), (txid, None));
            let files = std::fs::read_dir(folder.path().join("bucket")).unwrap().map(|file| file.unwrap().path());
            let mut files: Vec<_> = files.filter(|path| path.is_file()).collect();
            files.sort();
            let pages: Vec<u8> = files.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
            assert!(pages == timeline.state(txid).pages.concat(), "TXID {txid}: other pages");
        }
    });
}
