//! Histories whose transactions have times and writers of their own, and merges of them.

use bottomless_history::{History, HistoryError, MergeOptions, Merged, ObjectName};
use bottomless_ltx::{Header, RunningChecksum, WriterId};

use crate::support::*;

/// The object of these transactions, as anybody must make it: with the last one's time and writer.
pub(crate) fn object(timeline: &Timeline, min: u64, max: u64) -> Vec<u8> {
    stamped(timeline.object(min, max))
}

/// The same object with a time and a writer of its own.
pub(crate) fn stamped(bytes: Vec<u8>) -> Vec<u8> {
    changed(bytes, |header| {
        let max = header.max_txid.get();
        header.timestamp_ms = 1_700_000_000_000 + max as i64 * 1000;
        header.writer = WriterId(max % 3);
    })
}

/// The same pages under another header, with the right file checksum.
pub(crate) fn changed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::decode(&bytes).unwrap();
    change(&mut header);
    bytes[..100].copy_from_slice(&header.encode());
    // The checksum is over the pages as they are expanded: take out the old header and put in the new one.
    let mut pages = Vec::new();
    let length = bytes.len();
    let bottomless_ltx::TailProgress::Complete(tail) = bottomless_ltx::Tail::parse(length as u64, &bytes).unwrap()
    else {
        panic!("the whole object was given");
    };
    let frames = &bytes[100..tail.offset as usize];
    let part = bottomless_ltx::decode_frames(frames, &tail.frames, header.page_size, &mut pages, |_, _| {
        Ok::<_, bottomless_ltx::DecodeError>(())
    });
    let checksum = RunningChecksum::of(&bytes[..100])
        .then(part.unwrap())
        .then(RunningChecksum::of(&bytes[tail.offset as usize..length - 8]))
        .finish();
    bytes[length - 8..].copy_from_slice(&checksum.get().to_be_bytes());
    bytes
}

pub(crate) async fn put_stamped(history: &History, timeline: &Timeline, level: u8, min: u64, max: u64) {
    put(history, &name(level, min, max).key(history.id()), object(timeline, min, max)).await;
}

pub(crate) async fn put_stamped_log(history: &History, timeline: &Timeline) {
    for txid in 1..=timeline.last() {
        put_stamped(history, timeline, 0, txid, txid).await;
    }
}

pub(crate) fn options() -> MergeOptions {
    MergeOptions::new(std::env::temp_dir())
}

/// Lists, and merges.
pub(crate) async fn merge(history: &History, name: ObjectName, options: &MergeOptions) -> Result<Merged, HistoryError> {
    history.merge(&history.list(None).await?, name, options).await
}

pub(crate) async fn get(history: &History, name: ObjectName) -> Vec<u8> {
    history.bucket().get(&name.key(history.id())).await.unwrap().to_vec()
}

pub(crate) async fn exists(history: &History, name: ObjectName) -> bool {
    history.list(None).await.unwrap().entries().iter().any(|entry| entry.name == name)
}

pub(crate) async fn delete(history: &History, name: ObjectName) {
    history.bucket().delete(&name.key(history.id())).await.unwrap();
}

/// Transactions of which each changes a page and adds one; the first adds `first`.
pub(crate) fn writes(count: u8, first: usize) -> Timeline {
    let append = |seed| if seed == 0 { first } else { 1 };
    let changes: Vec<_> =
        (0..count).map(|seed| Change::Write { places: vec![usize::from(seed)], append: append(seed), seed }).collect();
    Timeline::new(512, &changes)
}
