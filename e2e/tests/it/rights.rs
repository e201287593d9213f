//! The policies of `docs/operations.md`, as they stand there: what each allows, and that it is the least. And its drill.

use std::path::PathBuf;
use std::process::Command;

use bottomless_e2e::bucket::Bucket;
use bottomless_e2e::rights::{BUCKET, DATABASE, policy};
use bottomless_e2e::seaweed::Seaweed;
use bottomless_e2e::{Host, Session, World, litestream, tools};

/// A world in the bucket of the document; `as_user` gives its processes the keys of a policy's user.
fn world() -> World {
    let bucket = Bucket::new(Seaweed::shared().address(), BUCKET);
    bucket.create();
    let mut world = World::on("rights", bucket, Seaweed::shared().address());
    world.set("LIBSQL_BOTTOMLESS_DATABASE_ID", DATABASE);
    // What is refused is tried again with keys that are read anew; and the store may take seconds over the probe's race.
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 20);
    world
}

fn as_user(world: &mut World, name: &str) {
    world.set("AWS_ACCESS_KEY_ID", policy(name).key());
    world.set("AWS_SECRET_ACCESS_KEY", policy(name).secret());
}

fn keys(world: &World) -> Vec<String> {
    world.bucket.list("").into_iter().map(|object| object.key).collect()
}

fn refused(session: &mut Session, sql: &str) {
    session.sql_fails(sql);
    assert!(session.stderr().contains("access denied"), "{}", session.stderr());
}

fn cli(world: &World, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tools::extension().with_file_name("bottomless-cli"));
    let output = command.args(arguments).env_clear().envs(&world.environment).output().expect("run bottomless-cli");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn the_policies_of_the_document_are_enough_and_not_more() {
    let mut world = world();
    // Who may only read can begin nothing.
    as_user(&mut world, "read");
    refused(&mut world.open(Host::Newest), "CREATE TABLE t(v)");
    world.lose_local_files();
    assert!(keys(&world).is_empty());

    as_user(&mut world, "commit");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES(randomblob(3000000))");
    assert!(session.stderr().contains("the probe object could not be removed"), "{}", session.stderr());
    session.close(0).unwrap();
    let probe = keys(&world).into_iter().find(|key| key.contains("probe")).expect("its probe object");
    world.bucket.delete(&probe);
    for elsewhere in ["other.db", "test.db2"] {
        assert!(
            cli(&world, &["ls", "-d", elsewhere]).is_err_and(|error| error.contains("access denied")),
            "{elsewhere}"
        );
        world.set("LIBSQL_BOTTOMLESS_DATABASE_ID", elsewhere);
        let Err((_, session)) = world.try_open(Host::Newest) else { panic!("{elsewhere} must not open") };
        assert!(session.stderr().contains("access denied"), "{}", session.stderr());
    }
    world.set("LIBSQL_BOTTOMLESS_DATABASE_ID", DATABASE);

    world.lose_local_files();
    as_user(&mut world, "compact");
    let mut session = world.open(Host::Newest);
    session.sql("INSERT INTO t VALUES('more')");
    assert!(!session.stderr().contains("could not be removed"), "{}", session.stderr());
    session.close(0).unwrap();
    assert!(!keys(&world).iter().any(|key| key.contains("probe")), "its probe object is removed");

    as_user(&mut world, "read");
    world.lose_local_files();
    let mut session = world.open(Host::Newest);
    assert_eq!(session.number("SELECT count(*) FROM t"), 2);
    refused(&mut session, "DELETE FROM t");
    session.close(0).unwrap();
    for arguments in [&["info"][..], &["verify"], &["ls", "-d", DATABASE]] {
        cli(&world, arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    drill(&world);
}

/// The script of the document, by who may only read.
fn drill(world: &World) {
    let text = std::fs::read_to_string(tools::repository().join("docs/operations.md")).unwrap();
    let (_, rest) = text.split_once("<!-- drill -->\n```sh\n").expect("the drill");
    let script = rest.split("```").next().unwrap();
    let run = || {
        let folders: Vec<PathBuf> = ["bottomless-cli", "litestream"]
            .map(|name| match name {
                "litestream" => tools::tool(name),
                _ => tools::extension().with_file_name(name),
            })
            .map(|path| path.parent().unwrap().to_owned())
            .into();
        let path = format!("{}:{}:/usr/bin:/bin", folders[0].display(), folders[1].display());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env_clear().envs(&world.environment).env("PATH", path);
        command.env("REPLICA_URL", litestream::url_of(BUCKET, DATABASE)).env("TMPDIR", world.folder());
        command.output().expect("run the drill")
    };
    let output = run();
    assert!(output.status.success(), "{output:?}");
    // And it notices damage.
    let key = format!("{DATABASE}/0000/{:016x}-{:016x}.ltx", 2, 2);
    let mut bytes = world.bucket.get(&key);
    bytes[1000] ^= 1;
    world.bucket.put(&key, &bytes);
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
