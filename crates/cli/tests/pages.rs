//! Commands on databases with layout `pages`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::gate::Gate;
use support::{PAGE_BYTES, Ran, World, command, pages, sqlite};

fn restored(world: &World, id: &str) -> Vec<u8> {
    let file = world.path("restored");
    let ran = world.run(&["restore", "-f", "-d", id, "-o", file.to_str().unwrap()]);
    assert_eq!(ran.code(), Some(0), "{}", ran.err());
    fs::read(file).unwrap()
}

/// What the page objects of a database are, one behind the other.
fn concatenated(world: &World, id: &str, count: usize) -> Vec<u8> {
    (1..=count).flat_map(|page| world.bytes(&format!("{id}-{page:012}"))).collect()
}

fn convert(world: &World, id: &str, to: &str, more: &[&str]) -> Ran {
    world.run(&[&["convert", "-d", id, "--to", to, "--json"], more].concat())
}

const MARKER: &str = "test.db/pages/0000000000000001-0000000000000003.ltx";

#[test]
fn a_database_goes_there_and_back() {
    let world = World::new();
    let states = world.three_transactions();
    let last = states.last().unwrap();
    let json = convert(&world, "test.db", "pages", &[]).json();
    assert_eq!(
        (&json["converted"], &json["layout"], &json["written_pages"], &json["replaced_objects"]),
        (&json!(true), &json!("pages"), &json!(2), &json!(1))
    );
    assert!(concatenated(&world, "test.db", 2) == *last && world.keys("test.db").contains(&MARKER.to_owned()));
    assert!(restored(&world, "test.db") == *last);
    assert_eq!(convert(&world, "test.db", "pages", &[]).json()["converted"], json!(false));

    let after = pages(&[2, 6, 7]);
    world.put("test.db", 0, (4, 4), last, &after);
    let info = world.run(&["info", "-d", "test.db", "--json"]).json();
    let counted =
        json!({"txid": "0000000000000003", "unfolded_transactions": 1, "objects": 2, "bytes": 2 * PAGE_BYTES});
    assert_eq!((&info["layout"], &info["page_objects"], &info["claims"]), (&json!("pages"), &counted, &json!(0)));
    let folded = world.run(&["compact", "-d", "test.db", "--json"]).json();
    assert_eq!(
        (&folded["folded"]["written_pages"], &folded["folded"]["txid"]),
        (&json!(2), &json!("0000000000000004"))
    );
    assert!(concatenated(&world, "test.db", 3) == after);
    let snapshot = world.run(&["snapshot", "-d", "test.db"]);
    assert!(snapshot.failed(1).contains("convert -d test.db --to ltx"), "{}", snapshot.err());
    for arguments in [&["verify"][..], &["verify", "--quick"], &["diff", "0000000000000003"]] {
        let ran = world.run(&[arguments, &["-d", "test.db"]].concat());
        assert_eq!(ran.code(), Some(0), "{arguments:?}: {}{}", ran.out(), ran.err());
    }
    assert!(world.run(&["rm", "-d", "test.db", "--older-than", "30d"]).out().contains("layout pages"));
    assert_eq!(world.run(&["branch", "test.db", "branch.db"]).code(), Some(0));

    let json = convert(&world, "test.db", "ltx", &[]).json();
    assert_eq!((&json["converted"], &json["removed_pages"]), (&json!(true), &json!(3)));
    assert_eq!(json["snapshot"], json!("test.db/0009/0000000000000001-0000000000000004.ltx"));
    assert!(world.keys("test.db/pages").is_empty());
    assert!(restored(&world, "test.db") == after && restored(&world, "branch.db") == after);
    assert_eq!(convert(&world, "test.db", "ltx", &[]).json()["converted"], json!(false));
    assert_eq!(world.run(&["ls", "--json"]).json()["lost_page_objects"], json!([]));

    assert!(convert(&world, "none.db", "pages", &[]).failed(1).contains("no database none.db"));
    convert(&world, "test.db", "page", &[]).failed(2);
}

#[test]
fn names_beside_one_another_do_not_mix() {
    let world = World::new();
    let names = ["a.db", "a.db-0", "a.db-000000000001"];
    let files: Vec<Vec<u8>> = (1..).zip(names).map(|(number, _)| sqlite(&[number, 9, number])).collect();
    for (name, content) in names.iter().zip(&files) {
        fs::write(world.path("file"), content).unwrap();
        let path = world.path("file");
        let imported = world.run(&["import", "-d", name, "--layout", "pages", path.to_str().unwrap(), "--json"]).json();
        assert_eq!((&imported["layout"], &imported["folded"]["written_pages"]), (&json!("pages"), &json!(3)));
    }
    let listed = world.run(&["ls", "--json"]).json();
    let listed = listed["databases"].as_array().unwrap();
    let found: Vec<_> = listed.iter().map(|one| one["database"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    assert!(listed.iter().all(|one| one["layout"] == json!("pages")));
    for (name, content) in names.iter().zip(&files) {
        assert!(concatenated(&world, name, 3) == *content && restored(&world, name) == *content, "{name}");
        let info = world.run(&["info", "-d", name, "--json"]).json();
        assert_eq!((&info["page_objects"]["objects"], &info["foreign_objects"]), (&json!(3), &json!(0)), "{name}");
        assert_eq!(world.run(&["verify", "-d", name, "--json"]).json()["warnings"], json!(0), "{name}");
    }
    // The one in the middle is gone, the others are whole; then the history of the first is lost.
    let removed = world.run(&["rm", "-d", "a.db-0", "--yes", "--json"]).json();
    assert_eq!((&removed["done"], &removed["page_objects"]), (&json!(true), &json!(3)));
    for key in world.keys("a.db") {
        world.delete(&key);
    }
    let listed = world.run(&["ls", "--json"]).json();
    assert_eq!(listed["databases"].as_array().unwrap().len(), 1);
    assert_eq!(listed["lost_page_objects"], json!(["a.db"]));
    assert!(world.run(&["ls"]).out().contains("rm -d a.db"));
    let again = world.run(&["import", "-d", "a.db", world.path("file").to_str().unwrap()]);
    assert!(again.failed(1).contains("page objects"), "{}", again.err());
    assert_eq!(world.run(&["rm", "-d", "a.db", "--yes"]).code(), Some(0));
    assert!(restored(&world, names[2]) == files[2] && concatenated(&world, names[2], 3) == files[2]);
    assert_eq!(world.run(&["ls", "--json"]).json()["lost_page_objects"], json!([]));
}

#[test]
fn a_conversion_that_was_killed_goes_on() {
    let world = World::new();
    let states = world.three_transactions();
    let last = states.last().unwrap();
    for point in ["fold.claimed", "fold.page", "fold.pages", "fold.marked"] {
        let mut killed = world.command(&["convert", "-d", "test.db", "--to", "pages"]);
        let ran = Ran(killed.env("BOTTOMLESS_TEST_POINT", format!("{point}=kill")).output().unwrap());
        assert_eq!((ran.code(), ran.out()), (None, ""), "{point}: {}", ran.err());
        assert!(restored(&world, "test.db") == *last, "{point}");
        // Nothing that it sent is under way.
        let json = convert(&world, "test.db", "pages", &["--force"]).json();
        assert_eq!(json["layout"], json!("pages"));
        assert!(concatenated(&world, "test.db", 2) == *last && restored(&world, "test.db") == *last, "{point}");
        let back = convert(&world, "test.db", "ltx", &["--force"]).json();
        assert_eq!(back["removed_pages"], json!(2), "{point}");
        assert!(world.keys("test.db/pages").is_empty() && restored(&world, "test.db") == *last, "{point}");
    }
}

#[test]
fn an_interrupted_conversion_says_so_and_goes_on() {
    let world = World::new();
    let states = world.three_transactions();
    let last = states.last().unwrap();
    fs::create_dir(world.path("tmp")).unwrap();
    convert(&world, "test.db", "pages", &[]).json();
    // Before the snapshot, and before the marker is deleted.
    for (method, count) in [("PUT", 0), ("DELETE", 0)] {
        let gate = Gate::after_some(world.server.url(), method, count);
        let child = command(&gate.url, world.folder.path(), &["convert", "-d", "test.db", "--to", "ltx", "--force"])
            .env("TMPDIR", world.path("tmp"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        gate.waiting.recv_timeout(Duration::from_secs(60)).unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let ran = Ran(child.wait_with_output().unwrap());
        assert!(ran.failed(130).contains("the same command goes on"), "{}", ran.err());
        assert!(restored(&world, "test.db") == *last);
        assert_eq!(fs::read_dir(world.path("tmp")).unwrap().count(), 0);
    }
    // The claims that are left are of one that came another way to the store, as far as anybody knows.
    assert!(convert(&world, "test.db", "ltx", &[]).failed(1).contains("/pages/claim-"));
    for claim in world.keys("test.db/pages").iter().filter(|key| key.contains("claim-")) {
        world.delete(claim);
    }
    let other = "test.db/pages/claim-0123456789abcdef-0123456789abcdef";
    world.put_bytes(other, Vec::new());
    let refused = convert(&world, "test.db", "ltx", &[]);
    assert!(refused.failed(1).contains(other), "{}", refused.err());
    assert!(restored(&world, "test.db") == *last);
    world.delete(other);
    assert_eq!(convert(&world, "test.db", "ltx", &[]).json()["converted"], json!(true));
    assert!(world.keys("test.db/pages").is_empty() && restored(&world, "test.db") == *last);
}

#[test]
fn a_database_that_is_folded_is_not_removed() {
    let world = World::new();
    world.three_transactions();
    let mut killed = world.command(&["convert", "-d", "test.db", "--to", "pages"]);
    let ran = Ran(killed.env("BOTTOMLESS_TEST_POINT", "fold.pages=kill").output().unwrap());
    assert_eq!((ran.code(), ran.out()), (None, ""), "{}", ran.err());
    let keys = world.keys("");
    let refused = world.run(&["rm", "-d", "test.db", "--yes"]);
    assert!(refused.failed(1).contains("Nothing was deleted; with --force"), "{}", refused.err());
    assert_eq!(world.keys(""), keys);
    assert_eq!(world.run(&["rm", "-d", "test.db"]).code(), Some(0), "it is shown");
    assert_eq!(world.run(&["rm", "-d", "test.db", "--yes", "--force"]).code(), Some(0));
    assert_eq!(world.keys(""), [""; 0]);
}
