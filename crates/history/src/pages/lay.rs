//! Restoring from page objects: what no object behind the marker brings is fetched page by page.
//!
//! A fold may go on meanwhile, and page objects be of a later transaction than their marker says. Then the result is not the
//! database at the end of the plan, which its checksum shows; but all that a fold changes is in the log behind, so it
//! becomes the database at a later end when that is applied on top ([`Torn`]).

use std::sync::Arc;

use bottomless_ltx::{PageNumber, PageSize};
use bottomless_store::StoreErrorKind;
use bytes::Bytes;
use futures::StreamExt;

use crate::object::Opened;
use crate::restore::{Worker, blocking};
use crate::target::Target;
use crate::{Base, Damage, Entry, History, HistoryError, Level, PageKey, Plan, Restored};

/// Pages that are written together at most.
const TOGETHER: usize = 64;

/// What came of a restore.
#[derive(Debug)]
pub(crate) enum Outcome {
    Whole(Restored),
    Torn(Box<Torn>),
}

/// A file that is not the database at the end of the plan, because the page objects are not those of the marker. It may become
/// the database at a later end.
#[derive(Debug)]
pub(crate) struct Torn {
    /// What it holds, and of which position it should be.
    pub(crate) base: Base,
    /// Why it is not that: what is wrong if no fold went on.
    pub(crate) error: HistoryError,
    /// Bytes that were downloaded.
    pub(crate) bytes: u64,
}

/// The marker that a plan begins with.
#[derive(Debug)]
pub(crate) struct Marker<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) object: Opened,
}

impl Marker<'_> {
    pub(crate) fn size_in_pages(&self) -> u32 {
        self.object.header.size_in_pages
    }

    /// Bytes of all pages.
    pub(crate) fn bytes(&self) -> u64 {
        let page_size = self.object.header.page_size;
        u64::from(page_size.stored_pages(self.size_in_pages())) * u64::from(page_size.get())
    }
}

impl Plan {
    /// The marker, if it begins with one, and the objects that follow.
    pub(crate) fn split_marker(&self) -> (Option<&Entry>, &[Entry]) {
        match self.objects.split_first() {
            Some((first, rest)) if first.name.level == Level::PAGES => (Some(first), rest),
            _ => (None, &self.objects),
        }
    }
}

impl History {
    /// Reads a marker, and verifies it.
    pub(crate) async fn marker<'a>(&self, entry: &'a Entry) -> Result<Marker<'a>, HistoryError> {
        /// Of more it needs both ends only, to be refused.
        const LONGEST: u64 = 4096;
        let whole = self.fetch_whole(entry, LONGEST).await?;
        let object = self.open(entry, whole).await?;
        let verified = object.checksum.verify(&object.tail);
        verified.map_err(|error| HistoryError::damaged(&object.key, Damage::Decode(error)))?;
        Ok(Marker { entry, object })
    }
}

impl Worker<'_> {
    /// Fetches the pages up to `limit` that the target lacks, and writes them. Returns what is wrong with the first page object
    /// that can't be the one: its page is not written.
    pub(crate) async fn lay(&self, target: &Arc<Target>, limit: u32) -> Result<Option<Damage>, HistoryError> {
        let need = target.page_size();
        let mut portions = futures::stream::iter(target.lacking(limit))
            .map(|page| self.page(page, need))
            .buffered(self.options.requests.max(1))
            .ready_chunks(TOGETHER)
            .boxed();
        let mut unfit = None;
        while let Some(portion) = portions.next().await {
            let mut pages = Vec::with_capacity(portion.len());
            for page in portion {
                match page? {
                    (page, Ok(content)) => pages.push((page, content)),
                    (_, Err(damage)) => unfit = unfit.or(Some(damage)),
                }
            }
            let (count, target) = (pages.len() as u64, Arc::clone(target));
            blocking(move || {
                let mut writer = target.writer(limit);
                pages.iter().try_for_each(|(page, content)| writer.page(*page, content))?;
                writer.finish()
            })
            .await?
            .map_err(HistoryError::Disk)?;
            self.advance(count * u64::from(need.get()));
        }
        Ok(unfit)
    }

    async fn page(
        &self,
        page: PageNumber,
        need: PageSize,
    ) -> Result<(PageNumber, Result<Bytes, Damage>), HistoryError> {
        Ok((page, self.history.page_object(page, need).await?))
    }
}

impl History {
    /// A page object, or why it can't be a page of this size.
    pub(crate) async fn page_object(
        &self,
        page: PageNumber,
        need: PageSize,
    ) -> Result<Result<Bytes, Damage>, HistoryError> {
        let object = PageKey(page).key(self.id());
        match self.bucket().get(&object).await {
            Ok(content) if content.len() == need.bytes() => Ok(Ok(content)),
            Ok(content) => Ok(Err(Damage::PageLength { object, have: content.len() as u64, need })),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(Err(Damage::NoPage { object })),
            Err(error) => Err(error.into()),
        }
    }
}
