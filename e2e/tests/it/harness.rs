//! The harness itself: if these fail, no other result means anything.

use std::path::Path;

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::workload::Workload;
use bottomless_e2e::{Host, World, compare, shell};

#[test]
fn hosts_answer_alike() {
    let world = World::new("hosts");
    for (host, version) in [(Host::Newest, "3.5"), (Host::Python, "3.40.1"), (Host::Libsql, "3.47.0")] {
        let mut session = world.stock(host);
        session.open(0, ":memory:").unwrap();
        let rows = session.sql("SELECT sqlite_version(), x'00ff', NULL, 1.5, -7");
        assert!(rows[0][0].as_str().unwrap().starts_with(version), "{host:?}: {rows:?}");
        assert_eq!(serde_json::to_string(&rows[0][1..]).unwrap(), r#"[{"blob":"00ff"},null,1.5,-7]"#);
        session.sql("CREATE TABLE t(a UNIQUE)");
        session.sql("INSERT INTO t VALUES(1)");
        assert_eq!(session.sql_fails("INSERT INTO t VALUES(1)").primary(), 19, "{host:?}");
        assert_eq!(session.number("SELECT count(*) FROM t"), 1);
    }
}

#[test]
fn the_proxy_records_and_fails_on_demand() {
    let world = World::new("proxy");
    let url = |name: &str| format!("{}/e2e/{}/{name}", world.proxy.endpoint(), world.id());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(true).build().into();
    agent.put(url("a")).header("If-None-Match", "*").send("content").unwrap();
    let second = agent.put(url("a")).header("If-None-Match", "*").send("other").unwrap_err();
    assert!(matches!(second, ureq::Error::StatusCode(412)), "the server has conditional writes: {second}");
    assert_eq!(world.bucket.get(&format!("{}/a", world.id())), b"content");

    world.proxy.fail(Fault::Status(503));
    assert!(matches!(agent.get(url("a")).call().unwrap_err(), ureq::Error::StatusCode(503)));
    world.proxy.heal();
    world.proxy.fail_only(Some("PUT"), "/b", Fault::LoseReply);
    assert!(agent.put(url("b")).send("landed").is_err());
    assert_eq!(world.bucket.get(&format!("{}/b", world.id())), b"landed");
    agent.get(url("b")).call().unwrap();
    world.proxy.refuse();
    assert!(agent.get(url("a")).call().is_err());
    world.proxy.heal();
    assert_eq!(agent.get(url("a")).call().unwrap().into_body().read_to_string().unwrap(), "content");

    let seen: Vec<_> = world.proxy.requests().iter().map(|r| (r.method.clone(), r.status)).collect();
    let expected = [("PUT", 200), ("PUT", 412), ("GET", 503), ("PUT", 200), ("GET", 200), ("GET", 200)];
    assert_eq!(seen, expected.map(|(m, s)| (m.to_owned(), Some(s))));
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn a_difference_of_one_byte_is_found() {
    let world = World::new("compare");
    let script = "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(20000)); VACUUM INTO 'b.db';";
    let output = shell::run_stock(&world, &format!(".open a.db\n{script}"));
    assert!(output.status.success(), "{}", shell::errors(&output));
    let (a, b) = (world.folder().join("b.db"), world.folder().join("c.db"));
    std::fs::copy(&a, &b).unwrap();
    compare::assert_same_pages(&a, &b);
    let mut bytes = std::fs::read(&b).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(&b, bytes).unwrap();
    let differ = |a: &Path, b: &Path| std::panic::catch_unwind(|| compare::assert_same_pages(a, b)).is_err();
    assert!(differ(&a, &b));
}

#[test]
fn a_seed_gives_the_same_statements() {
    let take = |seed| {
        let mut workload = Workload::new(seed);
        (0..300).map(|_| workload.statement()).collect::<Vec<_>>()
    };
    assert_eq!(take(7), take(7));
    assert_ne!(take(7), take(8));
}
