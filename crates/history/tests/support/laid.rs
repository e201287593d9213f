//! Histories with page objects.

use bottomless_history::{DatabaseId, History, Level, ObjectName, PageKey};
use bottomless_ltx::{Checksum, DatabaseChecksums, HEADER_LENGTH, Header, RunningChecksum, Txid, WriterId};

use super::between::Step;
use super::{Database, Timeline, name, page_number};

pub fn marker_name(txid: u64) -> ObjectName {
    ObjectName { level: Level::PAGES, min: Txid::FIRST, max: Txid::new(txid) }
}

/// The marker of a transaction, as the format says: header, end marker, empty index, trailer.
pub fn marker(timeline: &Timeline, txid: u64) -> Vec<u8> {
    let state = timeline.state(txid);
    let database = DatabaseChecksums { before: Checksum::EMPTY, after: state.checksum() };
    let time = timeline.times[usize::try_from(txid).unwrap()];
    let size = u32::try_from(state.pages.len()).unwrap();
    let header = Header::new(state.page_size, size, (Txid::FIRST, Txid::new(txid)), time, WriterId(7), database);
    marker_of(&header)
}

pub fn marker_of(header: &Header) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.extend([0; 6]);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0; 8]);
    let (head, tail) = bytes.split_at(HEADER_LENGTH);
    let sum = RunningChecksum::of(head).then(RunningChecksum::of(tail)).finish();
    bytes.extend(sum.get().to_be_bytes());
    bytes
}

pub fn page_key(id: &DatabaseId, page: usize) -> String {
    PageKey(page_number(page - 1)).key(id)
}

/// All that a fold from one state to another does to page objects.
pub fn folding(id: &DatabaseId, from: &Database, to: &Database) -> Step {
    let changed = to.pages.iter().enumerate().filter(|(place, page)| from.pages.get(*place) != Some(page));
    let mut step: Step = changed.map(|(place, page)| (page_key(id, place + 1), Some(page.clone()))).collect();
    step.extend((to.pages.len()..from.pages.len()).map(|place| (page_key(id, place + 1), None)));
    step
}

/// The marker of `to`, in the place of that of `from`.
pub fn marking(id: &DatabaseId, timeline: &Timeline, from: u64, to: u64) -> Step {
    [(marker_name(from).key(id), None), (marker_name(to).key(id), Some(marker(timeline, to)))].into()
}

/// The log from `first` to `last`.
pub fn logging(id: &DatabaseId, timeline: &Timeline, first: u64, last: u64) -> Step {
    (first..=last).map(|txid| (name(0, txid, txid).key(id), Some(timeline.object(txid, txid)))).collect()
}

pub async fn make(history: &History, step: Step) {
    for (key, content) in step {
        match content {
            Some(content) => super::put(history, &key, content).await,
            None => history.bucket().delete(&key).await.unwrap(),
        }
    }
}

/// The page objects at `marker` and the log behind it up to `end`.
pub async fn put_laid(history: &History, timeline: &Timeline, marker: u64, end: u64) {
    let id = history.id();
    make(history, folding(id, timeline.state(0), timeline.state(marker))).await;
    make(history, marking(id, timeline, 0, marker)).await;
    make(history, logging(id, timeline, marker + 1, end)).await;
}
