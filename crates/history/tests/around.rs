//! Each object of a history is damaged in every way, and restored around: the right content with a warning that names
//! the object, or an error that names it; never another content.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use std::collections::BTreeSet;

use bottomless_history::{History, HistoryError, ObjectName, PlanError, RestoreOptions};
use bottomless_ltx::{DecodeError, HEADER_LENGTH, TRAILER_LENGTH, Txid, decode_file};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::*;

const LAST: u64 = 12;

/// Grows, shrinks, and grows again.
fn timeline() -> Timeline {
    let write = |place: usize, append, seed| Change::Write { places: vec![place, place + 3], append, seed };
    Timeline::new(
        512,
        &[
            write(0, 8, 1),
            write(2, 3, 2),
            write(5, 0, 3),
            Change::Shrink { to: 5, seed: 4 },
            write(1, 0, 5),
            write(4, 6, 6),
            write(3, 1, 7),
            write(9, 0, 8),
            Change::Shrink { to: 8, seed: 9 },
            write(2, 4, 10),
            write(6, 0, 11),
            write(8, 2, 12),
        ],
    )
}

/// The same until `txid`, and then something else.
fn diverged(txid: u64, seed: u8) -> Timeline {
    let mut other = timeline();
    for state in other.states.iter_mut().skip(txid as usize) {
        state.pages[0][100] ^= seed | 1;
    }
    other
}

/// All objects: the log, two compacted runs, one above them, two snapshots.
fn names() -> Vec<ObjectName> {
    let above = [(1, 1, 4), (1, 5, 8), (2, 1, 8), (9, 1, 6), (9, 1, 10)];
    let log = (1..=LAST).map(|txid| name(0, txid, txid));
    log.chain(above.map(|(level, min, max)| name(level, min, max))).collect()
}

fn object(timeline: &Timeline, name: ObjectName, checksums: bool) -> Vec<u8> {
    let (min, max) = (name.min.get(), name.max.get());
    if checksums { timeline.object(min, max) } else { timeline.object_with(min, max, None) }
}

struct Bucket {
    history: History,
    timeline: Timeline,
    checksums: bool,
    warnings: Warnings,
    options: RestoreOptions,
}

impl Bucket {
    async fn new(checksums: bool, warnings: Warnings) -> Self {
        let (history, timeline) = (history("test.db"), timeline());
        let bucket = Self { history, timeline, checksums, warnings, options: RestoreOptions::default() };
        for name in names() {
            bucket.mend(name).await;
        }
        bucket
    }

    fn key(&self, name: ObjectName) -> String {
        name.key(self.history.id())
    }

    fn whole(&self, name: ObjectName) -> Vec<u8> {
        object(&self.timeline, name, self.checksums)
    }

    async fn mend(&self, name: ObjectName) {
        // What is merged is younger than the log, as it always is.
        let above = names().into_iter().filter(|other| name.level.get() == 0 && other.level.get() > 0);
        for name in [name].into_iter().chain(above) {
            put(&self.history, &self.key(name), self.whole(name)).await;
        }
    }

    async fn put(&self, name: ObjectName, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => put(&self.history, &self.key(name), bytes).await,
            None => self.history.bucket().delete(&self.key(name)).await.unwrap(),
        }
    }

    /// The cheapest way, where nothing is damaged.
    async fn plan(&self, up_to: u64) -> Vec<ObjectName> {
        let plan = self.history.list(None).await.unwrap().plan(Txid::ZERO, Some(Txid::new(up_to))).unwrap();
        plan.objects().iter().map(|entry| entry.name).collect()
    }

    async fn restore(&self, up_to: u64, base: Option<u64>) -> Result<(), HistoryError> {
        let listing = self.history.list(None).await.unwrap();
        let base = base.map(|txid| (txid, self.timeline.state(txid)));
        // To the end as it stands in the listing, which is what opening does.
        let asked = Some(up_to).filter(|&txid| txid < LAST);
        let restored = restore_around(&self.history, listing, asked, base, self.options.clone()).await?;
        assert_is(&restored, self.timeline.state(up_to), up_to);
        Ok(())
    }

    /// One damaged object: restores `up_to`, and holds what comes against what should.
    async fn check(&self, name: ObjectName, bytes: &[u8], up_to: u64, base: Option<u64>, what: &str) {
        let key = self.key(name);
        let what = format!("{key} {what}, TXID {base:?} to {up_to}");
        self.warnings.take();
        let result = self.restore(up_to, base).await;
        let warnings = self.warnings.take();
        assert!(warnings.is_empty() || warnings.contains(&key), "{what}: another object is accused: {warnings}");
        let from = Txid::new(base.unwrap_or(0));
        let left = names().into_iter().filter(|other| *other != name);
        match result {
            Ok(()) => {
                let needed = base.is_none() && self.plan(up_to).await.contains(&name);
                assert!(!needed || !warnings.is_empty() || is_whole(bytes), "{what}: without a warning");
                assert!(warnings.is_empty() || warnings.contains("file:///nowhere"), "{what}: {warnings}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(&key), "{what}: the object is not named: {text}");
                assert!(text.contains("bring") && text.contains("restore"), "{what}: {text}");
                assert!(
                    !leads(from, up_to, &left.collect::<Vec<_>>()) || is_whole(bytes),
                    "{what}: a way is left: {text}"
                );
                self.check_advice(&error, name).await;
            }
        }
    }

    /// What the error says to do instead works.
    async fn check_advice(&self, error: &HistoryError, name: ObjectName) {
        let HistoryError::NoWay(no_way) = error else { panic!("{error}") };
        assert!(!no_way.missing.is_empty() && name.max >= *no_way.missing.start(), "{error}");
        if let Some(txid) = no_way.restorable {
            assert!(error.to_string().contains(&format!("--txid {txid}")), "{error}");
            let advised = self.restore(txid.get(), None).await;
            assert!(advised.is_ok(), "{error}: {}", advised.unwrap_err());
        } else {
            let first: Vec<_> = names().into_iter().filter(|other| *other != name).collect();
            assert!(!leads(Txid::ZERO, 1, &first), "{error}");
        }
    }
}

/// Whether objects of these names lead to a position.
fn leads(from: Txid, up_to: u64, names: &[ObjectName]) -> bool {
    let mut reached = BTreeSet::from([from.get()]);
    for txid in from.get() + 1..=up_to {
        let step = |name: &&ObjectName| {
            name.max.get() == txid && reached.iter().any(|at| (name.min.get() - 1..txid).contains(at))
        };
        if names.iter().any(|name| step(&name)) {
            reached.insert(txid);
        }
    }
    reached.contains(&up_to)
}

/// Whether an object by itself shows no damage: LZ4 can say the same in several ways.
fn is_whole(bytes: &[u8]) -> bool {
    decode_file(bytes, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).is_ok()
}

fn in_runs() -> RestoreOptions {
    RestoreOptions { whole_length: 0, run_length: 700, ..RestoreOptions::default() }
}

fn truncated(whole: &[u8]) -> Vec<Vec<u8>> {
    let end = whole.len();
    let lengths = [0, 1, HEADER_LENGTH - 1, HEADER_LENGTH, HEADER_LENGTH + 20, end / 2, end - 20, end - 9, end - 1];
    lengths.iter().map(|&length| whole[..length].to_vec()).collect()
}

#[test]
fn a_truncated_object_is_restored_around() {
    for options in [RestoreOptions::default(), in_runs()] {
        run(async |warnings| {
            let bucket = Bucket { options, ..Bucket::new(true, warnings).await };
            for name in names() {
                for bytes in truncated(&bucket.whole(name)) {
                    bucket.put(name, Some(bytes.clone())).await;
                    for up_to in [1, 4, 6, 8, 9, 10, LAST] {
                        bucket.check(name, &bytes, up_to, None, &format!("cut to {}", bytes.len())).await;
                    }
                    bucket.check(name, &bytes, LAST, Some(5), &format!("cut to {}", bytes.len())).await;
                }
                bucket.mend(name).await;
            }
        });
    }
}

/// The positions whose cheapest way has the object, else all that may meet it.
async fn positions_of(bucket: &Bucket, name: ObjectName) -> Vec<u64> {
    for up_to in (name.max.get()..=LAST).rev() {
        if bucket.plan(up_to).await.contains(&name) {
            return vec![up_to];
        }
    }
    vec![name.max.get(), name.min.get().saturating_sub(1).max(1)]
}

#[test]
fn an_object_with_a_flipped_bit_is_restored_around() {
    run(async |warnings| {
        let bucket = Bucket::new(true, warnings).await;
        for name in names() {
            let whole = bucket.whole(name);
            let positions = positions_of(&bucket, name).await;
            let body = HEADER_LENGTH..whole.len() - TRAILER_LENGTH;
            // Every bit, but for the objects of the log that are like others.
            let alike = name.level.get() == 0 && ![1, 9, 11, LAST].contains(&name.min.get());
            let ends = (0..HEADER_LENGTH * 8).chain(body.end * 8..whole.len() * 8).step_by(if alike { 7 } else { 1 });
            for bit in ends.chain((body.start * 8..body.end * 8).step_by(149)) {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bucket.put(name, Some(bytes.clone())).await;
                for &up_to in &positions {
                    bucket.check(name, &bytes, up_to, None, &format!("bit {bit}")).await;
                }
            }
            bucket.mend(name).await;
        }
    });
}

/// Whole objects in the wrong place: of another database, of a history that went another way, of other transactions.
fn replacements(name: ObjectName) -> Vec<(&'static str, Vec<u8>)> {
    let mut others = timeline();
    // Each page in another place: the checksum of the database is an XOR of linear ones, so that the same change of two
    // pages leaves it as it was.
    for state in &mut others.states {
        state.pages.iter_mut().enumerate().for_each(|(place, page)| page[7 * place + 1] ^= 0xff);
    }
    let (min, max) = (name.min.get(), name.max.get());
    let mut list = vec![
        ("another database's", object(&others, name, true)),
        ("of a history that diverged long before", object(&diverged(min.saturating_sub(3).max(1), 8), name, true)),
        ("of another transaction", timeline().object(max % LAST + 1, max % LAST + 1)),
        ("of other transactions", timeline().object(1, max % LAST + 1)),
    ];
    // The log is the truth: a whole last transaction that continues the one before is the last transaction.
    if min < LAST {
        list.push(("of a history that diverged with it", object(&diverged(max, 9), name, true)));
    }
    list
}

#[test]
fn an_object_in_the_wrong_place_is_restored_around() {
    run(async |warnings| {
        let bucket = Bucket::new(true, warnings).await;
        for name in names() {
            for (what, bytes) in replacements(name) {
                bucket.put(name, Some(bytes.clone())).await;
                for up_to in 1..=LAST {
                    let key = bucket.key(name);
                    let result = bucket.restore(up_to, None).await;
                    let warnings = bucket.warnings.take();
                    match &result {
                        Ok(()) => {
                            let needed = bucket.plan(up_to).await.contains(&name);
                            assert!(!needed || warnings.contains(&key), "{key} {what}, TXID {up_to}: {warnings}");
                        }
                        Err(error) => assert!(error.to_string().contains(&key), "{key} {what}, TXID {up_to}: {error}"),
                    }
                    // Of the single ways there are, each ends here in the log; the others are restored around.
                    let derived = name.level.get() > 0;
                    assert!(!derived || result.is_ok(), "{key} {what}, TXID {up_to}: {}", result.unwrap_err());
                    for base in [3, 7, 10].into_iter().filter(|base| *base < up_to) {
                        if let Err(error) = bucket.restore(up_to, Some(base)).await {
                            assert!(error.to_string().contains(&key), "{key} {what}, {base} to {up_to}: {error}");
                        }
                    }
                }
            }
            bucket.mend(name).await;
        }
    });
}

#[test]
fn a_deleted_object_is_restored_around_or_its_transactions_are_named() {
    run(async |warnings| {
        let bucket = Bucket::new(true, warnings).await;
        for name in names() {
            let listed = bucket.history.list(None).await.unwrap();
            bucket.put(name, None).await;
            let left: Vec<_> = names().into_iter().filter(|other| *other != name).collect();
            for up_to in 1..=LAST {
                let before = bucket.history.bucket().counters().list;
                let result = if up_to < LAST || name != names()[LAST as usize - 1] {
                    bucket.restore(up_to, None).await
                } else {
                    // What is not listed any more is not the end any more; but what was listed is asked for.
                    let listing = bucket.history.list(None).await.unwrap();
                    restore_around(&bucket.history, listing, Some(LAST), None, bucket.options.clone()).await.map(drop)
                };
                assert_eq!(bucket.history.bucket().counters().list, before + 1);
                match result {
                    Ok(()) => assert!(leads(Txid::ZERO, up_to, &left)),
                    Err(HistoryError::Plan(PlanError::Gap { first, last, .. })) => {
                        assert!((first..=last).contains(&name.min), "{name}");
                        assert!(!leads(Txid::ZERO, up_to, &left));
                    }
                    Err(HistoryError::Plan(PlanError::BehindEnd { .. })) => assert_eq!(up_to, LAST),
                    Err(HistoryError::Plan(PlanError::Merged { .. })) => {
                        assert!(!leads(Txid::ZERO, up_to, &left));
                    }
                    Err(error) => panic!("{name}: {error}"),
                }
                // The same, deleted only after the listing.
                let asked = Some(up_to).filter(|&txid| txid < LAST);
                let result = restore_around(&bucket.history, listed.clone(), asked, None, bucket.options.clone()).await;
                match result {
                    Ok(restored) => assert_is(&restored, bucket.timeline.state(up_to), up_to),
                    Err(error) => {
                        assert!(!leads(Txid::ZERO, up_to, &left), "{name}: {error}");
                        assert!(error.to_string().contains(&bucket.key(name)), "{error}");
                    }
                }
                assert_eq!(bucket.warnings.take(), "", "compaction is no damage");
            }
            bucket.mend(name).await;
        }
    });
}

/// A store that lists what it does not have any more is asked again so often, and no more.
#[test]
fn an_end_that_vanishes_is_not_replaced_by_an_earlier_one() {
    run(async |_| {
        let (history, timeline) = (history("test.db"), timeline());
        put_log(&history, &timeline).await;
        let listing = history.list(None).await.unwrap();
        let key = name(0, LAST, LAST).key(history.id());
        history.bucket().delete(&key).await.unwrap();
        let result = restore_around(&history, listing, None, None, RestoreOptions::default()).await;
        let text = result.unwrap_err().to_string();
        assert!(text.contains(&key) && text.contains("--txid 000000000000000b"), "{text}");
    });
}

#[test]
fn where_all_is_in_order_it_costs_what_a_restore_costs() {
    run(async |warnings| {
        let bucket = Bucket::new(true, warnings).await;
        let gets = || bucket.history.bucket().counters().get;
        let before = gets();
        bucket.restore(LAST, None).await.unwrap();
        assert_eq!(gets() - before, 3, "the snapshot and two transactions");
        // In the middle of the history another object must agree: its header.
        let before = (gets(), bucket.history.bucket().counters().bytes_down);
        bucket.restore(10, None).await.unwrap();
        assert_eq!(gets() - before.0, 2);
        let size = bucket.whole(name(9, 1, 10)).len() as u64;
        assert_eq!(bucket.history.bucket().counters().bytes_down - before.1, size + HEADER_LENGTH as u64);
        assert_eq!(bucket.warnings.take(), "");
    });
}

/// Objects of others carry no checksums of the database. What an object is by itself is still seen.
#[test]
fn without_database_checksums_damage_is_still_found() {
    run(async |warnings| {
        let bucket = Bucket::new(false, warnings).await;
        for name in names() {
            let whole = bucket.whole(name);
            let flipped = (0..whole.len()).step_by(37).map(|at| {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                bytes
            });
            for bytes in truncated(&whole).into_iter().chain(flipped) {
                bucket.put(name, Some(bytes.clone())).await;
                for up_to in [4, 8, LAST] {
                    bucket.check(name, &bytes, up_to, None, "of others").await;
                }
            }
            // A whole object in a wrong place can't be told from the right one: it must only do no worse.
            for (_, bytes) in replacements(name) {
                bucket.put(name, Some(bytes)).await;
                for up_to in [4, 8, LAST] {
                    let listing = bucket.history.list(None).await.unwrap();
                    let up_to = Some(up_to);
                    let _ = restore_around(&bucket.history, listing, up_to, None, bucket.options.clone()).await;
                }
            }
            bucket.mend(name).await;
        }
    });
}

#[derive(Clone, Debug)]
enum Kind {
    Deleted,
    DeletedAfterListing,
    Empty,
    Cut(prop::sample::Index),
    Flipped(prop::sample::Index, u8),
    Diverged(u64),
    Other(u64),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Deleted),
        Just(Kind::DeletedAfterListing),
        Just(Kind::Empty),
        any::<prop::sample::Index>().prop_map(Kind::Cut),
        (any::<prop::sample::Index>(), 1..=255_u8).prop_map(|(at, flip)| Kind::Flipped(at, flip)),
        (1..LAST).prop_map(Kind::Diverged),
        (1..LAST).prop_map(Kind::Other),
    ]
}

impl Kind {
    /// The bytes instead; each in its own way, so that no two wrong objects make a history together.
    fn bytes(&self, number: usize, name: ObjectName) -> Option<Vec<u8>> {
        let whole = object(&timeline(), name, true);
        Some(match self {
            Self::Deleted | Self::DeletedAfterListing => return None,
            Self::Empty => Vec::new(),
            Self::Cut(at) => whole[..at.index(whole.len())].to_vec(),
            Self::Flipped(at, flip) => {
                let (mut bytes, at) = (whole, at.index(whole_length(name)));
                bytes[at] ^= flip;
                bytes
            }
            // The last of the log is what it is.
            Self::Diverged(txid) => object(
                &diverged((*txid).min(name.max.get() - u64::from(name.min.get() == LAST)).max(1), 2 + 4 * number as u8),
                name,
                true,
            ),
            Self::Other(txid) => timeline().object(*txid, *txid),
        })
    }
}

fn is_unwitnessed(damages: &[(prop::sample::Index, Kind)], up_to: u64) -> bool {
    let names = names();
    let at = |index: &prop::sample::Index| *index.get(&names);
    let diverged = |(index, kind): &&(prop::sample::Index, Kind)| {
        matches!(kind, Kind::Diverged(_)) && at(index).max.get() == up_to
    };
    let Some((found, _)) = damages.iter().find(diverged) else { return false };
    damages.iter().map(|(index, _)| at(index)).any(|name| {
        let is_witness = name.max.get() == up_to || (up_to + 1..=up_to + 2).contains(&name.min.get());
        is_witness && name != at(found)
    })
}

fn whole_length(name: ObjectName) -> usize {
    object(&timeline(), name, true).len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, rng_seed: RngSeed::Fixed(8), ..ProptestConfig::default() })]

    #[test]
    fn several_damaged_objects_never_make_another_content(
        damages in prop::collection::vec((any::<prop::sample::Index>(), kind()), 1..6),
        up_to in 1..=LAST,
        base in prop::option::of(1..LAST),
        large: bool,
    ) {
        run(async |warnings| {
            let options = if large { in_runs() } else { RestoreOptions::default() };
            let bucket = Bucket { options, ..Bucket::new(true, warnings).await };
            let mut damaged = Vec::new();
            for (number, (at, kind)) in damages.iter().enumerate() {
                let name = *at.get(&names());
                if !matches!(kind, Kind::DeletedAfterListing) {
                    bucket.put(name, kind.bytes(number, name)).await;
                }
                damaged.push(name);
            }
            let listing = bucket.history.list(None).await.unwrap();
            for (at, kind) in &damages {
                if matches!(kind, Kind::DeletedAfterListing) {
                    bucket.put(*at.get(&names()), None).await;
                }
            }
            let base = base.filter(|base| *base < up_to).map(|txid| (txid, bucket.timeline.state(txid)));
            let asked = Some(up_to);
            match restore_around(&bucket.history, listing, asked, base, bucket.options.clone()).await {
                // An object of a history that diverged with it is whole and continues what is before it. Only another
                // whole object tells that it is not ours: where such are damaged too, it is taken for the truth.
                Ok(_) if is_unwitnessed(&damages, up_to) => {}
                Ok(restored) => assert_is(&restored, bucket.timeline.state(up_to), up_to),
                Err(error) => {
                    let left: Vec<_> = names().into_iter().filter(|name| !damaged.contains(name)).collect();
                    let text = error.to_string();
                    let from = base.map_or(Txid::ZERO, |(txid, _)| Txid::new(txid));
                    let contradicted = text.contains("says that at this TXID");
                    prop_assert!(contradicted || !leads(from, up_to, &left), "a way is left: {text}");
                    let named = damaged.iter().any(|name| text.contains(&bucket.key(*name)));
                    prop_assert!(named || matches!(error, HistoryError::Plan(_)), "{text}");
                }
            }
            Ok(())
        })?;
    }
}

/// What a writer has created after another had merged and deleted the transaction of that number is no part of the
/// history, though nothing but the times of the objects tells.
#[test]
fn an_object_that_came_too_late_is_left_aside() {
    run(async |warnings| {
        for last in [10, LAST] {
            let (history, timeline) = (history("test.db"), timeline());
            let key = |level, min, max| name(level, min, max).key(history.id());
            put(&history, &key(9, 1, 10), timeline.object(1, 10)).await;
            for txid in 11..=last {
                put(&history, &key(0, txid, txid), timeline.object(txid, txid)).await;
            }
            put(&history, &key(0, 10, 10), diverged(10, 9).object(10, 10)).await;
            for base in [None, Some(9)] {
                let listing = history.list(None).await.unwrap();
                let from = base.map(|txid| (txid, timeline.state(txid)));
                let restored = restore_around(&history, listing, None, from, RestoreOptions::default()).await.unwrap();
                assert_is(&restored, timeline.state(last), last);
                let warned = warnings.take();
                assert_eq!(warned.contains(&key(0, 10, 10)), base.is_some(), "where it was on the way: {warned}");
            }
        }
    });
}
