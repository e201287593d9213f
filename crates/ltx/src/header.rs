//! The first 100 bytes of a file.

use crate::{Checksum, DecodeError, InvalidHeader, PageSize, Txid, WriterId};

/// Bytes of the header.
pub const HEADER_LENGTH: usize = 100;

const MAGIC: [u8; 4] = *b"LTX1";

/// The file carries no LTX database checksums (pre-apply, post-apply).
const FLAG_NO_CHECKSUM: u32 = 1 << 1;

/// Marks our use of the 20 bytes that LTX reserves: behind it stand the database checksums before and after.
const TAG: [u8; 4] = *b"BTM2";

// Offsets of the fields.
const FLAGS: usize = 4;
const PAGE_SIZE: usize = 8;
const COMMIT: usize = 12;
const MIN_TXID: usize = 16;
const MAX_TXID: usize = 24;
const TIMESTAMP: usize = 32;
const PRE_APPLY: usize = 40;
const WAL_OFFSET: usize = 48;
const WAL_SIZE: usize = 56;
const WAL_SALT_1: usize = 64;
const WAL_SALT_2: usize = 68;
const NODE_ID: usize = 72;
const RESERVED: usize = 80;
const BEFORE: usize = 84;
const AFTER: usize = 92;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Flag 2 is set: no LTX database checksums. Always so in files that we write, because `litestream restore`
    /// fails on files that carry them.
    pub no_checksum: bool,
    /// Of the database after the transaction.
    pub page_size: PageSize,
    /// Pages in the database after the transaction.
    pub size_in_pages: u32,
    /// The first transaction that the file holds. With 1, the file holds every page of the database.
    pub min_txid: Txid,
    /// The last transaction that the file holds.
    pub max_txid: Txid,
    /// Milliseconds since 1970-01-01 UTC, by the writer's clock.
    pub timestamp_ms: i64,
    /// The LTX database checksum before the first transaction; only in files of others.
    pub pre_apply_checksum: Option<Checksum>,
    /// Which part of a WAL the pages come from; zeros in files that we write.
    pub wal: WalOrigin,
    /// LTX's node id: who wrote the file.
    pub writer: WriterId,
    /// Our database checksums, in the reserved bytes; only in files that we wrote.
    pub database: Option<DatabaseChecksums>,
}

/// The part of a WAL file that a file was made from, as Litestream records it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalOrigin {
    /// In bytes.
    pub offset: i64,
    /// In bytes.
    pub size: i64,
    /// The salts of the WAL's header.
    pub salts: [u32; 2],
}

/// The checksums of the database around the transactions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseChecksums {
    /// Before the first.
    pub before: Checksum,
    /// After the last.
    pub after: Checksum,
}

impl Header {
    /// The header of a file as we write it: no LTX database checksums, no WAL fields.
    #[must_use]
    pub fn new(
        page_size: PageSize,
        size_in_pages: u32,
        (min_txid, max_txid): (Txid, Txid),
        timestamp_ms: i64,
        writer: WriterId,
        database: DatabaseChecksums,
    ) -> Self {
        Self {
            no_checksum: true,
            page_size,
            size_in_pages,
            min_txid,
            max_txid,
            timestamp_ms,
            pre_apply_checksum: None,
            wal: WalOrigin::default(),
            writer,
            database: Some(database),
        }
    }

    /// Whether the file holds every page of the database.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }

    /// The header as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let flags = if self.no_checksum { FLAG_NO_CHECKSUM } else { 0 };
        let mut bytes = [0; HEADER_LENGTH];
        let mut put = |offset: usize, value: &[u8]| {
            if let Some(field) = bytes.get_mut(offset..offset + value.len()) {
                field.copy_from_slice(value);
            }
        };
        put(0, &MAGIC);
        put(FLAGS, &flags.to_be_bytes());
        put(PAGE_SIZE, &self.page_size.get().to_be_bytes());
        put(COMMIT, &self.size_in_pages.to_be_bytes());
        put(MIN_TXID, &self.min_txid.get().to_be_bytes());
        put(MAX_TXID, &self.max_txid.get().to_be_bytes());
        put(TIMESTAMP, &self.timestamp_ms.to_be_bytes());
        put(PRE_APPLY, &self.pre_apply_checksum.map_or(0, Checksum::get).to_be_bytes());
        put(WAL_OFFSET, &self.wal.offset.to_be_bytes());
        put(WAL_SIZE, &self.wal.size.to_be_bytes());
        put(WAL_SALT_1, &self.wal.salts[0].to_be_bytes());
        put(WAL_SALT_2, &self.wal.salts[1].to_be_bytes());
        put(NODE_ID, &self.writer.0.to_be_bytes());
        if let Some(database) = self.database {
            put(RESERVED, &TAG);
            put(BEFORE, &database.before.get().to_be_bytes());
            put(AFTER, &database.after.get().to_be_bytes());
        }
        bytes
    }

    /// Reads the header from the first 100 bytes of a file; what follows is not looked at.
    ///
    /// # Errors
    /// When there are fewer bytes, when it is not an LTX header, or when a field has a value that it can't have.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LENGTH>() else {
            return Err(DecodeError::TooShort {
                what: "the header",
                offset: 0,
                need: HEADER_LENGTH as u64,
                have: bytes.len() as u64,
            });
        };
        let magic: [u8; 4] = field(bytes, 0);
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let flags = u32::from_be_bytes(field(bytes, FLAGS));
        if flags & !FLAG_NO_CHECKSUM != 0 {
            return Err(invalid("flags", FLAGS, format!("{flags:#x} has unknown bits")).into());
        }
        let page_size = PageSize::new(u32::from_be_bytes(field(bytes, PAGE_SIZE)))
            .map_err(|error| invalid("page size", PAGE_SIZE, error.to_string()))?;
        let database = if field(bytes, RESERVED) == TAG {
            Some(DatabaseChecksums {
                before: checksum(bytes, "database checksum before", BEFORE)?,
                after: checksum(bytes, "database checksum after", AFTER)?,
            })
        } else {
            None
        };
        let pre_apply_checksum = match u64::from_be_bytes(field(bytes, PRE_APPLY)) {
            0 => None,
            _ => Some(checksum(bytes, "pre-apply checksum", PRE_APPLY)?),
        };
        let header = Self {
            no_checksum: flags & FLAG_NO_CHECKSUM != 0,
            page_size,
            size_in_pages: u32::from_be_bytes(field(bytes, COMMIT)),
            min_txid: Txid::new(u64::from_be_bytes(field(bytes, MIN_TXID))),
            max_txid: Txid::new(u64::from_be_bytes(field(bytes, MAX_TXID))),
            timestamp_ms: i64::from_be_bytes(field(bytes, TIMESTAMP)),
            pre_apply_checksum,
            wal: WalOrigin {
                offset: i64::from_be_bytes(field(bytes, WAL_OFFSET)),
                size: i64::from_be_bytes(field(bytes, WAL_SIZE)),
                salts: [u32::from_be_bytes(field(bytes, WAL_SALT_1)), u32::from_be_bytes(field(bytes, WAL_SALT_2))],
            },
            writer: WriterId(u64::from_be_bytes(field(bytes, NODE_ID))),
            database,
        };
        header.check()?;
        Ok(header)
    }

    /// Whether the fields fit each other, by the rules of LTX version 3.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn check(&self) -> Result<(), InvalidHeader> {
        if self.min_txid == Txid::ZERO {
            return Err(invalid("min TXID", MIN_TXID, "is zero".into()));
        }
        if self.max_txid < self.min_txid {
            let problem = format!("{} is smaller than the min TXID {}", self.max_txid, self.min_txid);
            return Err(invalid("max TXID", MAX_TXID, problem));
        }
        match self.pre_apply_checksum {
            Some(_) if self.is_snapshot() => {
                let problem = "must be zero in a file that begins with the first transaction";
                return Err(invalid("pre-apply checksum", PRE_APPLY, problem.into()));
            }
            Some(_) if self.no_checksum => {
                let problem = "must be zero: the flags say that there are no checksums";
                return Err(invalid("pre-apply checksum", PRE_APPLY, problem.into()));
            }
            None if !self.is_snapshot() && !self.no_checksum => {
                let problem = "is zero, but the flags say that there are checksums";
                return Err(invalid("pre-apply checksum", PRE_APPLY, problem.into()));
            }
            _ => {}
        }
        if self.wal.offset < 0 {
            return Err(invalid("WAL offset", WAL_OFFSET, format!("{} is negative", self.wal.offset)));
        }
        if self.wal.size < 0 {
            return Err(invalid("WAL size", WAL_SIZE, format!("{} is negative", self.wal.size)));
        }
        if self.wal.offset == 0 && (self.wal.size != 0 || self.wal.salts != [0, 0]) {
            let problem = "is zero, but the other WAL fields are set";
            return Err(invalid("WAL offset", WAL_OFFSET, problem.into()));
        }
        Ok(())
    }
}

fn checksum(bytes: &[u8; HEADER_LENGTH], name: &'static str, offset: usize) -> Result<Checksum, InvalidHeader> {
    let bits = u64::from_be_bytes(field(bytes, offset));
    Checksum::new(bits).ok_or_else(|| invalid(name, offset, format!("{bits:016x}: bit 63 must be set")))
}

fn field<const N: usize>(bytes: &[u8; HEADER_LENGTH], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    for (to, from) in value.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    value
}

fn invalid(field: &'static str, offset: usize, problem: String) -> InvalidHeader {
    InvalidHeader { field, offset: offset as u64, problem }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ours() -> Header {
        Header::new(
            PageSize::new(4096).unwrap(),
            3,
            (Txid::new(12), Txid::new(13)),
            1_700_000_000_123,
            WriterId(0x0102_0304_0506_0708),
            DatabaseChecksums { before: Checksum::from_crc(1), after: Checksum::from_crc(2) },
        )
    }

    fn theirs() -> Header {
        Header {
            no_checksum: false,
            pre_apply_checksum: Some(Checksum::from_crc(9)),
            wal: WalOrigin { offset: 32, size: 4120, salts: [1, 2] },
            writer: WriterId(0),
            database: None,
            ..ours()
        }
    }

    #[test]
    fn round_trip() {
        for header in [ours(), theirs()] {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    /// Encodes what `change` makes of `header`, and returns the name and offset of the field that is refused.
    fn refused(mut header: Header, change: impl FnOnce(&mut Header)) -> (&'static str, u64) {
        change(&mut header);
        match Header::decode(&header.encode()) {
            Err(DecodeError::Header(error)) => (error.field, error.offset),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        assert_eq!(refused(ours(), |h| h.min_txid = Txid::ZERO), ("min TXID", 16));
        assert_eq!(refused(ours(), |h| h.max_txid = Txid::FIRST), ("max TXID", 24));
        let pre_apply = ("pre-apply checksum", 40);
        assert_eq!(refused(theirs(), |h| h.no_checksum = true), pre_apply);
        assert_eq!(refused(theirs(), |h| h.min_txid = Txid::FIRST), pre_apply);
        assert_eq!(refused(theirs(), |h| h.pre_apply_checksum = None), pre_apply);
        assert_eq!(refused(theirs(), |h| h.wal.offset = -1), ("WAL offset", 48));
        assert_eq!(refused(theirs(), |h| h.wal.offset = 0), ("WAL offset", 48));
        assert_eq!(refused(theirs(), |h| h.wal.size = -1), ("WAL size", 56));
    }

    #[test]
    fn bytes_that_no_header_has_are_named() {
        for (offset, byte, field) in [
            (7, 4, "flags"),
            (10, 3, "page size"),
            (84, 0, "database checksum before"),
            (92, 0, "database checksum after"),
        ] {
            let mut bytes = ours().encode();
            bytes[offset] = byte;
            match Header::decode(&bytes) {
                Err(DecodeError::Header(error)) => assert_eq!(error.field, field),
                other => panic!("{other:?}"),
            }
        }
        let mut bytes = ours().encode();
        bytes[3] = b'2';
        assert_eq!(Header::decode(&bytes), Err(DecodeError::Magic(*b"LTX2")));
        assert!(matches!(
            Header::decode(&ours().encode()[..99]),
            Err(DecodeError::TooShort { need: 100, have: 99, .. })
        ));
    }

    #[test]
    fn another_use_of_the_reserved_bytes_is_not_ours() {
        let mut bytes = ours().encode();
        bytes[80] = b'X';
        assert_eq!(Header::decode(&bytes).unwrap().database, None);
    }
}
