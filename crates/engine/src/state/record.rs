//! The record: where the local database stands.

use bottomless_ltx::{Checksum, PageSize, Position, Txid, WriterId};

use super::{BLOCK, Block};

pub(super) const MAGIC: [u8; 8] = *b"BTMLOCAL";
pub(super) const VERSION: u32 = 4;
pub(super) const LONGEST_E_TAG: usize = 96;

const PROVEN: u32 = 1;
const OWES_ALL: u32 = 2;
const WRITING: u32 = 4;
const INTENT: u32 = 8;
const INTENT_REFUSED: u32 = 16;
const UNJOURNALED: u32 = 32;
const WAL: u32 = 64;
const FOREIGN: u32 = 128;

/// A commit whose object may be in the bucket, and of which SQLite has not said that it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) txid: Txid,
    /// Drawn for this transaction id, and kept for all tries to write it until it is settled.
    pub(crate) writer: WriterId,
    pub(crate) file_checksum: Checksum,
    /// Of the database after it.
    pub(crate) after: Checksum,
    /// The program was told that the commit failed: the bucket must settle on a state without it.
    pub(crate) refused: bool,
}

impl Intent {
    /// It may still be the next transaction of a database at `position`, where the bucket ends with `last`.
    pub(crate) fn may_follow(&self, position: Txid, last: Txid) -> bool {
        self.txid > position && self.txid <= last.next()
    }
}

/// Where a WAL ends: what the WAL index says under the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// Of the WAL's header.
    pub salts: [u32; 2],
    /// Valid frames.
    pub frames: u32,
}

impl WalEnd {
    /// There is no WAL, or one without a header: what the index says when it was just made for it.
    pub const EMPTY: Self = Self { salts: [0; 2], frames: 0 };

    /// True if nothing was committed between the two, false if something was; None if a WAL index without a past can't
    /// tell.
    ///
    /// Frames only go away when the WAL is begun anew, which draws salts (`walRestartHdr`). So also an empty WAL is the
    /// one from before only if its salts are.
    pub(crate) fn continues(self, before: Self) -> Option<bool> {
        if self.frames == before.frames && self.salts == before.salts && self != Self::EMPTY {
            return Some(true);
        }
        if self == Self::EMPTY && before.frames == 0 { None } else { Some(false) }
    }

    /// True if both hold the same frames, where an index may have forgotten the salts of an empty WAL.
    pub(crate) fn holds_frames_of(self, other: Self) -> bool {
        self.frames == other.frames && (self.frames == 0 || self.salts == other.salts)
    }
}

/// Where the local database stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) inode: u64,
    /// A hash of endpoint, bucket and database id.
    pub(crate) identity: u64,
    /// Which file the main file is; 0 if that is not known.
    pub(crate) main_inode: u64,
    /// The last transaction that both the bucket and the local database hold, and the checksum of the local pages.
    pub(crate) position: Position,
    /// None before the first transaction.
    pub(crate) page_size: Option<PageSize>,
    pub(crate) size_in_pages: u32,
    /// The change counter of the position, from page 1.
    pub(crate) change_counter: u32,
    /// Of the object of the position, if known.
    pub(crate) e_tag: Option<String>,
    /// The store has shown that it honours conditional creates.
    pub(crate) proven: bool,
    /// The bucket's last transaction is another database's content: the next one must carry every page.
    pub(crate) owes_all: bool,
    /// The object of the position is another program's, as litestream is one.
    pub(crate) foreign: bool,
    /// Pages of the main file are being written outside of a WAL, and are not settled.
    pub(crate) writing: bool,
    /// And without a journal on the disk: a crash tears them.
    pub(crate) unjournaled: bool,
    /// Where the WAL ended when the position was confirmed; None if that is not known.
    pub(crate) wal: Option<WalEnd>,
    pub(crate) intent: Option<Intent>,
}

impl Record {
    /// True if the page checksums are those of the local file before the next transaction.
    pub(crate) fn is_comparable(&self) -> bool {
        self.page_size.is_some() && self.intent.is_none()
    }

    /// A database without a transaction.
    pub(crate) fn fresh(identity: u64) -> Self {
        Self {
            inode: 0,
            identity,
            main_inode: 0,
            position: Position::EMPTY,
            page_size: None,
            size_in_pages: 0,
            change_counter: 0,
            e_tag: None,
            proven: false,
            owes_all: false,
            foreign: false,
            writing: false,
            unjournaled: false,
            wal: None,
            intent: None,
        }
    }

    pub(super) fn encode(&self, inode: u64) -> Block {
        let mut block = [0; BLOCK];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let mut flags = 0;
        for (set, flag) in [
            (self.proven, PROVEN),
            (self.owes_all, OWES_ALL),
            (self.writing, WRITING),
            (self.unjournaled, UNJOURNALED),
            (self.wal.is_some(), WAL),
            (self.foreign, FOREIGN),
            (self.intent.is_some(), INTENT),
            (self.intent.is_some_and(|i| i.refused), INTENT_REFUSED),
        ] {
            flags |= if set { flag } else { 0 };
        }
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&flags.to_le_bytes());
        put(&inode.to_le_bytes());
        put(&self.identity.to_le_bytes());
        put(&self.main_inode.to_le_bytes());
        put(&self.position.txid.get().to_le_bytes());
        put(&self.position.checksum.get().to_le_bytes());
        put(&self.page_size.map_or(0, PageSize::get).to_le_bytes());
        put(&self.size_in_pages.to_le_bytes());
        let intent = self.intent.unwrap_or(Intent {
            txid: Txid::ZERO,
            writer: WriterId(0),
            file_checksum: Checksum::EMPTY,
            after: Checksum::EMPTY,
            refused: false,
        });
        put(&intent.txid.get().to_le_bytes());
        put(&intent.writer.0.to_le_bytes());
        put(&intent.file_checksum.get().to_le_bytes());
        put(&intent.after.get().to_le_bytes());
        let wal = self.wal.unwrap_or(WalEnd::EMPTY);
        for number in [wal.salts[0], wal.salts[1], wal.frames, self.change_counter] {
            put(&number.to_le_bytes());
        }
        // An ETag that does not fit is only looked up again.
        let e_tag = self.e_tag.as_deref().filter(|tag| tag.len() <= LONGEST_E_TAG).unwrap_or_default();
        put(&[u8::try_from(e_tag.len()).unwrap_or_default()]);
        put(e_tag.as_bytes());
        block
    }

    pub(super) fn decode(block: &Block) -> Option<Self> {
        let mut rest = &block[..];
        if take::<8>(&mut rest)? != MAGIC || u32::from_le_bytes(take(&mut rest)?) != VERSION {
            return None;
        }
        let flags = u32::from_le_bytes(take(&mut rest)?);
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let (inode, identity, main_inode) = (number()?, number()?, number()?);
        let position = Position { txid: Txid::new(number()?), checksum: Checksum::new(number()?)? };
        let page_size = match u32::from_le_bytes(take(&mut rest)?) {
            0 => None,
            bytes => Some(PageSize::new(bytes).ok()?),
        };
        let size_in_pages = u32::from_le_bytes(take(&mut rest)?);
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let intent = Intent {
            txid: Txid::new(number()?),
            writer: WriterId(number()?),
            file_checksum: Checksum::new(number()?)?,
            after: Checksum::new(number()?)?,
            refused: flags & INTENT_REFUSED != 0,
        };
        let mut number = || take(&mut rest).map(u32::from_le_bytes);
        let wal = WalEnd { salts: [number()?, number()?], frames: number()? };
        let change_counter = number()?;
        let [length] = take(&mut rest)?;
        if usize::from(length) > LONGEST_E_TAG {
            return None;
        }
        let e_tag = String::from_utf8(rest.get(..length.into())?.to_vec()).ok()?;
        Some(Self {
            inode,
            identity,
            main_inode,
            position,
            page_size,
            size_in_pages,
            change_counter,
            e_tag: Some(e_tag).filter(|tag| !tag.is_empty()),
            proven: flags & PROVEN != 0,
            owes_all: flags & OWES_ALL != 0,
            foreign: flags & FOREIGN != 0,
            writing: flags & WRITING != 0,
            unjournaled: flags & UNJOURNALED != 0,
            wal: Some(wal).filter(|_| flags & WAL != 0),
            intent: Some(intent).filter(|_| flags & INTENT != 0),
        })
    }
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}
