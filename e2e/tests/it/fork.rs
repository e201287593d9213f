//! Prefork servers: a program that has loaded the extension forks, and both sides go on.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, World, shell, tools};

use crate::compact::wait_until;

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

/// A server that forks four workers, and goes on itself. `before` says what the parent does first; `ending` how the
/// workers end; with `inherited` they use the connection of the parent first, which must be refused and harm nobody.
const PREFORK: &str = r#"
import os, signal, sqlite3, sys, threading, traceback
extension, uri, mode, before, ending, inherited = sys.argv[1:]
WORKERS, ROUNDS = 4, 8
signal.alarm(90)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()

def connect(uri=uri):
    connection = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None, check_same_thread=False)
    assert connection.execute("PRAGMA journal_mode = " + mode).fetchone()[0].upper() == mode
    return connection

def work(who):
    connection = connect()
    connection.execute("CREATE TABLE IF NOT EXISTS t(who, n)")
    for n in range(ROUNDS):
        connection.execute("INSERT INTO t VALUES(?, ?)", (who, n))
    connection.close()

def refused(connection):
    try:
        connection.execute("INSERT INTO t VALUES('inherited', 0)")
        # Within a transaction of the parent it was only kept in memory so far.
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        return
    raise AssertionError("the connection of the parent was usable in the child")

def fork(job):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(90)
    try:
        job()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if ending == "_exit":
        os._exit(0)
    # With all destructors, those of the connections of the parent too.
    sys.exit(0)

connection, idle, release = None, [], threading.Event()
if before != "nothing":
    connection = connect()
    connection.execute("CREATE TABLE IF NOT EXISTS t(who, n)")
    connection.execute("INSERT INTO t VALUES('parent', -1)")
if before == "threads":
    # Each with a connection to a database of its own, which it has just used.
    folder, name = os.path.split(uri)
    ready = threading.Barrier(4)
    def run(n):
        own = connect(folder + "/" + "thread-%d-" % n + name)
        own.execute("CREATE TABLE o(v)")
        ready.wait()
        release.wait()
        own.execute("INSERT INTO o VALUES(1)")
        own.close()
    idle = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in idle:
        thread.start()
    ready.wait()

def job(n):
    global connection
    if inherited == "inherited" and connection is not None:
        refused(connection)
        # Closing it in the child must not take the locks of the parent away.
        connection.close()
    if n == 0:
        # A worker that forks again.
        pid = fork(lambda: work("grandchild"))
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
    work("child %d" % n)

if connection is not None and inherited == "inherited" and mode == "WAL":
    # While the parent has a transaction open.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES('parent', -2)")
    first = fork(lambda: refused(connection) or connection.close())
    assert os.waitpid(first, 0)[1] == 0
    other = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        raise AssertionError("the write lock of the parent is gone")
    except sqlite3.OperationalError:
        pass
    other.close()
    connection.execute("COMMIT")
pids = [fork(lambda n=n: job(n)) for n in range(WORKERS)]
release.set()
if connection is None:
    connection = connect()
    connection.execute("CREATE TABLE IF NOT EXISTS t(who, n)")
for n in range(ROUNDS):
    connection.execute("INSERT INTO t VALUES('parent', ?)", (n,))
for pid in pids:
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
for thread in idle:
    thread.join()
found = connection.execute("SELECT who, count(*) FROM t WHERE n >= 0 GROUP BY who ORDER BY who").fetchall()
assert found == [("child %d" % n, ROUNDS) for n in range(WORKERS)] + [("grandchild", ROUNDS), ("parent", ROUNDS)], found
assert connection.execute("SELECT count(*) FROM t WHERE who = 'inherited'").fetchone() == (0,)
assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
print("all")
connection.close()
"#;

fn prefork(before: &str, ending: &str, inherited: &str) {
    for mode in ["DELETE", "WAL"] {
        prefork_in(&World::new("prefork"), mode, before, ending, inherited);
    }
}

fn prefork_in(world: &World, mode: &str, before: &str, ending: &str, inherited: &str) {
    let output = Command::new("/usr/bin/timeout")
        .args(["120", "/usr/bin/python3", "-c", PREFORK])
        .arg(tools::extension())
        .args([&world.uri(), mode, before, ending, inherited])
        .env_clear()
        .envs(&world.environment)
        .output()
        .unwrap();
    let what = format!("{mode}, {before}, {ending}, {inherited}: {:?}: {}", output.status, shell::errors(&output));
    assert_eq!(shell::text(&output), "all\n", "{what}");
    let log = world.log();
    assert!(log.len() >= 6 * 8, "{what}: {log:?}");
    assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "{what}");
    assert!(inherited != "inherited" || shell::errors(&output).contains("before a fork()"), "{what}");
    let mut session = world.open(Host::Newest);
    world.assert_restores_equal(&mut session);
}

#[test]
fn a_server_that_has_opened_nothing_forks_workers() {
    prefork("nothing", "_exit", "own");
}

#[test]
fn a_server_that_has_committed_forks_workers() {
    prefork("committed", "exit", "own");
}

#[test]
fn a_server_with_threads_forks_workers() {
    prefork("threads", "_exit", "own");
}

#[test]
fn a_connection_of_the_parent_is_refused_in_a_child_and_harms_nobody() {
    prefork("committed", "_exit", "inherited");
    prefork("committed", "exit", "inherited");
}

/// With a thread of its own that compacts, which no child has: each makes one anew, and one of all works at a time.
#[test]
fn a_server_whose_thread_compacts_forks_workers() {
    let mut world = World::new("prefork");
    let never = 24 * 3600 * 1000;
    world.compact([20, 60, never], never, never);
    prefork_in(&world, "WAL", "committed", "exit", "inherited");
    // They may have been quicker than the shortest interval. Then who opens the database goes on.
    let mut session = world.open(Host::Newest);
    wait_until("what they committed is merged", || {
        session.sql("INSERT INTO t(who, n) VALUES ('later', 1)");
        world.history().iter().any(|(level, _, _)| *level == 1)
    });
    world.assert_restores_equal(&mut session);
}

/// The parent's thread has compacted; the child's own does what the child commits.
const COMPACTING: &str = r#"
import json, os, signal, sqlite3, sys, time, traceback
extension, uri = sys.argv[1:]
signal.alarm(60)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()

def compacted():
    connection = sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS t(v)")
    for n in range(3):
        connection.execute("INSERT INTO t VALUES(?)", (n,))
    while True:
        status = json.loads(connection.execute("PRAGMA bottomless_status").fetchone()[0])
        if status["compacted_txid"] == status["txid"]:
            break
        time.sleep(0.01)
    assert status["last_compaction"], status
    return connection

connection = compacted()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    try:
        compacted().close()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
_, status = os.waitpid(pid, 0)
assert status == 0, status
connection.execute("INSERT INTO t VALUES('parent')")
print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
connection.close()
"#;

#[test]
fn a_child_compacts_with_a_thread_of_its_own() {
    let mut world = World::new("compacting");
    let never = 24 * 3600 * 1000;
    world.compact([50, never, never], never, never);
    let output = Command::new("/usr/bin/timeout")
        .args(["100", "/usr/bin/python3", "-c", COMPACTING])
        .arg(tools::extension())
        .arg(world.uri())
        .env_clear()
        .envs(&world.environment)
        .output()
        .unwrap();
    assert_eq!(shell::text(&output), "7\n", "{:?}: {}", output.status, shell::errors(&output));
    world.compact_nothing();
    let mut session = world.open(Host::Newest);
    world.assert_restores_equal(&mut session);
}

/// Forks while a thread is in the middle of a commit, on request.
const MIDDLE: &str = r#"
import os, signal, sqlite3, sys, threading, traceback
extension, uri, mode = sys.argv[1:]
signal.alarm(90)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()

def connect(uri=uri):
    return sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None, check_same_thread=False)

connection = connect()
connection.execute("PRAGMA journal_mode = " + mode)
connection.execute("CREATE TABLE t(who)")
print("open", flush=True)
assert sys.stdin.readline() == "commit\n"
thread = threading.Thread(target=lambda: connection.execute("INSERT INTO t VALUES('parent')"))
thread.start()
assert sys.stdin.readline() == "fork\n"
pid = os.fork()
if pid == 0:
    signal.alarm(90)
    try:
        folder, name = os.path.split(uri)
        other = connect(folder + "/other-" + name)
        other.execute("CREATE TABLE o(v)")
        other.close()
        print("child", flush=True)
        # SQLite has taken its notes on the locks of the parent along, and never sees them given up.
        own = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        try:
            own.execute("INSERT INTO t VALUES('child')")
            raise AssertionError("the child wrote")
        except sqlite3.OperationalError as error:
            assert str(error) == "database is locked", error
        own.close()
        assert sys.stdin.readline() == "end\n"
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
_, status = os.waitpid(pid, 0)
thread.join()
assert status == 0, status
connection.execute("INSERT INTO t VALUES('parent again')")
# A child of the time after it writes as ever.
pid = os.fork()
if pid == 0:
    own = connect()
    own.execute("INSERT INTO t VALUES('child')")
    own.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(sorted(row[0] for row in connection.execute("SELECT who FROM t")), flush=True)
connection.close()
"#;

#[test]
fn a_process_forks_in_the_middle_of_a_commit() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("middle");
        let mut script = Command::new("/usr/bin/timeout")
            .args(["120", "/usr/bin/python3", "-c", MIDDLE])
            .arg(tools::extension())
            .args([&world.uri(), mode])
            .env_clear()
            .envs(&world.environment)
            .env("LIBSQL_BOTTOMLESS_TIMEOUT", "60")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = script.stdin.take().unwrap();
        let mut output = BufReader::new(script.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(output.next().as_deref(), Some("open"), "{mode}");
        let key = world.log_key(world.last() + 1);
        world.proxy.fail_only(Some("PUT"), &key, Fault::Hang);
        writeln!(input, "commit").unwrap();
        world.proxy.wait_for(|request| request.target.contains(&key));
        writeln!(input, "fork").unwrap();
        assert_eq!(output.next().as_deref(), Some("child"), "{mode}");
        world.proxy.heal();
        writeln!(input, "end").unwrap();
        assert_eq!(output.next().as_deref(), Some("['child', 'parent', 'parent again']"), "{mode}");
        assert!(script.wait().unwrap().success(), "{mode}");
        let log = world.log();
        assert_eq!(log, (1..=log.len() as u64).collect::<Vec<_>>(), "{mode}");
        let mut session = world.open(Host::Newest);
        world.assert_restores_equal(&mut session);
    }
}
