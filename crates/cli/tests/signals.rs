//! What is left when a command is interrupted.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::gate::Gate;
use support::{Ran, World, command};

/// Nothing here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a command whose downloads wait from the one of this number on, and returns when it waits.
fn start(world: &World, downloads: usize, arguments: &[&str]) -> (Child, Gate) {
    start_before(world, ("GET", downloads), arguments)
}

/// The same for requests of another method.
fn start_before(world: &World, (method, count): (&'static str, usize), arguments: &[&str]) -> (Child, Gate) {
    let gate = Gate::after_some(world.server.url(), method, count);
    let child = command(&gate.url, world.folder.path(), arguments)
        .current_dir(world.folder.path())
        .env("TMPDIR", world.path("tmp"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    gate.waiting.recv_timeout(PATIENCE).unwrap();
    (child, gate)
}

fn end(child: Child, signal: Signal) -> Ran {
    kill_process(Pid::from_child(&child), signal).unwrap();
    Ran(child.wait_with_output().unwrap())
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const SIGNALS: [(Signal, i32, &str); 2] = [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")];

#[test]
fn an_interrupted_restore_leaves_what_was_there() {
    let world = World::new();
    world.levels();
    fs::create_dir(world.path("tmp")).unwrap();
    fs::write(world.path("old.db"), "precious").unwrap();
    let before = files(world.folder.path());
    for (signal, code, says) in SIGNALS {
        for arguments in [&["-o", "new.db"][..], &["-o", "old.db", "--force"]] {
            let arguments = [&["restore", "-d", "test.db"], arguments].concat();
            let (child, _gate) = start(&world, 1, &arguments);
            let under_way = files(world.folder.path());
            assert_eq!(under_way.len(), before.len() + 1, "it is not under way: {under_way:?}");
            let ran = end(child, signal);
            assert!(ran.failed(code).contains(says));
            assert_eq!(files(world.folder.path()), before);
            assert_eq!(fs::read(world.path("old.db")).unwrap(), b"precious");
            assert_eq!(files(&world.path("tmp")), [""; 0]);
        }
    }
}

#[test]
fn an_interrupted_verify_leaves_nothing() {
    let world = World::new();
    world.levels();
    let tmp = world.path("tmp");
    fs::create_dir(&tmp).unwrap();
    let before = files(world.folder.path());
    for (signal, code, says) in SIGNALS {
        // While the objects are read, and while the end is restored.
        for downloads in [1, 9 + 1] {
            let (child, _gate) = start(&world, downloads, &["verify", "-d", "test.db"]);
            let open = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            let targets = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
            assert_eq!(targets.filter(|target| target.starts_with(&tmp)).count(), 1, "its file is there");
            let ran = end(child, signal);
            assert!(ran.failed(code).contains(says));
            assert_eq!(files(&tmp), [""; 0]);
            assert_eq!(files(world.folder.path()), before);
        }
    }
}

#[test]
fn an_interrupted_branch_is_no_database_and_goes_on() {
    let world = World::new();
    world.levels();
    let restore = |id| world.run(&["restore", "-d", id, "-f", "-o", world.path("out.db").to_str().unwrap()]);
    let plan = world.run(&["branch", "test.db", "plan.db", "--json"]).json()["objects"].as_u64().unwrap();
    assert!(plan > 2);
    for (signal, code, says) in SIGNALS {
        // Before the first copy, and before the last, which waits for all others.
        for copies in [0, usize::try_from(plan).unwrap() - 1] {
            let (child, gate) = start_before(&world, ("PUT", copies), &["branch", "test.db", "b.db"]);
            let ran = end(child, signal);
            drop(gate);
            assert!(ran.failed(code).contains(says) && ran.err().contains("rm -d b.db --yes"), "{}", ran.err());
            if copies > 0 {
                assert_eq!(world.keys("b.db").len(), copies);
                assert!(restore("b.db").failed(1).contains("gap"));
            }
            assert_eq!(world.run(&["branch", "test.db", "b.db"]).code(), Some(0));
            assert_eq!(restore("b.db").code(), Some(0));
            assert_eq!(world.run(&["rm", "-d", "b.db", "--yes"]).code(), Some(0));
        }
    }
}

#[test]
fn an_interrupted_rm_says_how_far_it_came_and_goes_on() {
    let world = World::new();
    for (signal, code, says) in SIGNALS {
        world.three_transactions();
        let (child, gate) = start_before(&world, ("DELETE", 2), &["rm", "-d", "test.db", "--yes"]);
        let ran = end(child, signal);
        drop(gate);
        assert!(ran.failed(code).contains(says) && ran.err().contains("2 of 4 objects"), "{}", ran.err());
        assert!(world.run(&["restore", "-d", "test.db", "-o", "none"]).failed(1).contains("gap"));
        assert_eq!(world.run(&["rm", "-d", "test.db", "--yes"]).code(), Some(0));
        assert_eq!(world.keys("test.db"), [""; 0]);
    }
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    let world = World::new();
    fs::create_dir(world.path("tmp")).unwrap();
    let file = world.path("app.db");
    fs::write(&file, support::sqlite(&[1, 2])).unwrap();
    let before = files(world.folder.path());
    for (signal, code, says) in SIGNALS {
        let (child, _gate) = start_before(&world, ("PUT", 0), &["import", file.to_str().unwrap()]);
        assert!(end(child, signal).failed(code).contains(says));
        assert_eq!(world.keys("app.db"), [""; 0]);
        assert_eq!(files(&world.path("tmp")), [""; 0]);
        assert_eq!(files(world.folder.path()), before);
    }
}
