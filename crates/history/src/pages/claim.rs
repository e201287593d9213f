//! Keys of claims: `<database id>/pages/claim-<machine>-<random>`.

use std::fmt;

use crate::DatabaseId;
use crate::name::PAGES;

/// The name of an object by which a machine claims to be folding: both parts are 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    /// Whose it is, for one copy of the database.
    pub(crate) machine: u64,
    /// Differs from claim to claim.
    pub(crate) random: u64,
}

impl Claim {
    pub(crate) fn key(self, id: &DatabaseId) -> String {
        format!("{id}/{self}")
    }

    /// The claim that a key stands for; `None` for other keys.
    pub(crate) fn parse(id: &DatabaseId, key: &str) -> Option<Self> {
        let name = key.strip_prefix(id.as_str())?.strip_prefix('/')?.strip_prefix(PAGES)?.strip_prefix("/claim-")?;
        let (machine, random) = name.split_once('-')?;
        Some(Self { machine: hexadecimal(machine)?, random: hexadecimal(random)? })
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16 && text.bytes().all(is_digit))
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PAGES}/claim-{:016x}-{:016x}", self.machine, self.random)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_claim_and_its_key() {
        let id = DatabaseId::new("test.db").unwrap();
        let claim = Claim { machine: 0xab, random: u64::MAX };
        let key = "test.db/pages/claim-00000000000000ab-ffffffffffffffff";
        assert_eq!(claim.key(&id), key);
        assert_eq!(Claim::parse(&id, key), Some(claim));
        for other in [
            "test.db/pages/claim-00000000000000ab-fffffffffffffff",
            "test.db/pages/claim-00000000000000ab-fffffffffffffffF",
            "test.db/pages/claim-00000000000000ab-+ffffffffffffff",
            "test.db/pages/claim-00000000000000ab",
            "test.db/claim-00000000000000ab-ffffffffffffffff",
            "test.db2/pages/claim-00000000000000ab-ffffffffffffffff",
        ] {
            assert_eq!(Claim::parse(&id, other), None, "{other}");
        }
    }
}
