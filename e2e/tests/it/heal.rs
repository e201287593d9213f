//! After a crash of the operating system, simulated: the boot id in the local state changes, and what was not synced is
//! damaged or cut off. The bucket heals the local file.

use std::path::{Path, PathBuf};

use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, Layout, Session, World, whole};
use bottomless_ltx::RunningChecksum;
use fastrand::Rng;

const PAGE: usize = 4096;
/// Of the local state: a record, a mark that begins with the boot id and a byte for whether all is in order, and the
/// page checksums.
const BLOCK: usize = 512;
const PAGES: usize = 4096;

/// Changes a block of the local state and seals it, so that it is valid.
fn edit_block(state: &Path, number: usize, edit: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(state).unwrap();
    let block = &mut bytes[number * BLOCK..][..BLOCK];
    let (content, seal) = block.split_at_mut(BLOCK - 8);
    assert_eq!(seal, RunningChecksum::of(content).finish().get().to_le_bytes(), "block {number} is valid");
    edit(content);
    seal.copy_from_slice(&RunningChecksum::of(content).finish().get().to_le_bytes());
    std::fs::write(state, bytes).unwrap();
}

/// A database whose process died in the middle of its work, and everything that it had acknowledged.
struct Crashed {
    world: World,
    acknowledged: String,
    /// The main file, the WAL and the local state as they were some transactions before.
    older: [(PathBuf, Vec<u8>); 3],
    rng: Rng,
}

impl Crashed {
    fn new(mode: &str, synchronous: &str, layout: Layout, seed: u64) -> Self {
        let world = World::new("heal").laid_out(layout);
        let mut rng = Rng::with_seed(seed);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = {synchronous}"));
        session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        let rows = |session: &mut Session, n: u32| {
            session.sql(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
                 INSERT INTO t(v) SELECT hex(randomblob(400)) FROM n"
            ));
        };
        rows(&mut session, 60);
        if mode == "WAL" && rng.bool() {
            session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        session.sql("UPDATE t SET v = 'early' WHERE id % 7 = 1");
        if layout == Layout::Pages {
            world.fold(&mut session, "in the middle");
        }
        let files = [world.db(), world.beside("wal"), world.beside("bottomless")];
        let older = files.map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default()));
        for _ in 0..rng.u32(1..4) {
            session.sql(&format!("UPDATE t SET v = hex(randomblob(300)) WHERE id % 9 = {}", rng.u32(..9)));
        }
        if mode == "WAL" && rng.bool() {
            session.sql("PRAGMA wal_checkpoint(PASSIVE)");
        }
        rows(&mut session, 20);
        let acknowledged = whole::content(&mut session, 0, "zz").unwrap();
        session.kill();
        Self { world, acknowledged, older, rng }
    }

    /// The machine starts again.
    fn other_boot(&self) {
        edit_block(&self.world.beside("bottomless"), 1, |mark| {
            mark[..16].fill(0xb0);
            assert_eq!(mark[16], 0, "a process that was killed does not leave its files in order");
        });
    }

    fn change(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>, &mut Rng)) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes, &mut self.rng);
        std::fs::write(path, bytes).unwrap();
    }

    /// The database opens with everything that was acknowledged, and goes on.
    #[track_caller]
    fn heals(&self, what: &str) {
        let mut session = match self.world.try_open(Host::Newest) {
            Ok(session) => session,
            Err((error, session)) => panic!("{what}: {error:?}\n{}", session.stderr()),
        };
        let found = whole::content(&mut session, 0, "zz").unwrap();
        assert!(found == self.acknowledged, "{what}: rows differ\n{}", session.stderr());
        session.sql("CREATE TABLE zz(n)");
        session.sql("INSERT INTO zz VALUES(1)");
        whole::assert_whole(&self.world, &mut session, what);
        // What was marked as another boot's is this one's now.
        session.close(0).unwrap();
        let mut session = self.world.open(Host::Python);
        assert_eq!(whole::content(&mut session, 0, "zz").unwrap(), self.acknowledged, "{what}");
    }
}

/// What an operating system may leave of a file that was not synced.
#[derive(Clone, Copy, Debug)]
enum Damage {
    ZeroedPages,
    FirstPageZeroed,
    OldPages,
    OldFile,
    FlippedBits,
    TailCutOff,
    TailCutWithinAPage,
    Emptied,
    WalCutOff,
    WalFlipped,
    WalZeroed,
    WalLost,
    OldWal,
    StateTailLost,
    StatePagesZeroed,
    OldState,
    HotJournal,
    DamagedJournal,
}

use Damage::{
    DamagedJournal, Emptied, FirstPageZeroed, FlippedBits, HotJournal, OldFile, OldPages, OldState, OldWal,
    StatePagesZeroed, StateTailLost, TailCutOff, TailCutWithinAPage, WalCutOff, WalFlipped, WalLost, WalZeroed,
    ZeroedPages,
};

const OF_THE_FILE: [Damage; 8] =
    [ZeroedPages, FirstPageZeroed, OldPages, OldFile, FlippedBits, TailCutOff, TailCutWithinAPage, Emptied];
const OF_THE_WAL: [Damage; 5] = [WalCutOff, WalFlipped, WalZeroed, WalLost, OldWal];
const OF_THE_STATE: [Damage; 3] = [StateTailLost, StatePagesZeroed, OldState];
const OF_THE_JOURNAL: [Damage; 2] = [HotJournal, DamagedJournal];

fn some_pages(bytes: &mut [u8], rng: &mut Rng, mut damage: impl FnMut(usize, &mut [u8], &mut Rng)) {
    let pages = bytes.len() / PAGE;
    for _ in 0..rng.usize(1..4) {
        let page = rng.usize(1..pages.max(2));
        if let Some(content) = bytes.get_mut(page * PAGE..(page + 1) * PAGE) {
            damage(page, content, rng);
        }
    }
}

impl Damage {
    fn apply(self, crashed: &mut Crashed) {
        let (main, wal, state) = (crashed.world.db(), crashed.world.beside("wal"), crashed.world.beside("bottomless"));
        let [(_, old_main), (_, old_wal), (_, old_state)] = crashed.older.clone();
        match self {
            ZeroedPages => crashed.change(&main, |bytes, rng| some_pages(bytes, rng, |_, page, _| page.fill(0))),
            FirstPageZeroed => crashed.change(&main, |bytes, _| bytes[..PAGE].fill(0)),
            OldPages => crashed.change(&main, |bytes, rng| {
                some_pages(bytes, rng, |number, page, _| match old_main.get(number * PAGE..(number + 1) * PAGE) {
                    Some(old) => page.copy_from_slice(old),
                    None => page.fill(0),
                });
            }),
            OldFile => crashed.change(&main, |bytes, _| *bytes = old_main),
            FlippedBits => crashed.change(&main, |bytes, rng| {
                some_pages(bytes, rng, |_, page, rng| page[rng.usize(..PAGE)] ^= 1 << rng.u8(..8));
            }),
            TailCutOff => {
                crashed.change(&main, |bytes, rng| bytes.truncate(rng.usize(..bytes.len() / PAGE).max(1) * PAGE))
            }
            TailCutWithinAPage => {
                crashed.change(&main, |bytes, rng| bytes.truncate(rng.usize(bytes.len() / 2..bytes.len())))
            }
            Emptied => crashed.change(&main, |bytes, _| bytes.clear()),
            WalCutOff => crashed.change(&wal, |bytes, rng| bytes.truncate(rng.usize(..bytes.len()))),
            WalFlipped => crashed.change(&wal, |bytes, rng| {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 0x10;
            }),
            WalZeroed => crashed.change(&wal, |bytes, rng| {
                let at = rng.usize(..bytes.len());
                bytes[at..].fill(0);
            }),
            WalLost => std::fs::remove_file(&wal).unwrap(),
            OldWal => crashed.change(&wal, |bytes, _| *bytes = old_wal),
            StateTailLost => crashed.change(&state, |bytes, rng| bytes.truncate(rng.usize(PAGES..bytes.len()))),
            StatePagesZeroed => crashed.change(&state, |bytes, _| bytes[PAGES..].fill(0)),
            OldState => crashed.change(&state, |bytes, _| *bytes = old_state),
            HotJournal | DamagedJournal => {
                // A transaction that was not acknowledged, and was cut off by the crash.
                let mut session = crashed.world.open(Host::Newest);
                session.sql("PRAGMA cache_size = 2; BEGIN; UPDATE t SET v = v || hex(randomblob(500))");
                session.kill();
                let journal = crashed.world.beside("journal");
                assert!(journal.exists(), "a hot journal must be there for this test to show anything");
                if matches!(self, DamagedJournal) {
                    crashed.change(&journal, |bytes, rng| {
                        let at = rng.usize(600..bytes.len());
                        bytes[at..].fill(0);
                    });
                }
            }
        }
    }
}

fn heal(mode: &str, synchronous: &str, layout: Layout, damages: &[Damage], seed: u64) {
    let what = format!("{mode}, {synchronous}, {layout:?}, {damages:?}, seed {seed}");
    println!("{what}");
    let mut crashed = Crashed::new(mode, synchronous, layout, seed);
    for damage in damages {
        damage.apply(&mut crashed);
    }
    crashed.other_boot();
    crashed.heals(&what);
}

/// Each damage alone, and each with one of another file, in one of the layouts: which one, alternates.
fn matrix(mode: &str, others: &[Damage]) {
    let mut seed = Workload::seed();
    let mut next = || {
        seed = seed.wrapping_add(1);
        (["OFF", "NORMAL"][seed as usize % 2], Layout::of(seed as usize / 2), seed)
    };
    let alone = OF_THE_FILE.iter().chain(others).chain(&OF_THE_STATE);
    for damage in alone {
        let (synchronous, layout, seed) = next();
        heal(mode, synchronous, layout, &[*damage], seed);
    }
    for (i, first) in OF_THE_FILE.iter().enumerate() {
        let (synchronous, layout, seed) = next();
        // A journal is lost with what it belongs to, or it comes first.
        let other = others[i % others.len()];
        heal(mode, synchronous, layout, &[other, *first], seed);
        let (synchronous, layout, seed) = next();
        heal(mode, synchronous, layout, &[*first, OF_THE_STATE[i % OF_THE_STATE.len()]], seed);
    }
}

#[test]
fn what_a_crash_of_the_system_damages_is_healed_in_mode_delete() {
    matrix("DELETE", &OF_THE_JOURNAL);
}

#[test]
fn what_a_crash_of_the_system_damages_is_healed_in_mode_wal() {
    matrix("WAL", &OF_THE_WAL);
}

/// The local state is damaged while nobody has the database open: that costs a comparison, and uploads nothing.
fn rebuilt(what: &str, layout: Layout, damage: impl FnOnce(&Path)) {
    let world = World::new("heal-state").laid_out(layout);
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    session.sql("INSERT INTO t(v) VALUES(zeroblob(20000)), ('small')");
    let acknowledged = whole::content(&mut session, 0, "zz").unwrap();
    session.close(0).unwrap();
    let (log, state) = (world.log(), world.beside("bottomless"));
    damage(&state);
    let mut session = world.open(Host::Newest);
    assert_eq!(whole::content(&mut session, 0, "zz").unwrap(), acknowledged, "{what}");
    assert_eq!(world.log(), log, "{what}: nothing has changed");
    session.sql("UPDATE t SET v = 'after' WHERE id = 2");
    whole::assert_whole(&world, &mut session, what);
}

#[test]
fn local_state_of_another_version_or_database_costs_time() {
    for layout in Layout::ALL {
        rebuilt("version", layout, |state| edit_block(state, 0, |record| record[8] += 1));
        rebuilt("identity", layout, |state| edit_block(state, 0, |record| record[24] ^= 1));
        rebuilt("another main file", layout, |state| edit_block(state, 0, |record| record[32] ^= 1));
        rebuilt("not left in order", layout, |state| edit_block(state, 1, |mark| mark[16] = 0));
    }
}

#[test]
fn local_state_with_one_flipped_bit_anywhere_costs_time() {
    let places = [0, 9, 20, 40, 60, 300, 505, 512, 528, 600, 1020, PAGES, PAGES + 9, PAGES + 8 * 5];
    for (number, at) in places.into_iter().enumerate() {
        rebuilt(&format!("byte {at}"), Layout::of(number), |state| {
            let mut bytes = std::fs::read(state).unwrap();
            bytes[at] ^= 0x20;
            std::fs::write(state, bytes).unwrap();
        });
    }
}

/// The local state loses page checksums while the database is open: nothing is acknowledged that could not be restored.
#[test]
fn page_checksums_that_are_lost_while_the_database_is_open_cost_a_refused_commit() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("heal-open").laid_out(Layout::of_mode(mode));
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}"));
        session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        session.sql("INSERT INTO t(v) VALUES(zeroblob(20000)), ('small')");
        let acknowledged = whole::content(&mut session, 0, "zz").unwrap();
        let state = std::fs::File::options().write(true).open(world.beside("bottomless")).unwrap();
        state.set_len(PAGES as u64 + 8).unwrap();
        let error = session.sql_fails("UPDATE t SET v = zeroblob(19000)");
        assert!(session.stderr().contains("was damaged or replaced while the database was open"), "{mode}: {error:?}");
        session.kill();
        let mut session = world.open(Host::Newest);
        assert_eq!(whole::content(&mut session, 0, "zz").unwrap(), acknowledged, "{mode}");
        session.sql("UPDATE t SET v = 'after' WHERE id = 2");
        whole::assert_whole(&world, &mut session, mode);
    }
}

/// Deleted while it is open: whoever has it open goes on with it, and the next to open makes a new one.
#[test]
fn local_state_that_is_deleted_while_the_database_is_open_costs_time() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("heal-deleted").laid_out(Layout::of_mode(mode));
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}"));
        session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        std::fs::remove_file(world.beside("bottomless")).unwrap();
        session.sql("INSERT INTO t(v) VALUES('one')");
        session.sql("INSERT INTO t(v) VALUES('two')");
        session.close(0).unwrap();
        let mut session = world.open(Host::Newest);
        assert_eq!(session.number("SELECT count(*) FROM t"), 2);
        session.sql("UPDATE t SET v = 'after' WHERE id = 2");
        whole::assert_whole(&world, &mut session, mode);
    }
}
