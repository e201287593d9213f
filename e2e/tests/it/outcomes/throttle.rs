//! A store that asks to be left alone for a while.

use std::time::Duration;

use bottomless_e2e::proxy::{Answer, Fault};
use bottomless_e2e::{Host, World};

fn slow_down(status: u16, seconds: u32) -> Fault {
    Fault::Answer(Answer { retry_after_seconds: Some(seconds), ..Answer::new(status, "SlowDown") })
}

/// The next try of a commit comes when the store said, not before.
#[test]
fn a_commit_leaves_the_store_alone_as_long_as_it_asks() {
    for (mode, status) in [("DELETE", 503), ("WAL", 429)] {
        let mut world = World::new("throttle");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        for insert in ["INSERT INTO t VALUES('small')", "INSERT INTO t VALUES(randomblob(1500000))"] {
            world.proxy.clear();
            world.proxy.fail_once(Some("PUT"), "", slow_down(status, 2));
            session.sql(insert);
            let requests = world.proxy.requests();
            let statuses: Vec<_> = requests.iter().map(|r| r.status).collect();
            assert_eq!(statuses, [Some(status), Some(200)], "{mode}: {requests:#?}");
            let pause = requests[1].came - requests[0].answered.unwrap();
            assert!(pause >= Duration::from_secs(2), "{mode}: the store asked for 2 s, and had {pause:?}");
        }
        world.assert_restores_equal(&mut session);
    }
}

/// A store that asks for an hour does not get it from a COMMIT: that ends with its own timeout, and a message that says
/// what the store answered.
#[test]
fn a_commit_ends_with_its_timeout_whatever_the_store_asks_for() {
    for mode in ["DELETE", "WAL"] {
        let mut world = World::new("throttle");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        session.close(0).unwrap();
        session.open(0, &format!("{}&timeout=2", world.uri())).unwrap();
        session.sql("SELECT * FROM t");
        world.proxy.clear();
        world.proxy.fail_only(Some("PUT"), "", slow_down(503, 3600));
        // That it comes back within the harness' 300 s shows it.
        session.sql_fails("INSERT INTO t VALUES('lost')");
        assert_eq!(world.proxy.requests().len(), 1, "{mode}: nothing is sent before the hour is over");
        assert!(session.stderr().contains("SlowDown"), "{mode}: {}", session.stderr());
        world.proxy.heal();
        session.sql("INSERT INTO t VALUES('after')");
        assert_eq!(session.sql("SELECT v FROM t"), [["after"]], "{mode}");
        world.assert_restores_equal(&mut session);
    }
}
