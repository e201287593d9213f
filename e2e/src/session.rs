//! A process that links some SQLite and executes what it is told, one JSON line each way.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::tools;

/// How long one answer may take before the test fails.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);

/// Which SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The newest, bundled with `libsqlite3-sys`.
    Newest,
    /// The system's Python with the system's SQLite.
    Python,
    /// libSQL, by its own Rust driver.
    Libsql,
}

/// What SQLite said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The extended result code where the host knows it, else 1.
    pub code: i64,
    /// The message.
    pub message: String,
}

impl SqlError {
    /// The primary result code.
    pub fn primary(&self) -> i64 {
        self.code & 0xff
    }
}

/// Rows of the answer.
pub type Rows = Vec<Vec<Value>>;

/// A running host process. It is killed when dropped.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: PathBuf,
}

impl Session {
    /// Starts the host with this environment and no other; nothing is loaded yet.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(host: Host, environment: &BTreeMap<String, String>, stderr: &Path) -> Self {
        // In `make asan` only the host that is built here has the sanitizer's runtime.
        let sanitized = std::env::var_os("BOTTOMLESS_ASAN").is_some();
        let mut command = match if sanitized { Host::Newest } else { host } {
            Host::Newest => Command::new(sibling("newest-host")),
            Host::Libsql => Command::new(sibling("libsql-host")),
            Host::Python => {
                let mut command = Command::new("/usr/bin/python3");
                command.arg("-u").arg(tools::repository().join("e2e/hosts/python_host.py"));
                command
            }
        };
        let log = std::fs::File::create(stderr).expect("a file for stderr");
        let mut child = command
            .env_clear()
            .envs(environment)
            .envs(std::env::var("ASAN_OPTIONS").ok().filter(|_| sanitized).map(|value| ("ASAN_OPTIONS", value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the host");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("its output");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, answers, stderr: stderr.to_path_buf() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Loads the extension, as a program does once.
    pub fn load(&mut self) {
        let path = tools::extension();
        self.call(json!({"op": "load", "path": path})).expect("load the extension");
    }

    /// Opens a connection under a number.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn open(&mut self, connection: u32, name: &str) -> Result<(), SqlError> {
        self.call(json!({"op": "open", "conn": connection, "name": name})).map(|_| ())
    }

    /// Executes statements; the rows of all of them.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn exec(&mut self, connection: u32, sql: &str) -> Result<Rows, SqlError> {
        self.call(json!({"op": "exec", "conn": connection, "sql": sql}))
    }

    /// Executes statements on connection 0 that must succeed.
    ///
    /// # Panics
    /// If they don't.
    #[track_caller]
    pub fn sql(&mut self, sql: &str) -> Rows {
        match self.exec(0, sql) {
            Ok(rows) => rows,
            Err(e) => panic!("{sql}: {e:?}\nstandard error:\n{}", self.stderr()),
        }
    }

    /// Executes statements on connection 0 that must fail.
    ///
    /// # Panics
    /// If they succeed.
    #[track_caller]
    pub fn sql_fails(&mut self, sql: &str) -> SqlError {
        match self.exec(0, sql) {
            Ok(rows) => panic!("{sql}: must fail, gave {rows:?}\nstandard error:\n{}", self.stderr()),
            Err(e) => e,
        }
    }

    /// The only value of the only row on connection 0.
    ///
    /// # Panics
    /// If there isn't exactly one.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Value {
        let rows = self.sql(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: one value, not {rows:?}");
        rows[0][0].clone()
    }

    /// The only value as a number.
    ///
    /// # Panics
    /// If it isn't one.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let value = self.value(sql);
        value.as_i64().unwrap_or_else(|| panic!("{sql}: a number, not {value}"))
    }

    /// `PRAGMA bottomless_status` of connection 0.
    ///
    /// # Panics
    /// If it isn't JSON.
    #[track_caller]
    pub fn status(&mut self) -> Value {
        let value = self.value("PRAGMA bottomless_status");
        let text = value.as_str().expect("bottomless_status is a text");
        serde_json::from_str(text).unwrap_or_else(|e| panic!("bottomless_status isn't JSON: {e}: {text}"))
    }

    /// Closes a connection.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn close(&mut self, connection: u32) -> Result<(), SqlError> {
        self.call(json!({"op": "close", "conn": connection})).map(|_| ())
    }

    /// Copies a database with the backup API, some pages a step.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn backup(&mut self, from: u32, to: u32, pages: u32) -> Result<(), SqlError> {
        self.call(json!({"op": "backup", "from": from, "to": to, "pages": pages})).map(|_| ())
    }

    /// Executes the same statements on many connections, spread over some threads of the process; the newest host only.
    ///
    /// # Errors
    /// What SQLite said to one of them.
    pub fn exec_all(&mut self, connections: &[u32], threads: usize, sql: &str) -> Result<(), SqlError> {
        self.call(json!({"op": "exec_all", "conns": connections, "threads": threads, "sql": sql})).map(|_| ())
    }

    /// Writes into a value with incremental blob I/O.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn blob_write(
        &mut self,
        connection: u32,
        table: &str,
        column: &str,
        row: i64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), SqlError> {
        self.call(json!({"op": "blob", "conn": connection, "table": table, "column": column, "row": row,
                         "offset": offset, "hex": hex::encode(bytes)}))
            .map(|_| ())
    }

    /// Opens a statement and takes its first row; [`Session::fetch`] takes the others. For [`Host::Python`].
    ///
    /// # Errors
    /// What SQLite said.
    pub fn cursor(&mut self, connection: u32, sql: &str) -> Result<Rows, SqlError> {
        self.call(json!({"op": "cursor", "conn": connection, "sql": sql}))
    }

    /// The other rows of [`Session::cursor`].
    ///
    /// # Errors
    /// What SQLite said.
    pub fn fetch(&mut self, connection: u32) -> Result<Rows, SqlError> {
        self.call(json!({"op": "fetch", "conn": connection}))
    }

    /// Sends a command without waiting; [`Session::answer`] takes the answer.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn send(&mut self, command: &Value) {
        let input = self.input.as_mut().expect("the host takes commands");
        if let Err(e) = writeln!(input, "{command}") {
            panic!("the host is gone: {e}\nstandard error:\n{}", self.stderr());
        }
    }

    /// Sends statements for a connection without waiting.
    pub fn send_sql(&mut self, connection: u32, sql: &str) {
        self.send(&json!({"op": "exec", "conn": connection, "sql": sql}));
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// What SQLite said.
    ///
    /// # Panics
    /// If none comes, or one that no host writes: then something else wrote to standard output.
    pub fn answer(&mut self) -> Result<Rows, SqlError> {
        let line = match self.answers.recv_timeout(ANSWER_DEADLINE) {
            Ok(line) => line,
            Err(e) => {
                let status = self.child.try_wait();
                panic!("no answer: {e}, process {status:?}\nstandard error:\n{}", self.stderr())
            }
        };
        parse(&line)
    }

    /// Executes statements in a process that may die of it: `None` if it did.
    pub fn attempt(&mut self, connection: u32, sql: &str) -> Option<Result<Rows, SqlError>> {
        self.try_call(&json!({"op": "exec", "conn": connection, "sql": sql}))
    }

    /// Opens a connection in a process that may die of it.
    pub fn attempt_open(&mut self, connection: u32, name: &str) -> Option<Result<Rows, SqlError>> {
        self.try_call(&json!({"op": "open", "conn": connection, "name": name}))
    }

    /// Closes a connection in a process that may die of it.
    pub fn attempt_close(&mut self, connection: u32) -> Option<Result<Rows, SqlError>> {
        self.try_call(&json!({"op": "close", "conn": connection}))
    }

    fn try_call(&mut self, command: &Value) -> Option<Result<Rows, SqlError>> {
        writeln!(self.input.as_mut()?, "{command}").ok()?;
        self.try_answer()
    }

    /// Waits for the next answer of a process that may die; what it wrote before counts.
    ///
    /// # Panics
    /// If neither comes.
    pub fn try_answer(&mut self) -> Option<Result<Rows, SqlError>> {
        match self.answers.recv_timeout(ANSWER_DEADLINE) {
            Ok(line) => Some(parse(&line)),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(e) => panic!("no answer: {e}\nstandard error:\n{}", self.stderr()),
        }
    }

    fn call(&mut self, command: Value) -> Result<Rows, SqlError> {
        self.send(&command);
        self.answer()
    }

    /// Most memory that the process ever had, in KiB.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn peak_memory_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process is there");
        let line = text.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
        line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("a number of KiB")
    }

    /// Whether the process is gone.
    pub fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it without a chance to clean up, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself; the exit status, None if a signal has ended it.
    ///
    /// # Panics
    /// If it answers, or stays.
    pub fn wait(&mut self) -> Option<i32> {
        let answer = self.answers.recv_timeout(ANSWER_DEADLINE);
        assert_eq!(answer, Err(RecvTimeoutError::Disconnected), "it must end");
        self.child.wait().expect("wait for the host").code()
    }

    /// Ends it as a program ends, and gives its exit status and what it wrote to standard error.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let status = self.child.wait().expect("wait for the host");
        (status.code(), self.stderr())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What an answer says.
fn parse(line: &str) -> Result<Rows, SqlError> {
    let answer: Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("foreign text on standard output: {e}: {line:?}"));
    if let Some(error) = answer.get("error") {
        return Err(SqlError {
            code: error["code"].as_i64().unwrap_or(1),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        });
    }
    let rows = answer["rows"].as_array().expect("an answer has rows or an error");
    Ok(rows.iter().map(|r| r.as_array().expect("a row is an array").clone()).collect())
}

/// A binary of this package, from a test of this package.
fn sibling(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    // target/debug/deps/it-… and target/debug/NAME.
    let folder = test.parent().and_then(Path::parent).expect("the target folder");
    folder.join(name)
}
