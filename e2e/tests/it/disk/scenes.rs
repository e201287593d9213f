//! What is done while calls fail.

use bottomless_e2e::faults::{Call, Target};

/// A step of a scene.
#[derive(Clone, Debug)]
pub enum Step {
    /// Opens the database as connection 0 and reads.
    Open,
    /// One transaction, which ends with the marker of its own: a row in `log`, and `tag` in all rows of `t`.
    Commit(String),
    /// No transaction.
    Other(&'static str),
    /// Closes connection 0.
    Close,
    /// Connection 1 opens the database too; commits alternate from here on.
    OpenSecond,
}

/// How the local files and the bucket are when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// No file, no object.
    Nothing,
    /// The bucket has the database, the local folder is empty.
    OnlyBucket,
    /// Connection 0 is open.
    Open,
    /// The local file is behind the bucket, and closed.
    Behind,
    /// A program without the extension has committed to the local file, and closed it.
    Foreign,
}

/// A script, and what it must do to be worth it.
pub struct Scene {
    pub name: &'static str,
    pub before: Before,
    /// For the connection that is prepared.
    pub pragmas: &'static str,
    pub steps: Vec<Step>,
    pub must_see: &'static [(Call, Target)],
}

/// Makes what a first session makes, and changes it all.
const MAKE: &str = "CREATE TABLE IF NOT EXISTS log(tag); CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, tag, v);
    INSERT OR IGNORE INTO t(id) VALUES(1), (2), (3)";
const SMALL: &str = "UPDATE t SET v = randomblob(300) WHERE id < 4";
const ALL: &str = "UPDATE t SET v = randomblob(2000)";
/// More than the 4 MiB that stay in memory.
const LARGE: &str = "INSERT INTO t(v) SELECT randomblob(1500000) FROM (SELECT 1 FROM t LIMIT 3)";

fn commit(sql: &str) -> Step {
    Step::Commit(sql.to_owned())
}

/// The first transactions of a new database.
pub fn a_first_session() -> Scene {
    Scene {
        name: "a first session",
        before: Before::Nothing,
        pragmas: "",
        steps: vec![Step::Open, commit(MAKE), commit(SMALL)],
        must_see: &[(Call::Open, Target::State), (Call::Write, Target::State), (Call::Unlink, Target::Journal)],
    }
}

pub fn a_restore() -> Scene {
    Scene {
        name: "a restore",
        before: Before::OnlyBucket,
        pragmas: "",
        steps: vec![Step::Open, commit(SMALL)],
        must_see: &[
            (Call::Open, Target::Fill),
            (Call::Write, Target::Fill),
            (Call::Sync, Target::Fill),
            (Call::Rename, Target::Main),
            (Call::Sync, Target::Folder),
        ],
    }
}

pub fn commits_with_a_journal() -> Scene {
    Scene {
        name: "commits with a journal",
        before: Before::Open,
        pragmas: "",
        steps: vec![commit(SMALL), commit(ALL), Step::Other("PRAGMA journal_mode = PERSIST"), commit(SMALL)],
        must_see: &[
            (Call::Write, Target::Main),
            (Call::Sync, Target::Main),
            (Call::Write, Target::Journal),
            (Call::Unlink, Target::Journal),
            (Call::Write, Target::State),
            (Call::Read, Target::State),
        ],
    }
}

pub fn commits_in_a_wal() -> Scene {
    Scene {
        name: "commits in a WAL",
        before: Before::Open,
        pragmas: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
        steps: vec![
            commit(SMALL),
            commit(ALL),
            Step::Other("PRAGMA wal_checkpoint(TRUNCATE)"),
            commit(SMALL),
            Step::Other("PRAGMA wal_checkpoint(RESTART)"),
            commit(SMALL),
        ],
        must_see: &[
            (Call::Write, Target::Main),
            (Call::Write, Target::Wal),
            (Call::Sync, Target::Wal),
            (Call::Truncate, Target::Wal),
            (Call::Write, Target::State),
        ],
    }
}

pub fn transactions_that_spill() -> Scene {
    Scene {
        name: "transactions that spill",
        before: Before::Open,
        pragmas: "PRAGMA cache_size = 5",
        steps: vec![
            commit(ALL),
            Step::Other("BEGIN; UPDATE t SET v = randomblob(3000); DELETE FROM t WHERE id % 2; ROLLBACK"),
            commit("UPDATE t SET v = randomblob(1500); DELETE FROM t WHERE id = (SELECT max(id) FROM t)"),
        ],
        must_see: &[(Call::Write, Target::Main), (Call::Write, Target::Journal)],
    }
}

pub fn spilled_frames_of_a_wal() -> Scene {
    Scene {
        name: "spilled frames of a WAL",
        before: Before::Open,
        pragmas: "PRAGMA journal_mode = WAL; PRAGMA cache_size = 5",
        steps: vec![
            commit(ALL),
            Step::Other("BEGIN; UPDATE t SET v = randomblob(3000); DELETE FROM t WHERE id % 2; ROLLBACK"),
            commit("SAVEPOINT a; UPDATE t SET v = randomblob(1500); ROLLBACK TO a; UPDATE t SET v = randomblob(900)"),
        ],
        must_see: &[(Call::Write, Target::Wal), (Call::Read, Target::Wal)],
    }
}

/// In mode OFF the shim rolls back.
pub fn transactions_without_a_journal() -> Scene {
    Scene {
        name: "transactions without a journal",
        before: Before::Open,
        pragmas: "PRAGMA journal_mode = OFF; PRAGMA cache_size = 5",
        steps: vec![commit(SMALL), commit(ALL), Step::Other("PRAGMA journal_mode = MEMORY"), commit(ALL)],
        must_see: &[(Call::Write, Target::Main), (Call::Read, Target::Main), (Call::Write, Target::State)],
    }
}

pub fn a_large_transaction() -> Scene {
    Scene {
        name: "a large transaction",
        before: Before::Open,
        pragmas: "",
        steps: vec![commit(LARGE)],
        must_see: &[(Call::Open, Target::Nameless), (Call::Write, Target::Nameless), (Call::Read, Target::Nameless)],
    }
}

pub fn a_large_transaction_in_a_wal() -> Scene {
    Scene {
        name: "a large transaction in a WAL",
        before: Before::Open,
        pragmas: "PRAGMA journal_mode = WAL",
        steps: vec![commit(LARGE)],
        must_see: &[(Call::Open, Target::Nameless), (Call::Write, Target::Nameless), (Call::Read, Target::Wal)],
    }
}

pub fn catching_up() -> Scene {
    Scene {
        name: "catching up",
        before: Before::Behind,
        pragmas: "PRAGMA journal_mode = WAL",
        steps: vec![Step::Open, commit(SMALL)],
        must_see: &[(Call::Write, Target::Fill), (Call::Rename, Target::Main), (Call::Read, Target::Main)],
    }
}

pub fn changes_by_another_program() -> Scene {
    Scene {
        name: "changes by another program",
        before: Before::Foreign,
        pragmas: "PRAGMA journal_mode = WAL",
        steps: vec![Step::Open, commit(SMALL)],
        must_see: &[(Call::Write, Target::State), (Call::Read, Target::Main)],
    }
}

pub fn closing() -> Scene {
    Scene {
        name: "closing",
        before: Before::Open,
        pragmas: "PRAGMA journal_mode = WAL",
        steps: vec![commit(SMALL), Step::Close, Step::Open, commit(SMALL), Step::Close],
        must_see: &[(Call::Unlink, Target::Wal), (Call::Sync, Target::State), (Call::Write, Target::Main)],
    }
}

pub fn two_connections() -> Scene {
    Scene {
        name: "two connections",
        before: Before::Open,
        pragmas: "",
        steps: vec![commit(SMALL), Step::OpenSecond, commit(SMALL), commit(ALL), commit(SMALL)],
        must_see: &[(Call::Open, Target::Main)],
    }
}

pub fn all() -> Vec<Scene> {
    vec![
        a_first_session(),
        a_restore(),
        commits_with_a_journal(),
        commits_in_a_wal(),
        transactions_that_spill(),
        spilled_frames_of_a_wal(),
        transactions_without_a_journal(),
        a_large_transaction(),
        a_large_transaction_in_a_wal(),
        catching_up(),
        changes_by_another_program(),
        closing(),
        two_connections(),
    ]
}
