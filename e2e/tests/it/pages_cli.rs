//! `bottomless-cli` on page objects, beside programs that have the database open.

use std::process::{Command, Output};

use bottomless_e2e::{Host, World, compare, litestream, tools};

fn cli(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::extension().with_file_name("bottomless-cli"));
    command.args(arguments).args(["-d", world.id()]).env_clear().envs(&world.environment).output().expect("run")
}

#[track_caller]
fn done(world: &World, arguments: &[&str]) {
    let output = cli(world, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_database_goes_to_page_objects_and_back_under_a_writer() {
    let mut world = World::new("convert");
    world.set("LIBSQL_BOTTOMLESS_COMPACTION", "off");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(randomblob(90000))");
    let write = "INSERT INTO t(v) VALUES(randomblob(5000)); UPDATE t SET v = randomblob(700) WHERE id % 3 = 0";
    for to in ["pages", "ltx"] {
        session.sql(write);
        done(&world, &["convert", "--to", to]);
        world.assert_restores_equal(&mut session);
        done(&world, &["verify"]);
        session.sql(write);
        world.assert_restores_equal(&mut session);
        if to == "ltx" {
            compare::assert_same_pages(&world.db(), &litestream::restore(&world, None));
        } else {
            done(&world, &["compact"]);
            // One behind the other they are the file.
            let pages = std::fs::metadata(world.db()).unwrap().len() / 4096;
            let page = |number| world.bucket.get(&format!("{}-{number:012}", world.id()));
            let content: Vec<u8> = (1..=pages).flat_map(page).collect();
            let file = world.folder().join("concatenated.db");
            std::fs::write(&file, content).unwrap();
            compare::assert_same_pages(&world.db(), &file);
        }
    }
    done(&world, &["rm", "--yes"]);
    assert!(world.objects().is_empty());
}
