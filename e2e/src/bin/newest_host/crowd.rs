//! Threads that work on one database at the same time, and log what they try and what they were told.
//!
//! The log is appended to in one write a line, so that it is whole after a SIGKILL: `try ID SIZE` before a COMMIT of a
//! transaction with that many rows, then `ok ID` or `err ID CODE`; `back ID` for one that was rolled back without a
//! COMMIT; `read` after a reading transaction; `bad …` for what must not happen.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use fastrand::Rng;
use rusqlite::{Connection, OpenFlags, ffi};

/// Accounts, between which money moves.
const ACCOUNTS: u64 = 8;
const MOST_ROWS: u64 = 4;

/// What a row of a transaction holds beside its id and its number.
const VALUE: &str = "(id * 31 + n * 7919) % 1000003";

/// Does `steps` steps on each of `threads` threads; `process` is drawn into the ids.
pub(crate) fn run(uri: &str, log: &str, seed: u64, process: u64, threads: u64, steps: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let log = File::options().append(true).create(true).open(log).expect("the log");
                let number = process * 16 + thread;
                let rng = Rng::with_seed(seed ^ (number << 20));
                let mut worker = Worker { uri, log, rng, next: number << 24, known: 0, last: None, connection: None };
                for _ in 0..steps {
                    if let Err(error) = worker.step() {
                        worker.note(&format!("bad {error}"));
                        worker.connection = None;
                    }
                }
            });
        }
    });
}

struct Worker<'a> {
    uri: &'a str,
    log: File,
    rng: Rng,
    /// The id of the next transaction.
    next: u64,
    /// Rows that were there at the last look: none ever goes away.
    known: i64,
    /// The last transaction of this worker that was acknowledged.
    last: Option<u64>,
    connection: Option<Connection>,
}

fn open(uri: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(Duration::from_secs(120))?;
    // Small, so that transactions spill.
    connection.execute_batch("PRAGMA cache_size = 6; PRAGMA synchronous = NORMAL")?;
    Ok(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| e.extended_code & 0xff == ffi::SQLITE_BUSY)
}

impl Worker<'_> {
    fn note(&mut self, line: &str) {
        self.log.write_all(format!("{line}\n").as_bytes()).expect("the log");
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(self.uri)?,
        };
        match self.rng.u8(..100) {
            0..=54 => self.write(&connection)?,
            55..=84 => self.read(&connection)?,
            85..=92 => return connection.close().map_err(|(_, error)| error),
            choice => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][usize::from(choice) % 4];
                match connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())) {
                    Err(error) if !is_busy(&error) && !is_locked(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let id = self.next;
        self.next += 1;
        let size = self.rng.u64(1..=MOST_ROWS);
        let immediate = self.rng.u8(..4) > 0;
        let prepared = self.prepare(connection, id, size, immediate);
        if let Err(error) = &prepared {
            // A reader that becomes a writer may find that another was first.
            if immediate || !is_busy(error) {
                return prepared;
            }
        }
        if prepared.is_err() || self.rng.u8(..8) == 0 {
            connection.execute_batch("ROLLBACK")?;
            self.note(&format!("back {id}"));
            return Ok(());
        }
        self.note(&format!("try {id} {size}"));
        match connection.execute_batch("COMMIT") {
            Ok(()) => {
                self.note(&format!("ok {id}"));
                self.last = Some(id);
            }
            Err(error) => {
                self.note(&format!("err {id} {error}"));
                if !connection.is_autocommit() {
                    connection.execute_batch("ROLLBACK")?;
                }
            }
        }
        Ok(())
    }

    fn prepare(&mut self, connection: &Connection, id: u64, size: u64, immediate: bool) -> rusqlite::Result<()> {
        connection.execute_batch(if immediate { "BEGIN IMMEDIATE" } else { "BEGIN" })?;
        if !immediate {
            connection.query_row("SELECT count(*) FROM work", [], |_| Ok(()))?;
        }
        let (from, to, amount) = (self.rng.u64(..ACCOUNTS), self.rng.u64(..ACCOUNTS), self.rng.u64(1..50));
        connection.execute_batch(&format!("UPDATE account SET balance = balance - {amount} WHERE id = {from}"))?;
        if self.rng.u8(..3) == 0 {
            connection.execute_batch(&format!(
                "SAVEPOINT s; UPDATE account SET balance = 0; INSERT INTO work(id, n) VALUES({id}, 99); ROLLBACK TO s; \
                 RELEASE s"
            ))?;
        }
        connection.execute_batch(&format!("UPDATE account SET balance = balance + {amount} WHERE id = {to}"))?;
        let padding = if self.rng.u8(..6) == 0 { 20_000 } else { self.rng.u32(..300) };
        for n in 0..size {
            connection.execute_batch(&format!(
                "INSERT INTO work(id, n, size, origin, target, amount, value, padding)
                 VALUES({id}, {n}, {size}, {from}, {to}, {amount}, ({id} * 31 + {n} * 7919) % 1000003,
                 zeroblob({padding}))"
            ))?;
        }
        Ok(())
    }

    /// What a reader sees in one transaction is one state, and not an older one than before.
    fn read(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        connection.execute_batch("BEGIN")?;
        let before = number("SELECT count(*) FROM work")?;
        let sum = number("SELECT sum(balance) FROM account")?;
        let torn = number("SELECT count(*) FROM (SELECT 1 FROM work GROUP BY id HAVING count(*) != max(size))")?;
        let wrong = number(&format!("SELECT count(*) FROM work WHERE value IS NOT {VALUE}"))?;
        let off = number(
            "SELECT count(*) FROM account a WHERE balance != 1000
             + (SELECT coalesce(sum(amount), 0) FROM work WHERE target = a.id AND n = 0)
             - (SELECT coalesce(sum(amount), 0) FROM work WHERE origin = a.id AND n = 0)",
        )?;
        let mine = self.last.map(|id| number(&format!("SELECT count(*) FROM work WHERE id = {id}"))).transpose()?;
        let after = number("SELECT count(*) FROM work")?;
        connection.execute_batch("COMMIT")?;
        let sees_all = before == after && before >= self.known && mine != Some(0);
        if (sum, torn, wrong, off) != (1000 * ACCOUNTS as i64, 0, 0, 0) || !sees_all {
            let known = self.known;
            self.note(&format!(
                "bad read: sum {sum}, torn {torn}, wrong {wrong}, off {off}, rows {known}, {before}, {after}, mine {mine:?}"
            ));
        }
        self.known = after;
        self.note("read");
        Ok(())
    }
}

/// A table that another connection of the same cache has locked: not used here, but a checkpoint may say so.
fn is_locked(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| e.extended_code & 0xff == ffi::SQLITE_LOCKED)
}
