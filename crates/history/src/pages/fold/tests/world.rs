//! A database, its log in the store, and what page objects make of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bottomless_ltx::Txid;
use bottomless_store::{Bucket, Location};
use bytes::Bytes;

use super::net::{Port, State};
use super::support::{Change, Timeline, name, page_number};
use crate::{
    DatabaseId, FoldOptions, Folded, History, HistoryError, MergeOptions, ObjectName, PageKey, RestoreOptions, Stop,
};

pub(super) const ID: &str = "test.db";

/// The fence window, where nothing else is said.
pub(super) const WINDOW: Duration = Duration::from_secs(3600);

pub(super) fn id() -> DatabaseId {
    DatabaseId::new(ID).unwrap()
}

pub(super) fn history(port: &Port) -> History {
    let location = Location::new("file:///nowhere".parse().unwrap(), "bucket").unwrap();
    History::new(Bucket::from_object_store(Arc::new(port.clone()), location), id())
}

pub(super) fn options(machine: usize) -> FoldOptions {
    let merge = MergeOptions::new(std::env::temp_dir());
    FoldOptions { merge, machine: machine as u64, is_fenced: true, converts: false, stop: Stop::default() }
}

pub(super) async fn fold(port: &Port, machine: usize) -> Result<Folded, HistoryError> {
    history(&port.of(machine)).fold(&options(machine)).await
}

/// Time passes, until nothing of an earlier fold can arrive any more.
pub(super) fn pass_window(port: &Port) {
    port.state().now += WINDOW + Duration::from_secs(2);
}

/// What is restored by all that is there.
pub(super) async fn restored(port: &Port) -> Vec<u8> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let history = history(port);
    let listing = history.list(None).await.unwrap();
    let way = (Txid::ZERO, None);
    let prepare = || Ok::<_, HistoryError>(None);
    history.restore_around(listing, way, &file, &RestoreOptions::default(), prepare).await.unwrap();
    super::support::read(&file)
}

/// A transaction that writes some pages and appends others.
pub(super) fn write(places: &[usize], append: usize, seed: u8) -> Change {
    Change::Write { places: places.to_vec(), append, seed }
}

/// Puts transactions into the log.
pub(super) fn commit(port: &Port, timeline: &Timeline, txids: std::ops::RangeInclusive<u64>) {
    for txid in txids {
        let key = ObjectName::log(Txid::new(txid)).key(&id());
        port.state().put(&key, Bytes::from(timeline.object(txid, txid)));
    }
}

/// The transaction of the newest marker.
pub(super) fn marker(state: &State) -> u64 {
    let names = state.objects.keys().filter_map(|key| ObjectName::parse(&id(), key));
    names.filter(|name| name.level == crate::Level::PAGES).map(|name| name.max.get()).max().unwrap_or_default()
}

/// The transaction of the newest marker, and how many claims there are.
pub(super) fn standing(port: &Port) -> (u64, usize) {
    let state = port.state();
    (marker(&state), claims(&state))
}

pub(super) fn markers(state: &State) -> usize {
    state.objects.keys().filter(|key| key.contains("/pages/0")).count()
}

pub(super) fn claims(state: &State) -> usize {
    state.objects.keys().filter(|key| key.contains("/pages/claim-")).count()
}

/// The content of all page objects, in the order of their keys.
pub(super) fn pages(state: &State) -> Vec<u8> {
    let pages = state.objects.iter().filter(|(key, _)| PageKey::parse(&id(), key).is_some());
    pages.flat_map(|(_, stored)| stored.content.to_vec()).collect()
}

/// That the page objects are the database at this transaction, whole and nothing else.
pub(super) fn assert_folded(port: &Port, timeline: &Timeline, txid: u64) {
    assert_eq!(unfolded(port, timeline, txid), None);
}

/// What is not as it is when all is folded up to this transaction.
pub(super) fn unfolded(port: &Port, timeline: &Timeline, txid: u64) -> Option<String> {
    let state = port.state();
    let left = (marker(&state), markers(&state), claims(&state));
    if pages(&state) != timeline.state(txid).pages.concat() {
        Some(format!("TXID {txid}: other pages"))
    } else {
        (left != (txid, 1, 0)).then(|| format!("TXID {txid}: (marker, markers, claims) are {left:?}"))
    }
}

/// What the page objects and the log behind the newest marker do not make of the database at the end.
pub(super) fn wrong(state: &State, timeline: &Timeline, end: u64) -> Option<String> {
    let from = marker(state);
    let mut changed: BTreeSet<usize> = BTreeSet::new();
    for txid in from + 1..=end {
        let key = name(0, txid, txid).key(&id());
        if !state.objects.contains_key(&key) {
            return Some(format!("{key} is gone, and the marker is at {from}"));
        }
        changed.extend(timeline.written(txid));
    }
    let database = timeline.state(end);
    let unchanged = (0..database.pages.len()).filter(|place| !changed.contains(place));
    for place in unchanged {
        let key = PageKey(page_number(place)).key(&id());
        match state.objects.get(&key) {
            Some(stored) if stored.content == database.pages[place] => {}
            Some(_) => return Some(format!("{key} has another content, with the marker at {from} of {end}")),
            None => return Some(format!("{key} is gone, with the marker at {from} of {end}")),
        }
    }
    None
}
