//! What a bucket holds of a database.

use std::time::SystemTime;

use bottomless_ltx::Txid;
use bottomless_store::Object;

use crate::pages::{Claim, declaration_key};
use crate::{DatabaseId, Level, ObjectName, Settings};

/// An object of the history, as the listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Level and transactions.
    pub name: ObjectName,
    /// Bytes.
    pub size: u64,
    /// When the store created it, by the store's clock.
    pub modified: SystemTime,
    /// The ETag without its quotes.
    pub e_tag: Option<String>,
}

impl Entry {
    /// The object of the history that an object of the bucket is.
    pub(crate) fn of(id: &DatabaseId, object: &Object) -> Option<Self> {
        let name = ObjectName::parse(id, &object.key)?;
        Some(Self { name, size: object.size, modified: object.modified, e_tag: object.e_tag.clone() })
    }

    /// Whether it holds this transaction, and is not the object of the log that claimed it.
    #[must_use]
    pub fn merges(&self, txid: Txid) -> bool {
        self.name.level != Level::LOG && self.name.min <= txid && txid <= self.name.max
    }
}

/// What of the log a listing has; of the levels above it has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogPart {
    Whole,
    /// Parts are missing, and nothing tells what is in them.
    Behind,
    /// Only what is up to a transaction. `rest_is_young`: what follows is too young to be deleted, so all of it is there.
    UpTo {
        last: Txid,
        rest_is_young: bool,
    },
}

/// The objects of a database at one moment, ordered by level, then by TXID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    id: DatabaseId,
    entries: Vec<Entry>,
    settings: Option<Object>,
    probes: Vec<Object>,
    claims: Vec<Object>,
    declaration: Option<Object>,
    foreign: Vec<String>,
    /// First and last transaction of the parts of the log that were not listed.
    passed_over: Vec<(Txid, Txid)>,
    log_part: LogPart,
}

/// Where Litestream before version 0.5 keeps everything, below the prefix of a database.
const GENERATIONS: &str = "/generations/";

/// Whether the key is one under which conditional writes were tried (`bottomless_store::probe`): `probe-` and 16 hexadecimal
/// digits.
fn is_probe(id: &DatabaseId, key: &str) -> bool {
    let name = key.strip_prefix(id.as_str()).and_then(|rest| rest.strip_prefix("/probe-"));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.is_some_and(|name| name.len() == 16 && name.bytes().all(is_digit))
}

impl Listing {
    /// Sorts what lies below the prefix of `id` into objects of the history and others.
    #[must_use]
    pub fn new(id: DatabaseId, objects: impl IntoIterator<Item = Object>) -> Self {
        let (mut probes, mut claims, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        let (mut settings, mut declaration) = (None, None);
        let (settings_key, declaration_key) = (Settings::key(&id), declaration_key(&id));
        let mut entries = Vec::new();
        for object in objects {
            match ObjectName::parse(&id, &object.key) {
                Some(name) => {
                    let Object { size, modified, e_tag, .. } = object;
                    entries.push(Entry { name, size, modified, e_tag });
                }
                None if object.key == settings_key => settings = Some(object),
                None if object.key == declaration_key => declaration = Some(object),
                None if is_probe(&id, &object.key) => probes.push(object),
                None if Claim::parse(&id, &object.key).is_some() => claims.push(object),
                None => foreign.push(object.key),
            }
        }
        entries.sort_by_key(|entry| entry.name);
        Self {
            id,
            entries,
            settings,
            probes,
            claims,
            declaration,
            foreign,
            passed_over: Vec::new(),
            log_part: LogPart::Whole,
        }
    }

    #[cfg(test)]
    pub(crate) fn of(id: DatabaseId, mut entries: Vec<Entry>, settings: Option<Object>) -> Self {
        entries.sort_by_key(|entry| entry.name);
        Self { entries, settings, ..Self::new(id, []) }
    }

    /// The same, where the log is not whole.
    pub(crate) fn with_log(self, log_part: LogPart) -> Self {
        Self { log_part, ..self }
    }

    /// What of the log it has.
    pub(crate) fn log_part(&self) -> LogPart {
        self.log_part
    }

    /// Adds an object that was created since, or was seen anew.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|other| other.name < entry.name);
        match self.entries.get_mut(at).filter(|other| other.name == entry.name) {
            Some(other) => *other = entry,
            None => self.entries.insert(at, entry),
        }
    }

    /// Whose history it is.
    #[must_use]
    pub fn id(&self) -> &DatabaseId {
        &self.id
    }

    /// The objects.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The objects of the log.
    #[must_use]
    pub fn log(&self) -> &[Entry] {
        let end = self.entries.partition_point(|entry| entry.name.level == Level::LOG);
        self.entries.split_at(end).0
    }

    /// The objects of the levels above the log.
    #[must_use]
    pub fn merged(&self) -> &[Entry] {
        self.entries.split_at(self.log().len()).1
    }

    /// The object that holds the settings, if there is one.
    #[must_use]
    pub fn settings(&self) -> Option<&Object> {
        self.settings.as_ref()
    }

    /// Objects with which conditional writes were tried, left behind by a writer that may not delete, or has died.
    #[must_use]
    pub fn probes(&self) -> &[Object] {
        &self.probes
    }

    /// Objects by which machines claim to be folding the log into page objects.
    #[must_use]
    pub fn claims(&self) -> &[Object] {
        &self.claims
    }

    /// The object that says that the database is, or will be, in the layout of pages, if there is one. By itself it is no
    /// history.
    #[must_use]
    pub fn declaration(&self) -> Option<&Object> {
        self.declaration.as_ref()
    }

    /// How many objects lie below the prefix that are not ours.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.foreign.len()
    }

    /// Their keys, in the order of the listing.
    #[must_use]
    pub fn foreign_keys(&self) -> &[String] {
        &self.foreign
    }

    /// The last transaction that any object holds; [`Txid::ZERO`] when there is none.
    #[must_use]
    pub fn last_txid(&self) -> Txid {
        self.entries.iter().map(|entry| entry.name.max).max().unwrap_or_default()
    }

    /// Whether parts of the log were not listed: objects may be there that the listing does not have.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.passed_over.is_empty()
    }

    /// Whether all objects of the log behind this transaction were listed.
    #[must_use]
    pub fn has_log_behind(&self, txid: Txid) -> bool {
        self.passed_over.iter().all(|(_, last)| *last <= txid)
    }

    /// Whether the end of the log was listed, so that nothing is behind [`Listing::last_txid`].
    #[must_use]
    pub fn shows_end(&self) -> bool {
        self.has_log_behind(self.last_txid())
    }

    /// Whether the log may have objects from `first` to `last` that the listing does not have.
    pub(crate) fn passes_over(&self, first: Txid, last: Txid) -> bool {
        self.passed_over.iter().any(|(from, to)| first <= *to && *from <= last)
    }

    /// The same, where this part of the log was not listed; all of it was with `None`.
    pub(crate) fn passing_over(mut self, first: Txid, last: Option<Txid>) -> Self {
        if let Some(last) = last.filter(|last| first <= *last) {
            self.passed_over.push((first, last));
            self.log_part = LogPart::Behind;
        }
        self
    }

    /// Adds objects of the log from another listing.
    pub(crate) fn add(&mut self, objects: impl IntoIterator<Item = Object>) {
        let Self { entries, .. } = Self::new(self.id.clone(), objects);
        self.entries.extend(entries);
        self.entries.sort_by_key(|entry| entry.name);
        self.entries.dedup_by_key(|entry| entry.name);
    }

    /// The same without some objects.
    pub(crate) fn without(&self, aside: impl Fn(&ObjectName) -> bool) -> Self {
        let entries = self.entries.iter().filter(|entry| !aside(&entry.name)).cloned().collect();
        Self {
            id: self.id.clone(),
            entries,
            settings: self.settings.clone(),
            probes: self.probes.clone(),
            claims: self.claims.clone(),
            declaration: self.declaration.clone(),
            foreign: self.foreign.clone(),
            passed_over: self.passed_over.clone(),
            log_part: self.log_part,
        }
    }

    /// Whether there is no history, but what Litestream before version 0.5 has written in its place.
    #[must_use]
    pub fn is_old_litestream(&self) -> bool {
        let is_old =
            |key: &String| key.strip_prefix(self.id.as_str()).is_some_and(|rest| rest.starts_with(GENERATIONS));
        self.is_empty() && self.foreign.iter().any(is_old)
    }

    /// Whether there is no object of the history.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn objects_are_sorted_and_foreign_ones_counted() {
        let id = DatabaseId::new("test.db").unwrap();
        let object = |key: &str| Object {
            key: format!("test.db/{key}"),
            size: 1,
            modified: SystemTime::UNIX_EPOCH,
            e_tag: None,
        };
        let listing = Listing::new(
            id.clone(),
            [
                object("0009/0000000000000001-0000000000000007.ltx"),
                object("0000/000000000000000a-000000000000000a.ltx"),
                object("generations/x"),
                object("bottomless.json"),
                object("0000/0000000000000009-0000000000000009.ltx"),
            ],
        );
        let names: Vec<u64> = listing.entries().iter().map(|entry| entry.name.max.get()).collect();
        assert_eq!(names, [9, 10, 7]);
        assert_eq!(listing.log().len(), 2);
        assert_eq!((listing.foreign(), listing.foreign_keys()), (1, &["test.db/generations/x".to_owned()][..]));
        assert_eq!(listing.settings().unwrap().key, "test.db/bottomless.json");
        assert_eq!(listing.last_txid(), Txid::new(10));
        assert!(!listing.is_old_litestream(), "there is a history, too");
        assert_eq!(Listing::new(id.clone(), []).last_txid(), Txid::ZERO);
        let old = Listing::new(id.clone(), [object("generations/9f1c/snapshots/00000000.snapshot.lz4")]);
        assert!(old.is_old_litestream());
        assert!(!Listing::new(id, [object("my-generations/x")]).is_old_litestream());
    }

    #[test]
    fn probes_are_ours_by_their_exact_name() {
        let id = DatabaseId::new("team/test.db").unwrap();
        let object =
            |key: &&str| Object { key: (*key).to_owned(), size: 1, modified: SystemTime::UNIX_EPOCH, e_tag: None };
        let probes = ["team/test.db/probe-0123456789abcdef", "team/test.db/probe-ffffffffffffffff"];
        let others = [
            "team/test.db/probe-0123456789abcde",
            "team/test.db/probe-0123456789abcdef0",
            "team/test.db/probe-0123456789abcdeF",
            "team/test.db/probe-0123456789abcdeg",
            "team/test.db/probe-",
            "team/test.db/probe_0123456789abcdef",
            "team/test.db/x/probe-0123456789abcdef",
            "team/test.db/probe-0123456789abcdef/x",
            "test.db/probe-0123456789abcdef",
        ];
        let declaration = "team/test.db/pages/layout";
        let listing = Listing::new(id, probes.iter().chain(&others).chain([&declaration]).map(object));
        assert!(listing.probes().iter().map(|probe| probe.key.as_str()).eq(probes), "{:?}", listing.probes());
        assert_eq!(listing.foreign_keys(), others);
        assert!(listing.is_empty());
        assert_eq!(listing.declaration().unwrap().key, declaration);
        assert_eq!(listing.without(|_| false), listing);
    }
}
