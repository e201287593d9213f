//! Keys: `<database id>/<level>/<min TXID>-<max TXID>.ltx`, where the level is four digits, or `pages` for a marker.

use std::fmt;

use bottomless_ltx::Txid;

use crate::DatabaseId;

/// How far the transactions of an object are merged: 0 is the log, 1 to 8 compacted runs, 9 snapshots, 10 the markers of page
/// objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

/// The folder of the markers, and of the claims of those who fold.
pub(crate) const PAGES: &str = "pages";

/// Not a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is a number from 0 to 10, not {0}")]
pub struct InvalidLevel(pub u8);

impl Level {
    /// The log: one object each transaction.
    pub const LOG: Self = Self(0);
    /// Objects that hold every page.
    pub const SNAPSHOT: Self = Self(9);
    /// Markers: up to which transaction the page objects hold the database. A marker stands for every page as a snapshot does,
    /// but has none of them: they are objects of their own ([`crate::PageKey`]).
    pub const PAGES: Self = Self(10);

    /// The level of this number.
    ///
    /// # Errors
    /// When it is larger than 10.
    pub const fn new(number: u8) -> Result<Self, InvalidLevel> {
        if number <= Self::PAGES.0 { Ok(Self(number)) } else { Err(InvalidLevel(number)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of an object within a database: its level and the transactions that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// How far merged.
    pub level: Level,
    /// The first transaction.
    pub min: Txid,
    /// The last transaction.
    pub max: Txid,
}

impl ObjectName {
    /// The object that claims a transaction: the one in the log.
    #[must_use]
    pub const fn log(txid: Txid) -> Self {
        Self { level: Level::LOG, min: txid, max: txid }
    }

    /// The key in the bucket.
    #[must_use]
    pub fn key(&self, id: &DatabaseId) -> String {
        format!("{id}/{self}")
    }

    /// The name that a key stands for; `None` for a key that is not of this form, or of another database.
    #[must_use]
    pub fn parse(id: &DatabaseId, key: &str) -> Option<Self> {
        let (level, rest) = key.strip_prefix(id.as_str())?.strip_prefix('/')?.split_once('/')?;
        let level = match level.as_bytes() {
            [b'0', b'0', b'0', digit @ b'0'..=b'9'] => Level(digit - b'0'),
            _ if level == PAGES => Level::PAGES,
            _ => return None,
        };
        let (min, max) = rest.strip_suffix(".ltx")?.split_once('-')?;
        let (min, max) = (min.parse().ok()?, max.parse().ok()?);
        let fits = match level {
            Level::LOG => min == max,
            Level::PAGES => min == Txid::FIRST,
            _ => true,
        };
        (fits && min != Txid::ZERO && min <= max).then_some(Self { level, min, max })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::PAGES => write!(f, "{PAGES}/{}-{}.ltx", self.min, self.max),
            level => write!(f, "{:04}/{}-{}.ltx", level.0, self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_and_its_key() {
        let id = DatabaseId::new("team/test.db").unwrap();
        let name = ObjectName::log(Txid::new(12));
        let key = "team/test.db/0000/000000000000000c-000000000000000c.ltx";
        assert_eq!(name.key(&id), key);
        assert_eq!(ObjectName::parse(&id, key), Some(name));
        let snapshot = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: Txid::new(12) };
        let key = "team/test.db/0009/0000000000000001-000000000000000c.ltx";
        assert_eq!(snapshot.key(&id), key);
        assert_eq!(ObjectName::parse(&id, key), Some(snapshot));
        let marker = ObjectName { level: Level::PAGES, ..snapshot };
        let key = "team/test.db/pages/0000000000000001-000000000000000c.ltx";
        assert_eq!(marker.key(&id), key);
        assert_eq!(ObjectName::parse(&id, key), Some(marker));
    }

    #[test]
    fn other_keys_are_foreign() {
        let id = DatabaseId::new("test.db").unwrap();
        for key in [
            "other.db/0000/000000000000000c-000000000000000c.ltx",
            "test.db2/0000/000000000000000c-000000000000000c.ltx",
            "test.db/000000000000000c-000000000000000c.ltx",
            "test.db/0010/000000000000000c-000000000000000c.ltx",
            "test.db/000a/000000000000000c-000000000000000c.ltx",
            "test.db/0000/000000000000000C-000000000000000C.ltx",
            "test.db/0000/000000000000000c-000000000000000c.ltx.tmp",
            "test.db/0000/000000000000000c.ltx",
            "test.db/0000/c-c.ltx",
            // Level 0 holds single transactions; nothing begins before the first, or ends before it begins.
            "test.db/0000/000000000000000c-000000000000000d.ltx",
            "test.db/0001/000000000000000d-000000000000000c.ltx",
            "test.db/0001/0000000000000000-000000000000000c.ltx",
            "test.db/0000/0000000000000000-0000000000000000.ltx",
            "test.db/pages/0000000000000002-000000000000000c.ltx",
            "test.db/pages/0000000000000001-0000000000000000.ltx",
            "test.db/page/0000000000000001-000000000000000c.ltx",
        ] {
            assert_eq!(ObjectName::parse(&id, key), None, "{key}");
        }
    }

    #[test]
    fn levels_end_with_the_markers() {
        assert_eq!(Level::new(9), Ok(Level::SNAPSHOT));
        assert_eq!(Level::new(10), Ok(Level::PAGES));
        assert_eq!(Level::new(11), Err(InvalidLevel(11)));
    }
}
