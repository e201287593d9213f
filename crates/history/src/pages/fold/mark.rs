//! What follows when all pages are in the bucket.

use bottomless_ltx::{Checksum, DatabaseChecksums, Header, PageNumber, Txid};
use bottomless_points::{Point, reach};
use bottomless_store::{Expected, Object, Replaced};
use bytes::Bytes;
use futures::StreamExt;

use super::FoldOptions;
use super::claims::Held;
use super::frames::e_tag;
use crate::compact::Draft;
use crate::pages::encode_marker;
use crate::{History, HistoryError, Level, ObjectName, PageKey};

impl History {
    /// Deletes the page objects behind the end of the database; how many.
    pub(super) async fn remove_behind(
        &self,
        size: u32,
        options: &FoldOptions,
        held: &Held<'_>,
    ) -> Result<u64, HistoryError> {
        let mut removed = 0;
        let Some(first) = size.checked_add(1).and_then(PageNumber::new) else { return Ok(0) };
        let mut strays = self.page_objects(first);
        while held.goes_on()
            && let Some(pages) = strays.next().await?
        {
            held.check().await?;
            let deletions = futures::stream::iter(pages).map(|(_, object)| self.remove_page(object, options, held));
            let mut deletions = deletions.buffer_unordered(options.merge.requests.max(1)).boxed();
            let mut failure = None;
            // To the end also after an error: what is under way has an outcome, then.
            while let Some(deleted) = deletions.next().await {
                match deleted {
                    Ok(count) => removed += count,
                    Err(error) => {
                        held.stop();
                        failure.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(removed)
    }

    /// Deletes a page object as it was listed; how many.
    async fn remove_page(&self, object: Object, options: &FoldOptions, held: &Held<'_>) -> Result<u64, HistoryError> {
        // Like a page that is written, one that is deleted is what was listed: a request that comes late must not delete what is
        // there again.
        let delete = || self.bucket().delete_once(&object.key, object.e_tag.as_deref(), options.merge.timeout);
        match held.send(delete).await? {
            Some(true) => {
                reach(Point::FoldRemoved);
                Ok(1)
            }
            Some(false) => {
                tracing::info!(key = object.key, "another machine has written a page: this one stops folding");
                held.stop();
                Ok(0)
            }
            None => Ok(0),
        }
    }

    /// Another page size makes another page the lock page, which has no object.
    pub(super) async fn remove_lock_page(
        &self,
        header: &Header,
        options: &FoldOptions,
        held: &Held<'_>,
    ) -> Result<u64, HistoryError> {
        let lock_page = header.page_size.lock_page();
        if lock_page.get() > header.size_in_pages {
            return Ok(0);
        }
        match self.bucket().head(&PageKey(lock_page).key(self.id())).await? {
            Some(object) => self.remove_page(object, options, held).await,
            None => Ok(0),
        }
    }

    /// Makes the marker; false if the claim was too old for that.
    pub(super) async fn mark(
        &self,
        draft: &Draft,
        to: Txid,
        options: &FoldOptions,
        held: &Held<'_>,
    ) -> Result<bool, HistoryError> {
        let Some(after) = draft.after else { return Ok(false) };
        let Header { page_size, size_in_pages, timestamp_ms, writer, .. } = draft.header;
        let database = DatabaseChecksums { before: Checksum::EMPTY, after };
        let txids = (Txid::FIRST, to);
        let content = encode_marker(&Header::new(page_size, size_in_pages, txids, timestamp_ms, writer, database));
        let content = Bytes::from(content);
        let key = ObjectName { level: Level::PAGES, min: Txid::FIRST, max: to }.key(self.id());
        let expected = if options.is_fenced { Expected::Absent } else { Expected::Any };
        let bucket = self.bucket();
        let put = || bucket.replace(&key, content.clone(), &expected, options.merge.timeout);
        let is_ours = match held.send(put).await? {
            None => return Ok(false),
            Some(Replaced::Written { e_tag: Some(have) }) if have == e_tag(&content) => return Ok(true),
            Some(Replaced::Written { .. }) => true,
            // Another has made it meanwhile, or an earlier try.
            Some(Replaced::Changed) => false,
        };
        if bucket.get(&key).await? == content {
            return Ok(true);
        }
        let cause = if !is_ours {
            "it is not the marker that this machine makes of the same log; bottomless-cli verify tells more"
        } else if bucket.delete(&key).await.is_ok() {
            "what is read back is not what was written, so it was removed again; the store, the way to it or the memory of this \
             machine is at fault"
        } else {
            "what is read back is not what was written: remove it; the store, the way to it or the memory of this machine is at \
             fault"
        };
        Err(HistoryError::Unfolded { key, cause: cause.to_owned() })
    }
}
