//! One page of a listing, over keys in the order of their bytes.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What to list.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    pub(crate) start: Start,
    pub(crate) max_keys: usize,
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the keys after this one; the empty string is the beginning.
    AfterKey(String),
    /// With the keys after all those that have this prefix.
    AfterPrefix(String),
}

/// An entry of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a, T> {
    Object(&'a str, &'a T),
    CommonPrefix(String),
}

/// A page, and where the next one starts if there is one.
pub(crate) struct Page<'a, T> {
    pub(crate) items: Vec<Item<'a, T>>,
    pub(crate) next: Option<Start>,
}

impl Start {
    /// As a token for clients: opaque to them, and safe in a query and in XML.
    pub(crate) fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::AfterKey(key) => ('k', key),
            Self::AfterPrefix(prefix) => ('p', prefix),
        };
        format!("{kind}{}", crate::digest::hex(text.as_bytes()))
    }

    pub(crate) fn from_token(token: &str) -> Option<Self> {
        let digits = token.get(1..)?;
        let bytes = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect::<Option<Vec<_>>>()?;
        let text = String::from_utf8(bytes).ok()?;
        match token.as_bytes().first()? {
            b'k' => Some(Self::AfterKey(text)),
            b'p' => Some(Self::AfterPrefix(text)),
            _ => None,
        }
    }
}

/// Lists one page.
pub(crate) fn page<'a, T>(objects: &'a BTreeMap<String, T>, query: &Query) -> Page<'a, T> {
    let mut items = Vec::new();
    let mut start = query.start.clone();
    loop {
        let Some((key, value)) = first_at(objects, &query.prefix, &start) else {
            return Page { items, next: None };
        };
        if items.len() >= query.max_keys {
            let next = (query.max_keys > 0).then_some(start);
            return Page { items, next };
        }
        let common = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty()).and_then(|delimiter| {
            let rest = &key[query.prefix.len()..];
            let end = query.prefix.len() + rest.find(delimiter)? + delimiter.len();
            Some(key[..end].to_owned())
        });
        match common {
            Some(prefix) => {
                items.push(Item::CommonPrefix(prefix.clone()));
                start = Start::AfterPrefix(prefix);
            }
            None => {
                items.push(Item::Object(key, value));
                start = Start::AfterKey(key.clone());
            }
        }
    }
}

/// The first key with the prefix at or after `start`.
fn first_at<'a, T>(objects: &'a BTreeMap<String, T>, prefix: &str, start: &Start) -> Option<(&'a String, &'a T)> {
    let bound = match start {
        Start::AfterKey(key) if key.as_str() < prefix => Bound::Included(prefix.to_owned()),
        Start::AfterKey(key) if key.is_empty() => Bound::Unbounded,
        Start::AfterKey(key) => Bound::Excluded(key.clone()),
        // The largest character is not the largest string: what it misses is skipped below.
        Start::AfterPrefix(passed) => Bound::Excluded(format!("{passed}{}", char::MAX)),
    };
    objects
        .range((bound, Bound::Unbounded))
        .find(|(key, _)| !matches!(start, Start::AfterPrefix(passed) if key.starts_with(passed)))
        .filter(|(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all(keys: &[&str], prefix: &str, delimiter: Option<&str>, start: Start, max: usize) -> Vec<Vec<String>> {
        let objects: BTreeMap<String, ()> = keys.iter().map(|key| ((*key).into(), ())).collect();
        let mut query = Query { prefix: prefix.into(), delimiter: delimiter.map(Into::into), start, max_keys: max };
        let mut pages = Vec::new();
        loop {
            let page = page(&objects, &query);
            pages.push(
                page.items
                    .iter()
                    .map(|item| match item {
                        Item::Object(key, ()) => (*key).to_owned(),
                        Item::CommonPrefix(prefix) => format!("[{prefix}]"),
                    })
                    .collect(),
            );
            match page.next {
                Some(next) => query.start = Start::from_token(&next.to_token()).unwrap(),
                None => return pages,
            }
        }
    }

    fn begin() -> Start {
        Start::AfterKey(String::new())
    }

    #[test]
    fn keys_come_in_the_order_of_their_bytes() {
        let keys = ["a/b", "a-b", "a", "a.b", "B", "ab", "\u{e9}", "\u{10000}", "\u{ffff}"];
        assert_eq!(
            all(&keys, "", None, begin(), 1000),
            [["B", "a", "a-b", "a.b", "a/b", "ab", "\u{e9}", "\u{ffff}", "\u{10000}"]]
        );
    }

    #[test]
    fn pages_split_anywhere_and_lose_nothing() {
        let keys = ["a", "b/1", "b/2", "b/\u{10ffff}x", "c", "d/e/f", "d/g", "e"];
        let whole = ["a", "[b/]", "c", "[d/]", "e"];
        for max in 1..=6 {
            let pages = all(&keys, "", Some("/"), begin(), max);
            assert_eq!(pages.concat(), whole, "{max} a page");
            assert!(pages.iter().all(|page| page.len() <= max));
            assert_eq!(pages.len(), whole.len().div_ceil(max));
        }
    }

    #[test]
    fn a_page_that_holds_exactly_the_rest_is_the_last() {
        assert_eq!(all(&["a", "b"], "", None, begin(), 2).len(), 1);
    }

    #[test]
    fn prefix_start_and_delimiter_together() {
        let keys = ["db/0000/1", "db/0000/2", "db/0001/1", "db2/0000/1", "dc"];
        let list = |prefix, delimiter, after: &str| {
            all(&keys, prefix, delimiter, Start::AfterKey(after.into()), 1000).concat()
        };
        assert_eq!(list("db/", Some("/"), ""), ["[db/0000/]", "[db/0001/]"]);
        assert_eq!(list("db/", None, "db/0000/1"), ["db/0000/2", "db/0001/1"]);
        assert_eq!(list("db/", None, "a"), ["db/0000/1", "db/0000/2", "db/0001/1"]);
        assert_eq!(list("db/", None, "e"), [""; 0]);
        assert_eq!(list("db", Some("/"), ""), ["[db/]", "[db2/]"]);
        assert_eq!(list("x", None, ""), [""; 0]);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "k1", "x00", "kzz", "kff", "k\u{e9}"] {
            assert_eq!(Start::from_token(token), None, "{token:?}");
        }
    }

    #[test]
    fn no_keys_asked_for_is_an_end() {
        let page = all(&["a"], "", None, begin(), 0);
        assert_eq!(page, [[""; 0]]);
    }
}
