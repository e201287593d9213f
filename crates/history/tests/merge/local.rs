//! Snapshots from the pages that a machine has: right, or from the objects.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_history::{Copies, Entry, History, LocalPages, MergeOptions};
use bottomless_ltx::{Checksum, DatabaseChecksums, PageNumber, Position, Txid};
use bottomless_store::Body;
use proptest::prelude::*;

use crate::support::*;
use crate::world::*;

/// The pages at `txid`; with the n-th page that is read it moves to `then`.
struct Machine {
    timeline: Timeline,
    txid: u64,
    then: (u64, u64),
    /// A page is here when the bit of its number, modulo 64, is set.
    here: u64,
    /// The database checksum that it says it has, if not the right one.
    says: Option<Checksum>,
    reads: AtomicU64,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl LocalPages for Machine {
    fn position(&self) -> Option<Position> {
        let checksum = self.says.unwrap_or_else(|| self.timeline.state(self.txid).checksum());
        let txid = Txid::new(self.txid);
        (self.txid > 0).then_some(Position { txid, checksum })
    }

    fn read(&self, page: PageNumber, content: &mut Vec<u8>) -> bool {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        let (at, then) = self.then;
        let state = self.timeline.state(if read >= at { then } else { self.txid });
        let here = state.pages.get(page.index()).filter(|_| self.here >> (page.get() % 64) & 1 == 1);
        content.extend_from_slice(here.map_or(&[], Vec::as_slice));
        here.is_some()
    }
}

fn machine(timeline: &Timeline, txid: u64) -> Machine {
    let timeline = timeline.clone();
    Machine { timeline, txid, then: (u64::MAX, txid), here: u64::MAX, says: None, reads: AtomicU64::new(0) }
}

fn with(machine: Machine) -> MergeOptions {
    let pages: Arc<dyn LocalPages> = Arc::new(machine);
    MergeOptions { whole_length: 2000, run_length: 2000, pages: Some(pages), ..options() }
}

/// A snapshot of the transactions 1 to 2, what was merged behind it, and the log behind that.
async fn filled(timeline: &Timeline, merged: u64) -> History {
    let history = history("test.db");
    put_stamped(&history, timeline, 9, 1, 2).await;
    put_stamped(&history, timeline, 1, 3, merged).await;
    for txid in 3..=timeline.last() {
        put_stamped(&history, timeline, 0, txid, txid).await;
    }
    history
}

/// Makes the snapshot and says how many bytes that took.
async fn snapshot(timeline: &Timeline, merged: u64, machine: Machine) -> u64 {
    let history = filled(timeline, merged).await;
    let made = merge(&history, name(9, 1, merged), &with(machine)).await.unwrap();
    assert!(made.created && get(&history, name(9, 1, merged)).await == object(timeline, 1, merged));
    made.downloaded
}

#[tokio::test]
async fn what_the_machine_has_is_not_downloaded() {
    let timeline = writes(8, 400);
    let large = object(&timeline, 1, 2).len() as u64;
    let without = snapshot(&timeline, 5, machine(&timeline, 0)).await;
    assert!(without > large);
    for txid in 5..=8 {
        let downloaded = snapshot(&timeline, 5, machine(&timeline, txid)).await;
        assert!(downloaded < large / 5, "{downloaded} of {large} bytes, at TXID {txid}");
    }
    // A page in a hundred is fetched.
    let most = Machine { here: !(1 << 9), ..machine(&timeline, 6) };
    let downloaded = snapshot(&timeline, 5, most).await;
    assert!(downloaded < large, "{downloaded} of {large} bytes");
}

#[tokio::test]
async fn a_machine_that_is_elsewhere_does_not_count() {
    let timeline = writes(8, 400);
    let large = object(&timeline, 1, 2).len() as u64;
    let mut other = timeline.clone();
    for state in &mut other.states {
        state.pages.iter_mut().for_each(|page| page[0] ^= page[1] | 1);
    }
    // Behind; with hardly a page; of another history at the same transaction, and at a later one.
    let nowhere =
        [machine(&timeline, 4), Machine { here: 1, ..machine(&timeline, 5) }, machine(&other, 5), machine(&other, 7)];
    for machine in nowhere {
        assert!(snapshot(&timeline, 5, machine).await > large);
    }
}

/// It is where it should be, but one page is not.
#[tokio::test]
async fn a_machine_that_is_wrong_does_no_harm() {
    let timeline = writes(8, 400);
    let large = object(&timeline, 1, 2).len() as u64;
    let mut wrong = timeline.clone();
    wrong.states[5].pages[300][7] ^= 1;
    let machine = Machine { says: Some(timeline.state(5).checksum()), ..machine(&wrong, 5) };
    assert!(snapshot(&timeline, 5, machine).await > large);
}

/// Of pages that do not do nothing stays in the temporary file: else it would take too much of them, as would memory.
#[tokio::test]
async fn pages_in_vain_take_no_space() {
    let cut = Change::Shrink { to: 150, seed: 3 };
    let changes = [400, 1].map(|append| Change::Write { places: vec![], append, seed: 1 });
    let timeline = Timeline::new(512, &[&changes[..], &[cut], &changes[1..], &changes[1..]].concat());
    let size = object(&timeline, 1, 5).len() as u64;
    let whole_length = size + size / 2;
    assert!(object(&timeline, 1, 2).len() as u64 > whole_length, "the base is large");
    for is_wrong in [false, true] {
        let history = filled(&timeline, 5).await;
        let mut machines = timeline.clone();
        machines.states[5].pages[100][7] ^= u8::from(is_wrong);
        let machine = Machine { says: Some(timeline.state(5).checksum()), ..machine(&machines, 5) };
        let made = Arc::new(Made::default());
        let options = MergeOptions { whole_length, copies: Some(made.clone()), ..with(machine) };
        merge(&history, name(9, 1, 5), &options).await.unwrap();
        assert!(get(&history, name(9, 1, 5)).await == object(&timeline, 1, 5));
        assert_eq!(made.in_memory.load(Ordering::Relaxed), 1);
    }
}

/// Which objects were put together in memory.
#[derive(Debug, Default)]
struct Made {
    in_memory: AtomicU64,
}

impl Copies for Made {
    fn find(&self, _: &Entry) -> Option<bytes::Bytes> {
        None
    }

    fn keep(&self, _: &Entry, body: &Body) {
        self.in_memory.fetch_add(matches!(body, Body::Memory(_)).into(), Ordering::Relaxed);
    }
}

/// Two pages that change alike: the XOR of their CRCs stays, and the list of what changed tells.
#[tokio::test]
async fn pages_that_change_alike() {
    let mut timeline = writes(5, 400);
    let history = filled(&timeline, 5).await;
    let state = timeline.state(5).clone();
    let mut alike = state.clone();
    for place in [100, 200] {
        alike.pages[place][7] ^= 0x55;
    }
    assert_ne!(alike.checksum(), state.checksum());
    let pages = [100, 200].map(|place| (place, &alike.pages[place][..])).into();
    let sums = DatabaseChecksums { before: state.checksum(), after: alike.checksum() };
    let changing = encode(state.page_size, state.pages.len(), (6, 6), Some(sums), pages);
    put(&history, &name(0, 6, 6).key(history.id()), changing).await;
    timeline.states.push(alike);
    let made = merge(&history, name(9, 1, 5), &with(machine(&timeline, 6))).await.unwrap();
    assert!(get(&history, name(9, 1, 5)).await == object(&timeline, 1, 5));
    assert!(made.downloaded < object(&timeline, 1, 2).len() as u64, "the pages were those of the machine");
}

#[tokio::test]
async fn what_the_bucket_does_not_tell_is_not_guessed() {
    let timeline = writes(8, 400);
    let large = object(&timeline, 1, 2).len() as u64;
    let history = filled(&timeline, 5).await;
    // The log behind the snapshot has a hole.
    delete(&history, name(0, 6, 6)).await;
    let made = merge(&history, name(9, 1, 5), &with(machine(&timeline, 8))).await.unwrap();
    assert!(made.downloaded > large);
    assert!(get(&history, name(9, 1, 5)).await == object(&timeline, 1, 5));
}

#[tokio::test]
async fn a_damaged_base_is_told_all_the_same() {
    let timeline = writes(8, 400);
    let history = filled(&timeline, 5).await;
    let mut damaged = object(&timeline, 1, 2);
    let at = damaged.len() / 2;
    damaged[at] ^= 0x10;
    put(&history, &name(9, 1, 2).key(history.id()), damaged).await;
    // Half of the object is asked of the bucket.
    let machine = Machine { here: 0xffff_ffff_0000_0000, ..machine(&timeline, 5) };
    let error = merge(&history, name(9, 1, 5), &with(machine)).await.unwrap_err();
    assert!(error.to_string().contains(&name(9, 1, 2).key(history.id())), "{error}");
    assert!(!exists(&history, name(9, 1, 5)).await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the machine has and wherever it goes meanwhile, the snapshot is the same.
    #[test]
    fn a_snapshot_does_not_depend_on_the_machine(
        changes in prop::collection::vec(crate::shapes::change(), 7),
        txid in 0..=8_u64,
        then in 0..=8_u64,
        at in 0..40_u64,
        here in prop_oneof![Just(u64::MAX), any::<u64>()],
        whole_length in prop_oneof![Just(0_u64), Just(3000)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let first = Change::Write { places: vec![], append: 60, seed: 1 };
            let timeline = Timeline::new(512, &[vec![first], changes].concat());
            let machine = Machine { then: (at, then.max(txid)), here, ..machine(&timeline, txid) };
            let history = filled(&timeline, 5).await;
            let options = MergeOptions { whole_length, ..with(machine) };
            merge(&history, name(9, 1, 5), &options).await.unwrap();
            assert!(get(&history, name(9, 1, 5)).await == object(&timeline, 1, 5));
        });
    }
}
