//! What the extension prints: nothing on standard output, nothing without need on standard error, secrets nowhere.

use bottomless_e2e::seaweed::SECRET_KEY;
use bottomless_e2e::{Host, World, shell};

const SESSION: &str = "CREATE TABLE t(v); INSERT INTO t VALUES(42), ('hey');\nSELECT v FROM t;\n";

fn script(world: &World) -> String {
    format!(".open 'file:{}?vfs=bottomless'\n{SESSION}", world.id())
}

#[test]
fn a_session_without_trouble_prints_nothing() {
    let world = World::new("quiet");
    let output = shell::run(&world, &script(&world));
    assert_eq!(shell::text(&output), "42\nhey\n");
    assert_eq!(shell::errors(&output), "");
    assert_eq!(world.log(), [1, 2]);
}

#[test]
fn rust_log_speaks_on_standard_error_only() {
    let mut lengths = Vec::new();
    for level in ["off", "info", "debug", "trace"] {
        let mut world = World::new("log");
        world.set("RUST_LOG", level);
        let output = shell::run(&world, &script(&world));
        assert_eq!(shell::text(&output), "42\nhey\n", "{level}");
        let log = shell::errors(&output);
        assert!(!log.contains(SECRET_KEY), "{level}: a secret in the log");
        assert!(!log.contains("Signature="), "{level}: a signature in the log");
        lengths.push(log.len());
    }
    assert_eq!(lengths[0], 0, "off");
    assert!(lengths[2] > lengths[1] && lengths[3] >= lengths[2] && lengths[2] > 0, "{lengths:?}");
}

/// With `off` even errors stay out of standard error; SQLite still gets its code.
#[test]
fn errors_are_on_standard_error_by_default() {
    let mut world = World::new("errors");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 1);
    world.set("LIBSQL_BOTTOMLESS_ENDPOINT", "http://127.0.0.1:1");
    let output = shell::run(&world, &script(&world));
    // After a failed .open the shell goes on with a database in memory.
    assert!(shell::errors(&output).contains("unable to open database"), "{}", shell::errors(&output));
    assert!(shell::errors(&output).contains("http://127.0.0.1:1"), "{}", shell::errors(&output));
    world.set("RUST_LOG", "off");
    let output = shell::run(&world, &script(&world));
    assert!(shell::errors(&output).contains("unable to open database"), "{}", shell::errors(&output));
    assert!(!shell::errors(&output).contains("http://127.0.0.1:1"), "{}", shell::errors(&output));
}

/// SQLite's own error log gets the message too: the shell shows it with `.log stderr`.
#[test]
fn errors_reach_the_error_log_of_sqlite() {
    let mut world = World::new("sqlitelog");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 1);
    world.set("LIBSQL_BOTTOMLESS_ENDPOINT", "http://127.0.0.1:1");
    world.set("RUST_LOG", "off");
    let output = shell::run(&world, &format!(".log stderr\n{}", script(&world)));
    assert!(shell::errors(&output).contains("127.0.0.1:1"), "{}", shell::errors(&output));
}

#[test]
fn the_status_has_what_is_promised() {
    let world = World::new("status");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    let before = session.status();
    session.sql("INSERT INTO t VALUES(zeroblob(100000))");
    let after = session.status();
    assert_eq!(after["endpoint"], world.proxy.endpoint());
    assert_eq!(after["bucket"], world.bucket.name());
    assert_eq!(after["database_id"], world.id());
    for key in ["txid", "database_checksum", "requests", "bytes_up", "bytes_down", "last_error"] {
        assert!(after.get(key).is_some(), "{key} is missing: {after}");
    }
    let number = |v: &serde_json::Value, key: &str| v["requests"][key].as_u64().unwrap_or_else(|| panic!("{key}: {v}"));
    assert_eq!(number(&after, "put"), number(&before, "put") + 1);
    for key in ["get", "list", "head", "delete"] {
        assert_eq!(number(&after, key), number(&before, key), "{key}");
    }
    assert!(after["bytes_up"].as_u64() > before["bytes_up"].as_u64());
    assert_ne!(after["txid"], before["txid"]);
    assert_ne!(after["database_checksum"], before["database_checksum"]);
    assert!(after["last_error"].is_null());
    // A connection to another database answers for itself, and a plain one as SQLite does.
    session.open(1, ":memory:").unwrap();
    assert_eq!(session.exec(1, "PRAGMA bottomless_status").unwrap(), Vec::<Vec<serde_json::Value>>::new());
}

#[test]
fn loading_again_and_loading_in_a_second_connection_is_fine() {
    let world = World::new("twice");
    let extension = bottomless_e2e::tools::extension();
    for path in [extension.clone(), extension.with_extension("")] {
        let script = format!(".load {0}\n.load {0}\n.open :memory:\n.load {0}\nSELECT 'fine';\n", path.display());
        let output = shell::run_stock(&world, &script);
        assert_eq!(shell::text(&output), "fine\n", "{}", shell::errors(&output));
    }
    for host in [Host::Newest, Host::Python] {
        let mut session = world.host(host);
        session.load();
        session.load();
        session.open(0, &world.uri()).unwrap();
        session.load();
        session.sql("CREATE TABLE IF NOT EXISTS t(v)");
        session.open(1, &world.uri()).unwrap();
        session.exec(1, "INSERT INTO t VALUES(1)").unwrap();
    }
    assert_eq!(world.log(), [1, 2, 3]);
}

/// Several threads of one program, each with its own connection, and a fork after the work.
#[test]
fn threads_and_forks_of_a_program_are_fine() {
    let world = World::new("threads");
    let script = r#"
import os, sqlite3, sys, threading
extension, uri = sys.argv[1:]
def load():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    loader.close()
threads = [threading.Thread(target=load) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
first = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
first.execute("PRAGMA journal_mode = WAL")
first.execute("CREATE TABLE t(who, n)")
errors = []
def work(who):
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
        for n in range(10):
            connection.execute("INSERT INTO t VALUES(?, ?)", (who, n))
        connection.close()
    except Exception as e:
        errors.append(repr(e))
threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not errors, errors
assert first.execute("SELECT count(*) FROM t").fetchone() == (60,)
first.close()
child = os.fork()
if child == 0:
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
        connection.execute("INSERT INTO t VALUES('child', 0)")
        connection.close()
        os._exit(0)
    except Exception as e:
        print(repr(e), file=sys.stderr)
        os._exit(1)
_, status = os.waitpid(child, 0)
assert status == 0, status
connection = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
connection.execute("INSERT INTO t VALUES('parent', 0)")
print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
connection.close()
"#;
    let output = std::process::Command::new("/usr/bin/timeout")
        .args(["120", "/usr/bin/python3", "-c", script])
        .arg(bottomless_e2e::tools::extension())
        .arg(world.uri())
        .env_clear()
        .envs(&world.environment)
        .output()
        .unwrap();
    assert_eq!(shell::text(&output), "62\n", "{:?}: {}", output.status, shell::errors(&output));
    let mut session = world.open(Host::Newest);
    world.assert_restores_equal(&mut session);
}

/// The library takes SQLite from the host and links none.
#[test]
fn the_extension_links_no_sqlite() {
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program)
            .args(arguments)
            .arg(bottomless_e2e::tools::extension())
            .output()
            .unwrap();
        assert!(output.status.success());
        shell::text(&output)
    };
    assert!(!run("ldd", &[]).contains("sqlite"));
    let symbols = run("nm", &["-D"]);
    assert!(symbols.contains(" T sqlite3_bottomless_init"), "{symbols}");
    let foreign: Vec<_> =
        symbols.lines().filter(|l| l.contains(" sqlite3_") && !l.ends_with(" sqlite3_bottomless_init")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
