//! A host whose clock is wrong.

use bottomless_e2e::faults::Faults;
use bottomless_e2e::{Host, World};

use crate::commit::commits_once;

const MINUTES_20: i64 = 20 * 60;

/// The service refuses requests that were signed at another time than it has. The message says what to do, and when the
/// clock is right again the next commit works on the same connection.
#[test]
fn a_clock_that_is_20_minutes_off_is_named() {
    for mode in ["DELETE", "WAL"] {
        for ahead in [MINUTES_20, -MINUTES_20] {
            let mut world = World::new("clock");
            let faults = Faults::under(&mut world);
            let mut session = world.open(Host::Newest);
            session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('before')"));
            let last = world.last();
            faults.set_clock_ahead(ahead);
            let error = session.sql_fails("INSERT INTO t VALUES('lost')");
            // SQLITE_AUTH, as for other refusals by the store.
            assert_eq!(error.primary(), 23, "{mode}, {ahead}: {error:?}");
            let stderr = session.stderr();
            let clear = stderr.contains("the clock of this machine is wrong") && stderr.contains("set it");
            assert!(clear, "{mode}, {ahead}: {stderr}");
            assert_eq!(world.last(), last, "{mode}, {ahead}");
            assert_eq!(session.sql("SELECT v FROM t"), [["before"]], "{mode}, {ahead}");
            let (error, other) = world.try_open(Host::Newest).err().expect("can't be opened");
            assert_eq!(error.primary(), 14, "{mode}, {ahead}: {error:?}");
            assert!(other.stderr().contains("the clock of this machine is wrong"), "{}", other.stderr());
            drop(other);
            faults.set_clock_ahead(0);
            commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
            assert_eq!(session.sql("SELECT v FROM t"), [["before"], ["after"]], "{mode}, {ahead}");
            world.assert_restores_equal(&mut session);
        }
    }
}
