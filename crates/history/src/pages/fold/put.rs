//! Putting pages into the bucket, each on the condition that it is what it was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bottomless_ltx::{Frame, PageNumber, PageSize};
use bottomless_points::{Point, reach};
use bottomless_store::{Body, Expected, Object, Replaced};
use futures::{StreamExt, TryStreamExt};

use super::FoldOptions;
use super::claims::Held;
use super::frames::{Page, frames, portions, read};
use crate::compact::Draft;
use crate::restore::blocking;
use crate::{History, HistoryError, PageKey};

/// Pages whose ETags are fetched in one go: if they lie side by side, with one LIST, whose reply has them and the next one.
const BATCH: usize = 999;

/// What is expanded in one go, in bytes.
const PORTION: usize = 1 << 20;

/// A LIST costs as much as so many HEADs.
const LISTED: usize = 12;

/// Pages that one LIST looks up.
const SPAN: u32 = 999;

/// What is known of page objects, by their numbers: the ETag; `None` is one that is not there. Of others nothing is known.
type Known = HashMap<u32, Option<String>>;

/// A lookup: of the pages from one to another.
enum Lookup {
    List(PageNumber, PageNumber),
    Head(PageNumber),
}

/// The pages that a fold puts.
pub(super) struct Pages<'a> {
    history: &'a History,
    options: &'a FoldOptions,
    held: &'a Held<'a>,
    /// Pages behind this one have no objects, unless they are left over from something.
    known_size: u32,
    written: AtomicU64,
    equal: AtomicU64,
}

/// How far it is, in bytes.
struct Way {
    page_size: PageSize,
    pages: usize,
}

impl<'a> Pages<'a> {
    pub(super) async fn new(
        history: &'a History,
        options: &'a FoldOptions,
        held: &'a Held<'a>,
        size_before: u32,
    ) -> Result<Self, HistoryError> {
        let behind = size_before.checked_add(1).and_then(PageNumber::new);
        let known_size = match behind {
            _ if history.bucket().is_folder() => 0,
            _ if !options.is_fenced && held.is_first() => 0,
            // A fold that was cut off, or has taken too long, has put some already: they are looked up, many at once.
            Some(behind) if history.page_objects(behind).next().await?.is_none() => size_before,
            _ => u32::MAX,
        };
        Ok(Self { history, options, held, known_size, written: AtomicU64::new(0), equal: AtomicU64::new(0) })
    }

    /// How many were written, and how many had the right content.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.equal.load(Ordering::Relaxed))
    }

    /// Puts all pages of the draft, as long as the fold goes on.
    pub(super) async fn put_all(&self, draft: &Draft) -> Result<(), HistoryError> {
        let body = draft.body.clone();
        let spool_error = |unread: super::frames::Unread| self.options.merge.spool_error(unread.0);
        let frames = blocking(move || frames(&body)).await?.map_err(spool_error)?;
        let way = Way { page_size: draft.header.page_size, pages: frames.len() };
        for batch in frames.chunks(BATCH) {
            let Some(known) = self.options.stop.or(self.look_up(batch)).await.transpose()? else { break };
            let left = self.put_batch(&draft.body, &way, batch, &known).await?;
            if left.is_empty() {
                continue;
            }
            // They were not looked up, and are there after all.
            let mut frames: Vec<Frame> = left.iter().map(|(frame, _)| *frame).collect();
            frames.sort_unstable_by_key(|frame| frame.page);
            let known = left.into_iter().map(|(frame, e_tag)| (frame.page.get(), e_tag)).collect();
            self.put_batch(&draft.body, &way, &frames, &known).await?;
        }
        Ok(())
    }

    /// The ETags of these pages, where they may have objects.
    async fn look_up(&self, batch: &[Frame]) -> Result<Known, HistoryError> {
        let pages = batch.iter().map(|frame| frame.page).filter(|page| page.get() <= self.known_size);
        let pages: Vec<PageNumber> = pages.collect();
        let mut known: Known = pages.iter().map(|page| (page.get(), None)).collect();
        let found = futures::stream::iter(lookups(&pages)).map(|lookup| async move {
            Ok::<_, HistoryError>(match lookup {
                Lookup::List(first, last) => self.history.page_objects_up_to(first, last).all().await?,
                Lookup::Head(page) => self.head(page).await?.into_iter().collect(),
            })
        });
        let mut found = found.buffer_unordered(self.requests()).boxed();
        while let Some(objects) = found.try_next().await? {
            for (page, object) in objects {
                known.entry(page.get()).and_modify(|e_tag| *e_tag = object.e_tag);
            }
        }
        Ok(known)
    }

    async fn head(&self, page: PageNumber) -> Result<Option<(PageNumber, Object)>, HistoryError> {
        let object = self.history.bucket().head(&PageKey(page).key(self.history.id())).await?;
        Ok(object.map(|object| (page, object)))
    }

    fn requests(&self) -> usize {
        self.options.merge.requests.max(1)
    }

    /// Puts some pages; those that were not looked up and are there with another content are left, and their ETags told.
    async fn put_batch(
        &self,
        body: &Body,
        way: &Way,
        batch: &[Frame],
        known: &Known,
    ) -> Result<Vec<(Frame, Option<String>)>, HistoryError> {
        // Only now: what was looked up is of a time at which nobody else was folding.
        self.held.check().await?;
        let count = (PORTION / way.page_size.bytes()).max(self.requests());
        let pages = futures::stream::iter(portions(batch, count))
            .then(|portion| self.read(body, portion, way.page_size))
            .map_ok(|pages| futures::stream::iter(pages.into_iter().map(Ok::<_, HistoryError>)))
            .try_flatten();
        let put = pages.map(|page| async { self.put(page?, known, way).await });
        let mut put = put.buffer_unordered(self.requests()).boxed();
        let (mut left, mut failure) = (Vec::new(), None);
        // To the end also after an error: what is under way has an outcome, then.
        while let Some(outcome) = put.next().await {
            match outcome {
                Ok(page) => left.extend(page),
                Err(error) => {
                    self.held.stop();
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(left), Err)
    }

    async fn read(&self, body: &Body, portion: &[Frame], page_size: PageSize) -> Result<Vec<Page>, HistoryError> {
        if !self.held.goes_on() {
            return Ok(Vec::new());
        }
        let (body, portion) = (body.clone(), portion.to_vec());
        let pages = blocking(move || read(&body, &portion, page_size)).await?;
        pages.map_err(|unread| self.options.merge.spool_error(unread.0))
    }

    /// Puts a page.
    async fn put(&self, page: Page, known: &Known, way: &Way) -> Result<Option<(Frame, Option<String>)>, HistoryError> {
        let looked_up = known.get(&page.number().get());
        if looked_up.is_some_and(|e_tag| e_tag.as_ref() == Some(&page.e_tag)) {
            self.count(&self.equal, way);
            return Ok(None);
        }
        let key = PageKey(page.number()).key(self.history.id());
        let expected = match looked_up {
            _ if !self.options.is_fenced || self.history.bucket().is_folder() => Expected::Any,
            Some(Some(e_tag)) => Expected::ETag(e_tag.clone()),
            _ => Expected::Absent,
        };
        let bucket = self.history.bucket();
        let sent = self.held.send(|| bucket.replace(&key, page.content.clone(), &expected, self.options.merge.timeout));
        match sent.await? {
            None => Ok(None),
            Some(Replaced::Written { e_tag }) => {
                if e_tag.as_ref() != Some(&page.e_tag) && !bucket.is_folder() && bucket.get(&key).await? != page.content
                {
                    let cause = "what is read back is not what was written; the store, the way to it or the memory of this \
                                 machine is at fault";
                    return Err(HistoryError::Unfolded { key, cause: cause.to_owned() });
                }
                reach(Point::FoldPage);
                self.count(&self.written, way);
                Ok(None)
            }
            Some(Replaced::Changed) => {
                let there = bucket.head(&key).await?;
                let e_tag = there.as_ref().and_then(|there| there.e_tag.clone());
                let is_ours = e_tag.as_ref() == Some(&page.e_tag)
                    || there.as_ref().is_some_and(|there| there.size == page.content.len() as u64)
                        && bucket.get(&key).await? == page.content;
                if is_ours {
                    // From an earlier try, or an earlier fold.
                    self.count(&self.equal, way);
                } else if looked_up.is_none() {
                    return Ok(Some((page.frame, e_tag)));
                } else {
                    tracing::info!(key, "another machine has written a page: this one stops folding");
                    self.held.stop();
                }
                Ok(None)
            }
        }
    }

    fn count(&self, of: &AtomicU64, way: &Way) {
        of.fetch_add(1, Ordering::Relaxed);
        let (written, equal) = self.counts();
        if let Some(progress) = &self.options.merge.progress {
            let page_size = way.page_size.bytes() as u64;
            progress((written + equal) * page_size, way.pages as u64 * page_size);
        }
    }
}

/// How the ETags of these pages are fetched.
fn lookups(pages: &[PageNumber]) -> Vec<Lookup> {
    let mut lookups = Vec::new();
    let mut rest = pages;
    while let Some(&first) = rest.first() {
        let near = rest.partition_point(|&page| page.get() - first.get() < SPAN);
        let (listed, behind) = rest.split_at(if near < LISTED { 1 } else { near });
        lookups.push(match listed.last() {
            Some(&last) if near >= LISTED => Lookup::List(first, last),
            _ => Lookup::Head(first),
        });
        rest = behind;
    }
    lookups
}
