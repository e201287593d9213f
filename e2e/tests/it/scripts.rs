//! The scripts in `test/`, as the first description of the system has them, against SeaweedFS.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bottomless_e2e::{Layout, World, compare, shell, tools};

/// A copy of the scripts beside a build, so that they leave nothing in the tree.
fn copy_of_the_scripts(world: &World) -> PathBuf {
    let build = world.folder().join("target/debug");
    std::fs::create_dir_all(&build).unwrap();
    let extension = tools::extension();
    std::os::unix::fs::symlink(&extension, build.join("bottomless.so")).unwrap();
    std::os::unix::fs::symlink(extension.with_file_name("bottomless-cli"), build.join("bottomless-cli")).unwrap();
    let scripts = world.folder().join("test");
    std::fs::create_dir(&scripts).unwrap();
    for name in ["common.sh", "smoke_test.sh", "restore_test.sh"] {
        std::fs::copy(tools::repository().join("test").join(name), scripts.join(name)).unwrap();
    }
    scripts
}

fn run(world: &World, scripts: &Path, name: &str) -> Output {
    Command::new("/usr/bin/timeout")
        .args(["120", &format!("./{name}")])
        .current_dir(scripts)
        .env_clear()
        .envs(&world.environment)
        .env("LIBSQL_BOTTOMLESS_DATABASE_ID", world.id())
        .output()
        .unwrap()
}

#[track_caller]
fn passes(world: &World, scripts: &Path, name: &str) {
    let output = run(world, scripts, name);
    let text = shell::text(&output);
    assert!(output.status.success(), "{name}: {text}\n{}", shell::errors(&output));
    assert!(text.starts_with("integer|2|42\nblob|8193|1\ntext|3|hey\n"), "{name}: {text}");
}

#[test]
fn the_smoke_test_and_the_restore_test_pass() {
    smoke_and_restore(Layout::Ltx);
}

#[test]
fn the_smoke_test_and_the_restore_test_pass_with_page_objects() {
    smoke_and_restore(Layout::Pages);
}

/// When the shell has ended, the page objects are its file.
fn folded(world: &World, scripts: &Path) {
    if world.layout() == Layout::Pages {
        let pages = world.folder().join("concatenated.db");
        std::fs::write(&pages, world.concatenated()).unwrap();
        compare::assert_same_pages(&scripts.join("test.db"), &pages);
    }
}

fn smoke_and_restore(layout: Layout) {
    let world = World::new("scripts").laid_out(layout);
    let scripts = copy_of_the_scripts(&world);
    passes(&world, &scripts, "smoke_test.sh");
    folded(&world, &scripts);
    let first = world.last();
    assert!(first >= 4, "a table and three rows: {first}");
    passes(&world, &scripts, "restore_test.sh");
    assert_eq!(world.last(), first, "a restore adds nothing");
    folded(&world, &scripts);
    // On a database that is there already, and on one that lost its local file.
    passes(&world, &scripts, "smoke_test.sh");
    std::fs::remove_file(scripts.join("test.db")).unwrap();
    passes(&world, &scripts, "smoke_test.sh");
    assert!(world.last() > first);
    // On one of another history, which `force` lets win.
    for name in ["test.db", "test.db-bottomless"] {
        std::fs::remove_file(scripts.join(name)).unwrap();
    }
    let output = shell::run_stock(&world, ".open test/test.db\nCREATE TABLE other(a);\n");
    assert!(output.status.success(), "{}", shell::errors(&output));
    passes(&world, &scripts, "smoke_test.sh");
    passes(&world, &scripts, "restore_test.sh");
    folded(&world, &scripts);
}

/// The scripts can fail: nothing was written, and the store is away.
#[test]
fn the_restore_test_fails_without_a_history_and_the_smoke_test_without_a_store() {
    let mut world = World::new("scripts-fail");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 2);
    let scripts = copy_of_the_scripts(&world);
    let output = run(&world, &scripts, "restore_test.sh");
    assert!(!output.status.success() && !shell::text(&output).contains("passed"), "{}", shell::text(&output));
    world.proxy.refuse();
    let output = run(&world, &scripts, "smoke_test.sh");
    assert!(!output.status.success() && !shell::text(&output).contains("passed"), "{}", shell::text(&output));
    assert!(world.log().is_empty());
}
