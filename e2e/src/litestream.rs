//! Litestream: another program that reads what we wrote, and writes what we read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;

use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use crate::{World, tools};

fn url(world: &World) -> String {
    url_of(world.bucket.name(), world.id())
}

/// The name of a replica for Litestream.
pub fn url_of(bucket: &str, path: &str) -> String {
    let server = Seaweed::shared().address();
    format!("s3://{bucket}/{path}?endpoint=http%3A%2F%2F{server}&region=us-east-1&forcePathStyle=true")
}

fn command(program: &Path, world: &World) -> Command {
    command_in(program, &home(world))
}

/// One of Litestream's programs with the shared server's credentials, and nothing else of this environment.
pub fn command_in(program: &Path, home: &Path) -> Command {
    // A replica that isn't there makes these programs wait for it without end.
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["120".as_ref(), program.as_os_str()]);
    environment(&mut command, home);
    command
}

fn home(world: &World) -> PathBuf {
    world.folder().join("home")
}

fn environment(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1");
}

/// `litestream restore`, to a TXID or to the end.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn restore(world: &World, txid: Option<u64>) -> PathBuf {
    match try_restore(world, txid) {
        Ok(path) => path,
        Err(e) => panic!("litestream restore: {e}"),
    }
}

/// The same for a test that allows a refusal.
///
/// # Errors
/// What it printed.
///
/// # Panics
/// If it can't be run.
pub fn try_restore(world: &World, txid: Option<u64>) -> Result<PathBuf, String> {
    let output = format!("litestream-{}.db", txid.unwrap_or(0));
    match txid {
        Some(txid) => run_restore(world, &output, &["-txid", &format!("{txid:016x}")]),
        None => run_restore(world, &output, &[]),
    }
}

/// `litestream restore -timestamp`, to a time in RFC 3339.
///
/// # Errors
/// What it printed.
///
/// # Panics
/// If it can't be run.
pub fn try_restore_at(world: &World, time: &str) -> Result<PathBuf, String> {
    run_restore(world, "litestream-at.db", &["-timestamp", time])
}

fn run_restore(world: &World, output: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let output = world.folder().join(output);
    let mut command = command(&tools::tool("litestream"), world);
    command.args(["restore", "-force", "-o"]).arg(&output).args(arguments);
    let result = command.arg(url(world)).output().expect("run litestream");
    if result.status.success() {
        return Ok(output);
    }
    Err(format!("{}\n{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr)))
}

/// The rows that litestream-vfs reads straight from the bucket, in the system's Python.
///
/// # Panics
/// If it can't read.
#[track_caller]
pub fn vfs_rows(world: &World, sql: &str) -> Vec<Vec<Value>> {
    let script = r#"
import json, sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
connection = sqlite3.connect("file:any.db?vfs=litestream", uri=True)
value = lambda v: {"blob": v.hex()} if isinstance(v, bytes) else v
rows = [[value(v) for v in row] for row in connection.execute(sys.argv[2])]
print("rows " + json.dumps(rows))
"#;
    let mut command = command(Path::new("/usr/bin/python3"), world);
    let extension = tools::litestream_vfs();
    let result = command
        .env("LITESTREAM_REPLICA_URL", url(world))
        .current_dir(world.folder())
        .args(["-c", script])
        .arg(extension.with_extension(""))
        .arg(sql)
        .output()
        .expect("run Python");
    let stdout = String::from_utf8_lossy(&result.stdout);
    let rows = stdout.lines().find_map(|l| l.strip_prefix("rows "));
    let rows = rows.unwrap_or_else(|| panic!("litestream-vfs: {stdout}\n{}", String::from_utf8_lossy(&result.stderr)));
    serde_json::from_str(rows).expect("rows")
}

/// `litestream replicate` for the database of a world, with short intervals: levels 1, 2 and 3 and snapshots come within
/// a second, and the log is deleted behind them.
#[derive(Debug)]
pub struct Replication {
    child: Child,
    log: PathBuf,
}

impl Replication {
    /// Starts it.
    ///
    /// # Panics
    /// If it can't be run.
    pub fn start(world: &World) -> Self {
        let log = world.folder().join("litestream.log");
        let output = File::create(&log).expect("a log");
        let child =
            replicate(world).stdout(output.try_clone().expect("a log")).stderr(output).spawn().expect("run litestream");
        Self { child, log }
    }

    /// Ends it as a service manager does: it copies what is left.
    ///
    /// # Panics
    /// If it says that it failed.
    pub fn stop(mut self) {
        let child = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(child, rustix::process::Signal::INT).expect("a signal");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "litestream replicate: {status}: {}", self.log());
        assert!(!self.log().contains("level=ERROR"), "{}", self.log());
    }

    /// Ends it at once.
    pub fn kill(self) {
        drop(self);
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `litestream replicate -once`: copies what is new, and ends.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn replicate_once(world: &World) {
    let result = replicate(world).arg("-once").output().expect("run litestream");
    let text = format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success() && !text.contains("level=ERROR"), "litestream replicate -once: {text}");
}

fn replicate(world: &World) -> Command {
    let config = world.folder().join("litestream.yml");
    let (database, bucket, path) = (world.db(), world.bucket.name(), world.id());
    let text = format!(
        "snapshot: {{interval: 300ms, retention: 1h}}
levels: [{{interval: 100ms}}, {{interval: 200ms}}, {{interval: 300ms}}]
l0-retention: 200ms
l0-retention-check-interval: 100ms
dbs:
  - path: {}
    monitor-interval: 20ms
    replica: {{type: s3, bucket: {bucket}, path: {path}, endpoint: 'http://{}', region: us-east-1, force-path-style: true, sync-interval: 20ms}}
",
        database.display(),
        Seaweed::shared().address()
    );
    std::fs::write(&config, text).expect("its configuration");
    // Not below timeout: that is a process of its own, and a signal to it is no signal to litestream.
    let mut command = Command::new(tools::tool("litestream"));
    environment(&mut command, &home(world));
    command.args(["replicate", "-config"]).arg(config);
    command
}
