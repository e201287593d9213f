//! `locking_mode=EXCLUSIVE` with a WAL: SQLite takes no lock anew for a transaction, so that the end of one is told from
//! the begin of the next by the writes alone.

use bottomless_e2e::proxy::Fault;
use bottomless_e2e::{Host, World};

fn story(first: &str, second: &str, enter: &str) {
    let world = World::new("exclusive");
    let mut session = world.open(Host::Newest);
    session.sql(enter);
    session.sql("CREATE TABLE t(v); INSERT INTO t VALUES('before')");
    let known = world.last();

    world.proxy.fail(Fault::Status(403));
    session.sql_fails(first);
    session.sql_fails(first);
    assert_eq!(session.sql("SELECT v FROM t"), [["before"]], "{enter}: {first}");
    world.proxy.heal();

    // What overwrites the frames of the failed transaction is a transaction like any other.
    session.sql(second);
    assert_eq!(world.last(), known + 1, "{enter}: {second}");
    session.sql("INSERT INTO t VALUES('after')");
    assert_eq!(world.last(), known + 2, "{enter}: {second}");
    world.assert_restores_equal(&mut session);
}

const ONE: &str = "INSERT INTO t VALUES('one')";
const MANY: &str = "CREATE TABLE u AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 400) \
                    SELECT i, randomblob(100) FROM c";

/// Exclusive from the first access on: the WAL index is in memory of the process, without locks.
const WITHOUT_SHARED_MEMORY: &str = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL";
/// With a WAL index that others could see, whose locks are kept.
const WITH_SHARED_MEMORY: &str = "PRAGMA journal_mode = WAL; CREATE TABLE z(a); PRAGMA locking_mode = EXCLUSIVE";

#[test]
fn a_short_transaction_after_a_refused_short_one_is_uploaded() {
    story(ONE, ONE, WITHOUT_SHARED_MEMORY);
    story(ONE, ONE, WITH_SHARED_MEMORY);
}

#[test]
fn a_long_transaction_after_a_refused_short_one_is_uploaded_whole() {
    story(ONE, MANY, WITHOUT_SHARED_MEMORY);
    story(ONE, MANY, WITH_SHARED_MEMORY);
}

#[test]
fn a_short_transaction_after_a_refused_long_one_is_uploaded() {
    story(MANY, ONE, WITHOUT_SHARED_MEMORY);
    story(MANY, ONE, WITH_SHARED_MEMORY);
}
