//! Going back to a time: `bottomless-cli restore` and `litestream restore` lead to the same states.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use bottomless_e2e::{Host, Session, World, compactor, compare, litestream, tools, whole};

struct Points {
    world: World,
    /// Formats times.
    stock: Session,
    /// In milliseconds, by TXID; only those of which no other transaction has the same.
    times: BTreeMap<u64, i64>,
    number: u32,
}

impl Points {
    /// A history of this many transactions, and one more.
    fn new(count: u64) -> Self {
        let world = World::new("as-of");
        let mut session = world.open(Host::Newest);
        session.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        while world.last() < count {
            session.sql("INSERT INTO t(v) VALUES(randomblob(6000)); DELETE FROM t WHERE id % 5 = 4");
        }
        // Litestream refuses times behind the store's of the last object, which are whole seconds.
        await_next_second();
        session.sql("DELETE FROM t WHERE id % 3 = 1");
        session.close(0).unwrap();
        let all: Vec<(u64, i64)> =
            world.log().iter().map(|&txid| (txid, whole::header_of(&world, txid).timestamp_ms)).collect();
        let is_alone = |&(_, time): &(u64, i64)| all.iter().filter(|(_, other)| (other - time).abs() < 2).count() == 1;
        let times: BTreeMap<u64, i64> = all.iter().copied().filter(is_alone).collect();
        assert!(times.len() > 7, "several commits in a millisecond: {all:?}");
        let stock = world.stock(Host::Newest);
        let mut points = Self { world, stock, times, number: 0 };
        points.stock.open(0, ":memory:").unwrap();
        points
    }

    fn text(&mut self, milliseconds: i64) -> String {
        let (seconds, rest) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
        let text = self.stock.value(&format!("SELECT strftime('%Y-%m-%dT%H:%M:%S', {seconds}, 'unixepoch')"));
        format!("{}.{rest:03}Z", text.as_str().unwrap())
    }

    /// What `bottomless-cli restore` makes, or what it says.
    fn ours(&mut self, arguments: &[&str]) -> Result<PathBuf, String> {
        self.number += 1;
        let path = self.world.folder().join(format!("ours-{}.db", self.number));
        let mut command = Command::new(tools::extension().with_file_name("bottomless-cli"));
        command.args(["restore", "-d", self.world.id(), "-o"]).arg(&path).args(arguments);
        let output = command.env_clear().envs(&self.world.environment).output().expect("run bottomless-cli");
        if output.status.success() { Ok(path) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn at_txid(&mut self, txid: u64) -> PathBuf {
        self.ours(&["--txid", &format!("{txid:016x}")]).unwrap()
    }

    /// The last transaction that was made at this time or before.
    fn last_at(&self, milliseconds: i64) -> u64 {
        *self.times.iter().rfind(|(_, time)| **time <= milliseconds).unwrap().0
    }

    /// At the time of each of these transactions, a millisecond before and a millisecond behind it.
    fn agree_around(&mut self, txids: &[u64], states: &BTreeMap<u64, PathBuf>) {
        for &txid in txids {
            let Some(&time) = self.times.get(&txid) else { continue };
            for milliseconds in [time - 1, time, time + 1] {
                let text = self.text(milliseconds);
                let expected = &states[&self.last_at(milliseconds)];
                compare::assert_same_pages(&self.ours(&["--timestamp", &text]).unwrap(), expected);
                if milliseconds > time {
                    continue;
                }
                // Litestream takes what was made before the time, and not at it.
                let behind = self.text(milliseconds + 1);
                compare::assert_same_pages(&litestream::try_restore_at(&self.world, &behind).unwrap(), expected);
            }
            compare::assert_same_pages(&litestream::restore(&self.world, Some(txid)), &states[&txid]);
        }
    }
}

/// Returns when the clock, which the store has too, counts another second.
fn await_next_second() {
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let begun = seconds();
    while seconds() == begun {
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn litestream_and_ours_go_back_to_the_same_states() {
    let mut points = Points::new(13);
    let states: BTreeMap<u64, PathBuf> = (1..=14).map(|txid| (txid, points.at_txid(txid))).collect();
    let file = |txid: u64| -> &Path { &states[&txid] };

    points.agree_around(&[5, 13], &states);
    // Behind the last transaction it is that one.
    compare::assert_same_pages(&points.ours(&["--timestamp", "2100-01-01T00:00:00Z"]).unwrap(), file(14));
    compare::assert_same_pages(&points.ours(&["--timestamp", "0s ago"]).unwrap(), file(14));

    let world = &points.world;
    compactor::snapshot(world, file(4), 4);
    compactor::merge(world, 3, (5, 6), Some(file(4)), file(6));
    compactor::merge(world, 2, (7, 8), Some(file(6)), file(8));
    compactor::merge(world, 1, (9, 11), Some(file(8)), file(11));
    points.agree_around(&[6, 9], &states);

    compactor::delete_log(&points.world, 11);
    // Before each of these there is one that can be restored.
    points.agree_around(&[13], &states);
    for txid in [4, 6, 8, 11] {
        let Some(&time) = points.times.get(&txid) else { continue };
        let text = points.text(time);
        compare::assert_same_pages(&points.ours(&["--timestamp", &text]).unwrap(), file(txid));
        let behind = points.text(time + 1);
        compare::assert_same_pages(&litestream::try_restore_at(&points.world, &behind).unwrap(), file(txid));
        compare::assert_same_pages(&litestream::restore(&points.world, Some(txid)), file(txid));
    }

    // Within a merged object: we name what is kept, Litestream restores the state before it.
    let named = |txid: u64| format!("TXID {txid:016x} of ");
    let Some(&time) = points.times.get(&10) else { return };
    let text = points.text(time);
    for arguments in [["--timestamp", &text], ["--txid", "000000000000000a"]] {
        let error = points.ours(&arguments).unwrap_err();
        assert!(error.contains(&named(8)) && error.contains(&named(11)), "{error}");
    }
    let theirs = litestream::try_restore_at(&points.world, &text);
    compare::assert_same_pages(&theirs.unwrap(), file(8));
    assert!(litestream::try_restore(&points.world, Some(10)).is_err());
    let early = points.text(points.times.values().next().unwrap() - 1);
    let error = points.ours(&["--timestamp", &early]).unwrap_err();
    assert!(error.contains("oldest") && error.contains(&named(4)), "{error}");
    assert!(litestream::try_restore_at(&points.world, &early).is_err());
}
