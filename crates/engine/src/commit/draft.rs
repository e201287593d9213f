//! From the pages that a transaction wrote to the object that carries it.

use std::io;
use std::time::SystemTime;

use bottomless_ltx::{
    Checksum, DatabaseChecksums, EncodeError, Encoder, Header, PageNumber, Position, RunningChecksum, Txid, WriterId,
};
use bottomless_store::Body;
use roaring::RoaringBitmap;

use super::Change;
use super::spool::Spool;
use crate::clock::milliseconds;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::local::{PageSource, change_counter};
use crate::state::{PageChecksums, Record};

/// The limit of one PUT.
const LARGEST_OBJECT: u64 = 5 << 30;

/// What the next transaction stands on.
#[derive(Debug)]
pub(super) struct Base {
    /// The bucket's last transaction, and the database checksum after it.
    pub(super) position: Position,
    /// Pages that must be carried with their local content, whether or not they differ.
    pub(super) forced: RoaringBitmap,
    /// Every page must be carried.
    pub(super) all: bool,
    /// An interrupted confirmation may have changed page checksums: add them up anew.
    pub(super) recount: bool,
}

impl Base {
    /// The record's position.
    pub(super) fn of(record: &Record, change: &Change<'_>) -> Self {
        Self {
            position: record.position,
            forced: RoaringBitmap::new(),
            all: record.owes_all || record.page_size != Some(change.page_size),
            recount: false,
        }
    }
}

/// An object that is ready to be sent.
pub(super) struct Draft {
    pub(super) header: Header,
    pub(super) body: Body,
    pub(super) file_checksum: Checksum,
    /// Of what follows the header, to put the same pages under another header.
    pub(super) after_header: RunningChecksum,
    pub(super) time: SystemTime,
    pub(super) position: Position,
    /// None if page 1 is not in it.
    pub(super) change_counter: Option<u32>,
    pub(super) pages: Vec<(PageNumber, Checksum)>,
}

/// The pages that may differ.
fn candidates(record: &Record, change: &Change<'_>, base: &Base) -> RoaringBitmap {
    let mut pages = if base.all {
        let mut all = RoaringBitmap::new();
        all.insert_range(1..=change.size_in_pages);
        all
    } else {
        let mut some = &change.written | &base.forced;
        // A page that a growing database skipped was never in the bucket, or is there with what it held long ago.
        if change.size_in_pages > record.size_in_pages {
            some.insert_range(record.size_in_pages + 1..=change.size_in_pages);
        }
        if let Some(behind) = change.size_in_pages.checked_add(1) {
            some.remove_range(behind..);
        }
        some
    };
    pages.remove(change.page_size.lock_page().get());
    pages
}

impl Database {
    fn read_back(&self, source: &mut dyn PageSource, page: PageNumber, content: &mut [u8]) -> Result<Checksum> {
        let what = || format!("{}: page {} could not be read back", self.name(), page.get());
        source.read_page(page, content).map_err(|error| Error::disk(what(), &error))?;
        Ok(Checksum::of_page(page, content))
    }

    /// True if anything differs from what the local state knows.
    pub(super) fn differs(&self, record: &Record, change: &mut Change<'_>) -> Result<bool> {
        // Of a record that owes all, the page size is that of the bucket.
        let page_size = record.page_size.filter(|_| !record.owes_all).unwrap_or(change.page_size);
        if change.size_in_pages != record.size_in_pages || change.page_size != page_size {
            return Ok(true);
        }
        let mut known = self.page_checksums();
        let mut content = vec![0; change.page_size.bytes()];
        for page in change.written.iter().filter_map(PageNumber::new) {
            if page.get() > change.size_in_pages || page == change.page_size.lock_page() {
                continue;
            }
            let checksum = self.read_back(change.source, page, &mut content)?;
            if self.known(&mut known, page)? != Some(checksum) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn known(&self, known: &mut PageChecksums<'_>, page: PageNumber) -> Result<Option<Checksum>> {
        known.get(page).map_err(|error| self.state_error(&error))
    }

    /// Encodes what differs from the last transaction; None if nothing does.
    pub(super) fn draft(
        &self,
        record: &Record,
        change: &mut Change<'_>,
        base: &Base,
        writer: WriterId,
    ) -> Result<Option<Draft>> {
        let mut known = self.page_checksums();
        let spool_error = |e: &io::Error| {
            let folder = self.folder();
            Error::disk(format_args!("{}: the temporary file for a large transaction", folder.display()), e)
        };
        let mut after = match (base.all, base.recount) {
            (true, _) => Checksum::EMPTY,
            (_, true) => self.recount(record, &mut known)?,
            _ => record.position.checksum,
        };
        let mut encoder = Encoder::new(change.page_size);
        let mut spool = Spool::new(self.folder());
        let mut content = vec![0; change.page_size.bytes()];
        let mut pages = Vec::new();
        let mut counter = None;
        for page in candidates(record, change, base).iter().filter_map(PageNumber::new) {
            let checksum = self.read_back(change.source, page, &mut content)?;
            if !base.all {
                let is_inside = page.get() <= record.size_in_pages;
                let old = self.known(&mut known, page)?.filter(|_| is_inside);
                if is_inside && old.is_none() && !base.recount {
                    return Err(self.state_damaged());
                }
                if old == Some(checksum) && !base.forced.contains(page.get()) {
                    continue;
                }
                after = old.map_or(after, |old| after.toggle_page(old));
            }
            after = after.toggle_page(checksum);
            if page == PageNumber::FIRST {
                counter = Some(change_counter(&content));
            }
            encoder.encode_page(page, &content, &mut spool.buffer).map_err(|e| self.encode_error(&e))?;
            spool.spill().map_err(|e| spool_error(&e))?;
            pages.push((page, checksum));
            if encoder.length() > LARGEST_OBJECT {
                return Err(self.too_large());
            }
        }
        if !base.all {
            for page in (change.size_in_pages + 1..=record.size_in_pages).filter_map(PageNumber::new) {
                after = self.known(&mut known, page)?.map_or(after, |old| after.toggle_page(old));
            }
        }
        if pages.is_empty() && change.size_in_pages == record.size_in_pages {
            return Ok(None);
        }
        let txid = base.position.txid.next();
        let time = SystemTime::now();
        let header = Header::new(
            change.page_size,
            change.size_in_pages,
            (txid, txid),
            milliseconds(time),
            writer,
            DatabaseChecksums { before: base.position.checksum, after },
        );
        let finished = encoder.finish(&header, &mut spool.buffer).map_err(|e| self.encode_error(&e))?;
        if finished.length > LARGEST_OBJECT {
            return Err(self.too_large());
        }
        let body = spool.finish(&finished.header).map_err(|e| spool_error(&e))?;
        Ok(Some(Draft {
            header,
            body,
            file_checksum: finished.file_checksum,
            after_header: finished.after_header,
            time,
            position: Position { txid, checksum: after },
            change_counter: counter,
            pages,
        }))
    }

    /// True if the page checksums are those of the position, so that the next database checksum can stand on them.
    pub(crate) fn adds_up(&self, record: &Record) -> Result<bool> {
        Ok(self.recount(record, &mut self.page_checksums())? == record.position.checksum)
    }

    /// The checksum of all pages that the local state knows.
    fn recount(&self, record: &Record, known: &mut PageChecksums<'_>) -> Result<Checksum> {
        let mut total = Checksum::EMPTY;
        for page in (1..=record.size_in_pages).filter_map(PageNumber::new) {
            total = self.known(known, page)?.map_or(total, |checksum| total.toggle_page(checksum));
        }
        Ok(total)
    }

    fn encode_error(&self, error: &EncodeError) -> Error {
        Error::new(ErrorKind::Damaged, format!("{}: the transaction can't be encoded: {error}", self.name()))
    }

    fn too_large(&self) -> Error {
        Error::new(
            ErrorKind::TooLarge,
            format!(
                "{}: the transaction is larger than 5 GiB, which is the most that one object can hold; \
                 split it into several transactions",
                self.name()
            ),
        )
    }
}

/// The same pages as a snapshot: under a header that begins at the first transaction.
pub(super) struct Snapshot {
    pub(super) header: [u8; bottomless_ltx::HEADER_LENGTH],
    pub(super) file_checksum: Checksum,
    pub(super) last: Txid,
}

impl Draft {
    pub(super) fn as_snapshot(&self) -> Snapshot {
        let header = Header { min_txid: Txid::FIRST, ..self.header.clone() }.encode();
        let file_checksum = RunningChecksum::of(&header).then(self.after_header).finish();
        Snapshot { header, file_checksum, last: self.position.txid }
    }
}
