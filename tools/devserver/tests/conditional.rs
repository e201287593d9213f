//! Of many that create one object at the same moment, one does.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Barrier;
use std::thread;

use bottomless_devserver::{Config, Server};
use support::Connection;

const CREATORS: usize = 64;
const ROUNDS: usize = 300;

fn server() -> Server {
    Server::start(Config { buckets: vec!["libsql".into()], ..Config::default() }).unwrap()
}

/// Every creator's request is in the server's handler, its body asked for, before any body is sent. So all
/// of them began before any could have finished.
#[test]
fn one_of_64_simultaneous_creators_wins() {
    let server = server();
    let all_are_in = Barrier::new(CREATORS);
    let round_is_over = Barrier::new(CREATORS);
    let statuses: Vec<Vec<u16>> = thread::scope(|scope| {
        let creators: Vec<_> = (0..CREATORS)
            .map(|creator| {
                let (all_are_in, round_is_over) = (&all_are_in, &round_is_over);
                let mut connection = Connection::open(server.url());
                scope.spawn(move || {
                    let body = format!("creator {creator:02}");
                    let headers = [("if-none-match", "*"), ("expect", "100-continue")];
                    (0..ROUNDS)
                        .map(|round| {
                            let target = format!("/libsql/key-{round}");
                            connection.send_head("PUT", &target, &headers, body.len());
                            connection.wait_for_continue();
                            all_are_in.wait();
                            connection.send(body.as_bytes());
                            let status = connection.reply("PUT").status;
                            round_is_over.wait();
                            status
                        })
                        .collect()
                })
            })
            .collect();
        creators.into_iter().map(|creator| creator.join().unwrap()).collect()
    });

    let mut connection = Connection::open(server.url());
    for round in 0..ROUNDS {
        let winners: Vec<usize> = (0..CREATORS).filter(|c| statuses[*c][round] == 200).collect();
        let losers = statuses.iter().filter(|s| s[round] == 412).count();
        assert_eq!((winners.len(), losers), (1, CREATORS - 1), "round {round}: {winners:?}");
        let reply = connection.call("GET", &format!("/libsql/key-{round}"), &[], b"");
        assert_eq!(reply.text(), format!("creator {:02}", winners[0]));
    }
    let log = server.requests();
    let conditional = log.iter().filter(|record| record.if_none_match);
    assert_eq!(conditional.count(), CREATORS * ROUNDS);
}

#[test]
fn conditions_in_sequence() {
    let server = server();
    let mut c = Connection::open(server.url());
    let mut put = |headers: &[(&str, &str)], body: &[u8]| {
        let reply = c.call("PUT", "/libsql/k", headers, body);
        let code = reply.elements("Code").pop().unwrap_or_default();
        (reply.status, code, reply.headers.get("etag").cloned().unwrap_or_default())
    };
    assert_eq!(put(&[("if-match", "\"0\"")], b"x").1, "NoSuchKey");
    let (status, _, first) = put(&[("if-none-match", "*")], b"one");
    assert_eq!(status, 200);
    let (status, code, _) = put(&[("if-none-match", "*")], b"two");
    assert_eq!((status, code.as_str()), (412, "PreconditionFailed"));
    assert_eq!(put(&[("if-match", "\"0\"")], b"two").0, 412);
    assert_eq!(put(&[("if-match", &first)], b"two").0, 200);
    assert_eq!(put(&[("if-match", &first)], b"three").0, 412);
    assert_eq!(put(&[], b"four").0, 200);

    let delete = c.call("DELETE", "/libsql/k", &[], b"");
    assert_eq!(delete.status, 204);
    assert_eq!(c.call("PUT", "/libsql/k", &[("if-none-match", "*")], b"five").status, 200);
}
