//! Moving from Litestream: what it has replicated is opened, continued, and restored by both.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bottomless_e2e::litestream::{self, Replication};
use bottomless_e2e::{Host, Session, World, compare, tools};

/// How long Litestream may take for its levels.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of before, with the database open.
fn program(world: &World) -> Session {
    let mut program = world.stock(Host::Newest);
    program.open(0, &world.db().display().to_string()).unwrap();
    program.sql("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)");
    program
}

fn insert(program: &mut Session) {
    program.sql("INSERT INTO t(v) VALUES(randomblob(700))");
}

/// Commits until Litestream has made all its levels and has deleted the beginning of its log.
fn commit_until_all_levels(world: &World, program: &mut Session) {
    let began = Instant::now();
    loop {
        for _ in 0..5 {
            insert(program);
        }
        program.sql("DELETE FROM t WHERE id % 7 = 3");
        let keys: Vec<String> = world.objects().into_iter().map(|object| object.key).collect();
        let count = |level: &str| keys.iter().filter(|key| key.contains(level)).count();
        let has_levels = ["/0001/", "/0002/", "/0003/", "/0009/"].iter().all(|level| count(level) > 1);
        if has_levels && count("/0000/") > 0 && !keys.contains(&world.log_key(2)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{keys:?}");
    }
}

fn cli(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::extension().with_file_name("bottomless-cli"));
    command.args(arguments).args(["-d", world.id()]).env_clear().envs(&world.environment);
    command.output().expect("run bottomless-cli")
}

fn restore(world: &World, txid: u64) -> PathBuf {
    let path = world.folder().join(format!("cli-{txid}.db"));
    let output =
        cli(world, &["restore", "--force", "--txid", &format!("{txid:016x}"), "-o", &path.display().to_string()]);
    assert!(output.status.success(), "{txid}: {}", String::from_utf8_lossy(&output.stderr));
    path
}

/// Both restore the same.
fn assert_restored_by_both(world: &World, txid: u64) -> PathBuf {
    let ours = restore(world, txid);
    compare::assert_same_pages(&ours, &litestream::restore(world, Some(txid)));
    ours
}

/// The last transaction of each object above the log.
fn merged_ends(world: &World) -> Vec<u64> {
    let end = |key: &str| u64::from_str_radix(key.rsplit_once('-')?.1.strip_suffix(".ltx")?, 16).ok();
    let merged = world.objects().into_iter().filter(|object| !object.key.contains("/0000/"));
    let mut ends: Vec<u64> = merged.filter_map(|object| end(&object.key)).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// The main file as SQLite leaves it without a WAL.
fn checkpointed(world: &World) -> PathBuf {
    let mut program = world.stock(Host::Newest);
    program.open(0, &world.db().display().to_string()).unwrap();
    program.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    program.close(0).unwrap();
    world.db()
}

/// Without the local file: filled from what Litestream has left, continued, and each point restored by both.
#[test]
fn a_replica_is_opened_and_continued() {
    let world = World::new("replica");
    let mut before = program(&world);
    let replication = Replication::start(&world);
    commit_until_all_levels(&world, &mut before);
    replication.stop();
    before.close(0).unwrap();

    let (points, end) = (merged_ends(&world), world.last());
    let replica = world.restore_elsewhere();
    compare::assert_same_pages(&replica, &litestream::restore(&world, None));
    compare::assert_same_pages(&replica, &checkpointed(&world));
    let listed = cli(&world, &["ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&format!("{end:016x}")), "{listed:?}");

    world.lose_local_files();
    let mut session = world.open(Host::Newest);
    for part in ["written by another program", "nothing but bottomless may write to this prefix"] {
        assert!(session.stderr().contains(part), "{}", session.stderr());
    }
    for n in 1..=3 {
        insert(&mut session);
        assert_eq!(world.last(), end + n);
    }
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    compare::assert_same_pages(&world.db(), &assert_restored_by_both(&world, end + 3));
    compare::assert_same_pages(&replica, &assert_restored_by_both(&world, end));
    let step = points.len().div_ceil(5);
    for txid in points.iter().step_by(step).copied().chain([end + 1]) {
        assert_restored_by_both(&world, txid);
    }
    world.assert_restores_equal(&mut session);
}

/// With the local file that was replicated: it is not taken over while litestream has it, nor when litestream was killed
/// before it had copied all; then it is, and goes on where litestream ended.
#[test]
fn the_replicated_file_is_taken_over() {
    let world = World::new("replicated");
    let mut before = program(&world);
    let replication = Replication::start(&world);
    commit_until_all_levels(&world, &mut before);
    let refused = |expected: &str| {
        let Err((error, session)) = world.try_open(Host::Newest) else { panic!("must not open: {expected}") };
        assert!(session.stderr().contains(expected), "{error:?}: {}", session.stderr());
    };
    before.close(0).unwrap();
    refused("stop litestream and all programs that use the database");

    replication.kill();
    let mut before = program(&world);
    insert(&mut before);
    before.close(0).unwrap();
    let end = world.last();
    refused("let it do that (litestream replicate -once)");
    assert_eq!(world.last(), end, "nothing is published");

    litestream::replicate_once(&world);
    let end = world.last();
    let mut session = world.open(Host::Newest);
    assert_eq!(world.last(), end, "what litestream has copied is not copied again");
    insert(&mut session);
    assert_eq!(world.last(), end + 1);
    session.close(0).unwrap();
    let mut session = world.open(Host::Newest);
    insert(&mut session);
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_restored_by_both(&world, end);
    compare::assert_same_pages(&world.db(), &assert_restored_by_both(&world, end + 2));
    world.assert_restores_equal(&mut session);
}

/// A Litestream that goes on elsewhere and is first with a transaction: the commit here fails, and what it wrote is taken
/// over as any other writer's.
#[test]
fn litestream_that_goes_on_elsewhere_fences() {
    let world = World::new("goes-on");
    let mut before = program(&world);
    insert(&mut before);
    litestream::replicate_once(&world);
    let other = world.folder().join("other.db");
    let mut session = world.host(Host::Newest);
    session.open(0, &format!("file:{}?vfs=bottomless&database_id={}", other.display(), world.id())).unwrap();
    assert_eq!(session.number("SELECT count(*) FROM t"), 1);
    before.sql("INSERT INTO t(v) VALUES('theirs')");
    litestream::replicate_once(&world);
    let theirs = world.last();

    session.sql_fails("INSERT INTO t(v) VALUES('ours')");
    for part in ["another writer has taken over", "writer 0000000000000000"] {
        assert!(session.stderr().contains(part), "{}", session.stderr());
    }
    assert_eq!(session.sql("SELECT v FROM t WHERE id > 1"), [["theirs"]]);
    session.sql("INSERT INTO t(v) VALUES('ours')");
    assert_eq!(world.last(), theirs + 1);
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    compare::assert_same_pages(&other, &assert_restored_by_both(&world, theirs + 1));
}

/// A replica of Litestream 0.3 is not opened as an empty database, and nothing is written beside it.
#[test]
fn a_replica_of_litestream_0_3_is_refused() {
    let world = World::new("old-replica");
    world.bucket.put(&format!("{}/generations/93f2bd7b9c1e6a04/snapshots/00000000.snapshot.lz4", world.id()), b"old");
    let Err((_, session)) = world.try_open(Host::Newest) else { panic!("must not open") };
    let path = world.folder().join("restored.db").display().to_string();
    let errors = [cli(&world, &["restore", "-o", &path]), cli(&world, &["ls"])].map(|output| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    });
    for said in [&session.stderr(), &errors[0], &errors[1]] {
        assert!(said.contains("a replica of Litestream 0.3") && said.contains("litestream restore"), "{said}");
    }
    assert_eq!(world.objects().len(), 1);
}
