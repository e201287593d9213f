//! The note that the processes of a machine leave each other of the last pass of compaction.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bottomless_ltx::Txid;

use super::record::take;
use super::{BLOCK, Block, Record, is_sealed, seal};
use crate::database::with_suffix;

const OFFSET: u64 = 1024;

/// The last pass of compaction of this machine. What does not fit costs a listing and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PassNote {
    /// A hash of endpoint, bucket and database id.
    pub(crate) identity: u64,
    /// By the machine's clock.
    pub(crate) at_ms: i64,
    /// Where the bucket ended.
    pub(crate) txid: Txid,
}

/// What the state file tells those who don't have the database open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    /// The machine's position.
    pub(crate) position: Txid,
    pub(crate) last_pass: Option<PassNote>,
}

impl Glance {
    /// None if there is no valid state of that bucket and database.
    ///
    /// Of a file that is opened for it: whoever keeps the database's own open says that the database is.
    pub(crate) fn take(database: &Path, identity: u64) -> io::Result<Option<Self>> {
        let file = match std::fs::File::open(with_suffix(database, super::SUFFIX)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut blocks = [[0; BLOCK]; 3];
        for (block, at) in blocks.iter_mut().zip((0..).step_by(BLOCK)) {
            match file.read_exact_at(block, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                read => read?,
            }
        }
        let record = Some(&blocks[0]).filter(|block| is_sealed(block)).and_then(Record::decode);
        let record = record.filter(|record| record.identity == identity);
        let last_pass = PassNote::decode(&blocks[2]).filter(|note| note.identity == identity);
        Ok(record.map(|record| Self { position: record.position.txid, last_pass }))
    }
}

impl PassNote {
    /// Leaves the note; nothing where there is no state file.
    pub(crate) fn leave(&self, database: &Path) -> io::Result<()> {
        match OpenOptions::new().write(true).open(with_suffix(database, super::SUFFIX)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened?.write_all_at(&self.encode(), OFFSET),
        }
    }

    fn encode(&self) -> Block {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&self.identity.to_le_bytes());
        block[8..16].copy_from_slice(&self.at_ms.to_le_bytes());
        block[16..24].copy_from_slice(&self.txid.get().to_le_bytes());
        seal(&mut block);
        block
    }

    fn decode(block: &Block) -> Option<Self> {
        let mut rest = block.as_slice();
        let identity = u64::from_le_bytes(take(&mut rest)?);
        let at_ms = i64::from_le_bytes(take(&mut rest)?);
        let txid = Txid::new(u64::from_le_bytes(take(&mut rest)?));
        is_sealed(block).then_some(Self { identity, at_ms, txid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateFile;

    #[test]
    fn a_note_is_read_back_with_the_position_and_leaves_the_rest_alone() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("test.db");
        let note = PassNote { identity: 7, at_ms: 123, txid: Txid::new(9) };
        note.leave(&database).unwrap();
        assert_eq!(Glance::take(&database, 7).unwrap(), None, "no state");
        let state = StateFile::open(&database).unwrap();
        let record = Record {
            position: bottomless_ltx::Position { txid: Txid::new(12), ..Record::fresh(7).position },
            ..Record::fresh(7)
        };
        state.write(&record).unwrap();
        assert_eq!(Glance::take(&database, 7).unwrap(), Some(Glance { position: Txid::new(12), last_pass: None }));
        note.leave(&database).unwrap();
        let found = Glance { position: Txid::new(12), last_pass: Some(note) };
        assert_eq!(Glance::take(&database, 7).unwrap(), Some(found));
        assert_eq!(Glance::take(&database, 8).unwrap(), None, "another database's");
        assert!(state.read().unwrap().is_some());
        assert_eq!(state.read_mark().unwrap(), None);
    }
}
