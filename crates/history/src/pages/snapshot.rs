//! A snapshot of a local file: for a database whose base is page objects, which can't be merged as other objects are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use bottomless_ltx::{
    Checksum, DatabaseChecksums, EncodeError, Encoder, HEADER_LENGTH, Header, PageNumber, TRAILER_LENGTH, Txid,
    WriterId,
};
use bottomless_store::{Body, StoreErrorKind};

use crate::restore::blocking;
use crate::time::milliseconds;
use crate::{Damage, Entry, History, HistoryError, Level, MergeOptions, ObjectName, Progress, Restored};

/// The file is read, and the object written, in portions of about this many bytes.
const PORTION: usize = 256 * 1024;

/// A PUT of up to this many bytes may take the timeout, a larger one longer in proportion.
const TIMED_LENGTH: u64 = 64 << 20;

impl History {
    /// Makes a snapshot, TXIDs 1 to that of `restored`, as an object of the history `into`, of a file that was restored from
    /// this history, and reads it back. When it exists already, it is only read back. The progress is in bytes of the file.
    ///
    /// # Errors
    /// [`HistoryError::Disk`] when the file can't be read, or is not any more what was restored; those of the store;
    /// [`HistoryError::ReadBack`] and [`HistoryError::Damaged`] when what is there then is not this snapshot.
    pub async fn snapshot_of(
        &self,
        restored: &Restored,
        file: Arc<File>,
        into: &Self,
        options: &MergeOptions,
    ) -> Result<Entry, HistoryError> {
        let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: restored.position.txid };
        let key = name.key(into.id());
        let header = self.snapshot_header(restored).await?;
        let work = Work { header, restored: restored.clone(), file, progress: options.progress.clone() };
        let (folder, in_memory) = (options.folder.clone(), options.whole_length);
        let body = blocking(move || work.encode(&folder, in_memory)).await?.map_err(|error| match error {
            Unmade::Read(cause) => HistoryError::Disk(cause),
            Unmade::Spool(cause) => HistoryError::Spool { folder: options.folder.clone(), cause },
            Unmade::Encode(cause) => HistoryError::Unmerged { key: key.clone(), cause },
        })?;
        into.send_snapshot(&key, &body, restored.time.unwrap_or(SystemTime::UNIX_EPOCH), options).await?;
        let (_, object) = into.bucket().get_end(&key, TRAILER_LENGTH as u64).await?;
        let entry = Entry { name, size: object.size, modified: object.modified, e_tag: object.e_tag };
        into.read_back(&entry, options).await?;
        let need = restored.position.checksum;
        match into.header(name).await?.database {
            Some(database) if database.after != need => {
                let (have, witness) = (database.after, format!("the history of {}", self.id()));
                Err(HistoryError::damaged(key, Damage::Contradicted { have, witness, need }))
            }
            _ => Ok(entry),
        }
    }

    /// As a merge would make it, where the last object is still there.
    async fn snapshot_header(&self, restored: &Restored) -> Result<Header, HistoryError> {
        let sum = restored.position.checksum;
        let newest = match &restored.last_object {
            Some(last) => match self.header_of(last).await {
                Err(error) if error.is_vanished() => None,
                header => Some(header?),
            },
            None => None,
        };
        let writer = newest.map_or(WriterId(sum.get()), |header| header.writer);
        let time = restored.time.map_or(0, milliseconds);
        let txids = (Txid::FIRST, restored.position.txid);
        let database = DatabaseChecksums { before: Checksum::EMPTY, after: sum };
        Ok(Header::new(restored.page_size, restored.size_in_pages, txids, time, writer, database))
    }

    async fn send_snapshot(
        &self,
        key: &str,
        body: &Body,
        time: SystemTime,
        options: &MergeOptions,
    ) -> Result<(), HistoryError> {
        let length = body.len();
        let times = |length: u64| u32::try_from(length.div_ceil(TIMED_LENGTH)).unwrap_or(u32::MAX).max(1);
        let timeout = options.timeout.saturating_mul(times(length));
        if length > options.put_length {
            let timeout = options.timeout.saturating_mul(times(options.part_length.max(length / 10_000)));
            self.bucket().create_parts(key, body, time, options.part_length, timeout).await?;
            return Ok(());
        }
        match self.bucket().create(key, body, time, timeout).await {
            // Without conditional writes it may take the place of another, with the same content.
            Err(error) if error.kind() == StoreErrorKind::Unsupported => {
                self.bucket().overwrite(key, body, time, timeout).await?;
            }
            sent => drop(sent?),
        }
        Ok(())
    }
}

/// Why a snapshot can't be put together.
enum Unmade {
    Read(io::Error),
    Spool(io::Error),
    Encode(EncodeError),
}

struct Work {
    header: Header,
    restored: Restored,
    file: Arc<File>,
    progress: Option<Progress>,
}

impl Work {
    fn encode(self, folder: &std::path::Path, in_memory: u64) -> Result<Body, Unmade> {
        let page_size = self.header.page_size;
        let length = page_size.bytes() as u64 * u64::from(self.header.size_in_pages);
        let spool = match length > in_memory {
            true => Some(tempfile::tempfile_in(folder).map_err(Unmade::Spool)?),
            false => None,
        };
        let mut encoder = Encoder::new(page_size);
        let mut out = vec![0; HEADER_LENGTH];
        let mut flushed = 0;
        let mut flush = |out: &mut Vec<u8>, at_least: usize| match &spool {
            Some(spool) if out.len() >= at_least => {
                spool.write_all_at(out, flushed).map_err(Unmade::Spool)?;
                flushed += out.len() as u64;
                out.clear();
                Ok(())
            }
            _ => Ok(()),
        };
        let mut content = vec![0; page_size.bytes() * (PORTION / page_size.bytes()).max(1)];
        let mut done = 0;
        let mut pages = (1..).filter_map(PageNumber::new).zip(&self.restored.page_checksums);
        while done < length {
            let some = content.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let some = content.get_mut(..some).unwrap_or_default();
            self.file.read_exact_at(some, done).map_err(Unmade::Read)?;
            for (bytes, (page, sum)) in some.chunks(page_size.bytes()).zip(&mut pages) {
                // None: the lock page.
                let Some(sum) = sum else { continue };
                if Checksum::of_page(page, bytes) != *sum {
                    let what = format!("page {page} has changed since it was restored");
                    return Err(Unmade::Read(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                encoder.encode_page(page, bytes, &mut out).map_err(Unmade::Encode)?;
            }
            done += some.len() as u64;
            flush(&mut out, PORTION)?;
            if let Some(progress) = &self.progress {
                progress(done, length);
            }
        }
        let finished = encoder.finish(&self.header, &mut out).map_err(Unmade::Encode)?;
        flush(&mut out, 0)?;
        match spool {
            Some(spool) => {
                spool.write_all_at(&finished.header, 0).map_err(Unmade::Spool)?;
                Ok(Body::File { file: Arc::new(spool), length: finished.length })
            }
            None => {
                if let Some(start) = out.first_chunk_mut() {
                    *start = finished.header;
                }
                Ok(Body::Memory(out.into()))
            }
        }
    }
}
