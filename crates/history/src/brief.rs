//! Listing a long log in few requests.
//!
//! A page of a listing has 1,000 keys, and a log that is kept for a day may have hundreds of thousands. Most of it is
//! merged, and whoever restores the end needs none of that: so what follows the first page is jumped over, up to where the
//! merged objects end.

use bottomless_ltx::Txid;
use bottomless_store::Object;

use crate::{History, HistoryError, Level, Listing, ObjectName};

/// Keys in a page of a listing. Services send no more at once.
const PAGE: usize = 1000;

/// Sorts behind every object of the log.
const LAST: Txid = Txid::new(u64::MAX);

impl History {
    /// Lists what leads to the end of the history, and to the last transaction of each merged object: one request when
    /// there are fewer than 1,000 objects, else mostly three. It is all of it but for the middle of a long log, where that
    /// is merged ([`Listing::is_partial`]). With `after`, the log is listed behind that transaction only.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_briefly(&self, after: Option<Txid>) -> Result<Listing, HistoryError> {
        let (bucket, prefix) = (self.bucket(), self.id().as_str());
        let start = after.map(|txid| self.log_key(txid));
        let mut objects = bucket.list_first(prefix, start.as_deref(), PAGE).await?;
        let listing = |objects| Listing::new(self.id().clone(), objects).passing_over(Txid::FIRST, after);
        if objects.len() < PAGE {
            return Ok(listing(objects));
        }
        let last_key = objects.last().map(|object| object.key.clone()).unwrap_or_default();
        let in_log = |object: &Object| {
            ObjectName::parse(self.id(), &object.key).filter(|name| name.level == Level::LOG).map(|name| name.max)
        };
        let behind_log = self.log_key(LAST);
        let last = objects.iter().rev().find_map(in_log).filter(|_| last_key <= behind_log);
        let Some(last) = last else {
            objects.extend(bucket.list(prefix, Some(&last_key)).await?);
            return Ok(listing(objects));
        };
        let merged = bucket.list(prefix, Some(&behind_log)).await?;
        let end =
            merged.iter().filter_map(|object| ObjectName::parse(self.id(), &object.key)).map(|name| name.max).max();
        objects.extend(merged);
        // With the transaction that is merged last, where the log still has it: it bears witness.
        let from = end.unwrap_or_default().prev();
        if from <= last {
            objects.extend(bucket.list(&self.log_prefix(), Some(&last_key)).await?);
            return Ok(listing(objects));
        }
        let log = bucket.list(&self.log_prefix(), Some(&self.log_key(from))).await?;
        objects.extend(log);
        let brief = listing(objects).passing_over(last.next(), Some(from));
        if brief.plan(after.map_or(Txid::ZERO, Txid::next), None).is_ok() {
            return Ok(brief);
        }
        // The merged objects have a gap, which the log may fill.
        self.list(after).await
    }

    /// As [`History::list_briefly`], with all of the log from `from` to `to`, whatever is merged: the whole history where
    /// it ends before `from`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_around(&self, from: Txid, to: Txid) -> Result<Listing, HistoryError> {
        let brief = self.list_briefly(None).await?;
        if !brief.passes_over(from, to) {
            return Ok(brief);
        }
        let brief = self.list_briefly(Some(from.prev())).await?;
        if brief.last_txid() >= from && !brief.passes_over(from, to) { Ok(brief) } else { self.list(None).await }
    }

    /// Lists the levels above the log, and of the log what is behind `after`: up to the page with the first object behind
    /// `up_to`. One request when there are fewer than 1,000 objects, else mostly two. Where more of the log follows,
    /// [`Listing::shows_end`] is false.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_up_to(&self, after: Option<Txid>, up_to: Txid) -> Result<Listing, HistoryError> {
        let (bucket, prefix) = (self.bucket(), self.id().as_str());
        let (behind_log, end) = (self.log_key(LAST), self.log_key(up_to));
        let mut from = after.map(|txid| self.log_key(txid));
        let mut objects = Vec::new();
        // The log first: what is merged and deleted meanwhile is seen above it.
        let is_cut = loop {
            let page = bucket.list_first(prefix, from.as_deref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            let last_key = page.last().map(|object| object.key.clone()).unwrap_or_default();
            objects.extend(page);
            if is_last {
                break false;
            }
            if last_key > behind_log {
                objects.extend(bucket.list(prefix, Some(&last_key)).await?);
                break false;
            }
            if last_key > end {
                objects.extend(bucket.list(prefix, Some(&behind_log)).await?);
                break true;
            }
            from = Some(last_key);
        };
        let listing = Listing::new(self.id().clone(), objects).passing_over(Txid::FIRST, after);
        let last = listing.log().last().map_or(up_to, |entry| entry.name.max);
        Ok(if is_cut { listing.passing_over(last.next(), Some(LAST)) } else { listing })
    }

    /// Adds the part of the log from `from` to `to` to a listing that passes it over.
    pub(crate) async fn list_between(&self, listing: &mut Listing, from: Txid, to: Txid) -> Result<(), HistoryError> {
        let (mut after, end) = (self.log_key(from.prev()), self.log_key(to));
        loop {
            let objects = self.bucket().list_first(&self.log_prefix(), Some(&after), PAGE).await?;
            let is_last = objects.len() < PAGE;
            if let Some(last) = objects.last() {
                after.clone_from(&last.key);
            }
            listing.add(objects);
            if is_last || after >= end {
                return Ok(());
            }
        }
    }

    fn log_key(&self, txid: Txid) -> String {
        ObjectName::log(txid).key(self.id())
    }

    /// The folder of the log.
    fn log_prefix(&self) -> String {
        format!("{}/0000", self.id())
    }
}
