//! The plays: everything that a process does between open and close, in each way in which it takes another course.

use std::process::Command;
use std::time::{Duration, Instant};

use bottomless_e2e::Host;
use bottomless_e2e::proxy::Fault;

use super::stage::{Played, Restores, Stage};

/// A play, and who plays the victim.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) host: Host,
    pub(super) play: fn(&mut Stage) -> Played,
}

impl Scenario {
    /// The restores that can be made: Litestream finds no log where it was folded and deleted.
    pub(super) fn restores(&self, wanted: Restores) -> Restores {
        match wanted {
            Restores::Litestream if self.name == "folding_in_the_background" => Restores::Both,
            other => other,
        }
    }
}

macro_rules! scenarios {
    ($($name:ident: $host:ident, $play:expr;)*) => {
        pub(super) const ALL: &[Scenario] =
            &[$(Scenario { name: stringify!($name), host: Host::$host, play: $play },)*];

        $(#[test]
        fn $name() {
            super::kill_at_points(stringify!($name));
        })*
    };
}

scenarios! {
    commits_in_mode_delete: Newest, |s| commits(s, "DELETE", &[]);
    commits_in_mode_delete_unsynced: Newest, |s| commits(s.one_writer(), "DELETE", &["PRAGMA synchronous = OFF"]);
    commits_in_mode_delete_in_python: Python, |s| commits(s.one_writer(), "DELETE", &[]);
    commits_in_mode_truncate: Newest, |s| commits(s.one_writer(), "TRUNCATE", &[]);
    commits_in_mode_persist: Newest, |s| commits(s.one_writer(), "PERSIST", &[]);
    commits_in_mode_memory: Newest, |s| commits(s.one_writer(), "MEMORY", &[]);
    commits_in_mode_off: Newest, |s| commits(s.one_writer(), "OFF", &[]);
    commits_in_mode_wal: Newest, |s| commits(s, "WAL", &["PRAGMA wal_autocheckpoint = 8"]);
    commits_in_mode_wal_synced: Newest, |s| commits(s.one_writer(), "WAL", &["PRAGMA synchronous = FULL"]);
    commits_in_mode_wal_in_python: Python, |s| commits(s.one_writer(), "WAL", &["PRAGMA synchronous = OFF"]);
    files_that_shrink: Newest, shrinking;
    lost_replies_in_mode_delete: Newest, |s| lost_replies(s, "DELETE");
    lost_replies_in_mode_off: Newest, |s| lost_replies(s, "OFF");
    lost_replies_in_mode_wal: Newest, |s| lost_replies(s, "WAL");
    silence_in_mode_delete: Newest, |s| silence(s, "DELETE");
    silence_in_mode_wal: Newest, |s| silence(s, "WAL");
    refusals_in_mode_delete: Newest, |s| refusals(s, "DELETE");
    refusals_in_mode_wal: Newest, |s| refusals(s, "WAL");
    a_journal_that_can_not_be_deleted: Newest, a_journal_that_stays;
    a_commit_frame_that_can_not_be_written: Python, a_commit_frame_that_fails;
    a_plain_database_is_published_in_mode_delete: Newest, |s| plain(s, "DELETE");
    a_plain_database_is_published_in_mode_wal: Newest, |s| plain(s, "WAL");
    an_empty_folder_is_filled_in_mode_delete: Newest, |s| empty(s, "DELETE");
    an_empty_folder_is_filled_in_mode_wal: Newest, |s| empty(s, "WAL");
    a_file_that_is_behind_catches_up: Newest, |s| behind(s, "DELETE");
    a_file_that_is_behind_catches_up_with_its_wal: Newest, |s| behind(s, "WAL");
    a_file_that_is_behind_catches_up_with_its_journal: Newest, behind_with_a_journal;
    a_file_that_is_behind_after_a_crash_in_the_commit: Newest, behind_after_a_commit;
    free_pages_that_a_crash_has_filled: Newest, |s| free_pages(s, &[]);
    free_pages_that_a_crash_has_filled_elsewhere_too: Newest, |s| free_pages(s, &["UPDATE t SET v = 'elsewhere' WHERE id < 4"]);
    changes_by_another_program_in_mode_delete: Newest, |s| changed(s, "DELETE");
    changes_by_another_program_in_mode_wal: Newest, |s| changed(s, "WAL");
    a_forced_database: Newest, |s| claimed(s, "force");
    a_skipped_database: Newest, |s| claimed(s, "skip");
    a_torn_file_is_filled_again: Newest, torn;
    a_fenced_commit_in_mode_delete: Newest, |s| fenced(s, "DELETE");
    a_fenced_commit_in_mode_wal: Newest, |s| fenced(s, "WAL");
    an_unconfirmed_commit_and_a_lost_one_in_mode_delete: Newest, |s| unconfirmed_and_lost(s, "DELETE");
    an_unconfirmed_commit_and_a_lost_one_in_mode_wal: Newest, |s| unconfirmed_and_lost(s, "WAL");
    one_of_two_processes_in_mode_delete: Newest, |s| one_of_two(s, "DELETE");
    one_of_two_processes_in_mode_wal: Newest, |s| one_of_two(s, "WAL");
    compaction: Newest, compacts;
    folding_by_a_close: Newest, folds_by_a_close;
    folding_by_a_flush: Python, folds_by_a_flush;
    folding_in_the_background: Newest, folds_in_the_background;
}

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

/// Seconds after which the outcome of a commit is not known.
const SHORT: u32 = 2;

/// The fence window of plays in which it passes. A quarter of it is the time that deleting has: on a busy machine it must not be
/// short.
const WINDOW: Duration = Duration::from_secs(2);

/// Rows that differ from those of any other call with another text.
fn insert(text: &str, rows: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t(v) SELECT printf('%s %d %.*c', '{text}', i, 700, 'x') FROM n"
    )
}

fn commits(stage: &mut Stage, mode: &str, pragmas: &[&str]) -> Played {
    // Without a journal on the disk SQLite itself does not survive a crash.
    stage.journaled = !["MEMORY", "OFF"].contains(&mode);
    stage.start()?;
    stage.sql(&format!("PRAGMA journal_mode = {mode}"))?;
    stage.all(pragmas)?;
    stage.all(&["PRAGMA cache_size = 2", TABLE, "INSERT INTO t(v) VALUES('first')"])?;
    stage.sql(&insert("many", 14))?;
    stage.sql("UPDATE t SET v = v || 'u' WHERE id % 2")?;
    // Spilled.
    stage.all(&[
        "BEGIN",
        "UPDATE t SET v = 's' || v",
        &insert("spilled", 8),
        "DELETE FROM t WHERE id = 3",
        "COMMIT",
    ])?;
    stage.all(&["BEGIN", "UPDATE t SET v = 'r' || v", &insert("rolled back", 8), "ROLLBACK"])?;
    if mode != "OFF" {
        // With OFF, what ROLLBACK TO does is undefined.
        let undone =
            ["BEGIN", "DELETE FROM t WHERE id = 4", "SAVEPOINT a", "UPDATE t SET v = 0", "ROLLBACK TO a", "COMMIT"];
        stage.all(&undone)?;
    }
    if mode == "WAL" {
        stage.all(&["PRAGMA wal_checkpoint(PASSIVE)", "UPDATE t SET v = 'after the checkpoint' WHERE id = 1"])?;
        stage.all(&["PRAGMA wal_checkpoint(TRUNCATE)", "UPDATE t SET v = 'after the next' WHERE id = 2"])?;
    }
    stage.close()
}

fn shrinking(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA auto_vacuum = FULL", "PRAGMA journal_mode = DELETE", TABLE, &insert("many", 20)]);
    stage.start()?;
    stage.all(&["DELETE FROM t WHERE id > 9", "DELETE FROM t WHERE id > 2", "VACUUM"])?;
    stage.all(&["PRAGMA journal_mode = WAL", &insert("more", 12), "DELETE FROM t WHERE id > 5", "VACUUM"])?;
    stage.all(&[
        "PRAGMA wal_checkpoint(RESTART)",
        "INSERT INTO t(v) VALUES('last')",
        "PRAGMA journal_mode = DELETE",
    ])?;
    stage.sql("DELETE FROM t WHERE id > 1")?;
    stage.close()
}

/// The outcome of a commit is not known, though it landed; the next ones settle it.
fn lost_replies(stage: &mut Stage, mode: &str) -> Played {
    stage.journaled = mode != "OFF";
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 6)]);
    stage.world.set("LIBSQL_BOTTOMLESS_TIMEOUT", SHORT);
    stage.start()?;
    stage.sql(&format!("PRAGMA journal_mode = {mode}"))?;
    stage.sql("UPDATE t SET v = 'known' WHERE id = 1")?;
    stage.begin_here();
    stage.world.proxy.fail(Fault::LoseReply);
    stage.refused("UPDATE t SET v = 'lost' WHERE id < 5")?;
    stage.world.proxy.heal();
    stage.sql("UPDATE t SET v = 'next' WHERE id = 6")?;
    stage.transient.clear();
    stage.end_here();
    stage.sql("UPDATE t SET v = 'and on' WHERE id = 2")?;
    stage.close()
}

/// The outcome of a commit is not known, and it never landed. Then the process ends with an open outcome.
fn silence(stage: &mut Stage, mode: &str) -> Played {
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 6)]);
    stage.world.set("LIBSQL_BOTTOMLESS_TIMEOUT", SHORT);
    stage.start()?;
    stage.begin_here();
    stage.world.proxy.fail(Fault::Close);
    stage.refused("UPDATE t SET v = 'silence' WHERE id < 5")?;
    stage.world.proxy.heal();
    stage.sql("UPDATE t SET v = 'next' WHERE id = 6")?;
    stage.transient.clear();
    stage.world.proxy.fail(Fault::LoseReply);
    stage.refused("UPDATE t SET v = 'lost' WHERE id < 5")?;
    stage.world.proxy.heal();
    stage.close()?;
    stage.open()?;
    stage.close()
}

fn refusals(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 6)]);
    stage.start()?;
    stage.sql("INSERT INTO t(v) VALUES('proof')")?;
    stage.begin_here();
    stage.world.proxy.fail(Fault::Status(403));
    stage.refused("UPDATE t SET v = 'refused' WHERE id < 5")?;
    stage.world.proxy.heal();
    // It never was in the bucket.
    stage.transient.clear();
    stage.sql("UPDATE t SET v = 'next' WHERE id = 6")?;
    stage.close()
}

/// The transaction is in the bucket, and SQLite can't delete its journal: it rolls back.
fn a_journal_that_stays(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 6)]);
    stage.start()?;
    stage.sql("INSERT INTO t(v) VALUES('proof')")?;
    stage.begin_here();
    let journal = stage.world.beside("journal");
    let sql = "UPDATE t SET v = 'landed' WHERE id < 5";
    stage.repair = Some(|world| {
        let (journal, kept) = (world.beside("journal"), world.beside("kept"));
        if journal.is_dir() {
            std::fs::remove_dir(&journal).unwrap();
        }
        // The journal is that of SQLite as long as it has its name: a process that died has never deleted it.
        if kept.exists() {
            std::fs::rename(&kept, &journal).unwrap();
        }
    });
    stage.world.proxy.gate().hold("PUT", "/0000/");
    stage.victim().send_sql(0, sql);
    if !stage.wait_at_the_gate() {
        return stage.refusal(sql);
    }
    std::fs::rename(&journal, stage.world.beside("kept")).unwrap();
    std::fs::create_dir(&journal).unwrap();
    stage.world.proxy.gate().open();
    stage.refusal(sql)?;
    stage.mend();
    stage.close()?;
    stage.open()?;
    stage.sql("UPDATE t SET v = 'next' WHERE id = 6")?;
    stage.transient.clear();
    stage.close()
}

/// The transaction is in the bucket, and its commit frame does not fit into the WAL any more.
fn a_commit_frame_that_fails(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = WAL", TABLE, &insert("before", 6)]);
    stage.start()?;
    stage.sql("INSERT INTO t(v) VALUES('proof')")?;
    stage.begin_here();
    let sql = "UPDATE t SET v = 'landed' WHERE id < 5";
    stage.world.proxy.gate().hold("PUT", "/0000/");
    stage.victim().send_sql(0, sql);
    if !stage.wait_at_the_gate() {
        return stage.refusal(sql);
    }
    let wal = std::fs::metadata(stage.world.beside("wal")).unwrap().len();
    stage.limit_file_size(&wal.to_string());
    stage.world.proxy.gate().open();
    stage.refusal(sql)?;
    stage.limit_file_size("unlimited");
    stage.sql("UPDATE t SET v = 'next' WHERE id = 6")?;
    stage.transient.clear();
    stage.close()
}

fn plain(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.transient.push(String::new());
    stage.stock(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("plain", 9)]);
    stage.start()?;
    stage.transient.clear();
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

fn empty(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.local.push(String::new());
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("large", 200), &insert("small", 3)]);
    stage.helper(&["UPDATE t SET v = 'u' WHERE id % 9 = 0", "DELETE FROM t WHERE id = 5"]);
    stage.world.lose_local_files();
    // Of a database that is gone.
    for suffix in ["wal", "journal"] {
        std::fs::write(stage.world.beside(suffix), b"left over").unwrap();
    }
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

/// The process dies, and another machine goes on.
fn behind(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.dying_helper(None, &[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 9)]);
    stage.may_stay();
    stage.elsewhere(&["UPDATE t SET v = 'elsewhere' WHERE id < 4", &insert("elsewhere", 5)]);
    stage.transient.clear();
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

fn behind_with_a_journal(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 40)]);
    let spilling = ["PRAGMA cache_size = 2", "BEGIN", "UPDATE t SET v = 'gone ' || v || v"];
    stage.dying_helper(Some("writing.page=kill@3"), &spilling);
    stage.counts("ROLLBACK");
    assert!(stage.world.beside("journal").exists(), "a hot journal");
    stage.may_stay();
    stage.elsewhere(&["UPDATE t SET v = 'elsewhere' WHERE id < 4", &insert("elsewhere", 5)]);
    stage.transient.clear();
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

/// Its own last transaction is in the bucket, SQLite has not committed it here, and another machine has built on it.
fn behind_after_a_commit(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 9)]);
    stage.may_stay();
    stage.dying_helper(Some("journal.deleting=kill"), &["UPDATE t SET v = 'landed' WHERE id = 9"]);
    assert!(stage.world.beside("journal").exists(), "a hot journal");
    stage.counts("UPDATE t SET v = 'landed' WHERE id = 9");
    stage.may_stay();
    stage.elsewhere(&["UPDATE t SET v = 'elsewhere' WHERE id < 4"]);
    stage.transient.clear();
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

/// The last transaction is in the bucket, and the playback of its journal leaves what it wrote to free pages: SQLite
/// does not journal these.
fn free_pages(stage: &mut Stage, elsewhere: &[&str]) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 9), &insert("freed", 30)]);
    stage.helper(&["DELETE FROM t WHERE id > 9"]);
    stage.may_stay();
    stage.dying_helper(Some("journal.deleting=kill"), &[&insert("landed", 20)]);
    stage.counts(&insert("landed", 20));
    stage.may_stay();
    if !elsewhere.is_empty() {
        stage.elsewhere(elsewhere);
        stage.transient.clear();
    }
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

fn changed(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 9)]);
    stage.may_stay();
    stage.stock(&["UPDATE t SET v = 'without' WHERE id < 4", "CREATE TABLE u(a)"]);
    stage.start()?;
    stage.transient.clear();
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

fn claimed(stage: &mut Stage, policy: &str) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("theirs", 9)]);
    stage.may_stay();
    stage.local.clear();
    stage.world.lose_local_files();
    stage.counts("DROP TABLE t");
    stage.stock(&[TABLE, &insert("ours", 3)]);
    stage.world.set("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", policy);
    // An empty folder has nothing to force.
    stage.start()?;
    stage.sql("UPDATE t SET v = 'after' WHERE id = 1")?;
    stage.transient.clear();
    stage.end_here();
    stage.sql("UPDATE t SET v = 'and on' WHERE id = 2")?;
    stage.close()
}

fn torn(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.journaled = false;
    stage.helper(&["PRAGMA journal_mode = DELETE", TABLE, &insert("before", 40)]);
    let spilling =
        ["PRAGMA journal_mode = OFF", "PRAGMA cache_size = 2", "BEGIN", "UPDATE t SET v = 'gone ' || v || v"];
    stage.dying_helper(Some("writing.page=kill@3"), &spilling);
    stage.counts("ROLLBACK");
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

fn fenced(stage: &mut Stage, mode: &str) -> Played {
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 9)]);
    stage.start()?;
    stage.sql("UPDATE t SET v = 'ours' WHERE id = 1")?;
    stage.may_stay();
    stage.elsewhere(&["UPDATE t SET v = 'theirs' WHERE id = 2"]);
    stage.transient.clear();
    stage.begin_here();
    stage.fenced("UPDATE t SET v = 'fenced' WHERE id < 5")?;
    stage.close()?;
    stage.open()?;
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

/// Another process has the database open, commits before and after.
fn one_of_two(stage: &mut Stage, mode: &str) -> Played {
    stage.one_writer();
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 9)]);
    stage.other = Some(stage.world.open(Host::Newest));
    stage.by_the_other("UPDATE t SET v = 'other' WHERE id = 1");
    stage.start()?;
    stage.begin_here();
    stage.sql("UPDATE t SET v = 'mine' WHERE id < 4")?;
    stage.by_the_other("UPDATE t SET v = 'other' WHERE id = 2");
    stage.sql("UPDATE t SET v = 'mine again' WHERE id < 6")?;
    stage.all(&[
        "PRAGMA cache_size = 2",
        "BEGIN",
        "UPDATE t SET v = 's' || v",
        "DELETE FROM t WHERE id = 7",
        "COMMIT",
    ])?;
    stage.close()
}

/// A process dies after SQLite has committed and before that is recorded; the outcome of another's next transaction is
/// not known, though it landed. The open must find the first, and not the second.
fn unconfirmed_and_lost(stage: &mut Stage, mode: &str) -> Played {
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 9)]);
    stage.world.set("LIBSQL_BOTTOMLESS_TIMEOUT", SHORT);
    let mut other = stage.world.open(Host::Newest);
    let unconfirmed = "UPDATE t SET v = 'unconfirmed' WHERE id = 1";
    stage.dying_helper(Some("confirm.begun=kill"), &[unconfirmed]);
    stage.counts(unconfirmed);
    stage.world.proxy.fail(Fault::LoseReply);
    let lost = "UPDATE t SET v = 'lost' WHERE id = 2";
    other.sql_fails(lost);
    stage.may_show(lost);
    other.kill();
    stage.world.proxy.heal();
    stage.start()?;
    stage.end_here();
    stage.sql("UPDATE t SET v = 'after' WHERE id = 6")?;
    stage.close()
}

/// What a process commits between its folds: most pages, fewer pages, and more again.
const FOLDED: [&[&str]; 3] = [
    &["UPDATE t SET v = v || 'u' WHERE id % 3"],
    &["DELETE FROM t WHERE id > 6", "VACUUM"],
    &["INSERT INTO t(v) SELECT v || 'again' FROM t", "UPDATE t SET v = 'last' WHERE id = 2"],
];

fn folded_before(stage: &mut Stage, mode: &str) {
    stage.helper(&[&format!("PRAGMA journal_mode = {mode}"), TABLE, &insert("before", 30)]);
    assert!(stage.world.marker() > 0, "the helper has folded");
}

fn folds_by_a_close(stage: &mut Stage) -> Played {
    folded_before(stage, "WAL");
    stage.start()?;
    for statements in FOLDED {
        stage.all(statements)?;
        let before = stage.world.marker();
        stage.close()?;
        assert!(stage.world.marker() > before, "a close has folded");
        stage.open()?;
    }
    stage.close()
}

fn folds_by_a_flush(stage: &mut Stage) -> Played {
    folded_before(stage, "DELETE");
    stage.start()?;
    for statements in FOLDED {
        stage.all(statements)?;
        let before = stage.world.marker();
        stage.sql("PRAGMA bottomless_flush")?;
        assert!(stage.world.marker() > before, "a flush has folded");
    }
    stage.close()
}

/// With intervals so short that it comes to everything, beside the commits.
fn folds_in_the_background(stage: &mut Stage) -> Played {
    stage.one_writer();
    folded_before(stage, "WAL");
    stage.world.set_window(WINDOW);
    stage.world.compact([200, 600, 1500], 1800, 2000);
    stage.start()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut number = 0;
    while stage.is_doomed() || !stage.has_reached_all("fold.") {
        assert!(Instant::now() < deadline, "{}: it must come to all: {:?}", stage.doom(), stage.trace());
        stage.all(FOLDED[number % FOLDED.len()])?;
        stage.sql(&insert("more", 5))?;
        number += 1;
        std::thread::park_timeout(Duration::from_millis(50));
    }
    stage.end_here();
    stage.close()
}

/// A process commits and compacts at the same time, with intervals so short that it comes to everything.
fn compacts(stage: &mut Stage) -> Played {
    stage.one_writer();
    stage.helper(&["PRAGMA journal_mode = WAL", TABLE, &insert("before", 9)]);
    stage.world.set_window(WINDOW);
    stage.world.compact([200, 600, 1500], 1800, 2000);
    stage.start()?;
    stage.begin_here();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut number = 0;
    // Who is to die goes on until then: how often it comes to a point by a certain time is not the same each time.
    while stage.is_doomed() || !stage.has_reached_all("compact.") {
        assert!(Instant::now() < deadline, "{}: it must come to all: {:?}", stage.doom(), stage.trace());
        number += 1;
        stage.sql(&format!("UPDATE t SET v = '{number}' WHERE id = {}", number % 9 + 1))?;
        // So that there is time for it.
        std::thread::park_timeout(Duration::from_millis(50));
    }
    stage.end_here();
    stage.close()
}

impl Stage {
    pub(super) fn by_the_other(&mut self, sql: &str) {
        self.other.as_mut().expect("another process").sql(sql);
        self.counts(sql);
    }

    fn mend(&mut self) {
        if let Some(repair) = self.repair.take() {
            repair(&self.world);
        }
    }

    fn limit_file_size(&mut self, bytes: &str) {
        let pid = self.victim().id().to_string();
        let status =
            Command::new("/usr/bin/prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(status.expect("prlimit").success());
    }
}
