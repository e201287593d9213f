//! Which databases a bucket may hold, by the names of its folders and page objects.
//!
//! A database may have a million page objects, which lie beside its folder. Where a whole reply has nothing else, those that
//! follow are passed over: by steps that double while there is a page object at their end, and halve while there is none.

use std::collections::BTreeSet;

use bottomless_history::{DatabaseId, PageKey};
use bottomless_ltx::PageNumber;
use bottomless_store::{Below, Bucket, Object, Start, StoreError};
use futures::{StreamExt as _, TryStreamExt as _};

/// A database's id may have slashes: so many folders deep it is looked for.
const MAX_SEGMENTS: usize = 4;
/// Listings at the same time.
pub(super) const PARALLEL_LISTINGS: usize = 16;
/// Objects in one reply of a service.
const REPLY: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Found {
    /// What has a folder of a level.
    pub(super) prefixes: BTreeSet<DatabaseId>,
    /// What has page objects.
    pub(super) paged: BTreeSet<DatabaseId>,
}

pub(super) async fn find(bucket: &Bucket) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let mut prefixes = vec![String::new()];
    for _ in 0..=MAX_SEGMENTS {
        let listed = futures::stream::iter(prefixes)
            .map(|prefix| async move {
                let looked = look(&prefix, async |start| bucket.below(&prefix, start).await).await?;
                Ok::<_, StoreError>((prefix, looked))
            })
            .buffered(PARALLEL_LISTINGS);
        let listed: Vec<(String, Looked)> = listed.try_collect().await?;
        prefixes = Vec::new();
        for (prefix, looked) in listed {
            found.paged.extend(looked.paged);
            let (levels, others): (Vec<_>, Vec<_>) = looked.folders.into_iter().partition(|name| is_level(name));
            if !levels.is_empty()
                && let Ok(id) = DatabaseId::new(prefix.clone())
            {
                found.prefixes.insert(id);
            }
            let below = |name: String| if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            prefixes.extend(others.into_iter().map(below));
        }
    }
    Ok(found)
}

/// `0000` to `0009`, and where the markers of page objects are.
fn is_level(folder: &str) -> bool {
    matches!(folder.as_bytes(), [b'0', b'0', b'0', b'0'..=b'9']) || folder == "pages"
}

/// What lies directly below a prefix.
#[derive(Debug, Default)]
struct Looked {
    folders: BTreeSet<String>,
    paged: BTreeSet<DatabaseId>,
}

/// `ask` gives what lies directly below the prefix, one reply at a time.
async fn look<E>(prefix: &str, ask: impl AsyncFn(&Start) -> Result<Below, E>) -> Result<Looked, E> {
    let mut looked = Looked::default();
    let mut start = Start::First;
    loop {
        let reply = ask(&start).await?;
        looked.add(&reply);
        let Some(next) = reply.next.clone() else { return Ok(looked) };
        start = match run(&reply) {
            Some(run) => Start::Behind(run.pass_over(prefix, &ask, &mut looked).await?),
            None => Start::Next(next),
        };
    }
}

impl Looked {
    fn add(&mut self, reply: &Below) {
        self.folders.extend(reply.folders.iter().cloned());
        self.paged.extend(reply.objects.iter().filter_map(page).map(|(id, _)| id));
    }
}

/// The database and the page that an object is of.
fn page(object: &Object) -> Option<(DatabaseId, PageNumber)> {
    let (id, _) = object.key.rsplit_once('-')?;
    let id = DatabaseId::new(id).ok()?;
    let PageKey(number) = PageKey::parse(&id, &object.key)?;
    Some((id, number))
}

/// Page objects of one database, one behind the other.
struct Run {
    id: DatabaseId,
    last: PageNumber,
}

/// What a reply is, if there is nothing else in it.
fn run(reply: &Below) -> Option<Run> {
    let (id, last) = page(reply.objects.last()?)?;
    let is_one = |object: &Object| PageKey::parse(&id, &object.key).is_some();
    (reply.folders.is_empty() && reply.objects.iter().all(is_one)).then_some(Run { id, last })
}

impl Run {
    /// The key of a page object that at most a reply's length of the run is behind.
    async fn pass_over<E>(
        mut self,
        prefix: &str,
        ask: &impl AsyncFn(&Start) -> Result<Below, E>,
        looked: &mut Looked,
    ) -> Result<String, E> {
        let mut step = REPLY;
        let mut is_at_end = false;
        while step >= REPLY {
            let target = self.last.get().checked_add(step).and_then(PageNumber::new);
            let reached = match target {
                Some(target) => self.behind(target, prefix, ask, looked).await?,
                None => None,
            };
            match reached {
                Some(last) => self.last = last,
                None => is_at_end = true,
            }
            step = if is_at_end { step / 2 } else { step.saturating_mul(2) };
        }
        Ok(PageKey(self.last).key(&self.id))
    }

    /// The page object that is next behind this page, if nothing else is.
    async fn behind<E>(
        &self,
        page: PageNumber,
        prefix: &str,
        ask: &impl AsyncFn(&Start) -> Result<Below, E>,
        looked: &mut Looked,
    ) -> Result<Option<PageNumber>, E> {
        let reply = ask(&Start::Behind(PageKey(page).key(&self.id))).await?;
        looked.add(&reply);
        let Some(object) = reply.objects.first() else { return Ok(None) };
        let folder = reply.folders.first().map(|name| match prefix {
            "" => format!("{name}/"),
            prefix => format!("{prefix}/{name}/"),
        });
        let is_first = folder.is_none_or(|folder| object.key < folder);
        Ok(PageKey::parse(&self.id, &object.key).filter(|_| is_first).map(|PageKey(page)| page))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use bottomless_store::{Body, Location, Next};
    use object_store::memory::InMemory;

    use super::*;

    fn names(ids: &BTreeSet<DatabaseId>) -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    async fn put(bucket: &Bucket, keys: impl IntoIterator<Item = String>) {
        let body = Body::Memory("x".into());
        let put = async |key: String| {
            bucket.create(&key, &body, SystemTime::UNIX_EPOCH, std::time::Duration::from_secs(20)).await.map(|_| ())
        };
        futures::stream::iter(keys.into_iter().map(Ok)).try_for_each_concurrent(16, put).await.unwrap();
    }

    const LOG: &str = "0000/0000000000000001-0000000000000001.ltx";

    #[tokio::test]
    async fn databases_are_told_from_page_objects_by_their_exact_names() {
        let location = Location::new("http://localhost:1".parse().unwrap(), "libsql").unwrap();
        let bucket = Bucket::from_object_store(Arc::new(InMemory::new()), location);
        let marker = "pages/0000000000000001-0000000000000001.ltx";
        put(
            &bucket,
            [
                &format!("a.db/{marker}"),
                "a.db-000000000001",
                "a.db-000000000002",
                &format!("a.db-000000000001/{LOG}"),
                "a.db-000000000001-000000000001",
                &format!("a.db-0/{LOG}"),
                "team/lost.db-000000000007",
                "photos-000000000000",
                "photos-202411221200",
                "photos-00000000001",
            ]
            .map(str::to_owned),
        )
        .await;
        let found = find(&bucket).await.unwrap();
        assert_eq!(names(&found.prefixes), ["a.db", "a.db-0", "a.db-000000000001"]);
        assert_eq!(names(&found.paged), ["a.db", "a.db-000000000001", "team/lost.db"]);
    }

    /// Keys of a service that are directly below `team/`, in order; folders end with a slash.
    fn reply(keys: &[String], start: &Start) -> Below {
        let (first, is_token) = match start {
            Start::First => (String::new(), false),
            Start::Behind(key) => (key.clone(), false),
            Start::Next(next) => (format!("{next:?}").split('"').nth(1).unwrap().to_owned(), true),
        };
        let begin = keys.partition_point(|key| *key <= first && (is_token || !key.starts_with(&format!("{first}/"))));
        let end = keys.len().min(begin + 1000);
        let name = |key: &String| key.trim_start_matches("team/").trim_end_matches('/').to_owned();
        let (folders, objects): (Vec<&String>, Vec<_>) = keys[begin..end].iter().partition(|key| key.ends_with('/'));
        let object = |key: &String| Object { key: key.clone(), size: 1, modified: SystemTime::UNIX_EPOCH, e_tag: None };
        Below {
            folders: folders.into_iter().map(name).collect(),
            objects: objects.into_iter().map(object).collect(),
            next: (end < keys.len()).then(|| Next::new(keys[end - 1].clone())),
        }
    }

    #[tokio::test]
    async fn page_objects_are_not_listed_one_by_one() {
        let folders = ["a.db", "b.db", "b.db-000000000900", "b.db-001", "c.db"].map(|name| format!("team/{name}/"));
        // The page that has no object, and some that are not there, are no end.
        let pages = (1..=1_000_000).filter(|page| *page != 262_145 && !(1900..=2100).contains(page));
        let mut keys: Vec<String> = pages.map(|page| format!("team/b.db-{page:012}")).collect();
        keys.extend(folders.iter().cloned());
        keys.extend((1..=2500).map(|page| format!("team/c.db-{page:012}")));
        keys.sort();
        let requests = AtomicUsize::new(0);
        let ask = async |start: &Start| {
            requests.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ()>(reply(&keys, start))
        };
        let looked = look("team", ask).await.unwrap();
        let names_of: Vec<_> = looked.folders.iter().map(|name| format!("team/{name}/")).collect();
        assert_eq!(names_of, folders);
        assert_eq!(names(&looked.paged), ["team/b.db", "team/c.db"]);
        let requests = requests.into_inner();
        assert!(requests <= 40, "{requests} requests");
    }

    #[test]
    fn levels_are_four_digits_and_markers_have_a_folder() {
        assert!(is_level("0000") && is_level("0009") && is_level("pages"));
        for other in ["0010", "9", "00000", "000a", "+001", "", "page"] {
            assert!(!is_level(other), "{other}");
        }
    }
}
