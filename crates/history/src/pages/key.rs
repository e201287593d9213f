//! Keys of page objects: `<database id>-<page number>`.

use bottomless_ltx::PageNumber;

use crate::DatabaseId;

/// Digits of the page number.
const DIGITS: usize = 12;

/// The name of a page object: it lies beside the prefix of its database. Page 1 of `test.db` is `test.db-000000000001`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey(pub PageNumber);

impl PageKey {
    /// The key in the bucket.
    #[must_use]
    pub fn key(self, id: &DatabaseId) -> String {
        format!("{id}-{:0DIGITS$}", self.0.get())
    }

    /// The page that a key stands for; `None` for a key that is not of this form, or of another database.
    ///
    /// `a.db-0` and `a.db-000000000001` may be databases as well: whatever follows the twelve digits makes it another key.
    #[must_use]
    pub fn parse(id: &DatabaseId, key: &str) -> Option<Self> {
        let digits = key.strip_prefix(id.as_str())?.strip_prefix('-')?;
        let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| is_number)?;
        PageNumber::new(number).map(Self)
    }

    /// A key that comes right before those of all pages, and one that comes behind them.
    pub(crate) fn around_all(id: &DatabaseId) -> (String, String) {
        (format!("{id}-{:0DIGITS$}", 0), format!("{id}-{:0DIGITS$}", u64::from(u32::MAX) + 1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_page_and_its_key() {
        let id = DatabaseId::new("team/test.db").unwrap();
        for (number, key) in [(1, "team/test.db-000000000001"), (u32::MAX - 1, "team/test.db-004294967294")] {
            let page = PageKey(PageNumber::new(number).unwrap());
            assert_eq!(page.key(&id), key);
            assert_eq!(PageKey::parse(&id, key), Some(page));
            let (before, behind) = PageKey::around_all(&id);
            assert!(before.as_str() < key && key < behind.as_str());
        }
    }

    #[test]
    fn other_keys_are_of_others() {
        let id = DatabaseId::new("a.db").unwrap();
        for key in [
            "a.db-000000000000",
            "a.db-00000000001",
            "a.db-0000000000001",
            "a.db-+00000000001",
            "a.db-00000000000a",
            "a.db-000000000001-000000000001",
            "a.db-000000000001/0000/0000000000000001-0000000000000001.ltx",
            "a.db-0-000000000001",
            "a.db000000000001",
            "a.db/000000000001",
            "b.db-000000000001",
            "xa.db-000000000001",
            "a.db-999999999999",
        ] {
            assert_eq!(PageKey::parse(&id, key), None, "{key}");
        }
        // Whose digits are at the end of the name has page objects all the same.
        let other = DatabaseId::new("a.db-000000000001").unwrap();
        let page = PageKey(PageNumber::FIRST);
        assert_eq!(PageKey::parse(&other, "a.db-000000000001-000000000001"), Some(page));
        assert_eq!(PageKey::parse(&other, "a.db-000000000001"), None);
    }
}
