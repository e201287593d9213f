//! Prefork servers: a program that has loaded the extension forks, and both sides go on.

use std::process::Command;

use bottomless_e2e::{Host, World, shell, tools};

/// Forks, and lets the two sides commit, in turn and then at the same time. What the parent has open stays the parent's: the child opens its own
/// connection, as SQLite asks for. An alarm ends whoever waits for too long.
const SCRIPT: &str = r#"
import os, signal, sqlite3, sys, traceback
extension, uri, mode, when = sys.argv[1:]
ROUNDS = 20

def connect(uri=uri):
    connection = sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)
    assert connection.execute("PRAGMA journal_mode = " + mode).fetchone()[0].upper() == mode
    return connection

def insert(connection, who):
    connection.execute("INSERT INTO t VALUES(?)", (who,))

def rows(connection):
    return [row[0] for row in connection.execute("SELECT who FROM t ORDER BY rowid")]

# Both sides at the same time. SQLite's write lock lets no two requests for one database meet: those for others do.
def at_once(connection, who):
    folder, name = os.path.split(uri)
    own = connect(folder + "/" + who + "-" + name)
    own.execute("CREATE TABLE t(who)")
    for _ in range(ROUNDS):
        insert(own, who)
    own.close()
    for _ in range(ROUNDS):
        insert(connection, who + " again")

def child():
    mine = connect()
    insert(mine, "child")
    os.write(to_parent, b"1")
    assert os.read(from_parent, 1) == b"1"
    assert rows(mine) == ["before", "child", "parent"], rows(mine)
    os.write(to_parent, b"1")
    at_once(mine, "child")
    mine.close()

signal.alarm(60)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()
connection = connect()
connection.execute("CREATE TABLE t(who)")
insert(connection, "before")
if when == "closed":
    connection.close()
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    # Only the other side writes there: its end is to be noticed.
    os.close(to_child)
    try:
        child()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
os.close(to_parent)
assert os.read(from_child, 1) == b"1", "the child is gone"
if when == "closed":
    connection = connect()
insert(connection, "parent")
assert rows(connection) == ["before", "child", "parent"], rows(connection)
os.write(to_child, b"1")
assert os.read(from_child, 1) == b"1", "the child is gone"
at_once(connection, "parent")
_, status = os.waitpid(pid, 0)
assert status == 0, status
found = rows(connection)
assert (found.count("child again"), found.count("parent again")) == (ROUNDS, ROUNDS), found
print(len(found))
connection.close()
"#;

fn forks(when: &str) {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("fork");
        let output = Command::new("/usr/bin/timeout")
            .args(["100", "/usr/bin/python3", "-c", SCRIPT])
            .arg(tools::extension())
            .args([&world.uri(), mode, when])
            .env_clear()
            .envs(&world.environment)
            .output()
            .unwrap();
        let what = format!("{mode}, {when}: {:?}: {}", output.status, shell::errors(&output));
        assert_eq!(shell::text(&output), "43\n", "{what}");
        let log = world.log();
        assert!(log.len() >= 44, "{what}: {log:?}");
        assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "{what}");
        let mut session = world.open(Host::Newest);
        world.assert_restores_equal(&mut session);
    }
}

#[test]
fn a_process_that_has_closed_its_database_forks() {
    forks("closed");
}

#[test]
fn a_process_that_has_its_database_open_forks() {
    forks("open");
}
