//! Stores that can't keep two writers apart are found out before the first commit, and `FENCING=off` is the way out.

use std::process::Command;

use bottomless_e2e::bucket::Bucket;
use bottomless_e2e::odd_store::{Conduct, OddStore};
use bottomless_e2e::rclone::Rclone;
use bottomless_e2e::{Host, World, compare, tools};

const WAY_OUT: &str = "LIBSQL_BOTTOMLESS_FENCING=off";

/// `bottomless-cli doctor`: its exit status and what it prints.
fn doctor(world: &World) -> (Option<i32>, String) {
    let program = tools::extension().with_file_name("bottomless-cli");
    let output = Command::new(program)
        .args(["doctor", "-d", world.id()])
        .env_clear()
        .envs(&world.environment)
        .output()
        .expect("run the CLI");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The commit fails, and says why and what to do; so does the doctor.
#[track_caller]
fn assert_refused(world: &World, why: &str) {
    let mut session = world.open(Host::Newest);
    for _ in 0..2 {
        let error = session.sql_fails("CREATE TABLE t(v)");
        assert!(![0, 5, 6].contains(&error.primary()), "{why}: {error:?}");
        let told = session.status()["last_error"].to_string();
        for text in [&told, &session.stderr()] {
            assert!(text.contains(why) && text.contains(WAY_OUT), "{why}: {text}");
        }
        assert_eq!(session.number("SELECT count(*) FROM sqlite_schema"), 0, "{why}: rolled back");
    }
    let (status, told) = doctor(world);
    assert_eq!(status, Some(1), "{why}: {told}");
    let line = told.lines().find(|line| line.starts_with("FAILED")).expect("a check that failed");
    assert!(line.contains("conditional writes") && line.contains(why) && line.contains(WAY_OUT), "{why}: {told}");
}

/// With the user's promise it commits, and restores.
#[track_caller]
fn assert_works_without_fencing(world: &mut World, why: &str) {
    world.set("LIBSQL_BOTTOMLESS_FENCING", "off");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    session.sql("INSERT INTO t VALUES(42)");
    assert_eq!(session.status()["txid"], 2, "{why}");
    let restored = world.restore_elsewhere();
    compare::assert_same_pages(&world.db(), &restored);
}

#[test]
fn a_store_with_an_odd_view_of_conditions_is_refused() {
    for (conduct, why) in [
        (Conduct::Ignores, "8 of 8 simultaneous creators"),
        (Conduct::Inverts, "refused all of 8 creators"),
        (Conduct::LooksThenWrites(2), "2 of 8 simultaneous creators"),
        (Conduct::LooksThenWrites(8), "8 of 8 simultaneous creators"),
        (Conduct::OkToAll, "8 of 8 simultaneous creators"),
        (Conduct::Answers(501), "does not support conditional writes"),
        (Conduct::Answers(412), "refused all of 8 creators"),
        (Conduct::Answers(409), "refused all of 8 creators"),
        (Conduct::StoresAndRefusesAll, "and yet stored an object"),
        (Conduct::OneWinsAnotherStays, "kept another's object"),
    ] {
        let server = OddStore::start(conduct);
        let mut world = World::on("odd", Bucket::new(server.address(), "odd"), server.address());
        assert_refused(&world, why);
        let probe = format!("odd/{}/probe-", world.id());
        let others: Vec<_> = server.written().into_iter().filter(|key| !key.starts_with(&probe)).collect();
        assert!(others.is_empty(), "{conduct:?}: nothing but the probe was written: {others:?}");
        assert!(server.keys().is_empty(), "{conduct:?}: {:?}", server.keys());
        assert_works_without_fencing(&mut world, why);
        assert_eq!(world.log(), [1, 2], "{conduct:?}");
    }
}

/// The doctor does not call a store ill whose user has promised to be alone.
#[test]
fn the_doctor_warns_of_a_store_that_is_used_without_fencing() {
    let server = OddStore::start(Conduct::Ignores);
    let mut world = World::on("odd", Bucket::new(server.address(), "odd"), server.address());
    world.set("LIBSQL_BOTTOMLESS_FENCING", "off");
    let (status, told) = doctor(&world);
    assert_eq!(status, Some(0), "{told}");
    assert!(told.lines().any(|line| line.starts_with("WARNING  conditional writes")), "{told}");
}

#[test]
fn rclone_is_refused_and_works_for_a_single_writer() {
    let folder = tempfile::tempdir().unwrap();
    let buckets = folder.path().join("buckets");
    let bucket = buckets.join("rclone");
    std::fs::create_dir_all(&bucket).unwrap();
    let server = Rclone::serve(&buckets, folder.path());
    let mut world = World::on("rclone", Bucket::new(server.address(), "rclone"), server.address());
    assert_refused(&world, "simultaneous creators of one key succeed");
    let left: Vec<_> = walk(&bucket);
    assert!(left.is_empty(), "the probe leaves nothing: {left:?}");
    assert_works_without_fencing(&mut world, "rclone");
    let log = [1, 2].map(|txid| bucket.join(world.log_key(txid)));
    assert_eq!(walk(&bucket), log);
}

/// The files in a folder and those below it.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
