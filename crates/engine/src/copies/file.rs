//! One file of copies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bottomless_history::ObjectName;
use bottomless_ltx::{RunningChecksum, Txid};
use bottomless_store::Body;

use super::index::Index;
use crate::database::with_suffix;

const MAGIC: &[u8; 8] = b"BtlCopy1";
/// Of the file.
const HEAD: usize = 64;
/// Where the copies begin.
pub(super) const BEGIN: u64 = HEAD as u64;
/// Of one copy, before its ETag.
pub(super) const ENTRY: usize = 56;
const ENTRY_MAGIC: &[u8; 4] = b"copy";
/// No store has longer ones.
pub(super) const LONGEST_E_TAG: usize = 1024;

/// A larger object is not copied: a file has room for four.
const LARGEST_PART: u64 = 4;
/// What is still needed is moved to the front if it is no more than this: the commit that does it must not be felt.
const LARGEST_MOVE: u64 = 1 << 20;
/// And if at least this is gained by it.
const SMALLEST_GAIN: u64 = 256 << 10;
/// Up to this size an object is written together with its header.
const SMALL: u64 = 256 << 10;

/// A file of copies beside a database.
#[derive(Debug)]
pub(super) struct CopyFile {
    path: PathBuf,
    identity: u64,
    /// The most bytes that it may have.
    limit: u64,
}

/// The file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) generation: u64,
    /// What lies before is not needed any more.
    pub(super) needed_from: u64,
}

/// A copy's header, with what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyHead {
    pub(super) name: ObjectName,
    pub(super) e_tag_length: usize,
    /// Of the object.
    pub(super) length: u64,
    /// Of the object's bytes.
    pub(super) checksum: u64,
}

fn checksum(bytes: &[u8]) -> u64 {
    RunningChecksum::of(bytes).finish().get()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Head {
    fn encode(self, identity: u64) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&identity.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        let sum = checksum(&bytes[..24]);
        bytes[24..32].copy_from_slice(&sum.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.encode_needed());
        bytes
    }

    /// The part that compaction writes while others append.
    fn encode_needed(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.needed_from.to_le_bytes());
        bytes[8..].copy_from_slice(&self.needed_checksum().to_le_bytes());
        bytes
    }

    fn needed_checksum(self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.generation.to_le_bytes());
        bytes[8..].copy_from_slice(&self.needed_from.to_le_bytes());
        checksum(&bytes)
    }

    /// None for a file that is not a file of copies of this database.
    pub(super) fn read(file: &File, identity: u64) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEAD];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let is_ours = bytes.starts_with(MAGIC) && number(&bytes, 8) == identity;
        if !is_ours || number(&bytes, 24) != checksum(&bytes[..24]) {
            return Ok(None);
        }
        let head = Self { generation: number(&bytes, 16), needed_from: number(&bytes, 32) };
        let is_known = number(&bytes, 40) == head.needed_checksum() && head.needed_from >= BEGIN;
        Ok(Some(if is_known { head } else { Self { needed_from: BEGIN, ..head } }))
    }
}

impl CopyHead {
    pub(super) fn encode(&self, e_tag: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY + e_tag.len());
        bytes.extend_from_slice(ENTRY_MAGIC);
        bytes.extend_from_slice(&u32::try_from(self.e_tag_length).unwrap_or(u32::MAX).to_le_bytes());
        for field in
            [u64::from(self.name.level.get()), self.name.min.get(), self.name.max.get(), self.length, self.checksum]
        {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let sum = RunningChecksum::of(&bytes).then(RunningChecksum::of(e_tag.as_bytes())).finish().get();
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(e_tag.as_bytes());
        bytes
    }

    /// Reads the fields; whether the ETag belongs to them, [`CopyHead::encode`] tells.
    pub(super) fn decode(bytes: &[u8; ENTRY]) -> Option<Self> {
        let e_tag_length = usize::try_from(number(bytes, 0) >> 32).ok()?;
        let level = bottomless_history::Level::new(u8::try_from(number(bytes, 8)).ok()?).ok()?;
        let name = ObjectName { level, min: Txid::new(number(bytes, 16)), max: Txid::new(number(bytes, 24)) };
        let head = Self { name, e_tag_length, length: number(bytes, 32), checksum: number(bytes, 40) };
        (bytes.starts_with(ENTRY_MAGIC) && e_tag_length <= LONGEST_E_TAG).then_some(head)
    }
}

impl CopyFile {
    pub(super) fn new(database: &Path, suffix: &str, identity: u64, limit: u64) -> Self {
        Self { path: with_suffix(database, suffix), identity, limit }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a copy. One writer at a time.
    pub(super) fn append(&self, name: ObjectName, e_tag: &str, body: &Body) -> io::Result<()> {
        if body.len() > self.limit / LARGEST_PART || e_tag.len() > LONGEST_E_TAG {
            return Ok(());
        }
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?
            }
            opened => opened?,
        };
        let end = self.make_room(&file, body.len() + (ENTRY + e_tag.len()) as u64)?;
        let written = write_copy(&file, end, name, e_tag, body);
        if written.is_err() {
            // What follows a part of a copy would not be found.
            file.set_len(end)?;
        }
        written
    }

    /// Where the next copy is to be written.
    fn make_room(&self, file: &File, room: u64) -> io::Result<u64> {
        let end = file.metadata()?.len();
        let Some(head) = Head::read(file, self.identity)? else {
            return self.begin_anew(file, &[]);
        };
        let needed_from = head.needed_from.min(end);
        let (needed, gain) = (end - needed_from, needed_from - BEGIN);
        if needed <= LARGEST_MOVE && gain >= SMALLEST_GAIN.max(needed) {
            let mut tail = vec![0; usize::try_from(needed).unwrap_or_default()];
            file.read_exact_at(&mut tail, needed_from)?;
            return self.begin_anew(file, &tail);
        }
        if end + room > self.limit {
            return self.begin_anew(file, &[]);
        }
        Ok(end)
    }

    /// The file holds these copies and nothing else.
    fn begin_anew(&self, file: &File, copies: &[u8]) -> io::Result<u64> {
        let generation = getrandom::u64().map_err(io::Error::other)?;
        let mut bytes = Head { generation, needed_from: BEGIN }.encode(self.identity).to_vec();
        bytes.extend_from_slice(copies);
        // Whoever reads it meanwhile finds other bytes than the checksums say, and has no copy.
        file.write_all_at(&bytes, 0)?;
        let end = bytes.len() as u64;
        file.set_len(end)?;
        Ok(end)
    }

    /// What is in the file.
    pub(super) fn index(&self) -> io::Result<Index> {
        match File::open(&self.path) {
            Ok(file) => Index::read_from(file, self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(error),
        }
    }

    /// Says from where on the copies are needed; whoever appends next may take the room before. `before` is what was in the
    /// file earlier: copies behind a place that is damaged then and now are never found, and nothing of them is needed.
    pub(super) fn release(&self, before: Option<&Index>, is_needed: impl Fn(ObjectName) -> bool) -> io::Result<()> {
        let now = self.index()?;
        let is_damaged = now.is_broken_as(before);
        let Some(known) = now.needed(is_needed, is_damaged) else {
            return Ok(());
        };
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        // If it has begun anew since, the checksum does not fit.
        match Head::read(&file, self.identity)? {
            Some(head) if head != known => file.write_all_at(&known.encode_needed(), 32),
            _ => Ok(()),
        }
    }
}

fn write_copy(file: &File, at: u64, name: ObjectName, e_tag: &str, body: &Body) -> io::Result<()> {
    let head = |checksum| CopyHead { name, e_tag_length: e_tag.len(), length: body.len(), checksum };
    match body {
        Body::Memory(bytes) => {
            let mut text = head(checksum(bytes)).encode(e_tag);
            if body.len() <= SMALL {
                text.extend_from_slice(bytes);
                return file.write_all_at(&text, at);
            }
            file.write_all_at(bytes, at + text.len() as u64)?;
            file.write_all_at(&text, at)
        }
        Body::File { file: from, length } => {
            let begin = at + (ENTRY + e_tag.len()) as u64;
            let mut sum = RunningChecksum::EMPTY;
            let mut done = 0;
            let mut chunk = vec![0; usize::try_from(SMALL).unwrap_or_default()];
            while done < *length {
                let size = usize::try_from((length - done).min(SMALL)).unwrap_or_default();
                let chunk = &mut chunk[..size];
                from.read_exact_at(chunk, done)?;
                file.write_all_at(chunk, begin + done)?;
                sum = sum.then(RunningChecksum::of(chunk));
                done += size as u64;
            }
            // Last, so that it stands for what is there.
            file.write_all_at(&head(sum.finish().get()).encode(e_tag), at)
        }
    }
}
