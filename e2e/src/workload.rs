//! Random statements from a seed: the same seed gives the same statements on every machine.

use std::fmt::Write;

use fastrand::Rng;

/// A generator of statements that are legal in any order, and sometimes fail as they should.
pub struct Workload {
    rng: Rng,
    tables: u32,
    open: bool,
    savepoints: u32,
}

impl Workload {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), tables: 0, open: false, savepoints: 0 }
    }

    /// The seed for tests: `BOTTOMLESS_SEED`, else one that is always the same.
    pub fn seed() -> u64 {
        std::env::var("BOTTOMLESS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_250_709)
    }

    /// A blob literal: random bytes, or runs that compress.
    fn blob(&mut self) -> String {
        let length = match self.rng.u8(..10) {
            0 => self.rng.usize(3000..20_000),
            1..=3 => self.rng.usize(200..3000),
            _ => self.rng.usize(..200),
        };
        let plain = self.rng.bool();
        let fill = self.rng.u8(..);
        let mut text = String::from("x'");
        for _ in 0..length {
            let byte = if plain { fill } else { self.rng.u8(..) };
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\'');
        text
    }

    fn table(&mut self) -> u32 {
        self.rng.u32(..self.tables.max(1))
    }

    /// The next statement.
    pub fn statement(&mut self) -> String {
        if self.tables == 0 {
            self.tables = 1;
            return "CREATE TABLE IF NOT EXISTS t0(id INTEGER PRIMARY KEY, a, b UNIQUE)".to_owned();
        }
        let t = self.table();
        match self.rng.u32(..100) {
            0..=29 => {
                let (a, b) = (self.rng.u32(..), self.blob());
                format!("INSERT INTO t{t}(a, b) VALUES({a}, {b})")
            }
            30..=44 => {
                let (low, b) = (self.rng.u32(..40), self.blob());
                format!("UPDATE t{t} SET b = {b} WHERE id = {low}")
            }
            45..=49 => {
                let (low, n) = (self.rng.u32(..40), self.rng.u32(1..9));
                format!("UPDATE t{t} SET a = a * 31 + 7 WHERE id BETWEEN {low} AND {}", low + n)
            }
            50..=57 => {
                let low = self.rng.u32(..40);
                format!("DELETE FROM t{t} WHERE id BETWEEN {low} AND {}", low + self.rng.u32(..6))
            }
            // Fails on the unique column when the row exists: the statement's own changes go away.
            58..=61 => {
                format!("INSERT INTO t{t}(id, a, b) SELECT id + 1000, a, b FROM t{t} WHERE id < {}", self.rng.u32(..20))
            }
            62..=64 => {
                let new = self.tables;
                self.tables = (self.tables + 1).min(6);
                format!("CREATE TABLE IF NOT EXISTS t{new}(id INTEGER PRIMARY KEY, a, b UNIQUE)")
            }
            65..=66 => format!("CREATE INDEX IF NOT EXISTS i{t} ON t{t}(a, b)"),
            67 => format!("DROP INDEX IF EXISTS i{t}"),
            68 => format!("DELETE FROM t{t}"),
            69..=72 => format!("REPLACE INTO t{t}(id, a, b) VALUES({}, 1, {})", self.rng.u32(..40), self.blob()),
            73..=82 if !self.open => {
                self.open = true;
                "BEGIN IMMEDIATE".to_owned()
            }
            73..=82 => {
                self.open = false;
                self.savepoints = 0;
                "COMMIT".to_owned()
            }
            83..=85 if self.open => {
                self.open = false;
                self.savepoints = 0;
                "ROLLBACK".to_owned()
            }
            86..=88 if self.open => {
                self.savepoints += 1;
                format!("SAVEPOINT s{}", self.savepoints)
            }
            89..=90 if self.savepoints > 0 => format!("ROLLBACK TO s{}", self.savepoints),
            91 if self.savepoints > 0 => {
                self.savepoints -= 1;
                format!("RELEASE s{}", self.savepoints + 1)
            }
            92 if !self.open => "PRAGMA incremental_vacuum(3)".to_owned(),
            93 if !self.open => "VACUUM".to_owned(),
            94 if !self.open => "PRAGMA wal_checkpoint(PASSIVE)".to_owned(),
            95..=96 => format!("SELECT id, a, length(b) FROM t{t} ORDER BY id LIMIT 50"),
            97 => format!("SELECT count(*), total(a) FROM t{t} WHERE b > x'40'"),
            _ => format!("INSERT INTO t{t}(a, b) SELECT a + 1, hex(b) || id FROM t{t} LIMIT 5"),
        }
    }

    /// The caller didn't execute this statement: forget what it would have opened or ended.
    pub fn undo_bookkeeping(&mut self, sql: &str) {
        if sql.starts_with("ROLLBACK") && !sql.starts_with("ROLLBACK TO") {
            self.open = true;
        }
    }

    /// What ends an open transaction.
    pub fn finish(&mut self) -> Option<&'static str> {
        std::mem::take(&mut self.open).then_some("COMMIT")
    }
}
