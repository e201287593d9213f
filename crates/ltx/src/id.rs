//! Transaction ids, positions and writer ids.

use std::fmt;
use std::str::FromStr;

use crate::Checksum;

/// The number of a transaction in the history of one database: 1, 2, 3 …
///
/// [`Txid::ZERO`] is the state before the first one. Written as 16 hexadecimal digits, lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(u64);

impl Txid {
    /// Before the first transaction: the database is empty.
    pub const ZERO: Self = Self(0);
    /// The first transaction.
    pub const FIRST: Self = Self(1);
    /// The last one that can be written down.
    pub const MAX: Self = Self(u64::MAX);

    /// The transaction with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The transaction after this one. [`Txid::MAX`] is its own successor: its object exists already, so a
    /// conditional create refuses it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The transaction before this one; [`Txid::ZERO`] is its own predecessor.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not 16 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a transaction id is 16 hexadecimal digits in lower case, not {0:?}")]
pub struct ParseTxidError(String);

impl FromStr for Txid {
    type Err = ParseTxidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self).ok_or_else(|| ParseTxidError(text.into()))
    }
}

/// Exactly 16 digits, lower case: the form is part of object keys, so it must be the only one.
pub(crate) fn parse_hex(text: &str) -> Option<u64> {
    let digits = text.as_bytes();
    let well_formed = digits.len() == 16 && digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'));
    if !well_formed {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// A point in the history of a database: a transaction and the database checksum after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The last transaction that is applied.
    pub txid: Txid,
    /// The database checksum after it.
    pub checksum: Checksum,
}

impl Position {
    /// Before the first transaction.
    pub const EMPTY: Self = Self { txid: Txid::ZERO, checksum: Checksum::EMPTY };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.txid, self.checksum)
    }
}

/// Who wrote a file: random, drawn by each writer for itself. Zero in files of others that don't name their writer.
/// Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WriterId(pub u64);

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_txid_has_one_written_form() {
        assert_eq!(Txid::new(0xabc).to_string(), "0000000000000abc");
        assert_eq!("0000000000000abc".parse::<Txid>().unwrap(), Txid::new(0xabc));
        assert_eq!("ffffffffffffffff".parse::<Txid>().unwrap(), Txid::MAX);
        for wrong in ["", "abc", "0000000000000ABC", "+000000000000abc", "0000000000000abg", "00000000000000abc"] {
            assert!(wrong.parse::<Txid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_txid_stays_in_its_range() {
        assert_eq!(Txid::ZERO.next(), Txid::FIRST);
        assert_eq!(Txid::FIRST.prev(), Txid::ZERO);
        assert_eq!(Txid::ZERO.prev(), Txid::ZERO);
        assert_eq!(Txid::MAX.next(), Txid::MAX);
    }
}
