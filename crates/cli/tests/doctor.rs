//! What the doctor finds.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use bottomless_devserver::Credentials;
use serde_json::{Value, json};
use support::{Ran, World, command};

/// The names of the checks with their status, in order, and what the one that failed says.
#[track_caller]
fn checks(ran: &Ran, code: i32) -> (Vec<(String, String)>, String) {
    assert_eq!(ran.code(), Some(code), "{}{}", ran.out(), ran.err());
    let json: Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!(json["healthy"], code == 0);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = json["checks"].as_array().unwrap();
    let failed = checks.iter().find(|check| check["status"] == "failed");
    let detail = failed.map(|check| text(&check["detail"])).unwrap_or_default();
    (checks.iter().map(|check| (text(&check["check"]), text(&check["status"]))).collect(), detail)
}

fn statuses(statuses: [&str; 6]) -> Vec<(String, String)> {
    let names = ["endpoint", "credentials", "bucket", "conditional_writes", "round_trip", "clock"];
    names.into_iter().map(str::to_owned).zip(statuses.map(str::to_owned)).collect()
}

const BEFORE_THE_FAILURE_OK: [&str; 6] = ["ok"; 6];

/// The first `at` are fine, the next has failed, the others were skipped.
fn failed_at(at: usize) -> Vec<(String, String)> {
    let mut expected = BEFORE_THE_FAILURE_OK;
    expected[at] = "failed";
    expected[at + 1..].fill("skipped");
    statuses(expected)
}

#[test]
fn a_good_store_is_healthy_and_left_as_it_was() {
    let world = World::new();
    for arguments in [&["doctor", "--json"][..], &["doctor", "--json", "-d", "test.db"]] {
        let ran = world.run(arguments);
        assert_eq!(checks(&ran, 0).0, statuses(BEFORE_THE_FAILURE_OK));
        assert_eq!(ran.err(), "");
        let json = ran.json();
        assert!(json["round_trip_ms"].as_f64().unwrap() > 0.0);
        assert!(json["clock_skew_seconds"].as_f64().unwrap().abs() < 5.0);
    }
    let requests = world.server.requests();
    let mut writes = requests.iter().filter(|request| request.method == "PUT");
    assert!(writes.all(|request| request.if_none_match));
    let made = requests.iter().filter(|request| request.method == "PUT" && request.status == Some(200)).count();
    assert_eq!(made, 2 * (1 + 5), "of eight simultaneous creators one, and the measurement's");
    assert_eq!(world.keys("bottomless-doctor"), [""; 0]);
    assert_eq!(world.keys("test.db"), [""; 0]);
    assert_eq!(world.run(&["doctor"]).out().lines().filter(|line| line.starts_with("ok ")).count(), 6);
}

#[test]
fn nobody_listens() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let ran = world.run(&["doctor", "--json", "-e", &url]);
    let (found, detail) = checks(&ran, 1);
    assert_eq!(found, failed_at(0));
    assert!(detail.contains("check that the endpoint is right"), "{detail}");
}

#[test]
fn a_bucket_that_is_not_there() {
    let world = World::with(&[], None);
    let (found, detail) = checks(&world.run(&["doctor", "--json"]), 1);
    assert_eq!(found, failed_at(2));
    assert!(detail.contains("create-bucket"), "{detail}");
}

#[test]
fn credentials_that_are_refused() {
    let keys = Credentials { access_key: "access".into(), secret_key: "secret".into() };
    let world = World::with(&["libsql"], Some(keys));
    for secret in [None, Some("wrong"), Some("secret")] {
        let mut command = world.command(&["doctor", "--json"]);
        if let Some(secret) = secret {
            command.env("AWS_ACCESS_KEY_ID", "access").env("AWS_SECRET_ACCESS_KEY", secret);
        }
        let ran = Ran(command.output().unwrap());
        if secret == Some("secret") {
            assert_eq!(checks(&ran, 0).0, statuses(BEFORE_THE_FAILURE_OK));
        } else {
            let (found, detail) = checks(&ran, 1);
            assert_eq!(found, failed_at(1));
            assert!(detail.contains("credentials"), "{detail}");
        }
        assert!(!ran.out().contains("wrong") && !ran.err().contains("wrong"), "a secret was shown");
    }
}

/// A proxy that renames the header If-None-Match, byte for byte: the store behind it never sees the condition.
fn forgetful(behind: &str) -> String {
    let behind = behind.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&behind).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let mut bytes = [0; 1 << 16];
                while let Ok(length @ 1..) = from.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..length]).replace("if-none-match", "if-none-xxxxx");
                    to.write_all(text.as_bytes()).unwrap();
                }
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (server, client);
            thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    });
    url
}

#[test]
fn a_store_that_ignores_conditions_is_refused_unless_the_user_vouches() {
    let world = World::new();
    let url = forgetful(world.server.url());
    let run = |fencing: &[(&str, &str)]| {
        let mut command = command(&url, world.folder.path(), &["doctor", "--json"]);
        Ran(command.envs(fencing.iter().copied()).output().unwrap())
    };
    let (found, detail) = checks(&run(&[]), 1);
    assert_eq!(found, failed_at(3));
    assert!(detail.contains("8 of 8") && detail.contains("LIBSQL_BOTTOMLESS_FENCING=off"), "{detail}");
    let (found, _) = checks(&run(&[("LIBSQL_BOTTOMLESS_FENCING", "off")]), 0);
    assert_eq!(found[3].1, "warning");
    assert_eq!(world.run(&["ls", "--json"]).json()["databases"], json!([]));
}
