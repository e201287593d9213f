//! Listing page objects: they lie beside the prefix of their database, among whatever else the folder holds.

use bottomless_ltx::{Header, PageNumber};
use bottomless_store::Object;

use crate::{Damage, Entry, History, HistoryError, PageKey};

/// Keys that are asked for at once, and kept in memory. Services send no more in one reply.
const AT_ONCE: usize = 1000;

/// Lists the page objects of a database in the order of their numbers, some at a time.
#[derive(Debug)]
pub struct PageObjects<'a> {
    history: &'a History,
    /// What comes behind this key is listed next; `None` at the end.
    after: Option<String>,
    /// Behind the keys of all pages.
    end: String,
}

impl History {
    /// The page objects from this page on. The folder that holds them is listed from there up to behind the last key that a page
    /// can have: one request for every thousand keys, those of other databases among them
    /// (`a.db-000000000001/…` lies between pages 1 and 2 of `a.db`).
    #[must_use]
    pub fn page_objects(&self, from: PageNumber) -> PageObjects<'_> {
        let (before_all, end) = PageKey::around_all(self.id());
        let before = PageNumber::new(from.get() - 1).map_or(before_all, |page| PageKey(page).key(self.id()));
        PageObjects { history: self, after: Some(before), end }
    }

    /// The same, up to this page or the next one that has an object.
    pub(crate) fn page_objects_up_to(&self, from: PageNumber, last: PageNumber) -> PageObjects<'_> {
        let all = self.page_objects(from);
        let end = last.get().checked_add(1).and_then(PageNumber::new);
        let end = end.map_or_else(|| all.end.clone(), |page| PageKey(page).key(self.id()));
        PageObjects { end, ..all }
    }
}

/// How many page objects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    /// Objects.
    pub count: u64,
    /// Bytes of them all.
    pub bytes: u64,
}

impl History {
    /// Counts the page objects, in one request for every thousand.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_pages(&self) -> Result<PageCount, HistoryError> {
        let mut total = PageCount::default();
        let mut pages = self.page_objects(PageNumber::FIRST);
        while let Some(some) = pages.next().await? {
            total.count += some.len() as u64;
            total.bytes += some.iter().map(|(_, object)| object.size).sum::<u64>();
        }
        Ok(total)
    }
}

impl History {
    /// Makes sure that a marker has all of its page objects, each of the length of a page: one request for every thousand. While
    /// others fold on, some may be missing.
    pub(crate) async fn find_page_objects(&self, marker: &Entry) -> Result<(), HistoryError> {
        let Header { page_size, size_in_pages, .. } = self.header(marker.name).await?;
        let damaged = |damage| Err(HistoryError::damaged(marker.name.key(self.id()), damage));
        let key = |page| PageKey(page).key(self.id());
        let stored = |page: &PageNumber| *page != page_size.lock_page();
        let mut expected = (1..=size_in_pages).filter_map(PageNumber::new).filter(stored);
        let mut next = expected.next();
        let mut pages = self.page_objects(PageNumber::FIRST);
        while let Some(some) = pages.next().await? {
            for (page, object) in some {
                match next {
                    Some(missing) if missing < page => return damaged(Damage::NoPage { object: key(missing) }),
                    Some(found) if found == page && object.size != u64::from(page_size.get()) => {
                        let Object { key: object, size: have, .. } = object;
                        return damaged(Damage::PageLength { object, have, need: page_size });
                    }
                    Some(found) if found == page => next = expected.next(),
                    _ => {}
                }
            }
        }
        next.map_or(Ok(()), |missing| damaged(Damage::NoPage { object: key(missing) }))
    }
}

impl PageObjects<'_> {
    /// The next of them, one at least; nothing at the end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next(&mut self) -> Result<Option<Vec<(PageNumber, Object)>>, HistoryError> {
        let (bucket, id) = (self.history.bucket(), self.history.id());
        let folder = id.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        while let Some(after) = self.after.take() {
            // A folder on a disk is read whole each time.
            let limit = if bucket.lists_in_order() { AT_ONCE } else { usize::MAX };
            let objects = bucket.list_while(folder, Some(&after), limit, |object| object.key < self.end).await?;
            let is_end = objects.len() < limit || objects.last().is_none_or(|last| last.key >= self.end);
            self.after = objects.last().filter(|_| !is_end).map(|last| last.key.clone());
            let number = |object: Object| PageKey::parse(id, &object.key).map(|PageKey(page)| (page, object));
            let pages: Vec<_> = objects.into_iter().filter_map(number).collect();
            if !pages.is_empty() {
                return Ok(Some(pages));
            }
        }
        Ok(None)
    }

    /// All that are left: some 200 bytes of memory for each.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn all(mut self) -> Result<Vec<(PageNumber, Object)>, HistoryError> {
        let mut all = Vec::new();
        while let Some(pages) = self.next().await? {
            all.extend(pages);
        }
        Ok(all)
    }
}
