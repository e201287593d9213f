//! The program: how it starts, how it stops, and what a kill leaves behind.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::Connection;

struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bottomless-devserver"))
            .args(["--address", "localhost:0", "--create-bucket", "libsql"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim_end().to_owned();
        assert!(url.starts_with("http://localhost:"), "{url:?}");
        Self { child, url }
    }

    fn terminate(mut self) -> Option<i32> {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap().code()
    }
}

/// A failed test leaves no server behind.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys(url: &str) -> Vec<String> {
    Connection::open(url).call("GET", "/libsql?list-type=2", &[], b"").elements("Key")
}

fn with_dir(dir: &Path) -> [&str; 2] {
    ["--dir", dir.to_str().unwrap()]
}

#[test]
fn objects_outlive_the_program_with_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&with_dir(dir.path()));
    let put = Connection::open(&program.url).call("PUT", "/libsql/a%20b", &[("x-amz-meta-m", "v")], b"hello");
    assert_eq!(program.terminate(), Some(0));

    let program = Program::start(&with_dir(dir.path()));
    let object = Connection::open(&program.url).call("GET", "/libsql/a%20b", &[], b"");
    assert_eq!(object.text(), "hello");
    assert_eq!(object.headers["etag"], put.headers["etag"]);
    assert_eq!(object.headers["x-amz-meta-m"], "v");
    assert_eq!(program.terminate(), Some(0));
}

#[test]
fn a_killed_server_shows_no_half_object() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start(&with_dir(dir.path()));
    Connection::open(&program.url).call("PUT", "/libsql/whole", &[], b"hello");
    let mut halves: Vec<_> = ["new", "whole"]
        .into_iter()
        .map(|key| {
            let mut half = Connection::open(&program.url);
            let headers = [("expect", "100-continue")];
            half.send_head("PUT", &format!("/libsql/{key}"), &headers, 1 << 20);
            half.wait_for_continue();
            half.send(&[b'x'; 1 << 19]);
            half
        })
        .collect();
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    halves.clear();

    let program = Program::start(&with_dir(dir.path()));
    assert_eq!(keys(&program.url), ["whole"]);
    let object = Connection::open(&program.url).call("GET", "/libsql/whole", &[], b"");
    assert_eq!(object.text(), "hello");
    let uploads = std::fs::read_dir(dir.path().join(".uploads")).unwrap();
    assert_eq!(uploads.count(), 0);
    program.terminate();
}

#[test]
fn it_ends_with_its_standard_input() {
    let mut program = Program::start(&["--until-stdin-closes"]);
    assert_eq!(keys(&program.url), [""; 0]);
    drop(program.child.stdin.take());
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_folder_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&with_dir(dir.path()));
    let second = Command::new(env!("CARGO_BIN_EXE_bottomless-devserver"))
        .args(["--address", "localhost:0"])
        .args(with_dir(dir.path()))
        .output()
        .unwrap();
    assert_eq!((second.status.code(), second.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another server"));
    program.terminate();
}

#[test]
fn a_port_has_one_server() {
    let program = Program::start(&[]);
    let address = program.url.strip_prefix("http://").unwrap();
    let second =
        Command::new(env!("CARGO_BIN_EXE_bottomless-devserver")).args(["--address", address]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("listens on"));
    program.terminate();
}

#[test]
fn the_access_log_is_there_with_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let program = Program::start(&["--access-log", path.to_str().unwrap()]);
    let mut c = Connection::open(&program.url);
    for count in 1..=20 {
        c.call("PUT", "/libsql/k", &[("if-none-match", "*")], b"hello");
        let log = std::fs::read_to_string(&path).unwrap();
        assert_eq!(log.lines().count(), count);
    }
    let log = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        log.lines().next().unwrap(),
        r#"{"method":"PUT","path":"/libsql/k","query":"","status":200,"bytes_in":5,"bytes_out":0,"if_none_match":true}"#
    );
    program.terminate();
}
